"""All recipes this program ships, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.sqal.recipe_definition import REPORTED, SHIPPED, SQAL1, Definition
from app.sqal.recipes import Recipe, ReportedRecipe
from app.sqal.sqal1 import Sqal1Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class RecipeBook:
    """The recipes this program knows, by name, and which one grades what.

    A device's own recipe grades all that it sends. Else its site's, else the default, grades what it can: a frame that
    does not hold all that it needs (a 4 x 4 one) goes to `sqal-1-reported`.
    """

    def __init__(self, recipes: Sequence[Recipe], default: str, by_site: Mapping[str, str] | None = None) -> None:
        self._by_name = {recipe.definition.name: recipe for recipe in recipes}
        self._default = self[default]
        self._by_site = {site: self[name] for site, name in (by_site or {}).items()}
        self._fallback = self[REPORTED]

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self._by_name.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Recipe | None:
        return self._by_name.get(name)

    def __getitem__(self, name: str) -> Recipe:
        """Raises ValueError for a name that is not known."""
        if name not in self._by_name:
            raise ValueError(f"there is no recipe {name!r}; known: {', '.join(self._by_name)}")
        return self._by_name[name]

    def choose(self, of_device: str | None, site_code: str | None, frame: bytes) -> Recipe:
        """The recipe for a frame. A device's that is not known here (from a newer release) counts as none."""
        if of_device is not None and of_device in self._by_name:
            return self._by_name[of_device]
        recipe = self._by_site.get(site_code, self._default) if site_code else self._default
        return recipe if recipe.can_grade(frame) else self._fallback


_APPLIED_BY: Final[dict[str, Callable[[Definition], Recipe]]] = {SQAL1: Sqal1Recipe, REPORTED: ReportedRecipe}


def recipe_book(
    default: str, by_site: Mapping[str, str] | None = None, definitions: Iterable[Definition] = ()
) -> RecipeBook:
    """The shipped recipes and those of `definitions`. ValueError when `default` or a site's is none of them."""
    recipes = [_APPLIED_BY[one.engine](one) for one in (*SHIPPED.values(), *definitions)]
    return RecipeBook(recipes, default, by_site)
