"""How long the bug tracker's questions take at size, one connection, PostgreSQL on a core of its own.

python -m benchmarks.bugs [--bugs 1000000] [--comments 5000000] [--data-dir FOLDER] [--calls 200]

A data folder is seeded once and used again. Prints p50, p95 and the longest of each question, client included.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import asyncpg

from app.bugs.audience import Audience
from app.bugs.listing import ORDERS, BugCursor, BugFilter, list_bugs
from app.bugs.seed import seed
from app.bugs.similar import SimilarTitles
from app.bugs.summary import summary, trends
from app.core.migrations import migrate
from benchmarks.harness import database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Question = Callable[[Any, random.Random], Awaitable[Any]]

PARIS = ZoneInfo("Europe/Paris")
WARM_UP = 10
COMMON = ("code", "capteur", "minutes", "firmware", "esp32", "temperature", "lot", "sensor", "mesures")
MEDIUM = (
    "œillet clignote",
    "antenna leaks",
    "gasket vibrates",
    "tampon illisible",
    "certificat échoue",
    '"shift change"',
)
STATUSES = ("open", "in_progress", "awaiting_info", "reopened", "resolved", "closed", "wont_fix", "duplicate")
SEVERITIES = ("critical", "high", "medium", "low")


class Sample:
    """Values that bugs really have."""

    def __init__(self, rows: list[Any], now: datetime) -> None:
        self.rows, self.now = rows, now

    def value(self, random_: random.Random, name: str) -> Any:
        while True:
            found = random_.choice(self.rows)[name]
            if found:
                return found

    def cursor(self, random_: random.Random, sort: str) -> BugCursor:
        return BugCursor.of(random_.choice(self.rows), sort)


def listed(make: Callable[[random.Random], dict[str, Any]], audience: Audience = Audience.OUTSIDER) -> Question:
    def ask(connection: Any, random_: random.Random) -> Awaitable[Any]:
        wanted = make(random_)
        page = {name: wanted.pop(name) for name in ("after",) if name in wanted}
        sort = wanted.pop("sort", "-createdAt")
        return list_bugs(connection, BugFilter(**wanted), audience, sort, **page)

    return ask


def questions(of: Sample) -> dict[str, Question]:
    value, similar = of.value, SimilarTitles()

    def rare(r: random.Random) -> str:
        return f"E{r.randrange(90_000)}"

    def created(r: random.Random) -> dict[str, Any]:
        begin = of.now - timedelta(days=r.randrange(20, 700))
        return {"created_from": begin, "created_to": begin + timedelta(days=r.randrange(1, 60))}

    def deep(r: random.Random) -> dict[str, Any]:
        sort = r.choice([name for name in ORDERS if not name.endswith("updatedAt")])
        return {"sort": sort, "after": of.cursor(r, sort)}

    async def the_summary(connection: Any, _random: random.Random) -> Any:
        return await summary(connection, of.now, PARIS)

    async def the_trends(connection: Any, _random: random.Random) -> Any:
        return await trends(connection, 30, of.now, PARIS)

    return {
        "list: all": listed(lambda r: {}),
        "list: status": listed(lambda r: {"status": (r.choice(STATUSES),)}),
        "list: status, severity": listed(lambda r: {"status": (r.choice(STATUSES),), "severity": (r.choice(SEVERITIES),)}),
        "list: device": listed(lambda r: {"device": value(r, "device_id")}),
        "list: device, status": listed(lambda r: {"device": value(r, "device_id"), "status": (r.choice(STATUSES),)}),
        "list: assignee, status": listed(lambda r: {"assignee": value(r, "assigned_to"), "status": (r.choice(STATUSES),)}),
        "list: tag": listed(lambda r: {"tags": (value(r, "tags")[0],)}),
        "list: tag, status": listed(lambda r: {"tags": (value(r, "tags")[0],), "status": (r.choice(STATUSES),)}),
        "list: created range": listed(created),
        "list: reporter, priority": listed(lambda r: {"reporter": value(r, "reported_by"), "priority": (value(r, "priority"),)}),
        "list: firmware, category": listed(lambda r: {"firmware": value(r, "firmware_version"), "category": (value(r, "category"),)}),
        "list: open, by severity": listed(lambda r: {"status": ("open", "reopened"), "sort": "-severity"}),
        "deep page": listed(deep),
        "deep page, status": listed(lambda r: deep(r) | {"status": (r.choice(STATUSES),)}),
        "text: rare": listed(lambda r: {"text": rare(r)}),
        "text: rare, staff": listed(lambda r: {"text": rare(r)}, Audience.STAFF),
        "text: medium": listed(lambda r: {"text": r.choice(MEDIUM)}),
        "text: common": listed(lambda r: {"text": r.choice(COMMON)}),
        "text: common, staff": listed(lambda r: {"text": r.choice(COMMON)}, Audience.STAFF),
        "text: two words": listed(lambda r: {"text": " ".join(r.sample(COMMON, 2))}),
        "text: medium, status": listed(lambda r: {"text": r.choice(MEDIUM), "status": (r.choice(STATUSES),)}),
        "text: common, status, severity": listed(
            lambda r: {"text": r.choice(COMMON), "status": (r.choice(STATUSES),), "severity": (r.choice(SEVERITIES),)}
        ),
        "text: common, device": listed(lambda r: {"text": r.choice(COMMON), "device": value(r, "device_id")}),
        "text: common, created": listed(lambda r: created(r) | {"text": r.choice(COMMON)}),
        "similar": lambda connection, r: similar.find(connection, value(r, "title"), 5),
        "summary": the_summary,
        "trends, 30 days": the_trends,
    }  # fmt: skip


async def measure(connection: Any, ask: Question, calls: int) -> list[float]:
    """Milliseconds, sorted."""
    random_ = random.Random(11)
    took = []
    for call in range(WARM_UP + calls):
        began = time.perf_counter()
        await ask(connection, random_)
        if call >= WARM_UP:
            took.append((time.perf_counter() - began) * 1_000)
    return sorted(took)


@asynccontextmanager
async def seeded(dsn: str, bugs: int, comments: int) -> AsyncIterator[Any]:
    """A connection to a database with so many."""
    name = f"bugs_{bugs}_{comments}"
    own = urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    admin = await asyncpg.connect(dsn)
    if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
        await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    await migrate(own)
    connection: Any = await asyncpg.connect(own, server_settings={"jit": "off", "timezone": "UTC"})
    if not await connection.fetchval("SELECT true FROM bugs LIMIT 1"):
        began = time.perf_counter()
        await seed(connection, bugs, comments, 1, datetime.now(UTC), lambda said: print(f"  {said}", flush=True))
        print(f"seeded in {time.perf_counter() - began:.0f} s")
    try:
        yield connection
    finally:
        await connection.close()


async def run(folder: Path, bugs: int, comments: int, calls: int) -> None:
    async with database(folder) as dsn:
        os.sched_setaffinity(0, {0})  # the database stays on the other core
        async with seeded(dsn, bugs, comments) as connection:
            size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
            now = await connection.fetchval("SELECT max(created_at) FROM bugs")
            rows = await connection.fetch("SELECT * FROM bugs TABLESAMPLE SYSTEM (0.5) LIMIT 5000")
            print(f"\n{bugs:,} bugs, {comments:,} comments, {size}; {calls} calls each, ms\n")
            print(f"{'question':34}{'p50':>8}{'p95':>8}{'max':>8}")
            for name, ask in questions(Sample(rows or await connection.fetch("SELECT * FROM bugs"), now)).items():
                took = await measure(connection, ask, calls)
                p95 = took[int(len(took) * 0.95) - 1]
                print(f"{name:34}{statistics.median(took):8.1f}{p95:8.1f}{took[-1]:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bugs", type=int, default=1_000_000)
    parser.add_argument("--comments", type=int, default=5_000_000)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    if options.data_dir is not None:
        asyncio.run(run(options.data_dir, options.bugs, options.comments, options.calls))
        return
    with tempfile.TemporaryDirectory(prefix="gaveurs-bench-", dir="/tmp") as folder:
        asyncio.run(run(Path(folder), options.bugs, options.comments, options.calls))


if __name__ == "__main__":
    main()
