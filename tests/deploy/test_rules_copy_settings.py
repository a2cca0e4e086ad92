"""Numbers of the settings that rules, panels, runbooks and Alertmanager repeat are the settings' own defaults."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from app.core.faults import LONGEST_S
from app.settings import Settings
from app.sqal.intake import HIGH_WATER
from tests.deploy.catalogue_rules import ALERTS, PROMETHEUS
from tests.deploy.grafana_queries import dashboards, panels
from tests.deploy.tools import DEPLOY, ROOT

SETTINGS: Final = Settings(_env_file=None)
SECONDS: Final = {"s": 1, "min": 60, "m": 60, "minutes": 60, "h": 3600, "hours": 3600, "": 1}
# "NAME (20)", "NAME (10 min)": a default said in passing.
SAID: Final = re.compile(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+) \((\d+(?:\.\d+)?) ?(min|minutes|hours|[smh]|)\)")
RANGE: Final = re.compile(r"\[(\d+)([smh])\]")


def _alert(name: str) -> dict[str, Any]:
    (found,) = [rule for rule in ALERTS if rule["alert"] == name]
    return found


def _windows(name: str) -> set[int]:
    return {int(number) * SECONDS[unit] for number, unit in RANGE.findall(_alert(name)["expr"])}


def _texts() -> dict[str, str]:
    folders = (DEPLOY / "prometheus", DEPLOY / "alertmanager", DEPLOY / "systemd", ROOT / "app" / "dashboards")
    files = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    files += [ROOT / "docs" / name for name in ("runbooks.md", "slo.md", "dashboards.md")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}


def test_what_is_said_of_a_setting_is_its_default() -> None:
    said = [(where, *found) for where, text in _texts().items() for found in SAID.findall(text)]
    assert {name for _, name, _, _ in said} >= {
        "ALERT_QUARANTINE_ROWS", "ALERT_QUARANTINE_WINDOW_S", "DEVICE_OFFLINE_AFTER_S", "LOOP_BLOCKED_AFTER_S",
    }  # fmt: skip
    wrong = [one for one in said if getattr(SETTINGS, one[1].lower()) != float(one[2]) * SECONDS[one[3]]]
    assert wrong == []


def test_quarantine_grows_for_prometheus_as_for_the_service() -> None:
    rule = _alert("QuarantineGrowing")
    assert _windows("QuarantineGrowing") == {SETTINGS.alert_quarantine_window_s}
    assert rule["expr"].endswith(f">= {SETTINGS.alert_quarantine_rows}")
    minutes = f"{SETTINGS.alert_quarantine_window_s / 60:g} minutes"
    assert rule["annotations"]["description"].endswith(f"within {minutes}.")
    (panel,) = [one for board in dashboards() for one in panels(board) if one["title"] == "Into quarantine, by code"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == SETTINGS.alert_quarantine_rows
    assert f"**Means** {SETTINGS.alert_quarantine_rows} messages or more were refused and kept within {minutes}." in (
        ROOT / "docs" / "runbooks.md"
    ).read_text(encoding="utf-8")


def test_a_breaker_that_trips_again_and_again_is_seen_in_every_window() -> None:
    """Between two tries no call need come: the window holds the pause and two scrapes."""
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert min(_windows("CircuitBreakerOpen")) >= SETTINGS.breaker_timeout_s + 2 * int(scrape.removesuffix("s"))


def test_a_silent_line_is_remembered_for_a_shift() -> None:
    begins = sorted(int(str(one)[:2]) for one in SETTINGS.shifts)
    lengths = {(after - before) % 24 for before, after in zip(begins, [*begins[1:], begins[0]], strict=True)}
    assert {hours * 3600 for hours in lengths} == _windows("LineSilent")


def test_a_critical_bug_may_be_open_as_long_as_its_answer_is_granted() -> None:
    granted = SETTINGS.bug_sla_acknowledge_hours["critical"]
    assert _alert("CriticalBugsOpen")["for"] == f"{granted:g}h"


def test_a_queue_fills_before_devices_are_slowed_down() -> None:
    bounds = {float(bound) for bound in re.findall(r"> ([\d.]+)", _alert("IngestQueueFilling")["expr"])}
    assert max(bounds) < HIGH_WATER
    assert _texts()["deploy/prometheus/rules/ingest.yml"].count(f"from {HIGH_WATER:.0%}".replace("%", " %")) == 1


def test_a_fault_ends_when_its_alert_says() -> None:
    assert _alert("FaultSwitchOn")["annotations"]["description"].endswith("within an hour.")
    assert SECONDS["h"] == LONGEST_S


def test_values_live_as_long_as_the_rule_of_the_cache_says() -> None:
    ages = [getattr(SETTINGS, name) for name in Settings.model_fields if name.startswith("cache_ttl_")]
    said = f"values live for {min(ages):g} s to {max(ages) / 60:g} min"
    assert said in _texts()["deploy/prometheus/rules/service.yml"]


def test_sites_have_routes() -> None:
    text = _texts()["deploy/alertmanager/alertmanager.yml"]
    assert re.findall(r"""'site="(\w+)"'""", text) == list(SETTINGS.sites)
    assert re.findall(r"""'site=~"([^"]+)"'""", text) == ["|".join(SETTINGS.sites)]
