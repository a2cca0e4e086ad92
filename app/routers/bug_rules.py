"""`/api/bugs/rules`: which alerts become bugs; and what the alerts of a bug met."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from app.bugs import affected, rule_settings
from app.bugs.telemetry_rules import GroupBy, TelemetryRule
from app.bugs.vocabulary import Category, Priority, Severity
from app.dependencies import BugReader, CurrentResources, CurrentRuntime, Operator
from app.routers.bug_models import Wire
from app.routers.bug_requests import BUG_PROBLEMS, BugId

router = APIRouter(prefix="/api/bugs", tags=["bugs"], responses=BUG_PROBLEMS)
RuleName = Annotated[str, Path(description="the alert rule's name, as in docs/alerts.md", max_length=64)]


class RuleChange(Wire):
    """What is left out is as shipped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True, "groupBy": "firmware"}]})
    enabled: Annotated[bool, Field(strict=True)]
    group_by: GroupBy | None = None
    severity: Severity | None = None
    priority: Priority | None = None


class Rule(Wire):
    """`severity` and `priority` of the bugs that it opens. `changedBy` is null where it is as shipped."""

    rule: str
    enabled: bool
    group_by: GroupBy
    severity: Severity
    priority: Priority
    category: Category
    changed_by: str | None


class Rules(Wire):
    """`active` is false where BUGS_FROM_TELEMETRY is: then no rule opens bugs."""

    active: bool
    rules: list[Rule]


class Met(Wire):
    """`times`: in how many occurrences; a sample's value is `device/sample`."""

    value: str
    times: int
    first_at: datetime
    last_at: datetime


class BugFingerprint(Wire):
    """What makes an alert one of this bug."""

    rule: str
    subject: str
    site_code: str | None
    first_at: datetime
    last_at: datetime


class Affected(Wire):
    """Newest first. `truncated`: there are `most` of a kind, and older ones may have been forgotten."""

    fingerprints: list[BugFingerprint]
    devices: list[Met]
    firmwares: list[Met]
    lots: list[Met]
    samples: list[Met]
    most: int
    truncated: bool


@router.get("/rules", response_model=Rules)
async def rules(runtime: CurrentRuntime, _who: BugReader) -> dict[str, Any]:
    """Every alert rule, and whether its alerts become bugs."""
    async with runtime.resources.bugs.database.connection() as connection:
        known = await rule_settings.read_rules(connection)
    return {"active": runtime.settings.bugs_from_telemetry, "rules": [_as_item(rule) for rule in known.values()]}


@router.put("/rules/{rule}", response_model=Rule)
async def set_rule(runtime: CurrentRuntime, who: Operator, rule: RuleName, said: RuleChange) -> dict[str, Any]:
    """Turn a rule on or off. What its alerts count while it is off is passed over for good."""
    changes = said.model_dump(exclude_none=True)
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        return _as_item(await rule_settings.set_rule(connection, rule, changes, who.id, runtime.clock.now()))


@router.get("/{bug_id}/affected", response_model=Affected)
async def what_is_affected(resources: CurrentResources, _who: BugReader, bug_id: BugId) -> dict[str, Any]:
    """The devices, firmwares, lots and samples that a bug's alerts met. Empty for a bug that somebody reported."""
    async with resources.bugs.database.connection() as connection:
        return await affected.affected(connection, bug_id)


def _as_item(rule: TelemetryRule) -> dict[str, Any]:
    names = ("enabled", "group_by", "severity", "priority", "category", "changed_by")
    return {"rule": rule.name} | {name: getattr(rule, name) for name in names}
