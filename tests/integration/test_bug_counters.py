"""The figures that triggers keep are those of the bugs, also when many change them at once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from app.bugs import comments, tracker
from app.bugs.audience import Audience
from app.bugs.workflow import TRANSITIONS

START = datetime(2026, 2, 2, 8, tzinfo=UTC)
REPORT = {"title": "a title", "description": "a text", "priority": "low"}
WORKERS = 6
COUNTED = """
    SELECT status, severity, priority, coalesce(category, '') AS category, count(*) AS bugs,
           count(resolved_at) AS resolved, coalesce(sum(extract(epoch FROM resolved_at - created_at)), 0) AS resolution_s
    FROM bugs GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
KEPT = "SELECT * FROM bug_counts WHERE bugs <> 0 OR resolved <> 0 OR resolution_s <> 0 ORDER BY 1, 2, 3, 4"
UNSETTLED = "('open', 'in_progress', 'awaiting_info', 'reopened')"


async def work(pool: Any, ids: list[Any], number: int) -> None:
    """Report, change and comment at random, as one of many."""
    dice = random.Random(number)
    for step in range(40):
        now = START + timedelta(minutes=dice.randrange(10_000))
        made = None
        async with pool.acquire() as connection, connection.transaction():
            if step < 5 or dice.random() < 0.2:
                report = REPORT | {"severity": dice.choice(["critical", "low"]), "category": dice.choice([None, "ml"])}
                made = await tracker.report_bug(connection, report, "x", now)
            elif dice.random() < 0.3:
                bug = dice.choice(ids)
                internal = dice.random() < 0.5
                await comments.add_comment(connection, bug, "said", None, "x", now, is_internal=internal)
            else:
                await change(connection, dice, dice.choice(ids), now)
        if made is not None:
            ids.append(made["id"])


async def change(connection: Any, dice: random.Random, bug: Any, now: datetime) -> None:
    status = await connection.fetchval("SELECT status FROM bugs WHERE id = $1 FOR UPDATE", bug)
    changes = {"severity": dice.choice(["critical", "high", "low"]), "category": dice.choice([None, "sensor"])}
    if dice.random() < 0.7:
        changes |= {"status": dice.choice(TRANSITIONS[status]), "resolution": "done"}
    await tracker.change_bug(connection, bug, changes, Audience.STAFF, "x", now)


async def test_counts_and_flow_are_right_after_many_wrote_at_once(dsn: str) -> None:
    pool: Any = await asyncpg.create_pool(dsn, min_size=WORKERS, max_size=WORKERS)
    ids: list[Any] = []
    try:
        await asyncio.gather(*(work(pool, ids, number) for number in range(WORKERS)))
        counted = [tuple(record) for record in await pool.fetch(COUNTED)]
        assert sum(record[4] for record in counted) == len(ids) > WORKERS * 5
        assert [tuple(record) for record in await pool.fetch(KEPT)] == counted
        flow = await pool.fetchrow("SELECT sum(created), sum(resolved), sum(opened) FROM bug_flow")
        bugs = await pool.fetchrow(
            f"SELECT count(*), count(resolved_at), count(*) FILTER (WHERE status IN {UNSETTLED}) FROM bugs"
        )
        assert tuple(flow) == tuple(bugs)
        said = await pool.fetchrow("SELECT sum(comments), sum(internal_comments) FROM bugs")
        kept = await pool.fetchrow(
            "SELECT count(*) FILTER (WHERE NOT is_internal), count(*) FILTER (WHERE is_internal) FROM bug_comments"
        )
        assert tuple(said) == tuple(kept)
    finally:
        await pool.close()


async def test_a_bug_that_a_database_administrator_deletes_is_counted_no_more(dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await tracker.report_bug(connection, REPORT | {"severity": "low"}, "x", START)
        await connection.execute("ALTER TABLE bug_events DISABLE TRIGGER USER")
        await connection.execute("DELETE FROM bug_events; DELETE FROM bug_search; DELETE FROM bugs")
        assert await connection.fetch(KEPT) == []
        assert await connection.fetchval("SELECT sum(created) + sum(opened) FROM bug_flow") == 0
    finally:
        await connection.close()
