"""The guide's four alerts on the real service: a fault switch trips each, and each clears. Scraped by a real Prometheus
with the shipped rules, 20 times as fast (a scrape every 0.75 s for one every 15 s); told to a real Alertmanager.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.deploy.catalogue_rules import RULE_FILES
from tests.deploy.real_alertmanager import Receiver, running_alertmanager
from tests.deploy.real_prometheus import Prometheus, running_prometheus
from tests.deploy.rule_scale import scaled_rules
from tests.support import Server, device, free_port, running_server, trimmed

SCALE = 20.0
SCRAPE_S = 15 / SCALE
NOT_SCALED = {"DiskFillsSoon"}  # looks a real day ahead from some seconds of whatever this machine writes
READERS = 6


@dataclass(frozen=True)
class Stage:
    server: Server
    prometheus: Prometheus
    receiver: Receiver

    def fault(self, name: str, kind: str, latency_ms: float = 0) -> None:
        order = {"kind": kind, "latency_ms": latency_ms, "expires_s": 300}
        assert self.server.request(f"/api/admin/faults/{name}", method="PUT", body=order)[0] == 200

    def mend(self, name: str) -> None:
        assert self.server.request(f"/api/admin/faults/{name}", method="DELETE")[0] == 200

    def until_firing(self, *names: str, deadline_s: float) -> float:
        return self.prometheus.wait_until(
            lambda: set(names) <= self.prometheus.firing(), deadline_s, f"{names} must fire"
        )

    def until_clear(self, *names: str, deadline_s: float) -> float:
        return self.prometheus.wait_until(
            lambda: not set(names) & {alert["labels"]["alertname"] for alert in self.prometheus.alerts()},
            deadline_s,
            f"{names} must clear",
        )


@contextlib.contextmanager
def _reading(server: Server, *paths: str, pause_s: float = 0.1) -> Iterator[None]:
    """One reader that asks for the paths in turn until the end of the block. Errors are what it is for."""
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            for path in paths:
                with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(server.url + path, timeout=20):
                    pass
            ended.wait(pause_s)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


@contextlib.contextmanager
def _sending(server: Server) -> Iterator[None]:
    """A device that sends two samples a second."""
    ended = threading.Event()

    async def send() -> None:
        async with device(server) as one, _heard(one.socket):
            number = 0
            while not ended.is_set():
                number += 1
                await one.send(trimmed(sample_id=f"S{number:06d}"))
                await asyncio.sleep(0.5)

    thread = threading.Thread(target=lambda: asyncio.run(send()))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


@contextlib.asynccontextmanager
async def _heard(socket: object) -> AsyncIterator[None]:
    """Answers are read and forgotten, so that the socket does not fill up."""

    async def hear() -> None:
        async for _ in socket:  # type: ignore[attr-defined]
            pass

    hearing = asyncio.create_task(hear())
    try:
        yield
    finally:
        hearing.cancel()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder, port = tmp_path_factory.mktemp("stage"), free_port()
    rules = scaled_rules(RULE_FILES, folder / "rules", SCALE)
    options = {"FAULT_SWITCHES": "true", "METRICS_PORT": str(port), "DATABASE_READS": "2", "BREAKER_TIMEOUT_S": "3"}
    with (
        running_server(**options) as server,
        running_alertmanager(folder / "alertmanager") as (alertmanager, receiver),
        running_prometheus(
            folder / "prometheus",
            [f"127.0.0.1:{port}"],
            rules=rules,
            every_s=SCRAPE_S,
            alertmanager=alertmanager.target,
        ) as prometheus,
        _sending(server),
        _reading(server, "/api/sqal/latest", "/api/sqal/latest", "/api/sqal/samples?limit=1"),
    ):
        yield Stage(server, prometheus, receiver)


def test_without_a_fault_nothing_pages(stage: Stage) -> None:
    stage.until_firing("Watchdog", deadline_s=15)
    stage.prometheus.wait_until(
        lambda: (stage.prometheus.value("job:cache_reads:rate5m") or 0) >= 1, 30, "there must be traffic"
    )
    # A whole window. A machine that stands still blocks the event loop, which is told of for ten minutes.
    for window_min in (5, 10, 10):
        threading.Event().wait(window_min * 60 / SCALE)
        if (firing := stage.prometheus.firing() - NOT_SCALED) != {"Watchdog", "EventLoopBlocked"}:
            break
    assert firing == {"Watchdog"}
    assert [rule["name"] for rule in stage.prometheus.rules() if rule["health"] != "ok"] == []
    assert stage.receiver.statuses("/heartbeat", "Watchdog")


def test_a_failing_database_trips_error_rate_and_breaker(stage: Stage) -> None:
    stage.fault("database", "error")
    names = ("HighErrorRate", "CircuitBreakerOpen", "DatabaseUnreachable")
    fired_s = stage.until_firing(*names, "FaultSwitchOn", deadline_s=60)
    stage.mend("database")
    cleared_s = stage.until_clear(*names, deadline_s=60)
    print(f"error: fired {fired_s:.1f} s, cleared {cleared_s:.1f} s")


def test_the_pager_hears_of_it_and_of_its_end(stage: Stage) -> None:
    stage.prometheus.wait_until(
        lambda: stage.receiver.statuses("/pager", "DatabaseUnreachable")[-1:] == ["resolved"], 30, "a resolved message"
    )
    assert stage.receiver.statuses("/pager", "DatabaseUnreachable")[0] == "firing"


def test_a_slow_database_with_many_readers_exhausts_the_pool(stage: Stage) -> None:
    stage.fault("database", "latency", latency_ms=400)
    with contextlib.ExitStack() as readers:
        for _ in range(READERS):
            readers.enter_context(_reading(stage.server, "/api/sqal/samples?limit=1", pause_s=0.0))
        fired_s = stage.prometheus.wait_until(
            lambda: any(
                (alert["labels"]["alertname"], alert["labels"].get("pool")) == ("DatabasePoolExhausted", "reads")
                for alert in stage.prometheus.alerts()
                if alert["state"] == "firing"
            ),
            60,
            "the pool of reads must be exhausted",
        )
        stage.mend("database")
    cleared_s = stage.until_clear("DatabasePoolExhausted", deadline_s=30)
    print(f"pool: fired {fired_s:.1f} s, cleared {cleared_s:.1f} s")


def test_a_cache_that_misses_lowers_the_hit_rate(stage: Stage) -> None:
    stage.fault("cache_entries", "error")
    fired_s = stage.until_firing("LowCacheHitRate", deadline_s=90)
    stage.mend("cache_entries")
    cleared_s = stage.until_clear("LowCacheHitRate", deadline_s=60)
    print(f"cache: fired {fired_s:.1f} s, cleared {cleared_s:.1f} s")
