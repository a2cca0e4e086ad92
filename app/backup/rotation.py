"""Which backups stay: all of the last day, and one for each of the last days, weeks and months that have one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

YOUNG: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """How many of each."""

    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True, slots=True, order=True)
class Made:
    """A backup that is there. `good`: proven, and nothing of it lost."""

    at: datetime
    name: str
    good: bool


def _day(one: Made) -> tuple[int, ...]:
    return (one.at.year, one.at.month, one.at.day)


def _week(one: Made) -> tuple[int, ...]:
    return one.at.isocalendar()[:2]


def _month(one: Made) -> tuple[int, ...]:
    return (one.at.year, one.at.month)


def _newest_of_each(backups: Iterable[Made], period: Callable[[Made], tuple[int, ...]], count: int) -> set[str]:
    """Of the newest `count` periods that have a backup, the newest good one, or the newest where none is good."""
    best: dict[tuple[int, ...], Made] = {}
    for one in sorted(backups, key=lambda one: (one.good, one.at, one.name)):
        best[period(one)] = one
    return {best[key].name for key in sorted(best, reverse=True)[:count]}


def staying(backups: Iterable[Made], kept: Kept, now: datetime) -> set[str]:
    """Names to keep, in UTC days, ISO weeks and months. The newest and the newest good one always stay; so does what is
    of the future, by somebody's wrong clock, in nobody's stead.
    """
    known = sorted(backups)
    there = [one for one in known if one.at <= now]
    good = [one for one in there if one.good]
    names = {one.name for one in (*known[len(there) :], *there[-1:], *good[-1:])}
    names |= {one.name for one in there if one.at > now - YOUNG}
    for period, count in ((_day, kept.daily), (_week, kept.weekly), (_month, kept.monthly)):
        names |= _newest_of_each(there, period, count)
    return names
