"""Whose address a connection counts for: the peer's, or what a trusted proxy says of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping
    from ipaddress import IPv4Network, IPv6Network

UNKNOWN = "unknown"


class ClientAddresses:
    """Reads X-Forwarded-For from the right, as far as trusted proxies wrote it; from a stranger it is ignored."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(network) for network in trusted]

    def of(self, scope: MutableMapping[str, Any]) -> str:
        client = scope.get("client")
        peer: str = client[0] if client else UNKNOWN
        if not self._trusted or not self._trusts(peer):
            return peer
        hops = [
            hop.strip()
            for name, value in scope["headers"]
            if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]
        while hops:
            peer = hops.pop()
            if not self._trusts(peer):
                return peer if _is_address(peer) else UNKNOWN
        return peer

    def _trusts(self, text: str) -> bool:
        return _is_address(text) and any(ip_address(text) in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
