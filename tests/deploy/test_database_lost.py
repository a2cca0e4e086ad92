"""The database ends a session, or refuses it, where a command needs it: one clear error each time."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from app.backup.connection import connected, database_of, one_backup_at_a_time
from app.backup.errors import BackupError
from app.backup.folder import Folder
from app.backup.make import Plan, back_up
from app.backup.rotation import Kept
from app.bugs.attachment_store import AttachmentStore
from app.core.database import is_away
from app.core.migrations import migrate
from tests.backup_plant import refused
from tests.deploy.debian_postgres import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOST = "the lock of this backup in the database is lost"
END_LOCKERS = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def dsn(cluster: Cluster) -> str:
    """Of a database with nothing in it."""
    name = f"plant_{uuid4().hex[:8]}"
    cluster.ask(f"CREATE DATABASE {name}")
    return cluster.dsn(name)


class LosesItsLock(Folder):
    """While the dump is being stored, the session that holds the lock ends."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        super().__init__(path)
        self.cluster = cluster

    async def put(self, key: str, source: Path) -> None:
        await super().put(key, source)
        if key.endswith("database.dump"):
            self.cluster.ask(END_LOCKERS)


def test_a_backup_whose_lock_was_lost_does_not_count(dsn: str, cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(migrate(dsn))
    place = LosesItsLock(tmp_path / "place", cluster)
    store = AttachmentStore.in_folder(tmp_path / "store")
    plan = Plan(place, tmp_path / "work", Kept(1, 0, 0), verify=False)
    with pytest.raises(BackupError, match=LOST):
        asyncio.run(back_up(dsn, store, plan))
    assert not list((tmp_path / "place").glob("*/manifest.json"))


@asynccontextmanager
async def last_words_only(cluster: Cluster, folder: Path) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way to the server that passes on what it says but never that it has hung up, and an event for when it has."""
    ended = asyncio.Event()
    callers: list[asyncio.Task[None]] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: asyncio.Event | None) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        if end:
            end.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(f"{cluster.folder}/.s.PGSQL.5432")
        await asyncio.gather(carry(theirs, writer, ended), carry(reader, ours, None))
        for one in (ours, writer):
            one.close()
            with suppress(ConnectionError):
                await one.wait_closed()

    def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_unix_server(called, folder / ".s.PGSQL.5432")
    async with server:
        yield f"postgresql://gaveurs@/postgres?host={folder}", ended
    await asyncio.gather(*callers)


async def test_a_session_that_was_ended_but_not_hung_up_is_a_lock_lost(cluster: Cluster, tmp_path: Path) -> None:
    """Between the server's last word and the end of the connection the driver has a state of its own."""
    async with last_words_only(cluster, tmp_path) as (dsn, ended), one_backup_at_a_time(dsn) as turn:
        await turn.confirm()
        await asyncio.to_thread(cluster.ask, END_LOCKERS)
        await ended.wait()
        with pytest.raises(BackupError, match=LOST):
            await turn.confirm()


async def test_a_session_that_was_ended_but_not_hung_up_did_not_do_it(cluster: Cluster, tmp_path: Path) -> None:
    async with last_words_only(cluster, tmp_path) as (dsn, ended):
        with pytest.raises(BackupError, match="the database did not do it"):
            async with connected(dsn) as connection:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                await asyncio.to_thread(cluster.ask, f"SELECT pg_terminate_backend({pid})")
                await ended.wait()
                await connection.fetchval("SELECT 1")


async def test_a_migration_that_the_server_ends_may_be_tried_again(cluster: Cluster, dsn: str) -> None:
    """What waits for the database knows the driver's errors, not those of what lies between."""
    other: Any = await asyncpg.connect(dsn)
    await other.execute("BEGIN; CREATE TABLE alembic_version (version_num text)")
    under_way = asyncio.create_task(migrate(dsn))
    waiting = f"FROM pg_stat_activity WHERE datname = '{database_of(dsn)}' AND wait_event_type = 'Lock'"
    await asyncio.to_thread(cluster.until, f"SELECT count(*) {waiting}", "1")
    await asyncio.to_thread(cluster.ask, f"SELECT pg_terminate_backend(pid) {waiting}")
    with pytest.raises(asyncpg.PostgresError) as ended:
        await under_way
    assert is_away(ended.value)
    await other.execute("ROLLBACK")
    await other.close()
    assert await migrate(dsn)


def test_a_role_that_may_not_make_tables_is_told_so_in_one_line(cluster: Cluster, dsn: str) -> None:
    cluster.ask("CREATE ROLE modest LOGIN")
    said = refused("migrate", DATABASE_URL=dsn.replace("gaveurs@", "modest@"))
    assert said == "gaveurs: the migration failed: InsufficientPrivilegeError: permission denied for schema public\n"


@pytest.mark.parametrize("command", [("migrate",), ("keys", "list"), ("backup", "--to", "place")])
def test_an_address_that_makes_no_sense_is_told_in_one_line(dsn: str, command: tuple[str, ...], tmp_path: Path) -> None:
    said = refused(*command, DATABASE_URL=f"{dsn}&sslmode=nonsense")
    *logged, line = said.splitlines()
    assert line.startswith("gaveurs: "), line
    assert "`sslmode` parameter must be one of" in line
    assert all(json.loads(one)["level"] == "warning" for one in logged), "that the failure could not be noted either"
