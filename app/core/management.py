"""The management port: a small HTTP server in threads of its own, which answers while the event loop does not."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from app.core.errors import CannotStartError
from app.core.listening import listening_socket
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Route: TypeAlias = "Callable[[Mapping[str, str]], Answer]"

log = get_logger("gaveurs.management")

CONNECTIONS: Final = 64
REQUEST_DEADLINE_S: Final = 5.0  # for a whole request to arrive, idling included; and again for its answer to leave
CONNECTION_LIFE_S: Final = 30.0  # then its place is for others
REQUEST_MAX_BYTES: Final = 16_384
RECEIVE_BYTES: Final = 4_096
LINGER_S: Final = 0.5  # for a refused client to read why
ACCEPT_POLL_S: Final = 0.1
STOP_DEADLINE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route says; raises ValueError for a status that HTTP does not know."""

    status: int
    content_type: str
    body: bytes

    def __post_init__(self) -> None:
        HTTPStatus(self.status)


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request; names of headers in lower case. A body is not read: its connection is not kept."""

    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool


def problem(status: int, code: str, detail: str) -> Answer:
    """An RFC 9457 document, in the form that the rest of the product gives it."""
    title = HTTPStatus(status).phrase
    body = {"type": f"urn:gaveurs:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return Answer(status, "application/problem+json", json.dumps(body).encode())


FULL: Final = problem(503, "too_many_connections", "there are too many connections; try again later")
BAD_REQUEST: Final = problem(400, "bad_request", "this is no HTTP request")
TOO_LARGE: Final = problem(431, "request_header_fields_too_large", f"a request may have {REQUEST_MAX_BYTES} bytes")
NOT_FOUND: Final = problem(404, "not_found", "Not Found")
METHOD_NOT_ALLOWED: Final = problem(405, "method_not_allowed", "Method Not Allowed")
DEFECT: Final = problem(500, "internal_error", "an internal error; the log tells more")


def encode(answer: Answer, *, head: bool, keep_alive: bool) -> bytes:
    """The bytes of a response; to HEAD without its body."""
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else answer.body)


class _Heads:
    """Makes requests of bytes: `feed` them, take from `ready`. Raises HttpParserError at what is no HTTP."""

    def __init__(self) -> None:
        self.ready: deque[Request] = deque()
        self._parser = HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        with suppress(HttpParserUpgrade):  # declined: answered like any other request, and then closed
            self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", {}

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        has_body = "transfer-encoding" in self._headers or self._headers.get("content-length", "0") != "0"
        self.ready.append(
            Request(
                self._parser.get_method().decode("latin-1"),
                self._url.partition(b"?")[0].decode("latin-1"),
                self._headers,
                self._parser.should_keep_alive() and not (has_body or self._parser.should_upgrade()),
            )
        )


class ManagementServer:
    """Serves GET and HEAD of `routes`, by exact path, on `host`:`port` (0: any free port) over HTTP/1.1.

    A route is called in a thread, with the request's headers (names in lower case), and must not touch the event loop;
    if it raises, that is logged and answered 500. At most `CONNECTIONS` are open at once, one more is answered 503
    and closed. A connection idles for 5 s at most, is kept for 30 s, and is cut when a request of it, or the answer,
    takes longer than 5 s to pass.
    """

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        self._host = host
        self._port = port
        self._routes = routes
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()  # of `_open`

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    def start(self) -> None:
        """Listen, once. Raises CannotStartError with one clear line when the address cannot be had."""
        try:
            listener = listening_socket(self._host, self._port, CONNECTIONS * 2)
        except OSError as error:
            where = f"{self._host}:{self._port} (METRICS_PORT)"
            raise CannotStartError(f"cannot listen on {where}: {error.strerror}") from error
        listener.settimeout(ACCEPT_POLL_S)
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="management", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Stop listening, let answers under way leave, and end all threads; returns within `STOP_DEADLINE_S`.

        Only a route that does not return outlives it, in a daemon thread.
        """
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        self._stopping.set()
        if self._acceptor is not None and self._listener is not None:
            self._acceptor.join(STOP_DEADLINE_S / 2)
            self._listener.close()
        self._end_all(socket.SHUT_RD, deadline_s - STOP_DEADLINE_S / 2)
        self._end_all(socket.SHUT_RDWR, deadline_s)

    def _end_all(self, how: int, deadline_s: float) -> None:
        with self._lock:
            still_open = dict(self._open)
        for peer in still_open:
            with suppress(OSError):  # it has ended already
                peer.shutdown(how)
        for thread in still_open.values():
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:  # no descriptor is free, or the client has gone again
                self._stopping.wait(ACCEPT_POLL_S)
                continue
            if not self._admit(peer):
                _refuse(peer)

    def _admit(self, peer: socket.socket) -> bool:
        thread = threading.Thread(target=self._serve, args=(peer,), name="management-connection", daemon=True)
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                return False
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                return False
            self._open[peer] = thread
        return True

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, suppress(OSError):  # the client went away, or was too slow
                self._converse(peer)
                _linger(peer)
        finally:
            with self._lock:
                del self._open[peer]

    def _converse(self, peer: socket.socket) -> None:
        """Answer until the connection is to be closed."""
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ends_at_s = time.monotonic() + CONNECTION_LIFE_S
        heads = _Heads()
        while True:
            if fault := _receive(peer, heads):
                _send(peer, encode(fault, head=False, keep_alive=False))
                return
            if not heads.ready:
                return
            while heads.ready:
                request = heads.ready.popleft()
                answer = self._answer(request)
                keep_alive = request.keep_alive and time.monotonic() < ends_at_s and not self._stopping.is_set()
                _send(peer, encode(answer, head=request.method == "HEAD", keep_alive=keep_alive))
                if not keep_alive:
                    return

    def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return METHOD_NOT_ALLOWED
        route = self._routes.get(request.path)
        if route is None:
            return NOT_FOUND
        try:
            return route(request.headers)
        except Exception:  # whatever a route breaks at, the port goes on answering
            log.exception("a management route failed", path=request.path)
            return DEFECT


def _receive(peer: socket.socket, heads: _Heads) -> Answer | None:
    """Read until a request is ready, or the client has closed. Returns what is wrong; raises OSError, at the deadline
    TimeoutError.
    """
    deadline_s = time.monotonic() + REQUEST_DEADLINE_S
    received = 0
    while not heads.ready:
        if received >= REQUEST_MAX_BYTES:
            return TOO_LARGE
        data = _receive_by(peer, deadline_s)
        if not data:
            return None
        received += len(data)
        try:
            heads.feed(data)
        except HttpParserError:
            return BAD_REQUEST
    return None


def _receive_by(peer: socket.socket, deadline_s: float) -> bytes:
    """A chunk, empty at the end; the deadline holds for all chunks together, however slowly they trickle."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    peer.settimeout(left_s)
    return peer.recv(RECEIVE_BYTES)


def _send(peer: socket.socket, data: bytes) -> None:
    peer.settimeout(REQUEST_DEADLINE_S)
    peer.sendall(data)


def _linger(peer: socket.socket) -> None:
    """Let the client read the last answer: to close over unread bytes would reset the connection under it."""
    peer.shutdown(socket.SHUT_WR)
    deadline_s = time.monotonic() + LINGER_S
    while _receive_by(peer, deadline_s):
        pass


def _refuse(peer: socket.socket) -> None:
    """Say that there is no room, without waiting for the client."""
    with peer, suppress(OSError):
        peer.settimeout(0)
        peer.sendall(encode(FULL, head=False, keep_alive=False))
        peer.shutdown(socket.SHUT_WR)
