"""Invented bugs with a past, for trying the tracker at size: the same ones from the same numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811

from app.bugs import story_words as words
from app.bugs import workflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

SPAN: Final = timedelta(days=730)
"""Before now, within which they were reported."""
ACTOR: Final = "seed"
_HOURS: Final = {"critical": 12.0, "high": 40.0, "medium": 120.0, "low": 300.0}
"""The mean time from one status to the next."""
_SEVERITIES: Final = ("low",) * 9 + ("medium",) * 7 + ("high",) * 3 + ("critical",)
_PRIORITIES: Final = {
    "low": ("low", "low", "medium"),
    "medium": ("medium", "medium", "low", "high"),
    "high": ("high", "high", "medium", "urgent"),
    "critical": ("urgent", "urgent", "high"),
}
_CATEGORIES: Final = ("sensor",) * 7 + ("firmware",) * 5 + ("hardware",) * 4 + ("backend", "backend", "quality")
_ALL_CATEGORIES: Final = (*_CATEGORIES, "quality", "frontend", "ml", None)
_DONE: Final = ("in_progress", "resolved", "closed")
_AWAITED: Final = ("in_progress", "awaiting_info", "in_progress", "resolved", "closed")
_AGAIN: Final = ("in_progress", "resolved", "reopened")
_PATHS: Final = (
    *(_DONE,) * 9, *(_AWAITED,) * 3, *(_DONE[:2],) * 4, ("wont_fix",), ("duplicate",), ("in_progress", "duplicate"),
    _AGAIN, (*_AGAIN, *_DONE), ("in_progress",), ("in_progress", "awaiting_info"), (), ("resolved",),
)  # fmt: skip
_BEGUN: Final[dict[str, Any]] = {
    "status": "open", "active_s": 0.0, "reopened": 0, "version": 1, "comments": 0, "internal_comments": 0,
    "acknowledged_at": None, "assigned_to": None, "assigned_at": None, "resolution": None, "resolved_by": None,
    "fixed_in_firmware": None, "resolved_at": None, "closed_at": None, "origin": "report", "occurrences": 0,
    "reporter_id": ACTOR, "reported_by_email": None,
}  # fmt: skip


@dataclass(slots=True)
class Batch:
    """Rows as the tables take them."""

    bugs: list[dict[str, Any]] = field(default_factory=list)
    comments: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)


class Stories:
    """`comments[n]` is how much is said about the n-th bug."""

    def __init__(self, comments: Sequence[int], seed: int, now: datetime) -> None:
        self._random = Random(seed)  # noqa: S311 - the same numbers again are what it is for
        self._comments, self._now = comments, now
        self._sentences = words.sentences(self._random)

    def batches(self, size: int) -> Iterator[Batch]:
        """Oldest first."""
        count = len(self._comments)
        for first in range(0, count, size):
            batch = Batch()
            for place in range(first, min(first + size, count)):
                share = (place + self._random.random()) / count
                self._tell(batch, self._now - SPAN * (1 - share), place)
            yield batch

    def _tell(self, batch: Batch, created: datetime, place: int) -> None:
        bug = self._report(created)
        batch.bugs.append(bug)
        told = json.dumps({name: bug[name] for name in ("status", "severity", "priority", "category")})
        batch.events.append((self._id(created), bug["id"], created, 1, False, ACTOR, "created", None, None, told))
        self._live(bug, batch.events)
        self._discuss(bug, self._comments[place], batch.comments)

    def _id(self, at: datetime) -> UUID:
        """A UUID of version 7."""
        high = int(at.timestamp() * 1000) << 80 | 0x7 << 76 | 0x2 << 62
        made: UUID = FastUUID((high | self._random.getrandbits(62) | self._random.getrandbits(12) << 64).to_bytes(16))
        return made

    def _pick(self, among: Sequence[Any]) -> Any:
        """Those at the front far more often."""
        return among[int(self._random.random() ** 2.5 * len(among))]

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def _report(self, created: datetime) -> dict[str, Any]:
        random = self._random
        severity = random.choice(_SEVERITIES)
        device = words.device(int(random.random() ** 1.5 * words.DEVICES)) if self._happens(0.8) else None
        # The newest versions are what most devices run.
        age = (self._now - created) / SPAN
        firmware = words.FIRMWARE[min(int(age * 20 + random.random() ** 3 * 12), len(words.FIRMWARE) - 1)]
        return _BEGUN | {
            "id": self._id(created),
            "created_at": created,
            "updated_at": created,
            "status_changed_at": created,
            "severity": severity,
            "priority": random.choice(_PRIORITIES[severity]),
            "category": random.choice(_ALL_CATEGORIES),
            "title": words.title(random, device, firmware),
            "description": self._said(3, device, firmware),
            "device_id": device,
            "firmware_version": firmware if self._happens(0.85) else None,
            "site_code": device.split("_")[1] if device else None,
            "reported_by": self._pick(words.PEOPLE),
            "reproduction_steps": self._said(1, device, None) if self._happens(0.2) else None,
            "tags": list({self._pick(words.TAGS): None for _ in range(random.choice((0, 1, 1, 2, 3)))}),
        }

    def _said(self, sentences: int, device: str | None, firmware: str | None) -> str:
        parts = [self._pick(self._sentences) for _ in range(sentences)]
        if self._happens(0.3):
            parts.append(f"Code E{self._random.randrange(90_000)}.")
        if device is not None and self._happens(0.4):
            parts.append(f"{device}.")
        if firmware is not None and self._happens(0.25):
            parts.append(f"Firmware {firmware}.")
        return " ".join(parts)

    def _live(self, bug: dict[str, Any], events: list[tuple[Any, ...]]) -> None:
        at = bug["created_at"]
        for status in self._random.choice(_PATHS):
            at += timedelta(hours=self._random.expovariate(1 / _HOURS[bug["severity"]]))
            if at >= self._now:
                return
            changes: dict[str, Any] = {"status": status}
            if status == "in_progress" and bug["assigned_to"] is None:
                changes["assigned_to"] = self._pick(words.STAFF)
            elif status == "resolved":
                changes["resolution"] = self._pick(self._sentences)
            before = bug["status"]
            bug |= workflow.move(bug, changes, at) | {"updated_at": at, "version": bug["version"] + 1}
            was, became = json.dumps(before), json.dumps(status)
            row = (self._id(at), bug["id"], at, bug["version"], False, ACTOR, "changed", "status", was, became)
            events.append(row)

    def _discuss(self, bug: dict[str, Any], count: int, comments: list[tuple[Any, ...]]) -> None:
        random = self._random
        began = bug["created_at"]
        time = min(self._now - began, timedelta(days=20))
        for share in sorted(random.random() for _ in range(count)):
            at, internal = began + time * share, self._happens(0.1)
            said = self._said(random.choice((1, 1, 2)), bug["device_id"], bug["firmware_version"])
            author = self._pick(words.STAFF if internal else words.PEOPLE)
            comments.append((self._id(at), bug["id"], at, internal, ACTOR, author, said))
            if internal:
                bug["internal_comments"] += 1
            else:
                bug["comments"] += 1
                bug["updated_at"] = max(bug["updated_at"], at)
