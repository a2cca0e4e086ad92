"""The REST edge's shapes for figures, recipes, lots and alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.routers.models import Grade

Species = Literal["duck", "goose"]
Severity = Literal["warning", "critical"]


class Spread(BaseModel):
    """Of a score or an index, 0..1."""

    average: float
    deviation: float
    min: float
    max: float


class Latency(BaseModel):
    """From the device's time to ours, in ms, of readings whose clock can be believed."""

    average: float
    min: int
    max: int


class Figures(BaseModel):
    """`count` includes what could not be graded; `conformity` and `reject_rate` are shares of what could."""

    count: int
    grades: dict[Grade, int]
    conformity: float | None
    reject_rate: float | None
    score: Spread | None
    indices: dict[str, Spread | None]
    claim_disagrees: int
    clock_off: int
    latency_ms: Latency | None


_FIGURES: dict[str, Any] = {
    "count": 90,
    "grades": {"A+": 30, "A": 31, "B": 20, "C": 6, "REJECT": 2, "NOT_GRADABLE": 1},
    "conformity": 0.9775,
    "reject_rate": 0.0225,
    "score": {"average": 0.7812, "deviation": 0.1031, "min": 0.38, "max": 0.97},
    "indices": {"freshness": {"average": 0.91, "deviation": 0.05, "min": 0.7, "max": 1.0}},
    "claim_disagrees": 3,
    "clock_off": 0,
    "latency_ms": {"average": 41.2, "min": 8, "max": 210},
}


class Hour(Figures):
    """One device's hour; `bucket` is its beginning."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"bucket": "2026-02-02T08:00:00Z", "device_id": "ESP32_LL_01"} | _FIGURES}
    )
    bucket: datetime
    device_id: str


class HourPage(BaseModel):
    items: list[Hour]
    next_cursor: str | None


class DeviceStats(Figures):
    """Of one device; the hours are null where it has sent nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "device_id": "ESP32_LL_01",
                "first_bucket": "2026-02-01T05:00:00Z",
                "last_bucket": "2026-02-02T08:00:00Z",
            }
            | _FIGURES
        }
    )
    device_id: str
    first_bucket: datetime | None
    last_bucket: datetime | None


class Recipe(BaseModel):
    """A way of grading; `known` is false for one that an other release used."""

    name: str
    hash: str
    definition: dict[str, Any]
    first_used: datetime
    known: bool


class Recipes(BaseModel):
    items: list[Recipe]


class DashboardHour(Figures):
    bucket: datetime


class DashboardSite(Figures):
    """`site_code` is null for samples of an unknown site."""

    site_code: str | None


class DashboardDevice(Figures):
    device_id: str


class DeviceStates(BaseModel):
    online: int
    stale: int
    offline: int
    never_seen: int


class Firmware(BaseModel):
    version: str | None
    devices: int


class Dashboard(Figures):
    """`per_second` is of the hour that runs, `per_hour` of the whole time; at most 500 devices are listed."""

    model_config = ConfigDict(serialize_by_alias=True)
    begin: datetime = Field(alias="from")
    to: datetime
    per_second: float
    per_hour: float
    hours: list[DashboardHour]
    sites: list[DashboardSite]
    devices: list[DashboardDevice]
    device_states: DeviceStates
    firmware: list[Firmware]


class Span(Figures):
    """A day or a shift; `shift` is the hour at which it begins, there."""

    model_config = ConfigDict(serialize_by_alias=True)
    begin: datetime = Field(alias="from")
    to: datetime
    shift: str


class Spans(BaseModel):
    items: list[Span]


class LotFigures(Figures):
    lot: str
    species: Species
    first_bucket: datetime
    last_bucket: datetime


class LotList(BaseModel):
    items: list[LotFigures]


class Lot(Figures):
    """How a lot did, over all devices and hours; `species` is duck unless it was said otherwise."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "lot": "LL-260202-4821",
                "species": "duck",
                "first_bucket": "2026-02-01T05:00:00Z",
                "last_bucket": "2026-02-02T08:00:00Z",
                "devices": ["ESP32_LL_01"],
                "sites": ["LL"],
            }
            | _FIGURES
        }
    )
    lot: str
    species: Species
    first_bucket: datetime | None
    last_bucket: datetime | None
    devices: list[str]
    sites: list[str]


class LotChanges(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"species": "goose"}})
    species: Species


class Alert(BaseModel):
    """At most one is open for each rule and device (or site, or the whole). `occurrences`: readings that raised it in
    time; those more than five minutes late are counted apart. `value` and `worst`: score or index (0..1), seconds of
    silence or of clock offset, or messages refused.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "019ab1f0-1c7a-7cc2-9a53-5b7f8f2f9b11",
                "rule": "reject",
                "severity": "critical",
                "state": "open",
                "device_id": "ESP32_LL_01",
                "site_code": "LL",
                "devices": [],
                "opened_at": "2026-02-02T08:15:30Z",
                "last_at": "2026-02-02T09:12:01Z",
                "cleared_at": None,
                "occurrences": 512,
                "late_occurrences": 0,
                "value": 0.31,
                "worst": 0.22,
                "sample_id": "LL-260202-4821-087",
                "sample_time": "2026-02-02T09:12:00Z",
                "acknowledged": True,
                "acknowledged_at": "2026-02-02T08:20:00Z",
                "acknowledged_by": "1f2e3d4c5b6a",
                "comment": "lens cleaned",
            }
        }
    )
    id: UUID
    rule: str
    severity: Severity
    state: Literal["open", "cleared"]
    device_id: str | None
    site_code: str | None
    devices: list[str]
    opened_at: datetime
    last_at: datetime
    cleared_at: datetime | None
    occurrences: int
    late_occurrences: int
    value: float | None
    worst: float | None
    sample_id: str | None
    sample_time: datetime | None
    acknowledged: bool
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    comment: str | None


class AlertPage(BaseModel):
    items: list[Alert]
    next_cursor: str | None


class Acknowledgement(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"comment": "lens cleaned"}})
    comment: str | None = Field(default=None, max_length=500, pattern=r"^[^\x00]*$")
