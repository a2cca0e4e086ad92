"""Messages in today's wire form, from synthetic livers: coherent numbers, the fleet's field names and bulk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.sqal import livers

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

LIVERS_A_LOT: Final = 40
IDEAL_VOLUME_MM3: Final = 554_000.0
FARMERS: Final = (
    "Ferme Martin", "Ferme Dubois", "Elevage Lafitte", "Gaec du Moulin", "Ferme Larrieu", "Elevage Capdeville",
)  # fmt: skip
ORIGINS: Final = ("Périgord, France", "Landes, France", "Gers, France")
GRADES: Final = ((0.85, "A+"), (0.75, "A"), (0.60, "B"), (0.45, "C"), (0.0, "REJECT"))
# Bands of the six ratios: optimal, then acceptable.
BANDS: Final = {
    "violet_orange_ratio": (0.25, 0.45, 0.20, 0.55),
    "nir_violet_ratio": (1.2, 1.8, 1.0, 2.0),
    "discoloration_index": (1.3, 1.7, 1.1, 2.0),
    "lipid_oxidation_index": (0.8, 1.2, 0.7, 1.4),
    "freshness_meat_index": (0.35, 0.65, 0.25, 0.75),
    "oil_oxidation_index": (0.5, 0.8, 0.4, 0.9),
}


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _grade(score: float) -> str:
    return next(grade for least, grade in GRADES if score >= least)


def _weight(value: float, band: tuple[float, float, float, float]) -> float:
    """1 in the optimal band, falling to 0.7 at the edge of the acceptable one and on to 0.3."""
    low, high, acceptable_low, acceptable_high = band
    if low <= value <= high:
        return 1.0
    edge, outer = (low, acceptable_low) if value < low else (high, acceptable_high)
    return max(0.3, 1 - 0.3 * abs(value - edge) / abs(outer - edge))


class MessageMaker:
    """Makes the messages of one device, reproducibly from a seed; only the times come from the caller."""

    def __init__(self, device_id: str, site: str, number: int, seed: int) -> None:
        self._rng: Generator = np.random.default_rng((seed, number))
        self.device_id = device_id
        self._site = site
        self._made = 0
        self._booted: datetime | None = None
        self._line = f"Ligne {'ABCDEFGH'[number % 8]}"
        self._mac = "24:0A:C4:" + ":".join(
            f"{byte:02X}" for byte in (number >> 16 & 255, number >> 8 & 255, number & 255)
        )
        self._new_lot()

    def _new_lot(self) -> None:
        self._lot_mean_g = livers.draw_lot_mean_g(self._rng)
        self._lot_number = int(self._rng.integers(1, 10_000))
        self._farmer = FARMERS[int(self._rng.integers(len(FARMERS)))]
        self._origin = ORIGINS[int(self._rng.integers(len(ORIGINS)))]

    def hello(self, now: datetime) -> dict[str, Any]:
        return {
            "type": "esp32_hello",
            "device_id": self.device_id,
            "mac_address": self._mac,
            "location": self._line,
            "ip_address": "192.0.2.17",
            "firmware_version": "1.0.0",
            "sensors": {"vl53l8ch": "0x29", "as7341": "0x39"},
            "timestamp": _iso(now),
        }

    def heartbeat(self, now: datetime, *, sent: int, buffered: int, reconnections: int) -> dict[str, Any]:
        self._booted = self._booted or now
        uptime = int((now - self._booted).total_seconds())
        return {
            "type": "heartbeat",
            "device_id": self.device_id,
            "status": "online",
            "uptime": uptime,
            "stats": {
                "measurements_sent": sent,
                "measurements_buffered": buffered,
                "reconnections": reconnections,
                "i2c_errors": 0,
                "uptime_seconds": uptime,
            },
            "buffer_size": buffered,
            "timestamp": _iso(now),
        }

    def sample(self, now: datetime) -> dict[str, Any]:
        """One `sensor_data` message, about 20 kB as JSON."""
        if self._made % LIVERS_A_LOT == LIVERS_A_LOT - 1:
            self._new_lot()
        self._made += 1
        rng = self._rng
        liver = livers.draw_liver(rng, self._lot_mean_g)
        tof = self._tof_block(livers.distances_mm(liver, rng), now)
        spectral = self._spectral_block(livers.channel_counts(liver, rng), now)
        sample_id = f"{self._site}-{now:%y%m%d}-{self._lot_number:04d}-{self._made % 1000:03d}"
        return {
            "type": "sensor_data",
            "timestamp": _iso(now),
            "sample_id": sample_id,
            "device_id": self.device_id,
            "location": self._line,
            "vl53l8ch": tof,
            "as7341": spectral,
            "fusion": self._fusion_block(sample_id, tof, spectral),
            "meta": {
                "device_id": self.device_id,
                "firmware_version": "1.0.0",
                "temperature_c": round(float(rng.normal(4, 0.5)), 3),
                "humidity_percent": 78.0,
                "config_profile": "foiegras_standard_barquette",
            },
            "lot_abattage": f"LOT-{now:%Y%m%d}-{self._site}-{self._lot_number:04d}",
            "eleveur": self._farmer,
            "provenance": self._origin,
        }

    def _tof_block(self, distances: NDArray[np.float64], now: datetime) -> dict[str, Any]:
        rng = self._rng
        shape = distances.shape
        heights = livers.FLOOR_MM - distances
        covered = heights > 2.5 * livers.NOISE_MM
        volume = float(heights[covered].sum() * livers.PITCH_MM[0] * livers.PITCH_MM[1])
        volume_term = max(0.0, 1 - abs(volume / IDEAL_VOLUME_MM3 - 1) / 0.6)
        score = float(np.clip(0.5 * volume_term + 0.3 * rng.uniform(0.75, 0.95) + 0.2, 0, 1))
        reflectance = np.where(covered, rng.normal(52, 4, shape), rng.normal(72, 3, shape))
        amplitude = np.where(covered, 1_100, 480) * rng.normal(1, 0.08, shape)
        figures = {
            "volume_mm3": volume,
            "base_area_mm2": float(covered.sum() * livers.PITCH_MM[0] * livers.PITCH_MM[1]),
            "average_height_mm": float(heights[covered].mean()) if covered.any() else 0.0,
            "max_height_mm": float(heights.max()),
            "min_height_mm": max(0.0, float(heights.min())),
            "height_range_mm": float(np.ptp(heights)),
            "surface_uniformity": float(rng.uniform(0.7, 0.95)),
        }
        analyses = ("surface_roughness", "signal_quality", "texture_score", "density_score")
        return {
            "timestamp": now.timestamp(),
            "stats": {**figures, "occupied_pixels": int(covered.sum()), "height_variation_mm": float(heights.std())},
            "bins_analysis": {
                "multi_peak_count": rng.integers(0, 2, shape).tolist(),
                **{name: rng.uniform(0.1, 0.3, shape).tolist() for name in analyses},
                "peak_bin_map": rng.integers(0, 5, shape).tolist(),
            },
            "reflectance_analysis": {
                "avg_reflectance": float(reflectance.mean()),
                "reflectance_uniformity": float(rng.uniform(0.8, 0.95)),
                "optical_anomalies": [],
            },
            "amplitude_consistency": {
                "avg_amplitude": float(amplitude.mean()),
                "amplitude_std": float(amplitude.std()),
                "signal_stability": float(rng.uniform(0.85, 0.97)),
            },
            "defects": self._claimed_defects(heights, covered),
            "quality_score": score,
            "score_breakdown": {"volume_score": volume_term, "uniformity_score": 0.85, "defect_penalty": 0.0},
            "grade": _grade(score),
            "processing_time_s": float(rng.uniform(0.02, 0.05)),
            **figures,
            "distance_matrix": distances.round(2).tolist(),
            "reflectance_matrix": np.clip(reflectance, 0, None).tolist(),
            "amplitude_matrix": np.clip(amplitude, 0, None).tolist(),
            "ambient_matrix": np.clip(rng.normal(118, 8, shape), 0, None).tolist(),
            "status_matrix": np.full(shape, 5).tolist(),
        }

    def _claimed_defects(self, heights: NDArray[np.float64], covered: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """The "foreign bodies" that today's firmware sees on every liver: its highest zones."""
        order = np.argsort(-heights, axis=None)[: int(self._rng.integers(9, 15))]
        zones = [divmod(int(zone), livers.SIDE) for zone in order if covered.flat[zone]]
        return [
            {
                "pos": [row, column],
                "type": "corps_etranger",
                "severity": float(self._rng.uniform(0.3, 1.0)),
                "deviation_mm": float(heights[row, column]),
            }
            for row, column in zones
        ]

    def _spectral_block(self, counts: dict[str, int], now: datetime) -> dict[str, Any]:
        f = [counts[name] for name in livers.FRESH_COUNTS]
        ratios = {
            "violet_orange_ratio": f[0] / f[6],
            "nir_violet_ratio": f[9] / f[0],
            "discoloration_index": (f[4] + f[5]) / (f[0] + f[1]),
            "lipid_oxidation_index": (f[6] + f[7]) / f[3],
            "freshness_meat_index": (f[0] + f[1]) / (f[6] + f[7]),
            "oil_oxidation_index": (f[0] + f[2]) / (f[4] + f[5]),
        }
        w = {name: _weight(ratio, BANDS[name]) for name, ratio in ratios.items()}
        freshness = 0.6 * w["violet_orange_ratio"] + 0.4 * w["freshness_meat_index"]
        fat = 0.6 * w["lipid_oxidation_index"] + 0.4 * w["oil_oxidation_index"]
        color = w["discoloration_index"]
        indices = {
            "freshness_index": freshness,
            "fat_quality_index": fat,
            "oxidation_index": 1 - fat,
            "color_uniformity": color,
        }
        score = min(1.0, 0.35 * freshness + 0.45 * fat + 0.20 * color)
        return {
            "spectral_ratios": ratios,
            "quality_metrics": {**indices, "quality_score": score, "defects_detected": []},
            "grade": _grade(score),
            "quality_score": score,
            "defects": [],
            "meta": {"timestamp": now.timestamp(), "integration_time_ms": 100, "gain": 4, "location": self._line},
            "channels": counts,
            "integration_time": 100,
            "gain": 4,
            **indices,
        }

    def _fusion_block(self, sample_id: str, tof: dict[str, Any], spectral: dict[str, Any]) -> dict[str, Any]:
        final = 0.6 * tof["quality_score"] + 0.4 * spectral["quality_score"]
        return {
            "sample_id": sample_id,
            "final_grade": _grade(final),
            "final_score": final,
            "is_compliant": _grade(final) != "REJECT",
            "tof_score": tof["quality_score"],
            "spectral_score": spectral["quality_score"],
            "tof_contribution": 0.6,
            "spectral_contribution": 0.4,
            "combined_defects": tof["defects"],
            "num_defects": len(tof["defects"]),
            "defects": tof["defects"],
            "fusion_mode": "ToF + Spectral",
            "vl53l8ch_grade": tof["grade"],
            "vl53l8ch_score": tof["quality_score"],
            "as7341_grade": spectral["grade"],
            "as7341_score": spectral["quality_score"],
        }
