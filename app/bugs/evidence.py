"""What a sample was when it was linked: its frame and what REST showed of it, kept for as long as the link."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import NotFoundError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from app.core.database import Connection

NO_SUCH_LINK: Final = "there is no such link"
FIND: Final = "SELECT device_id, target, sample, frame FROM bug_links WHERE id = $1 AND bug_id = $2"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A sample as it is now: `sample` is what REST shows of it, as JSON; `frame` its packed frame."""

    device_time: datetime
    sample: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was kept of a sample."""

    device_id: str
    sample_id: str
    sample: dict[str, Any]
    frame: bytes


async def read_evidence(connection: Connection, bug_id: UUID, link_id: UUID) -> Evidence:
    """NotFoundError for a link that this bug has not, or that is no sample."""
    record = await connection.fetchrow(FIND, link_id, bug_id)
    if record is None:
        raise NotFoundError(NO_SUCH_LINK)
    if record["frame"] is None:
        raise NotFoundError("this link is no sample: there is no evidence of it")
    return Evidence(record["device_id"], record["target"], json.loads(record["sample"]), record["frame"])
