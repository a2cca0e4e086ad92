"""The overview: a time's figures in all, by hour, by site and by device; the devices' states and firmware."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import BadRequestError
from app.sqal.devices import SITE_SQL
from app.sqal.figures import SUMS, figures_of
from app.sqal.rollups import hour_of

if TYPE_CHECKING:
    from datetime import datetime

    from app.core.database import Connection
    from app.sqal.devices import StateLimits
    from app.sqal.figures import Scope

DEFAULT_WINDOW: Final = timedelta(hours=24)
LONGEST_WINDOW: Final = timedelta(days=31)
MOST_DEVICES: Final = 500  # listed one by one, the busiest first; the sums hold all
FLEET: Final = f"""
    SELECT count(*) FILTER (WHERE last_seen IS NULL) AS never_seen,
           count(*) FILTER (WHERE last_seen > $1::timestamptz - make_interval(secs => $2)) AS online,
           count(*) FILTER (WHERE last_seen <= $1::timestamptz - make_interval(secs => $2)
                            AND last_seen > $1::timestamptz - make_interval(secs => $3)) AS stale,
           count(*) FILTER (WHERE last_seen <= $1::timestamptz - make_interval(secs => $3)) AS offline
    FROM devices WHERE $4::text IS NULL OR {SITE_SQL} = $4
"""
FIRMWARE: Final = f"""
    SELECT firmware_version AS version, count(*) AS devices FROM devices
    WHERE $1::text IS NULL OR {SITE_SQL} = $1 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 100
"""


async def dashboard(connection: Connection, scope: Scope, limits: StateLimits, now: datetime) -> dict[str, Any]:
    """Without `time_from` the last 24 hours. `per_second` is of the hour that runs, `per_hour` of the whole time.

    BadRequestError for more than 31 days.
    """
    end = scope.time_to or now
    begin = scope.time_from or end - DEFAULT_WINDOW
    if end - begin > LONGEST_WINDOW:
        raise BadRequestError(f"a dashboard spans at most {LONGEST_WINDOW.days} days")
    where, arguments = replace(scope, time_from=begin, time_to=end).where()
    records = await connection.fetch(
        f"SELECT grouping(bucket, site_code, device_id) AS kind, bucket, site_code, device_id, {SUMS}"
        f" FROM rollups WHERE {where} GROUP BY GROUPING SETS ((), (bucket), (site_code), (device_id))",
        *arguments,
    )
    by_kind: dict[int, list[Any]] = {0b111: [], 0b011: [], 0b101: [], 0b110: []}
    for record in records:
        by_kind[record["kind"]].append(record)
    (all_,) = by_kind[0b111]
    hours = sorted(by_kind[0b011], key=lambda record: record["bucket"])
    devices = sorted(by_kind[0b110], key=lambda record: (-record["samples"], record["device_id"]))
    running = next((record["samples"] for record in hours if record["bucket"] == hour_of(now)), 0)
    fleet = await connection.fetchrow(FLEET, now, limits.stale_after_s, limits.offline_after_s, scope.site_code)
    return {
        "from": begin,
        "to": end,
        **figures_of(all_),
        "per_second": running / max((now - hour_of(now)).total_seconds(), 1.0),
        "per_hour": all_["samples"] / max((end - hour_of(begin)) / timedelta(hours=1), 1.0),  # whole hours are summed
        "hours": [{"bucket": record["bucket"], **figures_of(record)} for record in hours],
        "sites": [
            {"site_code": record["site_code"] or None, **figures_of(record)}
            for record in sorted(by_kind[0b101], key=lambda record: record["site_code"])
        ],
        "devices": [{"device_id": record["device_id"], **figures_of(record)} for record in devices[:MOST_DEVICES]],
        "device_states": dict(fleet) if fleet is not None else {},
        "firmware": [dict(record) for record in await connection.fetch(FIRMWARE, scope.site_code)],
    }
