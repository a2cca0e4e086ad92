"""The PostgreSQL pool: every use has a deadline, and a lost database is one kind of error for all callers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from app.core.errors import DatabaseBusyError, DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]


class Row(Protocol):
    """A row by column name: the driver's record, or a mapping."""

    def __getitem__(self, column: str, /) -> Any: ...


CONNECT_DEADLINE_S = 3.0
# SQLSTATE classes that say "not now" about the server, not about what was asked: connection, resources, operator
# intervention, system error, and read-only or serialisation trouble that a later try does not meet. 23514 too: our
# tables have no checks but their partitions' bounds, which move when a partition is made or dropped.
AWAY_CLASSES = ("08", "53", "57", "58")
AWAY_CODES = ("25006", "40001", "40P01", "55P03", "55006", "23514")


def is_away(error: BaseException) -> bool:
    """Whether an error of the driver means that the database cannot serve now (and a later try may succeed)."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return code[:2] in AWAY_CLASSES or code in AWAY_CODES
    # A closed connection is an InterfaceError; a failed encoding of an argument is one too, but also a ValueError.
    return isinstance(error, OSError | TimeoutError) or (
        isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    )


async def _leave_as_it_is(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """The pool's default reset costs a round trip at every return; we set nothing that outlives a transaction."""


def _cut(connection: Connection) -> None:
    """End a connection at once, without a word to the server; a second time does nothing."""
    with suppress(asyncpg.InterfaceError):  # it was given up already
        connection.terminate()


class Database:
    """A pool of at most `size` connections to `dsn`, opened on first use.

    `connection()` lends one for at most `deadline_s` seconds, connecting included. When time runs out or the server
    goes away it raises `DatabaseUnavailableError`; when none of ours came free in time, `DatabaseBusyError`.
    """

    def __init__(self, dsn: str, *, size: int, deadline_s: float, name: str) -> None:
        self._dsn = dsn
        self._size = size
        self._deadline_s = deadline_s
        self._name = name
        self._pool: Pool | None = None
        self._free = asyncio.Semaphore(size)

    async def open(self) -> None:
        """Make the pool; connects nowhere yet, so that a database that is away delays nothing."""
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._size,
            timeout=CONNECT_DEADLINE_S,
            command_timeout=None,  # the caller's deadline covers connecting, queueing and every statement
            max_inactive_connection_lifetime=300.0,
            reset=_leave_as_it_is,
            # Compiling a query of many sums takes longer than running it.
            server_settings={"application_name": f"gaveurs-{self._name}", "timezone": "UTC", "jit": "off"},
        )

    async def close(self, deadline_s: float = 5.0) -> None:
        """Close politely; cut what does not end in time."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), deadline_s)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self, deadline_s: float | None = None) -> AsyncIterator[Connection]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (deadline_s or self._deadline_s)
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError as error:
            raise DatabaseBusyError from error
        try:
            async with self._lend(deadline) as connection:
                yield connection
        except Exception as error:
            if is_away(error):
                raise DatabaseUnavailableError from error
            raise
        finally:
            self._free.release()

    @asynccontextmanager
    async def _lend(self, deadline: float) -> AsyncIterator[Connection]:
        """A connection that is cut at the deadline: a cancelled statement would wait for its ROLLBACK, for as long as
        a stalled server likes. Cut too, not given back, when it was left in an unknown state.
        """
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailableError("the database is not open")
        async with asyncio.timeout_at(deadline):
            connection = await pool.acquire()
        timer = asyncio.get_running_loop().call_at(deadline, _cut, connection)
        try:
            yield connection
        except BaseException as error:
            if is_away(error) or not isinstance(error, Exception):
                _cut(connection)
            raise
        else:
            if connection.is_in_transaction():
                _cut(connection)
        finally:
            timer.cancel()
            await asyncio.shield(pool.release(connection))

    async def ping(self, deadline_s: float) -> None:
        """`SELECT 1`; raises as `connection()` does."""
        async with self.connection(deadline_s) as connection:
            await connection.execute("SELECT 1")
