"""The outbox of webhooks: what is to be told to whom, written with what it tells of and kept until it was delivered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from app.core.clock import iso
from app.core.cursor import Cursor
from app.core.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from app.core.database import Connection

PING: Final = "ping"
DELIVERED_KEPT: Final = timedelta(days=7)
DEAD_KEPT: Final = timedelta(days=30)
MOST_WAITING: Final = 10_000
"""For one webhook: of more, the oldest are given up."""
PURGED_AT_ONCE: Final = 5_000
NO_SUCH_DELIVERY: Final = "there is no such delivery"
WITHHELD: Final = "it is internal, and the webhook is not told of that"
SHOWN: Final = (
    "id, webhook_id, kind AS event, state, attempts, last_status, last_error, created_at, next_at, delivered_at"
)

# The end of a statement whose `told` are new events: of bug $2, at $3, by $5. The body is made of what the transaction
# sees. A webhook that is being deleted is waited for, then passed over: its rows would point nowhere.
ENQUEUE: Final = """
    INSERT INTO bug_deliveries (id, webhook_id, created_at, next_at, is_internal, state, kind, body)
    SELECT gen_random_uuid(), w.id, $3, $3, told.is_internal OR coalesce(c.is_internal, false), 'waiting',
        'bug.' || told.kind, json_build_object(
        'id', told.id,
        'event', 'bug.' || told.kind,
        'at', to_char($3 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'bug', json_build_object(
            'id', b.id, 'number', b.number, 'title', b.title, 'status', b.status, 'severity', b.severity,
            'priority', b.priority, 'deviceId', b.device_id, 'url', '/api/bugs/' || b.id),
        'change', CASE WHEN told.old IS NOT NULL OR told.new IS NOT NULL
            THEN json_build_object('field', told.field, 'old', told.old, 'new', told.new) END,
        'comment', CASE WHEN c.id IS NOT NULL THEN json_build_object(
            'id', c.id, 'author', c.author, 'isInternal', c.is_internal, 'comment', c.body) END,
        'actor', json_build_object('id', $5::text, 'name', k.name)
    )::text
    FROM bug_webhooks w CROSS JOIN told JOIN bugs b ON b.id = $2
    LEFT JOIN bug_comments c ON (w.include_internal OR NOT c.is_internal) AND c.bug_id = b.id AND c.id =
        CASE WHEN told.kind IN ('commented', 'comment_edited') THEN (told.new ->> 'commentId')::uuid END
    LEFT JOIN api_keys k ON k.key_id = $5
    WHERE w.enabled AND (w.include_internal OR NOT told.is_internal)
        AND w.events && ARRAY['*', 'bug.' || told.kind]
    FOR KEY SHARE OF w
"""
ADD: Final = f"""
    INSERT INTO bug_deliveries (id, webhook_id, created_at, next_at, state, kind, body)
    VALUES ($1, $2, $3, $3, 'waiting', $4, $5) RETURNING {SHOWN}
"""
# A webhook may be told of less now, or be somebody else's, than when this was written for it.
MAY_GO: Final = "(w.include_internal OR NOT d.is_internal)"
WITHHOLD: Final = f"""
    UPDATE bug_deliveries SET state = 'dead', next_at = $1, last_error = '{WITHHELD}' WHERE id IN (
        SELECT d.id FROM bug_deliveries d JOIN bug_webhooks w ON w.id = d.webhook_id
        WHERE d.state = 'waiting' AND d.is_internal AND d.next_at <= $1 AND NOT {MAY_GO}
        FOR UPDATE OF d SKIP LOCKED)
"""
# One for each webhook of which nothing is being sent by us; taken from the other processes until $2.
CLAIM: Final = f"""
    WITH due AS MATERIALIZED (
        SELECT first.id, w.id AS webhook_id, w.url, w.secret FROM bug_webhooks w CROSS JOIN LATERAL (
            SELECT d.id FROM bug_deliveries d WHERE d.webhook_id = w.id AND d.state = 'waiting' AND d.next_at <= $1
                AND {MAY_GO}
            ORDER BY d.next_at LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS first WHERE w.enabled AND w.id <> ALL($3::uuid[])
    )
    UPDATE bug_deliveries d SET next_at = $2 FROM due WHERE d.id = due.id
    RETURNING d.id, due.webhook_id, due.url, due.secret, d.kind, d.body, d.attempts
"""
DONE: Final = """
    UPDATE bug_deliveries SET state = $2, next_at = $3, attempts = attempts + 1, last_status = $4, last_error = $5,
        delivered_at = CASE WHEN $2 = 'delivered' THEN $3::timestamptz END
    WHERE id = $1 AND state = 'waiting'
"""
# Its webhook is gone: what waits for it will never be taken.
DISABLE: Final = "UPDATE bug_webhooks SET enabled = false WHERE id = $1"
CLOSE: Final = """
    UPDATE bug_deliveries SET state = 'dead', last_error = 'the webhook is gone'
    WHERE webhook_id = $1 AND state = 'waiting' AND id <> $2
"""
RESEND: Final = f"""
    UPDATE bug_deliveries SET state = 'waiting', next_at = $3, attempts = 0, delivered_at = NULL, last_status = NULL,
        last_error = NULL
    WHERE webhook_id = $1 AND id = $2 RETURNING {SHOWN}
"""
# While the webhook is as it is.
ASK: Final = f"""
    SELECT w.enabled, {MAY_GO} AS may_go FROM bug_webhooks w JOIN bug_deliveries d ON d.webhook_id = w.id
    WHERE w.id = $1 AND d.id = $2 FOR SHARE OF w
"""
PURGE: Final = f"""
    DELETE FROM bug_deliveries WHERE id IN (
        SELECT id FROM bug_deliveries WHERE state = 'delivered' AND delivered_at < $1 OR state = 'dead' AND next_at < $2
        LIMIT {PURGED_AT_ONCE})
"""
GIVE_UP: Final = f"""
    UPDATE bug_deliveries SET state = 'dead', next_at = $1, last_error = 'too many others wait'
    WHERE state = 'waiting' AND id IN (SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY webhook_id ORDER BY created_at DESC, id DESC) AS place
        FROM bug_deliveries WHERE state = 'waiting') AS ranked WHERE place > {MOST_WAITING})
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """To be sent now, by us alone for a while. `attempts`: how many failed before."""

    id: UUID
    webhook_id: UUID
    url: str
    secret: str
    kind: str
    body: str
    attempts: int


async def claim(connection: Connection, now: datetime, lease: timedelta, busy: Collection[UUID]) -> list[Claimed]:
    """At most one delivery of each enabled webhook that is not `busy`. Whoever does not say what became of one in time
    leaves it to be claimed again.
    """
    records = await connection.fetch(CLAIM, now, now + lease, list(busy))
    return [Claimed(**record) for record in records]


async def withhold(connection: Connection, now: datetime) -> int:
    """Give up what is due and internal, where its webhook is not told of that any more; how many. `claim` passes them
    over in any case.
    """
    withheld: str = await connection.execute(WITHHOLD, now)
    return int(withheld.rsplit(maxsplit=1)[-1])


async def settle(
    connection: Connection, delivery_id: UUID, state: str, at: datetime, status: int | None, error: str | None
) -> None:
    """What became of an attempt: `delivered` or `dead` at, or `waiting` until `at`."""
    await connection.execute(DONE, delivery_id, state, at, status, error)


async def close_webhook(connection: Connection, webhook_id: UUID, but: UUID) -> None:
    """Send it nothing any more; what waits for it is dead, `but` for one. In the caller's transaction, before that one
    is settled: whoever deletes a webhook goes the same way, from it to its deliveries.
    """
    await connection.execute(DISABLE, webhook_id)
    await connection.execute(CLOSE, webhook_id, but)


async def ping(connection: Connection, webhook_id: UUID, actor: str, now: datetime) -> dict[str, Any]:
    """A delivery that says nothing but that it works."""
    delivery_id = uuid4()
    body = {"id": str(delivery_id), "event": PING, "at": iso(now), "actor": {"id": actor}}
    record = await connection.fetchrow(ADD, delivery_id, webhook_id, now, PING, json.dumps(body))
    assert record is not None
    return dict(record)


async def list_deliveries(
    connection: Connection, webhook_id: UUID, state: str | None, after: Cursor | None, limit: int
) -> tuple[list[dict[str, Any]], Cursor | None]:
    """One page, newest first, and where to go on."""
    conditions = "webhook_id = $1"
    arguments: list[Any] = [webhook_id, state]
    if after is not None:
        conditions += " AND (created_at, id) < ($3, $4)"
        arguments += [after.time, after.id]
    records = await connection.fetch(
        f"SELECT {SHOWN} FROM bug_deliveries WHERE {conditions} AND ($2::text IS NULL OR state = $2)"
        f" ORDER BY created_at DESC, id DESC LIMIT {limit + 1:d}",
        *arguments,
    )
    more = Cursor(records[limit - 1]["created_at"], records[limit - 1]["id"]) if len(records) > limit else None
    return [dict(record) for record in records[:limit]], more


async def one_delivery(connection: Connection, webhook_id: UUID, delivery_id: UUID) -> dict[str, Any]:
    """With what is sent. NotFoundError for one that is not there."""
    record = await connection.fetchrow(
        f"SELECT {SHOWN}, body FROM bug_deliveries WHERE webhook_id = $1 AND id = $2", webhook_id, delivery_id
    )
    if record is None:
        raise NotFoundError(NO_SUCH_DELIVERY)
    return dict(record) | {"body": json.loads(record["body"])}


async def resend(connection: Connection, webhook_id: UUID, delivery_id: UUID, now: datetime) -> dict[str, Any]:
    """Send it (again) now, with all its attempts before it, in the caller's transaction. NotFoundError for one that is
    not there; ConflictError when its webhook is disabled, or is not told of what is internal and this is.
    """
    found = await connection.fetchrow(ASK, webhook_id, delivery_id)
    if found is None:
        raise NotFoundError(NO_SUCH_DELIVERY)
    if not found["enabled"]:
        raise ConflictError("the webhook is disabled")
    if not found["may_go"]:
        raise ConflictError(WITHHELD)
    record = await connection.fetchrow(RESEND, webhook_id, delivery_id, now)
    if record is None:
        raise NotFoundError(NO_SUCH_DELIVERY)
    return dict(record)


async def count_waiting(connection: Connection) -> int:
    waiting: int = await connection.fetchval("SELECT count(*) FROM bug_deliveries WHERE state = 'waiting'")
    return waiting


async def purge(connection: Connection, now: datetime) -> int:
    """Forget what is long done, give up what is too much; how many were given up."""
    await connection.execute(PURGE, now - DELIVERED_KEPT, now - DEAD_KEPT)
    given_up: str = await connection.execute(GIVE_UP, now)
    return int(given_up.rsplit(maxsplit=1)[-1])
