"""The sweep against a real database: what it takes, what it leaves, and when it leaves everything."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from obstore.store import MemoryStore

from app.bugs.attachment_store import AttachmentStore, new_key
from app.bugs.attachment_sweep import EVERY, LOCK_KEY, STRANGERS, AttachmentSweep
from app.bugs.attachments import Place, add_attachment
from app.bugs.tracker import report_bug
from app.bugs.uploads import Received
from app.core.breaker_policy import Outcome
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.database import Database
from app.core.dependency import Dependency
from app.core.faults import FaultSwitches
from app.core.metrics import Metrics
from app.infrastructure import DATABASE
from tests.bug_client import REPORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime


class LaterClock(SystemClock):
    """Wall time, so much later."""

    def __init__(self) -> None:
        self.later = timedelta(hours=2)

    def now(self) -> datetime:
        return super().now() + self.later


class Swept:
    """A sweep over memory and a database of its own."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self.database = database
        self.metrics = metrics
        self.clock = LaterClock()
        self.store = AttachmentStore(MemoryStore())
        self.sweep = AttachmentSweep(self.clock, self.store, metrics.orphans_swept)

    async def object(self) -> str:
        writing = self.store.write(new_key())
        await writing.write(b"x")
        await writing.close()
        return writing.key

    async def attach(self, key: str) -> str:
        async with self.database.connection() as connection, connection.transaction():
            bug = await report_bug(connection, REPORT, "test", self.clock.now())
            received = Received(key, "a.txt", "text/plain", 1, b"x" * 32)
            place = Place(bug["id"], None, is_internal=False)
            item = await add_attachment(connection, place, received, "test", self.clock.now(), 10)
            return str(item["id"])

    async def left(self) -> set[str]:
        return {one.key async for page in self.store.pages() for one in page}


@pytest.fixture
async def swept(dsn: str) -> AsyncIterator[Swept]:
    clock, metrics = SystemClock(), Metrics()
    breaker = CircuitBreaker(name="database", classify=lambda _error: Outcome.FAILURE)
    dependency = Dependency(DATABASE, breaker, FaultSwitches(clock, ["database"]), clock)
    database = Database(dsn, dependency, metrics, size=2, deadline_s=5, name="bugs")
    await database.open()
    yield Swept(database, metrics)
    await database.close()


async def test_objects_without_a_row_go_once_they_are_old_and_lost_ones_are_told_of(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, orphan, lost = [await swept.object() for _ in range(3)]
    await swept.attach(kept)
    told = await swept.attach(lost)
    await swept.store.delete(lost)
    swept.clock.later = timedelta()
    await swept.sweep.sweep(swept.database)
    assert await swept.left() == {kept, orphan}  # its row may be on its way
    swept.clock.later = timedelta(hours=2)
    await swept.sweep.sweep(swept.database)
    assert await swept.left() == {kept}
    assert "bug_attachment_orphans_swept_total 1" in swept.metrics.registry.render().decode()
    assert told in capsys.readouterr().out


async def test_while_another_process_sweeps_nothing_is_done(swept: Swept, dsn: str) -> None:
    orphan = await swept.object()
    other: Any = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        await swept.sweep.sweep(swept.database)
        assert await swept.left() == {orphan}
    await other.close()
    await swept.sweep.sweep(swept.database)
    assert await swept.left() == set()


async def test_a_store_full_of_what_the_database_does_not_know_is_left_alone(swept: Swept) -> None:
    strangers = {await swept.object() for _ in range(STRANGERS + 1)}
    await swept.sweep.sweep(swept.database)
    assert await swept.left() == strangers
    known = await swept.object()
    await swept.attach(known)
    await swept.sweep.sweep(swept.database)
    assert await swept.left() == {known}


async def test_it_is_due_once_an_hour(swept: Swept) -> None:
    await swept.sweep.when_due(swept.database)
    orphan = await swept.object()
    await swept.sweep.when_due(swept.database)
    assert await swept.left() == {orphan}
    swept.clock.later += EVERY
    await swept.sweep.when_due(swept.database)
    assert await swept.left() == set()
