"""Backups on and on: one whenever the newest is older than the period, until told to stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

JITTER: Final = 0.05  # of the period: a fleet that was started together does not back up together
LONGEST_RETRY_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Period:
    """`random`: 0 to 1, chosen once."""

    every_s: float
    random: float

    def wait_s(self, newest: datetime | None, now: datetime, *, failed: bool) -> float:
        """Until the next attempt: at once without any, sooner than the period after one that failed, and never longer
        than the period, whatever the clock was when the newest was made.
        """
        retry_s = min(self.every_s / 4, LONGEST_RETRY_S) if failed else 0.0
        if newest is None:
            return retry_s
        period_s = self.every_s * (1 + JITTER * self.random)
        return max(0.0, min(period_s - (now - newest).total_seconds(), period_s), retry_s)


async def keep_backing_up(
    period: Period,
    newest: Callable[[], Awaitable[datetime | None]],
    attempt: Callable[[], Awaitable[bool]],
    now: Callable[[], datetime],
    stop: asyncio.Event,
) -> bool:
    """Returns whether the last attempt went well. An attempt that is under way at the stop is given up."""
    well = True
    while True:
        wait_s = period.wait_s(await newest(), now(), failed=not well)
        while wait_s:
            if await _is_told(stop, wait_s):
                return well
            wait_s = period.wait_s(await newest(), now(), failed=False)  # somebody may have made one meanwhile
        if stop.is_set():
            return well
        running = asyncio.ensure_future(attempt())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                well = running.result()
        finally:
            for one in (running, stopped):
                one.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)


async def _is_told(stop: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await stop.wait()
    except TimeoutError:
        return False
    return True
