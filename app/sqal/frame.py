"""The packed frame, version 1: everything of a reading that a recipe may look at, as integers (docs/frame.md).

Little-endian. A header, the reported block (what the device derived, in 1e-6), then the planes that the mask names,
in the order distance, reflectance, amplitude, ambient, status, channels. A plane is: width (u8: 0, 1, 2 or 4 bytes a
value; 0 = one u32 that stands for all), exponent (u8: value = integer / 10^exponent), then the integers row by row.
Whole numbers are kept exactly; others with as many decimals (at most 4) as fit 16 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
CHANNEL_MAP_AS7341: Final = 1
CHANNELS: Final = (
    "F1_415nm", "F2_445nm", "F3_480nm", "F4_515nm", "F5_555nm", "F6_590nm", "F7_630nm", "F8_680nm", "Clear", "NIR",
)  # fmt: skip
CHANNEL_MAPS: Final = {CHANNEL_MAP_AS7341: CHANNELS}
MATRICES: Final = ("distance", "reflectance", "amplitude", "ambient", "status")
PLANES: Final = (*MATRICES, "channels")
MICRO: Final = 1_000_000
ABSENT: Final = -1
MAX_VALUE: Final = 2**32 - 1
_U16 = 65_535
# version, zones a side, plane mask, channel map, gain in halves (0 unknown), integration time in us (0 unknown)
_HEADER = struct.Struct("<BBBBHI")
# tof, spectral, freshness, fat quality, oxidation, colour uniformity, worst severity, defects (-1: unknown)
_REPORTED = struct.Struct("<7ih")
_PLANE = struct.Struct("<BB")
_PACK = {(count, width): struct.Struct(f"<{count}{'_BH_I'[width]}") for count in (16, 64, 10) for width in (1, 2, 4)}
_DIGITS = (10_000.0, 1_000.0, 100.0, 10.0)


@dataclass(frozen=True, slots=True)
class Reported:
    """What the device derived itself: scores, indices and severities in 1e-6, -1 where it said nothing."""

    tof: int = ABSENT
    spectral: int = ABSENT
    freshness: int = ABSENT
    fat_quality: int = ABSENT
    oxidation: int = ABSENT
    color_uniformity: int = ABSENT
    worst_severity: int = ABSENT
    defects: int = ABSENT


@dataclass(frozen=True, slots=True)
class Plane:
    """`integers[i] / 10**exponent` is the value of zone (or channel) i, rows first."""

    integers: tuple[int, ...]
    exponent: int

    def values(self) -> list[int] | list[float]:
        """The values as sent: integers where the plane holds whole numbers."""
        if self.exponent == 0:
            return list(self.integers)
        scale = 10**self.exponent
        return [value / scale for value in self.integers]


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. `side` is 4 or 8; a matrix plane holds side x side zones; absent ones are not in `planes`."""

    side: int
    gain: float | None
    integration_ms: float | None
    channel_names: tuple[str, ...]
    reported: Reported
    planes: dict[str, Plane]


def encode_plane(values: list[float]) -> bytes:
    """Pack 16 or 64 zones or 10 channels, each finite and 0 <= value <= 4294967295 (checked by the caller)."""
    exponent = 0
    integers = list(map(int, values))
    if integers != values:
        top = max(values)
        for digits, scale in zip((4, 3, 2, 1), _DIGITS, strict=True):
            if top * scale <= _U16:
                exponent = digits
                integers = [round(value * scale) for value in values]
                break
        else:
            integers = list(map(round, values))
    top_integer = max(integers)
    if top_integer == min(integers):
        return struct.pack("<BBI", 0, exponent, top_integer)
    if top_integer < 256:  # noqa: PLR2004
        return _PLANE.pack(1, exponent) + bytes(integers)
    width = 2 if top_integer <= _U16 else 4
    return _PLANE.pack(width, exponent) + _PACK[len(integers), width].pack(*integers)


def encode_frame(
    side: int,
    gain: float | None,
    integration_ms: float | None,
    reported: Reported,
    planes: list[list[float] | None],
) -> bytes:
    """Pack a reading; `planes` in the order of `PLANES`, None where the message had none."""
    mask = 0
    body = []
    for bit, values in enumerate(planes):
        if values is not None:
            mask |= 1 << bit
            body.append(encode_plane(values))
    head = _HEADER.pack(
        VERSION, side, mask, CHANNEL_MAP_AS7341, round((gain or 0) * 2), round((integration_ms or 0) * 1000)
    )
    r = reported
    block = _REPORTED.pack(
        r.tof, r.spectral, r.freshness, r.fat_quality, r.oxidation, r.color_uniformity, r.worst_severity, r.defects
    )
    return b"".join((head, block, *body))


def decode_reported(frame: bytes) -> Reported:
    """Only the reported block: all that `sqal-1-reported` reads."""
    return Reported(*_REPORTED.unpack_from(frame, _HEADER.size))


def decode_frame(frame: bytes) -> Frame:
    """Unpack a frame. Raises ValueError for a version, plane or length it does not know."""
    version, side, mask, channel_map, half_gain, integration_us = _HEADER.unpack_from(frame)
    if version != VERSION:
        raise ValueError(f"frame version {version} is unknown")
    names = CHANNEL_MAPS[channel_map]
    position = _HEADER.size + _REPORTED.size
    planes = {}
    for bit, name in enumerate(PLANES):
        if mask & (1 << bit):
            count = len(names) if name == "channels" else side * side
            planes[name], position = _decode_plane(frame, position, count)
    if position != len(frame):
        raise ValueError("the frame has bytes that no plane owns")
    return Frame(
        side=side,
        gain=half_gain / 2 if half_gain else None,
        integration_ms=integration_us / 1000 if integration_us else None,
        channel_names=names,
        reported=decode_reported(frame),
        planes=planes,
    )


def _decode_plane(frame: bytes, position: int, count: int) -> tuple[Plane, int]:
    width, exponent = _PLANE.unpack_from(frame, position)
    position += _PLANE.size
    if width == 0:
        (value,) = struct.unpack_from("<I", frame, position)
        return Plane((value,) * count, exponent), position + 4
    return Plane(_PACK[count, width].unpack_from(frame, position), exponent), position + count * width


def frame_as_json(frame: Frame) -> dict[str, object]:
    """Matrices as rows and channels by name, absent ones null: the body of `/frame`."""
    body: dict[str, object] = {"version": VERSION, "zones": f"{frame.side}x{frame.side}"}
    for name in MATRICES:
        plane = frame.planes.get(name)
        if plane is None:
            body[f"{name}_matrix"] = None
            continue
        values = plane.values()
        body[f"{name}_matrix"] = [values[row : row + frame.side] for row in range(0, len(values), frame.side)]
    channels = frame.planes["channels"].values()
    body["channels"] = dict(zip(frame.channel_names, channels, strict=True))
    body["gain"] = frame.gain
    body["integration_time_ms"] = frame.integration_ms
    return body
