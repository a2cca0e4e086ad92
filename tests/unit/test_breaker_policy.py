"""The breaker's rules on a clock that is turned by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.breaker_policy import (
    BreakerEvent,
    BreakerOptions,
    BreakerPolicy,
    Call,
    Mode,
    Outcome,
    SlidingWindow,
    State,
)

STEADY = BreakerOptions(jitter=0)


class Bench:
    """A policy, its clock and its transitions."""

    def __init__(self, options: BreakerOptions = STEADY, now_s: float = 1_000.0) -> None:
        self.now_s = now_s
        self.events: list[BreakerEvent] = []
        self.policy = BreakerPolicy("database", options, random.Random(1), self.events.append)

    def enter(self) -> Call | None:
        return self.policy.admit(self.now_s)

    def settle(self, call: Call, outcome: Outcome) -> None:
        self.policy.settle(call, outcome, self.now_s)

    def run(self, *outcomes: Outcome, takes_s: float = 0.0) -> None:
        for outcome in outcomes:
            call = self.enter()
            assert call is not None
            self.now_s += takes_s
            self.settle(call, outcome)

    def fail(self, times: int = 5) -> None:
        self.run(*[Outcome.FAILURE] * times)

    def state(self) -> State:
        return self.policy.state

    def moves(self) -> list[State]:
        return [event.after for event in self.events]


def half_open(options: BreakerOptions = STEADY) -> Bench:
    bench = Bench(options)
    bench.fail(options.failure_threshold)
    bench.policy.rehearse(bench.policy.generation, bench.now_s)
    assert bench.state() is State.HALF_OPEN
    return bench


def test_five_failures_in_a_row_open_it_and_a_success_between_starts_the_count_anew() -> None:
    bench = Bench(replace(STEADY, minimum_calls=1_000))
    for _ in range(10):
        bench.fail(4)
        bench.run(Outcome.SUCCESS)
    assert bench.state() is State.CLOSED
    bench.fail(5)
    assert bench.state() is State.OPEN
    assert bench.events == [BreakerEvent("database", State.CLOSED, State.OPEN, "5 failures in a row", 1_000.0)]


@pytest.mark.parametrize("silent", [Outcome.IGNORED, Outcome.CANCELLED])
def test_what_says_nothing_neither_counts_nor_interrupts_a_row_of_failures(silent: Outcome) -> None:
    bench = Bench()
    bench.run(*[silent] * 100)
    bench.fail(4)
    bench.run(silent)
    assert bench.policy.view(bench.now_s).calls == 4
    assert bench.state() is State.CLOSED
    bench.fail(1)
    assert bench.state() is State.OPEN


def test_half_of_twenty_calls_failing_opens_it_and_of_nineteen_does_not() -> None:
    bench = Bench(replace(STEADY, failure_threshold=100))
    bench.run(*[Outcome.FAILURE, Outcome.SUCCESS] * 9, Outcome.FAILURE)
    assert bench.state() is State.CLOSED
    bench.run(Outcome.SUCCESS)
    assert bench.state() is State.OPEN
    assert bench.events[0].reason == "10 of 20 calls failed"


def test_slow_calls_open_it_though_they_succeed() -> None:
    bench = Bench(replace(STEADY, slow_call=1.0, minimum_calls=10, window=1_000))
    bench.run(*[Outcome.SUCCESS] * 2, takes_s=0.9)
    bench.run(*[Outcome.SUCCESS] * 7, takes_s=1.0)
    assert bench.state() is State.CLOSED
    bench.run(Outcome.SUCCESS, takes_s=1.0)
    assert bench.state() is State.OPEN
    assert bench.events[0].reason == "8 of 10 calls were slow"


def test_without_a_limit_no_call_is_slow() -> None:
    bench = Bench()
    bench.run(Outcome.SUCCESS, takes_s=10_000)
    assert bench.policy.view(bench.now_s).slow_calls == 0


def test_failures_older_than_the_window_are_forgotten() -> None:
    bench = Bench(replace(STEADY, failure_threshold=100))
    bench.fail(19)
    bench.now_s += 30
    bench.run(Outcome.SUCCESS)
    view = bench.policy.view(bench.now_s)
    assert (view.state, view.calls, view.failure_rate) == (State.CLOSED, 1, 0.0)


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.booleans()), max_size=60),
    st.floats(0, 200),
)
def test_the_window_sums_ten_buckets(window_s: float, calls: list[tuple[float, bool, bool]], rest_s: float) -> None:
    window, now_s, seen = SlidingWindow(window_s), 0.0, []
    for wait_s, failed, slow in calls:
        now_s += wait_s
        window.add(failed, slow, now_s)
        seen.append((now_s // (window_s / 10), failed, slow))
    now_s += rest_s
    window.turn_to(now_s)
    kept = [one for one in seen if one[0] > now_s // (window_s / 10) - 10]
    sums = (len(kept), sum(failed for _, failed, _ in kept), sum(slow for *_, slow in kept))
    assert (window.calls, window.failures, window.slow_calls) == sums


@given(st.integers(0, 2**32), st.floats(0.1, 400), st.floats(1, 4), st.floats(0, 0.9), st.integers(1, 6))
def test_it_rejects_until_its_open_time_is_over_which_grows_to_its_limit(
    seed: int, timeout_s: float, growth: float, jitter: float, rounds: int
) -> None:
    options = BreakerOptions(timeout=timeout_s, timeout_growth=growth, jitter=jitter, failure_threshold=1)
    policy, now_s = BreakerPolicy("x", options, random.Random(seed), lambda _event: None), 0.0
    for number in range(rounds):
        call = policy.admit(now_s)
        assert call is not None
        policy.settle(call, Outcome.FAILURE, now_s)
        wait_s = policy.view(now_s).retry_after_s
        base_s = min(timeout_s * growth**number, max(timeout_s, 300))
        assert base_s * (1 - jitter) * 0.999 <= wait_s <= base_s * (1 + jitter) * 1.001
        assert policy.admit(now_s + wait_s * 0.999) is None
        now_s += wait_s * 1.001


def test_having_closed_it_opens_for_the_first_time_again() -> None:
    bench = half_open()
    bench.fail(1)
    assert bench.policy.view(bench.now_s).retry_after_s == 120
    bench.now_s += 120
    bench.run(Outcome.SUCCESS, Outcome.SUCCESS)
    assert bench.state() is State.CLOSED
    bench.fail(5)
    assert bench.policy.view(bench.now_s).retry_after_s == 60


def test_half_open_admits_one_call_and_after_its_success_as_many_as_are_allowed() -> None:
    bench = half_open(replace(STEADY, success_threshold=10))
    first = bench.enter()
    assert first is not None
    assert bench.enter() is None
    bench.settle(first, Outcome.SUCCESS)
    assert [bench.enter() is not None for _ in range(5)] == [True] * 3 + [False] * 2


def test_half_open_closes_after_its_successes_with_an_empty_window() -> None:
    bench = half_open()
    bench.run(Outcome.SUCCESS)
    assert bench.state() is State.HALF_OPEN
    bench.run(Outcome.SUCCESS)
    view = bench.policy.view(bench.now_s)
    assert (view.state, view.calls, view.consecutive_failures) == (State.CLOSED, 0, 0)
    assert bench.moves() == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_one_failure_opens_it_again() -> None:
    bench = half_open()
    bench.run(Outcome.SUCCESS, Outcome.FAILURE)
    assert bench.moves() == [State.OPEN, State.HALF_OPEN, State.OPEN]


@pytest.mark.parametrize("silent", [Outcome.IGNORED, Outcome.CANCELLED])
def test_what_says_nothing_gives_its_permit_back(silent: Outcome) -> None:
    bench = half_open()
    bench.run(*[silent] * 10)
    assert bench.state() is State.HALF_OPEN
    assert bench.policy.view(bench.now_s).permits_in_use == 0


def test_a_half_open_call_that_hangs_opens_it_again() -> None:
    bench = half_open()
    assert bench.enter() is not None
    bench.now_s += 10
    assert bench.policy.view(bench.now_s).state is State.HALF_OPEN
    bench.now_s += 0.1
    assert bench.enter() is None
    assert bench.state() is State.OPEN
    assert bench.events[-1].reason == "half-open calls brought no decision"


def test_half_open_calls_that_are_all_cancelled_open_it_again() -> None:
    bench = half_open()
    bench.run(*[Outcome.CANCELLED] * 3, takes_s=4)
    assert bench.state() is State.OPEN


def test_sparse_calls_close_it_though_longer_apart_than_half_open_may_wait() -> None:
    bench = half_open()
    for _ in range(2):
        bench.now_s += 3_600
        bench.run(Outcome.SUCCESS)
    assert bench.state() is State.CLOSED


def test_a_probe_that_began_before_the_last_transition_opens_no_door() -> None:
    bench = Bench()
    bench.fail()
    earlier = bench.policy.generation
    bench.now_s += 60
    bench.fail(1)
    bench.policy.rehearse(earlier, bench.now_s)
    assert bench.state() is State.OPEN
    bench.policy.rehearse(bench.policy.generation, bench.now_s)
    assert bench.state() is State.HALF_OPEN


@pytest.mark.parametrize(("rehearsed", "expected_s"), [(False, [60, 1.5]), (True, [2, 1.5])])
def test_a_rehearsed_breaker_sends_callers_away_for_two_seconds(rehearsed: bool, expected_s: list[float]) -> None:
    bench = Bench(replace(STEADY, rehearsed=rehearsed))
    bench.fail()
    assert [bench.policy.reject(bench.now_s), bench.policy.reject(bench.now_s + 58.5)] == expected_s
    assert bench.policy.view(bench.now_s).retry_after_s == expected_s[0]


def test_a_view_tells_since_when_it_is_open() -> None:
    bench = Bench()
    assert bench.policy.view(bench.now_s).open_for_s == 0
    bench.fail()
    view = bench.policy.view(bench.now_s + 7)
    assert (view.open_for_s, view.retry_after_s, view.transitions) == (7, 53, 1)


def test_forced_open_rejects_everything_and_nothing_changes_it() -> None:
    bench = Bench()
    late = bench.enter()
    assert late is not None
    bench.policy.set_mode(Mode.FORCED_OPEN, bench.now_s)
    bench.settle(late, Outcome.SUCCESS)
    bench.policy.rehearse(bench.policy.generation, bench.now_s)
    bench.policy.reset(bench.now_s)
    bench.now_s += 10**6
    assert bench.enter() is None
    assert bench.policy.view(bench.now_s).state is State.OPEN
    assert bench.policy.reject(bench.now_s) == 60
    bench.policy.set_mode(Mode.AUTO, bench.now_s)
    assert bench.moves() == [State.OPEN, State.CLOSED]


def test_disabled_admits_and_counts_everything_and_never_opens() -> None:
    bench = Bench()
    bench.policy.set_mode(Mode.DISABLED, bench.now_s)
    bench.fail(100)
    view = bench.policy.view(bench.now_s)
    assert (view.state, view.mode, view.failures) == (State.CLOSED, Mode.DISABLED, 100)


def test_disabling_an_open_breaker_lets_calls_through() -> None:
    bench = Bench()
    bench.fail()
    bench.policy.set_mode(Mode.DISABLED, bench.now_s)
    assert bench.enter() is not None


def test_a_reset_empties_a_closed_breaker_too_and_is_no_transition() -> None:
    bench = Bench()
    bench.fail(4)
    bench.policy.reset(bench.now_s)
    bench.fail(4)
    assert bench.moves() == []


def test_a_listener_that_resets_it_in_the_middle_of_an_admission_is_obeyed() -> None:
    bench = Bench()

    def reset(event: BreakerEvent) -> None:
        if event.after is State.HALF_OPEN:
            policy.reset(bench.now_s)

    policy = bench.policy = BreakerPolicy("x", STEADY, random.Random(1), reset)
    bench.fail()
    bench.now_s += 60
    call = bench.enter()
    assert call is not None
    assert not call.has_permit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("failure_threshold", 0), ("success_threshold", 0), ("half_open_max_calls", 0), ("minimum_calls", 0),
        ("timeout", 0), ("timeout", -1), ("timeout", math.nan), ("timeout", math.inf), ("max_timeout", 0), ("window", 0),
        ("half_open_max_wait", 0), ("failure_rate", 0), ("failure_rate", 1.1), ("slow_call_rate", -0.1), ("slow_call", 0),
        ("timeout_growth", 0.5), ("jitter", 1), ("jitter", -0.1),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    wrong: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=rf"^{field} must be .*, not {value}$"):
        BreakerOptions(**wrong)
