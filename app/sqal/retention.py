"""What is kept, and how it goes: weekly partitions of samples, segments of original messages, quarantine's bounds,
cleared alerts as long as samples.

Samples are partitioned by the device's time. Weeks around now are made ahead; a week that the default partition
holds plausible rows of is made too, and takes those rows with it. Originals go to the newest segment; a segment is
closed by age or size, and the oldest are dropped by age or when all together would exceed their bound.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg

from app.core.backup_log import LOCK_KEY as BACKUP_KEY
from app.core.errors import AppError
from app.core.logging import get_logger
from app.sqal.originals import NUMBER_BITS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.core.clock import Clock
    from app.core.database import Connection, Database
    from app.sqal.quarantine import Quarantine

WEEK: Final = timedelta(days=7)
WEEKS_AHEAD: Final = 4
LOCK_KEY: Final = 0x7265_7465_6E74  # "retent": one process keeps house at a time
LOCK_TIMEOUT: Final = "2s"
HOUSEKEEPING_DEADLINE_S: Final = 120.0
EVERY_S: Final = 30.0
SEGMENT_SHARE: Final = 32  # segments within the bound on bytes: how finely the oldest can be dropped
SEGMENT_AGE: Final = timedelta(days=1)
BACKUP_RUNS: Final = """
    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
            AND l.classid::bigint = $1::bigint >> 32 AND l.objid::bigint = $1::bigint & 4294967295 AND l.objsubid = 1)
"""
log = get_logger("gaveurs.retention")


def week_of(moment: datetime) -> date:
    """The Monday (UTC) that begins the week of `moment`."""
    day = moment.astimezone(UTC).date()
    return day - timedelta(days=day.weekday())


def _start(monday: date) -> datetime:
    return datetime.combine(monday, time(), UTC)


def partition_name(monday: date) -> str:
    return f"samples_{monday:%Y%m%d}"


async def make_partition(connection: Connection, monday: date) -> int:
    """Make the week's partition and move the default's rows of that week into it, in one transaction.

    Returns the number of rows moved. Raises LockNotAvailableError when the default partition is busy for too long.
    """
    name, low, high = partition_name(monday), _start(monday), _start(monday) + WEEK
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await connection.execute("LOCK TABLE samples_default IN ACCESS EXCLUSIVE MODE")
        await connection.execute(f"CREATE TABLE {name} (LIKE samples INCLUDING DEFAULTS INCLUDING STORAGE)")
        moved: str = await connection.execute(
            f"WITH moved AS (DELETE FROM samples_default WHERE device_time >= $1 AND device_time < $2 RETURNING *)"
            f" INSERT INTO {name} SELECT * FROM moved",
            low,
            high,
        )
        await connection.execute(
            f"ALTER TABLE samples ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{low.isoformat()}') TO ('{high.isoformat()}')"
        )
    return int(moved.rsplit(maxsplit=1)[-1])


async def existing_weeks(connection: Connection) -> set[date]:
    """The Mondays of our partitions. Those that somebody else has attached are left as they are."""
    records = await connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'samples'::regclass"
    )
    names = (record["relname"].removeprefix("samples_") for record in records)
    return {day for name in names if (day := _day_of(name))}


def _day_of(name: str) -> date | None:
    try:
        return datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).date() if len(name) == len("YYYYMMDD") else None
    except ValueError:
        return None


async def _put_off_if_locked(step: Callable[[Connection], Awaitable[object]], connection: Connection) -> None:
    try:
        await step(connection)
    except asyncpg.LockNotAvailableError:
        log.warning("housekeeping put off", reason="lock_not_available", step=step.__name__.lstrip("_"))


class Housekeeper:
    """Makes partitions ahead of need and lets go of what is past its time. One process of all replicas does it.

    Partitions come and go under an exclusive lock, behind which ingest queues. A backup reads them all until its end:
    while one runs they are left as they are. Whoever else is in the way for 2 s puts off that step alone.
    """

    def __init__(
        self,
        clock: Clock,
        quarantine: Quarantine,
        *,
        sample_retention: timedelta,
        message_retention: timedelta,
        message_bytes: int,
    ) -> None:
        self._clock = clock
        self._quarantine = quarantine
        self._sample_retention = sample_retention
        self._message_retention = message_retention
        self._message_bytes = message_bytes
        self._backup_runs = False

    async def run(self, database: Database) -> None:
        """Keep house every half minute; runs until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                async with database.connection(HOUSEKEEPING_DEADLINE_S) as connection:
                    await self.keep(connection)
            except AppError as error:
                log.warning("housekeeping put off", reason=error.code)
            except asyncpg.PostgresError:
                log.exception("housekeeping failed")

    async def keep(self, connection: Connection, *, wait: bool = False) -> None:
        """One round. When another process is at it, nothing is done; at start (`wait`), its end is waited for."""
        if wait:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        elif not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            return
        try:
            await self._look_for_backup(connection)
            for step in (
                self.make_weeks,
                self._drop_weeks,
                self.keep_segments,
                self._quarantine.trim,
                self._drop_alerts,
            ):
                await _put_off_if_locked(step, connection)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)

    async def _look_for_backup(self, connection: Connection) -> None:
        runs = await connection.fetchval(BACKUP_RUNS, BACKUP_KEY)
        if runs and not self._backup_runs:
            log.info("a backup runs: partitions stay as they are until its end")
        self._backup_runs = runs

    async def _drop_alerts(self, connection: Connection) -> None:
        horizon = self._clock.now() - self._sample_retention
        await connection.execute("DELETE FROM alerts WHERE cleared_at < $1", horizon)

    async def make_weeks(self, connection: Connection) -> None:
        """The current week and those ahead, and each week of the retention that the default partition holds rows of."""
        if self._backup_runs:
            return
        now = self._clock.now()
        ahead = {week_of(now) + number * WEEK for number in range(WEEKS_AHEAD + 1)}
        strayed = await connection.fetch(
            "SELECT DISTINCT date_trunc('week', device_time AT TIME ZONE 'UTC')::date AS monday FROM samples_default"
            " WHERE device_time >= $1 AND device_time < $2",
            _start(week_of(now - self._sample_retention)),
            _start(max(ahead) + WEEK),
        )
        for monday in sorted((ahead | {record["monday"] for record in strayed}) - await existing_weeks(connection)):
            moved = await make_partition(connection, monday)
            log.info("partition made", partition=partition_name(monday), rows_moved=moved)

    async def _drop_weeks(self, connection: Connection) -> None:
        """Drop weeks past the retention. A row whose bucket time is younger (its device's clock was behind) stays."""
        horizon = self._clock.now() - self._sample_retention
        await connection.execute("DELETE FROM samples_default WHERE bucket_time < $1", horizon)
        if self._backup_runs:
            return
        for monday in sorted(await existing_weeks(connection)):
            if _start(monday) + WEEK > horizon:
                break
            name = partition_name(monday)
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                await connection.execute(f"ALTER TABLE samples DETACH PARTITION {name}")
                await connection.execute(f"INSERT INTO samples SELECT * FROM {name} WHERE bucket_time >= $1", horizon)
                await connection.execute(f"DROP TABLE {name}")
            log.info("partition dropped", partition=name)

    async def keep_segments(self, connection: Connection) -> None:
        """Open a new segment when the newest is a day old or large enough; drop the oldest beyond age or size."""
        now = self._clock.now()
        newest = await connection.fetchrow("SELECT * FROM message_segments ORDER BY segment DESC LIMIT 1")
        if newest is None:
            await self._open_segment(connection, 1, now)
            return
        sizes = {
            record["segment"]: record["bytes"]
            for record in await connection.fetch(
                "SELECT segment, pg_total_relation_size(format('messages_%s', segment)::regclass) AS bytes"
                " FROM message_segments ORDER BY segment"
            )
        }
        if now - newest["opened_at"] >= SEGMENT_AGE or sizes[newest["segment"]] >= self._message_bytes // SEGMENT_SHARE:
            await self._open_segment(connection, newest["segment"] + 1, now)
        if self._backup_runs:
            return
        total = sum(sizes.values())
        # Room for one segment more than the newest: what is written until the next round must fit in the bound too.
        bound = self._message_bytes - 2 * (self._message_bytes // SEGMENT_SHARE)
        closed = await connection.fetch(
            "SELECT segment, closed_at FROM message_segments WHERE closed_at IS NOT NULL ORDER BY segment"
        )
        for record in closed:
            if total <= bound and record["closed_at"] > now - self._message_retention:
                break
            total -= sizes.get(record["segment"], 0)
            await self._drop_segment(connection, record["segment"])

    async def _open_segment(self, connection: Connection, segment: int, now: datetime) -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.execute("UPDATE message_segments SET closed_at = $1 WHERE closed_at IS NULL", now)
            await connection.execute(f"CREATE TABLE messages_{segment} (LIKE messages)")
            await connection.execute(f"ALTER TABLE messages_{segment} ALTER COLUMN body SET STORAGE EXTERNAL")
            await connection.execute(f"CREATE INDEX ON messages_{segment} (message_group)")
            await connection.execute(
                f"ALTER TABLE messages ATTACH PARTITION messages_{segment}"
                f" FOR VALUES FROM ({segment << NUMBER_BITS}) TO ({(segment + 1) << NUMBER_BITS})"
            )
            await connection.execute("INSERT INTO message_segments (segment, opened_at) VALUES ($1, $2)", segment, now)

    async def _drop_segment(self, connection: Connection, segment: int) -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.execute(f"ALTER TABLE messages DETACH PARTITION messages_{segment}")
            await connection.execute(f"DROP TABLE messages_{segment}")
            await connection.execute("DELETE FROM message_segments WHERE segment = $1", segment)
        log.info("original messages dropped", segment=segment)
