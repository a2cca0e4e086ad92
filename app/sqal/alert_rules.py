"""When a reading raises an alert and when it helps to clear one: pure, in integers of 1e-6, without I/O.

An alert opens with the first reading beyond its limit and clears after `clear_after` readings in a row that are better
than the limit by the hysteresis; a reading between the two breaks the row. What could not be graded says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from app.sqal.frame import MICRO
from app.sqal.reading import NOT_GRADABLE
from app.sqal.recipe_definition import REPORTED, SHIPPED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

WARNING: Final = "warning"
CRITICAL: Final = "critical"
_LEAST_ACCEPTED: Final = min(least for _, least in SHIPPED[REPORTED].ladder if least)


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Limits in 0..1; `late_s` is how old a reading may be to still speak of now."""

    score_critical: float = 0.40
    score_warning: float = 0.60
    oxidation: float = 0.60
    freshness: float = 0.50
    hysteresis: float = 0.05
    clear_after: int = 10
    late_s: float = 300.0


class Sign(Enum):
    """What one reading says to one rule."""

    RAISES = "raises"
    CLEARS = "clears"
    BETWEEN = "between"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Rule:
    """`measure` below `limit` (or above it) raises; better than `clear_limit` clears. A rejected reading raises
    `on_reject` whatever its score; it leaves a rule that `yields` alone, whose alert it can neither open nor clear.
    """

    name: str
    severity: str
    measure: str
    limit: int
    clear_limit: int
    above: bool = False
    on_reject: bool = False
    yields_below: int | None = None

    def read(self, sample: Mapping[str, Any]) -> Sign:
        value, grade = sample[self.measure], sample["grade"]
        if value is None or grade == NOT_GRADABLE:
            return Sign.SILENT
        if self.on_reject and grade == "REJECT":
            return Sign.RAISES
        if self.yields_below is not None and (grade == "REJECT" or value < self.yields_below):
            return Sign.BETWEEN
        if value > self.limit if self.above else value < self.limit:
            return Sign.RAISES
        better = value <= self.clear_limit if self.above else value >= self.clear_limit
        return Sign.CLEARS if better else Sign.BETWEEN


class AlertRules:
    """The rules of readings: one about rejects, one about poor scores that are no rejects, two about indices."""

    def __init__(self, settings: AlertSettings) -> None:
        def micro(value: float) -> int:
            return round(value * MICRO)

        margin = micro(settings.hysteresis)
        critical = micro(settings.score_critical)
        self.rules: tuple[Rule, ...] = (
            # Clear of the limit and of the grade's own border, so that trembling around either is one alert.
            Rule("reject", CRITICAL, "score", critical, max(critical, _LEAST_ACCEPTED) + margin, on_reject=True),
            _below("low_score", "score", micro(settings.score_warning), margin, yields_below=critical),
            _above("oxidation", "oxidation", micro(settings.oxidation), margin),
            _below("freshness", "freshness", micro(settings.freshness), margin),
        )
        self.by_name: dict[str, Rule] = {rule.name: rule for rule in self.rules}
        self._clear_after = settings.clear_after
        self._late_s = settings.late_s

    def raised_by(self, sample: Mapping[str, Any]) -> list[str]:
        """The names of the rules that this reading raises."""
        return [rule.name for rule in self.rules if rule.read(sample) is Sign.RAISES]

    def is_late(self, received_at: datetime, device_time: datetime, clock_ahead_s: float = 0.0) -> bool:
        """Whether a reading is a replay: it can neither open nor clear an alert. A device whose clock is known to be
        `clock_ahead_s` from ours (negative: behind), and by more than that limit, is not late for that alone.
        """
        correction_s = clock_ahead_s if abs(clock_ahead_s) > self._late_s else 0.0
        return (received_at - device_time).total_seconds() + correction_s > self._late_s

    def advance(self, rule: Rule, now: Episode | None, readings: Sequence[Occurrence]) -> list[Episode]:
        """Every episode that `readings`, in their order, change or begin; only the last can still be open."""
        ended: list[Episode] = []
        changed = False
        for reading in readings:
            sign = rule.read(reading.sample)
            after = self._step(rule, now, sign, reading)
            changed |= after is not now
            now = after
            if now is not None and now.cleared_at is not None:
                ended.append(now)
                now = None
        return [*ended, now] if changed and now is not None else ended

    def _step(self, rule: Rule, now: Episode | None, sign: Sign, reading: Occurrence) -> Episode | None:
        if now is None:
            return Episode.begun(rule, reading) if sign is Sign.RAISES and not reading.late else None
        if sign is Sign.RAISES:
            return now.again(rule, reading)
        if sign is Sign.SILENT or reading.late:
            return now
        streak = now.clear_streak + 1 if sign is Sign.CLEARS else 0
        if streak >= self._clear_after:
            return replace(now, clear_streak=streak, cleared_at=reading.received_at)
        return now if streak == now.clear_streak else replace(now, clear_streak=streak)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A committed reading as the rules see it."""

    sample: Mapping[str, Any]
    late: bool

    @property
    def received_at(self) -> datetime:
        moment: datetime = self.sample["received_at"]
        return moment


@dataclass(frozen=True, slots=True)
class Episode:
    """One alert from its opening to its clearing; `cleared_at` None while it is open."""

    opened_at: datetime
    last_at: datetime
    worst: int
    """Of the rule's measure, over the readings that raised it in time."""
    last: Mapping[str, Any] | None = None
    """The newest reading that raised it; None when that was before what is known here."""
    occurrences: int = 0
    late_occurrences: int = 0
    clear_streak: int = 0
    cleared_at: datetime | None = None

    @classmethod
    def begun(cls, rule: Rule, reading: Occurrence) -> Episode:
        sample = reading.sample
        return cls(reading.received_at, reading.received_at, sample[rule.measure], sample, occurrences=1)

    def again(self, rule: Rule, reading: Occurrence) -> Episode:
        """Raised once more; a late reading is counted apart and tells nothing of now."""
        if reading.late:
            return replace(self, late_occurrences=self.late_occurrences + 1)
        value: int = reading.sample[rule.measure]
        return replace(
            self,
            last_at=max(self.last_at, reading.received_at),
            worst=max(self.worst, value) if rule.above else min(self.worst, value),
            last=reading.sample,
            occurrences=self.occurrences + 1,
            clear_streak=0,
        )


def _below(name: str, measure: str, limit: int, margin: int, yields_below: int | None = None) -> Rule:
    return Rule(name, WARNING, measure, limit, limit + margin, yields_below=yields_below)


def _above(name: str, measure: str, limit: int, margin: int) -> Rule:
    return Rule(name, WARNING, measure, limit, limit - margin, above=True)
