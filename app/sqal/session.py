"""One device socket: reads messages, hands samples to the commit queue, and sends each its verdict."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from app.core.clock import iso
from app.core.logging import get_logger
from app.sqal import answers, wire
from app.sqal.admission import Admission
from app.sqal.batch import Batch, batch_ack
from app.sqal.committer import busy, busy_for
from app.sqal.errors import Code, RefusalError
from app.sqal.outbox import Outbox
from app.sqal.prepare import explain, names_of
from app.sqal.reading import read_device_id
from app.sqal.retry_hint import retry_after_ms
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.sqal.ingest import Ingest
    from app.sqal.intake import Verdict, Work
    from app.sqal.outbox import Event, Send

    Receive = Callable[[], Awaitable[Event]]

GARBAGE_LIMIT: Final = 100
YIELD_EVERY: Final = 16
ROOM_WAIT_S: Final = 1.0
HELLO_WAIT_S: Final = 1.0
SLOW_DOWN_EVERY_S: Final = 1.0
FLUSH_DEADLINE_S: Final = 5.0
CLOSE_RESTART: Final = (1012, "service restart")
CLOSE_REVOKED: Final = (1008, "the key was revoked")
CLOSE_GARBAGE: Final = (1008, "the last 100 messages were all refused")
CLOSE_DEFECT: Final = (1011, "internal error")
CLOSE_UNREAD: Final = (1013, "answers are not being read")
CLOSE_ABUSE: Final = (1013, "too many messages: wait as long as retry_after_ms says")
RECONNECT_MS: Final = (500, 4_000)  # spread: the fleet must not come back at once
OVER_LIMIT_PAUSE_S: Final = 0.2  # of reading, when slow_down is said; longer, and pongs would go unread too
log = get_logger("gaveurs.sensors")


class DeviceSession:
    """The protocol of one connection. `run` returns when it has ended, with everything that was read answered or lost
    to a closed socket; a work handed in stays in the queue whatever happens to the socket.
    """

    def __init__(self, ingest: Ingest, receive: Receive, send: Send, *, peer: str, who: str, connection: str) -> None:
        """`who` is behind the connection: a key, or an address; `connection` is its own id."""
        self._ingest = ingest
        self._admission = Admission(ingest.limits, who, connection, ingest.clock.monotonic)
        self._received = ingest.metrics.sockets_received.labels("sensors")
        self._receive = receive
        self._send = send
        self._peer = peer
        self._outbox = Outbox(send, ingest.metrics, ingest.recorder, lambda: self.end(*CLOSE_UNREAD))
        self._settled = asyncio.Event()
        self._settled.set()
        self._end: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._pending = 0
        self._garbage = 0
        self._slow_down_at = 0.0
        self._slow_down_ms = 0
        self._cumulative = False
        self._positions = 0
        self._acked = 0
        self._order: deque[Work] = deque()
        self._handling = False

    @property
    def sample_messages(self) -> int:
        """How many sample messages this connection has sent."""
        return self._positions

    # Life

    async def run(self) -> None:
        """Serve the socket until the peer leaves, `end` is called, or it must be let go."""
        self._outbox.say(answers.ConnectionEstablished(self._now(), "SQAL sensor ingest ready"), Encoding.JSON)
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._outbox.run())
        try:
            await asyncio.wait((reader, writer, self._end), return_when=asyncio.FIRST_COMPLETED)
            self._report_defects(reader, writer)
            if self._end.done() and not writer.done():
                await self._stop_reading(reader)
                await self._close(writer, *self._end.result())
        finally:
            self._outbox.close()
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    def _report_defects(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                log.error("a sensor connection failed", exc_info=error)
                self._ingest.metrics.sockets_errors.labels("sensors").inc()
                self.end(*CLOSE_DEFECT)

    async def _stop_reading(self, reader: asyncio.Task[None]) -> None:
        """Let the message in hand be finished, if there is one; it waits at most for room in the queue."""
        if self._handling:
            await self._ingest.patience.wait_for(reader)
        reader.cancel()

    def end(self, code: int, reason: str) -> None:
        """Stop reading, answer what was read, close with `code`."""
        if not self._end.done():
            self._end.set_result((code, reason))

    async def _close(self, writer: asyncio.Task[None], code: int, reason: str) -> None:
        settled = asyncio.create_task(self._settled.wait())
        await self._ingest.patience.wait_for(settled)
        settled.cancel()
        if code == CLOSE_RESTART[0]:
            self._outbox.say(answers.Drain(random.randint(*RECONNECT_MS)), Encoding.JSON)  # noqa: S311 - jitter
        self._outbox.finish()
        await asyncio.wait({writer}, timeout=FLUSH_DEADLINE_S)
        self._ingest.metrics.sockets_closed.labels("sensors", str(code)).inc()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FLUSH_DEADLINE_S):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    # Reading

    async def _read(self) -> None:
        taken = 0
        while not self._end.done():
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return
            self._handling = True
            self._received.inc()
            if (utf8 := event.get("utf8")) is not None:
                await self._take(utf8, Encoding.JSON)
            elif (text := event.get("text")) is not None:
                await self._take(text.encode(), Encoding.JSON)
            else:
                await self._take(event["bytes"], Encoding.MSGPACK)
            self._handling = False
            taken += 1
            if taken % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # what is received already is handed over without a pause: give others a turn

    async def _take(self, raw: bytes, encoding: Encoding) -> None:
        """One message: a bad one costs its sender an error, nobody anything else."""
        if len(raw) > self._ingest.max_message_bytes:
            limit = self._ingest.max_message_bytes
            refusal = RefusalError(Code.MESSAGE_TOO_LARGE, f"the limit is {limit} bytes")
            await self._refuse(raw, encoding, refusal, counted=True)
            return
        kind = "sensor_data"
        try:
            kind = wire.decode_type(raw, encoding)
            if kind == "sensor_data":
                await self._submit(self._ingest.preparer.sample(raw, encoding, self, self._peer))
            else:
                await self._take_other(kind, raw, encoding)
        except RefusalError as refusal:
            await self._refuse(raw, encoding, refusal, counted=kind == "sensor_data")
        except (msgspec.DecodeError, RecursionError) as error:
            await self._refuse(raw, encoding, explain(error, raw, encoding), counted=kind == "sensor_data")

    async def _take_other(self, kind: str, raw: bytes, encoding: Encoding) -> None:
        if kind not in wire.KINDS:
            raise RefusalError(Code.UNKNOWN_TYPE, "this message type is not known here")
        if kind != "sensor_batch" and await self._is_over_limit(encoding, len(raw)):
            return
        message = wire.decode_as(kind, raw, encoding)
        if message.type != kind:
            raise RefusalError(Code.INVALID_TYPE, "type stands twice in the message, with different values")
        match message:
            case wire.SensorBatch():
                await self._take_batch(message, encoding)
                return  # its verdicts say whether it was good
            case wire.Hello():
                self._take_hello(message, encoding)
            case wire.Heartbeat():
                self._take_heartbeat(message, encoding)
            case _:
                self._outbox.say(answers.Pong(self._now()), encoding)
        self._garbage = 0

    async def _take_batch(self, message: wire.SensorBatch, encoding: Encoding) -> None:
        if message.samples is None:
            raise RefusalError(Code.MISSING_FIELD, "samples is missing")
        if len(message.samples) > self._ingest.max_batch:
            raise RefusalError(Code.BATCH_TOO_LARGE, f"a batch holds at most {self._ingest.max_batch} samples")
        if not message.samples:
            if not await self._is_over_limit(encoding, 1):
                self._outbox.say(answers.BatchAck([]), encoding)
            return
        batch = Batch(
            len(message.samples),
            self._ingest.recorder.judged,
            lambda results: self._finish_batch(results, encoding),
        )
        self._begin()
        self._ingest.recorder.received(len(message.samples))
        for number, raw in enumerate(message.samples, 1):
            work = self._ingest.preparer.sample(bytes(raw), encoding, batch, self._peer)
            batch.add(work)
            await self._offer(work)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)  # a long batch must not hold the loop from the other sockets

    def _take_hello(self, message: wire.Hello, encoding: Encoding) -> None:
        device_id = read_device_id(message.device_id)
        if message.ack not in (None, "each", "cumulative"):
            raise RefusalError(Code.INVALID_TYPE, "ack must be each or cumulative")
        self._cumulative = message.ack == "cumulative"
        mode = "cumulative" if self._cumulative else "each"
        self._begin()

        def answered(*, stored: bool) -> None:
            now = self._now()
            self._outbox.say(answers.HelloAck(now, now, device_id, mode, self._ingest.said_limits(), stored), encoding)
            self._finish()

        self._ingest.fleet.record_hello(device_id, message, answered, wait_s=HELLO_WAIT_S)

    def _take_heartbeat(self, message: wire.Heartbeat, encoding: Encoding) -> None:
        device_id = read_device_id(message.device_id)
        self._begin()

        def answered(*, stored: bool) -> None:
            if stored:
                self._outbox.say(answers.HeartbeatAck(self._now()), encoding)
            else:
                self._outbox.say_error(busy(self._ingest.storage), encoding)
            self._finish()

        self._ingest.fleet.record_heartbeat(device_id, message, answered)

    # Samples on their way

    async def _refuse(self, raw: bytes, encoding: Encoding, refusal: RefusalError, *, counted: bool) -> None:
        """Refusals are committed (to quarantine) before they are answered, like everything else."""
        work = self._ingest.preparer.sample(raw, encoding, self, self._peer, refusal)
        await self._submit(work, counted=counted)

    async def _submit(self, work: Work, *, counted: bool = True) -> None:
        """Hand a work in. A message that is known to be no sample has no position among the sample messages."""
        self._begin()
        self._ingest.recorder.received()
        if counted:
            self._positions += 1
            work.position = self._positions
            self._order.append(work)
        await self._offer(work)

    async def _offer(self, work: Work) -> None:
        """Queue the work or answer busy: over its device's limit, or without room. Waits a moment for room, unless the
        database is known to be away.
        """
        ingest = self._ingest
        if ingest.storage.away:
            self._turn_away(work)
            return
        if wait_s := self._admission.retry_after_s(work.lane, work.size_bytes):
            ingest.recorder.over_limit()
            await self._over_limit(work.encoding, wait_s)
            work.answer(busy_for(round(wait_s * 1_000)))
            return
        if ingest.intake.offer(work) or await ingest.intake.offer_within(work, ROOM_WAIT_S):
            ingest.preparer.prepare_soon(work)
        else:
            self._admission.give_back(work.lane, work.size_bytes)
            work.answer(busy(ingest.storage))
        if ingest.intake.nearly_full:
            self._slow_down(work.encoding, retry_after_ms(ingest.storage))

    def _turn_away(self, work: Work) -> None:
        """Nothing can be stored now: say so at once, and charge nothing for it."""
        if self._admission.is_flood():
            self.end(*CLOSE_ABUSE)
        self._slow_down(work.encoding, retry_after_ms(self._ingest.storage))
        work.answer(busy(self._ingest.storage))

    async def _is_over_limit(self, encoding: Encoding, size_bytes: int) -> bool:
        """Ask for a message that is no sample; one over the limit is answered busy here."""
        wait_s = self._admission.retry_after_s("", size_bytes)
        if wait_s:
            await self._over_limit(encoding, wait_s)
            self._outbox.say_error(busy_for(round(wait_s * 1_000)), encoding)
        return wait_s > 0

    def _slow_down(self, encoding: Encoding, milliseconds: int) -> bool:
        """Advise, once a second, and when it has become twice as long; whether it was time to."""
        now = self._ingest.clock.monotonic()
        due = now >= self._slow_down_at
        if not due and milliseconds < 2 * self._slow_down_ms:
            return False
        if due:
            self._slow_down_at = now + SLOW_DOWN_EVERY_S
        self._slow_down_ms = milliseconds
        self._outbox.say(answers.SlowDown(milliseconds), encoding)
        return due

    async def _over_limit(self, encoding: Encoding, wait_s: float) -> None:
        if self._admission.is_abuse():
            self.end(*CLOSE_ABUSE)
        elif self._slow_down(encoding, round(wait_s * 1_000)):
            await asyncio.sleep(min(wait_s, OVER_LIMIT_PAUSE_S))

    def deliver(self, work: Work, verdict: Verdict) -> None:
        """The verdict on a sample message of this connection, after its transaction committed."""
        self._ingest.recorder.judged(work, verdict)
        if verdict.code is not None:
            self._outbox.say_error(verdict, work.encoding, *names_of(work), position=work.position)
        elif not self._cumulative and work.reading is not None:
            reading = work.reading
            self._outbox.say(
                answers.Ack(reading.sample_id, reading.timestamp, verdict.status, verdict.score, verdict.grade),
                work.encoding,
            )
        elif self._cumulative:
            self._outbox.count_for_ack(verdict.status)
        self._advance()
        self._judge_content([verdict])
        self._finish()

    def _advance(self) -> None:
        """Count the first n messages that all have their verdict; in cumulative mode, say so."""
        last = None
        while self._order and self._order[0].answered:
            last = self._order.popleft()
            self._acked += 1
        if last is not None and self._cumulative:
            self._outbox.say_count(answers.CumulativeAck(self._acked, names_of(last)[0]), last.encoding)

    def _finish_batch(self, results: list[tuple[Work, Verdict]], encoding: Encoding) -> None:
        """All verdicts of a batch are in."""
        self._outbox.say(batch_ack(results), encoding)
        self._judge_content([verdict for _, verdict in results])
        self._finish()

    def _judge_content(self, verdicts: list[Verdict]) -> None:
        """Count messages in a row that were refused for their content; too many end the connection."""
        if all(verdict.code is not None and verdict.code is not Code.BUSY for verdict in verdicts):
            self._garbage += 1
            if self._garbage >= GARBAGE_LIMIT:
                self.end(*CLOSE_GARBAGE)
        else:
            self._garbage = 0

    def _begin(self) -> None:
        self._pending += 1
        self._settled.clear()

    def _finish(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._settled.set()

    def _now(self) -> str:
        return iso(self._ingest.clock.now())
