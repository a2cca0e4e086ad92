"""Places for what takes as long as its client likes (exports, downloads): each holds memory, so there are few."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.core.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Iterator


class TooManyAtOnceError(AppError):
    """As many of this kind run as this process takes; the code tells which kind."""

    status = 503

    def __init__(self, kind: str, retry_after_s: float) -> None:
        super().__init__(f"too many {kind} run now; try again later", retry_after_s=retry_after_s)
        self.code = f"too_many_{kind}"


class Places:
    """At most `most` of a `kind` (a plural noun) run at once in this process."""

    def __init__(self, kind: str, most: int, retry_after_s: float) -> None:
        self._kind = kind
        self._most = most
        self._retry_after_s = retry_after_s
        self._running = 0

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A place for one while it lasts. TooManyAtOnceError when there is none."""
        if self._running >= self._most:
            raise TooManyAtOnceError(self._kind, self._retry_after_s)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
