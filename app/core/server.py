"""The HTTP and WebSocket server as we run it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from app.core.errors import CannotStartError

if TYPE_CHECKING:
    from fastapi import FastAPI

TRANSPORT_MAX_BYTES: Final = 16 * 1024 * 1024  # a larger frame ends its connection (1009); below, ingest answers


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises CannotStartError with one clear line when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2_048)
    except OSError as error:
        listener.close()
        raise CannotStartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


def make_server(app: FastAPI, **options: Any) -> uvicorn.Server:
    """uvicorn with the options that ingest needs: no per-message deflate, no trust in forwarding headers."""
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=TRANSPORT_MAX_BYTES,
        ws_per_message_deflate=False,
        http="httptools",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=30,
        backlog=2_048,
        **options,
    )
    return uvicorn.Server(config)
