from __future__ import annotations

from dataclasses import replace
from math import pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sqal import livers
from app.sqal.batched import Symmetric, fold
from app.sqal.frame import (
    CHANNELS,
    Reported,
    encode_channels,
    encode_head,
    encode_matrices,
    pack_doubles,
    stack_matrices,
)
from app.sqal.proving import frame_of, prove, random_frames
from app.sqal.recipe_definition import BANDS, SHIPPED, SQAL1, STANDARD_PITCH_MM
from app.sqal.recipes import DeviceProfile, Grading
from app.sqal.spectrum import full_scale, read_spectrum, weight
from app.sqal.sqal1 import Defects, Sqal1Recipe
from app.sqal.surface import components, zone_weights

RECIPE = Sqal1Recipe()
NORMAL = DeviceProfile()
FRESH = [float(livers.FRESH_COUNTS[name]) for name in CHANNELS]
FLOOR = 250.0


def dome(a: float = 85.0, b: float = 42.5, h: float = 80.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    liver = livers.Liver(a, b, h, (0.0, 0.0), 0.3, 0.0)
    return FLOOR - livers.heights_mm(liver).ravel()


def frame(distances: Any = None, counts: list[float] | None = None, status: Any = 5.0) -> bytes:
    zones = np.asarray(dome() if distances is None else distances, dtype=float).tolist()
    return frame_of(zones, counts or FRESH, np.broadcast_to(status, (64,)).tolist())


def grade(one: bytes, profile: DeviceProfile = NORMAL) -> Grading:
    (grading,) = RECIPE.grade([one], [profile])
    return grading


def spectrum_of(counts: list[float]) -> Any:
    return read_spectrum(np.array([counts]).T, np.array([100.0]), BANDS)


POOL = [one for planted in (0.0, 0.0, 15.0, 25.0) for one in random_frames(65, 41 + int(planted), planted)]
POOL_GRADED = RECIPE.grade(POOL, [NORMAL] * len(POOL))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=150))
def test_a_frame_grades_the_same_bits_alone_and_in_any_company(chosen: list[int]) -> None:
    assert RECIPE.grade([POOL[n] for n in chosen], [NORMAL] * len(chosen)) == [POOL_GRADED[n] for n in chosen]


def test_every_bit_before_rounding_is_the_same_alone() -> None:
    together = RECIPE.judge(POOL[:100], [NORMAL] * 100)
    for number in range(100):
        alone = RECIPE.judge([POOL[number]], [NORMAL])
        assert alone.tof[0] == together.tof[number]
        assert alone.surface.roughness_mm[0] == together.surface.roughness_mm[number]
        assert alone.spectrum.score[0] == together.spectrum.score[number]


def test_the_bounds_hold_on_livers_of_another_seed() -> None:
    assert prove(800, 20261).failures == []


def test_a_smooth_body_has_its_volume_and_no_defect() -> None:
    judged = RECIPE.judge([frame()], [NORMAL])
    assert judged.surface.volume_mm3[0] == pytest.approx(2 / 3 * pi * 85 * 42.5 * 80, rel=0.03)
    assert judged.defects[0] == Defects(0, [])
    assert judged.surface.roughness_mm[0] < 2
    assert grade(frame()).grade == "A+"


def test_the_tray_may_be_tilted_and_the_sensor_may_hang_at_any_height() -> None:
    tilt = np.add.outer(np.arange(8) * 1.5, np.arange(8) * -1.0).ravel()
    flat, tilted, high = (RECIPE.judge([frame(d)], [NORMAL]).surface for d in (dome(), dome() + tilt, dome() + 900))
    assert tilted.volume_mm3[0] == pytest.approx(flat.volume_mm3[0], rel=0.02)
    assert abs(tilted.heights[[0, 7, 56, 63]]).max() < 0.5
    assert high.volume_mm3[0] == pytest.approx(flat.volume_mm3[0], rel=0.01)


def test_a_planted_body_is_a_defect_and_lowers_the_score() -> None:
    bad = dome().reshape(8, 8)
    bad[3:6, 4:7] -= 30
    judged = RECIPE.judge([frame(bad.ravel())], [NORMAL])
    assert judged.defects[0].number == 1
    assert judged.defects[0].severities[0] == pytest.approx((30 - 12) / 35, abs=0.15)  # heights scatter by 4 mm
    assert (grade(frame(bad.ravel())).tof or 0) < (grade(frame()).tof or 0)


@given(st.lists(st.floats(0, 60), max_size=5), st.floats(0, 60))
def test_one_more_defect_never_raises_the_score(deviations: list[float], more: float) -> None:
    def clear(found: list[float]) -> float:
        surface = RECIPE.judge([frame()], [NORMAL]).surface._replace(
            deviations_mm=np.array([[one] for one in (found or [0.0])]),
            deviation_zones=np.zeros((max(len(found), 1), 64, 1), dtype=bool),
        )
        return float(RECIPE._defects(surface)[1][0])

    assert clear([*deviations, more]) <= clear(deviations)


@pytest.mark.parametrize(
    ("defects", "rejected"),
    [
        (Defects(0, []), False),
        (Defects(4, [0.1] * 4), False),
        (Defects(5, [0.1] * 5), True),
        (Defects(1, [0.91]), True),
    ],
)
def test_the_hard_rule_overrides_the_score(defects: Defects, rejected: bool) -> None:
    said = RECIPE._grading(True, True, defects, 554_000, 950_000, 950_000, 0, 0, 0, 0)
    assert (said.grade == "REJECT") is rejected
    assert said.score == 950_000


@pytest.mark.parametrize(
    "bad",
    [
        frame(status=[5.0] * 47 + [255.0] * 17),
        frame(status=[5.0] * 30 + [6.0] * 34),
        frame(np.full(64, FLOOR)),
        frame(np.where(np.arange(64) == 27, FLOOR + 151, dome())),
        frame(np.where(np.arange(64) == 27, 300, dome() + 400)),
        frame(counts=[*FRESH[:8], 40_000, FRESH[9]]),
        frame(counts=[*FRESH[:8], 9, FRESH[9]]),
        frame(counts=[5, 5, 5, *FRESH[3:]]),
        frame(counts=[0.0] * 10),
    ],
    ids=[
        "47 zones",
        "30 and 34 halves",
        "empty tray",
        "hole",
        "tower",
        "Clear saturated",
        "Clear dark",
        "three bands dark",
        "no light",
    ],
)
def test_what_cannot_be_judged_is_not_graded(bad: bytes) -> None:
    assert (grade(bad).grade, grade(bad).score) == ("NOT_GRADABLE", None)


@pytest.mark.parametrize("status", [0.0, [5.0] * 48 + [255.0] * 16, [5.0] * 32 + [9.0] * 32])
def test_unknown_status_and_48_weighted_zones_are_enough(status: Any) -> None:
    assert grade(frame(status=status)).grade != "NOT_GRADABLE"


def test_a_four_by_four_frame_is_not_gradable_and_harms_no_neighbour() -> None:
    (planes,) = encode_matrices(stack_matrices([pack_doubles([95.0] * 16)], 1, 4), 1)
    assert planes is not None
    small = encode_head(4, 1, 4.0, 100.0, Reported()) + planes + encode_channels(FRESH)
    gradings = RECIPE.grade([POOL[0], small, POOL[1]], [NORMAL] * 3)
    assert [g.grade for g in gradings][1] == "NOT_GRADABLE"
    assert [gradings[0], gradings[2]] == POOL_GRADED[:2]


def test_the_geometry_comes_from_the_profile() -> None:
    recipe = Sqal1Recipe(replace(SHIPPED[SQAL1], pitch_mm={"half": (STANDARD_PITCH_MM[0] / 2, STANDARD_PITCH_MM[1])}))
    normal, half = recipe.judge([frame()] * 2, [NORMAL, DeviceProfile(profile="half")]).surface.volume_mm3
    assert half == pytest.approx(normal / 2)
    assert recipe.definition.hash != RECIPE.definition.hash


def test_a_body_that_was_found_is_no_volume() -> None:
    small = dome(70.0, 38.0, 70.0)
    bad = small.reshape(8, 8).copy()
    bad[3:6, 4:7] -= 30
    volumes = [RECIPE.judge([frame(one)], [NORMAL]).surface.volume_mm3[0] for one in (small, bad.ravel())]
    planted = 9 * 30 * STANDARD_PITCH_MM[0] * STANDARD_PITCH_MM[1]
    assert volumes[1] - volumes[0] < 0.4 * planted


def test_the_weight_of_a_ratio() -> None:
    values = np.array([0.05, 0.15, 0.20, 0.225, 0.25, 0.45, 0.50, 0.55, 2.0])
    expected = [0.3, 0.4, 0.7, 0.85, 1.0, 1.0, 0.85, 0.7, 0.3]
    assert weight(values, *BANDS["VOR"]).tolist() == pytest.approx(expected)


def test_a_fresh_spectrum_scores_one_and_every_anomaly_costs_a_tenth() -> None:
    assert spectrum_of(FRESH).score[0] == pytest.approx(1.0)
    violet = spectrum_of([FRESH[0] * 2.5, *FRESH[1:]])  # VOR, NVR, OOI far out
    assert violet.anomalies[0] >= 2
    assert violet.score[0] < 1 - 0.1 * violet.anomalies[0]
    assert violet.freshness[0] < 1


def test_full_scale_follows_the_integration_time() -> None:
    assert full_scale(np.array([100.0, 1_000.0, 0.0])).tolist() == [35_971, 65_535, 65_535]


def test_zone_weights_follow_the_status() -> None:
    status = np.array([[5, 6, 9, 255, 4, 0]]).T.astype(float)
    assert zone_weights(status).ravel().tolist() == [1, 0.5, 0.5, 0, 0, 0]
    assert zone_weights(np.zeros((64, 1))).min() == 1


@pytest.mark.parametrize(
    ("zones", "expected"), [([], 0), ([0, 1, 8], 1), ([0, 9], 2), ([7, 8], 2), ([0, 2, 4, 16, 63], 5)]
)
def test_components_touch_along_edges_and_not_around_the_frame(zones: list[int], expected: int) -> None:
    mask = np.zeros(64, dtype=bool)
    mask[zones] = True
    assert components(mask) == expected


@given(st.integers(0, 2**32 - 1))
def test_the_solver_solves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6, 3))
    matrix = np.einsum("ikn,jkn->ijn", root, root) + np.eye(6)[:, :, None]
    right = rng.normal(size=(6, 3))
    system = Symmetric([matrix[k, k:] for k in range(6)])
    expected = np.stack([np.linalg.solve(matrix[:, :, n], right[:, n]) for n in range(3)], axis=1)
    np.testing.assert_allclose(system.solve(right), expected, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(system.quadratic(right), (right * expected).sum(axis=0), rtol=1e-2, atol=1e-4)


def test_folding_is_a_sum() -> None:
    values = np.arange(64.0 * 5).reshape(64, 5)
    assert fold(values).tolist() == values.sum(axis=0).tolist()
