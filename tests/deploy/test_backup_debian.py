"""Backups across versions: Debian's PostgreSQL and the embedded one, each into the other; and to a bucket."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from app.admin import with_dsn
from app.backup import restore
from app.backup.connection import database_of, snapshot
from app.backup.dump import dump, load
from app.backup.errors import BackupError, NotProvenError
from app.backup.inventory import take_inventory
from app.backup.processes import END_S
from app.backup.programs import choose, installed
from app.backup.proof import prove, restore_and_compare
from app.backup.scratch import PREFIX, embedded_server, in_use, new_database
from app.bugs.attachment_store import AttachmentStore, new_key
from app.core.clock import SystemClock
from app.core.migrations import migrate
from app.core.security import Role, create_key
from app.settings import load_settings
from tests.backup_plant import ask_dsn, refused, well
from tests.contracts.test_attachment_store import Bucket, bucket  # noqa: F401 - a fixture
from tests.deploy.debian_postgres import Cluster
from tests.support import data_folder

if TYPE_CHECKING:
    pass

EMBEDDED_MAJOR = 18
ROWS = "SELECT (SELECT count(*) FROM api_keys), (SELECT sum(length(body)) FROM quarantine)"
QUARANTINED = """
    INSERT INTO quarantine (id, received_at, code, reason, size_bytes, stored_bytes, codec, encoding, body)
    SELECT gen_random_uuid(), now(), 'x', repeat('é', i), 1, 1, 0, 0, convert_to(repeat(md5(i::text), 40), 'UTF8')
    FROM generate_series(1, 2000) i
"""


@pytest.fixture
def plant(cluster: Cluster) -> str:
    """A database with our schema and some rows, in Debian's PostgreSQL."""
    name = f"plant_{uuid4().hex[:8]}"
    cluster.ask(f"CREATE DATABASE {name}")
    dsn = cluster.dsn(name)

    async def fill() -> None:
        await migrate(dsn)
        connection: Any = await asyncpg.connect(dsn)
        await create_key(connection, SystemClock(), "test", Role.VIEWER)
        await connection.execute(QUARANTINED)
        await connection.close()

    asyncio.run(fill())
    return dsn


def rows(dsn: str) -> tuple[Any, ...]:
    return tuple(asyncio.run(ask_dsn(dsn, ROWS))[0])


def test_from_debians_server_into_the_embedded_one_and_back(plant: str, cluster: Cluster, tmp_path: Path) -> None:
    """pg_trgm, which the embedded server lacks, is left out, and that is said. What the embedded one's pg_dump writes
    only a pg_restore as new can read, which then sets what Debian's server does not know.
    """
    place, before = tmp_path / "place", rows(plant)
    with data_folder() as folder:
        folder.chmod(0o755)  # as root, the scratch server is another user's
        well("backup", "--to", place, "--data-dir", folder, DATABASE_URL=plant)
        well("restore", place, "--data-dir", folder)
        back = tmp_path / "back"
        well("backup", "--to", back, "--data-dir", folder)
        target = cluster.dsn(f"back_{uuid4().hex[:8]}")
        well("restore", back, "--into", target, "--data-dir", folder)
    assert rows(target) == before


def test_a_dropped_database_is_back(plant: str, cluster: Cluster, tmp_path: Path) -> None:
    place, before = tmp_path / "place", rows(plant)
    options = ("--data-dir", tmp_path / "data")
    server = {"DATABASE_URL": plant, "BACKUP_VERIFY_URL": cluster.dsn()}
    well("backup", "--to", place, *options, **server)
    name = database_of(plant)
    cluster.ask(f"DROP DATABASE {name}")
    well("restore", place, *options, **server)
    assert rows(plant) == before
    assert cluster.ask("SELECT count(*) FROM pg_database WHERE datname LIKE 'gaveurs_scratch%'") == "0"


@pytest.mark.parametrize("locale", ["LOCALE_PROVIDER icu ICU_LOCALE 'fr-FR'", "LOCALE_PROVIDER libc"])
def test_a_database_is_restored_with_its_locale(locale: str, plant: str, cluster: Cluster, tmp_path: Path) -> None:
    place, options = tmp_path / "place", ("--data-dir", tmp_path / "data")
    well("backup", "--no-verify", "--to", place, *options, DATABASE_URL=plant)
    name = f"target_{uuid4().hex[:8]}"
    cluster.ask(f"CREATE DATABASE {name} TEMPLATE template0 {locale} LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
    question = f"SELECT datlocprovider, daticulocale, datcollate, datctype FROM pg_database WHERE datname = '{name}'"
    before = cluster.ask(question)
    well("restore", place, "--replace", "--yes", "--into", cluster.dsn(name), *options)
    assert rows(cluster.dsn(name)) == rows(plant)
    assert cluster.ask(question) == before


def test_so_is_one_of_the_embedded_server(tmp_path: Path) -> None:
    async def options_of_one_like_it() -> tuple[str, str]:
        with data_folder() as folder:
            async with embedded_server(folder) as dsn:
                locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
                async with new_database(dsn, "gaveurs_scratch_first", locale) as first:
                    options = await restore._like(dsn, first)
                async with new_database(dsn, "gaveurs_scratch_second", options) as second:
                    return options, await restore._like(dsn, second)

    options, again = asyncio.run(options_of_one_like_it())
    assert "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'" in options
    assert again == options


VACUUMED = """
    CREATE TABLE vacuumed WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100)
        AS SELECT repeat('x', 1000) FROM generate_series(1, 10000);
    DELETE FROM vacuumed;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO modest
"""


def test_an_autovacuum_is_nobodys_session(plant: str, cluster: Cluster) -> None:
    """As an ordinary role sees it, which is not shown what kind of process it is."""
    name = database_of(plant)
    cluster.ask("DROP ROLE IF EXISTS modest")
    cluster.ask("CREATE ROLE modest LOGIN")
    cluster.ask("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    cluster.ask("SELECT pg_reload_conf()")
    cluster.ask(VACUUMED, name)
    at_work = f"""
        SELECT count(*) > 0 FROM pg_stat_activity
        WHERE datname = '{name}' AND backend_type = 'autovacuum worker' AND query LIKE '%.vacuumed%'
    """
    modest, server = (one.replace("gaveurs@", "modest@") for one in (plant, cluster.dsn()))
    try:
        cluster.until(at_work, "t")
        assert asyncio.run(restore.look_at(modest, server)).sessions == 0
        assert cluster.ask(at_work) == "t", "it was there all the while"
    finally:
        cluster.ask("ALTER SYSTEM RESET autovacuum_naptime")
        cluster.ask("SELECT pg_reload_conf()")
        cluster.ask("DROP TABLE vacuumed", name)
        cluster.ask("DROP OWNED BY modest", name)


def test_a_backup_of_no_schema_says_so_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    name = f"bare_{uuid4().hex[:8]}"
    cluster.ask(f"CREATE DATABASE {name}")
    said = refused(
        "backup", "--to", tmp_path / "place", "--data-dir", tmp_path / "data", DATABASE_URL=cluster.dsn(name)
    )
    assert said.splitlines() == ["gaveurs: the database has no schema yet: run `gaveurs migrate`"]


def test_what_killed_ones_left_on_the_server_goes_but_not_what_is_in_use(
    plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    old = f"{PREFIX}{int(time.time()) - 3_600:x}_"
    for name in ("left", "used"):
        cluster.ask(f"CREATE DATABASE {old}{name}")

    async def prove_beside_one_in_use() -> None:
        archive, pg_dump, inventory = await taken(plant, tmp_path, 15)
        async with in_use(cluster.dsn(f"{old}used")):
            await prove(archive, pg_dump, inventory, cluster.dsn(), tmp_path)

    asyncio.run(prove_beside_one_in_use())
    there = cluster.ask("SELECT datname FROM pg_database WHERE datname LIKE 'gaveurs_scratch%'")
    assert there == f"{old}used"
    cluster.ask(f"DROP DATABASE {old}used")


def test_a_place_holds_one_databases_backups_and_a_restored_one_is_the_same(
    plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    place, options = tmp_path / "place", ("--no-verify", "--data-dir", tmp_path / "data")
    well("backup", "--to", place, *options, DATABASE_URL=plant)
    other, restored = (cluster.dsn(f"other_{uuid4().hex[:8]}") for _ in range(2))
    cluster.ask(f"CREATE DATABASE {database_of(other)}")
    asyncio.run(migrate(other))
    assert "is another database's" in refused("backup", "--to", place, *options, DATABASE_URL=other)
    well("restore", place, "--into", restored, "--data-dir", tmp_path / "data")
    well("backup", "--to", place, *options, DATABASE_URL=restored)
    well("backup", "--adopt", "--to", place, *options, DATABASE_URL=other)


def test_a_backup_does_not_migrate_what_it_saves() -> None:
    """An older schema, as before an upgrade."""
    asked = []

    async def ask(dsn: str) -> None:
        (row,) = await ask_dsn(dsn, "SELECT to_regclass('alembic_version') IS NOT NULL AS migrated")
        asked.append(row["migrated"])

    with data_folder() as folder:
        settings = load_settings(data_dir=folder, database_url=None)
        asyncio.run(with_dsn(settings, ask, migrated=False))
        asyncio.run(with_dsn(settings, ask))
    assert asked == [False, True]


def test_a_role_that_may_not_make_databases_is_told_and_nothing_changes(
    plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.ask("DROP ROLE IF EXISTS modest; CREATE ROLE modest LOGIN")
    name = database_of(plant)
    cluster.ask("GRANT SELECT ON ALL TABLES IN SCHEMA public TO modest", name)
    well("backup", "--no-verify", "--to", tmp_path / "place", "--data-dir", tmp_path / "data", DATABASE_URL=plant)
    modest = plant.replace("gaveurs@", "modest@")
    options = ("--replace", "--yes", "--data-dir", tmp_path / "data")
    said = refused("restore", tmp_path / "place", *options, DATABASE_URL=modest)
    assert "may not make databases" in said


async def taken(dsn: str, work: Path, major: int) -> tuple[Path, int, Any]:
    async with snapshot(dsn) as (connection, name):
        programs = choose(installed(work), at_least=major, best=major, tls=False)
        target = work / f"{major}.dump"
        await dump(dsn, programs, name, target)
        return target, programs.major, await take_inventory(connection)


@pytest.mark.parametrize("major", [15, EMBEDDED_MAJOR])
def test_a_dump_by_either_pg_dump_restores_into_debians_server(
    major: int, plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    async def there_and_back() -> None:
        archive, pg_dump, inventory = await taken(plant, tmp_path, major)
        assert pg_dump == major
        async with new_database(cluster.dsn(), f"gaveurs_scratch_{uuid4().hex[:8]}") as fresh:
            assert await restore_and_compare(archive, pg_dump, inventory, fresh, tmp_path) == []

    asyncio.run(there_and_back())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE quarantine SET reason = reason || 'x' WHERE id = (SELECT min(id::text)::uuid FROM quarantine)",
        "DELETE FROM api_keys",
        "DROP INDEX quarantine_by_time",
    ],
)
def test_a_dump_of_other_rows_than_the_manifests_is_not_proven(
    change: str, plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    async def two_moments() -> None:
        _, _, inventory = await taken(plant, tmp_path, 15)
        await ask_dsn(plant, change)
        archive, pg_dump, _ = await taken(plant, tmp_path, EMBEDDED_MAJOR)
        with pytest.raises(NotProvenError):
            await prove(archive, pg_dump, inventory, cluster.dsn(), tmp_path)

    asyncio.run(two_moments())


def test_what_is_in_a_bucket_comes_back_from_it(plant: str, bucket: type[Bucket], tmp_path: Path) -> None:  # noqa: F811
    content = b"frame" * 100_000
    store, key = AttachmentStore.in_folder(tmp_path / "data" / "attachments"), new_key()

    async def attach() -> None:
        writing = store.write(key)
        await writing.write(content)
        await writing.close()
        (bug,) = await ask_dsn(plant, "SELECT gen_random_uuid()")
        sha256 = hashlib.sha256(content).hexdigest()
        await ask_dsn(plant, "ALTER TABLE bug_attachments DROP CONSTRAINT bug_attachments_bug_id_fkey")
        await ask_dsn(
            plant,
            "INSERT INTO bug_attachments (id, bug_id, created_at, size_bytes, is_internal, uploader_id, file_name,"
            f" media_type, object_key, sha256) VALUES (gen_random_uuid(), '{bug[0]}', now(), {len(content)}, false, 'x',"
            f" 'x', 'text/plain', '{key}', decode('{sha256}', 'hex'))",
        )

    asyncio.run(attach())
    settings = {
        "BACKUP_TO": "s3://bucket/plant",
        "BACKUP_S3_ENDPOINT": bucket.endpoint,  # type: ignore[attr-defined]
        "BACKUP_S3_ACCESS_KEY": "key",
        "BACKUP_S3_SECRET_KEY": "secret",
        "DATABASE_URL": plant,
    }
    bucket.objects["/bucket/plant/foreign.txt"] = b"not ours"
    before = rows(plant)
    for _ in range(2):
        well("backup", "--no-verify", "--data-dir", tmp_path / "data", **settings)
    shared = [name for name in bucket.objects if "/attachments/" in name]
    assert [bucket.objects[name] for name in shared] == [content]
    (tmp_path / "data" / "attachments" / key).unlink()
    well("restore", "--replace", "--yes", "--data-dir", tmp_path / "data", **settings)
    assert rows(plant) == before
    assert (tmp_path / "data" / "attachments" / key).read_bytes() == content
    assert bucket.objects["/bucket/plant/foreign.txt"] == b"not ours"


def test_a_script_that_the_server_refuses_ends_at_once_with_its_words(
    plant: str, cluster: Cluster, tmp_path: Path
) -> None:
    """Loaded twice: what psql says is told, and nobody waits for pg_restore, whose reader is gone."""

    async def twice() -> None:
        archive, _, _ = await taken(plant, tmp_path, EMBEDDED_MAJOR)
        programs = choose(installed(tmp_path), at_least=EMBEDDED_MAJOR, best=EMBEDDED_MAJOR, tls=False)
        begun = time.monotonic()
        with pytest.raises(BackupError, match=r"psql failed: .*already exists"):
            await load(archive, plant, programs, 1)
        assert time.monotonic() - begun < END_S / 2

    asyncio.run(twice())
