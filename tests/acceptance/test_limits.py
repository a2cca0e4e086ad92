"""Limits as devices and callers meet them: told when to come back, never dropped, never each other's."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app import admin
from app.core.security import Role
from app.infrastructure import LOOKUPS_PER_SECOND
from app.settings import Settings
from app.sqal.admission import PATIENCE
from tests.support import Device, Server, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

RATE, BURST, ALLOWANCE = 50, 10, 90
ADMITTED = BURST + ALLOWANCE
CONNECTS, OPEN = 6, 4
REST_BURST = 40
LOG_REPEATS = 10
GARBAGE_KEY = "gvk_{:012x}_" + "x" * 43


class Limited:
    """A guarded server with small limits, and what an admin's key shows of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.headers = bearer((server.folder / "admin.key").read_text().strip())

    def device(self, address: str = "10.0.0.1") -> AbstractAsyncContextManager[Device]:
        """From another address each test, so that none meets the connects of another."""
        return device(self.server, additional_headers=self.headers | forwarded(address))

    async def connects(self, address: str, path: str = "/ws/sensors") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one handshake, which is given up at once."""
        try:
            url = f"ws://127.0.0.1:{self.server.port}{path}"
            async with connect(url, additional_headers=self.headers | forwarded(address)):
                return 101, {}, b""
        except InvalidStatus as refused:
            answer = refused.response
            return answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, bytes(answer.body or b"")

    def metrics(self) -> bytes:
        return self.server.request("/metrics", headers=self.headers)[1]

    def stored(self, device_id: str) -> list[str]:
        """Ids of its samples, as often as they are there."""
        ids, cursor = [], ""
        while True:
            path = f"/api/sqal/samples?limit=200&device_id={device_id}{cursor}"
            page = json.loads(self.server.request(path, headers=self.headers)[1])
            ids += [item["sample_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                return ids
            cursor = f"&cursor={page['next_cursor']}"


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def forwarded(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


def new_key(server: Server, role: Role) -> dict[str, str]:
    """Headers of somebody with this role."""
    settings = Settings(data_dir=server.folder, database_url=None)
    value = asyncio.run(admin.with_database(settings, lambda connection: admin.make_key(connection, "test", role)))
    return bearer(value)


@pytest.fixture(scope="module")
def limited() -> Iterator[Limited]:
    """It believes this machine's X-Forwarded-For: a test can come from any address."""
    settings = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "WS_MESSAGES_PER_SECOND": str(RATE),
        "WS_MESSAGES_BURST": str(BURST),
        "WS_BACKLOG_ALLOWANCE": str(ALLOWANCE),
        "WS_CONNECTS_PER_MINUTE": str(CONNECTS),
        "WS_CONNECTIONS_PER_CLIENT": str(OPEN),
        "REST_REQUESTS_PER_SECOND": "2",
        "REST_BURST": str(REST_BURST),
        "LOG_REPEATS": str(LOG_REPEATS),
    }
    with running_server(arguments=("--auth", "keys"), **settings) as server:
        yield Limited(server)


@pytest.fixture(scope="module")
def unproxied() -> Iterator[Limited]:
    """It believes nobody."""
    with running_server(arguments=("--auth", "keys"), WS_CONNECTS_PER_MINUTE=str(CONNECTS)) as server:
        yield Limited(server)


# Messages of a device


def sample(device_id: str, number: int) -> dict[str, Any]:
    moment = f"2026-11-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return trimmed(device_id=device_id, sample_id=f"{device_id}-{number}", timestamp=moment)


async def verdicts(client: Device, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """So many answers, and the advice that came among them."""
    answers: list[dict[str, Any]] = []
    advice: list[dict[str, Any]] = []
    while len(answers) < number:
        answer = await client.receive()
        (advice if answer["type"] == "slow_down" else answers).append(answer)
    return answers, advice


async def flood(
    client: Device, make: Callable[[int], dict[str, Any]]
) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages of these numbers, more than comes back to the budget meanwhile: how many, their answers, the advice."""
    sent = 0
    answers: list[dict[str, Any]] = []
    advice: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while not any(answer["type"] == "error" for answer in answers):
            for number in range(sent, sent + 2 * ADMITTED):
                await client.send(make(number))
            sent += 2 * ADMITTED
            more, advised = await verdicts(client, 2 * ADMITTED)
            answers += more
            advice += advised
    return sent, answers, advice


async def test_a_backlog_within_the_allowance_passes_at_once(limited: Limited) -> None:
    async with limited.device("10.1.0.1") as client:
        for number in range(ADMITTED):
            await client.send(sample("BACKLOG", number))
        answers, advice = await verdicts(client, ADMITTED)
    assert {answer.get("status") for answer in answers} == {"saved"}
    assert advice == []
    assert len(limited.stored("BACKLOG")) == ADMITTED


async def test_what_comes_over_the_limit_is_asked_for_again_and_all_of_it_is_stored_once(limited: Limited) -> None:
    async with limited.device("10.1.0.2") as client:
        sent, answers, advice = await flood(client, lambda number: sample("OVER", number))
        refused = [answer for answer in answers if answer["type"] == "error"]
        assert {answer["code"] for answer in refused} == {"busy"}
        assert ADMITTED <= sent - len(refused) < sent
        assert advice
        assert all(0 < one["retry_after_ms"] <= 60_000 for one in advice)
        assert await resend(client, refused) <= 1.1 * len(refused)  # a late message may have taken an early one's turn
    assert sorted(limited.stored("OVER")) == sorted(f"OVER-{number}" for number in range(sent))


async def resend(client: Device, refused: list[dict[str, Any]]) -> int:
    """Each sample when it was told to come, until it is saved; how often one was sent."""
    waits = [(time.monotonic() + answer["retry_after_ms"] / 1_000, answer["sample_id"]) for answer in refused]
    sent = 0
    while waits:
        moment, sample_id = earliest = min(waits)
        waits.remove(earliest)
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        await client.send(sample("OVER", int(sample_id.rpartition("-")[2])))
        sent += 1
        (answer,), _ = await verdicts(client, 1)
        if answer["type"] == "error":
            assert answer["code"] == "busy"
            waits.append((time.monotonic() + answer["retry_after_ms"] / 1_000, sample_id))
        else:
            assert answer["status"] == "saved"
    return sent


async def test_another_device_on_the_same_address_and_socket_is_not_affected(limited: Limited) -> None:
    async with limited.device("10.1.0.3") as client, limited.device("10.1.0.3") as neighbour:
        _, answers, _ = await flood(client, lambda number: sample("LOUD", number))
        assert "busy" in {answer.get("code") for answer in answers}
        for one, name in ((neighbour, "QUIET-1"), (client, "QUIET-2")):
            await one.send(sample(name, 1))
            (answer,), _ = await verdicts(one, 1)
            assert answer["status"] == "saved"


async def test_pings_heartbeats_and_batches_count_too(limited: Limited) -> None:
    async with limited.device("10.1.0.4") as client:
        for _ in range(ADMITTED):
            await client.send({"type": "ping"})
        await client.send({"type": "heartbeat", "device_id": "BEAT", "uptime": 1})
        await client.send({"type": "ping"})
        answers, _ = await verdicts(client, ADMITTED + 2)
        counts = [answer["type"] for answer in answers]
        assert counts.count("pong") >= ADMITTED
        _, more, _ = await flood(client, lambda number: {"type": "heartbeat", "device_id": "BEAT", "uptime": number})
        busy = [answer for answer in (*answers, *more) if answer["type"] == "error"]
        assert all(answer["code"] == "busy" and answer["retry_after_ms"] >= 1 for answer in busy)
        batch = {"type": "sensor_batch", "samples": [sample("BATCH", number) for number in range(ADMITTED + 60)]}
        await client.send(batch)
        (answer,), _ = await verdicts(client, 1)
    results = [result.get("code", result["status"]) for result in answer["results"]]
    assert results[:ADMITTED] == ["saved"] * ADMITTED
    assert results[-1] == "busy"
    assert answer["retry_after_ms"] >= 1


async def test_who_never_waits_is_let_go_with_a_reason(limited: Limited) -> None:
    async with limited.device("10.1.0.5") as client:
        with pytest.raises(ConnectionClosed):
            while True:
                for _ in range(ADMITTED + 2 * int(PATIENCE.capacity)):
                    await client.send({"type": "ping"})
                await verdicts(client, ADMITTED + 2 * int(PATIENCE.capacity))
        assert client.socket.close_code == 1013
        assert "retry_after_ms" in (client.socket.close_reason or "")


async def test_batches_of_nothing_meet_the_limit_too(limited: Limited) -> None:
    async with limited.device("10.1.0.6") as client:
        _, answers, _ = await flood(client, lambda _: {"type": "sensor_batch", "samples": []})
    assert {answer.get("code") for answer in answers if answer["type"] == "error"} == {"busy"}


# Connections


async def test_an_address_that_connects_too_often_is_told_before_the_handshake(limited: Limited) -> None:
    for path, address in (("/ws/sensors", "10.2.0.1"), ("/ws/realtime", "10.2.0.2")):
        for _ in range(CONNECTS):
            assert (await limited.connects(address, path))[0] == 101
        status, headers, body = await limited.connects(address, path)
        assert (status, headers["content-type"]) == (429, "application/problem+json")
        assert json.loads(body)["code"] == "too_many_requests"
        assert 1 <= int(headers["retry-after"]) <= 60 / CONNECTS
        assert (await limited.connects("10.2.0.9", path))[0] == 101


async def test_an_address_holds_only_so_many_sockets_open(limited: Limited) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(OPEN):
            await stack.enter_async_context(limited.device("10.2.0.3"))
        status, headers, _ = await limited.connects("10.2.0.3")
        assert (status, "retry-after" in headers) == (429, True)
        assert (await limited.connects("10.2.0.4"))[0] == 101
    deadline = time.monotonic() + 10
    while b'websocket_connections_active{endpoint="sensors"} 0\n' not in limited.metrics():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert (await limited.connects("10.2.0.3"))[0] == 101


async def test_only_a_trusted_proxy_is_believed(limited: Limited, unproxied: Limited) -> None:
    chain = "10.3.0.1, 10.3.0.2"  # the left one is what a client may write there itself
    for _ in range(CONNECTS):
        assert (await limited.connects(chain))[0] == 101
    assert (await limited.connects("10.9.9.9, 10.3.0.2"))[0] == 429
    assert (await limited.connects("10.3.0.1"))[0] == 101
    for number in range(CONNECTS):
        assert (await unproxied.connects(f"10.3.1.{number}"))[0] == 101
    assert (await unproxied.connects("10.3.1.99"))[0] == 429


# REST


def quota(headers: dict[str, str]) -> dict[str, int]:
    """`"rest";r=39;t=1` as numbers."""
    name, *pairs = headers["ratelimit"].split(";")
    assert name == '"rest"'
    return {pair[0]: int(pair[2:]) for pair in pairs}


def test_answers_tell_what_is_left_and_beyond_it_is_429(limited: Limited) -> None:
    viewer = new_key(limited.server, Role.VIEWER)
    seen = []
    began = time.monotonic()
    for _ in range(REST_BURST):
        asked = time.monotonic()
        status, _, headers = limited.server.request("/api/sqal/devices?limit=1", headers=viewer)
        assert (status, headers["ratelimit-policy"]) == (200, f'"rest";q={REST_BURST};w={REST_BURST // 2}')
        seen.append((quota(headers)["r"], asked, time.monotonic()))
        assert 0 < quota(headers)["t"] <= REST_BURST // 2
    assert seen[0][0] == REST_BURST - 1
    per_second = REST_BURST / (REST_BURST // 2)
    for (left, asked, _), (left_then, _, answered) in pairwise(seen):
        assert left_then <= left + per_second * (answered - asked)  # what has come back
    assert seen[-1][0] <= per_second * (time.monotonic() - began)
    while time.monotonic() < began + 60:
        status, body, headers = limited.server.request("/api/sqal/devices?limit=1", headers=viewer)
        if status != 200:
            break
    problem = json.loads(body)
    assert (status, headers["content-type"], problem["code"]) == (429, "application/problem+json", "too_many_requests")
    assert (headers["retry-after"], quota(headers)["r"]) == ("1", 0)
    assert headers["ratelimit-policy"].startswith('"rest";')
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        for _ in range(REST_BURST):
            status, _, headers = limited.server.request(path, headers=viewer)
            assert (status, "ratelimit" in headers) == (200, False), path
    assert limited.server.request("/api/sqal/devices?limit=1", headers=limited.headers)[0] == 200


def test_guessing_keys_costs_its_address_and_a_known_key_goes_on_working(limited: Limited) -> None:
    guesses = int(LOOKUPS_PER_SECOND.burst)
    known = new_key(limited.server, Role.VIEWER) | forwarded("10.5.0.1")
    port = limited.server.port
    assert limited.server.request("/api/sqal/devices", headers=known)[0] == 200
    statuses = guess(port, 3 * guesses, "10.5.0.1")
    assert statuses[: guesses - 1] == [401] * (guesses - 1)  # the known key was a guess too, the first time
    assert 429 in statuses
    assert limited.server.request("/api/sqal/devices", headers=known)[0] == 200
    status, body, headers = limited.server.request(
        "/api/sqal/devices", headers=bearer(GARBAGE_KEY.format(0)) | forwarded("10.5.0.1")
    )
    if status == 429:  # else the wait of this very request was enough
        assert (json.loads(body)["code"], headers["retry-after"]) == ("too_many_requests", "1")
    assert guess(port, 1, "10.5.0.2") == [401]


def test_a_flood_without_a_key_is_told_to_wait_and_costs_few_lines(limited: Limited) -> None:
    known = new_key(limited.server, Role.VIEWER) | forwarded("10.5.0.3")
    path = "/api/flood" + "x" * 6_000
    held_back = series(limited.metrics(), "log_lines_suppressed_total")
    connection = http.client.HTTPConnection("127.0.0.1", limited.server.port, timeout=10)
    answers = []
    for _ in range(4 * REST_BURST):
        connection.request("GET", path, headers=forwarded("10.5.0.3"))
        with connection.getresponse() as answer:
            answers.append((answer.status, answer.headers["Retry-After"], json.loads(answer.read())["code"]))
    connection.close()
    assert answers[:REST_BURST] == [(401, None, "unauthorized")] * REST_BURST
    refused = [answer for answer in answers if answer[0] != 401]
    assert set(refused) == {(429, "1", "too_many_requests")}
    assert len([answer for answer in answers if answer[0] == 401]) < 2 * REST_BURST
    assert limited.server.request("/api/sqal/devices?limit=1", headers=known)[0] == 200
    assert limited.server.request("/", headers=forwarded("10.5.0.3"))[0] == 200, "the page of who has a key there"
    assert limited.server.request(path, headers=forwarded("10.5.0.4"))[0] == 401
    for _ in range(3):
        assert limited.server.request(path, headers=known)[0] == 404
    held_back = series(limited.metrics(), "log_lines_suppressed_total") - held_back  # by now all lines are written
    lines = [line for line in limited.server.events() if line.get("path", "").startswith("/api/flood")]
    assert len([line for line in lines if line["status"] == 404]) == 3, "of who has a key, each"
    assert len(lines) <= 3 + 2 * LOG_REPEATS, "of 401 and of 429"
    assert {len(line["path"]) for line in lines} == {512}
    assert held_back >= len(answers) - 2 * LOG_REPEATS


def series(metrics: bytes, name: str) -> float:
    (line,) = [line for line in metrics.decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def guess(port: int, number: int, address: str) -> list[int]:
    """Statuses of so many unknown keys, one after another on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    statuses = []
    for one in range(number):
        connection.request("GET", "/api/sqal/devices", headers=bearer(GARBAGE_KEY.format(one)) | forwarded(address))
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    return statuses
