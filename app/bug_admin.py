"""What `gaveurs bugs` does in the database: as staff, and through the same checks as REST."""

from __future__ import annotations

import getpass
import os
import re
import sys
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel, to_snake

from app.bugs import attachments, comments, history, links, tracker
from app.bugs.audience import Audience
from app.bugs.bug import CHANGEABLE, NO_SUCH_BUG, one_bug
from app.bugs.export import SORTS, BugExports
from app.bugs.seed import seed as fill
from app.bugs.service_levels import ServiceLevels, Targets
from app.core.clock import SystemClock
from app.core.errors import BadRequestError, NotFoundError
from app.core.files import told
from app.routers import bug_models as models
from app.routers.bug_attachment_models import Attachment
from app.routers.bug_requests import PageWanted, wanted
from app.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
    from datetime import datetime
    from pathlib import Path

    from app.core.cursor import Cursor
    from app.core.database import Connection, Database
    from app.routers.bug_query_models import BugPageQuery, BugQuery

M = TypeVar("M", bound=BaseModel)


class Form(StrEnum):
    CSV = "csv"
    JSON = "json"


AT_ONCE: Final = 200
_NUMBER: Final = re.compile(r"#?([1-9]\d{0,17})\Z", re.ASCII)
_CLEARABLE: Final = (*CHANGEABLE, "duplicate_of")
_STAFF: Final = Audience.STAFF
_clock: Final = SystemClock()


def now() -> datetime:
    return _clock.now()


def actor() -> str:
    """Who is at the command line, as the history names them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user that has no name
        name = str(os.getuid())
    return f"cli:{name}"[:128]


def checked(model: type[M], said: Mapping[str, Any]) -> M:
    """`said` (names as in columns) as REST takes it. BadRequestError, with the members' names, for what it refuses."""
    try:
        return model.model_validate({to_camel(name): value for name, value in said.items()})
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise BadRequestError("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong)) from error


def changes(given: Mapping[str, Any], clear: Collection[str]) -> dict[str, Any]:
    """Members to change and their new values; `clear` names those that become empty, in any spelling."""
    written = dict(given)
    for spelled in clear:
        name = to_snake(spelled.replace("-", "_"))
        if name not in _CLEARABLE:
            raise BadRequestError(f"--clear: there is no {spelled}; known: {', '.join(_CLEARABLE)}")
        if name in written:
            raise BadRequestError(f"{name}: either set it or clear it")
        written[name] = [] if name == "tags" else None
    if not written:
        raise BadRequestError("nothing to change was said")
    return checked(models.BugChanges, written).model_dump(exclude_unset=True)


async def find(connection: Connection, name: str) -> UUID:
    """The id of a bug that is named by its number (`12` or `#12`) or its id. NotFoundError where there is none."""
    number = _NUMBER.match(name)
    if number is not None:
        found = await connection.fetchval("SELECT id FROM bugs WHERE number = $1", int(number[1]))
    else:
        try:
            found = UUID(name)
        except ValueError as error:
            raise BadRequestError("a bug is named by its number, such as 12, or by its id") from error
    if found is None:
        raise NotFoundError(NO_SUCH_BUG)
    return UUID(str(found))


def _levels() -> ServiceLevels:
    settings = load_settings()
    targets = Targets.of_hours(settings.bug_sla_acknowledge_hours, settings.bug_sla_resolve_hours)
    return ServiceLevels(targets, now())


async def page(connection: Connection, query: BugPageQuery) -> models.BugPage:
    told = await PageWanted(query, _levels()).read(connection, _STAFF)
    return models.BugPage.model_validate(told)


class WholeBug(models.Wire):
    """A bug with everything that was said about it, hangs on it and was done to it, oldest first."""

    bug: models.ShownBug
    comments: list[models.Comment]
    attachments: list[Attachment]
    links: list[models.Link]
    history: list[models.HistoryEvent]


async def whole_bug(connection: Connection, name: str) -> WholeBug:
    """All of one moment. NotFoundError for an unknown bug."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        bug_id = await find(connection, name)

        async def said(after: Cursor | None) -> tuple[list[dict[str, Any]], Cursor | None]:
            items, _, more = await comments.list_comments(connection, bug_id, _STAFF, after, AT_ONCE)
            return items, more

        async def hung(after: Cursor | None) -> tuple[list[dict[str, Any]], Cursor | None]:
            items, _, more = await attachments.list_attachments(connection, bug_id, None, _STAFF, after, AT_ONCE)
            return items, more

        async def done(after: Cursor | None) -> tuple[list[dict[str, Any]], Cursor | None]:
            return await history.list_history(connection, bug_id, _STAFF, after, AT_ONCE)

        return WholeBug(
            bug=models.ShownBug.model_validate(await one_bug(connection, bug_id, _STAFF, _levels())),
            comments=[models.Comment.model_validate(one) for one in await _all(said)],
            attachments=[Attachment.model_validate(one) for one in await _all(hung)],
            links=[models.Link.model_validate(one) for one in await links.list_links(connection, bug_id)],
            history=[models.HistoryEvent.model_validate(one) for one in await _all(done)],
        )


async def _all(
    page_after: Callable[[Cursor | None], Awaitable[tuple[list[dict[str, Any]], Cursor | None]]],
) -> list[dict[str, Any]]:
    items, more = await page_after(None)
    while more is not None:
        following, more = await page_after(more)
        items += following
    return items


async def report(connection: Connection, said: models.BugReport) -> models.Bug:
    async with connection.transaction():
        made = await tracker.report_bug(connection, said.model_dump(), actor(), now())
        return models.Bug.model_validate(await one_bug(connection, made["id"], _STAFF))


async def comment(connection: Connection, name: str, said: models.CommentDraft) -> models.Comment:
    async with connection.transaction():
        bug_id = await find(connection, name)
        made = await comments.add_comment(
            connection, bug_id, said.comment, said.author, actor(), now(), is_internal=said.is_internal
        )
        return models.Comment.model_validate(made)


async def change(
    connection: Connection, name: str, said: Mapping[str, Any], clear: Collection[str], if_version: int | None
) -> models.Bug:
    """`duplicate_of` names a bug as `name` does. Raises what `tracker.change_bug` does."""
    async with connection.transaction():
        bug_id = await find(connection, name)
        other = {"duplicate_of": await find(connection, said["duplicate_of"])} if "duplicate_of" in said else {}
        written = changes({**said, **other}, clear)
        good_for = None if if_version is None else {if_version}
        await tracker.change_bug(connection, bug_id, written, _STAFF, actor(), now(), good_for)
        return models.Bug.model_validate(await one_bug(connection, bug_id, _STAFF))


async def export(connection: Connection, query: BugQuery, form: Form, output: Path | None, *, comments: bool) -> None:
    """To standard output, or to a file that is there when it is whole. BadRequestError for an order or a name that is
    none, CannotStartError for a file that cannot be written.
    """
    if comments and form is Form.CSV:
        raise BadRequestError("--comments: only an export in JSON has them (--format json)")
    narrowed, sort = wanted(query, _levels())
    if sort not in SORTS:
        raise BadRequestError(f"sort: an export is in one of the orders {', '.join(SORTS)}")
    exports = BugExports(cast("Database", _One(connection)))
    if form is Form.CSV:
        pieces = exports.csv(narrowed, sort, _STAFF)
    else:
        pieces = exports.json(narrowed, sort, _STAFF, comments=comments)
    if output is None:
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    else:
        await _write(output, pieces)


async def _write(output: Path, pieces: AsyncIterator[bytes]) -> None:
    if not output.name:
        raise BadRequestError(f"--output: {output} is no file")
    part = output.with_name(f"{output.name}.part")
    with told("--output"):
        file = part.open("wb")
    try:
        async for piece in pieces:
            with told("--output"):
                file.write(piece)
        with told("--output"):
            file.close()
            part.replace(output)
    finally:
        with suppress(OSError):  # it has its name, or what went wrong is told already
            part.unlink()
            file.close()


async def invent(
    connection: Connection, bugs: int, comments: int, seed: int, progress: Callable[[str], None], *, force: bool
) -> None:
    """ConflictError where there are bugs already, unless `force`."""
    await fill(connection, bugs, comments, seed, now(), progress, force=force)


class _One:
    """The one connection that there is, where a pool is asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        yield self._connection
