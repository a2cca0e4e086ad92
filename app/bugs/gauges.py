"""What Prometheus is shown of the tracker: counted in the database now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.bugs.summary import summary
from app.bugs.vocabulary import SEVERITIES, UNSETTLED
from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from app.core.clock import Clock
    from app.core.database import Database
    from app.core.metrics import Metrics

EVERY_S: Final = 15.0
OPEN: Final = "SELECT severity, sum(bugs)::int8 AS bugs FROM bug_counts WHERE status = ANY($1::text[]) GROUP BY 1"
log = get_logger("gaveurs.bugs")


class BugGauges:
    """Keeps `bugs_open{severity}`, `bugs_resolved_today` and `bugs_average_resolution_hours`; while the database is
    away they are absent, not wrong. The average is absent too where nothing is resolved.
    """

    def __init__(self, metrics: Metrics, clock: Clock, zone: ZoneInfo) -> None:
        self._metrics = metrics
        self._clock = clock
        self._zone = zone

    async def run(self, database: Database) -> None:
        """Count every 15 s; runs until cancelled."""
        while True:
            await self.refresh(database)
            await asyncio.sleep(EVERY_S)

    async def refresh(self, database: Database) -> None:
        try:
            async with database.connection() as connection:
                counted = await connection.fetch(OPEN, sorted(UNSETTLED))
                figures = await summary(connection, self._clock.now(), self._zone)
        except AppError:
            self._withdraw()
        except asyncpg.PostgresError:
            log.exception("bugs cannot be counted")
            self._withdraw()
        else:
            self._show({record["severity"]: record["bugs"] for record in counted}, figures)

    def _show(self, still_open: Mapping[str, int], figures: Mapping[str, Any]) -> None:
        metrics = self._metrics
        for severity in SEVERITIES:
            metrics.bugs_open.labels(severity).set(still_open.get(severity, 0))
        metrics.bugs_resolved_today.labels().set(figures["resolved_today"])
        metrics.bugs_average_resolution.labels().set(figures["avg_resolution_time_hours"])

    def _withdraw(self) -> None:
        metrics = self._metrics
        metrics.bugs_open.keep_only([])
        metrics.bugs_resolved_today.labels().set(None)
        metrics.bugs_average_resolution.labels().set(None)
