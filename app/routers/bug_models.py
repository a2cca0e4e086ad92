"""The shapes of `/api/bugs`: camelCase on the wire; what is not known is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.bugs.vocabulary import Category, Priority, Severity, Status

_LINE = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
_TEXT = r"^[^\x00]*[^\s\x00][^\x00]*$"
_TAG = r"^[^\s,\x00-\x1f\x7f]([^,\x00-\x1f\x7f]*[^\s,\x00-\x1f\x7f])?$"  # lists name several between commas
WORD = r"^[^\x00-\x1f\x7f]+$"
Title = Annotated[str, Field(min_length=1, max_length=300, pattern=_LINE)]
LongText = Annotated[str, Field(min_length=1, max_length=20_000, pattern=_TEXT)]
CommentText = Annotated[str, Field(min_length=1, max_length=10_000, pattern=_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=_LINE)]
Version = Annotated[str, Field(min_length=1, max_length=64, pattern=_LINE)]
Email = Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")]
Tag = Annotated[str, Field(min_length=1, max_length=50, pattern=_TAG)]
Tags = Annotated[list[Tag], Field(max_length=30)]
SiteCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class Wire(BaseModel):
    """camelCase outside, snake_case inside."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Said(Wire):
    """What clients send: by the names of the wire alone."""

    model_config = ConfigDict(populate_by_name=False)


REPORT: dict[str, Any] = {
    "title": "VL53L8CH sensor timeout",
    "description": "Device ESP32_LL_01 stops responding after 2 hours",
    "severity": "high",
    "priority": "urgent",
    "category": "hardware",
    "deviceId": "ESP32_LL_01",
    "firmwareVersion": "v2.3.1",
    "reportedBy": "Jean Dupont",
    "reportedByEmail": "jean@euralis.com",
    "reproductionSteps": "1. Start device\n2. Wait 2 hours\n3. Observe timeout",
    "tags": ["sensor", "timeout", "esp32"],
}


class BugReport(Said):
    """A new bug."""

    model_config = ConfigDict(json_schema_extra={"examples": [REPORT]})
    title: Title
    description: LongText
    severity: Severity
    priority: Priority
    category: Category | None = None
    device_id: Name | None = None
    firmware_version: Version | None = None
    site_code: SiteCode | None = None
    reported_by: Name | None = None
    reported_by_email: Email | None = None
    reproduction_steps: LongText | None = None
    tags: Tags = []


class BugChanges(Said):
    """What may be changed; a member left out stays as it is, null clears it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "in_progress", "assignedTo": "Marie Martin"}]})
    title: Title = Field(default_factory=str)
    description: LongText = Field(default_factory=str)
    severity: Severity = Field(default_factory=lambda: "low")
    priority: Priority = Field(default_factory=lambda: "low")
    category: Category | None = None
    status: Status = Field(default_factory=lambda: "open")
    assigned_to: Name | None = None
    resolution: LongText | None = None
    resolved_by: Name | None = None
    fixed_in_firmware: Version | None = None
    device_id: Name | None = None
    firmware_version: Version | None = None
    reproduction_steps: LongText | None = None
    tags: Tags = Field(default_factory=list)
    duplicate_of: UUID | None = Field(default=None, description="with the status duplicate: of which bug")


class BugLink(Wire):
    """Another bug, named by a text (`#42`), or like this one."""

    id: UUID
    number: int
    title: str
    status: Status
    url: str


class Similar(BugLink):
    """`score`, 0 to 1: how alike the titles are."""

    score: float


class Reported(Wire):
    id: UUID
    message: Literal["Bug report created successfully"] = "Bug report created successfully"
    status: Status
    number: int
    url: str
    similar: list[Similar] = Field(default=[], description="reported before, with titles like this one's")


class SimilarBugs(Wire):
    items: list[Similar]


class Bug(Wire):
    """A bug. Times are the server's. `version` is its ETag: it grows with every change of a member that can be changed,
    not with comments. `reportedByEmail` is for staff. `occurrences` counts what telemetry saw.
    """

    id: UUID
    number: int
    status: Status
    title: str
    description: str
    severity: Severity
    priority: Priority
    category: Category | None
    device_id: str | None
    firmware_version: str | None
    site_code: str | None
    reported_by: str | None
    reported_by_email: str | None
    reproduction_steps: str | None
    tags: list[str]
    assigned_to: str | None
    resolution: str | None
    resolved_by: str | None
    fixed_in_firmware: str | None
    origin: Literal["report", "telemetry"]
    occurrences: int
    reopened: int
    created_at: datetime
    updated_at: datetime
    status_changed_at: datetime
    acknowledged_at: datetime | None
    assigned_at: datetime | None
    resolved_at: datetime | None
    closed_at: datetime | None
    version: int
    comment_count: int
    attachment_count: int


class ServiceLevel(Wire):
    """`dueAt` is null where the clock stands still: while a bug awaits information, is resolved or closed."""

    target_hours: float
    elapsed_hours: float
    due_at: datetime | None
    state: Literal["running", "met", "breached", "paused"]


class ServiceLevels(Wire):
    acknowledge: ServiceLevel
    resolve: ServiceLevel


class ShownBug(Bug):
    """A bug, and how it stands now by the targets of its severity."""

    sla: ServiceLevels


class Link(Wire):
    """What a bug is about: members that its kind has not are null. Of another bug, `bugId`, `relation` is as seen from
    here. `evidenceUrl`: where a linked sample is shown as it was when it was linked.
    """

    id: UUID
    kind: Literal["device", "firmware", "lot", "sample", "bug"]
    device_id: str | None
    firmware: str | None
    lot: str | None
    sample_id: str | None
    device_time: datetime | None
    relation: Literal["blocks", "blockedBy", "duplicates", "duplicatedBy", "relates"] | None
    bug_id: UUID | None
    bug: BugLink | None
    evidence_url: str | None
    created_at: datetime
    creator_id: str


class BugDetail(ShownBug):
    """With links of the bugs that its description names, what it is about, and what it may become."""

    references: list[BugLink]
    links: list[Link]
    duplicate_of: UUID | None
    allowed_transitions: list[Status]


class BugPage(Wire):
    """`total` is exact up to 10,000; where it is not, there are more."""

    bugs: list[ShownBug]
    total: int
    total_is_exact: bool
    skip: int
    limit: int
    next_cursor: str | None = Field(description="give it back as `cursor` for the next page; null on the last")


class Transition(Wire):
    from_: Status = Field(alias="from")
    to: list[Status]


class Workflow(Wire):
    initial: Status
    statuses: list[Status]
    transitions: list[Transition]
    requires: dict[str, list[str]]


class HistoryEvent(Wire):
    """`field`, `old` and `new` as they stand on the wire; `actor` is a key's id, `actorName` what it was made for."""

    id: UUID
    at: datetime
    version: int
    is_internal: bool
    actor: str
    actor_name: str | None
    kind: str
    field: str | None
    old: Any
    new: Any


class History(Wire):
    items: list[HistoryEvent]
    next_cursor: str | None


class CommentDraft(Said):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"comment": "Fixed in firmware v2.3.2", "author": "Marie Martin", "isInternal": False}]
        }
    )
    comment: CommentText
    author: Name | None = None
    is_internal: Annotated[bool, Field(strict=True)] = False


class CommentEdit(Said):
    comment: CommentText


class Comment(Wire):
    id: UUID
    bug_id: UUID
    comment: str
    author: str | None
    author_id: str
    is_internal: bool
    created_at: datetime
    edited_at: datetime | None
    references: list[BugLink]


class FormerText(Wire):
    comment: str
    replaced_at: datetime
    replaced_by: str


class CommentDetail(Comment):
    """With its former texts, oldest first."""

    former: list[FormerText]


class CommentPage(Wire):
    comments: list[Comment]
    total: int
    limit: int
    next_cursor: str | None


class Summary(Wire):
    """Open counts reopened, in progress counts awaiting_info, closed counts wont_fix and duplicate: the four add up.
    `resolvedToday` and the average are of bugs that are resolved, or were before they were closed.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "totalBugs": 156, "openBugs": 23, "inProgressBugs": 15, "resolvedBugs": 102, "closedBugs": 16,
                    "criticalBugs": 5, "highSeverityBugs": 12, "mediumSeverityBugs": 45, "lowSeverityBugs": 94,
                    "newToday": 3, "resolvedToday": 7, "avgResolutionTimeHours": 48.5,
                }
            ]
        }
    )  # fmt: skip
    total_bugs: int
    open_bugs: int
    in_progress_bugs: int
    resolved_bugs: int
    closed_bugs: int
    critical_bugs: int
    high_severity_bugs: int
    medium_severity_bugs: int
    low_severity_bugs: int
    new_today: int
    resolved_today: int
    avg_resolution_time_hours: float | None


class TrendDay(Wire):
    date: str = Field(examples=["2026-02-02"])
    created: int
    resolved: int
    open: int


class Trends(Wire):
    days: int
    items: list[TrendDay]
