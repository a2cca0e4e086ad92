"""What panels ask PostgreSQL. deploy/grafana/grafana_reader.sql grants these columns and no others.

Only `$__timeFilter`, `$__timeFrom` and `$__timeTo` of Grafana's macros, and `${site:sqlstring}`, which Grafana quotes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.dashboards.postgresql import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

# As the service finds a device's site; a test holds it against that.
DEVICE_SITE: Final = (
    "coalesce(site_code, sent_site_code,"
    " substring(device_id from '^[A-Za-z0-9]+[_-](?:(?:DEMO|DOCKER)[_-])?([A-Z]{2})(?:[_-]|$)'))"
)
_SITE: Final = f"coalesce({DEVICE_SITE}, 'unknown')"
_ROLLUP_SITE: Final = "coalesce(nullif(rollups.site_code, ''), 'unknown')"
_CHOSEN: Final = "IN (${site:sqlstring})"
_FIRMWARE: Final = "coalesce(nullif(trim(firmware_version), ''), 'not said')"
_HOURS: Final = (
    "rollups.bucket >= date_trunc('hour', $__timeFrom()::timestamptz) AND rollups.bucket <= $__timeTo()::timestamptz"
)
_OPEN: Final = "status IN ('open', 'in_progress', 'awaiting_info', 'reopened')"
_DAY: Final = "date_trunc('day', bucket, 'UTC')"
_CREATED: Final = "$__timeFilter(bugs.created_at)"

FIRMWARE: Final = Rows(f"""
SELECT {_FIRMWARE} AS firmware, count(*) AS devices
FROM devices WHERE in_service AND {_SITE} {_CHOSEN}
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
""")

FIRMWARE_QUALITY: Final = Rows(f"""
SELECT {_FIRMWARE} AS firmware, count(DISTINCT devices.device_id) AS devices, sum(samples)::int8 AS samples,
       sum(reject)::float8 / nullif(sum(samples - not_gradable), 0)::float8 AS rejects
FROM rollups JOIN devices ON devices.device_id = rollups.device_id
WHERE {_HOURS} AND {_ROLLUP_SITE} {_CHOSEN}
GROUP BY 1 ORDER BY 4 DESC NULLS LAST, 1 LIMIT 20
""")

REFUSED: Final = Rows("""
SELECT coalesce(device_id, 'unknown') AS device, code, count(*) AS messages, max(received_at) AS newest
FROM quarantine WHERE $__timeFilter(received_at)
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 20
""")

SILENT: Final = Rows(f"""
SELECT device_id AS device, {_SITE} AS site, {_FIRMWARE} AS firmware, boots,
       last_seen AS "last seen", last_sample_at AS "last sample",
       extract(epoch FROM now() - last_seen)::float8 AS silent, clock_offset_s AS "clock off"
FROM devices WHERE in_service AND {_SITE} {_CHOSEN}
ORDER BY last_seen ASC NULLS FIRST, device_id LIMIT 50
""")

SAMPLES_BY_HOUR: Final = Rows(
    f"""
SELECT rollups.bucket AS time, {_ROLLUP_SITE} AS metric, sum(samples)::int8 AS samples
FROM rollups WHERE {_HOURS} AND {_ROLLUP_SITE} {_CHOSEN}
GROUP BY 1, 2 ORDER BY 1, 2
""",
    "time_series",
)

WORST_LOTS: Final = Rows(f"""
SELECT lot, {_ROLLUP_SITE} AS site, sum(samples)::int8 AS samples,
       (sum(score_sum) / 1e6 / nullif(sum(score_n), 0))::float8 AS score,
       sum(reject)::float8 / nullif(sum(samples - not_gradable), 0)::float8 AS rejects
FROM rollups WHERE lot <> '' AND {_HOURS} AND {_ROLLUP_SITE} {_CHOSEN}
GROUP BY 1, 2 ORDER BY 5 DESC NULLS LAST, 3 DESC, 1 LIMIT 20
""")

BUG_TREND: Final = Rows(
    f"""
SELECT {_DAY} AS time, sum(created)::int8 AS created, sum(resolved)::int8 AS resolved
FROM bug_flow WHERE $__timeFilter(bucket)
GROUP BY 1 ORDER BY 1
""",
    "time_series",
)

BUGS_OPEN: Final = Rows(
    f"""
SELECT time, open FROM (
    SELECT {_DAY} AS time, (sum(sum(opened)) OVER (ORDER BY {_DAY}))::int8 AS open FROM bug_flow GROUP BY 1
) AS days
WHERE time >= date_trunc('day', $__timeFrom()::timestamptz, 'UTC') AND time <= $__timeTo()::timestamptz
ORDER BY 1
""",
    "time_series",
)

HOW_SOON: Final = Rows(f"""
SELECT severity, count(*) AS bugs,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM acknowledged_at - created_at) / 3600)
           AS "acknowledged, median",
       percentile_cont(0.9) WITHIN GROUP (ORDER BY extract(epoch FROM acknowledged_at - created_at) / 3600)
           AS "acknowledged, p90",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at) / 3600)
           AS "resolved, median",
       percentile_cont(0.9) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at) / 3600)
           AS "resolved, p90"
FROM bugs WHERE {_CREATED}
GROUP BY severity, severity_rank ORDER BY severity_rank DESC
""")

OLDEST_BUGS: Final = Rows(f"""
SELECT number, severity, status, title, device_id AS device, firmware_version AS firmware, site_code AS site,
       extract(epoch FROM now() - created_at)::float8 / 86400 AS age
FROM bugs WHERE {_OPEN}
ORDER BY severity_rank DESC, created_at, number LIMIT 20
""")

BUGS_BY_FIRMWARE: Final = Rows(f"""
SELECT {_FIRMWARE} AS firmware, count(*) AS bugs, count(*) FILTER (WHERE {_OPEN}) AS open,
       count(*) FILTER (WHERE reopened > 0) AS reopened
FROM bugs WHERE {_CREATED}
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
""")


@dataclass(frozen=True, slots=True)
class ServiceLevels:
    """Hours within which a bug is to be acknowledged and to be resolved, by severity."""

    acknowledge_h: Mapping[str, float]
    resolve_h: Mapping[str, float]


def service_levels(levels: ServiceLevels) -> Rows:
    """How many bugs are beyond their targets. The clock of resolution stands still where nobody has anything to do."""
    targets = ", ".join(
        f"('{severity}', {hours:g}, {levels.resolve_h[severity]:g})" for severity, hours in levels.acknowledge_h.items()
    )
    return Rows(f"""
WITH targets (severity, acknowledge, resolve) AS (VALUES {targets}),
clocks AS (
    SELECT severity, severity_rank, acknowledged_at IS NOT NULL AS acknowledged, {_OPEN} AS open,
           extract(epoch FROM coalesce(acknowledged_at, now()) - created_at) / 3600 AS acknowledge_h,
           (active_s + CASE WHEN status IN ('open', 'in_progress', 'reopened')
                THEN greatest(0, extract(epoch FROM now() - status_changed_at)) ELSE 0 END) / 3600 AS resolve_h
    FROM bugs WHERE {_CREATED}
)
SELECT severity, count(*) AS bugs, acknowledge::float8, resolve::float8,
       count(*) FILTER (WHERE acknowledge_h > acknowledge) AS "acknowledged too late",
       count(*) FILTER (WHERE resolve_h > resolve) AS "resolved too late",
       count(*) FILTER (WHERE open AND (resolve_h > resolve OR NOT acknowledged AND acknowledge_h > acknowledge))
           AS "late and open"
FROM clocks JOIN targets USING (severity)
GROUP BY severity, severity_rank, acknowledge, resolve ORDER BY severity_rank DESC
""")
