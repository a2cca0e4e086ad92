"""A server on a database and a Redis of its own that may be taken away, and what its users see meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx

from app.core.embedded_postgres import EmbeddedPostgres
from tests import prepared
from tests.journal_check import assert_kept, load
from tests.redis_server import running_redis
from tests.support import Server, data_folder, wait_for_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.sqal.simulator.journal import Journal
    from tests.redis_server import RedisServer

CACHED = ("/api/sqal/latest", "/api/sqal/dashboard", "/api/sqal/aggregates/hourly")
UNCACHED = "/api/sqal/samples?limit=1"
PROBES = ("/health/live", "/health/ready", "/health/startup", "/health")
# Times for a `world` in which an outage of three seconds shows what one of a minute does.
SHORT = {
    "QUERY_DEADLINE_S": "1.0",
    "DATABASE_POOL_WAIT_S": "0.5",
    "COMMIT_DEADLINE_S": "1.5",
    "INGEST_MAX_WAIT_S": "1.0",
    "BREAKER_TIMEOUT_S": "2",
    "CACHE_TTL_LATEST_SAMPLE_S": "2",
}
DEVICES, RATE = 6, 5.0
POLL_S = 0.2
SAMPLE = re.compile(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """One request of a user's."""

    phase: str
    path: str
    status: int
    ms: float
    age_s: int | None
    cache: str
    retry_after: str | None
    body: str


@dataclass
class Seen:
    """What users saw, phase by phase."""

    readings: list[Reading] = field(default_factory=list)
    phase: str = "before"

    def of(self, path: str, phase: str = "during") -> list[Reading]:
        return [one for one in self.readings if one.path == path and one.phase == phase]

    def statuses(self, path: str, phase: str = "during") -> Counter[int]:
        return Counter(one.status for one in self.of(path, phase))

    def server_errors(self) -> Counter[tuple[str, int]]:
        return Counter((one.path, one.status) for one in self.readings if one.status >= 500)

    def summary(self) -> str:
        lines = []
        for path in (*CACHED, UNCACHED, *PROBES):
            slowest = max((one.ms for one in self.readings if one.path == path), default=0)
            oldest = max((one.age_s or 0 for one in self.readings if one.path == path), default=0)
            phases = {phase: dict(self.statuses(path, phase)) for phase in ("before", "during", "after")}
            lines.append(f"{path}: {phases}, slowest {slowest:.0f} ms, oldest {oldest} s")
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def reading(server: Server, seen: Seen) -> AsyncIterator[None]:
    """Users that ask all the time, a few times a second each."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        tasks = [asyncio.create_task(_ask(client, seen, path)) for path in (*CACHED, UNCACHED, *PROBES)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result


async def _ask(client: httpx.AsyncClient, seen: Seen, path: str) -> None:
    while True:
        phase, began = seen.phase, time.monotonic()
        answer = await client.get(path)
        age = answer.headers.get("age")
        seen.readings.append(
            Reading(
                phase if phase == seen.phase else "between", path, answer.status_code,
                (time.monotonic() - began) * 1_000, None if age is None else int(age),
                answer.headers.get("cache-status", ""), answer.headers.get("retry-after"), answer.text,
            )
        )  # fmt: skip
        await asyncio.sleep(POLL_S)


def metrics(server: Server) -> dict[str, float]:
    """Every sample of /metrics."""
    _, text, _ = server.request("/metrics")
    return {name: float(value) for name, value in SAMPLE.findall(text.decode())}


async def until(true: Callable[[], Any], what: str, seconds: float = 20.0) -> float:
    """How long it took until `true`, which may block for a moment."""
    began = time.monotonic()
    while not await asyncio.to_thread(true):
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@dataclass
class World:
    """One server with what it depends on."""

    server: Server
    postgres: EmbeddedPostgres
    redis: RedisServer
    app_role: str

    async def as_admin(self, *statements: str) -> None:
        """What only the database's owner may do."""
        connection = await asyncpg.connect(self.postgres.dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            connection.terminate()

    async def end_connections(self) -> None:
        await self.as_admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.app_role}'")

    def healthy(self) -> bool:
        status, body, _ = self.server.request("/health")
        return status == 200 and b'"status":"healthy"' in body


@contextlib.asynccontextmanager
async def world(**env: str) -> AsyncIterator[World]:
    """PostgreSQL as an ordinary role sees it, Redis, and a server on both."""
    with data_folder() as folder, data_folder() as external, running_redis() as redis:
        prepared.copy_into(external)
        postgres = EmbeddedPostgres(external)
        postgres.prepare()
        await postgres.start()
        await wait_for_database(postgres.dsn)
        made = World(Server(folder), postgres, redis, "app")
        await made.as_admin("CREATE ROLE app LOGIN PASSWORD 'app'", "CREATE DATABASE app OWNER app")
        dsn = re.sub(r"//[^@]*@/postgres", "//app:app@/app", postgres.dsn)
        own: dict[str, Any] = {"DATABASE_URL": dsn, "REDIS_HOST": redis.host, "REDIS_PORT": str(redis.port)}
        made.server = Server(folder, **(own | {"FAULT_SWITCHES": "true"} | env))
        try:
            await asyncio.to_thread(made.server.start)
            yield made
        finally:
            made.server.clean_up()
            await postgres.stop()


@dataclass
class Outage:
    """What an outage of some seconds did."""

    seen: Seen
    journal: Journal
    before: dict[str, float]
    during: dict[str, float]
    after: dict[str, float]
    healed_s: float
    acked_during: int
    busy_during: int

    def grew(self, name: str) -> float:
        """By how much a counter grew until the end of the outage."""
        return self.during.get(name, 0) - self.before.get(name, 0)


async def suffer(
    world: World,
    begin: Callable[[], Any],
    end: Callable[[], Any],
    *,
    seconds: float = 3.0,
    devices: int = DEVICES,
    rate: float = RATE,
    heal_s: float = 15.0,
    shown: Callable[[Seen], bool] = lambda _seen: True,
) -> Outage:
    """Load and readers; the fault after a while, for `seconds` and until it has `shown`; its end; and time to heal.
    Everything acknowledged is then held against the database.
    """
    seen, server = Seen(), world.server
    total_s = 2.0 + seconds + 4.0
    seed = time.time_ns() % 1_000_000
    async with (
        load(server, devices=devices, rate=rate, duration_s=total_s, seed=seed) as journal,
        reading(server, seen),
    ):
        await until(lambda: journal.acked > devices, "samples come in")
        await asyncio.sleep(0.5)
        before = await asyncio.to_thread(metrics, server)
        await begin()
        began, acked, busy = time.monotonic(), journal.acked, journal.busy
        seen.phase = "during"
        await asyncio.sleep(seconds)
        await until(lambda: shown(seen), "the outage shows", 5.0)
        during = await asyncio.to_thread(metrics, server)
        acked_during, busy_during = journal.acked - acked, journal.busy - busy
        assert time.monotonic() - began < seconds + 5
        await end()
        seen.phase, resumed = "after", journal.acked
        healed_s = await until(lambda: journal.acked > resumed and world.healthy(), "it heals by itself", heal_s)
        await asyncio.sleep(1.0)
    after = await asyncio.to_thread(metrics, server)
    assert journal.unacknowledged == 0
    assert journal.reconnections == 0, "a socket was closed because of a dependency"
    await asyncio.to_thread(assert_kept, server, journal, exactly=False)
    return Outage(seen, journal, before, during, after, healed_s, acked_during, busy_during)
