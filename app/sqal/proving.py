"""How well `sqal-1` judges synthetic livers (`app/sqal/livers.py`), whose truth is known: figures for docs/grading.md.

The recipe knows none of the generator's constants; a seed gives the same figures each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.sqal import livers
from app.sqal.body import ZONES
from app.sqal.frame import (
    CHANNELS,
    Reported,
    encode_channels,
    encode_head,
    encode_matrices,
    pack_doubles,
    stack_matrices,
)
from app.sqal.reading import GRADES, NOT_GRADABLE
from app.sqal.recipes import DeviceProfile
from app.sqal.sqal1 import CHUNK, Sqal1Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

PLANTED_MM: Final = (0.0, 10.0, 15.0, 20.0, 25.0)
VALID: Final = 5.0
DISTANCE_AND_STATUS: Final = 0b10001
LABELS: Final = (*GRADES, NOT_GRADABLE)
MOST_FLAGGED_CLEAN: Final = 0.05
LEAST_FOUND: Final = {20.0: 0.75, 25.0: 0.85}
MOST_BIAS: Final = 0.03


class Judged(NamedTuple):
    """What the recipe said of one liver."""

    flagged: bool
    volume_mm3: float
    grade: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Figures over `count` livers of each kind. `flagged` by planted height, where a zone sees its
    area and where it sees its centre; `bias` and `spread` of the clean ones'
    volume, relative; `confusion[true][derived]` over all, the true grade being that of the same liver without noise.
    """

    count: int
    seed: int
    flagged: dict[float, float]
    flagged_at_centres: dict[float, float]
    bias: float
    spread: float
    confusion: dict[str, dict[str, int]]

    @property
    def failures(self) -> list[str]:
        """The bounds that are not met, each a sentence."""
        said = []
        if self.flagged[0.0] > MOST_FLAGGED_CLEAN:
            most = f"at most {MOST_FLAGGED_CLEAN:.0%} may be"
            said.append(f"{self.flagged[0.0]:.1%} of the clean livers are flagged, {most}")
        for planted, least in LEAST_FOUND.items():
            if self.flagged[planted] < least:
                found = f"{self.flagged[planted]:.1%} of the bodies of {planted:.0f} mm are found"
                said.append(f"{found}, {least:.0%} must be")
        if abs(self.bias) > MOST_BIAS:
            said.append(f"the mean volume is off by {self.bias:.1%}, at most {MOST_BIAS:.0%} is allowed")
        return said


def frame_of(distances: Sequence[float], counts: Sequence[float], status: Sequence[float] = (VALID,) * ZONES) -> bytes:
    """A stored frame of one 8 x 8 reading: gain 4, 100 ms."""
    zones = pack_doubles([*distances, *status])
    (planes,) = encode_matrices(stack_matrices([zones], DISTANCE_AND_STATUS, 8), DISTANCE_AND_STATUS)
    if planes is None:
        raise ValueError("a distance is out of range")
    return encode_head(8, DISTANCE_AND_STATUS, 4.0, 100.0, Reported()) + planes + encode_channels(list(counts))


def judge(recipe: Sqal1Recipe, frames: Sequence[bytes]) -> list[Judged]:
    said: list[Judged] = []
    for start in range(0, len(frames), CHUNK):
        some = frames[start : start + CHUNK]
        judged = recipe.judge(some, [DeviceProfile()] * len(some))
        columns = (judged.defects, judged.surface.volume_mm3.tolist(), recipe.gradings(judged))
        said += [
            Judged(bool(defects.severities), volume, grading.grade)
            for defects, volume, grading in zip(*columns, strict=True)
        ]
    return said


class Readings(NamedTuple):
    """Random livers of random lots: as they are, as frames with noise, and as frames without; last with noise again, as
    if each zone saw a point and not an area: nobody knows how near a real sensor is to which.
    """

    livers: list[livers.Liver]
    seen: list[bytes]
    ideal: list[bytes]
    points: list[bytes]


def draw(rng: Generator, count: int, planted_mm: float) -> Readings:
    drawn = [livers.draw_liver(rng, livers.draw_lot_mean_g(rng), planted_mm=planted_mm) for _ in range(count)]
    counts = [livers.channel_counts(liver, rng) for liver in drawn]
    ordered = [[float(one[name]) for name in CHANNELS] for one in counts]
    seen = [livers.distances_mm(liver, rng).ravel().tolist() for liver in drawn]
    ideal = [(livers.FLOOR_MM - livers.heights_mm(liver)).clip(1.0).ravel().tolist() for liver in drawn]
    points = [livers.distances_mm(liver, rng, at_centres=True).ravel().tolist() for liver in drawn]
    frames = ([frame_of(*pair) for pair in zip(some, ordered, strict=True)] for some in (seen, ideal, points))
    return Readings(drawn, *frames)


def random_frames(count: int, seed: int, planted_mm: float = 0.0) -> list[bytes]:
    """Frames of random livers, with noise."""
    return draw(np.random.default_rng(seed), count, planted_mm).seen


def prove(count: int, seed: int, recipe: Sqal1Recipe | None = None) -> Proof:
    """Judge `count` livers of each planted height."""
    recipe = recipe or Sqal1Recipe()
    confusion = {true: dict.fromkeys(LABELS, 0) for true in LABELS}
    flagged: dict[float, float] = {}
    at_centres: dict[float, float] = {}
    bias = spread = 0.0
    for planted in PLANTED_MM:
        drawn, seen, ideal, points = draw(np.random.default_rng((seed, round(planted))), count, planted)
        said, true = judge(recipe, seen), judge(recipe, ideal)
        flagged[planted] = sum(one.flagged for one in said) / count
        at_centres[planted] = sum(one.flagged for one in judge(recipe, points)) / count
        for was, is_ in zip(true, said, strict=True):
            confusion[was.grade][is_.grade] += 1
        if not planted:
            off = np.array([one.volume_mm3 / liver.volume_mm3 - 1.0 for one, liver in zip(said, drawn, strict=True)])
            bias, spread = float(off.mean()), float(off.std())
    return Proof(count, seed, flagged, at_centres, bias, spread, confusion)
