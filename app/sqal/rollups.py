"""What is known of every device, hour and lot without reading samples: counts, sums, extremes. Kept in the sample's own
transaction, so that a late, replayed or regraded sample is right at once. Sites, days, shifts, lots: sums of rows.

Values are the stored integers of 1e-6; a sum of squares fits 64 bits for nine million samples an hour.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from app.sqal.flags import Flag
from app.sqal.reading import GRADES, NOT_GRADABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from app.core.database import Connection

T = TypeVar("T")
ATTEMPTS: Final = 5
KEYS: Final = {"device_id": "text", "bucket": "timestamptz", "site_code": "text", "lot": "text"}
GRADE_COLUMNS: Final = {label: label.lower().replace("+", "_plus") for label in (*GRADES, NOT_GRADABLE)}
COUNTS: Final = ("samples", *GRADE_COLUMNS.values(), "claim_disagrees", "clock_off")
METRICS: Final = ("score", "freshness", "fat_quality", "oxidation", "color_uniformity")
STATISTICS: Final = ("n", "sum", "squares", "min", "max")
# From the device's time to ours, where its clock can be believed. No squares: a replay comes weeks late, and the square
# of its milliseconds would not fit.
LATENCY: Final = ("latency_ms_n", "latency_ms_sum", "latency_ms_min", "latency_ms_max")
_VALUES: Final = (*COUNTS, *(f"{metric}_{statistic}" for metric in METRICS for statistic in STATISTICS), *LATENCY)
COLUMNS: Final = (*KEYS, *_VALUES)
Key = tuple[str, datetime, str, str]
Row = dict[str, Any]

_DISAGREES: Final = int(Flag.CLAIM_DISAGREES)
_CLOCK_OFF: Final = int(Flag.IMPLAUSIBLE_CLOCK)


def _merge(column: str) -> str:
    if column.endswith("_min"):
        return f"{column} = LEAST(r.{column}, excluded.{column})"
    if column.endswith("_max"):
        return f"{column} = GREATEST(r.{column}, excluded.{column})"
    return f"{column} = r.{column} + excluded.{column}"


_ARRAYS = ", ".join(f"${number}::{KEYS.get(column, 'int8')}[]" for number, column in enumerate(COLUMNS, 1))
# In the order given, which is sorted: two writers that share hours wait for each other, never in a circle.
UPSERT: Final = f"""
    INSERT INTO rollups AS r ({", ".join(COLUMNS)}) SELECT * FROM unnest({_ARRAYS})
    ON CONFLICT ({", ".join(KEYS)}) DO UPDATE SET {", ".join(map(_merge, _VALUES))}
"""


def _statistics(value: str) -> list[str]:
    return [
        f"count({value})", f"coalesce(sum({value}), 0)", f"coalesce(sum({value}::int8 * {value}), 0)",
        f"min({value})", f"max({value})",
    ]  # fmt: skip


_LATENCY = (
    f"(CASE WHEN flags & {_CLOCK_OFF} = 0 THEN trunc(extract(epoch FROM received_at - device_time) * 1000)::int8 END)"
)
# The truth that the rows must equal; also how a changed hour is made anew.
SUMMARISE: Final = f"""
    SELECT device_id, date_trunc('hour', bucket_time, 'UTC') AS bucket, coalesce(site_code, ''), coalesce(lot, ''),
           count(*),
           {", ".join(f"count(*) FILTER (WHERE grade = '{label}')" for label in GRADE_COLUMNS)},
           count(*) FILTER (WHERE flags & {_DISAGREES} <> 0), count(*) FILTER (WHERE flags & {_CLOCK_OFF} <> 0),
           {", ".join(part for metric in METRICS for part in _statistics(metric))},
           count({_LATENCY}), coalesce(sum({_LATENCY}), 0), min({_LATENCY}), max({_LATENCY})
    FROM samples WHERE device_id = $1 AND bucket_time >= $2 AND bucket_time < $2 + interval '1 hour'
    GROUP BY 1, 2, 3, 4
"""


HOURS: Final = """
    SELECT DISTINCT device_id, date_trunc('hour', bucket_time, 'UTC') AS bucket FROM samples
    WHERE bucket_time >= $1 AND bucket_time < $2 ORDER BY 2, 1
"""


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def latency_ms(received_at: datetime, device_time: datetime) -> int:
    """Whole milliseconds, towards zero, as the database counts them."""
    microseconds = (received_at - device_time) // timedelta(microseconds=1)
    return int(microseconds / 1_000)


def summarise(samples: Iterable[Mapping[str, Any]]) -> dict[Key, Row]:
    """The rows that these samples (by column name) add to, as what each is to be raised by."""
    rows: dict[Key, Row] = {}
    for sample in samples:
        bucket = hour_of(sample["bucket_time"])
        key = (sample["device_id"], bucket, sample["site_code"] or "", sample["lot"] or "")
        row = rows.get(key)
        if row is None:
            row = rows[key] = dict.fromkeys(_VALUES, 0) | dict.fromkeys(_EXTREMES)
        flags = sample["flags"]
        row["samples"] += 1
        row[GRADE_COLUMNS[sample["grade"]]] += 1
        row["claim_disagrees"] += flags & _DISAGREES != 0
        row["clock_off"] += flags & _CLOCK_OFF != 0
        for metric, (number, total, squares, low, high) in _NAMES.items():
            if (value := sample[metric]) is not None:
                row[squares] += value * value
                _count(row, value, number, total, low, high)
        if not flags & _CLOCK_OFF:
            _count(row, latency_ms(sample["received_at"], sample["device_time"]), *LATENCY)
    return rows


def _count(row: Row, value: int, number: str, total: str, low: str, high: str) -> None:
    row[number] += 1
    row[total] += value
    if row[low] is None or value < row[low]:
        row[low] = value
    if row[high] is None or value > row[high]:
        row[high] = value


_EXTREMES: Final = [column for column in _VALUES if column.endswith(("_min", "_max"))]
_NAMES: Final = {metric: [f"{metric}_{statistic}" for statistic in STATISTICS] for metric in METRICS}


async def add(connection: Connection, rows: Mapping[Key, Row]) -> None:
    """Raise the rows, in the caller's transaction: best its last statement, for it holds the rows until the end."""
    if rows:
        ordered = [(*key, *rows[key].values()) for key in sorted(rows)]
        await connection.execute(UPSERT, *map(list, zip(*ordered, strict=True)))


async def make_anew(connection: Connection, device_id: str, bucket: datetime) -> None:
    """Replace the rows of a device's hour by what its samples say, in the caller's transaction.

    UniqueViolationError when the first sample of a lot came in meanwhile: see `settled`.
    """
    hour = (device_id, bucket)
    await connection.execute(
        "SELECT site_code FROM rollups WHERE device_id = $1 AND bucket = $2 ORDER BY site_code, lot FOR UPDATE", *hour
    )
    await connection.execute("DELETE FROM rollups WHERE device_id = $1 AND bucket = $2", *hour)
    await connection.execute(f"INSERT INTO rollups ({', '.join(COLUMNS)}) {SUMMARISE}", *hour)


async def settled(connection: Connection, work: Callable[[], Awaitable[T]]) -> T:
    """`work`, which makes hours anew, in a transaction; all over when a sample made the same row meanwhile."""
    for _ in range(ATTEMPTS - 1):
        with suppress(asyncpg.UniqueViolationError):
            async with connection.transaction():
                return await work()
    async with connection.transaction():
        return await work()


async def make_range_anew(connection: Connection, time_from: datetime, time_to: datetime) -> int:
    """Every hour that holds a sample with its bucket time in the range, each in a transaction of its own; how many."""
    hours = await connection.fetch(HOURS, time_from, time_to)
    for hour in hours:
        await settled(connection, partial(make_anew, connection, hour["device_id"], hour["bucket"]))
    return len(hours)
