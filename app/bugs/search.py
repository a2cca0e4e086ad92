"""Finding bugs by their words (app/migrations: `bug_search`): French and English, accents folded.

What a list is narrowed by beside words stands among the words of a bug, so that one scan of the index meets both. A
word that half of all bugs have must cost no more than one that ten have: bugs are looked through shelf by shelf (16,384
in a row), a few at first and more where those did not do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from app.bugs.vocabulary import Priority, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from app.bugs.audience import Audience
    from app.bugs.listing import BugFilter, Order
    from app.core.database import Connection, Row

WINDOWS: Final = (1, 4)
"""Shelves that are looked through one after the other; then all that are left, by the words alone: to read the entries
of many shelves costs more than those of a word.
"""
FEW: Final = 5_000
"""So many are put in order by their last change as a whole."""
_SHELF: Final = 14
FACETS: Final = (
    "status", "severity", "priority", "category", "device", "firmware", "site", "assignee", "reporter", "origin"
)  # fmt: skip
_RANKS: Final = {"severity_rank": ("severity", get_args(Severity)), "priority_rank": ("priority", get_args(Priority))}
# A scan of the whole table is never the answer here, whatever an estimate says; a word in most bugs fits in the memory.
BEGIN: Final = """
    SELECT bug_query($1)::text, set_config('enable_seqscan', 'off', true), set_config('work_mem', '32MB', true)
"""
SHELVES: Final = """
    SELECT shelf, first_at, last_at FROM bug_shelves
    WHERE ($1::timestamptz IS NULL OR last_at >= $1) AND ($2::timestamptz IS NULL OR first_at < $2) ORDER BY shelf DESC
"""
_BEYOND: Final = {
    "updated_from": "EXISTS (SELECT FROM bugs u WHERE u.number = s.number AND u.updated_at >= {})",
    "updated_to": "EXISTS (SELECT FROM bugs u WHERE u.number = s.number AND u.updated_at < {})",
    "created_from": "s.created_at >= {}",
    "created_to": "s.created_at < {}",
    "number": "s.number = {}",
}


def _lexeme(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def narrowed(words: str, wanted: BugFilter) -> str:
    """A tsquery, as text: the words, and what else a document tells."""
    parts = [f"({words})"] if words else []
    for name in FACETS:
        if (value := getattr(wanted, name)) is not None:
            values = value if isinstance(value, tuple) else (value,)
            parts.append("(" + " | ".join(_lexeme(f"={name}:{one}") for one in values) + ")")
    parts += [_lexeme(f"=tag:{tag}") for tag in wanted.tags or ()]
    if wanted.unassigned is not None:
        parts.append(("" if wanted.unassigned else "!") + _lexeme("=unassigned"))
    return " & ".join(parts)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the shelves: of which numbers, where the query does not say so; what bounds the times of those that
    come after it (None: there are none).
    """

    query: str
    lowest: int = 0
    highest: int = 0
    named: bool = True
    bound: datetime | None = None


class Search:
    """One look at the documents, in the caller's transaction."""

    def __init__(self, connection: Connection, query: str, wanted: BugFilter, audience: Audience) -> None:
        self._connection, self._query, self._wanted = connection, query, wanted
        # What internal comments say adds words and nothing else.
        self._with_internal = audience.is_staff and wanted.text is not None

    @classmethod
    async def begin(cls, connection: Connection, wanted: BugFilter, audience: Audience) -> Search | None:
        """By text, or by something of FACETS. None where there is no word in the text: nothing fits that."""
        words = await connection.fetchval(BEGIN, wanted.text or "")
        if wanted.text is not None and not words:
            return None
        return cls(connection, narrowed(words, wanted), wanted, audience)

    async def count(self, most: int) -> int:
        """How many fit, counted no further than `most`."""
        total = 0
        for window in windows(self._query, await self._shelves(None, descending=True), descending=True):
            source, arguments = self._source(window)
            arguments.append(most - total)
            total += await self._connection.fetchval(
                f"SELECT count(*) FROM (SELECT FROM ({source}) AS found LIMIT ${len(arguments)}) AS counted", *arguments
            )
            if total >= most:
                break
        return total

    async def numbers(self, order: Order, after: tuple[Any, int] | None, most: int) -> list[int]:
        """The first `most` bugs beyond `after` (value and number) in an order: their numbers."""
        if order.column in _RANKS:
            return await self._by_rank(order, after, most)
        if order.column == "updated_at":
            return await self._by_update(order, after, most)
        return await self._by_shelves(self._query, order, after, most)

    async def _shelves(self, after: datetime | None, *, descending: bool) -> Sequence[Row]:
        """Those that a page may come from, the newest first."""
        begin, end = self._wanted.created_from, self._wanted.created_to
        shelves = await self._connection.fetch(SHELVES, begin, end)
        if after is None:
            return shelves
        return [one for one in shelves if (one["first_at"] <= after if descending else one["last_at"] >= after)]

    async def _by_shelves(self, query: str, order: Order, after: tuple[Any, int] | None, most: int) -> list[int]:
        """By time of creation or by number: done when no other shelf can hold anything that comes before."""
        by_time = order.column == "created_at"
        shelves = await self._shelves(after[0] if after and by_time else None, descending=order.descending)
        found: list[tuple[Any, int]] = []
        for window in windows(query, shelves, descending=order.descending):
            if not by_time and after is not None and _is_before(window, after[1], order):
                continue
            found += await self._keys(window, order, after, most)
            found.sort(reverse=order.descending)
            if window.bound is None or not by_time:
                certain = len(found)
            else:
                certain = sum(1 for at, _ in found if (at > window.bound if order.descending else at < window.bound))
            if certain >= most:
                break
        return [number for _, number in found[:most]]

    async def _keys(
        self, window: Window, order: Order, after: tuple[Any, int] | None, most: int
    ) -> list[tuple[Any, int]]:
        way, beyond = ("DESC", "<") if order.descending else ("ASC", ">")
        key = f"{order.column}, number" if order.column == "created_at" else "number, number"
        source, arguments = self._source(window)
        condition = "true"
        if after is not None and order.column == "created_at":
            arguments += [*after]
            condition = f"(created_at, number) {beyond} (${len(arguments) - 1}, ${len(arguments)})"
        elif after is not None:
            arguments.append(after[1])
            condition = f"number {beyond} ${len(arguments)}"
        arguments.append(most)
        records = await self._connection.fetch(
            f"SELECT {key} FROM ({source}) AS found WHERE {condition}"
            f" ORDER BY {key.replace(',', f' {way},', 1)} {way} LIMIT ${len(arguments)}",
            *arguments,
        )
        return [(record[0], record[1]) for record in records]

    async def _by_rank(self, order: Order, after: tuple[Any, int] | None, most: int) -> list[int]:
        """Rank by rank, each by number."""
        name, words = _RANKS[order.column]
        found: list[int] = []
        inner = type(order)("number", order.descending)
        allowed = getattr(self._wanted, name) or words
        for rank, word in sorted(enumerate(reversed(words)), reverse=order.descending):
            passed = after is not None and (rank > after[0] if order.descending else rank < after[0])
            if passed or word not in allowed:
                continue
            begin = (None, after[1]) if after is not None and rank == after[0] else None
            query = f"{self._query} & {_lexeme(f'={name}:{word}')}"
            found += await self._by_shelves(query, inner, begin, most - len(found))
            if len(found) >= most:
                break
        return found

    async def _by_update(self, order: Order, after: tuple[Any, int] | None, most: int) -> list[int]:
        """Of few, all are put in order; where many fit, the order is followed until a page is full."""
        if await self.count(FEW + 1) <= FEW:
            return await self._of_few(order, after, most)
        condition, arguments = _beyond(order, after)
        source, arguments = self._source(Window(self._query), arguments, "s.number = b.number")
        return await self._ordered(
            f"bugs b WHERE {condition} AND (SELECT true FROM ({source} LIMIT 1) AS found)", arguments, order, most
        )

    async def _of_few(self, order: Order, after: tuple[Any, int] | None, most: int) -> list[int]:
        condition, arguments = _beyond(order, after)
        source, arguments = self._source(Window(self._query), arguments)
        joined = f"({source}) AS found JOIN bugs b ON b.number = found.number WHERE {condition}"
        return await self._ordered(joined, arguments, order, most)

    async def _ordered(self, source: str, arguments: list[Any], order: Order, most: int) -> list[int]:
        way = "DESC" if order.descending else "ASC"
        ordered = f"ORDER BY b.{order.column} {way}, b.number {way} LIMIT ${len(arguments) + 1}"
        records = await self._connection.fetch(f"SELECT b.number FROM {source} {ordered}", *arguments, most)
        return [record["number"] for record in records]

    def _source(self, window: Window, given: Sequence[Any] = (), condition: str = "") -> tuple[str, list[Any]]:
        """SQL of the documents that fit in a window: (number, created_at); arguments after those `given`."""
        arguments = [*given, window.query]
        query = f"${len(arguments)}::text::tsquery"
        conditions = [condition] if condition else []
        if not window.named:  # not by the index of numbers: each document would have to be read
            arguments += [window.lowest, window.highest]
            conditions.append(f"s.number + 0 BETWEEN ${len(arguments) - 1} AND ${len(arguments)}")
        for name, said in _BEYOND.items():
            if (value := getattr(self._wanted, name)) is not None:
                arguments.append(value)
                conditions.append(said.format(f"${len(arguments)}"))
        if (level := self._wanted.sla) is not None:
            known = level.condition(len(arguments) + 1)
            arguments += level.levels.arguments()
            conditions.append(f"EXISTS (SELECT FROM bugs WHERE bugs.number = s.number AND {known})")
        also = "".join(f" AND {condition}" for condition in conditions)
        source = "SELECT s.number, s.created_at FROM bug_search s WHERE"
        if not self._with_internal:
            return f"{source} s.public @@ {query}{also}", arguments
        public = f"{source} s.public @@ {query} AND s.staff IS NULL{also}"
        return f"{public} UNION ALL {source} s.staff @@ {query}{also}", arguments


def _beyond(order: Order, after: tuple[Any, int] | None) -> tuple[str, list[Any]]:
    """SQL over bugs `b`, and its arguments."""
    if after is None:
        return "true", []
    return f"(b.{order.column}, b.number) {'<' if order.descending else '>'} ($1, $2)", [*after]


def windows(query: str, shelves: Sequence[Row], *, descending: bool) -> Iterator[Window]:
    """The shelves (newest first) in parts, in the order in which they are looked through."""
    ordered = list(shelves if descending else reversed(shelves))
    sizes = [*WINDOWS, len(ordered)]
    while ordered:
        size = sizes.pop(0)
        these, ordered = ordered[:size], ordered[size:]
        named = [one["shelf"] for one in these]
        lowest, highest = min(named) << _SHELF, ((max(named) + 1) << _SHELF) - 1
        within = f"({query}) & ({' | '.join(_lexeme(f'#{shelf}') for shelf in named)})" if sizes else query
        times = [one["last_at"] if descending else one["first_at"] for one in ordered]
        bound = (max if descending else min)(times) if times else None
        yield Window(within, lowest, highest, bool(sizes), bound)


def _is_before(window: Window, number: int, order: Order) -> bool:
    """Whether all of a window was on the pages before."""
    return window.lowest >= number if order.descending else window.highest <= number
