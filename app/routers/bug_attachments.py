"""`/api/bugs/{id}/attachments`, and those of comments: files in and out, as streams."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect, Request

from app.bugs import attachments
from app.bugs.attachment_kinds import KINDS
from app.bugs.audience import Audience
from app.bugs.uploads import ClientGoneError, StalledError, body_of
from app.core.errors import TooLargeError, UnavailableError
from app.dependencies import BugReporter, CurrentResources, CurrentRuntime
from app.routers.bug_attachment_models import Attachment, AttachmentPage
from app.routers.bug_requests import BUG_PROBLEMS, After, BugId, Looker
from app.routers.problems import of_error
from app.routers.streams import StreamInPlace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.database import Row
    from app.core.security import Principal
    from app.runtime import Runtime

router = APIRouter(prefix="/api/bugs", tags=["bug attachments"], responses=BUG_PROBLEMS)
Limit = Annotated[int, Query(ge=1, le=200)]
CommentId = Annotated[UUID, Path(description="the comment's id")]
AttachmentId = Annotated[UUID, Path(description="the attachment's id")]
FileName = Annotated[
    str | None, Query(alias="fileName", max_length=20_000, description="of a body that is the file itself, no form")
]
Internal = Annotated[bool, Query(description="for staff alone")]
_FILE: Final = {"type": "string", "format": "binary", "description": f"one of {', '.join(KINDS)}"}
_FORM: Final = {"type": "object", "properties": {"file": _FILE}, "required": ["file"], "additionalProperties": False}
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": {"schema": _FILE}},
    }
}
DOWNLOAD: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
}
UPLOAD_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    408: {**BUG_PROBLEMS[404], "description": "Nothing came for too long"},
    503: {**BUG_PROBLEMS[404], "description": "Too many uploads run, or the store of attachments does not serve"},
}


@router.post(
    "/{bug_id}/attachments", status_code=201, response_model=Attachment, responses=UPLOAD_PROBLEMS, openapi_extra=BODY
)
async def attach(
    request: Request,
    runtime: CurrentRuntime,
    who: BugReporter,
    bug_id: BugId,
    file_name: FileName = None,
    internal: Internal = False,
) -> Response:
    """Attach a file to a bug: a form with a part `file`, or the file itself with `?fileName=`."""
    return await _upload(request, runtime, who, bug_id, None, file_name, is_internal=internal)


@router.post(
    "/{bug_id}/comments/{comment_id}/attachments",
    status_code=201,
    response_model=Attachment,
    responses=UPLOAD_PROBLEMS,
    openapi_extra=BODY,
)
async def attach_to_comment(
    request: Request,
    runtime: CurrentRuntime,
    who: BugReporter,
    bug_id: BugId,
    comment_id: CommentId,
    file_name: FileName = None,
) -> Response:
    """Attach a file to a comment; an internal comment's is internal."""
    return await _upload(request, runtime, who, bug_id, comment_id, file_name, is_internal=False)


async def _upload(
    request: Request,
    runtime: Runtime,
    who: Principal,
    bug_id: UUID,
    comment_id: UUID | None,
    file_name: str | None,
    *,
    is_internal: bool,
) -> Response:
    try:
        item = await _receive(request, runtime, who, bug_id, comment_id, file_name, is_internal=is_internal)
    except (StalledError, TooLargeError) as error:  # more may come on this connection for ever
        status, headers, body = of_error(error)
        return Response(body, status, headers | {"Connection": "close"})
    answer = Attachment.model_validate(item).model_dump(mode="json", by_alias=True)
    return JSONResponse(answer, 201, {"Location": answer["url"]})


async def _receive(
    request: Request,
    runtime: Runtime,
    who: Principal,
    bug_id: UUID,
    comment_id: UUID | None,
    file_name: str | None,
    *,
    is_internal: bool,
) -> dict[str, Any]:
    """No connection is held while the file comes: whether it may come is asked before and again when it is here."""
    bugs, most = runtime.resources.bugs, runtime.settings.bug_attachments_per_bug
    body = body_of(request.headers.get("content-type"), file_name)
    async with bugs.uploads.places.holding(who.id):
        async with bugs.database.connection() as connection:
            place = await attachments.find_place(
                connection, bug_id, comment_id, Audience.of(who), most, is_internal=is_internal
            )
        received = await bugs.uploads.receive(_chunks(request), body)
        try:
            async with bugs.database.connection() as connection, connection.transaction():
                return await attachments.add_attachment(connection, place, received, who.id, runtime.clock.now(), most)
        except (UnavailableError, asyncio.CancelledError):
            raise  # it may have been committed: if not, the sweep takes the object
        except BaseException:
            await bugs.attachments.delete(received.key)
            raise


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise ClientGoneError("the client went away") from error


@router.get("/{bug_id}/attachments", response_model=AttachmentPage)
async def attachment_list(
    resources: CurrentResources, looker: Looker, bug_id: BugId, after: After, limit: Limit = 100
) -> dict[str, Any]:
    """What hangs on a bug and on its comments, oldest first."""
    return await _page(resources, bug_id, None, looker, after, limit)


@router.get("/{bug_id}/comments/{comment_id}/attachments", response_model=AttachmentPage)
async def comment_attachment_list(
    resources: CurrentResources,
    looker: Looker,
    bug_id: BugId,
    comment_id: CommentId,
    after: After,
    limit: Limit = 100,
) -> dict[str, Any]:
    """What hangs on a comment, oldest first."""
    return await _page(resources, bug_id, comment_id, looker, after, limit)


async def _page(
    resources: CurrentResources, bug_id: UUID, comment_id: UUID | None, looker: Audience, after: After, limit: int
) -> dict[str, Any]:
    async with resources.bugs.database.connection() as connection:
        items, total, more = await attachments.list_attachments(connection, bug_id, comment_id, looker, after, limit)
    return {"attachments": items, "total": total, "limit": limit, "next_cursor": more.encode() if more else None}


@router.get("/{bug_id}/attachments/{attachment_id}", response_class=StreamingResponse, responses=DOWNLOAD)
async def download(
    resources: CurrentResources, looker: Looker, bug_id: BugId, attachment_id: AttachmentId
) -> StreamingResponse:
    """The file, to be saved, not to be shown."""
    async with resources.bugs.database.connection() as connection:
        row = await attachments.one_attachment(connection, bug_id, attachment_id, looker)
    chunks = await resources.bugs.attachments.read(row["object_key"], row["size_bytes"])
    return StreamInPlace(resources.bugs.downloads, chunks, file_headers(row))


@router.delete("/{bug_id}/attachments/{attachment_id}", status_code=204)
async def detach(runtime: CurrentRuntime, who: BugReporter, bug_id: BugId, attachment_id: AttachmentId) -> None:
    """Take a file away: who attached it, or staff. The history keeps its name and sum."""
    bugs = runtime.resources.bugs
    async with bugs.database.connection() as connection, connection.transaction():
        key = await attachments.remove_attachment(
            connection, bug_id, attachment_id, Audience.of(who), who.id, runtime.clock.now()
        )
    await bugs.attachments.delete(key)


def file_headers(row: Row) -> dict[str, str]:
    """Nothing that a browser could show or run as a page of ours (RFC 6266, RFC 9530)."""
    name: str = row["file_name"]
    plain = "".join(one if one.isascii() and one not in '"\\%' else "_" for one in name)
    return {
        "Content-Type": row["media_type"],
        "Content-Length": str(row["size_bytes"]),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "ETag": f'"{row["sha256"].hex()}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(row['sha256']).decode()}:",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
    }
