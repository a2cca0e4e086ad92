"""What of the tracker goes by itself: answers that nobody will ask for again, files that nothing names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg

from app.bugs.idempotency import forget_old
from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from app.bugs.attachment_sweep import AttachmentSweep
    from app.core.clock import Clock
    from app.core.database import Database

EVERY_S: Final = 300.0
DEADLINE_S: Final = 30.0
log = get_logger("gaveurs.bugs")


class BugUpkeep:
    """The task that forgets. Each process may do it: a second time changes nothing."""

    def __init__(self, clock: Clock, sweep: AttachmentSweep) -> None:
        self._clock = clock
        self._sweep = sweep

    async def run(self, database: Database) -> None:
        """Look every few minutes; runs until cancelled."""
        while True:
            try:
                async with database.connection(DEADLINE_S) as connection:
                    await forget_old(connection, self._clock.now())
                await self._sweep.when_due(database)
            except AppError as error:
                log.warning("the upkeep of bugs cannot work", reason=error.code)
            except asyncpg.PostgresError:
                log.exception("the upkeep of bugs failed")
            await asyncio.sleep(EVERY_S)
