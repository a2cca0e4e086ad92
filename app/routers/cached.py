"""An answer from the cache: the body as it was made, its age (RFC 9111) and what the cache did (RFC 9211)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi.responses import Response

if TYPE_CHECKING:
    from app.core.cache_entry import Cached

NAME: Final = "gaveurs"


def respond(cached: Cached) -> Response:
    """200 with the cached JSON."""
    headers = {"Age": str(int(cached.age_s)), "Cache-Status": _status(cached), "Cache-Control": "private, no-cache"}
    return Response(cached.value, media_type="application/json", headers=headers)


def _status(cached: Cached) -> str:
    if cached.stale:
        return f'{NAME}; fwd=stale; ttl={int(cached.ttl_s)}; detail="stale"'
    if cached.source == "load":
        return f"{NAME}; fwd=miss; stored"
    return f"{NAME}; hit; ttl={int(cached.ttl_s)}; detail={cached.source}"
