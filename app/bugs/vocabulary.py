"""The words of the tracker, as they stand on the wire and in the database."""

from __future__ import annotations

from typing import Final, Literal

Status = Literal["open", "in_progress", "awaiting_info", "resolved", "closed", "wont_fix", "duplicate", "reopened"]
Severity = Literal["critical", "high", "medium", "low"]
Priority = Literal["urgent", "high", "medium", "low"]
Category = Literal["hardware", "firmware", "backend", "frontend", "sensor", "quality", "ml"]
Relation = Literal["blocks", "duplicates", "relates"]

UNSETTLED: Final[frozenset[Status]] = frozenset({"open", "in_progress", "awaiting_info", "reopened"})
"""Somebody has still to do something: these are `open` in trends."""
ON_THE_CLOCK: Final[frozenset[Status]] = UNSETTLED - {"awaiting_info"}
"""Time in these counts towards a service level."""
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "high", "medium", "low")
