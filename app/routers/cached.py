"""An answer from the cache: the body as it was made, its age (RFC 9111) and what the cache did (RFC 9211)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi.responses import Response

from app.routers.problems import problem

if TYPE_CHECKING:
    from app.core.cache_entry import Cached

NAME: Final = "gaveurs"


def respond(cached: Cached) -> Response:
    """200 with the cached JSON."""
    headers = {"Age": str(int(cached.age_s)), "Cache-Status": _status(cached), "Cache-Control": "private, no-cache"}
    return Response(cached.value or b"", media_type="application/json", headers=headers)


def respond_absent(cached: Cached, detail: str) -> Response:
    """404, of the same age."""
    answer = respond(cached)
    status, headers, body = problem(404, "not_found", detail)
    return Response(body, status, dict(answer.headers) | headers | {"content-length": str(len(body))})


def _status(cached: Cached) -> str:
    if cached.stale:
        return f'{NAME}; fwd=stale; ttl={int(cached.ttl_s)}; detail="stale"'
    if cached.source == "load":
        return f"{NAME}; fwd=miss; stored"
    return f"{NAME}; hit; ttl={int(cached.ttl_s)}; detail={cached.source}"
