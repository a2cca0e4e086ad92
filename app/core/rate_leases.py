"""Budgets that replicas share: each decides alone, on slices that it leases from Redis in the background."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from app.core.errors import AppError
from app.core.logging import get_logger
from app.core.rate_policy import Rate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from app.core.rate_limiter import Limiter

log = get_logger("gaveurs.rate_leases")

ROUND_S: Final = 0.02
AWAY_PAUSE_S: Final = 0.5  # between attempts while Redis does not answer
DEADLINE_S: Final = 0.25
MAX_KEYS_A_ROUND: Final = 500
MAX_SCANNED: Final = 2_000  # keys that wait for their bucket in Redis are passed over, these many a round
MAX_ASK_PAUSE_S: Final = 1.0
FUZZ: Final = 1e-9  # tokens are floats
AWAY_ERRORS: Final = (RedisError, OSError, ValueError, AppError)  # TimeoutError is an OSError

# One global token bucket a key, as in rate_policy: its value is the moment when it will be full; absent is full. The
# upper bound heals a step of the server's clock; a NaN would otherwise stay for ever. Grants are text because Lua's
# numbers come back as integers.
LEASE_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local grants = {}
for i, key in ipairs(KEYS) do
  local asked, rate, burst = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local full_at = tonumber(redis.call('GET', key) or '') or now
  if full_at ~= full_at then full_at = now end
  full_at = math.min(math.max(full_at, now), now + burst / rate)
  local grant = math.max(0, math.min(asked, burst - (full_at - now) * rate))
  full_at = full_at + grant / rate
  redis.call('SET', key, string.format('%.17g', full_at), 'PX', string.format('%.0f', (full_at - now) * 1000 + 1000))
  grants[i] = string.format('%.17g', grant)
end
return grants
"""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """Up to `tokens` of the key's global bucket, which refills at `per_second` up to `burst`."""

    budget: str
    key: str
    tokens: float
    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """What was taken from the global bucket: 0 up to what was asked."""

    tokens: float


@dataclass(slots=True, eq=False)
class Lease:
    """One key's tokens in this process. `held` below 0 is credit; it is not asked for before `ask_at`."""

    used_at: float
    held: float = 0.0
    ask_at: float = 0.0
    short: bool = False
    """The global bucket had less than was asked."""


class LeasedBudget:
    """This replica's leases of one budget: pure, the time is an argument. A `Lessor` of its limiter.

    A slice is a tenth of the burst, at least 2 tokens: a replica holds up to half of it unused and admits up to half
    of it on credit while a lease is under way, then it refuses. So tokens held and credit given never differ by more
    than a slice between two moments, and R replicas together admit in any T seconds at most
    `burst + per_second * T + R * slice`; at most R half slices of a key lie unused. That holds while `enforced`;
    otherwise everything is allowed here, and each replica's own limiter holds alone: `R * (burst + per_second * T)`.

    A key unused for as long as an empty bucket takes to fill is forgotten, two at most whenever a new key comes, but
    not before its credit is paid. At `max_keys` the least recently used one is evicted, which may forgive half a
    slice of credit; `evictions` counts.
    """

    def __init__(self, name: str, rate: Rate, max_keys: int, wake: Callable[[], None]) -> None:
        self.name = name
        self.enforced = False
        self.evictions = 0
        self.half_slice = max(1.0, rate.burst / 20)
        self._rate = rate
        self._max_keys = max_keys
        self._wake = wake
        self._idle_s = rate.burst / rate.per_second
        self._refresh_s = self._idle_s / 20  # order to within this is enough, and noting each use costs 0.2 us
        self._ask_pause_s = min(max(1 / rate.per_second, ROUND_S), MAX_ASK_PAUSE_S)
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._wanted: OrderedDict[str, Lease] = OrderedDict()

    @property
    def keys(self) -> int:
        return len(self._leases)

    @property
    def wants(self) -> bool:
        return bool(self._wanted)

    def take(self, key: str, cost: float, now: float) -> float:
        """0 when the cost was taken, else the seconds after which asking again may help (infinite above a slice)."""
        lease = self._leases.get(key) or self._add(key, now)
        if now - lease.used_at > self._refresh_s:
            lease.used_at = now
            self._leases.move_to_end(key)
        if not self.enforced:
            self._want(key, lease)
            return 0.0
        left = lease.held - cost
        if left < self.half_slice / 2:
            self._want(key, lease)
        if left >= -self.half_slice - FUZZ:
            lease.held = left
            return 0.0
        return self._wait_s(lease, -self.half_slice - left, cost)

    def _wait_s(self, lease: Lease, missing: float, cost: float) -> float:
        if cost > 2 * self.half_slice:
            return math.inf
        return max(ROUND_S, missing / self._rate.per_second) if lease.short else ROUND_S

    def _want(self, key: str, lease: Lease) -> None:
        if key not in self._wanted:
            self._wanted[key] = lease
            self._wake()

    def _add(self, key: str, now: float) -> Lease:
        for _ in range(min(2, len(self._leases))):
            oldest = next(iter(self._leases))
            if now - self._leases[oldest].used_at <= self._idle_s:
                break
            if self._leases[oldest].held >= -FUZZ:
                self._forget(oldest)
            else:
                self._leases.move_to_end(oldest)
        if len(self._leases) >= self._max_keys:
            self._forget(next(iter(self._leases)))
            self.evictions += 1
        lease = self._leases[key] = Lease(now)
        return lease

    def _forget(self, key: str) -> None:
        del self._leases[key]
        self._wanted.pop(key, None)

    def requests(self, now: float, limit: int) -> list[tuple[Lease, LeaseRequest]]:
        """What to ask Redis for now, at most `limit` keys, in turn. A key is wanted until enough of it is held."""
        asked: list[tuple[Lease, LeaseRequest]] = []
        for key in list(islice(self._wanted, MAX_SCANNED)):
            if len(asked) == limit:
                break
            lease = self._wanted[key]
            self._wanted.move_to_end(key)
            if lease.ask_at <= now:
                tokens = self.half_slice - lease.held
                asked.append((lease, LeaseRequest(self.name, key, tokens, self._rate.per_second, self._rate.burst)))
        return asked

    def grant(self, lease: Lease, request: LeaseRequest, tokens: float, now: float) -> None:
        """Add what Redis granted; a lease that was forgotten in the meantime gives it up."""
        lease.held += tokens
        lease.short = tokens < request.tokens - FUZZ
        lease.ask_at = now + self._ask_pause_s if lease.short else now
        if lease.held >= self.half_slice / 2 and self._wanted.get(request.key) is lease:
            del self._wanted[request.key]


class Leases:
    """Keeps the leases of all attached limiters filled; at most 500 keys an exchange, an exchange at most every 20 ms.

    `monotonic` is the limiters' clock. Until the first exchange succeeds, and from one that fails until the next that
    succeeds (tried every half second while anything is wanted), only the limiters' own budgets hold: see
    `LeasedBudget` for the bounds. A Redis that hangs is noticed after `deadline_s`; until then what is held and half a
    slice of credit are admitted, the rest is refused.

    An exchange fails by RedisError, OSError, TimeoutError, AppError (an open breaker's) or ValueError, also that of a
    reply that makes no sense; a change is logged once. Anything else is a defect and ends `run()`.
    """

    def __init__(
        self,
        exchange: Callable[[Sequence[LeaseRequest]], Awaitable[list[LeaseGrant]]],
        *,
        monotonic: Callable[[], float],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.answering = False
        self.exchanges = 0
        self.failures = 0
        self._exchange = exchange
        self._monotonic = monotonic
        self._deadline_s = deadline_s
        self._budgets: dict[str, LeasedBudget] = {}
        self._wanted = asyncio.Event()
        self._said: bool | None = None

    @property
    def evictions(self) -> int:
        return sum(budget.evictions for budget in self._budgets.values())

    @property
    def keys(self) -> int:
        return sum(budget.keys for budget in self._budgets.values())

    def attach(self, limiter: Limiter) -> None:
        """Share the limiter's budget with all replicas that attach one of its name. Raises ValueError on a second."""
        if limiter.name in self._budgets:
            raise ValueError(f"the budget {limiter.name} is attached already")
        rate = Rate(limiter.rate.per_second, limiter.capacity)
        budget = LeasedBudget(limiter.name, rate, limiter.max_keys, self._wanted.set)
        budget.enforced = self.answering
        self._budgets[limiter.name] = budget
        limiter.share(budget)

    async def run(self) -> None:
        """Exchange on demand until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.exchange()
            if any(budget.wants for budget in self._budgets.values()):
                self._wanted.set()
            await asyncio.sleep(ROUND_S if self.answering else AWAY_PAUSE_S)

    async def exchange(self) -> None:
        """One exchange for what is wanted and due, if anything is: what `run()` does every round."""
        asked = self._collect()
        if not asked:
            return
        self.exchanges += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                grants = await self._exchange([request for _, _, request in asked])
            self._apply(asked, grants)
        except AWAY_ERRORS as error:
            self.failures += 1
            self._turn(answering=False, reason=type(error).__name__)
        else:
            self._turn(answering=True, reason=None)

    def _collect(self) -> list[tuple[LeasedBudget, Lease, LeaseRequest]]:
        now = self._monotonic()
        share = MAX_KEYS_A_ROUND // max(1, len(self._budgets))
        return [
            (budget, lease, request)
            for budget in self._budgets.values()
            for lease, request in budget.requests(now, share)
        ]

    def _apply(self, asked: list[tuple[LeasedBudget, Lease, LeaseRequest]], grants: list[LeaseGrant]) -> None:
        """All or nothing: ValueError unless there is a sensible grant for each request."""
        now = self._monotonic()
        pairs = list(zip(asked, grants, strict=True))
        for (_, _, request), grant in pairs:
            if not 0 <= grant.tokens <= request.tokens + FUZZ:
                raise ValueError(f"{grant.tokens} tokens were granted where {request.tokens} were asked for")
        for (budget, lease, request), grant in pairs:
            budget.grant(lease, request, grant.tokens, now)

    def _turn(self, *, answering: bool, reason: str | None) -> None:
        if answering == self._said:
            return
        self._said = self.answering = answering
        for budget in self._budgets.values():
            budget.enforced = answering
        if answering:
            log.info("shared rate limits hold across all processes")
        else:
            log.warning("shared rate limits hold in each process alone", reason=reason)


def redis_exchange(client: Redis, prefix: str) -> Callable[[Sequence[LeaseRequest]], Awaitable[list[LeaseGrant]]]:
    """An exchange with the global buckets in Redis: one script call for all keys, on the server's clock.

    The keys are `prefix`, the budget's name and the key, and expire a second after their bucket is full. Raises what
    the client raises, and ValueError for a reply that is no list of numbers.
    """
    script = client.register_script(LEASE_SCRIPT)

    async def exchange(requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        keys = [f"{prefix}{request.budget}:{request.key}" for request in requests]
        numbers = [number for one in requests for number in (one.tokens, one.per_second, one.burst)]
        reply = await script(keys=keys, args=numbers)
        try:
            return [LeaseGrant(float(tokens)) for tokens in reply]
        except TypeError as error:
            raise ValueError("the reply to a lease is no list of numbers") from error

    return exchange
