"""The service and what it stands on: requests, cache, database, Redis, limits, the process, disks and backups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import below, recorded, storage
from app.dashboards.board import Board, Section
from app.dashboards.panels import GREEN, RED, YELLOW, Face, Line, Panel, graph, number, rising, states
from app.dashboards.promql import TARGETS, Like, Unlike, process

if TYPE_CHECKING:
    from app.core.metrics import Metrics

UID: Final = "gaveurs-infrastructure"
PROBES: Final = Unlike("/health.*|/metrics")
YES_NO: Final = {1.0: ("up", GREEN), 0.0: ("down", RED)}


def board(m: Metrics) -> Board:
    return Board(
        UID,
        "Gaveurs / Infrastructure",
        "Requests, cache, database, Redis, limits, process, disks, backups.",
        (
            Section("Now", _now(m)),
            Section("Requests", _requests(m)),
            Section("Cache", _cache(m)),
            Section("Database and ingest", (*below.database(m), *below.ingest(m))),
            Section("Breakers, dependencies, limits", below.protection(m)),
            Section("Process", below.processes(m)),
            Section("Disks and backups", (*storage.disks(m), *storage.backups(m))),
        ),
    )


def _now(m: Metrics) -> tuple[Panel, ...]:
    up = process(m.started).now().count().or_zero()
    return (
        number(
            Face(1, "Instances", "Processes that were scraped.", units.Short, 4, 4, ((1, GREEN),), RED), Line(up, "")
        ),
        states(
            Face(
                2,
                "Dependencies",
                "Whether the last check of each succeeded, anywhere.",
                units.Short,
                8,
                4,
                words=YES_NO,
            ),
            Line(process(m.dependency_up).now().min("name"), "{{name}}"),
        ),
        states(
            Face(3, "Breakers", "The worst state over the chosen instances.", units.Short, 8, 4, words=below.BREAKER),
            Line(process(m.breaker_state).now().max("name"), "{{name}}"),
        ),
        number(
            Face(4, "Draining", "Processes that are ending: they take no new work.", units.Short, 4, 4, ((1, YELLOW),)),
            Line(process(m.draining).now().sum(), ""),
        ),
        graph(
            Face(
                5,
                "Targets",
                "Whether Prometheus reached each, of the service and of the monitoring; whatever instance is chosen.",
                units.Short,
                12,
                steps=((1, GREEN),),
                base=RED,
                decimals=0,
                highest=1,
            ),
            Line(TARGETS, "{{job}} {{instance}}"),
        ),
        graph(
            Face(
                6,
                "Dependencies by instance",
                "Share of 2 minutes in which each instance found it up; below half it is unreachable.",
                units.PercentUnit,
                12,
                steps=((0.5, GREEN),),
                base=RED,
                highest=1,
            ),
            Line(process(m.dependency_up).over_time("avg", "2m").min("name", "instance"), "{{name}} {{instance}}"),
        ),
    )


def _requests(m: Metrics) -> tuple[Panel, ...]:
    asked = process(m.http_requests, endpoint=PROBES)
    failed = process(m.http_requests, endpoint=PROBES, status=Like("5.."))
    slow = process(m.http_duration, endpoint=PROBES)
    return (
        graph(
            Face(10, "Request rate", "Answers by status, without probes and scrapes.", units.RequestsPerSecond),
            Line(asked.rate().sum("status"), "{{status}}"),
            stacked=True,
        ),
        graph(
            Face(
                11,
                "Error rate",
                "Share of 5xx. 'all' is over 5 minutes and all instances: what HighErrorRate watches (5 %).",
                units.PercentUnit,
                steps=rising(0.01, 0.05),
            ),
            Line(recorded.FAILED_RATIO.now(), "all"),
            Line(failed.rate().sum().or_zero().over(asked.rate().sum()), "chosen instances"),
        ),
        graph(
            Face(
                12,
                "Response time",
                "Percentiles over the histogram, without probes. Dots are single requests by id.",
                units.Seconds,
            ),
            *(Line(slow.quantile(share), f"p{share:.0%}".rstrip("%")) for share in (0.5, 0.95, 0.99)),
            exemplars=True,
        ),
        graph(
            Face(13, "Slowest routes, p95", "The ten with the highest p95.", units.Seconds, 12),
            Line(slow.quantile(0.95, "method", "endpoint").top(10), "{{method}} {{endpoint}}"),
        ),
        graph(
            Face(14, "Requests under way", "Being answered now.", units.Short, 6),
            Line(process(m.http_in_progress).over_time("max").max("instance"), "{{instance}}"),
        ),
        graph(
            Face(15, "Body sizes, p95", "Of requests and answers.", units.BytesIEC, 6),
            Line(process(m.http_request_size).quantile(0.95), "request"),
            Line(process(m.http_response_size).quantile(0.95), "answer"),
        ),
    )


def _cache(m: Metrics) -> tuple[Panel, ...]:
    hits, misses = process(m.cache_hits).rate().sum("cache_type"), process(m.cache_misses).rate().sum("cache_type")
    return (
        graph(
            Face(
                20,
                "Cache hit rate",
                "By type, where anything was read. 'all' is over 5 minutes and all instances: LowCacheHitRate (50 %).",
                units.PercentUnit,
                steps=((0.5, YELLOW), (0.6, GREEN)),
                base=RED,
                highest=1,
            ),
            Line(recorded.CACHE_HITS.now().max(), "all"),
            Line(hits.over(hits.plus(misses)), "{{cache_type}}"),
        ),
        graph(
            Face(21, "Cache reads", "By type.", units.RequestsPerSecond),
            Line(hits.plus(misses), "{{cache_type}}"),
            stacked=True,
        ),
        graph(
            Face(22, "Redis latency, p99", "Operations of the cache, loading not included.", units.Seconds),
            Line(process(m.cache_latency).quantile(0.99, "operation"), "{{operation}}"),
        ),
        graph(
            Face(23, "Where hits came from", "This process (l1) or Redis (l2).", units.RequestsPerSecond),
            Line(process(m.cache_level_hits).rate().sum("level"), "{{level}}"),
            stacked=True,
        ),
        graph(
            Face(24, "Held in processes", "Bytes of each process's cache.", units.BytesIEC),
            Line(process(m.cache_size).now().max("instance"), "{{instance}}"),
        ),
        graph(
            Face(26, "Keys in processes", "Entries of each process's cache.", units.Short),
            Line(process(m.cache_entries).now().max("instance"), "{{instance}}"),
        ),
        graph(
            Face(25, "Cache trouble", "Failed calls to Redis, dropped writes, old values served, failed loads.", "cps"),
            Line(process(m.cache_errors).rate().sum("operation"), "error: {{operation}}"),
            Line(process(m.cache_dropped).rate().sum(), "write dropped"),
            Line(process(m.cache_stale).rate().sum("cache_type"), "stale: {{cache_type}}"),
            Line(process(m.cache_loads, outcome="failure").rate().sum("cache_type"), "load failed: {{cache_type}}"),
            Line(process(m.cache_evictions).rate().sum(), "evicted"),
            Line(process(m.cache_expirations).rate().sum(), "expired"),
        ),
    )
