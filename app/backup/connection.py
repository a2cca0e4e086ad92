"""Connections of a backup or a restore: patient ones, and the snapshot that everything is read in."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from app.backup.errors import BackupError, BusyError
from app.backup.inventory import TEXT_SETTINGS, tables_of
from app.core.backup_log import IDENTITY, LOCK_KEY
from app.core.database import DATABASE_ERRORS, DRIVER_ERRORS
from app.core.errors import in_a_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.database import Connection

CONNECT_S: Final = 10.0
ATTEMPTS: Final = 5
ALIVE_EVERY_S: Final = 20.0  # a connection on which nothing is said is forgotten by what is between, unseen
ALIVE_S: Final = 10.0
HELD: Final = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
        AND classid::bigint = $1::bigint >> 32 AND objid::bigint = $1::bigint & 4294967295 AND objsubid = 1)
"""
SESSION: Final = TEXT_SETTINGS | {
    "application_name": "gaveurs-backup",
    "tcp_keepalives_idle": f"{ALIVE_EVERY_S:.0f}",  # the snapshot's is silent while attachments are copied
}


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """BackupError for whatever the database says."""
    try:
        connection: Any = await asyncpg.connect(dsn, timeout=CONNECT_S, server_settings=SESSION)
    except DATABASE_ERRORS as error:
        raise BackupError(f"the database does not answer: {in_a_line(error)}") from error
    try:
        yield connection
    except (*DRIVER_ERRORS, ConnectionResetError) as error:
        raise BackupError(f"the database did not do it: {in_a_line(error)}") from error
    finally:
        connection.terminate()  # nothing is under way, or nobody waits for it any more


def at_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def database_of(dsn: str) -> str:
    return urlsplit(dsn).path.lstrip("/")


async def identity_of(dsn: str) -> str | None:
    """Of the database, which a restored one shares. None before the schema gives it one."""
    async with connected(dsn) as connection:
        try:
            found: str | None = await connection.fetchval(IDENTITY)
        except asyncpg.UndefinedTableError:
            return None
    return found


class Turn:
    """That it is our turn: a lock, which lasts as long as its connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asking = asyncio.Lock()

    async def confirm(self) -> None:
        """BackupError when it is not any more: another backup may have begun since."""
        try:
            async with self._asking:
                held = await self._connection.fetchval(HELD, LOCK_KEY, timeout=ALIVE_S)
        except DATABASE_ERRORS as error:
            raise BackupError(f"the lock of this backup in the database is lost: {in_a_line(error)}") from error
        if not held:
            raise BackupError("the lock of this backup in the database is lost: is a pooler of connections between?")

    async def keep_alive(self) -> None:
        """Until it is lost, which `confirm` says, or cancelled."""
        with suppress(BackupError):
            while True:
                await asyncio.sleep(ALIVE_EVERY_S)
                await self.confirm()


@asynccontextmanager
async def one_backup_at_a_time(dsn: str) -> AsyncIterator[Turn]:
    """The server forgets the lock with the connection, however we end. BusyError when another one holds it."""
    async with connected(dsn) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            raise BusyError("another backup of this database is under way")
        turn = Turn(connection)
        alive = asyncio.create_task(turn.keep_alive())
        try:
            yield turn
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)


@asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[tuple[Connection, str]]:
    """A connection in a transaction that sees one moment, and the name by which others see the same.

    Its tables are locked as reading does: housekeeping drops none of them until the end.
    """
    async with connected(dsn) as connection:
        for left in reversed(range(ATTEMPTS)):
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            await transaction.start()
            try:
                name = await connection.fetchval("SELECT pg_export_snapshot()")
                if not (tables := await tables_of(connection)):
                    raise BackupError("the database has no schema yet: run `gaveurs migrate`")
                await connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")
                break
            except (asyncpg.UndefinedTableError, asyncpg.LockNotAvailableError):  # dropped since, or being dropped
                await transaction.rollback()
                if not left:
                    raise
        yield connection, name
