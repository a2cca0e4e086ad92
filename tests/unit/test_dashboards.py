"""Dashboards are what the code makes of the metrics, and hang together."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from typer.testing import CliRunner

from app.cli_dashboards import dashboards as command
from app.core.errors import CannotStartError
from app.core.metrics import Metrics
from app.dashboards import files, recorded
from app.dashboards.alert_panels import PANEL_OF_ALERT, key, runbook_url
from app.dashboards.panels import Face, Line, graph
from app.dashboards.promql import Like, process, shared
from app.dashboards.sql import DEVICE_SITE, ServiceLevels
from app.settings import Settings
from app.sqal.devices import SITE_SQL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"
SETTINGS = Settings(_env_file=None)
LEVELS = ServiceLevels(SETTINGS.bug_sla_acknowledge_hours, SETTINGS.bug_sla_resolve_hours)
UIDS = {f"gaveurs-{name}" for name in ("infrastructure", "business", "devices", "bugs", "slo")}
WIDTH = 24


@pytest.fixture(scope="module")
def boards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def named(rule: dict[str, Any]) -> str:
    return key(rule["alert"], rule["labels"].get("window"))


def test_the_files_are_what_the_code_makes() -> None:
    assert files.outdated(FOLDER, LEVELS) == [], "run `gaveurs dashboards build`"


def test_each_dashboard_and_each_panel_can_be_named(boards: list[dict[str, Any]]) -> None:
    assert {board["uid"] for board in boards} == UIDS
    assert len({board["title"] for board in boards}) == len(UIDS)
    for board in boards:
        numbers = [panel["id"] for panel in board["panels"]]
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(numbers)) == len(numbers), board["uid"]
        assert len(set(titles)) == len(titles), board["uid"]


def test_every_panel_says_what_it_shows_and_in_what_unit(boards: list[dict[str, Any]]) -> None:
    for panel in [panel for board in boards for panel in panels(board)]:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


def test_panels_stand_beside_each_other(boards: list[dict[str, Any]]) -> None:
    for board in boards:
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert at["x"] + at["w"] <= WIDTH, (board["uid"], panel["title"])
            assert not cells & taken, (board["uid"], panel["title"])
            taken |= cells


def test_grafana_s_own_model_reads_what_is_written(boards: list[dict[str, Any]]) -> None:
    register_default_plugins()
    for board in boards:
        read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
        for one in (read, board):
            del one["annotations"]  # their words are ours: the SDK's model drops them
        assert read == board


def test_a_variable_is_offered_where_a_query_takes_it_and_nowhere_else(boards: list[dict[str, Any]]) -> None:
    for board in boards:
        used = set(re.findall(r"\$\{?(site|instance|datasource|postgresql)\b", json.dumps(panels(board))))
        assert {variable["name"] for variable in board["templating"]["list"]} == used, board["uid"]


def test_alerts_and_panels_lead_to_each_other(boards: list[dict[str, Any]]) -> None:
    """Every alert names a dashboard; its panel there links to its runbook."""
    known = {(board["uid"], panel["id"]): panel for board in boards for panel in panels(board)}
    alerts = {named(rule): rule["annotations"] for rule in rules() if "alert" in rule}
    assert PANEL_OF_ALERT.keys() == alerts.keys()
    for alert, (uid, number) in PANEL_OF_ALERT.items():
        assert alerts[alert]["dashboard"] == uid, alert
        assert alerts[alert]["runbook_url"] == runbook_url(alert)
        assert runbook_url(alert) in [link["url"] for link in known[uid, number]["links"]], alert
    assert runbook_url("ErrorBudgetBurn 1h").endswith("#errorbudgetburn")


BOUND = re.compile(r"(?:< |> |>= )((?:[\d.]+ \* )*[\d.]+)\s*(?:$|\n|and |or |unless )")
OTHER_MEASURE = {
    "BackupFailed": "compares two times; its panel shows the age of one",
    "ErrorBudgetBurn": "of the budget: the next test has it",
}


def test_a_panel_is_red_where_its_alert_fires(boards: list[dict[str, Any]]) -> None:
    """Wherever an alert has a number and its panel a red step. Of counts, more than 0 is one."""
    known = {(board["uid"], panel["id"]): panel for board in boards for panel in panels(board)}
    compared, wrong = set(), {}
    for rule in [rule for rule in rules() if "alert" in rule]:
        red = _red(known[PANEL_OF_ALERT[named(rule)]])
        first = BOUND.search(rule["expr"])  # what follows are floors of traffic
        if red is None or first is None or rule["alert"] in OTHER_MEASURE:
            continue
        bound = math.prod(map(float, first[1].split(" * ")))
        compared.add(rule["alert"])
        if red not in {bound, bound + 1 if bound == int(bound) else bound}:
            wrong[rule["alert"]] = (red, bound)
    assert wrong == {}
    assert compared >= {"BackupTooOld", "BackupNotVerified", "DiskNearlyFull", "LowCacheHitRate", "HighErrorRate"}
    assert compared >= {"AckLatencyHigh", "DatabaseSlow", "IngestQueueFilling", "QuarantineNearlyFull"}


def _red(panel: dict[str, Any]) -> float | None:
    """The bound of the red step: where it begins, or where the one above it begins."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for place, step in enumerate(steps):
        if step["color"] == "red":
            found = steps[place + 1 if place == 0 else place]["value"]
            return float(found)
    return None


def test_backups_are_known_while_the_database_is_away(boards: list[dict[str, Any]]) -> None:
    """As the alerts do it, for as long."""
    (span,) = {
        found for rule in rules() for found in re.findall(r"last_over_time\(backup_[^[]*\[(\w+)\]", rule["expr"])
    }
    asked = [t["expr"] for board in boards for panel in panels(board) for t in panel["targets"] if "expr" in t]
    about = [expr for expr in asked if "backup_last" in expr]
    assert len(about) == 5
    assert [expr for expr in about if not re.search(rf"last_over_time\(backup_[^[]*\[{span}\]\)", expr)] == []


def test_what_panels_take_from_recording_rules_is_recorded() -> None:
    found = {rule["record"] for rule in rules() if "record" in rule}
    assert {series.name for series in recorded.ALL} <= found


def test_an_objective_s_period_and_burn_rates_are_the_alerts(boards: list[dict[str, Any]]) -> None:
    """The four panels of burn rates have the windows and bounds of the rules."""
    board = next(board for board in boards if board["uid"] == "gaveurs-slo")
    shown = set()
    for panel in [panel for panel in panels(board) if panel["title"].startswith("Burn rate")]:
        long, short = (re.findall(r"ratio_rate(\w+)\{", target["expr"])[0] for target in panel["targets"])
        shown.add((long, short, panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]))
    watched = set()
    for rule in rules():
        if rule.get("alert") == "ErrorBudgetBurn":
            long, short = re.findall(r"slo:error:ratio_rate(\w+)", rule["expr"])
            bounds = {float(bound) for bound in re.findall(r"([\d.]+) \* slo:error_budget", rule["expr"])} or {1.0}
            watched |= {(long, short, bound) for bound in bounds}
    assert shown == watched


def test_a_device_s_site_is_found_as_the_service_finds_it() -> None:
    assert DEVICE_SITE == SITE_SQL


def test_a_query_cannot_name_a_label_that_its_metric_does_not_have() -> None:
    m = Metrics()
    with pytest.raises(ValueError, match="no label site"):
        process(m.http_requests, site="LL")
    with pytest.raises(ValueError, match="no label site"):
        process(m.http_requests).rate().sum("site")
    with pytest.raises(ValueError, match="no label code"):
        graph(Face(1, "t", "d", "short"), Line(process(m.http_requests).rate().sum("status"), "{{code}}"))
    with pytest.raises(ValueError, match="differ in their labels"):
        process(m.cache_hits).rate().sum("cache_type").over(process(m.cache_misses).rate().sum())


def test_a_query_fits_the_kind_of_its_metric() -> None:
    m = Metrics()
    with pytest.raises(ValueError, match="is a gauge, not a counter"):
        process(m.devices).rate()
    with pytest.raises(ValueError, match=r"has no bucket 0\.7"):
        process(m.sample_processing).within(0.7)


def test_what_every_replica_shows_alike_is_not_added_up() -> None:
    m = Metrics()
    with pytest.raises(ValueError, match="max, not sum"):
        shared(m.devices).now().sum("site")
    with pytest.raises(ValueError, match="aggregate it by max"):
        graph(Face(1, "t", "d", "short"), Line(shared(m.quarantine_rows).now(), ""))
    assert shared(m.bugs_open).now().max("severity").sum().text.startswith("sum(max by (severity) (")


def test_matchers_are_written_as_promql_has_them() -> None:
    m = Metrics()
    text = process(m.http_requests, status=Like("5.."), method="GET").selector()
    assert text == ('http_requests_total{job="gaveurs-backend", instance=~"$instance", status=~"5..", method="GET"}')


def test_the_command_writes_what_changed_and_finds_what_is_old(tmp_path: Path) -> None:
    run = CliRunner()
    assert run.invoke(command, ["build", "--output", str(tmp_path)]).exit_code == 0
    (tmp_path / "gaveurs-old.json").write_text("{}")
    target = tmp_path / "gaveurs-slo.json"
    target.write_text(target.read_text() + " ")
    checked = run.invoke(command, ["build", "--check", "--output", str(tmp_path)])
    assert checked.exit_code == 1
    assert "gaveurs-old.json, gaveurs-slo.json" in checked.output
    run.invoke(command, ["build", "--output", str(tmp_path)])
    assert files.outdated(tmp_path, LEVELS) == []


def test_without_the_sdk_there_is_one_line_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.cog.encoder", None)
    monkeypatch.delitem(sys.modules, "app.dashboards.files")
    monkeypatch.delattr("app.dashboards.files")
    result = CliRunner().invoke(command, ["build", "--output", str(tmp_path)])
    assert isinstance(result.exception, CannotStartError)
    assert "pip install 'gaveurs-backend[dashboards]'" in str(result.exception)
