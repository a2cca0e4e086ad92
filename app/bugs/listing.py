"""Bugs by filter, in one of several orders, in pages by offset or by keyset; how many there are."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.bugs.bug import as_item, columns
from app.bugs.search import Search
from app.core import cursor as cursors
from app.core.errors import BadCursorError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.bugs.audience import Audience
    from app.bugs.service_levels import LevelFilter, ServiceLevels
    from app.core.database import Connection, Row

COUNTED: Final = 10_000
"""A total is exact up to so many."""
_LAYOUT: Final = struct.Struct(">BBqq")
_VERSION: Final = 3


@dataclass(frozen=True, slots=True)
class Order:
    """By a column, then by number, both ascending or both descending."""

    column: str
    descending: bool


ORDERS: Final = {
    f"{sign}{name}": Order(column, bool(sign))
    for name, column in (
        ("createdAt", "created_at"),
        ("updatedAt", "updated_at"),
        ("severity", "severity_rank"),
        ("priority", "priority_rank"),
        ("number", "number"),
    )
    for sign in ("-", "")
}
"""By what lists can be sorted; `-` is descending: newest, gravest, most urgent first."""
NEWEST: Final = "-createdAt"
_NAMES: Final = tuple(ORDERS)
_RANKS: Final = ("severity_rank", "priority_rank")


@dataclass(frozen=True, slots=True)
class BugCursor:
    """The last bug of the page before, in one order."""

    sort: str
    value: int
    number: int

    def encode(self) -> str:
        return cursors.encode(_LAYOUT.pack(_VERSION, _NAMES.index(self.sort), self.value, self.number))

    @classmethod
    def decode(cls, text: str, sort: str) -> BugCursor:
        """BadCursorError for anything that `encode` did not make, or made in another order."""
        made = cursors.decode(text, cls._unpack)
        if made.sort != sort:
            raise BadCursorError("the cursor was given for another sort")
        return made

    @classmethod
    def of(cls, record: Row, sort: str) -> BugCursor:
        value = record[ORDERS[sort].column]
        return cls(sort, value if isinstance(value, int) else cursors.to_micros(value), record["number"])

    @classmethod
    def _unpack(cls, packed: bytes) -> BugCursor:
        version, place, value, number = _LAYOUT.unpack(packed)
        if version != _VERSION or place >= len(_NAMES):
            raise ValueError("a cursor of another ordering")
        made = cls(_NAMES[place], value, number)
        made.sort_value()
        column = ORDERS[made.sort].column
        if number < 1 or (column in _RANKS and value not in range(4)) or (column == "number" and value != number):
            raise ValueError("a cursor of no bug")
        return made

    def sort_value(self) -> datetime | int:
        """OverflowError beyond the years that there are."""
        return cursors.from_micros(self.value) if ORDERS[self.sort].column.endswith("_at") else self.value


@dataclass(frozen=True, slots=True)
class BugFilter:
    """Narrows a list; None does not. Of several values one must fit; all `tags` must be there. Times are half-open."""

    status: tuple[str, ...] | None = None
    severity: tuple[str, ...] | None = None
    priority: tuple[str, ...] | None = None
    category: tuple[str, ...] | None = None
    device: str | None = None
    firmware: str | None = None
    site: str | None = None
    assignee: str | None = None
    unassigned: bool | None = None
    reporter: str | None = None
    origin: str | None = None
    number: int | None = None
    tags: tuple[str, ...] | None = None
    text: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    updated_from: datetime | None = None
    updated_to: datetime | None = None
    sla: LevelFilter | None = None


CONDITIONS: Final = {
    "status": "bugs.status = ANY({}::text[])",
    "severity": "bugs.severity = ANY({}::text[])",
    "priority": "bugs.priority = ANY({}::text[])",
    "category": "bugs.category = ANY({}::text[])",
    "device": "bugs.device_id = {}",
    "firmware": "bugs.firmware_version = {}",
    "assignee": "bugs.assigned_to = {}",
    "reporter": "bugs.reported_by = {}",
    "number": "bugs.number = {}",
    "created_from": "bugs.created_at >= {}",
    "created_to": "bugs.created_at < {}",
    "updated_from": "bugs.updated_at >= {}",
    "updated_to": "bugs.updated_at < {}",
}
_NOT_WORDS: Final = {"created_from", "created_to", "updated_from", "updated_to", "sla"}
"""What no document tells."""
_IN_ORDER: Final = frozenset({"device", "firmware", "assignee", "reporter", "number"})
"""Each of these has an index in the order of creation that knows _KEPT too, or leaves next to nothing."""
_KEPT: Final = frozenset({"status", "severity", "priority", "category"})
"""What `bug_counts` counts by."""


@dataclass(frozen=True, slots=True)
class Page:
    """`total` is exact unless `more_than_counted`."""

    items: list[dict[str, Any]]
    total: int
    more_than_counted: bool
    next: BugCursor | None


def where(wanted: BugFilter) -> tuple[str, list[Any]]:
    """(SQL over `bugs`, its arguments), of what needs no search (app/bugs/search.py)."""
    conditions, arguments = ["true"], []
    for name, condition in CONDITIONS.items():
        if (value := getattr(wanted, name)) is not None:
            one = value[0] if isinstance(value, tuple) and len(value) == 1 else None
            arguments.append(one or (list(value) if isinstance(value, tuple) else value))
            # One value is an equality, which an index can be followed by in order.
            said = condition.replace(" = ANY({}::text[])", " = {}") if one else condition
            conditions.append(said.format(f"${len(arguments)}"))
    if wanted.sla is not None:
        conditions.append(wanted.sla.condition(len(arguments) + 1))
        arguments += wanted.sla.levels.arguments()
    return " AND ".join(conditions), arguments


async def list_bugs(
    connection: Connection,
    wanted: BugFilter,
    audience: Audience,
    sort: str = NEWEST,
    *,
    after: BugCursor | None = None,
    skip: int = 0,
    limit: int = 50,
    levels: ServiceLevels | None = None,
) -> Page:
    records, more = await select(connection, wanted, audience, sort, after=after, skip=skip, limit=limit)
    if after is None and not more and (records or not skip):
        total = skip + len(records)  # the page has the last one on it
    else:
        total = await count(connection, wanted, audience)
    items = [as_item(record, audience, levels) for record in records]
    following = BugCursor.of(records[-1], sort) if more else None
    return Page(items, min(total, COUNTED), total > COUNTED, following)


def is_searched(wanted: BugFilter, *, by_creation: bool = True) -> bool:
    """Whether it is looked up among documents, whose index meets any number of conditions at once; in another order
    than that of creation also what an index of `bugs` could tell.
    """
    given = {name for name in wanted.__slots__ if getattr(wanted, name) is not None} - _NOT_WORDS
    beside = given - _KEPT if by_creation else given
    return bool(given) and not (len(beside) == 1 and beside <= _IN_ORDER)


async def select(
    connection: Connection,
    wanted: BugFilter,
    audience: Audience,
    sort: str,
    *,
    after: BugCursor | None,
    skip: int = 0,
    limit: int,
) -> tuple[Sequence[Row], bool]:
    """(rows of one page, whether there are more)"""
    order = ORDERS[sort]
    if is_searched(wanted, by_creation=order.column == "created_at"):
        beyond = (after.sort_value(), after.number) if after else None
        records = await _by_words(connection, wanted, audience, order, beyond, skip, limit + 1)
        return records[:limit], len(records) > limit
    conditions, arguments = where(wanted)
    if after is not None:
        arguments += [after.sort_value(), after.number]
        sign = "<" if order.descending else ">"
        conditions += f" AND (bugs.{order.column}, bugs.number) {sign} (${len(arguments) - 1}, ${len(arguments)})"
    way = "DESC" if order.descending else "ASC"
    ordered = f"ORDER BY bugs.{order.column} {way}, bugs.number {way}"
    # First the numbers, by an index alone: what is passed over is not read.
    page = f"SELECT bugs.number FROM bugs WHERE {conditions} {ordered} LIMIT {limit + 1:d} OFFSET {skip:d}"
    records = await connection.fetch(
        f"{_select(audience)} WHERE bugs.number = ANY(ARRAY({page})) {ordered}", *arguments
    )
    return records[:limit], len(records) > limit


def _select(audience: Audience) -> str:
    return f"SELECT {columns(audience)}, severity_rank, priority_rank FROM bugs"


async def _by_words(
    connection: Connection,
    wanted: BugFilter,
    audience: Audience,
    order: Order,
    after: tuple[Any, int] | None,
    skip: int,
    limit: int,
) -> Sequence[Row]:
    async with connection.transaction():
        search = await Search.begin(connection, wanted, audience)
        numbers = (await search.numbers(order, after, skip + limit))[skip:] if search else []
        records = await connection.fetch(f"{_select(audience)} WHERE number = ANY($1)", numbers) if numbers else []
    found = {record["number"]: record for record in records}
    return [found[number] for number in numbers if number in found]


async def count(connection: Connection, wanted: BugFilter, audience: Audience) -> int:
    """How many fit, counted no further than one beyond COUNTED."""
    given = {name for name in wanted.__slots__ if getattr(wanted, name) is not None}
    kept = given <= _KEPT
    if is_searched(wanted) and not kept:
        async with connection.transaction():
            search = await Search.begin(connection, wanted, audience)
            return await search.count(COUNTED + 1) if search else 0
    conditions, arguments = where(wanted)
    if kept:
        source = f"SELECT coalesce(sum(bugs), 0)::int8 FROM bug_counts WHERE {conditions.replace('bugs.', '')}"
    else:
        source = f"SELECT count(*) FROM (SELECT FROM bugs WHERE {conditions} LIMIT {COUNTED + 1}) AS found"
    total: int = await connection.fetchval(source, *arguments)
    return total
