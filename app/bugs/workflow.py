"""Which status may follow which, and what the server notes on the way: pure, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from app.bugs.vocabulary import ON_THE_CLOCK, Status
from app.core.errors import AppError, BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.core.database import Row

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_ENDS: Final[tuple[Status, ...]] = ("resolved", "closed", "wont_fix", "duplicate")
TRANSITIONS: Final[Mapping[Status, tuple[Status, ...]]] = {
    "open": ("in_progress", "awaiting_info", *_ENDS),
    "in_progress": ("awaiting_info", *_ENDS),
    "awaiting_info": ("in_progress", *_ENDS),
    "reopened": ("in_progress", "awaiting_info", *_ENDS),
    "resolved": ("closed", "reopened"),
    "closed": ("reopened",),
    "wont_fix": ("reopened",),
    "duplicate": ("reopened",),
}
REQUIRED: Final[Mapping[Status, tuple[str, ...]]] = {"resolved": ("resolution",)}
_OUTCOME: Final = ("resolution", "resolved_by", "fixed_in_firmware")


class TransitionError(AppError):
    """409: this status does not follow that one."""

    status = 409
    code = "transition_not_allowed"

    def __init__(self, now: Status, wanted: Status) -> None:
        allowed = list(TRANSITIONS[now])
        super().__init__(
            f"a bug that is {now} cannot become {wanted}; allowed: {', '.join(allowed)}",
            more={"from": now, "to": wanted, "allowed": allowed},
        )


def table() -> dict[str, Any]:
    """The workflow as clients read it."""
    return {
        "initial": "open",
        "statuses": list(STATUSES),
        "transitions": [{"from": now, "to": list(following)} for now, following in TRANSITIONS.items()],
        "requires": {status: list(fields) for status, fields in REQUIRED.items()},
    }


def move(bug: Row, changes: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """What follows from `changes` (columns and their new values) to `bug`: all columns that are to be written, with the
    server's own times. TransitionError for a status that may not follow; BadRequestError, with a pointer, where what a
    status needs is missing.
    """
    written = {name: value for name, value in changes.items() if value != bug[name]}
    if "assigned_to" in written:
        written["assigned_at"] = None if written["assigned_to"] is None else now
    if "status" in written:
        written |= _enter(bug, written, now)
    _need(bug, written)
    if bug["acknowledged_at"] is None and (written.get("assigned_to") or "status" in written):
        written["acknowledged_at"] = now
    return written


def _enter(bug: Row, written: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    before, after = bug["status"], written["status"]
    if after not in TRANSITIONS[before]:
        raise TransitionError(before, after)
    noted: dict[str, Any] = {"status_changed_at": now, "active_s": active_s(bug, now)}
    if after == "resolved":
        noted["resolved_at"] = now
    elif after == "reopened":
        noted |= {"resolved_at": None, "closed_at": None, "reopened": bug["reopened"] + 1}
        noted |= {name: None for name in _OUTCOME if name not in written and bug[name] is not None}
    elif after in _ENDS:
        noted["closed_at"] = now
    return noted


def _need(bug: Row, written: Mapping[str, Any]) -> None:
    """What is resolved, or was before it was closed, keeps what that needs."""
    resolved = written.get("resolved_at", bug["resolved_at"]) is not None
    for name in REQUIRED["resolved"] if resolved else ():
        if not written.get(name, bug[name]):
            raise BadRequestError(f"resolved needs a {name}", pointer=f"#/{name}")


def active_s(bug: Row, now: datetime) -> float:
    """For how long somebody had it to do: not while it awaited information, was resolved or closed."""
    seconds: float = bug["active_s"]
    if bug["status"] in ON_THE_CLOCK:
        seconds += max(0.0, (now - bug["status_changed_at"]).total_seconds())
    return seconds
