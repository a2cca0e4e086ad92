"""Bugs as CSV or JSON, streamed: page by page out of the database, so that no connection waits for a slow reader and no
more than a page is in memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic.alias_generators import to_camel

from app.bugs.bug import SHOWN, as_item
from app.bugs.listing import BugCursor, select
from app.core.csv_text import as_text, header, lines
from app.core.places import Places

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    from app.bugs.audience import Audience
    from app.bugs.listing import BugFilter
    from app.core.database import Database

    Items = Sequence[dict[str, Any]]

PAGE: Final = 500
COMMENTS: Final = 500
PIECE_BYTES: Final = 64 * 1024
SORTS: Final = ("-createdAt", "createdAt", "-number", "number")
"""In these a bug has its place for good: in others, one that is changed meanwhile could come twice or never."""
COLUMNS: Final = (*SHOWN, "comment_count", "attachment_count")
SAID: Final = ("id", "comment", "author", "author_id", "is_internal", "created_at", "edited_at")
# Comments of some bugs in the bugs' order, beyond the last one that was read.
COMMENTS_OF: Final = """
    SELECT bug.place, c.* FROM unnest($1::uuid[]) WITH ORDINALITY AS bug (id, place) CROSS JOIN LATERAL (
        SELECT c.id, c.body AS comment, c.author, c.author_id, c.is_internal, c.created_at, c.edited_at
        FROM bug_comments c WHERE c.bug_id = bug.id AND {visible}
            AND (bug.place > $2 OR (c.created_at, c.id) > ($3, $4))
        ORDER BY c.created_at, c.id LIMIT {limit}
    ) AS c WHERE bug.place >= $2 ORDER BY bug.place, c.created_at, c.id LIMIT {limit}
"""
MOST_AT_ONCE: Final = 4


class BugExports(Places):
    """All bugs that fit, as `audience` may see them. What is reported meanwhile may or may not be among them; no bug
    comes twice, and none is missing that fitted throughout.
    """

    def __init__(self, database: Database) -> None:
        super().__init__("exports", MOST_AT_ONCE, retry_after_s=30.0)
        self._database = database

    async def csv(self, wanted: BugFilter, sort: str, audience: Audience) -> AsyncIterator[bytes]:
        """RFC 4180, UTF-8, a header first; `tags` is a JSON array. A text that a spreadsheet would run as a formula
        gets an apostrophe.
        """
        yield header(to_camel(name) for name in COLUMNS)
        async for page in self._pages(wanted, sort, audience):
            yield lines(_cells(item) for item in page)

    async def json(
        self, wanted: BugFilter, sort: str, audience: Audience, *, comments: bool = False
    ) -> AsyncIterator[bytes]:
        """An array of bugs as REST shows them; with `comments`, each with what was said about it, oldest first. It is
        no valid JSON before its end.
        """
        lead = b"["
        async for page in self._pages(wanted, sort, audience):
            pieces = self._with_comments(page, audience, lead) if comments else _alone(page, lead)
            async for piece in _gathered(pieces):
                yield piece
            lead = b",\n"
        yield b"]\n" if lead != b"[" else b"[]\n"

    async def _pages(self, wanted: BugFilter, sort: str, audience: Audience) -> AsyncIterator[Items]:
        after, more = None, True
        while more:
            async with self._database.connection() as connection:
                records, more = await select(connection, wanted, audience, sort, after=after, limit=PAGE)
            if records:
                after = BugCursor.of(records[-1], sort)
                yield [as_item(record, audience) for record in records]

    async def _with_comments(self, page: Items, audience: Audience, lead: bytes) -> AsyncIterator[bytes]:
        said = self._comments([item["id"] for item in page], audience)
        upcoming = await anext(said, None)
        for place, item in enumerate(page, 1):
            yield lead + _encoded(item)[:-1] + b',"comments":['
            lead, comma = b",\n", b""
            while upcoming is not None and upcoming[0] == place:
                yield comma + upcoming[1]
                comma = b","
                upcoming = await anext(said, None)
            yield b"]}"

    async def _comments(self, bugs: Sequence[UUID], audience: Audience) -> AsyncIterator[tuple[int, bytes]]:
        """(place of its bug from 1, comment), in the order of the bugs."""
        statement = COMMENTS_OF.format(visible=audience.visible("c"), limit=COMMENTS)
        last: tuple[Any, ...] = (0, None, None)
        while True:
            async with self._database.connection() as connection:
                records = await connection.fetch(statement, bugs, *last)
            for record in records:
                yield record["place"], _encoded({name: record[name] for name in SAID})
            if len(records) < COMMENTS:
                return
            last = tuple(records[-1][name] for name in ("place", "created_at", "id"))


async def _alone(page: Items, lead: bytes) -> AsyncIterator[bytes]:
    for item in page:
        yield lead + _encoded(item)
        lead = b",\n"


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each costs a send."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _cells(item: Mapping[str, Any]) -> list[str]:
    tags = json.dumps(item["tags"], ensure_ascii=False)
    return [tags if name == "tags" else as_text(item[name]) for name in COLUMNS]


def _encoded(item: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({to_camel(name): value for name, value in item.items()}, enc_hook=str)
