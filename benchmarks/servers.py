"""The servers that ours is measured against: one that only receives and acknowledges, and the honest simple one."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import uvloop
import zstandard
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from app.core.ids import uuid7
from app.core.server import listen, make_server
from app.sqal.answers import Ack
from app.sqal.reading import parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

encode = msgspec.json.Encoder().encode


class Named(msgspec.Struct):
    """What an ack has to name."""

    device_id: str
    sample_id: str
    timestamp: str


class AckOnly:
    """Our server without ours: receives each message, decodes whom it names, and acknowledges it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        decode = msgspec.json.Decoder(Named).decode
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            named = decode(event["text"])
            ack = Ack(named.sample_id, named.timestamp, "saved", 0.5, "C")
            await send({"type": "websocket.send", "text": encode(ack).decode()})


class Tof(BaseModel):
    distance_matrix: list[list[float]]
    reflectance_matrix: list[list[float]]
    amplitude_matrix: list[list[float]]
    ambient_matrix: list[list[float]]
    status_matrix: list[list[int]]
    quality_score: float
    volume_mm3: float


class Spectral(BaseModel):
    channels: dict[str, float]
    gain: float
    integration_time: float
    quality_score: float
    freshness_index: float
    fat_quality_index: float
    oxidation_index: float
    color_uniformity: float


class Fusion(BaseModel):
    final_score: float
    final_grade: str
    is_compliant: bool


class Message(BaseModel):
    timestamp: str
    sample_id: str
    device_id: str
    lot_abattage: str | None = None
    eleveur: str | None = None
    location: str | None = None
    vl53l8ch: Tof
    as7341: Spectral
    fusion: Fusion


SCHEMA = """
DROP TABLE IF EXISTS baseline;
CREATE TABLE baseline (
    id uuid NOT NULL, device_time timestamptz NOT NULL, received_at timestamptz NOT NULL DEFAULT now(), device_id text NOT NULL,
    sample_id text NOT NULL, score float8, grade text, claimed_score float8, claimed_grade text, compliant bool,
    tof float8, spectral float8, freshness float8, fat float8, oxidation float8, color float8, volume float8,
    lot text, farmer text, location text, channels bytea, body bytea,
    UNIQUE (device_id, device_time, sample_id)
);
ALTER TABLE baseline ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX ON baseline (device_time, id);
CREATE INDEX ON baseline (device_id, device_time, id);
CREATE INDEX ON baseline (lot, device_time, id);
CREATE INDEX ON baseline (grade, device_time, id);
"""
INSERT = """INSERT INTO baseline (id, device_time, device_id, sample_id, score, grade, claimed_score, claimed_grade, compliant,
    tof, spectral, freshness, fat, oxidation, color, volume, lot, farmer, location, channels, body)
    VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21) ON CONFLICT DO NOTHING"""


class Baseline:
    """pydantic, then one INSERT (one transaction) a message over a pool of ten; messages of a socket go concurrently.

    It stores what ours stores: the columns, the numbers packed, the original compressed by the same zstd level.
    """

    def __init__(self) -> None:
        self.pool: Any = None
        self._compress = zstandard.ZstdCompressor(level=1).compress

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        tasks: set[asyncio.Task[None]] = set()
        while (event := await receive())["type"] == "websocket.receive":
            task = asyncio.create_task(self._store(event["text"], send))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _store(self, text: str, send: Any) -> None:
        m = Message.model_validate_json(text)
        t, s, f = m.vl53l8ch, m.as7341, m.fusion
        score = 0.6 * t.quality_score + 0.4 * s.quality_score
        grade = (
            "A+"
            if score >= 0.85
            else "A"
            if score >= 0.75
            else "B"
            if score >= 0.6
            else "C"
            if score >= 0.45
            else "REJECT"
        )
        numbers = msgspec.msgpack.encode(
            [t.distance_matrix, t.reflectance_matrix, t.amplitude_matrix, t.ambient_matrix, s.channels]
        )[:700]
        await self.pool.execute(
            INSERT, uuid7(), parse_time(m.timestamp), m.device_id, m.sample_id, score, grade, f.final_score, f.final_grade,
            f.is_compliant, t.quality_score, s.quality_score, s.freshness_index, s.fat_quality_index, s.oxidation_index,
            s.color_uniformity, t.volume_mm3, m.lot_abattage, m.eleveur, m.location, numbers, self._compress(text.encode()),
        )  # fmt: skip
        ack: dict[str, Any] = {"type": "ack", "sample_id": m.sample_id, "timestamp": m.timestamp, "status": "saved"}
        ack |= {"fusion_score": score, "fusion_grade": grade}
        await send({"type": "websocket.send", "text": encode(ack).decode()})


def build(kind: str, dsn: str) -> Starlette:
    endpoint: Any = AckOnly() if kind == "ack_only" else Baseline()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if isinstance(endpoint, Baseline):
            endpoint.pool = await asyncpg.create_pool(dsn, min_size=10, max_size=10)
            await endpoint.pool.execute(SCHEMA)
        yield
        if isinstance(endpoint, Baseline):
            await endpoint.pool.close()

    return Starlette(routes=[WebSocketRoute("/ws/sensors", endpoint)], lifespan=lifespan)


if __name__ == "__main__":
    server = make_server(build(sys.argv[1], sys.argv[3]))  # type: ignore[arg-type]
    uvloop.run(server.serve(sockets=[listen("127.0.0.1", int(sys.argv[2]))]))
