"""What comes over the wire, as msgspec structs: unknown fields are passed over (the original message keeps them)."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

Matrix = list[list[float]]
NOTHING_RAW: Final = Raw()  # the default of a field that is kept undecoded
Number = float | None


class Encoding(IntEnum):
    """How a message was written; the numbers are stored."""

    JSON = 1
    MSGPACK = 2


class Matrices(Struct, gc=False):
    """The zone matrices, wherever a firmware puts them."""

    distance_matrix: Matrix | None = None
    reflectance_matrix: Matrix | None = None
    amplitude_matrix: Matrix | None = None
    ambient_matrix: Matrix | None = None
    status_matrix: Matrix | None = None


class TofBlock(Matrices, gc=False):
    """`vl53l8ch`: matrices directly, or under `raw` or `analysis`."""

    raw: Matrices | None = None
    analysis: Matrices | None = None
    quality_score: Number = None
    volume_mm3: Number = None
    defects: Raw = NOTHING_RAW


class SpectralMeta(Struct, gc=False):
    gain: Number = None
    integration_time_ms: Number = None


class SpectralBlock(Struct, gc=False):
    """`as7341`: counts by channel name, and what the device derived from them."""

    channels: dict[str, float] | None = None
    gain: Number = None
    integration_time: Number = None
    quality_score: Number = None
    freshness_index: Number = None
    fat_quality_index: Number = None
    oxidation_index: Number = None
    color_uniformity: Number = None
    meta: SpectralMeta | None = None


class FusionMetrics(Struct, gc=False):
    is_compliant: Any = None


class FusionBlock(Struct, gc=False):
    """`fusion`: the device's own verdict, a claim."""

    final_score: Number = None
    final_grade: Any = None
    is_compliant: Any = None
    tof_score: Number = None
    spectral_score: Number = None
    vl53l8ch_score: Number = None
    as7341_score: Number = None
    confidence_level: Number = None
    weight_tof: Number = None
    weight_spectral: Number = None
    tof_contribution: Number = None
    spectral_contribution: Number = None
    defects: Raw = NOTHING_RAW
    combined_defects: Raw = NOTHING_RAW
    foie_gras_metrics: FusionMetrics | None = None


class SampleMeta(Struct, gc=False):
    config_profile: Any = None
    firmware_version: Any = None
    temperature_c: Number = None
    humidity_percent: Number = None


class SensorData(Struct, gc=False):
    """`sensor_data`: one reading of one liver."""

    type: str = "sensor_data"
    device_id: str | None = None
    sample_id: str | int | None = None
    timestamp: str | None = None
    location: Any = None
    site_code: Any = None
    lot_id: Any = None
    lot_abattage: Any = None
    eleveur: Any = None
    provenance: Any = None
    firmware_version: Any = None
    vl53l8ch: TofBlock | None = None
    as7341: SpectralBlock | None = None
    fusion: FusionBlock | None = None
    meta: SampleMeta | None = None


class Defect(Struct, gc=False):
    severity: Number = None


class SensorBatch(Struct, gc=False):
    """`sensor_batch`: the samples stay raw, so that each is stored as the bytes it came in."""

    type: str
    samples: list[Raw] | None = None


class Hello(Struct):
    """`esp32_hello`. `ack` chooses the acknowledgement mode: `each` (default) or `cumulative`."""

    type: str
    device_id: str | None = None
    mac_address: Any = None
    location: Any = None
    ip_address: Any = None
    firmware_version: Any = None
    site_code: Any = None
    sensors: Any = None
    ack: Any = None
    timestamp: Any = None


class Heartbeat(Struct):
    """`heartbeat`, every 30 s."""

    type: str
    device_id: str | None = None
    status: Any = None
    uptime: Number = None
    stats: Any = None
    buffer_size: Any = None
    timestamp: Any = None


class Head(Struct, gc=False):
    """Only the type; everything else is passed over."""

    type: str = "sensor_data"


class Ids(Struct, gc=False):
    """Whom a refused message named; anything may stand there."""

    device_id: Any = None
    sample_id: Any = None
    timestamp: Any = None


KINDS: Final = {
    "sensor_data": SensorData,
    "sensor_batch": SensorBatch,
    "esp32_hello": Hello,
    "heartbeat": Heartbeat,
    "ping": Head,
}
_DECODERS: Final[dict[Encoding, dict[str, Any]]] = {
    Encoding.JSON: {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()},
    Encoding.MSGPACK: {kind: msgspec.msgpack.Decoder(struct) for kind, struct in KINDS.items()},
}
_HEADS: Final[dict[Encoding, Any]] = {
    Encoding.JSON: msgspec.json.Decoder(Head),
    Encoding.MSGPACK: msgspec.msgpack.Decoder(Head),
}
_DEFECTS: Final[dict[Encoding, Any]] = {
    Encoding.JSON: msgspec.json.Decoder(list[Defect] | None),
    Encoding.MSGPACK: msgspec.msgpack.Decoder(list[Defect] | None),
}
_IDS: Final[dict[Encoding, Any]] = {
    Encoding.JSON: msgspec.json.Decoder(Ids),
    Encoding.MSGPACK: msgspec.msgpack.Decoder(Ids),
}
_ENCODERS: Final[dict[Encoding, Any]] = {
    Encoding.JSON: msgspec.json.Encoder(),
    Encoding.MSGPACK: msgspec.msgpack.Encoder(),
}
# Most messages begin with their type; the rest pay for a pass over the message to find it.
_LEADING_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"(\w{1,32})"')
_SAMPLE_ID = re.compile(rb'"sample_id"\s*:\s*"([\x20\x21\x23-\x5b\x5d-\x7e]{1,128})"')
_DEVICE_ID = re.compile(rb'"device_id"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,64})"')
# The same key in MessagePack, before a string of up to 31 bytes or (its length in a byte of its own) of up to 64.
_PACKED_DEVICE_ID = re.compile(
    rb"\xa9device_id(?:"
    + b"|".join(
        [rb"\x%02x([!-~]{%d})" % (0xA0 + n, n) for n in range(1, 32)]
        + [rb"\xd9\x%02x([!-~]{%d})" % (n, n) for n in range(32, 65)]
    )
    + b")"
)
_NOT_FINITE = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)\b")
GLANCE_BYTES: Final = 256 * 1024
GLANCE_DEVICE_BYTES: Final = 512


def _decode(decoder: Any, raw: bytes | Raw) -> Any:
    """msgspec's own errors, and for text that is no UTF-8 (which it reports otherwise in MessagePack) the same."""
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("text that is not UTF-8") from error


def decode_type(raw: bytes, encoding: Encoding) -> str:
    """The message's `type`, `sensor_data` when it has none. Raises msgspec.DecodeError or RecursionError."""
    if encoding is Encoding.JSON and (match := _LEADING_TYPE.match(raw)):
        return match[1].decode()
    head: Head = _decode(_HEADS[encoding], raw)
    return head.type


def decode_as(kind: str, raw: bytes | Raw, encoding: Encoding) -> Any:
    """The struct of `kind` (a key of `KINDS`). Raises msgspec.DecodeError or RecursionError."""
    return _decode(_DECODERS[encoding][kind], raw)


def decode_defects(raw: Raw, encoding: Encoding) -> list[Defect] | None:
    """The device's defect list, or None for null. Raises msgspec.DecodeError when it is no such list."""
    defects: list[Defect] | None = _decode(_DEFECTS[encoding], raw)
    return defects


def encode(message: Struct | dict[str, Any], encoding: Encoding) -> bytes:
    """One answer in the encoding of the message it answers."""
    encoded: bytes = _ENCODERS[encoding].encode(message)
    return encoded


def glance_ids(raw: bytes | Raw, encoding: Encoding) -> Ids:
    """Whom a message that cannot be stored names, as far as it can be read; a broken one by its first bytes."""
    try:
        ids: Ids = _decode(_IDS[encoding], raw)
    except (msgspec.DecodeError, RecursionError):
        start = bytes(raw)[:GLANCE_BYTES]
        device, sample = _DEVICE_ID.search(start), _SAMPLE_ID.search(start)
        return Ids(device[1].decode() if device else None, sample[1].decode() if sample else None)
    else:
        return ids


def glance_device(raw: bytes) -> str:
    """Whose message this seems to be, for sharing the queue fairly; empty when its first bytes do not show it."""
    match = _DEVICE_ID.search(raw, 0, GLANCE_DEVICE_BYTES) or _PACKED_DEVICE_ID.search(raw, 0, GLANCE_DEVICE_BYTES)
    return match[match.lastindex or 1].decode() if match else ""


def holds_not_finite(raw: bytes) -> bool:
    """Whether malformed JSON holds the tokens NaN or Infinity, which JSON does not have."""
    return _NOT_FINITE.search(raw[:GLANCE_BYTES]) is not None
