"""One simulated device: measures at its rate, buffers, sends, reads its verdicts, and sends again what has none."""

from __future__ import annotations

import asyncio
import json
import random
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

if TYPE_CHECKING:
    from app.sqal.simulator.journal import Journal
    from app.sqal.simulator.messages import MessageMaker

WINDOW: Final = 64  # samples under way without a verdict
RESEND_AFTER_S: Final = 30.0
HEARTBEAT_S: Final = 30.0
CONNECT_DEADLINE_S: Final = 5.0
BACKOFF_S: Final = (0.2, 5.0)
MAX_LATENESS_S: Final = 1.0


Name = tuple[str, str]
"""(timestamp, sample_id): a sample among those of one device."""


@dataclass(slots=True)
class _Held:
    """A sample in the device's memory until it has its verdict."""

    text: str
    queued: bool = True
    sent_at: float | None = None
    transmissions: int = 0


class SimulatedDevice:
    """Produces until `until` (loop time), then only empties its buffer; `run` ends when every sample has a verdict."""

    def __init__(
        self, maker: MessageMaker, journal: Journal, url: str, *, key: str | None, interval_s: float, buffer: int
    ) -> None:
        self._maker = maker
        self._journal = journal
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._interval_s = interval_s
        self._buffer = buffer
        self._held: OrderedDict[Name, _Held] = OrderedDict()
        self._queue: deque[Name] = deque()
        self._under_way = 0
        self._resume_at = 0.0
        self._reconnect_in_s: float | None = None
        self._news = asyncio.Event()
        self._emptied = asyncio.Event()

    async def run(self, until: float) -> None:
        """Produce and deliver. Cancel it to give up on what is still without a verdict."""
        link = asyncio.create_task(self._stay_connected())
        try:
            producer = asyncio.create_task(self._produce_and_empty(until))
            await asyncio.wait({link, producer}, return_when=asyncio.FIRST_COMPLETED)
            if link.done():
                producer.cancel()
                link.result()
            await producer
        finally:
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)

    async def _produce_and_empty(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + random.uniform(0, self._interval_s)  # noqa: S311 - devices are not in step
        while due < until:
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._measure()
            due = max(due + self._interval_s, loop.time() - MAX_LATENESS_S)
        while self._held:
            self._emptied.clear()
            await self._emptied.wait()

    def _measure(self) -> None:
        message = self._maker.sample(datetime.now(UTC))
        name = (message["timestamp"], message["sample_id"])
        if len(self._held) >= self._buffer:
            self._release(next(iter(self._held)))
            self._journal.dropped += 1
        self._held[name] = _Held(json.dumps(message, ensure_ascii=False))
        self._queue.append(name)
        self._journal.made += 1
        self._news.set()

    def _release(self, name: Name) -> _Held | None:
        """Let a sample go; None for one that is not held (any more)."""
        held = self._held.pop(name, None)
        if held is not None and held.sent_at is not None:
            self._count_under_way(-1)
        if not self._held:
            self._emptied.set()
        return held

    def _count_under_way(self, change: int) -> None:
        self._under_way += change
        self._journal.under_way += change

    def _queue_again(self, name: Name) -> None:
        held = self._held.get(name)
        if held is not None and not held.queued:
            if held.sent_at is not None:
                held.sent_at = None
                self._count_under_way(-1)
            held.queued = True
            self._queue.append(name)
            self._news.set()

    async def _stay_connected(self) -> None:
        pause, connected_before = BACKOFF_S[0], False
        while True:
            # Cut off in any way: the buffer holds what has no verdict, and it is sent again.
            with suppress(OSError, TimeoutError, WebSocketException, EOFError):
                async with connect(
                    self._url,
                    additional_headers=self._headers,
                    compression=None,
                    open_timeout=CONNECT_DEADLINE_S,
                    close_timeout=1.0,
                ) as socket:
                    self._journal.reconnections += connected_before
                    pause, connected_before = BACKOFF_S[0], True
                    await self._serve(socket)
            self._count_under_way(-self._under_way)
            self._queue = deque(self._held)
            for held in self._held.values():
                held.queued, held.sent_at = True, None
            spread = random.uniform(0.5, 1.5)  # noqa: S311 - a fleet must not come back in step
            await asyncio.sleep(pause * spread if self._reconnect_in_s is None else self._reconnect_in_s)
            self._reconnect_in_s = None
            pause = min(pause * 2, BACKOFF_S[1])

    async def _serve(self, socket: ClientConnection) -> None:
        await socket.send(json.dumps(self._maker.hello(datetime.now(UTC))))
        helpers = [
            asyncio.create_task(work)
            for work in (self._send_samples(socket), self._send_heartbeats(socket), self._send_overdue_again())
        ]
        try:
            async for text in socket:
                self._read(json.loads(text))
                if self._reconnect_in_s is not None:
                    break
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _send_heartbeats(self, socket: ClientConnection) -> None:
        journal = self._journal
        while True:
            message = self._maker.heartbeat(
                datetime.now(UTC),
                sent=journal.transmissions,
                buffered=len(self._held),
                reconnections=journal.reconnections,
            )
            await socket.send(json.dumps(message))
            await asyncio.sleep(HEARTBEAT_S)

    async def _send_samples(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            if (pause := self._resume_at - loop.time()) > 0:
                await asyncio.sleep(pause)
            while self._queue and self._under_way < WINDOW and loop.time() >= self._resume_at:
                name = self._queue.popleft()
                held = self._held.get(name)
                if held is None:
                    continue
                held.queued, held.sent_at = False, loop.time()
                held.transmissions += 1
                self._count_under_way(1)
                self._journal.note_sent(first=held.transmissions == 1)
                await socket.send(held.text)
            if loop.time() < self._resume_at:
                self._news.set()

    async def _send_overdue_again(self) -> None:
        """What got no answer for long is sent again: the identity makes a second copy harmless."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RESEND_AFTER_S / 6)
            late = loop.time() - RESEND_AFTER_S
            for name in [name for name, held in self._held.items() if held.sent_at is not None and held.sent_at < late]:
                self._queue_again(name)

    def _read(self, message: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        name = (message.get("timestamp", ""), message.get("sample_id", ""))
        match message["type"]:
            case "ack":
                held = self._release(name)
                if held is not None:  # else a copy of it was answered before
                    waited_s = loop.time() - (held.sent_at or loop.time())
                    self._journal.note_ack((self._maker.device_id, *name), message["status"], waited_s)
            case "error" if message["code"] == "busy":
                self._journal.busy += 1
                loop.call_later(message.get("retry_after_ms", 1_000) / 1_000, self._queue_again, name)
            case "error":
                if self._release(name) is not None:
                    self._journal.refused += 1
            case "slow_down":
                self._journal.slow_downs += 1
                self._resume_at = loop.time() + message["retry_after_ms"] / 1_000
            case "drain":
                self._reconnect_in_s = message["reconnect_in_ms"] / 1_000
        self._news.set()
