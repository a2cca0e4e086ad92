"""PromQL made from metric families: what names a metric or label that does not exist fails when it is made.

A query knows the labels that its series have. `by` may only name those, and so may a panel's legend.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from app.core.metric_types import Family, Histogram

JOB: Final = "gaveurs-backend"
JOBS: Final = (JOB, "prometheus", "alertmanager")
TARGET_LABELS: Final = frozenset({"job", "instance"})
RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
Scope = Literal["process", "shared", "everywhere"]
_PLACEHOLDER: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Not:
    """A matcher `!=`."""

    value: str


@dataclass(frozen=True, slots=True)
class Like:
    """A matcher `=~`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Unlike:
    """A matcher `!~`."""

    pattern: str


Value = str | Not | Like | Unlike


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and the labels that its series can have.

    `shared` is what every replica shows alike, since it was counted in the database: to be aggregated by `max`, and
    refused by `sum`, which would count it once for each replica.
    """

    text: str
    labels: frozenset[str]
    shared: bool = False

    def sum(self, *by: str) -> Query:
        if self.shared:
            raise ValueError(f"every replica shows {self.text}: max, not sum")
        return self._aggregated("sum", by)

    def max(self, *by: str) -> Query:
        return self._aggregated("max", by)

    def min(self, *by: str) -> Query:
        return self._aggregated("min", by)

    def count(self, *by: str) -> Query:
        return self._aggregated("count", by)

    def _aggregated(self, how: str, by: tuple[str, ...]) -> Query:
        self._known(by)
        text = f"{how} by ({', '.join(by)}) ({self.text})" if by else f"{how}({self.text})"
        return Query(text, frozenset(by))

    def _known(self, names: tuple[str, ...]) -> None:
        if unknown := set(names) - self.labels:
            raise ValueError(f"{self.text} has no label {', '.join(sorted(unknown))}")

    def over(self, divisor: Query) -> Query:
        """A ratio; no series where there is nothing to divide by. Both sides must have the same labels."""
        return self._with(divisor.above(0), "/")

    def times(self, factor: float) -> Query:
        return replace(self, text=f"{factor:g} * ({self.text})", shared=False)

    def plus(self, other: Query) -> Query:
        return self._with(other, "+")

    def minus(self, other: Query) -> Query:
        return self._with(other, "-")

    def _with(self, other: Query, operator: str) -> Query:
        if other.labels != self.labels:
            raise ValueError(f"{self.text} and {other.text} differ in their labels")
        return Query(f"({self.text}) {operator} ({other.text})", self.labels)

    def left_of(self, whole: float) -> Query:
        return replace(self, text=f"{whole:g} - ({self.text})")

    def above(self, bound: float) -> Query:
        return replace(self, text=f"({self.text}) > {bound:g}")

    def equal(self, value: float) -> Query:
        return replace(self, text=f"({self.text}) == {value:g}")

    def top(self, count: int) -> Query:
        return replace(self, text=f"topk({count}, {self.text})")

    def or_zero(self) -> Query:
        """0 where there is no series at all; for a query without labels."""
        if self.labels:
            raise ValueError(f"{self.text} has labels")
        return replace(self, text=f"({self.text}) or vector(0)")

    def age(self) -> Query:
        """Seconds since the time that it tells."""
        return replace(self, text=f"time() - ({self.text})")

    def check_legend(self, legend: str) -> str:
        """The same; ValueError when it names a label that is not there."""
        self._known(tuple(_PLACEHOLDER.findall(legend)))
        return legend


TARGETS: Final = Query(f'up{{job=~"{"|".join(JOBS)}"}}', TARGET_LABELS)
"""Whatever prometheus.yml scrapes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Series of one family, narrowed to what the dashboard's variables choose and to `matchers`."""

    family: Family[Any]
    scope: Scope
    matchers: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if unknown := {name for name, _ in self.matchers} - set(self.family.label_names):
            raise ValueError(f"{self.family.name} has no label {', '.join(sorted(unknown))}")

    @property
    def labels(self) -> frozenset[str]:
        return TARGET_LABELS | set(self.family.label_names)

    def selector(self, suffix: str = "") -> str:
        """Its name and matchers."""
        parts = [f'job="{JOB}"']
        if self.scope == "process":
            parts.append('instance=~"$instance"')
        if "site" in self.family.label_names:
            parts.append('site=~"$site"')
        parts += [_matcher(name, value) for name, value in self.matchers]
        return f"{self.family.name}{suffix}{{{', '.join(parts)}}}"

    def now(self) -> Query:
        """The gauge as it is."""
        self._must_be("gauge")
        return Query(self.selector(), self.labels, shared=self.scope == "shared")

    def rate(self, window: str = RATE) -> Query:
        self._must_be("counter")
        return Query(f"rate({self.selector()}[{window}])", self.labels)

    def increase(self, window: str = RATE) -> Query:
        self._must_be("counter")
        return Query(f"increase({self.selector()}[{window}])", self.labels)

    def count_of(self) -> Query:
        """A counter's own number, since its process began."""
        self._must_be("counter")
        return Query(self.selector(), self.labels)

    def changes(self, window: str = RATE) -> Query:
        self._must_be("gauge")
        return Query(f"changes({self.selector()}[{window}])", self.labels)

    def over_time(self, how: Literal["max", "min", "avg", "last"], window: str = RATE) -> Query:
        """Of a gauge: what lies between two points of the panel is not lost."""
        self._must_be("gauge")
        return Query(f"{how}_over_time({self.selector()}[{window}])", self.labels, shared=self.scope == "shared")

    def observed(self, window: str = RATE) -> Query:
        """Observations of a histogram in a second."""
        self._must_be("histogram")
        return Query(f"rate({self.selector('_count')}[{window}])", self.labels)

    def observed_sum(self, window: str = RATE) -> Query:
        self._must_be("histogram")
        return Query(f"rate({self.selector('_sum')}[{window}])", self.labels)

    def within(self, bound: float, window: str = RATE) -> Query:
        """Observations of at most `bound`, which must be a bucket's, in a second."""
        family = self._histogram()
        if bound not in family.buckets:
            raise ValueError(f"{family.name} has no bucket {bound}")
        at_most = f'le="{bound:g}"'
        selector = self.selector("_bucket").removesuffix("}") + f", {at_most}}}"
        return Query(f"rate({selector}[{window}])", self.labels | {"le"})

    def quantile(self, share: float, *by: str, window: str = RATE) -> Query:
        buckets = Query(f"rate({self.selector('_bucket')}[{window}])", self._histogram_labels())
        return Query(f"histogram_quantile({share:g}, {buckets.sum(*by, 'le').text})", frozenset(by))

    def buckets(self, window: str = RATE) -> Query:
        """Observations by bucket, for a heatmap."""
        return Query(f"increase({self.selector('_bucket')}[{window}])", self._histogram_labels()).sum("le")

    def _histogram_labels(self) -> frozenset[str]:
        self._must_be("histogram")
        return self.labels | {"le"}

    def _histogram(self) -> Family[Histogram]:
        self._must_be("histogram")
        return self.family

    def _must_be(self, kind: str) -> None:
        if self.family.kind != kind:
            raise ValueError(f"{self.family.name} is a {self.family.kind}, not a {kind}")


def process(family: Family[Any], **matchers: Value) -> Source:
    """Series of which each process has its own; those of the chosen instances."""
    return Source(family, "process", tuple(matchers.items()))


def shared(family: Family[Any], **matchers: Value) -> Source:
    """Series that every process reads from the same database and shows alike; whatever instance is chosen."""
    return Source(family, "shared", tuple(matchers.items()))


def everywhere(family: Family[Any], **matchers: Value) -> Source:
    """Series of every process, whatever instance is chosen."""
    return Source(family, "everywhere", tuple(matchers.items()))


def _matcher(name: str, value: Value) -> str:
    if isinstance(value, Not):
        return f'{name}!="{value.value}"'
    if isinstance(value, Like):
        return f'{name}=~"{value.pattern}"'
    if isinstance(value, Unlike):
        return f'{name}!~"{value.pattern}"'
    return f'{name}="{value}"'
