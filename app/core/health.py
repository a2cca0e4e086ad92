"""What probes and people are told: made from the declared dependencies and the process's phase. Nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.core.dependency import Need

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.core.dependency import Dependency
    from app.core.loop_watchdog import LoopWatchdog

OK: Final = 200
UNAVAILABLE: Final = 503
Report = tuple[int, dict[str, Any]]


class Phase(StrEnum):
    """Where the process stands in its life."""

    STARTING = "starting"
    STARTED = "started"
    DRAINING = "draining"


@dataclass(slots=True)
class Health:
    """The four reports, each a status code and a body of the same shape whatever the code.

    `phase`, `uptime_s` and `opening_s` (None until everything is open) are the process's; `overloaded` says that it has
    more work than room.
    """

    phase: Callable[[], Phase]
    uptime_s: Callable[[], float]
    opening_s: Callable[[], float | None]
    overloaded: Callable[[], bool]
    watchdog: LoopWatchdog
    blocked_after_s: float
    dependencies: Sequence[Dependency]

    def startup(self) -> Report:
        """200 once everything is open; stays so until the process ends."""
        opened = self.opening_s()
        if opened is None:
            return UNAVAILABLE, {"status": "starting", "duration": round(self.uptime_s(), 2)}
        return OK, {"status": "started", "duration": round(opened, 2)}

    def live(self) -> Report:
        """200 while the event loop turns. Nothing external is looked at, and a draining process is alive."""
        uptime = round(self.uptime_s(), 1)
        if self.watchdog.is_turning(self.blocked_after_s):
            return OK, {"status": "alive", "uptime": uptime}
        return UNAVAILABLE, {"status": "blocked", "uptime": uptime}

    def ready(self) -> Report:
        """200 when started, not draining, the event loop turning, not overloaded, and no required dependency is lost
        (away for longer than its declaration allows). `components` says which answer now; one that is only wanted
        never makes us unready.
        """
        components = {dependency.declared.name: not dependency.away for dependency in self.dependencies}
        components.setdefault("cache", True)  # without Redis the cache in this process is the configured one
        status = self._unready_because()
        return (OK if status is None else UNAVAILABLE), {"status": status or "ready", "components": components}

    def _unready_because(self) -> str | None:
        phase = self.phase()
        if phase is not Phase.STARTED:
            return str(phase)
        if not self.watchdog.is_turning(self.blocked_after_s):
            return "blocked"
        if self._lost(Need.REQUIRED):
            return "not_ready"
        return "overloaded" if self.overloaded() else None

    def tree(self, *, whole: bool = True) -> Report:
        """For people: 503 when unhealthy (a required dependency is lost, or nothing is open yet), else 200, also when
        degraded. Not `whole`: what an outsider may know.
        """
        known = {dependency.declared.name: dependency for dependency in self.dependencies}
        cache = known.get("cache")
        body: dict[str, Any] = {
            "status": self._status(),
            "database": "disconnected" if known["database"].away or self.opening_s() is None else "connected",
            "cache": "in_process" if cache is None else "disconnected" if cache.away else "connected",
            "uptime": round(self.uptime_s(), 1),
        }
        if whole:
            body |= {
                "phase": str(self.phase()),
                "components": {name: _component(dependency) for name, dependency in known.items()},
                "event_loop": {"lag_s": round(self.watchdog.lag_s, 4), "blockings": self.watchdog.episodes},
            }
        return (UNAVAILABLE if body["status"] == "unhealthy" else OK), body

    def _status(self) -> str:
        if self.opening_s() is None or self._lost(Need.REQUIRED):
            return "unhealthy"
        degraded = any(
            dependency.away and dependency.declared.need is not Need.INFORMATIONAL for dependency in self.dependencies
        )
        return "degraded" if degraded or self.overloaded() or self.phase() is Phase.DRAINING else "healthy"

    def _lost(self, need: Need) -> bool:
        return any(dependency.lost for dependency in self.dependencies if dependency.declared.need is need)


def _component(dependency: Dependency) -> dict[str, Any]:
    declared, checked_ago_s = dependency.declared, dependency.checked_ago_s
    return {
        "status": "down" if dependency.away else "up",
        "need": str(declared.need),
        "away_for_s": round(dependency.away_for_s, 1),
        "checked_ago_s": None if checked_ago_s is None else round(checked_ago_s, 1),
        "breaker": str(dependency.breaker.state),
        "meanwhile": declared.fallback,
    }
