"""The token bucket on a clock that tests turn, and the table of its keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.rate_limiter import Limiter, RateLimiterHandle
from app.core.rate_policy import SLACK_S, Gcra, Rate


class Hands:
    """A clock that stands still until it is turned."""

    def __init__(self, at: float = 1e6) -> None:
        self.at = at

    def now(self) -> datetime:
        return datetime(2024, 12, 23, 19, 30, 0, 999, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.at


rates = st.builds(Rate, st.floats(0.01, 1e4), st.floats(1, 1e4))
allowances = st.one_of(st.just(0.0), st.floats(0, 1e4))
buckets = st.builds(Gcra, rates, allowances)
# In parts of the bucket's own filling time, so that every rate meets waits that matter to it.
steps = st.lists(st.tuples(st.floats(0, 0.3), st.floats(0, 0.4)), min_size=1, max_size=60)


def admitted(bucket: Gcra, parts: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When and at what cost; waits and costs are given in parts of a full bucket."""
    now, state, taken = 1e6, 0.0, []
    for wait, cost in parts:
        now += wait * bucket.capacity / bucket.rate.per_second
        state, decision = bucket.decide(state, now, cost * bucket.capacity)
        if decision.allowed:
            taken.append((now, cost * bucket.capacity))
    return taken


@given(buckets, steps)
def test_over_any_interval_no_more_is_admitted_than_burst_allowance_and_rate(
    bucket: Gcra, parts: list[tuple[float, float]]
) -> None:
    taken = admitted(bucket, parts)
    for first, (begin, _) in enumerate(taken):
        total = 0.0
        for at, cost in taken[first:]:
            total += cost
            bound = bucket.capacity + bucket.rate.per_second * (at - begin + SLACK_S)
            assert total <= bound * (1 + 1e-9) + bucket.rate.per_second * 1e-8


@given(buckets, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2)), min_size=1, max_size=60))
def test_who_stays_under_the_rate_is_never_refused(bucket: Gcra, parts: list[tuple[float, float]]) -> None:
    paced = [(cost + extra, cost) for cost, extra in parts]
    assert len(admitted(bucket, paced)) == len(paced)


@given(buckets, steps, st.floats(0, 1))
def test_waiting_as_long_as_told_helps_and_less_does_not(
    bucket: Gcra, parts: list[tuple[float, float]], part: float
) -> None:
    now, state = 1e6, 0.0
    for wait, cost_part in parts:
        now += wait * bucket.capacity / bucket.rate.per_second
        cost = cost_part * bucket.capacity
        after, decision = bucket.decide(state, now, cost)
        if not decision.allowed:
            assert after == state
            assert bucket.decide(state, now + decision.retry_after_s, cost)[1].allowed
            if part * decision.retry_after_s < decision.retry_after_s - 2 * SLACK_S:
                assert not bucket.decide(state, now + part * decision.retry_after_s, cost)[1].allowed
        state = after


@given(buckets, steps)
def test_an_unused_bucket_is_full_when_it_was_told_to_be(bucket: Gcra, parts: list[tuple[float, float]]) -> None:
    now, state = 1e6, 0.0
    for wait, cost in parts:
        now += wait * bucket.capacity / bucket.rate.per_second
        state, decision = bucket.decide(state, now, cost * bucket.capacity)
        assert 0 <= decision.remaining <= bucket.capacity
        left = bucket.decide(state, now + decision.reset_after_s, 0)[1].remaining
        assert left == pytest.approx(bucket.capacity, rel=1e-6, abs=bucket.rate.per_second * 1e-8)


@dataclass
class TwoBuckets:
    """A burst and an allowance behind it, word for word."""

    rate: float
    burst_size: float
    allowance_size: float

    def __post_init__(self) -> None:
        self.burst, self.allowance = self.burst_size, self.allowance_size

    def take(self, elapsed_s: float, cost: float) -> bool:
        filled = self.burst + elapsed_s * self.rate
        self.burst = min(filled, self.burst_size)
        self.allowance = min(self.allowance + filled - self.burst, self.allowance_size)
        from_burst = min(cost, self.burst)
        if cost - from_burst > self.allowance:
            return False
        self.burst -= from_burst
        self.allowance -= cost - from_burst
        return True


# Powers of two and small whole numbers: floats are exact, so that there is no near miss.
@given(
    st.sampled_from([0.5, 1.0, 4.0, 16.0]), st.integers(1, 40), st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 20)), max_size=80),
)  # fmt: skip
def test_an_allowance_is_drawn_after_the_burst_and_filled_by_what_overflows_it(
    rate: float, burst: int, allowance: int, parts: list[tuple[int, int]]
) -> None:
    bucket, model = Gcra(Rate(rate, burst), allowance), TwoBuckets(rate, burst, allowance)
    now, state = 1024.0, 0.0
    for eighths, cost in parts:
        now += eighths / 8
        state, decision = bucket.decide(state, now, cost)
        assert decision.allowed is model.take(eighths / 8, cost)
        assert decision.remaining == model.burst + model.allowance


def test_a_request_that_no_bucket_holds_is_refused_for_good() -> None:
    state, decision = Gcra(Rate(10, 5)).decide(0.0, 100.0, 6)
    assert (state, decision) == (0.0, (False, 5.0, math.inf, 0.0))


@pytest.mark.parametrize(("speed", "burst"), [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.nan), (math.inf, 1)])
def test_a_rate_without_sense_is_refused_in_one_sentence(speed: float, burst: float) -> None:
    with pytest.raises(ValueError, match=r"^a rate needs a positive speed and burst, not"):
        Rate(speed, burst)


@pytest.mark.parametrize("number", [-1.0, math.nan])
def test_a_negative_allowance_or_cost_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="an allowance"):
        Gcra(Rate(1, 1), number)
    with pytest.raises(ValueError, match="a cost"):
        Limiter("x", Rate(1, 1), monotonic=Hands().monotonic).check("a", number)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0.5, 1, 3]), st.integers(0, 4)), max_size=80),
    st.sampled_from([0.0, 1.5]),
)
def test_forgetting_full_buckets_changes_no_decision(parts: list[tuple[str, float, float]], allowance: float) -> None:
    hands = Hands()
    limiter = Limiter("x", Rate(1, 4), monotonic=hands.monotonic, allowance=allowance)
    bucket, states = Gcra(Rate(1, 4), allowance), dict.fromkeys("abc", 0.0)
    said = []
    for key, wait_s, cost in parts:
        hands.at += wait_s
        states[key], expected = bucket.decide(states[key], hands.at, cost)
        said.append(limiter.check(key, cost))
        assert said[-1] == expected
    assert limiter.allowed == sum(one.allowed for one in said)
    assert limiter.refused == len(said) - limiter.allowed
    assert limiter.evictions == 0


def test_full_buckets_are_forgotten_as_new_keys_come() -> None:
    hands = Hands()
    limiter = Limiter("x", Rate(1, 10), monotonic=hands.monotonic)
    for number in range(1_000):
        limiter.check(f"old {number}")
    assert limiter.keys == 1_000
    hands.at += 1.01
    for number in range(1_000):
        limiter.check(f"new {number}")
    assert limiter.keys == 1_000
    assert limiter.evictions == 0


def test_a_bucket_that_is_not_full_yet_is_not_forgotten() -> None:
    hands = Hands()
    limiter = Limiter("x", Rate(1, 10), monotonic=hands.monotonic)
    limiter.check("used up", 10)
    hands.at += 9.5
    for number in range(5):
        limiter.check(f"new {number}")
    assert limiter.peek("used up").remaining == 9.5


def test_the_table_is_bounded_and_the_least_recently_used_key_starts_full_again() -> None:
    limiter = Limiter("x", Rate(1, 2), monotonic=Hands().monotonic, max_keys=3)
    for key in ("a", "a", "b", "b", "c", "c"):
        assert limiter.check(key).allowed
    assert not limiter.check("a").allowed  # refused, but used: b is the oldest now
    assert limiter.check("d").allowed
    assert (limiter.keys, limiter.evictions) == (3, 1)
    assert [limiter.peek(key).remaining for key in "abcd"] == [0, 2, 0, 1]
    assert limiter.check("b").allowed
    assert (limiter.keys, limiter.evictions) == (3, 2)


def test_peeking_takes_nothing_and_remembers_nothing() -> None:
    limiter = Limiter("x", Rate(1, 2), monotonic=Hands().monotonic)
    assert [limiter.peek("a") for _ in range(3)] == [(True, 2, 0, 0)] * 3
    assert limiter.keys == 0
    limiter.check("a", 1.5)
    assert limiter.peek("a") == (False, 0.5, 0.5, 1.5)
    assert (limiter.allowed, limiter.refused) == (1, 0)


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Limiter("x", Rate(1, 1), monotonic=Hands().monotonic, max_keys=0)


@pytest.mark.parametrize("start", [0.1, 1e6])  # from 0.1 on, whole tokens are 0.9999 as floats
async def test_the_handle_allows_a_hundred_a_minute_by_itself(start: float) -> None:
    hands = Hands(start)
    handle = RateLimiterHandle(hands)
    for left in range(99, -1, -1):
        assert await handle.is_allowed("c")
        assert (await handle.get_usage_stats("c"))["current_tokens"] == left
    assert not await handle.is_allowed("c")
    for refilled in range(1, 11):
        hands.at += 0.6
        assert (await handle.get_usage_stats("c"))["current_tokens"] == refilled
    hands.at += 45
    assert await handle.get_usage_stats("c") == {
        "current_tokens": 85, "max_tokens": 100, "refill_rate": 100 / 60, "last_refill": "2024-12-23T19:30:00Z",
    }  # fmt: skip


async def test_the_handle_speaks_for_the_limiter_it_is_bound_to_until_unbound() -> None:
    hands = Hands()
    handle = RateLimiterHandle(hands)
    handle.bind(Limiter("connects", Rate(1, 1), monotonic=hands.monotonic))
    assert [await handle.is_allowed("c") for _ in range(2)] == [True, False]
    assert (await handle.get_usage_stats("c"))["max_tokens"] == 1
    handle.unbind()
    assert await handle.is_allowed("c")
