"""Which devices, sites, or all of them have an alert for silence, and whose clock is off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.sqal.devices import StateLimits
from app.sqal.watch_rules import Finding, Key, OpenAlert, SeenDevice, judge_clocks, judge_silence

LIMITS = StateLimits(75.0, 300.0)
STEP_S = 5


def seen(name: str, silent_s: float, site: str | None = "LL", offset_s: float | None = None) -> SeenDevice:
    state = "online" if silent_s < 75 else "stale" if silent_s < 300 else "offline"
    return SeenDevice(name, site, silent_s, state, offset_s)


class Story:
    """Rounds of the watch over a fleet; remembers what is open and counts what was ever opened."""

    def __init__(self) -> None:
        self.open: dict[Key, Finding] = {}
        self.opened: list[Finding] = []
        self.now_s = 0.0
        self.true_s: dict[Key, float] = {}

    def round(self, devices: list[SeenDevice]) -> None:
        self.now_s += STEP_S
        before = {
            key: OpenAlert(frozenset(finding.devices), self.now_s - self.true_s[key])
            for key, finding in self.open.items()
        }
        now = {finding.key: finding for finding in judge_silence(devices, before, LIMITS)}
        self.opened += [finding for key, finding in now.items() if key not in self.open]
        self.true_s |= {key: self.now_s for key, finding in now.items() if finding.whole}
        self.open = now
        named = [name for finding in now.values() for name in finding.devices]
        assert len(named) == len(set(named)), "a device has one alert at a time"


def cut_off(last_signs: dict[str, float], *, sites: dict[str, str], others: list[SeenDevice]) -> Story:
    """The devices fall silent at their own last signs of life (seconds); eight minutes pass."""
    story = Story()
    for now in range(0, 480, STEP_S):
        silent = [seen(name, max(0.0, now - at), sites[name]) for name, at in last_signs.items()]
        story.round([*silent, *others])
    return story


signs = st.lists(st.floats(0, 30), min_size=50, max_size=50)


@given(signs)
def test_fifty_devices_of_a_site_cut_off_are_one_alert_that_names_them(at: list[float]) -> None:
    names = {f"D{number:02d}": sign for number, sign in enumerate(at)}
    story = cut_off(names, sites=dict.fromkeys(names, "LL"), others=[seen("M1", 1, "MT"), seen("M2", 1, "MT")])
    assert [(one.rule, one.subject, one.devices) for one in story.opened] == [
        ("site_offline", "LL", tuple(sorted(names)))
    ]


@given(signs)
def test_all_devices_of_all_sites_cut_off_are_one_alert(at: list[float]) -> None:
    names = {f"D{number:02d}": sign for number, sign in enumerate(at)}
    sites = {name: ("LL", "LS", "MT")[number % 3] for number, name in enumerate(names)}
    story = cut_off(names, sites=sites, others=[])
    assert [(one.rule, len(one.devices)) for one in story.opened] == [("all_offline", 50)]


@given(st.permutations([f"D{number}" for number in range(10)]))
def test_coming_back_one_by_one_opens_nothing_new(order: list[str]) -> None:
    story = Story()
    there = [seen("M1", 1, "MT")]
    story.round([*(seen(name, 400) for name in order), *there])
    for back in range(1, len(order) + 1):
        story.round([seen(name, 1 if place < back else 400 + back) for place, name in enumerate(order)] + there)
    assert [one.rule for one in story.opened] in (["site_offline"], ["site_offline", "device_offline"])
    assert story.open == {}


def test_a_part_that_stays_away_gets_an_alert_of_its_own_and_the_site_again_when_it_goes_again() -> None:
    story = Story()
    away = [seen(f"D{number}", 400) for number in range(4)]
    others = [seen("D8", 1), seen("D9", 1), seen("M1", 1, "MT")]
    gone = [seen("D8", 400), seen("D9", 400), seen("M1", 1, "MT")]
    story.round([*away, *gone])
    for _ in range(20):
        story.round([*away, *others])
    assert [one.rule for one in story.opened] == ["site_offline", "devices_offline"]
    assert story.opened[1].devices == ("D0", "D1", "D2", "D3")
    story.round([*away, *gone])
    assert [one.rule for one in story.opened[2:]] == ["site_offline"]


def test_a_part_of_a_site_cut_off_is_one_alert_and_a_later_one_its_own() -> None:
    story = Story()
    there = [seen("Z1", 1), seen("Z2", 1)]
    away = [seen(f"D{number:02d}", 310) for number in range(50)]
    story.round([*away, seen("E1", 1), *there])
    (alert,) = story.opened
    assert (alert.rule, len(alert.devices)) == ("devices_offline", 50)
    story.round([*away[10:], *(seen(f"D{number:02d}", 1) for number in range(10)), seen("E1", 320), *there])
    assert [(one.rule, one.devices) for one in story.opened[1:]] == [("device_offline", ("E1",))]
    assert len(story.open["D00", "devices_offline"].devices) == 40


def test_a_later_group_never_hides_in_the_alert_of_an_earlier_one() -> None:
    story = Story()
    there = [seen("Z", 1)]
    story.round([*(seen(name, 310) for name in "ABC"), seen("D", 1), seen("E", 1), *there])
    story.round([seen("A", 1), seen("B", 400), seen("C", 400), seen("D", 1), seen("E", 1), *there])
    story.round([*(seen(name, 310) for name in "ADE"), seen("B", 700), seen("C", 700), *there])
    assert [one.devices for one in story.opened] == [("A", "B", "C"), ("A", "D", "E")]
    assert sorted(one.devices for one in story.open.values()) == [("A", "D", "E"), ("B", "C")]


def test_one_device_alone_is_named_alone_and_only_a_sign_of_life_ends_it() -> None:
    story = Story()
    others = [seen("B", 1), seen("C", 1)]
    for silent_s in (1, 80, 299):
        story.round([seen("A", silent_s), *others])
    assert story.opened == []
    for silent_s in (300, 400, 80):  # the last: heard of, but not lately
        story.round([seen("A", silent_s), *others])
    (alert,) = story.opened
    assert (alert.rule, alert.device_id, alert.site_code) == ("device_offline", "A", "LL")
    assert alert.key in story.open
    story.round([seen("A", 2), *others])
    assert story.open == {}


def test_an_undecided_device_holds_an_alert_back_for_a_minute_at_most() -> None:
    story = Story()
    for step in range(20):
        now = 300 + step * STEP_S
        story.round([seen("A", now), seen("B", 100), seen("C", 1)])
        assert bool(story.opened) == (now >= 360)


def test_devices_of_no_known_site_are_no_site() -> None:
    story = Story()
    story.round([seen("A", 400, None), seen("B", 400, None), seen("C", 1)])
    assert sorted(one.rule for one in story.opened) == ["device_offline"] * 2


def test_a_clock_is_off_beyond_the_limit_and_right_again_below_half_of_it() -> None:
    def off(offset_s: float | None, *, open_: bool = False) -> bool:
        alerts: set[Key] = {("A", "clock_off")} if open_ else set()
        return bool(judge_clocks([seen("A", 1, offset_s=offset_s)], alerts, 300.0))

    assert [off(offset) for offset in (None, 0.0, 299.0, -301.0, 1e9)] == [False, False, False, True, True]
    assert [off(offset, open_=True) for offset in (-299.0, 151.0, 149.0, None)] == [True, True, False, False]
