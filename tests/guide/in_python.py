"""Blocks of Python, executed as they stand."""

from __future__ import annotations

import ast
import asyncio
import re
import time
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from fastapi import FastAPI, WebSocket
from redis.asyncio import Redis

from app.core.breaker_policy import State
from app.core.cache import CacheHandle
from app.core.circuit_breaker import STATE_NUMBERS, CircuitBreaker, CircuitOpenError, cache_breaker, db_breaker
from app.core.rate_limiter import DEFAULT_RATE, Limiter, rate_limiter
from app.settings import Settings
from tests.guide.on_server import commented
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from tests.guide.blocks import Block
    from tests.guide.stage import Stage


async def run(source: str, names: dict[str, Any]) -> None:
    """Statements as they stand, `await` at the top included."""
    made = eval(compile(source, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if isawaitable(made):
        await made


def env_file(block: Block, stage: Stage) -> None:
    """The file to the letter, read as the service reads its `.env`."""
    read = settings_of(block, stage.home)
    for name, value in re.findall(r"(?m)^([A-Z_]+)=(\S*)", block.text):
        found = getattr(read, name.lower())
        if name == "DATABASE_URL":
            found = found.get_secret_value()
        assert found == {"REDIS_PORT": 6379, "REDIS_DB": 0, "REDIS_PASSWORD": None}.get(
            name, tuple(value.split(",")) if name == "CORS_ORIGINS" else value
        ), name


def settings_of(block: Block, folder: Path) -> Settings:
    place = folder / "env-as-in-the-guide"
    place.write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        return Settings(_env_file=place)


def cache_is_invalidated(block: Block, _stage: Stage) -> None:
    asyncio.run(_invalidate(block.text))


async def _invalidate(text: str) -> None:
    """Statement by statement: what each leaves."""
    cache = CacheHandle()
    loads: list[str] = []

    async def held(key: str) -> bool:
        """Whether it is there without being loaded."""

        async def load() -> dict[str, str]:
            loads.append(key)
            return {"of": key}

        before = len(loads)
        await cache.get_or_load("device_stats", key, load)
        return len(loads) == before

    keys = ("device:a:stats", "device:b:stats", "dashboard:x")
    names: dict[str, Any] = {"cache": cache, "device_id": "a"}
    by_pattern, everything, figures = (ast.unparse(one) for one in ast.parse(text).body)
    for key in keys:
        await held(key)
    await run(by_pattern, names)
    assert [await held(key) for key in keys] == [False, True, True]
    await run(everything, names)
    assert [await held(key) for key in keys] == [False, False, False]
    await run(figures, names)
    shown = commented(text)
    assert set(shown) <= set(names["stats"])
    assert {type(names["stats"][name]) for name in ("hits", "misses", "total_keys")} == {int}
    assert (names["stats"]["total_keys"], 0 <= names["stats"]["hit_rate"] <= 1) == (3, True)


def breakers_protect(block: Block, stage: Stage) -> None:
    """With a real pool and a real Redis; `SELECT ...` stands for a statement."""
    asyncio.run(_protect(block.text.replace("SELECT ...", "SELECT 7 AS seven"), stage))


async def _protect(source: str, stage: Stage) -> None:
    pool = await asyncpg.create_pool(stage.postgres_dsn, min_size=0, max_size=1)
    redis = Redis(host=stage.redis.host, port=stage.redis.port)
    names: dict[str, Any] = {"pool": pool, "redis": redis}
    try:
        await run(source, names)
        assert [row["seven"] for row in await names["query_database"]()] == [7]
        await redis.set("guide", "held")
        assert await names["get_from_cache"]("guide") == b"held"
        await _opens(names)
    finally:
        db_breaker.reset()
        cache_breaker.reset()
        await redis.aclose()
        await pool.close()


async def _opens(names: dict[str, Any]) -> None:
    """Five failures of a server that is not there, then none is asked."""
    nowhere = f"postgresql://nobody:x@127.0.0.1:{free_port()}/x"
    async with asyncpg.create_pool(nowhere, min_size=0, max_size=1) as pool:
        names["pool"] = pool
        for _ in range(5):
            with pytest.raises(OSError, match="Connect call failed"):
                await names["query_database"]()
        pool.terminate()  # whoever asked it now would fail otherwise
        with pytest.raises(CircuitOpenError):
            await names["query_database"]()


def breaker_as_configured(block: Block, _stage: Stage) -> None:
    """The expression as it stands, with a clock of ours: opens, half-opens and closes at its numbers."""
    asyncio.run(_breaker(block.text))


async def _breaker(source: str) -> None:
    now = [0.0]
    made = partial(CircuitBreaker, monotonic=lambda: now[0], jitter=0.0)
    breaker: CircuitBreaker = eval(compile(source.strip(), "guide", "eval"), {"CircuitBreaker": made})

    async def work(*, fails: bool) -> None:
        if fails:
            raise ConnectionResetError

    async def ask(*, fails: bool) -> None:
        await breaker.call(partial(work, fails=fails))

    for _ in range(5):
        assert breaker.state is State.CLOSED
        with pytest.raises(ConnectionResetError):
            await ask(fails=True)
    assert breaker.state_number == STATE_NUMBERS[State.OPEN]
    now[0] = 59.9
    with pytest.raises(CircuitOpenError):
        await ask(fails=False)
    now[0] = 60.1
    await ask(fails=False)
    assert breaker.state_number == STATE_NUMBERS[State.HALF_OPEN]
    await ask(fails=False)
    assert breaker.state_number == STATE_NUMBERS[State.CLOSED]


def socket_is_limited(block: Block, _stage: Stage) -> None:
    """The endpoint as it stands, which ends where the work would begin: here it accepts. The last token is let in, and
    on a clock that stands none comes.
    """
    rate_limiter.bind(Limiter("guide", DEFAULT_RATE, monotonic=lambda: 0.0))
    try:
        asyncio.run(_knock(block.text + "\n    await websocket.accept()\n    await websocket.close()\n"))
    finally:
        rate_limiter.unbind()


async def _knock(source: str) -> None:
    app = FastAPI()
    await run(source, {"app": app, "WebSocket": WebSocket})
    await _spend("192.0.2.7", 99)
    assert [one["type"] for one in await _handshake(app)] == ["websocket.accept", "websocket.close"]
    (refused,) = await _handshake(app)
    assert (refused["type"], refused["code"], refused["reason"]) == ("websocket.close", 1008, "Rate limit exceeded")


async def _handshake(app: FastAPI) -> list[MutableMapping[str, Any]]:
    """What the application says to a client that connects."""
    said: list[MutableMapping[str, Any]] = []
    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "scheme": "ws", "path": "/ws/sensors", "raw_path": b"/ws/sensors",
        "query_string": b"", "root_path": "", "headers": [], "subprotocols": [], "client": ("192.0.2.7", 5), "state": {},
    }  # fmt: skip

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said


async def _spend(client_id: str, tokens: int) -> None:
    for _ in range(tokens):
        assert await rate_limiter.is_allowed(client_id)


def limits_are_told(block: Block, _stage: Stage) -> None:
    names: dict[str, Any] = {"rate_limiter": rate_limiter, "client_id": "guide"}
    rate_limiter.unbind()
    began = time.monotonic()
    asyncio.run(_spend("guide", 15))
    asyncio.run(run(block.text, names))
    come = 100 / 60 * (time.monotonic() - began)
    shown, usage = commented(block.text), names["usage"]
    assert set(usage) == set(shown)
    assert (usage["max_tokens"], usage["refill_rate"]) == (shown["max_tokens"], shown["refill_rate"])
    assert shown["current_tokens"] == 85 <= usage["current_tokens"] <= 85 + come + 1
    form = re.sub(r"\d", r"\\d", shown["last_refill"])
    assert re.fullmatch(form, usage["last_refill"])
