"""What others are told of alerts: which may have been raised again, what those have met, and by which readings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from app.sqal.flags import Flag
from app.sqal.reading import AHEAD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from app.core.database import Connection, Row
    from app.sqal.alert_rules import AlertRules

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
MOST_READINGS: Final = 2_000
# By the index of a device's times, within the span in which what was received then, and not late, can have its time.
READINGS: Final = """
    SELECT s.device_time, s.received_at, s.flags, s.grade, s.score, s.oxidation, s.freshness, s.sample_id, s.lot,
           coalesce(s.firmware_version, d.firmware_version) AS firmware, coalesce(d.clock_offset_s, 0) AS clock_ahead_s
    FROM devices d CROSS JOIN LATERAL (
        SELECT device_time, received_at, flags, grade, score, oxidation, freshness, sample_id, lot, firmware_version
        FROM samples
        WHERE device_id = d.device_id AND received_at > $2 AND received_at <= $3 AND bucket_time <= $5
              AND bucket_time >= $4::timestamptz + least(coalesce(d.clock_offset_s, 0), 0) * interval '1 second'
        ORDER BY bucket_time DESC LIMIT $6
    ) AS s
    WHERE d.device_id = $1 ORDER BY s.received_at, s.device_time
"""
_CLOCK_OFF: Final = int(Flag.IMPLAUSIBLE_CLOCK)


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

    def at(
        self, seen_at: datetime, firmware: str | None, lot: str | None, sample_id: str, sample_time: datetime
    ) -> Sighting:
        """As it was when another reading raised it."""
        firmwares = [firmware] if firmware else []
        return replace(
            self, seen_at=seen_at, firmwares=firmwares, lot=lot, sample_id=sample_id, sample_time=sample_time
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """One that raised an alert; `firmware` is what its device told last where it does not say."""

    received_at: datetime
    device_time: datetime
    sample_id: str
    lot: str | None
    firmware: str | None


class Sightings:
    """Alerts as the `rules` of the service make them of readings; those older than `late_s` count apart."""

    def __init__(self, rules: AlertRules, late_s: float) -> None:
        self._rules = rules
        self._late = timedelta(seconds=late_s)

    async def touched(
        self, connection: Connection, since: datetime, after: UUID | None, limit: int
    ) -> Sequence[Touched]:
        return await touched(connection, since, after, limit)

    async def sightings(self, connection: Connection, alert_ids: Sequence[UUID]) -> Sequence[Sighting]:
        return await sightings(connection, alert_ids)

    async def readings(
        self, connection: Connection, rule: str, device_id: str | None, since: datetime, until: datetime
    ) -> Sequence[Reading]:
        """Those of a device that raised a rule in time, received after `since` and until then, in that order. Looked
        for among its newest in that span alone; none where no reading raises the rule.
        """
        if rule not in self._rules.by_name or device_id is None:
            return []
        span = (since, until, since - self._late, until + AHEAD)
        found = await connection.fetch(READINGS, device_id, *span, MOST_READINGS)
        return [
            Reading(*(one[name] for name in Reading.__slots__))
            for one in found
            if rule in self._rules.raised_by(dict(one)) and not self._is_late(one)
        ]

    def _is_late(self, one: Row) -> bool:
        times = (one["received_at"], one["device_time"], one["clock_ahead_s"])
        return not one["flags"] & _CLOCK_OFF and self._rules.is_late(*times)


async def touched(connection: Connection, since: datetime, after: UUID | None, limit: int) -> list[Touched]:
    """Every alert that is open, or was cleared since then, in the order of their ids; a page that begins after one."""
    return [Touched(*record) for record in await connection.fetch(TOUCHED, since, after, limit)]


async def sightings(connection: Connection, alert_ids: Sequence[UUID]) -> list[Sighting]:
    """Those that are still there, in the order in which they were last raised."""
    return [Sighting(*record) for record in await connection.fetch(SIGHTINGS, list(alert_ids))]
