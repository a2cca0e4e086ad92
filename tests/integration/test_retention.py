from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from app.core.backup_log import LOCK_KEY
from app.core.clock import iso
from app.core.errors import NotFoundError
from app.core.migrations import migrate
from app.sqal import queries, retention
from app.sqal.originals import NUMBER_BITS
from app.sqal.retention import existing_weeks, make_partition, week_of
from tests.integration.conftest import RETENTION
from tests.support import trimmed

HEAD = "0006"

if TYPE_CHECKING:
    from tests.integration.conftest import Bench


async def test_weeks_are_made_ahead_of_need(bench: Bench) -> None:
    weeks = await existing_weeks(bench.connection)
    assert weeks == {week_of(bench.clock.now()) + timedelta(days=7 * number) for number in range(5)}


async def test_a_week_that_the_default_holds_is_made_and_takes_its_rows(bench: Bench) -> None:
    moment = bench.clock.now() - timedelta(days=100)
    await bench.write(trimmed(timestamp=iso(moment)))
    assert await bench.count("samples_default") == 1
    await bench.housekeeper.keep(bench.connection)
    assert week_of(moment) in await existing_weeks(bench.connection)
    assert await bench.count("samples_default") == 0
    assert await bench.count() == 1
    assert (await bench.write(trimmed(timestamp=iso(moment))))[0].status == "duplicate"


async def test_a_partition_that_somebody_else_attached_is_left_as_it_is(bench: Bench) -> None:
    theirs = [("samples_2020", 2020), ("samples_20219999", 2021), ("samples_archive", 2022)]
    for name, year in theirs:
        await bench.connection.execute(
            f"CREATE TABLE {name} PARTITION OF samples FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
        )
    ours = await existing_weeks(bench.connection)
    bench.clock.time += RETENTION + timedelta(days=100)
    await bench.housekeeper.keep(bench.connection)
    assert ours.isdisjoint(await existing_weeks(bench.connection))
    left = await bench.connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'samples'::regclass AND inhrelid::regclass::text = ANY($1)",
        [name for name, _ in theirs],
    )
    assert left == len(theirs)


async def test_making_a_partition_while_its_rows_come_in_loses_none(
    bench: Bench, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "30s")
    monday = week_of(bench.clock.now() - timedelta(days=200))
    moment = bench.clock.now() - timedelta(days=200)
    writer = await asyncpg.connect(dsn)

    async def write() -> None:
        for number in range(200):
            await bench.store.write(writer, [bench.work(trimmed(sample_id=str(number), timestamp=iso(moment)))])  # type: ignore[arg-type]

    writing = asyncio.create_task(write())
    while await bench.count("samples_default") < 20:
        await asyncio.sleep(0)
    moved = await make_partition(bench.connection, monday)
    await writing
    await writer.close()
    assert moved >= 20
    assert await bench.count("samples_default") == 0
    assert await bench.count() == 200


async def test_a_week_past_its_retention_goes_but_not_a_row_of_a_wrong_clock(bench: Bench) -> None:
    edge = bench.clock.now() - RETENTION + timedelta(days=1)
    await bench.write(trimmed(sample_id="old", timestamp=iso(edge)))
    await bench.housekeeper.keep(bench.connection)
    bench.clock.time += timedelta(days=3)  # now the same device time is implausible: server time makes the bucket
    await bench.write(trimmed(sample_id="wrong clock", timestamp=iso(edge)))
    bench.clock.time += timedelta(days=10)
    await bench.housekeeper.keep(bench.connection)
    assert week_of(edge) not in await existing_weeks(bench.connection)
    items, _ = await queries.list_samples(bench.connection, queries.SampleFilter(), None, 10)
    assert [item["sample_id"] for item in items] == ["wrong clock"]
    bench.clock.time += RETENTION + timedelta(days=1)
    await bench.housekeeper.keep(bench.connection)
    assert await bench.count() == 0


async def test_while_a_backup_runs_nothing_is_dropped_and_nobody_waits_behind_it(bench: Bench, dsn: str) -> None:
    week = week_of(bench.clock.now())
    await bench.write(trimmed(timestamp=iso(bench.clock.now())))
    bench.clock.time += RETENTION + timedelta(days=100)
    backup = await asyncpg.connect(dsn)
    await backup.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    await backup.execute(f"BEGIN; LOCK TABLE samples, samples_{week:%Y%m%d}, messages IN ACCESS SHARE MODE")
    took_s = []
    for _ in range(3):  # whatever else this machine does only adds
        begun = time.monotonic()
        await bench.housekeeper.keep(bench.connection)
        took_s.append(time.monotonic() - begun)
    assert min(took_s) < 1.0, took_s
    assert week in await existing_weeks(bench.connection)
    await backup.close()
    await bench.housekeeper.keep(bench.connection)
    assert week not in await existing_weeks(bench.connection)


async def test_a_step_that_is_locked_out_holds_up_no_other(
    bench: Bench, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "20ms")
    week = week_of(bench.clock.now())
    await bench.write(trimmed(timestamp=iso(bench.clock.now())))
    bench.clock.time += RETENTION + timedelta(days=100)
    reader = await asyncpg.connect(dsn)
    await reader.execute(f"BEGIN; LOCK TABLE samples_{week:%Y%m%d} IN ACCESS SHARE MODE")
    newest = "SELECT max(segment) FROM message_segments"
    before = await bench.connection.fetchval(newest)
    await bench.housekeeper.keep(bench.connection)
    assert week in await existing_weeks(bench.connection)
    assert await bench.connection.fetchval(newest) == before + 1
    await reader.close()


async def test_originals_are_dropped_by_age(bench: Bench) -> None:
    await bench.write(trimmed())
    arguments = (bench.connection, bench.codec, "ESP32_LL_01", "LL-260202-4821-087", None)
    bench.clock.time += timedelta(days=2)
    await bench.housekeeper.keep(bench.connection)  # closes the segment
    bench.clock.time += timedelta(days=29)
    await bench.housekeeper.keep(bench.connection)
    await queries.sample_message(*arguments)
    bench.clock.time += timedelta(days=2)
    await bench.housekeeper.keep(bench.connection)
    with pytest.raises(NotFoundError, match="no longer kept"):
        await queries.sample_message(*arguments)
    assert await bench.count() == 1
    # With nothing left to compare with, other bytes are a conflict and the same bytes still a duplicate.
    same, other = await bench.write(trimmed(), trimmed(eleveur="x"))
    assert (same.status, other.status) == ("duplicate", "error")


async def test_originals_are_dropped_by_size(bench: Bench) -> None:
    segments = "SELECT count(*) FROM message_segments"
    for _ in range(40):
        segment = await bench.connection.fetchval("SELECT max(segment) FROM message_segments")
        await bench.connection.execute(
            "INSERT INTO messages"
            " SELECT $1, 1, ARRAY[gen_random_uuid()], ARRAY[1], ''::bytea, decode(repeat(md5(n::text), 8192), 'hex')"
            " FROM generate_series(1, 20) n",
            segment << NUMBER_BITS,
        )
        await bench.housekeeper.keep_segments(bench.connection)
    size = await bench.connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'messages'::regclass"
    )
    assert size <= 64 * 1024 * 1024
    assert await bench.connection.fetchval(segments) > 10


async def test_two_processes_migrate_an_empty_database_together(empty_dsn: str) -> None:
    results = await asyncio.gather(migrate(empty_dsn), migrate(empty_dsn), migrate(empty_dsn))
    assert sorted(before or "" for before, _ in results) == ["", HEAD, HEAD]
    assert {after for _, after in results} == {HEAD}


async def test_a_newer_schema_is_left_alone(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert await migrate(dsn) == ("9999", "9999")
    await connection.close()
