"""Backups in a folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.backup.crypt import sha256_of
from app.backup.errors import BackupError, BusyError
from app.backup.manifest import is_name
from app.backup.places import SHARED, is_ours, told
from app.core.errors import in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

log = get_logger("gaveurs.backup")
UNFINISHED: Final = ".gaveurs-unfinished-"
LOCK_FILE: Final = ".gaveurs-lock"
_PAIR: Final = re.compile(r"[0-9a-f]{2}\Z")


class Folder:
    """Made if need be, for its owner alone."""

    reread_days = 1

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def name(self) -> str:
        return str(self._path)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """What a killed process left unfinished goes first."""
        with told(f"the folder {self._path} cannot be used"):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with told(f"the folder {self._path} cannot be used"):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise BusyError(f"another backup to {self._path} is under way") from error
                self._forget_unfinished()
            yield
        finally:
            os.close(lock)

    def _forget_unfinished(self) -> None:
        for left in list(self._path.iterdir()):
            try:
                if left.name.startswith(UNFINISHED):
                    left.unlink()
                elif is_name(left.name) and _is_real_folder(left) and not any(left.iterdir()):
                    left.rmdir()
            except OSError as error:
                log.warning("what an unfinished backup left stays", path=str(left), reason=in_a_line(error))

    async def sizes(self) -> AsyncIterator[tuple[str, int]]:
        """What cannot be read is an error, not nothing. Folders that are not ours are not entered; one that is a
        symbolic link is an error too: nothing can be renamed into another file system.
        """
        with told(f"the folder {self._path} cannot be read"):
            for folder, below, names in os.walk(self._path, onerror=self._unless_gone):
                here = Path(folder).relative_to(self._path)
                self._refuse_links(here / name for name in (*below, *names))  # one that leads nowhere is no folder
                below[:] = [name for name in below if _is_our_folder(here / name)]
                for key in filter(is_ours, ((here / name).as_posix() for name in names)):
                    if (size := _size_of(self._path / key)) is not None:
                        yield key, size

    def _unless_gone(self, error: OSError) -> None:
        """A folder may go after it was listed: a rotation does that. Not the place itself."""
        if not isinstance(error, FileNotFoundError) or Path(error.filename) == self._path:
            raise error

    def _refuse_links(self, entries: Iterable[Path]) -> None:
        for one in entries:
            if _is_our_folder(one) and (self._path / one).is_symlink():
                raise BackupError(
                    f"{self._path / one} is a symbolic link: put the folder itself there (or mount it: mount --bind),"
                    " or make BACKUP_TO as a whole the link"
                )

    async def put(self, key: str, source: Path) -> None:
        with told(f"{key} cannot be written to {self._path}"):
            await asyncio.to_thread(self._put, key, source)

    def _put(self, key: str, source: Path) -> None:
        target = self._path / key
        for folder in reversed([target.parent, *target.parent.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700)
                _sync(folder.parent)
        fd, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=self._path)
        try:
            with os.fdopen(fd, "wb") as copy, source.open("rb") as original:
                shutil.copyfileobj(original, copy, 1024 * 1024)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(unfinished, target)  # noqa: PTH105 - a name, not a Path
        except BaseException:
            os.unlink(unfinished)  # noqa: PTH108
            raise
        _sync(target.parent)

    async def get(self, key: str, target: Path) -> None:
        with told(f"{key} cannot be copied from {self._path} to {target.parent}"):
            await asyncio.to_thread(_copy_new, self._path / key, target)

    async def sha256(self, key: str) -> str:
        with told(f"{key} cannot be read from {self._path}"):
            return await sha256_of(self._path / key)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with told(f"{key} cannot be deleted from {self._path}"):
                await asyncio.to_thread(self._delete, key)

    def _delete(self, key: str) -> None:
        path = self._path / key
        path.unlink(missing_ok=True)
        if not path.parent.exists():
            return
        _sync(path.parent)
        if path.parent != self._path and not any(path.parent.iterdir()):
            path.parent.rmdir()


def _is_our_folder(path: Path) -> bool:
    first, *rest = path.parts
    if first == SHARED:
        return not rest or (len(rest) == 1 and _PAIR.match(rest[0]) is not None)
    return not rest and is_name(first)


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size_of(path: Path) -> int | None:
    """-1 when it is there and cannot be looked at; None when it has gone since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1 if path.is_symlink() else None
    except OSError:
        return -1


def _copy_new(source: Path, target: Path) -> None:
    with source.open("rb") as original, target.open("xb") as copy:
        target.chmod(0o600)
        shutil.copyfileobj(original, copy, 1024 * 1024)


def _sync(folder: Path) -> None:
    """Its entries must be there after a power failure too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
