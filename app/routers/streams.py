"""Answers that are streamed for as long as their client takes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse

from app.core.errors import AppError
from app.core.logging import get_logger
from app.core.server import abort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from app.core.places import Places
    from app.routers.middleware import Receive, Scope, Send

TAKE_DEADLINE_S = 30.0
log = get_logger("gaveurs.streams")


class StreamInPlace(StreamingResponse):
    """Holds a place from now until the last byte is taken. A client that takes nothing for a while is cut off, for it
    must not keep the others from theirs; and so is an answer whose source fails: the client must see that it is not
    whole.
    """

    def __init__(
        self, places: Places, body: AsyncIterator[bytes], headers: Mapping[str, str], kind: str | None = None
    ) -> None:
        super().__init__(body, headers=headers, media_type=kind)
        self._place = ExitStack()
        self._place.enter_context(places.holding())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_in_time(event: Any) -> None:
            nonlocal begun
            begun = True
            async with asyncio.timeout(TAKE_DEADLINE_S):
                await send(event)

        with self._place:
            try:
                await super().__call__(scope, receive, send_in_time)
            except (TimeoutError, AppError) as error:
                if not begun:
                    raise
                why = error.code if isinstance(error, AppError) else "its client takes nothing"
                log.warning("a streamed answer was given up", reason=why, path=scope.get("path"))
                abort(scope)
