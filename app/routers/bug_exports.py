"""`/api/bugs/export.csv` and `.json`: all bugs that a filter wants, streamed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import field_validator

from app.bugs.export import SORTS
from app.bugs.listing import BugFilter
from app.dependencies import CurrentResources
from app.routers.bug_query_models import BugQuery
from app.routers.bug_requests import BUG_PROBLEMS, Levels, Looker, wanted
from app.routers.exports import ExportResponse

router = APIRouter(prefix="/api/bugs", tags=["bug export"], responses=BUG_PROBLEMS)


class ExportQuery(BugQuery):
    """How an export is narrowed and sorted: like a list, but only in orders in which no bug moves meanwhile."""

    @field_validator("sort")
    @classmethod
    def _stays(cls, value: str) -> str:
        if value not in SORTS:
            raise ValueError(f"an export is sorted by one of {', '.join(SORTS)}")
        return value


class JsonQuery(ExportQuery):
    comments: bool = False


def _export(query: Annotated[ExportQuery, Query()], levels: Levels) -> tuple[BugFilter, str]:
    return wanted(query, levels)


def _json_export(query: Annotated[JsonQuery, Query()], levels: Levels) -> tuple[BugFilter, str, bool]:
    return (*wanted(query, levels), query.comments)


def _file(kind: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "The file, as it is read", "content": {kind: {"schema": schema}}}}


TEXT = _file("text/csv", {"type": "string", "format": "binary"})
ARRAY = _file("application/json", {"type": "array", "items": {"type": "object"}})


@router.get("/export.csv", response_class=StreamingResponse, responses=TEXT)
async def as_csv(
    resources: CurrentResources, looker: Looker, asked: Annotated[tuple[BugFilter, str], Depends(_export)]
) -> StreamingResponse:
    """All bugs that fit, as CSV. An answer that breaks off is no whole file."""
    exports = resources.bugs.exports
    return ExportResponse(exports, exports.csv(*asked, looker), "text/csv", "bugs.csv")


@router.get("/export.json", response_class=StreamingResponse, responses=ARRAY)
async def as_json(
    resources: CurrentResources, looker: Looker, asked: Annotated[tuple[BugFilter, str, bool], Depends(_json_export)]
) -> StreamingResponse:
    """All bugs that fit, as a JSON array, with `comments=true` each with its comments. An answer that breaks off is no
    whole file.
    """
    exports, (narrowed, sort, comments) = resources.bugs.exports, asked
    body = exports.json(narrowed, sort, looker, comments=comments)
    return ExportResponse(exports, body, "application/json", "bugs.json")
