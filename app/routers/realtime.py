"""`/ws/realtime`: the edge of the live feed. Accepts, binds the ids for the log, and lets the session do the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from starlette.routing import WebSocketRoute

from app.core.errors import AppError
from app.core.logging import get_logger
from app.core.security import Role
from app.core.server import CLOSE_GRACE_S, abort, text_sink
from app.dependencies import principal_of, runtime_of
from app.routers.middleware import refuse
from app.routers.protection import admit_connect
from app.sqal.live_session import DashboardSession

if TYPE_CHECKING:
    from app.routers.middleware import Receive, Scope, Send

log = get_logger("gaveurs.realtime")


class RealtimeEndpoint:
    """A raw ASGI endpoint, as the sensors' is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = runtime_of(scope)
        await receive()  # websocket.connect
        try:
            principal = principal_of(scope)
            principal.require(Role.VIEWER, Role.OPERATOR)
            resources = runtime.resources
            client = admit_connect(scope, "realtime")
            runtime.dashboards.check_room(client)
        except AppError as error:
            await refuse(scope, send, error)
            return
        with structlog.contextvars.bound_contextvars(connection_id=uuid4().hex[:12]):
            await send({"type": "websocket.accept"})
            session = DashboardSession(
                resources.live,
                resources.cached,
                runtime.clock,
                runtime.infrastructure.metrics,
                receive,
                send,
                text_sink(scope, send),
            )
            with runtime.holding_dashboard(session, principal, client):
                log.info("dashboard connected", peer=client, principal=principal.id)
                try:
                    await session.run()
                finally:
                    asyncio.get_running_loop().call_later(CLOSE_GRACE_S, abort, scope)
                    log.info("dashboard disconnected", peer=client)


_endpoint = RealtimeEndpoint()
routes = [WebSocketRoute("/ws/realtime", _endpoint), WebSocketRoute("/ws/realtime/", _endpoint)]
