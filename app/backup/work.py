"""A folder to work in, with nothing left behind: not even by a process that was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.backup.errors import BackupError

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN: Final = "run-"


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A folder of our own below `parent`. What killed processes left there goes first: each holds a lock on its own.

    Others may pass through (as root, the scratch server is another user's), not look.
    """
    try:
        for folder in reversed([parent, *parent.parents]):
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o711)
        with (parent / "lock").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # held for a moment by each
            for left in parent.glob(f"{RUN}*"):
                _remove_if_left(left)
            mine = Path(tempfile.mkdtemp(prefix=RUN, dir=parent))
            mine.chmod(0o711)
            held = os.open(mine, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
    except OSError as error:
        raise BackupError(f"the folder {error.filename or parent} cannot be worked in: {error.strerror}") from error
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        os.close(held)


def _remove_if_left(folder: Path) -> None:
    with suppress(BlockingIOError, FileNotFoundError):  # its owner is alive, or has just removed it
        fd = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(fd)
