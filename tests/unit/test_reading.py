from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from app.core.clock import SystemClock
from app.sqal import wire
from app.sqal.errors import Code
from app.sqal.flags import Flag
from app.sqal.frame import decode_frame
from app.sqal.intake import Verdict, Work
from app.sqal.prepare import Preparer
from app.sqal.reading import is_plausible, parse_time, read_sample, resolve_site, site_in_id
from app.sqal.wire import Encoding
from tests.support import SESSION, trimmed


class Nobody:
    def deliver(self, work: Work, verdict: Verdict) -> None:
        raise AssertionError("preparing answers nobody")


def prepare(message: Any, encoding: Encoding = Encoding.JSON) -> Work:
    raw = message if isinstance(message, bytes) else None
    if raw is None:
        raw = json.dumps(message).encode() if encoding is Encoding.JSON else msgspec.msgpack.encode(message)
    preparer = Preparer(SystemClock())
    work = preparer.sample(raw, encoding, Nobody(), None)
    preparer.prepare([work])
    return work


def reading_of(message: Any, encoding: Encoding = Encoding.JSON) -> Any:
    work = prepare(message, encoding)
    assert work.refusal is None, work.refusal
    return work.reading


def flags_of(message: Any) -> list[str]:
    return Flag.names(reading_of(message).flags)


MATRIX = trimmed()["vl53l8ch"]["distance_matrix"]
SHORT_ROW = [row[:7] if number == 3 else row for number, row in enumerate(MATRIX)]


def with_zone(value: float) -> list[list[float]]:
    return [[value, *MATRIX[0][1:]], *MATRIX[1:]]


REFUSED: list[tuple[str, dict[str, Any], Code]] = [
    ("a 7-element row", {"vl53l8ch__distance_matrix": SHORT_ROW}, Code.INVALID_MATRIX),
    ("seven rows", {"vl53l8ch__ambient_matrix": MATRIX[:7]}, Code.INVALID_MATRIX),
    ("a matrix of words", {"vl53l8ch__distance_matrix": [["a"] * 8] * 8}, Code.INVALID_MATRIX),
    ("distance 4001", {"vl53l8ch__distance_matrix": with_zone(4001)}, Code.OUT_OF_RANGE),
    ("distance -1", {"vl53l8ch__distance_matrix": with_zone(-1)}, Code.OUT_OF_RANGE),
    ("negative amplitude", {"vl53l8ch__amplitude_matrix": with_zone(-0.5)}, Code.OUT_OF_RANGE),
    ("status 256", {"vl53l8ch__status_matrix": with_zone(256)}, Code.OUT_OF_RANGE),
    ("status 5.5", {"vl53l8ch__status_matrix": with_zone(5.5)}, Code.INVALID_TYPE),
    ("no distance matrix", {"vl53l8ch__distance_matrix": ...}, Code.MISSING_FIELD),
    ("negative channel", {"as7341__channels__NIR": -1}, Code.OUT_OF_RANGE),
    ("channel 65536", {"as7341__channels__Clear": 65_536}, Code.OUT_OF_RANGE),
    ("missing channel", {"as7341__channels__F5_555nm": ...}, Code.MISSING_FIELD),
    ("no channels", {"as7341__channels": ...}, Code.MISSING_FIELD),
    ("score 1.0001", {"fusion__final_score": 1.0001}, Code.OUT_OF_RANGE),
    ("sub-score -0.1", {"vl53l8ch__quality_score": -0.1}, Code.OUT_OF_RANGE),
    ("index 1.5", {"as7341__freshness_index": 1.5}, Code.OUT_OF_RANGE),
    ("confidence 2", {"fusion__confidence_level": 2}, Code.OUT_OF_RANGE),
    ("score as text", {"fusion__final_score": "0.9"}, Code.INVALID_TYPE),
    ("weights of 1.1", {"fusion__weight_tof": 0.7}, Code.INVALID_WEIGHTS),
    ("gain 0", {"as7341__gain": 0}, Code.OUT_OF_RANGE),
    ("gain 1024", {"as7341__gain": 1024}, Code.OUT_OF_RANGE),
    ("no device id", {"device_id": ...}, Code.MISSING_FIELD),
    ("empty device id", {"device_id": ""}, Code.MISSING_FIELD),
    ("device id with a blank", {"device_id": "ESP32 LL"}, Code.INVALID_IDENTITY),
    ("no sample id", {"sample_id": ...}, Code.MISSING_FIELD),
    ("sample id with NUL", {"sample_id": "a\x00b"}, Code.INVALID_IDENTITY),
    ("no timestamp", {"timestamp": ...}, Code.MISSING_FIELD),
    ("timestamp yesterday", {"timestamp": "yesterday"}, Code.INVALID_TIMESTAMP),
    ("timestamp before the calendar", {"timestamp": "0001-01-01T00:00:00+23:59"}, Code.INVALID_TIMESTAMP),
    ("timestamp at the end of the calendar", {"timestamp": "9999-12-31T23:59:59.999999Z"}, Code.INVALID_TIMESTAMP),
    ("timestamp with a NUL", {"timestamp": "2026-11-23\x0000:00:00"}, Code.INVALID_TIMESTAMP),
    ("timestamp as number", {"timestamp": 1_795_453_410}, Code.INVALID_TYPE),
    ("no tof block", {"vl53l8ch": ...}, Code.MISSING_FIELD),
    ("no spectral block", {"as7341": ...}, Code.MISSING_FIELD),
    ("humidity 101", {"meta__humidity_percent": 101}, Code.OUT_OF_RANGE),
    ("another type", {"type": "sensor_dust"}, Code.UNKNOWN_TYPE),
]


@pytest.mark.parametrize(("changes", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_stored_is_refused_with_its_code(changes: dict[str, Any], code: Code) -> None:
    work = prepare(trimmed(**changes))
    assert work.reading is None
    assert work.refusal is not None
    assert work.refusal.code is code
    assert "Error" not in work.refusal.reason


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", Code.MALFORMED_JSON),
        (b"", Code.MALFORMED_JSON),
        (b'{"x":' + b"[" * 100_000, Code.MALFORMED_JSON),
        (b'{"type":"sensor_data","x":NaN}', Code.NOT_FINITE),
        (b'{"type":"sensor_data","x":[1,-Infinity]}', Code.NOT_FINITE),
        (json.dumps(trimmed()).replace("0.9115", "1e999").encode(), Code.NOT_FINITE),
        (b'"just text"', Code.INVALID_TYPE),
        (b"[]", Code.INVALID_TYPE),
    ],
)
def test_what_is_no_message_is_refused(raw: bytes, code: Code) -> None:
    work = prepare(raw)
    assert work.refusal is not None
    assert work.refusal.code is code


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("path", ["fusion__final_score", "as7341__channels__NIR", "vl53l8ch__distance_matrix"])
def test_messagepack_can_say_nan_and_is_refused(path: str, bad: float) -> None:
    value: Any = with_zone(bad) if path.endswith("matrix") else bad
    work = prepare(trimmed(**{path: value}), Encoding.MSGPACK)
    assert work.refusal is not None
    assert work.refusal.code is Code.NOT_FINITE


@pytest.mark.parametrize("field", ["sample_id", "lot_id", "type", "device_id"])
def test_messagepack_text_that_is_no_utf8_is_refused(field: str) -> None:
    raw = msgspec.msgpack.encode(trimmed(**{field: "QQ"})).replace(b"\xa2QQ", b"\xa2\xff\xfe")
    work = prepare(raw, Encoding.MSGPACK)
    assert work.refusal is not None
    assert work.refusal.code is Code.MALFORMED_MSGPACK


def test_a_defect_that_one_message_brings_to_light_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.sqal import prepare as module

    def read(message: Any, encoding: Encoding) -> Any:
        if message.sample_id == "7":
            raise ZeroDivisionError
        return read_sample(message, encoding)

    monkeypatch.setattr(module, "read_sample", read)
    preparer = Preparer(SystemClock())
    works = [
        preparer.sample(json.dumps(trimmed(sample_id=str(n))).encode(), Encoding.JSON, Nobody(), None) for n in range(9)
    ]
    preparer.prepare(works)
    assert [n for n, work in enumerate(works) if work.refusal] == [7]


def test_a_refusal_still_names_whom_it_refuses() -> None:
    work = prepare(trimmed(fusion__final_score=2))
    assert work.refusal is not None
    assert work.refusal.sample_id == "LL-260202-4821-087"
    assert work.refusal.device_id == "ESP32_LL_01"
    broken = prepare(json.dumps(trimmed()).encode()[:-5])
    assert broken.refusal is not None
    assert broken.refusal.sample_id == "LL-260202-4821-087"


def test_one_bad_sample_among_thirty_leaves_the_others() -> None:
    preparer = Preparer(SystemClock())
    bad = trimmed(vl53l8ch__distance_matrix=with_zone(4_001))
    works = [
        preparer.sample(json.dumps(bad if number == 17 else trimmed()).encode(), Encoding.JSON, Nobody(), None)
        for number in range(30)
    ]
    preparer.prepare(works)
    assert [number for number, work in enumerate(works) if work.refusal] == [17]


def test_the_trimmed_message_is_read_whole() -> None:
    reading = reading_of(trimmed())
    assert (reading.lot, reading.lot_id, reading.farmer) == ("LL-260202-4821", "272", "Elevage 017")
    assert (reading.site_code, reading.site_sent) == ("LL", True)
    assert (reading.claimed_score, reading.claimed_grade, reading.claimed_compliant) == (0.9115, "A+", True)
    frame = decode_frame(reading.frame)
    assert frame.reported.tof == 852_500
    assert frame.planes["distance"].values()[:4] == [95, 95, 95, 95]
    assert (frame.gain, frame.integration_ms) == (4.0, 100.0)
    assert reading.flags == 0


def test_the_recorded_session_is_read_whole() -> None:
    samples = [line for line in SESSION if '"sensor_data"' in line[:40]]
    assert len(samples) == 40
    for line in samples:
        sent = json.loads(line)
        frame = decode_frame(reading_of(line.encode()).frame)
        assert frame.gain == sent["as7341"]["gain"]  # the outer one, not meta's
        for name in ("distance", "reflectance", "amplitude", "ambient", "status"):
            flat = [value for row in sent["vl53l8ch"][f"{name}_matrix"] for value in row]
            for stored, original in zip(frame.planes[name].values(), flat, strict=True):
                assert stored == pytest.approx(original, abs=max(max(flat) * 1e-4, 1e-4))


@pytest.mark.parametrize("place", ["raw", "analysis"])
def test_matrices_are_found_where_firmwares_put_them(place: str) -> None:
    message = trimmed()
    tof = message["vl53l8ch"]
    tof[place] = {name: tof.pop(name) for name in list(tof) if name.endswith("_matrix")}
    assert reading_of(message).frame == reading_of(trimmed()).frame


def test_floats_and_integers_are_the_same_reading() -> None:
    tof = trimmed()["vl53l8ch"]["distance_matrix"]
    as_floats = trimmed(vl53l8ch__distance_matrix=[[float(value) for value in row] for row in tof])
    assert reading_of(as_floats).frame == reading_of(trimmed()).frame
    assert reading_of(trimmed(), Encoding.MSGPACK).frame == reading_of(trimmed()).frame


def test_a_message_without_type_is_a_sample() -> None:
    assert reading_of(trimmed(type=...)).sample_id == "LL-260202-4821-087"


def test_odd_but_storable_things_are_flagged() -> None:
    zeros = [[0] * 8] * 8
    assert flags_of(trimmed(vl53l8ch__status_matrix=...)) == ["status_unknown"]
    assert flags_of(trimmed(vl53l8ch__status_matrix=zeros)) == ["status_unknown"]
    assert flags_of(trimmed(vl53l8ch__ambient_matrix=None)) == ["missing_ambient"]
    assert flags_of(trimmed(vl53l8ch__reflectance_matrix=...)) == ["missing_reflectance"]
    assert flags_of(trimmed(vl53l8ch__distance_matrix=with_zone(19))) == ["distance_below_range"]
    assert flags_of(trimmed(fusion__final_grade="REJET - Qualité insuffisante")) == ["odd_claim"]
    assert flags_of(trimmed(fusion__final_grade="GRADE A")) == ["odd_claim"]
    assert flags_of(trimmed(fusion__is_compliant="yes")) == ["odd_claim"]
    assert flags_of(trimmed(eleveur={"nom": "x"})) == ["odd_text"]
    assert flags_of(trimmed(eleveur="x" * 129)) == ["odd_text"]
    assert flags_of(trimmed(as7341__gain=...)) == ["missing_gain"]
    assert flags_of(trimmed(vl53l8ch__defects="many")) == ["unreadable_defects"]


def test_the_lot_is_lot_abattage_else_lot_id_and_both_are_kept() -> None:
    alone = reading_of(trimmed(lot_abattage=...))
    assert (alone.lot, alone.lot_id) == ("272", "272")


@pytest.mark.parametrize(
    ("device_id", "site"),
    [
        ("ESP32_LL_01", "LL"),
        ("ESP32_DEMO_LS_01", "LS"),
        ("ESP32_DOCKER_MT_7", "MT"),
        ("ESP32-MT-1", "MT"),
        ("ESP32-A1B2C3D4", None),
        ("ESP32_ll_01", None),
        ("ESP32_LLL_01", None),
        ("ESP32", None),
        ("LL_ESP32_01", None),
    ],
)
def test_the_site_is_read_from_the_id_only_where_it_stands(device_id: str, site: str | None) -> None:
    assert site_in_id(device_id) == site


def test_a_sent_site_wins_and_a_bad_one_is_unknown_not_guessed() -> None:
    sent = reading_of(trimmed(site_code="MT"))
    assert resolve_site(sent.site_code, "LS", sent=sent.site_sent) == "MT"
    bad = reading_of(trimmed(site_code="Maubourguet"))
    assert resolve_site(bad.site_code, "LS", sent=bad.site_sent) is None
    unsent = reading_of(trimmed(site_code=...))
    assert resolve_site(unsent.site_code, "LS", sent=unsent.site_sent) == "LS"
    assert resolve_site(unsent.site_code, None, sent=unsent.site_sent) == "LL"


def test_naive_times_are_utc() -> None:
    assert parse_time("2026-02-02T08:15:30.250") == datetime(2026, 2, 2, 8, 15, 30, 250_000, UTC)
    assert parse_time("2026-02-02T10:15:30.25+02:00") == datetime(2026, 2, 2, 8, 15, 30, 250_000, UTC)


def test_a_clock_is_plausible_within_the_retention_and_five_minutes_ahead() -> None:
    now, keep = datetime(2026, 6, 1, tzinfo=UTC), timedelta(days=400)
    assert is_plausible(now - keep, now, keep)
    assert not is_plausible(now - keep - timedelta(microseconds=1), now, keep)
    assert is_plausible(now + timedelta(minutes=5), now, keep)
    assert not is_plausible(now + timedelta(minutes=5, microseconds=1), now, keep)


@pytest.mark.parametrize("length", [1, 31, 32, 64])
def test_the_lane_of_a_message_shows_in_its_first_bytes_in_both_encodings(length: int) -> None:
    message = {"type": "sensor_data", "device_id": "D" * length, "sample_id": "s"}
    for raw in (json.dumps(message).encode(), msgspec.msgpack.encode(message)):
        assert wire.glance_device(raw) == "D" * length
    assert wire.glance_device(b"\xa9device_id\xa3\xff\xfe\xff") == ""
