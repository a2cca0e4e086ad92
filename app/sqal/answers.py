"""Every message the server sends to a device (docs/protocol.md), as msgspec structs."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class ConnectionEstablished(Struct, tag_field="type", tag="connection_established"):
    timestamp: str
    message: str


class HelloAck(Struct, tag_field="type", tag="hello_ack"):
    timestamp: str
    server_time: str
    device_id: str
    ack: str
    limits: dict[str, float]
    stored: bool


class HeartbeatAck(Struct, tag_field="type", tag="heartbeat_ack"):
    timestamp: str


class Pong(Struct, tag_field="type", tag="pong"):
    timestamp: str


class Ack(Struct, tag_field="type", tag="ack"):
    sample_id: str
    timestamp: str
    status: str
    fusion_score: float | None
    fusion_grade: str | None


class CumulativeAck(Struct, tag_field="type", tag="ack"):
    count: int
    sample_id: str | None


class BatchAck(Struct, tag_field="type", tag="batch_ack"):
    results: list[dict[str, Any]]
    retry_after_ms: int | UnsetType = UNSET


class Error(Struct, tag_field="type", tag="error"):
    code: str
    error: str
    sample_id: str | None
    timestamp: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    position: int | UnsetType = UNSET


class SlowDown(Struct, tag_field="type", tag="slow_down"):
    retry_after_ms: int


class Drain(Struct, tag_field="type", tag="drain"):
    """The service is about to end this connection: come back after so long."""

    reconnect_in_ms: int
