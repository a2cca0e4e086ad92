"""`/api/sqal`: samples, devices, quarantine. Thin: parameters in, one feature call, a model out."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from app.core.cursor import Cursor
from app.core.errors import BadCursorError, BadRequestError
from app.dependencies import CurrentResources, CurrentRuntime, Operator, Reader
from app.routers import models
from app.routers.cached import respond, respond_absent
from app.sqal import devices, queries
from app.sqal.errors import RefusalError
from app.sqal.explanation import explain_sample
from app.sqal.queries import SampleFilter
from app.sqal.reading import GRADES, NOT_GRADABLE, parse_time, read_device_id
from app.sqal.replay import replay
from app.sqal.wire import Encoding

_PROBLEM: dict[str, Any] = {"model": models.Problem, "content": {"application/problem+json": {}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {**_PROBLEM, "description": text}
    for status, text in (
        (400, "Bad cursor"),
        (401, "No valid API key"),
        (403, "The key's role does not allow it"),
        (404, "Not found"),
        (422, "Invalid parameters"),
        (429, "Over the limit of this principal: see Retry-After and RateLimit"),
        (503, "Starting, or the database does not answer: see Retry-After"),
    )
}
MEDIA_TYPES = {Encoding.JSON: "application/json", Encoding.MSGPACK: "application/msgpack"}
router = APIRouter(prefix="/api/sqal", tags=["sqal"], responses=PROBLEMS)

Limit = Annotated[int, Query(ge=1, le=200)]
CursorText = Annotated[
    str | None, Query(alias="cursor", description="`next_cursor` of the page before", max_length=200)
]
Text = Annotated[str | None, Query(max_length=128)]


def read_time(name: str, text: str | None) -> datetime | None:
    """ISO 8601; naive means UTC; a + that the query string turned into a space is put back."""
    if text is None:
        return None
    day, space, zone = text.rpartition(" ")
    try:
        return parse_time(f"{day}+{zone}" if space and "T" in day else text)
    except RefusalError as error:
        raise BadRequestError(f"{name} is not an ISO 8601 date and time", parameter=name) from error


def as_range(time_from: str | None, time_to: str | None) -> tuple[datetime | None, datetime | None]:
    """Both ends, in order."""
    begin, end = read_time("from", time_from), read_time("to", time_to)
    if begin is not None and end is not None and begin > end:
        raise BadRequestError("from must not be after to", parameter="from")
    return begin, end


def clean(*texts: str | None) -> None:
    if any("\x00" in text for text in texts if text):
        raise BadRequestError("a name or filter holds a NUL character")


def _cursor(cursor: CursorText = None) -> Cursor | None:
    return Cursor.decode(cursor) if cursor else None


def _device_time(
    device_time: Annotated[str | None, Query(description="chooses among several")] = None,
) -> datetime | None:
    return read_time("device_time", device_time)


def _filter(
    device_id: Text = None,
    device: Annotated[str | None, Query(max_length=128, description="the same as `device_id`")] = None,
    site_code: Text = None,
    site: Annotated[str | None, Query(max_length=128, description="the same as `site_code`")] = None,
    grade: Annotated[str | None, Query(description="A+ (written A%2B), A, B, C, REJECT or NOT_GRADABLE")] = None,
    lot: Text = None,
    time_from: Annotated[str | None, Query(alias="from", description="bucket time, inclusive")] = None,
    time_to: Annotated[str | None, Query(alias="to", description="bucket time, exclusive")] = None,
) -> SampleFilter:
    wanted = "A+" if grade == "A " else grade  # an unescaped + arrives as a space
    if wanted is not None and wanted not in (*GRADES, NOT_GRADABLE):
        raise BadRequestError("grade must be one of A+, A, B, C, REJECT, NOT_GRADABLE")
    clean(device_id, device, site_code, site, lot)
    return SampleFilter(device_id or device, site_code or site, wanted, lot, *as_range(time_from, time_to))


Wanted = Annotated[SampleFilter, Depends(_filter)]
After = Annotated[Cursor | None, Depends(_cursor)]
DeviceTime = Annotated[datetime | None, Depends(_device_time)]


@router.get("/latest", response_model=models.Sample)
async def latest(resources: CurrentResources, _who: Reader, device_id: Text = None) -> Response:
    """The newest sample, of all devices or of one; from the cache, see Age."""
    clean(device_id or "")
    found = await resources.cached.latest(device_id)
    if found.value is None:
        return respond_absent(
            found, "there is no sample yet" if device_id is None else "there is no sample of this device"
        )
    return respond(found)


@router.get("/samples", response_model=models.SamplePage)
async def samples(
    resources: CurrentResources, _who: Reader, wanted: Wanted, after: After, limit: Limit = 50
) -> dict[str, Any]:
    """Samples, newest first by bucket time, then id."""
    async with resources.reads.connection() as connection:
        items, more = await queries.list_samples(connection, wanted, after, limit)
    return {"items": items, "next_cursor": more.encode() if more else None}


@router.get("/samples/{device_id}/{sample_id:path}/frame", response_model=models.FrameBody)
async def frame(
    resources: CurrentResources, _who: Reader, device_id: str, sample_id: str, device_time: DeviceTime
) -> dict[str, Any]:
    """The stored frame: matrices and channels."""
    clean(device_id, sample_id)
    async with resources.reads.connection() as connection:
        return await queries.sample_frame(connection, device_id, sample_id, device_time)


@router.get("/samples/{device_id}/{sample_id:path}/message", response_class=Response)
async def message(
    resources: CurrentResources, _who: Reader, device_id: str, sample_id: str, device_time: DeviceTime
) -> Response:
    """The original message, byte for byte, while it is kept."""
    clean(device_id, sample_id)
    async with resources.reads.connection() as connection:
        raw, encoding = await queries.sample_message(connection, resources.codec, device_id, sample_id, device_time)
    return Response(raw, media_type=MEDIA_TYPES[encoding])


@router.get("/samples/{device_id}/{sample_id:path}/explanation", response_model=models.Explanation)
async def explanation(
    resources: CurrentResources, _who: Reader, device_id: str, sample_id: str, device_time: DeviceTime
) -> dict[str, Any]:
    """Why it has its grade: scores, reasons by code, and surface and spectrum derived anew from the stored frame."""
    clean(device_id, sample_id)
    async with resources.reads.connection() as connection:
        return await explain_sample(connection, resources.recipes, device_id, sample_id, device_time)


@router.get("/samples/{device_id}/{sample_id:path}", response_model=models.Sample)
async def sample(
    resources: CurrentResources, _who: Reader, device_id: str, sample_id: str, device_time: DeviceTime
) -> dict[str, Any]:
    """The newest sample under this id; `device_time` chooses among several."""
    clean(device_id, sample_id)
    async with resources.reads.connection() as connection:
        return await queries.one_sample(connection, device_id, sample_id, device_time)


@router.get("/devices", response_model=models.DevicePage)
async def device_list(
    runtime: CurrentRuntime, _who: Reader, site_code: Text = None, cursor: CursorText = None, limit: Limit = 50
) -> dict[str, Any]:
    """All devices, or a site's, in the order of their ids."""
    clean(site_code)
    resources, now = runtime.resources, runtime.clock.now()
    async with resources.reads.connection() as connection:
        items, more = await devices.list_devices(
            connection, resources.device_states, now, site_code=site_code, after=_device_cursor(cursor), limit=limit
        )
    return {"items": items, "next_cursor": more and _encode_device(more)}


def _encode_device(device_id: str) -> str:
    return base64.urlsafe_b64encode(device_id.encode()).decode().rstrip("=")


def _device_cursor(text: str | None) -> str | None:
    if not text:
        return None
    wrong = BadCursorError("the cursor is not one that this API gave")
    try:
        after = read_device_id(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError, RefusalError) as error:
        raise wrong from error
    if _encode_device(after) != text:
        raise wrong
    return after


@router.get("/devices/{device_id}", response_model=models.Device)
async def device(runtime: CurrentRuntime, _who: Reader, device_id: str) -> dict[str, Any]:
    """One device: what it says of itself, when it was seen, what is configured."""
    clean(device_id)
    resources = runtime.resources
    async with resources.reads.connection() as connection:
        return await devices.one_device(connection, device_id, resources.device_states, runtime.clock.now())


@router.patch("/devices/{device_id}", response_model=models.Device)
async def configure(
    runtime: CurrentRuntime, _who: Operator, device_id: str, changes: models.DeviceChanges
) -> dict[str, Any]:
    """Configure a device; one that was never seen gets its record. Holds for readings committed from now on."""
    resources = runtime.resources
    try:
        read_device_id(device_id)
    except RefusalError as error:
        raise BadRequestError(error.reason) from error
    wanted = changes.model_dump(exclude_unset=True)
    if wanted.get("recipe") is not None and wanted["recipe"] not in resources.recipes:
        raise BadRequestError("there is no such recipe")
    async with resources.reads.connection() as connection:
        await devices.configure_device(connection, device_id, wanted)
        resources.cached.configured(device_id)
        return await devices.one_device(connection, device_id, resources.device_states, runtime.clock.now())


@router.get("/quarantine", response_model=models.QuarantinePage)
async def quarantine_list(
    resources: CurrentResources,
    _who: Reader,
    after: After,
    device_id: Text = None,
    code: Text = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Refused messages, newest first, without their bytes."""
    clean(device_id or "", code or "")
    async with resources.reads.connection() as connection:
        items, more = await resources.quarantine.list(
            connection, device_id=device_id, code=code, cursor=after, limit=limit
        )
    return {"items": items, "next_cursor": more.encode() if more else None}


@router.get("/quarantine/{entry_id}", response_model=models.QuarantineEntry)
async def quarantine_entry(resources: CurrentResources, _who: Reader, entry_id: UUID) -> dict[str, Any]:
    """One refused message, without its bytes."""
    async with resources.reads.connection() as connection:
        return await resources.quarantine.item(connection, entry_id)


@router.get("/quarantine/{entry_id}/message", response_class=Response)
async def quarantine_message(resources: CurrentResources, _who: Reader, entry_id: UUID) -> Response:
    """The refused message, byte for byte."""
    async with resources.reads.connection() as connection:
        raw, _, _ = await resources.quarantine.message(connection, entry_id)
    return Response(raw, media_type="application/octet-stream")


@router.post("/quarantine/{entry_id}/replay", response_model=models.ReplayResult)
async def quarantine_replay(resources: CurrentResources, _who: Operator, entry_id: UUID) -> dict[str, Any]:
    """Send the message through ingest again, after whatever refused it was mended."""
    async with resources.writes.connection() as connection:
        results, samples = await replay(
            connection, resources.quarantine, resources.store, resources.ingest.preparer, entry_id
        )
    resources.cached.note(samples)
    resources.live.note(samples)
    return {"id": entry_id, "results": results}
