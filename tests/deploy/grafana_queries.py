"""The queries of the shipped dashboards, their variables replaced as Grafana does it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from tests.deploy.tools import DEPLOY

FOLDER: Final = DEPLOY / "grafana" / "dashboards"
MACRO: Final = re.compile(r"\$(__\w+)\(([^)]*)\)")  # as Grafana finds them
LEFT: Final = re.compile(r"\$\{|\$__|\$(?:site|instance|datasource|postgresql)\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query: of a panel, a variable (number 0) or an annotation (number -1)."""

    uid: str
    number: int
    title: str
    kind: Literal["prometheus", "postgresql"]
    text: str
    instant: bool = False

    @property
    def where(self) -> str:
        return f"{self.uid}/{self.number} {self.title}"


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without the headings of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> list[Asked]:
    return [asked for board in dashboards() for asked in _of(board)]


def _of(board: Mapping[str, Any]) -> Iterator[Asked]:
    for panel in panels(board):
        for target in panel["targets"]:
            kind: Literal["prometheus", "postgresql"] = "prometheus" if "expr" in target else "postgresql"
            text = target["expr"] if kind == "prometheus" else target["rawSql"]
            yield Asked(board["uid"], panel["id"], panel["title"], kind, text, target.get("instant", False))
    for event in board["annotations"]["list"]:
        yield Asked(board["uid"], -1, event["name"], "prometheus", event["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])
            assert selector is not None, variable["query"]
            yield Asked(board["uid"], 0, variable["name"], "prometheus", selector[1], instant=True)


def promql(text: str, *, sites: list[str], window: str = "1m", span: str = "5m") -> str:
    """All sites, which Grafana joins to a pattern; all instances, whose own value is `.*`."""
    chosen = "|".join(sites)
    for name, value in {
        "$__rate_interval": window,
        "$__interval": window,
        "$__range": span,
        "$instance": ".*",
        "$site": f"({chosen})" if len(sites) > 1 else chosen,
    }.items():
        text = text.replace(name, value)
    return _finished(text)


def sql(text: str, *, sites: list[str], hours: float = 48) -> str:
    """The macros of the PostgreSQL data source, over a range that ends now."""
    now = datetime.now(UTC)
    begin, end = (f"'{moment:%Y-%m-%dT%H:%M:%S.%fZ}'" for moment in (now - timedelta(hours=hours), now))
    quoted = ",".join(f"'{site}'" for site in sites)
    made: dict[str, Callable[[str], str]] = {
        "__timeFilter": lambda column: f"{column} BETWEEN {begin} AND {end}",
        "__timeFrom": lambda _: begin,
        "__timeTo": lambda _: end,
    }
    return _finished(MACRO.sub(lambda found: made[found[1]](found[2]), text).replace("${site:sqlstring}", quoted))


def _finished(text: str) -> str:
    assert not LEFT.search(text), f"a variable is left in {text}"
    return text


def rule_files() -> list[Path]:
    return sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
