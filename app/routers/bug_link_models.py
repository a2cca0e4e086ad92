"""What is said to link something to a bug, by its kind; and the bugs of a device, a sample or a lot."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.bugs.links import Target
from app.bugs.vocabulary import Relation, Severity
from app.routers.bug_models import BugLink, Link, Name, Version, Wire
from app.routers.models import FrameBody, Sample
from app.sqal.errors import RefusalError
from app.sqal.reading import parse_time

_TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")
SampleId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _moment(given: Any) -> Any:
    """Naive means UTC, as everywhere."""
    if not isinstance(given, str):
        raise ValueError("must be an ISO 8601 date and time")  # noqa: TRY004  what pydantic makes a 422 of
    try:
        return parse_time(given)
    except RefusalError as error:
        raise ValueError("must be an ISO 8601 date and time") from error


class DeviceLink(Wire):
    kind: Literal["device"]
    device_id: Name

    def target(self) -> Target:
        return Target("device", self.device_id)


class FirmwareLink(Wire):
    kind: Literal["firmware"]
    firmware: Version

    def target(self) -> Target:
        return Target("firmware", self.firmware)


class LotLink(Wire):
    kind: Literal["lot"]
    lot: Name

    def target(self) -> Target:
        return Target("lot", self.lot)


class SampleLink(Wire):
    """Without `deviceTime` the newest of this name."""

    kind: Literal["sample"]
    device_id: Name
    sample_id: SampleId
    device_time: Annotated[datetime, BeforeValidator(_moment)] | None = None

    def target(self) -> Target:
        return Target("sample", self.sample_id, self.device_id, self.device_time)


class RelatedBug(Wire):
    """This bug blocks, duplicates, or relates to that one."""

    kind: Literal["bug"]
    relation: Relation
    bug_id: UUID

    def target(self) -> Target:
        return Target("bug", relation=self.relation, other_id=self.bug_id)


AnyLink = Annotated[
    DeviceLink | FirmwareLink | LotLink | SampleLink | RelatedBug,
    Field(discriminator="kind"),
]


class LinkDraft(RootModel[AnyLink]):
    """What a bug is about, by its kind."""

    @model_validator(mode="wrap")
    @classmethod
    def _places_as_sent(cls, given: Any, handler: ModelWrapValidatorHandler[LinkDraft]) -> LinkDraft:
        """Errors are where they are in what was sent: pydantic puts the kind before the member's name."""
        try:
            return handler(given)
        except ValidationError as error:
            told = [
                InitErrorDetails(
                    type=PydanticCustomError(one["type"], one["msg"]),
                    loc=("kind",) if one["type"] in _TAG_ERRORS else one["loc"][1:],
                    input=None,
                )
                for one in error.errors(include_input=False)
            ]
            raise ValidationError.from_exception_data(cls.__name__, told) from error


class Links(Wire):
    """Oldest first; those that other bugs made to this one too."""

    links: list[Link]


class Evidence(BaseModel):
    """A sample as it was when it was linked, as `/api/sqal/samples/...` showed it."""

    sample: Sample
    frame: FrameBody


class BugAbout(BugLink):
    """`via`: "device" where the bug itself names the device, "link" where it links it or a sample of it,
    "affected" where alerts that were counted in it met it.
    """

    severity: Severity
    created_at: datetime
    via: Literal["device", "link", "affected"]


class BugsAbout(Wire):
    """Newest first."""

    items: list[BugAbout]
    next_cursor: str | None
