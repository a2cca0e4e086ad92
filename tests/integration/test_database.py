from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from app.core.database import Database
from app.core.errors import DatabaseBusyError, DatabaseUnavailableError
from tests.support import free_port


async def test_a_refused_connection_is_unavailable() -> None:
    database = Database(f"postgresql://x:y@127.0.0.1:{free_port()}/z", size=1, deadline_s=2, name="t")
    await database.open()
    with pytest.raises(DatabaseUnavailableError):
        await database.ping(1)
    await database.close()


async def test_a_statement_past_its_deadline_is_cut_with_its_transaction(dsn: str) -> None:
    database = Database(dsn, size=1, deadline_s=5, name="t")
    await database.open()
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailableError):
        async with database.connection(0.3) as connection, connection.transaction():
            await connection.execute("INSERT INTO devices (device_id) VALUES ('d')")
            await connection.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 5
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM devices") == 0
    await database.close()


async def test_an_exhausted_pool_is_busy_not_unavailable(dsn: str) -> None:
    database = Database(dsn, size=1, deadline_s=5, name="t")
    await database.open()
    async with database.connection():
        with pytest.raises(DatabaseBusyError):
            await database.ping(0.05)
    await database.ping(2)
    await database.close()


async def test_a_connection_cut_by_the_server_is_replaced(dsn: str) -> None:
    database = Database(dsn, size=1, deadline_s=5, name="t")
    await database.open()
    with pytest.raises(DatabaseUnavailableError):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await database.ping(2)
    await database.close()


async def test_a_cancelled_caller_gives_its_place_back(dsn: str) -> None:
    database = Database(dsn, size=1, deadline_s=5, name="t")
    await database.open()

    async def slow() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(slow())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.ping(2)
    await database.close()


async def test_an_error_of_the_caller_stays_itself(dsn: str) -> None:
    database = Database(dsn, size=1, deadline_s=5, name="t")
    await database.open()
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.connection() as connection:
            await connection.execute("SELECT * FROM nowhere")
    await database.close()
