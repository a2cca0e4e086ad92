"""Figures of bugs on a real database, against values that were computed by hand or anew in Python."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bugs import listing, tracker
from app.bugs.audience import Audience
from app.bugs.figures import Scope, figures
from app.bugs.gauges import BugGauges
from app.bugs.listing import BugFilter
from app.bugs.service_levels import LevelFilter, ServiceLevels, Targets
from app.bugs.summary import summary, trends
from app.bugs.vocabulary import ON_THE_CLOCK, SEVERITIES, UNSETTLED
from app.bugs.workflow import STATUSES, TransitionError
from app.core.clock import SystemClock
from app.core.errors import DatabaseUnavailableError
from app.core.metrics import Metrics
from app.sqal.device_hours import device_hours

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARIS = ZoneInfo("Europe/Paris")
START = datetime(2026, 2, 2, 8, tzinfo=UTC)
TARGETS = Targets.of_hours(
    {"critical": 1, "high": 8, "medium": 24, "low": 72}, {"critical": 24, "high": 72, "medium": 240, "low": 720}
)
REPORT = {"title": "a title", "description": "a text", "severity": "high", "priority": "high"}


class Tracker:
    """Bugs made and changed at given times."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def report(self, at: datetime, **said: Any) -> Any:
        async with self.connection.transaction():
            return (await tracker.report_bug(self.connection, REPORT | said, "somebody", at))["id"]

    async def change(self, bug_id: Any, at: datetime, **changes: Any) -> None:
        if changes.get("status") == "resolved":
            changes.setdefault("resolution", "done")
        async with self.connection.transaction():
            await tracker.change_bug(self.connection, bug_id, changes, Audience.STAFF, "somebody", at)

    async def figures(self, scope: Scope, now: datetime) -> dict[str, Any]:
        return await figures(self.connection, scope, ServiceLevels(TARGETS, now), device_hours)

    async def standing(self, wanted: Any, now: datetime, **more: Any) -> set[Any]:
        narrowed = BugFilter(sla=LevelFilter(wanted, ServiceLevels(TARGETS, now)), **more)
        page = await listing.list_bugs(self.connection, narrowed, Audience.STAFF, limit=200)
        assert page.total == len(page.items)
        return {item["id"] for item in page.items}


@pytest.fixture
async def bugs(dsn: str) -> AsyncIterator[Tracker]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    yield Tracker(connection)
    await asyncio.wait_for(connection.close(), 20)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


async def test_without_bugs_there_are_zeros_and_nothing_to_divide_by(bugs: Tracker) -> None:
    told = await bugs.figures(Scope(START, at(24)), at(24))
    assert (told["count"], told["reopen_rate"], told["device_hours"]) == (0, None, 0)
    assert told["mtta"] == told["mttr"] == {"median": None, "p90": None, "count": 0}
    assert (told["per_thousand_device_hours"], told["by_device"], told["by_firmware"]) == (None, [], [])
    assert set(told["ageing"]) == set(told["sla"]) == set(SEVERITIES)
    assert told["ageing"]["low"]["median_age_hours"] is None


async def test_times_to_acknowledge_and_to_resolve_are_as_computed_by_hand(bugs: Tracker) -> None:
    for hours in (1, 2, 4, 8):  # from report to acknowledgement; four times as long to the resolution
        bug = await bugs.report(at(0))
        await bugs.change(bug, at(hours), status="in_progress")
        await bugs.change(bug, at(4 * hours), status="resolved")
    closed = await bugs.report(at(0))
    await bugs.change(closed, at(100), status="wont_fix")  # acknowledged, never resolved
    await bugs.report(at(0))
    outside = await bugs.report(at(24))
    await bugs.change(outside, at(25), status="resolved")
    told = await bugs.figures(Scope(START, at(24)), at(200))
    assert told["count"] == 6
    assert told["mtta"] == {"median": 4.0, "p90": pytest.approx(8 + 0.6 * 92), "count": 5}
    assert told["mttr"] == {"median": 12.0, "p90": pytest.approx(16 + 0.7 * 16), "count": 4}
    assert (await bugs.figures(Scope(at(24), at(25)), at(200)))["mttr"] == {"median": 1.0, "p90": 1.0, "count": 1}


async def test_a_bug_that_comes_back_is_resolved_when_it_is_resolved_again(bugs: Tracker) -> None:
    bug = await bugs.report(at(0))
    await bugs.change(bug, at(10), status="resolved")
    await bugs.change(bug, at(20), status="reopened")
    once = await bugs.figures(Scope(START, at(1)), at(30))
    assert (once["mttr"]["count"], once["reopen_rate"]) == (0, 1.0)
    await bugs.change(bug, at(40), status="resolved")
    await bugs.change(bug, at(41), status="closed")
    other = await bugs.report(at(0))
    await bugs.change(other, at(5), status="resolved")
    await bugs.report(at(0))
    told = await bugs.figures(Scope(START, at(1)), at(50))
    assert told["reopen_rate"] == 0.5, "of the two that were ever resolved"
    assert told["mttr"] == {"median": 22.5, "p90": pytest.approx(36.5), "count": 2}


async def test_the_open_ones_are_sorted_by_age_whenever_they_were_created(bugs: Tracker) -> None:
    now = at(24 * 100)
    for days in (0, 0.99, 1, 6.99, 7, 29.99, 30, 89.99, 90, 99):
        await bugs.report(now - timedelta(days=days), severity="critical")
    await bugs.change(await bugs.report(at(0), severity="critical"), at(1), status="duplicate")
    waiting = await bugs.report(now - timedelta(days=2), severity="low")
    await bugs.change(waiting, now, status="awaiting_info")
    await bugs.report(now + timedelta(days=3), severity="low")  # by a clock that was wrong
    told = (await bugs.figures(Scope(now, now), now))["ageing"]
    groups = ("up_to1_day", "up_to7_days", "up_to30_days", "up_to90_days", "over90_days")
    assert [told["critical"][name] for name in groups] == [2, 2, 2, 2, 2]
    assert told["critical"]["median_age_hours"] == pytest.approx(24 * (7 + 29.99) / 2)
    assert [told["low"][name] for name in groups] == [1, 1, 0, 0, 0]
    assert told["low"]["median_age_hours"] == pytest.approx(24.0)


async def test_devices_and_firmware_are_ranked_and_held_against_device_hours(bugs: Tracker) -> None:
    for device, hours in (("D1", 10), ("D2", 40)):
        for hour in range(hours):
            for lot in ("", "L1"):  # two rows of one hour
                await roll_up(bugs.connection, device, at(hour), lot)
    await roll_up(bugs.connection, "D1", at(1_000), "")
    pairs: list[tuple[str | None, str | None]] = [("D1", "v1"), ("D1", "v2"), ("D2", "v1"), ("D3", None), (None, None)]
    for named, firmware in pairs:
        await bugs.report(at(0), device_id=named, firmware_version=firmware)
    first = await bugs.report(at(1), device_id="D1", firmware_version="v1", severity="low", category="sensor")
    await bugs.change(first, at(5), status="resolved")
    told = await bugs.figures(Scope(START, at(100)), at(100))
    assert (told["device_hours"], told["per_thousand_device_hours"]) == (50, 120.0)
    assert told["by_device"] == [
        {
            "name": "D1",
            "count": 3,
            "open": 2,
            "reopened": 0,
            "mttr_median": 4.0,
            "device_hours": 10,
            "per_thousand_device_hours": 300.0,
        },
        {
            "name": "D2",
            "count": 1,
            "open": 1,
            "reopened": 0,
            "mttr_median": None,
            "device_hours": 40,
            "per_thousand_device_hours": 25.0,
        },
        {
            "name": "D3",
            "count": 1,
            "open": 1,
            "reopened": 0,
            "mttr_median": None,
            "device_hours": 0,
            "per_thousand_device_hours": None,
        },
    ]
    assert [(one["name"], one["count"], one["open"]) for one in told["by_firmware"]] == [("v1", 3, 2), ("v2", 1, 1)]
    of_device = await bugs.figures(Scope(START, at(100), device="D1"), at(100))
    assert (of_device["count"], of_device["device_hours"]) == (3, 10)
    of_firmware = await bugs.figures(Scope(START, at(100), firmware="v2"), at(100))
    assert (of_firmware["count"], of_firmware["device_hours"], of_firmware["by_device"][0]["device_hours"]) == (
        1,
        None,
        None,
    )
    assert (await bugs.figures(Scope(START, at(100), severity="low"), at(100)))["count"] == 1
    assert (await bugs.figures(Scope(START, at(100), category="sensor"), at(100)))["count"] == 1


async def roll_up(connection: Any, device: str, bucket: datetime, lot: str) -> None:
    """A row of sqal's, with nothing in it but where it stands."""
    columns = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'rollups'::regclass AND attnum > 4 AND attnotnull"
    )
    names = [column["attname"] for column in columns]
    await connection.execute(
        f"INSERT INTO rollups (device_id, bucket, site_code, lot, {', '.join(names)})"
        f" VALUES ($1, $2, 'LL', $3, {', '.join('1' for _ in names)})",
        device, bucket, lot,
    )  # fmt: skip


async def test_service_levels_are_counted_and_listed_as_by_hand(bugs: Tracker) -> None:
    now = at(100)
    met = await bugs.report(at(0))
    await bugs.change(met, at(8), status="in_progress")
    await bugs.change(met, at(72), status="resolved")
    late = await bugs.report(at(0))
    await bugs.change(late, at(9), status="in_progress")
    await bugs.change(late, at(73), status="wont_fix")
    forgotten = await bugs.report(at(20))
    paused = await bugs.report(at(0))
    await bugs.change(paused, at(1), status="awaiting_info")
    soon = await bugs.report(at(40))  # of 72 hours 60 are gone
    await bugs.change(soon, at(41), status="in_progress")
    young = await bugs.report(at(93))  # of 8 hours 7 are gone
    calm = await bugs.report(at(99))
    kept = (await bugs.figures(Scope(START, now), now))["sla"]
    assert kept["high"] == {
        "acknowledge": {"met": 3, "breached": 1, "running": 2, "breached_open": 1},
        "resolve": {"met": 1, "breached": 1, "running": 4, "breached_open": 1},
    }
    assert await bugs.standing("breached", now) == {late, forgotten}
    assert await bugs.standing("due", now) == {soon, young}
    assert await bugs.standing("breached", now, status=("wont_fix",)) == {late}, "beside a filter that is searched"
    assert await bugs.standing("due", now, text="title", severity=("high",)) == {soon, young}
    assert calm not in await bugs.standing("due", now) | await bugs.standing("breached", now)


@pytest.mark.parametrize(
    ("day", "offset_before", "offset_after"),
    [(date(2026, 3, 29), 1, 2), (date(2026, 10, 25), 2, 1)],
    ids=["the day of 23 hours", "the day of 25 hours"],
)
async def test_a_day_on_which_the_clocks_change_has_its_own_bugs(
    bugs: Tracker, day: date, offset_before: int, offset_after: int
) -> None:
    def local(the_day: date, hour: int, minute: int, offset: int) -> datetime:
        return datetime(the_day.year, the_day.month, the_day.day, hour, minute, tzinfo=UTC) - timedelta(hours=offset)

    before, after = day - timedelta(days=1), day + timedelta(days=1)
    await bugs.report(local(before, 23, 59, offset_before))
    await bugs.report(local(day, 0, 0, offset_before))
    evening = await bugs.report(local(day, 23, 30, offset_after))
    await bugs.change(evening, local(day, 23, 59, offset_after), status="resolved")
    await bugs.report(local(after, 0, 0, offset_after))
    now = local(after, 10, 0, offset_after)
    assert await trends(bugs.connection, 3, now, PARIS) == [
        {"date": before.isoformat(), "created": 1, "resolved": 0, "open": 1},
        {"date": day.isoformat(), "created": 2, "resolved": 1, "open": 2},
        {"date": after.isoformat(), "created": 1, "resolved": 0, "open": 3},
    ]
    late = await summary(bugs.connection, local(day, 23, 59, offset_after), PARIS)
    assert (late["new_today"], late["resolved_today"]) == (2, 1)
    assert (await summary(bugs.connection, now, PARIS))["new_today"] == 1


async def test_a_bug_of_tomorrow_by_a_wrong_clock_is_counted_but_not_today(bugs: Tracker) -> None:
    await bugs.report(at(48))
    told = await summary(bugs.connection, at(0), PARIS)
    assert (told["total_bugs"], told["open_bugs"], told["new_today"]) == (1, 1, 0)
    assert [row["created"] for row in await trends(bugs.connection, 2, at(0), PARIS)] == [0, 0]
    assert [row["open"] for row in await trends(bugs.connection, 2, at(0), PARIS)] == [0, 0]
    assert (await bugs.figures(Scope(START - timedelta(days=90), at(0)), at(0)))["count"] == 0


class OneConnection:
    """Lends the same connection to everybody, or raises."""

    def __init__(self, connection: Any) -> None:
        self.connected: Any = connection
        self.error: Exception | None = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        if self.error is not None:
            raise self.error
        yield self.connected


class Frozen(SystemClock):
    def now(self) -> datetime:
        return at(30)


async def test_gauges_show_what_is_open_and_go_while_the_database_is_away(bugs: Tracker) -> None:
    metrics, database = Metrics(), OneConnection(bugs.connection)
    gauges = BugGauges(metrics, Frozen(), PARIS)

    def shown() -> dict[str, Any]:
        told = {values[0]: gauge.value for values, gauge in metrics.bugs_open.items()}
        more = {"today": metrics.bugs_resolved_today, "average": metrics.bugs_average_resolution}
        return told | {name: family.labels().value for name, family in more.items()}

    for severity in ("low", "low", "critical", "high"):
        bug = await bugs.report(at(0), severity=severity)
    await bugs.change(bug, at(5), status="resolved")  # yesterday
    await bugs.change(await bugs.report(at(10)), at(29), status="resolved")
    await bugs.change(await bugs.report(at(10)), at(29), status="wont_fix")
    await bugs.change(await bugs.report(at(10)), at(29), status="awaiting_info")
    await gauges.refresh(database)  # type: ignore[arg-type]
    seen = {"critical": 1, "high": 1, "medium": 0, "low": 2, "today": 1, "average": 12.0}
    assert shown() == seen
    for error in (DatabaseUnavailableError(), asyncpg.UndefinedTableError("a table is missing")):
        database.error = error
        await gauges.refresh(database)  # type: ignore[arg-type]
        assert shown() == {"today": None, "average": None}
        database.error = None
        await gauges.refresh(database)  # type: ignore[arg-type]
        assert shown() == seen


lives = st.lists(
    st.tuples(
        st.sampled_from(SEVERITIES),
        st.floats(0, 60),
        st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 400)), max_size=6),
    ),
    min_size=1,
    max_size=5,
)
# A tenth of what TRUNCATE takes.
EMPTY = """
    ALTER TABLE bug_events DISABLE TRIGGER USER;
    DELETE FROM bug_events; DELETE FROM bug_search; DELETE FROM bugs; DELETE FROM bug_counts; DELETE FROM bug_flow
"""
Lives = list[tuple[str, float, list[tuple[str, float]]]]
Rows = list[dict[str, Any]]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives)
def test_whatever_becomes_of_bugs_the_figures_are_those_of_plain_python(dsn: str, told: Lives) -> None:
    asyncio.run(_live(dsn, told))


async def _live(dsn: str, told: Lives) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        await connection.execute(EMPTY)
        bugs = Tracker(connection)
        for severity, hour, steps in told:
            bug, now = await bugs.report(at(hour), severity=severity), hour
            for status, hours in steps:
                now += hours
                with suppress(TransitionError):
                    await bugs.change(bug, at(now), status=status)
        rows = [dict(row) for row in await connection.fetch("SELECT * FROM bugs")]
        last = max(row["updated_at"] for row in rows)
        await _compare_summary(bugs, rows, last)
        await _compare_figures(bugs, rows, last + timedelta(hours=1))
    finally:
        await connection.close()


async def _compare_summary(bugs: Tracker, rows: Rows, now: datetime) -> None:
    told = await summary(bugs.connection, now, PARIS)
    today = now.astimezone(PARIS).date()
    took = [(row["resolved_at"] - row["created_at"]).total_seconds() / 3600 for row in rows if row["resolved_at"]]
    groups = (
        ("open", "reopened"),
        ("in_progress", "awaiting_info"),
        ("resolved",),
        ("closed", "wont_fix", "duplicate"),
    )
    names = ("open_bugs", "in_progress_bugs", "resolved_bugs", "closed_bugs")
    assert [told[name] for name in names] == [sum(row["status"] in group for row in rows) for group in groups]
    assert sum(told[name] for name in names) == told["total_bugs"] == len(rows)
    assert told["new_today"] == sum(row["created_at"].astimezone(PARIS).date() == today for row in rows)
    resolved = [row["resolved_at"].astimezone(PARIS).date() for row in rows if row["resolved_at"]]
    assert told["resolved_today"] == resolved.count(today)
    average = pytest.approx(sum(took) / len(took), abs=1e-6) if took else None
    assert told["avg_resolution_time_hours"] == average
    still_open = sum(row["status"] in UNSETTLED for row in rows)
    assert (await trends(bugs.connection, 2, now, PARIS))[-1]["open"] == still_open


async def _compare_figures(bugs: Tracker, rows: Rows, now: datetime) -> None:
    levels = ServiceLevels(TARGETS, now)
    told = await bugs.figures(Scope(at(0), now), now)
    states = {row["id"]: levels.of(row) for row in rows}
    for severity in SEVERITIES:
        of = [row for row in rows if row["severity"] == severity]
        for clock in ("acknowledge", "resolve"):
            counted = dict.fromkeys(("met", "breached", "running", "breached_open"), 0)
            for row in of:
                done = row["acknowledged_at"] if clock == "acknowledge" else row["status"] not in UNSETTLED
                over = states[row["id"]][clock]["state"] == "breached"
                counted["breached" if over and done else "breached_open" if over else "met" if done else "running"] += 1
            assert told["sla"][severity][clock] == counted
    reopened = sum(row["reopened"] > 0 for row in rows)
    ever = sum(row["reopened"] > 0 or row["status"] not in UNSETTLED for row in rows)
    assert told["reopen_rate"] == (reopened / ever if ever else None)
    found = {row["id"] for row in rows if "breached" in [state["state"] for state in states[row["id"]].values()]}
    assert await bugs.standing("breached", now) == found
    assert await bugs.standing("due", now) == {row["id"] for row in rows if _is_due(row, states[row["id"]])}


def _is_due(row: dict[str, Any], clocks: dict[str, Any]) -> bool:
    running = [clocks["resolve"]] + ([clocks["acknowledge"]] if row["acknowledged_at"] is None else [])
    return row["status"] in ON_THE_CLOCK and any(
        0.8 * one["target_hours"] <= one["elapsed_hours"] <= one["target_hours"] for one in running
    )
