"""Alertmanager's configuration, by amtool and by a real Alertmanager: who hears of what, and what silences what."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.deploy.catalogue_rules import ALERTS, OPTIONAL, PROMETHEUS
from tests.deploy.grafana_queries import dashboards, panels
from tests.deploy.real_alertmanager import SHIPPED, TOKEN, Alertmanager, configuration, running_alertmanager
from tests.deploy.tools import tool

ROUTES = [
    ({"alertname": "Watchdog", "severity": "info"}, "heartbeat"),
    ({"alertname": "FaultSwitchOn", "severity": "info"}, "silent"),
    ({"alertname": "HighErrorRate", "severity": "critical"}, "pager"),
    ({"alertname": "ErrorBudgetBurn", "severity": "critical", "slo": "api-availability"}, "pager"),
    ({"alertname": "ErrorBudgetBurn", "severity": "warning", "slo": "api-availability"}, "team"),
    ({"alertname": "LowCacheHitRate", "severity": "warning"}, "team"),
    ({"alertname": "CriticalBugsOpen", "severity": "warning"}, "bugs"),
    ({"alertname": "DevicesOffline", "severity": "warning", "site": "LL"}, "site-LL,silent"),
    ({"alertname": "LineSilent", "severity": "warning", "site": "LS"}, "site-LS,silent"),
    ({"alertname": "SiteOffline", "severity": "critical", "site": "MT"}, "site-MT,pager"),
    ({"alertname": "SiteOffline", "severity": "critical", "site": "new"}, "pager"),
    ({"alertname": "DevicesOffline", "severity": "warning", "site": "unknown"}, "team"),
]


def _amtool(*arguments: str) -> str:
    command = [tool("amtool"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_the_configuration() -> None:
    assert "1 templates" in _amtool("check-config", str(SHIPPED))


@pytest.mark.parametrize(("labels", "receivers"), ROUTES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_alert_goes_to_whom_it_concerns(labels: dict[str, str], receivers: str) -> None:
    shown = [f"{name}={value}" for name, value in labels.items()]
    _amtool("config", "routes", "test", f"--config.file={SHIPPED}", f"--verify.receivers={receivers}", *shown)


def test_every_receiver_is_reached_by_the_table() -> None:
    reached = {name for _, receivers in ROUTES for name in receivers.split(",")}
    assert reached == {one["name"] for one in yaml.safe_load(SHIPPED.read_text())["receivers"]}


def test_routes_and_inhibitions_name_alerts_that_exist() -> None:
    named = set()
    for matcher in _matchers(yaml.safe_load(SHIPPED.read_text())):
        label, _, value = matcher.replace("=~", "=").partition("=")
        if label == "alertname":
            named |= set(value.strip('"').split("|"))
    assert named
    assert named <= {alert["alert"] for alert in (*ALERTS, *OPTIONAL)}


NIGHT = ("SiteOffline", "DevicesOffline", "LineSilent")


def test_a_site_that_is_switched_off_for_the_night_wakes_nobody() -> None:
    """Wherever such an alert arrives, of a site that has a route and of one that has none, shifts alone let it out."""
    top = yaml.safe_load(SHIPPED.read_text())["route"]
    for name in NIGHT:
        severity = next(alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == name)
        for site in ("LL", "LS", "MT", "new"):
            taken = _arrivals(top, {"alertname": name, "severity": severity, "site": site})
            heard = [route for route in taken if route["receiver"] != "silent"]
            assert heard, (name, site)
            assert [route.get("active_time_intervals") for route in heard] == [["shifts"]] * len(heard), (name, site)


def _arrivals(route: dict[str, Any], labels: dict[str, str]) -> list[dict[str, Any]]:
    """The routes where Alertmanager would leave the alert; each with its receiver, its own or its parent's."""
    taken: list[dict[str, Any]] = []
    for child in route.get("routes", ()):
        if all(_matches(matcher, labels) for matcher in child["matchers"]):
            taken += _arrivals({"receiver": route["receiver"]} | child, labels)
            if not child.get("continue"):
                break
    return taken or [route]


def _matches(matcher: str, labels: dict[str, str]) -> bool:
    found = re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher)
    assert found, matcher
    pattern = found[3] if found[2] == "=~" else re.escape(found[3])
    return re.fullmatch(pattern, labels.get(found[1], "")) is not None


def test_shifts_are_those_of_the_settings_on_working_days() -> None:
    """A shift lasts until the next one begins: the last of Friday until Saturday morning. On Monday boxes get time."""
    settings = Settings(_env_file=None)
    hours, minutes = map(int, str(settings.shifts[0])[:5].split(":"))
    first, day = hours * 60 + minutes, 24 * 60
    (interval,) = yaml.safe_load(SHIPPED.read_text())["time_intervals"]
    active = {minute for one in interval["time_intervals"] for minute in _minutes(one)}
    assert active == set(range(first + 15, 5 * day + first))
    assert {one["location"] for one in interval["time_intervals"]} == {str(settings.timezone)}


def _minutes(interval: dict[str, Any]) -> Iterator[int]:
    """Of the week, from Monday 00:00."""
    days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    for weekdays in interval["weekdays"]:
        begin, _, end = weekdays.partition(":")
        for day in range(days.index(begin), days.index(end or begin) + 1):
            for time_of_day in interval.get("times", [{"start_time": "00:00", "end_time": "24:00"}]):
                (h, m), (to_h, to_m) = (map(int, time_of_day[key].split(":")) for key in ("start_time", "end_time"))
                yield from range(day * 1440 + h * 60 + m, day * 1440 + to_h * 60 + to_m)


def _matchers(value: Any) -> list[str]:
    if isinstance(value, list):
        return [one for part in value for one in _matchers(part)]
    if not isinstance(value, dict):
        return []
    own = [one for name in ("matchers", "source_matchers", "target_matchers") for one in value.get(name, ())]
    return own + [one for part in value.values() for one in _matchers(part)]


def test_no_secret_is_in_the_configuration() -> None:
    secret = {"password", "token", "credentials", "api_url", "api_key", "routing_key", "service_key", "secret"}

    def inline(value: Any, path: str = "") -> list[str]:
        if isinstance(value, list):
            return [found for part in value for found in inline(part, path)]
        if not isinstance(value, dict):
            return []
        here = [f"{path}.{name}" for name in value if any(name.endswith(word) for word in secret)]
        return here + [found for name, part in value.items() for found in inline(part, f"{path}.{name}")]

    assert inline({"smtp_auth_password": "x"}) == [".smtp_auth_password"]
    assert inline(yaml.safe_load(SHIPPED.read_text())) == []


def _settle(alertmanager: Alertmanager, wanted: dict[str, bool]) -> None:
    deadline = time.monotonic() + 15
    while (seen := alertmanager.inhibited()) != wanted:
        assert time.monotonic() < deadline, (seen, wanted)
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("firing", "inhibited"),
    [
        (
            [
                {"alertname": "SiteOffline", "severity": "critical", "site": "LL"},
                {"alertname": "DevicesOffline", "severity": "warning", "site": "LL"},
                {"alertname": "LineSilent", "severity": "warning", "site": "LL"},
                {"alertname": "BackupTooOld", "severity": "critical"},
            ],
            {"DevicesOffline", "LineSilent"},
        ),
        (
            [
                {"alertname": "SiteOffline", "severity": "critical", "site": "LL"},
                {"alertname": "DevicesOffline", "severity": "warning", "site": "MT"},
            ],
            set(),
        ),
        (
            [
                {"alertname": "ServiceDown", "severity": "critical"},
                {"alertname": "TargetDown", "severity": "warning", "instance": "a:9100"},
                {"alertname": "SiteOffline", "severity": "critical", "site": "LS"},
                {"alertname": "HighErrorRate", "severity": "critical"},
            ],
            {"TargetDown", "SiteOffline", "HighErrorRate"},
        ),
        (
            [
                {"alertname": "CircuitBreakerOpen", "severity": "critical", "instance": "a:9100"},
                {"alertname": "DatabasePoolExhausted", "severity": "critical", "instance": "a:9100", "pool": "reads"},
                {"alertname": "IngestQueueFilling", "severity": "warning", "instance": "b:9100"},
                {"alertname": "HighErrorRate", "severity": "critical"},
                {"alertname": "LineSilent", "severity": "warning", "site": "LL"},
                {"alertname": "DiskNearlyFull", "severity": "critical", "instance": "a:9100", "place": "data"},
                {"alertname": "DiskFillsSoon", "severity": "warning", "instance": "a:9100", "place": "attachments"},
            ],
            {"DatabasePoolExhausted"},
        ),
        (
            [
                {"alertname": "DatabaseUnreachable", "severity": "critical", "scope": "all"},
                {"alertname": "CircuitBreakerOpen", "severity": "critical", "instance": "a:9100"},
                {"alertname": "IngestQueueFilling", "severity": "warning", "instance": "b:9100"},
                {"alertname": "HighErrorRate", "severity": "critical"},
                {"alertname": "LineSilent", "severity": "warning", "site": "LL"},
                {"alertname": "ErrorBudgetBurn", "severity": "critical", "slo": "api-availability"},
            ],
            {"CircuitBreakerOpen", "IngestQueueFilling", "HighErrorRate", "LineSilent", "ErrorBudgetBurn"},
        ),
        (
            [
                {"alertname": "DatabaseUnreachable", "severity": "critical", "scope": "instance"}
                | {"instance": "a:9100"},
                {"alertname": "CircuitBreakerOpen", "severity": "critical", "instance": "a:9100"},
                {"alertname": "IngestQueueFilling", "severity": "warning", "instance": "a:9100"},
                {"alertname": "DatabasePoolExhausted", "severity": "critical", "instance": "b:9100", "pool": "reads"},
                {"alertname": "HighErrorRate", "severity": "critical"},
                {"alertname": "LineSilent", "severity": "warning", "site": "LL"},
                {"alertname": "ErrorBudgetBurn", "severity": "critical", "slo": "api-availability"},
            ],
            {"CircuitBreakerOpen", "IngestQueueFilling"},
        ),
        (
            [
                {"alertname": "DatabaseDiskNearlyFull", "severity": "critical", "instance": "n1", "mountpoint": "/a"},
                {"alertname": "DatabaseDiskFillsSoon", "severity": "warning", "instance": "n1", "mountpoint": "/a"},
            ],
            {"DatabaseDiskFillsSoon"},
        ),
        (
            [
                {"alertname": "DatabaseDiskNearlyFull", "severity": "critical", "instance": "n1", "mountpoint": "/a"},
                {"alertname": "DatabaseDiskFillsSoon", "severity": "warning", "instance": "n1", "mountpoint": "/b"},
            ],
            set(),
        ),
        (
            [
                {"alertname": "TargetDown", "severity": "warning", "instance": "a:9100"},
                {"alertname": "EventLoopLag", "severity": "warning", "instance": "a:9100"},
                {"alertname": "EventLoopBlocked", "severity": "warning", "instance": "b:9100"},
            ],
            {"EventLoopLag"},
        ),
    ],
)
def test_the_worse_alert_silences_what_follows_from_it(
    firing: list[dict[str, str]], inhibited: set[str], tmp_path: Path
) -> None:
    with running_alertmanager(tmp_path) as (alertmanager, _):
        alertmanager.post_alerts(*firing)
        _settle(alertmanager, {alert["alertname"]: alert["alertname"] in inhibited for alert in firing})


def test_a_critical_alert_silences_the_warning_of_its_name_and_objective(tmp_path: Path) -> None:
    def burn(severity: str, slo: str) -> dict[str, str]:
        return {"alertname": "ErrorBudgetBurn", "severity": severity, "slo": slo}

    with running_alertmanager(tmp_path) as (alertmanager, receiver):
        firing = [burn("critical", "api-availability"), burn("warning", "api-availability")]
        alertmanager.post_alerts(*firing, burn("warning", "ingest-latency"))
        wanted = {("critical", "api-availability"): False, ("warning", "api-availability"): True}
        wanted[("warning", "ingest-latency")] = False
        deadline = time.monotonic() + 15
        while {
            (a["labels"]["severity"], a["labels"]["slo"]): bool(a["status"]["inhibitedBy"])
            for a in alertmanager.alerts()
        } != wanted or {path for path, _, _ in receiver.heard} != {"/pager", "/slack"}:
            assert time.monotonic() < deadline, (alertmanager.alerts(), receiver.heard)
            time.sleep(0.2)
        told = {path: (authorization, document) for path, authorization, document in receiver.heard}
    assert told["/pager"][0] == f"Bearer {TOKEN}"
    message = told["/slack"][1]["attachments"][0]
    assert message["title"] == "[FIRING 1] warning ErrorBudgetBurn"
    assert "a summary\na description\nSince 2" in message["text"]
    assert "What to do: https://example.org/" in message["text"]
    assert message["text"].rstrip().endswith("In Grafana: https://grafana.example.org/d/a-board?viewPanel=7")


def test_a_message_leads_to_the_panel_for_its_site_and_instance_and_names_the_installation(tmp_path: Path) -> None:
    with running_alertmanager(tmp_path) as (alertmanager, receiver):
        labels = {"alertname": "DiskFillsSoon", "severity": "warning", "cluster": "north", "instance": "a:9100"}
        alertmanager.post_alerts(labels | {"site": "new one", "job": "gaveurs-backend"})
        deadline = time.monotonic() + 15
        while not receiver.heard:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        message = receiver.heard[0][2]["attachments"][0]
    assert message["title"] == "[FIRING 1] north warning DiskFillsSoon new one"
    wanted = "https://grafana.example.org/d/a-board?viewPanel=7&var-site=new+one&var-instance=a%3A9100"
    assert message["text"].rstrip().endswith(wanted)


def _promised() -> list[dict[str, Any]]:
    """Each alert with an instance as promtool's cases promise it: one of a name, its labels and its annotations."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(PROMETHEUS.glob("**/tests/*.yml")):
        checks = [
            check for case in yaml.safe_load(path.read_text())["tests"] for check in case.get("alert_rule_test", ())
        ]
        for check in checks:
            for one in check["exp_alerts"]:
                if "instance" in one["exp_labels"]:
                    found[check["alertname"]] = {"labels": one["exp_labels"], "annotations": one["exp_annotations"]}
    return [{**one, "labels": one["labels"] | {"alertname": name}} for name, one in found.items()]


def test_a_link_chooses_an_instance_where_the_panel_asks_for_one_of_the_services_own(tmp_path: Path) -> None:
    """Of all the alerts that have one: another's address would leave every panel empty, and red where nothing is 0."""
    promised = _promised()
    chosen = {
        (board["uid"], str(one["id"])): "$instance" in str(one) for board in dashboards() for one in panels(board)
    }
    wanted: dict[str, tuple[bool, bool]] = {}
    for one in promised:
        panel = (one["annotations"].get("dashboard"), one["annotations"].get("panel"))
        ours = one["labels"]["job"] == "gaveurs-backend"
        wanted[one["labels"]["alertname"]] = (panel != (None, None), ours and chosen[panel])
    assert {(True, True), (True, False), (False, False)} == set(wanted.values())
    with running_alertmanager(tmp_path) as (alertmanager, receiver):
        for place, one in enumerate(promised):  # each in an installation of its own, so that none silences another
            one["labels"] |= {"severity": "warning", "cluster": str(place)}
        alertmanager.post("/api/v2/alerts", promised)
        deadline = time.monotonic() + 20
        while len(receiver.heard) < len(promised):
            assert time.monotonic() < deadline, len(receiver.heard)
            time.sleep(0.2)
        messages = [document["attachments"][0] for _, _, document in receiver.heard]
    told = {m["title"].split()[-1]: ("/d/" in m["text"], "&var-instance=" in m["text"]) for m in messages}
    assert told == wanted


def test_what_happens_in_one_installation_silences_nothing_in_another(tmp_path: Path) -> None:
    with running_alertmanager(tmp_path) as (alertmanager, _):
        down = {"alertname": "ServiceDown", "severity": "critical", "cluster": "north"}
        errors = {"alertname": "HighErrorRate", "severity": "critical"}
        burn = {"alertname": "ErrorBudgetBurn", "severity": "critical"}
        alertmanager.post_alerts(down, errors | {"cluster": "south"}, burn | {"cluster": "north"})
        _settle(alertmanager, {"ServiceDown": False, "HighErrorRate": False, "ErrorBudgetBurn": True})
    for rule in yaml.safe_load(SHIPPED.read_text())["inhibit_rules"]:
        assert "cluster" in rule["equal"], rule


def test_the_configuration_with_a_tests_receivers_is_the_shipped_one(tmp_path: Path) -> None:
    ours, shipped = configuration(tmp_path, "http://127.0.0.1:1"), yaml.safe_load(SHIPPED.read_text())
    assert ours["inhibit_rules"] == shipped["inhibit_rules"]
    assert [route["receiver"] for route in ours["route"]["routes"]] == [
        route["receiver"] for route in shipped["route"]["routes"]
    ]
