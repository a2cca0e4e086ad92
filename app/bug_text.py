"""Bugs as a person reads them at a terminal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.core.clock import iso
from app.terminal import age, indented, printable, table, terminal_width, with_colours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.bug_admin import WholeBug
    from app.routers import bug_models as models
    from app.routers.bug_attachment_models import Attachment

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
    if whole.attachments:
        yield "\nAttachments"
        yield from table([_attachment(one) for one in whole.attachments], terminal_width(), most=30)
    if whole.links:
        yield "\nLinks"
        yield from table([(f"  {one.kind}", _link(one)) for one in whole.links], terminal_width())
    yield "\nHistory"
    yield from table([_event(event) for event in whole.history], terminal_width(), most=30)


def _attachment(one: Attachment) -> tuple[str, str, str, str]:
    internal = ", internal" if one.is_internal else ""
    return f"  {iso(one.created_at)}", one.uploader_id, _size(one.size_bytes), f"{one.file_name}{internal}"


def _link(one: models.Link) -> str:
    if one.bug is not None:
        return f"{one.relation} #{one.bug.number} {one.bug.title} ({one.bug.status})"
    sample = f"{one.sample_id} of {one.device_id} at {_as_text(one.device_time)}"
    return sample if one.kind == "sample" else one.device_id or one.firmware or one.lot or "-"


def _event(event: models.HistoryEvent) -> tuple[str, str, str]:
    return f"  {iso(event.at)}", event.actor_name or event.actor, " ".join(f"{event.kind} {event_words(event)}".split())


def event_words(event: models.HistoryEvent) -> str:
    """What an event is about, after its kind; empty where the kind says all."""
    if event.field is not None:
        return f"{event.field}: {_as_text(event.old)} -> {_as_text(event.new)}"
    about = event.old if event.new is None else event.new
    if not isinstance(about, dict):
        return ""
    if event.kind in ("attached", "detached"):
        return f"{about.get('fileName')} ({_size(about.get('sizeBytes') or 0)})"
    if event.kind in ("linked", "unlinked"):
        return _linked(about)
    return f"{about.get('rule')} x {about.get('occurrences')}" if event.kind == "seen" else ""


def _linked(about: Mapping[str, Any]) -> str:
    kind = about.get("kind")
    if kind == "bug":
        return f"bug: {about.get('relation')} #{about.get('bugNumber')}"
    if kind == "sample":
        return f"sample {about.get('sampleId')} of {about.get('deviceId')} at {about.get('deviceTime')}"
    return f"{kind} {about.get('deviceId') or about.get('firmware') or about.get('lot')}"


def _size(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _as_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return iso(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
