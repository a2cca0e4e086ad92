"""Webhooks: whom we tell what is done to bugs, and how the receiver knows that it was us."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
from typing import TYPE_CHECKING, Any, Final

import httpx

from app.bugs.webhook_post import may_connect
from app.core.errors import BadRequestError, ConflictError, NotFoundError
from app.core.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from uuid import UUID

    from app.core.database import Connection

MOST: Final = 20
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what stands before the secret
NO_SUCH_WEBHOOK: Final = "there is no such webhook"
SHOWN: Final = "id, created_at, enabled, include_internal, creator_id, url, events"
INSERT: Final = f"""
    INSERT INTO bug_webhooks (id, created_at, enabled, include_internal, creator_id, url, secret, events)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {SHOWN}
"""
# Against another one that counts at the same time; whoever only writes deliveries is not kept waiting.
ALONE: Final = "LOCK TABLE bug_webhooks IN SHARE ROW EXCLUSIVE MODE"
CHANGEABLE: Final = ("url", "events", "include_internal", "enabled")
_MOST_PORT: Final = 65_535


async def create_webhook(
    connection: Connection, wanted: Mapping[str, Any], actor: str, now: datetime, *, loopback: bool = False
) -> dict[str, Any]:
    """In the caller's transaction, with its secret: the only time that it can be seen. ConflictError when there are too
    many, BadRequestError for an address that nothing can be sent to; `loopback`: this machine's own are none of them.
    """
    check_url(wanted["url"], loopback=loopback)
    await connection.execute(ALONE)
    if await connection.fetchval("SELECT count(*) FROM bug_webhooks") >= MOST:
        raise ConflictError(f"there are at most {MOST} webhooks")
    secret = make_secret()
    record = await connection.fetchrow(
        INSERT, uuid7(), now, wanted["enabled"], wanted["include_internal"], actor, wanted["url"], secret,
        list(wanted["events"]),
    )  # fmt: skip
    assert record is not None
    return dict(record) | {"secret": secret}


async def list_webhooks(connection: Connection) -> list[dict[str, Any]]:
    """All of them, oldest first."""
    return [dict(record) for record in await connection.fetch(f"SELECT {SHOWN} FROM bug_webhooks ORDER BY id")]


async def one_webhook(connection: Connection, webhook_id: UUID) -> dict[str, Any]:
    """NotFoundError for an unknown id."""
    record = await connection.fetchrow(f"SELECT {SHOWN} FROM bug_webhooks WHERE id = $1", webhook_id)
    if record is None:
        raise NotFoundError(NO_SUCH_WEBHOOK)
    return dict(record)


async def change_webhook(
    connection: Connection,
    webhook_id: UUID,
    changes: Mapping[str, Any],
    *,
    rotate_secret: bool,
    loopback: bool = False,
) -> dict[str, Any]:
    """Change members of CHANGEABLE; with a new `secret`, shown once, when it is to be rotated: the former one is good
    for nothing from then on. NotFoundError for an unknown id.
    """
    if "url" in changes:
        check_url(changes["url"], loopback=loopback)
    shown = {"secret": make_secret()} if rotate_secret else {}
    written = {name: changes[name] for name in CHANGEABLE if name in changes} | shown
    if not written:
        return await one_webhook(connection, webhook_id)
    assignments = ", ".join(f"{name} = ${number}" for number, name in enumerate(written, 2))
    record = await connection.fetchrow(
        f"UPDATE bug_webhooks SET {assignments} WHERE id = $1 RETURNING {SHOWN}", webhook_id, *written.values()
    )
    if record is None:
        raise NotFoundError(NO_SUCH_WEBHOOK)
    return dict(record) | shown


async def delete_webhook(connection: Connection, webhook_id: UUID) -> None:
    """With all its deliveries. NotFoundError for an unknown id."""
    if await connection.fetchval("DELETE FROM bug_webhooks WHERE id = $1 RETURNING true", webhook_id) is None:
        raise NotFoundError(NO_SUCH_WEBHOOK)


def check_url(text: str, *, loopback: bool = False) -> httpx.URL:
    """The address, taken apart. BadRequestError for one that is not http(s), or holds credentials (they would stand in
    lists and logs), or is in digits one that is never called; `loopback`: this machine may be. A name is looked at each
    time that it is called: it may become another address.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise BadRequestError("must be an http or https address", pointer="#/url") from error
    if url.scheme not in ("http", "https") or not url.raw_host or b"%" in url.raw_host:
        raise BadRequestError("must be an http or https address", pointer="#/url")
    if url.port is not None and not 0 < url.port <= _MOST_PORT:
        raise BadRequestError(f"the port must be 1 to {_MOST_PORT}", pointer="#/url")
    if url.userinfo:
        raise BadRequestError("must not hold credentials: receivers know us by the signature", pointer="#/url")
    literal = _in_digits(url.raw_host.decode("ascii"))
    if literal is not None and not may_connect(literal, loopback=loopback):
        raise BadRequestError("this address is this machine's own, or no host's: it is never called", pointer="#/url")
    return url


def _in_digits(host: str) -> str | None:
    """The IP address that a host is, in any of the spellings that a resolver takes for one."""
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def make_secret() -> str:
    """256 random bits, as Standard Webhooks writes them."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Those of https://www.standardwebhooks.com/, and a signature of the body alone for simpler receivers. The key is
    what stands behind `whsec_`, decoded.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    said = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
        "X-Gaveurs-Signature": f"sha256={hmac.digest(key, body, hashlib.sha256).hex()}",
    }
