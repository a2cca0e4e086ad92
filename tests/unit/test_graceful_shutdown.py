"""The phases of a shutdown on parts that do as they are told; real signals are in tests/acceptance/test_shutdown.py."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from typing import Any

from structlog.testing import capture_logs

from app.core.graceful_shutdown import GracefulShutdown, ShutdownTimes
from app.core.requests_in_hand import RequestsInHand

SHORT = ShutdownTimes(propagation_s=0.01, sockets_s=0.05, requests_s=0.05, close_s=0.05)
LONG = ShutdownTimes(propagation_s=60.0, sockets_s=60.0, requests_s=60.0, close_s=60.0)


class Parts:
    """What is drained: notes the order, and hangs where it is told to."""

    def __init__(self, *, serving: bool = True, hangs: str = "") -> None:
        self.serving = serving
        self.open_sockets = 5
        self.done: list[str] = []
        self._hangs = hangs

    def refuse_new(self) -> None:
        self.done.append("refuse_new")

    async def end_sockets(self) -> None:
        await self._do("end_sockets")

    def hurry(self) -> None:
        self.done.append("hurry")

    async def close(self) -> None:
        await self._do("close")

    def receipt(self) -> dict[str, Any]:
        return {"lost_acked": 0}

    async def _do(self, name: str) -> None:
        if name == self._hangs:
            await never_ends()
        self.done.append(name)


async def never_ends() -> None:
    await asyncio.Event().wait()


async def shut_down(parts: Parts, times: ShutdownTimes = SHORT, requests: RequestsInHand | None = None) -> list[str]:
    with capture_logs() as logs:
        await GracefulShutdown(times, requests or RequestsInHand(), parts).run(signal.SIGTERM)
    return [str(one["event"]) for one in logs]


async def test_the_phases_come_in_order_and_say_so() -> None:
    parts, requests, began = Parts(), RequestsInHand(), time.monotonic()
    said = await shut_down(parts, requests=requests)
    took_s = time.monotonic() - began
    assert parts.done == ["refuse_new", "end_sockets", "close"]
    assert requests.closed
    assert said[:4] == [
        "Shutdown signal received (SIGTERM)",
        "Rejecting new requests (503)",
        "Closing WebSocket connections (5 active)",
        "All requests completed",
    ]
    told = re.fullmatch(r"Graceful shutdown completed in (\d+\.\d)s", said[-1])
    assert told is not None
    assert float(told[1]) <= took_s + 0.05  # it is rounded


class EndingInTurn(RequestsInHand):
    """One ends whenever somebody waits for one."""

    async def one_ends(self) -> None:
        asyncio.get_running_loop().call_soon(self.end)
        await super().one_ends()


async def test_requests_under_way_are_counted_down() -> None:
    requests = EndingInTurn()
    for _ in range(3):
        requests.begin()
    said = await shut_down(Parts(), ShutdownTimes(0.01, 60, 60, 60), requests)
    assert said[3:7] == [
        "Waiting for 3 active requests to complete...",
        "2 active requests remaining...",
        "1 active request remaining...",
        "All requests completed",
    ]


async def test_a_phase_that_hangs_is_left_with_its_stack_and_the_rest_goes_on() -> None:
    parts = Parts(hangs="end_sockets")
    with capture_logs() as logs:
        await GracefulShutdown(SHORT, RequestsInHand(), parts).run(signal.SIGTERM)
    (late,) = [one for one in logs if one["log_level"] == "error"]
    assert late["phase"] == "sockets"
    assert late["hanging"], "it says where the tasks are"
    assert parts.done == ["refuse_new", "close"]


async def test_a_request_that_hangs_is_left_at_its_time() -> None:
    requests = RequestsInHand()
    requests.begin()
    parts = Parts()
    said = await shut_down(parts, requests=requests)
    assert "All requests completed" not in said
    assert parts.done[-1] == "close"


async def test_a_second_signal_ends_the_waiting_but_skips_no_phase() -> None:
    parts = Parts()
    shutdown = GracefulShutdown(LONG, RequestsInHand(), parts)
    running = asyncio.create_task(shutdown.run(signal.SIGINT))
    await asyncio.sleep(0)
    shutdown.hurry()
    await asyncio.wait_for(running, 30)
    assert parts.done == ["refuse_new", "hurry", "end_sockets", "close"]


async def test_nobody_is_waited_for_who_was_never_sent_here() -> None:
    parts = Parts(serving=False)
    await asyncio.wait_for(shut_down(parts, LONG), 30)
    assert parts.done == ["refuse_new", "end_sockets", "close"]
