"""Files that hang on a bug, or on a comment: their rows. An internal one is staff's own, as its comment is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.bugs import history
from app.bugs.bug import NO_SUCH_BUG, hold_bug
from app.bugs.comments import NO_SUCH_COMMENT
from app.bugs.history import Event
from app.core.cursor import Cursor
from app.core.errors import ConflictError, ForbiddenError, NotFoundError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from app.bugs.audience import Audience
    from app.bugs.uploads import Received
    from app.core.database import Connection, Row

NO_SUCH_ATTACHMENT: Final = "there is no such attachment"
SELECT: Final = "SELECT a.* FROM bug_attachments a WHERE a.bug_id = $1 AND"
INSERT: Final = """
    INSERT INTO bug_attachments (id, bug_id, comment_id, created_at, size_bytes, is_internal, uploader_id, file_name,
                                 media_type, object_key, sha256)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING *
"""
COUNT: Final = "SELECT count(*) FROM bug_attachments WHERE bug_id = $1 AND is_internal = $2"
TOUCH: Final = "UPDATE bugs SET updated_at = greatest(updated_at, $2) WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is to hang, and whether staff alone sees it."""

    bug_id: UUID
    comment_id: UUID | None
    is_internal: bool


async def find_place(
    connection: Connection, bug_id: UUID, comment_id: UUID | None, audience: Audience, most: int, *, is_internal: bool
) -> Place:
    """Where a file may hang, with room for it. A comment's are internal as it is. ForbiddenError for an outsider's
    internal one, NotFoundError for what is not there or not to be seen, ConflictError when it is full.
    """
    if is_internal and not audience.is_staff:
        raise ForbiddenError("internal attachments are for staff")
    await _the_bug(connection, bug_id)
    if comment_id is not None:
        is_internal = await _is_internal_comment(connection, bug_id, comment_id, audience)
    await _check_room(connection, bug_id, most, is_internal=is_internal)
    return Place(bug_id, comment_id, is_internal)


async def add_attachment(
    connection: Connection, place: Place, received: Received, actor: str, now: datetime, most: int
) -> dict[str, Any]:
    """In the caller's transaction. ConflictError when it has become full meanwhile."""
    bug = await hold_bug(connection, place.bug_id)
    await _check_room(connection, place.bug_id, most, is_internal=place.is_internal)
    record = await connection.fetchrow(
        INSERT,
        uuid7(),
        place.bug_id,
        place.comment_id,
        now,
        received.size_bytes,
        place.is_internal,
        actor,
        received.file_name,
        received.media_type,
        received.key,
        received.sha256,
    )
    assert record is not None
    await _tell(connection, "attached", record, bug["version"], actor, now)
    return as_item(record)


async def list_attachments(
    connection: Connection,
    bug_id: UUID,
    comment_id: UUID | None,
    audience: Audience,
    cursor: Cursor | None,
    limit: int,
) -> tuple[list[dict[str, Any]], int, Cursor | None]:
    """One page, oldest first, of a bug (its comments' too) or of a comment; how many in all; where to go on."""
    await _the_bug(connection, bug_id)
    conditions, arguments = audience.visible("a"), [bug_id]
    if comment_id is not None:
        await _is_internal_comment(connection, bug_id, comment_id, audience)
        conditions += " AND a.comment_id = $2"
        arguments.append(comment_id)
    total = await connection.fetchval(
        f"SELECT count(*) FROM bug_attachments a WHERE a.bug_id = $1 AND {conditions}", *arguments
    )
    page: list[Any] = []
    if cursor is not None:
        n = len(arguments)
        conditions += f" AND (a.created_at, a.id) > (${n + 1}, ${n + 2})"
        page = [cursor.time, cursor.id]
    records = await connection.fetch(
        f"{SELECT} {conditions} ORDER BY a.created_at, a.id LIMIT {limit + 1:d}", *arguments, *page
    )
    shown = records[:limit]
    more = Cursor(shown[-1]["created_at"], shown[-1]["id"]) if len(records) > limit else None
    return [as_item(one) for one in shown], total, more


async def one_attachment(connection: Connection, bug_id: UUID, attachment_id: UUID, audience: Audience) -> Row:
    """Its row. NotFoundError for one that is not there, or not to be seen."""
    record = await connection.fetchrow(f"{SELECT} a.id = $2 AND {audience.visible('a')}", bug_id, attachment_id)
    if record is None:
        raise NotFoundError(NO_SUCH_ATTACHMENT)
    return record


async def remove_attachment(
    connection: Connection, bug_id: UUID, attachment_id: UUID, audience: Audience, actor: str, now: datetime
) -> str:
    """The key of the object that nothing names any more once the caller's transaction is committed. ForbiddenError for
    somebody else's, but for staff.
    """
    bug = await hold_bug(connection, bug_id)
    record = await one_attachment(connection, bug_id, attachment_id, audience)
    if not audience.is_staff and record["uploader_id"] != actor:
        raise ForbiddenError("only who attached a file may take it away")
    await connection.execute("DELETE FROM bug_attachments WHERE id = $1", attachment_id)
    await _tell(connection, "detached", record, bug["version"], actor, now)
    key: str = record["object_key"]
    return key


async def named_keys(connection: Connection, keys: list[str]) -> set[str]:
    """Those of `keys` that a row names."""
    records = await connection.fetch("SELECT object_key FROM bug_attachments WHERE object_key = ANY($1)", keys)
    return {one["object_key"] for one in records}


async def some_after(connection: Connection, attachment_id: UUID | None, limit: int) -> Sequence[Row]:
    """(id, bug_id, object_key) of the next few in the order of their ids."""
    return await connection.fetch(
        "SELECT id, bug_id, object_key FROM bug_attachments WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
        attachment_id,
        limit,
    )


def as_item(record: Row) -> dict[str, Any]:
    names = ("id", "bug_id", "comment_id", "file_name", "media_type", "size_bytes", "is_internal", "uploader_id")
    url = f"/api/bugs/{record['bug_id']}/attachments/{record['id']}"
    item = {name: record[name] for name in (*names, "created_at")}
    return item | {"sha256": record["sha256"].hex(), "url": url}


async def _the_bug(connection: Connection, bug_id: UUID) -> None:
    if not await connection.fetchval("SELECT true FROM bugs WHERE id = $1", bug_id):
        raise NotFoundError(NO_SUCH_BUG)


async def _is_internal_comment(connection: Connection, bug_id: UUID, comment_id: UUID, audience: Audience) -> bool:
    found: bool | None = await connection.fetchval(
        f"SELECT c.is_internal FROM bug_comments c WHERE c.bug_id = $1 AND c.id = $2 AND {audience.visible('c')}",
        bug_id,
        comment_id,
    )
    if found is None:
        raise NotFoundError(NO_SUCH_COMMENT)
    return found


async def _check_room(connection: Connection, bug_id: UUID, most: int, *, is_internal: bool) -> None:
    """Internal ones are counted apart: outsiders would learn of them by the room that they take."""
    if await connection.fetchval(COUNT, bug_id, is_internal) >= most:
        raise ConflictError(f"a bug has at most {most} attachments")


async def _tell(connection: Connection, kind: str, record: Row, version: int, actor: str, now: datetime) -> None:
    file = {
        "attachmentId": str(record["id"]),
        "commentId": str(record["comment_id"]) if record["comment_id"] else None,
        "fileName": record["file_name"],
        "sizeBytes": record["size_bytes"],
        "sha256": record["sha256"].hex(),
    }
    old, new = (None, file) if kind == "attached" else (file, None)
    if not record["is_internal"]:
        await connection.execute(TOUCH, record["bug_id"], now)
    told = Event(kind, old=old, new=new, is_internal=record["is_internal"])
    await history.record(connection, record["bug_id"], version, actor, now, [told])
