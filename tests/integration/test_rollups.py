from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clock import iso
from app.core.migrations import migrate
from app.sqal import rollups
from tests.integration.conftest import Bench
from tests.support import trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime.now(UTC).replace(microsecond=0)
SUMMARY = rollups.SUMMARISE


async def opened(dsn: str) -> Bench:
    bench = Bench(await asyncpg.connect(dsn, server_settings={"timezone": "UTC"}))
    bench.clock.time = NOW  # what has no plausible time is counted where it was received: all in one hour
    await bench.store.register_recipes(bench.connection)
    await bench.housekeeper.keep(bench.connection, wait=True)
    return bench


async def kept_and_true(connection: Any, devices: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The rows of these devices, and what their samples say."""
    columns = ", ".join(rollups.COLUMNS)
    kept = await connection.fetch(
        f"SELECT {columns} FROM rollups WHERE device_id = ANY($1) ORDER BY 1, 2, 3, 4", devices
    )
    true = []
    hours = await connection.fetch(
        "SELECT DISTINCT device_id, date_trunc('hour', bucket_time, 'UTC') AS hour FROM samples"
        " WHERE device_id = ANY($1) ORDER BY 1, 2",
        devices,
    )
    for hour in hours:
        true += [
            tuple(row)
            for row in await connection.fetch(SUMMARY + " ORDER BY 1, 2, 3, 4", hour["device_id"], hour["hour"])
        ]
    return [tuple(row) for row in kept], true


messages = st.fixed_dictionaries(
    {
        "device": st.integers(0, 2),
        "number": st.integers(0, 5),
        "minutes_ago": st.sampled_from([0, 1, 59, 60, 61, 180, 60 * 24 * 30, 60 * 24 * 500, -30]),
        "lot": st.sampled_from([None, "L1", "L2"]),
        "score": st.sampled_from([None, 0.2, 0.65, 0.9]),
        "claimed": st.sampled_from(["A+", "REJECT"]),
        "site": st.sampled_from([None, "LS", "??"]),
    }
)


def message(run: str, chosen: dict[str, Any]) -> dict[str, Any]:
    return trimmed(
        device_id=f"R{run}-{chosen['device']}",
        sample_id=str(chosen["number"]),
        timestamp=iso(NOW - timedelta(minutes=chosen["minutes_ago"])),
        lot_abattage=chosen["lot"],
        site_code=chosen["site"],
        fusion__tof_score=chosen["score"],
        fusion__final_grade=chosen["claimed"],
        vl53l8ch__quality_score=chosen["score"],
    )


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(messages, min_size=1, max_size=8), min_size=1, max_size=6), shuffled=st.randoms())
def test_any_order_lateness_duplication_and_batching_gives_what_the_samples_say(
    dsn: str, groups: list[list[dict[str, Any]]], shuffled: Any
) -> None:
    async def write(run: str, batches: list[list[dict[str, Any]]]) -> list[Any]:
        bench = await opened(dsn)
        try:
            for batch in batches:
                await bench.write(*(message(run, chosen) for chosen in batch))
            kept, true = await kept_and_true(bench.connection, [f"R{run}-{n}" for n in range(3)])
        finally:
            await bench.connection.close()
        assert kept == true
        return kept

    unique = {(m["device"], m["number"], m["minutes_ago"]): m for group in groups for m in group}  # one content each
    once = [unique[m["device"], m["number"], m["minutes_ago"]] for group in groups for m in group]
    twice = once + once
    shuffled.shuffle(twice)
    first = asyncio.run(write(uuid4().hex[:8], [once]))
    second = asyncio.run(write(uuid4().hex[:8], [twice[at : at + 3] for at in range(0, len(twice), 3)]))
    latency = rollups.COLUMNS.index("latency_ms_n") + 1  # received at other moments: sums of latency differ
    assert [row[1:latency] for row in first] == [row[1:latency] for row in second]


async def test_two_processes_on_the_same_hours_do_not_deadlock(dsn: str) -> None:
    benches = [await opened(dsn) for _ in range(3)]
    run = uuid4().hex[:8]

    async def write(bench: Bench, offset: int) -> None:
        for number in range(25):
            names = [f"R{run}-{(n * (offset + 1) + number) % 7}" for n in range(7)]
            group = [
                trimmed(device_id=name, sample_id=f"{offset}-{number}-{place}", timestamp=iso(NOW))
                for place, name in enumerate(names)
            ]
            verdicts = await bench.write(*group)
            assert {verdict.status for verdict in verdicts} == {"saved"}

    await asyncio.gather(*(write(bench, offset) for offset, bench in enumerate(benches)))
    kept, true = await kept_and_true(benches[0].connection, [f"R{run}-{n}" for n in range(7)])
    assert kept == true
    assert sum(row[rollups.COLUMNS.index("samples")] for row in kept) == 3 * 25 * 7
    for bench in benches:
        await bench.connection.close()


async def test_a_group_that_fails_leaves_no_trace_in_the_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = uuid4().hex[:8]
    await bench.write(trimmed(device_id=f"R{run}-0", sample_id="a", timestamp=iso(NOW)))
    before = await kept_and_true(bench.connection, [f"R{run}-0"])

    async def broken(*_args: Any) -> None:
        raise asyncpg.DiskFullError

    with monkeypatch.context() as patched:
        patched.setattr(bench.quarantine, "add", broken)
        with pytest.raises(asyncpg.DiskFullError):
            await bench.write(trimmed(device_id=f"R{run}-0", sample_id="b", timestamp=iso(NOW)))
    assert await kept_and_true(bench.connection, [f"R{run}-0"]) == before
    assert before[0] == before[1]


async def test_hours_made_anew_say_what_their_samples_say(bench: Bench) -> None:
    run = uuid4().hex[:8]
    for number in range(5):
        await bench.write(
            trimmed(device_id=f"R{run}-0", sample_id=str(number), timestamp=iso(NOW), lot_abattage=f"L{number % 2}")
        )
    right, _ = await kept_and_true(bench.connection, [f"R{run}-0"])
    await bench.connection.execute("UPDATE rollups SET samples = 99, score_min = 1 WHERE device_id = $1", f"R{run}-0")
    async with bench.connection.transaction():
        await rollups.make_anew(bench.connection, f"R{run}-0", rollups.hour_of(NOW))
    assert (await kept_and_true(bench.connection, [f"R{run}-0"]))[0] == right
    await bench.connection.execute("DELETE FROM rollups")
    assert await rollups.make_range_anew(bench.connection, NOW - timedelta(hours=1), NOW + timedelta(hours=1)) == 1
    assert (await kept_and_true(bench.connection, [f"R{run}-0"]))[0] == right


async def test_the_migration_fills_the_rows_from_the_samples_that_are_there(bench: Bench, dsn: str) -> None:
    chosen = {"device": 0, "lot": "L1", "score": 0.65, "claimed": "REJECT", "site": None}
    for number, minutes_ago in enumerate((0, 61, 60 * 24 * 30, 60 * 24 * 500)):
        await bench.write(message("M", chosen | {"number": number, "minutes_ago": minutes_ago}))
    kept, true = await kept_and_true(bench.connection, ["RM-0"])
    assert kept == true != []
    await bench.connection.execute("DROP TABLE rollups, alerts, lots, backups, database_identity")
    await bench.connection.execute("ALTER TABLE devices DROP COLUMN clock_offset_s, DROP COLUMN in_service")
    await bench.connection.execute("ALTER TABLE samples DROP COLUMN derived_volume_mm3")
    await bench.connection.execute("UPDATE alembic_version SET version_num = '0001'")
    await migrate(dsn)
    assert (await kept_and_true(bench.connection, ["RM-0"]))[0] == kept
