"""One suite for the cache of one process and for the one over a real Redis; then what replicas and outages do to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from app.core.breaker_policy import State
from app.core.cache import Cache, CacheHandle, Ordered
from app.core.cache_entry import CacheType
from app.core.cache_redis import RedisStore
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.dependency import Dependency
from app.core.errors import DeadlineError, NotFoundError, UnavailableError
from app.core.faults import FaultKind, FaultSwitches
from app.core.metrics import Metrics
from app.core.redis_link import FAILURES, RedisLink, judge, make_client
from app.infrastructure import CACHE
from tests.redis_server import RedisServer, running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

KIND = "device_stats"
SHORT = "latest_sample"
SHORT_S = 0.3
MIN_RELOAD_S = 0.15
TIMEOUT_S = 0.05
RAN_ON_REDIS: list[int] = []


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
async def replica(server: RedisServer | None, *, port: int | None = None, **more: Any) -> AsyncIterator[Replica]:
    clock, metrics = SystemClock(), Metrics()
    faults = FaultSwitches(clock, ["cache"])
    options: dict[str, Any] = {
        "stale_on": (UnavailableError,),
        "keep_stale_s": 60.0,
        "min_reload_s": MIN_RELOAD_S,
    } | more
    types = [CacheType(KIND, 60.0), CacheType(SHORT, SHORT_S, jitter=0.0), CacheType("dashboard_metrics", 60.0)]
    made = Replica(Cache(types, metrics, **options), metrics, faults)
    if server is None:
        yield made
        await made.cache.close()
        return
    breaker = CircuitBreaker(name="cache", classify=judge, rehearsed=True)
    redis = made.redis = Dependency(CACHE, breaker, faults, clock)
    client = make_client(
        host=server.host, port=port or server.port, db=0, password=server.password, timeout_s=TIMEOUT_S
    )
    link = made.link = RedisLink(client, redis, TIMEOUT_S)
    store = made.store = RedisStore(link, made.cache, metrics, "t", time.monotonic)
    made.cache.share(store)
    tasks = [asyncio.create_task(work) for work in (store.run(), store.listen(), redis.watch(link.ping, FAILURES))]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await made.cache.close()
    await link.close()


async def until(true: Callable[[], Any], what: str, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


async def hears(*replicas: Replica) -> None:
    for one in replicas:
        store = one.store
        assert store is not None
        await until(partial(getattr, store, "coherent"), "the replica hears the others")


@pytest.fixture(params=["in_process", "redis"])
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    if request.param == "in_process":
        async with replica(None) as one:
            yield one
        return
    with running_redis() as server:
        async with replica(server) as one:
            await hears(one)
            yield one
            RAN_ON_REDIS.append(server.calls("ping") + server.calls("publish"))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


# The contract, on both


async def test_a_value_is_loaded_once_and_then_read_with_its_age(made: Replica) -> None:
    first = await made.cached(b"one")
    second = await made.cached(b"other")
    assert (first.value, first.source) == (b"one", "load")
    assert (second.value, second.source, second.stale) == (b"one", "l1", False)
    assert second.age_s >= 0
    assert second.ttl_s > 0
    assert len(made.loads) == 1


@pytest.mark.parametrize("value", [None, b"", "text", 0, 1.5, True, [1, [2]], {"a": {"b": None}}])
async def test_any_value_comes_back_as_it_was_none_too(made: Replica, value: Any) -> None:
    await made.read(value)
    again = await made.read("something else")
    assert again == value
    assert type(again) is type(value)


async def test_what_one_reader_does_to_a_value_no_other_sees(made: Replica) -> None:
    (await made.read({"grades": [1]}))["grades"].append(2)
    (await made.read({}))["grades"].append(3)
    assert await made.read({}) == {"grades": [1]}


async def test_an_error_reaches_the_reader_and_is_not_cached(made: Replica) -> None:
    for _ in range(2):
        with pytest.raises(NotFoundError):
            await made.read(NotFoundError("no such device"))
    assert await made.read(b"now it exists") == b"now it exists"
    assert len(made.loads) == 3


async def test_a_thousand_misses_of_which_some_are_cancelled_load_once(made: Replica) -> None:
    gate = asyncio.Event()
    load = made.loader(b"value", gate=gate)
    readers = [asyncio.create_task(made.cache.get_or_load(KIND, "k", load)) for _ in range(1_000)]
    await until(lambda: made.loads, "the load has begun")
    for reader in readers[::20]:  # the first, which began the load, among them
        reader.cancel()
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    cancelled = [result for result in results if isinstance(result, BaseException)]
    assert len(cancelled) == 50
    assert len(made.loads) == 1
    assert {result.value for result in results if not isinstance(result, BaseException)} == {b"value"}


async def test_each_reader_has_its_own_deadline_and_the_load_goes_on(made: Replica) -> None:
    gate = asyncio.Event()
    load = made.loader(b"value", gate=gate)
    patient = asyncio.create_task(made.cache.get_or_load(KIND, "k", load))
    with pytest.raises(DeadlineError):
        await made.cache.get_or_load(KIND, "k", load, deadline_s=0.05)
    gate.set()
    assert (await patient).value == b"value"
    assert len(made.loads) == 1


async def test_a_value_past_its_time_is_loaded_again_and_served_old_only_while_loading_fails(made: Replica) -> None:
    await made.read(b"old", kind=SHORT)
    await asyncio.sleep(SHORT_S)
    stale = await made.cached(UnavailableError("away"), kind=SHORT)
    assert (stale.value, stale.stale) == (b"old", True)
    assert stale.age_s >= SHORT_S
    assert made.metrics.cache_stale.labels(SHORT).value == 1
    with pytest.raises(NotFoundError):  # an answer, if an unwelcome one: after the quiet time it is asked again
        while True:
            await made.read(NotFoundError("gone"), kind=SHORT)
            await asyncio.sleep(0.05)
    assert await made.read(b"new", kind=SHORT) == b"new"


async def test_an_error_without_an_old_value_is_an_error(made: Replica) -> None:
    with pytest.raises(UnavailableError):
        await made.read(UnavailableError("away"))


async def test_however_often_its_subject_changes_a_value_is_loaded_at_most_once_in_a_while(made: Replica) -> None:
    began = time.monotonic()
    await made.read(b"0", tags=("device:d1",))
    while (passed := time.monotonic() - began) < 4 * MIN_RELOAD_S:
        made.cache.mark(["device:d1"])
        await made.read(str(passed), tags=("device:d1",))
        await asyncio.sleep(0.002)
    assert 3 <= len(made.loads) <= 5 + 1


async def test_a_change_of_something_else_leaves_a_value_alone(made: Replica) -> None:
    await made.read(b"0", tags=("device:d1",))
    await asyncio.sleep(MIN_RELOAD_S)
    made.cache.mark(["device:d2"])
    assert (await made.cached(b"1", tags=("device:d1",))).source == "l1"


async def test_a_commit_writes_a_newer_value_through_and_never_an_older_one(made: Replica) -> None:
    await made.read(Ordered(b"5", "05"), key="latest")
    for order in ("04", "05"):
        made.cache.put_newer(KIND, "latest", order, lambda: b"wrong")
    assert await made.read(b"", key="latest") == b"5"
    made.cache.put_newer(KIND, "latest", "06", lambda: b"6")
    assert await made.read(b"", key="latest") == b"6"
    made.cache.put_newer(KIND, "never read", "07", lambda: b"7")
    assert await made.read(b"loaded", key="never read") == b"loaded"


async def test_a_load_that_a_commit_has_overtaken_does_not_take_the_newer_value_away(made: Replica) -> None:
    await made.read(Ordered(b"5", "05"), key="latest", kind=SHORT)
    await asyncio.sleep(SHORT_S)
    gate = asyncio.Event()
    reader = asyncio.create_task(made.cache.get_or_load(SHORT, "latest", made.loader(Ordered(b"5", "05"), gate=gate)))
    await until(lambda: len(made.loads) == 2, "the second load has begun")
    made.cache.put_newer(SHORT, "latest", "06", lambda: b"6")
    gate.set()
    assert (await reader).value == b"6"
    assert await made.read(b"", key="latest", kind=SHORT) == b"6"


async def test_keys_are_dropped_by_pattern_whatever_their_type(made: Replica) -> None:
    keys = ["device:d1:stats", "device:d1:latest", "device:d10:stats", "dashboard"]
    for key in keys:
        await made.read(b"old", key=key)
    await made.read(b"old", key="device:d1:dashboard", kind="dashboard_metrics")
    await made.cache.invalidate_by_pattern("device:d1:*")
    assert [await made.read(b"new", key=key) for key in keys] == [b"new", b"new", b"old", b"old"]
    assert await made.read(b"new", key="device:d1:dashboard", kind="dashboard_metrics") == b"new"
    await made.cache.invalidate_all()
    assert await made.read(b"newest", key="dashboard") == b"newest"


async def test_what_was_loading_when_it_was_dropped_is_not_kept(made: Replica) -> None:
    gate = asyncio.Event()
    reader = asyncio.create_task(made.cache.get_or_load(KIND, "k", made.loader(b"before", gate=gate)))
    await until(lambda: made.loads, "the load has begun")
    await made.cache.invalidate_by_pattern("k")
    gate.set()
    assert (await reader).value == b"before"
    assert await made.read(b"after", key="k") == b"after"


async def test_the_table_is_bounded_and_the_least_recently_read_go() -> None:
    async with replica(None, max_entries=3) as one:
        for key in ("a", "b", "c"):
            await one.read(b"x", key=key)
        await one.read(key="a")
        await one.read(b"x", key="d")
        assert [(await one.cached(b"y", key=key)).value for key in ("a", "c", "d")] == [b"x"] * 3
        assert await one.read(b"y", key="b") == b"y"
        stats = await one.cache.get_stats()
        assert (stats["total_keys"], stats["evictions"]) == (3, 2)
    async with replica(None, max_bytes=10_000) as one:
        for number in range(20):
            await one.read(b"x" * 1_000, key=str(number))
        assert (await one.cache.get_stats())["size_bytes"] <= 10_000
        await one.read(b"x" * 20_000, key="too large")
        assert (await one.cache.get_stats())["size_bytes"] <= 10_000


async def test_the_figures_tell_hits_and_misses(made: Replica) -> None:
    for _ in range(2):
        before = await made.cache.get_stats()
        await made.read(b"x", key=f"k{before['total_keys']}")
        await made.read(key=f"k{before['total_keys']}")
        after = await made.cache.get_stats()
        assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (1, 1)
        assert after["total_keys"] == before["total_keys"] + 1
    assert after["hit_rate"] == 0.5
    handle = CacheHandle()
    handle.bind(made.cache)
    assert await handle.get_stats() == await made.cache.get_stats()


async def test_the_importable_name_works_before_there_is_a_process() -> None:
    handle = CacheHandle()

    async def load() -> bytes:
        return b"x"

    for _ in range(2):
        assert (await handle.get_or_load("latest_sample", "device:d1:latest", load)).value == b"x"
    assert await handle.invalidate_by_pattern("device:d1:*") == 1
    assert await handle.invalidate_all() == 0
    stats = await handle.get_stats()
    assert (stats["hits"], stats["misses"], stats["hit_rate"], stats["total_keys"]) == (1, 1, 0.5, 0)


async def test_a_value_near_its_end_is_renewed_behind_its_reader() -> None:
    async with replica(None, min_reload_s=60.0) as one:
        await one.read(b"1", kind=SHORT)
        await asyncio.sleep(0.85 * SHORT_S)
        assert await one.read(b"2", kind=SHORT) == b"1"  # at once
        await until(lambda: len(one.loads) == 2, "it is renewed")
        await asyncio.sleep(0)
        assert await one.read(b"3", kind=SHORT) == b"2"


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_a_time_to_live_of_nothing_is_refused(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="time to live"):
        CacheType("x", ttl_s)


# Replicas


async def test_a_replica_reads_what_another_has_loaded(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await one.read({"figures": [1]})
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        found = await two.cached({})
        assert (found.value, found.source) == ({"figures": [1]}, "l2")
        assert not two.loads


async def test_what_one_replica_commits_makes_the_values_of_all_stale(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await hears(one, two)
        await two.read(b"old", tags=("device:d1",))
        one.cache.mark(["device:d1"])
        value = b"old"
        deadline = time.monotonic() + 5
        while value == b"old":
            assert time.monotonic() < deadline
            value = await two.read(b"new", tags=("device:d1",))
            await asyncio.sleep(0.01)


async def test_what_one_replica_drops_goes_from_all(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await hears(one, two)
        await one.read(b"old")
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        await two.read()
        await one.cache.invalidate_by_pattern("device:d1:*")
        assert redis.execute("DBSIZE") == "0"
        await until(lambda: not two.cache._local.keys(), "the other replica has dropped it")


async def test_only_our_own_keys_are_dropped(redis: RedisServer) -> None:
    async with replica(redis) as one:
        redis.execute("SET", "another:application", "1")
        await one.read(b"x")
        await until(lambda: redis.execute("DBSIZE") == "2", "the value is in Redis")
        await one.cache.invalidate_all()
        assert redis.execute("EXISTS", "another:application") == "1"
        assert redis.execute("DBSIZE") == "1"
        assert redis.calls("keys") == redis.calls("flushdb") == redis.calls("flushall") == 0


async def test_a_written_through_value_reaches_the_other_replicas(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await hears(one, two)
        await one.read(Ordered(b"5", "05"), key="latest")
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        one.cache.mark(["samples"])
        one.cache.put_newer(KIND, "latest", "06", lambda: b"6")
        two_read = b""
        deadline = time.monotonic() + 5
        while two_read != b"6":
            assert time.monotonic() < deadline
            two_read = await two.read(Ordered(b"6", "06"), key="latest", tags=("samples",))
            await asyncio.sleep(0.01)


async def test_while_replicas_do_not_hear_each_other_nothing_is_believed_for_long(redis: RedisServer) -> None:
    async with replica(redis) as one:
        await hears(one)
        await one.read(b"old")
        redis.kill()
        store = one.store
        assert store is not None
        await until(lambda: not store.coherent, "it notices that it hears nothing")
        assert await one.read(b"new") == b"new"
        assert (await one.cached(b"newer")).value == b"new"


# Outages


async def timed(one: Replica, key: str) -> float:
    """One read that must ask Redis; how long it took."""
    began = time.perf_counter()
    await one.read(b"x", key=key)
    return time.perf_counter() - began


def waits(times: list[float]) -> list[float]:
    return [seconds for seconds in times if seconds > TIMEOUT_S / 2]


@pytest.mark.parametrize("how", ["killed", "stalled"])
async def test_without_redis_at_most_five_calls_wait_and_each_no_longer_than_its_deadline(
    redis: RedisServer, how: str
) -> None:
    async with replica(redis) as one:
        await hears(one)
        redis.kill() if how == "killed" else redis.stall()
        times = [await timed(one, str(number)) for number in range(40)]
        assert one.redis is not None
        assert one.redis.breaker.state is State.OPEN
        assert len(waits(times)) <= 5
        assert max(times) < TIMEOUT_S + 0.1  # and what this machine takes to get round to it
        assert sorted(times[6:])[len(times[6:]) // 2] < 0.005


async def test_callers_that_come_together_wait_no_longer_than_one(redis: RedisServer) -> None:
    async with replica(redis) as one:
        await hears(one)
        redis.stall()
        began = time.perf_counter()
        await asyncio.gather(*(timed(one, str(number)) for number in range(200)))
        assert time.perf_counter() - began < TIMEOUT_S + 0.35
        assert (await timed(one, "after")) < TIMEOUT_S / 2


async def test_redis_absent_at_the_start_is_used_once_it_comes() -> None:
    server = RedisServer()
    server.start()
    server.kill()
    try:
        async with replica(server) as one, replica(server) as two:
            assert await one.read(b"x") == b"x"
            assert one.redis is not None
            await until(lambda: one.redis is not None and one.redis.away, "its check notices")
            server.start()
            await until(
                lambda: one.redis is not None and not one.redis.away and one.redis.breaker.state is State.CLOSED,
                "it heals by itself",
            )
            await hears(one, two)
            await one.read(b"shared", key="k")
            await until(lambda: server.execute("DBSIZE") != "0", "the value is in Redis")
            assert (await two.cached(b"own", key="k")).value == b"shared"
    finally:
        server.clean_up()


async def test_a_flushed_redis_costs_loads_and_nothing_else(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await hears(one, two)
        await one.read(b"x")
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        redis.flush()
        assert await one.read(b"y") == b"x"
        assert await two.read(b"y") == b"y"


async def test_a_full_redis_refuses_values_and_serves_those_it_has(redis: RedisServer) -> None:
    async with replica(redis) as one:
        await hears(one)
        redis.execute("CONFIG", "SET", "maxmemory", "1")
        redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert await one.read(b"x") == b"x"
        await until(lambda: one.metrics.cache_errors.labels("set").value > 0, "the refusal is counted")
        assert one.redis is not None
        assert one.redis.breaker.state is State.CLOSED
        assert (await one.cached(b"y")).value == b"x"


async def test_a_server_that_talks_nonsense_is_as_good_as_gone() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1_000):
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await writer.drain()
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with replica(RedisServer(), port=port) as one:
            for number in range(10):
                assert await one.read(b"x", key=str(number)) == b"x"
            assert one.redis is not None
            assert one.redis.breaker.state is State.OPEN
    finally:
        listener.close()


async def test_a_value_that_cannot_be_read_is_made_anew(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await one.read(b"x")
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        redis.execute("SET", f"t:cache:1:{KIND}|device:d1:stats", "garbage", "PX", "60000")
        assert await two.read(b"anew") == b"anew"
        assert two.metrics.cache_errors.labels("get").value == 1


async def test_what_was_dropped_while_redis_was_away_does_not_come_back(redis: RedisServer) -> None:
    async with replica(redis) as one, replica(redis) as two:
        await hears(one, two)
        await one.read(b"old")
        await until(lambda: redis.execute("DBSIZE") == "1", "the value is in Redis")
        redis.stall()
        await one.cache.invalidate_by_pattern("device:d1:*")
        assert await one.read(b"new") == b"new"
        await one.cache.invalidate_by_pattern("device:d1:*")
        redis.resume()
        assert await one.read(b"newer") == b"newer"
        await until(lambda: one.store is not None and not one.store._owed, "the drops are made up for")


@pytest.mark.parametrize("kind", list(FaultKind))
async def test_a_fault_on_purpose_is_met_like_a_real_one(redis: RedisServer, kind: FaultKind) -> None:
    async with replica(redis) as one:
        await hears(one)
        one.faults.switch_on("cache", kind, latency_s=1.0, expires_s=60)
        for number in range(6):
            assert await one.read(b"x", key=str(number)) == b"x"
        assert one.redis is not None
        assert one.redis.breaker.state is State.OPEN
        one.faults.switch_off("cache")
        await until(lambda: one.redis is not None and one.redis.breaker.state is State.CLOSED, "it heals by itself")


def test_the_suite_ran_on_a_real_redis() -> None:
    assert len(RAN_ON_REDIS) > 10
    assert min(RAN_ON_REDIS) > 0
