"""`/ws/sensors`: the edge of ingest. Accepts, binds the ids for the log, and lets the session do the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from starlette.routing import WebSocketRoute

from app.core.errors import AppError
from app.core.logging import get_logger
from app.core.security import Role
from app.core.server import CLOSE_GRACE_S, abort, want_utf8
from app.dependencies import principal_of, runtime_of
from app.routers.middleware import refuse
from app.routers.protection import admit_connect
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
            principal = principal_of(scope)
            principal.require(Role.DEVICE)
            ingest = runtime.resources.ingest
            client = admit_connect(scope, "sensors")
            runtime.sensors.check_room(client)
        except AppError as error:
            await refuse(scope, send, error)
            return
        connection = uuid4().hex[:12]
        with structlog.contextvars.bound_contextvars(connection_id=connection):
            want_utf8(scope)
            await send({"type": "websocket.accept"})
            who = f"key:{principal.id}" if principal.kind == "key" else client
            session = DeviceSession(ingest, receive, send, peer=client, who=who, connection=connection)
            with runtime.sensors.holding(session, principal, client):
                log.info("device connected", peer=client, principal=principal.id)
                try:
                    await session.run()
                finally:
                    asyncio.get_running_loop().call_later(CLOSE_GRACE_S, abort, scope)
                    log.info("device disconnected", peer=client, sample_messages=session.sample_messages)


_endpoint = SensorEndpoint()
routes = [WebSocketRoute("/ws/sensors", _endpoint), WebSocketRoute("/ws/sensors/", _endpoint)]
