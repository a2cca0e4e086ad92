"""`/api/sqal/alerts`: what is wrong, since when, and who knows. Thin: parameters in, one feature call, a model out."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from app.dependencies import CurrentResources, CurrentRuntime, Operator, Reader
from app.routers import quality_models as models
from app.routers.sqal import PROBLEMS, After, Limit, Text, clean
from app.sqal import alerts
from app.sqal.alerts import AlertFilter

router = APIRouter(prefix="/api/sqal/alerts", tags=["alerts"], responses=PROBLEMS)


def _filter(
    device_id: Annotated[str | None, Query(max_length=128, description="also in alerts that list it")] = None,
    site_code: Text = None,
    rule: Text = None,
    severity: models.Severity | None = None,
    state: Literal["open", "cleared"] | None = None,
    acknowledged: bool | None = None,
) -> AlertFilter:
    clean(device_id, site_code, rule)
    return AlertFilter(device_id, site_code, rule, severity, None if state is None else state == "open", acknowledged)


@router.get("", response_model=models.AlertPage)
async def alert_list(
    resources: CurrentResources,
    _who: Reader,
    wanted: Annotated[AlertFilter, Depends(_filter)],
    after: After,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Alerts, open and cleared, the newest first."""
    async with resources.reads.connection() as connection:
        items, more = await alerts.list_alerts(connection, wanted, after, limit)
    return {"items": items, "next_cursor": more.encode() if more else None}


@router.get("/{alert_id}", response_model=models.Alert)
async def one_alert(resources: CurrentResources, _who: Reader, alert_id: UUID) -> dict[str, Any]:
    async with resources.reads.connection() as connection:
        return await alerts.one_alert(connection, alert_id)


@router.post("/{alert_id}/acknowledge", response_model=models.Alert)
async def acknowledge(
    runtime: CurrentRuntime, who: Operator, alert_id: UUID, said: models.Acknowledgement | None = None
) -> dict[str, Any]:
    """Say that you know. It does not clear the alert, and a second one changes nothing."""
    comment = said.comment if said else None
    resources = runtime.resources
    async with resources.reads.connection() as connection:
        alert, changed = await alerts.acknowledge(connection, alert_id, who.id, comment, runtime.clock.now())
    if changed:
        resources.live.note(alerts=[alert])
    return alert
