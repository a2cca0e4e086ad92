"""The data folder: whose it is, who may read in it, and which process owns it now."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dotenv import dotenv_values
from pydantic import SecretStr

from app.core.apart import apart
from app.core.data_folder import SERVER_MAJOR, blocked_at, choose_account
from app.core.errors import CannotStartError
from app.doctor.finding import Finding, fine, note, problem, warning
from app.doctor.settings_read import ENV_FILE
from app.secret_files import USUAL_FOLDER
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.doctor.patient import Patient

TOPIC: Final = "permissions"
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
READ_BY_ALL: Final = stat.S_IROTH
PRIVATE: Final = ("admin.key", "connection.json", "password")
LOCKS: Final = Path("/proc/locks")


async def check_folders(patient: Patient) -> list[Finding]:
    return await apart(lambda: look(patient))


def look(patient: Patient) -> list[Finding]:
    data = patient.settings.data_dir
    found = [*_data_folder(patient, data), *judge_secrets(files_with_secrets(patient.settings))]
    return [*(found or [fine(TOPIC, f"{data} is ours alone")]), *_lock(patient, data)]


def _data_folder(patient: Patient, data: Path) -> list[Finding]:
    if not data.exists():
        parent = next(one for one in data.absolute().parents if one.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return [note(TOPIC, f"{data} is not there yet", "it is made at the first start")]
        return [_unusable(data, f"is not there, and {parent} cannot be written to")]
    if not data.is_dir():
        return [_unusable(data, "is not a folder")]
    if not os.access(data, os.W_OK | os.X_OK):
        return [_unusable(data, "cannot be written to")]
    found = []
    mode = stat.S_IMODE(data.stat().st_mode)
    if mode & OTHERS and patient.embedded:
        found.append(
            warning(
                TOPIC, f"{data} is open to others ({mode:04o})", "they see the database's files", f"chmod 700 {data}"
            )
        )
    return [*found, *(_embedded(data) if patient.embedded else [])]


def _unusable(data: Path, why: str) -> Finding:
    follows = "the embedded database, the first admin key and attachments have no place"
    return problem(
        TOPIC, f"{data} {why}", follows, "give another one with DATA_DIR, or: chown it to who runs the service"
    )


def no_entry(path: Path) -> Finding:
    """Of what the kernel refused to show: the first folder on the way that we may not pass, or the thing itself."""
    effective = os.access in os.supports_effective_ids
    parents = reversed(path.absolute().parents)
    barrier = next((one for one in parents if not os.access(one, os.X_OK, effective_ids=effective)), None)
    what = f"{barrier} cannot be entered" if barrier else f"{path} cannot be read"
    follows = "the service, run by this user, does not start or lacks what lies there"
    return problem(TOPIC, what, follows, f"run this as the service's user, or see: namei -l {barrier or path}")


def _embedded(data: Path) -> list[Finding]:
    try:
        account = choose_account(data)
    except CannotStartError as error:
        return [problem(TOPIC, str(error), "the service does not start", "make a user named gaveurs")]
    found = []
    if (barrier := blocked_at(data, account)) is not None:
        follows = "PostgreSQL, which runs as that user, does not start"
        found.append(problem(TOPIC, f"user {account.name} cannot enter {barrier}", follows, f"chmod o+x {barrier}"))
    if os.geteuid() != 0 and data.stat().st_uid != account.uid:
        do = f"chown -R {account.name} {data}"
        found.append(problem(TOPIC, f"{data} belongs to another user", "the service does not start", do))
    made_by = data / "postgres" / "PG_VERSION"
    if not made_by.exists() and account.name == str(account.uid):
        what = f"user id {account.uid} has no name, and PostgreSQL makes no database for such a user"
        found.append(problem(TOPIC, what, "the first start fails", "run it as a user with a name, or set DATABASE_URL"))
    if made_by.exists() and made_by.read_text().strip() != str(SERVER_MAJOR):
        theirs = made_by.read_text().strip()
        what = f"the database in {data} was made by PostgreSQL {theirs}, this program has {SERVER_MAJOR}"
        found.append(problem(TOPIC, what, "the service does not start", "docs/upgrading.md, The embedded PostgreSQL"))
    return found


def files_with_secrets(settings: Settings) -> list[Path]:
    """Those that are there: what the service wrote, `.env` if a secret is in it, and the secrets' folder."""
    secret = {name.upper() for name in Settings.model_fields if isinstance(getattr(settings, name), SecretStr)}
    found = [settings.data_dir / name for name in PRIVATE]
    if ENV_FILE.is_file() and secret & {name.upper() for name, value in dotenv_values(ENV_FILE).items() if value}:
        found.append(ENV_FILE)
    folder = settings.secrets_dir or USUAL_FOLDER
    if folder.is_dir():  # by name: a folder that may not be listed can hold files that may be read
        found += [folder / name.lower() for name in sorted(secret)]
    return [one for one in found if one.is_file()]


def judge_secrets(files: list[Path]) -> list[Finding]:
    """In a container's secrets' folder a file may be readable by all: nobody else is in there."""
    found = []
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        if not mode & OTHERS:
            continue
        what = f"{file} holds a secret and has mode {mode:04o}"
        if file.is_relative_to(USUAL_FOLDER):
            found.append(
                note(TOPIC, what, "whoever else runs in this container reads it", "defaultMode: 0440 in Kubernetes")
            )
        else:
            found.append(warning(TOPIC, what, "others on this machine may read it", f"chmod 600 {file}"))
    return found


def lock_holder(data: Path) -> int | None:
    """The process that owns the data folder, by the kernel's list of locks; None when nobody does. PermissionError."""
    lock = data / "owner.lock"
    try:
        file = lock.stat()
        lines = LOCKS.read_text().splitlines() if LOCKS.exists() else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    if lines is None:
        return _said_owner(lock)
    return holder_in(lines, file, _said_owner(lock))


def holder_in(lines: Iterable[str], file: os.stat_result, said: int | None) -> int | None:
    """Another file system may hold a locked file of the same number. Not every one (btrfs, overlays) has the same
    device in the kernel's list as in stat(2): there the process must be the one that wrote itself in.
    """
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF
        words = line.split()
        if words[1] != "FLOCK":
            continue
        theirs, _, inode = words[5].rpartition(":")
        if inode == str(file.st_ino) and (theirs == device or int(words[4]) == said):
            return int(words[4])
    return None


def _said_owner(lock: Path) -> int | None:
    """Where the kernel has no such list: the process that wrote itself in, if there is one of that number."""
    try:
        owner = int(lock.read_text())
    except (OSError, ValueError):
        return None
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return owner  # another user's
    return owner


def _lock(patient: Patient, data: Path) -> list[Finding]:
    if not patient.embedded:
        return []
    holder = lock_holder(data)
    if holder is None:
        return [fine("embedded", f"nobody runs the database in {data} now")]
    return [fine("embedded", f"process {holder} runs the database in {data}; a second one would be refused")]
