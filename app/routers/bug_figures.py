"""`/api/bugs/metrics`: the tracker in figures."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel

from app.bugs.figures import DEFAULT_RANGE, Scope, figures
from app.bugs.summary import summary, trends
from app.dependencies import BugReader, CurrentRuntime
from app.routers import bug_figure_models, bug_models
from app.routers.bug_requests import BUG_PROBLEMS, Levels
from app.routers.cached import respond
from app.routers.sqal import as_range
from app.sqal.device_hours import device_hours

router = APIRouter(prefix="/api/bugs/metrics", tags=["bug figures"], responses=BUG_PROBLEMS)


def _json(model: type[BaseModel], body: dict[str, Any]) -> bytes:
    return model.model_validate(body).model_dump_json(by_alias=True).encode()


@router.get("/summary", response_model=bug_models.Summary)
async def the_summary(runtime: CurrentRuntime, _who: BugReader) -> Response:
    """How many bugs there are; today is a day in TIMEZONE. From the cache, see Age; whoever reports or changes a bug
    sees it here at once.
    """
    zone, now = ZoneInfo(runtime.settings.timezone), runtime.clock.now()
    bugs = runtime.resources.bugs

    async def load() -> bytes:
        async with bugs.database.connection() as connection:
            return _json(bug_models.Summary, await summary(connection, now, zone))

    return respond(await bugs.figures.summary(now.astimezone(zone).date(), load))


@router.get("/trends", response_model=bug_models.Trends)
async def the_trends(
    runtime: CurrentRuntime, _who: BugReader, days: Annotated[int, Query(ge=1, le=3_660)] = 30
) -> dict[str, Any]:
    """A row a day, oldest first, today last; days begin in TIMEZONE."""
    async with runtime.resources.bugs.database.connection() as connection:
        zone = ZoneInfo(runtime.settings.timezone)
        return {"days": days, "items": await trends(connection, days, runtime.clock.now(), zone)}


@router.get("/figures", response_model=bug_figure_models.Figures)
async def the_figures(
    runtime: CurrentRuntime,
    _who: BugReader,
    levels: Levels,
    asked: Annotated[bug_figure_models.FiguresQuery, Query()],
) -> Response:
    """How soon bugs are acknowledged and resolved, how old the open ones are, what comes back, on which devices and
    firmware, and how service levels are kept. From the cache, see Age.
    """
    bugs = runtime.resources.bugs
    begin, end = as_range(asked.from_, asked.to)
    narrowed = (asked.device, asked.firmware, asked.severity, asked.category)
    time_to = end or max(levels.now, begin or levels.now)
    scope = Scope(begin or time_to - DEFAULT_RANGE, time_to, *narrowed)

    async def load() -> bytes:
        async with bugs.database.connection() as connection:
            return _json(bug_figure_models.Figures, await figures(connection, scope, levels, device_hours))

    return respond(await bugs.figures.figures((begin, end, *narrowed), load))
