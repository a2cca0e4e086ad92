"""The shapes of `/api/bugs/metrics/figures`."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from app.bugs.vocabulary import Category, Severity
from app.routers.bug_models import WORD, Said, Wire


class FiguresQuery(Said):
    """Bugs created from inclusive, to exclusive (ISO 8601; without them the last 90 days), and narrowed."""

    from_: str | None = Field(default=None, alias="from", max_length=64)
    to: str | None = Field(default=None, max_length=64)
    device: str | None = Field(default=None, max_length=128, pattern=WORD)
    firmware: str | None = Field(default=None, max_length=64, pattern=WORD)
    severity: Severity | None = None
    category: Category | None = None


class Times(Wire):
    """In hours; null where there is none."""

    median: float | None
    p90: float | None
    count: int


class Ages(Wire):
    """How many open bugs are how old: each number is of those that are older than what the one before it counts."""

    up_to1_day: int
    up_to7_days: int
    up_to30_days: int
    up_to90_days: int
    over90_days: int
    median_age_hours: float | None


class Ageing(Wire):
    critical: Ages
    high: Ages
    medium: Ages
    low: Ages


class LevelCounts(Wire):
    """Done in time, done too late; not done and within the target, or beyond it: together all bugs."""

    met: int
    breached: int
    running: int
    breached_open: int


class LevelsKept(Wire):
    acknowledge: LevelCounts
    resolve: LevelCounts


class LevelsBySeverity(Wire):
    critical: LevelsKept
    high: LevelsKept
    medium: LevelsKept
    low: LevelsKept


class OfFirmware(Wire):
    """`reopened` counts bugs that came back at least once."""

    name: str
    count: int
    open: int
    reopened: int
    mttr_median: float | None


class OfDevice(OfFirmware):
    device_hours: int | None
    per_thousand_device_hours: float | None


class Figures(Wire):
    """Of bugs created in the range; only `ageing` is of all that are open now. `mtta` and `mttr`: from report to
    acknowledgement and to resolution. `reopenRate`: of the bugs that were ever resolved or reopened. Device-hours are
    hours in which a device sent samples; null where one firmware is asked for.
    """

    from_: datetime = Field(alias="from")
    to: datetime
    count: int
    mtta: Times
    mttr: Times
    ageing: Ageing
    reopen_rate: float | None
    sla: LevelsBySeverity
    device_hours: int | None
    per_thousand_device_hours: float | None
    by_device: list[OfDevice]
    by_firmware: list[OfFirmware]
