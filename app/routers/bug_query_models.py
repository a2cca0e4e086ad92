"""How lists of bugs are asked for: what `GET /api/bugs` and its exports take as parameters."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from app.bugs.listing import NEWEST, ORDERS
from app.bugs.vocabulary import Category, Priority, Severity
from app.bugs.workflow import STATUSES
from app.routers.bug_models import WORD, Said

Sort = Literal["-createdAt", "createdAt", "-updatedAt", "updatedAt", "-severity", "severity", "-priority", "priority",
               "-number", "number"]  # fmt: skip
assert set(ORDERS) == set(Sort.__args__)  # type: ignore[attr-defined]


class BugQuery(Said):
    """How a list is narrowed, sorted and paged. Several values are separated by commas: one of them must fit, of tags
    all. Times are ISO 8601, from inclusive, to exclusive.
    """

    status: str | None = Field(default=None, max_length=200, description=f"of {', '.join(STATUSES)}")
    severity: str | None = Field(default=None, max_length=100, description="of critical, high, medium, low")
    priority: str | None = Field(default=None, max_length=100, description="of urgent, high, medium, low")
    category: str | None = Field(default=None, max_length=200)
    device: str | None = Field(default=None, max_length=128, pattern=WORD, description="also `deviceId`")
    firmware: str | None = Field(default=None, max_length=64, pattern=WORD, description="also `firmwareVersion`")
    site: str | None = Field(default=None, max_length=64, pattern=WORD, description="also `siteCode`")
    assignee: str | None = Field(default=None, max_length=128, pattern=WORD, description="also `assignedTo`")
    unassigned: bool | None = None
    reporter: str | None = Field(default=None, max_length=128, pattern=WORD, description="also `reportedBy`")
    origin: Literal["report", "telemetry"] | None = None
    number: int | None = Field(default=None, ge=1, lt=2**63)
    tag: str | None = Field(default=None, max_length=500, pattern=WORD, description="also `tags`")
    text: str | None = Field(
        default=None,
        max_length=200,
        pattern=r"^[^\x00]+$",
        description='words, "a phrase", or, -not; in titles, descriptions and comments; also `q`',
    )
    created_from: str | None = Field(default=None, max_length=64)
    created_to: str | None = Field(default=None, max_length=64)
    updated_from: str | None = Field(default=None, max_length=64)
    updated_to: str | None = Field(default=None, max_length=64)
    sla: Literal["breached", "due"] | None = Field(
        default=None, description="a target was breached; or is due: its clock runs and has a fifth of its time left"
    )
    sort: Sort = NEWEST

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, given: Any) -> Any:
        """The names that the members of a bug have are good too, once."""
        if not isinstance(given, dict):
            return given
        said = dict(given)
        for other, name in _OTHER_NAMES.items():
            if other in said and name not in said:
                said[name] = said.pop(other)
        return said

    @field_validator("status", "severity", "priority", "category")
    @classmethod
    def _known(cls, value: str | None, info: Any) -> str | None:
        for one in split(value) or ():
            if one not in _ALLOWED[info.field_name]:
                raise ValueError(f"must be of {', '.join(_ALLOWED[info.field_name])}")
        return value


class BugPageQuery(BugQuery):
    """A page: by `skip`, which goes 10,000 deep, or by `cursor`, which goes as deep as there are bugs."""

    skip: int = Field(default=0, ge=0, le=10_000)
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=200, description="`nextCursor` of the page before")


_OTHER_NAMES = {
    "deviceId": "device", "firmwareVersion": "firmware", "siteCode": "site", "assignedTo": "assignee",
    "reportedBy": "reporter", "tags": "tag", "q": "text",
}  # fmt: skip
_ALLOWED: dict[str | None, tuple[str, ...]] = {
    "status": STATUSES,
    "severity": Severity.__args__,  # type: ignore[attr-defined]
    "priority": Priority.__args__,  # type: ignore[attr-defined]
    "category": Category.__args__,  # type: ignore[attr-defined]
}


def split(value: str | None) -> tuple[str, ...] | None:
    """Values between commas."""
    return None if value is None else tuple(part.strip() for part in value.split(","))
