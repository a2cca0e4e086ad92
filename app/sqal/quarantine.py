"""Refused messages: kept with reason and original bytes, bounded in number and bytes, to be read and replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.core.cursor import Cursor
from app.core.errors import NotFoundError
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from app.core.database import Connection
    from app.sqal.codec import MessageCodec
    from app.sqal.intake import Verdict, Work

DEVICE_SHARE: Final = 4  # one device (or all that name none) may hold a quarter of the rows
TRIM_EVERY: Final = 100  # trimmed after each hundredth of the bound: that much overshoot, for each process
INSERT: Final = """
    INSERT INTO quarantine (id, received_at, code, reason, device_id, sample_id, peer, size_bytes, stored_bytes,
                            codec, encoding, body)
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                         $8::int4[], $9::int4[], $10::int2[], $11::int2[], $12::bytea[])
"""
TRIM: Final = """
    WITH ranked AS (
        SELECT id, row_number() OVER newest AS rows, sum(stored_bytes) OVER newest AS bytes,
               row_number() OVER (PARTITION BY device_id ORDER BY received_at DESC, id DESC) AS device_rows
        FROM quarantine WINDOW newest AS (ORDER BY received_at DESC, id DESC)
    ), surplus AS (
        SELECT id FROM quarantine WHERE id IN (
            SELECT id FROM ranked WHERE rows > $1 OR bytes > $2 OR device_rows > $3
        ) FOR UPDATE SKIP LOCKED
    )
    DELETE FROM quarantine WHERE id IN (SELECT id FROM surplus)
"""
LISTED: Final = (
    "id, received_at, code, reason, device_id, sample_id, peer, size_bytes, encoding, replayed_at, replay_result"
)
LIST: Final = f"""
    SELECT {LISTED} FROM quarantine
    WHERE ($1::text IS NULL OR device_id = $1) AND ($2::text IS NULL OR code = $2)
      AND ($3::timestamptz IS NULL OR (received_at, id) < ($3, $4::uuid))
    ORDER BY received_at DESC, id DESC LIMIT $5
"""


class Quarantine:
    """At most `max_rows` refused messages of `max_bytes` as stored; the oldest go first."""

    def __init__(self, codec: MessageCodec, *, max_rows: int, max_bytes: int) -> None:
        self._codec = codec
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows_since_trim = 0
        self._bytes_since_trim = 0

    async def add(self, connection: Connection, refused: Sequence[tuple[Work, Verdict]]) -> None:
        """Keep refused messages, in the caller's transaction."""
        if not refused:
            return
        bodies = [self._codec.compress(work.raw) for work, _ in refused]
        rows = [
            (
                work.id, work.received_at, str(verdict.code), verdict.reason or "", *_names(work), work.peer,
                work.size_bytes, len(body), codec, int(work.encoding), body,
            )
            for (work, verdict), (codec, body) in zip(refused, bodies, strict=True)
        ]  # fmt: skip
        await connection.execute(INSERT, *zip(*rows, strict=True))
        self._rows_since_trim += len(rows)
        self._bytes_since_trim += sum(len(body) for _, body in bodies)
        if (
            self._rows_since_trim * TRIM_EVERY >= self._max_rows
            or self._bytes_since_trim * TRIM_EVERY >= self._max_bytes
        ):
            await self.trim(connection)

    async def trim(self, connection: Connection) -> None:
        """Drop what exceeds the bounds, oldest first."""
        await connection.execute(TRIM, self._max_rows, self._max_bytes, max(1, self._max_rows // DEVICE_SHARE))
        self._rows_since_trim = self._bytes_since_trim = 0

    async def list(
        self, connection: Connection, *, device_id: str | None, code: str | None, cursor: Cursor | None, limit: int
    ) -> tuple[list[dict[str, Any]], Cursor | None]:
        """Newest first, without the bodies, and where to go on."""
        after = (cursor.time, cursor.id) if cursor else (None, None)
        records = await connection.fetch(LIST, device_id, code, *after, limit + 1)
        more = Cursor(records[limit - 1]["received_at"], records[limit - 1]["id"]) if len(records) > limit else None
        return [_as_item(record) for record in records[:limit]], more

    async def item(self, connection: Connection, entry_id: UUID) -> dict[str, Any]:
        record = await connection.fetchrow(f"SELECT {LISTED} FROM quarantine WHERE id = $1", entry_id)
        if record is None:
            raise NotFoundError("there is no such message in quarantine")
        return _as_item(record)

    async def message(self, connection: Connection, entry_id: UUID) -> tuple[bytes, Encoding, asyncpg.Record]:
        """The original bytes, their encoding, and the entry's row."""
        record = await connection.fetchrow(
            "SELECT received_at, peer, codec, encoding, body FROM quarantine WHERE id = $1", entry_id
        )
        if record is None:
            raise NotFoundError("there is no such message in quarantine")
        return self._codec.decompress(record["codec"], record["body"]), Encoding(record["encoding"]), record

    async def mark_replayed(self, connection: Connection, entry_id: UUID, result: str) -> None:
        await connection.execute(
            "UPDATE quarantine SET replayed_at = now(), replay_result = $2 WHERE id = $1", entry_id, result
        )


def _names(work: Work) -> tuple[str | None, str | None]:
    if work.reading is not None:
        return work.reading.device_id, work.reading.sample_id
    return (work.refusal.device_id, work.refusal.sample_id) if work.refusal else (None, None)


def _as_item(record: asyncpg.Record) -> dict[str, Any]:
    return {**record, "encoding": Encoding(record["encoding"]).name.lower()}
