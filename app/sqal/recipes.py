"""Grading recipes: versioned data with a hash, applied to stored frames in groups, never to messages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from app.sqal.frame import ABSENT, MICRO, decode_reported
from app.sqal.reading import GRADES, NOT_GRADABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.core.database import Connection

WEIGHTS: Final = {"tof": 600_000, "spectral": 400_000}
THRESHOLDS: Final = (("A+", 850_000), ("A", 750_000), ("B", 600_000), ("C", 450_000), ("REJECT", 0))


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


class Recipe(Protocol):
    """One way of grading. The same frame and profile give the same grading bit for bit, alone or in a group."""

    name: str
    definition: Mapping[str, Any]
    hash: str
    costly: bool
    """Whether a group takes so long that it belongs in a thread."""

    def can_grade(self, frame: bytes) -> bool:
        """Whether the frame holds all that this recipe needs; if not, its grade is NOT_GRADABLE."""
        ...

    def grade(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> list[Grading]:
        """One grading for each frame, in order; `profiles[i]` belongs to `frames[i]`."""
        ...


def definition_hash(definition: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a recipe's definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def weigh(tof: int, spectral: int) -> int:
    """The sub-scores by `WEIGHTS`, in integers of 1e-6, halves rounded up."""
    return (WEIGHTS["tof"] * tof + WEIGHTS["spectral"] * spectral + MICRO // 2) // MICRO


def grade_for(score: int, thresholds: Sequence[tuple[str, int]] = THRESHOLDS) -> str:
    """The best grade whose threshold `score` (1e-6) reaches."""
    return next(grade for grade, least in thresholds if score >= least)


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

    name = "sqal-1-reported"
    costly = False
    definition: Mapping[str, Any] = {
        "name": "sqal-1-reported",
        "version": 1,
        "weights": WEIGHTS,
        "thresholds": dict(THRESHOLDS),
        "reject": {"defects": 5, "severity_above": 900_000},
    }

    def __init__(self) -> None:
        self.hash = definition_hash(self.definition)

    def can_grade(self, frame: bytes) -> bool:  # noqa: ARG002 - it needs nothing
        return True

    def grade(self, frames: Sequence[bytes], profiles: Sequence[DeviceProfile]) -> list[Grading]:
        return [self._grade(frame, profile) for frame, profile in zip(frames, profiles, strict=True)]

    def _grade(self, frame: bytes, profile: DeviceProfile) -> Grading:
        reported = decode_reported(frame)
        score, grade = None, NOT_GRADABLE
        if ABSENT not in (reported.tof, reported.spectral):
            score = weigh(reported.tof, reported.spectral)
            hard = self.definition["reject"]
            rejected = profile.trust_defects and (
                reported.defects >= hard["defects"] or reported.worst_severity > hard["severity_above"]
            )
            grade = "REJECT" if rejected else grade_for(score)
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
            recipe.name,
            recipe.hash,
            json.dumps(recipe.definition),
        )
        numbers[recipe.name] = await connection.fetchval(
            "SELECT recipe_id FROM recipes WHERE name = $1 AND hash = $2", recipe.name, recipe.hash
        )
    return numbers


async def list_recipes(connection: Connection, known: Iterable[Recipe]) -> list[dict[str, Any]]:
    """All recipes that were ever registered, newest first."""
    hashes = {recipe.hash for recipe in known}
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
