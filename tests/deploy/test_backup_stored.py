"""What is stored counts as stored, and what is restored as restored, whatever becomes of the clearing up behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from app.backup.connection import connected, database_of
from app.backup.dump import dump
from app.backup.folder import Folder
from app.backup.make import STAY, Done, Plan, back_up
from app.backup.product import make_backup
from app.backup.rotation import Kept
from app.backup.scratch import PREFIX, forget_leftovers, new_database, scratch_name
from app.bugs.attachment_store import AttachmentStore
from app.core.backup_log import record_backup
from app.core.migrations import migrate
from app.settings import load_settings
from tests.backup_plant import ask_dsn, gaveurs, names, well
from tests.contracts.test_attachment_store import Bucket, bucket  # noqa: F401 - a fixture
from tests.deploy.debian_postgres import Cluster, new_cluster
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.settings import Settings

UNNAMED = f"attachments/00/{'0' * 64}"
UNFINISHED = "20200101T000000Z-00000000/database.dump"
END_IDLE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'gaveurs-backup' AND state = 'idle in transaction'
"""


@pytest.fixture
def dsn(cluster: Cluster) -> str:
    """Of a database with our schema."""
    name = f"plant_{uuid4().hex[:8]}"
    cluster.ask(f"CREATE DATABASE {name}")
    asyncio.run(migrate(cluster.dsn(name)))
    return cluster.dsn(name)


def backed_up(dsn: str, place: Folder, folder: Path) -> Done:
    return asyncio.run(_backed_up(dsn, place, folder))


async def _backed_up(dsn: str, place: Folder, folder: Path) -> Done:
    store = AttachmentStore.in_folder(folder / "store")
    return await back_up(dsn, store, Plan(place, folder / "work", Kept(1, 0, 0), verify=False))


def test_where_nothing_may_be_deleted_backups_are_made_and_that_is_noted(
    dsn: str,
    bucket: type[Bucket],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_together = bucket.do_POST

    def no_deletes(request: Bucket) -> None:
        if not request.path.endswith("?delete"):
            return put_together(request)
        request.asked()
        return request.answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    monkeypatch.setattr(bucket, "do_POST", no_deletes)
    bucket.objects |= {f"/bucket/plant/{UNNAMED}": b"old", f"/bucket/plant/{UNFINISHED}": b"half"}
    settings = load_settings(
        data_dir=tmp_path,
        database_url=dsn,
        backup_to="s3://bucket/plant",
        backup_s3_endpoint=bucket.endpoint,  # type: ignore[attr-defined]
        backup_s3_access_key="key",
        backup_s3_secret_key="secret",
        backup_verify=False,
    )
    done = asyncio.run(make_backup(settings))
    assert f"/bucket/plant/{done.manifest.name}/manifest.json" in bucket.objects
    assert [(word.startswith(STAY), word.endswith("access is denied")) for word in done.words] == [(True, True)] * 2
    (row,) = asyncio.run(ask_dsn(dsn, "SELECT outcome, detail FROM backups"))
    assert (row["outcome"], row["detail"]) == ("succeeded", "; ".join(done.words))


class Slow(Folder):
    """What shall be deleted is never gone; that it is being tried is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.deleting = asyncio.Event()

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self.deleting.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize("ended_by", ["a signal", "the deadline"])
def test_one_that_is_ended_while_old_ones_go_is_stored(ended_by: str, dsn: str, tmp_path: Path) -> None:
    old = tmp_path / "place" / UNNAMED
    old.parent.mkdir(parents=True)
    old.touch()

    async def ended() -> Done:
        place = Slow(tmp_path / "place")

        async def within_its_deadline() -> Done:
            async with asyncio.timeout(None) as limit:
                deadline.set_result(limit)
                return await _backed_up(dsn, place, tmp_path)

        deadline = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(within_its_deadline())
        await place.deleting.wait()
        if ended_by == "a signal":
            running.cancel()
        else:
            (await deadline).reschedule(asyncio.get_running_loop().time())
        return await running

    done = asyncio.run(ended())
    assert names(tmp_path / "place") == [done.manifest.name]
    (word,) = done.words
    assert word.startswith(STAY)


def settings_of(dsn: str, folder: Path) -> Settings:
    return load_settings(data_dir=folder, database_url=dsn, backup_to=str(folder / "place"), backup_verify=False)


async def outcomes(dsn: str) -> list[str]:
    return [row["outcome"] for row in await ask_dsn(dsn, "SELECT outcome FROM backups")]


class ToldAgain(Slow):
    """Whoever is told to stop while old ones go is told a second time while it leaves."""

    async def delete(self, keys: Sequence[str]) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await super().delete(keys)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(task.cancel)
            raise


async def test_one_that_is_told_twice_to_stop_while_old_ones_go_is_stored_and_recorded(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "place" / UNNAMED
    old.parent.mkdir(parents=True)
    old.touch()
    place = ToldAgain(tmp_path / "place")
    monkeypatch.setattr("app.backup.product.place_of", lambda _settings: place)
    running = asyncio.create_task(make_backup(settings_of(dsn, tmp_path)))
    await place.deleting.wait()
    running.cancel()
    (word,) = (await running).words
    assert (word.startswith(STAY), await outcomes(dsn)) == (True, ["succeeded"])


async def test_one_that_is_told_to_stop_while_it_is_recorded_is_recorded(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let = asyncio.Event(), asyncio.Event()

    async def recorded(*arguments: Any) -> None:
        begun.set()
        await let.wait()
        await record_backup(*arguments)

    monkeypatch.setattr("app.backup.product.record_backup", recorded)
    running = asyncio.create_task(make_backup(settings_of(dsn, tmp_path)))
    await begun.wait()
    running.cancel()
    await asyncio.sleep(0)
    let.set()
    assert (await running).words == []
    assert await outcomes(dsn) == ["succeeded"]


async def test_one_that_fails_as_nobody_thought_is_recorded_as_failed(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_arguments: Any) -> Done:
        raise ValueError("of a kind that nobody thought of")

    monkeypatch.setattr("app.backup.product.back_up", fails)
    with pytest.raises(ValueError, match="nobody thought of"):
        await make_backup(settings_of(dsn, tmp_path))
    (row,) = await ask_dsn(dsn, "SELECT outcome, detail FROM backups")
    assert tuple(row) == ("failed", "ValueError: of a kind that nobody thought of")


class LosesItsLockLate(Folder):
    """The session that holds the lock ends when the manifest is there."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        super().__init__(path)
        self.cluster = cluster

    async def put(self, key: str, source: Path) -> None:
        await super().put(key, source)
        if key.endswith("manifest.json"):
            self.cluster.ask("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")


def test_one_whose_lock_is_lost_after_its_manifest_counts_and_deletes_nothing(
    dsn: str, cluster: Cluster, tmp_path: Path
) -> None:
    old = tmp_path / "place" / UNNAMED
    old.parent.mkdir(parents=True)
    old.touch()
    done = backed_up(dsn, LosesItsLockLate(tmp_path / "place", cluster), tmp_path)
    assert names(tmp_path / "place") == [done.manifest.name]
    (word,) = done.words
    assert "the lock of this backup in the database is lost" in word
    assert old.exists()


def test_the_snapshots_connection_may_be_cut_once_the_dump_is_written(
    dsn: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def then_cut(*arguments: Any) -> tuple[int, str]:
        written = await dump(*arguments)
        assert await asyncio.to_thread(cluster.ask, END_IDLE) == "t"
        return written

    monkeypatch.setattr("app.backup.make.dump", then_cut)
    done = backed_up(dsn, Folder(tmp_path / "place"), tmp_path)
    assert (done.words, names(tmp_path / "place")) == ([], [done.manifest.name])


async def test_a_silent_connection_is_kept_in_mind_by_what_is_between(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_cluster() as cluster:
        port = free_port()
        monkeypatch.setenv("PGPORT", str(port))
        cluster.configure(listen_addresses="127.0.0.1", port=str(port))
        cluster.start()
        async with connected(f"postgresql://gaveurs@127.0.0.1:{port}/postgres") as connection:
            assert await connection.fetchval("SHOW tcp_keepalives_idle") == "20"


def test_a_restore_counts_where_the_replaced_database_cannot_be_dropped(
    dsn: str, cluster: Cluster, tmp_path: Path
) -> None:
    options = ("--data-dir", tmp_path / "data")
    well("backup", "--no-verify", "--to", tmp_path / "place", *options, DATABASE_URL=dsn)
    cluster.ask(f"ALTER DATABASE {database_of(dsn)} IS_TEMPLATE true")
    done = gaveurs("restore", tmp_path / "place", "--replace", "--yes", *options, DATABASE_URL=dsn)
    assert done.returncode == 0, done.stderr
    assert f"restored {names(tmp_path / 'place')[0]}: " in done.stdout
    assert "revoke them again" in done.stdout
    (line,) = [one for one in done.stderr.splitlines() if "the replaced database stays, as gaveurs_scratch_" in one]
    assert "cannot drop a template database" in line


async def test_a_scratch_database_that_cannot_be_dropped_stops_nobody(cluster: Cluster) -> None:
    undroppable, old = scratch_name(), f"{PREFIX}1_"
    async with new_database(cluster.dsn(), undroppable):
        cluster.ask(f"ALTER DATABASE {undroppable} IS_TEMPLATE true")
    cluster.ask(f"ALTER DATABASE {undroppable} RENAME TO {old}stays")
    cluster.ask(f"CREATE DATABASE {old}xgoes")
    await forget_leftovers(cluster.dsn())
    there = cluster.ask(f"SELECT datname FROM pg_database WHERE datname LIKE '{old}%'")
    assert there == f"{old}stays"
