"""Why a sample has its grade: what was weighed, what stood against it, and the surface and spectrum behind that.

The grade is the stored one, of the recipe that made it. Surface and spectrum are derived anew from the stored frame by
`sqal-1` as this program knows it, for every sample that it can judge: they show what the sensors saw.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from app.sqal.body import SIDE
from app.sqal.frame import MICRO, side_of
from app.sqal.legal_mass import DENSITY_G_PER_MM3
from app.sqal.queries import find_sample
from app.sqal.reading import NOT_GRADABLE
from app.sqal.recipe_definition import REPORTED
from app.sqal.recipes import DeviceProfile
from app.sqal.spectrum import RATIOS
from app.sqal.sqal1 import Sqal1Recipe
from app.sqal.surface import LEAST_ZONES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    import asyncpg

    from app.core.database import Connection
    from app.sqal.recipe_book import RecipeBook
    from app.sqal.recipe_definition import Definition
    from app.sqal.sqal1 import Judgement

COLUMNS: Final = (
    "s.frame, s.profile, s.grade, s.score, s.tof_score, s.spectral_score, s.device_time,"
    " r.name AS recipe, r.hash AS recipe_hash, r.definition"
)


class _Graded:
    """The recipe that made the stored grade, as it was stored then; `known` when this program would grade alike."""

    def __init__(self, definition: Mapping[str, Any], *, known: bool) -> None:
        self.known = known
        self.weights: Mapping[str, int] = definition["weights"]
        self.ladder = sorted(definition["thresholds"].items(), key=lambda step: -step[1])
        self.by_device = definition.get("engine", REPORTED) == REPORTED


async def explain_sample(
    connection: Connection, book: RecipeBook, device_id: str, sample_id: str, device_time: datetime | None
) -> dict[str, Any]:
    """The newest sample under these names, explained. NotFoundError when there is none."""
    sample = await find_sample(connection, COLUMNS, device_id, sample_id, device_time)
    own = book.get(sample["recipe"])
    if own is not None and own.definition.hash != sample["recipe_hash"]:
        own = None  # another version of it graded this sample
    graded_by = _Graded(json.loads(sample["definition"]), known=own is not None)
    deriving = own if isinstance(own, Sqal1Recipe) else Sqal1Recipe()
    judged = _judge(deriving, sample)
    derived = _derived(deriving.definition, judged) if judged else None
    return {
        "device_id": device_id,
        "sample_id": sample_id,
        "device_time": sample["device_time"],
        "recipe": sample["recipe"],
        "recipe_hash": sample["recipe_hash"],
        "recipe_known": graded_by.known,
        "grade": sample["grade"],
        "score": _unit(sample["score"]) if sample["grade"] != NOT_GRADABLE else None,
        "tof_score": _unit(sample["tof_score"]),
        "spectral_score": _unit(sample["spectral_score"]),
        "weights": {name: value / MICRO for name, value in graded_by.weights.items()},
        "thresholds": {name: value / MICRO for name, value in graded_by.ladder if value},
        "reasons": list(_reasons(sample, graded_by, derived)),
        "derived": derived,
    }


def _judge(recipe: Sqal1Recipe, sample: asyncpg.Record) -> Judgement | None:
    """None for a frame of 4 x 4 zones."""
    if side_of(sample["frame"]) != SIDE:
        return None
    return recipe.judge([sample["frame"]], [DeviceProfile(profile=sample["profile"])])


def _derived(definition: Definition, judged: Judgement) -> dict[str, Any]:
    surface, spectrum = judged.surface, judged.spectrum
    volume = float(surface.volume_mm3[0])
    has_body, has_spectrum = bool(surface.judged[0]), bool(spectrum.judged[0])
    severities = iter(judged.defects[0].severities)
    defects = [
        {
            "deviation_mm": float(surface.deviations_mm[number, 0]),
            "severity": next(severities),
            "zones": [list(divmod(int(zone), SIDE)) for zone in surface.deviation_zones[number, :, 0].nonzero()[0]],
        }
        for number in range(len(surface.deviations_mm))
        if surface.deviations_mm[number, 0] > definition.search.least_mm
    ]
    return {
        "by": {"name": definition.name, "hash": definition.hash},
        "usable_zones": float(surface.usable_zones[0]),
        "has_body": has_body,
        "has_spectrum": has_spectrum,
        "heights_mm": surface.heights[:, 0].reshape(SIDE, SIDE).round(1).tolist() if has_body else None,
        "volume_mm3": volume if has_body else None,
        "mass_g": volume * DENSITY_G_PER_MM3 if has_body else None,
        "roughness_mm": float(surface.roughness_mm[0]) if has_body else None,
        "defects": defects,
        "ratios": [
            _ratio(name, definition.bands[name], float(value))
            for name, value in zip(RATIOS, spectrum.ratios[:, 0], strict=True)
            if has_spectrum
        ],
    }


def _ratio(name: str, band: tuple[float, float, float, float], value: float) -> dict[str, Any]:
    low, high, least, most = band
    state = "optimal" if low <= value <= high else "acceptable" if least <= value <= most else "outside"
    return {"name": name, "value": value, "optimal": [low, high], "acceptable": [least, most], "state": state}


def _reasons(sample: asyncpg.Record, graded_by: _Graded, derived: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """In the order of their weight; each with a code, which a page can say in its own words."""
    grade, by_device = sample["grade"], graded_by.by_device
    if grade == NOT_GRADABLE:
        yield from _obstacles(derived, by_device=by_device)
        return
    if not graded_by.known:  # what this program derives is not what that recipe saw
        derived = None
    defects = derived["defects"] if derived and not by_device else []
    names, limits = zip(*graded_by.ladder, strict=True)
    place = names.index(grade)
    if grade == "REJECT" and sample["score"] >= limits[-2]:
        yield {"code": "rejected_for_defects", "defects": len(defects) if derived and not by_device else None}
    else:
        yield {"code": "score", "least": limits[place] / MICRO, "below": limits[place - 1] / MICRO if place else None}
    weaker = "tof" if sample["tof_score"] < sample["spectral_score"] else "spectral"
    yield {"code": f"weaker_{weaker}", "score": sample[f"{weaker}_score"] / MICRO}
    for defect in defects:
        yield {"code": "defect", "deviation_mm": defect["deviation_mm"], "severity": defect["severity"]}
    if derived and not by_device:
        yield from ({"code": "ratio", **ratio} for ratio in derived["ratios"] if ratio["state"] != "optimal")


def _obstacles(derived: dict[str, Any] | None, *, by_device: bool) -> Iterator[dict[str, Any]]:
    if by_device:
        yield {"code": "device_sent_no_scores"}
    elif derived is None:
        yield {"code": "too_few_zones", "usable": 16.0, "least": LEAST_ZONES}
    else:
        if derived["usable_zones"] < LEAST_ZONES:
            yield {"code": "too_few_zones", "usable": derived["usable_zones"], "least": LEAST_ZONES}
        elif not derived["has_body"]:
            yield {"code": "no_product_seen"}
        if not derived["has_spectrum"]:
            yield {"code": "spectrum_unusable"}


def _unit(value: int | None) -> float | None:
    return None if value is None else value / MICRO
