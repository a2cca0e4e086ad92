"""One suite for a budget of one process and for one that replicas share through a real Redis; and its outages."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import capture_logs

from app.core.clock import SystemClock
from app.core.errors import AppError
from app.core.rate_leases import DEADLINE_S, LeaseGrant, LeaseRequest, Leases, redis_exchange
from app.core.rate_limiter import Limiter, RateLimiterHandle, rate_limiter
from app.core.rate_policy import Rate
from tests.redis_server import running_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.redis_server import RedisServer

RATE = Rate(per_second=100, burst=100)
SLICE = 10.0
REPLICAS = 3


@dataclass
class Replica:
    limiter: Limiter
    leases: Leases | None = None

    async def round(self) -> None:
        """What happens in the background of a real process."""
        if self.leases is not None:
            await self.leases.exchange()


@dataclass
class Fleet:
    """The replicas of one implementation, and by how much they may exceed the budget together."""

    replicas: list[Replica]
    excess: float
    began: float = field(default_factory=time.monotonic)

    async def hammer(self, seconds: float, *, key: str = "k", a_round: int = 25) -> list[float]:
        """All replicas ask as fast as they can, 20 rounds at least; when each request was admitted."""
        admitted = []
        end, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < end or rounds < 20:
            rounds += 1
            for replica in self.replicas:
                admitted += [time.monotonic() for _ in range(a_round) if replica.limiter.check(key).allowed]
                await replica.round()
            await asyncio.sleep(0)
        return admitted


def client_of(server: RedisServer) -> Redis:
    return Redis(host=server.host, port=server.port, retry=Retry(NoBackoff(), 0))


PATIENT_S = 5.0  # for an exchange, where it is no question of how long Redis may take


def shared(client: Redis, *, rate: Rate = RATE, max_keys: int = 10_000, deadline_s: float = PATIENT_S) -> Replica:
    limiter = Limiter("rest", rate, monotonic=time.monotonic, max_keys=max_keys)
    leases = Leases(redis_exchange(client, "t:"), monotonic=time.monotonic, deadline_s=deadline_s)
    leases.attach(limiter)
    return Replica(limiter, leases)


async def warm_up(replica: Replica) -> None:
    """Until Redis answers: before, the local budget alone holds."""
    assert replica.leases is not None
    async with asyncio.timeout(20):
        while not replica.leases.answering:
            replica.limiter.check("warm-up")
            await replica.round()


@contextlib.asynccontextmanager
async def shared_fleet(server: RedisServer, *, deadline_s: float = PATIENT_S) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        replicas = []
        for _ in range(REPLICAS):
            client = client_of(server)
            stack.push_async_callback(client.aclose)
            replicas.append(shared(client, deadline_s=deadline_s))
            await warm_up(replicas[-1])
        yield Fleet(replicas, REPLICAS * SLICE)
        assert server.calls("evalsha") >= REPLICAS, "the real Redis was not asked"


@pytest.fixture(params=["one process", "leases on Redis"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    if request.param == "one process":
        yield Fleet([Replica(Limiter("rest", RATE, monotonic=time.monotonic))], 0.0)
        return
    with running_redis() as server:
        async with shared_fleet(server) as made:
            yield made


async def test_a_hammered_budget_holds_and_is_used_up(fleet: Fleet) -> None:
    unused: list[float] = []
    while len(unused) < 3 and min(unused, default=RATE.burst) > fleet.excess + 1:
        admitted = await fleet.hammer(1.5, key=f"k{len(unused)}")
        unused.append(RATE.burst + RATE.per_second * (admitted[-1] - admitted[0]) - len(admitted))
        assert unused[-1] >= -fleet.excess - 1
    assert min(unused) <= fleet.excess + 1, unused  # while this machine stalls nobody asks


async def test_any_second_of_a_hammered_budget_is_in_the_bound(fleet: Fleet) -> None:
    admitted = await fleet.hammer(1.5)
    for first, begin in enumerate(admitted):
        within = sum(1 for at in admitted[first:] if at - begin <= 1.0)
        assert within <= RATE.burst + RATE.per_second + fleet.excess + 1


async def test_keys_do_not_share_a_budget(fleet: Fleet) -> None:
    assert len(await fleet.hammer(0.3, key="a")) >= RATE.burst - fleet.excess
    assert len(await fleet.hammer(0.3, key="b")) >= RATE.burst - fleet.excess


async def test_a_refusal_says_when_to_come_back_and_then_it_works(fleet: Fleet) -> None:
    await fleet.hammer(0.5)
    limiter = fleet.replicas[0].limiter
    while (decision := limiter.check("k")).allowed:
        pass
    waits = 0
    while not decision.allowed:
        assert 0 < decision.retry_after_s <= 0.5
        waits += 1
        await fleet.replicas[0].round()
        await asyncio.sleep(decision.retry_after_s)
        await fleet.replicas[0].round()
        decision = limiter.check("k")
    assert waits <= 5


async def test_a_burst_within_the_slice_is_never_refused(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        assert all(replica.limiter.check("calm").allowed for _ in range(int(SLICE / 2)))


async def test_counters_tell_what_happened(fleet: Fleet) -> None:
    before = sum(replica.limiter.allowed for replica in fleet.replicas)
    admitted = await fleet.hammer(0.2)
    assert sum(replica.limiter.allowed for replica in fleet.replicas) - before == len(admitted)
    assert all(replica.limiter.refused > 0 for replica in fleet.replicas)


async def test_the_guides_handle_serves_both(fleet: Fleet) -> None:
    handle = RateLimiterHandle(SystemClock())
    handle.bind(fleet.replicas[0].limiter)
    assert await handle.is_allowed("client")
    stats = await handle.get_usage_stats("client")
    assert (stats["max_tokens"], stats["refill_rate"]) == (100, 100)
    assert 99 <= stats["current_tokens"] <= 100
    assert stats["last_refill"].endswith("Z")


async def test_the_name_that_operators_import_answers() -> None:
    assert await rate_limiter.is_allowed("a client of this test")


def drain(limiter: Limiter, key: str, count: int) -> int:
    return sum(limiter.check(key).allowed for _ in range(count))


async def assert_local_limits_hold(replica: Replica) -> None:
    """The whole budget is there for a key of its own, no more, at once, and without an exception."""
    assert replica.leases is not None
    assert not replica.leases.answering
    began = time.monotonic()
    drained = drain(replica.limiter, "outage", 300)
    assert RATE.burst <= drained <= RATE.burst + RATE.per_second * (time.monotonic() - began) + 1
    taken = []
    for number in range(500):
        begin = time.perf_counter()
        replica.limiter.check(f"other {number % 50}")
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < 50e-6


async def test_local_limits_hold_while_redis_is_dead_and_leases_return_with_it(redis_server: RedisServer) -> None:
    async with shared_fleet(redis_server) as fleet:
        await fleet.hammer(0.1)
        redis_server.kill()
        for replica in fleet.replicas:
            drain(replica.limiter, "fresh", 20)
            await replica.round()
            await assert_local_limits_hold(replica)
        redis_server.start()
        for replica in fleet.replicas:
            await warm_up(replica)
            assert replica.leases is not None
            assert replica.leases.answering
        admitted = await fleet.hammer(0.5, key="after")
        assert len(admitted) <= RATE.burst + RATE.per_second * (admitted[-1] - admitted[0]) + fleet.excess + 1


async def test_a_stalled_redis_costs_its_deadline_once_and_then_nothing(redis_server: RedisServer) -> None:
    took_s = []
    async with shared_fleet(redis_server, deadline_s=DEADLINE_S) as fleet:
        redis_server.stall()
        for replica in fleet.replicas:
            assert drain(replica.limiter, "k", 100) == SLICE / 2, "credit alone until the deadline"
            begin = time.monotonic()
            await replica.round()
            took_s.append(time.monotonic() - begin)
            assert took_s[-1] > 0.2
            await assert_local_limits_hold(replica)
        assert min(took_s) < 0.6, took_s  # whatever else this machine does only adds
        redis_server.resume()
        for replica in fleet.replicas:
            await warm_up(replica)
            assert replica.leases is not None
            assert replica.leases.answering


async def test_a_redis_that_lost_the_script_or_all_keys_is_no_outage(redis_server: RedisServer) -> None:
    async with shared_fleet(redis_server) as fleet:
        redis_server.execute("SCRIPT", "FLUSH")
        redis_server.flush()
        for replica in fleet.replicas:
            drain(replica.limiter, "k", 5)
            await replica.round()
            assert replica.leases is not None
            assert replica.leases.answering
            assert replica.leases.failures == 0


async def test_a_key_of_another_type_in_redis_leaves_the_local_limits(redis_server: RedisServer) -> None:
    async with shared_fleet(redis_server) as fleet:
        redis_server.execute("RPUSH", "t:rest:k", "x")
        drain(fleet.replicas[0].limiter, "k", 5)
        await fleet.replicas[0].round()
        await assert_local_limits_hold(fleet.replicas[0])


@pytest.mark.parametrize("value", ["x", "nan", "9e99", "-1"])
async def test_a_bucket_that_makes_no_sense_is_mended(redis_server: RedisServer, value: str) -> None:
    async with shared_fleet(redis_server) as fleet:
        redis_server.execute("SET", "t:rest:k", value)
        admitted = await fleet.hammer(0.5)
        most = RATE.burst + RATE.per_second * (admitted[-1] - admitted[0]) + fleet.excess + 1
        assert REPLICAS * SLICE / 2 + 20 < len(admitted) <= most


async def test_idle_keys_leave_redis(redis_server: RedisServer) -> None:
    async with shared_fleet(redis_server) as fleet:
        await fleet.hammer(0.2)
        assert 0 < int(redis_server.execute("PTTL", "t:rest:k")) <= 2_100


async def test_the_background_loop_leases_on_demand_and_survives_an_outage(redis_server: RedisServer) -> None:
    client = client_of(redis_server)
    replica = shared(client)
    assert replica.leases is not None
    loop = asyncio.create_task(replica.leases.run())
    try:
        replica.limiter.check("k")
        await until(lambda: replica.leases is not None and replica.leases.answering)
        redis_server.kill()
        drain(replica.limiter, "k", 10)
        await until(lambda: replica.leases is not None and not replica.leases.answering)
        redis_server.start()
        await until(lambda: replica.leases is not None and replica.leases.answering)  # asked again without traffic
        await asyncio.sleep(0.1)
        calm = replica.leases.exchanges
        await asyncio.sleep(0.2)
        assert replica.leases.exchanges == calm, "nobody asks while nothing is wanted"
    finally:
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop
        await client.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "error",
    [AppError("open"), ConnectionRefusedError(), TimeoutError(), ValueError("?")],
    ids=lambda one: type(one).__name__,
)
async def test_an_outage_is_logged_once_each_way_and_counted(error: Exception) -> None:
    away = True

    async def exchange(requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        if away:
            raise error
        return [LeaseGrant(0.0) for _ in requests]

    replica = with_exchange(exchange)
    assert replica.leases is not None
    with capture_logs() as logs:
        for number, state in enumerate((True, True, False, False, True)):
            away = state
            replica.limiter.check(str(number))
            await replica.round()
    assert [entry["log_level"] for entry in logs] == ["warning", "info", "warning"]
    assert logs[0]["reason"] == type(error).__name__
    assert (replica.leases.exchanges, replica.leases.failures) == (5, 3)


def with_exchange(
    exchange: Callable[[Sequence[LeaseRequest]], Awaitable[list[LeaseGrant]]], *, rate: Rate = RATE
) -> Replica:
    limiter = Limiter("rest", rate, monotonic=time.monotonic)
    leases = Leases(exchange, monotonic=time.monotonic)
    leases.attach(limiter)
    return Replica(limiter, leases)


@pytest.mark.parametrize(
    "grants", [[], [LeaseGrant(1.0)] * 2, [LeaseGrant(1e9)], [LeaseGrant(-1.0)], [LeaseGrant(float("nan"))]]
)
async def test_grants_that_make_no_sense_count_as_no_answer(grants: list[LeaseGrant]) -> None:
    async def exchange(_requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        return grants

    replica = with_exchange(exchange)
    replica.limiter.check("k")
    await replica.round()
    await assert_local_limits_hold(replica)


class Babble:
    """A client whose script answers anything."""

    def __init__(self, reply: object) -> None:
        self._reply = reply

    def register_script(self, _script: str) -> Callable[..., Awaitable[object]]:
        async def script(*, keys: list[str], args: list[float]) -> object:
            return self._reply

        return script


@pytest.mark.parametrize("reply", [None, 5, b"x", [None], ["many"], [[1]], {}])
async def test_replies_that_make_no_sense_count_as_no_answer(reply: object) -> None:
    client: Any = Babble(reply)
    replica = with_exchange(redis_exchange(client, "t:"))
    replica.limiter.check("k")
    await replica.round()
    await assert_local_limits_hold(replica)


async def test_a_defect_is_not_taken_for_an_outage() -> None:
    async def exchange(_requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        raise KeyError("defect")

    replica = with_exchange(exchange)
    assert replica.leases is not None
    replica.limiter.check("k")
    with pytest.raises(KeyError):
        await replica.leases.run()


async def test_a_budget_is_attached_once() -> None:
    async def exchange(_requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        return []

    replica = with_exchange(exchange)
    assert replica.leases is not None
    with pytest.raises(ValueError, match="attached already"):
        replica.leases.attach(replica.limiter)


async def test_an_exchange_takes_five_hundred_keys_and_all_get_their_turn() -> None:
    sizes: list[int] = []
    names: set[str] = set()

    async def exchange(requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        sizes.append(len(requests))
        names.update(request.key for request in requests)
        return [LeaseGrant(request.tokens) for request in requests]

    replica = with_exchange(exchange)
    for number in range(1_200):
        replica.limiter.check(str(number))
    for _ in range(4):
        await replica.round()
    assert sizes == [500, 500, 200]
    assert len(names) == 1_200


async def test_the_leases_of_this_suite_were_those_of_a_real_server(redis_server: RedisServer) -> None:
    """Fails, and does not skip, where the server cannot run."""
    assert redis_server.calls("evalsha") == 0
    async with shared_fleet(redis_server) as fleet:
        await fleet.hammer(0.1)
    assert redis_server.calls("evalsha") > REPLICAS
    assert redis_server.execute("EXISTS", "t:rest:k") == "1"
