"""Pure ASGI middleware that sees every request: its id, its metrics, its line in the log."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING, Final

from starlette.routing import Mount, Route
from structlog.contextvars import bind_contextvars, unbind_contextvars

from app.core.log_privacy import looks_secret
from app.core.logging import get_logger

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from app.core.metrics import Metrics
    from app.routers.middleware import ASGIApp, Event, Receive, Scope, Send

UNMATCHED: Final = "unmatched"
OTHER: Final = "other"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TOO_MANY: Final = 429
SERVER_ERROR: Final = 500
PATH_MAX: Final = 512  # characters of a path in the log
METHOD_MAX: Final = 16
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
NAME: Final = "gaveurs.http"
log = get_logger(NAME)
_plain_log = logging.getLogger(NAME)


class Telemetry:
    """Binds a request id (the caller's, if it is a sane one) to every line, returns it, measures the request by its
    route's template, and logs it once.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.http_requests
        self._duration = metrics.http_duration
        self._request_size = metrics.http_request_size.labels()
        self._response_size = metrics.http_response_size.labels()
        self._templates: dict[object, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or os.urandom(16).hex()
        status, sent_bytes, received_bytes = 0, 0, 0
        began = time.perf_counter()

        async def receive_and_count() -> Event:
            nonlocal received_bytes
            event = await receive()
            received_bytes += len(event.get("body", b""))
            return event

        async def send_and_count(event: Event) -> None:
            nonlocal status, sent_bytes
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event.get("headers", ()), (b"x-request-id", request_id.encode())]
            else:
                sent_bytes += len(event.get("body", b""))
            await send(event)

        bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive_and_count, send_and_count)
        finally:
            took_s = time.perf_counter() - began
            self._measure(scope, status or SERVER_ERROR, took_s, request_id)
            self._request_size.observe(received_bytes)
            self._response_size.observe(sent_bytes)
            _log(scope, status, took_s)
            unbind_contextvars("request_id")

    def _measure(self, scope: Scope, status: int, took_s: float, request_id: str) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        template = self._template(scope)
        self._requests.labels(method, template, str(status)).inc()
        self._duration.labels(method, template).observe_as(took_s, "request_id", request_id)

    def _template(self, scope: Scope) -> str:
        """The path of the route that answered, with its parameters' names: never what a client wrote."""
        if (route := scope.get("route")) is not None:
            path: str = route.path
            return path
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return UNMATCHED
        if not self._templates:
            self._templates = _plain_templates(scope["app"].router.routes)
        return self._templates.get(endpoint, UNMATCHED)


def _plain_templates(routes: list[BaseRoute]) -> dict[object, str]:
    """Paths of plain routes and mounts, by what they call: the others leave themselves in the scope."""
    mounts: dict[object, str] = {route.app: route.path for route in routes if isinstance(route, Mount)}
    return mounts | {route.endpoint: route.path for route in routes if isinstance(route, Route)}


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def _given_id(scope: Scope) -> str | None:
    """A key that was sent as an id would go into the log and back."""
    given = _header(scope, b"x-request-id")
    if given is None or not _REQUEST_ID.match(given):
        return None
    request_id = given.decode()
    return None if looks_secret(request_id) else request_id


def _repeated(scope: Scope, status: int) -> str | None:
    """What anybody can ask without end is limited: all but failures where nobody known asks, and who asks too often."""
    unknown = "principal" not in scope.get("state", ())
    return f"request {status}" if status == TOO_MANY or (unknown and status < SERVER_ERROR) else None


def _log(scope: Scope, status: int, took_s: float) -> None:
    path = scope["path"][:PATH_MAX]
    quiet = (path.startswith("/health") or path == "/metrics") and status < SERVER_ERROR
    if not _plain_log.isEnabledFor(logging.DEBUG if quiet else logging.INFO):
        return  # structlog finds that out too, for 5 us
    write = log.debug if quiet else log.info
    method, ms = scope["method"][:METHOD_MAX], round(took_s * 1_000, 2)
    write("request", method=method, path=path, status=status, ms=ms, repeats=_repeated(scope, status))
