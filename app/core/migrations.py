"""Forward-only Alembic migrations, one runner at a time under an advisory lock."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import asyncpg

from app.core.logging import get_logger

LOCK_KEY: Final = 0x6761_7665_7572  # "gaveur": one migration or first key at a time, whatever the number of replicas
REVISION: Final = "SELECT version_num FROM alembic_version"
log = get_logger("gaveurs.migrations")


def head() -> str:
    """The newest revision that this program knows: files are named by theirs."""
    names = (file.name for file in files("app.migrations").joinpath("versions").iterdir())
    return max(name.partition("_")[0] for name in names if name.endswith(".py") and name[0].isdigit())


async def migrate(dsn: str) -> tuple[str | None, str | None]:
    """Run what is missing and return (revision before, revision after). Waits while another process migrates."""
    lock = await asyncpg.connect(dsn, timeout=10)
    try:
        await lock.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        known = await lock.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        if known and await lock.fetchval(REVISION) == head():
            return head(), head()
        from app.core.migration_steps import upgrade  # noqa: PLC0415 - see there

        before, after = await upgrade(dsn)
    finally:
        lock.terminate()  # a server that is silent now has migrated all the same
    if before != after:
        log.info("schema migrated", before=before, after=after)
    return before, after
