"""Alerts about what no reading tells: devices that fell silent, clocks that are off, quarantine that grows.

Every few seconds one process of all compares what ought to be open with what is, and opens, updates and clears. Devices
that fall silent together are one alert: of their site, or of all sites, with their names.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.errors import AppError
from app.core.ids import uuid7
from app.core.logging import get_logger
from app.sqal.alert_rules import WARNING
from app.sqal.alerts import as_item
from app.sqal.devices import SITE_SQL
from app.sqal.watch_rules import OFFLINE_RULES, Finding, OpenAlert, SeenDevice, judge_clocks, judge_silence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from app.core.clock import Clock
    from app.core.database import Connection, Database
    from app.sqal.devices import StateLimits
    from app.sqal.watch_rules import Key

LOCK_KEY: Final = 0x616C_6572_74  # "alert": one process watches at a time
DEADLINE_S: Final = 10.0
EVERY_S: Final = 5.0
QUARANTINE: Final = ("quarantine", "quarantine_growing")
RULES: Final = (*OFFLINE_RULES, "clock_off", QUARANTINE[1])
COUNTED: Final = 50  # times the limit: refusals beyond are not counted
NAMED: Final = 20  # devices that send most of what is refused
DEVICES: Final = f"""
    SELECT device_id, {SITE_SQL} AS site_code, last_seen, clock_offset_s FROM devices
    WHERE in_service AND last_seen IS NOT NULL ORDER BY device_id
"""
# Counted no further than the limit; who sent most of it.
REFUSED: Final = """
    SELECT device_id, count(*) AS refused FROM (
        SELECT device_id FROM quarantine WHERE received_at > $1 ORDER BY received_at DESC LIMIT $2
    ) AS newest GROUP BY 1 ORDER BY 2 DESC, 1
"""
OPEN: Final = "SELECT * FROM alerts WHERE cleared_at IS NULL AND rule = ANY($1) ORDER BY subject, rule FOR UPDATE"
BEGIN: Final = """
    INSERT INTO alerts (id, opened_at, last_at, occurrences, late_occurrences, clear_streak, value, worst, rule,
                        severity, subject, device_id, site_code, devices)
    VALUES ($1, $2, $2, 1, 0, 0, $3, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (subject, rule) WHERE cleared_at IS NULL DO NOTHING RETURNING *
"""
KEEP: Final = """
    UPDATE alerts SET last_at = coalesce($2, last_at), value = $3, devices = $4,
                      worst = CASE WHEN abs($3) > abs(worst) THEN $3 ELSE worst END
    WHERE id = $1
"""
CLEAR: Final = "UPDATE alerts SET cleared_at = $2 WHERE id = ANY($1) RETURNING *"
log = get_logger("gaveurs.watch")


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """When a clock is off, and when quarantine grows: so many refusals within the window. Cleared at half of either."""

    clock_off_s: float = 300.0
    quarantine_rows: int = 20
    quarantine_window_s: float = 600.0


class Watch:
    """The task that looks after devices and quarantine. `on_change` is told of alerts opened and cleared."""

    def __init__(
        self,
        clock: Clock,
        limits: StateLimits,
        settings: WatchSettings,
        on_change: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._settings = settings
        self._on_change = on_change
        self._hearing_since: datetime | None = None

    async def run(self, database: Database) -> None:
        """Look every few seconds; runs until cancelled."""
        while True:
            try:
                async with database.connection(DEADLINE_S) as connection:
                    await self.look(connection)
            except AppError as error:
                self._hearing_since = None  # what devices said meanwhile did not reach the database
                log.warning("the watch cannot look", reason=error.code)
            except asyncpg.PostgresError:
                log.exception("the watch failed")
            await asyncio.sleep(EVERY_S)

    async def look(self, connection: Connection) -> None:
        """One round, in one transaction; none when another process is at it."""
        now = self._clock.now()
        self._hearing_since = self._hearing_since or now
        async with connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                return
            open_ = {(record["subject"], record["rule"]): record for record in await connection.fetch(OPEN, RULES)}
            findings = await self._findings(connection, open_, now)
            changed = await _reconcile(connection, open_, findings, now)
        self._on_change(changed)

    async def _findings(self, connection: Connection, open_: Mapping[Key, Any], now: datetime) -> list[Finding]:
        devices = [self._seen(record, now) for record in await connection.fetch(DEVICES)]
        offline = {
            key: OpenAlert(frozenset(record["devices"]), (now - record["last_at"]).total_seconds())
            for key, record in open_.items()
            if key[1] in OFFLINE_RULES
        }
        return [
            *judge_silence(devices, offline, self._limits),
            *judge_clocks(devices, open_, self._settings.clock_off_s),
            *await self._judge_quarantine(connection, grows=QUARANTINE in open_, now=now),
        ]

    def _seen(self, record: asyncpg.Record, now: datetime) -> SeenDevice:
        """Nobody was silent before we could hear: after a start or an outage everyone gets the full time again."""
        since = max(record["last_seen"], self._hearing_since or now)
        state = self._limits.state(record["last_seen"], now)
        if state == "offline" and self._limits.state(since, now) != "offline":
            state = "stale"
        silent_s = (now - since).total_seconds()
        return SeenDevice(record["device_id"], record["site_code"], silent_s, state, record["clock_offset_s"])

    async def _judge_quarantine(self, connection: Connection, *, grows: bool, now: datetime) -> list[Finding]:
        settings = self._settings
        limit = settings.quarantine_rows // 2 if grows else settings.quarantine_rows
        since = now - timedelta(seconds=settings.quarantine_window_s)
        records = await connection.fetch(REFUSED, since, COUNTED * settings.quarantine_rows)
        refused = sum(record["refused"] for record in records)
        if refused < max(limit, 1):
            return []
        names = tuple(record["device_id"] for record in records[:NAMED] if record["device_id"] is not None)
        return [Finding(QUARANTINE[1], WARNING, QUARANTINE[0], refused, devices=names)]


async def _reconcile(
    connection: Connection, open_: Mapping[Key, Any], findings: list[Finding], now: datetime
) -> list[dict[str, Any]]:
    """Open what ought to be and is not, bring up to date what is, clear what ought not; the opened and cleared."""
    wanted = {finding.key: finding for finding in findings}
    over = [open_[key]["id"] for key in open_.keys() - wanted.keys()]
    records = await connection.fetch(CLEAR, over, now) if over else []
    for key, f in sorted(wanted.items()):
        if key in open_:
            await connection.execute(KEEP, open_[key]["id"], now if f.whole else None, f.value, list(f.devices))
        else:
            row = (f.rule, f.severity, f.subject, f.device_id, f.site_code, list(f.devices))
            records += await connection.fetch(BEGIN, uuid7(), now, f.value, *row)
    return [as_item(record) for record in records]
