"""Finding bugs by their words (app/migrations: `bug_search`): French and English, accents folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.bugs.audience import Audience

# Words, "phrases", or, and -not, in both languages.
QUERY: Final = (
    "(websearch_to_tsquery('french', bug_fold({0}::text)) || websearch_to_tsquery('english', bug_fold({0}::text)))"
)


def matches(audience: Audience, argument: str) -> str:
    """SQL: whether a bug's words match the text in `argument` ($n). Staff searches internal comments too."""
    query = QUERY.format(argument)
    public = f"s.public @@ {query}"
    found = f"(s.staff IS NULL AND {public} OR s.staff @@ {query})" if audience.is_staff else public
    return f"bugs.number IN (SELECT s.number FROM bug_search s WHERE {found})"
