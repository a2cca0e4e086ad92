"""Alerts as rows: at most one open for each subject and rule, changed in the transaction of the readings that do it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.core.cursor import Cursor
from app.core.errors import NotFoundError
from app.core.ids import uuid7
from app.core.logging import get_logger
from app.sqal.alert_rules import Episode, Occurrence
from app.sqal.flags import Flag
from app.sqal.frame import MICRO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from app.core.database import Connection, Row
    from app.sqal.alert_rules import AlertRules, Rule

COLUMNS: Final = {
    "id": "uuid", "opened_at": "timestamptz", "last_at": "timestamptz", "cleared_at": "timestamptz",
    "occurrences": "int8", "late_occurrences": "int8", "clear_streak": "int4", "value": "float8", "worst": "float8",
    "sample_time": "timestamptz", "sample_id": "text", "rule": "text", "severity": "text", "subject": "text",
    "device_id": "text", "site_code": "text",
}  # fmt: skip
_NEW: Final = f"unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(COLUMNS.values(), 1))})"
# Makes or finds the open alert of each subject and rule, and holds it. In sorted order: no two wait in a circle.
HOLD: Final = """
    INSERT INTO alerts AS a (id, opened_at, last_at, occurrences, late_occurrences, clear_streak,
                             rule, severity, subject, devices)
    SELECT id, at, at, 0, 0, 0, rule, '', subject, '{}'
    FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[]) AS new (id, at, subject, rule)
    ORDER BY subject, rule
    ON CONFLICT (subject, rule) WHERE cleared_at IS NULL DO UPDATE SET clear_streak = a.clear_streak
    RETURNING id, subject, rule, opened_at, last_at, occurrences, late_occurrences, clear_streak, worst
"""
UPDATE: Final = f"""
    UPDATE alerts a SET
        last_at = n.last_at, cleared_at = n.cleared_at, occurrences = n.occurrences,
        late_occurrences = n.late_occurrences, clear_streak = n.clear_streak, worst = n.worst, severity = n.severity,
        value = coalesce(n.value, a.value), sample_time = coalesce(n.sample_time, a.sample_time),
        sample_id = coalesce(n.sample_id, a.sample_id), device_id = n.device_id,
        site_code = coalesce(n.site_code, a.site_code)
    FROM {_NEW} AS n ({", ".join(COLUMNS)}) WHERE a.id = n.id RETURNING a.*
"""
INSERT: Final = f"""
    INSERT INTO alerts ({", ".join(COLUMNS)}, devices) SELECT *, '{{}}' FROM {_NEW} RETURNING *
"""
ACKNOWLEDGE: Final = """
    UPDATE alerts SET acknowledged_at = $2, acknowledged_by = $3, comment = coalesce($4, comment)
    WHERE id = $1 AND acknowledged_at IS NULL RETURNING *
"""
FILTERS: Final = {
    "device_id": "(device_id = {0} OR {0} = ANY(devices))",
    "site_code": "(site_code = {0} OR site_code IS NULL)",  # what concerns all sites concerns each
    "rule": "rule = {}",
    "severity": "severity = {}",
    "open": "(cleared_at IS NULL) = {}",
    "acknowledged": "(acknowledged_at IS NOT NULL) = {}",
}
_CLOCK_OFF: Final = int(Flag.IMPLAUSIBLE_CLOCK)
log = get_logger("gaveurs.alerts")


@dataclass(frozen=True, slots=True)
class DeviceAlerts:
    """What a commit must know of a device beforehand: its open rules, and how far its clock runs from ours."""

    open_rules: frozenset[str] = frozenset()
    clock_ahead_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Narrows a list; None does not."""

    device_id: str | None = None
    site_code: str | None = None
    rule: str | None = None
    severity: str | None = None
    open: bool | None = None
    acknowledged: bool | None = None


class ReadingAlerts:
    """The alerts that readings open, keep and clear."""

    def __init__(self, rules: AlertRules) -> None:
        self._rules = rules

    async def note(
        self,
        connection: Connection,
        samples: Sequence[Mapping[str, Any]],
        devices: Mapping[str, DeviceAlerts],
        *,
        live: bool,
    ) -> list[dict[str, Any]]:
        """Let committed rows of `samples`, in the order of their devices' times, change alerts in the caller's
        transaction; the alerts that were opened or cleared, as REST shows them. All count as late unless `live`.

        Nearly all groups raise nothing while nothing is open: those cost no statement.
        """
        readings = self._concerned(samples, devices, live=live)
        if not readings:
            return []
        held = await self._hold(connection, readings)
        changed: list[tuple[Any, ...]] = []
        begun: list[tuple[Any, ...]] = []
        phantoms: list[UUID] = []
        for key in sorted(readings):
            subject, rule = key[0], self._rules.by_name[key[1]]
            alert_id, now = held[key]
            episodes = self._rules.advance(rule, now, readings[key])
            if not episodes and now is None:
                phantoms.append(alert_id)
            for number, episode in enumerate(episodes):
                rows = begun if number else changed
                rows.append(_row(uuid7() if number else alert_id, subject, rule, episode))
        if phantoms:  # of alerts that were cleared between our two looks
            await connection.execute("DELETE FROM alerts WHERE id = ANY($1)", phantoms)
        was_open = {alert_id for alert_id, now in held.values() if now is not None}
        records = await connection.fetch(UPDATE, *map(list, zip(*changed, strict=True))) if changed else []
        records += await connection.fetch(INSERT, *map(list, zip(*begun, strict=True))) if begun else []
        return [
            as_item(record) for record in records if record["cleared_at"] is not None or record["id"] not in was_open
        ]

    def _concerned(
        self, samples: Sequence[Mapping[str, Any]], devices: Mapping[str, DeviceAlerts], *, live: bool
    ) -> dict[tuple[str, str], list[Occurrence]]:
        """For each (device, rule) that is raised now or has an open alert, all the device's readings in their order."""

        def is_late(sample: Mapping[str, Any]) -> bool:
            # A clock that is plainly wrong says nothing of when it was: such a reading counts as of now.
            clock_off = sample["flags"] & _CLOCK_OFF
            times = (sample["received_at"], sample["device_time"], devices[sample["device_id"]].clock_ahead_s)
            return not live or (not clock_off and self._rules.is_late(*times))

        concerned = {
            device_id: {name for name in known.open_rules if name in self._rules.by_name}
            for device_id, known in devices.items()
        }
        for sample in samples:
            if (raised := self._rules.raised_by(sample)) and not is_late(sample):
                concerned[sample["device_id"]].update(raised)
        occurrences: dict[str, list[Occurrence]] = defaultdict(list)
        for sample in sorted(
            (sample for sample in samples if concerned[sample["device_id"]]),
            key=lambda sample: (sample["device_time"], sample["id"]),
        ):
            occurrences[sample["device_id"]].append(Occurrence(sample, is_late(sample)))
        return {
            (device_id, name): of_device
            for device_id, of_device in occurrences.items()
            for name in concerned[device_id]
        }

    async def _hold(
        self, connection: Connection, readings: Mapping[tuple[str, str], Sequence[Occurrence]]
    ) -> dict[tuple[str, str], tuple[UUID, Episode | None]]:
        """The id of each open alert, locked until the transaction ends, with its state; None where it is new."""
        keys = sorted(readings)
        ids = [uuid7() for _ in keys]
        starts = [readings[key][0].received_at for key in keys]
        records = await connection.fetch(HOLD, ids, starts, [key[0] for key in keys], [key[1] for key in keys])
        made = set(ids)
        return {
            (record["subject"], record["rule"]): (record["id"], None if record["id"] in made else _episode(record))
            for record in records
        }


def _episode(record: asyncpg.Record) -> Episode:
    return Episode(
        opened_at=record["opened_at"],
        last_at=record["last_at"],
        worst=round(record["worst"] * MICRO),
        occurrences=record["occurrences"],
        late_occurrences=record["late_occurrences"],
        clear_streak=record["clear_streak"],
    )


def _row(alert_id: UUID, subject: str, rule: Rule, episode: Episode) -> tuple[Any, ...]:
    last: Mapping[str, Any] = episode.last or {}
    value = last[rule.measure] / MICRO if last else None
    return (
        alert_id, episode.opened_at, episode.last_at, episode.cleared_at,
        episode.occurrences, episode.late_occurrences, episode.clear_streak, value, episode.worst / MICRO,
        last.get("device_time"), last.get("sample_id"), rule.name, rule.severity, subject,
        subject, last.get("site_code"),
    )  # fmt: skip


def log_alerts(changed: Sequence[Mapping[str, Any]]) -> None:
    """A line for each alert that was opened or cleared."""
    for alert in changed:
        said = {name: alert[name] for name in ("rule", "severity", "device_id", "site_code", "value", "occurrences")}
        if alert["state"] == "open":
            log.warning("alert opened", alert_id=str(alert["id"]), devices=len(alert["devices"]), **said)
        else:
            log.info("alert cleared", alert_id=str(alert["id"]), **said)


async def list_alerts(
    connection: Connection, wanted: AlertFilter, cursor: Cursor | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """One page, newest first by opening, and where to go on."""
    conditions, arguments = ["true"], []
    for name, comparison in FILTERS.items():
        if (value := getattr(wanted, name)) is not None:
            arguments.append(value)
            conditions.append(comparison.format(f"${len(arguments)}"))
    if cursor is not None:
        arguments += [cursor.time, cursor.id]
        conditions.append(f"(opened_at, id) < (${len(arguments) - 1}, ${len(arguments)})")
    records = await connection.fetch(
        f"SELECT * FROM alerts WHERE {' AND '.join(conditions)} ORDER BY opened_at DESC, id DESC LIMIT {limit + 1:d}",
        *arguments,
    )
    more = Cursor(records[limit - 1]["opened_at"], records[limit - 1]["id"]) if len(records) > limit else None
    return [as_item(record) for record in records[:limit]], more


async def one_alert(connection: Connection, alert_id: UUID) -> dict[str, Any]:
    record = await connection.fetchrow("SELECT * FROM alerts WHERE id = $1", alert_id)
    if record is None:
        raise NotFoundError("there is no such alert")
    return as_item(record)


async def acknowledge(
    connection: Connection, alert_id: UUID, who: str, comment: str | None, now: datetime
) -> tuple[dict[str, Any], bool]:
    """Say that somebody knows, open or cleared; the first to say so stays. The alert, and whether that was now."""
    record = await connection.fetchrow(ACKNOWLEDGE, alert_id, now, who, comment)
    return (as_item(record), True) if record is not None else (await one_alert(connection, alert_id), False)


def as_item(record: Row) -> dict[str, Any]:
    """An alert as REST and the live feed show it."""
    item = {name: record[name] for name in SHOWN}
    item["state"] = "open" if record["cleared_at"] is None else "cleared"
    item["acknowledged"] = record["acknowledged_at"] is not None
    return item


SHOWN: Final = (
    "id", "rule", "severity", "device_id", "site_code", "devices", "opened_at", "last_at", "cleared_at",
    "occurrences", "late_occurrences", "value", "worst", "sample_id", "sample_time",
    "acknowledged_at", "acknowledged_by", "comment",
)  # fmt: skip
