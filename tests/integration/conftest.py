"""A store on a real database, and the works that are written to it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from app.core.clock import SystemClock
from app.sqal.alert_rules import AlertRules, AlertSettings
from app.sqal.alerts import ReadingAlerts
from app.sqal.codec import MessageCodec
from app.sqal.intake import Verdict, Work
from app.sqal.prepare import Preparer
from app.sqal.quarantine import Quarantine
from app.sqal.recipe_book import recipe_book
from app.sqal.retention import Housekeeper
from app.sqal.store import SampleStore
from app.sqal.wire import Encoding
from tests.support import RETENTION_DAYS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RETENTION = timedelta(days=RETENTION_DAYS)


class ManualClock(SystemClock):
    """Wall time that only moves when told."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time


class Bench:
    """Everything a commit needs, on one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.clock = ManualClock()
        self.codec = MessageCodec()
        self.quarantine = Quarantine(self.codec, max_rows=40, max_bytes=1_000_000)
        self.store = SampleStore(
            recipe_book("sqal-1-reported"),
            self.codec,
            self.quarantine,
            ReadingAlerts(AlertRules(AlertSettings())),
            retention=RETENTION,
            sites=("LL", "LS", "MT"),
        )
        self.preparer = Preparer(self.clock)
        self.housekeeper = Housekeeper(
            self.clock,
            self.quarantine,
            sample_retention=RETENTION,
            message_retention=timedelta(days=30),
            message_bytes=64 * 1024 * 1024,
        )
        self.delivered: list[tuple[Work, Verdict]] = []

    def deliver(self, work: Work, verdict: Verdict) -> None:
        self.delivered.append((work, verdict))

    def work(self, message: Any, encoding: Encoding = Encoding.JSON) -> Work:
        raw = message
        if not isinstance(message, bytes):
            raw = json.dumps(message).encode() if encoding is Encoding.JSON else msgspec.msgpack.encode(message)
        work = self.preparer.sample(raw, encoding, self, "192.0.2.1")
        self.preparer.prepare([work])
        return work

    async def write(self, *messages: Any) -> list[Verdict]:
        works = [message if isinstance(message, Work) else self.work(message) for message in messages]
        return (await self.store.write(self.connection, works)).verdicts

    async def count(self, table: str = "samples") -> int:
        found: int = await self.connection.fetchval(f"SELECT count(*) FROM {table}")
        return found


@pytest.fixture
async def bench(dsn: str) -> AsyncIterator[Bench]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    made = Bench(connection)
    await made.store.register_recipes(made.connection)
    await made.housekeeper.keep(made.connection)
    yield made
    await asyncio.wait_for(connection.close(), 20)
