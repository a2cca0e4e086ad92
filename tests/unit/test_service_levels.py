"""Service levels: how a bug stands with its targets at a moment, and what may be set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bugs.service_levels import ServiceLevels, Targets, state_of
from app.bugs.vocabulary import ON_THE_CLOCK, SEVERITIES
from app.bugs.workflow import STATUSES, TransitionError, move
from app.settings import BadSettings, load_settings

START = datetime(2026, 2, 2, 8, tzinfo=UTC)
ACKNOWLEDGE = {"critical": 1.0, "high": 8.0, "medium": 24.0, "low": 72.0}
RESOLVE = {"critical": 24.0, "high": 72.0, "medium": 240.0, "low": 720.0}
TARGETS = Targets.of_hours(ACKNOWLEDGE, RESOLVE)


def fresh(**changes: Any) -> dict[str, Any]:
    bug: dict[str, Any] = {
        "status": "open", "status_changed_at": START, "active_s": 0.0, "acknowledged_at": None, "assigned_at": None,
        "resolved_at": None, "closed_at": None, "reopened": 0, "assigned_to": None, "resolution": None,
        "resolved_by": None, "fixed_in_firmware": None, "severity": "high", "created_at": START,
    }  # fmt: skip
    return bug | changes


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def step(bug: dict[str, Any], hours: float, status: str) -> dict[str, Any]:
    changes = {"status": status} | ({"resolution": "done"} if status == "resolved" else {})
    return bug | move(bug, changes, at(hours))


def standing(bug: dict[str, Any], hours: float) -> dict[str, Any]:
    return ServiceLevels(TARGETS, at(hours)).of(bug)


def test_a_life_with_a_pause_and_a_reopening_is_counted_as_by_hand() -> None:
    bug = fresh()
    assert standing(bug, 2) == {
        "acknowledge": {"target_hours": 8.0, "elapsed_hours": 2.0, "due_at": at(8), "state": "running"},
        "resolve": {"target_hours": 72.0, "elapsed_hours": 2.0, "due_at": at(72), "state": "running"},
    }
    bug = step(bug, 6, "awaiting_info")
    told = standing(bug, 50)
    assert told["acknowledge"] == {"target_hours": 8.0, "elapsed_hours": 6.0, "due_at": at(8), "state": "met"}
    assert told["resolve"] == {"target_hours": 72.0, "elapsed_hours": 6.0, "due_at": None, "state": "paused"}
    bug = step(bug, 106, "in_progress")  # 100 hours of waiting do not count
    assert standing(bug, 116)["resolve"]["due_at"] == at(172)
    bug = step(bug, 126, "resolved")
    assert standing(bug, 1_000)["resolve"] == {
        "target_hours": 72.0, "elapsed_hours": 26.0, "due_at": None, "state": "met",
    }  # fmt: skip
    bug = step(bug, 1_000, "reopened")
    told = standing(bug, 1_046)["resolve"]
    assert (told["elapsed_hours"], told["due_at"], told["state"]) == (72.0, at(1_046), "running")
    assert standing(bug, 1_047)["resolve"]["state"] == "breached"
    assert standing(step(bug, 1_047, "resolved"), 2_000)["resolve"]["state"] == "breached"


def test_who_is_acknowledged_too_late_stays_breached() -> None:
    bug = fresh()
    assert standing(bug, 8)["acknowledge"]["state"] == "running"
    assert standing(bug, 8.01)["acknowledge"]["state"] == "breached"
    assert standing(step(bug, 9, "in_progress"), 10)["acknowledge"]["state"] == "breached"


def test_a_bug_of_the_future_has_taken_no_time_yet() -> None:
    told = ServiceLevels(TARGETS, at(-5)).of(fresh())
    assert [told[name]["elapsed_hours"] for name in told] == [0.0, 0.0]
    assert [told[name]["state"] for name in told] == ["running", "running"]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_targets_are_those_of_the_severity(severity: str) -> None:
    told = standing(fresh(severity=severity), 0)
    assert told["acknowledge"]["target_hours"] == ACKNOWLEDGE[severity]
    assert told["resolve"]["target_hours"] == RESOLVE[severity]


lives = st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 500)), max_size=20)


def lived(steps: list[tuple[str, float]]) -> tuple[dict[str, Any], float, float]:
    """(bug, now in hours, hours on the clock): what does not follow is left out."""
    bug, now, counted = fresh(), 0.0, 0.0
    for status, hours in steps:
        now += hours
        counted += hours if bug["status"] in ON_THE_CLOCK else 0.0
        try:
            bug = step(bug, now, status)
        except TransitionError:
            continue
    return bug, now, counted


@given(lives)
def test_only_time_on_the_clock_counts_through_all_reopenings(steps: list[tuple[str, float]]) -> None:
    bug, now, counted = lived(steps)
    assert standing(bug, now)["resolve"]["elapsed_hours"] == pytest.approx(counted, abs=1e-6)


@given(lives, st.floats(0, 1_000), st.floats(0, 1_000))
def test_time_never_goes_back_and_what_stands_still_stands_still(
    steps: list[tuple[str, float]], later: float, more: float
) -> None:
    bug, now, _ = lived(steps)
    first, second = standing(bug, now + later)["resolve"], standing(bug, now + later + more)["resolve"]
    passed = more if bug["status"] in ON_THE_CLOCK else 0.0
    assert second["elapsed_hours"] == pytest.approx(first["elapsed_hours"] + passed, abs=1e-6)
    assert (first["due_at"] is None) == (bug["status"] not in ON_THE_CLOCK)
    assert second["due_at"] == first["due_at"]
    assert first["state"] != "breached" or second["state"] == "breached"


@given(lives, st.floats(0, 1_000))
def test_a_running_clock_is_breached_exactly_after_it_was_due(steps: list[tuple[str, float]], later: float) -> None:
    bug, now, _ = lived(steps)
    told = standing(bug, now + later)["resolve"]
    if told["due_at"] is not None and abs(told["due_at"] - at(now + later)) > timedelta(milliseconds=1):
        assert (told["state"] == "breached") == (at(now + later) > told["due_at"])


def test_a_target_is_met_to_the_second() -> None:
    assert state_of(10, 10, done=True) == "met"
    assert state_of(10, 10, done=False) == "running"
    assert state_of(10.001, 10, done=True) == "breached"
    assert state_of(11, 10, done=False, paused=True) == "breached"


@pytest.mark.parametrize(
    "value",
    [
        "critical=1",
        "critical=1,high=8,medium=24,low=72,low=3",
        "critical=1,high=8,medium=24,urgent=72",
        "critical=1,high=8,medium=24,low=soon",
        "critical=1,high=8,medium=24,low",
        "nonsense",
        "1,8,24,72",
    ],
)
@pytest.mark.parametrize("name", ["BUG_SLA_ACKNOWLEDGE_HOURS", "BUG_SLA_RESOLVE_HOURS"])
def test_nonsense_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as error:
        load_settings()
    shape = "must look like critical=1,high=8,medium=24,low=72: each severity once, in hours"
    assert error.value.line == f"{name}: {shape}"


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "87601"])
def test_a_target_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, hours: str) -> None:
    monkeypatch.setenv("BUG_SLA_RESOLVE_HOURS", f"critical={hours},high=72,medium=240,low=720")
    with pytest.raises(BadSettings) as error:
        load_settings()
    assert error.value.line == "BUG_SLA_RESOLVE_HOURS: hours must be more than 0 and at most 87600"


def test_targets_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUG_SLA_RESOLVE_HOURS", " low=1000, medium=100,high=10 ,critical=0.5")
    settings = load_settings()
    assert settings.bug_sla_resolve_hours == {"critical": 0.5, "high": 10, "medium": 100, "low": 1000}
    assert settings.bug_sla_acknowledge_hours == ACKNOWLEDGE
