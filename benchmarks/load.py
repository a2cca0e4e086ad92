"""A load client that costs next to nothing: run as a process of its own, pinned beside the database.

It speaks just enough WebSocket: unfragmented frames with an all-zero mask (legal, and no work), and it reads only how
many answers came and when. Each connection keeps `window` messages under way.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop

STAMP = b"2000-01-01T00:00:00.000000Z"


@dataclass(slots=True)
class Load:
    """What to send: `rate` messages a second in all (0: as fast as the windows allow) for `seconds` after `warm_up`."""

    port: int
    kind: str
    path: str = "/ws/sensors"
    connections: int = 8
    window: int = 64
    seconds: float = 8.0
    warm_up: float = 2.0
    rate: float = 0.0
    cumulative: bool = False


@dataclass(slots=True)
class Outcome:
    """What came back: answers counted and their latencies, both only after the warm-up."""

    answered: int = 0
    errors: int = 0
    latencies_s: list[float] = field(default_factory=list)


def templates(kind: str) -> list[tuple[bytes, int, int]]:
    """(message, offset of its timestamp, offset of its sample id); `fleet` about 20 kB, `compact` 2.3 kB."""
    from app.sqal.simulator.messages import MessageMaker  # noqa: PLC0415 - numpy only where messages are made

    maker = MessageMaker("ESP32_DEMO_LL_01", "LL", 1, 7)
    made = []
    for _ in range(60):
        message = maker.sample(datetime.now(UTC))
        message["timestamp"], message["sample_id"] = STAMP.decode(), "S" * 12
        if kind == "compact":
            message = trimmed(message)
        raw = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        made.append((raw, raw.index(STAMP), raw.index(b"S" * 12)))
    return made


def trimmed(message: dict[str, Any]) -> dict[str, Any]:
    """The smallest message that carries everything that is stored, with whole numbers as a trimmed firmware sends."""
    tof, spectral, fusion = (message[name] for name in ("vl53l8ch", "as7341", "fusion"))
    matrices = [name for name in tof if name.endswith("_matrix")]
    return {
        name: message[name]
        for name in ("type", "timestamp", "sample_id", "device_id", "location", "meta", "lot_abattage", "eleveur")
    } | {
        "vl53l8ch": {
            **{name: [[round(value) for value in row] for row in tof[name]] for name in matrices},
            **{name: tof[name] for name in ("volume_mm3", "surface_uniformity", "quality_score", "grade")},
        },
        "as7341": {
            name: spectral[name] for name in spectral if name not in ("spectral_ratios", "quality_metrics", "meta")
        },
        "fusion": {name: fusion[name] for name in ("final_score", "final_grade", "is_compliant")},
    }


class Connection(asyncio.Protocol):
    """One device: fills its window at once and again with every answer, or sends at its pace."""

    def __init__(self, load: Load, number: int, made: list[tuple[bytes, int, int]], outcome: Outcome) -> None:
        self._load = load
        self._made = [self._frame(raw, number) for raw, _, _ in made]
        self._offsets = [(stamp + 8, sample + 8) for _, stamp, sample in made]
        self._number = number
        self._outcome = outcome
        self._buffer = b""
        self._open = False
        self._sent = 0
        self._acked = 0
        self._under_way: deque[float] = deque()
        self.measuring = False
        self.stopped = False
        self._base = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)

    def _frame(self, raw: bytes, number: int) -> bytearray:
        raw = raw.replace(b"ESP32_DEMO_LL_01", b"ESP32_DEMO_LL_%02d" % number)
        return bytearray(b"\x81\xfe" + len(raw).to_bytes(2, "big") + bytes(4) + raw)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        key = base64.b64encode(os.urandom(16))
        transport.write(  # type: ignore[attr-defined]
            b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % (self._load.path.encode(), key)
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                raise ConnectionError(head.decode())
            self._open, self._buffer = True, rest
            if self._load.cumulative:
                self._write(
                    b'{"type":"esp32_hello","device_id":"ESP32_DEMO_LL_%02d","ack":"cumulative"}' % self._number
                )
            self.fill()
        self._read_frames()

    def _write(self, raw: bytes) -> None:
        self._transport.write(b"\x81" + bytes([0x80 | len(raw)]) + bytes(4) + raw)  # type: ignore[attr-defined]

    def _read_frames(self) -> None:
        buffer, at = self._buffer, 0
        now = time.perf_counter()
        while len(buffer) - at >= 2:
            length, head = buffer[at + 1] & 127, 2
            if length == 126:
                length, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            if len(buffer) - at < head + length:
                break
            self._answer(buffer[at + head : at + head + length], now)
            at += head + length
        self._buffer = buffer[at:]
        self.fill()

    def _answer(self, payload: bytes, now: float) -> None:
        if payload.startswith(b'{"type":"ack"'):
            count = 1
            if self._load.cumulative and (match := re.search(rb'"count":(\d+)', payload)):
                count = int(match[1]) - self._acked
                self._acked += count
            for _ in range(count):
                waited = now - self._under_way.popleft()
                if self.measuring:
                    self._outcome.answered += 1
                    self._outcome.latencies_s.append(waited)
        elif payload.startswith(b'{"type":"error"'):
            self._under_way.popleft()
            self._outcome.errors += 1

    def fill(self) -> None:
        """Keep the window full; with a rate, the pacer sends."""
        if self._open and not self._load.rate:
            while len(self._under_way) < self._load.window and not self.stopped:
                self.send()

    def send(self) -> None:
        """One message with an identity of its own."""
        if not self._open or self.stopped:
            return
        number = self._sent % len(self._made)
        frame, (stamp, sample) = self._made[number], self._offsets[number]
        moment = self._base + timedelta(milliseconds=self._sent)
        frame[stamp : stamp + 27] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        frame[sample : sample + 12] = b"%012d" % self._sent
        self._sent += 1
        self._under_way.append(time.perf_counter())
        self._transport.write(bytes(frame))  # type: ignore[attr-defined]


async def pace(connections: list[Connection], rate: float) -> None:
    """Send at `rate` in all, evenly, taking turns."""
    begin, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - begin) * rate)
        while sent < due:
            connections[sent % len(connections)].send()
            sent += 1
        await asyncio.sleep(0.001)


async def run(load: Load) -> dict[str, float]:
    outcome, made = Outcome(), templates(load.kind)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda n=n: Connection(load, n, made, outcome), "127.0.0.1", load.port))[1]  # type: ignore[misc]
        for n in range(load.connections)
    ]
    pacer = asyncio.create_task(pace(connections, load.rate)) if load.rate else None
    await asyncio.sleep(load.warm_up)
    for connection in connections:
        connection.measuring = True
    begin = time.perf_counter()
    await asyncio.sleep(load.seconds)
    elapsed = time.perf_counter() - begin
    for connection in connections:
        connection.measuring, connection.stopped = False, True
    if pacer:
        pacer.cancel()
    await asyncio.sleep(0.5)
    ordered = sorted(outcome.latencies_s) or [0.0]
    return {
        "per_second": outcome.answered / elapsed,
        "p50_ms": ordered[len(ordered) // 2] * 1e3,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1e3,
        "errors": outcome.errors,
        "message_bytes": sum(len(raw) for raw, _, _ in made) / len(made),
    }


if __name__ == "__main__":
    given = Load(**json.loads(sys.argv[1]))
    print(json.dumps({**asdict(given), **uvloop.run(run(given))}))
