"""How many bugs there are, and how it went day by day: read from figures that triggers keep, so at any size at once;
and how figures are read through the cache.
"""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from zoneinfo import ZoneInfo

    from app.core.cache import Cache
    from app.core.cache_entry import Cached
    from app.core.database import Connection

    Load = Callable[[], Awaitable[bytes]]

SUMMARY: Final = """
    SELECT coalesce(sum(bugs), 0)::int8 AS total_bugs,
           coalesce(sum(bugs) FILTER (WHERE status IN ('open', 'reopened')), 0)::int8 AS open_bugs,
           coalesce(sum(bugs) FILTER (WHERE status IN ('in_progress', 'awaiting_info')), 0)::int8 AS in_progress_bugs,
           coalesce(sum(bugs) FILTER (WHERE status = 'resolved'), 0)::int8 AS resolved_bugs,
           coalesce(sum(bugs) FILTER (WHERE status IN ('closed', 'wont_fix', 'duplicate')), 0)::int8 AS closed_bugs,
           coalesce(sum(bugs) FILTER (WHERE severity = 'critical'), 0)::int8 AS critical_bugs,
           coalesce(sum(bugs) FILTER (WHERE severity = 'high'), 0)::int8 AS high_severity_bugs,
           coalesce(sum(bugs) FILTER (WHERE severity = 'medium'), 0)::int8 AS medium_severity_bugs,
           coalesce(sum(bugs) FILTER (WHERE severity = 'low'), 0)::int8 AS low_severity_bugs,
           (sum(resolution_s) / nullif(sum(resolved), 0) / 3600)::float8 AS avg_resolution_time_hours
    FROM bug_counts
"""
TODAY: Final = """
    SELECT coalesce(sum(created), 0)::int8 AS new_today, coalesce(sum(resolved), 0)::int8 AS resolved_today
    FROM bug_flow WHERE bucket >= $1 AND bucket < $2
"""
UNSETTLED: Final = """
    SELECT coalesce(sum(bugs), 0)::int8 FROM bug_counts
    WHERE status IN ('open', 'in_progress', 'awaiting_info', 'reopened')
"""
BUGS: Final = "bugs"
FLOW: Final = "SELECT bucket, created, resolved, opened FROM bug_flow WHERE bucket >= $1 ORDER BY bucket"


class CachedFigures:
    """Figures as JSON, from the cache. A summary shows every change that this process was told of by `changed` before;
    other figures may be older by two seconds.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def summary(self, today: date, load: Load) -> Cached:
        """By day: the figures of today end with it."""
        return await self._cache.get_or_load("bug_summary", f"bugs:summary:{today}", load, tags=(BUGS,))

    async def figures(self, asked: tuple[object, ...], load: Load) -> Cached:
        said = json.dumps([None if part is None else str(part) for part in asked])
        return await self._cache.get_or_load("bug_figures", f"bugs:figures:{said}", load, tags=(BUGS,))

    def changed(self) -> None:
        """Bugs were reported or changed, and that is committed. Marked, not removed: what is loading now is passed over
        by later readers, what Redis holds is known to be older, and should the database go away the old one is there.
        """
        self._cache.mark([BUGS])


def begin_of(day: date, zone: ZoneInfo) -> datetime:
    """The moment at which a day begins there."""
    return datetime.combine(day, time(), zone)


async def summary(connection: Connection, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """The guide's figures. The four groups of statuses add up to the total; the average is null where nothing is
    resolved.
    """
    today = now.astimezone(zone).date()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        counts = await connection.fetchrow(SUMMARY)
        bounds = begin_of(today, zone), begin_of(today + timedelta(days=1), zone)
        flow = await connection.fetchrow(TODAY, *bounds)
    assert counts is not None
    assert flow is not None
    return dict(counts) | dict(flow)


async def trends(connection: Connection, days: int, now: datetime, zone: ZoneInfo) -> list[dict[str, Any]]:
    """A row a day, oldest first, today last. `resolved` counts the bugs whose resolution is of that day; `open` those
    that were neither resolved nor closed when it ended.
    """
    today = now.astimezone(zone).date()
    first = today - timedelta(days=days - 1)
    rows = {first + timedelta(days=n): {"created": 0, "resolved": 0, "opened": 0} for n in range(days)}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        open_now = await connection.fetchval(UNSETTLED)
        records = await connection.fetch(FLOW, begin_of(first, zone))
    for record in records:
        day = record["bucket"].astimezone(zone).date()
        row = rows.setdefault(day, {"created": 0, "resolved": 0, "opened": 0})
        for name in row:
            row[name] += record[name]
    items, still_open = [], open_now
    for day, row in sorted(rows.items(), reverse=True):
        if day <= today:
            figures = {"created": row["created"], "resolved": row["resolved"], "open": still_open}
            items.append({"date": day.isoformat()} | figures)
        still_open -= row["opened"]
    return items[::-1]
