"""Recipe `sqal-1`: all derived from the stored frame's distances and channels, nothing from what the device claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.sqal.body import SIDE, ZONES
from app.sqal.frame import MICRO, side_of, stack_planes
from app.sqal.reading import NOT_GRADABLE
from app.sqal.recipe_definition import SHIPPED, SQAL1, STANDARD_PITCH_MM, Definition
from app.sqal.recipes import Grading, Scale
from app.sqal.spectrum import Spectrum, read_spectrum
from app.sqal.surface import Surface, components, read_surface, zone_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.sqal.recipes import DeviceProfile

    Floats = NDArray[np.float64]

INDICES: Final = ("freshness", "fat_quality", "oxidation", "color_uniformity")
CHUNK: Final = 1_024  # frames at once: the few with a find are searched again together


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

    costly = True

    def __init__(self, definition: Definition = SHIPPED[SQAL1]) -> None:
        self.definition = definition
        self._scale = Scale(definition)
        self._areas_mm2 = {profile: x * y for profile, (x, y) in definition.pitch_mm.items()}

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
        of = self.definition
        planes = stack_planes(frames, side=SIDE)
        standard = STANDARD_PITCH_MM[0] * STANDARD_PITCH_MM[1]
        areas = np.array([self._areas_mm2.get(profile.profile or "", standard) for profile in profiles])
        weights = np.where(planes.complete, zone_weights(planes.status), 0.0)
        surface = read_surface(planes.distances, weights, areas, of.search)
        spectrum = read_spectrum(planes.counts, planes.integration_ms, of.bands)
        defects, clear = self._defects(surface)
        off = np.abs(surface.volume_mm3 / of.volume_ideal_mm3 - 1.0) / of.volume_zero_at
        smooth = 1.0 / (1.0 + surface.roughness_mm / of.roughness_mm)
        base = 0.5 * np.maximum(0.0, 1.0 - off) + 0.3 * smooth + 0.2 * (surface.usable_zones / ZONES)
        return Judgement(surface, spectrum, defects, base * clear)

    def _defects(self, surface: Surface) -> tuple[list[Defects], Floats]:
        """Each frame's defects, and the product of 1 - severity over them."""
        severity = np.minimum(
            np.maximum(
                (surface.deviations_mm - self.definition.search.least_mm) / self.definition.severity_over_mm, 0.0
            ),
            1.0,
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
            np.floor(judged.surface.volume_mm3 + 0.5).astype(np.int64).tolist(),
            *map(_micro, (judged.tof, s.score, s.freshness, s.fat_quality, s.oxidation, s.color_uniformity)),
            strict=True,
        )  # fmt: skip
        return [self._grading(*column) for column in columns]

    def _grading(
        self,
        has_body: bool,
        has_spectrum: bool,
        defects: Defects,
        volume_mm3: int,
        tof: int,
        spectral: int,
        *indices: int,
    ) -> Grading:
        known = dict(zip(INDICES, indices, strict=True)) if has_spectrum else {}
        if has_body:
            known["volume_mm3"] = volume_mm3
        if not (has_body and has_spectrum):
            return Grading(
                NOT_GRADABLE, tof=tof if has_body else None, spectral=spectral if has_spectrum else None, **known
            )
        score = self._scale.weigh(tof, spectral)
        rejected = self._scale.rejects(defects.number, max(defects.severities, default=0.0) * MICRO)
        return Grading("REJECT" if rejected else self._scale.grade(score), score, tof, spectral, **known)


def _micro(values: Floats) -> list[int]:
    """Integers of 1e-6, halves up."""
    whole: list[int] = np.floor(values * MICRO + 0.5).astype(np.int64).tolist()
    return whole
