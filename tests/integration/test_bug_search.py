"""Searching bugs by words, and by titles that are alike, on a real PostgreSQL."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bugs import comments, tracker
from app.bugs.audience import Audience
from app.bugs.listing import BugFilter, count, list_bugs
from app.bugs.seed import seed
from app.bugs.similar import SimilarTitles
from app.core.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.database import Connection

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
OUTSIDER, STAFF = Audience.OUTSIDER, Audience.STAFF


class Tracker:
    """One connection, and what is done through it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def report(self, title: str, description: str = "-", **said: Any) -> Any:
        report = {"title": title, "description": description, "severity": "low", "priority": "low"} | said
        async with self.connection.transaction():
            return await tracker.report_bug(self.connection, report, "somebody", NOW)

    async def say(self, bug: Any, said: str, *, internal: bool = False) -> Any:
        async with self.connection.transaction():
            return await comments.add_comment(
                self.connection, bug["id"], said, None, "somebody", NOW, is_internal=internal
            )

    async def edit(self, bug: Any, comment: Any, said: str) -> None:
        async with self.connection.transaction():
            await comments.edit_comment(
                self.connection, bug["id"], comment["id"], said, STAFF, "somebody", NOW, may_edit_all=True
            )

    async def change(self, bug: Any, **changes: Any) -> None:
        async with self.connection.transaction():
            await tracker.change_bug(self.connection, bug["id"], changes, STAFF, "somebody", NOW)

    async def find(self, text: str | None, audience: Audience = OUTSIDER, **more: Any) -> list[int]:
        """Numbers of what fits, the newest first; the total says the same."""
        page = await list_bugs(self.connection, BugFilter(text=text, **more), audience, "-number", limit=200)
        assert page.total == len(page.items)
        return [item["number"] for item in page.items]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def bugs(dsn: str) -> AsyncIterator[Tracker]:
    async with connected(dsn) as connection:
        yield Tracker(connection)


async def test_words_are_found_without_accents_in_other_numbers_and_as_written(bugs: Tracker) -> None:
    one = (
        await bugs.report(
            "Défauts du capteur d\u2019œuf",
            "Les chevaux cassés: ESP32_LL_01 (v2.3.1/v2.3.2) sends “broken” measurements…",
        )
    )["number"]
    other = (await bugs.report("Something else", "The devices are slow, ESP32_LL_02 on v2.3.10"))["number"]
    for text in (
        "defaut", "défaut", "DÉFAUTS", "oeuf", "œufs", "l'oeuf", "cheval", "measurement", "esp32_ll_01", "v2.3.1", "v2.3.2",
        "broken", '"capteur d\'oeuf"', "“broken measurements”", "capteurs defauts", "the defaut", "defaut -slow",
    ):  # fmt: skip
        assert await bugs.find(text) == [one], text
    for text in ("device", "slowly or slow", "ESP32_LL_02", "v2.3.10", "slow -defaut"):
        assert await bugs.find(text) == [other], text
    for text in ("ESP32", "defaut or device", "-nothing"):
        assert await bugs.find(text) == [other, one], text
    for text in ('"oeuf capteur"', "defaut slow", "-esp32", "ESP32_LL_1"):
        assert await bugs.find(text) == [], text


async def test_stop_words_alone_and_marks_alone_find_nothing(bugs: Tracker) -> None:
    await bugs.report("The sensor of the line", "le capteur de la ligne")
    for text in ("the", "the of", "le la de", "le the", "-the", "...", '"', '""', "-", "'", "( )", "=status:", "#0 !"):
        assert await bugs.find(text) == [], text


async def test_lexemes_that_stand_for_filters_cannot_be_searched_for(bugs: Tracker) -> None:
    await bugs.report("A", "b", device_id="D1", tags=["x'y", "b\\c", "a&b", "é"])
    for text in ("=status:open", "'=status:open'", "#0", "'#0'", "=device:D1", "=unassigned"):
        assert await bugs.find(text) == [], text
    for tag in ("x'y", "b\\c", "a&b", "é"):
        assert await bugs.find(None, tags=(tag,)) == [1], tag
    assert await bugs.find(None, tags=("x'y", "é")) == [1]
    assert await bugs.find(None, tags=("x'y", "z")) == []


HOSTILE = (
    "'", "''", "\\", "'\\", ":*", "a:*", "&|!", "!!a", "a & | b", "<->", "a <2> b", "(" * 200, ")(" * 100, '"' * 199, "or or or",
    "- - -", "-" * 200, "$1", "%s", "; DROP TABLE bugs", "\u202e", "\ufffd", "😀", "a" * 200, "œ" * 200, "\u3316" * 200, "\ufdfa" * 200, "-a " * 60, "http://a/b?c=d&e", "_" * 200,
    "a_" * 100, "\u0300" * 200, "ﬁ" * 200, "\ud7ff", "İ", "#1", "~x", "=x", "&#61;", "<b>", "a@b.c", "/etc/passwd", "-1e999", "\u2028",
)  # fmt: skip


async def test_no_text_is_an_error(bugs: Tracker) -> None:
    await bugs.report("x", "y")
    similar = SimilarTitles()
    for text in HOSTILE:
        for audience in Audience:
            await bugs.find(text, audience)
        assert await bugs.find(text, device=text) == []
        await similar.find(bugs.connection, text, 5)
        await bugs.report(text, text)


async def test_any_text_can_be_searched_for_and_reported(dsn: str) -> None:
    async with connected(dsn) as connection:
        bugs = Tracker(connection)
        texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(texts)
        def check(text: str) -> None:
            tried.append(text)

        tried: list[str] = []
        check()
        for text in tried:
            await bugs.find(text, STAFF)
            await SimilarTitles().find(connection, text, 5)
            await bugs.report(text, text)


async def test_outsiders_do_not_find_what_only_internal_comments_say(bugs: Tracker) -> None:
    bug = await bugs.report("Sonde", "chaude")
    said = await bugs.say(bug, "budget sabotage", internal=True)
    assert await bugs.find("sabotage", STAFF) == [1]
    assert await bugs.find("sabotage") == await bugs.find("sonde sabotage") == []
    assert await bugs.find("sonde -sabotage", STAFF) == []
    assert await bugs.find("sonde -sabotage") == [1]
    await bugs.say(bug, "refroidie")
    await bugs.edit(bug, said, "budget vol")
    await bugs.change(bug, title="Sonde thermique", status="in_progress")
    for text in ("refroidi", "thermique", "sonde"):
        assert await bugs.find(text) == await bugs.find(text, STAFF) == [1], text
    assert await bugs.find("vol", STAFF, status=("in_progress",)) == [1]
    assert await bugs.find("sabotage", STAFF) == await bugs.find("vol") == await bugs.find("vol refroidi") == []
    assert await SimilarTitles().find(bugs.connection, "budget vol", 5) == []


async def test_an_edit_and_a_new_title_are_seen_at_once(bugs: Tracker) -> None:
    bug = await bugs.report("Ancien titre", "rien")
    said = await bugs.say(bug, "première remarque")
    assert await bugs.find("ancien") == await bugs.find("premier remarque") == [1]
    await bugs.edit(bug, said, "deuxième remarque")
    await bugs.change(bug, title="Nouveau titre")
    assert await bugs.find("ancien") == await bugs.find("premiere") == []
    assert await bugs.find("nouveau") == await bugs.find("deuxieme") == [1]
    assert [one["number"] for one in await SimilarTitles().find(bugs.connection, "nouveau titre", 5)] == [1]
    assert await SimilarTitles().find(bugs.connection, "ancien", 5) == []


async def test_filters_follow_every_change(bugs: Tracker) -> None:
    bug = await bugs.report("Capteur", device_id="D1", tags=["a"], category="ml")
    await bugs.report("Capteur", device_id="D2")
    here: dict[str, Any] = {
        "device": "D1",
        "status": ("open", "reopened"),
        "tags": ("a",),
        "category": ("ml",),
        "unassigned": True,
    }
    assert await bugs.find("capteur", **here) == [1]
    await bugs.change(bug, status="in_progress", device_id="D3", tags=["b"], category=None, assigned_to="Marie")
    for name, value in here.items():
        assert 1 not in await bugs.find("capteur", OUTSIDER, **{name: value}), name
    there: dict[str, Any] = {
        "device": "D3",
        "status": ("in_progress",),
        "tags": ("b",),
        "assignee": "Marie",
        "unassigned": False,
    }
    for filters in ({name: value} for name, value in there.items()):
        assert await bugs.find("capteur", **filters) == [1], filters
        assert await bugs.find(None, **filters) == [1], filters
    later = NOW + timedelta(hours=1)
    assert await bugs.find("capteur", created_from=NOW, created_to=later, updated_from=NOW, updated_to=later) == [2, 1]
    assert await bugs.find("capteur", created_from=later) == await bugs.find("capteur", updated_from=later) == []


async def test_similar_titles_are_told_the_most_alike_first(bugs: Tracker) -> None:
    titles = (
        "Le capteur VL53L8CH ne répond plus après deux heures",
        "Capteur VL53L8CH: plus de réponse",
        "Export CSV trop lent",
        "VL53L8CH sensor timeout",
    )
    for title in titles:
        await bugs.report(title, "le capteur VL53L8CH ne répond plus après deux heures")
    similar = SimilarTitles()
    found = await similar.find(bugs.connection, "capteur vl53l8ch ne repond plus apres 2 heures", 5)
    assert found[0]["title"] == titles[0]
    assert titles[2] not in [one["title"] for one in found]
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert found[0]["url"] == f"/api/bugs/{found[0]['id']}"
    assert [one["score"] for one in await similar.find(bugs.connection, titles[2], 5)] == [1.0]
    assert len(await similar.find(bugs.connection, titles[0], 1)) == 1
    assert await similar.find(bugs.connection, "le la ???", 5) == []


async def test_where_trigrams_are_not_to_be_had_words_decide(bugs: Tracker) -> None:
    await bugs.report("VL53L8CH sensor timeout")
    similar = SimilarTitles()
    similar._trigrams = False
    assert [one["score"] for one in await similar.find(bugs.connection, "Timeouts: VL53L8CH sensors", 5)] == [1.0]
    assert [one["score"] for one in await similar.find(bugs.connection, "timeout of a sensor", 5)] == [0.8]


async def test_a_report_goes_on_when_similar_ones_cannot_be_found(
    bugs: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.bugs.similar.BESIDE_MS", 30_000)  # it is no question of time
    await bugs.report("VL53L8CH sensor timeout")
    similar = SimilarTitles()
    assert len(await similar.beside(bugs.connection, "VL53L8CH sensor timeout", 5)) == 1
    await bugs.connection.execute("ALTER TABLE bug_shelves RENAME TO away")
    assert await similar.beside(bugs.connection, "VL53L8CH sensor timeout", 5) == []
    await bugs.connection.execute("ALTER TABLE away RENAME TO bug_shelves")
    assert (await bugs.report("VL53L8CH sensor timeout"))["number"] == 2


TOLD = """
    SELECT count(*) FROM bug_search s FULL JOIN bugs USING (number)
    WHERE s.public IS DISTINCT FROM bug_document(bugs, false) OR s.title IS DISTINCT FROM bug_titled(bugs)
       OR s.created_at IS DISTINCT FROM bugs.created_at
       OR s.staff IS DISTINCT FROM CASE WHEN internal_comments > 0 THEN bug_document(bugs, true) END
"""
FIGURES = ("bug_counts", "bug_flow", "bug_shelves")


async def test_a_seeded_database_is_as_the_triggers_would_have_made_it(dsn: str) -> None:
    async with connected(dsn) as connection:
        indexes = await connection.fetch("SELECT indexname, indexdef FROM pg_indexes ORDER BY 1")
        await seed(connection, 300, 1_200, 7, NOW, lambda _: None)
        assert await connection.fetch("SELECT indexname, indexdef FROM pg_indexes ORDER BY 1") == indexes
        assert await connection.fetchval(TOLD) == 0
        seeded = {name: await connection.fetch(f"SELECT * FROM {name} AS kept ORDER BY kept::text") for name in FIGURES}
        await connection.execute(f"TRUNCATE {', '.join(FIGURES)}")
        await connection.execute("CREATE TABLE kept AS SELECT * FROM bugs")
        await connection.execute("ALTER TABLE bug_events DISABLE TRIGGER USER; TRUNCATE bugs CASCADE")
        held = [
            one["column_name"]
            for one in await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'bugs' AND is_generated = 'NEVER'"
            )
        ]
        columns = ", ".join(held)
        await connection.execute(
            f"INSERT INTO bugs ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM kept ORDER BY number"
        )
        for name in FIGURES:
            assert await connection.fetch(f"SELECT * FROM {name} AS kept ORDER BY kept::text") == seeded[name], name


async def test_the_same_seed_makes_the_same_bugs_with_a_history_that_fits(dsn: str) -> None:
    async with connected(dsn) as connection:
        await seed(connection, 120, 500, 3, NOW, lambda _: None)
        rows = "SELECT {} FROM {} ORDER BY 1"
        first = await connection.fetch(rows.format("id, title, status, version, updated_at", "bugs"))
        said = await connection.fetch(rows.format("id, body, is_internal", "bug_comments"))
        assert len(first) == 120
        assert len(said) == 500
        assert 20 <= sum(one["is_internal"] for one in said) <= 90
        wrong = await connection.fetchval("""
            SELECT count(*) FROM bugs WHERE version <> (SELECT max(version) FROM bug_events WHERE bug_id = bugs.id)
            OR version <> (SELECT count(*) FROM bug_events WHERE bug_id = bugs.id)
            OR comments + internal_comments <> (SELECT count(*) FROM bug_comments WHERE bug_id = bugs.id)
        """)
        assert wrong == 0
        with pytest.raises(ConflictError):
            await seed(connection, 120, 500, 3, NOW, lambda _: None)
        await seed(connection, 5, 5, 4, NOW, lambda _: None, force=True)
        assert await connection.fetchval("SELECT count(*) FROM bug_search") == 125
        assert await connection.fetchval(TOLD) == 0
        assert await count(connection, BugFilter(status=("open", "closed", "resolved")), OUTSIDER) > 0
        bug = await Tracker(connection).report("Les déclencheurs travaillent encore")
        assert await Tracker(connection).find("declencheur") == [bug["number"]]
        await connection.execute(
            "ALTER TABLE bug_events DISABLE TRIGGER USER; TRUNCATE bugs, bug_counts, bug_flow, bug_shelves CASCADE"
        )
        await seed(connection, 120, 500, 3, NOW, lambda _: None)
        assert await connection.fetch(rows.format("id, title, status, version, updated_at", "bugs")) == first
        assert await connection.fetch(rows.format("id, body, is_internal", "bug_comments")) == said
