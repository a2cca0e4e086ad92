"""Whether the tests of the rules hold every number: each bound and each `for` of each alert is changed in a copy, and
promtool must find it. Only what a changed alert needs is kept of rules and tests, so that one run is short.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.catalogue_rules import PROMETHEUS, RULE_FILES
from tests.deploy.tools import tool

NUMBER: Final = re.compile(
    r"\[[^\]]*\]|\"[^\"]*\"|offset \w+|(?P<zero>[<>=]=? 0(?![\w.]))|(?<![\w.:{])(?P<number>\d+(?:\.\d+)?)\b"
)
RECORDED: Final = re.compile(r"\b[a-z_]+:[a-z_]+:\w+")
FACTORS: Final = (0.7, 1.5)
TIMES: Final = (0.5, 2)
SINGLE: Final = 2  # more than nothing is one
SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
# Alerts whose number means nothing: vector(1) is there whatever it is; two bytes of a disk are as good as none.
NO_BOUND: Final = {("Watchdog", "1"), ("DiskFillsSoon", "< 0")}


@dataclass(frozen=True)
class Change:
    """An alert (its place in its file: some names are there several times) with one number altered."""

    rules: Path
    alert: str
    place: int
    what: str
    expr: str
    lasts: str | None

    def __str__(self) -> str:
        return f"{self.alert} ({self.place}): {self.what}"


def changes(rules: Path) -> Iterator[Change]:
    alerts = [rule for rule in _rules(rules) if "alert" in rule]
    for place, rule in enumerate(alerts):
        name, expr, lasts = rule["alert"], rule["expr"], rule.get("for")
        for what, changed in _changed(name, expr):
            yield Change(rules, name, place, what, changed, lasts)
        if lasts is not None:
            seconds = int(lasts[:-1]) * SECONDS[lasts[-1]]
            for factor in TIMES:
                yield Change(rules, name, place, f"for {lasts} x {factor}", expr, f"{round(seconds * factor)}s")


def _changed(alert: str, expr: str) -> Iterator[tuple[str, str]]:
    for found in NUMBER.finditer(expr):
        old = found["zero"] or found["number"]
        if old is None or old == "0" or (alert, old) in NO_BOUND:
            continue
        new = [old.replace("0", str(SINGLE))] if found["zero"] else [f"{float(old) * factor:g}" for factor in FACTORS]
        for one in new:
            what = f"{old} -> {one} at {found.start()}"
            yield what, expr[: found.start()] + one + expr[found.end() :]


def _rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def survives(change: Change, folder: Path) -> bool:
    """Whether promtool finds nothing wrong with the changed alert."""
    tests = dict(_tests(change.alert))
    assert tests, f"nothing tests {change.alert}"
    return all(_passes(_written(change, path, document, folder / path.stem)) for path, document in tests.items())


def _written(change: Change, path: Path, tests: dict[str, Any], folder: Path) -> Path:
    """A test's file with its own copy of the rules."""
    for name in ("rules", "tests"):
        (folder / name).mkdir(parents=True)
    needed = _needed(change.alert, _fed(tests))
    for rules in RULE_FILES:
        (folder / "rules" / rules.name).write_text(yaml.safe_dump(_only(rules, change, needed)))
    written = folder / "tests" / path.name
    written.write_text(yaml.safe_dump(tests))
    return written


def _passes(tests: Path) -> bool:
    command = [tool("promtool"), "test", "rules", str(tests)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 or "FAILED:" in done.stdout + done.stderr, done.stdout + done.stderr
    return done.returncode == 0


def _only(path: Path, change: Change, needed: frozenset[str]) -> dict[str, Any]:
    """The recording rules that count, and the changed alert (of several with a name all) where it is this file's."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    place = 0
    for group in document["groups"]:
        kept = []
        for rule in group["rules"]:
            if rule.get("record") in needed:
                kept.append(rule)
            if "alert" in rule:
                if (path, place) == (change.rules, change.place):
                    rule.update({"expr": change.expr} | ({"for": change.lasts} if change.lasts else {}))
                place += 1
                kept += [rule] if rule["alert"] == change.alert else []
        group["rules"] = kept
    return document


def _fed(tests: dict[str, Any]) -> frozenset[str]:
    """Recorded series that a test gives itself."""
    return frozenset(
        found[0] for case in tests["tests"] for one in case["input_series"] if (found := RECORDED.match(one["series"]))
    )


@cache
def _needed(alert: str, fed: frozenset[str]) -> frozenset[str]:
    """The recorded series that an alert is made of, and what these are made of, without those that are given."""
    rules = [rule for path in RULE_FILES for rule in _rules(path)]
    names: set[str] = {alert}
    while True:
        chosen = [rule for rule in rules if rule.get("record", rule.get("alert")) in names]
        found = {name for rule in chosen for name in RECORDED.findall(yaml.safe_dump(rule))} - fed
        if found <= names:
            return frozenset(names)
        names |= found


@cache
def _tests(alert: str) -> tuple[tuple[Path, dict[str, Any]], ...]:
    """Every file with cases that ask for the alert; without the others. First those of the edges, which find most."""
    found = []
    for path in sorted((PROMETHEUS / "tests").glob("*.yml"), key=lambda path: "-edges" not in path.stem):
        document = yaml.safe_load(path.read_text())
        cases = [case | {"alert_rule_test": asked} for case in document["tests"] if (asked := _asked(case, alert))]
        if cases:
            found.append((path, document | {"tests": cases}))
    return tuple(found)


def _asked(case: dict[str, Any], alert: str) -> list[dict[str, Any]]:
    return [check for check in case.get("alert_rule_test", ()) if check["alertname"] == alert]


@pytest.mark.timeout(600)
def test_no_bound_and_no_time_of_an_alert_can_be_changed_unseen(tmp_path: Path) -> None:
    found = [change for path in RULE_FILES for change in changes(path)]
    assert len(found) > 150
    assert [str(change) for change, lives in zip(found, _lives(found, tmp_path), strict=True) if lives] == []


@pytest.mark.timeout(300)
def test_an_unchanged_alert_passes(tmp_path: Path) -> None:
    """Else everything would be seen."""
    same = [
        Change(path, rule["alert"], place, "nothing", rule["expr"], rule.get("for"))
        for path in RULE_FILES
        for place, rule in enumerate(rule for rule in _rules(path) if "alert" in rule)
    ]
    assert [str(change) for change, lives in zip(same, _lives(same, tmp_path), strict=True) if not lives] == []


def _lives(changed: Sequence[Change], folder: Path) -> list[bool]:
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as threads:
        return list(threads.map(survives, changed, [folder / str(number) for number in range(len(changed))]))


def test_numbers_are_found_where_they_are_bounds() -> None:
    expr = 'a{b="5"}[5m] / 30 > 0.05 and up == 0 and x:rate5m * 0 offset 7d'
    assert [what for what, _ in _changed("", expr)] == [
        "30 -> 21 at 15",
        "30 -> 45 at 15",
        "0.05 -> 0.035 at 20",
        "0.05 -> 0.075 at 20",
        "== 0 -> == 2 at 32",
    ]
