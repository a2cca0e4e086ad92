"""Forward-only Alembic migrations, one runner at a time under an advisory lock."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.core.logging import get_logger

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_KEY = 0x6761_7665_7572  # "gaveur": one migration or first key at a time, whatever the number of replicas
log = get_logger("gaveurs.migrations")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("app.migrations")).replace("%", "%%"))
    return config


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the schema to the head. A schema newer than this program is left alone (expand / contract allows it)."""
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    before = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in scripts.walk_revisions()}
    if before is not None and before not in known:
        log.warning("the schema is newer than this program; leaving it as it is", revision=before)
        return before, before
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, scripts.get_current_head()


async def migrate(dsn: str) -> tuple[str | None, str | None]:
    """Run what is missing and return (revision before, revision after). Waits while another process migrates."""
    lock = await asyncpg.connect(dsn, timeout=10)
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(dsn, timeout=10)
    )
    try:
        await lock.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        async with engine.connect() as connection:
            before, after = await connection.run_sync(_upgrade)
            await connection.commit()
    finally:
        await lock.close(timeout=5)
        await engine.dispose()
    if before != after:
        log.info("schema migrated", before=before, after=after)
    return before, after
