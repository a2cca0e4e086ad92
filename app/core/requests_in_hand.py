"""HTTP requests that are being answered: counted, so that a shutdown can wait for the last of them."""

from __future__ import annotations

import asyncio


class RequestsInHand:
    """How many there are, and when one ends. `closed` says that new ones are refused."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = False
        self._ended = asyncio.Event()

    def begin(self) -> None:
        self.count += 1

    def end(self) -> None:
        self.count -= 1
        self._ended.set()

    async def one_ends(self) -> None:
        """Returns when a request has ended since this was last asked."""
        await self._ended.wait()
        self._ended.clear()
