"""Backup and restore as the settings say: which database, which store, which place."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg

from app import admin
from app.backup.attachments import check_stored
from app.backup.bucket import Bucket
from app.backup.catalogue import Catalogue, Choice, read_catalogue
from app.backup.connection import connected
from app.backup.ending import to_its_end
from app.backup.errors import BackupError, BusyError, ContentLostError
from app.backup.folder import Folder
from app.backup.make import Done, Plan, back_up
from app.backup.proof import prove
from app.backup.restore import Source, look_at, refuse_newer, restore
from app.backup.rotation import Kept
from app.backup.scratch import embedded_server, maintenance
from app.backup.work import work_folder
from app.bug_resources import make_attachment_store
from app.bugs.attachment_store import AttachmentsUnavailableError, S3Access, open_bucket
from app.core.backup_log import BackupRecord, record_backup
from app.core.errors import CannotStartError, in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pyrage
    from pydantic import SecretStr

    from app.backup.places import Place
    from app.backup.restore import Found, Restored
    from app.settings import Settings

RECORD_S: Final = 30.0
log = get_logger("gaveurs.backup")


def place_of(settings: Settings) -> Place:
    """Opens nothing yet."""
    if settings.backup_to is None:
        raise CannotStartError("where to? Give --to FOLDER, --to s3://bucket/prefix, or set BACKUP_TO")
    if not settings.backup_to.startswith("s3://"):
        return Folder(Path(settings.backup_to))
    access = S3Access(
        endpoint=settings.backup_s3_endpoint,
        region=settings.backup_s3_region,
        access_key=_said(settings.backup_s3_access_key),
        secret_key=_said(settings.backup_s3_secret_key),
    )
    url = urlsplit(settings.backup_to)
    return Bucket(settings.backup_to, open_bucket(url.netloc, url.path.strip("/"), access, "BACKUP_TO"))


def _said(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def work_of(settings: Settings) -> Path:
    return (settings.backup_work_dir or settings.data_dir).absolute() / "backup-work"


async def catalogue_of(settings: Settings) -> Catalogue:
    """Manifests are small: this needs no work folder, and a full disk does not prevent looking. What seems damaged is
    looked at again: a rotation may have been at it.
    """
    place = place_of(settings)
    with tempfile.TemporaryDirectory() as work:
        found = await read_catalogue(place, Path(work))
        return await read_catalogue(place, Path(work)) if found.unreadable else found


async def choose_backup(settings: Settings, name: str) -> Choice:
    return (await catalogue_of(settings)).choose(name, datetime.now(UTC))


async def make_backup(settings: Settings, *, adopt: bool = False) -> Done:
    """And tell the database how it went, for the metrics. BackupError: no backup was made."""
    plan = Plan(
        place=place_of(settings),
        work=work_of(settings),
        kept=Kept(settings.backup_keep_daily, settings.backup_keep_weekly, settings.backup_keep_monthly),
        recipients=settings.backup_age_recipients,
        verify=settings.backup_verify,
        verify_server=_said(settings.backup_verify_url),
        adopt=adopt,
    )
    return await admin.with_dsn(settings, lambda dsn: _recorded(dsn, settings, plan), migrated=False)


async def _recorded(dsn: str, settings: Settings, plan: Plan) -> Done:
    started = datetime.now(UTC)
    try:
        async with asyncio.timeout(settings.backup_deadline_s):
            done = await back_up(dsn, make_attachment_store(settings), plan)
    except BusyError:
        raise
    except (BackupError, CannotStartError, AttachmentsUnavailableError, TimeoutError) as error:
        why = str(error) or f"it took longer than BACKUP_DEADLINE_S ({settings.backup_deadline_s:g} s)"
        await _record(dsn, _failure(started, plan, why))
        raise BackupError(why) from error
    except Exception as error:
        await _record(dsn, _failure(started, plan, in_a_line(error)))
        raise
    manifest = done.manifest
    detail = "; ".join(done.words) or None
    await _record(
        dsn,
        BackupRecord(
            started, datetime.now(UTC), True, manifest.complete, manifest.size_bytes, plan.place.name, detail  # noqa: FBT003
        ),
    )  # fmt: skip
    return done


def _failure(started: datetime, plan: Plan, why: str) -> BackupRecord:
    return BackupRecord(started, datetime.now(UTC), False, False, None, plan.place.name, why)  # noqa: FBT003


async def _record(dsn: str, record: BackupRecord) -> None:
    with suppress(asyncio.CancelledError):  # too late: what became of the backup is told
        await to_its_end(_written_down(dsn, record))


async def _written_down(dsn: str, record: BackupRecord) -> None:
    try:
        async with asyncio.timeout(RECORD_S), connected(dsn) as connection:
            with suppress(asyncpg.UndefinedTableError):  # no schema yet, or one of before this table
                await record_backup(connection, record)
    except (BackupError, OSError) as error:
        why = str(error) or in_a_line(error)
        log.warning("how the backup went could not be recorded in the database", reason=why)


async def verify_backup(settings: Settings, name: str, identities: Sequence[pyrage.x25519.Identity]) -> str:
    """Every file is what it was; and, where it can be read, it can be restored. Returns the backup's name."""
    place = place_of(settings)
    with work_folder(work_of(settings)) as work:
        manifest = (await read_catalogue(place, work)).choose(name, datetime.now(UTC)).manifest
        source = Source(place, manifest, identities, work)
        await prove(
            await source.archive(), manifest.pg_dump_major, manifest.database, _said(settings.backup_verify_url), work
        )
        try:
            async for one in source.attachments():
                async for _ in check_stored(place, one, work, identities):
                    pass
        except ContentLostError as error:
            raise BackupError(f"{error}; the database of {manifest.name} can be restored") from error
    if manifest.attachments.lost:
        raise BackupError(f"{manifest.name} lacks {len(manifest.attachments.lost)} attachments")
    return manifest.name


@asynccontextmanager
async def target_of(settings: Settings) -> AsyncIterator[str]:
    """Where to restore to. CannotStartError while another process runs the embedded database."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with embedded_server(settings.data_dir) as dsn:
        yield dsn


async def look(settings: Settings) -> Found:
    async with target_of(settings) as dsn:
        return await look_at(dsn, await maintenance(dsn))


async def restore_backup(
    settings: Settings, name: str, identities: Sequence[pyrage.x25519.Identity], *, replace: bool
) -> Restored:
    """BackupError or OSError: nothing was changed but attachments, which were added."""
    place = place_of(settings)
    async with target_of(settings) as dsn:
        with work_folder(work_of(settings)) as work:
            manifest = (await read_catalogue(place, work)).named(name)
            refuse_newer(manifest)
            source = Source(place, manifest, identities, work)
            restored = await restore(source, dsn, make_attachment_store(settings), replace=replace)
    await admin.forget_cached(settings)
    return restored
