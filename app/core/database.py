"""The PostgreSQL pool: every use has a deadline, and a lost database is one kind of error for all callers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import asyncpg

from app.core.breaker_policy import Outcome
from app.core.errors import (
    DatabaseBusyError,
    DatabaseUnavailableError,
    ReadOnlyDatabaseError,
    TryAgainError,
    UnavailableError,
    in_a_line,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from asyncpg.connection import LoggedQuery
    from asyncpg.pool import PoolConnectionProxy

    from app.core.dependency import Dependency
    from app.core.metrics import Metrics

    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]


TRIES: Final = 3
T = TypeVar("T")
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
DATABASE_ERRORS: Final = (*DRIVER_ERRORS, OSError, TimeoutError)  # and those of the way to it


class Row(Protocol):
    """A row by column name: the driver's record, or a mapping."""

    def __getitem__(self, column: str, /) -> Any: ...


CONNECT_DEADLINE_S = 3.0
# SQLSTATE classes that say "not now" about the server, not about what was asked: connection, resources, operator
# intervention, system error, and read-only or serialisation trouble that a later try does not meet. 23514 too, where it
# names no constraint: it is about partitions' bounds, which move when a partition is made or dropped.
AWAY_CLASSES = ("08", "53", "57", "58")
READ_ONLY = "25006"
CHECK_VIOLATION = "23514"
COLLISIONS = ("40001", "40P01", "55P03", "55006", CHECK_VIOLATION)


def is_away(error: BaseException) -> bool:
    """Whether an error of the driver means that the database cannot serve now (and a later try may succeed)."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        if code == CHECK_VIOLATION and getattr(error, "constraint_name", None):
            return False
        return code[:2] in AWAY_CLASSES or code == READ_ONLY or _collides(error)
    # A closed connection is an InterfaceError; a failed encoding of an argument is one too, but also a ValueError. One
    # that the server has ended, used before we have read its end, is an InternalClientError.
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError) or (
        isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    )


def _collides(error: BaseException) -> bool:
    """Whether it met somebody else's change: of rows, or (a migration's) of what a prepared statement returns."""
    return isinstance(error, asyncpg.InvalidCachedStatementError) or getattr(error, "sqlstate", None) in COLLISIONS


class OverdueError(DatabaseUnavailableError):
    """A statement met its own deadline while the database answered others: it says nothing about the database."""


class LoginRefusedError(DatabaseUnavailableError):
    """The server does not let us in: a changed password, a right taken away, a database that is closed, or gone. As
    text it says why, for whoever runs the service; its detail says nothing of it.
    """

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def __str__(self) -> str:
        return self._why


@contextmanager
def logging_in() -> Iterator[None]:
    """Around connecting, and nothing else: there whatever the server answers but a welcome is a LoginRefusedError."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise LoginRefusedError(in_a_line(error)) from error


def judge(error: BaseException) -> Outcome:
    """What an error means to the database's breaker. One about what was asked is a success: it answered."""
    if isinstance(error, OverdueError | ReadOnlyDatabaseError | DatabaseBusyError):
        return Outcome.IGNORED
    if isinstance(error, DatabaseUnavailableError) or is_away(error):
        return Outcome.FAILURE
    return Outcome.SUCCESS if isinstance(error, Exception) else Outcome.CANCELLED


KINDS: Final = {
    "select": "select", "with": "select", "insert": "insert", "update": "update", "delete": "delete", "commit": "commit"
}  # fmt: skip


@lru_cache(maxsize=1_024)
def query_type(statement: str) -> str:
    """A label of `db_query_duration_seconds`: by the statement's first word."""
    words = statement.split(None, 1)
    return KINDS.get(words[0].rstrip(";").lower(), "other") if words else "other"


async def tried_again(work: Callable[[], Awaitable[T]]) -> T:
    """`work`, a transaction of its own, once more at once where it met somebody else's change, and a third time."""
    for _ in range(TRIES - 1):
        with suppress(TryAgainError):
            return await work()
    return await work()


class TimedConnection(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]
    """The driver's connection; its COPY, which the driver's query log leaves out, is measured too."""

    metrics: Metrics

    async def copy_records_to_table(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return await super().copy_records_to_table(*args, **options)
        finally:
            self.metrics.query_duration.labels("copy").observe(time.perf_counter() - began)


async def _leave_as_it_is(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """The pool's default reset costs a round trip at every return; we set nothing that outlives a transaction."""


def _is_cut(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken it away already
        return True


def _cut(connection: Connection) -> None:
    """End a connection at once, without a word to the server; a second time does nothing."""
    with suppress(asyncpg.InterfaceError):  # it was given up already
        connection.terminate()


class Database:
    """A pool of at most `size` connections to `dsn`, opened on first use.

    `connection()` lends one for at most `deadline_s` seconds, connecting included. When time runs out or the server
    goes away it raises `DatabaseUnavailableError`; when none of ours came free within `pool_wait_s`,
    `DatabaseBusyError`; while the breaker is open, CircuitOpenError at once.
    """

    def __init__(
        self,
        dsn: str,
        dependency: Dependency,
        metrics: Metrics,
        *,
        size: int,
        deadline_s: float,
        name: str,
        pool_wait_s: float = 2.0,
    ) -> None:
        self._dsn = dsn
        self._dependency = dependency
        self._metrics = metrics
        self.size = size
        self._deadline_s = deadline_s
        self._pool_wait_s = pool_wait_s
        self.name = name
        self._pool: Pool | None = None
        self._free = asyncio.Semaphore(size)
        self.available = size
        """How many could be lent now."""
        self.waiters = 0

    async def open(self) -> None:
        """Make the pool; connects nowhere yet, so that a database that is away delays nothing."""
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self.size,
            timeout=CONNECT_DEADLINE_S,
            command_timeout=None,  # the caller's deadline covers connecting, queueing and every statement
            max_inactive_connection_lifetime=300.0,
            reset=_leave_as_it_is,
            connection_class=TimedConnection,
            init=self._measure,
            # Compiling a query of many sums takes longer than running it.
            server_settings={"application_name": f"gaveurs-{self.name}", "timezone": "UTC", "jit": "off"},
        )

    async def _measure(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if not isinstance(connection, TimedConnection):
            raise TypeError("the pool makes timed connections")
        connection.metrics = self._metrics
        durations = self._metrics.query_duration

        def note(query: LoggedQuery) -> None:
            durations.labels(query_type(query.query)).observe(query.elapsed)

        connection.add_query_logger(note)

    async def close(self, deadline_s: float = 5.0) -> None:
        """Close politely; cut what does not end in time."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(*DATABASE_ERRORS):  # the pool has cut what it could not close
                await asyncio.wait_for(pool.close(), deadline_s)

    @asynccontextmanager
    async def connection(self, deadline_s: float | None = None) -> AsyncIterator[Connection]:
        began = asyncio.get_running_loop().time()
        deadline = began + (deadline_s or self._deadline_s)
        await self._take_place(min(deadline, began + self._pool_wait_s))
        try:
            async with self._dependency.call():
                try:
                    async with self._lend(deadline) as connection:
                        yield connection
                except Exception as error:
                    if not is_away(error):
                        raise
                    raise self._translated(error, began, deadline) from error
        finally:
            self.available += 1
            self._free.release()

    async def _take_place(self, until: float) -> None:
        self.waiters += 1
        try:
            async with asyncio.timeout_at(until):
                await self._free.acquire()
        except TimeoutError as error:
            raise DatabaseBusyError from error
        finally:
            self.waiters -= 1
        self.available -= 1

    def _translated(self, error: Exception, began: float, deadline: float) -> UnavailableError:
        """What a driver's error that says "not now" is to our callers."""
        if _collides(error):
            return TryAgainError()
        if getattr(error, "sqlstate", None) == READ_ONLY:
            return ReadOnlyDatabaseError()
        overdue = asyncio.get_running_loop().time() >= deadline
        return OverdueError() if overdue and self._dependency.served_since(began) else DatabaseUnavailableError()

    @asynccontextmanager
    async def _lend(self, deadline: float) -> AsyncIterator[Connection]:
        """A connection that is cut at the deadline: a cancelled statement would wait for its ROLLBACK, for as long as
        a stalled server likes. Cut too, not given back, when it was left in an unknown state.
        """
        pool = self._pool
        if pool is None:
            raise DatabaseUnavailableError("the database is not open")
        async with asyncio.timeout_at(deadline):
            await self._dependency.strike()
            with logging_in():
                connection = await pool.acquire()
        timer = asyncio.get_running_loop().call_at(deadline, _cut, connection)
        try:
            yield connection
        except AttributeError as error:
            # A connection that is cut between the two halves of a statement has lost what the driver asks next.
            if not _is_cut(connection):
                raise
            raise asyncpg.ConnectionDoesNotExistError("the connection was cut in the middle of a statement") from error
        except BaseException as error:
            if is_away(error) or not isinstance(error, Exception):
                _cut(connection)
            raise
        else:
            if connection.is_in_transaction():
                _cut(connection)
        finally:
            timer.cancel()
            with suppress(*DATABASE_ERRORS):  # the pool has cut what it cannot take back
                await asyncio.shield(pool.release(connection, timeout=CONNECT_DEADLINE_S))

    async def ping(self) -> None:
        """Whether it answers and takes writes; past the breaker: a background check's question. ReadOnlyDatabaseError
        when it only answers.
        """
        async with self._lend(asyncio.get_running_loop().time() + self._deadline_s) as connection:
            if await connection.fetchval("SELECT current_setting('transaction_read_only')") == "on":
                raise ReadOnlyDatabaseError
