"""`/ws/sensors`: the edge of ingest. Accepts, binds the ids for the log, and lets the session do the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from starlette.routing import WebSocketRoute

from app.core.errors import AppError, StartingError
from app.core.logging import get_logger
from app.core.security import Role
from app.core.server import CLOSE_GRACE_S, abort, want_utf8
from app.dependencies import principal_of, runtime_of
from app.routers.middleware import refuse
from app.runtime import Phase
from app.sqal.session import DeviceSession

if TYPE_CHECKING:
    from app.routers.middleware import Receive, Scope, Send

log = get_logger("gaveurs.sensors")


class SensorEndpoint:
    """A raw ASGI endpoint: the framework's WebSocket object costs more than the protocol itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = runtime_of(scope)
        await receive()  # websocket.connect
        try:
            principal_of(scope).require(Role.DEVICE)
            ingest = runtime.resources.ingest
            if runtime.phase is not Phase.STARTED:
                raise StartingError("the service is stopping; connect again shortly", retry_after_s=2.0)
            runtime.sensors.check_room()
        except AppError as error:
            await refuse(scope, send, error)
            return
        peer = scope["client"][0] if scope.get("client") else None
        with structlog.contextvars.bound_contextvars(connection_id=uuid4().hex[:12]):
            want_utf8(scope)
            await send({"type": "websocket.accept"})
            session = DeviceSession(ingest, receive, send, peer)
            with runtime.sensors.holding(session, principal_of(scope)):
                log.info("device connected", peer=peer, principal=principal_of(scope).id)
                try:
                    await session.run()
                finally:
                    asyncio.get_running_loop().call_later(CLOSE_GRACE_S, abort, scope)
                    log.info("device disconnected", peer=peer, sample_messages=session.sample_messages)


_endpoint = SensorEndpoint()
routes = [WebSocketRoute("/ws/sensors", _endpoint), WebSocketRoute("/ws/sensors/", _endpoint)]
