"""Alerts become bugs on a real database: once each, whatever happens in between."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.bugs import backlinks, rule_settings, tracker
from app.bugs.affected import MOST, affected
from app.bugs.audience import Audience
from app.bugs.telemetry import BugsFromTelemetry
from app.core.clock import iso
from app.core.errors import NotFoundError
from app.core.migrations import migrate
from app.sqal import sightings
from app.sqal.alert_rules import AlertRules, AlertSettings
from app.sqal.sightings import Sightings
from tests.integration.conftest import Bench
from tests.support import trimmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BAD, POOR, GOOD = 0.2, 0.55, 0.9
EMPTY = """
    SET session_replication_role = replica;  -- the history is not emptied else
    TRUNCATE bugs, bug_counts, bug_rules, alerts, samples, rollups, devices CASCADE;
    RESET session_replication_role
"""


class Lender:
    """Lends one connection, as the pool does."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self, _deadline_s: float | None = None) -> AsyncIterator[Any]:
        yield self._connection


class Dying:
    """A connection that dies before its n-th statement."""

    def __init__(self, connection: Any, statements: int) -> None:
        self._connection = connection
        self._left = statements

    def __getattr__(self, name: str) -> Any:
        if name in ("execute", "fetch", "fetchrow", "fetchval"):
            self._left -= 1
            if self._left < 0:
                raise asyncpg.AdminShutdownError
        return getattr(self._connection, name)


class Scene:
    """Readings, and a tracker that looks at what alerts became of them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.connection = bench.connection
        self.telemetry = self.another()

    def another(self) -> BugsFromTelemetry:
        """The task as after a restart."""
        alerts = Sightings(AlertRules(AlertSettings()), AlertSettings().late_s)
        return BugsFromTelemetry(self.bench.clock, alerts, every_s=5, overlap_s=315)

    async def read(self, device: str, score: float, *, times: int = 1, **changes: Any) -> None:
        told = {"fusion__tof_score": score, "fusion__spectral_score": score, "fusion__final_grade": "A"}
        told |= {"fusion__is_compliant": None, "device_id": device, "timestamp": iso(self.bench.clock.now())}
        await self.bench.write(*(trimmed(**told | {"sample_id": uuid4().hex} | changes) for _ in range(times)))

    async def look(self, telemetry: BugsFromTelemetry | None = None) -> None:
        self.bench.clock.time += timedelta(seconds=5)
        await (telemetry or self.telemetry).look(Lender(self.connection))  # type: ignore[arg-type]

    async def bugs(self) -> list[Any]:
        found: list[Any] = await self.connection.fetch("SELECT * FROM bugs ORDER BY number")
        return found

    async def change(self, bug_id: UUID, **changes: Any) -> None:
        self.bench.clock.time += timedelta(seconds=1)
        async with self.connection.transaction():
            await tracker.change_bug(self.connection, bug_id, changes, Audience.STAFF, "me", self.bench.clock.now())
        self.bench.clock.time += timedelta(seconds=1)

    async def set_rule(self, rule: str, **said: Any) -> None:
        self.bench.clock.time += timedelta(seconds=1)
        async with self.connection.transaction():
            await rule_settings.set_rule(self.connection, rule, said, "me", self.bench.clock.now())
        self.bench.clock.time += timedelta(seconds=1)

    async def events(self, bug_id: UUID, kind: str) -> int:
        found: int = await self.connection.fetchval(
            "SELECT count(*) FROM bug_events WHERE bug_id = $1 AND kind = $2", bug_id, kind
        )
        return found

    async def alert(self, rule: str, subject: str, device_id: str | None = None, **more: Any) -> UUID:
        """One that the watch opens."""
        row = {"devices": [], "site_code": None, "severity": "warning"} | more
        made: UUID = await self.connection.fetchval(
            "INSERT INTO alerts (id, opened_at, last_at, occurrences, late_occurrences, clear_streak, rule, severity,"
            " subject, device_id, site_code, devices) VALUES ($1, $2, $2, 1, 0, 0, $3, $4, $5, $6, $7, $8) RETURNING id",
            uuid4(), self.bench.clock.now(), rule, row["severity"], subject, device_id, row["site_code"], row["devices"],
        )  # fmt: skip
        return made

    async def clear(self, alert_id: UUID) -> None:
        self.bench.clock.time += timedelta(seconds=1)
        await self.connection.execute(
            "UPDATE alerts SET cleared_at = $2 WHERE id = $1", alert_id, self.bench.clock.now()
        )


@pytest.fixture(scope="module")
def dsn(postgres_dsn: str) -> Iterator[str]:
    """One database for all: to make one takes longer than most of these tests."""
    name = f"test_{uuid4().hex[:12]}"
    made = urlunsplit(urlsplit(postgres_dsn)._replace(path=f"/{name}"))

    async def administer(statement: str) -> None:
        admin = await asyncpg.connect(postgres_dsn)
        await admin.execute(statement)
        await admin.close()

    asyncio.run(administer(f"CREATE DATABASE {name}"))
    asyncio.run(migrate(made))
    yield made
    asyncio.run(administer(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def scene(bench: Bench) -> Scene:
    await bench.connection.execute(EMPTY)
    return Scene(bench)


async def test_an_alert_opens_one_bug_and_is_counted_in_it(scene: Scene) -> None:
    await scene.read("ESP32_LL_01", BAD, times=3)
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["title"], bug["occurrences"]) == ("Device ESP32_LL_01: reject (site LL)", 3)
    assert (bug["origin"], bug["reporter_id"], bug["reported_by"]) == ("telemetry", "telemetry", "telemetry")
    assert (bug["severity"], bug["priority"], bug["category"]) == ("critical", "urgent", "quality")
    assert (bug["device_id"], bug["firmware_version"], bug["site_code"]) == ("ESP32_LL_01", "2.3.1", "LL")
    assert bug["tags"] == ["telemetry", "reject"]
    await scene.look()
    await scene.read("ESP32_LL_01", BAD, times=2)
    await scene.look()
    await scene.look(scene.another())
    (again,) = await scene.bugs()
    assert (again["occurrences"], again["version"]) == (5, bug["version"])
    assert again["updated_at"] > bug["updated_at"]
    assert (await scene.events(bug["id"], "created"), await scene.events(bug["id"], "seen")) == (1, 1)


async def test_an_alert_that_opens_again_is_the_same_bug_and_an_event(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    await scene.read("D1", BAD)
    await scene.read("D1", GOOD, times=10)
    await scene.read("D1", BAD, times=2)
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["occurrences"], await scene.events(bug["id"], "seen")) == (4, 2)


async def test_devices_sites_and_rules_have_bugs_of_their_own(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.read("D2", BAD)
    await scene.read("D3", BAD, site_code="MT")
    await scene.alert("site_offline", "LL", site_code="LL", devices=["D1", "D2"], severity="critical")
    await scene.alert("quarantine_growing", "quarantine", devices=["D1"])
    await scene.look()
    assert {bug["title"]: bug["category"] for bug in await scene.bugs()} == {
        "Device D1: reject (site LL)": "quality",
        "Device D2: reject (site LL)": "quality",
        "Device D3: reject (site MT)": "quality",
        "Site LL: site_offline": "hardware",
        "quarantine: quarantine_growing": "backend",
    }


async def test_by_firmware_the_devices_of_one_firmware_share_a_bug(scene: Scene) -> None:
    await scene.set_rule("reject", enabled=True, group_by="firmware", severity="low", priority="low")
    await scene.read("D1", BAD, times=2, firmware_version="v2.4")
    await scene.read("D2", BAD, firmware_version="2.4.0")
    await scene.read("D3", BAD, firmware_version="2.5.0")
    await scene.look()
    first, second = await scene.bugs()
    assert (first["title"], first["occurrences"], first["device_id"]) == ("Firmware 2.4.0: reject (site LL)", 3, None)
    assert (first["severity"], first["priority"], second["title"]) == ("low", "low", "Firmware 2.5.0: reject (site LL)")
    met = await affected(scene.connection, first["id"])
    assert {one["value"]: one["times"] for one in met["devices"]} == {"D1": 2, "D2": 1}
    # A device that is brought up to date while its alert is open goes on in the other bug.
    await scene.read("D2", BAD, firmware_version="2.5.0")
    await scene.look()
    assert [bug["occurrences"] for bug in await scene.bugs()] == [3, 2]


async def test_what_was_met_is_counted_with_its_lot_and_sample_and_bounded(scene: Scene) -> None:
    await scene.read("D1", BAD, times=2)
    await scene.look()
    for number in range(3):
        await scene.read("D1", BAD, sample_id=f"s{number}", firmware_version="2.3.2")
        await scene.look()
    (bug,) = await scene.bugs()
    met = await affected(scene.connection, bug["id"])
    assert [(one["value"], one["times"]) for one in met["firmwares"]] == [("2.3.2", 3), ("2.3.1", 2)]
    assert [one["value"] for one in met["samples"]][:3] == ["D1/s2", "D1/s1", "D1/s0"]
    assert [(one["value"], one["times"]) for one in met["lots"]] == [("LL-260202-4821", 5)]
    assert [(one["rule"], one["subject"], one["site_code"]) for one in met["fingerprints"]] == [("reject", "D1", "LL")]
    await scene.connection.execute(
        "INSERT INTO bug_affected SELECT $1, 'sample', 'old' || n, 1, first_at, first_at"
        " FROM generate_series(1, 1100) n, (SELECT min(first_at) - interval '1 day' AS first_at FROM bug_affected) a",
        bug["id"],
    )
    await scene.read("D1", BAD, sample_id="newest")
    await scene.look()
    met = await affected(scene.connection, bug["id"])
    assert len(met["samples"]) == MOST
    assert met["samples"][0]["value"] == "D1/newest"
    assert len(met["devices"]) == 1
    with pytest.raises(NotFoundError):
        await affected(scene.connection, uuid4())


async def test_a_fixed_bug_comes_back_on_firmware_with_the_fix_alone(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    (bug,) = await scene.bugs()
    await scene.read("D1", BAD)  # not looked at before the resolution
    await scene.change(bug["id"], status="resolved", resolution="new lens", fixed_in_firmware="2.3.2")
    await scene.look()
    await scene.read("D1", BAD, firmware_version="2.3.2-rc1")
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["status"], bug["occurrences"], bug["reopened"]) == ("resolved", 3, 0)
    await scene.read("D1", BAD, firmware_version="v2.10")
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["status"], bug["occurrences"], bug["reopened"], bug["resolved_at"]) == ("reopened", 4, 1, None)
    told = await scene.connection.fetch("SELECT actor, kind, field, new FROM bug_events ORDER BY at, id")
    assert ("telemetry", "changed", "status", '"reopened"') in [tuple(one) for one in told]
    assert await scene.events(bug["id"], "seen") == 2  # the alert was open all along: the second tells why
    await scene.read("D1", BAD, firmware_version="v2.10")
    await scene.look()
    assert [(one["status"], one["occurrences"], one["reopened"]) for one in await scene.bugs()] == [("reopened", 5, 1)]


async def test_without_a_fix_that_is_named_any_later_occurrence_is_a_regression(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    (bug,) = await scene.bugs()
    await scene.change(bug["id"], status="closed")
    await scene.look()
    assert [one["status"] for one in await scene.bugs()] == ["closed"]
    await scene.read("D1", BAD)
    await scene.look()
    assert [one["status"] for one in await scene.bugs()] == ["reopened"]


@pytest.mark.parametrize("status", ["wont_fix", "duplicate"])
async def test_what_nobody_will_fix_is_counted_and_stays(scene: Scene, status: str) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    (bug,) = await scene.bugs()
    await scene.change(bug["id"], status=status)
    await scene.read("D1", BAD)
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [(status, 2)]


async def test_silence_that_outlasts_a_resolution_is_no_new_one(scene: Scene) -> None:
    await scene.connection.execute("INSERT INTO devices (device_id, firmware_version) VALUES ('D1', '2.4.0')")
    first = await scene.alert("device_offline", "D1", "D1", devices=["D1"])
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["firmware_version"], bug["category"], bug["severity"]) == ("2.4.0", "hardware", "medium")
    await scene.change(bug["id"], status="resolved", resolution="cable", fixed_in_firmware="2.4.0")
    # The watch says every five seconds that it is still so.
    await scene.connection.execute("UPDATE alerts SET last_at = $1", scene.bench.clock.now())
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [("resolved", 1)]
    await scene.clear(first)
    second = await scene.alert("device_offline", "D1", "D1", devices=["D1"])
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [("reopened", 2)]
    # One that opened just before a resolution, and was not looked at until after.
    await scene.clear(second)
    await scene.alert("device_offline", "D1", "D1", devices=["D1"])
    await scene.change(bug["id"], status="resolved", resolution="cable")
    await scene.connection.execute("UPDATE alerts SET last_at = $1", scene.bench.clock.now())
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [("resolved", 3)]


async def test_what_a_rule_saw_while_it_was_off_is_never_counted(scene: Scene) -> None:
    await scene.read("D1", POOR, times=2)
    await scene.look()
    await scene.read("D1", GOOD, times=10)
    await scene.read("D2", POOR, times=2)  # stays open
    await scene.set_rule("low_score", enabled=True)
    await scene.look()
    assert await scene.bugs() == []
    await scene.set_rule("low_score", enabled=True, severity="high")
    await scene.read("D2", POOR, times=3)
    await scene.look()
    (bug,) = await scene.bugs()
    assert (bug["title"], bug["severity"], bug["occurrences"]) == ("Device D2: low_score (site LL)", "high", 3)
    await scene.set_rule("low_score", enabled=False)
    await scene.read("D2", POOR, times=4)
    await scene.look()
    await scene.set_rule("low_score", enabled=True)
    await scene.read("D2", POOR)
    await scene.look(scene.another())
    assert [one["occurrences"] for one in await scene.bugs()] == [4]
    with pytest.raises(NotFoundError):
        await scene.set_rule("no_such_rule", enabled=True)


async def test_another_severity_of_a_rule_passes_over_nothing(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.set_rule("reject", enabled=True, severity="low")
    await scene.look()
    assert [(one["severity"], one["occurrences"]) for one in await scene.bugs()] == [("low", 1)]


async def test_a_process_that_dies_at_any_statement_loses_and_doubles_nothing(scene: Scene) -> None:
    died = 0
    for statements in range(100):
        name = f"D{statements}"
        await scene.read(name, BAD, times=2)
        scene.bench.clock.time += timedelta(seconds=5)
        try:
            await scene.another().look(Lender(Dying(scene.connection, statements)))  # type: ignore[arg-type]
        except asyncpg.AdminShutdownError:
            died += 1
        else:
            break
        await scene.look(scene.another())
        (bug,) = (await scene.bugs())[-1:]
        assert (bug["device_id"], bug["occurrences"]) == (name, 2)
        assert (await scene.events(bug["id"], "created"), await scene.events(bug["id"], "seen")) == (1, 1)
        assert [one["times"] for one in (await affected(scene.connection, bug["id"]))["devices"]] == [2]
    assert 10 < died < 30
    assert len(await scene.bugs()) == died + 1
    assert await scene.connection.fetchval("SELECT sum(bugs) FROM bug_counts") == died + 1


async def test_an_alert_that_was_cleared_while_nobody_looked_is_counted(scene: Scene) -> None:
    await scene.read("D1", BAD, times=2)
    await scene.read("D1", GOOD, times=10)
    scene.bench.clock.time += timedelta(hours=20)
    await scene.look(scene.another())
    assert [one["occurrences"] for one in await scene.bugs()] == [2]
    await scene.read("D2", BAD)
    await scene.read("D2", GOOD, times=10)
    scene.bench.clock.time += timedelta(days=2)
    await scene.look(scene.another())
    assert len(await scene.bugs()) == 1  # what was over long before is no news


async def test_processes_that_look_at_once_count_once(scene: Scene, dsn: str) -> None:
    others = [await asyncpg.connect(dsn, server_settings={"timezone": "UTC"}) for _ in range(3)]
    done = asyncio.Event()

    async def keep_looking(connection: Any) -> None:
        telemetry = scene.another()
        while not done.is_set():
            await telemetry.look(Lender(connection))  # type: ignore[arg-type]

    lookers = [asyncio.create_task(keep_looking(other)) for other in others]
    for _ in range(8):
        for device in ("D1", "D2", "D3"):
            await scene.read(device, BAD, times=2)
    done.set()
    await asyncio.gather(*lookers)
    await scene.look()
    assert [one["occurrences"] for one in await scene.bugs()] == [16, 16, 16]
    for other in others:
        await asyncio.wait_for(other.close(), 20)


async def test_thousands_of_cleared_alerts_are_not_read_again(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO alerts (id, opened_at, last_at, cleared_at, occurrences, late_occurrences, clear_streak, rule,"
        " severity, subject, devices) SELECT gen_random_uuid(), at, at, at, 1, 0, 0, 'reject', 'critical', 'D', '{}'"
        " FROM (SELECT $1::timestamptz - n * interval '5 minutes' AS at FROM generate_series(1, 30000) n) times",
        scene.bench.clock.now() - timedelta(days=2),
    )
    await scene.connection.execute("ANALYZE alerts")
    since = scene.bench.clock.now() - timedelta(minutes=6)
    plan = "\n".join(
        record[0] for record in await scene.connection.fetch(f"EXPLAIN {sightings.TOUCHED}", since, None, 500)
    )
    assert "alerts_by_clearing" in plan
    assert "Seq Scan" not in plan
    await scene.look()
    assert await scene.bugs() == []


async def test_more_alerts_than_a_page_are_all_counted(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO alerts (id, opened_at, last_at, occurrences, late_occurrences, clear_streak, rule, severity,"
        " subject, device_id, devices) SELECT gen_random_uuid(), $1, $1, 1, 0, 0, 'low_score', 'warning', 'D' || n,"
        " 'D' || n, '{}' FROM generate_series(1, 1100) n",
        scene.bench.clock.now(),
    )
    await scene.look()
    assert (
        await scene.connection.fetchval("SELECT count(*) FROM bug_alerts WHERE bug_id IS NULL AND counted = 1") == 1100
    )


async def of_kind(scene: Scene, bug_id: UUID, kind: str) -> dict[str, int]:
    return {one["value"]: one["times"] for one in (await affected(scene.connection, bug_id))[kind]}


async def test_each_reading_between_two_looks_counts_as_its_own_lot_firmware_and_sample(scene: Scene) -> None:
    for number in range(20):
        told: dict[str, Any] = {"firmware_version": f"2.{number % 5}.0", "sample_id": f"s{number}"}
        await scene.read("D1", BAD, **told, lot_abattage=f"L{number % 5}")
        await scene.read("D1", GOOD, lot_abattage="good")
    await scene.read("D2", BAD, lot_abattage="another's")
    await scene.look()
    bug = (await scene.bugs())[0]
    assert bug["occurrences"] == 20
    assert await of_kind(scene, bug["id"], "firmwares") == {f"2.{number}.0": 4 for number in range(5)}
    assert await of_kind(scene, bug["id"], "lots") == {f"L{number}": 4 for number in range(5)}
    assert await of_kind(scene, bug["id"], "samples") == {f"D1/s{number}": 1 for number in range(20)}
    assert await of_kind(scene, bug["id"], "devices") == {"D1": 20}
    await scene.read("D1", BAD, firmware_version="2.9.0", sample_id="later")
    await scene.look()
    counts = await of_kind(scene, bug["id"], "firmwares")
    assert (counts.pop("2.9.0"), sum(counts.values())) == (1, 20)


async def test_what_came_late_or_with_a_wrong_clock_does_not_upset_the_counts(scene: Scene) -> None:
    await scene.read("D1", BAD, firmware_version="2.0.0")
    late = iso(scene.bench.clock.now() - timedelta(hours=1))
    await scene.read("D1", BAD, times=3, firmware_version="1.0.0", timestamp=late)
    await scene.read("D1", BAD, times=2, firmware_version="3.0.0", timestamp="2001-01-01T00:00:00Z")
    await scene.read("D1", POOR, firmware_version="4.0.0")
    await scene.look()
    (bug,) = await scene.bugs()
    assert bug["occurrences"] == 3
    assert await of_kind(scene, bug["id"], "firmwares") == {"2.0.0": 1, "3.0.0": 2}
    # A device whose clock is known to run behind is not late for that.
    await scene.connection.execute("UPDATE devices SET clock_offset_s = -3600")
    await scene.read("D1", BAD, times=2, firmware_version="5.0.0", timestamp=late)
    await scene.look()
    assert (await scene.bugs())[0]["occurrences"] == 5
    assert (await of_kind(scene, bug["id"], "firmwares"))["5.0.0"] == 2


async def test_of_more_readings_than_are_looked_at_the_rest_goes_by_the_last(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "MOST_READINGS", 4)
    for number in range(10):
        await scene.read("D1", BAD, firmware_version=f"2.{number}.0")
        scene.bench.clock.time += timedelta(seconds=1)
    await scene.look()
    (bug,) = await scene.bugs()
    assert bug["occurrences"] == 10
    assert await of_kind(scene, bug["id"], "firmwares") == {"2.6.0": 1, "2.7.0": 1, "2.8.0": 1, "2.9.0": 7}
    assert len(await of_kind(scene, bug["id"], "samples")) == 4


async def test_readings_are_found_by_the_device_and_the_time(scene: Scene) -> None:
    now = scene.bench.clock.now()
    before = now - timedelta(hours=1)
    await scene.connection.execute("SET enable_seqscan = off")
    plan = "\n".join(
        record[0]
        for record in await scene.connection.fetch(
            f"EXPLAIN {sightings.READINGS}", "D1", before, now, before, now, 2000
        )
    )
    await scene.connection.execute("RESET enable_seqscan")
    assert "Seq Scan on samples" not in plan
    scans = plan.count("using samples_")
    assert scans > 0
    assert plan.count("Index Cond: ((device_id = d.device_id) AND (bucket_time <=") == scans, plan


async def test_a_bug_comes_back_by_any_reading_between_two_looks_not_by_the_last_alone(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    (bug,) = await scene.bugs()
    await scene.read("D1", BAD, firmware_version="2.4.0")  # before the resolution, and not looked at
    await scene.change(bug["id"], status="resolved", resolution="lens", fixed_in_firmware="2.4.0")
    await scene.read("D1", BAD, firmware_version="2.3.9")
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [("resolved", 3)]
    await scene.read("D1", BAD, firmware_version="2.4.0")
    scene.bench.clock.time += timedelta(seconds=1)
    await scene.read("D1", BAD, firmware_version="2.3.9")
    await scene.look()
    assert [(one["status"], one["occurrences"]) for one in await scene.bugs()] == [("reopened", 5)]
    told = await scene.connection.fetchval(
        "SELECT new::jsonb ->> 'firmwareVersion' FROM bug_events WHERE kind = 'seen' ORDER BY at DESC, id DESC LIMIT 1"
    )
    assert told == "2.4.0"


async def test_by_firmware_readings_between_two_looks_are_each_firmwares(scene: Scene) -> None:
    await scene.set_rule("reject", enabled=True, group_by="firmware")
    for firmware, times in (("2.3.9", 3), ("2.4.0", 2), ("2.3.9", 1)):
        await scene.read("D1", BAD, times=times, firmware_version=firmware)
        scene.bench.clock.time += timedelta(seconds=1)
    await scene.look()
    assert {bug["title"]: bug["occurrences"] for bug in await scene.bugs()} == {
        "Firmware 2.3.9: reject (site LL)": 4,
        "Firmware 2.4.0: reject (site LL)": 2,
    }


async def test_a_fixed_bug_of_an_older_firmware_is_taken_up_by_the_one_that_ought_to_have_the_fix(scene: Scene) -> None:
    await scene.set_rule("reject", enabled=True, group_by="firmware")
    await scene.read("D1", BAD, firmware_version="2.3.0")
    await scene.look()
    (bug,) = await scene.bugs()
    await scene.change(bug["id"], status="resolved", resolution="lens", fixed_in_firmware="2.4.0")
    await scene.read("D2", BAD, firmware_version="2.3.5")  # not expected to have it
    await scene.read("D3", BAD, firmware_version="2.5.0", site_code="MT")  # elsewhere
    await scene.read("D4", BAD, firmware_version="2.2.0")
    await scene.look()
    made = await scene.bugs()
    assert [one["status"] for one in made] == ["resolved", "open", "open", "open"]
    await scene.read("D5", BAD, firmware_version="v2.4.1")
    await scene.look()
    now = await scene.bugs()
    assert (now[0]["status"], now[0]["occurrences"], len(now)) == ("reopened", 2, len(made))
    subjects = [one["subject"] for one in (await affected(scene.connection, bug["id"]))["fingerprints"]]
    assert subjects == ["2.3.0", "2.4.1"]
    await scene.read("D6", BAD, firmware_version="2.4.1")
    await scene.look()
    assert (await scene.bugs())[0]["occurrences"] == 3


async def test_what_a_duplicate_would_count_is_counted_by_what_it_is_one_of(scene: Scene) -> None:
    for device in ("D1", "D2", "D3"):
        await scene.read(device, BAD)
        await scene.look()
    first, second, third = await scene.bugs()
    await scene.change(third["id"], status="duplicate", duplicate_of=second["id"])
    await scene.change(second["id"], status="duplicate", duplicate_of=first["id"])
    await scene.change(first["id"], status="resolved", resolution="lens", fixed_in_firmware="2.4.0")
    await scene.read("D3", BAD)
    await scene.look()
    now = [(one["status"], one["occurrences"]) for one in await scene.bugs()]
    assert now == [("resolved", 2), ("duplicate", 1), ("duplicate", 1)]
    await scene.read("D3", BAD, firmware_version="2.4.0")
    await scene.look()
    assert [one["status"] for one in await scene.bugs()] == ["reopened", "duplicate", "duplicate"]
    assert await of_kind(scene, first["id"], "devices") == {"D1": 1, "D3": 2}
    await scene.change(third["id"], status="reopened")  # it is none after all
    await scene.read("D3", BAD)
    await scene.look()
    assert [one["occurrences"] for one in await scene.bugs()] == [3, 1, 2]


async def test_the_bugs_of_a_sample_a_lot_and_a_device_are_those_whose_alerts_they_raised_too(scene: Scene) -> None:
    await scene.set_rule("reject", enabled=True, group_by="firmware")
    await scene.read("D1", BAD, sample_id="s/1", lot_abattage="L 1")
    await scene.read("D2", BAD, sample_id="s/2", lot_abattage="L 2")
    await scene.look()
    (bug,) = await scene.bugs()
    for page in (
        await backlinks.bugs_of_sample(scene.connection, "D1", "s/1", None, None, 9),
        await backlinks.bugs_of_lot(scene.connection, "L 2", None, 9),
        await backlinks.bugs_of_device(scene.connection, "D2", None, 9),
    ):
        assert [(one["id"], one["via"]) for one in page[0]] == [(bug["id"], "affected")]
    assert (await backlinks.bugs_of_sample(scene.connection, "D2", "s/1", None, None, 9))[0] == []
    assert (await backlinks.bugs_of_lot(scene.connection, "D1", None, 9))[0] == []


async def test_where_older_ones_were_forgotten_it_is_said(scene: Scene) -> None:
    await scene.read("D1", BAD)
    await scene.look()
    (bug,) = await scene.bugs()
    assert (await affected(scene.connection, bug["id"]))["truncated"] is False
    await scene.connection.execute(
        "INSERT INTO bug_affected SELECT bug_id, 'sample', 'D1/' || n, 1, first_at, first_at"
        " FROM bug_affected, generate_series(1, 1100) n WHERE kind = 'device'"
    )
    await scene.read("D1", BAD)
    await scene.look()
    met = await affected(scene.connection, bug["id"])
    assert (len(met["samples"]), met["most"], met["truncated"]) == (MOST, MOST, True)
