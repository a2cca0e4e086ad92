"""Pure ASGI middleware that protects: the gate of a shutdown, a deadline, a limit for each principal."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from app.core.errors import DeadlineError, DrainingError, TooLargeError, TooManyRequestsError
from app.dependencies import runtime_of
from app.routers.middleware import refuse

if TYPE_CHECKING:
    from app.core.rate_limiter import Limiter
    from app.core.rate_policy import Decision
    from app.routers.middleware import ASGIApp, Event, Receive, Scope, Send

CLOSE = (b"connection", b"close")
_UPLOAD = re.compile(r"/api/bugs/[^/]+/(?:comments/[^/]+/)?attachments\Z")
DRAINING = DrainingError("the service is shutting down; try again shortly", retry_after_s=2.0)
LATE = DeadlineError("the request was not answered in time; try again later", retry_after_s=2.0)


def waits_for_nothing(path: str) -> bool:
    """Probes and metrics pass everything that could wait or refuse."""
    return path in ("/metrics", "/health") or path.startswith("/health/")


def is_upload(scope: Scope) -> bool:
    """A file that is attached to a bug may be larger than other bodies, and its answer waits for all of it: what
    receives it has limits of its own.
    """
    return scope["method"] == "POST" and _UPLOAD.match(scope["path"]) is not None


class DrainGate:
    """Counts requests in; while the process drains, new ones and new sockets are answered 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan" or waits_for_nothing(scope["path"]):
            await self._app(scope, receive, send)
            return
        in_hand = runtime_of(scope).infrastructure.in_hand
        if in_hand.closed:
            await refuse(scope, send, DRAINING, CLOSE)
            return
        if kind != "http":
            await self._app(scope, receive, send)
            return
        in_hand.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            in_hand.end()


class BodyLimit:
    """A request's body has at most `limit` bytes, an upload `upload_limit`, or is 413: nobody is read into memory
    without end.
    """

    def __init__(self, app: ASGIApp, limit: int, upload_limit: int | None = None) -> None:
        self._app = app
        self._limit = limit
        self._upload_limit = limit if upload_limit is None else upload_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        limit = self._upload_limit if is_upload(scope) else self._limit
        if any(name == b"content-length" and _exceeds(value, limit) for name, value in scope["headers"]):
            await refuse(scope, send, TooLargeError(f"a body may have at most {limit} bytes"), CLOSE)
            return
        received = 0

        async def receive_within_limit() -> Event:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > limit:
                raise HTTPException(413)  # in the framework's own words: any other error would be told as a bad body
            return event

        await self._app(scope, receive_within_limit, send)


def _exceeds(value: bytes, limit: int) -> bool:
    return value.isdigit() and int(value[:20]) > limit


class Deadline:
    """An HTTP answer begins within REQUEST_DEADLINE_S or is 503, but for uploads; one that has begun may go on."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or waits_for_nothing(scope["path"]) or is_upload(scope):
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_begin(event: Event) -> None:
            nonlocal begun
            if not begun:
                begun = True
                deadline.reschedule(None)
            await send(event)

        try:
            async with asyncio.timeout(self._seconds) as deadline:
                await self._app(scope, receive, send_and_begin)
        except TimeoutError:
            if begun or not deadline.expired():
                raise
            await refuse(scope, send, LATE)


class RestLimit:
    """So many requests a second for each principal, else 429; what is left is told in every answer
    (draft-ietf-httpapi-ratelimit-headers). Comes after access: who asks is known.
    """

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter
        rate = limiter.rate
        window_s = max(1, round(rate.burst / rate.per_second))
        self._policy = (b"ratelimit-policy", f'"rest";q={rate.burst:.0f};w={window_s}'.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or waits_for_nothing(scope["path"]):
            await self._app(scope, receive, send)
            return
        decision = self._limiter.check(self._key(scope))
        told = (self._policy, _left(decision))
        if not decision.allowed:
            error = TooManyRequestsError("you ask too often; wait a little", retry_after_s=decision.retry_after_s)
            await refuse(scope, send, error, *told)
            return

        async def send_and_tell(event: Event) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", ()), *told]
            await send(event)

        await self._app(scope, receive, send_and_tell)

    @staticmethod
    def _key(scope: Scope) -> str:
        principal = scope.get("state", {}).get("principal")
        if principal is not None and principal.kind == "key":
            return f"key:{principal.id}"
        return runtime_of(scope).infrastructure.addresses.of(scope)


def _left(decision: Decision) -> tuple[bytes, bytes]:
    return b"ratelimit", b'"rest";r=%d;t=%d' % (decision.remaining, decision.reset_after_s + 0.999)


def admit_connect(scope: Scope, endpoint: str) -> str:
    """The client's address, one connect of which is taken. TooManyRequestsError, told before the handshake is accepted:
    a socket that is closed at once would have its device come back at once.
    """
    infrastructure = runtime_of(scope).infrastructure
    client = infrastructure.addresses.of(scope)
    key = client if endpoint == "sensors" else f"{endpoint} {client}"
    decision = infrastructure.limits.connects.check(key)
    if not decision.allowed:
        raise TooManyRequestsError("this address connects too often", retry_after_s=decision.retry_after_s)
    return client
