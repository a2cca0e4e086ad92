from __future__ import annotations

import pytest

from app.sqal.legal_mass import legal_mass


@pytest.mark.parametrize(
    ("mass_g", "species", "verdict"),
    [
        (358.0, None, "above"), (356.0, "duck", "uncertain"), (300.0, "duck", "uncertain"), (260.0, "duck", "uncertain"),
        (258.0, "duck", "below"), (340.0, "goose", "below"), (430.0, "goose", "uncertain"), (480.0, "goose", "above"),
        (1.0, "duck", "below"),
    ],
)  # fmt: skip
def test_the_mass_is_judged_with_its_uncertainty(mass_g: float, species: str | None, verdict: str) -> None:
    found = legal_mass(round(mass_g / 0.947e-3), species)
    assert found is not None
    assert (found["verdict"], found["species"]) == (verdict, species or "duck")
    assert found["mass_g"] == pytest.approx(mass_g, abs=0.1)
    assert found["uncertainty_g"] == pytest.approx(0.08 * mass_g, abs=0.1)


def test_without_a_derived_volume_nothing_is_said() -> None:
    assert legal_mass(None, "goose") is legal_mass(0, None) is legal_mass(-5, "duck") is None
