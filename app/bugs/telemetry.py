"""Bugs from telemetry: every few seconds the alerts are compared with what the tracker has counted of them.

An alert says how often it was raised, `bug_alerts` how much of that is counted: the difference, the bug, its counts and
its history change in one transaction. So nothing is lost or counted twice, whenever a process ends, and whichever
process of all does it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import asyncpg

from app.bugs import history, tracker
from app.bugs.affected import note_affected
from app.bugs.audience import Audience
from app.bugs.bug import hold_bug
from app.bugs.fingerprints import find_bug, remember
from app.bugs.history import Event
from app.bugs.rule_settings import read_rules
from app.bugs.telemetry_rules import ACTOR, Share, TelemetryRule, fingerprint, report, shares
from app.core.clock import iso
from app.core.database import is_away
from app.core.errors import AppError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from app.bugs.telemetry_rules import Reading, Sighting
    from app.core.clock import Clock
    from app.core.database import Connection, Database, Row

LOCK_KEY: Final = 0x6275_6773  # "bugs": one process counts at a time
DEADLINE_S: Final = 30.0
PAGE: Final = 500
MOMENT: Final = timedelta(microseconds=1)
NOBODY: Final = UUID(int=0)
FIRST_LOOK: Final = timedelta(days=1)
"""How long ago an alert may have been cleared that a process still counts after its start."""
TRY_LOCK: Final = "SELECT pg_try_advisory_xact_lock($1)"
COUNTED: Final = "SELECT alert_id, counted FROM bug_alerts WHERE alert_id = ANY($1)"
KEPT: Final = "SELECT bug_id, counted, last_at FROM bug_alerts WHERE alert_id = $1"
MARK: Final = """
    INSERT INTO bug_alerts AS kept (alert_id, counted, last_at)
    SELECT * FROM unnest($1::uuid[], $2::int8[], $3::timestamptz[])
    ON CONFLICT (alert_id) DO UPDATE SET counted = greatest(kept.counted, excluded.counted), last_at = excluded.last_at
"""
KEEP: Final = """
    INSERT INTO bug_alerts (alert_id, bug_id, counted, last_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (alert_id) DO UPDATE SET bug_id = excluded.bug_id, counted = excluded.counted,
        last_at = excluded.last_at
"""
COUNT: Final = """
    UPDATE bugs SET occurrences = occurrences + $2, updated_at = greatest(updated_at, $3) WHERE id = $1
"""
log = get_logger("gaveurs.bugs")


class Touched(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def occurrences(self) -> int: ...


class Alerts(Protocol):
    """Where alerts are read; it knows nothing of bugs."""

    async def touched(
        self, connection: Connection, since: datetime, after: UUID | None, limit: int
    ) -> Sequence[Touched]:
        """Every alert that is open, or was cleared since then, in the order of their ids: a page."""
        ...

    async def sightings(self, connection: Connection, alert_ids: Sequence[UUID]) -> Sequence[Sighting]:
        """Those, in the order in which they were last raised."""
        ...

    async def readings(
        self, connection: Connection, rule: str, device_id: str | None, since: datetime, until: datetime
    ) -> Sequence[Reading]:
        """Of a device, those that raised a rule after `since` and until then, in the order in which they came; the
        newest alone where they are many.
        """
        ...


class BugsFromTelemetry:
    """The task that makes bugs of alerts. `overlap_s`: how long after its time a change of an alert is committed at
    the latest, by clocks that may differ. `on_change` is told of bugs opened and reopened.
    """

    def __init__(
        self,
        clock: Clock,
        alerts: Alerts,
        *,
        every_s: float,
        overlap_s: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._alerts = alerts
        self._every_s = every_s
        self._on_change = on_change
        self._overlap = timedelta(seconds=overlap_s)
        self._read_to: datetime | None = None

    async def run(self, database: Database) -> None:
        """Look every few seconds; runs until cancelled."""
        while True:
            try:
                await self.look(database)
            except AppError as error:
                log.warning("alerts cannot be counted", reason=error.code)
            except asyncpg.PostgresError:
                log.exception("counting alerts failed")
            await asyncio.sleep(self._every_s)

    async def look(self, database: Database) -> None:
        """One round; it ends early, and is made up for by the next, when another process is at it."""
        began = self._clock.now()
        since = min(self._read_to or began - FIRST_LOOK, began) - self._overlap
        after: UUID | None = None
        while True:
            async with database.connection(DEADLINE_S) as connection:
                page = await self._alerts.touched(connection, since, after, PAGE)
                counted = {one["alert_id"]: one["counted"] for one in await connection.fetch(COUNTED, _ids(page))}
                changed = [one for one in page if one.occurrences > counted.get(one.id, 0)]
                if changed and not await self._deal_with(connection, _ids(changed)):
                    return
            if len(page) < PAGE:
                break
            after = page[-1].id
        self._read_to = began

    async def _deal_with(self, connection: Connection, alert_ids: Sequence[UUID]) -> bool:
        """False when another process is at it."""
        rules = await read_rules(connection)
        seen = [one for one in await self._alerts.sightings(connection, alert_ids) if one.rule in rules]
        passed = [one for one in seen if rules[one.rule].passes_over(one)]
        if passed and not await _pass_over(connection, passed):
            return False
        for one in seen:
            if not rules[one.rule].passes_over(one) and not await self._count_or_say(connection, rules, one):
                return False
        return True

    async def _count_or_say(self, connection: Connection, rules: Mapping[str, TelemetryRule], seen: Sighting) -> bool:
        """One that cannot be counted does not hold up the others."""
        try:
            return await self._count(connection, rules[seen.rule], seen)
        except asyncpg.PostgresError as error:
            if is_away(error):
                raise
            log.exception("an alert cannot be counted", alert_id=str(seen.alert_id), rule=seen.rule)
            return True

    async def _count(self, connection: Connection, rule: TelemetryRule, seen: Sighting) -> bool:
        now = self._clock.now()
        async with connection.transaction():
            if not await connection.fetchval(TRY_LOCK, LOCK_KEY):
                return False
            kept = await connection.fetchrow(KEPT, seen.alert_id)
            times = seen.occurrences - (kept["counted"] if kept is not None else 0)
            if times <= 0:  # another process was faster
                return True
            told = await self._count_shares(connection, rule, seen, times, kept, now)
        for bug, made in told:
            self._on_change()
            log.warning(
                "telemetry opened a bug" if made else "telemetry reopened a bug",
                bug=bug["number"],
                rule=seen.rule,
                alert_id=str(seen.alert_id),
                device_id=seen.device_id,
            )
        return True

    async def _count_shares(
        self, connection: Connection, rule: TelemetryRule, seen: Sighting, times: int, kept: Row | None, now: datetime
    ) -> list[tuple[Row, bool]]:
        """The bugs that were made (true) or reopened (false)."""
        since = kept["last_at"] if kept is not None else seen.first_at - MOMENT
        readings = await self._alerts.readings(connection, seen.rule, seen.device_id, since, seen.seen_at)
        parts = shares(rule, seen, readings, times)
        known = [await find_bug(connection, fingerprint(rule, one.seen), one) for one in parts]
        told: list[tuple[Row, bool]] = []
        counted_in: dict[int, UUID] = {}
        # In the order of their ids, new ones last: no two who hold bugs wait in a circle.
        for place in sorted(range(len(parts)), key=lambda place: (known[place] is None, known[place] or NOBODY)):
            bug, made, back = await _count_share(connection, rule, parts[place], known[place], kept, now)
            counted_in[place] = bug["id"]
            told += [(bug, made)] if made or back else []
        last = counted_in[len(parts) - 1]
        await connection.execute(KEEP, seen.alert_id, last, seen.occurrences, seen.seen_at)
        return told


async def _count_share(
    connection: Connection, rule: TelemetryRule, share: Share, bug_id: UUID | None, kept: Row | None, now: datetime
) -> tuple[Row, bool, bool]:
    """The bug, and whether it was made, or reopened."""
    if bug_id is None:
        found = fingerprint(rule, share.seen)
        bug = await tracker.report_bug(connection, report(rule, share.seen, found), ACTOR, now, origin=ACTOR)
        await remember(connection, found, bug["id"], share)
    else:
        bug = await hold_bug(connection, bug_id)
    await connection.execute(COUNT, bug["id"], share.times, now)
    first_at = share.seen.first_at if kept is None else share.seen.seen_at
    await note_affected(connection, bug["id"], share, first_at)
    back = share.brings_back(bug)
    if back is not None or kept is None or kept["bug_id"] != bug["id"]:
        told = [_told(back or share.seen, share.times)]
        await history.record(connection, bug["id"], bug["version"], ACTOR, now, told)
    if back is not None:
        await tracker.change_bug(connection, bug["id"], {"status": "reopened"}, Audience.STAFF, ACTOR, now)
    return bug, bug_id is None, back is not None


async def _pass_over(connection: Connection, seen: Sequence[Sighting]) -> bool:
    """Alerts of rules that are off: as if counted, in no bug. False when another process is at it."""
    async with connection.transaction():
        if not await connection.fetchval(TRY_LOCK, LOCK_KEY):
            return False
        ids, counts = [one.alert_id for one in seen], [one.occurrences for one in seen]
        await connection.execute(MARK, ids, counts, [one.seen_at for one in seen])
    return True


def _told(seen: Sighting, times: int) -> Event:
    new: dict[str, Any] = {"alertId": str(seen.alert_id), "rule": seen.rule, "occurrences": times}
    new |= {"deviceId": seen.device_id, "firmwareVersion": seen.firmwares[0] if len(seen.firmwares) == 1 else None}
    return Event("seen", new=new | {"sampleId": seen.sample_id, "at": iso(seen.seen_at)})


def _ids(alerts: Sequence[Touched]) -> list[UUID]:
    return [one.id for one in alerts]
