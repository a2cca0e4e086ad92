"""docs/grading.md: what the recipes do, and the figures of a run of `gaveurs grading`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from app.sqal.deviations import Search
from app.sqal.proving import LABELS, LEAST_FOUND, MOST_BIAS, MOST_FLAGGED_CLEAN, PLANTED_MM, Proof, prove, random_frames
from app.sqal.recipe_definition import SHIPPED, SQAL1
from app.sqal.recipes import DeviceProfile
from app.sqal.sqal1 import Sqal1Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP: Final = 256
EFFORTS: Final = {
    "as shipped": Search(),
    "fewer steps": Search(body_steps=3, disc_steps=3, suspicion=100.0),
    "less suspicious": Search(suspicion=144.0),
    "more steps": Search(body_steps=8, disc_steps=8, back_steps=6, suspicion=40.0),
}

TEXT: Final = """# Grading

Two recipes ship; a folder (`RECIPES_DIR`) may hold more, TOML files with other numbers (`app/sqal/recipe_files.py` says
how; one that makes no sense ends the start with its line). A device's record names the one that grades it
(`PATCH /api/sqal/devices/{{id}}` or `gaveurs devices set`), else its site's (`SITE_RECIPES=LL=sqal-1,MT=...`), else
`DEFAULT_RECIPE`: `sqal-1`, and `sqal-1-reported` for what that cannot grade. Every stored grade names its recipe, by
name and by the hash of all that changes a grade. Why a sample has its grade:
`GET /api/sqal/samples/{{device}}/{{id}}/explanation`.

- **sqal-1-reported** takes the device's own sub-scores and weighs them: 0.60 tof + 0.40 spectral.
- **sqal-1** derives everything from the stored frame's distances and channels:
  1. The tray is the plane through the rim's zones; heights are over it. Status 6 and 9 count half, a status that is all
     zero is unknown and counts.
  2. A half-ellipsoid is fitted to the heights (`app/sqal/body.py`), and flat discs of 1.5 zones that stand out of it
     are searched by a matched filter (`app/sqal/deviations.py`), up to five. Body and disc are fitted as if zones saw
     areas and as if they saw points; the better fit counts, with the disc and without.
  3. tof = (0.5 volume term + 0.3 uniformity + 0.2 share of usable zones) x product of (1 - severity) over the defects.
  4. Six ratios of channels give freshness, fat quality, colour uniformity and oxidation (`app/sqal/spectrum.py`).
  5. `NOT_GRADABLE`: fewer than 48 weighted zones, no tray or no body in sight, Clear or three bands saturated or dark,
     a zero denominator, a 4 x 4 frame.

The arithmetic is elementwise float64 with sums in a fixed order: a frame grades to the same bits alone and in a group.

## Figures

Made by `gaveurs grading --livers {count} --seed {seed}`: {count} synthetic livers of each kind (half-ellipsoids of
varied size, shape, angle and place, 5 mm noise a zone), without and with a planted flat disc of 1.5 zones radius.
A zone sees the mean over its area; or, in the column beside it and without a bound, the height at its centre: a real
sensor is somewhere between. Another seed gives other livers; the command ends with code 1 when a bound is missed.

{tables}
"""


def report(count: int, seed: int) -> tuple[str, Proof]:
    """The page, and the proof that it shows."""
    proof = prove(count, seed)
    tables = "\n\n".join([_detection(proof), _confusion(proof), _efforts(max(count // 4, 100), seed)])
    return TEXT.format(count=count, seed=seed, tables=tables), proof


def _detection(proof: Proof) -> str:
    rows = [
        "| planted body | livers flagged | where a zone sees its centre | bound |",
        "|---|---|---|---|",
    ]
    for planted in PLANTED_MM:
        bound = f">= {LEAST_FOUND[planted]:.0%}" if planted in LEAST_FOUND else ("published" if planted else "")
        name, bound = (f"{planted:.0f} mm", bound) if planted else ("none", f"<= {MOST_FLAGGED_CLEAN:.0%}")
        flagged, at_centres = proof.flagged[planted], proof.flagged_at_centres[planted]
        rows.append(f"| {name} | {flagged:.1%} | {at_centres:.1%} | {bound} |")
    rows += [
        "",
        f"Volume of clean livers: mean bias {proof.bias:+.1%} (at most {MOST_BIAS:.0%}), spread {proof.spread:.1%}.",
    ]
    return "\n".join(rows)


def _confusion(proof: Proof) -> str:
    head = ["Grade of the same liver without noise (rows) and as measured (columns), all kinds together:", ""]
    head += ["| |" + "".join(f" {label} |" for label in LABELS), "|---|" + "---|" * len(LABELS)]
    return "\n".join(
        [*head, *(f"| {true} |" + "".join(f" {n} |" for n in row.values()) for true, row in proof.confusion.items())]
    )


def _efforts(count: int, seed: int) -> str:
    rows = [
        f"Detection against cost, {count} livers of each kind, groups of {GROUP} clean livers, this machine:",
        "",
        "| search | clean flagged | 15 mm | 20 mm | 25 mm | us a sample | of the shipped |",
        "|---|---|---|---|---|---|---|",
    ]
    costs = dict(_costs(seed))
    for name, search in EFFORTS.items():
        flagged = prove(count, seed, Sqal1Recipe(SHIPPED[SQAL1].with_search(search))).flagged
        found = " | ".join(f"{flagged[planted]:.1%}" for planted in (0.0, 15.0, 20.0, 25.0))
        rows.append(f"| {name} | {found} | {costs[name]:.0f} | {costs[name] / costs['as shipped']:.2f} |")
    return "\n".join(rows)


def _costs(seed: int) -> Iterator[tuple[str, float]]:
    """Microseconds a sample of each effort: the best of seven, side by side."""
    frames = random_frames(GROUP, seed)
    profiles = [DeviceProfile()] * GROUP
    recipes = {name: Sqal1Recipe(SHIPPED[SQAL1].with_search(search)) for name, search in EFFORTS.items()}
    best = dict.fromkeys(recipes, float("inf"))
    for _ in range(7):
        for name, recipe in recipes.items():
            begin = time.perf_counter()
            recipe.grade(frames, profiles)
            best[name] = min(best[name], time.perf_counter() - begin)
    yield from ((name, seconds / GROUP * 1e6) for name, seconds in best.items())
