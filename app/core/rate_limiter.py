"""Budgets by key, decided in this process without I/O; and the handle under the name that operators import."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol, TypedDict

from app.core.clock import SystemClock, iso
from app.core.rate_policy import Decision, Gcra, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.clock import Clock

SWEPT_A_KEY: Final = 2  # one more than comes, so that the table also shrinks
FUZZ: Final = 1e-6  # 85 whole tokens may be 84.9999999 as a float
DEFAULT_RATE: Final = Rate(per_second=100 / 60, burst=100)


class Lessor(Protocol):
    """A second say over what the local budget allows: a budget that replicas share."""

    def take(self, key: str, cost: float, now: float) -> float:
        """0 when the cost was taken, else the seconds after which asking again may help; then nothing was taken."""
        ...


class Limiter:
    """One budget: a token bucket of `rate` (and `allowance` behind it) for each key.

    At most `max_keys` keys are known. Keys whose buckets are full again are forgotten, from the least recently used
    on, at most two whenever a new key comes. When the table is full the least recently used key is evicted; it starts
    full again, which is in its favour, and counts in `evictions`. The counters only grow.
    """

    __slots__ = ("_full_at", "_lessor", "_max_keys", "_monotonic", "_policy", "allowed", "evictions", "name", "refused")

    def __init__(
        self, name: str, rate: Rate, *, monotonic: Callable[[], float], max_keys: int = 10_000, allowance: float = 0.0
    ) -> None:
        if max_keys < 1:
            raise ValueError(f"a limiter knows at least one key, not {max_keys}")
        self.name = name
        self.allowed = 0
        self.refused = 0
        self.evictions = 0
        self._policy = Gcra(rate, allowance)
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._lessor: Lessor | None = None

    @property
    def rate(self) -> Rate:
        return self._policy.rate

    @property
    def capacity(self) -> float:
        """Tokens of a full bucket: burst and allowance."""
        return self._policy.capacity

    @property
    def max_keys(self) -> int:
        return self._max_keys

    @property
    def keys(self) -> int:
        """Keys that are known now; some of them may be full again."""
        return len(self._full_at)

    def share(self, lessor: Lessor | None) -> None:
        """From now on `lessor` must agree to what the local budget allows; None ends that."""
        self._lessor = lessor

    def check(self, key: str, cost: float = 1.0) -> Decision:
        """Decide about a request of `cost` tokens, and take them if it is allowed. Never waits.

        Raises ValueError when the cost is negative or no number.
        """
        now = self._monotonic()
        known = self._full_at.get(key)
        full_at, decision = self._policy.decide(now if known is None else known, now, cost)
        if decision.allowed:
            wait_s = self._lessor.take(key, cost, now) if self._lessor is not None else 0.0
            if not wait_s:
                self.allowed += 1
                if known is None:
                    self._make_room(now)
                self._full_at[key] = full_at
                self._full_at.move_to_end(key)
                return decision
            decision = Decision(False, 0.0, wait_s, max(0.0, (known or now) - now))  # noqa: FBT003
        self.refused += 1
        if known is not None:
            self._full_at.move_to_end(key)
        return decision

    def give_back(self, key: str, cost: float = 1.0) -> None:
        """Undo a `check` that allowed: what it was for was not done, and not by the client's fault. Of a budget of this
        process alone.
        """
        full_at = self._full_at.get(key)
        if full_at is not None:
            self._full_at[key] = full_at - cost / self._policy.rate.per_second

    def peek(self, key: str) -> Decision:
        """What the local budget would say to a request of one token; `remaining` is what there is now."""
        now = self._monotonic()
        full_at = self._full_at.get(key, now)
        allowed, _, retry_after_s, _ = self._policy.decide(full_at, now)[1]
        _, remaining, _, reset_after_s = self._policy.decide(full_at, now, 0.0)[1]
        return Decision(allowed, remaining, retry_after_s, reset_after_s)

    def _make_room(self, now: float) -> None:
        """A bucket is full `capacity / rate` after its last use at the latest: the oldest holds nobody up for long."""
        table = self._full_at
        for _ in range(min(SWEPT_A_KEY, len(table))):
            oldest = next(iter(table))
            if table[oldest] > now:
                break
            del table[oldest]
        if len(table) >= self._max_keys:
            table.popitem(last=False)
            self.evictions += 1


class UsageStats(TypedDict):
    current_tokens: int
    max_tokens: int
    refill_rate: float
    """Tokens a second."""
    last_refill: str
    """RFC 3339, UTC: a bucket is refilled whenever it is looked at."""


class RateLimiterHandle:
    """The limiter of connects under a fixed name: the process's own once bound, until then one of its own.

    The latter allows 100 in 60 s to each client, known to this process alone.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._own = Limiter("stand_alone", DEFAULT_RATE, monotonic=clock.monotonic)
        self._limiter = self._own

    def bind(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def unbind(self) -> None:
        self._limiter = self._own

    async def is_allowed(self, client_id: str) -> bool:
        """Take one token of the client's; False when there is none."""
        return self._limiter.check(client_id).allowed

    async def get_usage_stats(self, client_id: str) -> UsageStats:
        """What the client has left; takes nothing."""
        return {
            "current_tokens": int(self._limiter.peek(client_id).remaining + FUZZ),
            "max_tokens": int(self._limiter.capacity),
            "refill_rate": self._limiter.rate.per_second,
            "last_refill": iso(self._clock.now().replace(microsecond=0)),
        }


rate_limiter: Final = RateLimiterHandle(SystemClock())
