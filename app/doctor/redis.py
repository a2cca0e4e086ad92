"""Redis: whether it can be reached with our password, and whether it is set up as a cache."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AuthenticationError, ResponseError

from app.core.errors import in_a_line
from app.core.redis_link import FAILURES, make_client
from app.doctor.clock import judge_offset
from app.doctor.finding import Finding, fine, note, problem, warning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.doctor.patient import Patient
    from app.settings import Settings

TOPIC: Final = "redis"
DEADLINE_S: Final = 5.0
PINGS: Final = 5
MIB: Final = 1024 * 1024
AWAY: Final = "each replica caches and limits by itself; the database is read more often"
NEEDS: Final = (5, 0)  # what our commands want (UNLINK, scripts); tests run on Valkey 9
POLICY: Final = "CONFIG SET maxmemory-policy allkeys-lfu (and the same in redis.conf)"


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """INFO's fields; `pings_ms` are round trips; `offset_s` is how far its clock is ahead of ours."""

    info: Mapping[str, Any]
    pings_ms: tuple[float, ...]
    offset_s: float
    trip_s: float


async def check_redis(patient: Patient) -> list[Finding]:
    settings = patient.settings
    if settings.redis_host is None:
        return [
            note(TOPIC, "REDIS_HOST is not set", "this process has its own cache and limits, which is enough for one")
        ]
    try:
        async with asyncio.timeout(DEADLINE_S):
            facts = await _ask(settings, settings.redis_host)
    except (*FAILURES, OSError, TimeoutError) as error:
        return [_unreachable(settings, error)]
    return [*judge_redis(facts, settings.redis_timeout_ms), *judge_offset("Redis", facts.offset_s, facts.trip_s)]


async def _ask(settings: Settings, host: str) -> RedisFacts:
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    client: Any = make_client(
        host=host, port=settings.redis_port, db=settings.redis_db, password=password, timeout_s=DEADLINE_S
    )
    try:
        info = await client.info()
        pings = []
        for _ in range(PINGS):
            began = time.perf_counter()
            await client.ping()
            pings.append((time.perf_counter() - began) * 1_000)
        began, before = time.perf_counter(), time.time()
        seconds, micros = await client.time()
        trip_s = time.perf_counter() - began
        return RedisFacts(info, tuple(pings), seconds + micros / 1e6 - before - trip_s / 2, trip_s)
    finally:
        await client.aclose()


def _unreachable(settings: Settings, error: BaseException) -> Finding:
    where = f"{settings.redis_host}:{settings.redis_port}"
    if isinstance(error, AuthenticationError | ResponseError):
        do = "correct REDIS_PASSWORD and REDIS_DB, or the server's requirepass and ACL"
        return problem(TOPIC, f"{where} refuses us ({in_a_line(error)})", AWAY, do)
    what = f"{where} does not answer ({in_a_line(error)})"
    return problem(TOPIC, what, AWAY, "start it, or correct REDIS_HOST and REDIS_PORT; without Redis unset REDIS_HOST")


def judge_redis(facts: RedisFacts, timeout_ms: float) -> list[Finding]:
    info = facts.info
    found = [*_memory(info), *_role(info)]
    middle = statistics.median(facts.pings_ms)
    if middle > timeout_ms / 2:
        what = f"a round trip takes {middle:.0f} ms; a call may take {timeout_ms:.0f} ms (REDIS_TIMEOUT_MS)"
        follows = "calls run into their deadline, and the cache's breaker opens"
        found.append(
            warning(
                TOPIC, what, follows, "put Redis nearer, or see what keeps it busy: redis-cli --latency, SLOWLOG GET"
            )
        )
    if found:
        return found
    memory = (
        f"{int(info['used_memory']) / MIB:.0f} of {int(info['maxmemory']) / MIB:.0f} MiB, {info['maxmemory_policy']}"
    )
    server = f"{info.get('server_name', 'redis')} {info['redis_version']}"
    said = f"{server}, {memory}, round trip {middle:.1f} ms; it need not keep anything"
    return [fine(TOPIC, said)]


def _memory(info: Mapping[str, Any]) -> list[Finding]:
    policy = str(info.get("maxmemory_policy", ""))
    if not int(info.get("maxmemory", 0)):
        follows = "it grows until the machine has no memory left, or the kernel ends it"
        return [warning(TOPIC, "it has no maxmemory", follows, f"CONFIG SET maxmemory 256mb; {POLICY}")]
    if not policy.startswith(("allkeys-", "volatile-")):
        follows = "once it is full, writes to the cache are refused"
        return [warning(TOPIC, f"it does not evict ({policy})", follows, POLICY)]
    return []


def _role(info: Mapping[str, Any]) -> list[Finding]:
    found = []
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < NEEDS:
        found.append(
            warning(TOPIC, f"its version is {version}", "some commands are missing", "upgrade it to 6 or later")
        )
    if info.get("role") not in (None, "master"):
        found.append(
            problem(TOPIC, "it is a replica", f"it takes no writes: {AWAY}", "point REDIS_HOST at the primary")
        )
    return found
