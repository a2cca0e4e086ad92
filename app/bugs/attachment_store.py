"""Where the bytes of attachments are: a folder, or a bucket that speaks S3. Knows keys, nothing of bugs.

Every call has a deadline; whatever goes wrong out there is an AttachmentsUnavailableError.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from app.core.errors import CannotStartError, UnavailableError, in_a_line
from app.core.ids import uuid7
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from obstore import AsyncWritableFile
    from obstore.store import ObjectStore

FOLDER: Final = "bugs"
CALL_S: Final = 5.0
WRITE_S: Final = 30.0
CLOSE_S: Final = 60.0  # the rest of what was written, made safe on the disk
PART_BYTES: Final = 5 * 1024 * 1024  # the least that S3 takes as a part: 10,000 of them are 50 GB
PARTS_AT_ONCE: Final = 2
CHUNK_BYTES: Final = 256 * 1024
PAGE: Final = 500
_KEY: Final = re.compile(rf"{FOLDER}/[0-9a-f]{{32}}\Z")
_UNFINISHED: Final = re.compile(r"[0-9a-f]{32}#\d+\Z")
log = get_logger("gaveurs.bugs")


class AttachmentsUnavailableError(UnavailableError):
    """The store of attachments does not serve, or has lost one."""

    code = "attachments_unavailable"

    def __init__(self, detail: str = "the store of attachments does not serve now; try again shortly") -> None:
        super().__init__(detail, retry_after_s=5.0)


@dataclass(frozen=True, slots=True)
class S3Access:
    """How a bucket is reached; None is left to the environment, as AWS's own tools do."""

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size_bytes: int
    changed_at: datetime


def open_bucket(bucket: str, prefix: str, access: S3Access, setting: str) -> S3Store:
    """Connects at first use. Plain HTTP only where the endpoint says so. CannotStartError names the setting."""
    options: dict[str, Any] = {
        "endpoint": access.endpoint,
        "region": access.region or ("us-east-1" if access.endpoint else None),
        "access_key_id": access.access_key,
        "secret_access_key": access.secret_key,
    }
    plain = access.endpoint is not None and access.endpoint.startswith("http://")
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            client_options={"allow_http": plain, "connect_timeout": "3s", "timeout": "25s"},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=WRITE_S)},
            **{name: value for name, value in options.items() if value is not None},
        )
    except (BaseError, ValueError) as error:
        raise CannotStartError(f"{setting}: {str(error).partition(chr(10))[0]}") from error


def new_key() -> str:
    """Ours alone: nothing of it is the client's."""
    return f"{FOLDER}/{uuid7().hex}"


@asynccontextmanager
async def _served(deadline_s: float, what: str) -> AsyncIterator[None]:
    """FileNotFoundError passes: it says that something is not there, which only the caller can judge."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError, TimeoutError, RuntimeError) as error:  # the last: no thread can be started
        log.warning("the store of attachments failed", doing=what, reason=in_a_line(error))
        raise AttachmentsUnavailableError from error


class Writing:
    """One object that is being written: it is there when `close` has returned, all of it or nothing."""

    def __init__(self, store: ObjectStore, key: str, folder: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._writer: AsyncWritableFile = obstore.open_writer_async(
            store, key, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        self.key = key

    async def write(self, chunk: bytes) -> None:
        """Waits while the store is slower than the client: no more than a few parts are in memory."""
        async with _served(WRITE_S, "write"):
            await self._writer.write(chunk)

    async def close(self) -> None:
        async with _served(CLOSE_S, "finish writing"):
            await self._writer.close()
            if self._folder is not None:
                await asyncio.to_thread(_make_durable, self._folder / self.key)

    async def discard(self) -> None:
        """Leave nothing. What was begun is finished and then deleted: parts of a broken off upload would stay in a
        bucket, unseen and paid for. What cannot be deleted now is left to the sweep.
        """
        try:
            async with _served(CALL_S, "give up writing"):
                await self._writer.close()
        except (AttachmentsUnavailableError, FileNotFoundError):
            pass  # closed before, or broken
        finally:
            del self._writer
        await delete_or_leave(self._store, self.key)


async def delete_or_leave(store: ObjectStore, key: str) -> None:
    try:
        async with _served(CALL_S, "delete"):
            await obstore.delete_async(store, key)
    except FileNotFoundError:
        pass
    except AttachmentsUnavailableError:
        log.warning("an object could not be deleted; the sweep will", key=key)


def _make_durable(path: Path) -> None:
    """A database row is about to say that it is there: it must be after a power failure too."""
    for what in (path, path.parent):
        fd = os.open(what, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class AttachmentStore:
    """Objects by key."""

    def __init__(self, store: ObjectStore, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder

    @classmethod
    def in_folder(cls, folder: Path) -> AttachmentStore:
        """Made if need be, for its owner alone. CannotStartError when it cannot be used."""
        folder = folder.absolute()
        try:
            (folder / FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.geteuid():  # not a mounted volume that is root's, with our group
                folder.chmod(0o700)
        except OSError as error:
            raise CannotStartError(f"the folder of attachments {folder} cannot be used: {error.strerror}") from error
        if not os.access(folder / FOLDER, os.W_OK | os.X_OK):
            raise CannotStartError(f"the folder of attachments {folder} cannot be written to")
        return cls(LocalStore(folder), folder)

    @classmethod
    def in_bucket(cls, bucket: str, prefix: str, access: S3Access) -> AttachmentStore:
        store = open_bucket(bucket, prefix, access, "BUG_ATTACHMENTS_URL")
        return cls(store)

    def write(self, key: str) -> Writing:
        return Writing(self._store, key, self._folder)

    async def read(self, key: str, size_bytes: int) -> AsyncIterator[bytes]:
        """Its bytes in chunks, once it is known that all of them are there. AttachmentsUnavailableError else."""
        try:
            async with _served(CALL_S, "read"):
                found = await obstore.get_async(self._store, key)
        except FileNotFoundError as error:
            raise self._lost(key, "it is not there") from error
        if found.meta["size"] != size_bytes:
            raise self._lost(key, "it has another size")
        return self._chunks(found)

    @staticmethod
    async def _chunks(found: obstore.GetResult) -> AsyncIterator[bytes]:
        stream = found.stream(min_chunk_size=CHUNK_BYTES)
        while True:
            try:
                async with _served(WRITE_S, "read on"):
                    chunk = await anext(stream, None)
            except FileNotFoundError as error:
                raise AttachmentsUnavailableError from error
            if chunk is None:
                return
            yield chunk

    @staticmethod
    def _lost(key: str, why: str) -> AttachmentsUnavailableError:
        log.error("an attachment cannot be read", key=key, why=why)
        return AttachmentsUnavailableError("this attachment's file is not where it was stored")

    async def has(self, key: str) -> bool:
        try:
            async with _served(CALL_S, "look"):
                await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Nothing when it is gone already, or cannot be deleted now: then the sweep will."""
        await delete_or_leave(self._store, key)

    async def delete_all(self, keys: Sequence[str]) -> None:
        """Many at once. One that is gone already may leave those behind it, for another time."""
        with suppress(FileNotFoundError):
            async with _served(WRITE_S, "delete"):
                await obstore.delete_async(self._store, keys)

    async def pages(self) -> AsyncIterator[list[StoredObject]]:
        """Everything that is ours, in no order."""
        listed = obstore.list(self._store, FOLDER, chunk_size=PAGE)
        while True:
            try:
                async with _served(WRITE_S, "list"):
                    page = await anext(cast("AsyncIterator[Sequence[Any]]", listed), None)
            except FileNotFoundError:
                return
            if page is None:
                return
            yield [
                StoredObject(one["path"], one["size"], one["last_modified"].astimezone(UTC))
                for one in page
                if _KEY.match(one["path"])
            ]

    async def forget_unfinished(self, before: datetime) -> int:
        """In a folder: files of writes that a crash broke off, which no listing shows. In a bucket they are the
        bucket's own business (a lifecycle rule).
        """
        if self._folder is None:
            return 0
        try:
            async with _served(WRITE_S, "clean up"):
                return await asyncio.to_thread(_forget_unfinished, self._folder / FOLDER, before.timestamp())
        except FileNotFoundError:
            return 0


def _forget_unfinished(folder: Path, before: float) -> int:
    forgotten = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.match(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                Path(entry.path).unlink(missing_ok=True)
                forgotten += 1
    return forgotten
