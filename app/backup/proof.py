"""The proof of a backup: it is restored into a database of our own, and what is in there is counted and summed up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from app.backup.connection import connected
from app.backup.dump import load
from app.backup.errors import BackupError
from app.backup.inventory import compare, take_inventory
from app.backup.programs import choose, installed, needs_tls
from app.backup.scratch import embedded_server, forget_leftovers, in_use, new_database, scratch_name
from app.core.data_folder import blocked_at, choose_account

if TYPE_CHECKING:
    from pathlib import Path

    from app.backup.manifest import Inventory

JOBS: Final = min(4, os.cpu_count() or 1)


async def restore_and_compare(archive: Path, pg_dump: int, expected: Inventory, dsn: str, work: Path) -> list[str]:
    """Into the empty database at `dsn`; returns the extensions that its server lacks. NotProvenError on a difference,
    BackupError when it cannot be restored at all.
    """
    async with connected(dsn) as connection:
        major = connection.get_server_version().major
    programs = choose(installed(work), at_least=pg_dump, best=major, tls=needs_tls(dsn))
    lacking = await load(archive, dsn, programs, JOBS)
    async with connected(dsn) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        compare(expected, await take_inventory(connection))
    return lacking


async def prove(archive: Path, pg_dump: int, expected: Inventory, server: str | None, work: Path) -> list[str]:
    """On a server of our own in `work`, or in a scratch database of `server`. As `restore_and_compare`."""
    if server is not None:
        await forget_leftovers(server)
        async with new_database(server, scratch_name()) as dsn, in_use(dsn):
            return await restore_and_compare(archive, pg_dump, expected, dsn, work)
    async with embedded_server(_server_folder(work)) as own, new_database(own, scratch_name()) as dsn:
        return await restore_and_compare(archive, pg_dump, expected, dsn, work)


def _server_folder(work: Path) -> Path:
    """As root, of the user to whom the folders around belong: PostgreSQL refuses root, and that one can enter."""
    folder = work / "server"
    folder.mkdir(mode=0o700)
    owners = (parent.stat() for parent in work.parents)
    owner = next((one for one in owners if one.st_uid != 0), None)
    if os.geteuid() == 0 and owner is not None:
        os.chown(folder, owner.st_uid, owner.st_gid)
    account = choose_account(folder)
    if (barrier := blocked_at(folder, account)) is not None:
        raise BackupError(
            f"the scratch server runs as {account.name}, who cannot enter {barrier}:"
            " set BACKUP_WORK_DIR to a folder below which it can, or BACKUP_VERIFY_URL"
        )
    return folder
