"""Counters, gauges and histograms as Prometheus's own parsers read them."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import inf, isnan, nan
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as read_text

from app.core import metric_types
from app.core.metric_types import OTHER, Registry, wants_openmetrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric
    from prometheus_client.samples import Sample

BUCKETS = (0.001, 0.5, 1.0, 2.5)
# What a label may hold: any Unicode text (surrogates are none).
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
AMOUNTS = st.floats(0, 1e6)


def read_openmetrics(text: str) -> Iterable[Metric]:
    families: Iterable[Metric] = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return families


def samples(registry: Registry, *, openmetrics: bool = False) -> list[Sample]:
    text = registry.render(openmetrics=openmetrics).decode()
    families = read_openmetrics(text) if openmetrics else read_text(text)
    return [sample for family in families for sample in family.samples]


def values(registry: Registry, name: str, *, openmetrics: bool = False) -> list[tuple[dict[str, str], float]]:
    found = samples(registry, openmetrics=openmetrics)
    return [(dict(sample.labels), sample.value) for sample in found if sample.name == name]


def filled() -> Registry:
    registry = Registry()
    registry.counter("asks_total", 'Asked "why" \\ or\nhow.', ("method", "status")).labels("GET", "200").inc(3)
    registry.gauge("heat", "Degrees.").labels().set(-1.5)
    registry.histogram("took_seconds", "Time.", BUCKETS, ("kind",)).labels("a").observe(0.2)
    return registry


@pytest.mark.parametrize("openmetrics", [False, True])
def test_what_is_written_is_what_was_recorded(openmetrics: bool) -> None:
    registry = filled()
    assert values(registry, "asks_total", openmetrics=openmetrics) == [({"method": "GET", "status": "200"}, 3)]
    assert values(registry, "heat", openmetrics=openmetrics) == [({}, -1.5)]
    assert values(registry, "took_seconds_count", openmetrics=openmetrics) == [({"kind": "a"}, 1)]
    families = list((read_openmetrics if openmetrics else read_text)(registry.render(openmetrics=openmetrics).decode()))
    assert [(family.name, family.type) for family in families] == [
        ("asks", "counter"),
        ("heat", "gauge"),
        ("took_seconds", "histogram"),
    ]
    assert families[1].documentation == "Degrees."


def test_a_help_of_several_lines_stays_one() -> None:
    registry = filled()
    assert b'# HELP asks_total Asked "why" \\\\ or\\nhow.\n' in registry.render()
    families = read_text(registry.render().decode())
    assert next(iter(families)).documentation == 'Asked "why" \\ or\nhow.'


@given(st.lists(st.tuples(LABELS, LABELS), unique=True, max_size=8), st.booleans())
def test_any_text_survives_as_a_label(pairs: list[tuple[str, str]], openmetrics: bool) -> None:
    registry = Registry()
    family = registry.counter("seen_total", "Seen.", ("one", "two"))
    for number, pair in enumerate(pairs):
        family.labels(*pair).inc(number)
    expected = [({"one": one, "two": two}, number) for number, (one, two) in enumerate(pairs)]
    assert values(registry, "seen_total", openmetrics=openmetrics) == expected


@given(st.lists(AMOUNTS, max_size=50))
def test_buckets_are_cumulative_and_end_with_the_count(observed: list[float]) -> None:
    registry = Registry()
    histogram = registry.histogram("took_seconds", "Time.", BUCKETS).labels()
    for value in observed:
        histogram.observe(value)
    buckets = [(float(labels["le"]), count) for labels, count in values(registry, "took_seconds_bucket")]
    assert buckets == [(limit, sum(value <= limit for value in observed)) for limit in (*BUCKETS, inf)]
    assert all(below <= above for (_, below), (_, above) in pairwise(buckets))
    assert values(registry, "took_seconds_count") == [({}, len(observed))]
    assert values(registry, "took_seconds_sum")[0][1] == pytest.approx(sum(observed))
    assert histogram.count == len(observed)
    assert histogram.sum == pytest.approx(sum(observed))
    assert values(registry, "took_seconds_bucket", openmetrics=True) == values(registry, "took_seconds_bucket")


@given(st.one_of(st.floats(), st.integers(-(10**18), 10**18)))
def test_a_number_is_written_so_that_it_reads_back_the_same(number: float) -> None:
    registry = Registry()
    registry.gauge("level", "Level.").labels().set(number)
    ((_, read),) = values(registry, "level")
    assert read == number or (isnan(read) and isnan(number))


def test_infinities_and_no_number_have_their_names() -> None:
    registry = Registry()
    gauge = registry.gauge("level", "Level.", ("kind",))
    for kind, value in (("up", inf), ("down", -inf), ("none", nan)):
        gauge.labels(kind).set(value)
    lines = registry.render().decode().splitlines()[2:]
    assert lines == ['level{kind="up"} +Inf', 'level{kind="down"} -Inf', 'level{kind="none"} NaN']


def test_an_exemplar_names_the_newest_of_its_bucket_and_only_in_openmetrics() -> None:
    registry = Registry()
    histogram = registry.histogram("took_seconds", "Time.", BUCKETS).labels()
    for value, name in ((0.2, "first"), (0.3, "second"), (99.0, "slow")):
        histogram.observe_as(value, "request_id", name)
    histogram.observe(0.4)  # a nameless one does not take the place of a named one
    found = {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value)
        for sample in samples(registry, openmetrics=True)
        if sample.exemplar
    }
    assert found == {"0.5": ({"request_id": "second"}, 0.3), "+Inf": ({"request_id": "slow"}, 99.0)}
    assert "request_id" not in registry.render().decode()
    assert histogram.count == 4


def test_openmetrics_ends_with_its_mark_and_text_has_none() -> None:
    assert filled().render(openmetrics=True).endswith(b"\n# EOF\n")
    assert b"# EOF" not in filled().render()


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
        ("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5", True),
    ],
)
def test_openmetrics_is_for_who_asks_for_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


@given(st.integers(1, 6), st.lists(st.integers(0, 12), max_size=40))
def test_series_beyond_the_bound_are_counted_together_and_none_is_lost(bound: int, keys: list[int]) -> None:
    family = metric_types.Family(metric_types.Counter, "counter", "seen_total", "Seen.", ("who",), max_series=bound)
    for key in keys:
        family.labels(str(key)).inc()
    counted = {labels[0]: child.value for labels, child in family.items()}
    kept = list(dict.fromkeys(map(str, keys)))[:bound]
    assert set(counted) - {OTHER} == set(kept)
    assert len(counted) <= bound + 1
    assert all(counted[key] == keys.count(int(key)) for key in kept)
    assert sum(counted.values()) == len(keys)


def test_a_gauge_without_a_value_is_absent_and_may_become_so_again() -> None:
    registry = Registry()
    gauge = registry.gauge("average", "Average.").labels()
    assert values(registry, "average") == []
    assert values(registry, "average", openmetrics=True) == []
    gauge.set(0)
    assert values(registry, "average") == [({}, 0)]
    gauge.set(None)
    assert values(registry, "average") == []


def test_prepared_series_begin_at_zero_and_others_are_forgotten_on_demand() -> None:
    registry = Registry()
    counter = registry.counter("seen_total", "Seen.", ("who",))
    counter.prepare([("a",), ("b",)])
    assert values(registry, "seen_total") == [({"who": "a"}, 0), ({"who": "b"}, 0)]
    counter.labels("b").inc()
    counter.keep_only([("b",)])
    assert values(registry, "seen_total") == [({"who": "b"}, 1)]
    assert counter.labels("b") is counter.labels("b")


def test_a_declaration_that_cannot_be_right_is_refused() -> None:
    registry = filled()
    with pytest.raises(ValueError, match="declared twice"):
        registry.gauge("heat", "Again.")
    with pytest.raises(ValueError, match="ends in _total"):
        registry.counter("asks", "No.")
    for buckets in ((), (2.0, 1.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match="must grow"):
            registry.histogram("more_seconds", "No.", buckets)
    with pytest.raises(ValueError, match="has the labels"):
        registry.counter("seen_total", "Seen.", ("who",)).labels()


def test_who_is_read_at_a_scrape_is_asked_at_each() -> None:
    registry = Registry()
    asked = registry.counter("asked_total", "Asked.").labels()
    registry.before_scrape(lambda: asked.set_total(asked.value + 1))
    assert [values(registry, "asked_total")[0][1] for _ in range(3)] == [1, 2, 3]


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    """Threads take turns every 0.1 ms, fifty times as often as usual."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("_hasty_threads")
def test_a_scrape_in_a_thread_is_whole_while_series_come_and_go() -> None:
    registry = Registry()
    counter = registry.counter("seen_total", "Seen.", ("who",))
    histogram = registry.histogram("took_seconds", "Time.", BUCKETS, ("who",))
    counter.labels("first").inc()
    done = threading.Event()

    def scrape() -> list[str]:
        texts = []
        while not done.is_set():
            texts.append(registry.render(openmetrics=True).decode())
        return texts

    with ThreadPoolExecutor(1) as pool:
        scraped = pool.submit(scrape)
        for number in range(30_000):
            counter.labels(str(number % 500)).inc()
            histogram.labels(str(number % 500)).observe_as(number % 3, "request_id", "r")
            if number % 500 == 499:
                counter.keep_only([("first",)])
                histogram.keep_only([])
        done.set()
        texts = scraped.result(30)
    assert len({len(text) for text in texts}) > 2  # scrapes fell between changes
    for text in texts[:: max(1, len(texts) // 5)]:
        assert any(sample.labels == {"who": "first"} for family in read_openmetrics(text) for sample in family.samples)
