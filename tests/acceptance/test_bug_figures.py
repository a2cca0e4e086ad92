"""Figures of bugs through REST and for Prometheus: from the cache, at once after a change, and while PostgreSQL is away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.bug_client import REPORT, Caller
from tests.support import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMMARY = "/api/bugs/metrics/summary"
FIGURES = "/api/bugs/metrics/figures"
SLA = "critical=0.000001,high=8,medium=24,low=72"


@pytest.fixture(scope="module")
def staff() -> Iterator[Caller]:
    with running_server(FAULT_SWITCHES="true", BUG_SLA_ACKNOWLEDGE_HOURS=SLA) as server:
        yield Caller(server)


def scrape(staff: Caller) -> dict[str, float]:
    lines = staff.server.request("/metrics")[1].decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("bugs_")}


def until(true: Any, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def test_gauges_are_there_from_the_start_but_no_average_of_nothing(staff: Caller) -> None:
    until(lambda: len(scrape(staff)) == 5, "the gauges are there")
    seen = scrape(staff)
    assert "bugs_average_resolution_hours" not in seen
    assert set(seen.values()) == {0}


def test_whoever_reports_or_changes_a_bug_reads_it_counted_at_once(staff: Caller) -> None:
    before = staff.get(SUMMARY)["totalBugs"]
    for number in range(1, 6):
        bug = staff.post("/api/bugs/", REPORT)["id"]
        told = staff.get(SUMMARY)
        assert (told["totalBugs"], told["inProgressBugs"]) == (before + number, number - 1)
        staff.patch(f"/api/bugs/{bug}", {"status": "in_progress"})
        assert staff.get(SUMMARY)["inProgressBugs"] == number


def test_in_between_it_is_read_from_the_cache(staff: Caller) -> None:
    staff.get(SUMMARY)
    status, _, headers = staff.ask("GET", SUMMARY)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert headers["cache-status"].startswith("gaveurs; hit; ttl=")
    assert int(headers["age"]) >= 0
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=0.05) >= 0.05:  # other processes use this machine too
        began = time.perf_counter()
        answers = [staff.ask("GET", SUMMARY) for _ in range(50)]
        took_s.append((time.perf_counter() - began) / 50)
        assert all("; hit" in headers["cache-status"] for _, _, headers in answers)
    assert min(took_s) < 0.05, took_s
    staff.get(FIGURES)
    assert "hit" in staff.ask("GET", FIGURES)[2]["cache-status"]


def test_figures_have_their_members_and_refuse_what_makes_no_sense(staff: Caller) -> None:
    told = staff.get(f"{FIGURES}?severity=high&device=ESP32_LL_01&from=2026-01-01")
    assert {"mtta", "mttr", "ageing", "reopenRate", "sla", "byDevice", "byFirmware", "deviceHours"} <= told.keys()
    assert set(told["ageing"]["high"]) == {
        "upTo1Day", "upTo7Days", "upTo30Days", "upTo90Days", "over90Days", "medianAgeHours",
    }  # fmt: skip
    assert set(told["sla"]["low"]["resolve"]) == {"met", "breached", "running", "breachedOpen"}
    assert staff.get(f"{FIGURES}?from=9000-01-01")["count"] == 0
    assert staff.get(f"{FIGURES}?to=0002-01-01")["count"] == 0
    for wrong in (
        "from=yesterday", "from=2026-02-02&to=2026-01-01", "severity=awful", "category=x", "device=", "days=3",
        "device=a%00b", "firmware=" + "v" * 65, "to=99999-01-01", "severity=high&severity=low", "device=%ED%A0%80%00",
    ):  # fmt: skip
        assert staff.ask("GET", f"{FIGURES}?{wrong}")[0] == 422, wrong


def test_each_bug_shows_how_it_stands_and_lists_find_the_breached_and_the_due(staff: Caller) -> None:
    calm = staff.post("/api/bugs/", REPORT | {"title": "calm"})["id"]
    late = staff.post("/api/bugs/", REPORT | {"title": "late", "severity": "critical"})["id"]
    shown = staff.get(f"/api/bugs/{calm}")["sla"]
    assert (shown["acknowledge"]["targetHours"], shown["acknowledge"]["state"]) == (8.0, "running")
    assert (shown["resolve"]["targetHours"], shown["resolve"]["state"]) == (72.0, "running")
    assert shown["resolve"]["dueAt"] is not None
    until(lambda: staff.get(f"/api/bugs/{late}")["sla"]["acknowledge"]["state"] == "breached", "it is late")
    assert [bug["id"] for bug in staff.get("/api/bugs?sla=breached")["bugs"]] == [late]
    assert staff.get("/api/bugs?sla=breached&status=open&text=late")["total"] == 1
    assert staff.get("/api/bugs?sla=due")["total"] == 0
    paused = staff.patch(f"/api/bugs/{calm}", {"status": "awaiting_info"})["sla"]
    assert (paused["acknowledge"]["state"], paused["resolve"]["state"]) == ("met", "paused")
    assert paused["resolve"]["dueAt"] is None
    assert staff.ask("GET", "/api/bugs?sla=soon")[0] == 422


def test_while_the_database_is_away_the_last_summary_is_read_as_stale(staff: Caller) -> None:
    total = staff.get(SUMMARY)["totalBugs"]
    staff.post("/api/bugs/", REPORT)  # what was cached is known to be older
    status, _, _ = staff.ask("PUT", "/api/admin/faults/database", {"kind": "error", "expires_s": 60})
    assert status == 200
    status, body, headers = staff.ask("GET", SUMMARY)
    assert (status, body["totalBugs"]) == (200, total), "an old one is better than none"
    assert 'detail="stale"' in headers["cache-status"]
    staff.ask("DELETE", "/api/admin/faults/database")
    until(lambda: staff.get(SUMMARY)["totalBugs"] == total + 1, "it is loaded anew")
