"""What PostgreSQL reads for each kind of question at 100,000 bugs: a budget of pages, and never a table from end to end.

Budgets are three times what was read when they were written: an index that is lost, or passed over, breaks them.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from app.bugs import comments, history, summary
from app.bugs.audience import Audience
from app.bugs.listing import BugCursor, BugFilter, list_bugs
from app.bugs.seed import FIGURES, seed
from app.bugs.similar import SimilarTitles
from app.core.migrations import migrate
from tests.integration.test_bug_search import connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
INVENTED, COPIES = 2_000, 50
BIG = ("bugs", "bug_comments", "bug_events", "bug_search")
# Each invented bug fifty times, at as many times the pace: words are made once.
AT = "timestamptz '2024-03-02 10:00+00' + (created_at - timestamptz '2024-03-02 10:00+00') / 50 + k * interval '350 hours'"
SHELF = "array_to_tsvector(ARRAY['#' || ((k * 2000 + number) >> 14)])"
COPY = f"""
    CREATE TEMP TABLE one AS SELECT * FROM bugs;
    CREATE TEMP TABLE words AS SELECT * FROM bug_search;
    CREATE TEMP TABLE said AS SELECT * FROM bug_comments;
    ALTER TABLE bug_events DISABLE TRIGGER USER;
    TRUNCATE bugs, bug_comments, bug_events, bug_search CASCADE;
    INSERT INTO bugs ({{columns}}) OVERRIDING SYSTEM VALUE
        SELECT {{values}} FROM one, generate_series(0, {COPIES - 1}) AS k ORDER BY k, number;
    INSERT INTO bug_search SELECT k * {INVENTED} + number, {AT},
        ts_delete(title, '#0') || {SHELF}, ts_delete(public, '#0') || {SHELF}, ts_delete(staff, '#0') || {SHELF}
        FROM words, generate_series(0, {COPIES - 1}) AS k ORDER BY k, number;
    INSERT INTO bug_comments (id, bug_id, created_at, is_internal, author_id, author, body)
        SELECT uuid_in(md5(id::text || k)::cstring), uuid_in(md5(bug_id::text || k)::cstring),
               {AT}, is_internal, author_id, author, body
        FROM said, generate_series(0, {COPIES - 1}) AS k ORDER BY k, said.created_at;
    INSERT INTO bug_events (id, bug_id, at, version, actor, kind)
        SELECT gen_random_uuid(), id, created_at, 1, 'somebody', 'created' FROM bugs;
"""
CHANGED = {
    "number": f"k * {INVENTED} + number",
    "id": "uuid_in(md5(id::text || k)::cstring)",
    "created_at": AT,
    "updated_at": AT.replace("created_at", "updated_at"),
    "status": "CASE WHEN k < 47 AND status = 'open' THEN 'closed' ELSE status END",
}


async def fill(dsn: str) -> None:
    await migrate(dsn)
    async with connected(dsn) as connection:
        await seed(connection, INVENTED, INVENTED // 2, 5, NOW, lambda _: None)
        await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        held = await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'bugs' AND is_generated = 'NEVER'"
        )
        names = [one["column_name"] for one in held]
        made = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'bug_search' AND indexdef LIKE '%gin%'"
        )
        for index in made:
            await connection.execute(f"DROP INDEX {index['indexname']}")
        values = ", ".join(CHANGED.get(name, name) for name in names)
        await connection.execute(COPY.format(columns=", ".join(names), values=values))
        await connection.execute("SET maintenance_work_mem = '256MB'")
        for statement in (*(index["indexdef"] for index in made), *FIGURES):
            await connection.execute(statement)
        await connection.execute(f"VACUUM (ANALYZE) {', '.join((*BIG, 'bug_counts', 'bug_flow', 'bug_shelves'))}")


@pytest.fixture(scope="module")
def filled(postgres_dsn: str) -> Iterator[str]:
    name = f"plans_{uuid4().hex[:12]}"

    async def admin(statement: str) -> None:
        connection: Any = await asyncpg.connect(postgres_dsn)
        await connection.execute(statement)
        await connection.close()

    dsn = urlunsplit(urlsplit(postgres_dsn)._replace(path=f"/{name}"))
    asyncio.run(admin(f"CREATE DATABASE {name}"))
    asyncio.run(fill(dsn))
    yield dsn
    asyncio.run(admin(f"DROP DATABASE {name} WITH (FORCE)"))


class Watched:
    """A connection that has every question explained too."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.pages, self.scanned = 0, set[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._connection.fetch(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._connection.fetchval(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        await self._explain(statement, arguments)
        return await self._connection.fetchrow(statement, *arguments)

    async def _explain(self, statement: str, arguments: Any) -> None:
        explained = await self._connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        plan = json.loads(explained)[0]["Plan"]
        self.pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self._look(plan)

    def _look(self, plan: dict[str, Any]) -> None:
        if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in BIG:
            self.scanned.add(plan["Relation Name"])
        for below in plan.get("Plans", ()):
            self._look(below)


def listed(wanted: BugFilter, sort: str = "-createdAt", audience: Audience = Audience.OUTSIDER, **page: Any) -> Any:
    return lambda connection: list_bugs(connection, wanted, audience, sort, **page)


async def summary_of(connection: Any) -> Any:
    await connection.fetchrow(summary.SUMMARY)
    await connection.fetchrow(summary.TODAY, NOW - timedelta(days=1), NOW)


async def of_one(connection: Any, question: Any) -> Any:
    bug_id = await connection.fetchval("SELECT id FROM bugs WHERE number = 50000")
    await question(connection, bug_id, Audience.OUTSIDER, None, 50)


DEEP = BugCursor("-createdAt", int((NOW - timedelta(days=365)).timestamp()) * 1_000_000, 50_000)
LAST = NOW - timedelta(days=30)
STAFF = Audience.STAFF
QUESTIONS: dict[str, tuple[int, Callable[[Any], Awaitable[Any]]]] = {
    "all": (400, listed(BugFilter())),
    "deep": (400, listed(BugFilter(), after=DEEP)),
    "deep, by severity": (500, listed(BugFilter(), "-severity", after=BugCursor("-severity", 1, 50_000))),
    "by update": (600, listed(BugFilter(), "-updatedAt")),
    "status": (1_100, listed(BugFilter(status=("open",)))),
    "status, oldest first": (2_800, listed(BugFilter(status=("open",)), "createdAt")),
    "status and severity": (1_500, listed(BugFilter(status=("open",), severity=("critical",)))),
    "firmware": (800, listed(BugFilter(firmware="v2.0.1"))),
    "assignee": (800, listed(BugFilter(assignee="Jean Dupont"))),
    "reporter": (800, listed(BugFilter(reporter="Jean Dupont"), "createdAt")),
    "deep, by priority": (500, listed(BugFilter(), "priority", after=BugCursor("priority", 1, 50_000))),
    "device": (800, listed(BugFilter(device="ESP32_LL_01"))),
    "device and status": (2_000, listed(BugFilter(device="ESP32_LL_01", status=("resolved",)))),
    "assignee and status": (7_000, listed(BugFilter(assignee="Jean Dupont", status=("in_progress",)))),
    "tag": (12_000, listed(BugFilter(tags=("sensor",)))),
    "tag and status": (1_700, listed(BugFilter(tags=("audit",), status=("open",)))),
    "created": (500, listed(BugFilter(created_from=LAST, created_to=NOW))),
    "updated": (500, listed(BugFilter(updated_from=LAST))),
    "reporter and priority": (8_000, listed(BugFilter(reporter="Jean Dupont", priority=("urgent",)))),
    "a rare word": (300, listed(BugFilter(text="E7"))),
    "a common word": (10_000, listed(BugFilter(text="code"), audience=STAFF)),
    "a common word, by severity": (11_000, listed(BugFilter(text="code"), "-severity")),
    "a common word, by update": (14_000, listed(BugFilter(text="code"), "-updatedAt")),
    "words and filters": (1_000, listed(BugFilter(text="capteur timeout", status=("closed",), severity=("high",)))),
    "without a word": (5_000, listed(BugFilter(text="-capteur"))),
    "similar": (
        20_000,
        lambda connection: SimilarTitles().find(connection, "Capteur VL53L8CH ne répond plus la nuit", 5),
    ),
    "summary": (120, summary_of),
    "comments": (50, lambda connection: of_one(connection, comments.list_comments)),
    "history": (30, lambda connection: of_one(connection, history.list_history)),
}


async def test_every_question_reads_what_it_needs_and_no_more(filled: str) -> None:
    async with connected(filled) as connection:
        over = {}
        for name, (budget, ask) in QUESTIONS.items():
            watched = Watched(connection)
            await ask(watched)
            if watched.pages > budget or watched.scanned:
                over[name] = (watched.pages, sorted(watched.scanned))
        assert over == {}
