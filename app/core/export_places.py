"""Places for exports: each holds memory and reads for as long as its client takes, so there are few."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from app.core.errors import TooManyExportsError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_AT_ONCE: Final = 4


class ExportPlaces:
    """At most `MOST_AT_ONCE` run at once in this process."""

    def __init__(self) -> None:
        self._running = 0

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A place for one export while it lasts. TooManyExportsError when there is none."""
        if self._running >= MOST_AT_ONCE:
            raise TooManyExportsError("too many exports run now; try again later", retry_after_s=30.0)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
