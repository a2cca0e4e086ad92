"""The body on the tray: a half-ellipsoid fitted to the zones' heights.

All arrays hold the 64 zones of an 8 x 8 frame (rows first) along the last axis but one and the frames along the last.
Lengths in mm, positions in quarters of the tray's half (zone centres at (i - 3.5) / 4): no sensor geometry enters.

Inside the footprint of a half-ellipsoid the height's square is a quadratic polynomial of the position. The model is the
mean over four points a zone of the root of that polynomial, fitted by Levenberg-Marquardt from the moments of the
heights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from app.sqal.batched import Symmetric, fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SIDE: Final = 8
ZONES: Final = SIDE * SIDE
TERMS: Final = 6  # 1, x, y, xx, xy, yy
STEEPEST_MM: Final = 6.0  # the edge of an ellipsoid is vertical: below this height its slope is held
PRODUCT_MM: Final = 15.0
COLUMN, ROW = np.arange(ZONES) % SIDE, np.arange(ZONES) // SIDE


FINE_SIDE: Final = 2 * SIDE  # two points a zone and axis
_POINT: Final = (np.arange(FINE_SIDE) - 7.5) / 8
_X, _Y = _POINT[None, :, None], _POINT[:, None, None]
_ZONE_X, _ZONE_Y = ((COLUMN - 3.5) / 4)[:, None], ((ROW - 3.5) / 4)[:, None]
_CENTRE: Final = (np.arange(SIDE) - 3.5) / 4
_POWERS: Final = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))  # of x and y, in the order of the terms
_ZONE_AREA: Final = 1 / 16  # in the units of position


@dataclass(slots=True)
class Fit:
    """A fitted body, with a disc of `disc_mm` added where one was asked for; `residual` is measured minus fitted."""

    shape: Floats  # (6, frames)
    disc_mm: Floats
    residual: Floats  # (64, frames)
    squares: Floats  # weighted sum of the residuals' squares, (frames,)

    def take(self, better: NDArray[np.bool_], other: Fit) -> Fit:
        """For each frame this fit, or the other where that is better."""
        return Fit(
            np.where(better, other.shape, self.shape),
            np.where(better, other.disc_mm, self.disc_mm),
            np.where(better, other.residual, self.residual),
            np.where(better, other.squares, self.squares),
        )


def product_zones(heights: Floats) -> NDArray[np.bool_]:
    """Zones that hold product, grown by one in all directions: what a threshold would cut off at the edge counts."""
    above = np.zeros((SIDE + 2, SIDE + 2, heights.shape[-1]), dtype=bool)
    above[1:-1, 1:-1] = (heights > PRODUCT_MM).reshape(SIDE, SIDE, -1)
    wide = above[:-2] | above[1:-1] | above[2:]
    grown: NDArray[np.bool_] = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    return grown.reshape(ZONES, -1)


def from_moments(heights: Floats) -> Floats:
    """The half-ellipsoid that has the moments of the heights' squares, which noise at the rim hardly moves."""
    mass = np.where(heights > PRODUCT_MM, heights * heights, 0.0)
    total = np.maximum(fold(mass), 1.0)
    mx, my = fold(mass * _ZONE_X) / total, fold(mass * _ZONE_Y) / total
    dx, dy = _ZONE_X - mx, _ZONE_Y - my
    moment = mass * dx
    width = _ZONE_AREA / 12  # a zone's own second moment
    cxx = np.maximum(fold(moment * dx) / total - width, 0.01)
    cyy = np.maximum(fold(mass * dy * dy) / total - width, 0.01)
    limit = 0.9 * np.sqrt(cxx * cyy)
    cxy = np.minimum(np.maximum(fold(moment * dy) / total, -limit), limit)
    # Weighted by the height's square, the variance along an axis of a half-ellipsoid is the axis' square / 6.
    area = 36.0 * (cxx * cyy - cxy * cxy)
    p, r, q = 6 * cyy / area, 6 * cxx / area, -6 * cxy / area
    k = 2.0 * total * _ZONE_AREA / (np.pi * np.sqrt(area))
    return np.stack(
        [
            k * (1 - p * mx * mx - 2 * q * mx * my - r * my * my),
            k * (2 * p * mx + 2 * q * my),
            k * (2 * q * mx + 2 * r * my),
            -k * p,
            -2 * k * q,
            -k * r,
        ]
    )


def evaluate(shape: Floats) -> tuple[Floats, Floats]:
    """(square of the height, height) at the points, four a zone: (16, 16, frames)."""
    c0, c1, c2, c3, c4, c5 = shape
    x, y = _X[0], _Y[:, 0]
    square = (c2 + c4 * x) * _Y
    square += c0 + x * (c1 + c3 * x)
    square += (c5 * (y * y))[:, None]
    height = np.maximum(square, 0.0)
    return square, np.sqrt(height, out=height)


def _pairs_of_rows(points: Floats) -> Floats:
    return points[0::2] + points[1::2]


def _pairs_of_columns(points: Floats) -> Floats:
    return points[:, 0::2] + points[:, 1::2]


def _mean(points: Floats) -> Floats:
    """The mean of each zone's four points, (64, frames)."""
    return (0.25 * _pairs_of_columns(_pairs_of_rows(points))).reshape(ZONES, -1)


def _point_slopes(square: Floats, height: Floats) -> Floats:
    """How the mean of a zone's four points follows the polynomial at each, (16, 16, frames)."""
    return np.where(square > 0.0, 0.125 / np.maximum(height, STEEPEST_MM), 0.0)


def slopes_of(shape: Floats) -> Floats:
    """How each zone's mean height follows the six terms, (6, 64, frames)."""
    return _slopes(_point_slopes(*evaluate(shape)))


def _slopes(s: Floats) -> Floats:
    rows, columns, sx = _pairs_of_rows(s), _pairs_of_columns(s), _pairs_of_columns(s * _X)
    rx, cy = rows * _X, columns * _Y
    terms = (
        _pairs_of_columns(rows),
        _pairs_of_columns(rx),
        _pairs_of_rows(cy),
        _pairs_of_columns(rx * _X),
        _pairs_of_rows(sx * _Y),
        _pairs_of_rows(cy * _Y),
    )
    return np.stack(terms).reshape(TERMS, ZONES, -1)


def normal_equations(slopes: Floats, weights: Floats) -> tuple[list[Floats], Floats]:
    """The rows of slopes^T W slopes, and W slopes."""
    weighted = slopes * weights
    return [fold(weighted[k] * slopes[k:]) for k in range(len(slopes))], weighted


class Areas:
    """A zone sees the body's mean over its area: four points. Slopes are those of the polynomial at the points."""

    @staticmethod
    def see(shape: Floats) -> tuple[Floats, Floats]:
        """(zones' heights, (64, frames); slopes at the points, (16, 16, frames))."""
        square, height = evaluate(shape)
        return _mean(height), _point_slopes(square, height)

    @staticmethod
    def of_zones(points: Floats) -> Floats:
        """Slopes of whole zones, (8, 8, frames)."""
        return _pairs_of_columns(_pairs_of_rows(points))

    @staticmethod
    def of_terms(points: Floats) -> Floats:
        """How each zone's height follows the six terms, (6, 64, frames)."""
        return _slopes(points)


class Centres:
    """A zone sees the body at its centre: one point, (8, 8, frames). Otherwise as `Areas`."""

    @staticmethod
    def see(shape: Floats) -> tuple[Floats, Floats]:
        c0, c1, c2, c3, c4, c5 = shape
        x, y = _CENTRE[:, None], _CENTRE[:, None, None]
        square = c0 + x * (c1 + c3 * x) + y * (c2 + c4 * x + c5 * y)
        height = np.sqrt(np.maximum(square, 0.0))
        return height.reshape(ZONES, -1), np.where(square > 0.0, 0.5 / np.maximum(height, STEEPEST_MM), 0.0)

    @staticmethod
    def of_zones(points: Floats) -> Floats:
        return points

    @staticmethod
    def of_terms(points: Floats) -> Floats:
        return _centre_slopes(points)


Zones = type[Areas] | type[Centres]


def _centre_slopes(s: Floats) -> Floats:
    x, y = _CENTRE[:, None], _CENTRE[:, None, None]
    sx, sy = s * x, s * y
    return np.stack((s, sx, sy, sx * x, sx * y, sy * y)).reshape(TERMS, ZONES, -1)


def _moments(zones: Floats, degree: int) -> list[Floats]:
    """Sums over (8, 8, frames) of x^a y^b at the zones' centres: [b][a], for all a + b <= degree."""
    columns = []
    for a in range(degree + 1):
        columns.append(fold(zones))
        if a < degree:
            zones = zones * _CENTRE[:, None]
    along_y = np.stack(columns)
    sums = [fold(along_y)]
    for b in range(1, degree + 1):
        along_y = along_y[: degree + 1 - b] * _CENTRE[:, None]
        sums.append(fold(along_y))
    return sums


def _exact_equations(
    zones: Zones, points: Floats, weights: Floats, residual: Floats, disc: Floats | None
) -> tuple[list[Floats], Floats]:
    """Rows of the normal equations of a step and their right side."""
    slopes = zones.of_terms(points)
    if disc is not None:
        slopes = np.concatenate([slopes, disc[None]])
    rows, weighted = normal_equations(slopes, weights)
    return rows, fold(weighted * residual)


def _quick_equations(
    zones: Zones, points: Floats, weights: Floats, residual: Floats, disc: Floats | None
) -> tuple[list[Floats], Floats]:
    """The same, each zone's slopes taken at its centre: the direction of a step is nearly right, for a quarter of the
    price. What a step achieves is measured exactly.
    """
    slopes = zones.of_zones(points)
    weighted = weights.reshape(slopes.shape) * slopes
    twice = _moments(weighted * slopes, 4)
    once = _moments(weighted * residual.reshape(slopes.shape), 2)
    rows = [np.stack([twice[b + d][a + c] for c, d in _POWERS[k:]]) for k, (a, b) in enumerate(_POWERS)]
    right = [once[b][a] for a, b in _POWERS]
    if disc is not None:
        shared = _moments(weighted * disc.reshape(slopes.shape), 2)
        rows = [np.concatenate([row, shared[b][a][None]]) for row, (a, b) in zip(rows, _POWERS, strict=True)]
        held = weights * disc
        rows.append(fold(held)[None])
        right.append(fold(held * residual))
    return rows, np.stack(right)


def fit(
    heights: Floats,
    weights: Floats,
    shape: Floats,
    quick_steps: int,
    steps: int = 0,
    disc: Floats | None = None,
    *,
    zones: Zones = Areas,
) -> Fit:
    """`quick_steps` cheap steps of Levenberg-Marquardt from `shape`, then `steps` with the exact slopes; with `disc`
    (64, frames), its height is fitted too.
    """
    disc_mm = np.zeros(heights.shape[-1])
    seen, points = zones.see(shape)
    residual = heights - seen
    squares = fold(weights * residual * residual)
    damping = np.full(heights.shape[-1], 0.01)
    for left in range(quick_steps + steps - 1, -1, -1):
        equations = _exact_equations if left < steps else _quick_equations
        rows, right = equations(zones, points, weights, residual, disc)
        step = Symmetric(rows, damping).solve(right)
        tried = shape + step[:TERMS]
        seen, tried_points = zones.see(tried)
        tried_residual = heights - seen
        tried_mm = disc_mm
        if disc is not None:
            tried_mm = disc_mm + step[TERMS]
            tried_residual = tried_residual - tried_mm * disc
        tried_squares = fold(weights * tried_residual * tried_residual)
        better = tried_squares < squares
        shape, disc_mm = np.where(better, tried, shape), np.where(better, tried_mm, disc_mm)
        residual, squares = np.where(better, tried_residual, residual), np.where(better, tried_squares, squares)
        if left:
            points = np.where(better, tried_points, points)
            damping = np.where(better, damping * 0.2, damping * 8.0)
    return Fit(shape, disc_mm, residual, squares)
