"""How bugs hang together: `blocks` and `duplicates` lead one way and never in a circle; `relates` has no direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.bugs.bug import NO_SUCH_BUG
from app.core.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    import asyncpg

    from app.bugs.vocabulary import Relation
    from app.core.database import Connection

FROM_AFAR: Final[dict[Relation, str]] = {"blocks": "blockedBy", "duplicates": "duplicatedBy", "relates": "relates"}
"""What the other bug calls it."""
CHAIN: Final = 1_000
"""So many bugs are looked through for a circle; a relation that would need more is refused."""
LOCK_KEY: Final = 0x7265_6C61_7465  # "relate": two relations made at once could close a circle between them
HOLD: Final = "SELECT * FROM bugs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
REACHED: Final = f"""
    WITH RECURSIVE reached (id) AS (
        SELECT $1::uuid
        UNION SELECT l.other_id FROM reached JOIN bug_links l
              ON l.bug_id = reached.id AND l.kind = 'bug' AND l.relation = $2
    )
    SELECT bool_or(id = $3) AS circle, count(*) AS length FROM (SELECT id FROM reached LIMIT {CHAIN + 1}) AS looked_at
"""


async def hold_bugs(connection: Connection, bug_id: UUID, others: Iterable[UUID]) -> dict[UUID, asyncpg.Record]:
    """The rows, locked in the order of their ids until the caller's transaction ends: no two wait for each other."""
    wanted = {bug_id, *others}
    held = {record["id"]: record for record in await connection.fetch(HOLD, list(wanted))}
    if bug_id not in held:
        raise NotFoundError(NO_SUCH_BUG)
    if len(held) < len(wanted):
        raise NotFoundError("there is no such bug to link to")
    return held


async def refuse_circle(connection: Connection, bug_id: UUID, relation: Relation, other_id: UUID) -> None:
    """ConflictError where the other bug leads back to this one. Others that make relations wait until we are done."""
    if relation == "relates":
        return
    # Whoever holds this has all its bugs already, and waits for nobody.
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
    found = await connection.fetchrow(REACHED, other_id, relation, bug_id)
    assert found is not None
    if found["circle"]:
        raise ConflictError(f"the other bug {relation} this one already, itself or by others: that would be a circle")
    if found["length"] > CHAIN:
        raise ConflictError(f"more than {CHAIN} bugs hang together so: they are not looked through for a circle")
