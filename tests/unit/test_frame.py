from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sqal.frame import (
    CHANNELS,
    Reported,
    decode_frame,
    encode_channels,
    encode_head,
    encode_matrices,
    frame_as_json,
    pack_doubles,
    stack_matrices,
)

ZONES = 64
FULL = 0b11111


def packed_alone(zones: list[float], mask: int = 1, side: int = 8) -> bytes | None:
    return encode_matrices(stack_matrices([pack_doubles(zones)], mask, side), mask)[0]


def packed_together(samples: list[list[float]]) -> list[bytes | None]:
    return encode_matrices(stack_matrices(map(pack_doubles, samples), 1, 8), 1)


def pack(planes: list[list[float]], mask: int = FULL, side: int = 8) -> bytes:
    packed = packed_alone(sum(planes, []), mask, side)
    assert packed is not None
    return encode_head(side, mask, 4, 100, Reported(tof=1, defects=3)) + packed + encode_channels([100.0] * 10)


whole = st.lists(st.integers(0, 4_000).map(float), min_size=ZONES, max_size=ZONES)
status = st.lists(st.sampled_from([0.0, 5.0, 6.0, 9.0, 255.0]), min_size=ZONES, max_size=ZONES)
sensor = st.lists(st.integers(0, 2**32 - 1).map(float), min_size=ZONES, max_size=ZONES)


@given(whole, sensor, sensor, sensor, status)
def test_whole_numbers_come_back_exactly(
    distance: list[float], reflectance: list[float], amplitude: list[float], ambient: list[float], state: list[float]
) -> None:
    frame = decode_frame(pack([distance, reflectance, amplitude, ambient, state]))
    kept = [plane.values() for name, plane in frame.planes.items() if name != "channels"]
    assert kept == [distance, reflectance, amplitude, ambient, state]


@given(st.lists(st.floats(0, 4_000), min_size=ZONES, max_size=ZONES))
def test_fractions_keep_four_significant_digits_of_the_planes_greatest_value(distance: list[float]) -> None:
    packed = packed_alone(distance)
    assert packed is not None
    frame = decode_frame(encode_head(8, 1, None, None, Reported()) + packed + encode_channels([1.0] * 10))
    for stored, sent in zip(frame.planes["distance"].values(), distance, strict=True):
        assert abs(stored - sent) <= max(max(distance) * 1e-4, 0.00006)


@given(st.lists(st.tuples(whole, st.booleans()), min_size=1, max_size=40))
def test_a_sample_packs_to_the_same_bytes_alone_and_in_a_group(samples: list[tuple[list[float], bool]]) -> None:
    group = [[value / 10 if tenth else value for value in zones] for zones, tenth in samples]
    assert packed_together(group) == [packed_alone(zones) for zones in group]


@pytest.mark.parametrize("bad", [-1.0, 4_000.1, math.nan, math.inf, -math.inf])
def test_a_bad_value_fails_its_own_sample_only(bad: float) -> None:
    good = [95.0] * ZONES
    assert packed_together([good, [bad, *good[1:]], good])[1] is None
    assert None not in packed_together([good, good])


def test_a_four_by_four_frame_has_sixteen_zones() -> None:
    packed = packed_alone([float(zone) for zone in range(16)], 1, 4)
    assert packed is not None
    body = frame_as_json(decode_frame(encode_head(4, 1, 0.5, None, Reported()) + packed + encode_channels([7.0] * 10)))
    assert body["distance_matrix"] == [[row * 4 + column for column in range(4)] for row in range(4)]
    assert body["amplitude_matrix"] is None
    assert body["gain"] == 0.5
    assert body["integration_time_ms"] is None
    assert body["channels"] == dict.fromkeys(CHANNELS, 7)


def test_the_reported_block_survives() -> None:
    frame = decode_frame(pack([[95.0] * ZONES] * 5))
    assert (frame.reported.tof, frame.reported.defects, frame.reported.spectral) == (1, 3, -1)


@pytest.mark.parametrize("damage", [lambda raw: b"\x02" + raw[1:], lambda raw: raw + b"\x00"])
def test_a_foreign_or_damaged_frame_is_refused(damage: object) -> None:
    with pytest.raises(ValueError, match="frame"):
        decode_frame(damage(pack([[95.0] * ZONES] * 5)))  # type: ignore[operator]
