"""Dashboards on the real process, or on two of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.clock import iso
from tests import prepared
from tests.support import Device, Server, data_folder, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def dashboard(server: Server, path: str = "/ws/realtime", **options: Any) -> AsyncIterator[Device]:
    """A connected dashboard that has had its greeting and the latest sample."""
    async with connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, **options) as websocket:
        client = Device(websocket)
        assert (await client.receive())["type"] == "connection_established"
        assert (await client.receive())["type"] == "latest_sample"
        yield client


def sample(name: str = "D1", score: float = 0.9, **changes: Any) -> dict[str, Any]:
    now = iso(datetime.now(UTC))
    return (
        trimmed(
            device_id=name, sample_id=uuid4().hex, timestamp=now, fusion__tof_score=score, fusion__spectral_score=score
        )
        | changes
    )


async def until(client: Device, kind: str) -> dict[str, Any]:
    while (message := await client.receive())["type"] != kind:
        pass
    return message


async def test_a_dashboard_sees_what_was_committed_and_the_alerts_of_it(server: Server) -> None:
    async with dashboard(server) as first, dashboard(server, "/ws/realtime/") as second, device(server) as box:
        good, bad = sample(), sample(score=0.1)
        await box.ask(good)
        for client in (first, second):
            update = await client.receive()
            assert (update["type"], update["data"]["sample_id"]) == ("sensor_update", good["sample_id"])
        shown = server.get(f"/api/sqal/samples/D1/{good['sample_id']}")
        assert update["data"] == shown
        await box.ask(bad)
        assert (await first.receive())["data"]["grade"] == "REJECT"
        opened = await first.receive()
        assert (opened["type"], opened["data"]["rule"], opened["data"]["state"]) == ("alert", "reject", "open")
        assert opened["data"] == server.get(f"/api/sqal/alerts/{opened['data']['id']}")
        status, body, _ = server.request(
            f"/api/sqal/alerts/{opened['data']['id']}/acknowledge", method="POST", body={"comment": "on my way"}
        )
        assert (status, json.loads(body)["acknowledged"]) == (200, True)
        known = await until(first, "alert")
        assert (known["data"]["acknowledged_by"], known["data"]["comment"]) == ("loopback", "on my way")
    async with connect(f"ws://127.0.0.1:{server.port}/ws/realtime") as websocket:
        client = Device(websocket)
        latest = await until(client, "latest_sample")
        assert latest["data"]["sample_id"] == bad["sample_id"]


async def test_a_bad_filter_costs_its_own_dashboard_an_error_and_nobody_anything(server: Server) -> None:
    async with dashboard(server) as odd, dashboard(server) as plain, device(server) as box:
        malformed: list[Any] = [[], {"device_id": ["D1"]}, {"min_grade": "excellent"}, {"nothing": "known"}]
        for filters in malformed:
            await odd.send({"type": "subscribe", "filters": filters})
            answer = await odd.receive()
            assert (answer["type"], answer["code"]) == ("error", "invalid_filter")
        for garbage, code in (
            ("{", "malformed_json"), ("[1]", "invalid_type"), (b"\x00", "malformed_json"), ('{"type":"?"}', "unknown_type"),
            ("[" * 4_000, "malformed_json"), ("x" * 9_000, "message_too_large"),
        ):  # fmt: skip
            await odd.send(garbage)
            assert (await odd.receive())["code"] == code
        await odd.send({"type": "subscribe", "filters": {"device_id": "D7", "min_grade": "A"}})
        assert (await odd.receive())["filters"] == {"device_id": "D7", "site_code": None, "min_grade": "A"}
        wanted = sample("D7")
        for message in (sample("D8"), sample("D7", 0.7), wanted):
            assert (await box.ask(message))["status"] == "saved"
            assert (await until(plain, "sensor_update"))["data"]["sample_id"] == message["sample_id"]
        assert (await odd.receive())["data"]["sample_id"] == wanted["sample_id"]
        await odd.send({"type": "unsubscribe"})
        assert (await odd.receive())["type"] == "unsubscribed"
        await box.ask(sample("D7"))
        await odd.send({"type": "heartbeat"})
        assert (await odd.receive())["type"] == "heartbeat_ack"


async def test_a_hundred_bad_commands_in_a_row_end_their_connection(server: Server) -> None:
    async with dashboard(server) as odd:
        for _ in range(100):
            await odd.send("{")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await odd.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_a_dashboard_that_never_reads_holds_back_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.sendall(
            b"GET /ws/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with dashboard(server) as reading, device(server) as box:
            for _ in range(12):
                batch = [sample(f"N{number % 20}") for number in range(300)]
                answer = await box.ask({"type": "sensor_batch", "samples": batch})
                assert {result["status"] for result in answer["results"]} == {"saved"}
            last = sample("N0")
            await box.ask(last)
            while (await until(reading, "sensor_update"))["data"]["sample_id"] != last["sample_id"]:
                pass


async def test_a_dashboard_on_one_process_sees_the_samples_of_the_other(dsn: str) -> None:
    with data_folder() as here, data_folder() as there:
        servers = [Server(folder, DATABASE_URL=dsn) for folder in (here, there)]
        try:
            one, other = [server.start() for server in servers]
            async with dashboard(one) as client, device(other) as box:
                # The wish for news travels on its own: send until it has arrived.
                sent = []
                update = None
                while update is None:
                    sent.append(sample(score=0.1))
                    await box.ask(sent[-1])
                    with contextlib.suppress(TimeoutError):
                        update = json.loads(await asyncio.wait_for(client.socket.recv(), 0.3))
                assert update["data"]["sample_id"] in [message["sample_id"] for message in sent]
                last = sample(score=0.1)
                await box.ask(last)
                while update["data"]["sample_id"] != last["sample_id"]:
                    update = await until(client, "sensor_update")
                assert update["data"] == other.get(f"/api/sqal/samples/D1/{last['sample_id']}")
                (alert,) = other.get("/api/sqal/alerts")["items"]
                other.request(f"/api/sqal/alerts/{alert['id']}/acknowledge", method="POST")
                while not (await until(client, "alert"))["data"]["acknowledged"]:
                    pass
        finally:
            for server in servers:
                server.clean_up()


async def test_the_feed_works_under_plain_uvicorn_too() -> None:
    with data_folder() as folder:
        prepared.copy_into(folder)
        server = Server(folder, DATA_DIR=str(folder))
        server.command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(server.port)]
        try:
            server.start()
            async with dashboard(server) as client, device(server) as box:
                for _ in range(3):
                    sent = sample()
                    await box.ask(sent)
                    assert (await until(client, "sensor_update"))["data"]["sample_id"] == sent["sample_id"]
        finally:
            server.clean_up()


async def test_too_many_dashboards_are_refused_and_a_shutdown_closes_with_1012() -> None:
    with running_server(WS_MAX_DASHBOARDS="1") as server:
        async with dashboard(server) as client:
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://127.0.0.1:{server.port}/ws/realtime")
            assert refused.value.response.status_code == 503
            assert json.loads(refused.value.response.body)["code"] == "too_many_connections"
            assert "retry-after" in refused.value.response.headers
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert await stopping == 0


async def test_fifty_devices_cut_off_are_one_alert_naming_them() -> None:
    limits = {"DEVICE_STALE_AFTER_S": "3", "DEVICE_OFFLINE_AFTER_S": "9"}
    names = [f"ESP32_LL_{number:02d}" for number in range(1, 51)]
    with running_server(**limits) as server:
        async with dashboard(server) as client, device(server) as stays:
            async with device(server) as box:
                batch = [sample(name) for name in names]
                await box.ask({"type": "sensor_batch", "samples": batch})

            async def stay() -> None:
                while True:
                    await stays.ask(sample("ESP32_MT_01", site_code="MT"))
                    await asyncio.sleep(0.5)

            staying = asyncio.create_task(stay())
            alert = (await until(client, "alert"))["data"]
            listed = await asyncio.to_thread(server.get, "/api/sqal/alerts?state=open")
            staying.cancel()
            await asyncio.gather(staying, return_exceptions=True)
        assert (alert["rule"], alert["site_code"], alert["devices"]) == ("site_offline", "LL", names)
        assert [one["rule"] for one in listed["items"]] == ["site_offline"]
