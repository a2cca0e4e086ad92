"""What others are told of alerts: which may have been raised again, and what those that were have met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from app.core.database import Connection

# By two partial indexes that the updates of an open alert leave alone.
TOUCHED: Final = """
    SELECT id, occurrences FROM (
        SELECT id, occurrences FROM alerts WHERE cleared_at IS NULL
        UNION ALL SELECT id, occurrences FROM alerts WHERE cleared_at >= $1
    ) AS touched WHERE $2::uuid IS NULL OR id > $2 ORDER BY id LIMIT $3
"""
# What the watch opens happened once, when it opened: its `last_at` only says that it was still so.
SIGHTINGS: Final = """
    SELECT a.id AS alert_id, a.rule, a.severity, a.subject, a.device_id, a.site_code,
           CASE WHEN a.devices = '{}' AND a.device_id IS NOT NULL THEN ARRAY[a.device_id] ELSE a.devices END AS devices,
           a.occurrences, a.opened_at AS first_at,
           CASE WHEN a.sample_id IS NULL THEN a.opened_at ELSE a.last_at END AS seen_at,
           a.sample_id, a.sample_time, reading.lot,
           CASE WHEN reading.firmware_version IS NOT NULL THEN ARRAY[reading.firmware_version]
                ELSE coalesce(known.firmwares, '{}') END AS firmwares
    FROM alerts a
    LEFT JOIN LATERAL (
        SELECT s.lot, s.firmware_version FROM samples s
        WHERE s.sample_id = a.sample_id AND s.device_id = a.device_id AND s.device_time = a.sample_time LIMIT 1
    ) AS reading ON true
    LEFT JOIN LATERAL (
        SELECT array_agg(DISTINCT d.firmware_version ORDER BY d.firmware_version) AS firmwares FROM devices d
        WHERE d.device_id = ANY(array_append(a.devices, a.device_id)) AND d.firmware_version IS NOT NULL
    ) AS known ON reading.firmware_version IS NULL
    WHERE a.id = ANY($1) ORDER BY seen_at, a.id
"""


@dataclass(frozen=True, slots=True)
class Touched:
    """An alert that may have been raised since, and how often in all."""

    id: UUID
    occurrences: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """An alert, whom it concerns, and the lot and firmware of the reading that raised it last. Without a reading, or
    where that does not say, `firmwares` are those that its devices told last.
    """

    alert_id: UUID
    rule: str
    severity: str
    subject: str
    device_id: str | None
    site_code: str | None
    devices: Sequence[str]
    occurrences: int
    first_at: datetime
    seen_at: datetime
    sample_id: str | None
    sample_time: datetime | None
    lot: str | None
    firmwares: Sequence[str]


async def touched(connection: Connection, since: datetime, after: UUID | None, limit: int) -> list[Touched]:
    """Every alert that is open, or was cleared since then, in the order of their ids; a page that begins after one."""
    return [Touched(*record) for record in await connection.fetch(TOUCHED, since, after, limit)]


async def sightings(connection: Connection, alert_ids: Sequence[UUID]) -> list[Sighting]:
    """Those that are still there, in the order in which they were last raised."""
    return [Sighting(*record) for record in await connection.fetch(SIGHTINGS, list(alert_ids))]
