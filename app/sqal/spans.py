"""Days and shifts of a place, as spans of whole hours, and their figures: sums of rollup rows.

A day begins at midnight there, a shift at its hour; where the clock is set forward or back, one of them is an hour
shorter or longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import BadRequestError
from app.sqal.figures import SUMS, figures_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from app.core.database import Connection
    from app.sqal.figures import Scope

MOST: Final = 1_200  # a year of three shifts, and some
DEFAULT: Final = timedelta(days=30)
FIGURES: Final = f"""
    SELECT span.begin AS span_begin, {SUMS}
    FROM unnest($1::timestamptz[], $2::timestamptz[]) AS span (begin, until)
    JOIN rollups ON bucket >= span.begin AND bucket < span.until
    WHERE ($3::text IS NULL OR device_id = $3) AND ($4::text IS NULL OR site_code = $4)
      AND ($5::text IS NULL OR lot = $5)
    GROUP BY 1 ORDER BY 1 DESC
"""


@dataclass(frozen=True, slots=True)
class Span:
    """`label` is the hour at which it begins there, such as `05:00`; UTC instants."""

    begin: datetime
    until: datetime
    label: str


def spans(begin: datetime, end: datetime, zone: ZoneInfo, starts: Sequence[time]) -> list[Span]:
    """Those that hold any moment of `begin` <= t < `end`. BadRequestError for more than `MOST`."""
    if (end - begin) / timedelta(days=1) * len(starts) > MOST:
        raise BadRequestError(f"at most {MOST} spans are shown at once; ask for a shorter time")
    day = begin.astimezone(zone).date() - timedelta(days=1)
    marks: list[tuple[datetime, str]] = []
    while not marks or marks[-1][0] < end:
        marks += [(_instant(day, start, zone), f"{start:%H:%M}") for start in sorted(starts)]
        day += timedelta(days=1)
    pairs = pairwise(marks)
    # Where the clock is set forward over a shift's start, that shift is empty.
    return [Span(at, until, label) for (at, label), (until, _) in pairs if until > at and until > begin and at < end]


def _instant(day: date, start: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, start, zone).astimezone(UTC)


async def span_figures(
    connection: Connection, scope: Scope, now: datetime, zone: ZoneInfo, starts: Sequence[time]
) -> list[dict[str, Any]]:
    """Figures of each day or shift in which there was anything, newest first; without from and to the last 30 days."""
    end = scope.time_to or now
    found = spans(scope.time_from or end - DEFAULT, end, zone, starts)
    by_begin = {span.begin: span for span in found}
    records = await connection.fetch(
        FIGURES, list(by_begin), [span.until for span in found], scope.device_id, scope.site_code, scope.lot
    )
    items = []
    for record in records:
        span = by_begin[record["span_begin"]]
        items.append({"from": span.begin, "to": span.until, "shift": span.label, **figures_of(record)})
    return items
