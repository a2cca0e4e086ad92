"""Idempotency-Key: the same request of the same principal, told once more, is answered as it was and done once."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from app.core.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from app.core.database import Connection

KEPT: Final = timedelta(hours=24)
TAKE: Final = """
    INSERT INTO idempotency_keys (principal, key, created_at, request) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING RETURNING true
"""
FIND: Final = "SELECT request, answer FROM idempotency_keys WHERE principal = $1 AND key = $2"
ANSWERED: Final = "UPDATE idempotency_keys SET answer = $3 WHERE principal = $1 AND key = $2"
FORGET: Final = "DELETE FROM idempotency_keys WHERE created_at < $1"


async def once(
    connection: Connection,
    principal: str,
    key: str,
    request: bytes,
    now: datetime,
    work: Callable[[], Awaitable[dict[str, Any]]],
) -> tuple[dict[str, Any], bool]:
    """(answer, whether it is a former one). `work` runs in the transaction that remembers its answer, which must be
    JSON; whoever comes meanwhile with the same key waits for its end. BadRequestError when the key stood for another
    `request`.
    """
    digest = hashlib.sha256(request).digest()
    async with connection.transaction():
        if await connection.fetchval(TAKE, principal, key, now, digest):
            answer = await work()
            await connection.execute(ANSWERED, principal, key, json.dumps(answer))
            return answer, False
        record = await connection.fetchrow(FIND, principal, key)
    if record is None:  # forgotten between the two looks
        return await once(connection, principal, key, request, now, work)
    if record["request"] != digest:
        raise BadRequestError("this key stood for another request", parameter="Idempotency-Key")
    former: dict[str, Any] = json.loads(record["answer"])
    return former, True


async def forget_old(connection: Connection, now: datetime) -> None:
    """Keys are good for at least a day."""
    await connection.execute(FORGET, now - KEPT)
