"""Whatever is wrong in a request to the tracker is told with its place; nothing gives a 500, and texts stay texts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bug_client import REPORT, Caller
from tests.fuzz import fuzz
from tests.support import Server, running_server

NUL = "\x00"
NOBODY = "01a20cdc-c3e3-72f8-8152-65bfe8adf9fb"
BAD_MEMBERS = [
    ("title", ""), ("title", "   "), ("title", "x" * 301), ("title", 7), ("title", None), ("title", f"a{NUL}b"),
    ("title", "two\nlines"), ("title", "\ud800"), ("description", ""), ("description", "x" * 20_001),
    ("description", NUL), ("description", ["a"]), ("severity", "blocker"), ("severity", "HIGH"), ("severity", None),
    ("priority", "critical"), ("priority", 1), ("category", "food"), ("category", ""), ("deviceId", ""),
    ("deviceId", "d" * 129), ("deviceId", "a\tb"), ("firmwareVersion", "v" * 65), ("reportedBy", "n" * 129),
    ("reportedByEmail", "nobody"), ("reportedByEmail", "a@b c"), ("reportedByEmail", "x" * 250 + "@b.fr"),
    ("reproductionSteps", ""), ("reproductionSteps", "x" * 20_001), ("siteCode", "ll"), ("siteCode", "LLL"),
    ("tags", "sensor"), ("tags", None), ("tags", ["x"] * 31), ("tags", ["a,b"]), ("tags", [" a"]), ("unheard", 1), ("device_id", "ESP32_LL_01"),
    ("status", "open"), ("id", NOBODY),
]  # fmt: skip
BAD_QUERIES = [
    ("status", "done"), ("status", "open,done"), ("status", ""), ("severity", "urgent"), ("priority", "critical"),
    ("category", "none"), ("device", "d" * 129), ("device", "%00"), ("firmware", "f" * 65), ("text", "t" * 201),
    ("text", "%00"), ("tag", "%00"), ("createdFrom", "yesterday"), ("createdFrom", "2026-13-01"), ("createdTo", "0"),
    ("updatedFrom", "9999-99-99"), ("updatedTo", "x" * 65), ("sort", "title"), ("sort", "createdAt;--"),
    ("skip", "-1"), ("skip", "10001"), ("skip", "1e3"), ("limit", "0"), ("limit", "201"), ("limit", "ten"),
    ("limit", "9" * 400), ("number", "0"), ("number", str(2**63)), ("unassigned", "perhaps"), ("nonsense", "1"),
]  # fmt: skip
INJECTIONS = [
    "'; DROP TABLE bugs; --", '" OR 1=1 --', "$1 %s {0} \\", "</script><script>alert(1)</script>",
    '=HYPERLINK("http://x")', "🦆 Größe œuvre ﷽", "a' || pg_sleep(5) || '", "%27%3B", "\u200b\u202e a",
]  # fmt: skip


@pytest.fixture(scope="module")
def staff(server: Server) -> Caller:
    return Caller(server)


@pytest.mark.parametrize(("member", "value"), BAD_MEMBERS)
def test_a_bad_member_of_a_report_is_named(staff: Caller, member: Any, value: Any) -> None:
    status, problem, headers = staff.ask("POST", "/api/bugs/", REPORT | {member: value})
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert problem["errors"][0]["pointer"].split("/")[1] == member


@pytest.mark.parametrize("member", ["title", "description", "severity", "priority"])
def test_a_missing_member_is_named(staff: Caller, member: Any) -> None:
    status, problem, _ = staff.ask("POST", "/api/bugs/", {name: REPORT[name] for name in REPORT if name != member})
    assert (status, problem["errors"][0]["pointer"]) == (422, f"#/{member}")


def test_the_place_of_a_bad_tag_is_told(staff: Caller) -> None:
    status, problem, _ = staff.ask("POST", "/api/bugs/", REPORT | {"tags": ["good", "", "x" * 51]})
    assert status == 422
    assert [error["pointer"] for error in problem["errors"]] == ["#/tags/1", "#/tags/2"]


@pytest.mark.parametrize(
    ("member", "value"),
    [("status", "done"), ("status", None), ("title", None), ("severity", "x"), ("tags", None), ("resolution", ""),
     ("assignedTo", "x" * 129), ("fixedInFirmware", "v" * 65), ("resolvedAt", "2026-01-01"), ("number", 3),
     ("reportedBy", "another")],
)  # fmt: skip
def test_a_bad_member_of_a_change_is_named_and_nothing_is_changed(staff: Caller, member: Any, value: Any) -> None:
    path = f"/api/bugs/{staff.report()}"
    before = staff.get(path)
    status, problem, _ = staff.ask("PATCH", path, {"severity": "low", member: value} | {member: value})
    assert (status, problem["errors"][0]["pointer"].split("/")[1]) == (422, member)
    assert staff.get(path)["version"] == before["version"]


@pytest.mark.parametrize(("parameter", "value"), BAD_QUERIES)
def test_a_bad_filter_is_named(staff: Caller, parameter: Any, value: Any) -> None:
    status, problem, _ = staff.ask("GET", f"/api/bugs/?{parameter}={value}")
    assert (status, problem["errors"][0]["parameter"]) == (422, parameter)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/comments"), ("GET", "/history"), ("GET", "/attachments"), ("GET", "/links"),
     ("GET", "/affected"), ("POST", "/attachments"), ("POST", "/comments")],
)  # fmt: skip
def test_a_parameter_that_a_route_does_not_know_is_refused(staff: Caller, method: str, path: str) -> None:
    where = f"/api/bugs/{staff.report()}{path}?isInternal=true"
    status, problem, _ = staff.ask(method, where, {"comment": "x"} if method == "POST" else None)
    assert (status, problem["errors"][0]["parameter"]) == (422, "isInternal")


@pytest.mark.parametrize("cursor", ["x", "AAAA", "A" * 24, "%00", "e30", "AwDMzMzMzMzMzAAAAAAAAAAB"])
def test_a_cursor_that_we_did_not_give_is_refused(staff: Caller, cursor: Any) -> None:
    for path in ("/api/bugs/", f"/api/bugs/{staff.report()}/comments"):
        status, problem, _ = staff.ask("GET", f"{path}?cursor={cursor}")
        assert (status, problem["errors"][0]["parameter"]) == (400, "cursor")


@pytest.mark.parametrize(
    ("sort", "cursor"),
    [("severity", "AwVVAAAAAAAAAAAAAAAAAABZ"), ("-severity", "AwRVAAAAAAAAAwAAAAAAAE6R"),
     ("priority", "AwdVAAAAAAAAAAAAAAAAAAAU")],
)  # fmt: skip
def test_a_cursor_whose_value_no_bug_can_have_is_refused(staff: Caller, sort: str, cursor: str) -> None:
    assert staff.ask("GET", f"/api/bugs/?sort={sort}&cursor={cursor}")[0] == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_a_body_that_is_said_to_be_no_json_is_415(staff: Caller, kind: str) -> None:
    bug = staff.report()
    for method, path in (("POST", "/api/bugs/"), ("PATCH", f"/api/bugs/{bug}"), ("POST", f"/api/bugs/{bug}/comments")):
        assert staff.ask(method, path, REPORT, Content_Type=kind)[0] == 415


def test_a_cursor_of_another_sort_is_refused_and_none_goes_with_skip(staff: Caller) -> None:
    staff.report()
    staff.report()
    cursor = staff.get("/api/bugs/?limit=1")["nextCursor"]
    assert staff.ask("GET", f"/api/bugs/?sort=-severity&cursor={cursor}")[0] == 400
    assert staff.ask("GET", f"/api/bugs/?skip=1&cursor={cursor}")[0] == 422


@pytest.mark.parametrize("way", ["createdFrom=2026-02-02&createdTo=2026-02-01", "status=open&status=closed"])
def test_filters_that_contradict_themselves_are_refused(staff: Caller, way: Any) -> None:
    assert staff.ask("GET", f"/api/bugs/?{way}")[0] == 422


@pytest.mark.parametrize("bug", ["1", "x", "123e4567-e89b-12d3-a456-42661417400", "%00", "..%2f"])
def test_an_id_that_is_none_is_refused(staff: Caller, bug: Any) -> None:
    assert staff.ask("GET", f"/api/bugs/{bug}")[0] in (404, 422)
    assert staff.ask("PATCH", f"/api/bugs/{bug}", {"title": "x"})[0] in (404, 422)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "", None), ("PATCH", "", {"title": "x"}), ("GET", "/comments", None), ("GET", "/history", None),
     ("POST", "/comments", {"comment": "x"}), ("GET", f"/comments/{NOBODY}", None)],
)  # fmt: skip
def test_an_unknown_bug_is_404(staff: Caller, method: Any, path: Any, body: Any) -> None:
    status, problem, _ = staff.ask(method, f"/api/bugs/{NOBODY}{path}", body)
    assert (status, problem["code"]) == (404, "not_found")


def test_a_forbidden_transition_tells_the_allowed_ones(staff: Caller) -> None:
    path = f"/api/bugs/{staff.report()}"
    status, problem, _ = staff.ask("PATCH", path, {"status": "reopened"})
    assert (status, problem["code"]) == (409, "transition_not_allowed")
    assert problem["allowed"] == staff.get(path)["allowedTransitions"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"title":NaN}'])
def test_a_body_that_is_no_object_is_refused(staff: Caller, raw: Any) -> None:
    status, _, _ = staff.server.request_raw("/api/bugs/", raw)
    assert status in (400, 422)


def test_a_body_that_is_too_large_is_413(staff: Caller) -> None:
    assert staff.ask("POST", "/api/bugs/", REPORT | {"description": "x" * 300_000})[0] == 413


@pytest.mark.parametrize("text", INJECTIONS)
def test_texts_stay_texts(staff: Caller, text: Any) -> None:
    bug = staff.report(title=text, tags=[text], reportedBy=text, description=text)
    read = staff.get(f"/api/bugs/{bug}")
    assert (read["title"], read["tags"], read["reportedBy"], read["description"]) == (text, [text], text, text)


def test_nothing_in_the_openapi_document_gives_a_500_or_answers_otherwise_than_it_says() -> None:
    with running_server(REST_REQUESTS_PER_SECOND="100000", REST_BURST="100000") as server:
        staff = Caller(server)
        bug = staff.report()
        comment = staff.post(f"/api/bugs/{bug}/comments", {"comment": "x"})["id"]
        known = {"bug_id": [bug], "comment_id": [comment], "device_id": ["ESP32_LL_01"]}
        seen = fuzz(server, known, examples=2)
        assert sum(times for (_, status), times in seen.items() if status < 300) > 40
        assert sum(times for (_, status), times in seen.items() if status == 422) > 40
        assert not [event for event in server.events() if event["level"] in ("error", "critical")]
