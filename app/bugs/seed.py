"""Fills a database with invented bugs, as many as are wanted: for trying, measuring, showing."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

import numpy as np

from app.bugs.comments import MOST
from app.bugs.stories import Stories
from app.core.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from app.bugs.stories import Batch
    from app.core.database import Connection

BATCH: Final = 5_000
DOCUMENTS: Final = 50_000
"""Bugs whose words are made by one statement."""
TABLES: Final = ("bugs", "bug_comments", "bug_events", "bug_search")
BUG: Final = (
    "id", "created_at", "updated_at", "status_changed_at", "acknowledged_at", "assigned_at", "resolved_at", "closed_at",
    "active_s", "occurrences", "version", "reopened", "comments", "internal_comments", "status", "severity", "priority",
    "category", "origin", "title", "description", "device_id", "firmware_version", "site_code", "reported_by",
    "reported_by_email", "reporter_id", "assigned_to", "resolution", "resolved_by", "fixed_in_firmware",
    "reproduction_steps", "tags",
)  # fmt: skip
COMMENT: Final = ("id", "bug_id", "created_at", "is_internal", "author_id", "author", "body")
EVENT: Final = ("id", "bug_id", "at", "version", "is_internal", "actor", "kind", "field", "old", "new")
SEARCHED: Final = """
    INSERT INTO bug_search (number, created_at, title, public, staff)
    SELECT number, created_at, bug_titled(bugs), bug_document(bugs, false),
           CASE WHEN internal_comments > 0 THEN bug_document(bugs, true) END
    FROM bugs WHERE number > $1 AND number <= $2 ORDER BY number
"""
# What triggers keep, of all bugs: counted anew, with the words of the triggers (app/migrations).
FIGURES: Final = (
    "DELETE FROM bug_counts",
    """
    INSERT INTO bug_counts SELECT status, severity, priority, coalesce(category, ''), count(*), count(resolved_at),
        coalesce(sum(extract(epoch FROM resolved_at - created_at)), 0) FROM bugs GROUP BY 1, 2, 3, 4
    """,
    "DELETE FROM bug_flow",
    """
    INSERT INTO bug_flow
    SELECT date_bin('15 minutes', at, '2000-01-01 00:00:00+00'), sum(created), sum(resolved), sum(opened) FROM (
        SELECT created_at AS at, 1 AS created, 0 AS resolved, 1 AS opened FROM bugs
        UNION ALL SELECT resolved_at, 0, 1, 0 FROM bugs WHERE resolved_at IS NOT NULL
        UNION ALL SELECT coalesce(resolved_at, status_changed_at), 0, 0, -1 FROM bugs
                  WHERE status NOT IN ('open', 'in_progress', 'awaiting_info', 'reopened')
    ) AS moved GROUP BY 1
    """,
    "DELETE FROM bug_shelves",
    "INSERT INTO bug_shelves SELECT number >> 14, min(created_at), max(created_at) FROM bugs GROUP BY 1",
)
# Those that stand for nothing but speed.
INDEXES: Final = """
    SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made_by FROM pg_index
    WHERE indrelid = ANY($1::text[]::regclass[]) AND NOT indisunique
"""


async def seed(
    connection: Connection,
    bugs: int,
    comments: int,
    seed: int,
    now: datetime,
    progress: Callable[[str], None],
    *,
    force: bool = False,
) -> None:
    """Add `bugs` with `comments` between them, reported within two years before `now`, in one transaction: all or none.
    The same numbers make the same rows. While it runs nobody else can write, nor read when there was no bug before.

    ConflictError where there are bugs already, unless `force`. `progress` is told in words.
    """
    async with connection.transaction():
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        before = await connection.fetchval("SELECT max(number) FROM bugs")
        if before is not None and not force:
            raise ConflictError("there are bugs in this database already")
        indexes = [] if before is not None else await connection.fetch(INDEXES, TABLES)
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['name']}")
        await _write(connection, Stories(_shares(bugs, comments, seed), seed, now), bugs, progress)
        await _index(connection, [one["made_by"] for one in indexes if " bug_search_" not in one["made_by"]], progress)
        await _documents(connection, before or 0, progress)
        await _index(connection, [one["made_by"] for one in indexes if " bug_search_" in one["made_by"]], progress)
        for statement in FIGURES:
            await connection.execute(statement)
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    if not connection.is_in_transaction():
        progress("tidying")
        await connection.execute(f"VACUUM (ANALYZE) {', '.join((*TABLES, 'bug_counts', 'bug_flow', 'bug_shelves'))}")


def _shares(bugs: int, comments: int, seed: int) -> list[int]:
    """How many comments each bug gets: a few are talked about a lot."""
    if not bugs:
        return []
    random = np.random.default_rng(seed)
    weights = random.exponential(size=bugs)
    shares: list[int] = random.multinomial(comments, weights / weights.sum()).tolist()
    return [min(share, MOST) for share in shares]


async def _write(connection: Connection, stories: Stories, bugs: int, progress: Callable[[str], None]) -> None:
    done = 0
    for batch in stories.batches(BATCH):
        await _copy(connection, batch)
        done += len(batch.bugs)
        progress(f"{done:,} of {bugs:,} bugs")


async def _copy(connection: Connection, batch: Batch) -> None:
    row = itemgetter(*BUG)
    await connection.copy_records_to_table("bugs", columns=BUG, records=[row(bug) for bug in batch.bugs])
    await connection.copy_records_to_table("bug_comments", columns=COMMENT, records=batch.comments)
    await connection.copy_records_to_table("bug_events", columns=EVENT, records=batch.events)


async def _documents(connection: Connection, after: int, progress: Callable[[str], None]) -> None:
    await connection.execute("ANALYZE bugs, bug_comments")
    last = await connection.fetchval("SELECT coalesce(max(number), 0) FROM bugs")
    for first in range(after, last, DOCUMENTS):
        await connection.execute(SEARCHED, first, first + DOCUMENTS)
        progress(f"words of {min(first + DOCUMENTS, last) - after:,} bugs")


async def _index(connection: Connection, statements: Sequence[str], progress: Callable[[str], None]) -> None:
    if statements:
        progress("indexes")
        await connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
    for statement in statements:
        await connection.execute(statement)
