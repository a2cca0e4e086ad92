"""`/api/sqal/samples.csv` and `.parquet`: all samples that a filter wants, streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.dependencies import CurrentResources, Reader
from app.routers.sqal import PROBLEMS, Wanted
from app.routers.streams import StreamInPlace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.places import Places

PARQUET = "application/vnd.apache.parquet"
router = APIRouter(prefix="/api/sqal", tags=["export"], responses=PROBLEMS)


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": "The file, as it is read", "content": {kind: {"schema": schema}}}}


class ExportResponse(StreamInPlace):
    """A file of this name, made as it is read."""

    def __init__(self, exports: Places, body: AsyncIterator[bytes], kind: str, name: str) -> None:
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        super().__init__(exports, body, headers, kind)


@router.get("/samples.csv", response_class=StreamingResponse, responses=_file("text/csv"))
async def samples_csv(resources: CurrentResources, _who: Reader, wanted: Wanted) -> StreamingResponse:
    """All samples that are wanted, newest first, as CSV. An answer that breaks off is no whole file."""
    exports = resources.exports
    return ExportResponse(exports, exports.csv(wanted), "text/csv", "samples.csv")


@router.get("/samples.parquet", response_class=StreamingResponse, responses=_file(PARQUET))
async def samples_parquet(resources: CurrentResources, _who: Reader, wanted: Wanted) -> StreamingResponse:
    """All samples that are wanted, newest first, as Parquet. An answer that breaks off is no whole file."""
    exports = resources.exports
    return ExportResponse(exports, exports.parquet(wanted), PARQUET, "samples.parquet")
