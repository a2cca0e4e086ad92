from __future__ import annotations

import pytest

from app.core.rate_limiter import Limiter
from app.core.rate_policy import Rate
from app.sqal.admission import Admission, DeviceLimits


class Bench:
    """Limits of 10 a second, 20 at once, a backlog of 30, on a clock that is turned by hand."""

    def __init__(self, *, devices: int = 100) -> None:
        self.now = 1_000.0
        messages = Limiter("m", Rate(10, 20), monotonic=self.time, allowance=30)
        sizes = Limiter("b", Rate(10_000, 20_000), monotonic=self.time, allowance=30_000)
        self.limits = DeviceLimits(messages, sizes, devices)

    def time(self) -> float:
        return self.now

    def connect(self, who: str = "192.0.2.1", connection: str = "c1") -> Admission:
        return Admission(self.limits, who, connection, self.time)


def taken(admission: Admission, device: str, messages: int, size: int = 100) -> int:
    return sum(admission.retry_after_s(device, size) == 0.0 for _ in range(messages))


def test_a_device_has_its_burst_and_its_backlog_and_then_its_rate() -> None:
    bench = Bench()
    admission = bench.connect()
    assert taken(admission, "d1", 100) == 50
    bench.now += 1.0
    assert taken(admission, "d1", 100) == 10


def test_devices_on_one_address_and_on_one_socket_do_not_share() -> None:
    bench = Bench()
    admission = bench.connect()
    assert taken(admission, "d1", 100) == taken(admission, "d2", 100) == 50
    assert taken(bench.connect(connection="c2"), "d1", 100) == 0, "a new socket is no new budget"
    assert taken(bench.connect(who="192.0.2.2"), "d1", 100) == 50


def test_inventing_devices_gains_no_more_than_is_allowed_for_a_connection() -> None:
    bench = Bench(devices=3)
    admission = bench.connect()
    assert sum(taken(admission, f"invented{number}", 100) for number in range(50)) == (3 + 1) * 50


def test_messages_that_name_no_device_count_for_their_connection() -> None:
    bench = Bench()
    one, two = bench.connect(connection="c1"), bench.connect(connection="c2")
    assert taken(one, "", 100) == taken(two, "", 100) == 50


def test_bytes_are_limited_too_and_a_message_refused_for_them_costs_no_message() -> None:
    bench = Bench()
    admission = bench.connect()
    assert taken(admission, "d1", 100, size=4_990) == 10
    assert taken(admission, "d1", 30, size=1) == 30


def test_a_message_larger_than_any_allowance_is_told_a_long_time() -> None:
    assert Bench().connect().retry_after_s("d1", 1_000_000) == pytest.approx(60.0)


def test_who_obeys_what_it_is_told_comes_at_its_rate_and_is_not_told_again() -> None:
    bench = Bench()
    admission = bench.connect()
    taken(admission, "d1", 50)
    waiting = [bench.now + admission.retry_after_s("d1", 100) for _ in range(40)]
    assert waiting == sorted(waiting)
    assert waiting[-1] - waiting[0] == pytest.approx(39 / 10, abs=0.2)
    refused = 0
    for at in waiting:
        bench.now = max(bench.now, at)
        refused += admission.retry_after_s("d1", 100) > 0
    assert refused == 0


def test_what_found_no_room_is_given_back() -> None:
    bench = Bench()
    admission = bench.connect()
    taken(admission, "d1", 50)
    for _ in range(5):
        admission.give_back("d1", 100)
    assert taken(admission, "d1", 100) == 5


def test_abuse_is_five_thousand_messages_over_the_limit_and_a_flood_twenty_thousand_in_vain() -> None:
    bench = Bench()
    admission = bench.connect()
    assert [admission.is_abuse() for _ in range(5_001)].count(True) == 1
    bench.now += 61
    assert [admission.is_abuse() for _ in range(1_000)].count(True) == 0
    assert [admission.is_flood() for _ in range(20_001)].count(True) == 1
