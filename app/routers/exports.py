"""`/api/sqal/samples.csv` and `.parquet`: all samples that a filter wants, streamed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.dependencies import CurrentResources, Reader
from app.routers.sqal import PROBLEMS, Wanted

router = APIRouter(prefix="/api/sqal", tags=["export"], responses=PROBLEMS)


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": "The file, as it is read", "content": {kind: {"schema": schema}}}}


def _headers(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}


@router.get("/samples.csv", response_class=StreamingResponse, responses=_file("text/csv"))
async def samples_csv(resources: CurrentResources, _who: Reader, wanted: Wanted) -> StreamingResponse:
    """All samples that are wanted, newest first, as CSV. An answer that breaks off is no whole file."""
    resources.exports.check_room()
    body = resources.exports.csv(wanted)
    return StreamingResponse(body, media_type="text/csv", headers=_headers("samples.csv"))


@router.get("/samples.parquet", response_class=StreamingResponse, responses=_file("application/vnd.apache.parquet"))
async def samples_parquet(resources: CurrentResources, _who: Reader, wanted: Wanted) -> StreamingResponse:
    """All samples that are wanted, newest first, as Parquet. An answer that breaks off is no whole file."""
    resources.exports.check_room()
    body = resources.exports.parquet(wanted)
    return StreamingResponse(body, media_type="application/vnd.apache.parquet", headers=_headers("samples.parquet"))
