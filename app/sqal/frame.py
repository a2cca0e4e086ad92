"""The packed frame, version 1: everything of a reading that a recipe may look at, as integers (docs/frame.md).

Little-endian. A header, the reported block (what the device derived, in 1e-6), then the planes that the mask names,
in the order distance, reflectance, amplitude, ambient, status, channels. A plane is: width (u8: 0, 2 or 4 bytes a
value; 0 = one u32 that stands for all), exponent (u8: value = integer / 10^exponent), then the integers row by row.
The exponent is the largest up to 4 with which the plane's greatest value fits 16 bits, so whole numbers are exact.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

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
MAX_DISTANCE_MM: Final = 4_000
MAX_STATUS: Final = 255
PLANE_LIMITS: Final = (MAX_DISTANCE_MM, MAX_VALUE, MAX_VALUE, MAX_VALUE, MAX_STATUS)
CHANNELS_BIT: Final = 1 << len(MATRICES)
_U16 = 65_535
# version, zones a side, plane mask, channel map, gain in halves (0 unknown), integration time in us (0 unknown)
_HEADER = struct.Struct("<BBBBHI")
# tof, spectral, freshness, fat quality, oxidation, colour uniformity, worst severity, defects (-1: unknown)
_REPORTED = struct.Struct("<7ih")
_PLANE = struct.Struct("<BB")
_CONSTANT = struct.Struct("<BBI")
_CHANNELS = struct.Struct("<10H")
_UNPACK = {(count, width): struct.Struct(f"<{count}{'__H_I'[width]}") for count in (16, 64, 10) for width in (2, 4)}
_DOUBLES = {count: struct.Struct(f"={count}d") for zones in (16, 64) for count in range(zones, 5 * zones + 1, zones)}
_U16LE, _U32LE = np.dtype("<u2"), np.dtype("<u4")
_SCALES = np.array([1.0, 10.0, 100.0, 1_000.0, 10_000.0])
_EXPONENT_LIMITS = np.array([6.5535, 65.535, 655.35, 6553.5])  # up to which 4, 3, 2, 1 decimals fit 16 bits


class Reported(NamedTuple):
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

    def values(self) -> list[float]:
        """The values, whole ones as integers."""
        scale = 10**self.exponent
        return [value / scale if value % scale else value // scale for value in self.integers]


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. `side` is 4 or 8; a matrix plane holds side x side zones; absent ones are not in `planes`."""

    side: int
    gain: float | None
    integration_ms: float | None
    channel_names: tuple[str, ...]
    reported: Reported
    planes: dict[str, Plane]


def pack_doubles(zones: list[float]) -> bytes:
    """The zones of a sample's matrices, plane after plane: three times faster than an array, and no objects stay."""
    return _DOUBLES[len(zones)].pack(*zones)


def stack_matrices(samples: Iterable[bytes], mask: int, side: int) -> NDArray[np.float64]:
    """(samples, planes, zones): the zone matrices of many samples, each given by `pack_doubles`. `mask` says which of
    `MATRICES` they have, the same for all.
    """
    return np.frombuffer(b"".join(samples)).reshape(-1, mask.bit_count(), side * side)


def encode_matrices(values: NDArray[np.float64], mask: int) -> list[bytes | None]:
    """Pack the zone matrices of many samples at once, as `stack_matrices` gives them.

    None for a sample with a value that is not finite, negative, or above its plane's limit (`PLANE_LIMITS`). Thirty at
    once cost a third of thirty times one.
    """
    lows, tops = values.min(axis=2), values.max(axis=2)
    limits = np.array([limit for bit, limit in enumerate(PLANE_LIMITS) if mask & (1 << bit)])
    valid = ((lows >= 0) & (tops <= limits)).all(axis=1)  # a NaN makes both ends NaN, and comparisons with it false
    if not valid.all():
        values = np.where(valid[:, None, None], values, 0.0)
        lows, tops = np.where(valid[:, None], lows, 0.0), np.where(valid[:, None], tops, 0.0)
    exponents = len(_EXPONENT_LIMITS) - np.searchsorted(_EXPONENT_LIMITS, tops)
    scaled = np.rint(values * _SCALES[exponents][:, :, None])
    narrow = np.minimum(scaled, _U16).astype(_U16LE).tobytes()
    heads = zip(valid.tolist(), lows.tolist(), tops.tolist(), exponents.tolist(), strict=True)
    return [
        _join_planes(low, top, exponent, narrow, number, scaled) if ok else None
        for number, (ok, low, top, exponent) in enumerate(heads)
    ]


def _join_planes(
    lows: list[float], tops: list[float], exponents: list[int], narrow: bytes, number: int, scaled: NDArray[np.float64]
) -> bytes:
    """The planes of sample `number`, each with its head."""
    size = scaled.shape[2] * 2
    at = number * len(tops) * size
    parts = []
    for row, (low, top, exponent) in enumerate(zip(lows, tops, exponents, strict=True)):
        if low == top:
            parts.append(_CONSTANT.pack(0, exponent, int(scaled[number, row, 0])))
        elif exponent or top <= _U16:
            parts += (_PLANE.pack(2, exponent), narrow[at : at + size])
        else:
            parts += (_PLANE.pack(4, exponent), scaled[number, row].astype(_U32LE).tobytes())
        at += size
    return b"".join(parts)


def encode_channels(counts: list[float]) -> bytes:
    """Pack the channels; counts are 0..65535 (checked by the caller), whole numbers unless a firmware averages."""
    whole = list(map(int, counts))
    if whole == counts:
        return _PLANE.pack(2, 0) + _CHANNELS.pack(*whole)
    exponent = int(len(_EXPONENT_LIMITS) - np.searchsorted(_EXPONENT_LIMITS, max(counts)))
    return _PLANE.pack(2, exponent) + _CHANNELS.pack(*(round(count * 10**exponent) for count in counts))


def encode_head(side: int, mask: int, gain: float | None, integration_ms: float | None, reported: Reported) -> bytes:
    """What comes before the planes; `mask` names the zone matrices, the channels are always there."""
    exposure = (round((gain or 0) * 2), round((integration_ms or 0) * 1000))
    return _HEADER.pack(VERSION, side, mask | CHANNELS_BIT, CHANNEL_MAP_AS7341, *exposure) + _REPORTED.pack(*reported)


def decode_reported(frame: bytes) -> Reported:
    """Only the reported block: all that `sqal-1-reported` reads."""
    return Reported(*_REPORTED.unpack_from(frame, _HEADER.size))


def side_of(frame: bytes) -> int:
    """Zones along a side: 4 or 8."""
    return frame[1]


class Planes(NamedTuple):
    """The numbers of many frames, along the last axis: distances in mm and status (zones, frames), counts (10, ...)."""

    complete: NDArray[np.bool_]
    """False for a frame of another side: its columns are zero."""
    distances: NDArray[np.float64]
    status: NDArray[np.float64]
    counts: NDArray[np.float64]
    integration_ms: NDArray[np.float64]


_STACKED: Final = {"distance": 0, "status": 1, "channels": 2}


def stack_planes(frames: Sequence[bytes], side: int) -> Planes:
    """Unpack distance, status and channels of many frames. ValueError for a frame of an unknown version."""
    zones = side * side
    stacked = [np.zeros((len(frames), count)) for count in (zones, zones, len(CHANNELS))]
    complete = np.zeros(len(frames), dtype=bool)
    integration_ms = np.zeros(len(frames))
    for number, frame in enumerate(frames):
        version, own_side, mask, _, _, integration_us = _HEADER.unpack_from(frame)
        if version != VERSION:
            raise ValueError(f"frame version {version} is unknown")
        integration_ms[number] = integration_us / 1000
        complete[number] = own_side == side
        position = _HEADER.size + _REPORTED.size
        for bit, name in enumerate(PLANES):
            if not mask & (1 << bit):
                continue
            count = len(CHANNELS) if name == "channels" else own_side * own_side
            width, exponent = frame[position], frame[position + 1]
            position += _PLANE.size
            if (place := _STACKED.get(name)) is not None and (name == "channels" or own_side == side):
                kind, length = (_U16LE, count) if width == 2 else (_U32LE, count if width else 1)  # noqa: PLR2004
                row = np.frombuffer(frame, kind, length, position)
                stacked[place][number] = row if not exponent else row / 10**exponent
            position += count * width or 4
    distances, status, counts = (np.ascontiguousarray(plane.T) for plane in stacked)
    return Planes(complete, distances, status, counts, integration_ms)


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
    return Plane(_UNPACK[count, width].unpack_from(frame, position), exponent), position + count * width


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
