"""What tests share: real messages, a real server process, a plain device on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests import prepared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DATA = Path(__file__).parent / "data"
SESSION = (DATA / "device_session.jsonl").read_text(encoding="utf-8").splitlines()
TRIMMED = json.loads((DATA / "trimmed_message.json").read_text())
UP_DEADLINE_S = 40.0
RETENTION_DAYS = 7_300  # the recorded messages are of 2026: nobody shall take their clocks for wrong
ANSWER_S = 30.0  # longer than any request takes that tests make wait
# Below what the kernel gives to whoever connects (ip_local_port_range): a slice for each of up to seven workers, entered
# at a place of the process's own.
PORTS = 3_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_FIRST = 10_000 + PORTS * (_WORKER % 7)
_PORTS = itertools.cycle(_FIRST + (os.getpid() * 61 + number) % PORTS for number in range(PORTS))


def trimmed(**changes: Any) -> dict[str, Any]:
    """A fresh copy of the trimmed message; `changes` by dotted path written with `__` (`fusion__final_score=1`)."""
    message: dict[str, Any] = copy.deepcopy(TRIMMED)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = message
        for name in parents:
            place = place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return message


def free_port() -> int:
    """One that nobody gets by chance before it is bound, or while its server is down for a moment."""
    for port in itertools.islice(_PORTS, PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """A folder that the database's user can enter, also as root."""
    folder = Path(tempfile.mkdtemp(prefix="gaveurs-test-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def wait_for_database(dsn: str) -> None:
    """Until a PostgreSQL answers there."""
    await prepared.until_it_answers(dsn)


class Server:
    """`gaveurs serve` as a process of its own, on a free port and a folder of its own."""

    def __init__(self, folder: Path, *, command: str = "serve", arguments: tuple[str, ...] = (), **env: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws/sensors"
        self.command = [sys.executable, "-m", "app.cli", command, "--port", str(self.port), "--data-dir", str(folder)]
        self.command += arguments
        clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_HOST")}
        # The reported recipe: tests choose a score by what their device reports. One address plays all devices, and
        # nobody has to be told that a server stops.
        own = {"LOG_LEVEL": "info", "DEFAULT_RECIPE": "sqal-1-reported", "SAMPLE_RETENTION_DAYS": str(RETENTION_DAYS)}
        own |= {"WS_CONNECTS_PER_MINUTE": "100000", "WS_BACKLOG_ALLOWANCE": "100000", "SHUTDOWN_PROPAGATION_S": "0.1"}
        self._env = clean | own | env
        self.log_path = folder.parent / f"{folder.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Server:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self._env, stdout=log, stderr=log)
        if wait:
            self.wait_ready()
        return self

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def wait_ready(self) -> None:
        deadline = time.monotonic() + UP_DEADLINE_S
        while time.monotonic() < deadline:
            assert self.running.poll() is None, f"the server ended: {self.log()[-2000:]}"
            with contextlib.suppress(OSError):
                if self.request("/health/ready")[0] == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server did not become ready: {self.log()[-2000:]}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The log's lines, which off a terminal are JSON."""
        whole = self.log().rpartition("\n")[0]  # the last line may be under way
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def request(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        return self.request_raw(path, data, method=method, headers=headers)

    def request_raw(
        self, path: str, data: bytes | None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        sent = {"Content-Type": "application/json"} if data is not None else {}
        asked = urllib.request.Request(self.url + path, data=data, method=method, headers=sent | (headers or {}))
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as error:
            return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}

    def get(self, path: str) -> Any:
        status, body, _ = self.request(path)
        assert status == 200, (status, body)
        return json.loads(body)

    def all_samples(self, query: str = "") -> list[dict[str, Any]]:
        items, cursor = [], ""
        while True:
            page = self.get(f"/api/sqal/samples?limit=200{query}{cursor}")
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"

    def postgres(self) -> list[psutil.Process]:
        """Every process of this folder's database, the postmaster first."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "postgres" and process.cwd() == str(self.folder / "postgres"):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def postmaster(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0]))

    def kill(self) -> None:
        """SIGKILL to the server alone."""
        self.running.kill()
        self.running.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
        return self.running.wait(60)

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.postgres():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.log_path.unlink(missing_ok=True)


@contextlib.contextmanager
def running_server(**options: Any) -> Iterator[Server]:
    """A ready server on an empty database; everything of it is gone afterwards."""
    with data_folder() as folder:
        prepared.copy_into(folder)
        server = Server(folder, **options)
        try:
            yield server.start()
        finally:
            server.clean_up()


class Device:
    """A plain WebSocket client that speaks JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), 20))
        return answer

    async def ask(self, message: Any) -> dict[str, Any]:
        """Its answer: advice (`slow_down`) is none."""
        await self.send(message)
        while (answer := await self.receive())["type"] == "slow_down":
            pass
        return answer


@contextlib.asynccontextmanager
async def device(server: Server, path: str = "/ws/sensors", **options: Any) -> AsyncIterator[Device]:
    """A connected device, greeted."""
    async with connect(f"ws://127.0.0.1:{server.port}{path}", compression=None, **options) as socket:
        client = Device(socket)
        greeting = await client.receive()
        assert greeting["type"] == "connection_established"
        yield client
