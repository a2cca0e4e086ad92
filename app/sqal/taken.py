"""Verdicts for identities that were taken: the same content again is a duplicate, other content a conflict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from app.core.errors import TryAgainError
from app.sqal import originals
from app.sqal.errors import Code
from app.sqal.frame import MICRO
from app.sqal.intake import Verdict
from app.sqal.reading import NOT_GRADABLE
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from uuid import UUID

    from app.core.database import Connection
    from app.sqal.codec import MessageCodec
    from app.sqal.intake import Work
    from app.sqal.reading import Reading

SELECT_STORED: Final = """
    SELECT wanted.number, s.id, s.content_hash, s.score, s.grade, s.message_group
    FROM unnest($1::text[], $2::timestamptz[], $3::text[]) WITH ORDINALITY
         AS wanted (device_id, device_time, sample_id, number)
    CROSS JOIN LATERAL (
        SELECT * FROM samples WHERE device_id = wanted.device_id AND device_time = wanted.device_time
        AND sample_id = wanted.sample_id
    ) s
"""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the database holds under an identity that was already taken."""

    id: UUID
    content_hash: bytes
    score: int | None
    grade: str
    message_group: int | None


def identity_of(reading: Reading | None) -> tuple[str, object, str]:
    """(device_id, device_time, sample_id)."""
    if reading is None:
        raise TypeError("a refused message has no identity")
    return reading.device_id, reading.device_time, reading.sample_id


def accepted(status: str, score: int | None, grade: str) -> Verdict:
    """`score` is null where the reading could not be judged."""
    known = score is not None and grade != NOT_GRADABLE
    return Verdict(status, score=score / MICRO if known and score is not None else None, grade=grade)


async def judge_taken(connection: Connection, codec: MessageCodec, works: list[Work]) -> dict[UUID, Verdict]:
    """Verdicts on works whose identities the database held before."""
    identities = [identity_of(work.reading) for work in works]
    records = await connection.fetch(SELECT_STORED, *(list(column) for column in zip(*identities, strict=True)))
    stored = {
        record["number"] - 1: _Stored(
            record["id"], record["content_hash"], record["score"], record["grade"], record["message_group"]
        )
        for record in records
    }
    if len(stored) < len(works):
        raise TryAgainError("a row moved between partitions while its duplicate was judged; try again")
    differing = [number for number, work in enumerate(works) if stored[number].content_hash != work.content_hash]
    same = await _same_content(connection, codec, [(works[number], stored[number]) for number in differing])
    verdicts = {}
    for number, work in enumerate(works):
        held = stored[number]
        if held.id == work.id:  # our own earlier attempt, whose commit we did not hear of
            verdicts[work.id] = accepted("saved", held.score, held.grade)
        elif number not in differing or work.id in same:
            verdicts[work.id] = accepted("duplicate", held.score, held.grade)
        else:
            verdicts[work.id] = Verdict(
                "error",
                code=Code.IDENTITY_CONFLICT,
                reason="this device already sent another content under this timestamp and sample_id",
            )
    return verdicts


async def _same_content(connection: Connection, codec: MessageCodec, pairs: list[tuple[Work, _Stored]]) -> set[UUID]:
    """Those works that say the same as the stored original in other bytes (key order, spaces, encoding).

    Where the original is no longer kept nothing can be compared: a conflict, which loses nothing.
    """
    if not pairs:
        return set()
    kept = await originals.read(connection, codec, {held.id: held.message_group for _, held in pairs})
    same = set()
    for work, held in pairs:
        if (original := kept.get(held.id)) is not None:
            before = _meaning(*original)
            if before is not None and before == _meaning(work.raw, work.encoding):
                same.add(work.id)
    return same


def _meaning(raw: bytes, encoding: Encoding) -> dict[str, object] | None:
    """A message as plain values; the type that may be left out is filled in. None for what only its known fields let
    through: its bytes are all that can be compared.
    """
    try:
        decoded = json.loads(raw) if encoding is Encoding.JSON else msgspec.msgpack.decode(raw)
    except (ValueError, RecursionError, msgspec.DecodeError):
        return None
    return {"type": "sensor_data", **decoded}
