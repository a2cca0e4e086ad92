"""The devices, firmwares, lots and samples that a bug's alerts met: the newest of each kind, with counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.bugs.bug import NO_SUCH_BUG
from app.core.errors import NotFoundError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from app.bugs.telemetry_rules import Sighting
    from app.core.database import Connection

MOST: Final = 200
"""Kept of each kind for one bug: those that were seen last."""
KINDS: Final = ("device", "firmware", "lot", "sample")
NOTE: Final = """
    INSERT INTO bug_affected AS a (bug_id, kind, value, times, first_at, last_at)
    SELECT $1, kind, value, times, $2, $3 FROM unnest($4::text[], $5::text[], $6::int8[]) AS met (kind, value, times)
    ON CONFLICT (bug_id, kind, value) DO UPDATE SET times = a.times + excluded.times,
        last_at = greatest(a.last_at, excluded.last_at)
"""
FORGET: Final = """
    DELETE FROM bug_affected a USING (
        SELECT kind, value, row_number() OVER (PARTITION BY kind ORDER BY last_at DESC, value) AS place
        FROM bug_affected WHERE bug_id = $1
    ) AS placed
    WHERE a.bug_id = $1 AND (a.kind, a.value) = (placed.kind, placed.value) AND placed.place > $2
"""
SELECT: Final = "SELECT kind, value, times, first_at, last_at FROM bug_affected WHERE bug_id = $1 ORDER BY 5 DESC, 2"
FINGERPRINTS: Final = """
    SELECT rule, subject, nullif(site_code, '') AS site_code, first_at, last_at FROM bug_fingerprints
    WHERE bug_id = $1 ORDER BY rule, subject, 3
"""


async def note_affected(connection: Connection, bug_id: UUID, seen: Sighting, times: int, first_at: datetime) -> None:
    """Count what an alert met. Of its new occurrences it names the last reading: all count as that one's lot."""
    met = [("device", name, times) for name in seen.devices[:MOST]]
    met += [("firmware", version, times) for version in seen.firmwares[:MOST]]
    met += [("lot", seen.lot, times)] if seen.lot else []
    met += [("sample", f"{seen.device_id}/{seen.sample_id}", 1)] if seen.sample_id else []
    kinds, values, counts = ([one[place] for one in met] for place in range(3))
    await connection.execute(NOTE, bug_id, first_at, seen.seen_at, kinds, values, counts)
    await connection.execute(FORGET, bug_id, MOST)


async def affected(connection: Connection, bug_id: UUID) -> dict[str, Any]:
    """By kind, newest first, and the fingerprints. NotFoundError for an unknown bug."""
    if not await connection.fetchval("SELECT true FROM bugs WHERE id = $1", bug_id):
        raise NotFoundError(NO_SUCH_BUG)
    by_kind: dict[str, Any] = {f"{kind}s": [] for kind in KINDS}
    for kind, *met in await connection.fetch(SELECT, bug_id):
        by_kind[f"{kind}s"].append(dict(zip(("value", "times", "first_at", "last_at"), met, strict=True)))
    return {"fingerprints": [dict(one) for one in await connection.fetch(FINGERPRINTS, bug_id)], "most": MOST} | by_kind
