"""The way out: at SIGTERM or SIGINT what was begun is finished, in a fixed order, each phase within its time.

uvicorn alone would refuse connections at once, close the sockets first and lose the acks that are under way. So our
handler comes before the server's, and hands the signal on when all is done.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from app.core.requests_in_hand import RequestsInHand

HURRIED_S: Final = 2.0  # for each phase, after a second signal
HANGING: Final = 20  # stacks that are logged
FRAMES: Final = 6
log = get_logger("gaveurs.shutdown")


@dataclass(frozen=True, slots=True)
class ShutdownTimes:
    """At most so long for each phase, in seconds."""

    propagation_s: float
    sockets_s: float
    requests_s: float
    close_s: float


class Drained(Protocol):
    """What is taken down."""

    @property
    def serving(self) -> bool:
        """Whether anybody was sent here."""
        ...

    def refuse_new(self) -> None:
        """From now on unready, and no new request or socket."""
        ...

    @property
    def open_sockets(self) -> int: ...

    async def end_sockets(self) -> None:
        """Answer what was read, say goodbye, close; returns when the last has ended."""
        ...

    def hurry(self) -> None:
        """Wait for nobody for long any more."""
        ...

    async def close(self) -> None:
        """Background tasks, database, cache."""
        ...

    def receipt(self) -> dict[str, Any]:
        """What became of everything that was received."""
        ...


class GracefulShutdown:
    """One shutdown. `run` returns when everything is closed or has had its time."""

    def __init__(self, times: ShutdownTimes, requests: RequestsInHand, drained: Drained) -> None:
        self._times = times
        self._requests = requests
        self._drained = drained
        self._hurry = asyncio.Event()
        self._phases: dict[str, float] = {}

    def hurry(self) -> None:
        """A second signal: wait for nobody's sake any more, but lose nothing either."""
        log.warning("Second signal: shutting down faster")
        self._hurry.set()
        self._drained.hurry()

    async def run(self, number: int) -> None:
        began = time.monotonic()
        _say(f"Shutdown signal received ({signal.Signals(number).name})")
        propagation_s = self._times.propagation_s if self._drained.serving else 0.0
        self._drained.refuse_new()
        self._requests.closed = True
        log.info("Rejecting new requests (503)")
        async with self._phase("propagation", propagation_s):
            # Load balancers go on sending until they have noticed; sockets are served meanwhile.
            await self._hurry.wait()
        async with self._phase("sockets", self._times.sockets_s, warn=True):
            _say(f"Closing WebSocket connections ({self._drained.open_sockets} active)")
            await self._drained.end_sockets()
        async with self._phase("requests", self._times.requests_s, warn=True):
            await self._wait_for_requests()
        async with self._phase("close", self._times.close_s, warn=True):
            await self._drained.close()
        took_s = time.monotonic() - began
        _say(f"Graceful shutdown completed in {took_s:.1f}s", **self._drained.receipt(), phases_s=self._phases)

    async def _wait_for_requests(self) -> None:
        if self._requests.count:
            _say(f"Waiting for {_requests(self._requests.count)} to complete...")
        known = self._requests.count
        while self._requests.count:
            await self._requests.one_ends()
            if 0 < self._requests.count < known:
                _say(f"{_requests(self._requests.count)} remaining...")
            known = self._requests.count
        log.info("All requests completed")

    @asynccontextmanager
    async def _phase(self, name: str, seconds: float, *, warn: bool = False) -> AsyncIterator[None]:
        began = time.monotonic()
        hurried: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(seconds) as deadline:
                hurried = asyncio.create_task(self._shorten(deadline))
                yield
        except TimeoutError:
            if warn:
                after_s = round(time.monotonic() - began, 1)
                log.error("a phase of the shutdown took too long", phase=name, after_s=after_s, hanging=_stacks())  # noqa: TRY400
        finally:
            if hurried is not None:
                hurried.cancel()
            self._phases[name] = round(time.monotonic() - began, 3)

    async def _shorten(self, deadline: asyncio.Timeout) -> None:
        await self._hurry.wait()
        soon = asyncio.get_running_loop().time() + HURRIED_S
        when = deadline.when()
        if when is not None and when > soon:
            deadline.reschedule(soon)


def _say(line: str, **more: Any) -> None:
    """These lines are a contract, their numbers included: people and tools look for them."""
    log.info(line, **more)


def _requests(count: int) -> str:
    return f"{count} active request{'' if count == 1 else 's'}"


def _stacks() -> list[str]:
    """Where the tasks that are left hang: innermost frames, a line a task."""
    lines = []
    for task in list(asyncio.all_tasks())[:HANGING]:
        frames = task.get_stack(limit=FRAMES)
        places = [f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})" for frame in frames]
        lines.append(f"{task.get_name()}: {' > '.join(places)}")
    return lines


class SignalChain:
    """Runs `shutdown` at the first signal, then hands that signal to the handler that was there before (the server's).

    The second calls `hurry`; from the third on they go to that handler at once.
    """

    def __init__(self, shutdown: Callable[[int], Awaitable[None]], hurry: Callable[[], None]) -> None:
        self._shutdown = shutdown
        self._hurry = hurry
        self._signals = 0
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Chain both signals for the duration; only possible on the main thread, where servers run."""
        loop = asyncio.get_running_loop()
        previous: dict[int, Any] = {}

        def handle(number: int, frame: Any) -> None:
            self._signals += 1
            if self._signals == 1:
                loop.call_soon_threadsafe(self._begin, number, previous[number])
            elif self._signals == 2:  # noqa: PLR2004 - the second
                loop.call_soon_threadsafe(self._hurry)
            elif callable(previous[number]):
                previous[number](number, frame)

        try:
            for chained in (signal.SIGTERM, signal.SIGINT):
                previous[chained] = signal.signal(chained, handle)
        except ValueError:
            log.warning("not on the main thread: signals are not handled here")
        try:
            yield
        finally:
            for number, handler in previous.items():
                if signal.getsignal(number) is handle:
                    signal.signal(number, handler)

    def _begin(self, number: int, then: Any) -> None:
        self._task = asyncio.create_task(self._run(number, then), name="shutdown")

    async def _run(self, number: int, then: Any) -> None:
        try:
            await self._shutdown(number)
        finally:
            if callable(then):
                then(number, None)
            else:  # no server's handler to go on with: the signal's own effect
                signal.signal(number, then)
                signal.raise_signal(number)
