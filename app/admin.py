"""What the command line does in the database: in DATABASE_URL's, or in the embedded one, whether it runs or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from app.core.cache_store import ANYTHING
from app.core.clock import SystemClock
from app.core.database import DATABASE_ERRORS, is_away
from app.core.embedded_postgres import EmbeddedPostgres, FolderInUseError
from app.core.errors import BadRequestError, CannotStartError, in_a_line
from app.core.migrations import migrate
from app.core.security import Role, create_key, list_keys, revoke_key
from app.infrastructure import make_infrastructure, make_redis
from app.resources import make_quarantine, make_recipes, make_store
from app.sqal.codec import MessageCodec
from app.sqal.devices import StateLimits, configure_device, one_device
from app.sqal.errors import RefusalError
from app.sqal.prepare import Preparer
from app.sqal.reading import is_site_code, read_device_id
from app.sqal.recipes import register_recipes
from app.sqal.regrade import Shift, regrade
from app.sqal.replay import replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from app.core.database import Connection
    from app.settings import Settings

T = TypeVar("T")
PATIENCE_S: Final = 30.0
_clock: Final = SystemClock()


class NoSchemaError(CannotStartError):
    """The database answers and has none of our tables."""


async def with_dsn(settings: Settings, work: Callable[[str], Awaitable[T]], *, migrated: bool = True) -> T:
    """Run `work` on the database's address. An embedded server that nobody runs is started for it and stopped again; it
    is migrated for it too, unless what is there is wanted as it is (`migrated` false). CannotStartError too where
    another process, which runs it, has not made its schema yet.
    """
    if settings.database_url is not None:
        return await work(settings.database_url.get_secret_value())
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        embedded.prepare()
    except FolderInUseError:
        return await _at_its_owners(embedded, work)
    try:
        await embedded.start()
        await _until_it_serves(lambda: migrate(embedded.dsn) if migrated else _answers(embedded.dsn))
        return await work(embedded.dsn)
    finally:
        await embedded.stop()


async def _at_its_owners(embedded: EmbeddedPostgres, work: Callable[[str], Awaitable[T]]) -> T:
    try:
        return await work(embedded.dsn)
    except NoSchemaError as error:
        raise CannotStartError(f"the server in {embedded.folder} is only starting: try again ({error})") from error


async def _answers(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    await connection.close(timeout=5)


async def _until_it_serves(step: Callable[[], Awaitable[Any]]) -> None:
    deadline = _clock.monotonic() + PATIENCE_S
    while True:
        try:
            await step()
        except DATABASE_ERRORS as error:
            if not is_away(error) or _clock.monotonic() > deadline:
                raise CannotStartError(f"the database does not answer: {in_a_line(error)}") from error
            await asyncio.sleep(0.1)
        else:
            return


def _names_a_file(error: Exception) -> bool:
    """Whether it is the file system's: a lost connection is an OSError too, of one of many kinds."""
    return isinstance(error, OSError) and error.filename is not None


async def with_database(settings: Settings, question: Callable[[Connection], Awaitable[T]]) -> T:
    """Ask `question` on a connection. CannotStartError, one clear line, where the database cannot be asked or does not
    do it.
    """

    async def ask(dsn: str) -> T:
        try:
            connection: Any = await asyncpg.connect(dsn, timeout=10, server_settings={"timezone": "UTC"})
        except DATABASE_ERRORS as error:
            raise CannotStartError(f"the database does not answer: {in_a_line(error)}") from error
        try:
            return await question(connection)
        except asyncpg.UndefinedTableError as error:
            raise NoSchemaError("the database has no schema yet: run `gaveurs migrate`") from error
        except DATABASE_ERRORS as error:
            if _names_a_file(error):
                raise
            raise CannotStartError(f"the database did not do it: {in_a_line(error)}") from error
        finally:
            connection.terminate()  # nothing is under way, or nobody waits for it any more

    return await with_dsn(settings, ask)


async def forget_cached(settings: Settings) -> None:
    """Figures were changed behind the service's back: its replicas must not go on with what they have cached. Without
    Redis, which they hear, or while it is away, their values' own time must pass.
    """
    made = make_infrastructure(settings, _clock)
    if made.redis is None:
        return
    link, store = make_redis(settings, _clock, made, made.redis)
    try:
        await store.remove(ANYTHING)
    finally:
        await link.close()


async def migrate_database(settings: Settings) -> tuple[str | None, str | None]:
    """(schema before, schema after)"""

    async def run(dsn: str) -> tuple[str | None, str | None]:
        try:
            return await migrate(dsn)
        except DATABASE_ERRORS as error:
            raise CannotStartError(f"the migration failed: {in_a_line(error)}") from error

    return await with_dsn(settings, run)


async def make_key(connection: Connection, name: str, role: Role) -> str:
    return await create_key(connection, _clock, name, role)


async def all_keys(connection: Connection) -> list[dict[str, Any]]:
    return await list_keys(connection)


async def end_key(connection: Connection, key_id: str) -> None:
    await revoke_key(connection, _clock, key_id)


async def set_device(
    connection: Connection, settings: Settings, device_id: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """Configure a device and return its record. BadRequestError for a value that REST would refuse too."""
    try:
        read_device_id(device_id)
    except RefusalError as error:
        raise BadRequestError(error.reason) from error
    if "recipe" in changes and changes["recipe"] not in make_recipes(settings):
        raise BadRequestError("there is no such recipe")
    if "site_code" in changes and not is_site_code(changes["site_code"]):
        raise BadRequestError("a site code is two capital letters")
    await configure_device(connection, device_id, changes)
    limits = StateLimits(settings.device_stale_after_s, settings.device_offline_after_s)
    return await one_device(connection, device_id, limits, _clock.now())


async def list_refused(
    connection: Connection, settings: Settings, device_id: str | None, code: str | None, limit: int
) -> list[dict[str, Any]]:
    items, _ = await make_quarantine(settings, MessageCodec()).list(
        connection, device_id=device_id, code=code, cursor=None, limit=limit
    )
    return items


async def refused_bytes(connection: Connection, settings: Settings, entry_id: UUID) -> bytes:
    raw, _, _ = await make_quarantine(settings, MessageCodec()).message(connection, entry_id)
    return raw


async def regrade_samples(
    connection: Connection, settings: Settings, recipe: str, time_from: datetime, time_to: datetime, *, dry_run: bool
) -> Shift:
    """Grade stored samples again. BadRequestError for an unknown recipe."""
    recipes = make_recipes(settings)
    if recipe not in recipes:
        raise BadRequestError(
            f"there is no recipe {recipe!r}; known: {', '.join(one.definition.name for one in recipes)}"
        )
    recipe_id = (await register_recipes(connection, recipes))[recipe]
    return await regrade(connection, recipes[recipe], recipe_id, time_from, time_to, dry_run=dry_run)


async def replay_refused(connection: Connection, settings: Settings, entry_id: UUID) -> list[dict[str, Any]]:
    """Send a refused message through ingest again, in this process."""
    codec = MessageCodec()
    quarantine = make_quarantine(settings, codec)
    store = make_store(settings, make_recipes(settings), codec, quarantine)
    await store.register_recipes(connection)
    results, _ = await replay(connection, quarantine, store, Preparer(_clock), entry_id)
    return results
