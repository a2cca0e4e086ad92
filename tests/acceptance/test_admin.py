"""`/api/admin`: breakers taken in hand, the cache emptied, faults on purpose; and who may do that."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from app import admin
from app.core.security import Role
from app.settings import Settings
from tests.support import Device, Server, data_folder, device, free_port, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 20.0
SLOW_MS = 300.0


@dataclass(frozen=True)
class Managed:
    """A guarded server with fault switches, and a port that answers while its event loop does not turn."""

    server: Server
    metrics_port: int

    @property
    def headers(self) -> dict[str, str]:
        """An admin's."""
        return bearer((self.server.folder / "admin.key").read_text().strip())

    def ask(self, path: str, *, method: str = "GET", body: Any = None) -> tuple[int, dict[str, Any]]:
        status, answer, _ = self.server.request(path, method=method, body=body, headers=self.headers)
        return status, json.loads(answer)

    def retry_after(self, path: str) -> tuple[int, str, float]:
        """Status, code, and the seconds that Retry-After says."""
        status, answer, headers = self.server.request(path, headers=self.headers)
        return status, json.loads(answer)["code"], float(headers["retry-after"])

    def set_mode(self, mode: str) -> dict[str, Any]:
        status, breaker = self.ask("/api/admin/breakers/database", method="PUT", body={"mode": mode})
        assert (status, breaker["mode"]) == (200, mode)
        return breaker

    def fault(self, kind: str, *, latency_ms: float = 0.0, expires_s: float = 60.0) -> dict[str, Any]:
        order = {"kind": kind, "latency_ms": latency_ms, "expires_s": expires_s}
        status, fault = self.ask("/api/admin/faults/database", method="PUT", body=order)
        assert status == 200, fault
        return fault

    def end_fault(self) -> None:
        assert self.ask("/api/admin/faults/database", method="DELETE") == (200, {"name": "database", "kind": None})

    def until_it_serves(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.ask("/api/sqal/samples")[0] != 200 or not self.ask("/health/ready")[1]["components"]["database"]:
            assert time.monotonic() < deadline, "the database did not come back"
            time.sleep(0.02)

    def device(self) -> AbstractAsyncContextManager[Device]:
        return device(self.server, additional_headers=self.headers)

    def elsewhere(self, path: str) -> tuple[int, dict[str, Any]]:
        """From the port for metrics."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=20) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def new_key(server: Server, role: Role) -> dict[str, str]:
    """Headers of somebody with this role."""
    settings = Settings(data_dir=server.folder, database_url=None)
    value = asyncio.run(admin.with_database(settings, lambda connection: admin.make_key(connection, "test", role)))
    return bearer(value)


@pytest.fixture(scope="module")
def managed() -> Iterator[Managed]:
    port = free_port()
    settings = {
        "FAULT_SWITCHES": "true",
        "METRICS_PORT": str(port),
        "BREAKER_FAILURE_THRESHOLD": "3",
        "BREAKER_TIMEOUT_S": "2",
        "QUERY_DEADLINE_S": "1",
        "DATABASE_POOL_WAIT_S": "0.9",
        "LOOP_BLOCKED_AFTER_S": "0.5",
    }
    with running_server(arguments=("--auth", "keys"), **settings) as server:
        yield Managed(server, port)


@pytest.fixture(autouse=True)
def _healthy(managed: Managed) -> Iterator[None]:
    """Whatever a test did, the next one finds a database that serves."""
    yield
    managed.end_fault()
    managed.set_mode("auto")
    managed.until_it_serves()


async def verdict_on(client: Device, message: dict[str, Any]) -> dict[str, Any]:
    """What the message was answered; advice to slow down is none."""
    answer = await client.ask(message)
    while answer["type"] == "slow_down":
        answer = await client.receive()
    return answer


# Breakers


def test_breakers_are_shown_with_the_figures_of_their_window(managed: Managed) -> None:
    managed.ask("/api/admin/breakers/database/reset", method="POST")
    for _ in range(2):
        managed.ask("/api/sqal/samples")
    status, listed = managed.ask("/api/admin/breakers")
    one = managed.ask("/api/admin/breakers/database")[1]
    assert (status, [item["name"] for item in listed["items"]]) == (200, ["database"])  # no Redis is configured
    assert one.keys() == listed["items"][0].keys()
    assert (one["state"], one["mode"], one["failures"], one["failure_rate"]) == ("closed", "auto", 0, 0.0)
    assert one["calls"] >= 2
    assert one["outcomes"]["success"] >= 2


async def test_a_breaker_forced_open_rejects_and_auto_lets_through_again(managed: Managed) -> None:
    await asyncio.to_thread(managed.ask, "/api/sqal/latest")
    async with managed.device() as client:
        assert (await client.ask(trimmed(sample_id="before")))["status"] == "saved"
        assert managed.set_mode("forced_open")["state"] == "open"
        status, code, retry_after_s = managed.retry_after("/api/sqal/samples")
        assert (status, code) == (503, "circuit_open")
        assert 1 <= retry_after_s <= 5
        answer = await verdict_on(client, trimmed(sample_id="meanwhile"))
        assert (answer["type"], answer["code"]) == ("error", "busy")
        assert answer["retry_after_ms"] >= 1_000
        assert managed.set_mode("auto")["state"] == "closed"
        deadline = time.monotonic() + PATIENCE_S
        while (answer := await verdict_on(client, trimmed(sample_id="meanwhile"))).get("status") != "saved":
            assert (answer["code"], time.monotonic() < deadline) == ("busy", True)
            await asyncio.sleep(0.05)
    found = managed.ask("/api/sqal/samples")[1]["items"]
    assert [item["sample_id"] for item in found if item["sample_id"] in ("before", "meanwhile")].count("meanwhile") == 1


def test_a_forced_breaker_stays_so_until_it_is_given_back(managed: Managed) -> None:
    managed.set_mode("forced_open")
    assert managed.ask("/api/admin/breakers/database/reset", method="POST")[1]["state"] == "open"
    assert managed.retry_after("/api/sqal/samples")[:2] == (503, "circuit_open")
    checks = managed.ask("/health")[1]["components"]["database"]
    assert checks["breaker"] == "open"


def test_a_disabled_breaker_counts_failures_and_rejects_nothing(managed: Managed) -> None:
    managed.set_mode("disabled")
    managed.fault("error")
    for _ in range(6):
        assert managed.retry_after("/api/sqal/samples")[:2] == (503, "database_unavailable")
    shown = managed.ask("/api/admin/breakers/database")[1]
    assert (shown["state"], shown["failures"] >= 6, shown["outcomes"]["failure"] >= 6) == ("closed", True, True)


def test_what_is_not_there_is_404_and_what_cannot_be_is_422(managed: Managed) -> None:
    for method, path, body in (
        ("GET", "/api/admin/breakers/nothing", None),
        ("PUT", "/api/admin/breakers/nothing", {"mode": "auto"}),
        ("POST", "/api/admin/breakers/nothing/reset", None),
        ("PUT", "/api/admin/faults/nothing", {"kind": "error", "expires_s": 1}),
        ("DELETE", "/api/admin/faults/nothing", None),
    ):
        status, problem = managed.ask(path, method=method, body=body)
        assert (status, problem["code"]) == (404, "not_found"), path
    for path, wrong in (
        ("/api/admin/breakers/database", {"mode": "ajar"}),
        ("/api/admin/breakers/database", {"mode": "auto", "more": 1}),
        ("/api/admin/faults/database", {"kind": "error", "expires_s": 3_601}),
        ("/api/admin/faults/database", {"kind": "error"}),
        ("/api/admin/faults/database", {"kind": "sulk", "expires_s": 1}),
        ("/api/admin/faults/event_loop", {"kind": "error", "latency_ms": 1, "expires_s": 1}),
        ("/api/admin/faults/event_loop", {"kind": "stall", "latency_ms": 30_001, "expires_s": 60}),
        ("/api/admin/faults/cache_entries", {"kind": "stall", "expires_s": 60}),
    ):
        assert managed.ask(path, method="PUT", body=wrong)[0] == 422, wrong
    assert managed.ask("/api/admin/cache/invalidate", method="POST", body={"pattern": ""})[0] == 422


def test_all_of_it_is_for_admins(managed: Managed) -> None:
    operator = new_key(managed.server, Role.OPERATOR)
    for method, path, body in (
        ("GET", "/api/admin/breakers", None),
        ("GET", "/api/admin/breakers/database", None),
        ("PUT", "/api/admin/breakers/database", {"mode": "forced_open"}),
        ("POST", "/api/admin/breakers/database/reset", None),
        ("GET", "/api/admin/cache", None),
        ("POST", "/api/admin/cache/invalidate", {"pattern": "*"}),
        ("GET", "/api/admin/faults", None),
        ("PUT", "/api/admin/faults/database", {"kind": "error", "expires_s": 1}),
        ("DELETE", "/api/admin/faults/database", None),
    ):
        status, answer, _ = managed.server.request(path, method=method, body=body, headers=operator)
        assert (status, json.loads(answer)["code"]) == (403, "forbidden"), path
        assert managed.server.request(path, method=method, body=body)[0] == 401
    assert managed.ask("/api/admin/breakers/database")[1]["mode"] == "auto"
    assert managed.ask("/api/sqal/samples")[0] == 200


# The cache


def test_the_cache_tells_what_it_did_and_drops_what_matches(managed: Managed) -> None:
    managed.ask("/api/admin/cache/invalidate", method="POST", body={"pattern": "*"})
    empty = managed.ask("/api/admin/cache")[1]
    assert (empty["total_keys"], empty["size_bytes"], empty["redis"]) == (0, 0, "none")
    for _ in range(2):
        managed.ask("/api/sqal/aggregates/hourly?device_id=D1")
        managed.ask("/api/sqal/aggregates/hourly?site_code=LL")
    full = managed.ask("/api/admin/cache")[1]
    assert (full["hits"] - empty["hits"], full["misses"] - empty["misses"], full["total_keys"]) == (2, 2, 2)
    assert full["size_bytes"] > 0
    assert full["hit_rate"] == pytest.approx(full["hits"] / (full["hits"] + full["misses"]))
    drop = {"pattern": "device:*"}
    assert managed.ask("/api/admin/cache/invalidate", method="POST", body=drop) == (200, {"dropped": 1})
    assert managed.ask("/api/admin/cache/invalidate", method="POST", body=drop) == (200, {"dropped": 0})
    managed.ask("/api/sqal/aggregates/hourly?site_code=LL")
    after = managed.ask("/api/admin/cache")[1]
    assert (after["total_keys"], after["hits"] - full["hits"]) == (1, 1)


# Faults


def test_a_cache_that_is_made_to_forget_answers_from_the_database(managed: Managed) -> None:
    path = "/api/sqal/aggregates/hourly?device_id=D2"
    managed.ask(path)
    before = managed.ask("/api/admin/cache")[1]
    order = {"kind": "error", "expires_s": 60}
    assert managed.ask("/api/admin/faults/cache_entries", method="PUT", body=order)[0] == 200
    assert [managed.ask(path)[0] for _ in range(2)] == [200, 200]
    assert managed.ask("/api/admin/faults/cache_entries", method="DELETE")[0] == 200
    after = managed.ask("/api/admin/cache")[1]
    assert (after["hits"] - before["hits"], after["misses"] - before["misses"]) == (0, 2)


def test_latency_delays_each_call_until_it_is_taken_back(managed: Managed) -> None:
    assert managed.fault("latency", latency_ms=SLOW_MS)["latency_ms"] == SLOW_MS
    (shown,) = (item for item in managed.ask("/api/admin/faults")[1]["items"] if item["name"] == "database")
    assert (shown["kind"], 50 < shown["expires_in_s"] <= 60) == ("latency", True)
    delayed = [timed(managed, "/api/sqal/samples") for _ in range(2)]
    assert 200 in [status for status, _ in delayed]  # one may meet the deadline on a machine that stands still
    assert all(took_s >= SLOW_MS / 1_000 for _, took_s in delayed)
    managed.end_fault()
    prompt = [timed(managed, "/api/sqal/samples") for _ in range(3)]
    assert min(took_s for status, took_s in prompt if status == 200) < SLOW_MS / 1_000


def timed(managed: Managed, path: str) -> tuple[int, float]:
    """Status and seconds."""
    began = time.monotonic()
    status = managed.ask(path)[0]
    return status, time.monotonic() - began


def test_an_error_fails_calls_opens_the_breaker_and_ends_by_itself(managed: Managed) -> None:
    managed.fault("error")
    codes = []
    while "circuit_open" not in codes:
        status, code, _ = managed.retry_after("/api/sqal/samples")
        codes.append(code)
        assert status == 503
    assert codes[0] == "database_unavailable"
    assert managed.ask("/api/admin/breakers/database")[1]["state"] == "open"
    assert not managed.ask("/health/ready")[1]["components"]["database"]
    managed.fault("error", expires_s=0.5)
    managed.until_it_serves()
    assert managed.ask("/api/admin/faults")[1]["items"][0] == {"name": "database", "kind": None}


def test_a_stall_leaves_calls_without_an_answer_for_their_deadline_only(managed: Managed) -> None:
    managed.set_mode("disabled")
    managed.fault("stall")
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=3.0) >= 3.0:  # other processes use this machine too
        began = time.monotonic()
        assert managed.retry_after("/api/sqal/samples")[:2] == (503, "database_unavailable")
        took_s.append(time.monotonic() - began)
    assert 1.0 <= min(took_s) < 3.0, took_s
    assert managed.ask("/health/live")[0] == 200


def test_a_blocked_event_loop_is_named_in_the_log_and_fails_liveness_meanwhile(managed: Managed) -> None:
    assert managed.elsewhere("/health/live")[1]["status"] == "alive"
    tries = [block_for_four_seconds(managed)]
    while not as_blocked(*tries[-1]) and len(tries) < 3:  # a process that stood still meanwhile was not so long blocked
        tries.append(block_for_four_seconds(managed))
    assert as_blocked(*tries[-1]), tries
    deadline = time.monotonic() + PATIENCE_S
    while managed.elsewhere("/health/live")[0] == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert managed.ask("/health/live")[0] == 200
    stacks = [event["stack"] for event in managed.server.events() if event["event"] == "the event loop is blocked"]
    assert any("block_event_loop_on_purpose" in stack for stack in stacks)  # a slow machine blocks it elsewhere too


def block_for_four_seconds(managed: Managed) -> tuple[set[tuple[int, str]], list[float]]:
    """What liveness was meanwhile, and how long the log says that the loop was blocked."""

    def ends() -> list[float]:
        return [line["blocked_s"] for line in managed.server.events() if line["event"] == "the event loop turns again"]

    before, seen = len(ends()), set()
    order = {"kind": "stall", "latency_ms": 4_000, "expires_s": 60}
    assert managed.ask("/api/admin/faults/event_loop", method="PUT", body=order)[0] == 200
    deadline = time.monotonic() + PATIENCE_S
    while max(ends()[before:], default=0.0) < 3.0 and time.monotonic() < deadline:
        status, body = managed.elsewhere("/health/live")
        seen.add((status, body["status"]))
        time.sleep(0.05)
    return seen, ends()[before:]


def as_blocked(seen: set[tuple[int, str]], ends: list[float]) -> bool:
    return (503, "blocked") in seen and max(ends, default=0.0) == pytest.approx(4.0, abs=1.0)


def test_faults_are_off_unless_they_were_switched_on_at_start(server: Server) -> None:
    assert server.request("/api/admin/breakers")[0] == 200  # a local peer is an admin in open mode
    for method, path, body in (
        ("GET", "/api/admin/faults", None),
        ("PUT", "/api/admin/faults/database", {"kind": "error", "expires_s": 5}),
        ("PUT", "/api/admin/faults/event_loop", {"kind": "stall", "latency_ms": 5, "expires_s": 5}),
        ("DELETE", "/api/admin/faults/database", None),
    ):
        status, answer, _ = server.request(path, method=method, body=body)
        assert (status, json.loads(answer)["code"]) == (403, "forbidden")
    assert server.request("/api/sqal/samples")[0] == 200


def gaveurs(folder: Any, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_HOST")}
    command = [sys.executable, "-m", "app.cli", *arguments, "--data-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=clean | env, timeout=60, check=False)


def test_production_refuses_fault_switches_at_start() -> None:
    with data_folder() as folder:
        done = gaveurs(folder, "serve", "--port", "0", ENVIRONMENT="production", FAULT_SWITCHES="true")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "gaveurs: FAULT_SWITCHES is refused in production unless FAULT_SWITCHES_IN_PRODUCTION allows it\n"
        )
        assert not list(folder.iterdir())
