"""Blocks that stand in files of the repository: manifests, scraping, dashboards, alerts, trees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from app.core.metrics import Metrics
from tests.guide.blocks import ROOT

if TYPE_CHECKING:
    from tests.guide.blocks import Block
    from tests.guide.stage import Stage

DEPLOY = ROOT / "deploy"
MISSING_BEFORE = {
    "Pas de cache": "app/core/cache.py",
    "Shutdown brutal": "app/core/graceful_shutdown.py",
    "Health check basique": "app/core/health.py",
    "4 métriques Prometheus": "app/core/metrics.py",
    "Pas de circuit breaker": "app/core/circuit_breaker.py",
    "Pas de rate limit": "app/core/rate_limiter.py",
}
RENAMED = {"app/routers/bug_tracking.py": "app/routers/bugs.py"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
PANELS = {
    "Request Rate": ("gaveurs-infrastructure", "Request rate"),
    "Cache Hit Rate": ("gaveurs-infrastructure", "Cache hit rate"),
    "Quality Score Distribution": ("gaveurs-business", "Quality score distribution"),
}
_TREE_LINE = re.compile(r"([│ ]*)[├└]── (\S+)")


def before(block: Block, _stage: Stage) -> None:
    """What was missing is there."""
    missing = [line.removeprefix("❌ ") for line in block.text.splitlines() if line.startswith("❌")]
    assert missing == list(MISSING_BEFORE)
    for path in MISSING_BEFORE.values():
        assert (ROOT / path).is_file(), path
    assert len(Metrics().registry.families) > 20


def after(block: Block, _stage: Stage) -> None:
    """Each file that is named is there, one of them under another name."""
    files = [path for path in tree(block.text) if path.suffix]
    assert len(files) == 8
    for path in files:
        assert (ROOT / RENAMED.get(str(path), str(path))).is_file(), path


def tree(text: str) -> list[Path]:
    """Paths below the top folder, which is the repository."""
    found: list[Path] = []
    parents: list[str] = []
    for line in text.splitlines():
        if matched := _TREE_LINE.match(line):
            depth = len(matched[1]) // 4
            parents[depth:] = [matched[2].rstrip("/")]
            found.append(Path(*parents))
    return found


def manifests(kind: str) -> list[dict[str, Any]]:
    """Of the base, by kind."""
    base = DEPLOY / "kubernetes" / "base"
    read = (one for file in sorted(base.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text()))
    return [one for one in read if one and one["kind"] == kind]


def kubernetes_probes(block: Block, stage: Stage) -> None:
    """Paths, port and numbers are the Deployment's; the paths are routes that answer."""
    (wanted,) = yaml.safe_load(block.text)["spec"]["containers"]
    containers = [
        container
        for one in manifests("Deployment")
        for container in one["spec"]["template"]["spec"]["containers"]
        if container["name"] == wanted["name"] and "startupProbe" in container
    ]
    (ours,) = containers
    for name in PROBES:
        probe = wanted[name]
        assert ours[name] | probe == ours[name], name
        assert stage.server.request(probe["httpGet"]["path"])[0] == 200
    assert wanted["ports"][0]["containerPort"] in {port["containerPort"] for port in ours["ports"]}


def scraping(block: Block, stage: Stage) -> None:
    """The same job; the target is the management port, which needs no key."""
    (wanted,) = yaml.safe_load(block.text)["scrape_configs"]
    ours = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = [one for one in ours["scrape_configs"] if one["job_name"] == wanted["job_name"]]
    assert job.get("metrics_path", "/metrics") == wanted["metrics_path"]
    assert job.get("scrape_interval", ours["global"]["scrape_interval"]) == wanted["scrape_interval"]
    assert [one["targets"] for one in job["static_configs"]] == [["backend:9100"]]
    assert stage.server.request(wanted["metrics_path"])[0] == 200


def dashboards() -> dict[str, list[str]]:
    """Titles of panels by dashboard, those in rows included."""
    found = {}
    for file in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        board = json.loads(file.read_text())
        panels = [*board["panels"], *(inner for one in board["panels"] for inner in one.get("panels", ()))]
        found[board["uid"]] = [one.get("title", "") for one in panels]
    return found


def grafana(block: Block, stage: Stage) -> None:
    wanted = json.loads(block.text)["dashboard"]
    ours = dashboards()
    assert [panel["title"] for panel in wanted["panels"]] == list(PANELS)
    for uid, title in PANELS.values():
        assert title in ours[uid], title
    known(stage, [target["expr"] for panel in wanted["panels"] for target in panel["targets"]])


def known(stage: Stage, expressions: list[str]) -> None:
    """Every metric in them is one that the service shows."""
    names = {name for family in stage.families().values() for name in (family.name, f"{family.name}_total")}
    for expression in expressions:
        named = set(re.findall(r"\b(?!rate\b)[a-z]+(?:_[a-z]+)+(?=[\[{\s)]|$)", expression))
        assert named, expression
        assert named <= names, named - names


def alerts(block: Block, stage: Stage) -> None:
    """Names, durations and summaries are kept; expressions are corrected (tests/deploy proves why)."""
    (group,) = yaml.safe_load(block.text)["groups"]
    files = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    ours = {rule["alert"]: rule for one in groups for rule in one["rules"] if "alert" in rule}
    assert len(group["rules"]) == 4
    for rule in group["rules"]:
        kept = ours[rule["alert"]]
        assert (kept["for"], kept["annotations"]["summary"]) == (rule["for"], rule["annotations"]["summary"])
        assert {"severity"} <= set(kept["labels"])
    known(stage, [rule["expr"] for rule in group["rules"]])


def redis_in_containers(block: Block, _stage: Stage) -> None:
    """Ours has the image pinned, a bound of memory and eviction, and publishes nothing."""
    assert "docker run -d --name redis -p 6379:6379 redis:alpine" in block.text
    wanted = yaml.safe_load(block.text[block.text.index("services:") :])["services"]["redis"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    ours = compose["services"]["redis"]
    name, _, flavour = wanted["image"].partition(":")
    assert re.match(rf"(docker\.io/(library/)?)?{name}:[\d.]+-{flavour}", ours["image"]), ours["image"]
    said = (DEPLOY / "compose" / "redis.conf").read_text()
    assert any("redis.conf" in volume for volume in ours["volumes"])
    assert re.search(r"(?m)^maxmemory \d+", said)
    assert re.search(r"(?m)^maxmemory-policy allkeys-", said)
    assert not ours.get("ports"), "nobody outside needs it"
