"""`/api/sqal`: figures from the rollups, and the recipes. Thin: parameters in, one feature call, a model out."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel

from app.dependencies import CurrentResources, CurrentRuntime, Operator, Reader
from app.routers import quality_models as models
from app.routers.cached import respond
from app.routers.sqal import PROBLEMS, CursorText, Limit, Text, as_range, clean
from app.runtime import Runtime
from app.sqal import figures, lots
from app.sqal.cached import LOTS
from app.sqal.cursor import HourCursor
from app.sqal.dashboard import dashboard
from app.sqal.figures import Scope
from app.sqal.recipes import list_recipes
from app.sqal.spans import span_figures

router = APIRouter(prefix="/api/sqal", tags=["quality"], responses=PROBLEMS)
Begin = Annotated[str | None, Query(alias="from", description="the hour that holds it and later ones")]
End = Annotated[str | None, Query(alias="to", description="hours that begin before it")]

LotName = Annotated[str, Path(min_length=1, max_length=128, pattern=r"\S")]


def _scope(
    device_id: Text = None, site_code: Text = None, lot: Text = None, time_from: Begin = None, time_to: End = None
) -> Scope:
    clean(device_id, site_code, lot)
    return Scope(device_id, site_code, lot, *as_range(time_from, time_to))


def _hour_cursor(cursor: CursorText = None) -> HourCursor | None:
    return HourCursor.decode(cursor) if cursor else None


def _json(model: type[BaseModel], body: dict[str, Any]) -> bytes:
    return model.model_validate(body).model_dump_json(by_alias=True).encode()


Scoped = Annotated[Scope, Depends(_scope)]
After = Annotated[HourCursor | None, Depends(_hour_cursor)]


@router.get("/aggregates/hourly", response_model=models.HourPage)
async def hourly(
    resources: CurrentResources, _who: Reader, scope: Scoped, after: After, limit: Limit = 200
) -> Response:
    """Figures of each hour and device, newest first; without from and to the newest that exist, however old."""

    async def load() -> bytes:
        async with resources.reads.connection() as connection:
            items, more = await figures.hourly(connection, scope, after, limit)
        return _json(models.HourPage, {"items": items, "next_cursor": HourCursor(*more).encode() if more else None})

    return respond(await resources.cached.body("hourly_aggregates", "hourly", scope, load, after, limit))


@router.get("/aggregates/daily", response_model=models.Spans)
async def daily(runtime: CurrentRuntime, _who: Reader, scope: Scoped) -> dict[str, Any]:
    """Figures of each day, as days begin in TIMEZONE, newest first; without from and to of the last 30 days."""
    return await _spans(runtime, scope, [time()])


@router.get("/aggregates/shifts", response_model=models.Spans)
async def shifts(runtime: CurrentRuntime, _who: Reader, scope: Scoped) -> dict[str, Any]:
    """The same of each shift: they begin at SHIFTS."""
    return await _spans(runtime, scope, [time.fromisoformat(start) for start in runtime.settings.shifts])


async def _spans(runtime: Runtime, scope: Scope, starts: list[time]) -> dict[str, Any]:
    zone = ZoneInfo(runtime.settings.timezone)
    async with runtime.resources.reads.connection() as connection:
        return {"items": await span_figures(connection, scope, runtime.clock.now(), zone, starts)}


@router.get("/dashboard", response_model=models.Dashboard)
async def overview(runtime: CurrentRuntime, _who: Reader, scope: Scoped) -> Response:
    """All at a glance, of the last 24 hours or of a time: figures by hour, site and device; device states, firmware."""
    resources = runtime.resources

    async def load() -> bytes:
        async with resources.reads.connection() as connection:
            shown = await dashboard(connection, scope, resources.device_states, runtime.clock.now())
        return _json(models.Dashboard, shown)

    return respond(await resources.cached.body("dashboard_metrics", "dashboard", scope, load))


@router.get("/devices/{device_id}/stats", response_model=models.DeviceStats)
async def device_stats(
    resources: CurrentResources, _who: Reader, device_id: str, time_from: Begin = None, time_to: End = None
) -> Response:
    """Figures of one device, of all its time or of some hours."""
    scope = _scope(device_id, None, None, time_from, time_to)

    async def load() -> bytes:
        async with resources.reads.connection() as connection:
            return _json(models.DeviceStats, await figures.device_stats(connection, scope))

    return respond(await resources.cached.body("device_stats", "stats", scope, load))


@router.get("/recipes", response_model=models.Recipes)
async def recipes(resources: CurrentResources, _who: Reader) -> dict[str, Any]:
    """Every recipe that ever graded here: name, hash, definition; whether this program still knows it."""
    async with resources.reads.connection() as connection:
        return {"items": await list_recipes(connection, resources.recipes)}


@router.get("/lots", response_model=models.LotList)
async def lot_list(resources: CurrentResources, _who: Reader, scope: Scoped, limit: Limit = 50) -> dict[str, Any]:
    """The lots that were measured last, of a site, a device or a time if one is given."""
    async with resources.reads.connection() as connection:
        return {"items": await lots.list_lots(connection, scope, limit)}


@router.get("/lots/{lot:path}", response_model=models.Lot)
async def one_lot(resources: CurrentResources, _who: Reader, lot: LotName) -> dict[str, Any]:
    """How a lot did: figures over all its readings, the devices and sites that saw it, its species."""
    clean(lot)
    async with resources.reads.connection() as connection:
        return await lots.one_lot(connection, lot)


@router.put("/lots/{lot:path}", response_model=models.Lot)
async def set_lot(runtime: CurrentRuntime, who: Operator, lot: LotName, changes: models.LotChanges) -> dict[str, Any]:
    """Say which species a lot is; also before its first reading."""
    clean(lot)
    async with runtime.resources.reads.connection() as connection:
        await lots.set_species(connection, lot, changes.species, who.id, runtime.clock.now())
        runtime.resources.cached.changed([LOTS])
        return await lots.one_lot(connection, lot)
