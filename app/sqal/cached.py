"""What of SQAL is read through the cache, under which keys, and what a commit changes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.core.cache_store import Newer, Ordered
from app.core.errors import NotFoundError
from app.sqal.queries import as_item, latest_sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from app.core.cache import Cache
    from app.core.cache_entry import Cached
    from app.core.database import Database
    from app.sqal.figures import Scope

ALL: Final = "samples"
FLEET: Final = "fleet"
LOTS: Final = "lots"
NOTHING: Final = ""
LATEST: Final = "latest_sample"


def _device(device_id: str) -> str:
    return f"device:{device_id}"


def latest_key(device_id: str | None) -> str:
    return "latest" if device_id is None else f"{_device(device_id)}:latest"


def scoped_key(name: str, scope: Scope, *more: object) -> str:
    """One for each scope; a device's begin with `device:{id}:`, so that they can be dropped together."""
    parts = [scope.site_code, scope.lot, scope.time_from, scope.time_to, *more]
    said = json.dumps([None if part is None else str(part) for part in parts])
    return f"{name}:{said}" if scope.device_id is None else f"{_device(scope.device_id)}:{name}:{said}"


def scoped_tags(scope: Scope) -> tuple[str, ...]:
    return (ALL if scope.device_id is None else _device(scope.device_id),)


def _order(row: Mapping[str, Any]) -> str:
    """Sorts as the lists do: by bucket time, then id."""
    return f"{row['bucket_time'].isoformat()}|{row['id']}"


def _rank(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """The same without a text: a commit group compares all its rows."""
    return row["bucket_time"], row["id"]


def _newer(key: str, row: Mapping[str, Any]) -> Newer:
    return Newer(LATEST, key, _order(row), lambda: msgspec.json.encode(as_item(row)))


class CachedReads:
    """Reads through the cache, and commits noted in it. Bodies are JSON as REST sends it."""

    def __init__(self, cache: Cache, reads: Database) -> None:
        self._cache = cache
        self._reads = reads

    async def latest(self, device_id: str | None) -> Cached:
        """The newest sample as JSON; None when there is none."""

        async def load() -> Ordered:
            async with self._reads.connection() as connection:
                try:
                    item = await latest_sample(connection, device_id)
                except NotFoundError:
                    return Ordered(None, NOTHING)
            return Ordered(msgspec.json.encode(item), _order(item))

        tag = ALL if device_id is None else _device(device_id)
        return await self._cache.get_or_load(LATEST, latest_key(device_id), load, tags=(tag, LOTS))

    async def body(
        self, kind: str, name: str, scope: Scope, load: Callable[[], Awaitable[bytes]], *more: object
    ) -> Cached:
        """Figures of a scope as JSON."""
        tags = (*scoped_tags(scope), FLEET) if kind == "dashboard_metrics" else scoped_tags(scope)
        return await self._cache.get_or_load(kind, scoped_key(name, scope, *more), load, tags=tags)

    def note(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Rows that were committed: the newest of each device is written through, what they touch becomes stale."""
        if not samples:
            return
        newest: dict[str, Mapping[str, Any]] = {}
        for row in samples:
            held = newest.get(row["device_id"])
            if held is None or _rank(held) < _rank(row):
                newest[row["device_id"]] = row
        latest = {latest_key(device_id): row for device_id, row in newest.items()}
        latest[latest_key(None)] = max(newest.values(), key=_rank)
        written = [_newer(key, row) for key, row in latest.items() if self._cache.holds(LATEST, key)]
        self._cache.commit([ALL, *map(_device, newest)], written)

    def configured(self, device_id: str) -> None:
        """A device's record was changed."""
        self._cache.mark([_device(device_id), ALL, FLEET])

    def changed(self, tags: Iterable[str]) -> None:
        self._cache.mark(tags)
