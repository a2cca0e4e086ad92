"""Bugs as a person reads them at a terminal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.core.clock import iso
from app.terminal import age, indented, printable, table, terminal_width, with_colours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.bug_admin import WholeBug
    from app.routers import bug_models as models

COLOURS: Final = {"critical": "1;31", "high": "31", "urgent": "1;31", "medium": "33", "resolved": "32", "closed": "2"}
HEADER: Final = ("BUG", "STATUS", "SEVERITY", "PRIORITY", "AGE", "DEVICE", "ASSIGNEE", "TITLE")
FACTS: Final = {
    "device_id": "device", "firmware_version": "firmware", "site_code": "site", "assigned_to": "assigned to",
    "reported_by": "reported by", "reported_by_email": "e-mail", "resolution": "resolution",
    "resolved_by": "resolved by", "fixed_in_firmware": "fixed in", "resolved_at": "resolved at",
    "closed_at": "closed at",
}  # fmt: skip


def listed(found: Sequence[models.Bug], now: datetime) -> list[str]:
    """A line each, under a header."""
    rows = [
        (f"#{bug.number}", bug.status, bug.severity, bug.priority, age(bug.created_at, now), bug.device_id or "-",
         bug.assigned_to or "-", bug.title)
        for bug in found
    ]  # fmt: skip
    return table([HEADER, *rows], terminal_width(), colours=COLOURS if with_colours() else None)


def told(whole: WholeBug, now: datetime) -> Iterator[str]:
    """All of one bug."""
    bug = whole.bug
    yield printable(f"#{bug.number} {bug.title}")
    facts: dict[str, str] = {
        "status": bug.status,
        "severity": bug.severity,
        "priority": bug.priority,
        "category": bug.category or "-",
    }
    facts |= {"created": f"{iso(bug.created_at)} ({age(bug.created_at, now)})", "version": str(bug.version)}
    facts |= {word: _as_text(getattr(bug, name)) for name, word in FACTS.items() if getattr(bug, name) is not None}
    if bug.tags:
        facts["tags"] = ", ".join(bug.tags)
    yield from table([(f"  {word}", " ".join(value.split())) for word, value in facts.items()])
    for heading, text in (("Description", bug.description), ("To reproduce", bug.reproduction_steps)):
        if text:
            yield f"\n{heading}\n{indented(text)}"
    if whole.comments:
        yield "\nComments"
    for one in whole.comments:
        internal = ", internal" if one.is_internal else ""
        yield printable(f"  {iso(one.created_at)} {one.author or one.author_id}{internal}")
        yield indented(one.comment, "    ")
    yield "\nHistory"
    yield from table([_event(event) for event in whole.history], terminal_width(), most=30)


def _event(event: models.HistoryEvent) -> tuple[str, str, str]:
    change = "" if event.field is None else f" {event.field}: {_as_text(event.old)} -> {_as_text(event.new)}"
    return f"  {iso(event.at)}", event.actor_name or event.actor, " ".join(f"{event.kind}{change}".split())


def _as_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return iso(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
