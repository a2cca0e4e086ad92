from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from app.core.circuit_breaker import CircuitBreaker
from app.core.clock import SystemClock
from app.core.database import Database, judge
from app.core.dependency import Dependency
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.faults import FaultKind, FaultSwitches
from app.core.metrics import Metrics
from app.core.security import CACHE_S, GRACE_S, KeyRing, Role, create_key, revoke_key
from app.infrastructure import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TurnedClock(SystemClock):
    """Runs, and can be turned on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class Bench:
    def __init__(self, database: Database, faults: FaultSwitches, clock: TurnedClock, connection: Any) -> None:
        self.faults = faults
        self.clock = clock
        self.connection = connection
        self.ring = KeyRing(database, clock)

    async def new_key(self) -> str:
        return await create_key(self.connection, self.clock, "k", Role.DEVICE)

    def cut_off(self) -> None:
        self.faults.switch_on("database", FaultKind.ERROR, latency_s=0, expires_s=3_600)


@pytest.fixture
async def bench(dsn: str) -> AsyncIterator[Bench]:
    clock = TurnedClock()
    faults = FaultSwitches(SystemClock(), ["database"])
    dependency = Dependency(DATABASE, CircuitBreaker(name="database", classify=judge), faults, SystemClock())
    database = Database(dsn, dependency, Metrics(), size=2, deadline_s=5, name="t")
    await database.open()
    connection = await asyncpg.connect(dsn)
    yield Bench(database, faults, clock, connection)
    await connection.close()
    await database.close()


async def test_a_key_that_was_valid_stays_so_while_the_database_is_away_for_an_hour(bench: Bench) -> None:
    key = await bench.new_key()
    principal = await bench.ring.check(key)
    bench.cut_off()
    bench.clock.ahead_s = CACHE_S + 1
    assert await bench.ring.check(key) == principal
    assert bench.ring.knows(key)
    bench.clock.ahead_s = GRACE_S + 1
    with pytest.raises(UnavailableError):
        await bench.ring.check(key)


async def test_a_key_that_was_never_seen_is_not_believed_while_the_database_is_away(bench: Bench) -> None:
    key = await bench.new_key()
    bench.cut_off()
    assert not bench.ring.knows(key)
    with pytest.raises(UnavailableError):
        await bench.ring.check(key)


async def test_a_wrong_secret_of_a_known_key_is_refused_though_the_database_is_away(bench: Bench) -> None:
    key, other = await bench.new_key(), await bench.new_key()
    await bench.ring.check(key)
    forged = key[: len("gvk_") + 12] + other[len("gvk_") + 12 :]
    bench.cut_off()
    assert not bench.ring.knows(forged)
    with pytest.raises(UnauthorizedError):
        await bench.ring.check(forged)


async def test_a_revoked_key_is_forgotten_once_the_database_says_so(bench: Bench) -> None:
    key = await bench.new_key()
    principal = await bench.ring.check(key)
    await revoke_key(bench.connection, bench.clock, principal.id)
    bench.clock.ahead_s = CACHE_S + 1
    with pytest.raises(UnauthorizedError):
        await bench.ring.check(key)
    bench.cut_off()
    with pytest.raises(UnavailableError):
        await bench.ring.check(key)
