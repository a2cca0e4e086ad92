"""What the cache is given and asked: loaders, committed values, and the interface of its second level."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.cache_entry import Entry

ANYTHING: Final = "*"
Loader = Callable[[], Awaitable[Any]]


class Ordered(NamedTuple):
    """What a loader returns for a value that commits write through: `order` sorts newer after older."""

    value: Any
    order: str


class Newer(NamedTuple):
    """A committed value under `kind` and `key`; `make` runs when somebody reads it."""

    kind: str
    key: str
    order: str
    make: Callable[[], bytes]


class SharedStore(Protocol):
    """The second level. No method raises for a lost server; `coherent` says whether other replicas' news arrive."""

    @property
    def coherent(self) -> bool: ...

    @property
    def connected(self) -> bool: ...

    async def get(self, name: str, now: float) -> Entry | None: ...

    def put_soon(self, name: str, entry: Entry) -> None: ...

    def renew_soon(self, name: str, entry: Entry) -> None: ...

    def tell_soon(self, tags: Iterable[str]) -> None: ...

    async def remove(self, pattern: str) -> int: ...


def matches(name: str, pattern: str) -> bool:
    """Whether a key matches, whatever its type."""
    return fnmatchcase(name.partition("|")[2], pattern)
