"""Recipes as files: refused whole, with the line, when they make no sense."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.sqal.proving import random_frames
from app.sqal.recipe_book import recipe_book
from app.sqal.recipe_definition import SHIPPED, SQAL1, Definition
from app.sqal.recipe_files import RecipeFileError, read_recipe, read_recipes
from app.sqal.recipes import DeviceProfile

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """name = "goose"
version = 3
engine = "sqal-1"

[thresholds]
"A+" = 0.9
A = 0.8
B = 0.6
C = 0.5

[volume]
ideal_mm3 = 850000

[pitch_mm]
"large tray" = [40, 25]

[bands]
VOR = [0.25, 0.45, 0.20, 0.60]

[search]
least_mm = 15
"""


def written(folder: Path, text: str, name: str = "goose.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_file_says_what_differs_from_the_shipped_recipe(tmp_path: Path) -> None:
    goose = read_recipe(written(tmp_path, GOOD))
    shipped = SHIPPED[SQAL1]
    assert (goose.name, goose.version, goose.engine, goose.volume_ideal_mm3) == ("goose", 3, "sqal-1", 850_000)
    assert goose.ladder == (("A+", 900_000), ("A", 800_000), ("B", 600_000), ("C", 500_000), ("REJECT", 0))
    assert goose.bands == {**shipped.bands, "VOR": (0.25, 0.45, 0.20, 0.60)}
    assert (goose.pitch_mm, goose.search) == ({"large tray": (40.0, 25.0)}, replace(shipped.search, least_mm=15.0))
    assert goose.weights == shipped.weights
    assert read_recipe(written(tmp_path, f'hash = "{goose.hash}"\n{GOOD}')) == goose
    book = recipe_book("goose", definitions=read_recipes(tmp_path))
    frames, profiles = random_frames(20, 3), [DeviceProfile()] * 20
    scores = [[one.score for one in book[name].grade(frames, profiles)] for name in ("goose", "sqal-1")]
    assert scores[0] != scores[1]


def test_every_number_changes_the_hash() -> None:
    shipped = SHIPPED[SQAL1]
    others = [
        replace(shipped, version=3), replace(shipped, volume_zero_at=0.61), replace(shipped, roughness_mm=5.1),
        replace(shipped, reject_defects=6), replace(shipped, reject_severity_above=0.91),
        replace(shipped, pitch_mm={"x": (1.0, 2.0)}), replace(shipped, search=replace(shipped.search, evidence=61.0)),
        replace(shipped, weights={"tof": 0.5, "spectral": 0.5}), replace(shipped, severity_over_mm=36.0),
    ]  # fmt: skip
    assert len({one.hash for one in (shipped, *others)}) == len(others) + 1
    assert Definition(SQAL1, 2, SQAL1).hash == shipped.hash


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("A = 0.8", "A = 0.95"), 7, "thresholds.A: 0.95 must lie between 0 and the grade above (0.9)"),
        (("A = 0.8", "A = 0.9"), 7, "thresholds.A"),
        (('"A+" = 0.9\nA = 0.8', 'A = 0.8\n"A+" = 0.9'), 5, "thresholds: must be A+, A, B, C, in this order"),
        (("C = 0.5\n", ""), 5, "thresholds: must be A+, A, B, C"),
        (("C = 0.5", 'C = "half"'), 9, "thresholds.C: must be a number above 0"),
        (("ideal_mm3", "ideal_cm3"), 12, "volume.ideal_cm3: no such field; known: ideal_mm3, zero_at"),
        (("[volume]", "[volumes]"), 11, "volumes: no such field"),
        (("850000", "0"), 12, "volume.ideal_mm3: must be a number above 0"),
        (("850000", "nan"), 12, "volume.ideal_mm3"),
        (("850000", "9" * 400), 12, "volume.ideal_mm3: must be a number"),
        (("850000", "9" * 5_000), 1, "numbers too long"),
        (("850000", "1e-320"), 12, "volume.ideal_mm3: must be a number"),
        (("[40, 25]", "[400, 25]"), 15, "pitch_mm.large tray: a zone is at most 100 mm wide"),
        (("least_mm = 15", "body_steps = 4.0"), 21, "search.body_steps: must be a whole number"),
        (("least_mm = 15", "body_steps = 1000"), 21, "search.body_steps: at most 20"),
        (("[search]\nleast_mm = 15", "[reject]\ndefects = 2.5"), 21, "reject.defects: must be a whole number"),
        (("[search]\nleast_mm = 15", "[reject]\nseverity_above = 5"), 21, "reject.severity_above: must not be above 1"),
        (("[search]\nleast_mm = 15", "search.least = 15"), 20, "bands.search: must be a list of 4 numbers"),
        (("[search]\nleast_mm = 15", "[[search]]\nleast_mm = 15"), 20, "search: must be a table"),
        (("[volume]\nideal_mm3 = 850000", "[bands.LOI]\nideal = 3"), 11, "bands.LOI: must be a list of 4 numbers"),
        (("version = 3", 'version = 3\n"\\u001b" = 3'), 1, "?: no such field"),
        (("version = 3", "version = 3\nx = " + "[" * 5_000), 1, "nested too deep"),
        (("[40, 25]", "[40]"), 15, "pitch_mm.large tray: must be a list of 2 numbers"),
        (("VOR =", "XYZ ="), 18, "bands.XYZ: no such ratio"),
        (("0.20, 0.60]", "0.30, 0.60]"), 18, "bands.VOR: must be acceptable low < optimal low"),
        (("least_mm = 15", "least = 15"), 21, "search.least: no such field"),
        (("version = 3", "version = 0"), 2, "version: must be a whole number from 1"),
        (("version = 3\n", ""), 1, "version: is missing"),
        (('"goose"', '"sqal-1"'), 1, "none of the shipped names"),
        (('engine = "sqal-1"', 'engine = "sqal-9"'), 3, "engine: must be"),
        (("version = 3", 'version = 3\nhash = "00"'), 3, "hash: the content's is "),
        (("version = 3", "version = = 3"), 2, "Invalid value"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    assert change[0] in GOOD
    file = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(RecipeFileError) as raised:
        read_recipe(file)
    assert str(raised.value).startswith(f"{file}:{line}: "), raised.value
    assert said in str(raised.value)


def test_a_reported_recipe_knows_no_geometry(tmp_path: Path) -> None:
    file = written(tmp_path, 'name = "strict"\nversion = 1\nengine = "sqal-1-reported"\n[reject]\ndefects = 3\n')
    assert read_recipe(file).reject_defects == 3
    file = written(tmp_path, 'name = "strict"\nversion = 1\nengine = "sqal-1-reported"\n[volume]\nideal_mm3 = 3\n')
    with pytest.raises(RecipeFileError, match=":4: volume: no such field in a sqal-1-reported recipe"):
        read_recipe(file)


def test_two_files_of_one_name_and_a_folder_that_is_none_are_refused(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    written(tmp_path, GOOD, "second.toml")
    with pytest.raises(RecipeFileError, match=r"second\.toml:1: another file defines 'goose' too"):
        read_recipes(tmp_path)
    with pytest.raises(RecipeFileError, match="cannot be read as a folder"):
        read_recipes(tmp_path / "nowhere")
