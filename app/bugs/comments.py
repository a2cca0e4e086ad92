"""What people say about a bug. Internal comments are staff's own: they touch nothing that others can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.bugs import history
from app.bugs.bug import NO_SUCH_BUG, hold_bug
from app.bugs.history import Event
from app.bugs.references import resolve
from app.core.cursor import Cursor
from app.core.errors import ConflictError, ForbiddenError, NotFoundError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from app.bugs.audience import Audience
    from app.core.database import Connection, Row

MOST: Final = 5_000
NO_SUCH_COMMENT: Final = "there is no such comment"
COLUMNS: Final = "c.id, c.bug_id, c.created_at, c.edited_at, c.is_internal, c.author_id, c.author, c.body"
INSERT: Final = f"""
    INSERT INTO bug_comments AS c (id, bug_id, created_at, is_internal, author_id, author, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {COLUMNS}
"""
COUNT: Final = {
    True: "UPDATE bugs SET internal_comments = internal_comments + 1 WHERE id = $1",
    False: "UPDATE bugs SET comments = comments + 1, updated_at = greatest(updated_at, $2) WHERE id = $1",
}
KEEP_FORMER: Final = """
    INSERT INTO bug_comment_versions (comment_id, replaced_at, replaced_by, body)
    SELECT id, $2, $3, body FROM bug_comments WHERE id = $1
"""
FORMER: Final = (
    "SELECT replaced_at, replaced_by, body AS comment FROM bug_comment_versions WHERE comment_id = $1 ORDER BY 1"
)


async def add_comment(
    connection: Connection, bug_id: UUID, said: str, author: str | None, actor: str, now: datetime, *, is_internal: bool
) -> dict[str, Any]:
    """In the caller's transaction. NotFoundError for an unknown bug, ConflictError for one that is full."""
    bug = await hold_bug(connection, bug_id)
    if bug["internal_comments" if is_internal else "comments"] >= MOST:
        raise ConflictError(f"a bug has at most {MOST} comments")
    record = await connection.fetchrow(INSERT, uuid7(), bug_id, now, is_internal, actor, author, said)
    assert record is not None
    await connection.execute(COUNT[is_internal], bug_id, *(() if is_internal else (now,)))
    told = Event("commented", new={"commentId": str(record["id"])}, is_internal=is_internal)
    await history.record(connection, bug_id, bug["version"], actor, now, [told])
    return (await _as_items(connection, [record]))[0]


async def list_comments(
    connection: Connection, bug_id: UUID, audience: Audience, cursor: Cursor | None, limit: int
) -> tuple[list[dict[str, Any]], int, Cursor | None]:
    """One page, oldest first; how many there are in all; where to go on. NotFoundError for an unknown bug."""
    counted = "comments + internal_comments" if audience.is_staff else "comments"
    total = await connection.fetchval(f"SELECT {counted} FROM bugs WHERE id = $1", bug_id)
    if total is None:
        raise NotFoundError(NO_SUCH_BUG)
    conditions = audience.visible("c")
    arguments: list[Any] = [bug_id]
    if cursor is not None:
        conditions += " AND (c.created_at, c.id) > ($2, $3)"
        arguments += [cursor.time, cursor.id]
    records = await connection.fetch(
        f"SELECT {COLUMNS} FROM bug_comments c WHERE c.bug_id = $1 AND {conditions}"
        f" ORDER BY c.created_at, c.id LIMIT {limit + 1:d}",
        *arguments,
    )
    shown = records[:limit]
    more = Cursor(shown[-1]["created_at"], shown[-1]["id"]) if len(records) > limit else None
    return await _as_items(connection, shown), total, more


async def edit_comment(
    connection: Connection,
    bug_id: UUID,
    comment_id: UUID,
    said: str,
    audience: Audience,
    actor: str,
    now: datetime,
    *,
    may_edit_all: bool,
) -> dict[str, Any]:
    """In the caller's transaction; the former text is kept. ForbiddenError for somebody else's comment."""
    bug = await hold_bug(connection, bug_id)
    record = await _one(connection, bug_id, comment_id, audience)
    if not may_edit_all and record["author_id"] != actor:
        raise ForbiddenError("only who wrote a comment may change it")
    if record["body"] == said:
        return (await _as_items(connection, [record]))[0]
    await connection.execute(KEEP_FORMER, comment_id, now, actor)
    changed = await connection.fetchrow(
        f"UPDATE bug_comments c SET body = $2, edited_at = $3 WHERE id = $1 RETURNING {COLUMNS}", comment_id, said, now
    )
    assert changed is not None
    if not record["is_internal"]:
        await connection.execute("UPDATE bugs SET updated_at = greatest(updated_at, $2) WHERE id = $1", bug_id, now)
    of = {"commentId": str(comment_id), "comment": None}
    told = Event(
        "comment_edited", "comment", of | {"comment": record["body"]}, of | {"comment": said}, record["is_internal"]
    )
    await history.record(connection, bug_id, bug["version"], actor, now, [told])
    return (await _as_items(connection, [changed]))[0]


async def one_comment(connection: Connection, bug_id: UUID, comment_id: UUID, audience: Audience) -> dict[str, Any]:
    """With its former texts, oldest first. NotFoundError for one that is not there, or not to be seen."""
    record = await _one(connection, bug_id, comment_id, audience)
    former = [dict(one) for one in await connection.fetch(FORMER, comment_id)]
    return (await _as_items(connection, [record]))[0] | {"former": former}


async def _one(connection: Connection, bug_id: UUID, comment_id: UUID, audience: Audience) -> Row:
    record = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM bug_comments c WHERE c.id = $1 AND c.bug_id = $2 AND {audience.visible('c')}",
        comment_id,
        bug_id,
    )
    if record is None:
        raise NotFoundError(NO_SUCH_COMMENT)
    return record


async def _as_items(connection: Connection, records: Sequence[Row]) -> list[dict[str, Any]]:
    references = await resolve(connection, [record["body"] for record in records])
    return [
        {
            "id": record["id"],
            "bug_id": record["bug_id"],
            "comment": record["body"],
            "author": record["author"],
            "author_id": record["author_id"],
            "is_internal": record["is_internal"],
            "created_at": record["created_at"],
            "edited_at": record["edited_at"],
            "references": mentioned,
        }
        for record, mentioned in zip(records, references, strict=True)
    ]
