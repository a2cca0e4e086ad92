"""Which backups stay: properties of any history, and what two years of nightly backups leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.backup.rotation import YOUNG, Kept, Made, staying

EPOCH = datetime(2026, 1, 1, 2, tzinfo=UTC)
made = st.builds(
    lambda hours, good: Made(EPOCH + timedelta(hours=hours), f"at-{hours}", good), st.integers(0, 20_000), st.booleans()
)
histories = st.lists(made, max_size=60, unique_by=lambda one: one.name)
rules = st.builds(Kept, st.integers(1, 10), st.integers(0, 8), st.integers(0, 14))
later = st.integers(0, 1_000).map(lambda hours: timedelta(hours=hours))


def newest(backups: list[Made]) -> set[str]:
    return {max(backups).name} if backups else set()


@given(histories, rules, later)
def test_the_newest_and_the_newest_good_one_stay_and_so_does_the_last_day(
    backups: list[Made], kept: Kept, after: timedelta
) -> None:
    now = EPOCH + timedelta(hours=20_000) + after
    stay = staying(backups, kept, now)
    assert stay <= {one.name for one in backups}
    assert newest(backups) | newest([one for one in backups if one.good]) <= stay
    assert {one.name for one in backups if one.at > now - YOUNG} <= stay


@given(histories, rules, later)
def test_no_more_stay_than_were_asked_for(backups: list[Made], kept: Kept, after: timedelta) -> None:
    now = EPOCH + timedelta(hours=20_000) + YOUNG + after + timedelta(hours=1)
    assert len(staying(backups, kept, now)) <= kept.daily + kept.weekly + kept.monthly + 2


@given(histories, rules, later)
def test_what_stays_stays_when_it_is_asked_again(backups: list[Made], kept: Kept, after: timedelta) -> None:
    now = EPOCH + timedelta(hours=20_000) + after
    stay = staying(backups, kept, now)
    assert staying([one for one in backups if one.name in stay], kept, now) == stay


@given(histories, st.integers(1, 10))
def test_each_of_the_last_days_that_have_one_keeps_its_newest_good_one(backups: list[Made], daily: int) -> None:
    stay = staying(backups, Kept(daily, 0, 0), EPOCH + timedelta(days=2_000))
    for day in sorted({one.at.date() for one in backups})[-daily:]:
        of_day = [one for one in backups if one.at.date() == day]
        assert newest([one for one in of_day if one.good] or of_day) <= stay


def test_what_is_of_the_future_takes_nobodys_place() -> None:
    now = EPOCH + timedelta(days=100)
    real = Made(now - timedelta(days=2), "real", good=True)
    assert staying([real, Made(now + timedelta(days=3_650), "ahead", good=True)], Kept(1, 0, 0), now) == {
        "real",
        "ahead",
    }


def test_two_years_of_nights_leave_days_weeks_and_months() -> None:
    there: list[Made] = []
    for night in range(730):
        at = EPOCH + timedelta(days=night)
        there.append(Made(at, f"night-{night}", good=True))
        stay = staying(there, Kept(7, 4, 12), at)
        there = [one for one in there if one.name in stay]
    ages = [729 - int(one.name.removeprefix("night-")) for one in there]
    assert set(range(7)) <= set(ages)
    assert len({one.at.isocalendar()[:2] for one in there}) >= 4
    assert len({(one.at.year, one.at.month) for one in there}) == 12
    assert len(there) <= 23
