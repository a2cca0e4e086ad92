"""One backup, from the snapshot to the rotation of older ones."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from app.backup.attachments import Saver, contents_of
from app.backup.catalogue import Rotated, check_stored_whole, read_catalogue, refuse_strangers, rotate, stored_before
from app.backup.connection import identity_of, one_backup_at_a_time, snapshot
from app.backup.crypt import SUFFIX, encrypt, recipients_of, sha256_of
from app.backup.dump import dump
from app.backup.errors import BackupError, refused_by_system
from app.backup.inventory import take_inventory
from app.backup.manifest import DUMP, FILE, FORMAT, LIST, Attachments, File, Inventory, Manifest, encode, new_name
from app.backup.programs import choose, installed, needs_tls
from app.backup.proof import prove
from app.backup.work import work_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.backup.connection import Turn
    from app.backup.places import Place
    from app.backup.rotation import Kept
    from app.bugs.attachment_store import AttachmentStore

STAY: Final = "old files stay in the place"
NAMED: Final = 3  # of them


@dataclass(frozen=True, slots=True)
class Plan:
    """`work` needs room for the dump, and for the restored database where `verify_server` does not say another one.
    `adopt`: the place may hold another database's backups.
    """

    place: Place
    work: Path
    kept: Kept
    recipients: Sequence[str] = ()
    verify: bool = True
    verify_server: str | None = None
    adopt: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A stored backup, and in words what somebody should know about it."""

    manifest: Manifest
    words: list[str]
    rotated: list[str]


@dataclass(slots=True)
class _Taken:
    """What one snapshot gave, in files of the work folder."""

    server: str
    pg_dump: str
    database: Inventory
    attachments: Attachments
    plain_sha256: str
    database_id: str | None
    words: list[str] = field(default_factory=list)


async def back_up(dsn: str, store: AttachmentStore, plan: Plan) -> Done:
    """Take a backup, prove it, store it, and forget those whose time is over. BackupError: it is not known to be stored
    whole; an end from outside counts too, until it is.
    """
    recipients_of(plan.recipients)
    done: Done | None = None
    try:
        async with one_backup_at_a_time(dsn) as turn, plan.place.alone():
            with work_folder(plan.work) as work:
                done = await _back_up(dsn, store, plan, turn, work)
    except OSError as error:
        raise BackupError(refused_by_system(error, plan.work)) from error
    except asyncio.CancelledError:
        if done is None:
            raise
    assert done is not None
    return done


async def _back_up(dsn: str, store: AttachmentStore, plan: Plan, turn: Turn, work: Path) -> Done:
    started = datetime.now(UTC)
    name = new_name(started, secrets.token_bytes(4))
    catalogue = await read_catalogue(plan.place, work)
    refuse_strangers(plan.place, catalogue, await identity_of(dsn), adopt=plan.adopt)
    await turn.confirm()
    words = await _forget_unfinished(plan.place, catalogue.unfinished)
    before = await stored_before(plan.place, catalogue, work)
    saver = Saver(dsn, store, plan.place, before, catalogue.shared, plan.recipients, work, started.toordinal())
    taken = await _take(dsn, saver, work)
    if plan.verify:
        lacking = await prove(
            work / DUMP, int(taken.pg_dump.partition(".")[0]), taken.database, plan.verify_server, work
        )
        taken.words += [f"proven without the extension {one}, which the scratch server lacks" for one in lacking]
    manifest = await _store(name, started, taken, plan, turn, work)
    rotated = await _forget_old(plan, turn, work)
    words += _staying("of backups whose time is over", rotated.left)
    words += [why for one, why in catalogue.unreadable.items() if one not in rotated.gone]
    return Done(manifest, words + taken.words, rotated.gone)


async def _forget_unfinished(place: Place, keys: Sequence[str]) -> list[str]:
    """In words, why they stay where they do: no backup fails for that."""
    left = []
    for key in keys:
        try:
            await place.delete([key])
        except BackupError as error:
            left.append(str(error))
    return _staying("left by an unfinished backup", left)


def _staying(which: str, reasons: Sequence[str]) -> list[str]:
    """One line at most: where nothing may be deleted there are more reasons each day."""
    more = [f"and {len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
    return [f"{STAY}, {which}: {', '.join([*reasons[:NAMED], *more])}"] if reasons else []


async def _forget_old(plan: Plan, turn: Turn, work: Path) -> Rotated:
    """The one that was stored is whole whatever becomes of this, so an end from outside ends this alone."""
    rotated = Rotated()
    try:
        await turn.confirm()
        await rotate(plan.place, plan.kept, work, rotated)
    except BackupError as error:
        rotated.left.append(str(error))
    except OSError as error:
        rotated.left.append(refused_by_system(error, plan.work))
    except asyncio.CancelledError:
        rotated.left.append("told to stop, or BACKUP_DEADLINE_S is over")
    return rotated


async def _take(dsn: str, saver: Saver, work: Path) -> _Taken:
    """Attachments first: the sooner after the snapshot, the fewer of its rows' objects are deleted by then."""
    async with snapshot(dsn) as (connection, name):
        found = connection.get_server_version()
        programs = choose(installed(work), at_least=found.major, best=found.major, tls=needs_tls(dsn))
        attachments, words = await saver.save(connection, work / LIST)
        # Before the dump: sequences know no snapshot, and what is restored must not be behind.
        inventory = await take_inventory(connection)
        server = await connection.fetchval("SHOW server_version")
        # The last question: silent while pg_dump runs, the connection may be cut off by what is between.
        _, sha256 = await dump(dsn, programs, name, work / DUMP)
    return _Taken(server, programs.version, inventory, attachments, sha256, await identity_of(dsn), words)


async def _store(name: str, started: datetime, taken: _Taken, plan: Plan, turn: Turn, work: Path) -> Manifest:
    """The dump as it was proven, then the list, last the manifest; and then all of it must be there."""
    archive = work / DUMP
    if await sha256_of(archive) != taken.plain_sha256:
        raise BackupError("the dump has changed on the disk since pg_dump wrote it")
    if plan.recipients:
        archive = work / f"{DUMP}{SUFFIX}"
        await encrypt(work / DUMP, archive, plan.recipients)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        product=version("gaveurs-backend"),
        server=taken.server,
        pg_dump=taken.pg_dump,
        started_at=started,
        finished_at=datetime.now(UTC),
        verified=plan.verify,
        encrypted_for=list(plan.recipients),
        database=taken.database,
        attachments=taken.attachments,
        dump=await _file(archive, taken.plain_sha256),
        listing=await _file(work / LIST, None),
        database_id=taken.database_id,
    )
    await turn.confirm()
    for path in (archive, work / LIST):
        await plan.place.put(f"{name}/{path.name}", path)
    (work / FILE).write_bytes(encode(manifest))
    await turn.confirm()
    await plan.place.put(f"{name}/{FILE}", work / FILE)
    await check_stored_whole(plan.place, manifest, await asyncio.to_thread(contents_of, work / LIST))
    return manifest


async def _file(path: Path, plain_sha256: str | None) -> File:
    sha256 = await sha256_of(path)
    return File(path.name, path.stat().st_size, sha256, plain_sha256 or sha256)  # noqa: ASYNC240 - a local file
