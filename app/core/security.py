"""Principals: who asks. API keys, kept as hashes, and the narrow door for local peers in open mode."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from app.core.errors import ForbiddenError, NotFoundError, UnauthorizedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from app.core.clock import Clock
    from app.core.database import Connection, Database

CACHE_S: Final = 5.0
GRACE_S: Final = 3_600.0  # while the database cannot be asked: nobody can revoke a key there either
CACHE_KEYS: Final = 1_024
FORWARDING: Final = (
    b"forwarded",
    b"via",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
    b"fastly-client-ip",
    b"x-envoy-external-address",
    b"x-original-forwarded-for",
)
FORWARDING_PREFIX: Final = b"x-forwarded"
SESSION_COOKIE: Final = "gaveurs_key"
_KEY = re.compile(r"gvk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Role(StrEnum):
    """What a principal may do; `admin` may do everything. A reporter is somebody outside who reports bugs and comments
    on them.
    """

    VIEWER = "viewer"
    REPORTER = "reporter"
    OPERATOR = "operator"
    DEVICE = "device"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is behind a request or a socket: an API key, or a local peer in open mode."""

    kind: str
    id: str
    roles: frozenset[Role]

    def require(self, *allowed: Role) -> None:
        """Raises ForbiddenError unless this principal has one of `allowed`."""
        if Role.ADMIN not in self.roles and self.roles.isdisjoint(allowed):
            raise ForbiddenError("this key's role does not allow that")


LOCAL: Final = Principal("local", "loopback", frozenset({Role.ADMIN}))


def hash_secret(secret: str) -> bytes:
    """SHA-256: enough for 256 random bits, which no dictionary holds."""
    return hashlib.sha256(secret.encode()).digest()


async def create_key(connection: Connection, clock: Clock, name: str, role: Role) -> str:
    """Make a key and return it: the only time that it can be seen."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    await connection.execute(
        "INSERT INTO api_keys (key_id, name, role, hash, created_at) VALUES ($1, $2, $3, $4, $5)",
        key_id,
        name,
        str(role),
        hash_secret(secret),
        clock.now(),
    )
    return f"gvk_{key_id}_{secret}"


async def list_keys(connection: Connection) -> list[dict[str, Any]]:
    """Every key without its hash, oldest first."""
    return [
        dict(record)
        for record in await connection.fetch(
            "SELECT key_id, name, role, created_at, revoked_at FROM api_keys ORDER BY created_at, key_id"
        )
    ]


async def revoke_key(connection: Connection, clock: Clock, key_id: str) -> None:
    """Takes effect within `CACHE_S` seconds in every process. NotFoundError for an unknown key."""
    changed: str = await connection.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE key_id = $1", key_id, clock.now()
    )
    if changed == "UPDATE 0":
        raise NotFoundError("there is no such key")


async def still_valid(connection: Connection, key_ids: Iterable[str]) -> set[str]:
    """Those of `key_ids` that are not revoked."""
    records = await connection.fetch(
        "SELECT key_id FROM api_keys WHERE key_id = ANY($1) AND revoked_at IS NULL", list(key_ids)
    )
    return {record["key_id"] for record in records}


@dataclass(frozen=True, slots=True)
class _Known:
    """A key that was valid when it was looked up."""

    looked_up_at: float
    digest: bytes
    principal: Principal


class KeyRing:
    """Checks presented keys against the database, remembering up to `CACHE_KEYS` of them for `CACHE_S` seconds; while
    the database is away, for `GRACE_S`.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def knows(self, key: str) -> bool:
        """Whether this key was valid lately: to check it again is no guess of a stranger's."""
        match = _KEY.match(key)
        known = self._known.get(match[1]) if match else None
        return known is not None and match is not None and hmac.compare_digest(known.digest, hash_secret(match[2]))

    async def check(self, key: str) -> Principal:
        """The key's principal. UnauthorizedError for a wrong or revoked one; UnavailableError when unknown."""
        match = _KEY.match(key)
        if match is None:
            raise UnauthorizedError("the API key is not valid")
        key_id, digest = match[1], hash_secret(match[2])
        known = self._known.get(key_id)
        if known is None or self._age_s(known) > CACHE_S:
            known = await self._look_up(key_id, known)
        if not hmac.compare_digest(known.digest, digest):
            raise UnauthorizedError("the API key is not valid")
        return known.principal

    def _age_s(self, known: _Known) -> float:
        return self._clock.monotonic() - known.looked_up_at

    async def _look_up(self, key_id: str, known: _Known | None) -> _Known:
        try:
            async with self._database.connection() as connection:
                record = await connection.fetchrow(
                    "SELECT hash, role FROM api_keys WHERE key_id = $1 AND revoked_at IS NULL", key_id
                )
        except UnavailableError:
            if known is not None and self._age_s(known) <= GRACE_S:
                return known
            raise
        if record is None:
            self._known.pop(key_id, None)
            raise UnauthorizedError("the API key is not valid")
        principal = Principal("key", key_id, frozenset({Role(record["role"])}))
        entry = self._known[key_id] = _Known(self._clock.monotonic(), record["hash"], principal)
        if len(self._known) > CACHE_KEYS:
            self._known.popitem(last=False)
        return entry


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `Authorization: Bearer ...` or `X-API-Key: ...`; another scheme's credentials are a wrong key."""
    given = headers.get(b"authorization", b"").decode("latin-1").strip()
    scheme, _, value = given.partition(" ")
    if given:
        return value.strip() if scheme.lower() == "bearer" else given
    plain = headers.get(b"x-api-key", b"").decode("latin-1").strip()
    return plain or None


def key_in_cookie(headers: Mapping[bytes, bytes]) -> str | None:
    """The key that a browser keeps in its cookie. ForbiddenError when a page of another origin makes it ask: a cookie,
    unlike a header, is sent without that page knowing it.
    """
    key = cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(SESSION_COOKIE)
    if key is None:
        return None
    origin = headers.get(b"origin")
    if origin is not None and _netloc_of(origin.decode("latin-1")) != headers.get(b"host", b"").decode("latin-1"):
        raise ForbiddenError("this page's origin may not use the browser's key")
    return key


def is_local(scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes], origins: Iterable[str]) -> bool:
    """Whether open mode may serve this peer without a key: from loopback, to a local name, through no proxy, and not
    on behalf of a foreign web page (whose scripts reach loopback too).
    """
    client = scope.get("client")
    if not client or not _is_loopback(client[0]):
        return False
    if any(name in FORWARDING or name.startswith(FORWARDING_PREFIX) for name in headers):
        return False
    if _host_of(headers.get(b"host", b"").decode("latin-1")) not in _LOCAL_NAMES:
        return False
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin in origins:
        return True
    if headers.get(b"sec-fetch-site") == b"cross-site":
        return False
    return not origin or _host_of(_netloc_of(origin)) in _LOCAL_NAMES


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _netloc_of(origin: str) -> str:
    """Empty for an origin that is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_of(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
