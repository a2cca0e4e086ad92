"""Prometheus's configuration, rules and their tests, by promtool; and that rules name what the service shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.metric_types import Registry
from tests.deploy.catalogue import MONITORING, Catalogue, parse, product
from tests.deploy.catalogue_rules import ALERTS, GROUPS, PROMETHEUS, RULE_FILES, RULES, with_monitoring
from tests.deploy.real_prometheus import running_prometheus
from tests.deploy.rule_scale import scaled_expr, scaled_rules
from tests.deploy.tools import ROOT, tool

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
CASES: list[dict[str, Any]] = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
CHECKS: list[dict[str, Any]] = [check for case in CASES for check in case.get("alert_rule_test", ())]
RUNBOOKS = ROOT / "docs" / "runbooks.md"
RUNBOOK_URL = "https://github.com/euralis/gaveurs-backend/blob/main/docs/runbooks.md#"
DASHBOARDS = {f"gaveurs-{name}" for name in ("infrastructure", "business", "devices", "bugs", "slo")}
ALWAYS_FIRING = {"Watchdog"}  # its silence is what tells
GUIDE = {"HighErrorRate": "5m", "LowCacheHitRate": "10m", "DatabasePoolExhausted": "1m", "CircuitBreakerOpen": "5m"}


def _promtool(*arguments: str | Path) -> str:
    done = _run_promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _run_promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [tool("promtool"), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def _alert_names() -> set[str]:
    return {rule["alert"] for rule in ALERTS}


def test_promtool_accepts_configuration_and_rules() -> None:
    shown = _promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    assert f"SUCCESS: {len(RULE_FILES)} rule files found" in shown


def test_the_commented_variant_with_a_key_is_a_configuration_too(tmp_path: Path) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    begin = text.index("  # - job_name: gaveurs-backend")
    variant = re.sub(r"(?m)^  # ", "  ", text[begin : text.index("\n\n", begin)])
    key = tmp_path / "metrics_key"
    key.write_text("key")
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs:\n{variant.replace('/run/secrets/metrics_key', str(key))}\n"
    )
    _promtool("check", "config", tmp_path / "prometheus.yml")
    (job,) = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["backend:8000"]}]
    assert job["authorization"] == {"credentials_file": str(key)}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    _promtool("test", "rules", path)


@pytest.mark.parametrize("path", sorted((PROMETHEUS / "optional").glob("*.yml")), ids=lambda path: path.stem)
def test_optional_rules_are_good_and_are_not_loaded(path: Path) -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    _promtool("test", "rules", path.parent / "tests" / path.name)
    assert yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["rule_files"] == ["rules/*.yml"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_what_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    annotations = alert["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url", "dashboard", "panel"}
    assert annotations["summary"]
    assert annotations["description"]
    assert annotations["dashboard"] in DASHBOARDS
    assert annotations["runbook_url"] == RUNBOOK_URL + alert["alert"].lower()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = set(re.findall(r"(?m)^## (\w+)$", RUNBOOKS.read_text()))
    assert headings == _alert_names()


def test_every_alert_has_a_case_that_fires_and_one_that_must_not() -> None:
    fires = {check["alertname"] for check in CHECKS if check["exp_alerts"]}
    quiet = {check["alertname"] for check in CHECKS if not check["exp_alerts"]}
    assert fires == _alert_names()
    assert quiet == _alert_names() - ALWAYS_FIRING


def test_every_window_of_the_error_budget_has_a_case_that_fires() -> None:
    fired = {
        (one["exp_labels"]["window"], one["exp_labels"]["severity"])
        for check in CHECKS
        if check["alertname"] == "ErrorBudgetBurn"
        for one in check["exp_alerts"]
    }
    windows = {(r["labels"]["window"], r["labels"]["severity"]) for r in ALERTS if r["alert"] == "ErrorBudgetBurn"}
    assert fired == windows


def test_the_guides_alerts_keep_their_names_and_times() -> None:
    assert {rule["alert"]: rule["for"] for rule in ALERTS if rule["alert"] in GUIDE} == GUIDE


def _queries() -> Iterator[tuple[str, str]]:
    """Every expression, and every query inside a text, by the name of its rule."""
    for rule in RULES:
        name = rule.get("record") or rule["alert"]
        yield name, rule["expr"]
        for text in rule.get("annotations", {}).values():
            for query in re.findall(r'printf\s+"([^"]*(?:\\.[^"]*)*)"[^|]*\|\s*query', text):
                yield name, query.replace("%q", '"$value"')


def test_rules_name_metrics_labels_and_values_that_exist() -> None:
    known = with_monitoring()
    wrong = {name: problems for name, expr in _queries() if (problems := known.problems(expr))}
    assert wrong == {}
    assert any("site:devices_offline:ratio" in expr and "$value" in expr for _, expr in _queries())


def test_every_selector_of_a_metric_names_the_job() -> None:
    """Other programs have an `http_requests_total` too."""
    jobs = {name: {"gaveurs-backend"} for name in product().labels}
    jobs |= {name: {job} for name, (job, _) in MONITORING.items()} | {"up": {"gaveurs-backend", "alertmanager"}}
    for name, expr in _queries():
        for metric, matchers in parse(expr).selectors:
            if metric in jobs:
                named = {m.value for m in matchers if (m.label, m.operator) == ("job", "=")}
                assert len(named) == 1, (name, expr)
                assert named <= jobs[metric], (name, expr)


def test_the_jobs_that_rules_name_are_those_of_the_configuration() -> None:
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    names = {one["job_name"] for one in configuration["scrape_configs"]}
    assert {job for job, _ in MONITORING.values()} | {"gaveurs-backend"} == names
    assert configuration["global"]["external_labels"].keys() == {"cluster"}


def test_what_no_replica_counts_alone_is_never_summed() -> None:
    """The database's figures are shown by every replica: added up they would be wrong by their number."""
    shared = (
        r"(devices|bugs_\w+|quarantine_(rows|bytes)|backup_\w+|database_size_bytes|alerts_open|webhook_\w+_waiting)"
    )
    found = [rule["expr"] for rule in RULES if re.search(rf"sum[^(]*\([^(]*\)?\s*\(?\s*{shared}\{{", rule["expr"])]
    assert found == []
    assert re.search(rf"sum[^(]*\([^(]*\)?\s*\(?\s*{shared}\{{", 'sum by (job) (bugs_open{job="x"})')


def test_tests_feed_only_series_that_exist() -> None:
    known = with_monitoring()
    for case in CASES:
        for one in case["input_series"]:
            assert known.problems(one["series"]) == [], one


def test_a_renamed_metric_a_wrong_label_and_a_wrong_value_are_found() -> None:
    known = product()
    assert known.problems("rate(http_request_total[5m])") == ["no metric http_request_total"]
    assert known.problems('http_requests_total{code="200"}') == ["http_requests_total has no label code"]
    assert known.problems("sum by (path) (http_requests_total)") == ["no label path in this query"]
    assert known.problems('http_requests_total{endpoint="/api/sqal/lately"}') == [
        "http_requests_total: endpoint is never /api/sqal/lately"
    ]
    assert known.problems('devices{state=~"offline|off"}') == ["devices: state is never off"]
    assert known.problems('circuit_breaker_state{name="db"}') == ["circuit_breaker_state: name is never db"]
    assert known.problems('db_pool_waiters{pool="checks"}') == ["db_pool_waiters: pool is never checks"]
    assert known.problems('http_request_duration_seconds_bucket{le="0.7"}') != []
    assert known.problems('build_info{version="0.1.0"}') == []
    unset = Catalogue({"unset": frozenset({"kind"})}).with_rules(
        [{"record": "a:unset:sum", "expr": "sum by (kind) (unset)"}]
    )
    assert unset.problems('unset{kind="x"}') == ["unset: kind is never x"]
    assert unset.problems('a:unset:sum{kind="x"}') == ["a:unset:sum: kind is never x"]
    assert known.with_rules(RULES).problems('site:devices:count{state="off"}') == [
        "site:devices:count: state is never off"
    ]
    assert known.problems("http_request_duration_seconds") == ["no metric http_request_duration_seconds"]
    assert known.problems('up{job="x"} * on (job) group_left (version) build_info{instance=~"$instance"}') == []
    with pytest.raises(ValueError, match="is missing"):
        parse('up{job="x"')


def test_a_metric_that_the_code_renames_makes_rules_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Registry.counter

    def renamed(self: Registry, name: str, *rest: Any) -> Any:
        return counter(self, name.replace("http_requests_total", "http_answers_total"), *rest)

    monkeypatch.setattr(Registry, "counter", renamed)
    after = Catalogue(product.__wrapped__().labels).with_rules(RULES)
    assert any("no metric http_requests_total" in after.problems(expr) for _, expr in _queries())


def test_prometheus_itself_evaluates_every_rule_without_an_error(tmp_path: Path) -> None:
    rules = scaled_rules(RULE_FILES, tmp_path / "rules", 30)
    with running_prometheus(tmp_path, ["127.0.0.1:9"], rules=rules, every_s=0.5) as prometheus:
        prometheus.wait_until(
            lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()), 30, "rules must be evaluated"
        )
        loaded = prometheus.rules()
        assert len(loaded) == len(RULES)
        assert [(rule["name"], rule["lastError"]) for rule in loaded if rule["health"] != "ok"] == []


def test_rules_are_scaled_in_time_alone() -> None:
    expr = 'rate(a{b="[5m] offset 1h"}[5m] offset 1h30m) > 300 and max_over_time(c[1h:30s]) < 5'
    scaled = 'rate(a{b="[5m] offset 1h"}[15000ms] offset 270000ms) > 300 and max_over_time(c[180000ms:1500ms]) < 5'
    assert scaled_expr(expr, 20) == scaled
    left = r"\[[^\]]*\d(?!ms)[smhdw][^\]]*\]|offset\s+\d+(?!ms)[smhdw]\b"
    assert any(re.search(left, rule["expr"]) for rule in RULES)
    assert not any(re.search(left, scaled_expr(rule["expr"], 1)) for rule in RULES)


def test_groups_have_names_of_their_own() -> None:
    names = [group["name"] for group in GROUPS]
    assert len(names) == len(set(names))


def test_the_guides_expressions_as_written_fail_the_tests_of_rules(tmp_path: Path) -> None:
    for name, theirs in {
        "HighErrorRate": 'rate(http_requests_total{status=~"5.."}[5m]) / rate(http_requests_total[5m]) > 0.05',
        "LowCacheHitRate": "rate(cache_hits_total[5m]) / (rate(cache_hits_total[5m]) + rate(cache_misses_total[5m])) < 0.5",
        "DatabasePoolExhausted": "db_connection_pool_available == 0",
        "CircuitBreakerOpen": 'circuit_breaker_state{name="database"} == 1',
    }.items():
        copy = tmp_path / name
        shutil.copytree(PROMETHEUS, copy)
        document = yaml.safe_load((copy / "rules" / "service.yml").read_text())
        rule = next(r for g in document["groups"] for r in g["rules"] if r.get("alert") == name)
        rule["expr"] = theirs
        (copy / "rules" / "service.yml").write_text(yaml.safe_dump(document))
        done = _run_promtool("test", "rules", copy / "tests" / "guide.yml")
        assert done.returncode != 0
        assert name in done.stdout + done.stderr
