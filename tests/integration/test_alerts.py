"""Alerts in the transaction of the readings, and the watch, on a real database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from app.core.clock import iso
from app.core.errors import NotFoundError
from app.sqal import alerts
from app.sqal.alerts import AlertFilter
from app.sqal.devices import StateLimits
from app.sqal.watch import Watch, WatchSettings
from tests.integration.conftest import RETENTION, Bench, ManualClock
from tests.support import trimmed

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD, POOR, BAD = 0.9, 0.55, 0.2


def scored(bench: Bench, device: str, score: float, *, age_s: float = 0.0, **changes: Any) -> dict[str, Any]:
    """A message that the reported recipe grades with this score, and whose other indices raise nothing."""
    message = trimmed(
        device_id=device,
        sample_id=uuid4().hex,
        timestamp=iso(bench.clock.now() - timedelta(seconds=age_s)),
        fusion__tof_score=score,
        fusion__spectral_score=score,
        fusion__final_grade="A",
        fusion__is_compliant=None,
    )
    return message | changes


async def listed(bench: Bench, **wanted: Any) -> list[dict[str, Any]]:
    items, _ = await alerts.list_alerts(bench.connection, AlertFilter(**wanted), None, 200)
    return items


async def test_an_hour_of_rejects_is_one_alert_acknowledged_and_cleared_apart(bench: Bench) -> None:
    for _ in range(6):
        await bench.write(*(scored(bench, "D1", BAD) for _ in range(100)))
        bench.clock.time += timedelta(minutes=10)
    (alert,) = await listed(bench)
    assert (alert["rule"], alert["severity"], alert["state"], alert["device_id"]) == (
        "reject",
        "critical",
        "open",
        "D1",
    )
    assert (alert["occurrences"], alert["value"], alert["worst"], alert["site_code"]) == (600, BAD, BAD, "LL")
    known, now = await alerts.acknowledge(bench.connection, alert["id"], "me", "seen", bench.clock.now())
    again, later = await alerts.acknowledge(bench.connection, alert["id"], "you", None, bench.clock.now())
    assert (now, later, again["acknowledged_by"], again["comment"]) == (True, False, "me", "seen")
    assert known["state"] == "open"
    await bench.write(*(scored(bench, "D1", GOOD) for _ in range(9)))
    assert [one["state"] for one in await listed(bench)] == ["open"]
    await bench.write(scored(bench, "D1", GOOD), scored(bench, "D2", GOOD))
    (alert,) = await listed(bench)
    assert (alert["state"], alert["acknowledged"], alert["occurrences"]) == ("cleared", True, 600)
    await bench.write(scored(bench, "D1", BAD))
    assert [(one["state"], one["acknowledged"]) for one in await listed(bench)] == [("open", False), ("cleared", True)]
    with pytest.raises(NotFoundError):
        await alerts.acknowledge(bench.connection, uuid4(), "me", None, bench.clock.now())


async def test_one_group_can_open_clear_and_open_again(bench: Bench) -> None:
    scores = [BAD, *[GOOD] * 10, BAD, *[GOOD] * 10, BAD]
    start = bench.clock.now() - timedelta(seconds=100)
    group = [
        scored(bench, "D1", score, timestamp=iso(start + timedelta(seconds=number)))
        for number, score in enumerate(scores)
    ]
    await bench.write(*group)
    assert [one["state"] for one in await listed(bench, device_id="D1", rule="reject")] == [
        "open",
        "cleared",
        "cleared",
    ]
    assert [one["occurrences"] for one in await listed(bench)] == [1, 1, 1]


async def test_late_readings_are_counted_apart_and_duplicates_not_at_all(bench: Bench) -> None:
    await bench.write(*(scored(bench, "D1", BAD, age_s=301) for _ in range(5)))
    assert await listed(bench) == []
    bad = scored(bench, "D1", BAD)
    await bench.write(bad)
    await bench.write(bad, *(scored(bench, "D1", BAD, age_s=4_000) for _ in range(5)))
    await bench.write(*(scored(bench, "D1", GOOD, age_s=4_000) for _ in range(20)))
    (alert,) = await listed(bench)
    assert (alert["occurrences"], alert["late_occurrences"], alert["state"]) == (1, 5, "open")
    # A box whose clock is an hour behind, as its heartbeats show, is not late for that.
    await bench.connection.execute("INSERT INTO devices (device_id, clock_offset_s) VALUES ('D2', -3600)")
    await bench.write(scored(bench, "D2", BAD, age_s=3_600))
    # Neither is one whose clock is off by years.
    await bench.write(scored(bench, "D3", BAD, timestamp="2001-01-01T00:00:00Z"))
    assert {one["device_id"] for one in await listed(bench)} == {"D1", "D2", "D3"}


async def test_a_replay_from_quarantine_says_nothing_of_now(bench: Bench) -> None:
    await bench.store.write(bench.connection, [bench.work(scored(bench, "D1", BAD))], live=False)
    assert await listed(bench) == []


async def test_a_group_that_fails_leaves_no_alert(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: Any) -> None:
        raise asyncpg.DiskFullError

    with monkeypatch.context() as patched:
        patched.setattr("app.sqal.rollups.add", broken)
        with pytest.raises(asyncpg.DiskFullError):
            await bench.write(scored(bench, "D1", BAD))
    assert await listed(bench) == []


async def test_writers_on_the_same_devices_keep_one_alert_and_do_not_deadlock(bench: Bench, dsn: str) -> None:
    others = [Bench(await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})) for _ in range(2)]
    for other in others:
        await other.store.register_recipes(other.connection)

    async def write(who: Bench, turn: int) -> None:
        for number in range(20):
            names = [f"D{(place * (turn + 1) + number) % 7}" for place in range(7)]
            # Every third group is good, eleven times over: alerts clear while other writers raise them.
            score, times = (GOOD, 11) if number % 3 == 2 else (BAD, 1)
            await who.write(*(scored(who, name, score) for name in names for _ in range(times)))

    await asyncio.gather(*(write(who, turn) for turn, who in enumerate([bench, *others])))
    items = await listed(bench)
    open_ = [one["device_id"] for one in items if one["state"] == "open"]
    assert len(open_) == len(set(open_))
    assert sum(one["occurrences"] for one in items) == 3 * 14 * 7
    assert all(one["occurrences"] for one in items)
    for other in others:
        await other.connection.close()


async def test_cleared_alerts_are_kept_as_long_as_samples(bench: Bench) -> None:
    await bench.write(scored(bench, "D1", BAD), *(scored(bench, "D2", POOR) for _ in range(3)))
    await bench.write(*(scored(bench, "D2", GOOD) for _ in range(10)))
    bench.clock.time += RETENTION - timedelta(days=1)
    await bench.housekeeper.keep(bench.connection)
    assert [one["state"] for one in await listed(bench)] == ["cleared", "open"]
    bench.clock.time += timedelta(days=2)
    await bench.housekeeper.keep(bench.connection)
    assert [one["state"] for one in await listed(bench)] == ["open"]


async def test_alerts_are_listed_by_what_is_asked(bench: Bench) -> None:
    await bench.write(scored(bench, "D1", BAD, site_code="LS"))
    await bench.write(*(scored(bench, "D2", POOR) for _ in range(3)), *(scored(bench, "D2", GOOD) for _ in range(10)))

    async def rules(**wanted: Any) -> list[str]:
        return [one["rule"] for one in await listed(bench, **wanted)]

    assert await rules() == ["low_score", "reject"]
    assert await rules(device_id="D1") == await rules(site_code="LS") == await rules(severity="critical") == ["reject"]
    assert await rules(open=True) == ["reject"]
    assert await rules(open=False) == await rules(rule="low_score") == ["low_score"]
    assert await rules(acknowledged=True) == []
    first, more = await alerts.list_alerts(bench.connection, AlertFilter(), None, 1)
    second, end = await alerts.list_alerts(bench.connection, AlertFilter(), more, 1)
    assert ([one["rule"] for one in first + second], end) == (["low_score", "reject"], None)


class Looking:
    """A watch on the bench's clock, and what it told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told: list[tuple[str, str]] = []
        self.watch = self.another(bench.clock)

    def another(self, clock: ManualClock) -> Watch:
        return Watch(clock, StateLimits(75, 300), WatchSettings(quarantine_rows=5), self.note)

    def note(self, changed: Sequence[dict[str, Any]]) -> None:
        self.told += [(one["rule"], one["state"]) for one in changed]

    async def after(self, seconds: float) -> list[tuple[str, str]]:
        """What is told, looking every five seconds."""
        self.told = []
        for _ in range(int(seconds / 5)):
            self.bench.clock.time += timedelta(seconds=5)
            await self.watch.look(self.bench.connection)
        return self.told

    async def hear(self, names: Sequence[str], *, offset_s: float | None = None) -> None:
        await self.bench.connection.execute(
            "INSERT INTO devices (device_id, last_seen, clock_offset_s) SELECT name, $2, $3 FROM unnest($1::text[]) name"
            " ON CONFLICT (device_id) DO UPDATE SET last_seen = $2, clock_offset_s = $3",
            names, self.bench.clock.now(), offset_s,
        )  # fmt: skip


async def test_fifty_devices_cut_off_are_one_alert_naming_them(bench: Bench) -> None:
    looking = Looking(bench)
    names = [f"ESP32_LL_{number:02d}" for number in range(50)]
    await looking.hear([*names, "ESP32_MT_01"])
    assert await looking.after(250) == []
    await looking.hear(["ESP32_MT_01"])
    assert await looking.after(60) == [("site_offline", "open")]
    (alert,) = await listed(bench, open=True)
    assert (alert["devices"], alert["site_code"], alert["severity"]) == (names, "LL", "critical")
    assert [one["id"] for one in await listed(bench, device_id="ESP32_LL_07")] == [alert["id"]]
    assert await listed(bench, site_code="MT") == []
    await looking.hear([*names, "ESP32_MT_01"])
    assert await looking.after(5) == [("site_offline", "cleared")]


async def test_after_a_start_or_an_outage_everyone_gets_the_full_time_again(bench: Bench) -> None:
    looking = Looking(bench)
    await looking.hear(["ESP32_LL_01", "ESP32_LL_02", "ESP32_MT_01"])
    await looking.after(250)
    await looking.hear(["ESP32_MT_01"])
    assert await looking.after(60) == [("site_offline", "open")]
    bench.clock.time += timedelta(hours=1)
    looking.watch = looking.another(bench.clock)  # another process: nobody was heard for an hour
    assert await looking.after(295) == []  # what was open stays open, nothing is new
    assert [one["devices"] for one in await listed(bench, open=True)] == [["ESP32_LL_01", "ESP32_LL_02"]]
    assert await looking.after(10) == [("site_offline", "cleared"), ("all_offline", "open")]
    assert [one["rule"] for one in await listed(bench, open=True, site_code="LL")] == ["all_offline"]
    await bench.connection.execute("UPDATE devices SET in_service = false")
    assert await looking.after(5) == [("all_offline", "cleared")]


async def test_a_clock_that_is_off_and_a_growing_quarantine_are_alerts(bench: Bench) -> None:
    looking = Looking(bench)
    await looking.hear(["ESP32_LL_01"], offset_s=-86_400.0)
    assert await looking.after(5) == [("clock_off", "open")]
    (alert,) = await listed(bench)
    assert (alert["value"], alert["device_id"]) == (-86_400.0, "ESP32_LL_01")
    await looking.hear(["ESP32_LL_01"], offset_s=0.2)
    assert await looking.after(5) == [("clock_off", "cleared")]
    await bench.write(*(trimmed(sample_id=str(number), vl53l8ch=None) for number in range(4)))
    assert await looking.after(5) == []
    await bench.write(trimmed(sample_id="5", vl53l8ch=None))
    assert await looking.after(5) == [("quarantine_growing", "open")]
    (alert,) = await listed(bench, rule="quarantine_growing")
    assert (alert["value"], alert["devices"]) == (5.0, ["ESP32_LL_01"])
    await looking.hear(["ESP32_LL_01"])
    bench.clock.time += timedelta(seconds=600)
    await looking.hear(["ESP32_LL_01"])
    assert await looking.after(5) == [("quarantine_growing", "cleared")]


async def test_one_process_watches_at_a_time(bench: Bench, dsn: str) -> None:
    looking = Looking(bench)
    other = await asyncpg.connect(dsn)
    await looking.hear(["ESP32_LL_01"], offset_s=1e6)
    async with other.transaction():
        await looking.watch.look(other)  # type: ignore[arg-type]
        assert await looking.after(5) == [("clock_off", "open")] * 0
    assert [one["rule"] for one in await listed(bench, open=True)] == ["clock_off"]
    await other.close()
