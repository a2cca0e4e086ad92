"""One cached value and the rules of its age: pure, times are monotonic seconds given by the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

IMMUTABLE: Final = (bytes, str, int, float, bool, type(None))
OVERHEAD_BYTES: Final = 400  # of an entry's Python objects, beside its value
REFRESH_AT: Final = 0.8  # of its time: from here on a read renews it behind its back


@dataclass(frozen=True, slots=True)
class CacheType:
    """A kind of cached value: for how long one is served, and how much shorter, at random, so that many which were made
    together do not end together. `strict`: a value that is older than the last known change of its subject is served
    only where no newer one can be loaded, however young it is.
    """

    name: str
    ttl_s: float
    jitter: float = 0.1
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.ttl_s > 0:
            raise ValueError(f"the time to live of {self.name} must be more than 0 s")


class Entry:
    """A value as this process holds it. Containers are kept encoded: nobody can change what another reads."""

    __slots__ = (
        "_later",
        "_value",
        "dead_at",
        "fresh_until",
        "made_at",
        "order",
        "packed",
        "quiet_until",
        "retry_at",
        "size",
        "tags",
        "written_at",
    )

    def __init__(
        self, value: Any, *, made_at: float, fresh_s: float, keep_s: float, tags: tuple[str, ...], order: str | None
    ) -> None:
        self._later: Callable[[], bytes] | None = None
        self.packed = not isinstance(value, IMMUTABLE)
        self._value = msgspec.msgpack.encode(value) if self.packed else value
        self.made_at = made_at
        self.fresh_until = made_at + fresh_s
        self.dead_at = made_at + fresh_s + keep_s
        self.retry_at = made_at + REFRESH_AT * fresh_s
        self.quiet_until = 0.0
        self.written_at = made_at
        self.tags = tags
        self.order = order
        self.size = OVERHEAD_BYTES + (len(self._value) if isinstance(self._value, bytes | str) else 0)

    @property
    def value(self) -> Any:
        if self._later is not None:
            self._value, self._later = self._later(), None
        return msgspec.msgpack.decode(self._value) if self.packed else self._value

    def replace_later(self, make: Callable[[], bytes], order: str, now: float, *, current: bool) -> None:
        """A newer value of about the same size, made when somebody reads it. One that was not `current`, as far as is
        known, does not get younger by it: something newer still may have come from elsewhere.
        """
        age = now - self.made_at
        self._later, self.order, self.packed, self.written_at = make, order, False, now
        if not current:
            return
        self.made_at = now
        self.fresh_until += age
        self.dead_at += age
        self.retry_at += age

    def take_times(self, other: Entry) -> None:
        """Be as old as `other` is."""
        self.made_at, self.fresh_until = other.made_at, other.fresh_until
        self.dead_at, self.retry_at = other.dead_at, other.retry_at

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.made_at)


class Cached(msgspec.Struct, frozen=True, gc=False):
    """What a read returns. `source` is l1, l2 or load; `stale`: it is old, and loading failed or is late."""

    value: Any
    age_s: float
    ttl_s: float
    """For how long it would still be served; negative when stale."""
    source: str
    stale: bool = False


class Marks:
    """When each tag's subject last changed. Bounded: a tag that was forgotten counts as changed at the time it went."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._marked: dict[str, float] = {}
        self._floor = float("-inf")

    def mark(self, tag: str, now: float) -> None:
        self._marked.pop(tag, None)  # to the end: the first is the oldest
        self._marked[tag] = now
        if len(self._marked) > self._limit:
            oldest = next(iter(self._marked))
            self._floor = max(self._floor, self._marked.pop(oldest))

    def mark_all(self, now: float) -> None:
        self._marked.clear()
        self._floor = now

    def changed_since(self, moment: float, tags: tuple[str, ...]) -> bool:
        """Whether the subject of one of `tags` changed at or after `moment`."""
        marked = self._marked
        return self._floor >= moment or any(marked.get(tag, moment - 1) >= moment for tag in tags)


class LocalStore:
    """At most `max_entries` entries and `max_bytes`; the least recently read go first."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[str, Entry] = {}
        self.bytes = 0
        self.evictions = 0
        self.expirations = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Without making it the most recent: see `touch`."""
        return self._entries.get(key)

    def touch(self, key: str) -> None:
        self._entries[key] = self._entries.pop(key)

    def put(self, key: str, entry: Entry) -> None:
        self.drop(key)
        if entry.size > self._max_bytes:
            self.evictions += 1
            return
        self._entries[key] = entry
        self.bytes += entry.size
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))
            self.evictions += 1

    def drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def expire(self, now: float) -> None:
        """Drop what is past all use."""
        for key in [key for key, entry in self._entries.items() if entry.dead_at <= now]:
            self.drop(key)
            self.expirations += 1

    def keys(self) -> list[str]:
        return list(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0
