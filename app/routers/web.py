"""The page at `/`: static files, no build step. They hold no data and are public; what they show comes by the API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.requests import Request
    from starlette.responses import Response

FOLDER: Final = Path(__file__).parent.parent / "web"
# Nothing from another host, no script or style but our files, in no other site's frame.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def index(_request: Request) -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


class PageFiles(StaticFiles):
    """Asked for anew after every release: a page must not be half of one."""

    async def get_response(self, path: str, scope: MutableMapping[str, object]) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


routes: list[BaseRoute] = [Route("/", index), Mount("/web", PageFiles(directory=FOLDER))]
