"""What the bug tracker works with, made from the settings, and what of it runs in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.bugs.upkeep import BugUpkeep

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from app.core.clock import Clock
    from app.core.database import Database
    from app.infrastructure import Infrastructure
    from app.settings import Settings


@dataclass(frozen=True, slots=True)
class BugTracker:
    """One process's. `database` is a pool of its own: however hard somebody searches, samples find a connection."""

    database: Database
    upkeep: BugUpkeep

    def start(self, run: Callable[[str, Coroutine[Any, Any, None]], Any]) -> None:
        """Everything that goes on by itself, under the caller's supervisor (name, task)."""
        run("bug upkeep", self.upkeep.run(self.database))


def make_bug_tracker(
    _settings: Settings, clock: Clock, _infrastructure: Infrastructure, database: Database
) -> BugTracker:
    """Opens nothing."""
    return BugTracker(database=database, upkeep=BugUpkeep(clock))
