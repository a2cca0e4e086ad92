"""Alembic's part of a migration. Imported where there is something to migrate: it takes a quarter of a second."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.core.logging import get_logger

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = get_logger("gaveurs.migrations")


async def upgrade(dsn: str) -> tuple[str | None, str | None]:
    """Run what is missing in the caller's lock; (revision before, revision after). Errors are those of the driver."""
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(dsn, timeout=10)
    )
    try:
        async with engine.connect() as connection:
            before, after = await connection.run_sync(_upgrade)
            await connection.commit()
    except DBAPIError as error:
        raise _of_the_driver(error) from None
    finally:
        await engine.dispose()
    return before, after


def _of_the_driver(error: DBAPIError) -> BaseException:
    """SQLAlchemy wraps twice what the driver raises; our callers know the driver's errors."""
    return (error.orig and error.orig.__cause__) or error


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Bring the schema to the head. A schema newer than this program is left alone (expand / contract allows it)."""
    config = Config()
    config.set_main_option("script_location", str(files("app.migrations")).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    before = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in scripts.walk_revisions()}
    if before is not None and before not in known:
        log.warning("the schema is newer than this program; leaving it as it is", revision=before)
        return before, before
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, scripts.get_current_head()
