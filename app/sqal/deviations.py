"""Flat deviations from the fitted body: foreign bodies, folds, blisters.

A deviation is a disc of zones. A matched filter, with what the body itself could take up projected out, chooses the
disc; then body and disc are fitted together. The evidence for it is by how much it lowers the sum of squares, against
the better of two fits without it (a fit that went astray is no evidence). Arrays as in app/sqal/body.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.sqal.batched import Symmetric
from app.sqal.body import (
    COLUMN,
    PRODUCT_MM,
    ROW,
    SIDE,
    TERMS,
    ZONES,
    Centres,
    Fit,
    fit,
    from_moments,
    normal_equations,
    slopes_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DISC_RADIUS_ZONES: Final = 1.5
LONGEST_RUN: Final = 4  # zones of a disc in a row, and rows of a disc
SLICE: Final = 512  # frames at once: fewer cost more calls than they save cache
GUESS_MM: Final = 15.0  # of a disc, where its fit begins
LEAST_LEFT: Final = 0.3  # of a disc's zones, after what the body can take up


@dataclass(frozen=True, slots=True)
class Search:
    """How hard to look. In mm2: `suspicion`, the linear score below which no disc is fitted, and the `evidence` that a
    disc must show; a lower one than `least_mm` is none. Quick steps of the body's fit, of each fit with a disc, and of
    the fit without it that begins there; `exact_steps` end the latter two.
    """

    body_steps: int = 4
    disc_steps: int = 3
    back_steps: int = 1
    exact_steps: int = 2
    suspicion: float = 72.0
    evidence: float = 110.0
    least_mm: float = 12.0


class Found(NamedTuple):
    """The strongest deviation of each frame: `mm` is 0 where there is none; `mask` its zones, and what neither body nor
    disc explains, (64, frames).
    """

    mm: Floats
    mask: Floats
    residual: Floats


class Discs(NamedTuple):
    """All discs whose centres lie on a grid: which zones they hold."""

    runs: NDArray[np.intp]  # (discs, 4): a run of zones for each row, see `_runs`
    masks: Floats  # (discs, 64)
    sizes: Floats  # (discs, 1) how many


def _discs(step: float) -> Discs:
    seen: dict[bytes, NDArray[np.bool_]] = {}
    grid = np.arange(0.0, SIDE - 1 + step / 2, step)
    for y in grid:
        for x in grid:
            mask = (COLUMN - x) ** 2 + (ROW - y) ** 2 <= DISC_RADIUS_ZONES**2
            seen.setdefault(mask.tobytes(), mask)
    masks = np.array(list(seen.values()), dtype=np.float64)
    runs = np.full((len(masks), LONGEST_RUN), LONGEST_RUN * ZONES, dtype=np.intp)
    for number, mask in enumerate(masks.reshape(-1, SIDE, SIDE)):
        rows = np.nonzero(mask.any(axis=1))[0]
        for place, row in enumerate(rows):
            zones = np.nonzero(mask[row])[0]
            runs[number, place] = (len(zones) - 1) * ZONES + row * SIDE + zones[0]
    return Discs(runs, masks, masks.sum(axis=1)[:, None])


def _runs(planes: Floats) -> Floats:
    """Sums over each run of 1 to 4 neighbours in a row, one length after the other, then 0: (planes, 257, frames)."""
    table = [planes]
    for length in range(2, LONGEST_RUN + 1):
        longer = np.zeros_like(planes)
        longer[:, : 1 - length] = table[-1][:, : 1 - length] + planes[:, length - 1 :]
        table.append(longer)
    return np.concatenate([*table, np.zeros_like(planes[:, :1])], axis=1)


FINE: Final = _discs(0.25)


def _boxes(planes: Floats) -> Floats:
    """Sums over 3 x 3 zones about each, (planes, 64, frames): the discs whose centres are zones' centres."""
    zones = planes.reshape(len(planes), SIDE, SIDE, -1)
    rows = zones.copy()
    rows[:, 1:] += zones[:, :-1]
    rows[:, :-1] += zones[:, 1:]
    boxes = rows.copy()
    boxes[:, :, 1:] += rows[:, :, :-1]
    boxes[:, :, :-1] += rows[:, :, 1:]
    return boxes.reshape(planes.shape)


BOX_SIZES: Final = _boxes(np.ones((1, ZONES, 1)))[0]


class _Filter:
    """Scores discs by how much each, fitted with the body, would lower the sum of squares: linearised at a fit."""

    def __init__(self, fitted: Fit, weights: Floats, heights: Floats) -> None:
        slopes = slopes_of(fitted.shape)
        rows, weighted = normal_equations(slopes, weights)
        self._system = Symmetric(rows)
        inside = (heights > PRODUCT_MM).astype(np.float64)
        self._planes = np.stack([*weighted, weights * fitted.residual, weights, inside])

    def coarse(self) -> Floats:
        """The highest score of a disc about a zone's centre, for each frame."""
        best: Floats = self._score(_boxes(self._planes), BOX_SIZES).max(axis=0)
        return best

    def best(self, discs: Discs) -> NDArray[np.intp]:
        """The disc with the highest score, for each frame."""
        runs = _runs(self._planes)
        sums = runs[:, discs.runs[:, 0]]
        for column in range(1, LONGEST_RUN):
            sums += runs[:, discs.runs[:, column]]
        place: NDArray[np.intp] = self._score(sums, discs.sizes).argmax(axis=0)
        return place

    def _score(self, sums: Floats, sizes: Floats) -> Floats:
        """(planes, discs, frames) sums over discs -> scores, 0 for what is no fair disc."""
        along, towards, own, inside = sums[:TERMS], sums[TERMS], sums[TERMS + 1], sums[TERMS + 2]
        left = own - self._system.quadratic(along)
        # At least half on the product, above the body, and not what another body would explain as well.
        fair = (2.0 * inside >= sizes) & (left > LEAST_LEFT) & (towards > 0.0)
        return np.where(fair, towards * towards / np.where(fair, left, 1.0), 0.0)


def _some(fitted: Fit, frames: NDArray[np.intp]) -> Fit:
    return Fit(fitted.shape[:, frames], fitted.disc_mm[frames], fitted.residual[:, frames], fitted.squares[frames])


def strongest(heights: Floats, weights: Floats, search: Search) -> Found:
    """The strongest deviation of each frame."""
    found = [
        _strongest(heights[:, at : at + SLICE], weights[:, at : at + SLICE], search)
        for at in range(0, heights.shape[-1], SLICE)
    ]
    return Found(*(np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True)))


def _strongest(heights: Floats, weights: Floats, search: Search) -> Found:
    body = fit(heights, weights, from_moments(heights), search.body_steps)
    score = _Filter(body, weights, heights).coarse()
    mm, mask, residual = np.zeros(heights.shape[-1]), np.zeros(heights.shape), body.residual
    odd = np.nonzero(score > search.suspicion)[0]
    if len(odd):
        mine, own, first = heights[:, odd], weights[:, odd], _some(body, odd)
        fine = _Filter(first, own, mine).best(FINE)
        disc = FINE.masks[fine].T
        both = fit(mine, own, first.shape, search.disc_steps, search.exact_steps, disc)
        without = mine - GUESS_MM * disc
        other = fit(without, own, from_moments(without), search.disc_steps, search.exact_steps, disc)
        other.disc_mm = other.disc_mm + GUESS_MM
        both = both.take(other.squares < both.squares, other)
        again = fit(mine, own, both.shape, search.back_steps, search.exact_steps)
        alone = first.take(again.squares < first.squares, again)
        # The same as if a zone saw its centre and not its whole area: where a liver's edge is steep, the difference
        # between the two looks like a disc. The better explanation counts, with a disc and without.
        steps = search.back_steps, search.exact_steps
        with_disc = fit(mine, own, both.shape, *steps, disc, zones=Centres)
        plain = fit(mine, own, alone.shape, *steps, zones=Centres)
        both = both.take(with_disc.squares < both.squares, with_disc)
        alone = alone.take(plain.squares < alone.squares, plain)
        evident = (alone.squares - both.squares > search.evidence) & (both.disc_mm > search.least_mm)
        mm[odd], mask[:, odd] = np.where(evident, both.disc_mm, 0.0), np.where(evident, disc, 0.0)
        residual[:, odd] = np.where(evident, both.residual, alone.residual)
    return Found(mm, mask, residual)
