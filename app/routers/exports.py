"""`/api/sqal/samples.csv` and `.parquet`: all samples that a filter wants, streamed."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.core.logging import get_logger
from app.core.server import abort
from app.dependencies import CurrentResources, Reader
from app.routers.sqal import PROBLEMS, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.export_places import ExportPlaces
    from app.routers.middleware import Receive, Scope, Send

TAKE_DEADLINE_S = 30.0
PARQUET = "application/vnd.apache.parquet"
log = get_logger("gaveurs.exports")
router = APIRouter(prefix="/api/sqal", tags=["export"], responses=PROBLEMS)


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": "The file, as it is read", "content": {kind: {"schema": schema}}}}


class ExportResponse(StreamingResponse):
    """Holds a place among the exports from now until the last byte is taken. A client that takes nothing for a while is
    cut off: it must not keep the others from theirs.
    """

    def __init__(self, exports: ExportPlaces, body: AsyncIterator[bytes], kind: str, name: str) -> None:
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        super().__init__(body, media_type=kind, headers=headers)
        self._place = ExitStack()
        self._place.enter_context(exports.holding())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(event: Any) -> None:
            async with asyncio.timeout(TAKE_DEADLINE_S):
                await send(event)

        with self._place:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:
                log.warning("an export was given up: its client takes nothing")
                abort(scope)


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
