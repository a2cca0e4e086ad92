"""A receiver of webhooks for tests: a real HTTP server in a thread, which answers as it is told."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 20.0


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.body)
        return said


class Receiver:
    """`answer` says which status a request gets; one that it does not return for hangs meanwhile."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], int] = lambda _request: 200
        self.more_headers: dict[str, str] = {}
        self.url = ""
        self.released = threading.Event()
        self._arrived = threading.Condition()

    def hang(self, _request: Request) -> int:
        self.released.wait(PATIENCE_S)
        return 200

    def take(self, request: Request) -> int:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        return self.answer(request)

    def wait(self, wanted: Callable[[list[Request]], Any] | int) -> list[Request]:
        """Until so many requests came, or `wanted` is content with them."""
        enough = (lambda got: len(got) >= wanted) if isinstance(wanted, int) else wanted
        deadline = time.monotonic() + PATIENCE_S
        with self._arrived:
            while not enough(self.requests):
                left = deadline - time.monotonic()
                assert left > 0, [one.said for one in self.requests]
                self._arrived.wait(left)
            return list(self.requests)


@contextlib.contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(Request(self.path, headers, body))
            self.send_response(status)
            for name, value in receiver.more_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
