"""What was done to a bug: append-only events, written in the transaction of what they tell of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.bugs.bug import NO_SUCH_BUG
from app.bugs.deliveries import ENQUEUE
from app.core.cursor import Cursor
from app.core.errors import NotFoundError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from app.bugs.audience import Audience
    from app.core.database import Connection, Row

# With what webhooks are told of it: in one statement, which costs nothing more where there are none.
INSERT: Final = f"""
    WITH told AS (
        INSERT INTO bug_events (id, bug_id, at, version, is_internal, actor, kind, field, old, new)
        SELECT id, $2, $3, $4, is_internal, $5, kind, field, old::jsonb, new::jsonb
        FROM unnest($1::uuid[], $6::bool[], $7::text[], $8::text[], $9::text[], $10::text[])
             AS given (id, is_internal, kind, field, old, new)
        RETURNING id, is_internal, kind, field, old, new
    ) {ENQUEUE}
"""
# The name that an API key was made under says who that is.
SELECT: Final = """
    SELECT e.id, e.at, e.version, e.is_internal, e.actor, k.name AS actor_name, e.kind, e.field, e.old, e.new
    FROM bug_events e LEFT JOIN api_keys k ON k.key_id = e.actor WHERE e.bug_id = $1 AND
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `created`, `changed` (with a field), `commented`, `comment_edited`, `attached`, `detached`, `linked`,
    `unlinked`, `seen` (by telemetry). `old` and `new` are JSON values, in wire form.
    """

    kind: str
    field: str | None = None
    old: Any = None
    new: Any = None
    is_internal: bool = False


async def record(
    connection: Connection, bug_id: UUID, version: int, actor: str, now: datetime, events: Iterable[Event]
) -> None:
    """Add events in the caller's transaction."""
    told = list(events)
    if not told:
        return
    await connection.execute(
        INSERT,
        [uuid7() for _ in told],
        bug_id,
        now,
        version,
        actor,
        [event.is_internal for event in told],
        [event.kind for event in told],
        [event.field for event in told],
        [_json(event.old) for event in told],
        [_json(event.new) for event in told],
    )


async def list_history(
    connection: Connection, bug_id: UUID, audience: Audience, cursor: Cursor | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """One page, oldest first, and where to go on. NotFoundError for an unknown bug."""
    conditions = audience.visible("e")
    arguments: list[Any] = [bug_id]
    if cursor is not None:
        conditions += " AND (e.at, e.id) > ($2, $3)"
        arguments += [cursor.time, cursor.id]
    records = await connection.fetch(f"{SELECT} {conditions} ORDER BY e.at, e.id LIMIT {limit + 1:d}", *arguments)
    if not records and not await connection.fetchval("SELECT true FROM bugs WHERE id = $1", bug_id):
        raise NotFoundError(NO_SUCH_BUG)
    more = Cursor(records[limit - 1]["at"], records[limit - 1]["id"]) if len(records) > limit else None
    return [as_item(one) for one in records[:limit]], more


async def changes_since(
    connection: Connection, bug_id: UUID, audience: Audience, version: int, most: int = 50
) -> list[dict[str, Any]]:
    """What was done after a version of a bug, oldest first: what an editor who had that one has not seen."""
    records = await connection.fetch(
        f"{SELECT} {audience.visible('e')} AND e.version > $2 ORDER BY e.at, e.id LIMIT $3", bug_id, version, most
    )
    return [as_item(one) for one in records]


def as_item(record: Row) -> dict[str, Any]:
    item = {name: record[name] for name in ("id", "at", "version", "is_internal", "actor", "actor_name")}
    item |= {name: record[name] for name in ("kind", "field")}
    return item | {name: None if record[name] is None else json.loads(record[name]) for name in ("old", "new")}


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)
