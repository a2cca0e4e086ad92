from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sqal.frame import Reported, encode_head
from app.sqal.recipe_book import recipe_book
from app.sqal.recipes import DeviceProfile, ReportedRecipe, Scale

RECIPE = ReportedRecipe()
NORMAL, TRUSTED = DeviceProfile(), DeviceProfile(trust_defects=True)


def frame(**reported: int) -> bytes:
    return encode_head(8, 0, None, None, Reported(**reported))


def grade(profile: DeviceProfile = NORMAL, **reported: int) -> tuple[str, int | None]:
    (grading,) = RECIPE.grade([frame(**reported)], [profile])
    return grading.grade, grading.score


@pytest.mark.parametrize(
    ("score", "label"),
    [
        (1_000_000, "A+"), (850_000, "A+"), (849_999, "A"), (750_000, "A"), (749_999, "B"), (600_000, "B"),
        (599_999, "C"), (450_000, "C"), (449_999, "REJECT"), (0, "REJECT"),
    ],
)  # fmt: skip
def test_thresholds_are_inclusive(score: int, label: str) -> None:
    assert Scale(RECIPE.definition).grade(score) == label


def test_the_score_is_sixty_percent_tof_and_forty_spectral() -> None:
    assert grade(tof=852_500, spectral=1_000_000) == ("A+", 911_500)


@pytest.mark.parametrize("missing", [{"tof": 900_000}, {"spectral": 900_000}, {}])
def test_without_both_sub_scores_it_cannot_be_graded(missing: dict[str, Any]) -> None:
    assert grade(**missing) == ("NOT_GRADABLE", None)


def test_the_defect_list_counts_only_when_the_device_is_trusted() -> None:
    good: dict[str, Any] = {"tof": 900_000, "spectral": 900_000}
    assert grade(**good, defects=14, worst_severity=1_000_000)[0] == "A+"
    assert grade(TRUSTED, **good, defects=5, worst_severity=0)[0] == "REJECT"
    assert grade(TRUSTED, **good, defects=1, worst_severity=900_001)[0] == "REJECT"
    assert grade(TRUSTED, **good, defects=4, worst_severity=900_000)[0] == "A+"


micros = st.integers(-1, 1_000_000)


@given(st.lists(st.tuples(micros, micros, st.integers(-1, 20), micros, st.booleans()), max_size=50))
def test_a_frame_grades_the_same_alone_and_in_a_group(rows: list[tuple[int, int, int, int, bool]]) -> None:
    frames = [frame(tof=t, spectral=s, defects=d, worst_severity=w) for t, s, d, w, _ in rows]
    profiles = [TRUSTED if trusted else NORMAL for *_, trusted in rows]
    alone = [RECIPE.grade([one], [profile])[0] for one, profile in zip(frames, profiles, strict=True)]
    assert RECIPE.grade(frames, profiles) == alone


def test_the_hash_names_the_definition() -> None:
    assert RECIPE.definition.hash == ReportedRecipe().definition.hash
    assert len(RECIPE.definition.hash) == 64


def test_an_unknown_recipe_is_refused_at_start() -> None:
    for default, sites in (("sqal-9", {}), ("sqal-1", {"LL": "sqal-9"})):
        with pytest.raises(ValueError, match="no recipe 'sqal-9'"):
            recipe_book(default, sites)


def test_the_devices_recipe_goes_before_its_sites_and_that_before_the_default() -> None:
    book = recipe_book("sqal-1", {"MT": "sqal-1-reported"})
    whole, coarse = encode_head(8, 0, 1, 1, Reported()), encode_head(4, 0, 1, 1, Reported())

    def chosen(device: str | None, site: str | None, frame: bytes = whole) -> str:
        return book.choose(device, site, frame).definition.name

    assert [chosen(None, site) for site in (None, "LL", "MT")] == ["sqal-1", "sqal-1", "sqal-1-reported"]
    assert chosen("sqal-1", "MT") == "sqal-1"
    assert chosen("sqal-9", "MT") == "sqal-1-reported"  # a newer release's: as if none were named
    assert chosen(None, "LL", coarse) == "sqal-1-reported"  # sqal-1 needs 8 x 8 zones
    assert chosen("sqal-1", "LL", coarse) == "sqal-1"  # somebody wants just this: then NOT_GRADABLE
