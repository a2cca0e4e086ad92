"""What a backup needs: a place that can be written to, a server to prove it on, programs of PostgreSQL that fit."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.backup.errors import BackupError, refused_by_system
from app.backup.product import place_of, work_of
from app.backup.programs import choose, installed, needs_tls
from app.core.apart import apart
from app.core.database import CONNECT_DEADLINE_S, DATABASE_ERRORS
from app.core.errors import CannotStartError, in_a_line
from app.doctor.backups import MAKE, TOPIC
from app.doctor.finding import Finding, note, warning

if TYPE_CHECKING:
    from app.doctor.database_facts import DatabaseFacts
    from app.doctor.patient import Patient

PLACE_S: Final = 8.0
FOLLOWS: Final = f"{MAKE} fails"
MAY_MAKE: Final = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"


async def check_backup_means(patient: Patient) -> list[Finding]:
    """Nothing where no backup is made, or all is well: what became of them is for the database to say."""
    if patient.settings.backup_to is None:
        return []
    folder = patient.backups_folder
    if await apart(lambda: patient.backs_up_elsewhere):
        lacking = "no key for it is given here" if folder is None else "it is not in this pod"
        what = f"BACKUP_TO ({patient.settings.backup_to}): {lacking}; backups are made elsewhere"
        may_be = "; or with what the machine itself is granted, which was not asked for" if folder is None else ""
        return [note(TOPIC, f"{what}{may_be}", "whether one can be made was not looked at")]
    place, server = await asyncio.gather(
        _bucket(patient) if folder is None else apart(lambda: _folder(folder)), _server(patient)
    )
    return [*place, *server, *await apart(lambda: _work(patient))]


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.exists())


def _takes_none(folder: Path) -> str | None:
    """Why no file can be made in it, tried by one without a name."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder} takes no file: {error.strerror}"


def _work(patient: Patient) -> list[Finding]:
    existing = _existing(work_of(patient.settings))
    if (why := _takes_none(existing)) is None:
        return []
    do = f"ls -ld {existing}; chown it to who makes backups, or another BACKUP_WORK_DIR"
    return [warning(TOPIC, f"a backup cannot work in BACKUP_WORK_DIR (else DATA_DIR): {why}", FOLLOWS, do)]


def _folder(folder: Path) -> list[Finding]:
    """By a file without a name in it, or in the folder where it would be made."""
    existing = _existing(folder)
    if (why := _takes_none(existing)) is None:
        return []
    do = f"ls -ld {existing}; chown it to who makes backups, or another BACKUP_TO"
    return [warning(TOPIC, f"BACKUP_TO ({folder}) cannot be written to: {why}", FOLLOWS, do)]


async def _bucket(patient: Patient) -> list[Finding]:
    try:
        async with asyncio.timeout(PLACE_S):
            await anext(place_of(patient.settings).sizes(), None)
    except (BackupError, CannotStartError) as error:
        why = str(error)
    except TimeoutError:
        why = f"{patient.settings.backup_to} does not answer within {PLACE_S:g} s"
    else:
        return []
    return [warning(TOPIC, f"BACKUP_TO: {why}", FOLLOWS, _of_bucket(why))]


def _of_bucket(why: str) -> str:
    if "answer" in why:
        return "start it, or correct BACKUP_S3_ENDPOINT, or what is between (firewall, NetworkPolicy)"
    return "correct BACKUP_TO and BACKUP_S3_*, or make the bucket"


async def _server(patient: Patient) -> list[Finding]:
    """That of BACKUP_VERIFY_URL; without one a backup is proved on one of its own."""
    settings = patient.settings
    if not settings.backup_verify or settings.backup_verify_url is None:
        return []
    try:
        may_make = await _may_make_databases(settings.backup_verify_url.get_secret_value())
    except (*DATABASE_ERRORS, ValueError) as error:
        do = "correct BACKUP_VERIFY_URL, or unset it: a server of our own is used then"
        return [warning(TOPIC, f"the server of BACKUP_VERIFY_URL does not let us in: {in_a_line(error)}", FOLLOWS, do)]
    if may_make:
        return []
    what = "the role of BACKUP_VERIFY_URL may not make databases"
    return [warning(TOPIC, what, FOLLOWS, "ALTER ROLE ... CREATEDB; on that server")]


async def _may_make_databases(dsn: str) -> bool:
    connection: Any = await asyncpg.connect(
        dsn, timeout=CONNECT_DEADLINE_S, server_settings={"application_name": "gaveurs-doctor"}
    )
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            return bool(await connection.fetchval(MAY_MAKE))
    finally:
        connection.terminate()


async def check_programs(patient: Patient, dsn: str, facts: DatabaseFacts) -> list[Finding]:
    """Whether pg_dump is there in a version that this server wants, and room for what a backup makes on its way."""
    if patient.settings.backup_to is None or await apart(lambda: patient.backs_up_elsewhere):
        return []
    major = int(facts.settings["server_version_num"]) // 10_000
    try:
        room = await apart(lambda: judge_work_room(patient, facts.about["size_bytes"]))
        return [*await apart(lambda: _programs(major, needs_tls(dsn))), *room]
    except OSError as error:
        what = f"what a backup needs cannot be looked at: {refused_by_system(error, work_of(patient.settings))}"
        return [warning(TOPIC, what, FOLLOWS, "mend what is named there, or another BACKUP_WORK_DIR or TMPDIR")]


def judge_work_room(patient: Patient, database_bytes: int) -> list[Finding]:
    """At most: the dump, once more where it is encrypted, and the restored database where it is proved on a server of
    its own.
    """
    settings = patient.settings
    proved_here = settings.backup_verify and settings.backup_verify_url is None
    needed = database_bytes * (1 + bool(settings.backup_age_recipients) + proved_here)
    existing = _existing(work_of(settings))
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return []
    what = f"a backup may need {needed / 1e9:.1f} GB in {existing}, where {free / 1e9:.1f} GB are free"
    do = "make room, or BACKUP_WORK_DIR on a larger disk" + ("; or BACKUP_VERIFY_URL" if proved_here else "")
    return [warning(TOPIC, what, "it fails when the disk is full", do)]


def _programs(major: int, tls: bool) -> list[Finding]:
    try:
        with tempfile.TemporaryDirectory() as work:  # the embedded ones are copied where they cannot be run
            choose(installed(Path(work)), at_least=major, best=major, tls=tls)
    except BackupError as error:
        return [warning(TOPIC, str(error), FOLLOWS, f"install postgresql-client-{major} where backups are made")]
    return []
