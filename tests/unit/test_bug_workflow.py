"""The workflow of bugs: which status follows which, and what the server notes on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bugs.references import numbers
from app.bugs.vocabulary import ON_THE_CLOCK, UNSETTLED
from app.bugs.workflow import REQUIRED, STATUSES, TRANSITIONS, TransitionError, active_s, move, table
from app.core.errors import BadRequestError

START = datetime(2026, 2, 2, 8, tzinfo=UTC)


def fresh(**changes: Any) -> dict[str, Any]:
    bug: dict[str, Any] = {
        "status": "open", "status_changed_at": START, "active_s": 0.0, "acknowledged_at": None, "assigned_at": None,
        "resolved_at": None, "closed_at": None, "reopened": 0, "assigned_to": None, "resolution": None,
        "resolved_by": None, "fixed_in_firmware": None, "title": "a title", "tags": ["b", "a"],
    }  # fmt: skip
    return bug | changes


def step(bug: dict[str, Any], now: datetime, **changes: Any) -> dict[str, Any]:
    return bug | move(bug, changes, now)


@pytest.mark.parametrize("now", STATUSES)
@pytest.mark.parametrize("wanted", STATUSES)
def test_every_pair_of_statuses_is_as_the_table_says(now: Any, wanted: Any) -> None:
    bug = fresh(status=now)
    if wanted == now:
        assert move(bug, {"status": wanted}, START) == {}
    elif wanted in TRANSITIONS[now]:
        assert move(bug, {"status": wanted, "resolution": "done"}, START)["status"] == wanted
    else:
        with pytest.raises(TransitionError) as refused:
            move(bug, {"status": wanted, "resolution": "done"}, START)
        assert refused.value.more["allowed"] == list(TRANSITIONS[now])


def test_the_served_table_is_the_enforced_one() -> None:
    served = {row["from"]: tuple(row["to"]) for row in table()["transitions"]}
    assert served == TRANSITIONS
    assert set(served) == set(STATUSES)
    assert all(TRANSITIONS[status] for status in STATUSES), "no status is a dead end"
    assert not any("open" in following for following in TRANSITIONS.values()), "open is where bugs begin"


def test_resolving_needs_a_resolution_and_says_where() -> None:
    with pytest.raises(BadRequestError) as refused:
        move(fresh(), {"status": "resolved"}, START)
    assert refused.value.more["errors"][0]["pointer"] == "#/resolution"
    with pytest.raises(BadRequestError):
        move(fresh(resolution="once said"), {"status": "resolved", "resolution": None}, START)
    assert move(fresh(resolution="said before"), {"status": "resolved"}, START)["resolved_at"] == START
    assert REQUIRED == {"resolved": ("resolution",)}


def test_assigned_resolved_and_closed_times_are_noted_and_reopening_takes_the_outcome_back() -> None:
    hours = [START + timedelta(hours=n) for n in range(6)]
    bug = step(fresh(), hours[1], assigned_to="Marie", status="in_progress")
    assert (bug["assigned_at"], bug["acknowledged_at"]) == (hours[1], hours[1])
    bug = step(bug, hours[2], assigned_to="Jean")
    assert (bug["assigned_at"], bug["acknowledged_at"]) == (hours[2], hours[1])
    bug = step(bug, hours[3], status="resolved", resolution="new cable", fixed_in_firmware="v2.3.2", resolved_by="Jean")
    bug = step(bug, hours[4], status="closed")
    assert (bug["resolved_at"], bug["closed_at"]) == (hours[3], hours[4])
    bug = step(bug, hours[5], status="reopened")
    assert (bug["resolved_at"], bug["closed_at"], bug["reopened"]) == (None, None, 1)
    assert (bug["resolution"], bug["resolved_by"], bug["fixed_in_firmware"]) == (None, None, None)
    assert bug["assigned_to"] == "Jean"
    assert step(bug, hours[5], assigned_to=None)["assigned_at"] is None


def test_nothing_is_written_where_nothing_changes() -> None:
    bug = fresh()
    assert move(bug, {"title": "a title", "tags": ["b", "a"], "assigned_to": None}, START) == {}
    assert move(bug, {"tags": ["a", "b"]}, START) == {"tags": ["a", "b"]}, "their order counts"


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.integers(0, 100_000)), max_size=30))
def test_whatever_becomes_of_a_bug_its_times_agree_with_its_status(steps: Any) -> None:
    bug, now, on_the_clock = fresh(), START, 0.0
    for wanted, seconds in steps:
        now += timedelta(seconds=seconds)
        if bug["status"] in ON_THE_CLOCK:
            on_the_clock += seconds
        try:
            bug = step(bug, now, status=wanted, **({"resolution": "done"} if wanted == "resolved" else {}))
        except TransitionError:
            continue
        if bug["status"] in UNSETTLED:
            assert bug["closed_at"] is None
            assert bug["resolved_at"] is None
        if bug["status"] == "resolved":
            assert bug["resolved_at"] is not None
        assert (bug["closed_at"] is not None) == (bug["status"] in ("closed", "wont_fix", "duplicate"))
        assert active_s(bug, now) == pytest.approx(on_the_clock)


def test_a_clock_that_runs_backwards_takes_no_time_off() -> None:
    assert active_s(fresh(active_s=5.0), START - timedelta(hours=1)) == 5.0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see #12 and #7, not #12 again", [12, 7]),
        ("(#3)#4 #05 a#6 /x#7 &#8; ##9 #10b #11", [3, 4, 11]),
        ("#" + "9" * 30, []),
        ("no. 5", []),
        (" ".join(f"#{n}" for n in range(1, 200)), list(range(1, 51))),
    ],
)
def test_numbers_of_bugs_are_read_from_a_text(text: Any, named: Any) -> None:
    assert numbers(text) == named
