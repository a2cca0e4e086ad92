"""All recipes this program ships, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.sqal.recipes import Recipe, ReportedRecipe
from app.sqal.sqal1 import Sqal1Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class RecipeBook:
    """The recipes this program knows, by name."""

    def __init__(self, recipes: Sequence[Recipe], default: str) -> None:
        self._by_name = {recipe.name: recipe for recipe in recipes}
        if default not in self._by_name:
            raise ValueError(f"there is no recipe {default!r}; known: {', '.join(self._by_name)}")
        self._default = self._by_name[default]

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self._by_name.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def choose(self, name: str | None) -> Recipe:
        """The named recipe, or the default when none or an unknown one (from a newer release) is named."""
        return self._by_name.get(name, self._default) if name else self._default


def recipe_book(default: str) -> RecipeBook:
    """All shipped recipes. Raises ValueError when `default` is none of them."""
    return RecipeBook([ReportedRecipe(), Sqal1Recipe()], default)
