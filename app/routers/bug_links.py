"""What bugs are about, `/api/bugs/{id}/links`, and the way back: the bugs of a device, a sample, a lot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path
from fastapi.responses import JSONResponse, Response

from app.bugs import backlinks, links
from app.bugs.evidence import Frozen, read_evidence
from app.bugs.listing import NEWEST, BugCursor
from app.core.errors import NotFoundError
from app.dependencies import BugReader, CurrentResources, CurrentRuntime, Operator
from app.routers import bug_link_models as models
from app.routers.bug_models import Link
from app.routers.bug_requests import BUG_PROBLEMS, BugId
from app.routers.models import FrameBody, Sample
from app.routers.sqal import PROBLEMS, CursorText, DeviceTime, Limit, clean
from app.sqal import queries
from app.sqal.frame import decode_frame, frame_as_json

if TYPE_CHECKING:
    from app.core.database import Connection

router = APIRouter(prefix="/api/bugs", tags=["bugs"], responses=BUG_PROBLEMS)
back = APIRouter(prefix="/api/sqal", tags=["sqal"], responses=PROBLEMS)
"""To stand before the general routes of samples and lots, whose names may hold slashes."""
LinkId = Annotated[UUID, Path(description="the link's id")]
LINKED_ALREADY: dict[int | str, dict[str, Any]] = {200: {"model": Link, "description": "It is linked already: so"}}


def _after(cursor: CursorText = None) -> BugCursor | None:
    return BugCursor.decode(cursor, NEWEST) if cursor else None


After = Annotated[BugCursor | None, Depends(_after)]


@router.post("/{bug_id}/links", status_code=201, response_model=Link, responses=LINKED_ALREADY)
async def link(
    runtime: CurrentRuntime, who: Operator, bug_id: BugId, said: models.LinkDraft, response: Response
) -> dict[str, Any]:
    """Say what a bug is about. A sample is kept as it is now, past its retention."""
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        frozen = await _freeze(connection, said.root) if isinstance(said.root, models.SampleLink) else None
        item, is_new = await links.add_link(connection, bug_id, said.root.target(), frozen, who.id, runtime.clock.now())
    if not is_new:
        response.status_code = 200
    return item


async def _freeze(connection: Connection, said: models.SampleLink) -> Frozen | None:
    try:
        item, frame = await queries.sample_to_keep(connection, said.device_id, said.sample_id, said.device_time)
    except NotFoundError:
        return None
    return Frozen(item["device_time"], Sample.model_validate(item).model_dump_json(), frame)


@router.get("/{bug_id}/links", response_model=models.Links)
async def link_list(resources: CurrentResources, _who: BugReader, bug_id: BugId) -> dict[str, Any]:
    """What a bug is about, and which bugs are about it; at most 200."""
    async with resources.bugs.database.connection() as connection:
        return {"links": await links.list_links(connection, bug_id)}


@router.delete("/{bug_id}/links/{link_id}", status_code=204, response_class=Response)
async def unlink(runtime: CurrentRuntime, who: Operator, bug_id: BugId, link_id: LinkId) -> None:
    """Remove a link, from either of the two bugs; what was kept of a sample goes with it."""
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        await links.remove_link(connection, bug_id, link_id, who.id, runtime.clock.now())


@router.get("/{bug_id}/links/{link_id}/evidence", response_model=models.Evidence)
async def evidence(resources: CurrentResources, _who: BugReader, bug_id: BugId, link_id: LinkId) -> Response:
    """A linked sample as it was when it was linked, with its frame."""
    async with resources.bugs.database.connection() as connection:
        kept = await read_evidence(connection, bug_id, link_id)
    named = {"device_id": kept.device_id, "sample_id": kept.sample_id}
    frame = FrameBody.model_validate(named | frame_as_json(decode_frame(kept.frame)))
    # What was kept is shown as it was kept, whatever a sample has become since.
    return JSONResponse({"sample": kept.sample, "frame": frame.model_dump(mode="json")})


@back.get("/devices/{device_id}/bugs", response_model=models.BugsAbout)
async def bugs_of_device(
    resources: CurrentResources, _who: BugReader, device_id: str, after: After, limit: Limit = 50
) -> dict[str, Any]:
    """Bugs whose device it is, or that link it or a sample of it, newest first."""
    clean(device_id)
    async with resources.bugs.database.connection() as connection:
        return _page(await backlinks.bugs_of_device(connection, device_id, after, limit))


@back.get("/samples/{device_id}/{sample_id:path}/bugs", response_model=models.BugsAbout)
async def bugs_of_sample(
    resources: CurrentResources,
    _who: BugReader,
    device_id: str,
    sample_id: str,
    device_time: DeviceTime,
    after: After,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Bugs that link it or whose alerts it raised, newest first; also when the sample itself is no longer kept."""
    clean(device_id, sample_id)
    async with resources.bugs.database.connection() as connection:
        return _page(await backlinks.bugs_of_sample(connection, device_id, sample_id, device_time, after, limit))


@back.get("/lots/{lot:path}/bugs", response_model=models.BugsAbout)
async def bugs_of_lot(
    resources: CurrentResources, _who: BugReader, lot: str, after: After, limit: Limit = 50
) -> dict[str, Any]:
    """Bugs that link it or whose alerts it raised, newest first."""
    clean(lot)
    async with resources.bugs.database.connection() as connection:
        return _page(await backlinks.bugs_of_lot(connection, lot, after, limit))


def _page(found: backlinks.Page) -> dict[str, Any]:
    items, more = found
    return {"items": items, "next_cursor": more.encode() if more else None}
