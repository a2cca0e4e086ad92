"""What this process asks of others, declared once. Breaker, background check, probes, metrics and the health tree of a
dependency are made from its declaration, so that they cannot disagree.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.core.breaker_policy import Mode, State
from app.core.errors import UnavailableError, in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.core.breaker_policy import BreakerEvent
    from app.core.circuit_breaker import CircuitBreaker
    from app.core.clock import Clock
    from app.core.faults import FaultSwitches

CHECK_EVERY_S: Final = 1.0
MOST_REASONS: Final = 8
log = get_logger("gaveurs.dependency")


class Need(StrEnum):
    """What its loss means: unready after a while, degraded, or only worth knowing."""

    REQUIRED = "required"
    DEGRADED = "degraded"
    INFORMATIONAL = "informational"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One dependency. `deadline_s` is a check's; after `lost_after_s` without it it counts as lost."""

    name: str
    need: Need
    deadline_s: float
    lost_after_s: float
    fallback: str
    """What callers get while it is away, in a sentence."""


class Dependency:
    """A declaration with its breaker and what is known of it now. Every change of that is logged once, and so is each
    further reason that a check finds in an outage, up to MOST_REASONS.

    `call()` goes around every use; `watch(probe)` checks it every second in the background.
    """

    def __init__(self, declared: Declaration, breaker: CircuitBreaker, faults: FaultSwitches, clock: Clock) -> None:
        self.declared = declared
        self.breaker = breaker
        self.checks: dict[str, int] = {"success": 0, "failure": 0}
        self._faults = faults
        self._clock = clock
        self._away_since: float | None = None
        self._reasons_said: set[str] = set()
        self._served_at = clock.monotonic()
        self._checked_at: float | None = None
        breaker.on_transition(self._follow)

    @property
    def away(self) -> bool:
        """Whether asking it now is known to be in vain."""
        return self._away_since is not None

    @property
    def away_for_s(self) -> float:
        """Seconds since it was last known to serve; 0 while it does."""
        return 0.0 if self._away_since is None else self._clock.monotonic() - self._away_since

    @property
    def lost(self) -> bool:
        """Away for so long that it is no hiccup."""
        return self.away_for_s >= self.declared.lost_after_s

    @property
    def checked_ago_s(self) -> float | None:
        """Since the last background check ended; None before the first."""
        return None if self._checked_at is None else self._clock.monotonic() - self._checked_at

    def served_since(self, moment: float) -> bool:
        """Whether it answered anybody after `moment` (monotonic)."""
        return self._served_at > moment

    def mark_away(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
            self._reasons_said = {reason}
            name, fallback = self.declared.name, self.declared.fallback
            log.warning("dependency away", dependency=name, reason=reason, fallback=fallback)

    def _found_away(self, reason: str) -> None:
        """By a check, which knows why where those who were in the middle of a call only know that it ended."""
        self.mark_away(reason)
        if reason not in self._reasons_said and len(self._reasons_said) < MOST_REASONS:
            self._reasons_said.add(reason)
            log.warning("dependency still away", dependency=self.declared.name, reason=reason)

    def mark_back(self) -> None:
        self._served_at = self._clock.monotonic()
        if self._away_since is not None:
            log.info("dependency back", dependency=self.declared.name, away_s=round(self.away_for_s, 2))
            self._away_since = None

    def _follow(self, event: BreakerEvent) -> None:
        if event.after is State.OPEN:
            self.mark_away(event.reason)
        elif event.after is State.CLOSED:
            self.mark_back()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one use. Raises CircuitOpenError without asking while the breaker is open."""
        call = self.breaker.enter()
        try:
            yield
        except BaseException as error:
            self.breaker.leave(call, error)
            raise
        self.breaker.leave(call, None)
        self._served_at = self._clock.monotonic()

    async def strike(self) -> None:
        """Comes before the real call, inside its deadline: where a fault that is switched on takes effect."""
        await self._faults.strike(self.declared.name)

    async def watch(self, probe: Callable[[], Awaitable[Any]], failures: tuple[type[Exception], ...]) -> None:
        """Check every second; runs until cancelled. `probe` goes past `call()`: it is what may end an outage."""
        while True:
            await self.check(probe, failures)
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self, probe: Callable[[], Awaitable[Any]], failures: tuple[type[Exception], ...]) -> None:
        """One check, with its deadline. `failures` are the errors by which `probe` says that it is away."""
        began = self._clock.monotonic()

        async def rehearse() -> None:
            async with asyncio.timeout(self.declared.deadline_s):
                await probe()

        signs: tuple[type[Exception], ...] = (UnavailableError, OSError, TimeoutError, *failures)
        try:
            await self.breaker.check(rehearse)
        except signs as error:
            self.checks["failure"] += 1
            if not self.served_since(began):  # else a real call says more than a question that our own load delayed
                self._found_away(in_a_line(error))
        else:
            self.checks["success"] += 1
            if self.breaker.mode is not Mode.FORCED_OPEN:  # whatever it could do, nobody asks it
                self.mark_back()
        self._checked_at = self._clock.monotonic()
