"""How many devices are in which state, by site: counted in the database now and then, for the metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.errors import UnavailableError
from app.core.logging import get_logger
from app.sqal.devices import SITE_SQL

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.clock import Clock
    from app.core.database import Database
    from app.core.metrics import Metrics
    from app.sqal.devices import StateLimits

EVERY_S: Final = 15.0
UNKNOWN_SITE: Final = "unknown"
MOST_SITES: Final = 200
log = get_logger("gaveurs.devices")
COUNT: Final = f"""
    SELECT coalesce({SITE_SQL}, $4) AS site, CASE
        WHEN last_seen IS NULL THEN 'never_seen'
        WHEN last_seen > $1::timestamptz - make_interval(secs => $2) THEN 'online'
        WHEN last_seen > $1::timestamptz - make_interval(secs => $3) THEN 'stale'
        ELSE 'offline' END AS state, count(*) AS devices
    FROM devices WHERE in_service GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT {MOST_SITES}
"""


class DeviceCounts:
    """Keeps `devices{site,state}`; while the database is away the gauge is absent, not wrong."""

    def __init__(self, metrics: Metrics, clock: Clock, limits: StateLimits, on_change: Callable[[], None]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._on_change = on_change
        self._known: list[Any] = []

    async def run(self, database: Database) -> None:
        """Count every 15 s; runs until cancelled."""
        while True:
            await self.refresh(database)
            await asyncio.sleep(EVERY_S)

    async def refresh(self, database: Database) -> None:
        limits = self._limits
        try:
            async with database.connection() as connection:
                counted = await connection.fetch(
                    COUNT, self._clock.now(), limits.stale_after_s, limits.offline_after_s, UNKNOWN_SITE
                )
        except UnavailableError:
            self._metrics.devices.keep_only([])
        except asyncpg.PostgresError:
            log.exception("devices cannot be counted")
            self._metrics.devices.keep_only([])
        else:
            self._show(counted)

    def _show(self, counted: list[Any]) -> None:
        gauge = self._metrics.devices
        for record in counted:
            gauge.labels(record["site"], record["state"]).set(record["devices"])
        gauge.keep_only((record["site"], record["state"]) for record in counted)
        if counted != self._known:
            self._known = counted
            self._on_change()  # a device that falls silent changes its state without any news
