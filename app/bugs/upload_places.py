"""Who may send a file now: so many in a process, and few of one principal."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from app.core.errors import AppError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST_OF_ONE: Final = 4  # who sends slowly keeps places from nobody but themselves
PATIENCE_S: Final = 2.0


class TooManyUploadsError(AppError):
    """As many uploads run as this process takes, or takes of one principal."""

    status = 503
    code = "too_many_uploads"

    def __init__(self) -> None:
        super().__init__("too many uploads run now; try again shortly", retry_after_s=5.0)


class UploadPlaces:
    """At most `most_at_once`, and MOST_OF_ONE of one principal; as many wait for theirs, for `patience_s`."""

    def __init__(self, most_at_once: int, patience_s: float = PATIENCE_S) -> None:
        self._most_at_once = most_at_once
        self._patience_s = patience_s
        self._held: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._ended = asyncio.Event()

    @property
    def taken(self) -> int:
        return self._held.total()

    @asynccontextmanager
    async def holding(self, whose: str) -> AsyncIterator[None]:
        """A place for one upload of this principal, until all of it is done; one that becomes free soon is waited for.
        TooManyUploadsError when there is none, or too many wait.
        """
        if not self._has_place(whose):
            await self._wait(whose)
        self._held[whose] += 1
        try:
            yield
        finally:
            _one_less(self._held, whose)
            self._ended.set()

    async def all_free(self) -> None:
        """Wait until nobody holds one."""
        while self._held:
            self._ended.clear()
            await self._ended.wait()

    def _has_place(self, whose: str) -> bool:
        return self.taken < self._most_at_once and self._held[whose] < MOST_OF_ONE

    async def _wait(self, whose: str) -> None:
        if self._waiting.total() >= self._most_at_once or self._waiting[whose] >= MOST_OF_ONE:
            raise TooManyUploadsError
        self._waiting[whose] += 1
        try:
            async with asyncio.timeout(self._patience_s):
                while not self._has_place(whose):
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError as error:
            raise TooManyUploadsError from error
        finally:
            _one_less(self._waiting, whose)


def _one_less(counted: Counter[str], whose: str) -> None:
    """Names that hold nothing are not kept."""
    counted[whose] -= 1
    if not counted[whose]:
        del counted[whose]
