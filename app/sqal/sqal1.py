"""Recipe `sqal-1`: all derived from the stored frame's distances and channels, nothing from what the device claims."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from app.sqal.body import SIDE, ZONES
from app.sqal.deviations import Search
from app.sqal.frame import MICRO, side_of, stack_planes
from app.sqal.reading import NOT_GRADABLE
from app.sqal.recipes import THRESHOLDS, WEIGHTS, Grading, definition_hash, grade_for, weigh
from app.sqal.spectrum import Spectrum, read_spectrum
from app.sqal.surface import Surface, components, read_surface, zone_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from app.sqal.recipes import DeviceProfile

    Floats = NDArray[np.float64]

CHUNK: Final = 1_024  # frames at once: the few with a find are searched again together
STANDARD_PITCH_MM: Final = (37.5, 22.5)  # the tray of 300 x 180 mm on 8 x 8 zones
BANDS: Final = {
    "VOR": (0.25, 0.45, 0.20, 0.55),
    "NVR": (1.2, 1.8, 1.0, 2.0),
    "DIS": (1.3, 1.7, 1.1, 2.0),
    "LOI": (0.8, 1.2, 0.7, 1.4),
    "FMI": (0.35, 0.65, 0.25, 0.75),
    "OOI": (0.5, 0.8, 0.4, 0.9),
}


class Defects(NamedTuple):
    """What stands out of one body: how many separate patches, and the severity of each round's find, 0..1."""

    number: int
    severities: list[float]


class Judgement(NamedTuple):
    """All that the recipe derives from a chunk of frames, before it becomes grades."""

    surface: Surface
    spectrum: Spectrum
    defects: list[Defects]
    tof: Floats


class Sqal1Recipe:
    """Geometry from the device's profile; a body fitted to each frame; six spectral ratios.

    Sources: the grading section of the domain description; `docs/grading.md` has the figures on synthetic livers.
    """

    name = "sqal-1"
    costly = True

    def __init__(
        self, search: Search | None = None, pitches_mm: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self._search = search or Search()
        self._areas_mm2 = {profile: x * y for profile, (x, y) in (pitches_mm or {}).items()}
        self._volume = {"ideal_mm3": 554_000.0, "zero_at": 0.6}
        self._severity = {"from_mm": self._search.least_mm, "over_mm": 35.0}
        self._roughness_mm = 5.0
        self._reject = {"defects": 5, "severity_above": 900_000}
        self.definition: Mapping[str, Any] = {
            "name": self.name,
            "version": 2,
            "weights": WEIGHTS,
            "thresholds": dict(THRESHOLDS),
            "reject": self._reject,
            "pitch_mm": {"": STANDARD_PITCH_MM} | dict(pitches_mm or {}),
            "volume": self._volume,
            "severity": self._severity,
            "roughness_mm": self._roughness_mm,
            "search": asdict(self._search),
            "bands": BANDS,
        }
        self.hash = definition_hash(self.definition)

    @property
    def least_defect_mm(self) -> float:
        """A deviation no higher than this is no defect."""
        return self._severity["from_mm"]

    def can_grade(self, frame: bytes) -> bool:
        return side_of(frame) == SIDE

    def grade(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> list[Grading]:
        gradings: list[Grading] = []
        for start in range(0, len(frames), CHUNK):
            some, theirs = frames[start : start + CHUNK], profiles[start : start + CHUNK]
            gradings += self.gradings(self.judge(some, theirs))
        return gradings

    def judge(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> Judgement:
        """What is derived from at most `CHUNK` frames."""
        planes = stack_planes(frames, side=SIDE)
        standard = STANDARD_PITCH_MM[0] * STANDARD_PITCH_MM[1]
        areas = np.array([self._areas_mm2.get(profile.profile or "", standard) for profile in profiles])
        weights = np.where(planes.complete, zone_weights(planes.status), 0.0)
        surface = read_surface(planes.distances, weights, areas, self._search)
        spectrum = read_spectrum(planes.counts, planes.integration_ms, BANDS)
        defects, clear = self._defects(surface)
        off = np.abs(surface.volume_mm3 / self._volume["ideal_mm3"] - 1.0) / self._volume["zero_at"]
        smooth = 1.0 / (1.0 + surface.roughness_mm / self._roughness_mm)
        base = 0.5 * np.maximum(0.0, 1.0 - off) + 0.3 * smooth + 0.2 * (surface.usable_zones / ZONES)
        return Judgement(surface, spectrum, defects, base * clear)

    def _defects(self, surface: Surface) -> tuple[list[Defects], Floats]:
        """Each frame's defects, and the product of 1 - severity over them."""
        severity = np.minimum(
            np.maximum((surface.deviations_mm - self._severity["from_mm"]) / self._severity["over_mm"], 0.0), 1.0
        )
        clear = np.ones(severity.shape[-1])
        for one in severity:
            clear = clear * (1.0 - one)
        defects = [Defects(0, [])] * severity.shape[-1]
        for frame in np.nonzero((severity > 0.0).any(axis=0))[0]:
            found = severity[:, frame] > 0.0
            patches = components(np.any(surface.deviation_zones[found, :, frame], axis=0))
            defects[frame] = Defects(patches, severity[found, frame].tolist())
        return defects, clear

    def gradings(self, judged: Judgement) -> list[Grading]:
        """What follows from a judgement, frame by frame."""
        s = judged.spectrum
        columns = zip(
            judged.surface.judged.tolist(), s.judged.tolist(), judged.defects,
            *map(_micro, (judged.tof, s.score, s.freshness, s.fat_quality, s.oxidation, s.color_uniformity)),
            strict=True,
        )  # fmt: skip
        return [self._grading(*column) for column in columns]

    def _grading(
        self,
        has_body: bool,
        has_spectrum: bool,
        defects: Defects,
        tof: int,
        spectral: int,
        *indices: int,
    ) -> Grading:
        known = indices if has_spectrum else (None,) * len(indices)
        if not (has_body and has_spectrum):
            return Grading(NOT_GRADABLE, None, tof if has_body else None, spectral if has_spectrum else None, *known)
        score = weigh(tof, spectral)
        worst = max(defects.severities, default=0.0)
        rejected = defects.number >= self._reject["defects"] or worst * MICRO > self._reject["severity_above"]
        return Grading("REJECT" if rejected else grade_for(score), score, tof, spectral, *known)


def _micro(values: Floats) -> list[int]:
    """Integers of 1e-6, halves up."""
    whole: list[int] = np.floor(values * MICRO + 0.5).astype(np.int64).tolist()
    return whole
