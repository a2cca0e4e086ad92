"""What the doctor makes of facts that no test can provoke cheaply, and that no finding shows a secret."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import chdir, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from pydantic import SecretStr

from app.cli_doctor import told
from app.core.apart import apart
from app.core.migrations import head
from app.doctor.backup_means import check_backup_means, judge_work_room
from app.doctor.backups import judge_backups
from app.doctor.budgets import Machine, files_needed, judge_budgets, memory_needed
from app.doctor.clock import judge_kernel, judge_offset
from app.doctor.database import shown
from app.doctor.database_facts import DatabaseFacts
from app.doctor.database_judge import connections_needed, judge_database, judge_extensions, judge_migrations
from app.doctor.disk import Room, judge_room, judge_writes
from app.doctor.disk import look as look_at_disks
from app.doctor.finding import HIDDEN, Finding, Level, problem, secrets_of, without
from app.doctor.folders import files_with_secrets, holder_in, judge_secrets, look
from app.doctor.patient import IN_A_POD, KEYS_FOR_S3, Patient
from app.doctor.ports import check_ports
from app.doctor.redis import RedisFacts, judge_redis
from app.doctor.settings_read import judge_names, read
from app.doctor.settings_sense import judge_sense
from app.doctor.visit import CHECKS, examine
from app.settings import BadSettings, Settings, load_settings
from tests.support import data_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GIB = 1024**3
RECIPIENT = str(pyrage.x25519.Identity.generate().to_public())
SOUND = {
    "server_version": "16.4", "server_version_num": "160004", "server_encoding": "UTF8", "max_connections": "100",
    "superuser_reserved_connections": "3", "default_transaction_read_only": "off", "synchronous_commit": "on",
    "synchronous_standby_names": "", "fsync": "on", "full_page_writes": "on", "data_checksums": "on",
    "autovacuum": "on", "archive_mode": "off",
}  # fmt: skip
ABOUT = {
    "in_recovery": False, "can_create": True, "role": "gaveurs_admin", "database": "gaveurs_db", "tls": True,
    "local": False, "others": 0, "sees_all": True, "long_transactions": 0, "oldest_transaction_s": 0.0, "sync_standbys": 0,
    "xid_age": 1_000, "archiving_fails": False, "size_bytes": 10_000_000, "has_schema": True,
}  # fmt: skip


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def patient(replicas: int = 1, **values: Any) -> Patient:
    return Patient(settings(**{"database_url": SecretStr("postgresql://u:p@db/x"), **values}), replicas)


def facts(*, about: dict[str, Any] | None = None, **more: Any) -> DatabaseFacts:
    given = {name: str(value) for name, value in more.items() if name in SOUND or name == "reserved_connections"}
    rest = {name: value for name, value in more.items() if name not in given}
    return DatabaseFacts(settings=SOUND | given, about=ABOUT | (about or {}), revision=head(), **rest)


def tables(**rights: bool) -> list[dict[str, Any]]:
    return [{"name": f"t{n}", "owner": "dba", "owned": True, "writable": True} | rights for n in range(5)]


def said(found: list[Finding]) -> list[tuple[Level, str]]:
    return [(one.level, one.what) for one in found]


def test_a_sound_database_is_one_good_line() -> None:
    (found,) = judge_database(facts(), patient())
    assert (found.level, found.do) == (Level.OK, "")


@pytest.mark.parametrize(
    ("sick", "level", "words"),
    [
        (facts(fsync="off"), Level.PROBLEM, "fsync is off"),
        (facts(full_page_writes="off"), Level.PROBLEM, "full_page_writes is off"),
        (facts(synchronous_commit="off"), Level.PROBLEM, "synchronous_commit is off"),
        (facts(data_checksums="off"), Level.NOTE, "no checksums"),
        (facts(synchronous_standby_names="s1"), Level.PROBLEM, "a synchronous standby is wanted"),
        (facts(server_version_num="130014", server_version="13.14"), Level.PROBLEM, "13.14 is too old"),
        (facts(server_encoding="LATIN1"), Level.PROBLEM, "encoding is LATIN1"),
        (facts(about={"tls": False}), Level.WARNING, "not encrypted"),
        (facts(about={"in_recovery": True}), Level.PROBLEM, "standby"),
        (facts(default_transaction_read_only="on"), Level.PROBLEM, "read-only"),
        (facts(about={"can_create": False}), Level.PROBLEM, "may create nothing"),
        (facts(tables=tables(writable=False)), Level.PROBLEM, "may not write to t0, t1, t2 and 2 more"),
        (facts(tables=tables(owned=False)), Level.PROBLEM, "does not own t0, t1, t2 and 2 more"),
        (facts(autovacuum="off"), Level.WARNING, "autovacuum"),
        (facts(about={"long_transactions": 2, "oldest_transaction_s": 900.0}), Level.WARNING, "up to 15 minutes"),
        (facts(slots=[("lost", 5 * GIB)]), Level.WARNING, "slot lost is idle and holds 5.4 GB"),
        (facts(archive_mode="on", about={"archiving_fails": True}), Level.WARNING, "archiving of WAL failed"),
        (facts(about={"xid_age": 1_500_000_000}), Level.WARNING, "1,500,000,000"),
        (facts(max_connections="40"), Level.PROBLEM, "max_connections is 40"),
        (facts(max_connections="60", about={"others": 20}), Level.WARNING, "20 are others'"),
        (facts(max_connections="50", reserved_connections="10"), Level.PROBLEM, "13 are reserved"),
    ],
)  # fmt: skip
def test_each_fault_of_a_database_is_the_only_finding(sick: DatabaseFacts, level: Level, words: str) -> None:
    (found,) = judge_database(sick, patient())
    assert (found.level, words in found.what) == (level, True), found
    assert bool(found.follows and found.do), "what follows and what to do"


def test_a_role_that_may_only_read_is_told_both_and_what_it_does_not_see() -> None:
    found = judge_database(facts(about={"can_create": False}, tables=tables(writable=False)), patient())
    assert [one.what.split()[2:5] for one in found] == [["may", "create", "nothing"], ["may", "not", "write"]]
    healthy, unseen = judge_database(facts(about={"sees_all": False}), patient())
    assert (healthy.level, unseen.level, unseen.do) == (
        Level.OK,
        Level.NOTE,
        "GRANT pg_read_all_stats TO gaveurs_admin;",
    )


def test_what_is_no_fault_is_not_called_one() -> None:
    assert judge_database(facts(about={"tls": False, "local": True}), patient())[0].level is Level.OK
    assert (
        judge_database(facts(synchronous_standby_names="s1", about={"sync_standbys": 1}), patient())[0].level
        is Level.OK
    )
    assert judge_database(facts(slots=[("busy", 1_000)]), patient())[0].level is Level.OK
    needed = 2 * connections_needed(patient())
    assert judge_database(facts(max_connections=needed + 3), patient())[0].level is Level.OK
    assert judge_database(facts(max_connections=needed + 2), patient())[0].level is Level.PROBLEM


def test_a_schema_may_be_missing_older_or_newer() -> None:
    assert said(judge_migrations(facts())) == [(Level.OK, f"the schema is at {head()}, as this program wants it")]
    for revision, level in (
        (None, Level.NOTE),
        ("0001", Level.NOTE),
        ("9999", Level.WARNING),
        ("ae1027a6acf", Level.PROBLEM),
    ):
        assert judge_migrations(replace(facts(), revision=revision))[0].level is level


def test_extensions_are_told_by_what_they_bring() -> None:
    found = judge_extensions(
        facts(installed=frozenset({"pg_trgm"}), available=frozenset({"pg_trgm", "pg_stat_statements"}))
    )
    assert [(one.level, one.do) for one in found] == [
        (Level.OK, ""),
        (Level.NOTE, ""),
        (Level.NOTE, "CREATE EXTENSION pg_stat_statements;"),
    ]


def backup(hours: float, **more: Any) -> dict[str, Any]:
    return {"started_at": NOW - timedelta(hours=hours), "place": "s3://b/p", "detail": None} | more


@pytest.mark.parametrize(
    ("known", "levels"),
    [
        (None, [Level.NOTE]),
        ({}, [Level.WARNING]),
        ({"succeeded": backup(3), "verified": backup(3)}, [Level.OK]),
        ({"succeeded": backup(30), "verified": backup(30)}, [Level.WARNING]),
        ({"succeeded": backup(80), "verified": backup(80)}, [Level.PROBLEM]),
        ({"succeeded": backup(3), "verified": backup(27)}, [Level.OK, Level.WARNING]),
        ({"succeeded": backup(3)}, [Level.OK, Level.WARNING]),
        ({"succeeded": backup(3), "verified": backup(3), "failed": backup(1)}, [Level.OK, Level.WARNING]),
        ({"succeeded": backup(3), "verified": backup(3), "failed": backup(9)}, [Level.OK]),
        ({"failed": backup(1, detail="no room")}, [Level.WARNING, Level.WARNING]),
    ],
)
def test_backups_are_judged_by_age_proof_and_the_last_failure(known: Any, levels: list[Level]) -> None:
    found = judge_backups(replace(facts(), backups=known), patient(environment="production"), NOW)
    assert [one.level for one in found] == levels


def test_a_proved_backup_without_an_attachment_is_called_what_it_is() -> None:
    known = {"succeeded": backup(3, detail="attachment ab12 is lost"), "verified": backup(27)}
    _, found = judge_backups(replace(facts(), backups=known), patient(), NOW)
    assert (found.level, "attachment ab12 is lost" in found.what) == (Level.WARNING, True)
    assert "--no-verify" not in repr(found)
    assert "was not proved" not in found.what


async def test_where_others_make_the_backups_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS_FOR_S3, IN_A_POD):
        monkeypatch.delenv(name, raising=False)
    pod = patient(backup_to="s3://backups")
    (found,) = await check_backup_means(pod)
    assert (found.level, "made elsewhere" in found.what) == (Level.NOTE, True)
    assert [one.do.partition(" (")[0] for one in judge_backups(replace(facts(), backups={}), pod, NOW)] == [
        "gaveurs backup, where backups are made"
    ]
    here = patient(backup_to="s3://backups", backup_s3_access_key="A", backup_s3_secret_key="B")
    assert not here.backs_up_elsewhere
    assert not patient(backup_to="/no/such/folder").backs_up_elsewhere
    monkeypatch.setenv(IN_A_POD, "10.0.0.1")
    assert patient(backup_to="/no/such/folder").backs_up_elsewhere
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    assert not pod.backs_up_elsewhere


async def test_a_place_for_backups_is_tried(tmp_path: Path) -> None:
    assert await check_backup_means(patient(backup_to=str(tmp_path / "made" / "later"))) == []
    assert not (tmp_path / "made").exists()
    (found,) = await check_backup_means(patient(backup_to="/proc/nope"))
    assert (found.level, "BACKUP_TO (/proc/nope) cannot be written to" in found.what) == (Level.WARNING, True)
    assert not [one for one in look_at_disks(patient(backup_to="/proc/nope")) if "/proc" in one.what]


async def test_so_is_the_folder_that_a_backup_works_in(tmp_path: Path) -> None:
    to = str(tmp_path / "place")
    (found,) = await check_backup_means(patient(backup_to=to, backup_work_dir=Path("/proc/nope")))
    assert (found.level, "cannot work in BACKUP_WORK_DIR (else DATA_DIR): /proc" in found.what) == (Level.WARNING, True)
    assert "BACKUP_WORK_DIR" in found.do
    assert await check_backup_means(patient(backup_to=to, backup_work_dir=tmp_path / "later")) == []
    assert not (tmp_path / "later").exists()


def test_a_backup_wants_room_for_its_dump_and_its_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=25 * GIB))
    elsewhere = {"backup_verify_url": SecretStr("postgresql://scratch/postgres")}
    for gib, more, enough in (
        (12, {}, True),
        (13, {}, False),
        (13, elsewhere, True),
        (26, elsewhere, False),
        (13, {"backup_verify": False}, True),
        (13, elsewhere | {"backup_age_recipients": RECIPIENT}, False),
    ):
        someone = patient(backup_to=str(tmp_path), backup_work_dir=tmp_path, **more)
        found = judge_work_room(someone, gib * GIB)
        assert [one.level for one in found] == ([] if enough else [Level.WARNING]), (gib, more)


def test_backups_beside_what_they_are_of(tmp_path: Path) -> None:
    def beside(**values: Any) -> bool:
        someone = patient(data_dir=tmp_path, backup_to=str(tmp_path / "backups"), **values)
        return any("lie on the disk of what" in one.what for one in look_at_disks(someone))

    assert beside(database_url=None, bug_attachments_url="s3://bucket")
    assert beside()
    assert not beside(bug_attachments_url="s3://bucket")


async def test_a_port_that_takes_no_connection_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.ports.ANSWER_S", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):  # the kernel's queue is one longer than was asked for
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        (found,) = await check_ports(Patient(patient().settings, port=full.getsockname()[1]))
        assert (found.level, "somebody else listens" in found.what) == (Level.PROBLEM, True), found


def test_a_user_without_a_name_can_use_a_database_and_make_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 4_242, 4_242)
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    monkeypatch.setattr(os, "getuid", lambda: 4_242)
    monkeypatch.setattr(os, "getgid", lambda: 4_242)
    someone = patient(database_url=None, data_dir=tmp_path)

    def problems() -> list[str]:
        return [one.what for one in look(someone) if one.level is Level.PROBLEM and "has no name" in one.what]

    assert problems() == ["user id 4242 has no name, and PostgreSQL makes no database for such a user"]
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("18\n")
    assert problems() == []


def test_the_holder_of_a_lock_is_told_by_device_too(tmp_path: Path) -> None:
    file = tmp_path.stat()
    ours = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    theirs = f"1: FLOCK  ADVISORY  WRITE 77 ff:ff:{file.st_ino} 0 EOF"
    assert holder_in([theirs], file, None) is None
    assert holder_in([theirs, f"2: FLOCK  ADVISORY  WRITE 88 {ours} 0 EOF"], file, None) == 88
    assert holder_in([theirs], file, 77) == 77


def redis_facts(**info: Any) -> RedisFacts:
    sound = {"redis_version": "7.2.4", "maxmemory": 256 * 2**20, "maxmemory_policy": "allkeys-lfu", "used_memory": 1}
    return RedisFacts(sound | {"role": "master"} | info, (0.4, 0.5, 0.4), 0.0, 0.001)


@pytest.mark.parametrize(
    ("sick", "level", "words"),
    [
        (redis_facts(), Level.OK, "redis 7.2.4"),
        (redis_facts(maxmemory=0), Level.WARNING, "no maxmemory"),
        (redis_facts(maxmemory_policy="noeviction"), Level.WARNING, "does not evict"),
        (redis_facts(redis_version="4.0.14"), Level.WARNING, "4.0.14"),
        (redis_facts(role="slave"), Level.PROBLEM, "replica"),
        (replace(redis_facts(), pings_ms=(40.0, 30.0, 50.0)), Level.WARNING, "40 ms"),
    ],
)
def test_redis_is_judged_as_a_cache(sick: RedisFacts, level: Level, words: str) -> None:
    (found,) = judge_redis(sick, 50.0)
    assert (found.level, words in found.what) == (level, True), found


def test_clocks_apart() -> None:
    assert judge_kernel(0)[0].level is Level.OK
    assert judge_kernel(5)[0].level is Level.WARNING
    assert judge_kernel(None)[0].level is Level.NOTE
    levels = [judge_offset("it", offset_s, 0.5)[0].level for offset_s in (0.1, 2.2, -2.3, 299.0, -301.0)]
    assert levels == [Level.OK, Level.OK, Level.WARNING, Level.WARNING, Level.PROBLEM]


@pytest.mark.parametrize(
    ("room", "level"),
    [
        (Room(100 * GIB, 50 * GIB, 1_000, 900, "ext4"), Level.OK),
        (Room(100 * GIB, 9 * GIB, 1_000, 900, "ext4"), Level.WARNING),
        (Room(100 * GIB, 1 * GIB, 1_000, 900, "ext4"), Level.PROBLEM),
        (Room(1 * GIB, GIB // 5, 1_000, 900, "ext4"), Level.PROBLEM),
        (Room(100 * GIB, 50 * GIB, 1_000, 50, "ext4"), Level.WARNING),
        (Room(100 * GIB, 50 * GIB, 0, 0, "btrfs"), Level.OK),
        (Room(100 * GIB, 50 * GIB, 1_000, 900, "tmpfs"), Level.PROBLEM),
    ],
)
def test_disks(room: Room, level: Level) -> None:
    assert judge_room("DATA_DIR", Path("/data"), room, keeps_data=True)[0].level is level


def test_slow_and_impossibly_quick_writes() -> None:
    levels = [judge_writes(Path("/d"), [ms] * 8)[0].level for ms in (0.5, 25.0, 0.001)]
    assert levels == [Level.OK, Level.WARNING, Level.NOTE]


def test_budgets_against_what_is_granted() -> None:
    someone = patient()
    enough = Machine(files_needed(someone), memory_needed(someone), 1.0)
    assert judge_budgets(enough, someone)[0].level is Level.OK
    assert said(judge_budgets(replace(enough, open_files=1_024), someone))[0][0] is Level.WARNING
    assert "WS_MAX_SENSORS=" in judge_budgets(replace(enough, open_files=1_024), someone)[0].do
    assert judge_budgets(replace(enough, memory_bytes=memory_needed(someone) - 1), someone)[0].level is Level.WARNING
    assert judge_budgets(replace(enough, memory_bytes=2**26), someone)[0].level is Level.PROBLEM
    assert judge_budgets(replace(enough, memory_bytes=None), someone)[0].level is Level.OK
    assert judge_budgets(replace(enough, cpus=0.5), someone)[0].level is Level.NOTE
    tight = patient(termination_grace_period_s=79.0)
    assert judge_budgets(enough, tight)[0].level is Level.NOTE


SAFE: dict[str, Any] = {
    "environment": "production", "auth": "keys", "metrics_port": 9100, "metrics_host": "0.0.0.0",
    "cors_origins": "https://line.example", "redis_host": "redis", "trusted_proxies": "10.0.0.0/8",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, Level.OK, "make sense"),
        ({"auth": "open"}, Level.WARNING, "AUTH is open"),
        ({"trusted_proxies": "0.0.0.0/0"}, Level.PROBLEM, "trusts everybody"),
        ({"cors_origins": ""}, Level.NOTE, "CORS_ORIGINS is empty"),
        ({"cors_origins": "http://line.example"}, Level.WARNING, "CORS_ORIGINS names http://"),
        ({"fault_switches": True, "fault_switches_in_production": True}, Level.WARNING, "FAULT_SWITCHES is on"),
        ({"metrics_port": None}, Level.WARNING, "METRICS_PORT is not set"),
        ({"webhook_allow_loopback": True}, Level.WARNING, "WEBHOOK_ALLOW_LOOPBACK"),
        ({"log_level": "debug"}, Level.NOTE, "LOG_LEVEL"),
        ({"redis_host": None}, Level.WARNING, "REDIS_HOST is not set"),
        ({"trusted_proxies": ""}, Level.NOTE, "TRUSTED_PROXIES is empty"),
        ({"environment": "development"}, Level.NOTE, "ENVIRONMENT is development"),
        (
            {"bug_attachments_url": "s3://bucket", "bug_attachments_s3_endpoint": "http://store:9000"},
            Level.WARNING,
            "plain HTTP",
        ),
    ],
)
def test_settings_that_are_allowed_and_not_wise(changed: dict[str, Any], level: Level, words: str) -> None:
    (found,) = judge_sense(patient(2, **SAFE | changed))
    assert (found.level, words in found.what) == (level, True), found


def test_the_embedded_database_has_one_process() -> None:
    safe = settings(**SAFE)
    assert [one.level for one in judge_sense(Patient(safe))] == [Level.NOTE]
    assert [one.level for one in judge_sense(Patient(safe, replicas=2))] == [Level.PROBLEM]


def test_names_that_look_like_ours() -> None:
    names = (
        "REDIS_HOTS",
        "databse_url",
        "REDIS_URL",
        "PATH",
        "DATABASE_URL",
        "redis_port",
        "HOME",
        "REDIS_PORT_6379_TCP",
    )
    found = judge_names(names, "here")
    assert [(one.what, one.do) for one in found] == [
        ("REDIS_HOTS in here is not read", "write REDIS_HOST"),
        ("REDIS_URL in here is not read", "set REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD instead"),
        ("databse_url in here is not read", "write DATABASE_URL"),
    ]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root is refused nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def outside() -> Iterator[Path]:
    """A working folder that everybody may enter."""
    with data_folder() as folder, chdir(folder):
        folder.chmod(0o755)
        yield folder


def test_files_of_settings_that_cannot_be_read(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str) -> None:
        with as_nobody():
            made, found = read({})
            with pytest.raises(BadSettings) as error:
                load_settings()
        assert (made, found[0].level, words in found[0].what) == (None, Level.PROBLEM, True), found
        assert words in error.value.line

    (outside / ".env").write_bytes(b"REDIS_PREFIX=\xe9\n")
    outside.chmod(0o755)
    refused(".env is not UTF-8")
    (outside / ".env").write_text("REDIS_PREFIX=x\n")
    (outside / ".env").chmod(0)
    outside.chmod(0o755)
    refused(".env cannot be read: Permission denied")
    (outside / ".env").unlink()
    (outside / "secrets").mkdir()
    (outside / "secrets").chmod(0)
    outside.chmod(0o755)
    monkeypatch.setenv("SECRETS_DIR", str(outside / "secrets"))
    refused("cannot be read: Permission denied")


def test_a_folder_of_secrets_may_be_passed_and_not_listed(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outside / "secrets").mkdir()
    (outside / "secrets" / "redis_prefix").write_text("known")
    (outside / "secrets").chmod(0o111)
    monkeypatch.setenv("SECRETS_DIR", str(outside / "secrets"))
    with as_nobody():
        made, found = read({"data_dir": outside})
        assert made is not None
        assert files_with_secrets(made) == []
    assert made.redis_prefix == "known"
    assert [(one.level, "cannot be listed" in one.what) for one in found] == [(Level.NOTE, True)]


async def test_a_closed_door_is_one_problem(outside: Path) -> None:
    (outside / "closed").mkdir()
    (outside / "closed").chmod(0)
    someone = patient(database_url=None, data_dir=outside / "closed" / "data")
    with as_nobody():
        found = await examine(
            someone, {name: CHECKS[name] for name in ("permissions", "disk", "attachments", "database")}
        )
    assert said([one for one in found if one.topic != "settings"]) == [
        (Level.PROBLEM, f"{outside / 'closed'} cannot be entered")
    ]


@pytest.mark.parametrize("url", ["p@ss/word hush@h:abc/x", "12/hush@h/x", "12?hush@h/x", "12#hush@h/x"])
def test_a_password_that_is_not_spelled_as_in_an_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{url}")
    made, found = read({})
    assert made is None
    assert found[0].what.startswith("DATABASE_URL: must look like")
    assert "%40" in found[0].what
    assert "hush" not in told(found)


def test_every_wrong_setting_is_told_and_names_in_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "redis_passwort").write_text("hush")
    (tmp_path / ".env").write_text("REDIS_HOTS=localhost\nPOSTGRES_USER=x\n")
    for name, value in {"WS_MAX_BATCH": "0", "REDIS_PORT": "tcp://10.0.0.1:6379", "SECRETS_DIR": str(secrets)}.items():
        monkeypatch.setenv(name, value)
    made, found = read({})
    assert made is None
    words = [one.what for one in found]
    assert [word.partition(":")[0] for word in words if ":" in word] == ["REDIS_PORT", "WS_MAX_BATCH"]
    assert words[-2:] == ["REDIS_HOTS in .env is not read", f"redis_passwort in {secrets} is not read"]
    assert "enableServiceLinks" in found[0].do
    assert "hush" not in told(found)


def test_a_file_with_a_secret_that_others_may_read(tmp_path: Path) -> None:
    mine, open_to_all = tmp_path / "mine", tmp_path / "open"
    mine.touch(0o600)
    open_to_all.touch()
    open_to_all.chmod(0o644)
    (found,) = judge_secrets([mine, open_to_all])
    assert (found.level, found.do) == (Level.WARNING, f"chmod 600 {open_to_all}")


def test_no_finding_shows_a_secret() -> None:
    password = "s3cr/t:pass"
    made = settings(database_url=SecretStr("postgresql://u:s3cr%2Ft%3Apass@db/x"), redis_password=SecretStr(password))
    leaking = problem("x", "tried postgresql://u:s3cr%2Ft%3Apass@db/x", f"with {password}", "and s3cr%2Ft%3Apass")
    blotted = without(secrets_of(made), leaking)
    assert "s3cr" not in repr(blotted)
    assert HIDDEN in blotted.what
    made = settings(database_url=SecretStr("postgresql://u:one%2Fword@db/x?password=other-word"))
    assert {"one/word", "one%2Fword", "other-word"} <= secrets_of(made)
    assert shown("postgresql://u:p@ss@db/x") == "db:5432"


async def test_what_hangs_or_breaks_is_a_finding_in_time() -> None:
    """The least of three: whatever else this machine does only adds."""
    never = threading.Event()

    async def hangs(_: Patient) -> list[Finding]:
        await apart(lambda: never.wait(30))
        return []

    async def waits(_: Patient) -> list[Finding]:
        await asyncio.sleep(30)
        return []

    async def breaks(_: Patient) -> list[Finding]:
        raise ValueError("no\nmore")

    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=2.0) >= 2.0:
        began = time.monotonic()
        found = await examine(patient(**SAFE), {"a": hangs, "b": waits, "c": breaks}, deadline_s=0.2)
        took_s.append(time.monotonic() - began)
    never.set()
    assert min(took_s) < 2, took_s
    assert [(one.topic, one.level) for one in found] == [
        ("a", Level.PROBLEM),
        ("b", Level.PROBLEM),
        ("c", Level.WARNING),
        ("settings", Level.OK),
    ]
    assert "ValueError: no" in found[2].what


def test_people_read_the_worst_first_and_a_count() -> None:
    text = told([Finding("a", Level.OK, "fine"), problem("b", "bad\x1b[2J", "so", "do it")])
    assert text.splitlines() == [
        "problem  b             bad\\x1b[2J",
        "                       so",
        "                       -> do it",
        "ok       a             fine",
        "",
        "1 problem, 0 warnings, 0 notes, 1 ok",
    ]
