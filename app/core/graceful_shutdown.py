"""SIGTERM and SIGINT: our own drain runs before the server's shutdown, which would close sockets first."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = get_logger("gaveurs.shutdown")


class SignalChain:
    """Runs `drain` at the first signal, then hands that signal to the handler that was there before (the server's).

    A second signal goes to that handler at once.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self._drain = drain
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Chain both signals for the duration; only possible on the main thread, where servers run."""
        loop = asyncio.get_running_loop()
        previous: dict[int, Any] = {}

        def handle(number: int, frame: Any) -> None:
            if self._task is None:
                loop.call_soon_threadsafe(self._begin, number, previous[number])
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
        if self._task is None:
            self._task = asyncio.create_task(self._run(number, then))

    async def _run(self, number: int, then: Any) -> None:
        log.info("shutdown signal received", signal=signal.Signals(number).name)
        try:
            await self._drain()
        finally:
            if callable(then):
                then(number, None)
            else:  # no server's handler to go on with: the signal's own effect
                signal.signal(number, then)
                signal.raise_signal(number)
