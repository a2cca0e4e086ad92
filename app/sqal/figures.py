"""How many, how good, how fast: figures of a time, a device, a lot, as sums of rollup rows. No sample is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import NotFoundError
from app.sqal.frame import MICRO
from app.sqal.reading import GRADES, NOT_GRADABLE
from app.sqal.rollups import COUNTS, GRADE_COLUMNS, LATENCY, METRICS

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from app.core.database import Connection
    from app.sqal.cursor import HourCursor


def _sums() -> str:
    parts = [f"coalesce(sum({column}), 0)::int8 AS {column}" for column in COUNTS]
    for metric in METRICS:
        parts += [f"coalesce(sum({metric}_n), 0)::int8 AS {metric}_n", f"sum({metric}_sum)::float8 AS {metric}_sum"]
        parts += [f"sum({metric}_squares)::float8 AS {metric}_squares"]
        parts += [f"min({metric}_min) AS {metric}_min", f"max({metric}_max) AS {metric}_max"]
    number, total, low, high = LATENCY
    parts += [f"coalesce(sum({number}), 0)::int8 AS {number}", f"sum({total})::float8 AS {total}"]
    parts += [f"min({low}) AS {low}", f"max({high}) AS {high}"]
    return ", ".join(parts)


SUMS: Final = _sums()
FILTERS: Final = {
    "device_id": "device_id = {}",
    "site_code": "site_code = {}",
    "lot": "lot = {}",
    "time_from": "bucket >= date_trunc('hour', {}::timestamptz, 'UTC')",
    "time_to": "bucket < {}",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Which rows; None does not narrow. Whole hours: from the one of `time_from` to the last begun before `time_to`."""

    device_id: str | None = None
    site_code: str | None = None
    lot: str | None = None
    time_from: datetime | None = None
    time_to: datetime | None = None

    def where(self) -> tuple[str, list[Any]]:
        """(SQL condition, its arguments)."""
        conditions, arguments = ["true"], []
        for name, comparison in FILTERS.items():
            value = getattr(self, name)
            if value is not None:
                arguments.append(value)
                conditions.append(comparison.format(f"${len(arguments)}"))
        return " AND ".join(conditions), arguments


def _spread(record: asyncpg.Record, metric: str) -> dict[str, float] | None:
    """Average, standard deviation, least and greatest, 0..1; None without a value."""
    number = record[f"{metric}_n"]
    if not number:
        return None
    average = record[f"{metric}_sum"] / number
    variance = max(0.0, record[f"{metric}_squares"] / number - average * average)
    return {
        "average": average / MICRO,
        "deviation": sqrt(variance) / MICRO,
        "min": record[f"{metric}_min"] / MICRO,
        "max": record[f"{metric}_max"] / MICRO,
    }


def figures_of(record: asyncpg.Record) -> dict[str, Any]:
    """What REST shows of a row of `SUMS`. `count` includes what could not be graded; shares are of what could."""
    graded = record["samples"] - record["not_gradable"]
    number, total, low, high = LATENCY
    return {
        "count": record["samples"],
        "grades": {label: record[GRADE_COLUMNS[label]] for label in (*GRADES, NOT_GRADABLE)},
        "conformity": (graded - record["reject"]) / graded if graded else None,
        "reject_rate": record["reject"] / graded if graded else None,
        "score": _spread(record, "score"),
        "indices": {metric: _spread(record, metric) for metric in METRICS if metric != "score"},
        "claim_disagrees": record["claim_disagrees"],
        "clock_off": record["clock_off"],
        "latency_ms": {
            "average": record[total] / record[number], "min": record[low], "max": record[high],
        } if record[number] else None,
    }  # fmt: skip


async def hourly(
    connection: Connection, scope: Scope, cursor: HourCursor | None, limit: int
) -> tuple[list[dict[str, Any]], tuple[datetime, str] | None]:
    """Figures of each hour and device, newest first, and the (hour, device) to go on below."""
    where, arguments = scope.where()
    if cursor is not None:
        arguments += [cursor.bucket, cursor.device_id]
        bucket, device = f"${len(arguments) - 1}", f"${len(arguments)}"
        where += f" AND bucket <= {bucket} AND (bucket, device_id) < ({bucket}, {device})"
    records = await connection.fetch(
        f"SELECT bucket, device_id, {SUMS} FROM rollups WHERE {where} GROUP BY bucket, device_id"
        f" ORDER BY bucket DESC, device_id DESC LIMIT {limit + 1:d}",
        *arguments,
    )
    items = [
        {"bucket": record["bucket"], "device_id": record["device_id"], **figures_of(record)}
        for record in records[:limit]
    ]
    more = (items[-1]["bucket"], items[-1]["device_id"]) if len(records) > limit else None
    return items, more


async def totals(connection: Connection, scope: Scope) -> dict[str, Any]:
    """Figures of everything in scope, and its first and last hour (None when there is none)."""
    where, arguments = scope.where()
    record = await connection.fetchrow(
        f"SELECT min(bucket) AS first_bucket, max(bucket) AS last_bucket, {SUMS} FROM rollups WHERE {where}", *arguments
    )
    if record is None:
        raise RuntimeError("an aggregate has one row")
    return {"first_bucket": record["first_bucket"], "last_bucket": record["last_bucket"], **figures_of(record)}


async def device_stats(connection: Connection, scope: Scope) -> dict[str, Any]:
    """Figures of one device. NotFoundError for one that is not known at all."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM devices WHERE device_id = $1)", scope.device_id):
        raise NotFoundError("this device is neither configured nor was it ever seen")
    return {"device_id": scope.device_id, **await totals(connection, scope)}
