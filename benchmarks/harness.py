"""Starts what is measured where it belongs: the server alone on one core, client and database on the other."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from app.core.embedded_postgres import EmbeddedPostgres
from benchmarks.load import Load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SERVER_CORE, OTHER_CORE = 0, 1
# A load from one address over a few devices is thousands of times what the limits grant; none must be met.
RAISED_LIMITS = {
    "WS_MESSAGES_PER_SECOND": "1000000",
    "WS_MESSAGES_BURST": "1000000",
    "WS_BACKLOG_ALLOWANCE": "1000000",
    "WS_CONNECTS_PER_MINUTE": "100000",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[str]:
    """A durable PostgreSQL of its own on the other core."""
    os.sched_setaffinity(0, {OTHER_CORE})
    embedded = EmbeddedPostgres(folder)
    embedded.prepare()
    await embedded.start()
    while True:
        try:
            connection = await asyncpg.connect(embedded.dsn)
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            break
    try:
        yield embedded.dsn
    finally:
        await embedded.stop()


@contextmanager
def server(kind: str, dsn: str, folder: Path, **settings: str) -> Iterator[tuple[int, psutil.Process]]:
    """`ours`, `bare` (ours without its protection), `ack_only` or `baseline` on the server's core; yields its port and
    process. The limits are raised out of the way unless `settings` say otherwise.
    """
    port, data = free_port(), str(folder / "server")
    commands = {
        "ours": ["app.cli", "serve", "--port", str(port), "--data-dir", data],
        "bare": ["benchmarks.bare", str(port)],
    }
    command = [sys.executable, "-m", *commands.get(kind, ["benchmarks.servers", kind, str(port), dsn])]
    own = {"DATABASE_URL": dsn, "LOG_LEVEL": "warning", "DEFAULT_RECIPE": "sqal-1-reported", "DATA_DIR": data}
    own["SHUTDOWN_PROPAGATION_S"] = "0"  # nobody routes to it
    environment = os.environ | own | RAISED_LIMITS | settings
    process = subprocess.Popen(command, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}))
    try:
        _await_up(process, port, "/health/ready" if kind in commands else None)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def say_limits() -> None:
    """Print what was raised, once a run."""
    print("\nlimits raised: " + " ".join(f"{name}={value}" for name, value in RAISED_LIMITS.items()))


def _await_up(process: subprocess.Popen[bytes], port: int, path: str | None) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if path is None:
                socket.create_connection(("127.0.0.1", port), 1).close()
            else:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server did not come up")


def load_command(load: Load) -> list[str]:
    return [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(load))]


def apply(load: Load) -> dict[str, Any]:
    """Run the load client on the other core and return what it measured."""
    done = subprocess.run(
        load_command(load),
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {OTHER_CORE}),
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
