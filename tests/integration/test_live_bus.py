"""The feed between processes where the way to the database is bad."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from app.core.clock import SystemClock
from app.sqal.live import LiveFeed
from app.sqal.live_bus import LiveBus
from tests.integration.stallable import stallable
from tests.integration.test_database import guarded, of_another_name

if TYPE_CHECKING:
    import pytest


async def test_a_network_that_stalls_while_it_begins_to_listen_ends_that_try(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stallable(dsn) as way:

        def heard(data: bytes) -> None:
            monkeypatch.setattr("app.sqal.live_bus.DEADLINE_S", 0.01)  # connecting has its own, from before
            way.stalled |= b"LISTEN" in data

        way.heard = heard
        clock = SystemClock()
        bus = LiveBus(way.dsn, guarded(), LiveFeed(clock), clock, lambda: False)
        with capture_logs() as lines:
            task = asyncio.create_task(bus.run())
            async with asyncio.timeout(30):
                await way.hung_up.wait()
                while not lines:
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
    assert (lines[0]["event"], lines[0]["reason"]) == ("no live feed between processes", "TimeoutError")


async def test_a_refused_login_is_a_failure_to_the_breaker(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.sqal.live_bus.RETRY_S", (0.0, 0.0))
    storage, clock = guarded(), SystemClock()
    bus = LiveBus(of_another_name(dsn), storage, LiveFeed(clock), clock, lambda: False)
    with capture_logs() as lines:
        task = asyncio.create_task(bus.run())
        async with asyncio.timeout(30):
            while not storage.away:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    assert lines[0]["event"] == "no live feed between processes"
    assert lines[0]["reason"].startswith('LoginRefusedError: InvalidCatalogNameError: database "nowhere"')
