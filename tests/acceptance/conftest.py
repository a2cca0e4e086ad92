"""What several of these tests need of the time of day."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

LONG_ENOUGH_S = 40.0


@pytest.fixture
def within_one_day() -> None:
    """For what is counted by days: one that is about to end is over before the test begins."""
    now = datetime.now(ZoneInfo("Europe/Paris"))
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
    left_s = (midnight.astimezone(UTC) - now.astimezone(UTC)).total_seconds()
    if left_s < LONG_ENOUGH_S:
        time.sleep(left_s)
