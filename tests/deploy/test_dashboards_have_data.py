"""`gaveurs demo` scraped by a real Prometheus with the shipped rules: every query of every dashboard returns data.

For five minutes, or DASHBOARD_MINUTES. What is rightly empty on a healthy system is listed, and is provoked once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosedError

from app.core.embedded_postgres import EmbeddedPostgres
from tests import prepared
from tests.bug_client import Caller
from tests.deploy.grafana_queries import Asked, promql, queries, rule_files, sql
from tests.deploy.grafana_reader import make_reader, reader
from tests.deploy.real_prometheus import Prometheus, running_prometheus
from tests.redis_server import running_redis
from tests.support import Server, data_folder, device, free_port, trimmed

MINUTES: Final = float(os.environ.get("DASHBOARD_MINUTES", "5"))
HEALTHY_SHARE: Final = 0.6
"""Of the time; then comes what is provoked."""
SCRAPE_S: Final = 2.0
SEEN_S: Final = 45.0
"""After it happened: most is counted every 15 s, and a device is stale after 20."""
SITES: Final = ["LL", "LS", "MT"]
PAGES: Final = (
    "/api/sqal/latest", "/api/sqal/dashboard", "/api/sqal/aggregates/hourly", "/api/sqal/samples?limit=1",
    "/api/bugs/metrics/summary", "/api/bugs/", "/health/ready",
)  # fmt: skip
HEALTHY_EMPTY: Final = {
    "Breaker trips": "no breaker has opened",
    "Newest failed backup": "no backup has failed",
    "WebSocket trouble": "we have closed no socket (its other query counts errors, from zero)",
    "Not online": "all devices are online",
    "Refused, by device": "nothing was refused",
}
pytestmark = pytest.mark.timeout(60 * MINUTES + 240)


@dataclass(frozen=True)
class Stage:
    server: Server
    prometheus: Prometheus
    dsn: str
    began: float

    def empty(self) -> list[Asked]:
        """The queries that return nothing of the time since the start."""
        now = time.time()
        asked = queries()
        missing = [one for one in asked if one.kind == "prometheus"]
        for _ in range(3):  # a scrape that comes too late leaves nothing to see at that instant
            self.prometheus.wait_until(lambda: self.prometheus.value("up") == 1, 30, "the target must be up")
            missing = [one for one in missing if not self._has_data(one, now)]
        return missing + asyncio.run(self._without_rows([one for one in asked if one.kind == "postgresql"]))

    def _has_data(self, one: Asked, now: float) -> bool:
        text = promql(one.text, sites=SITES, span=f"{math.ceil(now - self.began)}s")
        if one.instant:
            return any(_number(series["value"]) for series in self.prometheus.query(text))
        span = {"start": f"{self.began:.3f}", "end": f"{now:.3f}", "step": "5"}
        result = self.prometheus.api("query_range", query=text, **span)["result"]
        return any(_number(point) for series in result for point in series["values"])

    async def _without_rows(self, asked: list[Asked]) -> list[Asked]:
        async with reader(self.dsn) as connection:
            return [one for one in asked if not await connection.fetch(sql(one.text, sites=SITES))]


def _number(point: list[float | str]) -> bool:
    return not math.isnan(float(point[1]))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A demo with Redis and Prometheus, which somebody uses."""
    port = free_port()
    with data_folder() as folder, running_redis() as redis:
        prepared.copy_into(folder)
        server = Server(
            folder, command="demo", METRICS_PORT=str(port), REDIS_HOST=redis.host, REDIS_PORT=str(redis.port),
            FAULT_SWITCHES="true", BREAKER_TIMEOUT_S="2", DEVICE_STALE_AFTER_S="20", DEVICE_OFFLINE_AFTER_S="25",
            REDIS_TIMEOUT_MS="250",
        )  # fmt: skip
        try:
            server.start()
            dsn = EmbeddedPostgres(folder).dsn
            made = tmp_path_factory.mktemp("dashboards")
            make_reader(dsn, made)
            began = time.time()
            rules = rule_files()
            with (
                _using(server),
                running_prometheus(made, [f"127.0.0.1:{port}"], rules=rules, every_s=SCRAPE_S) as prometheus,
            ):
                yield Stage(server, prometheus, dsn, began)
        finally:
            server.clean_up()


@contextlib.contextmanager
def _using(server: Server) -> Iterator[None]:
    """Somebody who looks at every page once a second."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(1):
            for page in PAGES:
                with contextlib.suppress(OSError):
                    server.request(page)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)


def _backup(server: Server, to: Path) -> tuple[bool, str]:
    """Whether it was made, and what was said."""
    command = [sys.executable, "-m", "app.cli", "backup", "--to", str(to), "--data-dir", str(server.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def _work(stage: Stage, folder: Path) -> None:
    """What happens on a good day: bugs are reported and resolved, a backup is made."""
    staff = Caller(stage.server)
    path = f"/api/bugs/{staff.report(firmwareVersion='v2.3.1', deviceId='ESP32_DEMO_LL_01')}"
    staff.report(severity="critical")
    staff.patch(path, {"status": "in_progress"})
    staff.patch(path, {"status": "resolved", "resolution": "new cable"})
    made, said = _backup(stage.server, folder / "backups")
    assert made, said


def _provoke(stage: Stage, folder: Path) -> None:
    """What is rightly empty on a good day."""
    (folder / "no folder").write_text("")
    made, said = _backup(stage.server, folder / "no folder")
    assert not made, said
    asyncio.run(_refused(stage.server))
    fault = {"kind": "error", "expires_s": 60}
    assert stage.server.request("/api/admin/faults/database", method="PUT", body=fault)[0] == 200
    opened = 'circuit_breaker_transitions_total{name="database", to="open"} > 0'
    stage.prometheus.wait_until(lambda: bool(stage.prometheus.query(opened)), 30, "the breaker must open")
    assert stage.server.request("/api/admin/faults/database", method="DELETE")[0] == 200


async def _refused(server: Server) -> None:
    """A device that is heard of once, and one that sends nothing but nonsense until it is closed."""
    async with device(server) as silent:
        assert (await silent.ask(trimmed(device_id="ESP32_LL_99")))["type"] == "ack"
    async with device(server) as broken:
        async with asyncio.timeout(30):
            for _ in range(100):
                await broken.send("{")
            with contextlib.suppress(ConnectionClosedError):
                async for _ in broken.socket:
                    pass
            assert broken.socket.close_code == 1008


def _listed(empty: list[Asked]) -> str:
    return "".join(f"\nnothing: {one.where}: {one.text}" for one in empty)


def _until(moment: float) -> None:
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, 1))


def test_every_query_of_every_dashboard_returns_data(stage: Stage, tmp_path: Path) -> None:
    whole_s = 60 * MINUTES
    _work(stage, tmp_path)
    _until(max(stage.began + HEALTHY_SHARE * whole_s, time.time() + SEEN_S))
    quiet = stage.empty()
    assert {one.title for one in quiet} == HEALTHY_EMPTY.keys(), _listed(quiet)
    _provoke(stage, tmp_path)
    _until(max(stage.began + whole_s, time.time() + SEEN_S))
    empty = stage.empty()
    assert not empty, _listed(empty)
