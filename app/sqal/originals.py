"""Original messages, byte for byte: those of a commit group one after the other, compressed in blocks.

A block of neighbours is a sixth smaller than its messages alone, a third where they are small, and costs less time. A
sample names the group that holds its original (`samples.message_group`): segment and number of the group in one
integer, so that the segments (app/sqal/retention.py) are ranges of it. The blocks of a group share its number; each
lists the ids of its messages.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from app.core.database import Connection
    from app.sqal.codec import MessageCodec
    from app.sqal.intake import Work

NUMBER_BITS: Final = 40  # of a message_group; the segment stands above them
BLOCK_BYTES: Final = 128 * 1024  # of originals: more saves little, and reading one unpacks its whole block
COLUMNS: Final = ("message_group", "codec", "ids", "ends", "encodings", "body")
SELECT: Final = """
    SELECT m.codec, m.ids, m.ends, m.encodings, m.body
    FROM messages m WHERE m.message_group = ANY($1::bigint[]) AND m.ids && $2::uuid[]
"""


class Block(NamedTuple):
    """Neighbouring originals: where each ends in the text of all, and that text compressed."""

    codec: int
    ids: list[UUID]
    ends: list[int]
    encodings: bytes
    body: bytes


def pack(codec: MessageCodec, works: Sequence[Work]) -> list[Block]:
    """The originals of `works` in blocks. Spends its time in zstd, without the interpreter's lock."""
    return [_block(codec, neighbours) for neighbours in _neighbours(works)]


def _neighbours(works: Sequence[Work]) -> Iterator[Sequence[Work]]:
    begin = size = 0
    for number, work in enumerate(works):
        if size and size + work.size_bytes > BLOCK_BYTES:
            yield works[begin:number]
            begin, size = number, 0
        size += work.size_bytes
    if works:
        yield works[begin:]


def _block(codec: MessageCodec, works: Sequence[Work]) -> Block:
    number, body = codec.compress(b"".join([work.raw for work in works]))
    ends = list(accumulate([work.size_bytes for work in works]))
    return Block(number, [work.id for work in works], ends, bytes([work.encoding for work in works]), body)


async def write(connection: Connection, message_group: int, blocks: Sequence[Block]) -> None:
    await connection.copy_records_to_table(
        "messages", records=[(message_group, *block) for block in blocks], columns=COLUMNS
    )


async def read(
    connection: Connection, codec: MessageCodec, groups: Mapping[UUID, int | None]
) -> dict[UUID, tuple[bytes, Encoding]]:
    """The originals of the samples whose ids are the keys, each in the group named; without those no longer kept."""
    numbers = {group for group in groups.values() if group is not None}
    found = {}
    for record in await connection.fetch(SELECT, list(numbers), list(groups)):
        text, begin = codec.decompress(record["codec"], record["body"]), 0
        for id_, end, encoding in zip(record["ids"], record["ends"], record["encodings"], strict=True):
            if id_ in groups:
                found[id_] = (text[begin:end], Encoding(encoding))
            begin = end
    return found
