"""Places for downloads: each holds a file open and a chunk in memory for as long as its client takes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from app.core.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_AT_ONCE: Final = 32


class TooManyDownloadsError(AppError):
    """As many downloads run as this process takes."""

    status = 503
    code = "too_many_downloads"


class Downloads:
    """At most `MOST_AT_ONCE` in this process."""

    def __init__(self) -> None:
        self._running = 0

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A place for one while it lasts. TooManyDownloadsError when there is none."""
        if self._running >= MOST_AT_ONCE:
            raise TooManyDownloadsError("too many downloads run now; try again shortly", retry_after_s=5.0)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
