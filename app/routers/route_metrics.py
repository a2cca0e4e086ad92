"""Series of failures that exist before the first failure: a counter that is born with it shows no increase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from app.routers.telemetry import UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.routing import BaseRoute

    from app.core.metrics import Metrics

FAILURES: Final = ("500", "503", "504")


def prepare_failures(metrics: Metrics, routes: Iterable[BaseRoute]) -> None:
    """Each known route and method at 0 with each status that is our fault; requests that no route took, too."""
    known = {(method, route.path) for route in _plain(routes) for method in (route.methods or ()) if method != "HEAD"}
    known |= {("GET", UNMATCHED), ("POST", UNMATCHED)}
    metrics.http_requests.prepare((*one, status) for one in sorted(known) for status in FAILURES)


def _plain(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """Routers that were included keep their own routes."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _plain(inner.routes)
        elif isinstance(route, Route):
            yield route
