"""How long the way out waits for somebody else: until a deadline, or not for long once it must go fast."""

from __future__ import annotations

import asyncio
from typing import Any, Final

HURRIED_S: Final = 1.0


class Patience:
    """Shared by all who wait at the end; `lose` shortens what every one of them still waits."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lost = asyncio.Event()

    def lose(self) -> None:
        self._lost.set()

    async def wait_for(self, task: asyncio.Task[Any]) -> None:
        """Returns when `task` is done or the patience is over; cancels nothing."""
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({task, lost}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                await asyncio.wait({task}, timeout=HURRIED_S)
        finally:
            lost.cancel()
