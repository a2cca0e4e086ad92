"""Whether the database serves: learned from every commit and from a background check, asked by ingest and by probes."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from app.core.clock import Clock
    from app.core.database import Database

CHECK_EVERY_S: Final = 1.0
CHECK_DEADLINE_S: Final = 2.0
RETRY_AWAY_MS: Final = (2_000, 4_000)
RETRY_FULL_MS: Final = (500, 1_500)
log = get_logger("gaveurs.database")


class Availability:
    """One word about the database for the whole process; every change of it is logged once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._away_since: float | None = None
        self._served_at = clock.monotonic()

    @property
    def away(self) -> bool:
        return self._away_since is not None

    @property
    def away_for_s(self) -> float:
        """Seconds since the database was last known to serve; 0 while it does."""
        return 0.0 if self._away_since is None else self._clock.monotonic() - self._away_since

    def mark_away(self) -> None:
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            log.warning("database away: samples are answered busy until it is back")

    def mark_back(self) -> None:
        self._served_at = self._clock.monotonic()
        if self._away_since is not None:
            log.info("database back", away_s=round(self._clock.monotonic() - self._away_since, 2))
            self._away_since = None

    def retry_after_ms(self) -> int:
        """When a device that found no room should try again; spread, so that not all come at once."""
        return random.randint(*(RETRY_AWAY_MS if self.away else RETRY_FULL_MS))  # noqa: S311 - jitter

    async def watch(self, database: Database) -> None:
        """Ask the database every second, with a deadline; runs until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await database.ping(CHECK_DEADLINE_S)
            except AppError:
                # A commit since then says more than a question that our own load kept from its answer.
                if self._served_at < began:
                    self.mark_away()
            else:
                self.mark_back()
            await asyncio.sleep(CHECK_EVERY_S)
