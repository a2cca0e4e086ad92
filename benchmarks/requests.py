"""What a request pays for metrics, limits, drain gate and deadline, and how long a scrape holds the event loop.

Applications are called directly in one loop, without a server. Alone: `python -m benchmarks.requests`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prometheus_client
import structlog
import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from app.core.clock import SystemClock
from app.core.logging import configure_logging
from app.core.metric_types import Registry
from app.core.metrics import REQUEST_SECONDS
from app.infrastructure import Infrastructure, make_infrastructure
from app.routers.protection import Deadline, DrainGate, RestLimit
from app.routers.telemetry import Telemetry
from app.settings import Settings

ROUNDS = 25
REQUESTS = 500
OTHER_ROUTES = 40  # as many as a service has, tried before the one that answers
BODY = b"x" * 1_000
PATH = "/bench"
DEADLINE_S = 10.0
ENDLESS = 1e9  # requests a second: none is refused
SCRAPES = 15
TICK_S = 0.001
SERIES = 5_000
HISTOGRAMS, HISTOGRAM_CHILDREN = 5, 30
COUNTERS = 5
LINES_A_HISTOGRAM = len(REQUEST_SECONDS) + 3  # +Inf, sum, count
COUNTER_CHILDREN = (SERIES - HISTOGRAMS * HISTOGRAM_CHILDREN * LINES_A_HISTOGRAM) // COUNTERS
HEADERS = [(b"host", b"127.0.0.1"), (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"connection", b"keep-alive")]

App = Callable[[Any, Any, Any], Awaitable[None]]


class Endpoint:
    """A plain ASGI endpoint that answers 1 kB."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})


def infrastructure() -> Infrastructure:
    settings = Settings(_env_file=None, rest_requests_per_second=ENDLESS, rest_burst=ENDLESS)
    return make_infrastructure(settings, SystemClock())


def application(routes: int, *middleware: Middleware, made: Infrastructure | None = None) -> App:
    others = [Route(f"/api/things/{number}/{{thing}}", Endpoint()) for number in range(routes)]
    app = Starlette(routes=[*others, Route(PATH, Endpoint())], middleware=list(middleware))
    app.state.runtime = SimpleNamespace(infrastructure=made)
    return app


def ours(routes: int, *wanted: str) -> App:
    """With these of our middlewares, in the order of the service; with all when none is named."""
    made = infrastructure()
    every = {
        "telemetry": Middleware(Telemetry, metrics=made.metrics),
        "gate": Middleware(DrainGate),
        "deadline": Middleware(Deadline, seconds=DEADLINE_S),
        "limit": Middleware(RestLimit, limiter=made.limits.rest),
    }
    return application(routes, *(one for name, one in every.items() if name in (wanted or every)), made=made)


def instrumentator(routes: int) -> App:
    registry = prometheus_client.CollectorRegistry()
    module = importlib.import_module("prometheus_fastapi_instrumentator.middleware")
    metrics = importlib.import_module("prometheus_fastapi_instrumentator.metrics")
    options = {"instrumentations": (metrics.default(registry=registry),), "registry": registry}
    return application(routes, Middleware(module.PrometheusInstrumentatorMiddleware, **options))


def exporter(routes: int) -> App:
    return application(routes, Middleware(importlib.import_module("starlette_exporter").PrometheusMiddleware))


ALL_OF_OURS = "ours: metrics, gate, deadline, limit"
CONTENDERS: dict[str, Callable[[int], App]] = {
    "bare": application,
    ALL_OF_OURS: ours,
    "- metrics and request id": lambda routes: ours(routes, "telemetry"),
    "- drain gate": lambda routes: ours(routes, "gate"),
    "- deadline": lambda routes: ours(routes, "deadline"),
    "- limit by principal": lambda routes: ours(routes, "limit"),
    "prometheus-fastapi-instrumentator (metrics alone)": instrumentator,
    "starlette_exporter (metrics alone)": exporter,
}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def per_request(app: App) -> float:
    """Microseconds a request."""
    answered = 0

    async def send(event: Any) -> None:
        nonlocal answered
        answered += event["type"] == "http.response.start" and event["status"] == 200

    begin = time.perf_counter()
    for _ in range(REQUESTS):
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "", "headers": list(HEADERS),
            "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8_000), "state": {},
        }  # fmt: skip
        await app(scope, receive, send)
    spent = time.perf_counter() - begin
    assert answered == REQUESTS, "this is not what was to be measured"
    return spent / REQUESTS * 1e6


async def added_by(contenders: Sequence[str], routes: int) -> dict[str, list[float]]:
    """What each costs more than bare, round by round; and bare itself."""
    apps = {name: CONTENDERS[name](routes) for name in ("bare", *contenders)}
    for app in apps.values():
        await per_request(app)
    added: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):  # each in turn, so that a slow moment of the machine meets all of them
        taken = {name: await per_request(app) for name, app in apps.items()}
        for name, spent in taken.items():
            added[name].append(spent if name == "bare" else spent - taken["bare"])
    return added


def typical(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.1f} ({min(rounds):.1f}-{max(rounds):.1f})"


async def overheads() -> None:
    names = [name for name in CONTENDERS if name != "bare"]
    few, many = await added_by(names, 0), await added_by(names, OTHER_ROUTES)
    print(
        f"\n| us a request, more than bare; the line of each in the log is off | one route | after {OTHER_ROUTES} others |"
    )
    print("|---|---|---|")
    for name in names:
        print(f"| {name} | {typical(few[name])} | {typical(many[name])} |")
    bare = [statistics.median(added["bare"]) for added in (few, many)]
    print(f"\nbare: {bare[0]:.1f} and {bare[1]:.1f} us; medians (min-max) of {ROUNDS} rounds of {REQUESTS:,}")


async def overhead_with_line() -> None:
    added = await added_by([ALL_OF_OURS], 0)
    print(f"with LOG_LEVEL=info, a JSON line a request to /dev/null: {typical(added[ALL_OF_OURS])} us more than bare")


def at_level(level: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run with our logging at a level, its lines to nowhere; then logging is as it was."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, root_level = list(root.handlers), root.level
    with Path(os.devnull).open("w") as nowhere:
        configure_logging(level)
        stream: Any = root.handlers[0]
        stream.setStream(nowhere)
        uvloop.run(work())  # type: ignore[arg-type]
    root.handlers[:] = handlers
    root.setLevel(root_level)
    structlog.configure(**before)


# A scrape


def our_series() -> Registry:
    registry = Registry()
    for number in range(COUNTERS):
        family = registry.counter(f"bench_events_{number}_total", "Events.", ("kind", "outcome"))
        for child in range(COUNTER_CHILDREN):
            family.labels(f"kind-{child}", "success").inc(child)
    for number in range(HISTOGRAMS):
        histogram = registry.histogram(f"bench_seconds_{number}", "Times.", REQUEST_SECONDS, ("method", "endpoint"))
        for child in range(HISTOGRAM_CHILDREN):
            histogram.labels("GET", f"/api/things/{child}").observe(child / 7)
    return registry


def their_series() -> prometheus_client.CollectorRegistry:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = prometheus_client.CollectorRegistry()
    for number in range(COUNTERS):
        family = prometheus_client.Counter(f"bench_events_{number}", "Events.", ("kind", "outcome"), registry=registry)
        for child in range(COUNTER_CHILDREN):
            family.labels(f"kind-{child}", "success").inc(child)
    for number in range(HISTOGRAMS):
        histogram = prometheus_client.Histogram(
            f"bench_seconds_{number}", "Times.", ("method", "endpoint"), buckets=REQUEST_SECONDS, registry=registry
        )
        for child in range(HISTOGRAM_CHILDREN):
            histogram.labels("GET", f"/api/things/{child}").observe(child / 7)
    return registry


class Ticker:
    """Wakes every millisecond and remembers by how much it was late at most."""

    def __init__(self) -> None:
        self.latest_s = 0.0

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.latest_s = max(self.latest_s, time.perf_counter() - due)


async def holds(scrape: Callable[[], Awaitable[bytes]]) -> tuple[float, float, float]:
    """Medians of: ms a scrape, ms of the ticker's longest lateness during it, and in as long a time without one."""
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    await scrape()
    took, late, idle = [], [], []
    for _ in range(SCRAPES):
        await asyncio.sleep(0.02)
        ticker.latest_s = 0.0
        begin = time.perf_counter()
        await scrape()
        took.append(time.perf_counter() - begin)
        await asyncio.sleep(2 * TICK_S)
        late.append(ticker.latest_s)
        ticker.latest_s = 0.0
        await asyncio.sleep(took[-1] + 2 * TICK_S)
        idle.append(ticker.latest_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return statistics.median(took) * 1e3, statistics.median(late) * 1e3, statistics.median(idle) * 1e3


async def scrapes() -> None:
    registry, their_registry = our_series(), their_series()
    lines = sum(not line.startswith(b"#") for line in registry.render().splitlines())
    assert lines == SERIES, lines
    same = sum(not line.startswith(b"#") for line in prometheus_client.generate_latest(their_registry).splitlines())
    assert same == SERIES, same

    async def on_the_loop() -> bytes:
        return prometheus_client.generate_latest(their_registry)

    ways: dict[str, Callable[[], Awaitable[bytes]]] = {
        "ours, in a thread": lambda: asyncio.to_thread(registry.render),
        "prometheus_client, in a thread": lambda: asyncio.to_thread(prometheus_client.generate_latest, their_registry),
        "prometheus_client, on the loop": on_the_loop,
    }
    print(f"\n| a scrape of {SERIES:,} series | ms in all | ms that it holds the loop (idle lateness taken off) |")
    print("|---|---|---|")
    for name, scrape in ways.items():
        took, late, idle = await holds(scrape)
        print(f"| {name} | {took:.1f} | {max(0.0, late - idle):.1f} ({late:.1f} - {idle:.1f}) |")
    print(f"\nmedians of {SCRAPES} scrapes; lateness of a task that wakes every millisecond")


def report() -> None:
    """Print the tables."""
    at_level("warning", overheads)
    at_level("info", overhead_with_line)
    uvloop.run(scrapes())


if __name__ == "__main__":
    report()
