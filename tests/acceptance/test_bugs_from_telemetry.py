"""Devices reject, the tracker reports: the real process, real sockets, a kill in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from app.core.clock import iso
from tests.bug_client import Caller, make_key
from tests.support import device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Server

DEVICE = "ESP32_LL_01"
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def telemetry() -> Iterator[Server]:
    with running_server(BUGS_TELEMETRY_EVERY_S="0.1") as server:
        yield server


async def reject(server: Server, firmware: str, *, times: int = 1, name: str = DEVICE) -> None:
    score: dict[str, Any] = {"fusion__tof_score": 0.2, "fusion__spectral_score": 0.2, "fusion__final_grade": "REJECT"}
    async with device(server) as client:
        for _ in range(times):
            said: dict[str, Any] = {"timestamp": iso(datetime.now(UTC)), "sample_id": uuid4().hex, "device_id": name}
            said |= {"firmware_version": firmware, "fusion__is_compliant": None}
            answer = await client.ask(trimmed(**said, **score))
            assert answer["type"] == "ack", answer


async def until(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What is looked at, once it is as wanted."""
    async with asyncio.timeout(DEADLINE_S):
        while not wanted(found := look()):
            await asyncio.sleep(0.05)
    return found


async def test_a_device_that_rejects_is_one_bug_that_comes_back_with_the_fix_alone(telemetry: Server) -> None:
    staff = Caller(telemetry)

    def bug() -> dict[str, Any]:
        found = staff.get(f"/api/bugs/?origin=telemetry&device={DEVICE}")["bugs"]
        assert len(found) <= 1
        return found[0] if found else {"occurrences": 0, "status": None}

    async def counted(occurrences: int) -> dict[str, Any]:
        now: dict[str, Any] = await until(bug, lambda one: one["occurrences"] >= occurrences)
        assert now["occurrences"] == occurrences
        return now

    await reject(telemetry, "2.3.1", times=3)
    first = await counted(3)
    assert (first["title"], first["status"]) == (f"Device {DEVICE}: reject (site LL)", "open")
    assert (first["severity"], first["category"], first["firmwareVersion"]) == ("critical", "quality", "2.3.1")
    path = f"/api/bugs/{first['id']}"
    met = staff.get(f"{path}/affected")
    assert [(one["value"], one["times"]) for one in met["devices"]] == [(DEVICE, 3)]
    assert [one["value"] for one in met["firmwares"]] == ["2.3.1"]
    assert met["fingerprints"][0]["rule"] == "reject"
    assert met["samples"]
    assert met["lots"]
    await reject(telemetry, "2.3.1", times=3)
    assert (await counted(6))["version"] == first["version"]
    # What was read while nobody counted is counted after the restart, and nothing twice.
    await reject(telemetry, "2.3.1", times=2)
    telemetry.kill()
    telemetry.start()
    await counted(8)
    staff.patch(path, {"status": "resolved", "resolution": "new lens", "fixedInFirmware": "2.3.2"})
    await reject(telemetry, "2.3.1", times=2)
    assert (await counted(10))["status"] == "resolved"
    await reject(telemetry, "2.10.0")
    back = await until(bug, lambda one: one["status"] == "reopened")
    assert (back["occurrences"], back["reopened"], back["resolvedAt"]) == (11, 1, None)
    told = staff.get(f"{path}/history")["items"]
    assert ("telemetry", "status", "reopened") in [(one["actor"], one["field"], one["new"]) for one in told]
    sightings = [one for one in told if one["kind"] == "seen"]
    assert len(sightings) == 2  # the alert, and why it was reopened
    assert sightings[-1]["new"]["firmwareVersion"] == "2.10.0"


async def test_a_rule_is_switched_by_staff_and_read_by_all(telemetry: Server) -> None:
    staff, outsider = Caller(telemetry), Caller(telemetry, make_key(telemetry, "viewer"))
    listed = outsider.get("/api/bugs/rules")
    assert listed["active"] is True
    assert {rule["rule"] for rule in listed["rules"] if not rule["enabled"]} == {"low_score", "oxidation", "freshness"}
    path = "/api/bugs/rules/reject"
    assert outsider.ask("PUT", path, {"enabled": False})[0] == 403
    status, rule, _ = staff.ask("PUT", path, {"enabled": False, "groupBy": "firmware", "severity": "low"})
    assert (status, rule["enabled"], rule["groupBy"], rule["severity"]) == (200, False, "firmware", "low")
    assert rule["priority"] == "urgent"
    assert rule["changedBy"]
    assert rule in outsider.get("/api/bugs/rules")["rules"]
    await reject(telemetry, "9.9.9", name="ESP32_MT_09")
    status, rule, _ = staff.ask("PUT", path, {"enabled": True})
    assert (status, rule["groupBy"], rule["severity"]) == (200, "device", "critical")
    await reject(telemetry, "9.9.9", name="ESP32_MT_10")
    query = "/api/bugs/?origin=telemetry&firmware=9.9.9"
    bugs = await until(lambda: staff.get(query)["bugs"], lambda found: len(found) > 0)
    assert [one["deviceId"] for one in bugs] == ["ESP32_MT_10"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/bugs/rules/no_such_rule", {"enabled": True}, 404),
        ("/api/bugs/rules/%00", {"enabled": True}, 404),
        (f"/api/bugs/rules/{'x' * 65}", {"enabled": True}, 422),
        ("/api/bugs/rules/reject", {}, 422),
        ("/api/bugs/rules/reject", {"enabled": "yes"}, 422),
        ("/api/bugs/rules/reject", {"enabled": True, "groupBy": "lot"}, 422),
        ("/api/bugs/rules/reject", {"enabled": True, "severity": "dire"}, 422),
        ("/api/bugs/rules/reject", {"enabled": True, "colour": "red"}, 422),
        ("/api/bugs/rules/reject", [], 422),
    ],
)
def test_a_wrong_rule_is_a_problem_document(telemetry: Server, path: str, body: Any, status: int) -> None:
    answered, problem, headers = Caller(telemetry).ask("PUT", path, body)
    assert (answered, headers["content-type"]) == (status, "application/problem+json"), problem


def test_what_is_affected_by_no_bug_is_not_found_and_by_a_reported_one_nothing(telemetry: Server) -> None:
    staff = Caller(telemetry)
    assert staff.ask("GET", f"/api/bugs/{uuid4()}/affected")[0] == 404
    assert staff.ask("GET", "/api/bugs/rules/affected")[0] == 422
    met = staff.get(f"/api/bugs/{staff.report()}/affected")
    none: dict[str, Any] = {"fingerprints": [], "devices": [], "firmwares": [], "lots": [], "samples": []}
    assert met == none | {"most": 1000, "truncated": False}
