"""One suite for the cache of one process and for the one over a real Redis."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from app.core.cache import CacheHandle
from app.core.cache_entry import CacheType
from app.core.cache_store import Newer, Ordered
from app.core.errors import DeadlineError, NotFoundError, UnavailableError
from app.core.faults import FaultKind
from app.infrastructure import CACHE_ENTRIES
from tests.contracts.cache_bench import KIND, MIN_RELOAD_S, SHORT, SHORT_S, Replica, hears, replica, until
from tests.redis_server import running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RAN_ON_REDIS: list[int] = []


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


async def test_while_it_is_made_to_forget_every_read_is_a_load_and_a_miss(made: Replica) -> None:
    await made.read(b"one")
    before = made.metrics.cache_misses.labels(KIND).value
    made.faults.switch_on(CACHE_ENTRIES, FaultKind.ERROR, latency_s=0, expires_s=60)
    again = [(await made.cached(value)).source for value in (b"two", b"three")]
    assert (again, len(made.loads)) == (["load", "load"], 3)
    assert made.metrics.cache_misses.labels(KIND).value == before + 2
    made.faults.switch_off(CACHE_ENTRIES)
    assert (await made.cached(b"four")).source == "l1"


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
    while len(made.loads) < 5:
        assert time.monotonic() - began < 20
        made.cache.mark(["device:d1"])
        await made.read(b"1", tags=("device:d1",))
        await asyncio.sleep(0.002)
    assert time.monotonic() - began >= 4 * MIN_RELOAD_S


async def test_a_change_of_something_else_leaves_a_value_alone(made: Replica) -> None:
    await made.read(b"0", tags=("device:d1",))
    await asyncio.sleep(MIN_RELOAD_S)
    made.cache.mark(["device:d2"])
    assert (await made.cached(b"1", tags=("device:d1",))).source == "l1"


async def test_a_commit_writes_a_newer_value_through_and_never_an_older_one(made: Replica) -> None:
    await made.read(Ordered(b"5", "05"), key="latest")
    for order in ("04", "05"):
        made.cache.commit((), [Newer(KIND, "latest", order, lambda: b"wrong")])
    assert await made.read(b"", key="latest") == b"5"
    made.cache.commit((), [Newer(KIND, "latest", "06", lambda: b"6")])
    assert await made.read(b"", key="latest") == b"6"
    made.cache.commit((), [Newer(KIND, "never read", "07", lambda: b"7")])
    assert await made.read(b"loaded", key="never read") == b"loaded"


async def test_a_load_that_a_commit_has_overtaken_does_not_take_the_newer_value_away(made: Replica) -> None:
    await made.read(Ordered(b"5", "05"), key="latest", kind=SHORT)
    await asyncio.sleep(SHORT_S)
    gate = asyncio.Event()
    reader = asyncio.create_task(made.cache.get_or_load(SHORT, "latest", made.loader(Ordered(b"5", "05"), gate=gate)))
    await until(lambda: len(made.loads) == 2, "the second load has begun")
    made.cache.commit((), [Newer(SHORT, "latest", "06", lambda: b"6")])
    gate.set()
    assert (await reader).value == b"6"
    assert await made.read(UnavailableError("away"), key="latest", kind=SHORT) == b"6"  # also once its time is over


async def test_a_replay_does_not_make_a_value_young_that_missed_a_newer_commit(made: Replica) -> None:
    """The least of three: whatever else this machine does only adds."""
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=5 * MIN_RELOAD_S) >= 5 * MIN_RELOAD_S:
        took_s.append(await missed_for_s(made, f"latest{len(took_s)}"))
    assert min(took_s) < 5 * MIN_RELOAD_S, took_s


async def missed_for_s(made: Replica, key: str) -> float:
    """The newest sample was committed elsewhere; here only an old backlog comes in, for as long as it likes."""
    await made.read(Ordered(b"5", "05"), key=key, tags=("samples",))
    made.cache.mark(["samples"])  # "09" was committed, and not written through here
    began = time.monotonic()
    seen = b""
    while seen != b"9" and time.monotonic() - began < 20:
        order = f"06-{time.monotonic() - began:.6f}"
        made.cache.commit(["samples"], [Newer(KIND, key, order, lambda: b"old")])
        seen = await made.read(Ordered(b"9", "09"), key=key, tags=("samples",))
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_value_that_is_gone_is_gone_after_its_time(made: Replica) -> None:
    await made.read(Ordered(b"9", "09"), key="latest", kind=SHORT)
    await asyncio.sleep(SHORT_S)
    assert await made.read(Ordered(b"5", "05"), key="latest", kind=SHORT) == b"5"
    held = made.cache._local.get(f"{SHORT}|latest")
    assert held is not None
    assert held.value == b"5"
    await asyncio.sleep(SHORT_S)
    assert await made.read(Ordered(None, ""), key="latest", kind=SHORT) is None


async def test_who_reads_after_an_invalidation_does_not_get_what_was_loading_before_it(made: Replica) -> None:
    gate = asyncio.Event()
    before = asyncio.create_task(made.cache.get_or_load(KIND, "k", made.loader(b"before", gate=gate)))
    await until(lambda: made.loads, "the load has begun")
    await made.cache.invalidate_by_pattern("k")
    assert await made.read(b"after", key="k") == b"after"
    gate.set()
    assert (await before).value == b"before"
    assert await made.read(b"later", key="k") == b"after"


async def test_an_old_value_is_served_while_its_renewal_is_late(made: Replica) -> None:
    await made.read(b"old", kind=SHORT)
    await asyncio.sleep(SHORT_S)
    gate = asyncio.Event()
    late = await made.cache.get_or_load(SHORT, "device:d1:stats", made.loader(b"new", gate=gate))
    assert (late.value, late.stale) == (b"old", True)
    gate.set()
    await asyncio.sleep(0)
    assert await made.read(b"newer", kind=SHORT) == b"new"


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
    now_s = [1_000.0]
    async with replica(None, min_reload_s=60.0, monotonic=lambda: now_s[0]) as one:
        await one.read(b"1", kind=SHORT)
        now_s[0] += 0.85 * SHORT_S
        assert await one.read(b"2", kind=SHORT) == b"1"  # at once
        await until(lambda: len(one.loads) == 2, "it is renewed")
        await asyncio.sleep(0)
        assert await one.read(b"3", kind=SHORT) == b"2"


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_a_time_to_live_of_nothing_is_refused(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="time to live"):
        CacheType("x", ttl_s)


def test_the_suite_ran_on_a_real_redis() -> None:
    assert len(RAN_ON_REDIS) > 10
    assert min(RAN_ON_REDIS) > 0
