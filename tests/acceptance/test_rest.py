"""The REST API against the real process."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.support import Server, device, trimmed


@pytest.fixture(scope="module", autouse=True)
def _samples(server: Server) -> None:
    asyncio.run(_send_samples(server))


async def _send_samples(server: Server) -> None:
    async with device(server) as client:
        for number in range(7):
            moment = f"2026-11-0{number + 1}T10:00:00Z"
            await client.ask(trimmed(sample_id=f"s{number}", timestamp=moment))
        await client.ask(trimmed(sample_id="a/b c", timestamp="2026-10-01T00:00:00Z"))
        await client.ask(trimmed(sample_id="s0", timestamp="2026-10-02T00:00:00Z", eleveur="earlier"))


def test_latest_is_one_sample_or_404(server: Server) -> None:
    assert server.get("/api/sqal/latest")["sample_id"] == "s6"
    assert server.get("/api/sqal/latest?device_id=ESP32_LL_01")["sample_id"] == "s6"
    status, body, headers = server.request("/api/sqal/latest?device_id=NOBODY")
    problem = json.loads(body)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert (problem["status"], problem["code"], problem["title"]) == (404, "not_found", "Not Found")


def test_pages_follow_their_cursor_to_the_end(server: Server) -> None:
    seen, cursor = [], ""
    while True:
        page = server.get(f"/api/sqal/samples?limit=4{cursor}")
        seen += [item["sample_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["s6", "s5", "s4", "s3", "s2", "s1", "s0", "s0", "a/b c"]


def test_times_bound_a_list(server: Server) -> None:
    query = "from=2026-11-02T10:00:00Z&to=2026-11-04T10:00:00%2B00:00"
    assert [item["sample_id"] for item in server.get(f"/api/sqal/samples?{query}")["items"]] == ["s2", "s1"]
    assert len(server.get("/api/sqal/samples?grade=A%2B")["items"]) == 9
    assert len(server.get("/api/sqal/samples?grade=A+")["items"]) == 9
    assert server.get("/api/sqal/samples?grade=REJECT")["items"] == []
    assert len(server.get("/api/sqal/samples?lot=LL-260202-4821&device_id=ESP32_LL_01&site_code=LL")["items"]) == 9


def test_the_newest_of_two_is_shown_and_device_time_chooses(server: Server) -> None:
    path = "/api/sqal/samples/ESP32_LL_01/s0"
    assert server.get(path)["farmer"] == "Elevage 017"
    assert server.get(f"{path}?device_time=2026-10-02T00:00:00Z")["farmer"] == "earlier"
    assert server.request(f"{path}?device_time=2026-10-03T00:00:00Z")[0] == 404
    assert json.loads(server.request(f"{path}/message?device_time=2026-10-02T00:00:00Z")[1])["eleveur"] == "earlier"


def test_a_sample_id_may_hold_a_slash(server: Server) -> None:
    assert server.get("/api/sqal/samples/ESP32_LL_01/a%2Fb%20c")["sample_id"] == "a/b c"
    frame = server.get("/api/sqal/samples/ESP32_LL_01/a%2Fb%20c/frame")
    sent = trimmed()
    assert frame["distance_matrix"] == sent["vl53l8ch"]["distance_matrix"]
    assert frame["status_matrix"] == sent["vl53l8ch"]["status_matrix"]
    assert frame["channels"] == sent["as7341"]["channels"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/sqal/samples?limit=201", 422),
        ("/api/sqal/samples?limit=0", 422),
        ("/api/sqal/samples?grade=excellent", 422),
        ("/api/sqal/samples?from=soon", 422),
        ("/api/sqal/samples?from=2026-11-03T00:00:00Z&to=2026-11-02T00:00:00Z", 422),
        ("/api/sqal/samples?cursor=abc", 400),
        ("/api/sqal/samples?device_id=%00", 422),
        ("/api/sqal/devices?cursor=%21", 400),
        ("/api/sqal/devices/NOBODY", 404),
        ("/api/sqal/devices/%00", 422),
        ("/api/sqal/quarantine/not-a-uuid", 422),
        ("/api/sqal/quarantine/00000000-0000-0000-0000-000000000000", 404),
        ("/api/sqal/samples/ESP32_LL_01/none/frame", 404),
        ("/api/nothing", 404),
    ],
)
def test_a_bad_question_is_a_problem_document(server: Server, path: str, status: int) -> None:
    answered, body, headers = server.request(path)
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    assert json.loads(body)["status"] == status


def test_a_device_is_configured_and_one_never_seen_too(server: Server) -> None:
    path = "/api/sqal/devices/ESP32_LL_42"
    changes = {"site_code": "MT", "profile": "tray", "recipe": "sqal-1-reported", "trust_defects": True}
    status, body, _ = server.request(path, method="PATCH", body=changes)
    assert status == 200
    known = json.loads(body)
    assert {name: known[name] for name in changes} == changes
    assert known["state"] == "never_seen"
    server.request(path, method="PATCH", body={"profile": None})
    assert (server.get(path)["profile"], server.get(path)["site_code"]) == (None, "MT")
    wrongs: tuple[object, ...] = (
        {"site_code": "x"},
        {"recipe": "sqal-9"},
        {"colour": "red"},
        {"trust_defects": "maybe"},
        [],
    )
    for wrong in wrongs:
        assert server.request(path, method="PATCH", body=wrong)[0] == 422
    listed = [item["device_id"] for item in server.get("/api/sqal/devices")["items"]]
    assert listed == sorted(listed)
    page = server.get("/api/sqal/devices?limit=1")
    assert server.get(f"/api/sqal/devices?limit=1&cursor={page['next_cursor']}")["items"][0]["device_id"] == listed[1]


async def test_a_replay_over_rest_tells_what_became_of_it(server: Server) -> None:
    async with device(server) as client:
        await client.ask(trimmed(sample_id="replay", fusion__final_score=3))
    entry = server.get("/api/sqal/quarantine?device_id=ESP32_LL_01")["items"][0]
    status, body, _ = server.request(f"/api/sqal/quarantine/{entry['id']}/replay", method="POST")
    assert (status, json.loads(body)["results"][0]["code"]) == (200, "out_of_range")
    assert server.get(f"/api/sqal/quarantine/{entry['id']}")["replay_result"] == "out_of_range"


def test_the_schema_is_published_and_every_answer_has_a_request_id(server: Server) -> None:
    schema = server.get("/openapi.json")
    assert schema["components"]["schemas"]["Sample"]["examples"]
    assert server.request("/docs")[0] == 200
    assert server.request("/api/sqal/latest", headers={"X-Request-ID": "abc-1"})[2]["x-request-id"] == "abc-1"
    for unfit in ("a b", "gvk_0123456789ab_abcdef", "x-whsec_abcdef", "AGE-SECRET-KEY-1ABC"):
        given = server.request("/api/sqal/latest", headers={"X-Request-ID": unfit})[2]["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given), unfit


def test_the_probes_answer_with_the_guides_bodies(server: Server) -> None:
    assert server.get("/health/startup")["status"] == "started"
    assert server.get("/health/startup")["duration"] > 0
    assert server.get("/health/live")["status"] == "alive"
    assert server.get("/health/ready") == {"status": "ready", "components": {"database": True, "cache": True}}


def test_hours_are_summed_by_device_newest_first_and_paged(server: Server) -> None:
    page = server.get("/api/sqal/aggregates/hourly?device_id=ESP32_LL_01")
    buckets = [item["bucket"] for item in page["items"]]
    assert buckets == sorted(buckets, reverse=True)
    assert page["next_cursor"] is None
    oldest = page["items"][-1]
    assert (oldest["bucket"], oldest["count"], oldest["grades"]["A+"]) == ("2026-10-01T00:00:00Z", 1, 1)
    assert oldest["score"]["average"] == oldest["score"]["max"] == pytest.approx(0.9115)
    seen, cursor = [], ""
    while True:
        part = server.get(f"/api/sqal/aggregates/hourly?device_id=ESP32_LL_01&limit=2{cursor}")
        seen += part["items"]
        if part["next_cursor"] is None:
            break
        cursor = f"&cursor={part['next_cursor']}"
    assert seen == page["items"]
    within = server.get("/api/sqal/aggregates/hourly?from=2026-11-02T10:30:00Z&to=2026-11-04T10:00:00Z")["items"]
    assert [item["bucket"] for item in within] == ["2026-11-03T10:00:00Z", "2026-11-02T10:00:00Z"]
    assert server.get("/api/sqal/aggregates/hourly?site_code=ZZ")["items"] == []


def test_a_devices_stats_are_the_sums_of_its_hours(server: Server) -> None:
    stats = server.get("/api/sqal/devices/ESP32_LL_01/stats")
    hours = server.get("/api/sqal/aggregates/hourly?device_id=ESP32_LL_01")["items"]
    assert stats["count"] == sum(hour["count"] for hour in hours) == sum(stats["grades"].values())
    assert stats["first_bucket"] == hours[-1]["bucket"]
    part = server.get("/api/sqal/devices/ESP32_LL_01/stats?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z")
    assert (part["count"], part["conformity"], part["reject_rate"]) == (1, 1.0, 0.0)
    assert part["score"]["deviation"] == pytest.approx(0, abs=1e-6)
    none = server.get("/api/sqal/devices/ESP32_LL_01/stats?to=2000-01-01T00:00:00Z")
    assert (none["count"], none["conformity"], none["score"], none["first_bucket"]) == (0, None, None, None)
    assert server.request("/api/sqal/devices/NOBODY/stats")[0] == 404


def test_the_dashboard_shows_a_time_by_hour_site_and_device(server: Server) -> None:
    board = server.get("/api/sqal/dashboard?device_id=ESP32_LL_01&from=2026-11-01T00:00:00Z&to=2026-11-08T00:00:00Z")
    assert board["count"] == sum(hour["count"] for hour in board["hours"]) == 7
    assert [hour["bucket"] for hour in board["hours"]] == sorted(hour["bucket"] for hour in board["hours"])
    assert [(site["site_code"], site["count"]) for site in board["sites"]] == [("LL", 7)]
    assert [(one["device_id"], one["count"]) for one in board["devices"]] == [("ESP32_LL_01", 7)]
    assert board["per_hour"] == pytest.approx(7 / 168)
    assert board["device_states"]["online"] >= 1
    assert sum(board["device_states"].values()) == len(server.get("/api/sqal/devices?limit=200")["items"])
    assert {one["version"] for one in board["firmware"]}
    assert server.get("/api/sqal/dashboard?lot=NONE")["count"] == 0
    assert server.request("/api/sqal/dashboard?from=2025-01-01")[0] == 422


def test_the_recipes_are_listed_with_their_definitions(server: Server) -> None:
    items = {item["name"]: item for item in server.get("/api/sqal/recipes")["items"]}
    assert set(items) == {"sqal-1", "sqal-1-reported"}
    assert items["sqal-1"]["definition"]["thresholds"]["A+"] == 850_000
    assert all(item["known"] for item in items.values())


@pytest.mark.parametrize(
    ("query", "status"),
    [("cursor=zzz", 400), ("from=yesterday", 422), ("from=2026-11-02&to=2026-11-01", 422), ("limit=201", 422)],
)
def test_bad_parameters_of_the_figures_are_problems(server: Server, query: str, status: int) -> None:
    got, body, headers = server.request(f"/api/sqal/aggregates/hourly?{query}")
    assert (got, headers["content-type"], json.loads(body)["status"]) == (status, "application/problem+json", status)


@pytest.mark.parametrize(
    "path",
    [
        "/health/ready",
        "/metrics",
        "/",
        "/api/sqal/latest",
        "/api/sqal/samples.csv",
        "/api/bugs",
        "/api/sqal/latest?device_id=NOBODY",
    ],
)
def test_head_is_answered_as_get_is_but_for_the_body(server: Server, path: str) -> None:
    status, body, headers = server.request(path)
    same = [name for name in ("content-type", "content-length", "content-disposition") if name in headers]
    if path == "/metrics":
        same.remove("content-length")  # it counts this, too
    assert body
    for answered, nothing, told in (server.request(path, method="HEAD") for _ in range(2)):  # the connection goes on
        assert (answered, nothing) == (status, b"")
        assert [told[name] for name in same] == [headers[name] for name in same]


def test_head_is_measured_under_its_route(server: Server) -> None:
    server.request("/api/sqal/samples/ESP32_LL_01/s1", method="HEAD")
    _, shown, _ = server.request("/metrics")
    template = "/api/sqal/samples/{device_id}/{sample_id:path}"
    assert f'http_requests_total{{method="HEAD",endpoint="{template}",status="200"}} 1' in shown.decode()


def test_head_of_what_has_no_get_is_refused(server: Server) -> None:
    status, body, headers = server.request("/api/admin/cache/invalidate", method="HEAD")
    assert (status, body, headers["content-type"]) == (405, b"", "application/problem+json")
