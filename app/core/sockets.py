"""Open WebSockets of one kind: who is behind each, how many there may be, and how all of them are told to end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from app.core.errors import TooManyConnectionsError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.core.security import Principal


class Session(Protocol):
    """One connection's protocol, which can be asked to end."""

    def end(self, code: int, reason: str) -> None: ...


class Sockets:
    """At most `limit` at once, and `client_limit` of one client (an address)."""

    def __init__(self, limit: int, client_limit: int) -> None:
        self._limit = limit
        self._client_limit = client_limit
        self._open: dict[Session, Principal] = {}
        self._clients: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self, client: str) -> None:
        """Raises when there is none, before the handshake is accepted: TooManyConnectionsError for all,
        TooManyRequestsError for this client.
        """
        if len(self._open) >= self._limit:
            raise TooManyConnectionsError("there are too many connections; try again later", retry_after_s=30.0)
        if self._clients.get(client, 0) >= self._client_limit:
            raise TooManyRequestsError("this address has too many connections open", retry_after_s=30.0)

    @contextmanager
    def holding(self, session: Session, principal: Principal, client: str) -> Iterator[None]:
        """Count the session in while it lasts."""
        self._open[session] = principal
        self._clients[client] = self._clients.get(client, 0) + 1
        try:
            yield
        finally:
            del self._open[session]
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def keys(self) -> set[str]:
        """The ids of the API keys that hold a socket open."""
        return {principal.id for principal in self._open.values() if principal.kind == "key"}

    def end_all(self, code: int, reason: str) -> None:
        for session in self._open:
            session.end(code, reason)

    def end_keys(self, revoked: set[str], code: int, reason: str) -> None:
        """End those behind which one of these keys stands."""
        for session, principal in self._open.items():
            if principal.kind == "key" and principal.id in revoked:
                session.end(code, reason)
