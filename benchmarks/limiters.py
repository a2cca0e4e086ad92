"""One rate limit decision in memory, ours beside what Python offers: `python -m benchmarks.limiters`."""

from __future__ import annotations

import asyncio
import platform
import statistics
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from app.core.rate_leases import LeaseGrant, LeaseRequest, Leases
from app.core.rate_limiter import Limiter
from app.core.rate_policy import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Check = Callable[[str], bool]

ROUNDS = 5
DECISIONS = 20_000
KEYS = (1, 5_000)
ENDLESS = 10**9  # no run comes near it


def ours(per_minute: int) -> Check:
    limiter = Limiter("bench", Rate(per_minute / 60, per_minute), monotonic=time.monotonic)
    return lambda key: limiter.check(key).allowed


def ours_shared(per_minute: int) -> Check:
    """A budget that replicas share, while Redis answers."""

    async def exchange(requests: Sequence[LeaseRequest]) -> list[LeaseGrant]:
        return [LeaseGrant(request.tokens) for request in requests]

    limiter = Limiter("bench", Rate(per_minute / 60, per_minute), monotonic=time.monotonic)
    leases = Leases(exchange, monotonic=time.monotonic)
    leases.attach(limiter)
    limiter.check("warm-up")
    with capture_logs():
        asyncio.run(leases.exchange())
    return lambda key: limiter.check(key).allowed


def limits_with(strategy: str) -> Callable[[int], Check]:
    def make(per_minute: int) -> Check:
        limits = import_module("limits")
        storage = import_module("limits.storage").MemoryStorage()
        limiter = getattr(import_module("limits.strategies"), strategy)(storage)
        item = limits.RateLimitItemPerMinute(per_minute)
        return lambda key: bool(limiter.hit(item, key))

    return make


def throttled_with(algorithm: str) -> Callable[[int], Check]:
    def make(per_minute: int) -> Check:
        throttled = import_module("throttled")
        store = throttled.MemoryStore(options={"MAX_SIZE": 10_000})
        quota = throttled.per_min(per_minute, burst=per_minute)
        limiter = throttled.Throttled(using=algorithm, quota=quota, store=store)
        return lambda key: not limiter.limit(key).limited

    return make


def pyrate_with(algorithm: str) -> Callable[[int], Check]:
    """A limiter a key in a plain dict, the least that keys can cost there."""

    def make(per_minute: int) -> Check:
        pyrate = import_module("pyrate_limiter")
        limiters: dict[str, Any] = {}

        def check(key: str) -> bool:
            limiter = limiters.get(key)
            if limiter is None:
                bucket = pyrate.StateBucket([pyrate.Rate(per_minute, 60_000)], getattr(pyrate, algorithm)())
                limiter = limiters[key] = pyrate.Limiter(pyrate.SingleBucketFactory(bucket, schedule_leak=False))
            return bool(limiter.try_acquire(key, blocking=False))

        return check

    return make


CONTENDERS: dict[str, Callable[[int], Check]] = {
    "ours": ours,
    "ours, shared by replicas": ours_shared,
    "limits, fixed window": limits_with("FixedWindowRateLimiter"),
    "limits, moving window": limits_with("MovingWindowRateLimiter"),
    "throttled-py, token bucket": throttled_with("token_bucket"),
    "throttled-py, gcra": throttled_with("gcra"),
    "pyrate-limiter, token bucket": pyrate_with("TokenBucket"),
    "pyrate-limiter, gcra": pyrate_with("GCRA"),
}


def measure(make: Callable[[int], Check], keys: int, *, refusals: bool) -> float:
    """Microseconds a decision; every key was seen before."""
    names = [f"device-{number}" for number in range(keys)]
    check = make(1 if refusals else ENDLESS)
    for name in names:
        check(name)
    allowed = 0
    begin = time.perf_counter()
    for _ in range(DECISIONS // keys):
        for name in names:
            allowed += check(name)
    spent = time.perf_counter() - begin
    assert allowed == (0 if refusals else DECISIONS), "this is not what was to be measured"
    return spent / DECISIONS * 1e6


def report() -> None:
    """Medians of several rounds; each round takes all contenders in turn, so that a slow minute meets all of them."""
    columns = [(keys, refusals) for keys in KEYS for refusals in (False, True)]
    taken: dict[str, list[list[float]]] = {name: [[] for _ in columns] for name in CONTENDERS}
    for _ in range(ROUNDS):
        for name, make in CONTENDERS.items():
            for place, (keys, refusals) in enumerate(columns):
                taken[name][place].append(measure(make, keys, refusals=refusals))
    heads = [f"{'refused' if refusals else 'allowed'}, {keys:,} key{'s' * (keys > 1)}" for keys, refusals in columns]
    print(f"\nRate limit decisions in us, Python {platform.python_version()}, median of {ROUNDS} rounds")
    print(f"\n| limiter | {' | '.join(heads)} |\n|---|{'---|' * len(columns)}")
    for name, rounds in taken.items():
        print(f"| {name} | {' | '.join(f'{statistics.median(one):.2f}' for one in rounds)} |")


if __name__ == "__main__":
    report()
