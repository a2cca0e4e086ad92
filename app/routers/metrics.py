"""`/metrics`: rendered in a thread; where METRICS_PORT is set it is there and not here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.core.errors import AppError
from app.core.metric_types import OPENMETRICS, TEXT, wants_openmetrics
from app.core.security import Role
from app.dependencies import principal_of, runtime_of
from app.routers.problems import of_error

if TYPE_CHECKING:
    from starlette.requests import Request

    from app.settings import Settings


async def exposition(request: Request) -> Response:
    """Prometheus text, or OpenMetrics for who asks for it. To viewers: figures of the service are nobody else's."""
    try:
        principal_of(request.scope).require(Role.VIEWER, Role.OPERATOR)
    except AppError as error:
        status, headers, body = of_error(error)
        return Response(body, status, headers)
    openmetrics = wants_openmetrics(request.headers.get("accept", ""))
    registry = runtime_of(request.scope).infrastructure.metrics.registry
    text = await asyncio.to_thread(registry.render, openmetrics=openmetrics)
    return Response(text, headers={"Content-Type": OPENMETRICS if openmetrics else TEXT, "Cache-Control": "no-store"})


def routes(settings: Settings) -> list[BaseRoute]:
    return [Route("/metrics", exposition)] if settings.metrics_port is None else []
