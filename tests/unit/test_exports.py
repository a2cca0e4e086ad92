"""Places among the exports: as many as there are, and given back whatever the client does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.core.places import TooManyAtOnceError
from app.core.server import ABORT_EXTENSION
from app.routers import streams as edge
from app.routers.exports import ExportResponse
from app.sqal.export import MOST_AT_ONCE, Exports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def body() -> AsyncIterator[bytes]:
    while True:
        yield b"x"


async def test_a_client_that_takes_nothing_is_cut_off_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "TAKE_DEADLINE_S", 0.05)
    exports = Exports(None)  # type: ignore[arg-type]
    responses = [ExportResponse(exports, body(), "text/csv", "x.csv") for _ in range(MOST_AT_ONCE)]
    with pytest.raises(TooManyAtOnceError):
        ExportResponse(exports, body(), "text/csv", "x.csv")
    cut: list[str] = []

    async def send(event: Any) -> None:
        if event["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope: dict[str, Any] = {
        "type": "http", "asgi": {"spec_version": "2.3"}, "extensions": {ABORT_EXTENSION: lambda: cut.append("cut")},
    }  # fmt: skip
    await asyncio.gather(*(response(scope, receive, send) for response in responses))
    assert cut == ["cut"] * MOST_AT_ONCE
    with exports.holding():
        pass


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    exports = Exports(None)  # type: ignore[arg-type]
    response = ExportResponse(exports, body(), "text/csv", "x.csv")

    async def send(event: Any) -> None:
        await asyncio.sleep(0)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    for _ in range(MOST_AT_ONCE):
        ExportResponse(exports, body(), "text/csv", "x.csv")
