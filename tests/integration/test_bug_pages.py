"""Walking a list page by page: every bug exactly once, in every order, over shelves whose times overlap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg

from app.bugs import listing
from app.bugs.audience import Audience
from app.bugs.listing import ORDERS, BugCursor, BugFilter, list_bugs
from app.core.ids import uuid7

if TYPE_CHECKING:
    from app.core.database import Connection

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
LIMIT = 17
INSERT = """
    INSERT INTO bugs (number, id, created_at, updated_at, status_changed_at, status, severity, priority, title,
                      description, device_id, reporter_id, tags)
    OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $3, $5, $6, $7, $8, 'un texte', $9, 'somebody', $10)
"""
FILTERS: dict[str, tuple[BugFilter, Any]] = {
    "all": (BugFilter(), lambda bug: True),
    "device": (BugFilter(device="D1"), lambda bug: bug["device"] == "D1"),
    "status": (BugFilter(status=("open", "closed")), lambda bug: bug["status"] in ("open", "closed")),
    "severity": (BugFilter(severity=("critical", "low")), lambda bug: bug["severity"] in ("critical", "low")),
    "text": (BugFilter(text="capteurs"), lambda bug: "Capteur" in bug["title"]),
    "text and time": (
        BugFilter(text="-capteurs", created_from=NOW + timedelta(hours=1), created_to=NOW + timedelta(hours=4)),
        lambda bug: "Capteur" not in bug["title"] and NOW + timedelta(hours=1) <= bug["createdAt"] < NOW + timedelta(hours=4),
    ),
    "text, tag, changed": (
        BugFilter(text="texte", tags=("a",), updated_from=NOW + timedelta(hours=2), unassigned=True),
        lambda bug: "a" in bug["tags"] and bug["updatedAt"] >= NOW + timedelta(hours=2),
    ),
}  # fmt: skip
SEVERITIES = {"critical": 3, "high": 2, "medium": 1, "low": 0}
PRIORITIES = {"urgent": 3, "high": 2, "medium": 1, "low": 0}


async def fill(connection: Connection, seed: int) -> list[dict[str, Any]]:
    """Bugs on thirty shelves; many equal values; a clock that goes back now and then."""
    random = Random(seed)
    bugs = []
    for place in range(90):
        hours = max(0, place // 15 + random.choice((0, 0, -2, 1)))
        bug = {
            "number": place * 5_500 + 1,
            "createdAt": NOW + timedelta(hours=hours),
            "updatedAt": NOW + timedelta(hours=random.randrange(6)),
            "status": random.choice(("open", "closed", "reopened")),
            "severity": random.choice(tuple(SEVERITIES)),
            "priority": random.choice(tuple(PRIORITIES)),
            "title": random.choice(("Capteur", "Écran")),
            "device": random.choice(("D1", "D2", None)),
            "tags": random.choice((["a"], ["b", "a"], [])),
        }
        bugs.append(bug)
        first, *values = bug.values()
        await connection.execute(INSERT, first, uuid7(), *values)
    return bugs


def expected(bugs: list[dict[str, Any]], sort: str, fits: Any) -> list[int]:
    name = sort.lstrip("-")
    ranks = {"severity": SEVERITIES, "priority": PRIORITIES}.get(name)
    keys = [(ranks[bug[name]] if ranks else bug[name], bug["number"]) for bug in bugs if fits(bug)]
    return [number for _, number in sorted(keys, reverse=sort.startswith("-"))]


async def walk(connection: Connection, wanted: BugFilter, audience: Audience, sort: str) -> list[int]:
    seen: list[int] = []
    after: BugCursor | None = None
    while True:
        page = await list_bugs(connection, wanted, audience, sort, after=after, limit=LIMIT)
        assert len(seen) < 1_000
        seen += [item["number"] for item in page.items]
        if page.next is None:
            return seen
        assert len(page.items) == LIMIT
        after = BugCursor.decode(page.next.encode(), sort)


async def test_every_walk_meets_every_bug_once_and_equals_pages_by_offset(dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    bugs = await fill(connection, 1)
    for name, (wanted, fits) in FILTERS.items():
        for place, sort in enumerate(ORDERS):
            audience = (Audience.STAFF, Audience.OUTSIDER)[place % 2]
            should = expected(bugs, sort, fits)
            assert await walk(connection, wanted, audience, sort) == should, (name, sort)
            for skip in (0, 20, 85):
                page = await list_bugs(connection, wanted, audience, sort, skip=skip, limit=LIMIT)
                assert [item["number"] for item in page.items] == should[skip : skip + LIMIT], (name, sort, skip)
                assert page.total == len(should), (name, sort)
                assert (page.next is not None) == (len(should) > skip + LIMIT)
    await connection.close()


async def test_where_more_fit_than_are_counted_the_order_is_followed_all_the_same(dsn: str, monkeypatch: Any) -> None:
    """What half of all bugs have is not put in order as a whole."""
    connection: Any = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    bugs = await fill(connection, 2)
    monkeypatch.setattr("app.bugs.search.FEW", 3)
    monkeypatch.setattr(listing, "COUNTED", 5)
    for name in ("text", "text and time", "text, tag, changed"):
        wanted, fits = FILTERS[name]
        for sort in ("-updatedAt", "updatedAt"):
            assert await walk(connection, wanted, Audience.STAFF, sort) == expected(bugs, sort, fits), (name, sort)
        page = await list_bugs(connection, wanted, Audience.OUTSIDER)
        assert (page.total, page.more_than_counted) == (5, True)
    await connection.close()
