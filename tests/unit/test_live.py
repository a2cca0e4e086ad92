"""The live feed: complete for those who keep up, conflated for those who do not, bounded for all."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import SystemClock
from app.core.server import text_frame
from app.sqal import live
from app.sqal.live import LiveFeed, LiveFilter
from app.sqal.live_bus import MAX_PAYLOAD, pack, unpack
from app.sqal.live_session import CommandError, read_filters
from app.sqal.store import SAMPLE_COLUMNS

NOW = datetime(2026, 2, 2, 8, tzinfo=UTC)


def row(device: str = "D1", number: int = 0, **changes: Any) -> dict[str, Any]:
    sample = dict.fromkeys(SAMPLE_COLUMNS) | {
        "device_id": device, "sample_id": str(number), "grade": "A", "score": 800_000, "site_code": "LL", "flags": 0,
        "bucket_time": NOW + timedelta(seconds=number), "device_time": NOW, "received_at": NOW, "recipe": "r", "species": None,
    }  # fmt: skip
    return sample | changes


def names(entries: list[live.Entry]) -> list[tuple[str | None, str]]:
    return [(entry.device_id, json.loads(entry.message.payload)["data"]["sample_id"]) for entry in entries]


def alert(number: int) -> dict[str, Any]:
    return {"id": number, "device_id": "D1", "site_code": "LL", "sample_id": f"alert {number}", "devices": []}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=8))
def test_a_reader_gets_all_or_the_newest_of_each_device(groups: list[tuple[int, int]]) -> None:
    feed = LiveFeed(SystemClock())
    reader = feed.subscribe(lambda: None)
    number = 0
    written: list[tuple[str, str]] = []
    for device, count in groups:
        feed.note([row(f"D{device}", number + place) for place in range(count)])
        written += [(f"D{device}", str(number + place)) for place in range(count)]
        number += count
    entries, complete = reader.take()
    assert complete == (len(written) <= live.LOG_ENTRIES)
    assert names(entries) == (written if complete else sorted(dict(written).items(), key=lambda one: int(one[1])))
    assert reader.take() == ([], True)
    assert not reader.waits


def test_a_conflated_reader_misses_no_alert_and_an_old_reading_is_no_newest_state() -> None:
    feed = LiveFeed(SystemClock())
    reader = feed.subscribe(lambda: None)
    feed.note([row("D1", 5_000)], [alert(1)])
    feed.note([row("D1", number) for number in range(live.LOG_ENTRIES)], [alert(2)])
    entries, complete = reader.take()
    assert not complete
    assert names(entries) == [("D1", "5000"), ("D1", "alert 1"), ("D1", "alert 2")]
    latest = feed.latest()
    assert latest is not None
    assert names([latest]) == [("D1", "5000")]


def test_the_feed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "DEVICES", 10)
    feed = LiveFeed(SystemClock())
    reader = feed.subscribe(lambda: None)
    feed.note((row(f"D{number}", number) for number in range(2_000)), (alert(number) for number in range(1_000)))
    entries, _ = reader.take()
    assert len([entry for entry in entries if entry.kind == live.SAMPLE]) == 10
    assert len([entry for entry in entries if entry.kind == live.ALERT]) == live.ALERTS


def test_filters_narrow_samples_and_alerts() -> None:
    feed = LiveFeed(SystemClock())

    def taken(wanted: LiveFilter | None) -> list[tuple[str | None, str]]:
        reader = feed.subscribe(lambda: None)
        reader.wanted = wanted
        grades = ("A+", "B", "REJECT", "NOT_GRADABLE")
        feed.note(
            [row("D1", number, grade=grade) for number, grade in enumerate(grades)] + [row("D2", 9, site_code="MT")],
            [alert(1)],
        )
        return names(reader.take()[0])

    assert len(taken(live.EVERYTHING)) == 6
    assert taken(None) == []
    assert taken(LiveFilter(device_id="D2")) == taken(LiveFilter(site_code="MT")) == [("D2", "9")]
    assert taken(LiveFilter(min_grade="B")) == [("D1", "0"), ("D1", "1"), ("D2", "9"), ("D1", "alert 1")]
    assert ("D1", "2") in taken(LiveFilter(min_grade="REJECT"))
    assert ("D1", "3") not in taken(LiveFilter(min_grade="REJECT"))


def test_an_alert_of_all_sites_reaches_each_and_one_that_lists_a_device_reaches_it() -> None:
    feed = LiveFeed(SystemClock())
    everywhere = alert(1) | {"device_id": None, "site_code": None, "devices": ["D1", "D2"]}
    for wanted, seen in (
        (LiveFilter(site_code="MT"), True), (LiveFilter(device_id="D2"), True), (LiveFilter(device_id="D3"), False),
        (LiveFilter(device_id="D1", site_code="MT", min_grade="A+"), True),
    ):  # fmt: skip
        reader = feed.subscribe(lambda: None)
        reader.wanted = wanted
        feed.note(alerts=[everywhere])
        entries, _ = reader.take()
        assert bool(entries) is seen
        remote = LiveFeed(SystemClock())
        there = remote.subscribe(lambda: None)
        there.wanted = wanted
        remote.note_remote(feed.since(feed.number - 1)[0][0].message.payload)
        assert bool(there.take()[0]) is seen


@pytest.mark.parametrize(
    "filters",
    [
        [], "x", 7, {"device_id": ["D1"]}, {"device_id": {}}, {"device_id": ""}, {"device_id": "x" * 129},
        {"min_grade": "Z"}, {"min_grade": "NOT_GRADABLE"}, {"min_grade": ["A"]}, {"site_code": 3}, {"devices": "D1"},
    ],
)  # fmt: skip
def test_a_malformed_filter_is_refused_with_a_code(filters: Any) -> None:
    with pytest.raises(CommandError) as raised:
        read_filters(filters)
    assert raised.value.code == "invalid_filter"


def test_filters_may_be_left_out_or_null() -> None:
    assert read_filters(None) == read_filters({}) == read_filters({"device_id": None}) == live.EVERYTHING


async def test_readers_are_woken_less_often_when_sending_costs_much(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = LiveFeed(SystemClock())
    woken: list[float] = []
    seen: list[float] = []

    def look() -> float:
        seen.append(time.perf_counter())
        return seen[-1]

    def wake() -> None:
        woken.append(seen[-1])  # when its round began: it may be called later
        feed.spend(0.02)  # at a share of 3 %: worth 0.67 s
        reader.take()

    monkeypatch.setattr(live, "time", SimpleNamespace(perf_counter=look))
    reader = feed.subscribe(wake)
    task = asyncio.create_task(feed.run())
    while len(woken) < 3:
        feed.note([row()])
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert all(later - earlier >= 0.66 for earlier, later in pairwise(woken))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_is_one_that_a_client_reads(size: int) -> None:
    from websockets.frames import Frame, Opcode
    from websockets.streams import StreamReader

    reader = StreamReader()
    reader.feed_data(text_frame(b"x" * size))
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    frame = done.value.value
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, b"x" * size)


@given(st.lists(st.binary(min_size=1, max_size=3_000).map(lambda raw: raw.hex().encode()), max_size=40))
def test_what_goes_to_other_processes_fits_and_comes_back(payloads: list[bytes]) -> None:
    packed = list(pack(payloads))
    assert all(len(text) <= MAX_PAYLOAD for text in packed)
    assert [message for text in packed for message in unpack(text)] == payloads


def test_a_message_too_large_for_a_notification_is_left_out_and_the_others_go() -> None:
    import random

    large = random.Random(1).randbytes(20_000).hex().encode()
    assert [message for text in pack([b"a", large, b"b"]) for message in unpack(text)] == [b"a", b"b"]
    with pytest.raises(ValueError, match="base64"):
        unpack("*")
