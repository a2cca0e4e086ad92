"""Files that people name or that hold secrets: written whole, and told in one line where they cannot be."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.core.errors import CannotStartError, in_a_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def told(what: str) -> Iterator[None]:
    """CannotStartError for what the file system refuses: `what`, which file, and why."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CannotStartError(f"{what}: {where}{error.strerror or in_a_line(error)}") from error


def write_private(path: Path, text: str) -> None:
    """`path` (0600) is on the disk, whole, when this returns, or is what it was before. OSError."""
    staging = path.with_name(f"{path.name}.new")
    staging.unlink(missing_ok=True)
    try:
        fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    _sync_entries(path.parent)


def _sync_entries(folder: Path) -> None:
    """They are there after a power failure too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
