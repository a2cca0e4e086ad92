"""What a shipper sends to: a store that takes Loki's and Elasticsearch's requests and remembers them, or is away."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LOKI = "/loki/api/v1/push"
BULK = "/logs-gaveurs-default/_bulk"


@dataclass
class LogStore:
    """Answers as the real ones do: 204 and no body; 200 and what became of each document."""

    port: int = 0
    status: int | None = None
    """What to answer instead, while it is away."""
    refused: int = 0
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)

    def answer(self, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        if self.status is not None:
            self.refused += 1
            return self.status, b""
        self.requests.append((path, kind, body))
        if path == LOKI:
            return 204, b""
        done = [{"create": {"status": 201}} for _ in self.documents()]
        return (200, json.dumps({"errors": False, "items": done}).encode()) if path == BULK else (404, b"")

    def entries(self) -> list[tuple[dict[str, str], str, str, dict[str, str]]]:
        """Of Loki: labels, nanoseconds, line, structured metadata."""
        found = []
        for path, kind, body in list(self.requests):
            assert (path, kind) == (LOKI, "application/json")
            for stream in json.loads(body)["streams"]:
                found += [(stream["stream"], *value) for value in stream["values"]]
        return found

    def documents(self) -> list[dict[str, Any]]:
        """Of Elasticsearch: each after its action, the last line ended."""
        found = []
        for path, kind, body in list(self.requests):
            assert (path, kind, body[-1:]) == (BULK, "application/x-ndjson", b"\n")
            lines = [json.loads(line) for line in body.split(b"\n") if line]
            assert lines[::2] == [{"create": {}}] * (len(lines) // 2)
            found += lines[1::2]
        return found


@contextmanager
def log_store(port: int = 0) -> Iterator[LogStore]:
    store = LogStore()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = store.answer(self.path, self.headers["Content-Type"], body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        store.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join(5)
