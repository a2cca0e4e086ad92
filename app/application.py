"""The application: middleware order, routers, error rendering, lifespan."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from app.bugs.uploads import FORM_OVERHEAD_BYTES
from app.core.clock import SystemClock
from app.core.graceful_shutdown import SignalChain
from app.core.logging import flush_logging
from app.dependencies import json_body, known_parameters, single_values
from app.routers import (
    admin,
    alerts,
    bug_attachments,
    bug_exports,
    bug_figures,
    bug_links,
    bug_rules,
    bug_webhooks,
    bugs,
    description,
    exports,
    metrics,
    probes,
    problems,
    quality,
    realtime,
    sensors,
    session,
    sqal,
    web,
)
from app.routers.middleware import Access, HeadAsGet, WithoutTrailingSlash
from app.routers.protection import BodyLimit, Deadline, DrainGate, RestLimit
from app.routers.route_metrics import prepare_failures
from app.routers.telemetry import Telemetry
from app.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.core.clock import Clock
    from app.settings import Settings

DESCRIPTION = """Backend of SQAL, the quality control of foie gras. Devices stream samples over `/ws/sensors`
(see docs/protocol.md); this API reads what was committed. Lists are keyset pages, newest first; errors are
`application/problem+json` (RFC 9457)."""

MAX_BODY_BYTES = 256 * 1024
EXPOSED = ["X-Request-ID", "Retry-After", "Age", "Cache-Status", "RateLimit", "RateLimit-Policy", "ETag", "Location"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start listening at once; opening goes on behind. At a signal, drain before the server shuts down."""
    runtime: Runtime = app.state.runtime
    runtime.start()
    with SignalChain(runtime.shutdown.run, runtime.shutdown.hurry).installed():
        yield
    await runtime.stop()
    await asyncio.to_thread(flush_logging)  # what comes now ends the process without further ado
    if runtime.failed:
        os._exit(1)  # the server would end by the signal that it was asked with, as if nothing had failed


def create_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    """The ASGI application for `settings`. Nothing is opened before its lifespan starts."""
    runtime = Runtime(settings, clock or SystemClock())
    infrastructure = runtime.infrastructure
    middleware = [
        Middleware(Telemetry, metrics=infrastructure.metrics),
        Middleware(WithoutTrailingSlash),
        Middleware(DrainGate),
        Middleware(BodyLimit, limit=MAX_BODY_BYTES, upload_limit=settings.bug_attachment_bytes + FORM_OVERHEAD_BYTES),
        Middleware(Deadline, seconds=settings.request_deadline_s),
        Middleware(Access),
        Middleware(RestLimit, limiter=infrastructure.limits.rest),
        Middleware(HeadAsGet),
    ]
    if settings.cors_origins:
        middleware.insert(
            1,
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=[
                    "Authorization",
                    "Content-Type",
                    "X-API-Key",
                    "X-Request-ID",
                    "If-Match",
                    "Idempotency-Key",
                ],
                expose_headers=EXPOSED,
            ),
        )
    app = FastAPI(
        title="gaveurs-backend",
        version=version("gaveurs-backend"),
        description=DESCRIPTION,
        lifespan=lifespan,
        middleware=middleware,
    )
    app.state.runtime = runtime
    problems.install(app)
    description.make_beside_the_loop(app)
    app.router.routes[:0] = [*probes.routes, *metrics.routes(settings), *sensors.routes, *realtime.routes, *web.routes]
    bug_reads = [Depends(single_values), Depends(known_parameters)]
    bug_writes = [*bug_reads, Depends(json_body), Depends(bug_webhooks.tell_soon)]
    app.include_router(bug_links.back, dependencies=bug_reads)
    app.include_router(sqal.router, dependencies=[Depends(single_values)])
    app.include_router(quality.router, dependencies=[Depends(single_values)])
    app.include_router(alerts.router, dependencies=[Depends(single_values)])
    app.include_router(exports.router, dependencies=[Depends(single_values)])
    app.include_router(bug_exports.router, dependencies=bug_reads)
    app.include_router(bug_webhooks.router, dependencies=bug_writes)
    app.include_router(bug_links.router, dependencies=bug_writes)
    app.include_router(bug_rules.router, dependencies=bug_writes)
    app.include_router(bug_attachments.router, dependencies=bug_writes)
    app.include_router(bug_figures.router, dependencies=bug_reads)
    app.include_router(bugs.router, dependencies=bug_writes)
    app.include_router(admin.router, dependencies=[Depends(single_values)])
    app.include_router(session.router)
    prepare_failures(infrastructure.metrics, app.routes)
    return app
