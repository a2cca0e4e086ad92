"""Requests that are under way for as long as a test wants: each waits for a row that the test holds."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

if TYPE_CHECKING:
    from tests.support import Server

# Longer than a test waits.
PATIENT = {"QUERY_DEADLINE_S": "25", "REQUEST_DEADLINE_S": "28"}
COUNTED_DOWN = (
    "Waiting for 3 active requests to complete...",
    "2 active requests remaining...",
    "1 active request remaining...",
)
BUG = {"title": "held", "description": "d", "severity": "low", "priority": "low"}


async def end_with_three_requests(server: Server) -> None:
    """SIGTERM while three requests are under way; each ends when the log says how many there are."""
    dsn = json.loads((server.folder / "connection.json").read_text())["dsn"]
    asked, held = [], []
    with ExitStack() as stack:
        for _ in COUNTED_DOWN:
            status, body, _ = await asyncio.to_thread(server.request, "/api/bugs/", method="POST", body=BUG)
            assert status == 201, body
            bug = json.loads(body)["id"]
            held.append(await asyncpg.connect(dsn))
            stack.callback(held[-1].terminate)
            await held[-1].execute("BEGIN")
            await held[-1].fetch("SELECT FROM bugs WHERE id = $1 FOR UPDATE", UUID(bug))
            change = asyncio.to_thread(server.request, f"/api/bugs/{bug}", method="PATCH", body={"title": "changed"})
            asked.append(asyncio.create_task(change))
        async with asyncio.timeout(20):
            while await held[0].fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < len(asked):
                await asyncio.sleep(0.02)
        server.running.send_signal(signal.SIGTERM)
        for connection, line in zip(held, COUNTED_DOWN, strict=True):
            async with asyncio.timeout(20):
                while line not in server.log():
                    await asyncio.sleep(0.02)
            await connection.execute("ROLLBACK")
        assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 200, 200]
