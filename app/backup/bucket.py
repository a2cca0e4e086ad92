"""Backups in a bucket."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import obstore

from app.backup.places import is_ours, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from obstore.store import ObjectStore

CALL_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 256 * 1024
PART_BYTES: Final = 32 * 1024 * 1024  # 10,000 of them, the most that S3 takes, are 320 GB
PARTS_AT_ONCE: Final = 2


class Bucket:
    """S3: an object is there when all its parts are. One backup at a time is the database's lock to see to."""

    reread_days = 30

    def __init__(self, url: str, store: ObjectStore) -> None:
        self._url = url
        self._store = store

    @property
    def name(self) -> str:
        return self._url

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        yield

    async def sizes(self) -> AsyncIterator[tuple[str, int]]:
        with told(f"{self._url} cannot be listed"):
            listed = cast("AsyncIterator[Sequence[Any]]", obstore.list(self._store, chunk_size=1_000))
            while True:
                async with asyncio.timeout(CALL_S):
                    page = await anext(listed, None)
                if page is None:
                    return
                for one in page:
                    if is_ours(one["path"]):
                        yield one["path"], one["size"]

    async def put(self, key: str, source: Path) -> None:
        allowed = CALL_S + source.stat().st_size / SLOWEST_BYTES_PER_S  # noqa: ASYNC240 - a local file
        with told(f"{key} cannot be written to {self._url}"):
            async with asyncio.timeout(allowed):
                await obstore.put_async(self._store, key, source, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    async def get(self, key: str, target: Path) -> None:
        with told(f"{key} cannot be copied from {self._url} to {target.parent}"), target.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            async for chunk in self._chunks(key):
                file.write(chunk)

    async def sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        with told(f"{key} cannot be read from {self._url}"):
            async for chunk in self._chunks(key):
                digest.update(chunk)
        return digest.hexdigest()

    async def _chunks(self, key: str) -> AsyncIterator[bytes]:
        async with asyncio.timeout(CALL_S):
            found = await obstore.get_async(self._store, key)
        stream = found.stream(min_chunk_size=1024 * 1024)
        while True:
            async with asyncio.timeout(CALL_S):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            yield bytes(chunk)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with told(f"{key} cannot be deleted from {self._url}"), suppress(FileNotFoundError):
                async with asyncio.timeout(CALL_S):
                    await obstore.delete_async(self._store, key)
