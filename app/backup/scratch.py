"""Databases of our own: a PostgreSQL that lives as long as it is needed, a database that goes again unless it stays."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg

from app.backup.connection import CONNECT_S, at_database, connected, database_of
from app.backup.errors import BackupError
from app.core.database import DRIVER_ERRORS
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.errors import in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

log = get_logger("gaveurs.backup")

UP_S: Final = 60.0
PREFIX: Final = "gaveurs_scratch_"  # names that begin so are ours to drop
YOUNG_S: Final = 60.0  # made, and not yet held
UNUSED: Final = """
    SELECT datname FROM pg_database d WHERE starts_with(datname, $1)
        AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = d.datname)
"""


def scratch_name() -> str:
    return f"{PREFIX}{int(time.time()):x}_{secrets.token_hex(4)}"


def _is_young(name: str) -> bool:
    made, _, _ = name.removeprefix(PREFIX).partition("_")
    with suppress(ValueError):
        return abs(time.time() - int(made, 16)) < YOUNG_S
    return False


@asynccontextmanager
async def embedded_server(folder: Path) -> AsyncIterator[str]:
    """The address of the embedded PostgreSQL of `folder`, which we alone run. CannotStartError where we cannot."""
    server = EmbeddedPostgres(folder)
    try:
        await asyncio.to_thread(server.prepare)
        await server.start()
        await _until_it_serves(server.dsn)
        yield server.dsn
    finally:
        await server.stop()


async def _until_it_serves(dsn: str) -> None:
    try:
        async with asyncio.timeout(UP_S):
            while True:
                with suppress(*DRIVER_ERRORS, OSError):
                    connection = await asyncpg.connect(dsn, timeout=CONNECT_S)
                    await connection.close(timeout=CONNECT_S)
                    return
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise BackupError(f"the embedded PostgreSQL did not serve within {UP_S:g} s of its start") from error


async def maintenance(dsn: str) -> str:
    """Another database of the same server, from which this one can be made, renamed and dropped."""
    failed: BackupError | None = None
    for name in ("postgres", "template1"):
        if name == database_of(dsn):
            continue
        try:
            async with connected(at_database(dsn, name)):
                return at_database(dsn, name)
        except BackupError as error:
            failed = error
    raise BackupError(f"neither postgres nor template1 of that server can be used: {failed}") from failed


@asynccontextmanager
async def new_database(server: str, name: str, options: str = "") -> AsyncIterator[str]:
    """An empty database, gone afterwards if it still has this name."""
    async with connected(server) as connection:
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 {options}')
        except asyncpg.InsufficientPrivilegeError as error:
            raise BackupError(
                "this role may not make databases there: give one that may (ALTER ROLE ... CREATEDB), for this time"
            ) from error
    try:
        yield at_database(server, name)
    finally:
        if why := await drop_database(server, name):
            log.warning("a scratch database could not be dropped", database=name, reason=why)


@asynccontextmanager
async def in_use(dsn: str) -> AsyncIterator[None]:
    """A session in the database at `dsn`: while it is there, nobody takes that one for a leftover."""
    async with connected(dsn):
        yield


async def forget_leftovers(server: str) -> None:
    """Of backups and restores that were killed. PostgreSQL refuses to drop what somebody uses by now."""
    async with connected(server) as connection:
        for (name,) in await connection.fetch(UNUSED, PREFIX):
            if not _is_young(name):
                try:
                    await connection.execute(f'DROP DATABASE "{name}"')
                except (
                    asyncpg.ObjectInUseError, asyncpg.InvalidCatalogNameError, asyncpg.InsufficientPrivilegeError
                ):  # fmt: skip
                    continue  # somebody else's, or gone
                except asyncpg.PostgresError as error:
                    log.warning("a scratch database could not be dropped", database=name, reason=in_a_line(error))


async def drop_database(server: str, name: str) -> str | None:
    """Why it stays, where it does: then it is for `forget_leftovers` of another time."""
    try:
        async with connected(server) as connection:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    except (BackupError, OSError) as error:
        return str(error)
    return None
