"""Service levels: how soon a bug is to be acknowledged and to be resolved, and how it stands with both. Pure.

A bug is acknowledged when somebody first takes it on or says what is to become of it; that clock never stops. The clock
of resolution runs while somebody has it to do: not while it awaits information, not while it is resolved or closed; a
bug that is reopened goes on from where it was. Targets are those of the severity that a bug has now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from app.bugs.vocabulary import ON_THE_CLOCK, SEVERITIES, UNSETTLED
from app.bugs.workflow import active_s

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.core.database import Row

State = Literal["running", "met", "breached", "paused"]
Standing = Literal["breached", "due"]
HOUR_S: Final = 3_600.0
DUE: Final = 0.8
"""Of the target: from there on a bug is due."""
_BY_RANK: Final = SEVERITIES[::-1]  # as bugs.severity_rank counts
_RUNNING: Final = ", ".join(f"'{status}'" for status in sorted(ON_THE_CLOCK))


@dataclass(frozen=True, slots=True)
class Targets:
    """Seconds by severity, from the lowest to the gravest."""

    acknowledge_s: tuple[float, ...]
    resolve_s: tuple[float, ...]

    @classmethod
    def of_hours(cls, acknowledge: Mapping[str, float], resolve: Mapping[str, float]) -> Targets:
        return cls(*(tuple(hours[name] * HOUR_S for name in _BY_RANK) for hours in (acknowledge, resolve)))


@dataclass(frozen=True, slots=True)
class ServiceLevels:
    """The targets, at one moment."""

    targets: Targets
    now: datetime

    def of(self, bug: Row) -> dict[str, Any]:
        """How a bug stands, as REST shows it. `due_at` is null where the clock stands still."""
        rank = _BY_RANK.index(bug["severity"])
        return {
            "acknowledge": self._acknowledge(bug, self.targets.acknowledge_s[rank]),
            "resolve": self._resolve(bug, self.targets.resolve_s[rank]),
        }

    def _acknowledge(self, bug: Row, target_s: float) -> dict[str, Any]:
        done_at = bug["acknowledged_at"]
        elapsed_s = max(0.0, ((done_at or self.now) - bug["created_at"]).total_seconds())
        state = state_of(elapsed_s, target_s, done=done_at is not None)
        return _shown(target_s, elapsed_s, state, bug["created_at"] + timedelta(seconds=target_s))

    def _resolve(self, bug: Row, target_s: float) -> dict[str, Any]:
        status, elapsed_s = bug["status"], active_s(bug, self.now)
        state = state_of(elapsed_s, target_s, done=status not in UNSETTLED, paused=status not in ON_THE_CLOCK)
        due_at = None
        if status in ON_THE_CLOCK:
            due_at = bug["status_changed_at"] + timedelta(seconds=target_s - bug["active_s"])
        return _shown(target_s, elapsed_s, state, due_at)

    def arguments(self) -> list[Any]:
        """What the SQL of `breached` and `elapsed` takes, in this order."""
        return [self.now, list(self.targets.acknowledge_s), list(self.targets.resolve_s)]


def state_of(elapsed_s: float, target_s: float, *, done: bool, paused: bool = False) -> State:
    """A target is breached once more time went by than it allows, whatever became of the bug."""
    if elapsed_s > target_s:
        return "breached"
    if done:
        return "met"
    return "paused" if paused else "running"


def _shown(target_s: float, elapsed_s: float, state: State, due_at: datetime | None) -> dict[str, Any]:
    hours = {"target_hours": target_s / HOUR_S, "elapsed_hours": elapsed_s / HOUR_S}
    return hours | {"due_at": due_at, "state": state}


@dataclass(frozen=True, slots=True)
class LevelSQL:
    """The same rules in SQL over `bugs`, in seconds; `place` is the number of the first of their `arguments`."""

    place: int

    @property
    def acknowledge_s(self) -> str:
        return f"date_part('epoch', coalesce(bugs.acknowledged_at, ${self.place}::timestamptz) - bugs.created_at)"

    @property
    def resolve_s(self) -> str:
        running = f"greatest(0, date_part('epoch', ${self.place}::timestamptz - bugs.status_changed_at))"
        return f"(bugs.active_s + CASE WHEN bugs.status IN ({_RUNNING}) THEN {running} ELSE 0 END)"

    @property
    def acknowledge_target_s(self) -> str:
        return f"(${self.place + 1}::float8[])[bugs.severity_rank + 1]"

    @property
    def resolve_target_s(self) -> str:
        return f"(${self.place + 2}::float8[])[bugs.severity_rank + 1]"


@dataclass(frozen=True, slots=True)
class LevelFilter:
    """Bugs of which a target is breached, or due: its clock runs, and has at most a fifth of its time left."""

    wanted: Standing
    levels: ServiceLevels

    def condition(self, place: int) -> str:
        """SQL over `bugs`; the levels' arguments are numbered from `place`."""
        said = LevelSQL(place)
        clocks = ((said.acknowledge_s, said.acknowledge_target_s), (said.resolve_s, said.resolve_target_s))
        if self.wanted == "breached":
            return "(" + " OR ".join(f"{elapsed} > {target}" for elapsed, target in clocks) + ")"
        acknowledge, resolve = (f"{elapsed} BETWEEN {DUE} * {target} AND {target}" for elapsed, target in clocks)
        # Who has not acknowledged a bug has not changed its status: both are on the clock.
        return f"(bugs.status IN ({_RUNNING}) AND (bugs.acknowledged_at IS NULL AND {acknowledge} OR {resolve}))"
