"""Faults on purpose, for tests and game days: a dependency answers late, fails, or does not answer at all.

The switch stands where the real call is made, behind its breaker and inside its deadline, so that everything around it
behaves as it would on a real fault. Each has an end; a forgotten one ends by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.clock import Clock

LONGEST_S: Final = 3_600.0
POLL_S: Final = 0.25  # how soon a call that hangs notices that its fault was taken back
log = get_logger("gaveurs.faults")


class FaultKind(StrEnum):
    """What a call meets."""

    LATENCY = "latency"
    ERROR = "error"
    STALL = "stall"


class InjectedFaultError(ConnectionError):
    """The error that an `error` fault raises: to callers the same as a lost connection."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One switched-on fault; `until_s` is monotonic."""

    kind: FaultKind
    latency_s: float
    until_s: float


class FaultSwitches:
    """At most one fault for each known dependency."""

    def __init__(self, clock: Clock, names: Iterable[str]) -> None:
        self._clock = clock
        self._names = tuple(names)
        self._active: dict[str, Fault] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def switch_on(self, name: str, kind: FaultKind, *, latency_s: float, expires_s: float) -> None:
        """KeyError for an unknown name; ValueError for a time outside 0 to an hour."""
        if name not in self._names:
            raise KeyError(name)
        if not 0 < expires_s <= LONGEST_S:
            raise ValueError("a fault lasts more than 0 and at most 3600 s")
        self._active[name] = Fault(kind, latency_s, self._clock.monotonic() + expires_s)
        log.warning("fault switched on", dependency=name, kind=kind, latency_s=latency_s, expires_s=expires_s)

    def switch_off(self, name: str) -> None:
        """Nothing for one that is not on."""
        if self._active.pop(name, None) is not None:
            log.warning("fault switched off", dependency=name)

    def active(self, name: str) -> Fault | None:
        """The fault that calls to `name` meet now."""
        fault = self._active.get(name)
        if fault is not None and fault.until_s <= self._clock.monotonic():
            self.switch_off(name)
            return None
        return fault

    def left_s(self, fault: Fault) -> float:
        return fault.until_s - self._clock.monotonic()

    async def strike(self, name: str) -> None:
        """Comes before the real call. Raises InjectedFaultError, waits, or (nearly always) does nothing."""
        if not self._active or (fault := self.active(name)) is None:
            return
        if fault.kind is FaultKind.ERROR:
            raise InjectedFaultError("a fault was switched on")
        if fault.kind is FaultKind.LATENCY:
            await asyncio.sleep(fault.latency_s)
            return
        while self.active(name) is fault:  # noqa: ASYNC110 - it may end by the clock as well as by hand
            await asyncio.sleep(min(POLL_S, max(0.0, self.left_s(fault))))
