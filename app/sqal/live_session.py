"""One dashboard socket: greets, says what was committed, obeys its filters. A slow one costs nobody anything."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.core.clock import iso
from app.core.errors import AppError
from app.core.logging import get_logger
from app.core.server import TextMessage
from app.sqal.live import EVERYTHING, LiveFilter
from app.sqal.reading import GRADES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from app.core.clock import Clock
    from app.core.metrics import Metrics
    from app.core.server import TextSink
    from app.sqal.cached import CachedReads
    from app.sqal.live import LiveFeed

    Event = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]

PING_S: Final = 20.0
SEND_DEADLINE_S: Final = 30.0  # for a peer that reads nothing at all
CLOSE_DEADLINE_S: Final = 2.0
MAX_COMMAND_BYTES: Final = 8_192
MAX_ANSWERS: Final = 64
COMMAND_EVERY_S: Final = 0.05  # a client that sends more often is read more slowly
GARBAGE_LIMIT: Final = 100
MAX_FILTER_CHARACTERS: Final = 128
CLOSE_UNREAD: Final = (1013, "messages are not being read")
CLOSE_GARBAGE: Final = (1008, "the last 100 messages were all refused")
FILTERS: Final = ("device_id", "site_code", "min_grade")
log = get_logger("gaveurs.realtime")


class CommandError(Exception):
    """What a dashboard asked cannot be done; told to it alone."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class DashboardSession:
    """The protocol of one connection. `run` returns when it has ended."""

    def __init__(
        self,
        feed: LiveFeed,
        cached: CachedReads,
        clock: Clock,
        metrics: Metrics,
        receive: Receive,
        send: Send,
        sink: TextSink,
    ) -> None:
        self._feed = feed
        self._cached = cached
        self._metrics = metrics
        self._received = metrics.sockets_received.labels("realtime")
        self._sent = metrics.sockets_sent.labels("realtime")
        self._clock = clock
        self._receive = receive
        self._send = send
        self._sink = sink
        self._answers: deque[TextMessage] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._end: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._reader = feed.subscribe(self._news.set)
        self._garbage = 0

    def end(self, code: int, reason: str) -> None:
        """Close with `code`; what was not sent is dropped."""
        if not self._end.done():
            self._end.set_result((code, reason))

    async def run(self) -> None:
        """Serve the socket until the peer leaves, `end` is called, or it must be let go."""
        tasks = [asyncio.create_task(work) for work in (self._write(), self._read(), self._ping())]
        try:
            watched: list[asyncio.Future[Any]] = [*tasks, self._end]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    log.error("a dashboard connection failed", exc_info=error)
                    self._metrics.sockets_errors.labels("realtime").inc()
                    self.end(1011, "internal error")
            if self._end.done():
                code, reason = self._end.result()
                self._metrics.sockets_closed.labels("realtime", str(code)).inc()
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(CLOSE_DEADLINE_S):
                        await self._send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            self._reader.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        """The connection's only writer; ends when the socket is gone or is not read."""
        try:
            greeting = self._message({"type": "connection_established", "message": "SQAL realtime feed"})
            self._sink.write_messages([greeting])
            self._sent.inc()
            await self._ready()  # the greeting does not wait for the database, nor any news for their place behind it
            await self._say_latest()
            while True:
                await self._ready()
                await self._news.wait()
                self._news.clear()
                await self._flush()
        except TimeoutError:
            self.end(*CLOSE_UNREAD)
        except OSError:
            return

    async def _ready(self) -> None:
        async with asyncio.timeout(SEND_DEADLINE_S):
            await self._sink.ready()

    async def _flush(self) -> None:
        await self._ready()
        began = time.perf_counter()
        if messages := self._next_messages():  # taken only now: what a slow peer gets is as new as can be
            self._sink.write_messages(messages)
            self._sent.inc(len(messages))
        self._feed.spend(time.perf_counter() - began)

    def _next_messages(self) -> list[TextMessage]:
        messages = list(self._answers)
        self._answers.clear()
        self._room.set()
        entries, complete = self._reader.take()
        if not complete:
            messages.append(self._message({"type": "conflated"}))
        return messages + [entry.message for entry in entries]

    async def _say_latest(self) -> None:
        """The newest sample that was committed before this dashboard came; null when there is none, or none is known
        because the database does not answer.
        """
        sample: bytes | None = None
        with suppress(AppError):
            sample = (await self._cached.latest(None)).value
        self._say({"type": "latest_sample", "data": msgspec.Raw(sample or b"null")})

    async def _read(self) -> None:
        while True:
            await self._room.wait()  # who does not read answers is not read either
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return
            self._received.inc()
            try:
                self._obey(_read_command(event))
                self._garbage = 0
            except CommandError as error:
                self._say({"type": "error", "code": error.code, "error": error.reason})
                self._metrics.sockets_errors.labels("realtime").inc()
                self._garbage += 1
                if self._garbage >= GARBAGE_LIMIT:
                    self.end(*CLOSE_GARBAGE)
            await asyncio.sleep(COMMAND_EVERY_S)

    def _obey(self, command: dict[str, Any]) -> None:
        match command.get("type"):
            case "subscribe":
                wanted = read_filters(command.get("filters"))
                self._reader.wanted = wanted
                self._say({"type": "subscribed", "filters": {name: getattr(wanted, name) for name in FILTERS}})
                if (latest := self._feed.latest(wanted)) is not None:
                    renamed = latest.message.payload.replace(b'"sensor_update"', b'"latest_sample"', 1)
                    self._answers.append(TextMessage(renamed))
            case "unsubscribe":
                self._reader.wanted = None
                self._say({"type": "unsubscribed"})
            case "heartbeat":
                self._say({"type": "heartbeat_ack"})
            case "ping":
                self._say({"type": "pong"})
            case "pong":
                pass
            case _:
                raise CommandError("unknown_type", "known types: subscribe, unsubscribe, heartbeat, ping")

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self._say({"type": "ping"})

    def _say(self, message: dict[str, Any]) -> None:
        self._answers.append(self._message(message))
        if len(self._answers) >= MAX_ANSWERS:
            self._room.clear()
        self._news.set()

    def _message(self, message: dict[str, Any]) -> TextMessage:
        kind = message.pop("type")
        return TextMessage(msgspec.json.encode({"type": kind, "timestamp": iso(self._clock.now()), **message}))


def _read_command(event: Event) -> dict[str, Any]:
    text = event.get("text")
    if text is None:
        raise CommandError("malformed_json", "commands are JSON text")
    if len(text) > MAX_COMMAND_BYTES:
        raise CommandError("message_too_large", f"the limit is {MAX_COMMAND_BYTES} bytes")
    try:
        command = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandError("malformed_json", "the message is not JSON, or nested too deep") from error
    if not isinstance(command, dict):
        raise CommandError("invalid_type", "the message must be an object")
    return command


def read_filters(filters: Any) -> LiveFilter:
    """A dashboard's filters, checked. Raises CommandError (`invalid_filter`)."""
    if filters is None:
        return EVERYTHING
    if not isinstance(filters, dict):
        raise CommandError("invalid_filter", "filters must be an object")
    if unknown := filters.keys() - set(FILTERS):
        raise CommandError("invalid_filter", f"{len(unknown)} unknown; known filters: {', '.join(FILTERS)}")
    for name, value in filters.items():
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_FILTER_CHARACTERS):
            raise CommandError("invalid_filter", f"{name} must be a text of 1 to {MAX_FILTER_CHARACTERS} characters")
    if filters.get("min_grade") not in (None, *GRADES):
        raise CommandError("invalid_filter", f"min_grade must be one of {', '.join(GRADES)}")
    return LiveFilter(*(filters.get(name) for name in FILTERS))
