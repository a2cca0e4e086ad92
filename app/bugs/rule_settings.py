"""Which alerts become bugs: what is shipped, and what an operator has said otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from app.bugs.telemetry_rules import SHIPPED, TelemetryRule
from app.core.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.core.database import Connection

NO_SUCH_RULE: Final = "there is no such rule"
SELECT: Final = "SELECT rule, enabled, group_by, severity, priority, updated_at, updated_by FROM bug_rules"
SAVE: Final = """
    INSERT INTO bug_rules (rule, enabled, group_by, severity, priority, updated_at, updated_by)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (rule) DO UPDATE SET enabled = excluded.enabled, group_by = excluded.group_by,
        severity = excluded.severity, priority = excluded.priority, updated_at = excluded.updated_at,
        updated_by = excluded.updated_by
"""


async def read_rules(connection: Connection) -> dict[str, TelemetryRule]:
    """Every rule by its name."""
    rules = dict(SHIPPED)
    for record in await connection.fetch(SELECT):
        if (shipped := SHIPPED.get(record["rule"])) is not None:
            said = {name: record[name] for name in ("enabled", "group_by", "severity", "priority")}
            rules[shipped.name] = replace(shipped, **said, since=record["updated_at"], changed_by=record["updated_by"])
    return rules


async def set_rule(
    connection: Connection, name: str, said: Mapping[str, Any], actor: str, now: datetime
) -> TelemetryRule:
    """Say what is done with a rule's alerts; what is not said is as shipped. NotFoundError for an unknown rule.

    `updated_at` is since when it is on or off, so that another severity passes over nothing.
    """
    if (shipped := SHIPPED.get(name)) is None:
        raise NotFoundError(NO_SUCH_RULE)
    before = (await read_rules(connection))[name]
    rule = replace(shipped, **said, changed_by=actor)
    rule = replace(rule, since=before.since if rule.enabled == before.enabled else now)
    await connection.execute(
        SAVE, name, rule.enabled, rule.group_by, rule.severity, rule.priority, rule.since, rule.changed_by
    )
    return rule
