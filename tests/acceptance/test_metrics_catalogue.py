"""The catalogue of metrics: held to the guide's names, listed by the command line, served on a port of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from app.core.metrics import Metrics
from tests.support import Server, free_port, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = {
    "http_requests_total": ("counter", {"method", "endpoint", "status"}),
    "http_request_duration_seconds": ("histogram", {"method", "endpoint"}),
    "http_request_size_bytes": ("histogram", set()),
    "http_response_size_bytes": ("histogram", set()),
    "cache_hits_total": ("counter", {"cache_type"}),
    "cache_misses_total": ("counter", {"cache_type"}),
    "cache_latency_seconds": ("histogram", {"operation"}),
    "cache_size_bytes": ("gauge", set()),
    "cache_evictions_total": ("counter", set()),
    "cache_expirations_total": ("counter", set()),
    "sample_processing_duration_seconds": ("histogram", set()),
    "sample_quality_score": ("histogram", {"grade"}),
    "db_connection_pool_size": ("gauge", {"pool"}),
    "db_connection_pool_available": ("gauge", {"pool"}),
    "db_query_duration_seconds": ("histogram", {"query_type"}),
    "websocket_connections_active": ("gauge", {"endpoint"}),
    "websocket_messages_sent_total": ("counter", {"endpoint"}),
    "websocket_messages_received_total": ("counter", {"endpoint"}),
    "websocket_errors_total": ("counter", {"endpoint"}),
    "conformity_rate_percent": ("gauge", set()),
    "reject_rate_percent": ("gauge", set()),
    "samples_throughput_per_second": ("gauge", set()),
    "average_quality_score": ("gauge", set()),
    "circuit_breaker_state": ("gauge", {"name"}),
    "bugs_open": ("gauge", {"severity"}),
    "bugs_resolved_today": ("gauge", set()),
    "bugs_average_resolution_hours": ("gauge", set()),
}


def gaveurs(*arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_HOST")}
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean, timeout=60, check=True)


def test_every_name_of_the_guide_is_declared_with_its_type_and_labels() -> None:
    declared = {name: (one.kind, set(one.label_names)) for name, one in Metrics().registry.families.items()}
    assert {name: declared.get(name) for name in GUIDE} == GUIDE
    more = {
        "acks_sent_total",
        "samples_committed_total",
        "devices",
        "event_loop_lag_seconds",
        "db_pool_waiters",
        "build_info",
    }
    assert more <= declared.keys()
    assert all(one.help.endswith(".") for one in Metrics().registry.families.values())


def test_the_command_line_lists_them_without_any_database() -> None:
    lines = gaveurs("metrics").stdout.splitlines()
    families = list(Metrics().registry.families.values())
    assert lines[0].split() == ["NAME", "TYPE", "LABELS", "MEANING"]
    assert [line.split()[0] for line in lines[1:]] == [one.name for one in families]
    for line, one in zip(lines[1:], families, strict=True):
        assert line.split(maxsplit=3)[1:] == [one.kind, ",".join(one.label_names) or "-", one.help]
        assert line.index(one.help) == lines[0].index("MEANING")
    listed = json.loads(gaveurs("metrics", "--json").stdout)
    assert listed[0] == {
        "name": "http_requests_total",
        "type": "counter",
        "labels": ["method", "endpoint", "status"],
        "help": "HTTP requests answered.",
    }
    assert [one["name"] for one in listed] == [one.name for one in families]


@pytest.fixture(scope="module")
def apart() -> Iterator[tuple[Server, int]]:
    """A server that nothing was sent to, and the port that its metrics have for themselves."""
    port = free_port()
    with running_server(METRICS_PORT=str(port)) as server:
        yield server, port


def elsewhere(port: int, path: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def test_metrics_on_a_port_of_their_own_are_there_alone(apart: tuple[Server, int]) -> None:
    server, port = apart
    status, text = elsewhere(port, "/metrics")
    assert (status, server.request("/metrics")[0]) == (200, 404)
    assert {"http_requests_total", "circuit_breaker_state"} <= {
        sample.name for family in read_text(text) for sample in family.samples
    }
    for path, said in (("/health/live", "alive"), ("/health/ready", "ready"), ("/health/startup", "started")):
        status, text = elsewhere(port, path)
        assert (status, json.loads(text)["status"]) == (200, said)


def test_before_the_first_sample_there_is_no_average_and_pools_have_their_default_sizes(
    apart: tuple[Server, int],
) -> None:
    lines = elsewhere(apart[1], "/metrics")[1].splitlines()
    seen = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    rates = ("average_quality_score", "conformity_rate_percent", "reject_rate_percent", "samples_throughput_per_second")
    assert not [name for name in seen if name in rates]
    assert seen['db_connection_pool_size{pool="reads"}'] == 8
    assert seen['db_connection_pool_size{pool="writes"}'] == 5
    assert seen['samples_committed_total{grade="A+"}'] == 0
    assert seen['circuit_breaker_rejected_total{name="database"}'] == 0
