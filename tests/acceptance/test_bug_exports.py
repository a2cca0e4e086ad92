"""Exports of bugs: whole, each bug once, safe to open, and without a trace of what is internal."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from app.bugs import export
from app.bugs.audience import Audience
from app.bugs.export import BugExports
from app.bugs.listing import BugFilter
from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.csv_text import as_text
from app.core.database import Database, judge
from app.core.dependency import Dependency
from app.core.embedded_postgres import EmbeddedPostgres
from app.core.faults import FaultSwitches
from app.core.metrics import Metrics
from app.core.security import Role, create_key
from app.infrastructure import DATABASE
from tests.bug_client import Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support import Server

# In twos of one moment: the order must not rest on time alone.
MANY = """
    INSERT INTO bugs (id, created_at, updated_at, status_changed_at, status, severity, priority, title, description,
                      reporter_id, site_code)
    SELECT gen_random_uuid(), at, at, at, 'open', 'low', 'low', 'bug ' || n, 'd', 'x', 'ZZ'
    FROM generate_series(1, $1) AS n, LATERAL (SELECT '2026-01-01Z'::timestamptz + n / 2 * interval '1 s') AS t (at)
"""


async def run(server: Server, work: Any) -> Any:
    connection = await asyncpg.connect(EmbeddedPostgres(server.folder).dsn)
    try:
        return await work(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def staff(server: Server) -> Caller:
    asyncio.run(run(server, lambda connection: connection.execute(MANY, 1_203)))
    return Caller(server)


@pytest.fixture(scope="module")
def outsider(server: Server) -> Caller:
    made = asyncio.run(run(server, lambda one: create_key(one, SystemClock(), "a viewer", Role.VIEWER)))
    return Caller(server, made)


def rows(caller: Caller, query: str = "") -> list[dict[str, str]]:
    status, body, headers = caller.ask("GET", f"/api/bugs/export.csv{query}")
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert headers["content-disposition"] == 'attachment; filename="bugs.csv"'
    return list(csv.DictReader(io.StringIO(body.decode(), newline="")))


def listed(caller: Caller, query: str) -> list[dict[str, Any]]:
    bugs: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = caller.get(f"/api/bugs/?limit=200{query}{cursor}")
        bugs += [{name: value for name, value in bug.items() if name != "sla"} for bug in page["bugs"]]
        if page["nextCursor"] is None:
            return bugs
        cursor = f"&cursor={page['nextCursor']}"


@pytest.mark.parametrize("sort", ["-createdAt", "createdAt", "-number", "number"])
def test_every_bug_is_exported_once_in_the_order_of_the_list(staff: Caller, sort: str) -> None:
    expected = [one["number"] for one in listed(staff, f"&site=ZZ&sort={sort}")]
    assert len(expected) == len(set(expected)) == 1_203
    assert [int(row["number"]) for row in rows(staff, f"?site=ZZ&sort={sort}")] == expected
    assert [one["number"] for one in staff.get(f"/api/bugs/export.json?site=ZZ&sort={sort}")] == expected


def test_json_is_what_the_list_shows_and_csv_says_the_same_in_text(staff: Caller) -> None:
    bug = staff.report(deviceId="EXPORTED", tags=["two words", "b"], reportedByEmail="jean@euralis.com")
    staff.patch(f"/api/bugs/{bug}", {"status": "resolved", "resolution": 'done\nwell, "so"', "assignedTo": "Zoé"})
    (shown,) = listed(staff, "&device=EXPORTED")
    assert staff.get("/api/bugs/export.json?device=EXPORTED") == [shown]
    (row,) = rows(staff, "?device=EXPORTED")
    assert set(row) == set(shown)
    assert json.loads(row.pop("tags")) == ["two words", "b"]
    assert row == {name: "" if shown[name] is None else str(shown[name]) for name in row}
    assert row["createdAt"].endswith("Z")


def test_an_export_of_nothing_is_an_empty_array_and_a_header(staff: Caller) -> None:
    assert staff.get("/api/bugs/export.json?device=NOBODY") == []
    assert staff.get("/api/bugs/export.json?device=NOBODY&comments=true") == []
    assert rows(staff, "?device=NOBODY") == []
    assert staff.ask("GET", "/api/bugs/export.csv?device=NOBODY")[1].startswith(b"id,number,status,")


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", " =1", '"=1', "'=1", "\u00a0=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201",
     "\t1", "\r1", "\n=1", " \" '=1", "\ufeff=1"],
)  # fmt: skip
def test_what_a_spreadsheet_would_run_is_kept_as_text(text: str) -> None:
    assert as_text(text) == f"'{text}"


def test_other_texts_and_numbers_stay_as_they_are() -> None:
    assert [as_text(one) for one in ("a=1", "1. -x", "", "é", -1.5, True, None)] == ["a=1", "1. -x", "", "é", "-1.5",
                                                                                    "true", ""]  # fmt: skip


def test_formulas_are_defused_in_csv_and_left_in_json(staff: Caller) -> None:
    staff.report(title='=HYPERLINK("http://x")', description=" @x", deviceId="FORMULA", tags=["=1"])
    (row,) = rows(staff, "?device=FORMULA")
    assert (row["title"], row["description"]) == ('\'=HYPERLINK("http://x")', "' @x")
    assert row["tags"] == '["=1"]'
    assert staff.get("/api/bugs/export.json?device=FORMULA")[0]["title"] == '=HYPERLINK("http://x")'


def test_an_outsider_sees_no_trace_of_what_is_internal(staff: Caller, outsider: Caller) -> None:
    bug = staff.report(deviceId="INSIDE", reportedByEmail="jean@euralis.com")
    staff.post(f"/api/bugs/{bug}/comments", {"comment": "for all", "author": "Marie"})
    before = outsider.ask("GET", "/api/bugs/export.json?device=INSIDE&comments=true")[1]
    table = outsider.ask("GET", "/api/bugs/export.csv?device=INSIDE")[1]
    staff.post(f"/api/bugs/{bug}/comments", {"comment": "between us", "isInternal": True})
    assert outsider.ask("GET", "/api/bugs/export.json?device=INSIDE&comments=true")[1] == before
    assert outsider.ask("GET", "/api/bugs/export.csv?device=INSIDE")[1] == table
    assert b"euralis" not in table
    assert (before[0]["reportedByEmail"], before[0]["commentCount"]) == (None, 1)
    (seen,) = staff.get("/api/bugs/export.json?device=INSIDE&comments=true")
    assert [one["comment"] for one in seen["comments"]] == ["for all", "between us"]
    assert (seen["commentCount"], seen["reportedByEmail"]) == (2, "jean@euralis.com")
    in_rest = staff.get(f"/api/bugs/{bug}/comments")["comments"]
    assert seen["comments"] == [
        {name: one[name] for name in one if name not in ("bugId", "references")} for one in in_rest
    ]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("sort=-updatedAt", "sort"), ("sort=severity", "sort"), ("status=eaten", "status"), ("limit=5", "limit"),
     ("createdFrom=x", "createdFrom"), ("text=%00", "text")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_cannot_be_is_refused_with_its_parameter(staff: Caller, kind: str, query: str, parameter: str) -> None:
    status, problem, _ = staff.ask("GET", f"/api/bugs/export.{kind}?{query}")
    assert (status, problem["errors"][0]["parameter"]) == (422, parameter)


def test_comments_are_for_json(staff: Caller) -> None:
    assert staff.ask("GET", "/api/bugs/export.csv?comments=true")[0] == 422
    assert staff.ask("GET", "/api/bugs/export.json?comments=perhaps")[0] == 422


@asynccontextmanager
async def exporting(server: Server) -> AsyncIterator[BugExports]:
    clock = SystemClock()
    breaker = CircuitBreaker(name="database", classify=judge)
    dependency = Dependency(DATABASE, breaker, FaultSwitches(clock, ["database"]), clock)
    dsn = EmbeddedPostgres(server.folder).dsn
    database = Database(dsn, dependency, Metrics(), size=1, deadline_s=30.0, name="bugs")
    await database.open()
    yield BugExports(database)
    await database.close()


async def test_what_is_changed_meanwhile_comes_once_and_what_breaks_off_is_no_json(
    server: Server, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 100)
    staff.report(siteCode="YY", title="later")
    async with exporting(server) as exports:
        whole, pieces = b"", exports.json(BugFilter(site="ZZ"), "-createdAt", Audience.STAFF)
        seen = 0
        async for piece in pieces:
            with pytest.raises(json.JSONDecodeError):
                json.loads(whole)
            whole += piece
            seen += 1
            if seen == 4:  # no connection is held between pages: with a pool of one, others come to theirs
                await run(server, lambda one: one.execute("UPDATE bugs SET updated_at = updated_at + interval '1 y'"))
        numbers = [one["number"] for one in json.loads(whole)]
    assert len(numbers) == len(set(numbers)) == 1_203


async def test_comments_come_in_pages_too_and_each_at_its_bug(
    server: Server, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "COMMENTS", 2)
    monkeypatch.setattr(export, "PAGE", 3)
    expected = {}
    for count in (0, 1, 2, 5, 0, 4, 0):
        bug = staff.report(deviceId="TALK")
        expected[bug] = [f"{bug} {n}" for n in range(count)]
        for said in expected[bug]:
            staff.post(f"/api/bugs/{bug}/comments", {"comment": said})
    for sort in ("number", "-createdAt"):
        async with exporting(server) as exports:
            made = exports.json(BugFilter(device="TALK"), sort, Audience.OUTSIDER, comments=True)
            bugs = json.loads(b"".join([piece async for piece in made]))
        assert {one["id"]: [said["comment"] for said in one["comments"]] for one in bugs} == expected
