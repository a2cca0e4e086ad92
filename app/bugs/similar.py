"""Bugs whose titles are like a given one, for whoever is about to report the same again.

Only titles decide. A title's words find candidates: those that have all of them, and the newest of those that have two
of the rarest (among older ones: the two rarest). How alike two titles are is told by trigrams where PostgreSQL has
pg_trgm, by the words that both have where not. (An index of trigrams is no help at size: half of all titles share the
trigrams of common words.)
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.database import Connection

CANDIDATES: Final = 1_000
WORDS: Final = 8
"""Of a long title the rarest words count."""
RAREST: Final = 4
SHELVES: Final = (1, 3)
"""For any two of the rarest words bugs are looked through in parts, the newest first: 16,384 times so many."""
LEAST: Final = 0.3
"""What is less alike is not told."""
BESIDE_MS: Final = 500
"""How long the search beside a report may take: the report is what matters."""
log = get_logger("gaveurs.bugs")
# Each word in its French and its English form.
FORMS: Final = """
    SELECT DISTINCT french.lexeme AS french, english.lexeme AS english
    FROM (SELECT lexeme, unnest(positions) AS place FROM unnest(to_tsvector('bug_french', bug_text($1)))) AS french
    JOIN (SELECT lexeme, unnest(positions) AS place FROM unnest(to_tsvector('bug_english', bug_text($1)))) AS english
    USING (place)
"""
HAS_TRIGRAMS: Final = "SELECT to_regprocedure('similarity(text, text)') IS NOT NULL"
# How common a word is among titles, as the last ANALYZE saw it: the rare ones are not listed.
COMMON: Final = """
    SELECT word, share FROM pg_stats,
        unnest(most_common_elems::text::text[], most_common_elem_freqs) AS common (word, share)
    WHERE schemaname = current_schema() AND tablename = 'bug_search' AND attname = 'title' AND word = ANY($1)
"""
# A scan of the whole table is never the answer here, whatever an estimate says.
BEGIN: Final = "SELECT set_config('enable_seqscan', 'off', true), set_config('statement_timeout', $1, true)"
NEWEST_SHELF: Final = "SELECT coalesce(max(shelf), 0) FROM bug_shelves"
NEWEST: Final = "SELECT number FROM bug_search WHERE title @@ $1::text::tsquery ORDER BY number DESC LIMIT $2"
# Of all history the first that are met: to put them in order, all would have to be read.
ANY: Final = "SELECT number FROM bug_search WHERE title @@ $1::text::tsquery LIMIT $2"
# One lexeme of a document's title is its shelf.
BY_WORDS: Final = """
    2.0 * (length(s.title) - length(ts_delete(s.title, $2::text[]))) / (cardinality($2::text[]) + length(s.title) - 1)
"""
BY_TRIGRAMS: Final = "similarity(bug_fold(bugs.title), bug_fold($2))"
BEST: Final = """
    SELECT * FROM (
        SELECT bugs.id, bugs.number, bugs.title, bugs.status, least({score}, 1)::float8 AS score
        FROM bugs JOIN bug_search s USING (number) WHERE bugs.number = ANY($1::bigint[])
    ) AS scored WHERE score >= $4 ORDER BY score DESC, number DESC LIMIT $3
"""


class SimilarTitles:
    """Asks each database once whether it has trigrams."""

    def __init__(self) -> None:
        self._trigrams: bool | None = None

    async def find(
        self, connection: Connection, title: str, limit: int, deadline_ms: int | None = None
    ) -> list[dict[str, Any]]:
        """At most `limit` bugs, the most alike first, with a `score` from 0 to 1."""
        async with connection.transaction():
            if self._trigrams is None:
                self._trigrams = bool(await connection.fetchval(HAS_TRIGRAMS))
            await connection.execute(BEGIN, str(deadline_ms or 0))
            forms = [(one["french"], one["english"]) for one in await connection.fetch(FORMS, title)]
            if not forms:
                return []
            numbers = await _candidates(connection, forms)
            meant: Any = title if self._trigrams else sorted({form for both in forms for form in both})
            best = BEST.format(score=BY_TRIGRAMS if self._trigrams else BY_WORDS)
            records = await connection.fetch(best, numbers, meant, limit, LEAST)
        return [
            dict(record) | {"score": round(record["score"], 3), "url": f"/api/bugs/{record['id']}"}
            for record in records
        ]

    async def beside(self, connection: Connection, title: str, limit: int) -> list[dict[str, Any]]:
        """The same for a report, before it is written: empty, with a line in the log, where it fails or takes long."""
        try:
            return await self.find(connection, title, limit, BESIDE_MS)
        except asyncpg.PostgresError as error:
            log.warning("similar bugs could not be looked for", error=type(error).__name__, sqlstate=error.sqlstate)
            return []


async def _candidates(connection: Connection, forms: Sequence[tuple[str, str]]) -> list[int]:
    """Numbers of those with all of the words, and of the newest with two of the rarest."""
    words = [_either(*both) for both in await _rarest_first(connection, forms)][:WORDS]
    numbers = await _found(connection, " & ".join(words), CANDIDATES)
    if len(words) == 1:
        return numbers
    chosen = combinations(words[:RAREST], min(2, len(words) - 1))
    some = " | ".join(f"({' & '.join(some_words)})" for some_words in chosen)
    newest, room = await connection.fetchval(NEWEST_SHELF), CANDIDATES
    for size in SHELVES:
        shelves = [f"'#{newest - n}'" for n in range(size) if newest >= n]
        if not shelves or room <= 0:
            break
        more = await _found(connection, f"({some}) & ({' | '.join(shelves)})", room)
        numbers, room, newest = numbers + more, room - len(more), newest - size
    if room > 0:
        numbers += await _found(connection, " & ".join(words[:2]), room, ANY)
    return list(dict.fromkeys(numbers))


async def _rarest_first(connection: Connection, forms: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    lexemes = [form for both in forms for form in both]
    share = {one["word"]: one["share"] for one in await connection.fetch(COMMON, lexemes)}
    return sorted(forms, key=lambda both: (max(share.get(form, 0.0) for form in both), -len(both[0]), both))


async def _found(connection: Connection, query: str, most: int, how: str = NEWEST) -> list[int]:
    return [record["number"] for record in await connection.fetch(how, query, most)]


def _either(french: str, english: str) -> str:
    forms = dict.fromkeys((french, english))
    return "(" + " | ".join("'" + form.replace("\\", "\\\\").replace("'", "''") + "'" for form in forms) + ")"
