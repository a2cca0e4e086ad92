"""PostgreSQL taken away in every way: sockets stay open, devices are told when to retry, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.failure_modes import BUSY, FRESH, POSTGRES, STALE, UNCACHED_503, UNREADY, FailureMode
from tests.outages import CACHED, SHORT, UNCACHED, Outage, Seen, World, suffer, world
from tests.system.test_failure_modes_redis import check_metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

OUTAGE_S = 5.0  # long enough for readiness to count it as lost, which takes 3 s
HEALED_S = 5.0 + 1.0  # until health says so, which looks once a second

pytestmark = pytest.mark.timeout(300)


async def stop(w: World) -> None:
    await w.postgres.stop()


async def start(w: World) -> None:
    w.postgres.prepare()
    await w.postgres.start()


def _signal(w: World, number: signal.Signals) -> None:
    leader = psutil.Process(int((w.postgres.data / "postmaster.pid").read_text().split()[0]))
    leader.send_signal(number)  # first: it begins no more of them
    for process in leader.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended by itself
            process.send_signal(number)


async def stall(w: World) -> None:
    _signal(w, signal.SIGSTOP)


async def resume(w: World) -> None:
    _signal(w, signal.SIGCONT)


async def take_no_more(w: World) -> None:
    await w.as_admin("ALTER ROLE app CONNECTION LIMIT 0")
    await w.end_connections()


async def take_again(w: World) -> None:
    await w.as_admin("ALTER ROLE app CONNECTION LIMIT -1")


async def restart(w: World) -> None:
    await w.postgres.stop()
    await start(w)


async def nothing(_w: World) -> None: ...


async def refuse_writes(w: World) -> None:
    await w.as_admin("ALTER ROLE app SET default_transaction_read_only = on")
    await w.end_connections()


async def take_writes(w: World) -> None:
    await w.as_admin("ALTER ROLE app RESET default_transaction_read_only")
    await w.end_connections()


DEEDS: dict[str, tuple[Callable[[World], Awaitable[None]], Callable[[World], Awaitable[None]]]] = {
    "postgres_stopped": (stop, start),
    "postgres_stalled": (stall, resume),
    "postgres_out_of_connections": (take_no_more, take_again),
    "postgres_restarted": (restart, nothing),
    "postgres_read_only": (refuse_writes, take_writes),
}


@pytest.fixture
async def own() -> AsyncIterator[World]:
    async with world(**SHORT) as made:
        yield made


def check_reads(mode: FailureMode, outage: Outage) -> None:
    seen = outage.seen
    for path in CACHED:
        assert set(seen.statuses(path)) <= {200}, (mode.key, path, seen.statuses(path))
    stale = [one for path in CACHED for one in seen.of(path) if 'detail="stale"' in one.cache]
    if mode.cached_reads == STALE:
        assert stale, mode.key
        assert all(one.age_s is not None for one in stale)
    uncached = seen.of(UNCACHED)
    refused = [one for one in uncached if one.status == 503]
    assert len(refused) + seen.statuses(UNCACHED)[200] == len(uncached), mode.key
    assert all(one.retry_after is not None and int(one.retry_after) >= 1 for one in refused), mode.key
    if mode.other_reads == UNCACHED_503:
        assert uncached[-1].status == 503, mode.key
    if mode.other_reads == FRESH:  # connections that were cut under a statement apart
        assert uncached[-1].status == 200, mode.key


def shows(mode: FailureMode, seen: Seen) -> bool:
    """Whether the probes say by now what they say of this outage."""
    newest = [[one.status for one in seen.of(path)][-1:] for path in ("/health/ready", "/health")]
    return mode.ready != UNREADY or newest == [[503], [503]]


def check_probes(mode: FailureMode, outage: Outage) -> None:
    seen = outage.seen
    for phase in ("before", "during", "between", "after"):
        for path in ("/health/live", "/health/startup"):
            assert set(seen.statuses(path, phase)) <= {200}, (mode.key, phase, path)
    ready = [one.status for one in seen.of("/health/ready")]
    if mode.ready == UNREADY:
        assert ready[0] == 200, mode.key
        assert ready[-1] == 503, mode.key
        assert seen.of("/health")[-1].status == 503
        assert '"status":"unhealthy"' in seen.of("/health")[-1].body
        assert '"database":"disconnected"' in seen.of("/health")[-1].body
    else:
        assert set(ready) == {200}, mode.key


async def test_each_way_of_losing_the_database_loses_nothing(own: World) -> None:
    assert {mode.key for mode in POSTGRES} == DEEDS.keys()
    for mode in POSTGRES:
        healed_s: list[float] = []
        while len(healed_s) < 3 and min(healed_s, default=HEALED_S) >= HEALED_S:  # other work of this machine only adds
            outage = await suffer_and_check(own, mode)
            healed_s.append(outage.healed_s)
        assert min(healed_s) < HEALED_S, (mode.key, healed_s)


async def suffer_and_check(own: World, mode: FailureMode) -> Outage:
    begin, end = DEEDS[mode.key]
    outage = await suffer(
        own, lambda: begin(own), lambda: end(own), seconds=OUTAGE_S, shown=lambda seen: shows(mode, seen)
    )
    print(f"\n{mode.key}: healed in {outage.healed_s:.1f} s, {outage.busy_during} busy\n{outage.seen.summary()}")
    if mode.ingest == BUSY:
        assert outage.busy_during > 0, mode.key
    check_reads(mode, outage)
    check_probes(mode, outage)
    check_metrics(mode, outage)
    return outage


async def test_connections_that_are_ended_all_the_time_end_nothing_else(own: World) -> None:
    """As an administrator's script, or a proxy that is too eager, may do."""
    enough = asyncio.Event()
    ending: asyncio.Task[None] | None = None

    async def end_again_and_again() -> None:
        while not enough.is_set():
            await own.end_connections()
            await asyncio.sleep(0.1)

    async def begin() -> None:
        nonlocal ending
        ending = asyncio.create_task(end_again_and_again())

    async def end() -> None:
        assert ending is not None
        enough.set()
        await ending

    outage = await suffer(own, begin, end, seconds=5.0, devices=10, rate=10.0)
    statuses = {one.status for one in outage.seen.readings}
    assert statuses <= {200, 404, 503}, outage.seen.server_errors()
    assert own.server.running.poll() is None
    given_up = [one for one in own.server.events() if "given up" in str(one["event"])]
    assert not given_up
