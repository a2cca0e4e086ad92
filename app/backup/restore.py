"""The way back: into a new database beside the old one, proven there, and only then in its place."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from app.backup.attachments import ROWS, check_stored, fetch, put_back, shared_key
from app.backup.catalogue import listed
from app.backup.connection import connected, database_of
from app.backup.crypt import decrypt, sha256_of
from app.backup.errors import BackupError, ContentLostError
from app.backup.inventory import tables_of
from app.backup.likeness import like
from app.backup.manifest import Attachment
from app.backup.proof import restore_and_compare
from app.backup.scratch import drop_database, forget_leftovers, in_use, maintenance, new_database, scratch_name
from app.core.backup_log import BackupRecord, record_backup
from app.core.database import DATABASE_ERRORS
from app.core.errors import in_a_line
from app.core.migrations import head, migrate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

    import pyrage

    from app.backup.manifest import Manifest
    from app.backup.places import Place
    from app.bugs.attachment_store import AttachmentStore

BOOKKEEPING = {
    "public.alembic_version",
    "public.recipes",
    "public.database_identity",
}  # what a server writes at its first start
# A background process (an autovacuum) is of no user, and gives way. What kind it is, ordinary roles are not shown.
OTHERS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What somebody should know, in words; `lost`: attachments that rows name and nobody has, and why. `unlisted`: what
    is wrong with the backup's list of attachments; then those were put back that the restored rows name.
    """

    words: list[str]
    lost: list[str]
    unlisted: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A backup in a place; `identities` where it is encrypted."""

    place: Place
    manifest: Manifest
    identities: Sequence[pyrage.x25519.Identity]
    work: Path

    async def archive(self) -> Path:
        """The dump as pg_dump wrote it, checked. BackupError when it is damaged or cannot be read."""
        manifest, dump = self.manifest, self.manifest.dump
        stored = self.work / f"stored-{dump.key}"
        await self.place.get(f"{manifest.name}/{dump.key}", stored)
        if await sha256_of(stored) != dump.sha256:
            raise BackupError(f"the dump of {manifest.name} is damaged: its SHA-256 is not what the manifest says")
        if not manifest.encrypted_for:
            return stored
        if not self.identities:
            raise BackupError(f"{manifest.name} is encrypted: give its secret key with --identity FILE")
        plain = self.work / "plain.dump"
        await decrypt(stored, plain, self.identities)
        stored.unlink()
        if await sha256_of(plain) != dump.plain_sha256:
            raise BackupError(f"the dump of {manifest.name} decrypts to something else than was encrypted")
        return plain

    def attachments(self) -> AsyncGenerator[Attachment, None]:
        """ContentLostError, before the first of them, when the list is damaged or gone."""
        return listed(self.place, self.manifest, self.work)


def refuse_newer(manifest: Manifest) -> None:
    if manifest.database.revision > head():
        raise BackupError(
            f"{manifest.name} has schema {manifest.database.revision}, this program knows {head()}:"
            f" restore it with version {manifest.product} or later"
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What is where a backup shall go. `rows` by table, without what a server writes at its first start."""

    exists: bool
    rows: dict[str, int]
    sessions: int


async def look_at(dsn: str, server: str) -> Found:
    """`server`: another database of the same server."""
    name = database_of(dsn)
    async with connected(server) as connection:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return Found(exists=False, rows={}, sessions=0)
        sessions = await connection.fetchval(OTHERS, name)
    async with connected(dsn) as connection:
        tables = [one for one in await tables_of(connection) if one not in BOOKKEEPING]
        rows = {one: await connection.fetchval(f"SELECT count(*) FROM ONLY {one}") for one in tables}
    return Found(exists=True, rows={one: count for one, count in rows.items() if count}, sessions=sessions)


async def restore(source: Source, dsn: str, store: AttachmentStore, *, replace: bool) -> Restored:
    """The whole database, or nothing: until the last step, the renaming, the one at `dsn` is what it was. Attachments
    that are damaged or gone do not hold it up.

    Without `replace` it must be empty or not there.
    """
    refuse_newer(source.manifest)
    server = await maintenance(dsn)
    found = await look_at(dsn, server)
    if found.rows and not replace:
        raise BackupError(f"that database is not empty: {in_words(found)}; --replace puts the backup in its place")
    if found.sessions:
        raise BackupError(f"{found.sessions} other sessions use that database: stop the servers first")
    archive = await source.archive()
    await forget_leftovers(server)
    async with new_database(server, scratch_name(), await _like(server, dsn)) as fresh:
        manifest = source.manifest
        async with in_use(fresh):
            lacking = await restore_and_compare(archive, manifest.pg_dump_major, manifest.database, fresh, source.work)
            wanted, unlisted = await attachments_wanted(source, fresh)
            restored, lost = await put_attachments_back(source, store, wanted)
            await _migrate(fresh)
            await _record(source, fresh)
        left = await _swap(server, database_of(fresh), database_of(dsn), exists=found.exists)
    words = [f"{manifest.database.tables_in_words()}, {restored} attachments"]
    words += [f"without the extension {one}, which that server lacks" for one in lacking]
    words += left
    lost += [f"attachment {key}: the backup did not have it either" for key in manifest.attachments.lost]
    return Restored(words, lost, unlisted)


async def attachments_wanted(source: Source, dsn: str) -> tuple[AsyncIterator[Attachment], str | None]:
    """By the backup's list; where that one is damaged or gone, which is told, by the rows restored at `dsn`."""
    try:
        async with aclosing(source.attachments()) as listing:
            await anext(listing, None)
    except ContentLostError as error:
        return _by_rows(source.manifest, dsn), str(error)
    return source.attachments(), None


async def _by_rows(manifest: Manifest, dsn: str) -> AsyncIterator[Attachment]:
    """A content's name in the place follows from its SHA-256; what was stored of an encrypted one is not known."""
    async with connected(dsn) as connection, connection.transaction(readonly=True):
        if not await connection.fetchval("SELECT to_regclass('bug_attachments') IS NOT NULL"):
            return  # the schema is of before bugs
        async for row in connection.cursor(ROWS, prefetch=500):
            key, sha256, size = row["object_key"], row["sha256"], row["size_bytes"]
            if key not in manifest.attachments.lost:
                yield Attachment(key, sha256, size, shared_key(sha256, manifest.encrypted_for), size, sha256)


async def _record(source: Source, dsn: str) -> None:
    """The dump is older than its own row: without one, the newest backup would be the one before."""
    one = source.manifest
    record = BackupRecord(one.started_at, one.finished_at, True, one.complete, one.size_bytes, source.place.name)  # noqa: FBT003
    async with connected(dsn) as connection:
        await record_backup(connection, record)


def in_words(found: Found) -> str:
    most = sorted(found.rows.items(), key=lambda item: -item[1])[:3]
    return f"{sum(found.rows.values()):,} rows, {', '.join(f'{count:,} in {name}' for name, count in most)}"


async def put_attachments_back(
    source: Source, store: AttachmentStore, wanted: AsyncIterator[Attachment]
) -> tuple[int, list[str]]:
    """Those of `wanted` that the store lacks, or has altered, each checked. Returns how many there are now, and
    which are lost and why.

    BackupError when place or store do not serve at all.
    """
    count, lost = 0, list[str]()
    there = {one.key: one.size_bytes async for page in store.pages() for one in page}
    async for one in wanted:
        try:
            if there.get(one.object_key) != one.size_bytes or not await _is_unaltered(store, one, source.work):
                async for plain in check_stored(source.place, one, source.work, source.identities):
                    await put_back(store, one.object_key, plain)
        except ContentLostError as error:
            lost.append(f"attachment {one.object_key}: {error}")
        else:
            count += 1
    return count, lost


async def _is_unaltered(store: AttachmentStore, one: Attachment, work: Path) -> bool:
    copy = work / "present"
    try:
        return await fetch(store, one.object_key, one.size_bytes, copy) == one.sha256
    finally:
        copy.unlink(missing_ok=True)


async def _like(server: str, dsn: str) -> str:
    """The new database is as the old one was, as far as rows of it depend on that."""
    async with connected(server) as connection:
        question = like(connection.get_server_version().major)
        found: str | None = await connection.fetchval(question, database_of(dsn))
    return found or "ENCODING 'UTF8'"


async def _migrate(dsn: str) -> None:
    try:
        await migrate(dsn)
    except DATABASE_ERRORS as error:
        raise BackupError(f"what was restored could not be migrated: {in_a_line(error)}") from error


async def _swap(server: str, fresh: str, target: str, *, exists: bool) -> list[str]:
    """Both names change in one transaction; then the old database goes. In words, why it does not where it stays."""
    old = scratch_name()
    async with connected(server) as connection:
        try:
            async with connection.transaction():
                if exists:
                    await connection.execute(f'ALTER DATABASE "{target}" RENAME TO "{old}"')
                await connection.execute(f'ALTER DATABASE "{fresh}" RENAME TO "{target}"')
        except asyncpg.ObjectInUseError as error:
            raise BackupError("somebody uses that database again: stop the servers, then try again") from error
    if exists and (why := await drop_database(server, old)):
        return [f"the replaced database stays, as {old}: {why}; the next restore drops it, if it can"]
    return []
