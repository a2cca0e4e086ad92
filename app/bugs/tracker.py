"""Reporting bugs and changing them: a transaction each, in which the history is written too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic.alias_generators import to_camel

from app.bugs import history, links, workflow
from app.bugs.bug import CHANGEABLE, REPORTED, hold_bug
from app.bugs.history import Event
from app.core.clock import iso
from app.core.errors import PreconditionFailedError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from app.bugs.audience import Audience
    from app.core.database import Connection

_NEW: Final = ("id", "created_at", "updated_at", "status_changed_at", "status", "reporter_id", "origin")
INSERT: Final = f"""
    INSERT INTO bugs ({", ".join((*_NEW, *REPORTED))})
    VALUES ($1, $2, $2, $2, 'open', $3, $4, {", ".join(f"${n}" for n in range(5, 5 + len(REPORTED)))})
    RETURNING *
"""


class StaleError(PreconditionFailedError):
    """412: the bug is not the version that the change is good for; with what was done to it meanwhile."""

    def __init__(self, version: int, meanwhile: Sequence[Mapping[str, Any]]) -> None:
        told = [
            {"at": iso(one["at"]), "actor": one["actor"]}
            | {name: one[name] for name in ("kind", "field", "old", "new")}
            for one in meanwhile
        ]
        super().__init__("the bug was changed meanwhile", more={"currentVersion": version, "meanwhile": told})
        self.version = version


async def report_bug(
    connection: Connection, report: Mapping[str, Any], actor: str, now: datetime, *, origin: str = "report"
) -> asyncpg.Record:
    """A new bug, in the caller's transaction; `report` has members of REPORTED, absent ones are null."""
    said = {"tags": []} | {name: value for name, value in report.items() if value is not None}
    record = await connection.fetchrow(INSERT, uuid7(), now, actor, origin, *(said.get(name) for name in REPORTED))
    assert record is not None
    told = {name: record[name] for name in ("status", "severity", "priority", "category")}
    await history.record(connection, record["id"], record["version"], actor, now, [Event("created", new=told)])
    return record


async def change_bug(
    connection: Connection,
    bug_id: UUID,
    changes: Mapping[str, Any],
    audience: Audience,
    actor: str,
    now: datetime,
    if_match: Collection[int] | None = None,
) -> asyncpg.Record:
    """Change members of CHANGEABLE, in the caller's transaction; nothing happens where they are as wanted already.
    `duplicate_of` among them makes (None removes) the link that says of which bug it is a duplicate.

    `if_match`: the versions that the change is good for, None for any. Raises NotFoundError, StaleError,
    workflow.TransitionError (with what is allowed), BadRequestError.
    """
    if changes.get("status") == "reopened":
        changes = {"duplicate_of": None, **changes}  # what is open again is no duplicate
    linking = "duplicate_of" in changes
    held = await links.hold_duplicate(connection, bug_id, changes["duplicate_of"]) if linking else {}
    bug = await hold_bug(connection, bug_id)
    if if_match is not None and bug["version"] not in if_match:
        since = max(if_match, default=0)
        raise StaleError(bug["version"], await history.changes_since(connection, bug_id, audience, since))
    now = max(now, bug["updated_at"])  # a clock that runs behind another replica's takes no time back
    written = workflow.move(bug, {name: value for name, value in changes.items() if name != "duplicate_of"}, now)
    linking = linking and await links.duplicate_of(connection, bug_id) != changes["duplicate_of"]
    if written or linking:
        bug = await _write(connection, bug, written, actor, now)
    if linking:
        await links.set_duplicate(connection, bug_id, changes["duplicate_of"], held | {bug_id: bug}, actor, now)
    return bug


async def _write(
    connection: Connection, bug: asyncpg.Record, written: dict[str, Any], actor: str, now: datetime
) -> asyncpg.Record:
    """The next version, with its events."""
    written |= {"updated_at": now, "version": bug["version"] + 1}
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(written, 2))
    changed = await connection.fetchrow(
        f"UPDATE bugs SET {assignments} WHERE id = $1 RETURNING *", bug["id"], *written.values()
    )
    assert changed is not None
    events = [Event("changed", to_camel(name), bug[name], changed[name]) for name in CHANGEABLE if name in written]
    await history.record(connection, bug["id"], changed["version"], actor, now, events)
    return changed
