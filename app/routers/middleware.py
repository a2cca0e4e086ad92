"""Pure ASGI middleware: ids and one log line for each request, and the question who asks."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog

from app.core.errors import AppError, UnauthorizedError
from app.core.logging import get_logger
from app.core.security import LOCAL, Principal, is_local, key_in_cookie, presented_key
from app.dependencies import runtime_of
from app.routers.problems import of_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Event = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
log = get_logger("gaveurs.http")


async def refuse(scope: Scope, send: Send, error: AppError) -> None:
    """Answer an error over HTTP, also to a WebSocket handshake that is not accepted."""
    status, headers, body = of_error(error)
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{prefix}.start", "status": status, "headers": raw})
    await send({"type": f"{prefix}.body", "body": body})


class RequestLog:
    """Binds a request id (the caller's, if it is a sane one) to every line, returns it, and logs the request once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.match(given) else uuid4().hex
        status = 0
        began = time.perf_counter()

        async def send_with_id(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(event)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                quiet = scope["path"].startswith("/health") and status < 500  # noqa: PLR2004
                (log.debug if quiet else log.info)(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - began) * 1_000, 2),
                )


class Access:
    """Every request and socket has a principal, or is refused before it reaches anything."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            if not _is_public(scope):
                scope.setdefault("state", {})["principal"] = await self._identify(scope)
        except AppError as error:
            await refuse(scope, send, error)
            return
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Principal:
        runtime = runtime_of(scope)
        headers = dict(scope["headers"])
        key = presented_key(headers) or key_in_cookie(headers)
        if key is not None:
            return await runtime.resources.keys.check(key)
        if runtime.settings.auth == "open" and is_local(scope, headers, runtime.settings.cors_origins):
            return LOCAL
        raise UnauthorizedError("an API key is needed: Authorization: Bearer <key>")


def _is_public(scope: Scope) -> bool:
    """Probes, the page's files (which hold no data), and signing in and out."""
    path = scope["path"]
    if path == "/api/session":
        return scope.get("method") in ("POST", "DELETE")
    return path in ("/", "/health") or path.startswith(("/health/", "/web/"))
