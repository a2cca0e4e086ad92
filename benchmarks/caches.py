"""Caches side by side: what a hit costs, what a herd of misses loads, and how long callers wait for a lost Redis.

Alone: `python -m benchmarks.caches`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from app.core.cache import Cache
from app.core.cache_entry import CacheType
from app.core.cache_redis import RedisStore
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.dependency import Dependency
from app.core.faults import FaultSwitches
from app.core.metrics import Metrics
from app.core.redis_link import FAILURES, RedisLink, judge, make_client
from app.infrastructure import CACHE
from tests.redis_server import RedisServer, running_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 7
HITS = 20_000
HERD = 1_000
CANCELLED = HERD // 20
LOAD_S = 0.05
HERD_DEADLINE_S = 10.0
CALLS = 30
WAITED_S = 0.01
CALL_CAP_S = 4.0
OUTAGE_CAP_S = 12.0
TIMEOUT_S = 0.05
TTL_S = 3_600
KIND = "latest_sample"
VALUE = b"x" * 1_000

Load = Callable[[], Awaitable[bytes]]
Read = Callable[[], Awaitable[Any]]


def theirs(module: str) -> Any:
    """Not imported by name: untyped, and installed for this comparison only."""
    return importlib.import_module(module)


def our_cache(**options: Any) -> Cache:
    return Cache([CacheType(KIND, TTL_S)], Metrics(), **options)


async def value() -> bytes:
    return VALUE


@contextmanager
def quietly() -> Iterator[None]:
    """Libraries log every error; the lines would stand between the rows."""
    logging.disable(logging.CRITICAL)
    try:
        with capture_logs():
            yield
    finally:
        logging.disable(logging.NOTSET)


# A hit


def our_hit(min_reload_s: float) -> Read:
    """After `min_reload_s` a read also looks whether one of the value's two tags was marked."""
    cache = our_cache(min_reload_s=min_reload_s)
    return lambda: cache.get_or_load(KIND, "latest", value, tags=("samples", "lots"))


def cashews_memory() -> Any:
    cache = theirs("cashews").Cache()
    cache.setup("mem://")
    return cache


def cashews_hit() -> Read:
    read: Read = cashews_memory()(ttl=TTL_S, key="latest")(value)
    return read


def cashews_get() -> Read:
    cache = cashews_memory()
    stored = False

    async def read() -> Any:
        nonlocal stored
        if not stored:
            await cache.set("latest", VALUE, expire=TTL_S)
            stored = True
        return await cache.get("latest")

    return read


def aiocache_hit() -> Read:
    read: Read = theirs("aiocache").cached(ttl=TTL_S, key="latest")(value)
    return read


def dict_hit() -> Read:
    held = {"latest": VALUE}

    async def read() -> bytes:
        return held["latest"]

    return read


HIT_CONTENDERS: dict[str, Callable[[], Read]] = {
    "ours, made less than 2 s ago": lambda: our_hit(3_600.0),
    "ours, older: its tags are looked at": lambda: our_hit(0.0),
    "cashews, `@cache`": cashews_hit,
    "cashews, `get` alone": cashews_get,
    "aiocache, `@cached`": aiocache_hit,
    "a dict behind a coroutine": dict_hit,
}


async def per_hit(read: Read) -> float:
    """Microseconds a hit."""
    begin = time.perf_counter()
    for _ in range(HITS):
        await read()
    return (time.perf_counter() - begin) / HITS * 1e6


async def hits() -> None:
    reads = {name: make() for name, make in HIT_CONTENDERS.items()}
    taken: dict[str, list[float]] = {name: [] for name in reads}
    for read in reads.values():
        await read()
    for _ in range(ROUNDS):  # each in turn, so that a slow moment of the machine meets all of them
        for name, read in reads.items():
            taken[name].append(await per_hit(read))
    print("\n| a hit of 1 kB in memory | us |\n|---|---|")
    for name, rounds in taken.items():
        print(f"| {name} | {statistics.median(rounds):.2f} ({min(rounds):.2f}-{max(rounds):.2f}) |")
    print(f"\nmedians (min-max) of {ROUNDS} interleaved rounds of {HITS:,} hits")


# A herd of misses


def our_herd(load: Load) -> Read:
    cache = our_cache()
    return lambda: cache.get_or_load(KIND, "latest", load)


def cashews_herd(**options: Any) -> Callable[[Load], Read]:
    def make(load: Load) -> Read:
        read: Read = cashews_memory()(ttl=TTL_S, key="latest", **options)(load)
        return read

    return make


def cashews_early(load: Load) -> Read:
    read: Read = cashews_memory().early(ttl=TTL_S, key="latest")(load)
    return read


def aiocache_herd(decorator: str) -> Callable[[Load], Read]:
    def make(load: Load) -> Read:
        read: Read = getattr(theirs("aiocache"), decorator)(ttl=TTL_S, key="latest")(load)
        return read

    return make


HERD_CONTENDERS: dict[str, Callable[[Load], Read]] = {
    "ours": our_herd,
    "cashews, `@cache`": cashews_herd(),
    "cashews, `@cache(lock=True, protected=False)`": cashews_herd(lock=True, protected=False),
    "cashews, `@cache.early`": cashews_early,
    "aiocache, `@cached`": aiocache_herd("cached"),
    "aiocache, `@cached_stampede`": aiocache_herd("cached_stampede"),
}


async def herd(make: Callable[[Load], Read]) -> tuple[int, int, int]:
    """Loads that ran, waiters that died of another's cancellation, and waiters that had no value in time."""
    loads = 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        await asyncio.sleep(LOAD_S)
        return VALUE

    read = make(load)

    async def ask() -> Any:
        return await read()

    waiters = [asyncio.create_task(ask()) for _ in range(HERD)]
    await asyncio.sleep(LOAD_S / 5)
    ours, others = waiters[:: HERD // CANCELLED], set(waiters)
    for waiter in ours:  # the first, which leads, among them
        waiter.cancel()
        others.discard(waiter)
    await asyncio.wait(waiters, timeout=HERD_DEADLINE_S)
    foreign = sum(waiter.cancelled() for waiter in others)
    unserved = sum(not waiter.done() for waiter in others)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    return loads, foreign, unserved


async def herds() -> None:
    print(f"\n| {HERD:,} misses at once, {CANCELLED} of them cancelled | loads | others cancelled | without a value |")
    print("|---|---|---|---|")
    for name, make in HERD_CONTENDERS.items():
        with quietly():
            loads, foreign, unserved = await herd(make)
        print(f"| {name} | {loads:,} | {foreign:,} | {unserved:,} |")


# Redis away


@asynccontextmanager
async def over_redis(server: RedisServer) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """Ours, with everything that runs behind it."""
    clock, metrics, cache = SystemClock(), Metrics(), our_cache()
    breaker = CircuitBreaker(name=CACHE.name, classify=judge, rehearsed=True)
    redis = Dependency(CACHE, breaker, FaultSwitches(clock, [CACHE.name]), clock)
    client = make_client(host=server.host, port=server.port, db=0, password=None, timeout_s=TIMEOUT_S)
    link = RedisLink(client, redis, TIMEOUT_S)
    store = RedisStore(link, cache, metrics, "bench", time.monotonic)
    cache.share(store)
    tasks = [asyncio.create_task(work) for work in (store.run(), store.listen(), redis.watch(link.ping, FAILURES))]
    yield lambda number: cache.get_or_load(KIND, f"key-{number}", value)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await cache.close()
    await link.close()


@asynccontextmanager
async def cashews_over_redis(server: RedisServer) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    cache = theirs("cashews").Cache()
    cache.setup(server.url)

    @cache(ttl=TTL_S, key="key-{number}")  # type: ignore[untyped-decorator]
    async def read(number: int) -> bytes:
        return VALUE

    yield read
    await cache.close()


@asynccontextmanager
async def aiocache_over_redis(server: RedisServer) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    aiocache = theirs("aiocache")
    pickled = theirs("aiocache.serializers").PickleSerializer()
    make = aiocache.cached(
        ttl=TTL_S, cache=aiocache.Cache.REDIS, endpoint=server.host, port=server.port, serializer=pickled
    )

    @make  # type: ignore[untyped-decorator]
    async def read(number: int) -> bytes:
        return VALUE

    yield read
    await read.cache.close()


Over = Callable[[RedisServer], AbstractAsyncContextManager[Callable[[int], Awaitable[Any]]]]
REDIS_CONTENDERS: dict[str, Over] = {
    "ours": over_redis,
    "cashews, its defaults": cashews_over_redis,
    "aiocache, its defaults": aiocache_over_redis,
}


async def waits(over: Over, *, stalled: bool) -> list[float]:
    """Seconds of each of 30 misses one after another, from the moment when Redis is lost; fewer within the cap."""
    with running_redis() as server:
        async with over(server) as read:
            for number in range(-3, 0):
                await read(number)
            await asyncio.sleep(0.5)  # what is written behind is written
            server.stall() if stalled else server.kill()
            taken: list[float] = []
            calls: list[asyncio.Future[Any]] = []
            end = time.perf_counter() + OUTAGE_CAP_S
            while len(taken) < CALLS and (begin := time.perf_counter()) < end:
                calls.append(asyncio.ensure_future(read(len(taken))))
                await asyncio.wait({calls[-1]}, timeout=CALL_CAP_S)
                taken.append(time.perf_counter() - begin)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    return taken


def told(taken: list[float]) -> str:
    long = [one for one in taken if one >= WAITED_S]
    short = [one for one in taken if one < WAITED_S]
    rest = f"{statistics.median(short) * 1e3:.2f} ms" if short else "none"
    longest = f">= {CALL_CAP_S:.0f} s" if max(taken) >= CALL_CAP_S else f"{max(taken) * 1e3:,.0f} ms"
    return f"{len(long)} of {len(taken)} | {longest} | {rest}"


async def outages() -> None:
    print("\n| Redis away, calls one after another | | wait 10 ms or more | the longest | median of the others |")
    print("|---|---|---|---|---|")
    for stalled in (False, True):
        for name, over in REDIS_CONTENDERS.items():
            with quietly():
                taken = await waits(over, stalled=stalled)
            print(f"| {name} | {'stalled' if stalled else 'refused'} | {told(taken)} |")
    print(
        f"\na call is given up after {CALL_CAP_S:.0f} s, a contender after {OUTAGE_CAP_S:.0f} s: then of fewer than {CALLS}"
    )


def report() -> None:
    """Print the tables."""
    asyncio.run(hits())
    asyncio.run(herds())
    asyncio.run(outages())


if __name__ == "__main__":
    report()
