"""What the ten channels say: six ratios, indices made of them, and a score. Uncalibrated: not fat, not freshness.

Arrays hold channels (or ratios) along the first axis and frames along the last. Elementwise arithmetic only, so that a
frame comes out the same in any company.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.sqal.frame import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DARK_COUNTS: Final = 10
COUNT_STEP_MS: Final = 0.00278  # full scale is integration time / 2.78 us, at most 65,535
MAX_COUNTS: Final = 65_535
TOO_MANY_BANDS: Final = 3
LEAST_WEIGHT: Final = 0.3
EDGE_LOSS: Final = 0.3  # of the weight, across the acceptable band
ANOMALY_LOSS: Final = 0.10
MOST_ANOMALY_LOSS: Final = 0.5
FRESHNESS: Final = {"VOR": 0.6, "FMI": 0.4}
FAT_QUALITY: Final = {"LOI": 0.6, "OOI": 0.4}
SCORE: Final = {"freshness": 0.35, "fat_quality": 0.45, "color_uniformity": 0.20}
# All of it, for a recipe's hash.
CONSTANTS: Final = {
    "dark_counts": DARK_COUNTS,
    "count_step_ms": COUNT_STEP_MS,
    "too_many_bands": TOO_MANY_BANDS,
    "least_weight": LEAST_WEIGHT,
    "edge_loss": EDGE_LOSS,
    "anomaly_loss": ANOMALY_LOSS,
    "most_anomaly_loss": MOST_ANOMALY_LOSS,
    "freshness": FRESHNESS,
    "fat_quality": FAT_QUALITY,
    "score": SCORE,
}
_CLEAR: Final = CHANNELS.index("Clear")
_F = {name.split("_", maxsplit=1)[0]: number for number, name in enumerate(CHANNELS)}
# Numerator and denominator of each ratio.
RATIOS: Final = {
    "VOR": (("F1",), ("F7",)),
    "NVR": (("NIR",), ("F1",)),
    "DIS": (("F5", "F6"), ("F1", "F2")),
    "LOI": (("F7", "F8"), ("F4",)),
    "FMI": (("F1", "F2"), ("F7", "F8")),
    "OOI": (("F1", "F3"), ("F5", "F6")),
}


class Spectrum(NamedTuple):
    """Indices and score in 0..1; `judged` is false where saturation, darkness or a zero denominator leave nothing."""

    judged: NDArray[np.bool_]
    ratios: Floats  # (6, frames), in the order of RATIOS
    freshness: Floats
    fat_quality: Floats
    oxidation: Floats
    color_uniformity: Floats
    anomalies: NDArray[np.int64]
    score: Floats


def full_scale(integration_ms: Floats) -> Floats:
    """Counts at which a channel saturates; with an unknown integration time (0) the converter's end."""
    steps = np.floor(integration_ms / COUNT_STEP_MS)
    return np.where(integration_ms > 0.0, np.minimum(MAX_COUNTS, steps), float(MAX_COUNTS))


def _sum(counts: Floats, names: tuple[str, ...]) -> Floats:
    total: Floats = counts[_F[names[0]]]
    for name in names[1:]:
        total = total + counts[_F[name]]
    return total


def weight(value: Floats, low: float, high: float, least: float, most: float) -> Floats:
    """1 within low..high, falling in a line to 0.7 at `least` and `most`, on with the same slope to 0.3."""
    below = np.maximum(low - value, 0.0) / (low - least)
    above = np.maximum(value - high, 0.0) / (most - high)
    return np.maximum(LEAST_WEIGHT, 1.0 - EDGE_LOSS * (below + above))


def read_spectrum(
    counts: Floats, integration_ms: Floats, bands: Mapping[str, tuple[float, float, float, float]]
) -> Spectrum:
    """(10, frames) counts; `bands` are (optimal low, high, acceptable low, high) by ratio."""
    saturated, dark = counts >= full_scale(integration_ms), counts < DARK_COUNTS
    unfit = saturated | dark
    visible = unfit.sum(axis=0) - unfit[_CLEAR]
    judged = ~unfit[_CLEAR] & (visible < TOO_MANY_BANDS)
    weights, ratios = {}, []
    anomalies = unfit.sum(axis=0)
    for name, (upper, lower) in RATIOS.items():
        bottom = _sum(counts, lower)
        judged &= bottom > 0.0
        ratio = _sum(counts, upper) / np.where(bottom > 0.0, bottom, 1.0)
        low, high, least, most = bands[name]
        anomalies = anomalies + ((ratio < least) | (ratio > most))
        weights[name] = weight(ratio, low, high, least, most)
        ratios.append(ratio)
    freshness = FRESHNESS["VOR"] * weights["VOR"] + FRESHNESS["FMI"] * weights["FMI"]
    fat_quality = FAT_QUALITY["LOI"] * weights["LOI"] + FAT_QUALITY["OOI"] * weights["OOI"]
    color = weights["DIS"]
    loss = np.minimum(ANOMALY_LOSS * anomalies, MOST_ANOMALY_LOSS)
    weighed = SCORE["freshness"] * freshness + SCORE["fat_quality"] * fat_quality + SCORE["color_uniformity"] * color
    score = np.maximum(0.0, weighed - loss)
    return Spectrum(judged, np.stack(ratios), freshness, fat_quality, 1.0 - fat_quality, color, anomalies, score)
