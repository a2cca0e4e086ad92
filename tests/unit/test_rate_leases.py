"""One replica's leases on a clock that tests turn: the bound of all replicas, and what a table forgets."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from app.core import rate_leases
from app.core.rate_leases import Lease, LeasedBudget, LeaseRequest
from app.core.rate_policy import Rate

REPLICAS = 3


def enforced(rate: Rate, max_keys: int = 10) -> LeasedBudget:
    budget = LeasedBudget("b", rate, max_keys, lambda: None)
    budget.enforced = True
    return budget


def test_a_cost_above_a_slice_never_passes_a_shared_budget() -> None:
    budget = enforced(Rate(1, 100))
    assert budget.take("k", 10.5, 0.0) == float("inf")
    assert budget.take("k", 10.0, 0.0) == rate_leases.ROUND_S
    (asked,) = budget.requests(0.0, 500)
    budget.grant(*asked, 5.0, 0.0)
    assert budget.take("k", 10.0, 0.0) == 0


def test_an_exhausted_key_is_asked_for_again_when_a_token_may_be_there_and_says_so() -> None:
    budget = enforced(Rate(2, 100))
    assert [budget.take("k", 1.0, 0.0) for _ in range(6)] == [0] * 5 + [rate_leases.ROUND_S]
    (asked,) = budget.requests(0.0, 500)
    budget.grant(*asked, 0.0, 0.0)
    assert budget.take("k", 1.0, 0.0) == 0.5
    assert budget.take("k", 3.0, 0.0) == 1.5
    assert budget.requests(0.4, 500) == []
    assert [request.tokens for _, request in budget.requests(0.5, 500)] == [10]


def test_many_exhausted_keys_delay_no_other() -> None:
    budget = enforced(Rate(0.1, 100), max_keys=10_000)
    for number in range(rate_leases.MAX_SCANNED + 500):
        budget.take(str(number), 1.0, 0.0)
    for _ in range(5):
        for lease, request in budget.requests(0.0, 500):
            budget.grant(lease, request, 0.0, 0.0)
    budget.take("other", 1.0, 0.0)
    rounds = [[request.key for _, request in budget.requests(0.0, 500)] for _ in range(2)]
    assert ["other"] in rounds


def test_a_lease_is_renewed_when_half_of_it_is_used() -> None:
    budget = enforced(Rate(1, 80))
    budget.take("k", 0.0, 0.0)
    (asked,) = budget.requests(0.0, 500)
    budget.grant(*asked, 4.0, 0.0)
    for _ in range(2):
        budget.take("k", 1.0, 0.0)
        assert not budget.wants
    budget.take("k", 1.0, 0.0)
    assert [request.tokens for _, request in budget.requests(0.0, 500)] == [3]


def test_the_least_recently_used_lease_is_evicted_first() -> None:
    budget = enforced(Rate(1, 20), max_keys=2)
    for key, now in (("a", 0.0), ("b", 0.0), ("a", 2.0), ("c", 2.0)):
        budget.take(key, 1.0, now)
    assert sorted(request.key for _, request in budget.requests(2.0, 500)) == ["a", "c"]


def test_an_idle_key_is_forgotten_but_not_its_debt() -> None:
    budget = enforced(Rate(1, 20))
    assert budget.take("debtor", 1.0, 0.0) == 0
    assert budget.take("paid", 0.0, 0.0) == 0
    for number in range(3):
        budget.take(f"later {number}", 0.0, 21.0)
    assert budget.keys == 4
    assert budget.take("debtor", 1.0, 21.0) > 0
    assert budget.evictions == 0


def test_a_key_in_use_is_not_forgotten() -> None:
    budget = enforced(Rate(1, 20))
    for now in (0.0, 15.0):
        budget.take("k", 0.0, now)
    budget.take("new", 0.0, 21.0)
    assert budget.keys == 2


def test_the_table_of_leases_is_bounded() -> None:
    budget = enforced(Rate(1, 20), max_keys=3)
    for number in range(10):
        budget.take(str(number), 1.0, 0.0)
    assert (budget.keys, budget.evictions) == (3, 7)
    assert [request.key for _, request in budget.requests(0.0, 500)] == ["7", "8", "9"]


@dataclass
class GlobalBucket:
    """The bucket in Redis, word for word."""

    rate: Rate
    at: float = 0.0
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.rate.burst

    def take(self, asked: float, now: float) -> float:
        self.level = min(self.rate.burst, self.level + (now - self.at) * self.rate.per_second)
        self.at = now
        granted = min(asked, self.level)
        self.level -= granted
        return granted


# Each step: seconds pass, one replica asks so often, and one leg of a replica's exchange happens (send, serve, apply).
legs = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2), st.integers(0, 9), st.integers(0, 2)), max_size=120)


@given(st.sampled_from([Rate(1, 5), Rate(2, 40), Rate(100, 100)]), legs)
def test_replicas_never_exceed_the_budget_by_more_than_a_slice_each(
    rate: Rate, parts: list[tuple[float, int, int, int]]
) -> None:
    budgets = [enforced(rate) for _ in range(REPLICAS)]
    central = GlobalBucket(rate)
    flying: dict[int, list[tuple[Lease, LeaseRequest, float | None]]] = {}
    admitted: list[float] = []
    now = 0.0
    for wait, who, asks, sender in parts:
        now += wait / rate.per_second
        admitted += [now for _ in range(asks) if budgets[who].take("k", 1.0, now) == 0]
        for budget in budgets:
            assert all(
                -budget.half_slice - 1e-6 <= one.held <= budget.half_slice + 1e-6 for one in budget._leases.values()
            )
        step(budgets[sender], central, flying.setdefault(sender, []), now)
    excess = REPLICAS * 2 * budgets[0].half_slice
    for first, begin in enumerate(admitted):
        for count, at in enumerate(admitted[first:], 1):
            assert count <= rate.burst + rate.per_second * (at - begin) + excess + 1e-6


def step(
    budget: LeasedBudget, central: GlobalBucket, flying: list[tuple[Lease, LeaseRequest, float | None]], now: float
) -> None:
    if not flying:
        flying += [(lease, request, None) for lease, request in budget.requests(now, 500)]
    elif flying[0][2] is None:
        flying[:] = [(lease, request, central.take(request.tokens, now)) for lease, request, _ in flying]
    else:
        for lease, request, tokens in flying:
            assert tokens is not None
            budget.grant(lease, request, tokens, now)
        flying.clear()
