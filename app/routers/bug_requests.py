"""What requests to `/api/bugs` say beside their bodies: filters, cursors, If-Match, Idempotency-Key; and who looks."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Header, Path, Query

from app.bugs.audience import Audience
from app.bugs.listing import BugCursor, BugFilter, list_bugs
from app.bugs.service_levels import LevelFilter, ServiceLevels
from app.core.cursor import Cursor
from app.core.errors import BadRequestError, PreconditionRequiredError
from app.dependencies import BugReader, CurrentRuntime
from app.routers.bug_query_models import BugPageQuery, BugQuery, split
from app.routers.sqal import PROBLEMS, read_time

if TYPE_CHECKING:
    from app.core.database import Connection

_ETAG: Final = re.compile(r'\s*(W/)?"([^"]*)"\s*(?:,|$)')
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_VERSION: Final = re.compile(r"[1-9]\d{0,8}\Z")
BUG_PROBLEMS: dict[int | str, dict[str, Any]] = PROBLEMS | {
    status: {**PROBLEMS[404], "description": text}
    for status, text in (
        (409, "It is as it is now that this cannot be done: a status that may not follow comes with the allowed ones"),
        (412, "If-Match names another version: with what was changed meanwhile"),
        (413, "Too large"),
        (415, "A kind of content that is not taken"),
        (428, "If-Match is required here"),
    )
}


def _audience(who: BugReader) -> Audience:
    return Audience.of(who)


def _cursor(cursor: Annotated[str | None, Query(max_length=200)] = None) -> Cursor | None:
    return Cursor.decode(cursor) if cursor else None


def _if_match(
    runtime: CurrentRuntime, given: Annotated[str | None, Header(alias="If-Match")] = None
) -> set[int] | None:
    """The versions that a change is good for; None for any."""
    if given is None:
        if runtime.settings.bugs_require_if_match:
            raise PreconditionRequiredError("say by If-Match which version you change: its ETag")
        return None
    if given.strip() == "*":
        return None
    versions, at = set(), 0
    while at < max(1, len(given)):
        found = _ETAG.match(given, at)
        if found is None:
            raise BadRequestError('must be ETags, such as "3"', parameter="If-Match")
        at = found.end()
        if not found[1] and _VERSION.match(found[2]):  # a weak one, or another server's, matches nothing
            versions.add(int(found[2]))
    return versions


def _idempotency_key(given: Annotated[str | None, Header(alias="Idempotency-Key")] = None) -> str | None:
    if given is not None and not _KEY.match(given):
        raise BadRequestError("must be 1 to 255 printable ASCII characters without spaces", parameter="Idempotency-Key")
    return given


def _levels(runtime: CurrentRuntime) -> ServiceLevels:
    return ServiceLevels(runtime.resources.bugs.targets, runtime.clock.now())


Levels = Annotated[ServiceLevels, Depends(_levels)]


def _filter(query: BugQuery, levels: ServiceLevels) -> BugFilter:
    created = _range("created", query.created_from, query.created_to)
    updated = _range("updated", query.updated_from, query.updated_to)
    return BugFilter(
        status=split(query.status),
        severity=split(query.severity),
        priority=split(query.priority),
        category=split(query.category),
        device=query.device,
        firmware=query.firmware,
        site=query.site,
        assignee=query.assignee,
        unassigned=query.unassigned,
        reporter=query.reporter,
        origin=query.origin,
        number=query.number,
        tags=split(query.tag),
        text=query.text,
        created_from=created[0],
        created_to=created[1],
        updated_from=updated[0],
        updated_to=updated[1],
        sla=LevelFilter(query.sla, levels) if query.sla else None,
    )


def _range(what: str, time_from: str | None, time_to: str | None) -> tuple[datetime | None, datetime | None]:
    begin, end = read_time(f"{what}From", time_from), read_time(f"{what}To", time_to)
    if begin is not None and end is not None and begin > end:
        raise BadRequestError(f"{what}From must not be after {what}To", parameter=f"{what}From")
    return begin, end


def wanted(query: Annotated[BugQuery, Query()], levels: Levels) -> tuple[BugFilter, str]:
    """(filter, sort) of something that has no pages."""
    return _filter(query, levels), query.sort


class PageWanted:
    """A page of a list."""

    def __init__(self, query: Annotated[BugPageQuery, Query()], levels: Levels) -> None:
        self.levels = levels
        self.filter = _filter(query, levels)
        self.sort, self.skip, self.limit = query.sort, query.skip, query.limit
        self.after = BugCursor.decode(query.cursor, query.sort) if query.cursor else None
        if self.after is not None and query.skip:
            raise BadRequestError("cursor and skip do not go together", parameter="skip")

    async def read(self, connection: Connection, audience: Audience) -> dict[str, Any]:
        """What BugPage shows."""
        found = await list_bugs(
            connection,
            self.filter,
            audience,
            self.sort,
            after=self.after,
            skip=self.skip,
            limit=self.limit,
            levels=self.levels,
        )
        told = {"bugs": found.items, "total": found.total, "total_is_exact": not found.more_than_counted}
        cursor = found.next.encode() if found.next else None
        return told | {"skip": self.skip, "limit": self.limit, "next_cursor": cursor}


def etag(version: int) -> str:
    return f'"{version}"'


BugId = Annotated[UUID, Path(description="the bug's id")]
Looker = Annotated[Audience, Depends(_audience)]
After = Annotated[Cursor | None, Depends(_cursor)]
IfMatch = Annotated[set[int] | None, Depends(_if_match)]
IdempotencyKey = Annotated[str | None, Depends(_idempotency_key)]
Wanted = Annotated[tuple[BugFilter, str], Depends(wanted)]
OnePage = Annotated[PageWanted, Depends()]
