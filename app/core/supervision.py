"""What has a life belongs to one stack: closed in reverse, each within its deadline. Half a service is worse than a
restart, so a background task that fails, or ends unasked, ends the process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AsyncExitStack

CLOSE_DEADLINE_S: Final = 10.0
log = get_logger("gaveurs.resources")


class Supervisor:
    """Registers closings and background tasks with a stack."""

    def __init__(self, stack: AsyncExitStack, is_ending: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self._stack = stack
        self._is_ending = is_ending
        self._give_up = give_up

    def closing(
        self,
        name: str,
        close: Callable[[], Awaitable[None]],
        deadline_s: float = CLOSE_DEADLINE_S,
        *,
        say: str | None = None,
    ) -> None:
        """A close that may take `deadline_s` and no longer; what fails or does not end in time is logged and left."""

        async def bounded() -> None:
            if say is not None:
                log.info(say)
            try:
                await asyncio.wait_for(close(), deadline_s)
            except TimeoutError:
                log.error("closing took too long", what=name, deadline_s=deadline_s)  # noqa: TRY400
            except Exception:  # what was opened before it must still be closed
                log.exception("closing failed", what=name)

        self._stack.push_async_callback(bounded)

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that runs until the stack is closed."""
        task = asyncio.create_task(work, name=name)

        def watch(ended: asyncio.Task[None]) -> None:
            if ended.cancelled():
                return
            error = ended.exception()
            if error is not None or not self._is_ending():
                log.critical("a background task failed", task=name, exc_info=error)
                self._give_up()

        async def end() -> None:
            task.cancel()
            await asyncio.wait({task})

        task.add_done_callback(watch)
        self.closing(name, end)
        return task
