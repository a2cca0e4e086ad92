"""Which bug a fingerprint leads to: the one it opened, what that is a duplicate of, or an older firmware's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.bugs.telemetry_rules import Fingerprint, Share, inherits

if TYPE_CHECKING:
    from uuid import UUID

    from app.core.database import Connection

STEPS: Final = 10
"""From a duplicate to what it is one of, and so on."""
MOST_HEIRLOOMS: Final = 1_000
FIND: Final = """
    UPDATE bug_fingerprints SET last_at = greatest(last_at, $4) WHERE (rule, subject, site_code) = ($1, $2, $3)
    RETURNING bug_id
"""
REMEMBER: Final = """
    INSERT INTO bug_fingerprints (rule, subject, site_code, bug_id, first_at, last_at) VALUES ($1, $2, $3, $4, $5, $6)
"""
ORIGINAL: Final = """
    SELECT l.other_id FROM bugs b JOIN bug_links l ON l.bug_id = b.id AND l.kind = 'bug' AND l.relation = 'duplicates'
    WHERE b.id = $1 AND b.status = 'duplicate'
"""
FIXED: Final = """
    SELECT f.subject, b.id, b.status, b.resolved_at, b.closed_at, b.fixed_in_firmware
    FROM bug_fingerprints f JOIN bugs b ON b.id = f.bug_id
    WHERE f.rule = $1 AND f.site_code = $2 AND b.status IN ('resolved', 'closed') AND b.fixed_in_firmware IS NOT NULL
    ORDER BY b.number DESC LIMIT $3
"""


async def find_bug(connection: Connection, found: Fingerprint, share: Share) -> UUID | None:
    """The bug that counts it, not locked; None where there is none yet."""
    seen_at = share.seen.seen_at
    bug_id: UUID | None = await connection.fetchval(FIND, found.rule, found.subject, found.site_code, seen_at)
    if bug_id is None and found.is_firmware:
        bug_id = await _of_older_firmware(connection, found, share)
        if bug_id is not None:
            await remember(connection, found, bug_id, share)
    return bug_id and await _original(connection, bug_id)


async def remember(connection: Connection, found: Fingerprint, bug_id: UUID, share: Share) -> None:
    """From now on this fingerprint is that bug."""
    times = (share.seen.first_at, share.seen.seen_at)
    await connection.execute(REMEMBER, found.rule, found.subject, found.site_code, bug_id, *times)


async def _of_older_firmware(connection: Connection, found: Fingerprint, share: Share) -> UUID | None:
    """The newest bug that was fixed in this firmware or before, and that this shows not to be."""
    for one in await connection.fetch(FIXED, found.rule, found.site_code, MOST_HEIRLOOMS):
        if inherits(found.subject, one, one["subject"], share):
            bug_id: UUID = one["id"]
            return bug_id
    return None


async def _original(connection: Connection, bug_id: UUID) -> UUID:
    for _ in range(STEPS):
        original: UUID | None = await connection.fetchval(ORIGINAL, bug_id)
        if original is None:
            break
        bug_id = original
    return bug_id
