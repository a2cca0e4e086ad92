"""The live feed across processes on one PostgreSQL: LISTEN and NOTIFY, on a connection of its own.

A process that has dashboards says so every few seconds; the others then tell what they commit, after the commit and
apart from it: NOTIFY inside a transaction would make all commits wait for each other. Nobody listens, nothing is sent.
What is lost with a connection is lost to the feed alone; it is committed, and REST shows it.
"""

from __future__ import annotations

import asyncio
import base64
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg
import msgspec

from app.core.database import DATABASE_ERRORS, is_away, logging_in
from app.core.errors import UnavailableError, in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.core.clock import Clock
    from app.core.dependency import Dependency
    from app.sqal.live import Entry, LiveFeed

    Connection = asyncpg.Connection[asyncpg.Record]

CHANNEL: Final = "gaveurs_live"
MAX_PAYLOAD: Final = 7_900  # PostgreSQL takes 7,999 bytes
TOGETHER: Final = 32  # messages compressed in one notification, at first try
WANT_EVERY_S: Final = 5.0
WANTED_FOR_S: Final = 15.0
PUBLISH_EVERY_S: Final = 0.1
DEADLINE_S: Final = 5.0
RETRY_S: Final = (1.0, 10.0)
MAX_INFLATED: Final = 1024 * 1024
NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload"
log = get_logger("gaveurs.live")


class LiveBus:
    """Passes this process's feed on to the others, and theirs into this one's."""

    def __init__(
        self, dsn: str, storage: Dependency, feed: LiveFeed, clock: Clock, has_dashboards: Callable[[], bool]
    ) -> None:
        self._dsn = dsn
        self._storage = storage
        self._feed = feed
        self._clock = clock
        self._has_dashboards = has_dashboards
        self._id = uuid4().hex[:12]
        self._news = asyncio.Event()
        self._want_now = asyncio.Event()
        self._wanted_until = 0.0
        self._lock = asyncio.Lock()  # a connection does one thing at a time

    def announce(self) -> None:
        """A dashboard has come: say at once that this process wants to hear."""
        self._want_now.set()

    async def run(self) -> None:
        """Connect, and again when the connection is lost; runs until cancelled."""
        pause_s = RETRY_S[0]
        while True:
            try:
                connection = await self._connect()
                try:
                    async with asyncio.timeout(DEADLINE_S):
                        await connection.add_listener(CHANNEL, self._hear)
                    pause_s = RETRY_S[0]
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except (UnavailableError, *DATABASE_ERRORS) as error:
                if not isinstance(error, UnavailableError) and not is_away(error):
                    log.exception("the live feed between processes failed")
                log.warning("no live feed between processes", reason=in_a_line(error), again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S[1])

    async def _connect(self) -> Connection:
        async with self._storage.call(), asyncio.timeout(DEADLINE_S):
            await self._storage.strike()
            with logging_in():
                return await asyncpg.connect(self._dsn, server_settings={"application_name": "gaveurs-live"})

    async def _serve(self, connection: Connection) -> None:
        reader = self._feed.subscribe(self._news.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._want(connection))
                tasks.create_task(self._publish(connection, reader.take))
        except* (UnavailableError, *DATABASE_ERRORS) as errors:
            raise errors.exceptions[0] from None
        finally:
            reader.close()

    async def _want(self, connection: Connection) -> None:
        """Ask who has dashboards, then say every few seconds that there are some here; with none, see that the way
        still leads there.
        """
        await self._notify(connection, [f"{self._id}:ask:"])
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(WANT_EVERY_S):
                    await self._want_now.wait()
            self._want_now.clear()
            await self._notify(connection, [f"{self._id}:want:"] if self._has_dashboards() else [])

    async def _publish(self, connection: Connection, take: Callable[[], tuple[list[Entry], bool]]) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            entries, _ = take()
            if self._clock.monotonic() < self._wanted_until:
                own = [entry.message.payload for entry in entries if not entry.remote]
                await self._notify(connection, [f"{self._id}:news:{packed}" for packed in pack(own)])
                await asyncio.sleep(PUBLISH_EVERY_S)

    async def _notify(self, connection: Connection, payloads: list[str]) -> None:
        async with self._storage.call(), asyncio.timeout(DEADLINE_S), self._lock:
            await connection.execute(NOTIFY, payloads)

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        sender, _, rest = str(payload).partition(":")
        kind, _, packed = rest.partition(":")
        if sender == self._id:
            return
        if kind == "ask":
            self._want_now.set()
        elif kind == "want":
            self._wanted_until = self._clock.monotonic() + WANTED_FOR_S
        elif kind == "news" and self._has_dashboards():
            try:
                for message in unpack(packed):
                    self._feed.note_remote(message)
            except (ValueError, zlib.error, msgspec.DecodeError):
                log.warning("a message of another process cannot be read; is it of another release?")


def pack(payloads: list[bytes]) -> Iterator[str]:
    """JSON messages as texts that each fit into a notification."""
    for start in range(0, len(payloads), TOGETHER):
        yield from _pack(payloads[start : start + TOGETHER])


def _pack(payloads: list[bytes]) -> Iterator[str]:
    packed = base64.b64encode(zlib.compress(b"\n".join(payloads), 1)).decode()
    if len(packed) <= MAX_PAYLOAD:
        yield packed
    elif len(payloads) > 1:
        middle = len(payloads) // 2
        yield from _pack(payloads[:middle])
        yield from _pack(payloads[middle:])
    else:
        log.warning("a message is too large for the other processes' dashboards", bytes=len(payloads[0]))


def unpack(packed: str) -> list[bytes]:
    """What `pack` made. Raises ValueError or zlib.error for anything else."""
    compressed = base64.b64decode(packed, validate=True)
    return zlib.decompressobj().decompress(compressed, MAX_INFLATED).split(b"\n")
