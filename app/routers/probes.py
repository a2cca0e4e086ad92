"""Kubernetes probes, as plain routes: they read what is known and wait on nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

from app.dependencies import runtime_of
from app.runtime import Phase

if TYPE_CHECKING:
    from starlette.requests import Request


async def startup(request: Request) -> JSONResponse:
    """200 once everything is open; stays so until the process ends."""
    runtime = runtime_of(request.scope)
    if runtime.opening_s is None:
        return JSONResponse({"status": "starting", "duration": round(runtime.uptime_s, 2)}, 503)
    return JSONResponse({"status": "started", "duration": round(runtime.opening_s, 2)})


async def live(request: Request) -> JSONResponse:
    """200 whenever the event loop turns: answering is the proof. Nothing external is asked."""
    return JSONResponse({"status": "alive", "uptime": round(runtime_of(request.scope).uptime_s, 1)})


async def ready(request: Request) -> JSONResponse:
    """200 when started, not draining, and the database serves (away for less than 3 s).

    `cache` says that the cache which is configured is the one in use: the process's own unless REDIS_HOST is set.
    """
    runtime = runtime_of(request.scope)
    components = {"database": runtime.database_serves, "cache": runtime.settings.redis_host is None}
    if runtime.phase is Phase.STARTED and runtime.database_serves:
        return JSONResponse({"status": "ready", "components": components})
    status = "not_ready" if runtime.phase is Phase.STARTED else str(runtime.phase)
    return JSONResponse({"status": status, "components": components}, 503)


routes = [Route("/health/startup", startup), Route("/health/live", live), Route("/health/ready", ready)]
