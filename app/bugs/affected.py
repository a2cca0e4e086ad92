"""The devices, firmwares, lots and samples that a bug's alerts met: the newest of each kind, with counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.bugs.bug import NO_SUCH_BUG
from app.core.errors import NotFoundError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from app.bugs.telemetry_rules import Share
    from app.core.database import Connection

MOST: Final = 1_000
"""Kept of each kind for one bug: those that were seen last."""
KINDS: Final = ("device", "firmware", "lot", "sample")
NOTE: Final = """
    INSERT INTO bug_affected AS a (bug_id, kind, value, times, first_at, last_at)
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::int8[], $5::timestamptz[], $6::timestamptz[])
    ON CONFLICT (bug_id, kind, value) DO UPDATE SET times = a.times + excluded.times,
        first_at = least(a.first_at, excluded.first_at), last_at = greatest(a.last_at, excluded.last_at)
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


async def note_affected(connection: Connection, bug_id: UUID, share: Share, first_at: datetime) -> None:
    """Count what each reading met; what is not known by its reading counts as the last one's, from `first_at` on."""
    met: dict[tuple[str, str], tuple[int, datetime, datetime]] = {}

    def count(kind: str, value: str | None, times: int, first: datetime, last: datetime) -> None:
        if value and times:
            former = met.get((kind, value), (0, first, last))
            met[kind, value] = (former[0] + times, min(former[1], first), max(former[2], last))

    seen, since = share.seen, min([first_at, *(one.received_at for one in share.readings)])
    for name in seen.devices[:MOST]:
        count("device", name, share.times, since, seen.seen_at)
    for one in share.readings:
        named = {"firmware": one.firmware, "lot": one.lot, "sample": f"{seen.device_id}/{one.sample_id}"}
        for kind, value in named.items():
            count(kind, value, 1, one.received_at, one.received_at)
    for version in seen.firmwares[:MOST]:
        count("firmware", version, share.unknown, first_at, seen.seen_at)
    count("lot", seen.lot, share.unknown, first_at, seen.seen_at)
    sample = f"{seen.device_id}/{seen.sample_id}" if seen.sample_id else None
    if ("sample", sample) not in met:
        count("sample", sample, min(share.unknown, 1), first_at, seen.seen_at)
    keys = sorted(met)
    columns = (list(one) for one in zip(*((*key, *met[key]) for key in keys), strict=True))
    await connection.execute(NOTE, bug_id, *(columns if keys else [[]] * 5))
    await connection.execute(FORGET, bug_id, MOST)


async def affected(connection: Connection, bug_id: UUID) -> dict[str, Any]:
    """By kind, newest first, and the fingerprints; `truncated` where older ones of a kind may have been forgotten.
    NotFoundError for an unknown bug.
    """
    if not await connection.fetchval("SELECT true FROM bugs WHERE id = $1", bug_id):
        raise NotFoundError(NO_SUCH_BUG)
    by_kind: dict[str, Any] = {f"{kind}s": [] for kind in KINDS}
    for kind, *met in await connection.fetch(SELECT, bug_id):
        by_kind[f"{kind}s"].append(dict(zip(("value", "times", "first_at", "last_at"), met, strict=True)))
    fingerprints = [dict(one) for one in await connection.fetch(FINGERPRINTS, bug_id)]
    truncated = any(len(met) >= MOST for met in by_kind.values())
    return {"fingerprints": fingerprints, "most": MOST, "truncated": truncated} | by_kind
