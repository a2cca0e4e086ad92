"""Whether a query names what the service shows: metrics, their labels, and the values of labels that are closed sets.

What exists is taken from the code itself: the registry of a process as `app.infrastructure` makes it, its pools, its
routes. A metric that is renamed there makes every query that names it wrong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from app.application import create_app
from app.bugs.vocabulary import SEVERITIES
from app.core.clock import SystemClock
from app.infrastructure import make_infrastructure
from app.resources import make_databases
from app.routers.telemetry import METHODS, OTHER, UNMATCHED
from app.settings import Settings
from app.sqal.device_counts import COUNT
from app.sqal.recorder import NO_SITE, OTHER_SITE

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
    |(?P<range>\[[^\]]*\])
    |(?P<number>0x[0-9a-fA-F]+|\d[\w.]*|\.\d+)
    |(?P<name>[a-zA-Z_:$][\w:$]*)
    |(?P<mark>=~|!~|!=|==|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)
_LISTS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = _LISTS | {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}
_TARGET: Final = frozenset({"job", "instance"})
_PROMETHEUS: Final = {"up": _TARGET, "scrape_duration_seconds": _TARGET, "scrape_samples_scraped": _TARGET}
# Of the monitoring itself, as prometheus.yml names its jobs: what rules may name, label by label.
MONITORING: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "prometheus_rule_evaluation_failures_total": ("prometheus", frozenset({"rule_group"})),
    "prometheus_notifications_errors_total": ("prometheus", frozenset({"alertmanager"})),
    "prometheus_notifications_dropped_total": ("prometheus", frozenset()),
    "prometheus_config_last_reload_successful": ("prometheus", frozenset()),
    "alertmanager_config_last_reload_successful": ("alertmanager", frozenset()),
    "alertmanager_notifications_failed_total": ("alertmanager", frozenset({"integration"})),
}
_ALERT: Final = frozenset({"alertname", "alertstate", "severity"})


@dataclass(frozen=True, slots=True)
class Matcher:
    label: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Query:
    """What a PromQL expression names. `outer` is the label list of its aggregations (`by`)."""

    selectors: tuple[tuple[str, tuple[Matcher, ...]], ...]
    labels: frozenset[str]
    outer: frozenset[str]


def parse(expr: str) -> Query:
    """A lexer, no parser: Prometheus itself checks the grammar. Raises ValueError where a brace does not close."""
    tokens = [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(expr) if match.lastgroup != "space"]
    selectors: list[tuple[str, tuple[Matcher, ...]]] = []
    labels: set[str] = set()
    outer: set[str] = set()
    position = 0
    while position < len(tokens):
        kind, text = tokens[position]
        follows = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        position += 1
        if kind == "name" and text.lower() in _LISTS and follows == "(":
            end = _closing(tokens, position, ")")
            found = {word for what, word in tokens[position:end] if what == "name"}
            labels |= found
            outer |= found if text.lower() in ("by", "group_left") else set()
            position = end + 1
        elif text == "{" or (kind == "name" and text.lower() not in _WORDS and follows not in ("(", *_LISTS)):
            name = "" if text == "{" else text
            matchers: tuple[Matcher, ...] = ()
            if text == "{" or follows == "{":
                begin = position if text == "{" else position + 1
                end = _closing(tokens, begin, "}")
                matchers, position = tuple(_matchers(tokens[begin:end])), end + 1
            selectors.append(_named(name, matchers))
    return Query(tuple(selectors), frozenset(labels), frozenset(outer))


def _closing(tokens: list[tuple[str, str]], begin: int, mark: str) -> int:
    for position in range(begin, len(tokens)):
        if tokens[position] == ("mark", mark):
            return position
    raise ValueError(f"{mark} is missing")


def _matchers(tokens: list[tuple[str, str]]) -> Iterator[Matcher]:
    words = [text for _, text in tokens if text != ","]
    if len(words) % 3:
        raise ValueError(f"no list of matchers: {words}")
    for label, operator, value in zip(words[::3], words[1::3], words[2::3], strict=True):
        yield Matcher(label, operator, value[1:-1].replace("\\\\", "\\"))


def _named(name: str, matchers: tuple[Matcher, ...]) -> tuple[str, tuple[Matcher, ...]]:
    for matcher in matchers:
        if matcher.label == "__name__" and matcher.operator == "=" and not name:
            return matcher.value, tuple(one for one in matchers if one is not matcher)
    return name, matchers


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Known series: their labels, and the values of these. A label without known values has none: nothing sets it."""

    labels: Mapping[str, frozenset[str]]
    values: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def problems(self, expr: str) -> list[str]:
        """What is wrong with the names in a query; nothing for a good one. Values with a `$` (variables) pass."""
        query = parse(expr)
        wrong = [problem for name, matchers in query.selectors for problem in self._check(name, matchers)]
        known = _TARGET | _ALERT | {"le"} | frozenset().union(*(self.labels.get(n, ()) for n, _ in query.selectors))
        return wrong + [f"no label {label} in this query" for label in sorted(query.labels - known)]

    def _check(self, name: str, matchers: tuple[Matcher, ...]) -> Iterator[str]:
        if name not in self.labels:
            yield f"no metric {name or '(without a name)'}"
            return
        for matcher in matchers:
            if matcher.label not in self.labels[name] | _TARGET:
                yield f"{name} has no label {matcher.label}"
            elif "$" not in matcher.value and matcher.label not in _TARGET and name not in MONITORING:
                known = self.values.get((name, matcher.label), frozenset())
                yield from (f"{name}: {matcher.label} is never {part}" for part in _unmet(matcher, known))

    def with_rules(self, rules: Iterable[Mapping[str, Any]]) -> Catalogue:
        """Also the series that these recording rules make, in their order."""
        labels, values = dict(self.labels), dict(self.values)
        for rule in rules:
            if "record" in rule:
                query = parse(rule["expr"])
                inherited = frozenset().union(*(labels.get(name, frozenset()) for name, _ in query.selectors))
                own = (query.outer or inherited) | frozenset(rule.get("labels", {}))
                labels[rule["record"]] = own | labels.get(rule["record"], frozenset())
                for label in own:
                    found = values.get((rule["record"], label), frozenset())
                    found |= {rule["labels"][label]} if label in rule.get("labels", {}) else frozenset()
                    found |= frozenset().union(*(values.get((name, label), ()) for name, _ in query.selectors))
                    values[rule["record"], label] = found
        return Catalogue(labels, values)


def _unmet(matcher: Matcher, known: frozenset[str]) -> Iterator[str]:
    """The alternatives of a matcher that no known value meets; the empty one stands for "not there"."""
    for part in matcher.value.split("|") if "~" in matcher.operator else [matcher.value]:
        pattern = re.compile(part if "~" in matcher.operator else re.escape(part))
        if part and not any(pattern.fullmatch(value) for value in known):
            yield part


@cache
def product() -> Catalogue:
    """What the service shows, without recording rules."""
    settings = Settings(_env_file=None, redis_host="redis")  # every dependency is declared
    made = make_infrastructure(settings, SystemClock())
    made.metrics.registry.render()
    labels: dict[str, frozenset[str]] = dict(_PROMETHEUS)
    labels["ALERTS"] = labels["ALERTS_FOR_STATE"] = _ALERT | _TARGET | {"site", "slo", "name", "pool"}
    values: dict[tuple[str, str], frozenset[str]] = {}
    for name, family in made.metrics.registry.families.items():
        suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        for suffix in suffixes:
            own = frozenset(family.label_names)
            labels[name + suffix] = own | {"le"} if suffix == "_bucket" else own
        for position, label in enumerate(family.label_names):
            found = _outside(name, label, settings) or frozenset(key[position] for key, _ in family.items())
            if name.startswith("site_") and label == "site":
                found |= {OTHER_SITE, NO_SITE}  # made when such a sample comes
            if found:
                values |= {(name + suffix, label): found for suffix in suffixes}
        if family.kind == "histogram":
            bounds = [f"{bound:.15g}" for bound in family.buckets]
            floats = [f"{bound:.1f}" for bound in family.buckets if bound == int(bound)]  # as Prometheus 3 stores them
            values[name + "_bucket", "le"] = frozenset([*bounds, *floats, "+Inf"])
    return Catalogue(labels, values)


def _outside(name: str, label: str, settings: Settings) -> frozenset[str]:
    """Values that are not made with the registry but by what uses it: all that there are."""
    known: dict[tuple[str, str], Iterable[str]] = {
        ("bugs_open", "severity"): SEVERITIES,
        ("alerts_open", "severity"): ("critical", "warning"),
        ("devices", "site"): [*settings.sites, NO_SITE],
        ("disk_free_bytes", "place"): ("data", "attachments", "backup"),
        ("disk_size_bytes", "place"): ("data", "attachments", "backup"),
        ("websocket_connections_active", "endpoint"): ("sensors", "realtime"),
        ("devices", "state"): re.findall(r"THEN '(\w+)'|ELSE '(\w+)'", COUNT),
    }
    if name.startswith("db_") and label == "pool":
        made = make_infrastructure(settings, SystemClock())
        databases = make_databases("postgresql://nobody@localhost/none", settings, made)
        return frozenset(database.name for database in databases.all) - {databases.checks.name}
    if name.startswith("http_"):
        app = create_app(settings)
        templates = {path for route in app.routes if (path := getattr(route, "path", None)) is not None}
        http = {"method": METHODS | {OTHER}, "endpoint": templates | app.openapi()["paths"].keys() | {UNMATCHED}}
        return frozenset(http.get(label, map(str, range(200, 600))))
    found = known.get((name, label), ())
    return frozenset("".join(value) for value in found)
