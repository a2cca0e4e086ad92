from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.core.breaker_policy import State
from app.core.circuit_breaker import CircuitBreaker, CircuitOpenError
from app.core.clock import SystemClock
from app.core.database import Database, is_away, judge
from app.core.dependency import Dependency
from app.core.errors import DatabaseBusyError, DatabaseUnavailableError, ReadOnlyDatabaseError, TryAgainError
from app.core.faults import FaultKind, FaultSwitches
from app.core.metrics import Metrics
from app.infrastructure import DATABASE
from tests.integration.stallable import stallable
from tests.support import free_port


def guarded() -> Dependency:
    clock = SystemClock()
    return Dependency(
        DATABASE, CircuitBreaker(name="database", classify=judge), FaultSwitches(clock, ["database"]), clock
    )


def make(dsn: str, *, deadline_s: float = 20.0, dependency: Dependency | None = None) -> Database:
    return Database(dsn, dependency or guarded(), Metrics(), size=1, deadline_s=deadline_s, name="t")


async def ask(database: Database, deadline_s: float = 20.0) -> None:
    async with database.connection(deadline_s) as connection:
        await connection.execute("SELECT 1")


def of_another_name(dsn: str) -> str:
    """Of a database that is not there."""
    return urlunsplit(urlsplit(dsn)._replace(path="/nowhere"))


def of_another_user(dsn: str) -> str:
    """Of a role that is not there, with some password."""
    url = urlsplit(dsn)
    return urlunsplit(url._replace(netloc=f"nobody:secret@{url.netloc.rpartition('@')[2]}"))


async def test_a_refused_connection_is_unavailable() -> None:
    database = make(f"postgresql://x:y@127.0.0.1:{free_port()}/z", deadline_s=2)
    await database.open()
    with pytest.raises(DatabaseUnavailableError):
        await ask(database, 1)
    await database.close()


async def test_a_statement_past_its_deadline_is_cut_with_its_transaction(dsn: str) -> None:
    database = make(dsn)
    await database.open()
    took_s: list[float] = []
    while len(took_s) < 3 and min(took_s, default=5.0) >= 5:  # whatever else this machine does only adds
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            async with database.connection(0.3) as connection, connection.transaction():
                await connection.execute("INSERT INTO devices (device_id) VALUES ('d')")
                await connection.execute("SELECT pg_sleep(30)")
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 5, took_s
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM devices") == 0
    await database.close()


async def test_a_connection_that_is_cut_between_the_halves_of_a_statement_is_unavailable(dsn: str) -> None:
    """The driver has no protocol any more by then, and says so by an AttributeError."""
    database = make(dsn)
    await database.open()
    with pytest.raises(DatabaseUnavailableError):
        async with database.connection() as connection:
            await cut_when_prepared(connection)
    with pytest.raises(AttributeError):
        async with database.connection() as connection:
            connection.no_such_method()  # type: ignore[attr-defined]
    await ask(database)
    await database.close()


async def cut_when_prepared(connection: Any) -> None:
    raw = connection._con
    prepare = raw._get_statement

    async def prepare_and_cut(*arguments: Any, **named: Any) -> Any:
        prepared = await prepare(*arguments, **named)
        raw.terminate()
        return prepared

    raw._get_statement = prepare_and_cut
    await connection.fetchval("SELECT 1")


async def test_an_exhausted_pool_is_busy_not_unavailable(dsn: str) -> None:
    database = make(dsn)
    await database.open()
    async with database.connection():
        with pytest.raises(DatabaseBusyError):
            await ask(database, 0.05)
    await ask(database)
    await database.close()


async def test_a_connection_cut_by_the_server_is_replaced(dsn: str) -> None:
    database = make(dsn)
    await database.open()
    with pytest.raises(DatabaseUnavailableError):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await ask(database)
    await database.close()


async def test_a_cancelled_caller_gives_its_place_back(dsn: str) -> None:
    database = make(dsn)
    await database.open()

    async def slow() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(slow())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ask(database)
    await database.close()


async def test_an_error_of_the_caller_stays_itself(dsn: str) -> None:
    database = make(dsn)
    await database.open()
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.connection() as connection:
            await connection.execute("SELECT * FROM nowhere")
    await database.close()


async def test_after_five_failures_the_breaker_opens_and_the_database_is_not_asked() -> None:
    dependency = guarded()
    database = make(f"postgresql://x:y@127.0.0.1:{free_port()}/z", dependency=dependency)
    await database.open()
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await ask(database)
    assert dependency.breaker.state is State.OPEN
    assert dependency.away
    with pytest.raises(CircuitOpenError):
        await ask(database)
    await database.close()


async def test_a_refused_login_is_a_failure_of_which_only_the_log_tells_why(dsn: str) -> None:
    for address, why in ((of_another_name(dsn), "InvalidCatalogNameError: "), (of_another_user(dsn), "Invalid")):
        dependency = guarded()
        database = make(address, dependency=dependency)
        await database.open()
        with pytest.raises(DatabaseUnavailableError) as refused:
            await ask(database)
        assert refused.value.detail == DatabaseUnavailableError().detail
        assert dependency.breaker.view().failures == 1
        with capture_logs() as lines:
            await dependency.check(database.ping, ())
        assert dependency.breaker.view().failures == 2
        assert lines[0]["reason"].startswith(f"LoginRefusedError: {why}")
        await database.close()


async def test_a_database_that_is_closed_for_a_while_serves_again_by_itself(dsn: str, postgres_dsn: str) -> None:
    dependency = guarded()
    database = make(dsn, dependency=dependency)
    await database.open()
    admin = await asyncpg.connect(postgres_dsn)
    name = urlsplit(dsn).path[1:]
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await ask(database)
    assert dependency.breaker.state is State.OPEN
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await dependency.check(database.ping, ())
    await ask(database)
    await admin.close()
    await database.close()


async def test_a_statement_that_a_migration_has_outdated_may_be_tried_again(dsn: str) -> None:
    dependency = guarded()
    database = make(dsn, dependency=dependency)
    await database.open()

    async def look() -> None:
        async with database.connection() as connection, connection.transaction():
            await connection.fetch("SELECT * FROM devices")

    await look()
    newer = await asyncpg.connect(dsn)
    await newer.execute("ALTER TABLE devices ADD COLUMN more text")
    await newer.close()
    with pytest.raises(TryAgainError):
        await look()
    await look()
    assert dependency.breaker.view().failures == 0
    assert not is_away(asyncpg.FeatureNotSupportedError("something else of its class"))
    await database.close()


async def test_a_connection_that_is_retired_while_the_network_stalls_is_cut(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stallable(dsn) as way, asyncio.timeout(30):
        database = make(way.dsn)
        await database.open()
        async with database.connection() as connection:
            held: Any = connection
            held._holder._max_queries = 1
            await connection.execute("INSERT INTO devices (device_id) VALUES ('d')")
            monkeypatch.setattr("app.core.database.CONNECT_DEADLINE_S", 0.01)
            way.stalled = True
        await way.hung_up.wait()
        way.stalled = False
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM devices") == 1
        await database.close()


async def test_a_pool_that_cannot_close_politely_is_cut(dsn: str) -> None:
    database = make(dsn)
    await database.open()
    async with database.connection() as connection:
        held: Any = connection
        raw = held._con

    async def close() -> None:
        raise OSError(113, "No route to host")

    raw.close = close
    await database.close()
    assert raw.is_closed()


async def test_errors_about_what_was_asked_leave_the_breaker_closed(dsn: str) -> None:
    dependency = guarded()
    database = make(dsn, dependency=dependency)
    await database.open()
    for _ in range(10):
        with pytest.raises(asyncpg.UndefinedTableError):
            async with database.connection() as connection:
                await connection.execute("SELECT * FROM nowhere")
    assert dependency.breaker.state is State.CLOSED
    assert dependency.breaker.view().failures == 0
    await database.close()


async def test_slow_statements_do_not_open_the_breaker_while_others_are_answered(dsn: str) -> None:
    dependency = guarded()
    slow, quick = make(dsn, dependency=dependency), make(dsn, dependency=dependency)
    await slow.open()
    await quick.open()
    for _ in range(6):
        await ask(slow)  # connects, which is not what is slow
        with pytest.raises(DatabaseUnavailableError):
            async with slow.connection(0.2) as connection:
                await ask(quick)
                await connection.execute("SELECT pg_sleep(30)")
    assert dependency.breaker.state is State.CLOSED
    assert dependency.breaker.view().consecutive_failures == 0
    await slow.close()
    await quick.close()


async def test_a_read_only_database_answers_but_its_check_says_that_it_cannot_serve(dsn: str) -> None:
    dependency = guarded()
    database = make(
        f"{dsn}{'&' if '?' in dsn else '?'}options=-cdefault_transaction_read_only%3Don", dependency=dependency
    )
    await database.open()
    await ask(database)
    await dependency.check(database.ping, ())
    assert dependency.away
    with pytest.raises(ReadOnlyDatabaseError):
        async with database.connection() as connection:
            await connection.execute("INSERT INTO devices (device_id) VALUES ('d')")
    assert dependency.breaker.state is State.CLOSED
    await database.close()


async def test_after_an_outage_a_herd_of_two_hundred_meets_as_many_permits(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.database.CONNECT_DEADLINE_S", 30.0)  # twenty connect at once
    clock = SystemClock()
    faults = FaultSwitches(clock, ["database"])
    breaker = CircuitBreaker(
        name="database", classify=judge, half_open_max_calls=3, success_threshold=4, rehearsed=True
    )
    dependency = Dependency(DATABASE, breaker, faults, clock)
    database = Database(dsn, dependency, Metrics(), size=20, deadline_s=30, name="t", pool_wait_s=30)
    await database.open()
    faults.switch_on("database", FaultKind.ERROR, latency_s=0, expires_s=60)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await ask(database)
    assert breaker.view().state is State.OPEN
    faults.switch_off("database")
    within, most, admitted = 0, 0, 0

    async def caller() -> None:
        nonlocal within, most, admitted
        while True:
            try:
                async with database.connection() as connection:
                    if breaker.state is State.HALF_OPEN:
                        within += 1
                        admitted += 1
                        most = max(most, within)
                    await connection.execute("SELECT pg_sleep(0.05)")
                    within -= 1 if within else 0
            except CircuitOpenError:
                await asyncio.sleep(0.01)
            else:
                return

    herd = [asyncio.create_task(caller()) for _ in range(200)]
    await asyncio.sleep(0.1)
    await dependency.check(database.ping, ())
    await asyncio.gather(*herd)
    assert breaker.view().state is State.CLOSED
    assert 1 <= most <= 3
    assert admitted <= 3 * 4
    await database.close()
