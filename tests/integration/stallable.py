"""A way to the database that can stall: nothing passes any more, and nobody is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@dataclass
class Way:
    dsn: str
    """Leads over it."""
    heard: Callable[[bytes], None] = lambda _data: None
    """Called with what a client sends, before it is passed on."""
    stalled: bool = False
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """A client has given a connection up."""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, ours: bool) -> None:
        while data := await reader.read(65_536):
            if ours:
                self.heard(data)
            if not self.stalled:
                writer.write(data)


async def _reach(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(dsn)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    if "host" in query:
        return await asyncio.open_unix_connection(f"{query['host']}/.s.PGSQL.{query.get('port', '5432')}")
    return await asyncio.open_connection(url.hostname, url.port or 5432)


@asynccontextmanager
async def stallable(dsn: str) -> AsyncIterator[Way]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            theirs, ours = await _reach(dsn)
            back = asyncio.create_task(way.carry(theirs, writer, ours=False))
            with closing(ours), suppress(ConnectionError):
                await way.carry(reader, ours, ours=True)
            way.hung_up.set()
            back.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url, port = urlsplit(dsn), server.sockets[0].getsockname()[1]
    way = Way(f"postgresql://{url.netloc.rpartition('@')[0]}@127.0.0.1:{port}{url.path}?sslmode=disable")
    async with server:
        yield way
