"""Many dashboards as one cheap process: they read and count bytes, all but one, which never reads."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys

import uvloop


async def connect(port: int, *, deaf: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket after its handshake."""
    plain = socket.socket()
    if deaf:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    plain.setblocking(False)  # noqa: FBT003
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024 * 1024)
    key = base64.b64encode(os.urandom(16))
    writer.write(
        b"GET /ws/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % key
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 101 " not in head:
        raise ConnectionError(head.decode())
    return reader, writer


async def main(port: int, count: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    updates = [0] * count

    async def read(number: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(256 * 1024):
            updates[number] += data.count(b'"type":"sensor_update"')

    sockets = [await connect(port, deaf=number == 0) for number in range(count)]
    tasks = [asyncio.create_task(read(number, reader)) for number, (reader, _) in enumerate(sockets) if number]
    print("ready", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    print(json.dumps({"updates": sum(updates), "least": min(updates[1:], default=0)}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
