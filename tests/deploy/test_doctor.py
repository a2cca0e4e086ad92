"""`gaveurs doctor` on real parts: each fault is provoked, found, and told without a secret."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from app.backup.make import STAY
from app.core.backup_log import BackupRecord, record_backup
from app.doctor import attachments, backup_means, database, database_facts, redis
from app.doctor.finding import Finding, Level
from app.doctor.folders import look
from app.doctor.patient import Patient
from app.doctor.visit import CHECKS, examine
from app.settings import Settings
from tests import prepared
from tests.conftest import new_database
from tests.redis_server import running_redis
from tests.support import Server, data_folder, free_port, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PASSWORD = "d0ct0r-secret"
PATIENCE_S = 60.0
DEADLINES = (
    (attachments, "DEADLINE_S"), (backup_means, "CONNECT_DEADLINE_S"), (backup_means, "PLACE_S"),
    (database, "CONNECT_DEADLINE_S"), (database, "ASK_S"), (redis, "DEADLINE_S"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def deadlines(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What answers in the end is waited for, however busy this machine is; undone where nobody answers."""
    for module, name in DEADLINES:
        monkeypatch.setattr(module, name, PATIENCE_S)
    return monkeypatch


def told(folder: Path, *arguments: str, **env: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, findings and the whole text of the command as it is run by people."""
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_HOST")}
    command = [sys.executable, "-m", "app.cli", "doctor", "--json", "--data-dir", str(folder), *arguments]
    ran = subprocess.run(
        command, env=clean | env, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=folder.parent
    )
    assert not ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout)["findings"], ran.stdout


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What is there: mode, size and time of change of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def of(findings: list[dict[str, Any]], topic: str) -> list[str]:
    return [one["what"] for one in findings if one["topic"] == topic]


def test_of_a_running_server_it_finds_nothing_wrong() -> None:
    with running_server() as server:
        for _ in range(3):  # it waits 2 s for the port: this machine may stand still for longer
            code, findings, text = told(server.folder, "--port", str(server.port))
            if code == 0:
                break
        assert code == 0, text
        assert of(findings, "ports") == [f"the port 127.0.0.1:{server.port}: this service runs there"]
        assert str(server.running.pid) in of(findings, "embedded")[0]
        assert of(findings, "database")[0].startswith("PostgreSQL 18")
        assert "as this program wants it" in of(findings, "migrations")[0]
        assert of(findings, "backups") == ["no backup was ever made"]
        assert any("writes of 8 kB with fsync" in line for line in of(findings, "disk"))
        assert {one["level"] for one in findings if one["topic"] in ("permissions", "budgets", "attachments")} == {"ok"}
        dsn = json.loads((server.folder / "connection.json").read_text())["dsn"]
        assert urlsplit(dsn).password not in text
        (server.folder / "admin.key").chmod(0o644)
        found = look(Patient(Settings(_env_file=None, data_dir=server.folder, database_url=None)))
        assert [one.do for one in found if one.topic == "permissions"] == [f"chmod 600 {server.folder / 'admin.key'}"]


def test_our_own_server_that_hangs_is_not_somebody_else() -> None:
    with running_server() as server:
        os.kill(server.running.pid, signal.SIGSTOP)
        try:
            _, findings, _ = told(server.folder, "--port", str(server.port))
        finally:
            os.kill(server.running.pid, signal.SIGCONT)
    assert of(findings, "ports") == [
        f"the port 127.0.0.1:{server.port}: this service (process {server.running.pid}) does not answer"
    ]


def test_where_nothing_runs_it_starts_and_changes_nothing() -> None:
    with data_folder() as folder:
        prepared.copy_into(folder)
        before = tree(folder)
        code, findings, _ = told(folder, "--port", str(free_port()))
        assert (code, tree(folder)) == (0, before)
        assert of(findings, "database") == [f"the embedded PostgreSQL in {folder} does not run now"]
        assert of(findings, "embedded") == [f"nobody runs the database in {folder} now"]
        assert not Server(folder).postgres()


def test_wrong_settings_are_findings_and_an_exit_code() -> None:
    with data_folder() as folder:
        code, findings, text = told(folder, DATABASE_URL=f"postgres://u:{PASSWORD}@", REDIS_HOTS="x")
        assert code == 1
        assert of(findings, "settings")[0].startswith("DATABASE_URL: must look like")
        assert "REDIS_HOTS in the environment is not read" in text
        assert PASSWORD not in text


# A database with one fault each, by PostgreSQL itself


def patient(dsn: str, replicas: int = 1, **values: Any) -> Patient:
    made = Settings(_env_file=None, database_url=SecretStr(dsn), **values)
    return Patient(made, replicas)


async def asked(someone: Patient, *topics: str) -> list[Finding]:
    found = await examine(someone, {topic: CHECKS[topic] for topic in topics}, PATIENCE_S)
    assert PASSWORD not in repr(found)
    return found


def bad(found: list[Finding], topic: str) -> list[tuple[Level, str]]:
    return [
        (one.level, one.what) for one in found if one.topic == topic and one.level in (Level.WARNING, Level.PROBLEM)
    ]


def at(dsn: str, **parts: str) -> str:
    """The same server, another role or database."""
    old = urlsplit(dsn)
    user, password = parts.get("user", old.username or ""), parts.get("password", old.password or "")
    netloc = f"{user}:{password}@" + old.netloc.rpartition("@")[2]
    return urlunsplit(old._replace(netloc=netloc, path=parts.get("path", old.path)))


@pytest.fixture
async def role(postgres_dsn: str, dsn: str) -> AsyncIterator[str]:
    """A role that may only connect, by its address."""
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f"DROP ROLE IF EXISTS watcher; CREATE ROLE watcher LOGIN PASSWORD '{PASSWORD}'")
    yield at(dsn, user="watcher", password=quote(PASSWORD))
    await admin.execute("DROP ROLE watcher")
    await admin.close()


@pytest.mark.parametrize(
    ("setting", "words"),
    [("synchronous_commit", "synchronous_commit is off"), ("default_transaction_read_only", "read-only")],
)
async def test_settings_of_one_database_that_lose_samples(dsn: str, setting: str, words: str) -> None:
    connection = await asyncpg.connect(dsn)
    assert not bad(await asked(patient(dsn), "database"), "database")
    value = "off" if setting == "synchronous_commit" else "on"
    await connection.execute(f"ALTER DATABASE {urlsplit(dsn).path[1:]} SET {setting} = {value}")
    await connection.close()
    ((level, what),) = bad(await asked(patient(dsn), "database"), "database")
    assert (level, words in what) == (Level.PROBLEM, True), what


async def test_settings_of_the_whole_server(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("ALTER SYSTEM SET autovacuum = off")
        await connection.execute("SELECT pg_reload_conf()")
        while await connection.fetchval("SHOW autovacuum") == "on":
            pass
        assert bad(await asked(patient(dsn), "database"), "database") == [(Level.WARNING, "autovacuum is off")]
    finally:
        await connection.execute("ALTER SYSTEM RESET autovacuum")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
    found = bad(await asked(patient(dsn, replicas=20), "database"), "database")
    assert ("20 replica(s)" in found[0][1], len(found)) == (True, 1)


async def test_a_role_that_may_not_make_tables(role: str, dsn: str) -> None:
    found = await asked(patient(role), "database")
    assert [(one.level, "may not read our tables" in one.what) for one in found if one.topic == "database"] == [
        (Level.PROBLEM, True)
    ]
    connection = await asyncpg.connect(dsn)
    await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO watcher")
    found = await asked(patient(role), "database")
    nothing, readable = bad(found, "database")
    assert nothing == (Level.PROBLEM, "role watcher may create nothing in its schema")
    assert readable[1].startswith("role watcher may not write to ")
    await connection.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM watcher")
    await connection.close()


async def test_a_role_that_may_only_read_or_owns_nothing(role: str, dsn: str) -> None:
    connection: Any = await asyncpg.connect(dsn)
    every = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname !~ '^(pg|sql)_'"
    )
    try:
        await connection.execute("GRANT CREATE ON SCHEMA public TO watcher")
        for rights, words in (("SELECT", "may not write to"), ("ALL", "does not own")):
            await connection.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO watcher")
            found = [one for one in await asked(patient(role), "database") if one.topic == "database"]
            assert [one.level for one in found] == [Level.PROBLEM, Level.NOTE]
            assert found[1].do == "GRANT pg_read_all_stats TO watcher;"
            assert found[0].what.startswith(f"role watcher {words} ")
            assert found[0].what.endswith(f"and {len(every) - 3} more of our tables"), "all are known as ours"
        await connection.execute(found[0].do)
        assert not bad(await asked(patient(role), "database"), "database"), "what it told to do helped"
    finally:
        owner = await connection.fetchval("SELECT current_user")
        await connection.execute(f"REVOKE {owner} FROM watcher")
        await connection.execute("DROP OWNED BY watcher")
        await connection.close()


async def test_an_ordinary_role_counts_others_connections_too(role: str, dsn: str) -> None:
    """Sessions of another role, of which it is shown neither the kind nor the transaction."""

    async def others() -> int:
        connection = await asyncpg.connect(role, server_settings={"application_name": "gaveurs-doctor"})
        (row,) = await connection.fetch(database_facts.ASK)
        count: int = row["others"]
        await connection.close()
        return count

    before = await others()
    theirs = [await asyncpg.connect(dsn) for _ in range(3)]
    seen = await others()
    for one in theirs:
        await one.close()
    assert seen - before == 3


async def test_a_backup_may_read_for_hours(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = database_facts.ASK.replace(f"'{database_facts.LONG_S} s'", "'0.1 s'")
    monkeypatch.setattr(database_facts, "ASK", quick)
    for name, expected in (("gaveurs-backup", 0), ("psql", 1)):
        reading = await asyncpg.connect(dsn, server_settings={"application_name": name})
        async with reading.transaction(isolation="repeatable_read", readonly=True):
            await reading.fetchval("SELECT count(*) FROM samples")
            await asyncio.sleep(0.2)
            assert len(bad(await asked(patient(dsn), "database"), "database")) == expected, name
        await reading.close()


async def test_what_a_backup_needs_and_lacks(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lacks(**values: Any) -> list[str]:
        found = await asked(patient(dsn, **values), "database", "backups")
        return [what for _, what in bad(found, "backups")]

    here: dict[str, Any] = {"backup_to": str(tmp_path)}
    assert await lacks(**here, backup_verify_url=SecretStr(dsn)) == []
    dead = f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/x"
    (what,) = await lacks(**here, backup_verify_url=SecretStr(dead))
    assert what.startswith("the server of BACKUP_VERIFY_URL does not let us in: ConnectionRefusedError")
    assert await lacks(**here, backup_verify_url=SecretStr(dead), backup_verify=False) == []
    access: dict[str, Any] = {"backup_s3_access_key": SecretStr("AKIA"), "backup_s3_secret_key": SecretStr(PASSWORD)}
    (what,) = await lacks(backup_to="s3://bucket", backup_s3_endpoint=f"http://127.0.0.1:{free_port()}", **access)
    assert what == "BACKUP_TO: s3://bucket cannot be listed: nobody answers at its endpoint"
    monkeypatch.setattr(backup_means, "installed", lambda _: ())
    (what,) = await lacks(**here)
    assert what.startswith("pg_dump, pg_restore and psql of PostgreSQL")


async def test_what_cannot_be_looked_at_for_backups_hides_nothing_of_the_database(dsn: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"backup_to": str(tmp_path), "backup_work_dir": tmp_path / ("x" * 300)}
    found = await asked(patient(dsn, **values), "database")
    (what,) = [what for _, what in bad(found, "backups")]
    assert what.startswith("what a backup needs cannot be looked at: ")
    assert what.endswith("File name too long")
    assert {"database", "migrations"} <= {one.topic for one in found}


async def test_another_encoding(postgres_dsn: str) -> None:
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        found = await asked(patient(at(postgres_dsn, path="/ascii")), "database")
        assert bad(found, "database") == [(Level.PROBLEM, "its encoding is SQL_ASCII")]
    finally:
        await admin.execute("DROP DATABASE ascii WITH (FORCE)")
        await admin.close()


async def test_schemas_and_backups_of_all_ages(postgres_dsn: str, dsn: str) -> None:
    async with new_database(postgres_dsn, "template1") as empty:
        found = await asked(patient(empty), "database")
        assert [one.do for one in found if one.topic in ("migrations", "backups")] == ["gaveurs migrate"] * 2
    connection: Any = await asyncpg.connect(dsn)
    for revision, level in (("0002", Level.NOTE), ("9999", Level.WARNING)):
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
        (one,) = [one for one in await asked(patient(dsn), "database") if one.topic == "migrations"]
        assert (one.level, f"at {revision}" in one.what) == (level, True)
    for days, verified, levels in ((5, True, [Level.PROBLEM]), (0, False, [Level.WARNING, Level.OK])):
        began = datetime.now(UTC) - timedelta(days=days)
        await record_backup(connection, BackupRecord(began, began, True, verified, 1, "/backups"))
        found = [one for one in await asked(patient(dsn), "database") if one.topic == "backups"]
        assert [one.level for one in found] == levels
    began = datetime.now(UTC)
    await record_backup(connection, BackupRecord(began, began, True, True, 1, "/backups", f"{STAY}: access is denied"))
    (untidy, _) = [one for one in await asked(patient(dsn), "database") if one.topic == "backups"]
    assert (untidy.level, "access is denied" in untidy.what, "/backups" in untidy.do) == (Level.WARNING, True, True)
    await connection.close()


@contextlib.contextmanager
def listener(*, answers: bytes | None = None) -> Iterator[int]:
    """A port that is listened on; the kernel accepts, nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


async def test_databases_that_cannot_be_reached(dsn: str, role: str, deadlines: pytest.MonkeyPatch) -> None:
    nowhere = f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/x"
    for wrong, words in (
        (at(role, password=f"not-{PASSWORD}"), "the password is wrong"),
        (at(role, user="nobody_of_that_name"), "there is no such role"),
        (at(dsn, path="/nowhere"), "there is no such database"),
        (nowhere, "nobody listens there"),
        (f"postgresql://u:{PASSWORD}@/x?host=/nowhere", "no socket in that folder"),
        (f"postgresql://u:{PASSWORD}@no.such.host.invalid/x", "cannot be reached"),
    ):
        found = await asked(patient(wrong), "database")
        assert [one.level for one in found] == [Level.PROBLEM, *(one.level for one in found[1:])]
        assert words in found[0].what, found[0]
        assert found[0].do
    deadlines.undo()
    took_s: list[float] = []  # the least of three: whatever else this machine does only adds
    with listener() as port:
        while len(took_s) < 3 and min(took_s, default=8.0) >= 8.0:
            began = time.monotonic()
            found = await asked(patient(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x"), "database")
            took_s.append(time.monotonic() - began)
            assert "no answer within" in found[0].what
    assert min(took_s) < 8, took_s


async def test_redis_with_every_fault(deadlines: pytest.MonkeyPatch) -> None:
    async def ask(port: int, password: str | None = None) -> list[Finding]:
        secret = SecretStr(password) if password else None
        values: dict[str, Any] = {"redis_host": "127.0.0.1", "redis_port": port, "redis_password": secret}
        values["redis_timeout_ms"] = 250  # round trips of half as much are a finding too
        return [one for one in await asked(patient("postgresql://u:p@db/x", **values), "redis") if one.topic == "redis"]

    with running_redis(maxmemory="32mb", password=PASSWORD) as server:
        (found,) = await ask(server.port, PASSWORD)
        assert (found.level, "32 MiB, allkeys-lfu" in found.what) == (Level.OK, True), found
        for wrong in (None, f"not-{PASSWORD}"):
            (found,) = await ask(server.port, wrong)
            assert (found.level, "refuses us" in found.what) == (Level.PROBLEM, True), found
        server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert [one.what for one in await ask(server.port, PASSWORD)] == ["it does not evict (noeviction)"]
        server.execute("CONFIG", "SET", "maxmemory", "0")
        assert [one.what for one in await ask(server.port, PASSWORD)] == ["it has no maxmemory"]
        server.execute("CONFIG", "SET", "maxmemory", "32mb")
        server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        server.execute("REPLICAOF", "127.0.0.1", str(free_port()))
        assert [one.what for one in await ask(server.port, PASSWORD)] == ["it is a replica"]
        deadlines.undo()
        server.stall()
        (found,) = await ask(server.port, PASSWORD)
        assert (found.level, "does not answer" in found.what) == (Level.PROBLEM, True), found
    (found,) = await ask(free_port())
    assert (found.level, "does not answer" in found.what) == (Level.PROBLEM, True), found


async def test_a_port_of_somebody_else_and_a_bucket_that_is_not_there() -> None:
    with listener() as port:
        values: dict[str, Any] = {
            "bug_attachments_url": "s3://bucket",
            "bug_attachments_s3_endpoint": f"http://127.0.0.1:{free_port()}",
        }
        keys: dict[str, Any] = {
            "bug_attachments_s3_access_key": SecretStr("AKIA"),
            "bug_attachments_s3_secret_key": SecretStr(PASSWORD),
        }
        someone = Patient(patient("postgresql://u:p@db/x", **values, **keys).settings, port=port)
        found = await asked(someone, "ports", "attachments")
    assert [one.what for one in found if one.topic == "ports"] == [
        f"the port 127.0.0.1:{port}: somebody else listens there"
    ]
    (one,) = [one for one in found if one.topic == "attachments"]
    nobody = f"s3://bucket cannot be listed: nobody answers at {values['bug_attachments_s3_endpoint']}"
    assert (one.level, one.what) == (Level.PROBLEM, nobody)
    assert "BUG_ATTACHMENTS_S3_ENDPOINT" in one.do
    assert "make the bucket" not in one.do
