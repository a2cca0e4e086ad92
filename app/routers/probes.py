"""The four health endpoints, as plain routes: they read what is known and wait on nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

from app.dependencies import runtime_of
from app.routers.middleware import is_insider

if TYPE_CHECKING:
    from starlette.requests import Request

    from app.core.health import Health, Report


def _health(request: Request) -> Health:
    return runtime_of(request.scope).health


def _answer(report: Report) -> JSONResponse:
    status, body = report
    return JSONResponse(body, status, headers={"Cache-Control": "no-store"})


async def startup(request: Request) -> JSONResponse:
    """Kubernetes' startup probe."""
    return _answer(_health(request).startup())


async def live(request: Request) -> JSONResponse:
    """Kubernetes' liveness probe."""
    return _answer(_health(request).live())


async def ready(request: Request) -> JSONResponse:
    """Kubernetes' readiness probe."""
    return _answer(_health(request).ready())


async def tree(request: Request) -> JSONResponse:
    """For people and dashboards. An outsider is told no more than whether it works; who asks is looked up nowhere."""
    return _answer(_health(request).tree(whole=is_insider(request.scope)))


routes = [
    Route("/health", tree),
    Route("/health/startup", startup),
    Route("/health/live", live),
    Route("/health/ready", ready),
]
