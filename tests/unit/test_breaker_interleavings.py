"""What holds of a breaker under any order of calls, results, waits and probes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.breaker_policy import BreakerOptions, Call, Outcome, State
from tests.unit.test_breaker_policy import Bench

SMALL = BreakerOptions(failure_threshold=2, timeout=5, minimum_calls=6, window=10, slow_call=2, half_open_max_wait=4)
STEPS = st.lists(
    st.one_of(
        st.just(("enter", 0, Outcome.SUCCESS)),
        st.tuples(st.just("settle"), st.integers(0, 50), st.sampled_from([o for o in Outcome if o != "rejected"])),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 3, 6]), st.just(Outcome.SUCCESS)),
        st.just(("rehearse", 0, Outcome.SUCCESS)),
    ),
    min_size=40,  # it takes two failures in a row and a wait before anything is scarce
    max_size=120,
)


class Interleaving:
    """Steps in any order, with what must hold before and after each."""

    def __init__(self) -> None:
        self.bench = Bench(SMALL)
        self.policy = self.bench.policy
        self.calls: list[Call] = []
        self.settled = self.rejected = 0
        self.succeeded_in = -1  # the last generation with a success

    def enter(self) -> None:
        before = self.policy.view(self.bench.now_s)
        call = self.bench.enter()
        if call is not None:
            self.calls.append(call)
            assert before.state is not State.OPEN or before.retry_after_s == 0
        else:
            assert before.state is not State.CLOSED
            assert self.policy.reject(self.bench.now_s) > 0
            self.rejected += 1

    def settle(self, number: int, outcome: Outcome) -> None:
        if not self.calls:
            return
        before = self.policy.view(self.bench.now_s)
        call = self.calls.pop(number % len(self.calls))
        self.bench.settle(call, outcome)
        self.settled += 1
        if outcome is Outcome.SUCCESS and call.generation == before.generation:
            self.succeeded_in = call.generation
        if call.generation != before.generation:
            assert self.policy.view(self.bench.now_s) == before
        after = self.policy.outcomes
        self.bench.settle(call, Outcome.FAILURE)
        assert self.policy.outcomes == after

    def step(self, name: str, number: int, outcome: Outcome) -> None:
        if name == "enter":
            self.enter()
        elif name == "settle":
            self.settle(number, outcome)
        elif name == "wait":
            self.bench.now_s += number
        else:
            self.policy.rehearse(self.policy.generation, self.bench.now_s)
        self.look()

    def look(self) -> None:
        view = self.policy.view(self.bench.now_s)
        held = [call for call in self.calls if call.has_permit and call.generation == view.generation]
        assert view.permits_in_use == len(held) <= (3 if self.succeeded_in == view.generation else 1)
        assert view.state is State.HALF_OPEN or not held
        assert sum(self.policy.outcomes.values()) == self.settled + self.rejected
        assert view.transitions == len(self.bench.events) == sum(self.policy.entered.values())
        assert [e.before for e in self.bench.events] == [State.CLOSED, *self.bench.moves()][: len(self.bench.events)]


@settings(max_examples=200)
@given(STEPS)
def test_permits_and_counters_hold_under_any_interleaving(steps: list[tuple[str, int, Outcome]]) -> None:
    run = Interleaving()
    for step in steps:
        run.step(*step)
    while run.calls:
        run.settle(0, Outcome.CANCELLED)
        run.look()
    assert run.policy.view(run.bench.now_s).permits_in_use == 0
