"""The REST edge's shapes, with examples for OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool

Grade = Literal["A+", "A", "B", "C", "REJECT", "NOT_GRADABLE"]
SiteCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
_SAMPLE: dict[str, Any] = {
    "id": "019ab1f0-1c7a-7cc2-9a53-5b7f8f2f9b11",
    "device_id": "ESP32_LL_01",
    "sample_id": "LL-260202-4821-087",
    "lot": "LL-260202-4821",
    "lot_id": "272",
    "farmer": "Elevage 017",
    "origin": "Bretagne",
    "location": "Ligne A",
    "site_code": "LL",
    "device_time": "2026-02-02T08:15:30.250000Z",
    "bucket_time": "2026-02-02T08:15:30.250000Z",
    "received_at": "2026-02-02T08:15:30.311224Z",
    "recipe": "sqal-1-reported",
    "score": 0.9115,
    "tof_score": 0.8525,
    "spectral_score": 1.0,
    "grade": "A+",
    "is_compliant": True,
    "claimed": {"score": 0.9115, "grade": "A+", "is_compliant": True},
    "indices": {
        "freshness": 1.0,
        "fat_quality": 1.0,
        "oxidation": 0.0,
        "color_uniformity": 1.0,
        "volume_mm3": 524812.5,
    },
    "legal_mass": {
        "verdict": "above",
        "mass_g": 497.0,
        "uncertainty_g": 39.8,
        "least_g": 300.0,
        "species": "duck",
    },
    "temperature_c": 4.0,
    "humidity_percent": 78.0,
    "firmware_version": "2.3.1",
    "profile": "foiegras_standard_barquette",
    "flags": [],
}


class Claimed(BaseModel):
    """What the device said; never the result."""

    score: float | None
    grade: str | None
    is_compliant: bool | None


class Indices(BaseModel):
    """0..1, volume in mm3; null where the recipe derives none."""

    freshness: float | None
    fat_quality: float | None
    oxidation: float | None
    color_uniformity: float | None
    volume_mm3: float | None


class LegalMass(BaseModel):
    """Whether the estimated mass reaches what the law asks of its species: 300 g duck, 400 g goose (EU 543/2008). The
    uncertainty is one standard deviation; `uncertain` within two of the limit. It never changes a grade.
    """

    verdict: Literal["below", "uncertain", "above"]
    mass_g: float
    uncertainty_g: float
    least_g: float
    species: Literal["duck", "goose"]


class Sample(BaseModel):
    """One graded reading. `score` and `is_compliant` are null for NOT_GRADABLE."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SAMPLE]})

    id: UUID
    device_id: str
    sample_id: str
    lot: str | None
    lot_id: str | None
    farmer: str | None
    origin: str | None
    location: str | None
    site_code: str | None
    device_time: datetime
    bucket_time: datetime
    received_at: datetime
    recipe: str
    score: float | None
    tof_score: float | None
    spectral_score: float | None
    grade: Grade
    is_compliant: bool | None
    claimed: Claimed
    indices: Indices
    legal_mass: LegalMass | None
    temperature_c: float | None
    humidity_percent: float | None
    firmware_version: str | None
    profile: str | None
    flags: list[str]


class SamplePage(BaseModel):
    items: list[Sample]
    next_cursor: str | None = Field(description="give it back as `cursor` for the next page; null on the last")


class FrameBody(BaseModel):
    """Matrices in rows, channels by name; a matrix that the device left out is null."""

    model_config = ConfigDict(extra="allow")

    device_id: str
    sample_id: str
    version: int
    zones: str
    distance_matrix: list[list[float]] | None
    reflectance_matrix: list[list[float]] | None
    amplitude_matrix: list[list[float]] | None
    ambient_matrix: list[list[float]] | None
    status_matrix: list[list[float]] | None
    channels: dict[str, float]
    gain: float | None
    integration_time_ms: float | None


class DerivedDefect(BaseModel):
    """A body on the surface: how far it stands out, how severe (0..1), and the zones (row, column) it covers."""

    deviation_mm: float
    severity: float
    zones: list[tuple[int, int]]


class Ratio(BaseModel):
    name: str
    value: float
    optimal: tuple[float, float]
    acceptable: tuple[float, float]
    state: Literal["optimal", "acceptable", "outside"]


class Derived(BaseModel):
    """Surface and spectrum as `sqal-1` reads them; heights over the tray, row by row; mass at 0.947 g/cm3."""

    by: dict[str, str]
    usable_zones: float
    has_body: bool
    has_spectrum: bool
    heights_mm: list[list[float]] | None
    volume_mm3: float | None
    mass_g: float | None
    roughness_mm: float | None
    defects: list[DerivedDefect]
    ratios: list[Ratio]


class Explanation(BaseModel):
    """Why a sample has its grade, by the recipe as it was then; not `recipe_known` where this program has another
    version of it, or none, and cannot say what that one saw. `reasons`, the weightiest first: `score`,
    `rejected_for_defects`, `weaker_tof`, `weaker_spectral`, `defect`, `ratio`; of a reading that could not be graded
    `too_few_zones`, `no_product_seen`, `spectrum_unusable`, `device_sent_no_scores`; each with figures of its own.
    """

    device_id: str
    sample_id: str
    device_time: datetime
    recipe: str
    recipe_hash: str
    recipe_known: bool
    grade: Grade
    score: float | None
    tof_score: float | None
    spectral_score: float | None
    weights: dict[str, float]
    thresholds: dict[str, float]
    reasons: list[dict[str, Any]]
    derived: Derived | None


class Device(BaseModel):
    """A device's record. `state` is computed: never_seen, online, stale or offline."""

    device_id: str = Field(examples=["ESP32_LL_01"])
    state: Literal["never_seen", "online", "stale", "offline"]
    site_code: str | None
    sent_site_code: str | None
    firmware_version: str | None
    mac_address: str | None
    ip_address: str | None
    location: str | None
    sensors: Any
    first_seen: datetime | None
    last_seen: datetime | None
    last_sample_at: datetime | None
    hello_at: datetime | None
    heartbeat: dict[str, Any] | None
    uptime_s: float | None
    boots: int
    profile: str | None
    recipe: str | None
    trust_defects: bool
    in_service: bool
    clock_offset_s: float | None


class DevicePage(BaseModel):
    items: list[Device]
    next_cursor: str | None


class DeviceChanges(BaseModel):
    """What may be set of a device; a field left out stays as it is, null clears it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"site_code": "LL", "trust_defects": False}]}
    )

    site_code: SiteCode | None = None
    profile: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")] | None = None
    recipe: str | None = None
    trust_defects: StrictBool = False
    in_service: StrictBool = True


class QuarantineEntry(BaseModel):
    """A refused message; its bytes are under `/message`."""

    id: UUID
    received_at: datetime
    code: str = Field(examples=["out_of_range"])
    reason: str
    device_id: str | None
    sample_id: str | None
    peer: str | None
    size_bytes: int
    encoding: Literal["json", "msgpack"]
    replayed_at: datetime | None
    replay_result: str | None


class QuarantinePage(BaseModel):
    items: list[QuarantineEntry]
    next_cursor: str | None


class ReplayResult(BaseModel):
    """`status` saved, duplicate or error; with an error its code. Several results for a batch."""

    id: UUID
    results: list[dict[str, Any]]


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["urn:gaveurs:problem:not_found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no such sample"])
    code: str = Field(examples=["not_found"])
