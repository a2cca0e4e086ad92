"""How well bugs are dealt with: how soon they are acknowledged and resolved, how old the open ones are, which of them
come back, which devices and firmware have most of them, and how service levels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from app.bugs.service_levels import LevelSQL
from app.bugs.vocabulary import SEVERITIES, UNSETTLED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from app.bugs.service_levels import ServiceLevels
    from app.core.database import Connection, Row

    DeviceHours = Callable[[Connection, datetime, datetime], Awaitable[dict[str, int]]]

DEFAULT_RANGE: Final = timedelta(days=90)
MOST_GROUPS: Final = 50
# Each percentile is a sort of all its values. Bugs of a range lie side by side: an index leads there for less than the
# planner, which thinks of turning disks, believes.
HINTS: Final = "SELECT set_config('work_mem', '32MB', true), set_config('random_page_cost', '1.1', true)"
_OPEN: Final = f"bugs.status IN ({', '.join(repr(status) for status in sorted(UNSETTLED))})"
_TO_ACKNOWLEDGE_H: Final = "date_part('epoch', bugs.acknowledged_at - bugs.created_at) / 3600"
_TO_RESOLVE_H: Final = "date_part('epoch', bugs.resolved_at - bugs.created_at) / 3600"
_REOPENED: Final = "count(*) FILTER (WHERE bugs.reopened > 0)"
OVERALL: Final = f"""
    SELECT count(*) AS count, {_REOPENED} AS reopened,
           count(*) FILTER (WHERE bugs.reopened > 0 OR NOT {_OPEN}) AS ever_settled,
           count(bugs.acknowledged_at) AS mtta_count, count(bugs.resolved_at) AS mttr_count,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY {_TO_ACKNOWLEDGE_H}) AS mtta,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY {_TO_RESOLVE_H}) AS mttr
    FROM bugs WHERE {{where}}
"""
# Of those that have most alone: a median for each of all devices would sort every bug by device.
GROUPED: Final = f"""
    WITH most AS (
        SELECT {{column}} AS name FROM bugs WHERE {{where}} AND {{column}} IS NOT NULL
        GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MOST_GROUPS}
    )
    SELECT {{column}} AS name, count(*) AS count, count(*) FILTER (WHERE {_OPEN}) AS open, {_REOPENED} AS reopened,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY {_TO_RESOLVE_H}) AS mttr_median
    FROM bugs WHERE {{where}} AND {{column}} IN (SELECT name FROM most) GROUP BY 1 ORDER BY 2 DESC, 1
"""
AGES: Final = {"up_to1_day": (0, 1), "up_to7_days": (1, 7), "up_to30_days": (7, 30), "up_to90_days": (30, 90)}
"""Days: from, inclusive, to, exclusive. The rest is older."""
OLDER: Final = "over90_days"


@dataclass(frozen=True, slots=True)
class Scope:
    """Bugs created in a range, half-open, and narrowed; None does not narrow."""

    time_from: datetime
    time_to: datetime
    device: str | None = None
    firmware: str | None = None
    severity: str | None = None
    category: str | None = None

    def where(self, *, ranged: bool = True) -> tuple[str, list[Any]]:
        """(SQL over `bugs`, its arguments)"""
        conditions, arguments = ["true"], list[Any]()
        if ranged:
            conditions, arguments = ["bugs.created_at >= $1", "bugs.created_at < $2"], [self.time_from, self.time_to]
        for column, value in (
            ("device_id", self.device),
            ("firmware_version", self.firmware),
            ("severity", self.severity),
            ("category", self.category),
        ):
            if value is not None:
                arguments.append(value)
                conditions.append(f"bugs.{column} = ${len(arguments)}")
        return " AND ".join(conditions), arguments


async def figures(connection: Connection, scope: Scope, levels: ServiceLevels, hours: DeviceHours) -> dict[str, Any]:
    """All figures of a scope at one moment; `ageing` is of all that are open, whenever they were created.

    By how many device-hours: not known where one firmware is asked for. Rates are null where nothing can be divided by.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(HINTS)
        where, arguments = scope.where()
        record = await connection.fetchrow(OVERALL.format(where=where), *arguments)
        devices = await connection.fetch(GROUPED.format(where=where, column="bugs.device_id"), *arguments)
        firmware = await connection.fetch(GROUPED.format(where=where, column="bugs.firmware_version"), *arguments)
        ageing, kept = await _ageing(connection, scope, levels.now), await _levels(connection, scope, levels)
        used = await _used(connection, scope, hours)
    assert record is not None
    used_h = None if used is None else sum(used.values())
    return {
        "from": scope.time_from,
        "to": scope.time_to,
        "count": record["count"],
        "mtta": _times(record, "mtta"),
        "mttr": _times(record, "mttr"),
        "ageing": ageing,
        "reopen_rate": record["reopened"] / record["ever_settled"] if record["ever_settled"] else None,
        "sla": kept,
        "device_hours": used_h,
        "per_thousand_device_hours": _per_thousand(record["count"], used_h),
        "by_device": [_device(one, used) for one in devices],
        "by_firmware": [dict(one) for one in firmware],
    }


def _times(record: Row, name: str) -> dict[str, Any]:
    median, p90 = record[name] or (None, None)
    return {"median": median, "p90": p90, "count": record[f"{name}_count"]}


def _per_thousand(count: int, hours: int | None) -> float | None:
    return 1_000 * count / hours if hours else None


def _device(record: Any, used: dict[str, int] | None) -> dict[str, Any]:
    hours = None if used is None else used.get(record["name"], 0)
    rate = _per_thousand(record["count"], hours)
    return dict(record) | {"device_hours": hours, "per_thousand_device_hours": rate}


async def _used(connection: Connection, scope: Scope, hours: DeviceHours) -> dict[str, int] | None:
    if scope.firmware is not None:
        return None
    used = await hours(connection, scope.time_from, scope.time_to)
    return used if scope.device is None else {scope.device: used.get(scope.device, 0)}


async def _ageing(connection: Connection, scope: Scope, now: datetime) -> dict[str, Any]:
    where, arguments = scope.where(ranged=False)
    age_h = f"greatest(0, date_part('epoch', ${len(arguments) + 1}::timestamptz - bugs.created_at)) / 3600"
    counted = ", ".join(
        f"count(*) FILTER (WHERE age_h >= {24 * begin} AND age_h < {24 * end}) AS {name}"
        for name, (begin, end) in AGES.items()
    )
    oldest_h = 24 * max(end for _, end in AGES.values())
    records = await connection.fetch(
        f"SELECT severity, {counted}, count(*) FILTER (WHERE age_h >= {oldest_h}) AS {OLDER},"
        f" percentile_cont(0.5) WITHIN GROUP (ORDER BY age_h) AS median_age_hours"
        f" FROM (SELECT bugs.severity, {age_h} AS age_h FROM bugs WHERE {where} AND {_OPEN}) AS aged GROUP BY 1",
        *arguments,
        now,
    )
    nothing = dict.fromkeys((*AGES, OLDER), 0) | {"median_age_hours": None}
    return _by_severity(records, nothing)


async def _levels(connection: Connection, scope: Scope, levels: ServiceLevels) -> dict[str, Any]:
    """How many met their target, breached it, or are within it or beyond it and not yet done: these four are all."""
    where, arguments = scope.where()
    said = LevelSQL(len(arguments) + 1)
    parts = {
        "acknowledge": ("bugs.acknowledged_at IS NOT NULL", f"{said.acknowledge_s} > {said.acknowledge_target_s}"),
        "resolve": (f"NOT {_OPEN}", f"{said.resolve_s} > {said.resolve_target_s}"),
    }
    counted = [
        f"count(*) FILTER (WHERE {done} AND {over}) AS {clock}_{name}"
        for clock, (is_done, is_over) in parts.items()
        for name, done, over in (
            ("met", is_done, f"NOT ({is_over})"),
            ("breached", is_done, is_over),
            ("running", f"NOT ({is_done})", f"NOT ({is_over})"),
            ("breached_open", f"NOT ({is_done})", is_over),
        )
    ]
    records = await connection.fetch(
        f"SELECT bugs.severity, {', '.join(counted)} FROM bugs WHERE {where} GROUP BY 1",
        *arguments,
        *levels.arguments(),
    )
    names = ("met", "breached", "running", "breached_open")
    nothing = {f"{clock}_{name}": 0 for clock in parts for name in names}
    flat = _by_severity(records, nothing)
    return {
        severity: {clock: {name: counts[f"{clock}_{name}"] for name in names} for clock in parts}
        for severity, counts in flat.items()
    }


def _by_severity(records: list[Any], nothing: dict[str, Any]) -> dict[str, Any]:
    found = {record["severity"]: record for record in records}
    return {
        severity: {name: found[severity][name] for name in nothing} if severity in found else nothing
        for severity in SEVERITIES
    }
