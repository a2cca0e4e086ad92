"""Redis and PostgreSQL away for a minute, under the load of a site, with the settings as shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.outages import CACHED, UNCACHED, Outage, suffer, world
from tests.system import test_failure_modes_postgres as postgres
from tests.system import test_failure_modes_redis as redis

if TYPE_CHECKING:
    from tests.outages import World

MINUTE_S = 60.0
DEVICES, RATE = 40, 5.0
RESUMED_S = 5.0

pytestmark = pytest.mark.timeout(400)


def moves(w: World) -> list[dict[str, Any]]:
    return [one for one in w.server.events() if one["event"] == "breaker_moved"]


def tell(name: str, outage: Outage, w: World) -> None:
    print(f"\n{name}: healed in {outage.healed_s:.1f} s; {outage.busy_during} busy\n{outage.seen.summary()}")
    for one in moves(w):
        print(one["breaker"], one["before"], "->", one["after"], one["reason"])


def alive_throughout(outage: Outage) -> None:
    for phase in ("before", "during", "between", "after"):
        for path in ("/health/live", "/health/startup"):
            assert set(outage.seen.statuses(path, phase)) <= {200}


async def test_a_minute_without_redis_costs_nobody_anything() -> None:
    async with world() as w:
        outage = await suffer(
            w, lambda: redis.kill(w), lambda: redis.start(w), seconds=MINUTE_S, devices=DEVICES, rate=RATE
        )
        tell("a minute without Redis", outage, w)
        assert not outage.seen.server_errors()
        assert outage.busy_during == outage.journal.refused == 0
        assert outage.acked_during > 0.9 * MINUTE_S * DEVICES * RATE
        alive_throughout(outage)
        assert set(outage.seen.statuses("/health/ready")) == {200}
        assert outage.grew('cache_misses_total{cache_type="dashboard_metrics"}') > 0
        assert outage.grew('circuit_breaker_rejected_total{name="cache"}') > 0
        assert next(one["reason"] for one in moves(w)).startswith("5 ")


async def test_a_minute_without_postgresql_loses_nothing() -> None:
    async with world() as w:
        outage = await suffer(
            w, lambda: postgres.stop(w), lambda: postgres.start(w), seconds=MINUTE_S, devices=DEVICES, rate=RATE
        )
        tell("a minute without PostgreSQL", outage, w)
        assert outage.busy_during > 0
        alive_throughout(outage)
        for path in CACHED:
            assert set(outage.seen.statuses(path)) == {200}
            assert max(one.age_s or 0 for one in outage.seen.of(path)) > MINUTE_S / 2
        assert set(outage.seen.statuses(UNCACHED)) == {503}
        assert all(one.retry_after for one in outage.seen.of(UNCACHED))
        assert outage.seen.of("/health/ready")[-1].status == 503
        assert outage.healed_s < RESUMED_S + 1.0  # health looks once a second
        first = moves(w)[0]
        assert (first["breaker"], first["after"]) == ("database", "open")
        assert first["reason"].startswith("5 ")
