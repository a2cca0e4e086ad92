"""The first admin key: made once, written to `admin.key` (0600) in the data folder, shown on a terminal only."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from app.core.errors import CannotStartError
from app.core.files import told, write_private
from app.core.logging import get_logger
from app.core.migrations import LOCK_KEY
from app.core.security import Role, create_key

if TYPE_CHECKING:
    from pathlib import Path

    from app.core.clock import Clock
    from app.core.database import Connection

log = get_logger("gaveurs.keys")


def _write(path: Path, key: str) -> None:
    with told("admin.key cannot be written"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, key + "\n")


async def ensure_admin_key(connection: Connection, clock: Clock, folder: Path) -> None:
    """Make the first admin key if the database holds no admin key at all, under the advisory lock.

    The file is written before the key is committed: a crash between the two leaves a file that opens nothing and is
    written again at the next start, never a key that nobody has. Where it cannot be written no key is made.
    """
    path = folder / "admin.key"
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
            if await connection.fetchval("SELECT true FROM api_keys WHERE role = 'admin' LIMIT 1"):
                return
            key = await create_key(connection, clock, "first admin key", Role.ADMIN)
            await asyncio.to_thread(_write, path, key)
    except CannotStartError as error:
        log.warning("no admin key was made; make one with `gaveurs keys create`", folder=str(folder), reason=str(error))
        return
    log.info("admin key made", file=str(path))
    if sys.stderr.isatty():
        sys.stderr.write(f"\n  admin key (also in {path}):  {key}\n\n")
