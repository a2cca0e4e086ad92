"""Days and shifts of a place, also where its clock is set forward or back."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import BadRequestError
from app.sqal.spans import spans

PARIS = ZoneInfo("Europe/Paris")
SHIFTS = [time(5), time(13), time(21)]


@given(st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 1)), st.integers(1, 24 * 20))
def test_spans_follow_each_other_without_gap_and_hold_all_of_the_time(start: datetime, hours: int) -> None:
    begin = start.replace(tzinfo=UTC)
    end = begin + timedelta(hours=hours)
    for starts in ([time()], SHIFTS):
        found = spans(begin, end, PARIS, starts)
        assert found[0].begin <= begin < found[0].until
        assert found[-1].begin < end <= found[-1].until
        assert all(one.until == following.begin for one, following in pairwise(found))
        assert {(one.until - one.begin).seconds % 3600 for one in found} == {0}


def test_days_begin_at_midnight_there_and_two_of_a_year_are_longer_or_shorter() -> None:
    def lengths(start: str) -> list[float]:
        begin = datetime.fromisoformat(start)
        return [
            (one.until - one.begin) / timedelta(hours=1)
            for one in spans(begin, begin + timedelta(days=2), PARIS, [time()])
        ]

    assert lengths("2026-03-27T23:00Z") == [24.0, 23.0, 24.0]
    assert lengths("2026-10-23T22:00Z") == [24.0, 25.0]
    (day,) = spans(datetime(2026, 6, 1, 12, tzinfo=UTC), datetime(2026, 6, 1, 13, tzinfo=UTC), PARIS, [time()])
    assert (day.begin, day.label) == (datetime(2026, 5, 31, 22, tzinfo=UTC), "00:00")
    moment = datetime(2026, 1, 5, 2, tzinfo=UTC)
    (night,) = spans(moment, moment + timedelta(hours=1), PARIS, SHIFTS)
    assert (night.begin, night.label) == (datetime(2026, 1, 4, 20, tzinfo=UTC), "21:00")


def test_a_shift_that_the_clock_jumps_over_is_none() -> None:
    begin = datetime(2026, 3, 28, 22, tzinfo=UTC)
    found = spans(begin, begin + timedelta(days=1), PARIS, [time(1), time(2), time(3), time(12)])
    assert len({one.begin for one in found}) == len(found)
    assert all(one.until > one.begin for one in found)
    assert all(one.until == following.begin for one, following in pairwise(found))


def test_too_many_are_refused() -> None:
    with pytest.raises(BadRequestError):
        spans(datetime(2000, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), PARIS, SHIFTS)
