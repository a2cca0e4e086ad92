"""The description of the API is made once, and not by the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.routers.description import make_beside_the_loop


async def test_many_who_ask_at_once_have_it_made_once_and_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    make_beside_the_loop(app)
    make, makers = app.openapi, list[threading.Thread]()

    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            makers.append(threading.current_thread())
        return make()

    monkeypatch.setattr(app, "openapi", made)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(5)))
    assert [answer.json() for answer in answers] == [make()] * 5
    assert len(makers) == 1
    assert makers[0] is not threading.main_thread()
