"""What the imager says: volume over the tray, how smooth the body is, and what stands out of it.

Arrays hold the 64 zones of an 8 x 8 frame (rows first) along the first axis and the frames along the last; in mm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.sqal.batched import Symmetric, fold
from app.sqal.body import COLUMN, PRODUCT_MM, ROW, SIDE, ZONES, product_zones
from app.sqal.deviations import Search, strongest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEAST_ZONES: Final = 48.0
LEAST_PRODUCT_ZONES: Final = 4
LEAST_RIM_ZONES: Final = 8
# No liver is higher, and no reading of one lies so far under its tray: such a frame is not judged.
HIGHEST_MM: Final = 300.0
DEEPEST_MM: Final = 150.0
VOLUME_MM3: Final = (10_000.0, 5_000_000.0)
TRAY_BAND_MM: Final = 12.0  # about the rim's median: what is farther from it is product, or noise beyond use
MOST_DEVIATIONS: Final = 5
_HALF, _VALID, _NO_MEASUREMENT = (6, 9), 5, 0
_RIM = ((COLUMN == 0) | (COLUMN == SIDE - 1) | (ROW == 0) | (ROW == SIDE - 1))[:, None]
_PLANE = np.stack([np.ones(ZONES), (COLUMN - 3.5) / 4, (ROW - 3.5) / 4])[:, :, None]


class Surface(NamedTuple):
    """`judged` is false where there is no body to speak of. Deviations: (rounds, frames) heights, 0 for none, and their
    zones, (rounds, 64, frames).
    """

    judged: NDArray[np.bool_]
    usable_zones: Floats
    volume_mm3: Floats
    roughness_mm: Floats
    deviations_mm: Floats
    deviation_zones: NDArray[np.bool_]
    heights: Floats


def zone_weights(status: Floats) -> Floats:
    """1 for a valid target, a half for 6 and 9, else 0. A status of all 0 (some simulators) says nothing."""
    unknown = (status == _NO_MEASUREMENT).all(axis=0)
    half = (status == _HALF[0]) | (status == _HALF[1])
    return np.where((status == _VALID) | unknown, 1.0, np.where(half, 0.5, 0.0))


def _over_tray(distances: Floats, weights: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(heights, whether the tray was seen): over the plane through the rim, which the product may hide in part."""
    rim = np.where(_RIM & (weights > 0.0), distances, np.nan)[_RIM[:, 0]]
    ordered = np.sort(rim, axis=0)  # NaN last
    seen = (~np.isnan(rim)).sum(axis=0)
    middle = np.take_along_axis(ordered, seen[None] // 2, axis=0)[0]
    middle = np.where(seen > 0, middle, 0.0)
    tray = np.where(_RIM & (np.abs(distances - middle) < TRAY_BAND_MM), weights, 0.0)
    weighted = _PLANE * tray
    rows = [fold(weighted[k] * _PLANE[k:]) for k in range(len(_PLANE))]
    level = Symmetric(rows).solve(fold(weighted * (distances - middle)))
    floor = middle + (level[0] + level[1] * _PLANE[1] + level[2] * _PLANE[2])
    return floor - distances, (tray > 0.0).sum(axis=0) >= LEAST_RIM_ZONES


def read_surface(distances: Floats, weights: Floats, zone_area_mm2: Floats, search: Search) -> Surface:
    """(64, frames) distances and zone weights; `zone_area_mm2` of each frame's tray."""
    heights, seen = _over_tray(distances, weights)
    usable = fold(weights)
    product = (heights > PRODUCT_MM) & (weights > 0.0)
    judged = seen & (usable >= LEAST_ZONES) & (product.sum(axis=0) >= LEAST_PRODUCT_ZONES)
    measured = np.where(weights > 0.0, heights, 0.0)
    judged &= (measured.max(axis=0) <= HIGHEST_MM) & (measured.min(axis=0) >= -DEEPEST_MM)
    heights = np.where(judged, heights, 0.0)
    found = strongest(heights, weights, search)
    rounds, zones = [found.mm], [found.mask > 0.0]
    left, frames = heights, np.arange(heights.shape[-1])
    while len(rounds) < MOST_DEVIATIONS and len(again := np.nonzero(rounds[-1][frames] > 0.0)[0]):
        # What was found is taken away; only frames in which something was found are searched again.
        left = left[:, again] - np.where(zones[-1], rounds[-1], 0.0)[:, frames[again]]
        frames = frames[again]
        more = strongest(left, weights[:, frames], search)
        mm, mask = np.zeros(heights.shape[-1]), np.zeros(heights.shape, dtype=bool)
        mm[frames], mask[:, frames] = more.mm, more.mask > 0.0
        rounds.append(mm)
        zones.append(mask)
    fitted = heights - found.residual - np.where(zones[0], rounds[0], 0.0)
    # The body without what was found on it: a foreign body must not make up for a small liver.
    own = heights
    for mm, mask in zip(rounds, zones, strict=True):
        own = own - np.where(mask, mm, 0.0)
    whole = np.where(weights > 0.0, own, np.maximum(fitted, 0.0))
    volume = fold(np.where(product_zones(whole), whole, 0.0)) * zone_area_mm2
    judged &= (volume >= VOLUME_MM3[0]) & (volume <= VOLUME_MM3[1])
    inside = product.astype(np.float64)
    roughness = np.sqrt(fold(found.residual * found.residual * inside) / np.maximum(fold(inside), 1.0))
    return Surface(judged, usable, volume, roughness, np.stack(rounds), np.stack(zones), heights)


def components(zones: NDArray[np.bool_]) -> int:
    """How many separate patches (touching along an edge is one) a mask of 64 zones holds."""
    left, count = {int(zone) for zone in np.nonzero(zones)[0]}, 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            row, column = divmod(edge.pop(), SIDE)
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < SIDE and 0 <= c < SIDE and (near := r * SIDE + c) in left:
                    left.discard(near)
                    edge.append(near)
    return count
