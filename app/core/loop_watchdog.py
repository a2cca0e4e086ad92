"""Watches from a thread whether the event loop turns, and names what holds it when it does not."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, NoReturn

from app.core.logging import flush_logging, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger("gaveurs.loop")

LOOKS: Final = 4  # in the time after which a loop counts as blocked
# Of the time that a watcher was late, on top of one look's time that the process may have used before it was
# suspended: less processor time than this means that it was.
BUSY_SHARE: Final = 0.1
STACK_FRAMES: Final = 30
STOP_DEADLINE_S: Final = 1.0
EXIT_STATUS: Final = 70  # EX_SOFTWARE of sysexits.h
LAST_WORDS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Blocked:
    """The loop has not turned for `blocked_s`, and still does not."""

    blocked_s: float


@dataclass(frozen=True, slots=True)
class TurnsAgain:
    """A blocking that was reported is over; it lasted `blocked_s`."""

    blocked_s: float


class Turning:
    """Judges whether a loop turns, from its ticks and from the looks of a watcher that wakes `LOOKS` times in
    `blocked_after_s`.

    A blocking is reported once, then again whenever it has lasted twice as long as at the report before; its end is
    reported once. One that begins and ends between two looks is not seen.

    A watcher that itself wakes late by more than a look, while the process hardly used a processor, tells of a process
    that was suspended: that time is not held against the loop, which has until the next look to show itself. If the
    process did use one, the loop's callback kept the interpreter's lock (a regular expression, a large sort): that is
    a blocking like any other.

    `ticked` belongs to the loop's thread, `waits` and `look` to the watcher's, the rest to any. Each field has one
    writer and is replaced whole, so that no thread ever waits for another here. Times are monotonic seconds.
    """

    def __init__(self, now_s: float, *, blocked_after_s: float) -> None:
        self.look_every_s = blocked_after_s / LOOKS
        self.episodes = 0
        self._blocked_after_s = blocked_after_s
        self._tick_s = now_s
        self._resumed_s = now_s  # the first tick after the last long pause
        self._lost = (now_s, 0.0)  # seconds of suspension since that tick
        self._wakes_at_s = inf
        self._cpu_s = 0.0
        self._episode_s: float | None = None  # the tick before the blocking that is being reported
        self._report_at_s = blocked_after_s

    def ticked(self, now_s: float) -> None:
        """The loop turned."""
        if now_s - self._tick_s >= self._blocked_after_s:
            self._resumed_s = now_s
        self._tick_s = now_s

    def waits(self, now_s: float, cpu_s: float) -> None:
        """The watcher goes to sleep for `look_every_s`; `cpu_s` is the processor time that the process has used."""
        self._cpu_s = cpu_s
        self._wakes_at_s = now_s + self.look_every_s

    def look(self, now_s: float, cpu_s: float) -> Blocked | TurnsAgain | None:
        """What the watcher, awake again, has to report."""
        tick_s = self._tick_s
        late_s = now_s - self._wakes_at_s
        busy_s = self.look_every_s + late_s * BUSY_SHARE
        suspended = late_s > self.look_every_s and cpu_s - self._cpu_s <= busy_s
        ended = None
        if self._episode_s is not None and self._episode_s != tick_s:
            ended = self._end(self._episode_s, min(self._resumed_s, self._wakes_at_s) if suspended else self._resumed_s)
        if suspended:
            self._lost = (tick_s, self._lost_since(tick_s) + min(late_s, now_s - tick_s))
        self._wakes_at_s = inf
        return ended if ended or suspended else self._judge(tick_s, now_s)

    def age_s(self, now_s: float) -> float:
        """Seconds since the last tick, without those of a suspension.

        A watcher that should have woken and has not says that the process did not run since.
        """
        tick_s = self._tick_s
        return max(0.0, min(now_s, self._wakes_at_s) - tick_s - self._lost_since(tick_s))

    def _lost_since(self, tick_s: float) -> float:
        since_s, lost_s = self._lost
        return lost_s if since_s == tick_s else 0.0

    def _judge(self, tick_s: float, now_s: float) -> Blocked | None:
        blocked_s = now_s - tick_s - self._lost_since(tick_s)
        if blocked_s < self._report_at_s:
            return None
        if self._episode_s is None:
            self._episode_s = tick_s
            self.episodes += 1
        while self._report_at_s <= blocked_s:
            self._report_at_s *= 2
        return Blocked(blocked_s)

    def _end(self, began_s: float, ended_s: float) -> TurnsAgain:
        self._episode_s, self._report_at_s = None, self._blocked_after_s
        return TurnsAgain(ended_s - began_s - self._lost_since(began_s))


class LoopWatchdog:
    """Tells whether the event loop it was started on turns, and logs the stack that blocks it.

    The loop notes a tick every `tick_s` and calls `on_lag(lag_s)` with how late each was. A thread logs an error with
    the innermost frames of the loop's thread once the last tick is `blocked_after_s` old (see `Turning`), and a
    warning with the total when the loop turns again. Readings may be asked for from any thread; before `start` and
    after `stop` the loop counts as turning. Of a process that was suspended the lag knows nothing: it is then as long.

    Once the last tick is `exit_after_s` old the process ends with EXIT_STATUS, for whoever started it to start it anew.
    What keeps the interpreter to itself for ever keeps it from the watcher too: that a probe must end.
    """

    def __init__(
        self,
        *,
        tick_s: float = 0.1,
        blocked_after_s: float = 1.0,
        exit_after_s: float | None = None,
        on_lag: Callable[[float], None] | None = None,
    ) -> None:
        self.lag_s = 0.0
        """How late the last tick was."""
        self._tick_s = tick_s
        self._blocked_after_s = blocked_after_s
        self._exit_after_s = exit_after_s
        self._on_lag = on_lag
        self._max_lag_s = 0.0
        self._max_lock = threading.Lock()
        self._turning: Turning | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Watch the running loop, from its own thread; once."""
        if self._turning is not None:
            raise RuntimeError("a watchdog is started once")
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        self._turning = Turning(now_s, blocked_after_s=self._blocked_after_s)
        self._schedule(loop, now_s)
        self._run("loop-watchdog", self._watch, self._turning, threading.get_ident())
        if self._exit_after_s is not None:
            self._run("loop-exit", self._end_in_time, self._turning, threading.get_ident(), self._exit_after_s)

    def stop(self) -> None:
        """End ticks and watching, on the loop's thread; a watcher that hangs in the log is left after a second."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
        for thread in self._threads:
            thread.join(STOP_DEADLINE_S)

    @property
    def blocked_for_s(self) -> float:
        """How long the loop's next tick is overdue; 0 when it is not."""
        if self._turning is None or self._stopping.is_set():
            return 0.0
        return max(0.0, self._turning.age_s(time.monotonic()) - self._tick_s)

    @property
    def episodes(self) -> int:
        """Blockings that were reported."""
        return self._turning.episodes if self._turning else 0

    def is_turning(self, limit_s: float) -> bool:
        """Whether the next tick is overdue by no more than `limit_s`."""
        return self.blocked_for_s <= limit_s

    def max_lag_s(self) -> float:
        """The largest lag since this was last asked, that of a tick now overdue included."""
        with self._max_lock:
            largest_s, self._max_lag_s = self._max_lag_s, 0.0
        return max(largest_s, self.blocked_for_s)

    def _run(self, name: str, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _schedule(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        self._timer = loop.call_later(self._tick_s, self._tick, loop, now_s + self._tick_s)

    def _tick(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        assert self._turning is not None
        now_s = time.monotonic()
        self._turning.ticked(now_s)
        self._schedule(loop, now_s)
        self.lag_s = max(0.0, now_s - due_s)
        with self._max_lock:
            self._max_lag_s = max(self._max_lag_s, self.lag_s)
        if self._on_lag is not None:
            self._on_lag(self.lag_s)

    def _watch(self, turning: Turning, loop_thread: int) -> None:
        turning.waits(time.monotonic(), time.process_time())
        while not self._stopping.wait(turning.look_every_s):
            match turning.look(time.monotonic(), time.process_time()):
                case Blocked(blocked_s):
                    log.error("the event loop is blocked", blocked_s=round(blocked_s, 3), stack=_stack(loop_thread))
                case TurnsAgain(blocked_s):
                    log.warning("the event loop turns again", blocked_s=round(blocked_s, 3))
            turning.waits(time.monotonic(), time.process_time())

    def _end_in_time(self, turning: Turning, loop_thread: int, exit_after_s: float) -> None:
        """In a thread of its own: what holds the loop may hold the log, and with it the watcher."""
        while not self._stopping.wait(turning.look_every_s):
            if (age_s := turning.age_s(time.monotonic())) >= exit_after_s:
                _end_process(age_s, loop_thread)


def _end_process(blocked_s: float, thread: int) -> NoReturn:
    """As SIGKILL would, with EXIT_STATUS and a last line that says where `thread` is: a loop that stands still cannot
    drain, and what it acknowledged is committed. Ends LAST_WORDS_S later at the latest, whoever has the log in hand.
    """
    try:
        threading.Timer(LAST_WORDS_S, os._exit, (EXIT_STATUS,)).start()
        log.critical("the event loop does not come back", blocked_s=round(blocked_s, 3), stack=_stack(thread))
        flush_logging()
    finally:
        os._exit(EXIT_STATUS)


def _stack(thread: int) -> str:
    """Where `thread` is now, its innermost frame last; empty when the thread has ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's frame
    return "".join(traceback.format_stack(frame, STACK_FRAMES)) if frame else ""
