"""The HTTP and WebSocket server as we run it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.core.errors import CannotStartError
from app.core.listening import listening_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from fastapi import FastAPI
    from websockets.http11 import Request

TRANSPORT_MAX_BYTES: Final = 16 * 1024 * 1024  # a larger frame ends its connection (1009); below, ingest answers
UTF8_EXTENSION: Final = "gaveurs.websocket.utf8"
BACKLOG: Final = 2_048
CLOSE_GRACE_S: Final = 10.0  # for a peer to take what was sent before the end, and to answer the close
ABORT_EXTENSION: Final = "gaveurs.abort"
FRAMES_EXTENSION: Final = "gaveurs.websocket.frames"
_SHORT, _MEDIUM = 126, 65_536


def abort(scope: MutableMapping[str, Any]) -> None:
    """Cut the connection at once: closing it would wait for a peer that takes nothing. Nothing under another server."""
    if cut := scope.get("extensions", {}).get(ABORT_EXTENSION):
        cut()


class AbortableHttp(HttpToolsProtocol):
    """uvicorn's HTTP, with an ASGI extension that cuts the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {ABORT_EXTENSION: self.transport.abort}
        self.scope["extensions"] = extensions


class TextMessage:
    """A text message that may go to many: encoded once, and made into a frame once."""

    __slots__ = ("_frame", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        if self._frame is None:
            self._frame = text_frame(self.payload)
        return self._frame


class TextSink(Protocol):
    """A connection that takes text messages."""

    async def ready(self) -> None:
        """Returns when the peer has taken enough for more; OSError when it is gone."""
        ...

    def write_messages(self, messages: Sequence[TextMessage]) -> None:
        """Without waiting; `ready` comes before and, for the last of them, after."""
        ...


class Utf8WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with two ASGI extensions.

    An application that has called `scope["extensions"][UTF8_EXTENSION]()` receives text messages as `{"utf8": bytes}`,
    checked but not decoded. ASGI knows only str: a parser of UTF-8 would have every message decoded and encoded again
    for nothing.

    `scope["extensions"][FRAMES_EXTENSION]` is a `TextSink`: a message that goes to a hundred dashboards is made into a
    frame once, and those of one moment go out in one write.
    """

    utf8_wanted = False

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # else the handshake was refused
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[UTF8_EXTENSION] = self._want_utf8
            extensions[FRAMES_EXTENSION] = self
            extensions[ABORT_EXTENSION] = self.transport.abort

    def _want_utf8(self) -> None:
        self.utf8_wanted = True

    async def ready(self) -> None:
        """Returns when the peer has taken enough for more; ConnectionResetError when it is gone."""
        await self.writable.wait()
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ConnectionResetError("the peer is gone")

    def write_messages(self, messages: Sequence[TextMessage]) -> None:
        """Send them in one write, without waiting; `ready` comes before each call."""
        self.transport.write(b"".join([message.frame for message in messages]))

    def send_receive_event_to_app(self) -> None:
        if not self.utf8_wanted or self.curr_msg_data_type != "text" or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        try:
            data.isascii() or data.decode()
        except UnicodeDecodeError:  # as uvicorn does, but for the traceback in our log: it is the client's fault
            self.conn.send_close(1007)
            self.handle_parser_exception()
            return
        message: MutableMapping[str, Any] = {"type": "websocket.receive", "utf8": data}
        self.queue.put_nowait(message)  # type: ignore[arg-type]
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()


def text_frame(payload: bytes) -> bytes:
    """One unfragmented, unmasked text message (RFC 6455, 5.2), as a server sends it."""
    length = len(payload)
    if length < _SHORT:
        return struct.pack("!BB", 0x81, length) + payload
    if length < _MEDIUM:
        return struct.pack("!BBH", 0x81, 126, length) + payload
    return struct.pack("!BBQ", 0x81, 127, length) + payload


def text_sink(scope: MutableMapping[str, Any], send: Callable[[Any], Awaitable[None]]) -> TextSink:
    """Where text messages of this connection go: in whole frames where the server can, else one by one."""
    sink: TextSink | None = scope.get("extensions", {}).get(FRAMES_EXTENSION)
    return _AsgiSink(send) if sink is None else sink


class _AsgiSink:
    """Under another server than ours."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        self._unsent: list[TextMessage] = []

    async def ready(self) -> None:
        while self._unsent:
            await self._send({"type": "websocket.send", "text": self._unsent.pop(0).payload.decode()})

    def write_messages(self, messages: Sequence[TextMessage]) -> None:
        self._unsent += messages


def want_utf8(scope: MutableMapping[str, Any]) -> None:
    """Ask for text messages as UTF-8 where the server can; under another server they stay str."""
    if ask := scope.get("extensions", {}).get(UTF8_EXTENSION):
        ask()


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises CannotStartError with one clear line when the address cannot be had."""
    try:
        listener = listening_socket(host, port, BACKLOG)
    except OSError as error:
        raise CannotStartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


def make_server(app: FastAPI, **options: Any) -> uvicorn.Server:
    """uvicorn with the options that ingest needs: no per-message deflate, no trust in forwarding headers."""
    config = uvicorn.Config(
        app,
        ws=Utf8WebSocket,
        ws_max_size=TRANSPORT_MAX_BYTES,
        ws_per_message_deflate=False,
        http=AbortableHttp,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=2,  # our own drain has waited for everything: what is left takes nothing
        backlog=BACKLOG,
        **options,
    )
    return uvicorn.Server(config)
