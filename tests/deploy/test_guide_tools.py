"""What of the guide needs Prometheus' own tools, and what takes too long for `make test`."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import prepared
from tests.deploy.tools import DEPLOY, tool
from tests.guide.blocks import blocks
from tests.guide.stage import START, GuidedServer, make_home
from tests.support import UP_DEADLINE_S, data_folder

SCRAPING = "Métriques Prometheus: Scraper Prometheus"
ALERTS = "Monitoring Production: Alertes recommandées"
BOARD = "Métriques Prometheus: Grafana Dashboard"
JOB = {"job": "gaveurs-backend", "instance": "a:9100"}
MINUTES = 30


def promtool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("promtool"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_takes_the_guides_scraping_and_ours(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(blocks()[SCRAPING].text)
    for file, folder in (("prometheus.yml", tmp_path), ("prometheus.yml", DEPLOY / "prometheus")):
        ran = promtool("check", "config", file, cwd=folder)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    (tmp_path / "prometheus.yml").write_text(blocks()[SCRAPING].text.replace("scrape_interval", "scrape_intervall"))
    assert promtool("check", "config", "prometheus.yml", cwd=tmp_path).returncode != 0


def test_the_guides_expressions_are_sound_promql(tmp_path: Path) -> None:
    panels = json.loads(blocks()[BOARD].text)["dashboard"]["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"guide:panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    (tmp_path / "alerts.yml").write_text(blocks()[ALERTS].text)
    ran = promtool("check", "rules", "panels.yml", "alerts.yml", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def series(metric: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in (JOB | labels).items())
    return {"series": f"{metric}{{{inside}}}", "values": values}


def requests(status: str, values: str) -> dict[str, str]:
    return series("http_requests_total", values, method="GET", endpoint="/api/sqal/latest", status=status)


# An alert, what happens, and whether it must be firing half an hour later: the guide's expression says the opposite.
CASES: dict[str, tuple[str, list[dict[str, str]], bool]] = {
    "0.07 % of errors": ("HighErrorRate", [requests("200", "0+60000x40"), requests("500", "0+42x40")], False),
    "a read a minute, which misses by nature": (
        "LowCacheHitRate",
        [
            series("cache_hits_total", "0x40", cache_type="latest_sample"),
            series("cache_misses_total", "0+1x40", cache_type="latest_sample"),
        ],
        False,
    ),
    "a breaker that tries again every minute": (
        "CircuitBreakerOpen",
        [
            series("circuit_breaker_state", "0 " + "1 2 " * 20, name="database"),
            series("circuit_breaker_rejected_total", "0+30x40", name="database"),
        ],
        True,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_guides_expressions_are_wrong_where_ours_are_right(case: str, tmp_path: Path) -> None:
    alert, given, wanted = CASES[case]
    (tmp_path / "guide.yml").write_text(blocks()[ALERTS].text)
    ours = sorted(str(file) for file in (DEPLOY / "prometheus" / "rules").glob("*.yml"))
    assert fires(tmp_path, ours, alert, given) is wanted
    assert fires(tmp_path, ["guide.yml"], alert, given) is not wanted


def fires(folder: Path, rules: list[str], alert: str, given: list[dict[str, str]]) -> bool:
    """Whether it fires after half an hour, by promtool's own account: asked to see none, it says what it got."""
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": given,
        "alert_rule_test": [{"eval_time": f"{MINUTES}m", "alertname": alert, "exp_alerts": []}],
    }
    (folder / "test.yml").write_text(
        yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": [test]})
    )
    ran = promtool("test", "rules", "test.yml", cwd=folder)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0 or f"alertname: {alert}" in said, said
    return ran.returncode != 0


def test_a_change_of_the_code_reloads_the_service_on_its_embedded_database(tmp_path: Path) -> None:
    with data_folder() as folder:
        prepared.copy_into(folder)
        server = GuidedServer(folder, make_home(tmp_path), blocks()[START])
        source = tmp_path / "backend-api" / "changed.py"
        source.touch()
        try:
            server.start()
            first = server.postmaster().pid
            source.write_text("")
            deadline = time.monotonic() + 2 * UP_DEADLINE_S  # one ends, and one starts
            while not re.search("(WatchFiles|StatReload) detected", server.log()):
                assert time.monotonic() < deadline, server.log()[-2000:]
                time.sleep(0.1)
            while len(re.findall('"event": ?"started"', server.log())) < 2:
                assert time.monotonic() < deadline, server.log()[-2000:]
                time.sleep(0.1)
            server.wait_ready()
            assert server.postmaster().pid != first
            assert "lost_acked" in server.log(), "the old one drained"
            server.stop()
        finally:
            server.clean_up()
