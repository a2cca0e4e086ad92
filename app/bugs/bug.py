"""A bug as a row and as clients read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.core.errors import NotFoundError

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from app.bugs.audience import Audience
    from app.bugs.service_levels import ServiceLevels
    from app.core.database import Connection, Row

REPORTED: Final = (
    "title", "description", "severity", "priority", "category", "device_id", "firmware_version", "site_code",
    "reported_by", "reported_by_email", "reproduction_steps", "tags",
)  # fmt: skip
"""What a report says."""
CHANGEABLE: Final = (
    "title", "description", "severity", "priority", "category", "status", "assigned_to", "resolution", "resolved_by",
    "fixed_in_firmware", "device_id", "firmware_version", "reproduction_steps", "tags",
)  # fmt: skip
"""What may be changed later; each change of one is an event."""
SHOWN: Final = (
    "id", "number", "status", *REPORTED, "assigned_to", "resolution", "resolved_by", "fixed_in_firmware", "origin",
    "occurrences", "reopened", "created_at", "updated_at", "status_changed_at", "acknowledged_at", "assigned_at",
    "resolved_at", "closed_at", "version",
)  # fmt: skip
COLUMNS: Final = (*SHOWN, "reporter_id", "comments", "internal_comments", "active_s")
NO_SUCH_BUG: Final = "there is no such bug"


def columns(audience: Audience) -> str:
    """SQL: what `as_item` needs of `bugs`."""
    attached = f"SELECT count(*) FROM bug_attachments a WHERE a.bug_id = bugs.id AND {audience.visible('a')}"
    return f"{', '.join(f'bugs.{name}' for name in COLUMNS)}, ({attached}) AS attachments"


def as_item(record: Row, audience: Audience, levels: ServiceLevels | None = None) -> dict[str, Any]:
    """A bug as REST shows it, with how it stands by `levels` where they are given. Who reported it can be written to by
    staff alone.
    """
    item = {name: record[name] for name in SHOWN}
    item["comment_count"] = record["comments"] + (record["internal_comments"] if audience.is_staff else 0)
    item["attachment_count"] = record["attachments"]
    if not audience.is_staff:
        item["reported_by_email"] = None
    return item if levels is None else item | {"sla": levels.of(record)}


async def one_bug(
    connection: Connection, bug_id: UUID, audience: Audience, levels: ServiceLevels | None = None
) -> dict[str, Any]:
    """NotFoundError for an unknown id."""
    record = await connection.fetchrow(f"SELECT {columns(audience)} FROM bugs WHERE id = $1", bug_id)
    if record is None:
        raise NotFoundError(NO_SUCH_BUG)
    return as_item(record, audience, levels)


async def hold_bug(connection: Connection, bug_id: UUID) -> asyncpg.Record:
    """The row, locked until the caller's transaction ends. NotFoundError for an unknown id."""
    record = await connection.fetchrow("SELECT * FROM bugs WHERE id = $1 FOR UPDATE", bug_id)
    if record is None:
        raise NotFoundError(NO_SUCH_BUG)
    return record
