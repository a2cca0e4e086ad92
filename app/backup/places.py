"""Where backups are kept: a folder, or a bucket. Files by key; each is there whole or not at all.

BACKUP/manifest.json, written last, makes a backup; attachments/AB/SHA256 hold contents that backups share. Nothing
else in the place is ours, and nothing else is touched.
"""

from __future__ import annotations

import errno
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from obstore.exceptions import BaseError, PermissionDeniedError

from app.backup.errors import BackupError, ContentLostError
from app.backup.manifest import DUMP, FILE, LIST, NAME, is_name
from app.core.errors import in_a_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

NO_ANSWER: Final = "error sending request"  # what the library says when no HTTP came back
OF_ONE_FILE: Final = {errno.EIO, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR}
SHARED: Final = "attachments"
_OURS: Final = re.compile(
    rf"{NAME.pattern.removesuffix(chr(92) + 'Z')}/({re.escape(FILE)}|({re.escape(DUMP)}|{re.escape(LIST)})(\.age)?)"
    rf"|{SHARED}/[0-9a-f]{{2}}/[0-9a-f]{{64}}(\.[0-9a-f]{{12}}\.age)?"
)


class Place(Protocol):
    """Every failure out there is a BackupError."""

    reread_days: int
    """Within so many days of backups each shared content is read again: reading costs a disk less than a bucket."""

    @property
    def name(self) -> str:
        """For people; holds no secret."""
        ...

    def alone(self) -> Any:
        """An async context in which no other process of this machine writes here. BusyError."""
        ...

    def sizes(self) -> AsyncIterator[tuple[str, int]]:
        """Everything of ours: (key, bytes), in no order; -1 for what is there and cannot be looked at."""
        ...

    async def put(self, key: str, source: Path) -> None:
        """Durable, and whole, when it returns."""
        ...

    async def get(self, key: str, target: Path) -> None:
        """Write it to the new file `target`. ContentLostError when it is not there or cannot be read from the disk."""
        ...

    async def sha256(self, key: str) -> str:
        """Of what is there; as `get`."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """In this order; one that is gone is no matter."""
        ...


def is_ours(key: str) -> bool:
    return _OURS.fullmatch(key) is not None and (key.startswith(f"{SHARED}/") or is_name(key.partition("/")[0]))


async def read_small(place: Place, key: str, work: Path) -> bytes:
    """What is known to be small: a manifest."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        target = Path(folder) / "small"
        await place.get(key, target)
        return target.read_bytes()


@contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ContentLostError(f"{what}: it is not there") from error
    except OSError as error:
        if error.errno in OF_ONE_FILE:
            raise ContentLostError(f"{what}: {error.strerror}") from error
        raise BackupError(f"{what}: {error.strerror or type(error).__name__}") from error
    except PermissionDeniedError as error:  # also of what was moved to an archive
        raise ContentLostError(f"{what}: access is denied") from error
    except (BaseError, ValueError) as error:
        if NO_ANSWER in str(error):
            raise BackupError(f"{what}: nobody answers at its endpoint") from error
        raise BackupError(f"{what}: {in_a_line(error)}") from error
