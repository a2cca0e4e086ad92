"""When readings raise and clear alerts."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.sqal.alert_rules import AlertRules, AlertSettings, Episode, Occurrence, Sign
from app.sqal.frame import MICRO
from app.sqal.recipe_definition import REPORTED, SHIPPED
from app.sqal.recipes import Scale

NOW = datetime(2026, 2, 2, 8, tzinfo=UTC)
SCALE = Scale(SHIPPED[REPORTED])
RULES = AlertRules(AlertSettings())


def reading(score: float | None, number: int = 0, *, late: bool = False, **values: Any) -> Occurrence:
    micro = None if score is None else round(score * MICRO)
    sample = {
        "score": micro,
        "grade": "NOT_GRADABLE" if micro is None else SCALE.grade(micro),
        "oxidation": None,
        "freshness": None,
        "received_at": NOW + timedelta(seconds=number),
        "device_time": NOW + timedelta(seconds=number),
        "sample_id": str(number),
    }
    return Occurrence(sample | values, late)


def episodes(rule: str, readings: list[Occurrence], pieces: list[int] | None = None) -> list[Episode]:
    """All alerts of a rule after these readings, fed in pieces of the given lengths."""
    done: list[Episode] = []
    now: Episode | None = None
    at = 0
    for length in [*(pieces or []), len(readings)]:
        *ended, last = [*RULES.advance(RULES.by_name[rule], now, readings[at : at + length]), None]
        changed = [*ended, last] if last else ended
        done += [one for one in changed if one.cleared_at]
        still = [one for one in changed if not one.cleared_at]
        now = still[0] if still else (None if changed else now)
        at += length
    return [*done, now] if now else done


readings = st.lists(
    st.tuples(st.sampled_from([None, 0.2, 0.41, 0.46, 0.52, 0.58, 0.62, 0.66, 0.9]), st.booleans()), max_size=80
).map(lambda chosen: [reading(score, number, late=late) for number, (score, late) in enumerate(chosen)])


@given(readings, st.sampled_from(["reject", "low_score"]), st.lists(st.integers(1, 9), max_size=20))
def test_one_alert_at_a_time_however_the_readings_are_grouped(
    given_: list[Occurrence], rule: str, pieces: list[int]
) -> None:
    found = episodes(rule, given_)
    assert [(e.opened_at, e.cleared_at, e.occurrences, e.late_occurrences, e.worst) for e in found] == [
        (e.opened_at, e.cleared_at, e.occurrences, e.late_occurrences, e.worst) for e in episodes(rule, given_, pieces)
    ]
    assert all(one.cleared_at for one in found[:-1])
    signs = [(RULES.by_name[rule].read(one.sample), one) for one in given_]
    in_time = [one for sign, one in signs if sign is Sign.RAISES and not one.late]
    assert sum(one.occurrences for one in found) == len(in_time)
    assert {one.opened_at for one in found} <= {one.received_at for one in in_time}
    for one in found:
        if one.cleared_at is not None:
            speaking = [
                sign for sign, other in signs
                if not other.late and sign is not Sign.SILENT and other.received_at <= one.cleared_at
            ]  # fmt: skip
            assert speaking[-10:] == [Sign.CLEARS] * 10


def test_an_hour_of_rejects_is_one_alert() -> None:
    hour = [reading(0.2 + number % 20 / 100, number) for number in range(3_600)]
    (alert,) = episodes("reject", hour)
    assert (alert.occurrences, alert.worst, alert.cleared_at) == (3_600, 200_000, None)
    assert episodes("low_score", hour) == []


def test_a_score_that_trembles_around_a_limit_does_not_chatter() -> None:
    noise = random.Random(5)
    for border in (0.40, 0.45, 0.60):
        trembling = [reading(border + noise.uniform(-0.04, 0.04), number) for number in range(20_000)]
        for rule in ("reject", "low_score"):
            assert len(episodes(rule, trembling)) <= 1


def test_each_rule_has_its_limit_and_its_way_back() -> None:
    def signs(rule: str, measure: str, values: list[float]) -> list[Sign]:
        one = RULES.by_name[rule]
        return [one.read({**reading(0.9).sample, measure: round(value * MICRO)}) for value in values]

    rises = [Sign.CLEARS, Sign.BETWEEN, Sign.BETWEEN, Sign.RAISES]
    assert signs("oxidation", "oxidation", [0.55, 0.56, 0.60, 0.61]) == rises
    assert signs("freshness", "freshness", [0.55, 0.54, 0.50, 0.49]) == rises
    scores = [0.9, 0.65, 0.64, 0.60, 0.59, 0.45, 0.44]
    low = [RULES.by_name["low_score"].read(reading(score).sample) for score in scores]
    assert low == [Sign.CLEARS, Sign.CLEARS, Sign.BETWEEN, Sign.BETWEEN, Sign.RAISES, Sign.RAISES, Sign.BETWEEN]
    reject = [RULES.by_name["reject"].read(reading(score).sample) for score in (0.5, 0.49, 0.45, 0.44, 0.39)]
    assert reject == [Sign.CLEARS, Sign.BETWEEN, Sign.BETWEEN, Sign.RAISES, Sign.RAISES]
    assert RULES.by_name["reject"].read(reading(0.9, grade="REJECT").sample) is Sign.RAISES  # by its defects


def test_what_could_not_be_graded_or_comes_late_neither_opens_nor_clears() -> None:
    bad, good = [reading(0.2, number) for number in range(3)], [reading(0.9, number) for number in range(3, 40)]
    unknown = [reading(None, number, oxidation=900_000) for number in range(50)]
    assert episodes("oxidation", unknown) == episodes("reject", unknown) == []
    late = [Occurrence(one.sample, late=True) for one in [*bad, *good]]
    assert episodes("reject", late) == []
    (alert,) = episodes("reject", [*bad, *late])
    assert (alert.cleared_at, alert.occurrences, alert.late_occurrences) == (None, 3, 3)
    (cleared,) = episodes("reject", [*bad, *good])
    assert cleared.cleared_at == good[9].received_at


def test_a_reading_is_late_by_its_age_unless_the_devices_clock_is_known_to_be_off() -> None:
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    assert not RULES.is_late(NOW, NOW - 5 * minute)
    assert RULES.is_late(NOW, NOW - 5 * minute - timedelta(seconds=1))
    assert not RULES.is_late(NOW, NOW - hour, clock_ahead_s=-3_590.0)
    assert RULES.is_late(NOW, NOW - 2 * hour, clock_ahead_s=-3_590.0)
    assert RULES.is_late(NOW, NOW - 6 * minute, clock_ahead_s=-240.0)  # a clock that is nearly right corrects nothing
