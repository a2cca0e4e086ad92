"""A replica's cache with what runs in its background, alone or over a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from app.core.cache import Cache
from app.core.cache_entry import CacheType
from app.core.cache_redis import RedisStore
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.dependency import Dependency
from app.core.errors import UnavailableError
from app.core.faults import FaultSwitches
from app.core.metrics import Metrics
from app.core.redis_link import FAILURES, RedisLink, judge, make_client
from app.infrastructure import CACHE, CACHE_ENTRIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.redis_server import RedisServer

KIND = "device_stats"
SHORT = "latest_sample"
SHORT_S = 0.3
MIN_RELOAD_S = 0.4
TIMEOUT_S = 0.05


@dataclass
class Replica:
    """One process's cache, with what runs in its background."""

    cache: Cache
    metrics: Metrics
    faults: FaultSwitches
    redis: Dependency | None = None
    store: RedisStore | None = None
    link: RedisLink | None = None
    loads: list[str] = field(default_factory=list)

    def loader(self, value: Any, *, gate: asyncio.Event | None = None) -> Callable[[], Awaitable[Any]]:
        async def load() -> Any:
            self.loads.append("load")
            if gate is not None:
                await gate.wait()
            if isinstance(value, Exception):
                raise value
            return value

        return load

    async def read(self, value: Any = b"loaded", key: str = "device:d1:stats", kind: str = KIND, **more: Any) -> Any:
        return (await self.cached(value, key, kind, **more)).value

    async def cached(self, value: Any = b"loaded", key: str = "device:d1:stats", kind: str = KIND, **more: Any) -> Any:
        return await self.cache.get_or_load(kind, key, self.loader(value), **more)


@contextlib.asynccontextmanager
async def replica(
    server: RedisServer | None, *, port: int | None = None, timeout_s: float = TIMEOUT_S, **more: Any
) -> AsyncIterator[Replica]:
    clock, metrics = SystemClock(), Metrics()
    faults = FaultSwitches(clock, ["cache", CACHE_ENTRIES])
    options: dict[str, Any] = {
        "stale_on": (UnavailableError,),
        "keep_stale_s": 60.0,
        "min_reload_s": MIN_RELOAD_S,
        "forgetting": lambda: faults.active(CACHE_ENTRIES) is not None,
    } | more
    types = [CacheType(KIND, 60.0), CacheType(SHORT, SHORT_S, jitter=0.0), CacheType("dashboard_metrics", 60.0)]
    types.append(CacheType("bug_summary", 60.0, strict=True))
    made = Replica(Cache(types, metrics, **options), metrics, faults)
    if server is None:
        yield made
        await made.cache.close()
        return
    breaker = CircuitBreaker(name="cache", classify=judge, rehearsed=True)
    redis = made.redis = Dependency(CACHE, breaker, faults, clock)
    client = make_client(
        host=server.host, port=port or server.port, db=0, password=server.password, timeout_s=timeout_s
    )
    link = made.link = RedisLink(client, redis, timeout_s)
    store = made.store = RedisStore(link, made.cache, metrics, "t", time.monotonic)
    made.cache.share(store)
    tasks = [asyncio.create_task(work) for work in (store.run(), store.listen(), redis.watch(link.ping, FAILURES))]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await made.cache.close()
    await link.close()


async def until(true: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


async def hears(*replicas: Replica) -> None:
    for one in replicas:
        store = one.store
        assert store is not None
        await until(partial(getattr, store, "coherent"), "the replica hears the others")


async def written(one: Replica, server: RedisServer) -> None:
    """Until Redis has all that the replica holds. What it did not take in time was dropped, and is put once more."""
    store, local, dropped, seen = one.store, one.cache._local, one.metrics.cache_dropped.labels(), 0.0
    assert store is not None
    names = local.keys()
    deadline = time.monotonic() + 20
    while server.execute("EXISTS", *(store._prefix + name for name in names)) != str(len(names)):
        assert time.monotonic() < deadline, "the values are not in Redis"
        if dropped.value > seen:
            seen = dropped.value
            for name in names:
                if (entry := local.get(name)) is not None:
                    store.put_soon(name, entry)
        await asyncio.sleep(0.005)
