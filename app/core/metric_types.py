"""Counters, gauges and histograms, and their exposition as Prometheus text or OpenMetrics.

Cheaper than the usual client where it matters: a count is one addition (all recording happens on the event loop's
thread, so there is no lock), and everything of a line but its number is written once, when the series is made.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OTHER: Final = "other"
MAX_SERIES: Final = 2_000
Kind = Literal["counter", "gauge", "histogram"]


def wants_openmetrics(accept: str) -> bool:
    """Whether a scraper's Accept header asks for OpenMetrics (which carries exemplars)."""
    return "application/openmetrics-text" in accept


class Counter:
    """Only ever grows."""

    __slots__ = ("_prefix", "value")

    def __init__(self, family: Family[Counter], labels: str) -> None:
        self.value: float = 0
        self._prefix = f"{family.name}{_braced(labels)} "

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def set_total(self, total: float) -> None:
        """Take over what somebody else has counted, at a scrape."""
        self.value = total

    def lines(self, *, exemplars: bool) -> Iterator[str]:  # noqa: ARG002 - one interface for all kinds
        yield f"{self._prefix}{_number(self.value)}\n"


class Gauge:
    """A value that goes both ways; None is no sample at all."""

    __slots__ = ("_prefix", "value")

    def __init__(self, family: Family[Gauge], labels: str) -> None:
        self.value: float | None = None
        self._prefix = f"{family.name}{_braced(labels)} "

    def set(self, value: float | None) -> None:
        self.value = value

    def lines(self, *, exemplars: bool) -> Iterator[str]:  # noqa: ARG002 - one interface for all kinds
        if self.value is not None:
            yield f"{self._prefix}{_number(self.value)}\n"


class Histogram:
    """Observations by size. An exemplar names one of them, the newest of its bucket."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_prefixes", "_sum", "_sum_prefix", "_total_prefix")

    def __init__(self, family: Family[Histogram], labels: str) -> None:
        self._bounds = family.buckets
        self._counts = [0] * (len(self._bounds) + 1)
        self._exemplars: dict[int, str] = {}
        self._sum = 0.0
        inner = f"{labels}," if labels else ""
        limits = [_number(bound) for bound in self._bounds] + ["+Inf"]
        self._prefixes = [f'{family.name}_bucket{{{inner}le="{limit}"}} ' for limit in limits]
        self._sum_prefix = f"{family.name}_sum{_braced(labels)} "
        self._total_prefix = f"{family.name}_count{_braced(labels)} "

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_as(self, value: float, name: str, identity: str) -> None:
        """`observe`, naming what was observed (`request_id`, an id of safe characters)."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        self._exemplars[bucket] = f' # {{{name}="{identity}"}} {value!r} {time.time():.3f}'

    def lines(self, *, exemplars: bool) -> Iterator[str]:
        total = 0
        for number, (prefix, count) in enumerate(zip(self._prefixes, self._counts.copy(), strict=True)):
            total += count
            named = self._exemplars.get(number, "") if exemplars else ""
            yield f"{prefix}{total}{named}\n"
        yield f"{self._sum_prefix}{_number(self._sum)}\n"
        yield f"{self._total_prefix}{total}\n"


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Family(Generic[Child]):
    """All series of one name. At most `max_series`: label values beyond go into one series named `other`."""

    def __init__(
        self,
        make: type[Child],
        kind: Kind,
        name: str,
        help_: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = (),
        max_series: int = MAX_SERIES,
    ) -> None:
        self.kind = kind
        self.name = name
        self.help = help_
        self.label_names = tuple(labels)
        self.buckets = tuple(buckets)
        self._make: Callable[[Family[Child], str], Child] = make
        self._max_series = max_series
        self._children: dict[tuple[str, ...], Child] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> Child:
        """The series of these label values, in the order of `label_names`; made at first use."""
        child = self._children.get(values)
        return self._add(values) if child is None else child

    def _add(self, values: tuple[str, ...]) -> Child:
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}")
        if len(self._children) >= self._max_series:
            values = (OTHER,) * len(self.label_names)
            if values in self._children:
                return self._children[values]
        text = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(self.label_names, values, strict=True))
        child = self._children[values] = self._make(self, text)
        return child

    def prepare(self, series: Iterable[Sequence[str]]) -> None:
        """Make series before anything happened to them: a rate needs the zero that came before the one."""
        for values in series:
            self.labels(*values)

    def keep_only(self, series: Iterable[tuple[str, ...]]) -> None:
        """Forget all other series: of a gauge whose subjects come and go."""
        kept = set(series)
        for values in [values for values in self._children if values not in kept]:
            del self._children[values]

    def items(self) -> list[tuple[tuple[str, ...], Child]]:
        return list(self._children.items())

    def lines(self, *, openmetrics: bool) -> Iterator[str]:
        name = self.name.removesuffix("_total") if openmetrics and self.kind == "counter" else self.name
        yield f"# HELP {name} {_escape_help(self.help)}\n# TYPE {name} {self.kind}\n"
        for child in list(self._children.values()):  # made at once: the loop may add one meanwhile
            yield from child.lines(exemplars=openmetrics)


class Registry:
    """Declares every name once, and writes all of them out."""

    def __init__(self) -> None:
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}
        self._readers: list[Callable[[], None]] = []

    @property
    def families(self) -> Mapping[str, Family[Counter] | Family[Gauge] | Family[Histogram]]:
        return self._families

    def counter(self, name: str, help_: str, labels: Sequence[str] = ()) -> Family[Counter]:
        if not name.endswith("_total"):
            raise ValueError(f"{name}: a counter's name ends in _total")
        return self._declare(Family(Counter, "counter", name, help_, labels))

    def gauge(self, name: str, help_: str, labels: Sequence[str] = ()) -> Family[Gauge]:
        return self._declare(Family(Gauge, "gauge", name, help_, labels))

    def histogram(
        self, name: str, help_: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Family[Histogram]:
        if list(buckets) != sorted(set(buckets)) or not buckets:
            raise ValueError(f"{name}: buckets must grow")
        return self._declare(Family(Histogram, "histogram", name, help_, labels, buckets))

    def _declare(self, family: Family[Child]) -> Family[Child]:
        if family.name in self._families:
            raise ValueError(f"{family.name} is declared twice")
        self._families[family.name] = family
        return family

    def before_scrape(self, read: Callable[[], None]) -> None:
        """`read` is called at each scrape, to set what is cheaper to look at than to record."""
        self._readers.append(read)

    def render(self, *, openmetrics: bool = False) -> bytes:
        """The exposition. May be called from any thread."""
        for read in self._readers:
            read()
        parts = [line for family in self._families.values() for line in family.lines(openmetrics=openmetrics)]
        if openmetrics:
            parts.append("# EOF\n")
        return "".join(parts).encode()


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)  # noqa: PLR2004 - exact so far
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
