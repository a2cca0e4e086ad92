"""The bug tracker's contract: the guide's examples letter for letter, a bug's whole life, editors and reporters at once."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from app.core.embedded_postgres import EmbeddedPostgres
from tests.bug_client import REPORT, Caller, make_key
from tests.support import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

PARIS = ZoneInfo("Europe/Paris")
GUIDE_CREATE = """
{
  "title": "VL53L8CH sensor timeout",
  "description": "Device ESP32_LL_01 stops responding after 2 hours",
  "severity": "high",
  "priority": "urgent",
  "category": "hardware",
  "deviceId": "ESP32_LL_01",
  "firmwareVersion": "v2.3.1",
  "reportedBy": "Jean Dupont",
  "reportedByEmail": "jean@euralis.com",
  "reproductionSteps": "1. Start device\\n2. Wait 2 hours\\n3. Observe timeout",
  "tags": ["sensor", "timeout", "esp32"]
}
"""
GUIDE_COMMENT = '{"comment": "Fixed in firmware v2.3.2", "author": "Marie Martin", "isInternal": false}'
GUIDE_CURLS = (
    r"""curl -X POST http://localhost:8000/api/bugs/ \
  -H "Content-Type: application/json" \
  -d '{"title":"Test bug","description":"Test description","severity":"low","priority":"medium"}'""",
    "curl http://localhost:8000/api/bugs/?status=open",
    "curl http://localhost:8000/api/bugs/metrics/summary",
)
SUMMARY = {
    "totalBugs", "openBugs", "inProgressBugs", "resolvedBugs", "closedBugs", "criticalBugs", "highSeverityBugs",
    "mediumSeverityBugs", "lowSeverityBugs", "newToday", "resolvedToday", "avgResolutionTimeHours",
}  # fmt: skip


@pytest.fixture
def own_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def staff(server: Server) -> Caller:
    return Caller(server)


def as_curl_would(server: Server, command: str) -> tuple[int, Any]:
    """Run a curl line of the guide against our port: its method, its headers and its body, to the letter."""
    words = shlex.split(command)[1:]
    method, headers, body, url = "GET", {}, None, ""
    while words:
        match words.pop(0):
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                body = words.pop(0)
            case "\n":
                pass
            case other:
                url = other
    path = url.removeprefix("http://localhost:8000")
    status, raw, _ = server.request(
        path, method=method, body=None if body is None else json.loads(body), headers=headers
    )
    return status, json.loads(raw)


@pytest.mark.usefixtures("within_one_day")
def test_the_guides_curl_lines_work_to_the_letter(own_server: Server) -> None:
    status, made = as_curl_would(own_server, GUIDE_CURLS[0])
    assert status == 201
    assert {name: made[name] for name in ("message", "status")} == {
        "message": "Bug report created successfully",
        "status": "open",
    }
    status, listed = as_curl_would(own_server, GUIDE_CURLS[1])
    assert status == 200
    assert [bug["id"] for bug in listed["bugs"]] == [made["id"]]
    status, summary = as_curl_would(own_server, GUIDE_CURLS[2])
    assert status == 200
    assert set(summary) >= SUMMARY
    assert (summary["totalBugs"], summary["openBugs"], summary["lowSeverityBugs"], summary["newToday"]) == (1, 1, 1, 1)
    assert summary["avgResolutionTimeHours"] is None


def test_the_guides_report_keeps_every_member_and_comes_back_as_it_was(staff: Caller) -> None:
    made = staff.post("/api/bugs/", json.loads(GUIDE_CREATE))
    bug = staff.get(f"/api/bugs/{made['id']}")
    assert {name: bug[name] for name in json.loads(GUIDE_CREATE)} == json.loads(GUIDE_CREATE)
    page = staff.get("/api/bugs/?status=open&severity=high&limit=50")
    assert {name: page[name] for name in ("skip", "limit", "totalIsExact")} == {
        "skip": 0,
        "limit": 50,
        "totalIsExact": True,
    }
    assert page["total"] == len(page["bugs"]) >= 1
    said = staff.post(f"/api/bugs/{made['id']}/comments", json.loads(GUIDE_COMMENT))
    assert {name: said[name] for name in json.loads(GUIDE_COMMENT)} == json.loads(GUIDE_COMMENT)


@pytest.mark.parametrize(
    "path",
    ["/api/bugs", "/api/bugs/metrics/summary", "/api/bugs/metrics/trends", "/api/bugs/workflow", "/api/bugs/{id}",
     "/api/bugs/{id}/comments", "/api/bugs/{id}/history"],
)  # fmt: skip
def test_a_slash_at_the_end_makes_no_difference(staff: Caller, path: Any) -> None:
    path = path.format(id=staff.report())
    assert staff.ask("GET", path)[0] == staff.ask("GET", f"{path}/")[0] == 200


@pytest.mark.parametrize("path", ["/api/bugs", "/api/bugs/"])
def test_reporting_works_with_and_without_the_slash(staff: Caller, path: Any) -> None:
    staff.post(path, REPORT)


@pytest.mark.usefixtures("within_one_day")
def test_a_life_of_a_bug_adds_up_everywhere(own_server: Server) -> None:
    """Report, triage, comment outside and inside, assign, wait, resolve, reopen, resolve, close; and three bystanders."""
    staff = Caller(own_server)
    outsider = Caller(own_server, make_key(own_server, "viewer"))
    today = datetime.now(PARIS).date()
    bug = staff.report(deviceId="ESP32_LL_01", firmwareVersion="v2.3.1", category="hardware")
    path = f"/api/bugs/{bug}"
    ignored, waiting = staff.report(severity="critical"), staff.report(severity="low")
    staff.report(severity="medium")
    staff.patch(path, {"severity": "critical", "tags": ["sensor", "alpha"]})
    staff.post(f"{path}/comments", {"comment": "It happens here too", "author": "Marie"})
    staff.post(f"{path}/comments", {"comment": "The supplier must not know", "isInternal": True})
    staff.patch(path, {"assignedTo": "Marie Martin", "status": "in_progress"})
    staff.patch(path, {"status": "awaiting_info"})
    staff.patch(path, {"status": "in_progress"})
    staff.patch(
        path, {"status": "resolved", "resolution": "new cable", "fixedInFirmware": "v2.3.2", "resolvedBy": "M."}
    )
    staff.patch(path, {"status": "reopened"})
    staff.patch(path, {"status": "resolved", "resolution": "new connector"})
    closed = staff.patch(path, {"status": "closed"})
    staff.patch(f"/api/bugs/{ignored}", {"status": "wont_fix"})
    staff.patch(f"/api/bugs/{waiting}", {"status": "awaiting_info"})

    hours = (at(closed["resolvedAt"]) - at(closed["createdAt"])) / timedelta(hours=1)
    summary = staff.get("/api/bugs/metrics/summary")
    assert summary.pop("avgResolutionTimeHours") == pytest.approx(hours, rel=1e-9)
    assert {name: summary[name] for name in SUMMARY - {"avgResolutionTimeHours"}} == {
        "totalBugs": 4, "openBugs": 1, "inProgressBugs": 1, "resolvedBugs": 0, "closedBugs": 2, "criticalBugs": 2,
        "highSeverityBugs": 0, "mediumSeverityBugs": 1, "lowSeverityBugs": 1, "newToday": 4, "resolvedToday": 1,
    }  # fmt: skip
    trends = staff.get("/api/bugs/metrics/trends?days=3")
    assert trends == {
        "days": 3,
        "items": [
            {"date": str(today - timedelta(days=2)), "created": 0, "resolved": 0, "open": 0},
            {"date": str(today - timedelta(days=1)), "created": 0, "resolved": 0, "open": 0},
            {"date": str(today), "created": 4, "resolved": 1, "open": 2},
        ],
    }
    assert [told(event) for event in staff.get(f"{path}/history")["items"]] == [
        ("created", None, None, {"status": "open", "severity": "high", "priority": "urgent", "category": "hardware"}),
        ("changed", "severity", "high", "critical"),
        ("changed", "tags", [], ["sensor", "alpha"]),
        ("commented", None, None, "public"),
        ("commented", None, None, "internal"),
        ("changed", "status", "open", "in_progress"),
        ("changed", "assignedTo", None, "Marie Martin"),
        ("changed", "status", "in_progress", "awaiting_info"),
        ("changed", "status", "awaiting_info", "in_progress"),
        ("changed", "status", "in_progress", "resolved"),
        ("changed", "resolution", None, "new cable"),
        ("changed", "resolvedBy", None, "M."),
        ("changed", "fixedInFirmware", None, "v2.3.2"),
        ("changed", "status", "resolved", "reopened"),
        ("changed", "resolution", "new cable", None),
        ("changed", "resolvedBy", "M.", None),
        ("changed", "fixedInFirmware", "v2.3.2", None),
        ("changed", "status", "reopened", "resolved"),
        ("changed", "resolution", None, "new connector"),
        ("changed", "status", "resolved", "closed"),
    ]
    assert (closed["reopened"], closed["commentCount"], closed["resolution"]) == (1, 2, "new connector")
    assert at(closed["createdAt"]) < at(closed["acknowledgedAt"]) < at(closed["resolvedAt"]) < at(closed["closedAt"])
    seen = outsider.get(path)
    assert seen["commentCount"] == 1
    assert len(outsider.get(f"{path}/history")["items"]) == 19


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    new = event["new"]
    if event["kind"] == "commented":
        new = "internal" if event["isInternal"] else "public"
    return event["kind"], event["field"], event["old"], new


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def test_of_two_editors_one_wins_and_the_other_learns_what_was_changed(staff: Caller) -> None:
    path = f"/api/bugs/{staff.report()}"
    etag = staff.ask("GET", path)[2]["etag"]
    with ThreadPoolExecutor(2) as pool:
        edits = [{"title": "by the first"}, {"description": "by the second", "severity": "low"}]
        answers = list(pool.map(lambda edit: staff.ask("PATCH", path, edit, If_Match=etag), edits))
    assert sorted(answer[0] for answer in answers) == [200, 412]
    lost = next(place for place, answer in enumerate(answers) if answer[0] == 412)
    refusal = answers[lost][1]
    assert refusal["code"] == "precondition_failed"
    assert refusal["currentVersion"] == 2
    assert {change["field"] for change in refusal["meanwhile"]} == set(edits[1 - lost])
    again = staff.patch(path, edits[lost], If_Match=f'"{refusal["currentVersion"]}"')
    assert {**edits[0], **edits[1]} == {name: again[name] for name in ("title", "description", "severity")}


def test_of_which_bug_it_is_a_duplicate_belongs_to_the_version(staff: Caller) -> None:
    first, second = staff.report(), staff.report()
    path = f"/api/bugs/{staff.report()}"
    staff.patch(path, {"status": "duplicate", "duplicateOf": first})
    changed = staff.patch(path, {"duplicateOf": second}, If_Match='"2"')
    assert (changed["version"], changed["duplicateOf"]) == (3, second)
    assert staff.ask("PATCH", path, {"duplicateOf": first}, If_Match='"2"')[0] == 412
    assert staff.patch(path, {"duplicateOf": second})["version"] == 3
    assert staff.patch(path, {"status": "reopened"})["duplicateOf"] is None


def test_what_is_resolved_keeps_a_resolution(staff: Caller) -> None:
    path = f"/api/bugs/{staff.report()}"
    staff.patch(path, {"status": "resolved", "resolution": "new cable"})
    for status in ("resolved", "closed"):
        staff.patch(path, {"status": status})
        refused, problem, _ = staff.ask("PATCH", path, {"resolution": None})
        assert (refused, problem["errors"][0]["pointer"]) == (422, "#/resolution")


@pytest.mark.parametrize(
    ("given", "status"),
    [('"1"', 200), ("*", 200), ('"9", "1"', 200), ('W/"1"', 412), ('"2"', 412), ('"x"', 412), ("1", 422), ("", 422)],
)
def test_if_match_is_read_as_http_says(staff: Caller, given: Any, status: Any) -> None:
    path = f"/api/bugs/{staff.report()}"
    assert staff.ask("PATCH", path, {"title": "another"}, If_Match=given)[0] == status


def test_comments_do_not_stand_in_an_editors_way(staff: Caller) -> None:
    path = f"/api/bugs/{staff.report()}"
    etag = staff.ask("GET", path)[2]["etag"]
    staff.post(f"{path}/comments", {"comment": "meanwhile"})
    staff.patch(path, {"title": "still mine"}, If_Match=etag)


def test_a_hundred_reports_at_once_with_one_key_are_one_bug() -> None:
    """On a server that is patient with a hundred that wait for six connections: none is turned away."""
    patient = {"DATABASE_POOL_WAIT_S": "20", "QUERY_DEADLINE_S": "25", "REQUEST_DEADLINE_S": "28"}
    with running_server(**patient) as server, ThreadPoolExecutor(100) as pool:
        staff = Caller(server)
        answers = list(
            pool.map(lambda _: staff.ask("POST", "/api/bugs/", REPORT, Idempotency_Key="press-once"), range(100))
        )
        assert {answer[0] for answer in answers} == {201}
        assert len({answer[1]["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer[2] for answer in answers) == 99
        assert staff.get("/api/bugs/metrics/summary")["totalBugs"] == 1


def test_an_idempotency_key_stands_for_one_request_of_one_principal(staff: Caller) -> None:
    first = staff.post("/api/bugs/", REPORT, Idempotency_Key="mine")
    assert staff.post("/api/bugs/", REPORT, Idempotency_Key="mine") == first
    status, problem, _ = staff.ask("POST", "/api/bugs/", REPORT | {"severity": "low"}, Idempotency_Key="mine")
    assert (status, problem["errors"][0]["parameter"]) == (422, "Idempotency-Key")
    other = Caller(staff.server, make_key(staff.server, "reporter"))
    assert other.post("/api/bugs/", REPORT, Idempotency_Key="mine")["id"] != first["id"]
    for wrong in ("", "a b", "k" * 256, "é"):
        assert staff.ask("POST", "/api/bugs/", REPORT, Idempotency_Key=wrong)[0] == 422


def test_a_refused_report_keeps_no_key(staff: Caller) -> None:
    assert staff.ask("POST", "/api/bugs/", REPORT | {"severity": "bad"}, Idempotency_Key="later")[0] == 422
    staff.post("/api/bugs/", REPORT, Idempotency_Key="later")


def test_changing_without_if_match_can_be_forbidden() -> None:
    with running_server(BUGS_REQUIRE_IF_MATCH="true") as server:
        staff = Caller(server)
        path = f"/api/bugs/{staff.report()}"
        status, problem, _ = staff.ask("PATCH", path, {"title": "another"})
        assert (status, problem["code"]) == (428, "precondition_required")
        staff.patch(path, {"title": "another"}, If_Match='"1"')


@pytest.mark.parametrize(
    "statement", ["UPDATE bug_events SET actor = 'another'", "DELETE FROM bug_events", "TRUNCATE bug_events"]
)
async def test_history_cannot_be_rewritten_not_even_in_the_database(staff: Caller, statement: Any) -> None:
    staff.report()
    connection = await asyncpg.connect(EmbeddedPostgres(staff.server.folder).dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only added to"):
            await connection.execute(statement)
    finally:
        await connection.close()


def test_an_edited_comment_keeps_its_former_text(staff: Caller) -> None:
    path = f"/api/bugs/{staff.report()}"
    reporter = Caller(staff.server, make_key(staff.server, "reporter"))
    said = reporter.post(f"{path}/comments", {"comment": "it smells"})
    changed = reporter.patch(f"{path}/comments/{said['id']}", {"comment": "it stinks"})
    assert (changed["comment"], changed["editedAt"] is None) == ("it stinks", False)
    detail = staff.get(f"{path}/comments/{said['id']}")
    assert [former["comment"] for former in detail["former"]] == ["it smells"]
    theirs = staff.post(f"{path}/comments", {"comment": "noted"})
    assert reporter.ask("PATCH", f"{path}/comments/{theirs['id']}", {"comment": "no"})[0] == 403


def test_numbers_in_texts_are_links_to_bugs(staff: Caller) -> None:
    first = staff.get(f"/api/bugs/{staff.report()}")
    second = staff.report(description=f"like #{first['number']}, not #999999")
    assert [link["id"] for link in staff.get(f"/api/bugs/{second}")["references"]] == [first["id"]]
    said = staff.post(f"/api/bugs/{second}/comments", {"comment": f"see #{first['number']}"})
    assert said["references"][0]["url"] == f"/api/bugs/{first['id']}"
