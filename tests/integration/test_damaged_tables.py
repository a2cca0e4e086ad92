"""Background tasks go on where the database refuses a table: it was replaced by hand, or is damaged."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
from structlog.testing import capture_logs

from app.core.clock import SystemClock
from app.core.security import Principal
from app.core.sockets import Sockets
from app.opening import Opening
from app.sqal.fleet import Fleet
from app.sqal.session import CLOSE_REVOKED
from app.sqal.wire import Heartbeat
from tests.integration.test_database import guarded, make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from app.core.database import Database


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = make(dsn)
    await database.open()
    yield database
    await database.close()


@asynccontextmanager
async def without(dsn: str, table: str) -> AsyncIterator[None]:
    """The table is not there meanwhile."""
    hand = await asyncpg.connect(dsn)
    await hand.execute(f"ALTER TABLE {table} RENAME TO put_aside")
    yield
    await hand.execute(f"ALTER TABLE put_aside RENAME TO {table}")
    await hand.close()


async def test_news_of_a_device_are_refused_at_once_and_written_when_the_table_is_back(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sqal.fleet.RETRY_S", 0.01)
    monkeypatch.setattr("app.sqal.fleet.FLUSH_EVERY_S", 0.01)
    told: asyncio.Queue[bool] = asyncio.Queue()
    async with opened(dsn) as database, asyncio.timeout(30):
        fleet = Fleet(database, guarded(), SystemClock(), retention=timedelta(days=1))
        task = asyncio.create_task(fleet.run())
        with capture_logs() as lines:
            async with without(dsn, "devices"):
                fleet.record_heartbeat(
                    "D1", Heartbeat("heartbeat", uptime=5), lambda *, stored: told.put_nowait(stored)
                )
                assert await told.get() is False
        assert lines[0]["event"] == "what devices tell of themselves cannot be written"
        hand = await asyncpg.connect(dsn)
        while await hand.fetchval("SELECT uptime_s FROM devices") != 5:
            await asyncio.sleep(0)
        await hand.close()
        fleet.close()
        await task
        assert told.empty()


class Socket:
    def __init__(self) -> None:
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def end(self, code: int, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result((code, reason))


async def test_a_revoked_key_loses_its_socket_when_the_keys_can_be_read_again(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.opening.CACHE_S", 0.0)
    nothing: Any = None
    sensors, socket = Sockets(10, 10), Socket()
    opening = Opening(nothing, nothing, nothing, nothing, sensors, Sockets(10, 10))
    async with opened(dsn) as database, asyncio.timeout(30):
        resources: Any = SimpleNamespace(reads=database)
        with sensors.holding(socket, Principal("key", "gone", frozenset()), "client"), capture_logs() as lines:
            async with without(dsn, "api_keys"):
                task = asyncio.create_task(opening._review_access(resources))
                while not lines:
                    assert not task.done(), task
                    await asyncio.sleep(0)
            assert await socket.ended == CLOSE_REVOKED
        task.cancel()
        await asyncio.wait({task})
    assert lines[0]["event"] == "open sockets cannot be checked for revoked keys"
