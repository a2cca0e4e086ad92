"""The reports by themselves: what each state of the process and its dependencies makes of them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.core.breaker_policy import Mode
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.dependency import Dependency
from app.core.errors import UnavailableError
from app.core.faults import FaultKind, FaultSwitches, InjectedFaultError
from app.core.health import Health, Phase
from app.core.loop_watchdog import LoopWatchdog
from app.infrastructure import CACHE, DATABASE


class ManualClock(SystemClock):
    def __init__(self) -> None:
        self.at = 1_000.0

    def monotonic(self) -> float:
        return self.at


class Bench:
    """A process with both dependencies, on a clock turned by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.faults = FaultSwitches(self.clock, ["database", "cache"])
        self.database, self.cache = (
            Dependency(
                declared,
                CircuitBreaker(name=declared.name, rehearsed=True, monotonic=self.clock.monotonic),
                self.faults,
                self.clock,
            )
            for declared in (DATABASE, CACHE)
        )
        self.phase = Phase.STARTED
        self.opening_s: float | None = 2.5
        self.overloaded = False
        self.health = Health(
            phase=lambda: self.phase,
            uptime_s=lambda: 3_600.0,
            opening_s=lambda: self.opening_s,
            overloaded=lambda: self.overloaded,
            watchdog=LoopWatchdog(),
            blocked_after_s=2.0,
            dependencies=(self.database, self.cache),
        )


async def fail() -> None:
    raise UnavailableError("away")


async def succeed() -> None: ...


def test_the_guides_answers() -> None:
    health = Bench().health
    assert health.startup() == (200, {"status": "started", "duration": 2.5})
    assert health.live() == (200, {"status": "alive", "uptime": 3600.0})
    assert health.ready() == (200, {"status": "ready", "components": {"database": True, "cache": True}})
    status, body = health.tree()
    assert (status, body["status"], body["database"], body["cache"]) == (200, "healthy", "connected", "connected")


def test_what_has_not_started_is_not_ready_but_alive() -> None:
    bench = Bench()
    bench.phase, bench.opening_s = Phase.STARTING, None
    assert bench.health.startup()[0] == bench.health.ready()[0] == bench.health.tree()[0] == 503
    assert bench.health.ready()[1].keys() == {"status", "components"}
    assert bench.health.live()[0] == 200


def test_what_drains_is_unready_and_alive_and_started() -> None:
    bench = Bench()
    bench.phase = Phase.DRAINING
    assert bench.health.ready() == (503, {"status": "draining", "components": {"database": True, "cache": True}})
    assert bench.health.live()[0] == bench.health.startup()[0] == 200
    assert bench.health.tree()[1]["status"] == "degraded"


async def test_a_loop_that_stands_still_is_neither_alive_nor_ready() -> None:
    """Asked from a thread, as the management port does: no health check may call a blocked process well."""
    bench = Bench()
    bench.health.watchdog, bench.health.blocked_after_s = LoopWatchdog(tick_s=0.01), 0.1
    bench.health.watchdog.start()
    asked: list[tuple[int, str]] = []

    def ask() -> None:
        asked.extend((status, body["status"]) for status, body in (bench.health.ready(), bench.health.live()))

    try:
        async with asyncio.timeout(30):
            while bench.health.ready()[0] != 200:
                await asyncio.sleep(0.01)
        thread = threading.Timer(0.2, ask)
        thread.start()
        time.sleep(0.4)  # noqa: ASYNC251 - this is the blocking
        thread.join()
        assert asked == [(503, "blocked")] * 2
    finally:
        bench.health.watchdog.stop()


def test_too_much_work_makes_unready() -> None:
    bench = Bench()
    bench.overloaded = True
    assert bench.health.ready()[0] == 503
    assert bench.health.tree()[1]["status"] == "degraded"


async def test_a_lost_database_makes_unready_after_its_time_and_a_lost_cache_never() -> None:
    bench = Bench()
    for dependency in (bench.database, bench.cache):
        await dependency.check(fail, ())
    assert bench.health.ready() == (200, {"status": "ready", "components": {"database": False, "cache": False}})
    assert bench.health.tree()[1]["status"] == "degraded"
    bench.clock.at += DATABASE.lost_after_s
    assert bench.health.ready()[0] == bench.health.tree()[0] == 503
    await bench.database.check(succeed, ())
    bench.clock.at += 1_000
    assert bench.health.ready()[0] == bench.health.tree()[0] == 200
    assert bench.health.live()[0] == 200


async def test_the_tree_names_what_is_away_and_an_outsider_does_not_see_it() -> None:
    bench = Bench()
    await bench.cache.check(fail, ())
    bench.clock.at += 7.0
    body = bench.health.tree()[1]
    assert body["components"]["cache"] == {
        "status": "down",
        "need": "degraded",
        "away_for_s": 7.0,
        "checked_ago_s": 7.0,
        "breaker": "closed",
        "meanwhile": CACHE.fallback,
    }
    assert bench.health.tree(whole=False)[1].keys() == {"status", "database", "cache", "uptime"}


async def test_an_open_breaker_says_away_and_a_success_of_the_check_half_opens_it() -> None:
    bench = Bench()
    for _ in range(5):
        with pytest.raises(UnavailableError):
            async with bench.database.call():
                await fail()
    assert bench.database.away
    assert bench.health.tree()[1]["components"]["database"]["breaker"] == "open"
    await bench.database.check(succeed, ())
    assert not bench.database.away
    assert bench.health.tree()[1]["components"]["database"]["breaker"] == "half_open"
    for _ in range(2):
        await bench.database.check(succeed, ())
    assert bench.health.tree()[1]["components"]["database"]["breaker"] == "closed"


async def test_a_forced_opening_is_not_lifted_by_a_check() -> None:
    bench = Bench()
    bench.database.breaker.set_mode(Mode.FORCED_OPEN)
    await bench.database.check(succeed, ())
    assert bench.database.breaker.state_number == 1
    assert bench.database.away
    assert bench.health.tree()[1]["database"] == "disconnected"
    bench.database.breaker.set_mode(Mode.AUTO)
    assert not bench.database.away


async def test_a_check_that_fails_while_real_calls_succeed_says_nothing() -> None:
    bench = Bench()

    async def overtaken() -> None:
        bench.clock.at += 0.5
        bench.database.mark_back()
        raise UnavailableError("our own load kept it from its answer")

    await bench.database.check(overtaken, ())
    assert not bench.database.away


async def test_each_reason_that_a_check_finds_in_an_outage_is_said_once() -> None:
    bench = Bench()

    async def check(reason: str) -> None:
        async def refuse() -> None:
            raise UnavailableError(f"{reason}\nand more")

        await bench.database.check(refuse, ())

    with capture_logs() as lines:
        for _ in range(2):
            bench.database.mark_away("its session ended")
            for reason in ("no login", "no login", "no way", "no login"):
                await check(reason)
            bench.database.mark_back()
    outage = [
        ("dependency away", "its session ended"),
        ("dependency still away", "UnavailableError: no login"),
        ("dependency still away", "UnavailableError: no way"),
        ("dependency back", None),
    ]
    said = [(line["event"], line.get("reason")) for line in lines if line["event"].startswith("dependency")]
    assert said == outage * 2


async def test_a_reason_that_was_said_at_the_begin_of_an_outage_is_not_said_again() -> None:
    bench = Bench()
    with capture_logs() as lines:
        for _ in range(2):
            await bench.database.check(fail, ())
    assert [(line["event"], line["reason"]) for line in lines] == [("dependency away", "UnavailableError: away")]


async def test_a_defect_of_a_check_is_no_outage() -> None:
    async def defect() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await Bench().database.check(defect, ())


# Faults on purpose


async def strike(bench: Bench) -> Any:
    return await asyncio.wait_for(bench.database.strike(), 30)


async def test_without_a_fault_nothing_happens_and_one_ends_by_itself() -> None:
    bench = Bench()
    await strike(bench)
    bench.faults.switch_on("database", FaultKind.ERROR, latency_s=0, expires_s=10)
    with pytest.raises(InjectedFaultError):
        await strike(bench)
    await asyncio.wait_for(bench.cache.strike(), 30)
    bench.clock.at += 10
    await strike(bench)
    assert bench.faults.active("database") is None


async def test_a_stall_lasts_until_it_is_taken_back() -> None:
    bench = Bench()
    bench.faults.switch_on("database", FaultKind.STALL, latency_s=0, expires_s=3_600)
    stalled = asyncio.create_task(bench.database.strike())
    await asyncio.sleep(0)
    assert not stalled.done()
    bench.faults.switch_off("database")
    await asyncio.wait_for(stalled, 30)


@pytest.mark.parametrize("expires_s", [0.0, -1.0, 3_601.0])
def test_a_fault_without_a_sensible_end_is_refused(expires_s: float) -> None:
    with pytest.raises(ValueError, match="lasts"):
        Bench().faults.switch_on("database", FaultKind.ERROR, latency_s=0, expires_s=expires_s)


def test_a_fault_of_nothing_known_is_refused() -> None:
    with pytest.raises(KeyError):
        Bench().faults.switch_on("weather", FaultKind.ERROR, latency_s=0, expires_s=1)
