"""The device protocol against the real process."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support import SESSION, Server, device, trimmed
from tests.unit.test_reading import MATRIX, SHORT_ROW, with_zone


async def test_the_recorded_session_is_saved_once_and_kept_byte_for_byte(server: Server) -> None:
    for status in ("saved", "duplicate"):
        async with device(server) as client:
            for line in SESSION:
                await client.send(line)
            answers = [await client.receive() for _ in SESSION]
        assert [answer["status"] for answer in answers if answer["type"] == "ack"] == [status] * 40
        assert {answer["type"] for answer in answers} == {"ack", "hello_ack", "heartbeat_ack"}
    sent = [json.loads(line) for line in SESSION]
    samples = [message for message in sent if message["type"] == "sensor_data"]
    stored = [item for item in server.all_samples() if item["device_id"] == "ESP32_LL_01"]
    assert {item["sample_id"] for item in stored} == {message["sample_id"] for message in samples}
    assert len(stored) == 40
    for line, message in zip(SESSION, sent, strict=True):
        if message["type"] == "sensor_data":
            path = f"/api/sqal/samples/{message['device_id']}/{quote(message['sample_id'])}"
            assert server.request(f"{path}/message")[1] == line.encode()
            one = server.get(path)
            assert one["score"] == pytest.approx(message["fusion"]["final_score"], abs=1e-6)
            assert one["grade"] == message["fusion"]["final_grade"]
    known = server.get("/api/sqal/devices/ESP32_LL_01")
    assert known["mac_address"] == "24:0A:C4:15:4D:EF"
    assert known["firmware_version"] == "1.0.0"
    assert known["heartbeat"]["stats"]["measurements_sent"] == 17
    assert (known["state"], known["site_code"], known["boots"]) == ("online", "LL", 1)


async def test_text_beyond_ascii_is_kept_and_text_that_is_no_utf8_ends_its_connection(server: Server) -> None:
    raw = json.dumps(trimmed(sample_id="élevage-1", eleveur="Éric Dupré 🦆"), ensure_ascii=False).encode()
    async with device(server) as client:
        await client.socket.send([raw[:40], raw[40:]], text=True)  # in two frames
        assert (await client.receive())["status"] == "saved"
        await client.socket.send(raw.replace("É".encode(), b"\xc9"), text=True)
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert client.socket.close_code == 1007
    path = f"/api/sqal/samples/ESP32_LL_01/{quote('élevage-1')}"
    assert server.request(f"{path}/message")[1] == raw
    assert server.get(path)["farmer"] == "Éric Dupré 🦆"


BAD: list[tuple[str, Any, str]] = [
    ("broken JSON", '{"type":"sensor_data",', "malformed_json"),
    ("NaN", '{"type":"sensor_data","x":NaN}', "not_finite"),
    ("Infinity", '{"type":"sensor_data","x":-Infinity}', "not_finite"),
    ("too large", '{"type":"sensor_data","x":"' + "x" * 1_100_000 + '"}', "message_too_large"),
    ("7-element row", trimmed(vl53l8ch__distance_matrix=SHORT_ROW), "invalid_matrix"),
    ("distance 4001", trimmed(vl53l8ch__distance_matrix=with_zone(4001)), "out_of_range"),
    ("distance -1", trimmed(vl53l8ch__distance_matrix=with_zone(-1)), "out_of_range"),
    ("negative channel", trimmed(as7341__channels__NIR=-1), "out_of_range"),
    ("missing channel", trimmed(as7341__channels__NIR=...), "missing_field"),
    ("score 1.0001", trimmed(fusion__final_score=1.0001), "out_of_range"),
    ("weights", trimmed(fusion__weight_tof=0.7), "invalid_weights"),
    ("no device", trimmed(device_id=...), "missing_field"),
    ("no timestamp", trimmed(timestamp=...), "missing_field"),
    ("unknown type", {"type": "firmware_update"}, "unknown_type"),
    ("hello without device", {"type": "esp32_hello"}, "missing_field"),
    ("heartbeat with text uptime", {"type": "heartbeat", "device_id": "D", "uptime": "long"}, "invalid_type"),
    ("hello with a strange ack mode", {"type": "esp32_hello", "device_id": "D", "ack": "maybe"}, "invalid_type"),
    ("batch without samples", {"type": "sensor_batch"}, "missing_field"),
    ("batch of 501", {"type": "sensor_batch", "samples": [1] * 501}, "batch_too_large"),
]


@pytest.mark.parametrize(("message", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_input_costs_its_sender_an_error_and_nobody_anything_else(
    server: Server, message: Any, code: str
) -> None:
    async with device(server) as bad, device(server) as neighbour:
        error = await bad.ask(message)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["error"]
        assert "Traceback" not in error["error"]
        assert (await bad.ask({"type": "ping"}))["type"] == "pong"
        assert (await neighbour.ask(trimmed(sample_id="neighbour")))["type"] == "ack"
    newest = server.get("/api/sqal/quarantine?limit=1")["items"][0]
    assert newest["code"] == code
    raw = message.encode() if isinstance(message, str) else json.dumps(message).encode()
    assert server.request(f"/api/sqal/quarantine/{newest['id']}/message")[1] == raw


async def test_binary_garbage_is_refused_in_messagepack(server: Server) -> None:
    async with connect(server.ws_url) as socket:
        await socket.recv()
        for garbage in (b"\xc1\xff\x00", b"\x00", b"", MATRIX.__repr__().encode()):
            await socket.send(garbage)
            answer = msgspec.msgpack.decode(await socket.recv(decode=False))
            assert answer["code"] in ("malformed_msgpack", "invalid_type")
        await socket.send(msgspec.msgpack.encode({"type": "ping"}))
        assert msgspec.msgpack.decode(await socket.recv(decode=False))["type"] == "pong"


async def test_an_identity_conflict_is_an_error_and_quarantined(server: Server) -> None:
    async with device(server) as client:
        assert (await client.ask(trimmed(sample_id="conflict")))["status"] == "saved"
        error = await client.ask(trimmed(sample_id="conflict", provenance="elsewhere"))
        assert (error["code"], error["sample_id"]) == ("identity_conflict", "conflict")
        assert (await client.ask(trimmed(sample_id="conflict")))["status"] == "duplicate"
    assert server.get("/api/sqal/quarantine?code=identity_conflict")["items"][0]["sample_id"] == "conflict"


async def test_odd_input_is_accepted_with_flags(server: Server) -> None:
    odd = trimmed(
        sample_id="odd", timestamp="2031-01-01T00:00:00Z", site_code="??", fusion__final_grade="AAA",
        vl53l8ch__status_matrix=...,
    )  # fmt: skip
    async with device(server) as client:
        assert (await client.ask(odd))["status"] == "saved"
    flags = set(server.get("/api/sqal/samples/ESP32_LL_01/odd")["flags"])
    assert flags == {"status_unknown", "unknown_site", "implausible_clock", "odd_claim"}


async def test_a_hundred_refused_messages_in_a_row_end_the_connection(server: Server) -> None:
    async with device(server) as client:
        for _ in range(99):
            assert (await client.ask(trimmed(device_id=...)))["type"] == "error"
        assert (await client.ask(trimmed(sample_id="good")))["type"] == "ack"  # begins to count anew
        for _ in range(100):
            await client.send("{")
        answers = [await client.receive() for _ in range(100)]
        assert {answer["code"] for answer in answers} == {"malformed_json"}
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert client.socket.close_code == 1008


async def test_garbage_in_batches_ends_the_connection_too(server: Server) -> None:
    async with device(server) as client:
        for _ in range(100):
            assert (await client.ask({"type": "sensor_batch", "samples": [1, 2]}))["type"] == "batch_ack"
        with pytest.raises(ConnectionClosed):
            await client.ask({"type": "ping"})
        assert client.socket.close_code == 1008


async def test_hostile_messagepack_costs_nobody_else_anything(server: Server) -> None:
    async with connect(server.ws_url) as socket, device(server) as neighbour:
        await socket.recv()
        for field in ("sample_id", "lot_id", "type"):
            message = msgspec.msgpack.encode(trimmed(**{field: "QQ"})).replace(b"\xa2QQ", b"\xa2\xff\xfe")
            await socket.send(message)
            assert msgspec.msgpack.decode(await socket.recv(decode=False))["code"] == "malformed_msgpack"
        await socket.send(msgspec.msgpack.encode({"type": "heartbeat", "device_id": "N", "uptime": float("nan")}))
        assert msgspec.msgpack.decode(await socket.recv(decode=False))["type"] == "heartbeat_ack"
        assert (await neighbour.ask(trimmed(sample_id="unharmed")))["type"] == "ack"
    assert not [event for event in server.events() if event["level"] in ("error", "critical")]


async def test_a_hostile_heartbeat_is_kept_out_of_the_fleet_list(server: Server) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    beat = {"type": "heartbeat", "device_id": "ESP32_MT_66"}
    async with device(server) as client:
        for stats in (
            {"a": deep},
            {"uptime_seconds": int("9" * 400)},
            {"a": "\x00"},
            {"a": "x" * 5_000},
            {"face": "\U0001f600"},
        ):
            assert (await client.ask(beat | {"stats": stats}))["type"] == "heartbeat_ack"
        assert (await client.ask(beat | {"uptime": -1}))["type"] == "heartbeat_ack"
    known = server.get("/api/sqal/devices/ESP32_MT_66")
    assert (known["boots"], known["uptime_s"]) == (0, None)
    assert "ESP32_MT_66" in {item["device_id"] for item in server.get("/api/sqal/devices?limit=200")["items"]}


async def test_one_socket_may_carry_several_devices_without_hello(server: Server) -> None:
    async with device(server, path="/ws/sensors/") as client:
        for name in ("ESP32_LS_01", "ESP32_MT_01"):
            ack = await client.ask(trimmed(device_id=name, site_code=...))
            assert (ack["status"], ack["fusion_grade"], ack["fusion_score"]) == ("saved", "A+", 0.9115)
            assert ack["timestamp"] == "2026-02-02T08:15:30.250Z"
    assert server.get("/api/sqal/samples?site=MT")["items"][0]["device_id"] == "ESP32_MT_01"


async def test_a_batch_is_answered_in_input_order(server: Server) -> None:
    samples = [trimmed(sample_id=f"batch{n}") for n in range(5)]
    samples[2]["fusion"]["final_score"] = 2
    samples.append(samples[0])
    async with device(server) as client:
        answer = await client.ask({"type": "sensor_batch", "samples": samples})
        assert answer["type"] == "batch_ack"
        assert [result["sample_id"] for result in answer["results"]] == [sample["sample_id"] for sample in samples]
        assert [result["status"] for result in answer["results"]] == [
            "saved",
            "saved",
            "error",
            "saved",
            "saved",
            "duplicate",
        ]
        assert answer["results"][2]["code"] == "out_of_range"
        assert await client.ask({"type": "sensor_batch", "samples": []}) == {"type": "batch_ack", "results": []}
        strange = await client.ask({"type": "sensor_batch", "samples": [1, {"type": "ping"}]})
        assert [result["code"] for result in strange["results"]] == ["invalid_type", "unknown_type"]
    assert server.request("/api/sqal/samples/ESP32_LL_01/batch1/message")[1] == json.dumps(samples[1]).encode()


async def test_messagepack_is_answered_in_messagepack_and_kept_byte_for_byte(server: Server) -> None:
    raw = msgspec.msgpack.encode(trimmed(sample_id="packed"))
    async with connect(server.ws_url) as socket:
        await socket.recv()
        await socket.send(raw)
        assert msgspec.msgpack.decode(await socket.recv(decode=False))["status"] == "saved"
        await socket.send(json.dumps(trimmed(sample_id="packed")))
        assert json.loads(await socket.recv())["status"] == "duplicate"
    status, body, headers = server.request("/api/sqal/samples/ESP32_LL_01/packed/message")
    assert (status, body, headers["content-type"]) == (200, raw, "application/msgpack")


async def test_cumulative_acks_count_sample_messages_and_skip_nothing(server: Server) -> None:
    async with device(server) as client:
        hello = await client.ask({"type": "esp32_hello", "device_id": "ESP32_LL_09", "ack": "cumulative"})
        assert (hello["ack"], hello["stored"]) == ("cumulative", True)
        assert hello["limits"]["max_message_bytes"] == 1_048_576
        for number in range(50):
            await client.send(trimmed(sample_id=f"cum{number}", **({"device_id": ...} if number == 20 else {})))
        errors: list[dict[str, Any]] = []
        last: dict[str, Any] = {"count": 0}
        while last["count"] < 50:
            answer = await client.receive()
            if answer["type"] == "error":
                errors.append(answer)
                assert last["count"] < 21
            else:
                assert answer["count"] > last["count"]
                last = answer
        assert [error["position"] for error in errors] == [21]
        assert last["sample_id"] == "cum49"
    stored = {item["sample_id"] for item in server.all_samples() if item["sample_id"].startswith("cum")}
    assert len(stored) == 49


async def test_one_slow_reader_keeps_all_its_verdicts(server: Server) -> None:
    async with device(server) as client:
        for number in range(2_000):
            await client.send(trimmed(sample_id=f"slow{number}"))
        statuses = [(await client.receive())["status"] for _ in range(2_000)]
    assert statuses == ["saved"] * 2_000


async def test_a_reboot_is_told_from_a_reconnect(server: Server) -> None:
    beat = {
        "type": "heartbeat",
        "device_id": "ESP32_LL_77",
        "uptime": 100,
        "stats": {"i2c_errors": 3},
        "buffer_size": 1,
    }
    async with device(server) as client:
        for uptime in (100, 130, 5, 35):
            assert (await client.ask(beat | {"uptime": uptime}))["type"] == "heartbeat_ack"
    known = server.get("/api/sqal/devices/ESP32_LL_77")
    assert (known["boots"], known["uptime_s"], known["heartbeat"]["stats"]["i2c_errors"]) == (2, 35, 3)
    assert known["last_sample_at"] is None


async def test_a_stranger_on_the_wire_gets_an_http_answer(server: Server) -> None:
    assert server.request("/ws/sensors")[0] in (404, 426)
    await asyncio.sleep(0)
