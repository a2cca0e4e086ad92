"""Pure ASGI middleware: who asks, and what paths and methods mean the same; errors before anything else is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.core.errors import AppError, TooManyRequestsError, UnauthorizedError
from app.core.metrics import ENDPOINTS
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


COLLECTION: Final = "/api/bugs/"


async def refuse(scope: Scope, send: Send, error: AppError, *more: tuple[bytes, bytes]) -> None:
    """Answer an error over HTTP (with more headers), also to a WebSocket handshake: it is not accepted, and counted."""
    status, headers, body = of_error(error)
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        _count_refused(scope)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-length", str(len(body)).encode()), *more]
    await send({"type": f"{prefix}.start", "status": status, "headers": raw})
    await send({"type": f"{prefix}.body", "body": body})


def _count_refused(scope: Scope) -> None:
    endpoint = scope["path"].strip("/").removeprefix("ws/")
    if endpoint in ENDPOINTS:
        runtime_of(scope).infrastructure.metrics.sockets_errors.labels(endpoint).inc()


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
            return await check_key(scope, key)
        if runtime.settings.auth == "open" and is_local(scope, headers, runtime.settings.cors_origins):
            return LOCAL
        raise _too_often(scope) or UnauthorizedError("an API key is needed: Authorization: Bearer <key>")


def _too_often(scope: Scope) -> TooManyRequestsError | None:
    """Requests without a key have a budget of their address, apart from the one for its page and for signing in: those
    who have a key there need them.
    """
    if scope["type"] != "http":
        return None
    infrastructure = runtime_of(scope).infrastructure
    decision = infrastructure.limits.rest.check(f"keyless {infrastructure.addresses.of(scope)}")
    if decision.allowed:
        return None
    return TooManyRequestsError("this address asks too often without a key", retry_after_s=decision.retry_after_s)


async def check_key(scope: Scope, key: str) -> Principal:
    """The key's principal. One that nobody has shown lately costs a query: an address has so many of them."""
    runtime = runtime_of(scope)
    keys = runtime.resources.keys
    if not keys.knows(key):
        infrastructure = runtime.infrastructure
        decision = infrastructure.limits.lookups.check(infrastructure.addresses.of(scope))
        if not decision.allowed:
            wait_s = decision.retry_after_s
            raise TooManyRequestsError("this address shows too many unknown keys", retry_after_s=wait_s)
    return await keys.check(key)


def is_insider(scope: Scope) -> bool:
    """Whether this is a peer that needs no key, or one whose key was valid lately. Waits for nothing."""
    runtime = runtime_of(scope)
    headers = dict(scope["headers"])
    if runtime.settings.auth == "open" and is_local(scope, headers, runtime.settings.cors_origins):
        return True
    key = presented_key(headers)
    return key is not None and runtime.is_open and runtime.resources.keys.knows(key)


def _is_public(scope: Scope) -> bool:
    """Probes, the page's files (which hold no data), and signing in and out."""
    path = scope["path"]
    if path == "/api/session":
        return scope.get("method") in ("POST", "DELETE")
    return path in ("/", "/health") or path.startswith(("/health/", "/web/"))


class WithoutTrailingSlash:
    """Under `/api/bugs` a path means the same with a slash at its end; the collection's own route has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path == COLLECTION[:-1]:
            scope["path"] = COLLECTION
        elif path.startswith(COLLECTION) and path != COLLECTION and path.endswith("/"):
            scope["path"] = path[:-1]
        await self._app(scope, receive, send)


class HeadAsGet:
    """HEAD is answered as GET is, wherever there is one (RFC 9110); the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}  # the server looks at its own
        try:
            await self._app(inner, receive, send)
        finally:
            scope.update({name: inner[name] for name in ("route", "endpoint") if name in inner})  # for Telemetry
