"""Answers on their way to one device: a bounded queue and the connection's only writer."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.sqal import answers, wire
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from app.core.metrics import Metrics
    from app.sqal.intake import Verdict
    from app.sqal.recorder import SampleRecorder

    Event = MutableMapping[str, Any]
    Send = Callable[[Event], Awaitable[None]]

LIMIT: Final = 16_384


class Outbox:
    """`say` never waits. Of a device that reads nothing the queue is dropped at its limit, and `on_unread` is called:
    what was committed is answered `duplicate` when it comes again.
    """

    def __init__(self, send: Send, metrics: Metrics, recorder: SampleRecorder, on_unread: Callable[[], None]) -> None:
        self._send = send
        self._recorder = recorder
        self._on_unread = on_unread
        self._sent = metrics.sockets_sent.labels("sensors")
        self._errors = metrics.sockets_errors.labels("sensors")
        self._waiting: deque[tuple[msgspec.Struct, Encoding]] = deque()
        self._unsaid: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._finishing = False
        self._closed = False

    def say(self, message: msgspec.Struct, encoding: Encoding) -> None:
        if self._closed:
            return
        self._waiting.append((message, encoding))
        self._news.set()
        if len(self._waiting) > LIMIT:
            self._waiting.clear()
            self._on_unread()

    def say_error(
        self,
        verdict: Verdict,
        encoding: Encoding,
        sample_id: str | None = None,
        timestamp: str | None = None,
        position: int | None = None,
    ) -> None:
        self.say(
            answers.Error(
                code=str(verdict.code),
                error=verdict.reason or "",
                sample_id=sample_id,
                timestamp=timestamp or msgspec.UNSET,
                retry_after_ms=verdict.retry_after_ms or msgspec.UNSET,
                position=position or msgspec.UNSET,
            ),
            encoding,
        )

    def count_for_ack(self, status: str) -> None:
        """One more sample that the next cumulative ack acknowledges."""
        self._unsaid[status] += 1

    def say_count(self, ack: answers.CumulativeAck, encoding: Encoding) -> None:
        """In place of an unsent one: the newer count says all that it said."""
        if self._waiting and isinstance(self._waiting[-1][0], answers.CumulativeAck):
            self._waiting.pop()
        self.say(ack, encoding)

    def finish(self) -> None:
        """Let `run` end once all is sent."""
        self._finishing = True
        self._news.set()

    def close(self) -> None:
        """The socket is gone: nothing more is kept."""
        self._closed = True
        self._waiting.clear()

    async def run(self) -> None:
        """The connection's only writer; ends when the socket is gone, or after `finish` when all is sent."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                message, encoding = self._waiting.popleft()
                payload = wire.encode(message, encoding)
                event: Event = {"type": "websocket.send"}
                if encoding is Encoding.JSON:
                    event["text"] = payload.decode()
                else:
                    event["bytes"] = payload
                try:
                    await self._send(event)
                except OSError:
                    return
                self._note_sent(message)
            if self._finishing:
                return

    def _note_sent(self, message: msgspec.Struct) -> None:
        self._sent.inc()
        match message:
            case answers.Ack():
                self._recorder.acknowledged(message.status)
            case answers.CumulativeAck():
                for status, number in self._unsaid.items():
                    self._recorder.acknowledged(status, number)
                self._unsaid.clear()
            case answers.BatchAck():
                for status, number in Counter(result["status"] for result in message.results).items():
                    if status == "error":
                        self._errors.inc(number)
                    else:
                        self._recorder.acknowledged(status, number)
            case answers.Error():
                self._errors.inc()
