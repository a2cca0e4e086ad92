"""What a bug is about: devices, firmwares, lots, samples, other bugs. A relation of bugs is one row, seen from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.bugs import history
from app.bugs.bug import NO_SUCH_BUG
from app.bugs.evidence import NO_SUCH_LINK
from app.bugs.history import Event
from app.bugs.relations import FROM_AFAR, hold_bugs, refuse_circle
from app.core.clock import iso
from app.core.errors import BadRequestError, ConflictError, NotFoundError, TryAgainError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from uuid import UUID

    from app.bugs.evidence import Frozen
    from app.bugs.vocabulary import Relation
    from app.core.database import Connection, Row

MOST: Final = 200
"""Links of a bug, those that other bugs made to it too."""
NAMED: Final = {"device": "device_id", "firmware": "firmware", "lot": "lot", "sample": "sample_id"}
"""What `target` is called where it is shown."""
# As seen from bug $1.
SELECT: Final = """
    SELECT l.id, l.kind, l.relation, l.target, l.device_id, l.device_time, l.created_at, l.creator_id,
           l.bug_id <> $1 AS from_afar, l.frame IS NOT NULL AS is_frozen, b.id AS far_id, b.number, b.title, b.status
    FROM bug_links l LEFT JOIN bugs b ON b.id = CASE WHEN l.bug_id = $1 THEN l.other_id ELSE l.bug_id END
    WHERE (l.bug_id = $1 OR l.other_id = $1)
"""
# A sample that is named without its time is any of that name.
FIND: Final = """
    SELECT id FROM bug_links
    WHERE bug_id = $1 AND kind = $2 AND relation IS NOT DISTINCT FROM $3 AND other_id IS NOT DISTINCT FROM $4
          AND target IS NOT DISTINCT FROM $5 AND device_id IS NOT DISTINCT FROM $6
          AND ($7::timestamptz IS NULL OR device_time = $7)
       OR $3 = 'relates' AND bug_id = $4 AND other_id = $1 AND relation = 'relates'
    ORDER BY created_at DESC, id DESC LIMIT 1
"""
COUNT: Final = "SELECT count(*) FROM bug_links WHERE bug_id = $1 OR other_id = $1"
INSERT: Final = """
    INSERT INTO bug_links (id, bug_id, kind, relation, other_id, target, device_id, device_time, sample, frame,
                           creator_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12)
"""
DUPLICATES: Final = "SELECT id, other_id FROM bug_links WHERE bug_id = $1 AND kind = 'bug' AND relation = 'duplicates'"
ENDS: Final = "SELECT bug_id, other_id FROM bug_links WHERE id = $2 AND (bug_id = $1 OR other_id = $1)"
TOUCH: Final = "UPDATE bugs SET updated_at = greatest(updated_at, $2) WHERE id = ANY($1::uuid[])"


@dataclass(frozen=True, slots=True)
class Target:
    """What is linked: a device, firmware or lot by its `name`; a sample by its id as `name`, its device and time (None
    for the newest); another bug by its id and how it is related.
    """

    kind: str
    name: str | None = None
    device_id: str | None = None
    device_time: datetime | None = None
    relation: Relation | None = None
    other_id: UUID | None = None


async def add_link(
    connection: Connection, bug_id: UUID, target: Target, frozen: Frozen | None, actor: str, now: datetime
) -> tuple[dict[str, Any], bool]:
    """(the link, whether it is new), in the caller's transaction. `frozen`: the sample, None where there is none.

    Raises NotFoundError, ConflictError for a bug that is full or a circle, BadRequestError for a bug and itself.
    """
    if target.other_id == bug_id:
        raise BadRequestError("a bug is not linked to itself", pointer="#/bugId")
    bugs = await hold_bugs(connection, bug_id, [target.other_id] if target.other_id else [])
    former = await _find(connection, bug_id, target, frozen)
    if former is not None:
        return await _one(connection, bug_id, former), False
    if target.kind == "sample" and frozen is None:
        raise NotFoundError("there is no such sample, or it is no longer kept: only one that is there can be linked")
    await _refuse_more(connection, bugs)
    if target.relation == "duplicates" and await connection.fetchrow(DUPLICATES, bug_id):
        raise ConflictError("it is a duplicate of another bug already: remove that link first")
    return await _link(connection, bug_id, target, frozen, bugs, actor, now), True


async def list_links(connection: Connection, bug_id: UUID) -> list[dict[str, Any]]:
    """Oldest first. NotFoundError for an unknown bug."""
    records = await connection.fetch(f"{SELECT} ORDER BY l.created_at, l.id LIMIT {MOST}", bug_id)
    if not records and not await connection.fetchval("SELECT true FROM bugs WHERE id = $1", bug_id):
        raise NotFoundError(NO_SUCH_BUG)
    return [_as_item(record, bug_id) for record in records]


async def remove_link(connection: Connection, bug_id: UUID, link_id: UUID, actor: str, now: datetime) -> None:
    """From either end, in the caller's transaction; what was kept of a sample goes with it. NotFoundError."""
    ends = await connection.fetchrow(ENDS, bug_id, link_id)
    if ends is None:
        raise NotFoundError(NO_SUCH_LINK)
    bugs = await hold_bugs(connection, bug_id, {end for end in ends if end is not None})
    await _unlink(connection, link_id, bugs, actor, now)


async def hold_duplicate(connection: Connection, bug_id: UUID, other_id: UUID | None) -> dict[UUID, Row]:
    """Lock a bug, what it is to be a duplicate of, and what it was one of: before anything else of the transaction."""
    if other_id == bug_id:
        raise BadRequestError("a bug is no duplicate of itself", pointer="#/duplicateOf")
    former = await connection.fetchrow(DUPLICATES, bug_id)
    others = (other_id, former["other_id"] if former else None)
    return dict(await hold_bugs(connection, bug_id, [other for other in others if other is not None]))


async def duplicate_of(connection: Connection, bug_id: UUID) -> UUID | None:
    """The bug that this one is a duplicate of."""
    record = await connection.fetchrow(DUPLICATES, bug_id)
    return record["other_id"] if record else None


async def set_duplicate(
    connection: Connection, bug_id: UUID, other_id: UUID | None, bugs: Mapping[UUID, Row], actor: str, now: datetime
) -> None:
    """Make a bug a duplicate of that one and of no other; None for of none. `bugs`: all that `hold_duplicate` holds."""
    if other_id is not None and bugs[bug_id]["status"] != "duplicate":
        raise BadRequestError("only a bug whose status is duplicate can be one of another", pointer="#/duplicateOf")
    former = await connection.fetchrow(DUPLICATES, bug_id)
    if former is not None:
        if former["other_id"] == other_id:
            return
        if former["other_id"] not in bugs:  # somebody else's, made while we waited
            raise TryAgainError
        await _unlink(connection, former["id"], _ends(bugs, bug_id, former["other_id"]), actor, now)
    if other_id is not None:
        ends = _ends(bugs, bug_id, other_id)
        await _refuse_more(connection, ends)
        target = Target("bug", relation="duplicates", other_id=other_id)
        await _link(connection, bug_id, target, None, ends, actor, now)


def _ends(bugs: Mapping[UUID, Row], *ids: UUID) -> dict[UUID, Row]:
    return {bug_id: bugs[bug_id] for bug_id in ids}


async def _find(connection: Connection, bug_id: UUID, target: Target, frozen: Frozen | None) -> UUID | None:
    """The same link, where there is one."""
    time = frozen.device_time if frozen else target.device_time
    found: UUID | None = await connection.fetchval(
        FIND, bug_id, target.kind, target.relation, target.other_id, target.name, target.device_id, time
    )
    return found


async def _refuse_more(connection: Connection, bugs: Iterable[UUID]) -> None:
    for bug_id in bugs:
        if await connection.fetchval(COUNT, bug_id) >= MOST:
            raise ConflictError(f"a bug has at most {MOST} links, those of other bugs to it too")


async def _link(
    connection: Connection,
    bug_id: UUID,
    target: Target,
    frozen: Frozen | None,
    bugs: Mapping[UUID, Row],
    actor: str,
    now: datetime,
) -> dict[str, Any]:
    if target.relation is not None and target.other_id is not None:
        await refuse_circle(connection, bug_id, target.relation, target.other_id)
    link_id = uuid7()
    named = (target.kind, target.relation, target.other_id, target.name, target.device_id)
    kept = (frozen.device_time, frozen.sample, frozen.frame) if frozen else (None, None, None)
    await connection.execute(INSERT, link_id, bug_id, *named, *kept, actor, now)
    await _tell(connection, "linked", link_id, bugs, actor, now)
    return await _one(connection, bug_id, link_id)


async def _unlink(connection: Connection, link_id: UUID, bugs: Mapping[UUID, Row], actor: str, now: datetime) -> None:
    await _tell(connection, "unlinked", link_id, bugs, actor, now)
    await connection.execute("DELETE FROM bug_links WHERE id = $1", link_id)


async def _tell(
    connection: Connection, kind: str, link_id: UUID, bugs: Mapping[UUID, Row], actor: str, now: datetime
) -> None:
    """In the history of each bug, as it looks from there. NotFoundError when somebody else removed the link."""
    for bug_id, bug in bugs.items():
        said = _as_event(await _one(connection, bug_id, link_id))
        event = Event(kind, new=said) if kind == "linked" else Event(kind, old=said)
        await history.record(connection, bug_id, bug["version"], actor, now, [event])
    await connection.execute(TOUCH, list(bugs), now)


async def _one(connection: Connection, bug_id: UUID, link_id: UUID) -> dict[str, Any]:
    record = await connection.fetchrow(f"{SELECT} AND l.id = $2", bug_id, link_id)
    if record is None:
        raise NotFoundError(NO_SUCH_LINK)
    return _as_item(record, bug_id)


def _as_item(record: Row, bug_id: UUID) -> dict[str, Any]:
    item = {name: record[name] for name in ("id", "kind", "device_id", "device_time", "created_at", "creator_id")}
    item |= {"firmware": None, "lot": None, "sample_id": None, "relation": None, "bug_id": None, "bug": None}
    item["evidence_url"] = f"/api/bugs/{bug_id}/links/{record['id']}/evidence" if record["is_frozen"] else None
    if record["kind"] != "bug":
        return item | {NAMED[record["kind"]]: record["target"]}
    far = {name: record[name] for name in ("number", "title", "status")}
    far |= {"id": record["far_id"], "url": f"/api/bugs/{record['far_id']}"}
    relation = FROM_AFAR[record["relation"]] if record["from_afar"] else record["relation"]
    return item | {"relation": relation, "bug_id": record["far_id"], "bug": far}


def _as_event(item: Mapping[str, Any]) -> dict[str, Any]:
    """What the history says of a link, in wire form."""
    said = {
        "linkId": str(item["id"]),
        "kind": item["kind"],
        "deviceId": item["device_id"],
        "firmware": item["firmware"],
        "lot": item["lot"],
        "sampleId": item["sample_id"],
        "deviceTime": item["device_time"] and iso(item["device_time"]),
        "relation": item["relation"],
        "bugId": item["bug_id"] and str(item["bug_id"]),
        "bugNumber": item["bug"] and item["bug"]["number"],
    }
    return {name: value for name, value in said.items() if value is not None}
