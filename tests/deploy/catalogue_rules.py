"""The shipped rules, read once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import yaml

from tests.deploy.catalogue import MONITORING, Catalogue, product
from tests.deploy.tools import DEPLOY

PROMETHEUS: Final = DEPLOY / "prometheus"
RULE_FILES: Final = sorted((PROMETHEUS / "rules").glob("*.yml"))
GROUPS: Final[list[dict[str, Any]]] = [
    group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]
]
RULES: Final[list[dict[str, Any]]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: Final = [rule for rule in RULES if "alert" in rule]
OPTIONAL: Final[list[dict[str, Any]]] = [
    rule
    for path in sorted((PROMETHEUS / "optional").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]


def catalogue() -> Catalogue:
    """What a Prometheus has that scrapes the service and evaluates the rules: for alerts and dashboards."""
    return product().with_rules(RULES)


def with_monitoring() -> Catalogue:
    """Also what Prometheus and Alertmanager show of themselves: for alerts alone."""
    known = catalogue()
    return replace(known, labels=dict(known.labels) | {name: labels for name, (_, labels) in MONITORING.items()})
