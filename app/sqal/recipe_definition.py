"""What a recipe is made of, as data: checked, versioned, and named by a hash over all that changes a grade."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from app.sqal.deviations import Search
from app.sqal.frame import MICRO
from app.sqal.reading import GRADES
from app.sqal.spectrum import CONSTANTS as SPECTRAL_CONSTANTS
from app.sqal.spectrum import RATIOS

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORTED: Final = "sqal-1-reported"
SQAL1: Final = "sqal-1"
ENGINES: Final = (SQAL1, REPORTED)
STANDARD_PITCH_MM: Final = (37.5, 22.5)  # the tray of 300 x 180 mm on 8 x 8 zones
WEIGHTS: Final = MappingProxyType({"tof": 0.60, "spectral": 0.40})
THRESHOLDS: Final = MappingProxyType({"A+": 0.85, "A": 0.75, "B": 0.60, "C": 0.45})
# Of each ratio: optimal low, high, acceptable low, high.
BANDS: Final = MappingProxyType(
    {
        "VOR": (0.25, 0.45, 0.20, 0.55),
        "NVR": (1.2, 1.8, 1.0, 2.0),
        "DIS": (1.3, 1.7, 1.1, 2.0),
        "LOI": (0.8, 1.2, 0.7, 1.4),
        "FMI": (0.35, 0.65, 0.25, 0.75),
        "OOI": (0.5, 0.8, 0.4, 0.9),
    }
)


class DefinitionError(ValueError):
    """A definition that makes no sense; `path` says which part of it."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(f"{'.'.join(path)}: {reason}")
        self.path = path
        self.reason = reason


def micro(value: float) -> int:
    return round(value * MICRO)


@dataclass(frozen=True, slots=True)
class Definition:
    """A recipe as domain.md describes it; every number may be another. Raises DefinitionError for what makes no sense.

    `engine` is the code that applies it: `sqal-1` uses all, `sqal-1-reported` the weights, thresholds and rejection.
    """

    name: str
    version: int
    engine: str
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    thresholds: Mapping[str, float] = field(default_factory=lambda: THRESHOLDS)
    reject_defects: int = 5
    reject_severity_above: float = 0.9
    volume_ideal_mm3: float = 554_000.0
    volume_zero_at: float = 0.6
    severity_over_mm: float = 35.0
    roughness_mm: float = 5.0
    pitch_mm: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of a device's configuration profile; the standard tray's for those that are not named."""
    bands: Mapping[str, tuple[float, float, float, float]] = field(default_factory=lambda: BANDS)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise DefinitionError(("engine",), f"must be one of {', '.join(ENGINES)}")
        if set(self.weights) != set(WEIGHTS) or abs(sum(self.weights.values()) - 1) > 1e-9:  # noqa: PLR2004
            raise DefinitionError(("weights",), "must be tof and spectral, together 1")
        self._check_thresholds()
        for name, (low, high, least, most) in self.bands.items():
            if name not in RATIOS:
                raise DefinitionError(("bands", name), f"no such ratio; known: {', '.join(RATIOS)}")
            if not 0 <= least < low <= high < most:
                raise DefinitionError(("bands", name), "must be acceptable low < optimal low <= high < acceptable high")

    def _check_thresholds(self) -> None:
        names = GRADES[:-1]
        if tuple(self.thresholds) != names:
            raise DefinitionError(("thresholds",), f"must be {', '.join(names)}, in this order")
        above = 1.0
        for name, least in self.thresholds.items():
            if not 0 < least <= above or (least == above and name != names[0]):
                raise DefinitionError(("thresholds", name), f"{least} must lie between 0 and the grade above ({above})")
            above = least

    @property
    def ladder(self) -> tuple[tuple[str, int], ...]:
        """(grade, least score in 1e-6), the best first; REJECT from 0."""
        return (*((name, micro(least)) for name, least in self.thresholds.items()), (GRADES[-1], 0))

    def as_data(self) -> dict[str, Any]:
        """All that changes a grade, in the form that is hashed and stored."""
        data: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "engine": self.engine,
            "weights": {name: micro(value) for name, value in self.weights.items()},
            "thresholds": dict(self.ladder),
            "reject": {"defects": self.reject_defects, "severity_above": micro(self.reject_severity_above)},
        }
        if self.engine == REPORTED:
            return data
        return data | {
            "pitch_mm": {"": list(STANDARD_PITCH_MM)} | {name: list(pitch) for name, pitch in self.pitch_mm.items()},
            "volume": {"ideal_mm3": self.volume_ideal_mm3, "zero_at": self.volume_zero_at},
            "severity": {"from_mm": self.search.least_mm, "over_mm": self.severity_over_mm},
            "roughness_mm": self.roughness_mm,
            "search": asdict(self.search),
            "bands": {name: list(band) for name, band in self.bands.items()},
            "spectral": dict(SPECTRAL_CONSTANTS),
        }

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of `as_data`."""
        text = json.dumps(self.as_data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_search(self, search: Search) -> Definition:
        return replace(self, search=search)


SHIPPED: Final = {
    SQAL1: Definition(SQAL1, 2, SQAL1),
    REPORTED: Definition(REPORTED, 1, REPORTED),
}
