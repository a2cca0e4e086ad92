"""Two processes on one database and one Redis: what one commits, drops or admits, the other knows."""

from __future__ import annotations

import asyncio
import contextlib
import math
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.core.clock import iso
from tests.outages import World, until, world
from tests.support import Server, data_folder, device, trimmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECTS = 20

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[World, Server, Server]]:
    # 20 at once, and then one in three seconds.
    async with world(WS_CONNECTS_PER_MINUTE=str(CONNECTS)) as made:
        with data_folder() as folder:
            second = Server(folder)
            second._env = made.server._env
            try:
                await asyncio.to_thread(second.start)
                yield made, made.server, second
            finally:
                second.clean_up()


async def save(server: Server, sample_id: str) -> None:
    async with device(server) as box:
        answer = await box.ask(trimmed(sample_id=sample_id, timestamp=iso(datetime.now(UTC))))
        assert answer["status"] == "saved"


async def test_replicas_agree(pair: tuple[World, Server, Server]) -> None:
    _, one, two = pair
    await save(one, "first")
    for server in (one, two):
        assert server.get("/api/sqal/latest")["sample_id"] == "first"
        assert server.get("/api/sqal/dashboard")["count"] == 1

    # A commit in one is seen through the other.
    await save(one, "second")
    await until(lambda: two.get("/api/sqal/dashboard")["count"] == 2, "the other's figures follow")
    await until(
        lambda: two.get("/api/sqal/latest") == one.get("/api/sqal/latest"), "each value has its own two seconds"
    )
    assert one.get("/api/sqal/latest")["sample_id"] == "second"

    # What is dropped in one is dropped in the other.
    await until(lambda: _cached(one) and _cached(two), "both have it cached")
    assert one.request("/api/admin/cache/invalidate", method="POST", body={"pattern": "*"})[0] == 200
    await until(lambda: _keys(two) == 0, "the other has dropped it")

    # What the command line changes, both read anew.
    await until(lambda: _cached(one) and _cached(two), "both have it cached")
    command = ["regrade", "--from", "2020-01-01", "--to", "2030-01-01", "--recipe", "sqal-1-reported"]
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "app.cli", *command], env=one._env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    await until(lambda: _keys(one) == _keys(two) == 0, "both have dropped what they had")


def _cached(server: Server) -> bool:
    """Read it; whether it was there and was believed."""
    return "; hit" in server.request("/api/sqal/dashboard")[2]["cache-status"]


def _keys(server: Server) -> int:
    keys: int = server.get("/api/admin/cache")["total_keys"]
    return keys


async def test_a_limit_holds_over_both_replicas(pair: tuple[World, Server, Server]) -> None:
    _, one, two = pair
    admitted, began = 0, time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(4 * CONNECTS):
            try:
                await stack.enter_async_context(connect((one, two)[number % 2].ws_url, compression=None))
                admitted += 1
            except InvalidStatus as error:
                assert error.response.status_code == 429
                assert int(error.response.headers["retry-after"]) >= 1
            await asyncio.sleep(0.02)  # leases travel
    come = math.ceil((time.monotonic() - began) * CONNECTS / 60)
    assert CONNECTS - 4 <= admitted <= CONNECTS + 2 * 2 + come  # a slice is a tenth of the burst, and at least 2
