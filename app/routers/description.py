"""The API's description of itself, `/openapi.json`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.routing import Route

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


def make_beside_the_loop(app: FastAPI) -> None:
    """Have the description made in a thread, once, by whoever asks first: it takes the processor for half a second, in
    which sockets would stand still.
    """
    (route,) = (one for one in app.routes if isinstance(one, Route) and one.path == app.openapi_url)
    answer, making = route.app, asyncio.Lock()

    async def describe(scope: Scope, receive: Receive, send: Send) -> None:
        async with making:
            if app.openapi_schema is None:
                await asyncio.to_thread(app.openapi)
        await answer(scope, receive, send)

    route.app = describe
