"""Two replicas on one database and one Redis, and haproxy before them."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from app.admin import make_key
from app.core.security import Role
from app.settings import Settings
from tests.redis_server import die_with_owner, running_redis
from tests.support import Server, data_folder, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.redis_server import RedisServer

CONFIG = Path(__file__).with_name("haproxy.cfg")
NAMES = ("a", "b")
NOTICED_S = 5.0  # haproxy looks every half second


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Replica(Server):
    """A server that is asked with a key, as one behind a proxy must be."""

    def __init__(self, folder: Path, key: str, **options: Any) -> None:
        super().__init__(folder, **options)
        self.key = key

    def request(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        return super().request(path, method=method, body=body, headers=bearer(self.key) | (headers or {}))

    def receipts(self) -> list[dict[str, Any]]:
        return [line for line in self.events() if line["event"].startswith("Graceful shutdown completed")]


@contextlib.contextmanager
def running_replica(dsn: str, redis: RedisServer, key: str) -> Iterator[Replica]:
    with data_folder() as folder:
        replica = Replica(
            folder,
            key,
            arguments=("--auth", "keys"),
            DATABASE_URL=dsn,
            REDIS_HOST=redis.host,
            REDIS_PORT=str(redis.port),
            TRUSTED_PROXIES="127.0.0.1",
            SHUTDOWN_PROPAGATION_S=str(Settings.model_fields["shutdown_propagation_s"].default),
        )
        try:
            replica.start()
            yield replica
        finally:
            replica.clean_up()


class Proxy:
    """haproxy as our own child."""

    def __init__(self, folder: Path, replicas: dict[str, Replica]) -> None:
        self.port = free_port()
        self._stats = folder / "haproxy.sock"
        self.log_path = folder / "haproxy.log"
        binary = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        assert binary, "install Debian's haproxy package first"
        ports = {f"REPLICA_{name.upper()}_PORT": str(replica.port) for name, replica in replicas.items()}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [binary, "-db", "-f", str(CONFIG)], stdout=log, stderr=log,
                env=os.environ | ports | {"PROXY_PORT": str(self.port), "STATS_SOCKET": str(self._stats)},
                preexec_fn=die_with_owner,  # noqa: PLW1509 - it only calls prctl
            )  # fmt: skip

    def figures(self, of: str, server: str) -> dict[str, str]:
        """One row of `show stat`; OSError before haproxy is up."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(5)
            asked.connect(str(self._stats))
            asked.sendall(b"show stat\n")
            with asked.makefile() as answer:
                rows = list(csv.DictReader(answer.read().removeprefix("# ").splitlines()))
        return next(row for row in rows if (row["pxname"], row["svname"]) == (of, server))

    def is_up(self, name: str) -> bool:
        assert self._process.poll() is None, self.log_path.read_text()
        with contextlib.suppress(OSError):
            return self.figures("requests", name)["status"] == "UP"
        return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running_proxy(replicas: dict[str, Replica]) -> Iterator[Proxy]:
    with data_folder() as folder:
        proxy = Proxy(folder, replicas)
        try:
            yield proxy
        finally:
            proxy.stop()


async def until(reached: Callable[[], bool], within_s: float, what: str) -> float:
    """How long it took until `reached`; AssertionError with `what` when it did not in time."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that runs, and the keys to it."""

    replicas: dict[str, Replica]
    proxy: Proxy
    keys: dict[Role, str]

    def url(self, path: str, scheme: str = "ws") -> str:
        """Through haproxy."""
        return f"{scheme}://127.0.0.1:{self.proxy.port}{path}"

    async def restart(self, name: str) -> float:
        """Seconds from SIGTERM until haproxy sends somebody there again."""
        replica, began = self.replicas[name], time.monotonic()
        assert await asyncio.to_thread(replica.stop) == 0
        assert not self.proxy.is_up(name)
        replica.start(wait=False)
        await asyncio.to_thread(replica.wait_ready)
        await until(lambda: self.proxy.is_up(name), NOTICED_S, f"haproxy sees {name}")
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def running_cluster(dsn: str) -> AsyncIterator[Cluster]:
    """Ready, on a database with our schema; everything but that is gone afterwards."""
    connection: Any = await asyncpg.connect(dsn)
    keys = {role: await make_key(connection, str(role), role) for role in (Role.VIEWER, Role.DEVICE)}
    await connection.close()
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        replicas = {name: stack.enter_context(running_replica(dsn, redis, keys[Role.VIEWER])) for name in NAMES}
        proxy = stack.enter_context(running_proxy(replicas))
        await until(lambda: all(map(proxy.is_up, NAMES)), NOTICED_S, "haproxy sees both replicas")
        yield Cluster(replicas, proxy, keys)
