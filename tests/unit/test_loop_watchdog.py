from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.core.loop_watchdog import EXIT_STATUS, Blocked, LoopWatchdog, Turning, TurnsAgain

STEP_S = 1 / 64  # exact in binary, so that sums are too


class World:
    """A loop that ticks at every step and its watcher, on a clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.cpu_s = 0.0
        self.turning = Turning(self.now_s, blocked_after_s=1.0)
        self.turning.ticked(self.now_s)
        self.turning.waits(self.now_s, self.cpu_s)
        self.wakes_at_s = self.now_s + self.turning.look_every_s
        self.said: list[Blocked | TurnsAgain] = []

    def turn(self, seconds: float) -> None:
        self._steps(seconds, ticks=True)

    def block(self, seconds: float) -> None:
        self._steps(seconds, ticks=False)

    def hold_the_interpreter(self, seconds: float) -> None:
        """Neither the loop nor the watcher runs, and the processor is used."""
        self.now_s += seconds
        self.cpu_s += seconds
        self._look()

    def suspend(self, seconds: float) -> None:
        self.now_s += seconds
        self._look()

    def _steps(self, seconds: float, *, ticks: bool) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.cpu_s += STEP_S  # a busy process
            if ticks:
                self.turning.ticked(self.now_s)
            self._look()

    def _look(self) -> None:
        if self.now_s < self.wakes_at_s:
            return
        if event := self.turning.look(self.now_s, self.cpu_s):
            self.said.append(event)
        self.turning.waits(self.now_s, self.cpu_s)
        self.wakes_at_s = self.now_s + self.turning.look_every_s


def reports(blocked_s: float) -> int:
    """At 1, 2, 4, 8... seconds."""
    return math.floor(math.log2(blocked_s)) + 1 if blocked_s >= 1 else 0


steps = st.integers(1, 12 * 64).map(lambda count: count * STEP_S)


@given(st.lists(st.tuples(steps, steps, st.booleans()), max_size=6))
def test_every_blocking_is_reported_at_its_doublings_and_once_at_its_end(
    spells: list[tuple[float, float, bool]],
) -> None:
    world = World()
    for turning_s, blocked_s, suspended in spells:
        if suspended:
            world.suspend(blocked_s * 10)
        world.turn(turning_s + 0.25)  # a blocking that follows within a look of the last is another matter
        world.said.clear()
        episodes = world.turning.episodes
        world.block(blocked_s)
        seen = [event.blocked_s for event in world.said]
        world.turn(0.25)
        assert all(isinstance(event, Blocked) for event in world.said[: len(seen)])
        # A look may be up to a quarter of a second away when a doubling is reached.
        assert reports(blocked_s - 0.25) <= len(seen) <= reports(blocked_s)
        assert all(2**place <= age_s < 2**place + 0.25 + STEP_S for place, age_s in enumerate(seen))
        assert world.said[len(seen) :] == ([TurnsAgain(blocked_s + STEP_S)] if seen else [])
        assert world.turning.episodes - episodes == bool(seen)


@given(steps, st.floats(0.3, 4) | st.floats(4, 1e6), steps)
def test_a_suspension_is_no_blocking(before_s: float, suspended_s: float, after_s: float) -> None:
    world = World()
    world.turn(before_s)
    world.suspend(suspended_s)
    world.turn(after_s)
    assert world.said == []


def test_a_loop_gets_one_more_look_after_a_suspension() -> None:
    world = World()
    world.block(0.9)
    world.suspend(600)
    assert world.said == []
    world.turn(1)
    assert world.said == []


@given(st.floats(0.3, 1e6))
def test_a_loop_that_blocks_right_after_a_suspension_is_reported_in_time(suspended_s: float) -> None:
    world = World()
    world.turn(1)
    world.suspend(suspended_s)
    world.block(1.25)
    assert [type(event) for event in world.said] == [Blocked]


def test_a_loop_that_blocks_at_its_first_tick_after_a_suspension_is_reported_in_time() -> None:
    world = World()
    world.now_s += 600
    world.turning.ticked(world.now_s)  # before the watcher woke
    world.block(1.25)
    assert [type(event) for event in world.said] == [Blocked]


def test_a_suspension_within_a_blocking_is_not_counted() -> None:
    world = World()
    world.block(2)
    world.suspend(600)
    world.block(1)
    world.turn(1)
    assert [type(event) for event in world.said] == [Blocked, Blocked, TurnsAgain]
    assert world.said[-1].blocked_s == pytest.approx(3, abs=0.3)


def test_a_blocking_that_ends_with_a_suspension_ends_before_it() -> None:
    world = World()
    world.block(2)
    world.now_s += 600
    world.turning.ticked(world.now_s)
    world.turn(1)
    assert world.said[-1].blocked_s == pytest.approx(2, abs=0.3)


def test_a_callback_that_keeps_the_interpreter_to_itself_blocks_the_loop_although_the_watcher_slept_too() -> None:
    world = World()
    world.turn(1)
    world.hold_the_interpreter(5)
    world.turn(1)
    assert [type(event) for event in world.said] == [Blocked, TurnsAgain]
    assert [event.blocked_s for event in world.said] == [5, pytest.approx(5, abs=STEP_S)]


def test_a_reader_that_wakes_before_the_watcher_does_not_take_a_suspension_for_a_blocking() -> None:
    world = World()
    world.turn(1)
    world.now_s += 600
    assert world.turning.age_s(world.now_s) <= 0.25
    world.suspend(0)
    assert world.turning.age_s(world.now_s) <= 0.25
    world.block(3)
    assert world.turning.age_s(world.now_s) == pytest.approx(3, abs=0.25)


def test_a_watcher_that_hangs_hides_no_blocking() -> None:
    turning = Turning(0.0, blocked_after_s=1.0)
    turning.waits(0.8, 0.0)
    assert isinstance(turning.look(1.05, 0.0), Blocked)  # and then the log takes the line no more
    assert turning.age_s(500.0) == 500


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on either loop."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def with_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return with_loop


@pytest.fixture
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    with capture_logs() as lines:
        yield lines


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def of(lines: list[structlog.typing.EventDict], event: str) -> list[structlog.typing.EventDict]:
    return [line for line in lines if line["event"] == event]


@pytest.fixture
def _always_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the watchdog this process never sleeps: where it wakes late itself, that is taken for no suspension."""
    busy = SimpleNamespace(monotonic=time.monotonic, process_time=time.monotonic)
    monkeypatch.setattr("app.core.loop_watchdog.time", busy)


def naming(lines: list[structlog.typing.EventDict], function: str) -> list[structlog.typing.EventDict]:
    """Reports of a blocking whose stack has it."""
    return [line for line in of(lines, "the event loop is blocked") if f"in {function}\n" in line["stack"]]


def sleeps_on_the_loop(logged: list[structlog.typing.EventDict]) -> None:
    """Until it is reported: where the machine stands still, the watcher may look only when half a second is over."""
    while not naming(logged, "sleeps_on_the_loop"):
        time.sleep(0.5)


@pytest.mark.usefixtures("_always_busy")
def test_the_log_names_what_blocks_the_loop_and_says_when_it_is_over(
    run: Run, logged: list[structlog.typing.EventDict]
) -> None:
    async def main() -> None:
        watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=0.2)
        watchdog.start()
        asyncio.get_running_loop().call_soon(sleeps_on_the_loop, logged)
        await until(lambda: of(logged, "the event loop turns again"))
        watchdog.stop()
        assert watchdog.episodes == 1 or after()

    def after() -> list[structlog.typing.EventDict]:
        """Of a machine that stands still just then."""
        return logged[logged.index(of(logged, "the event loop turns again")[0]) + 1 :]

    run(main)
    first = naming(logged, "sleeps_on_the_loop")[0]
    assert first["log_level"] == "error"
    assert first["blocked_s"] >= 0.2
    assert "in sleeps_on_the_loop\n    time.sleep(0.5)\n" in first["stack"]
    last = of(logged, "the event loop turns again")[0]
    assert last["log_level"] == "warning"
    assert last["blocked_s"] >= 0.48
    assert [line["event"] for line in after()[:1]] in ([], ["the event loop is blocked"])


def keeps_the_interpreter() -> None:
    sum(range(30_000_000))


def test_the_log_names_what_keeps_the_interpreter_to_itself(run: Run, logged: list[structlog.typing.EventDict]) -> None:
    async def main() -> None:
        watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=0.1)
        watchdog.start()

        def again() -> bool:
            # More than once: where the machine gave us little of its processor meanwhile, it is taken for a suspension.
            keeps_the_interpreter()
            return bool(naming(logged, "keeps_the_interpreter"))

        await until(again)
        watchdog.stop()

    run(main)


@pytest.mark.usefixtures("_always_busy")
def test_a_deep_stack_is_cut_to_its_innermost_frames(run: Run, logged: list[structlog.typing.EventDict]) -> None:
    def ping(left: int) -> None:  # two, because a formatted stack folds the frames of one that calls itself
        pong(left - 1) if left else sleeps_on_the_loop(logged)

    def pong(left: int) -> None:
        ping(left)

    async def main() -> None:
        watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=0.1)
        watchdog.start()
        asyncio.get_running_loop().call_soon(ping, 100)
        await until(lambda: naming(logged, "sleeps_on_the_loop"))
        watchdog.stop()

    run(main)
    stack = naming(logged, "sleeps_on_the_loop")[0]["stack"]
    assert "in sleeps_on_the_loop" in stack.splitlines()[-2]
    assert stack.count("  File ") == 30


def test_a_blocked_loop_is_seen_from_another_thread_while_it_lasts(run: Run) -> None:
    async def main() -> None:
        watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=10)
        began_s = time.monotonic()
        watchdog.start()
        assert watchdog.is_turning(0.5)
        seen: list[tuple[float, bool, float, float]] = []

        def look() -> None:
            blocked_for_s, turning, lag_s = watchdog.blocked_for_s, watchdog.is_turning(0.1), watchdog.max_lag_s()
            seen.append((blocked_for_s, turning, lag_s, time.monotonic() - began_s))

        timer = threading.Timer(0.4, look)
        timer.start()
        timer.join()  # on the loop
        ((blocked_for_s, turning, lag_s, passed_s),) = seen
        assert 0.3 < blocked_for_s < passed_s
        assert not turning
        assert lag_s >= blocked_for_s
        await until(lambda: watchdog.is_turning(0.1))
        watchdog.stop()

    run(main)


def test_each_tick_tells_its_lag_and_the_largest_is_kept_until_it_is_asked_for(run: Run) -> None:
    async def main() -> None:
        lags: list[float] = []
        watchdog = LoopWatchdog(tick_s=0.02, blocked_after_s=10, on_lag=lags.append)
        watchdog.start()
        await until(lambda: len(lags) >= 2)
        time.sleep(0.3)  # noqa: ASYNC251 - that is the point
        await until(lambda: max(lags) > 0.25)
        await until(lambda: lags[-1] < 0.25)
        assert watchdog.lag_s == lags[-1]
        assert watchdog.max_lag_s() == max(lags)
        assert watchdog.max_lag_s() < max(lags)
        assert min(lags) >= 0
        watchdog.stop()

    run(main)


def test_a_listener_that_raises_does_not_end_the_ticks(run: Run) -> None:
    def fails(_lag_s: float) -> None:
        raise ValueError

    async def main() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: faults.append(fault))
        watchdog = LoopWatchdog(tick_s=0.01, on_lag=fails)
        watchdog.start()
        await until(lambda: len(faults) >= 3)
        watchdog.stop()

    run(main)


def watchers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "loop-watchdog"]


def test_a_stopped_watchdog_leaves_neither_a_thread_nor_a_tick(run: Run) -> None:
    async def main() -> None:
        lags: list[float] = []
        watchdog = LoopWatchdog(tick_s=0.01, blocked_after_s=60, on_lag=lags.append)
        watchdog.stop()
        watchdog = LoopWatchdog(tick_s=0.01, blocked_after_s=60, on_lag=lags.append)
        assert (watchdog.blocked_for_s, watchdog.episodes) == (0, 0)
        watchdog.start()
        assert len(watchers()) == 1
        with pytest.raises(RuntimeError):
            watchdog.start()
        await until(lambda: lags)
        before_s = time.monotonic()
        watchdog.stop()
        watchdog.stop()
        assert time.monotonic() - before_s < 1
        assert watchers() == []
        ticks = len(lags)
        await asyncio.sleep(0.05)
        assert len(lags) == ticks
        assert watchdog.blocked_for_s == 0

    run(main)


ENDS = """
import asyncio, sys, threading, time
from app.core import loop_watchdog
from app.core.logging import configure_logging, line_handler

async def main(log_in_hand):
    if log_in_hand:
        line_handler()._counting.acquire()
    loop_watchdog.LoopWatchdog(tick_s=0.02, blocked_after_s=0.1, exit_after_s=0.3).start()
    time.sleep(60)

log_in_hand = sys.argv[1] == "log in hand"
if log_in_hand:
    loop_watchdog.LAST_WORDS_S = 0.5
configure_logging("info")
asyncio.run(main(log_in_hand))
"""


@pytest.mark.parametrize(("log", "lines"), [("free", 1), ("in hand", 0)])
def test_a_process_whose_loop_does_not_come_back_ends_whoever_has_the_log_in_hand(log: str, lines: int) -> None:
    command = [sys.executable, "-c", ENDS, f"log {log}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("the event loop does not come back")) == (EXIT_STATUS, lines)
