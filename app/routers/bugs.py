"""`/api/bugs`: reporting, finding, changing, what was done and said. Thin: parameters in, one feature call out."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response

from app.bugs import comments, history, links, tracker, workflow
from app.bugs.audience import Audience
from app.bugs.bug import one_bug
from app.bugs.idempotency import once
from app.bugs.references import resolve
from app.core.database import tried_again
from app.core.errors import ForbiddenError
from app.core.security import Role
from app.dependencies import BugReader, BugReporter, CurrentResources, CurrentRuntime, Operator
from app.routers import bug_models as models
from app.routers.bug_requests import (
    BUG_PROBLEMS,
    After,
    BugId,
    IdempotencyKey,
    IfMatch,
    Levels,
    Looker,
    OnePage,
    etag,
)

router = APIRouter(prefix="/api/bugs", tags=["bugs"], responses=BUG_PROBLEMS)
Limit = Annotated[int, Query(ge=1, le=200)]
SIMILAR = 5
CommentId = Annotated[UUID, Path(description="the comment's id")]


@router.post("/", status_code=201, response_model=models.Reported)
async def report(runtime: CurrentRuntime, who: BugReporter, said: models.BugReport, key: IdempotencyKey) -> Response:
    """Report a bug. With an Idempotency-Key the same report, sent again within a day, is answered as it was."""
    now = runtime.clock.now()

    async with runtime.resources.bugs.database.connection() as connection:
        similar = await runtime.resources.bugs.similar.beside(connection, said.title, SIMILAR)

        async def work() -> dict[str, Any]:
            bug = await tracker.report_bug(connection, said.model_dump(), who.id, now)
            url = f"/api/bugs/{bug['id']}"
            known = {"id": bug["id"], "status": bug["status"], "number": bug["number"], "url": url}
            made = models.Reported.model_validate(known | {"similar": similar})
            return made.model_dump(mode="json", by_alias=True)

        again = False
        if key is None:
            async with connection.transaction():
                answer = await work()
        else:
            request = b"bugs " + said.model_dump_json().encode()
            answer, again = await once(connection, who.id, key, request, now, work)
    runtime.resources.bugs.figures.changed()
    headers = {"Location": answer["url"], "ETag": etag(1)} | ({"Idempotent-Replayed": "true"} if again else {})
    return JSONResponse(answer, 201, headers)


@router.get("/", response_model=models.BugPage)
async def bug_list(resources: CurrentResources, looker: Looker, page: OnePage) -> dict[str, Any]:
    """Bugs that fit, in pages."""
    async with resources.bugs.database.connection() as connection:
        return await page.read(connection, looker)


@router.get("/similar", response_model=models.SimilarBugs)
async def similar_bugs(
    resources: CurrentResources,
    _who: BugReader,
    title: Annotated[models.Title, Query()],
    limit: Annotated[int, Query(ge=1, le=20)] = SIMILAR,
) -> dict[str, Any]:
    """Bugs whose titles are like this one, the most alike first."""
    async with resources.bugs.database.connection() as connection:
        return {"items": await resources.bugs.similar.find(connection, title, limit)}


@router.get("/workflow", response_model=models.Workflow)
async def the_workflow(_who: BugReader) -> dict[str, Any]:
    """Which status may follow which, and what a status needs."""
    return workflow.table()


@router.get("/{bug_id}", response_model=models.BugDetail)
async def one(
    resources: CurrentResources, looker: Looker, levels: Levels, bug_id: BugId, response: Response
) -> dict[str, Any]:
    """One bug; its ETag is what If-Match wants."""
    async with resources.bugs.database.connection() as connection:
        item = await one_bug(connection, bug_id, looker, levels)
        return await _detail(connection, item, response)


@router.patch("/{bug_id}", response_model=models.BugDetail)
async def change(
    runtime: CurrentRuntime,
    who: Operator,
    levels: Levels,
    bug_id: BugId,
    changes: models.BugChanges,
    versions: IfMatch,
    response: Response,
) -> dict[str, Any]:
    """Change a bug. With If-Match only the version that you have seen: else 412 tells what was changed meanwhile."""
    looker, now = Audience.of(who), levels.now
    wanted = changes.model_dump(exclude_unset=True)

    async def once_more() -> dict[str, Any]:
        async with runtime.resources.bugs.database.connection() as connection:
            async with connection.transaction():
                await tracker.change_bug(connection, bug_id, wanted, looker, who.id, now, versions)
                item = await one_bug(connection, bug_id, looker, levels)
            runtime.resources.bugs.figures.changed()
            return await _detail(connection, item, response)

    return await tried_again(once_more)


async def _detail(connection: Any, item: dict[str, Any], response: Response) -> dict[str, Any]:
    response.headers["ETag"] = etag(item["version"])
    references = (await resolve(connection, [item["description"]]))[0]
    about = await links.list_links(connection, item["id"])
    duplicate_of = next((link["bug_id"] for link in about if link["relation"] == "duplicates"), None)
    return item | {
        "references": references,
        "links": about,
        "duplicate_of": duplicate_of,
        "allowed_transitions": list(workflow.TRANSITIONS[item["status"]]),
    }


@router.get("/{bug_id}/history", response_model=models.History)
async def the_history(
    resources: CurrentResources, looker: Looker, bug_id: BugId, after: After, limit: Limit = 100
) -> dict[str, Any]:
    """What was done to a bug, oldest first."""
    async with resources.bugs.database.connection() as connection:
        items, more = await history.list_history(connection, bug_id, looker, after, limit)
    return {"items": items, "next_cursor": more.encode() if more else None}


@router.post("/{bug_id}/comments", status_code=201, response_model=models.Comment)
async def comment(
    runtime: CurrentRuntime, who: BugReporter, bug_id: BugId, said: models.CommentDraft, key: IdempotencyKey
) -> Response:
    """Say something about a bug; an internal comment is for staff, who alone can make one."""
    if said.is_internal and not Audience.of(who).is_staff:
        raise ForbiddenError("internal comments are for staff")
    now = runtime.clock.now()
    async with runtime.resources.bugs.database.connection() as connection:

        async def work() -> dict[str, Any]:
            item = await comments.add_comment(
                connection, bug_id, said.comment, said.author, who.id, now, is_internal=said.is_internal
            )
            return models.Comment.model_validate(item).model_dump(mode="json", by_alias=True)

        again = False
        if key is None:
            async with connection.transaction():
                answer = await work()
        else:
            request = f"comments {bug_id} ".encode() + said.model_dump_json().encode()
            answer, again = await once(connection, who.id, key, request, now, work)
    headers = {"Location": f"/api/bugs/{bug_id}/comments/{answer['id']}"}
    return JSONResponse(answer, 201, headers | ({"Idempotent-Replayed": "true"} if again else {}))


@router.get("/{bug_id}/comments", response_model=models.CommentPage)
async def comment_list(
    resources: CurrentResources, looker: Looker, bug_id: BugId, after: After, limit: Limit = 50
) -> dict[str, Any]:
    """What was said about a bug, oldest first."""
    async with resources.bugs.database.connection() as connection:
        items, total, more = await comments.list_comments(connection, bug_id, looker, after, limit)
    return {"comments": items, "total": total, "limit": limit, "next_cursor": more.encode() if more else None}


@router.get("/{bug_id}/comments/{comment_id}", response_model=models.CommentDetail)
async def one_comment(
    resources: CurrentResources, looker: Looker, bug_id: BugId, comment_id: CommentId
) -> dict[str, Any]:
    """One comment, with its former texts."""
    async with resources.bugs.database.connection() as connection:
        return await comments.one_comment(connection, bug_id, comment_id, looker)


@router.patch("/{bug_id}/comments/{comment_id}", response_model=models.Comment)
async def edit_comment(
    runtime: CurrentRuntime, who: BugReporter, bug_id: BugId, comment_id: CommentId, said: models.CommentEdit
) -> dict[str, Any]:
    """Say it otherwise: who wrote a comment, or an administrator. The former text is kept."""
    now, may_all = runtime.clock.now(), Role.ADMIN in who.roles
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        return await comments.edit_comment(
            connection, bug_id, comment_id, said.comment, Audience.of(who), who.id, now, may_edit_all=may_all
        )
