"""Grading recipes: versioned data with a hash, applied to stored frames in groups, never to messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from app.sqal.frame import ABSENT, MICRO, decode_reported
from app.sqal.reading import GRADES, NOT_GRADABLE
from app.sqal.recipe_definition import REPORTED, SHIPPED, Definition, micro

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.core.database import Connection


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the device's record says about how its readings are to be graded."""

    site_code: str | None = None
    profile: str | None = None
    recipe: str | None = None
    trust_defects: bool = False


@dataclass(frozen=True, slots=True)
class Grading:
    """A recipe's verdict on one frame; scores and indices in 1e-6, None where there is none."""

    grade: str
    score: int | None = None
    tof: int | None = None
    spectral: int | None = None
    freshness: int | None = None
    fat_quality: int | None = None
    oxidation: int | None = None
    color_uniformity: int | None = None
    volume_mm3: int | None = None
    """Derived, not the device's."""


class Recipe(Protocol):
    """One way of grading. The same frame and profile give the same grading bit for bit, alone or in a group."""

    definition: Definition
    costly: bool
    """Whether a group takes so long that it belongs in a thread."""

    def can_grade(self, frame: bytes) -> bool:
        """Whether the frame holds all that this recipe needs; if not, its grade is NOT_GRADABLE."""
        ...

    def grade(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> list[Grading]:
        """One grading for each frame, in order; `profiles[i]` belongs to `frames[i]`."""
        ...


class Scale:
    """A definition's weights and thresholds, in integers of 1e-6."""

    def __init__(self, definition: Definition) -> None:
        self._tof, self._spectral = micro(definition.weights["tof"]), micro(definition.weights["spectral"])
        self._ladder = definition.ladder
        self._severity_above = micro(definition.reject_severity_above)
        self._defects = definition.reject_defects

    def weigh(self, tof: int, spectral: int) -> int:
        """The sub-scores by their weights, halves rounded up."""
        return (self._tof * tof + self._spectral * spectral + MICRO // 2) // MICRO

    def grade(self, score: int) -> str:
        """The best grade whose threshold `score` reaches."""
        return next(grade for grade, least in self._ladder if score >= least)

    def rejects(self, defects: int, worst_severity: float) -> bool:
        """The hard rule, which no score overrides; `worst_severity` in 1e-6."""
        return defects >= self._defects or worst_severity > self._severity_above


def claim_disagrees(claimed_grade: str | None, claimed_compliant: bool | None, grade: str) -> bool:
    """Whether what the device claimed is not what the recipe says; odd labels claim nothing."""
    if claimed_grade in GRADES and claimed_grade != grade:
        return True
    compliant = None if grade == NOT_GRADABLE else grade != "REJECT"
    return claimed_compliant is not None and compliant is not None and claimed_compliant != compliant


class ReportedRecipe:
    """`sqal-1-reported`: the device's own sub-scores, weighted and graded by the server.

    final = 0.60 tof + 0.40 spectral in integers of 1e-6, halves rounded up. Without both sub-scores: NOT_GRADABLE. The
    device's defect list counts only when its record says that it is trusted; then 5 defects, or one above 0.9, reject.
    """

    costly = False

    def __init__(self, definition: Definition = SHIPPED[REPORTED]) -> None:
        self.definition = definition
        self._scale = Scale(definition)

    def can_grade(self, frame: bytes) -> bool:  # noqa: ARG002 - it needs nothing
        return True

    def grade(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> list[Grading]:
        return [self._grade(frame, profile) for frame, profile in zip(frames, profiles, strict=True)]

    def _grade(self, frame: bytes, profile: DeviceProfile) -> Grading:
        reported = decode_reported(frame)
        score, grade = None, NOT_GRADABLE
        if ABSENT not in (reported.tof, reported.spectral):
            score = self._scale.weigh(reported.tof, reported.spectral)
            rejected = profile.trust_defects and self._scale.rejects(reported.defects, reported.worst_severity)
            grade = "REJECT" if rejected else self._scale.grade(score)
        return Grading(
            grade=grade,
            score=score,
            tof=_known(reported.tof),
            spectral=_known(reported.spectral),
            freshness=_known(reported.freshness),
            fat_quality=_known(reported.fat_quality),
            oxidation=_known(reported.oxidation),
            color_uniformity=_known(reported.color_uniformity),
        )


def _known(value: int) -> int | None:
    return None if value == ABSENT else value


async def register_recipes(connection: Connection, recipes: Iterable[Recipe]) -> dict[str, int]:
    """Make sure that each has its row (a changed definition is a new one); their numbers by name."""
    numbers = {}
    for recipe in recipes:
        await connection.execute(
            "INSERT INTO recipes (name, hash, definition) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            recipe.definition.name,
            recipe.definition.hash,
            json.dumps(recipe.definition.as_data()),
        )
        numbers[recipe.definition.name] = await connection.fetchval(
            "SELECT recipe_id FROM recipes WHERE name = $1 AND hash = $2",
            recipe.definition.name,
            recipe.definition.hash,
        )
    return numbers


async def list_recipes(connection: Connection, known: Iterable[Recipe]) -> list[dict[str, Any]]:
    """All recipes that were ever registered, newest first."""
    hashes = {recipe.definition.hash for recipe in known}
    return [
        {
            "name": record["name"],
            "hash": record["hash"],
            "definition": json.loads(record["definition"]),
            "first_used": record["first_used"],
            "known": record["hash"] in hashes,
        }
        for record in await connection.fetch("SELECT * FROM recipes ORDER BY recipe_id DESC")
    ]
