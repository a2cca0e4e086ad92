"""The same error over and over: the first lines are written, the rest is counted. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_KEYS: Final = 512


class Kind(NamedTuple):
    """What makes two lines the same."""

    logger: str
    level: int
    event: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """So many lines of a kind were not written, since the first of that interval was."""

    kind: Kind
    lines: int
    over_s: float


@dataclass(slots=True)
class _Interval:
    began_s: float
    lines: int = 0


class RepeatLimits:
    """Admits `repeats` lines of a kind in an interval of `every_s`, which begins with its first line; 0 admits all.

    What was not admitted is reported once: by `ended` when its interval is over, by `end`, or when the kind gives up
    its place. At most `max_keys` kinds are remembered; a new one takes the place of the one that began first, so that
    a first line is always admitted. The caller passes monotonic seconds and locks.
    """

    def __init__(self, repeats: int, every_s: float, *, max_keys: int = MAX_KEYS) -> None:
        self._repeats = repeats
        self._every_s = every_s
        self._max_keys = max_keys
        self._intervals: dict[Kind, _Interval] = {}  # in the order in which they began
        self._over: list[Suppressed] = []

    def admits(self, kind: Kind, now_s: float) -> bool:
        if self._repeats == 0:
            return True
        interval = self._intervals.get(kind)
        if interval is None or now_s - interval.began_s >= self._every_s:
            interval = self._begin(kind, now_s)
        interval.lines += 1
        return interval.lines <= self._repeats

    def ended(self, now_s: float) -> list[Suppressed]:
        """What is to be reported by now."""
        old = []
        for kind, interval in self._intervals.items():
            if now_s - interval.began_s < self._every_s:
                break
            old.append(kind)
        return self._report(old)

    def end(self) -> list[Suppressed]:
        """All that was not reported yet."""
        return self._report(list(self._intervals))

    def next_report_s(self) -> float:
        """When `ended` will have something; infinity while nothing is suppressed."""
        if self._over:
            return -inf
        over = (one.began_s + self._every_s for one in self._intervals.values() if one.lines > self._repeats)
        return next(over, inf)

    def _begin(self, kind: Kind, now_s: float) -> _Interval:
        self._close(kind)
        if len(self._intervals) >= self._max_keys:
            self._close(next(iter(self._intervals)))
        begun = self._intervals[kind] = _Interval(now_s)
        return begun

    def _report(self, kinds: Iterable[Kind]) -> list[Suppressed]:
        for kind in kinds:
            self._close(kind)
        said, self._over = self._over, []
        return said

    def _close(self, kind: Kind) -> None:
        interval = self._intervals.pop(kind, None)
        if interval is not None and interval.lines > self._repeats:
            self._over.append(Suppressed(kind, interval.lines - self._repeats, self._every_s))
