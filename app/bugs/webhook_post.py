"""One POST to a receiver that somebody named: to an address that was looked at, without redirects, in bounded time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

CONNECT_S: Final = 3.0
ANSWER_BYTES: Final = 4_096
MOST_ADDRESSES: Final = 4
RESOLVERS: Final = 4
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address behind NAT64
# What clouds serve their machines' credentials from, beside the link-local 169.254.169.254.
_METADATA: Final = frozenset(ipaddress.ip_address(one) for one in ("fd00:ec2::254", "100.100.100.200"))


class RefusedAddressError(Exception):
    """Nothing may be sent there."""


def may_connect(text: str, *, loopback: bool = False) -> bool:
    """Whether a webhook may go to this IP address. Private networks may be: factories live in them. This machine,
    its neighbours by link, groups and what is no host's address may not.
    """
    address = _embedded(ipaddress.ip_address(text))
    if address.is_loopback:
        return loopback
    wrong = address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved
    this_network = address.version == 4 and address.packed[0] == 0  # noqa: PLR2004 - RFC 1122
    return not wrong and not this_network and address not in _METADATA


def _embedded(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


class Poster:
    """Sends bodies. Each request has a connection of its own, to an address that was checked before; Host, SNI and the
    certificate's name stay those of the URL. Certificates are verified (SSL_CERT_FILE adds a factory's own authority);
    proxies of the environment are not used: they would connect for us, unchecked.
    """

    def __init__(self, *, timeout_s: float, allow_loopback: bool) -> None:
        self._timeout_s = timeout_s
        self._allow_loopback = allow_loopback
        # A connection that is kept would be used for another name at the same address.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(limits=limits)
        # Of its own: a name server that hangs must hold up nobody else.
        self._resolver = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="webhook-names")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resolver.shutdown(wait=False, cancel_futures=True)
        await self._transport.aclose()

    async def post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> int:
        """The answer's status. TimeoutError, RefusedAddressError, httpx.HTTPError, OSError."""
        async with asyncio.timeout(self._timeout_s):
            host = url.raw_host.decode("ascii")
            addresses = await self._addresses(host, url.port or (443 if url.scheme == "https" else 80))
            for address in addresses[:-1]:
                try:
                    return await self._post_to(address, host, url, headers, body)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
            return await self._post_to(addresses[-1], host, url, headers, body)

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._resolver, _look_up, host, port)
        allowed = [one for one in found if may_connect(one, loopback=self._allow_loopback)]
        if not allowed:
            raise RefusedAddressError("its address is this machine's own, or no host's")
        return allowed[:MOST_ADDRESSES]

    async def _post_to(self, address: str, host: str, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> int:
        waits = {"connect": CONNECT_S, "read": self._timeout_s, "write": self._timeout_s, "pool": self._timeout_s}
        request = httpx.Request(
            "POST",
            url.copy_with(host=address),
            headers={"Host": url.netloc.decode("ascii"), **headers},
            content=body,
            extensions={"sni_hostname": host, "timeout": waits},
        )
        response = await self._transport.handle_async_request(request)
        try:
            await _read_some(response)
        finally:
            await response.aclose()
        return response.status_code


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


async def _read_some(response: httpx.Response) -> None:
    """So that a receiver's answer does not break; what it says is nobody's business here."""
    read = 0
    async for piece in response.aiter_raw():
        read += len(piece)
        if read >= ANSWER_BYTES:
            return
