"""What the database holds, for the metrics: quarantine, open alerts, its size, and the backups that were made of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.backup_log import newest_backups, show_backups
from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from app.core.database import Connection, Database
    from app.core.metrics import Metrics

EVERY_S: Final = 15.0
SEVERITIES: Final = ("critical", "warning")
HELD: Final = """
    SELECT pg_database_size(current_database()) AS database_bytes,
           (SELECT count(*) FROM quarantine) AS quarantine_rows,
           (SELECT coalesce(sum(stored_bytes), 0)::int8 FROM quarantine) AS quarantine_bytes
"""
ALERTS: Final = "SELECT severity, count(*) AS alerts FROM alerts WHERE cleared_at IS NULL GROUP BY 1"
log = get_logger("gaveurs.holdings")


class Holdings:
    """Keeps the gauges of this; while the database is away they are absent, not wrong."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def run(self, database: Database) -> None:
        """Look every 15 s; runs until cancelled."""
        while True:
            await self.refresh(database)
            await asyncio.sleep(EVERY_S)

    async def refresh(self, database: Database) -> None:
        try:
            async with database.connection() as connection:
                await self._look(connection)
        except AppError:
            self._withdraw()
        except asyncpg.PostgresError:
            log.exception("what the database holds cannot be counted")
            self._withdraw()

    async def _look(self, connection: Connection) -> None:
        held = await connection.fetchrow(HELD)
        alerts = {record["severity"]: record["alerts"] for record in await connection.fetch(ALERTS)}
        newest = await newest_backups(connection)
        for severity in SEVERITIES:
            self._metrics.alerts_open.labels(severity).set(alerts.get(severity, 0))
        self._show(held)
        show_backups(self._metrics, newest)

    def _show(self, held: Any) -> None:
        m = self._metrics
        m.database_size.labels().set(held and held["database_bytes"])
        m.quarantine_rows.labels().set(held and held["quarantine_rows"])
        m.quarantine_bytes.labels().set(held and held["quarantine_bytes"])

    def _withdraw(self) -> None:
        """The newest backups stay: they do not change for a database that is away."""
        self._metrics.alerts_open.keep_only([])
        self._show(None)
