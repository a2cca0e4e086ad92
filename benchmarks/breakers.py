"""Circuit breakers side by side: what a call costs, what a rejection costs, and how many of a herd get through.

Alone: `python -m benchmarks.breakers`.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from app.core.circuit_breaker import CircuitBreaker

ROUNDS = 7
CALLS = 20_000
HERD = 200
LONG_S = 3_600.0
SHORT_S = 0.2
SICK_FOR_S = 0.02

Ask = Callable[[], Coroutine[Any, Any, Any]]
Wrap = Callable[[Ask], Ask]


@dataclass(frozen=True, slots=True)
class Contender:
    """A library: `make(open_s)` gives a fresh breaker as a decorator, which opens after five failures."""

    name: str
    make: Callable[[float], Wrap]
    trips: bool = True
    """Whether a coroutine that raises counts as a failure."""


def ours(open_s: float) -> Wrap:
    return CircuitBreaker(timeout=open_s, max_timeout=LONG_S, jitter=0)


def theirs(module: str) -> Any:
    """Not imported by name: untyped, and installed for this comparison only."""
    return importlib.import_module(module)


def circuitbreaker(open_s: float) -> Wrap:
    wrap: Wrap = theirs("circuitbreaker").CircuitBreaker(failure_threshold=5, recovery_timeout=open_s, name="bench")
    return wrap


def purgatory(open_s: float) -> Wrap:
    factory = theirs("purgatory").AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=open_s)
    wrap: Wrap = factory("bench")
    return wrap


def aiobreaker(open_s: float) -> Wrap:
    wrap: Wrap = theirs("aiobreaker").CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=open_s))
    return wrap


def pybreaker(open_s: float) -> Wrap:
    wrap: Wrap = theirs("pybreaker").CircuitBreaker(fail_max=5, reset_timeout=open_s)
    return wrap


CONTENDERS = (
    Contender("ours", ours),
    Contender("circuitbreaker", circuitbreaker),
    Contender("purgatory", purgatory),
    Contender("aiobreaker", aiobreaker),
    # Its decorator only makes the coroutine under its lock, and its own async way is for tornado's coroutines.
    Contender("pybreaker", pybreaker, trips=False),
)


async def well() -> int:
    return 1


async def sick() -> int:
    raise ConnectionError


async def per_call(ask: Ask) -> float:
    """Microseconds of a call, the coroutine that it makes included."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        await ask()
    return (time.perf_counter() - begin) / CALLS * 1e6


async def per_rejection(ask: Ask) -> float:
    """Microseconds of a call that is turned away, catching included."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        try:  # noqa: SIM105 - a suppressing context would cost as much as the rejection
            await ask()
        except Exception:  # noqa: BLE001 - each library has its own error, with no base in common
            pass
    return (time.perf_counter() - begin) / CALLS * 1e6


async def opened(contender: Contender, open_s: float, ask: Ask = sick) -> Ask:
    guarded = contender.make(open_s)(ask)
    await asyncio.gather(*(guarded() for _ in range(5)), return_exceptions=True)
    return guarded


async def herd(contender: Contender) -> int:
    """Of 200 callers at the moment when the open time is over: how many reach a dependency that is still sick."""
    reached = 0

    async def ask() -> int:
        nonlocal reached
        reached += 1
        await asyncio.sleep(SICK_FOR_S)
        raise ConnectionError

    guarded = await opened(contender, SHORT_S, ask)
    await asyncio.gather(*(guarded() for _ in range(HERD)), return_exceptions=True)
    assert reached == 5, f"{contender.name} let callers through while open"
    await asyncio.sleep(SHORT_S * 1.5)
    await asyncio.gather(*(guarded() for _ in range(HERD)), return_exceptions=True)
    return reached - 5


def typical(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.2f} ({min(rounds):.2f}-{max(rounds):.2f})"


async def measure() -> None:
    bare: list[float] = []
    calls: dict[str, list[float]] = {one.name: [] for one in CONTENDERS}
    rejections: dict[str, list[float]] = {one.name: [] for one in CONTENDERS}
    closed = {one.name: one.make(LONG_S)(well) for one in CONTENDERS}
    shut = {one.name: await opened(one, LONG_S) for one in CONTENDERS if one.trips}
    for _ in range(ROUNDS):  # each in turn, so that a slow moment of the machine meets all of them
        bare.append(await per_call(well))
        for one in CONTENDERS:
            calls[one.name].append(await per_call(closed[one.name]))
            if one.trips:
                rejections[one.name].append(await per_rejection(shut[one.name]))
    print(
        f"\n| breaker | us a closed call | us a rejection | of {HERD} after the open time, still sick |\n|---|---|---|---|"
    )
    for one in CONTENDERS:
        turned_away = typical(rejections[one.name]) if one.trips else "n/a"
        reached = f"{await herd(one)} reach it" if one.trips else "n/a: never opens on coroutines"
        print(f"| {one.name} | {typical(calls[one.name])} | {turned_away} | {reached} |")
    print(f"| none | {typical(bare)} | | |")
    print(f"\nmedians (min-max) of {ROUNDS} interleaved rounds of {CALLS:,} calls; the call itself is in each figure")


def report() -> None:
    """Print the table."""
    with capture_logs():  # our transitions would stand between the rows
        asyncio.run(measure())


if __name__ == "__main__":
    report()
