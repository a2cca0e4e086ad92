"""Synthetic livers: half-ellipsoids on a tray as the time-of-flight imager sees them, and their spectra.

Source of the figures: the ground truth of the domain description (semi-axes 85 x 42.5 mm, height 80 mm, each varied by
10 %, scaled to lots of 525 g with sd 58 between and 89 within lots, density 0.947 g/cm3, 5 mm noise per zone).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

SIDE: Final = 8
PITCH_MM: Final = (37.5, 22.5)  # the standard tray of 300 x 180 mm on 8 x 8 zones
FLOOR_MM: Final = 95.0
SEMI_AXES_MM: Final = (85.0, 42.5)
HEIGHT_MM: Final = 80.0
VARIATION: Final = 0.10
NOISE_MM: Final = 5.0
DENSITY_G_PER_MM3: Final = 0.947e-3
LOT_MEAN_G: Final = 525.0
LOT_SD_G: Final = 58.0
WITHIN_SD_G: Final = 89.0
LEAST_MASS_G: Final = 200.0
SUBSAMPLES: Final = 4  # points a zone and axis over which its height is averaged
DISC_RADIUS_ZONES: Final = 1.5
# Counts of a fresh liver at gain 4, 100 ms: every ratio of the recipe lies in its optimal band.
FRESH_COUNTS: Final = {
    "F1_415nm": 1481, "F2_445nm": 2260, "F3_480nm": 1926, "F4_515nm": 7613, "F5_555nm": 3578, "F6_590nm": 2295,
    "F7_630nm": 4151, "F8_680nm": 2730, "Clear": 24991, "NIR": 2399,
}  # fmt: skip
COUNT_NOISE: Final = 0.02
# What oxidation does to the counts when complete: violet up, red and green down.
OXIDISED: Final = {"F1_415nm": 1.5, "F2_445nm": 1.2, "F4_515nm": 1.6, "F7_630nm": 0.75, "F8_680nm": 0.7}


@dataclass(frozen=True, slots=True)
class Liver:
    """One liver on its tray; lengths in mm, `angle` in radians, `oxidation` 0..1."""

    semi_major_mm: float
    semi_minor_mm: float
    height_mm: float
    centre_mm: tuple[float, float]
    angle: float
    oxidation: float
    planted_mm: float = 0.0
    planted_at_zone: tuple[float, float] | None = None

    @property
    def volume_mm3(self) -> float:
        """Of the half-ellipsoid, without a planted body."""
        return 2 / 3 * pi * self.semi_major_mm * self.semi_minor_mm * self.height_mm


def draw_lot_mean_g(rng: Generator) -> float:
    return float(rng.normal(LOT_MEAN_G, LOT_SD_G))


def draw_liver(rng: Generator, lot_mean_g: float = LOT_MEAN_G, *, planted_mm: float = 0.0) -> Liver:
    """A random liver of a lot; with `planted_mm`, with a flat body of that height whose centre is in the footprint."""
    a, b, h = (axis * (1 + rng.uniform(-VARIATION, VARIATION)) for axis in (*SEMI_AXES_MM, HEIGHT_MM))
    mass = max(LEAST_MASS_G, rng.normal(lot_mean_g, WITHIN_SD_G))
    scale = (mass / DENSITY_G_PER_MM3 / (2 / 3 * pi * a * b * h)) ** (1 / 3)
    centre = (float(rng.uniform(-25, 25)), float(rng.uniform(-12, 12)))
    angle = float(rng.uniform(0, pi))
    at_zone = None
    if planted_mm:
        distance, direction = float(np.sqrt(rng.uniform())), float(rng.uniform(0, 2 * pi))
        x, y = distance * a * scale * cos(direction), distance * b * scale * sin(direction)
        at_zone = (
            (centre[0] + x * cos(angle) - y * sin(angle)) / PITCH_MM[0] + (SIDE - 1) / 2,
            (centre[1] + x * sin(angle) + y * cos(angle)) / PITCH_MM[1] + (SIDE - 1) / 2,
        )
    oxidation = float(rng.beta(1.2, 8.0))
    return Liver(a * scale, b * scale, h * scale, centre, angle, oxidation, planted_mm, at_zone)


def _axis(pitch_mm: float) -> NDArray[np.float64]:
    """Positions of the sub-samples along one axis, the tray's middle at 0."""
    count = SIDE * SUBSAMPLES
    return (np.arange(count) + 0.5 - count / 2) * pitch_mm / SUBSAMPLES


def heights_mm(liver: Liver, *, at_centres: bool = False) -> NDArray[np.float64]:
    """Mean height of each zone over the tray, (8, 8), rows along the tray's short side, without noise; or the height at
    its centre, as if the sensor saw a point.
    """
    points = 1 if at_centres else SUBSAMPLES
    x, y = (_axis(pitch).reshape(SIDE * points, -1).mean(axis=1) for pitch in PITCH_MM)
    x, y = x[None, :] - liver.centre_mm[0], y[:, None] - liver.centre_mm[1]
    along = x * cos(liver.angle) + y * sin(liver.angle)
    across = -x * sin(liver.angle) + y * cos(liver.angle)
    inside = 1 - (along / liver.semi_major_mm) ** 2 - (across / liver.semi_minor_mm) ** 2
    fine = liver.height_mm * np.sqrt(np.clip(inside, 0, None))
    zones: NDArray[np.float64] = fine.reshape(SIDE, points, SIDE, points).mean(axis=(1, 3))
    if liver.planted_at_zone is not None:
        column, row = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
        near = np.hypot(column - liver.planted_at_zone[0], row - liver.planted_at_zone[1]) <= DISC_RADIUS_ZONES
        zones = zones + np.where(near, liver.planted_mm, 0.0)
    return zones


def distances_mm(liver: Liver, rng: Generator, *, at_centres: bool = False) -> NDArray[np.float64]:
    """What the imager reports, (8, 8): floor minus height, with noise on every zone."""
    zones = heights_mm(liver, at_centres=at_centres)
    seen: NDArray[np.float64] = np.clip(FLOOR_MM - zones + rng.normal(0, NOISE_MM, zones.shape), 1.0, 2 * FLOOR_MM)
    return seen


def channel_counts(liver: Liver, rng: Generator) -> dict[str, int]:
    """Counts by channel name: a fresh liver's, shifted by oxidation, with noise."""
    counts = {}
    for name, fresh in FRESH_COUNTS.items():
        shift = 1 + liver.oxidation * (OXIDISED.get(name, 1.0) - 1)
        counts[name] = max(10, round(fresh * shift * (1 + rng.normal(0, COUNT_NOISE))))
    return counts
