"""Attachments: each content once in a place, by its SHA-256; taken from the store, and put back into one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from app.backup.connection import connected
from app.backup.crypt import SUFFIX, decrypt, encrypt, fingerprint, sha256_of
from app.backup.errors import BackupError, ContentLostError
from app.backup.manifest import Attachment, Attachments
from app.backup.places import SHARED
from app.bugs.attachment_store import CHUNK_BYTES, AttachmentsUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    import pyrage

    from app.backup.places import Place
    from app.bugs.attachment_store import AttachmentStore
    from app.core.database import Connection

ROWS = "SELECT object_key, encode(sha256, 'hex') AS sha256, size_bytes FROM bug_attachments ORDER BY id"
STILL_NAMED = "SELECT EXISTS (SELECT FROM bug_attachments WHERE object_key = $1)"


def shared_key(sha256: str, recipients: Sequence[str]) -> str:
    """What is encrypted for others is another file: those who may read it are known by its name."""
    suffix = f".{fingerprint(recipients)}{SUFFIX}" if recipients else ""
    return f"{SHARED}/{sha256[:2]}/{sha256}{suffix}"


@dataclass(slots=True)
class Saver:
    """`before` is what the place's backups name, as (bytes, SHA-256) by key; `there` all that the place has; `day`,
    counted, chooses which of it are read again.
    """

    dsn: str
    store: AttachmentStore
    place: Place
    before: dict[str, tuple[int, str]]
    there: dict[str, int]
    recipients: Sequence[str]
    work: Path
    day: int
    read: set[str] = field(default_factory=set)

    async def save(self, snapshot: Connection, target: Path) -> tuple[Attachments, list[str]]:
        """Every content that the snapshot's rows name is in the place, and listed in `target`; what is wrong, in words.

        BackupError when store or place do not serve.
        """
        sizes = {one.key: one.size_bytes async for page in self.store.pages() for one in page}
        count, total, lost, words = 0, 0, list[str](), list[str]()
        with target.open("xb") as lines:
            async for row in snapshot.cursor(ROWS, prefetch=500):
                key, sha256, size = row["object_key"], row["sha256"], row["size_bytes"]
                if sizes.get(key) != size and await self._is_deleted(key):
                    continue
                one, wrong = await self._one(key, sha256, size, sizes.get(key))
                if wrong:
                    words.append(f"attachment {key} {wrong}")
                if one is None:
                    lost.append(key)
                    continue
                lines.write(msgspec.json.encode(one) + b"\n")
                count, total = count + 1, total + one.stored_bytes
        return Attachments(count, total, lost), words

    async def _is_deleted(self, object_key: str) -> bool:
        """Since the snapshot, by somebody who may."""
        async with connected(self.dsn) as connection:
            return not await connection.fetchval(STILL_NAMED, object_key)

    async def _one(self, key: str, sha256: str, size: int, found: int | None) -> tuple[Attachment | None, str | None]:
        wrong = "is not in the store" if found is None else "has another size" if found != size else None
        shared = shared_key(sha256, self.recipients)
        known = self.before.get(shared)
        damaged = known is not None and not await self._is_whole(shared, sha256, known)
        if known is not None and not damaged:
            line = Attachment(key, sha256, size, shared, *known)
            return line, wrong and f"{wrong}, but an earlier backup has it"
        if wrong is not None:
            return None, f"{wrong}, and {shared} in {self.place.name} is damaged or gone" if damaged else wrong
        plain = self.work / "attachment"
        try:
            anew, wrong = await self._store_anew(key, sha256, size, shared, plain)
            return anew, wrong or (f"was damaged or gone in {self.place.name}: stored there again" if damaged else None)
        finally:
            plain.unlink(missing_ok=True)
            plain.with_suffix(SUFFIX).unlink(missing_ok=True)

    async def _is_whole(self, shared: str, sha256: str, known: tuple[int, str]) -> bool:
        """By its size, and on its day by its SHA-256 too."""
        if self.there.get(shared) != known[0]:
            return False
        if int(sha256[:8], 16) % self.place.reread_days != self.day % self.place.reread_days or shared in self.read:
            return True
        self.read.add(shared)
        try:
            return await self.place.sha256(shared) == known[1]
        except ContentLostError:
            return False

    async def _store_anew(
        self, key: str, sha256: str, size: int, shared: str, plain: Path
    ) -> tuple[Attachment | None, str | None]:
        if await fetch(self.store, key, size, plain) != sha256:
            return None, "has been altered: its SHA-256 is another"
        stored = plain
        if self.recipients:
            stored = plain.with_suffix(SUFFIX)
            await encrypt(plain, stored, self.recipients)
        one = Attachment(key, sha256, size, shared, stored.stat().st_size, await sha256_of(stored))
        await self.place.put(shared, stored)
        self.before[shared] = (one.stored_bytes, one.stored_sha256)
        self.there[shared] = one.stored_bytes
        return one, None


def contents_of(listing: Path) -> dict[str, int]:
    """Bytes as stored, by key."""
    with listing.open("rb") as lines:
        return {one.key: one.stored_bytes for one in (msgspec.json.decode(line, type=Attachment) for line in lines)}


async def fetch(store: AttachmentStore, key: str, size: int, target: Path) -> str:
    """Copy an object to a new file; returns its SHA-256. BackupError when the store does not serve."""
    digest = hashlib.sha256()
    try:
        with target.open("xb") as file:
            async for chunk in await store.read(key, size):
                digest.update(chunk)
                file.write(chunk)
    except AttachmentsUnavailableError as error:
        raise BackupError(f"attachment {key} cannot be read: {error.detail}") from error
    return digest.hexdigest()


async def check_stored(
    place: Place, one: Attachment, work: Path, identities: Sequence[pyrage.x25519.Identity]
) -> AsyncIterator[Path]:
    """Its content as a file, for one use: as it was stored, and, where it can be read, as it was uploaded.

    ContentLostError when it is neither. What can be decrypted is judged by that alone: it may have been encrypted anew.
    """
    stored, plain = work / "stored", work / "plain"
    try:
        await place.get(one.key, stored)
        sealed = one.key.endswith(SUFFIX) and identities
        if not sealed and await sha256_of(stored) != one.stored_sha256:
            raise ContentLostError(f"{one.key} in {place.name} is damaged")
        if sealed:
            await _decrypt_whole(place, one, stored, plain, identities)
            yield plain
        elif not one.key.endswith(SUFFIX):
            yield stored
    finally:
        stored.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)


async def _decrypt_whole(
    place: Place, one: Attachment, stored: Path, plain: Path, identities: Sequence[pyrage.x25519.Identity]
) -> None:
    try:
        await decrypt(stored, plain, identities)
    except BackupError as error:
        raise ContentLostError(f"{one.key} in {place.name} is damaged: {error}") from error
    if await sha256_of(plain) != one.sha256:
        raise ContentLostError(f"{one.key} in {place.name} decrypts to something else")


async def put_back(store: AttachmentStore, key: str, source: Path) -> None:
    """Whole, or nothing of it."""
    try:
        writing = store.write(key)
        try:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    await writing.write(chunk)
            await writing.close()
        except BaseException:
            await writing.discard()
            raise
    except AttachmentsUnavailableError as error:
        raise BackupError(f"attachment {key} cannot be restored: {error.detail}") from error
