"""What a volume says of the mass that the law asks for; it never changes a grade.

A raw duck liver weighs at least 300 g, a goose liver 400 g (EU 543/2008, article 1(3)). The mass is an estimate: the
derived volume times 0.947 g/cm3. Its error was measured on synthetic livers (docs/grading.md, spread of the volume).
"""

from __future__ import annotations

from typing import Any, Final

DENSITY_G_PER_MM3: Final = 0.947e-3
LEAST_G: Final = {"duck": 300.0, "goose": 400.0}
RELATIVE_ERROR: Final = 0.08  # one standard deviation
SURE: Final = 2.0  # standard deviations from the limit


def legal_mass(volume_mm3: int | None, species: str | None) -> dict[str, Any] | None:
    """`below`, `uncertain` or `above` the least mass of its species (duck unless said otherwise), with the estimate and
    its uncertainty (one standard deviation); None without a derived volume.
    """
    if volume_mm3 is None or volume_mm3 <= 0:
        return None
    kind = species or "duck"
    mass_g = volume_mm3 * DENSITY_G_PER_MM3
    uncertainty_g = mass_g * RELATIVE_ERROR
    off = (mass_g - LEAST_G[kind]) / uncertainty_g
    verdict = "above" if off >= SURE else "below" if off <= -SURE else "uncertain"
    return {
        "verdict": verdict,
        "mass_g": round(mass_g, 1),
        "uncertainty_g": round(uncertainty_g, 1),
        "least_g": LEAST_G[kind],
        "species": kind,
    }
