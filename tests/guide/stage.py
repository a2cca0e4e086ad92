"""What the guide's blocks run against: the service, started by the guide's own lines, with Redis and some traffic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests import prepared
from tests.guide.blocks import ROOT, Block, Exchange, blocks
from tests.held_requests import PATIENT
from tests.redis_server import RedisServer, running_redis
from tests.support import Server, data_folder, device, trimmed

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

START = "Installation & Configuration: 4. Démarrer backend"
SCORES = {"A+": 0.95, "A": 0.85, "B": 0.7}
SEEN_S = 10.0


class GuidedServer(Server):
    """Started by the block that starts the backend, line by line in a shell; only the port is ours, and `exec`, so that
    signals arrive.
    """

    def __init__(self, folder: Path, home: Path, block: Block, **env: Any) -> None:
        super().__init__(folder, DATA_DIR=str(folder), CDPATH=str(home), **env)
        *before, last = block.text.splitlines()
        assert last == "uvicorn app.main:app --reload --port 8000", last
        lines = ["set -e", *before, "exec " + last.replace("8000", str(self.port))]
        self.command = ["bash", "-c", "\n".join(lines)]

    def stop(self) -> int:
        code = super().stop()
        assert not self.postgres(), "the database outlived its owner"
        return code

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        super().clean_up()


@dataclass(slots=True)
class Stage:
    """`home` is the folder that the guide's commands are given in: `backend-api` is below it."""

    server: GuidedServer
    redis: RedisServer
    postgres_dsn: str
    home: Path

    def send(self, asked: Exchange) -> tuple[int, Any]:
        status, raw, _ = self.server.request(asked.path, method=asked.method, body=asked.body, headers=asked.headers)
        return status, json.loads(raw) if asked.path != "/metrics" else raw.decode()

    def families(self) -> dict[str, Metric]:
        status, raw, _ = self.server.request("/metrics")
        assert status == 200, (status, raw, self.server.log()[-6000:])
        return {family.name: family for family in read_text(raw.decode())}

    def series(self) -> list[tuple[str, dict[str, str]]]:
        return [(one.name, dict(one.labels)) for family in self.families().values() for one in family.samples]


Handler = Callable[[Block, Stage], None]


def make_home(folder: Path) -> Path:
    """`backend-api` with the application, the scripts and the virtual environment, as the guide lays them out."""
    place = folder / "backend-api"
    place.mkdir(parents=True)
    for name, target in (("app", ROOT / "app"), ("scripts", ROOT / "scripts"), ("venv", Path(sys.prefix))):
        (place / name).symlink_to(target, target_is_directory=True)
    return folder


@contextlib.contextmanager
def running_stage(postgres_dsn: str, home: Path) -> Iterator[Stage]:
    with data_folder() as folder, running_redis(maxmemory="32mb") as redis:
        prepared.copy_into(folder)
        env = {"REDIS_HOST": redis.host, "REDIS_PORT": str(redis.port), "FAULT_SWITCHES": "true"} | PATIENT
        server = GuidedServer(folder, make_home(home), blocks()[START], **env)
        try:
            server.start()
            stage = Stage(server, redis, postgres_dsn, home)
            asyncio.run(_traffic(server))
            _until(lambda: ("conformity_rate_percent", {}) in stage.series())
            yield stage
        finally:
            server.clean_up()


async def _traffic(server: Server) -> None:
    """Three samples of three grades, something in and something past the cache, and a statement of each kind."""
    async with device(server) as client:
        for number, score in enumerate(SCORES.values()):
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{number}00Z"
            scores = {"fusion__tof_score": score, "fusion__spectral_score": score, "fusion__is_compliant": None}
            answer = await client.ask(trimmed(sample_id=f"guide-{number}", timestamp=moment, **scores))
            assert answer["type"] == "ack", answer
    for _ in range(2):
        for path in ("/api/sqal/latest", "/api/sqal/dashboard"):
            assert (await asyncio.to_thread(server.request, path))[0] == 200


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_S
    while not done():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def shell(command: str, *, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """One of the guide's lines, in the folder that it is meant for."""
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=os.environ | env, capture_output=True, text=True, timeout=30, check=False
    )
