"""Redis taken away in every way: nobody who sends samples or reads figures gets an error."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import failure_modes
from tests.failure_modes import REDIS, FailureMode
from tests.outages import CACHED, SHORT, UNCACHED, Outage, World, suffer, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SLOWEST_MS = 400.0  # a call waits 50 ms at most; the rest is this machine, which runs other tests beside

pytestmark = pytest.mark.timeout(300)


async def kill(w: World) -> None:
    w.redis.kill()


async def start(w: World) -> None:
    await asyncio.to_thread(w.redis.start)


async def stall(w: World) -> None:
    w.redis.stall()


async def resume(w: World) -> None:
    w.redis.resume()


async def fill(w: World) -> None:
    w.redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    w.redis.execute("CONFIG", "SET", "maxmemory", "1")


async def make_room(w: World) -> None:
    w.redis.execute("CONFIG", "SET", "maxmemory", "0")


async def restart(w: World) -> None:
    await asyncio.to_thread(w.redis.restart)


async def flush(w: World) -> None:
    w.redis.flush()


async def nothing(_w: World) -> None: ...


class Babbler:
    """Another program on Redis's port."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None

    async def begin(self, w: World) -> None:
        w.redis.kill()
        self._server = await asyncio.start_server(self._babble, w.redis.host, w.redis.port)

    async def end(self, w: World) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.sleep(0.1)
        await start(w)

    @staticmethod
    async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4_096):
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        writer.close()


BABBLER = Babbler()
Act = "Callable[[World], Awaitable[None]]"
DEEDS: dict[str, tuple[Callable[[World], Awaitable[None]], Callable[[World], Awaitable[None]]]] = {
    "redis_killed": (kill, start),
    "redis_stalled": (stall, resume),
    "redis_nonsense": (BABBLER.begin, BABBLER.end),
    "redis_full": (fill, make_room),
    "redis_restarted": (restart, nothing),
    "redis_flushed": (flush, nothing),
}


@pytest.fixture
async def own() -> AsyncIterator[World]:
    async with world(**SHORT) as made:
        yield made


def check_metrics(mode: FailureMode, outage: Outage) -> None:
    for said in mode.metrics:
        name, equals, value = said.partition(" = ")
        if equals:
            assert outage.during[name] == float(value), said
        else:
            assert outage.grew(said.removesuffix(" grows")) > 0, said


async def test_each_way_of_losing_redis_costs_nobody_anything(own: World) -> None:
    assert {mode.key for mode in REDIS} == DEEDS.keys()
    for mode in REDIS:
        slowest_ms: list[float] = []
        while len(slowest_ms) < 3 and min(slowest_ms, default=SLOWEST_MS) >= SLOWEST_MS:
            outage = await suffer_and_check(own, mode)
            slowest_ms.append(max(one.ms for path in CACHED for one in outage.seen.of(path)))
        assert min(slowest_ms) < SLOWEST_MS, (mode.key, slowest_ms)


async def suffer_and_check(own: World, mode: FailureMode) -> Outage:
    begin, end = DEEDS[mode.key]
    outage = await suffer(own, lambda: begin(own), lambda: end(own))
    print(f"\n{mode.key}: healed in {outage.healed_s:.1f} s\n{outage.seen.summary()}")
    assert not outage.seen.server_errors(), mode.key
    assert outage.acked_during > 0, mode.key
    assert outage.busy_during == 0, mode.key
    for path in (*CACHED, UNCACHED, "/health/live", "/health/ready", "/health/startup", "/health"):
        assert set(outage.seen.statuses(path)) == {200}, (mode.key, path)
    if mode.health.startswith("degraded"):
        assert any('"status":"degraded"' in one.body for one in outage.seen.of("/health"))
        assert any('"cache":false' in one.body for one in outage.seen.of("/health/ready"))
    check_metrics(mode, outage)
    return outage


def test_the_page_of_failure_modes_is_up_to_date() -> None:
    assert failure_modes.PAGE.read_text() == failure_modes.page()
