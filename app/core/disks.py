"""How full the file systems of our folders are, for the metrics."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from app.core.apart import apart
from app.core.errors import in_a_line
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from app.core.metrics import Metrics

EVERY_S: Final = 15.0
DEADLINE_S: Final = 5.0
log = get_logger("gaveurs.disks")


class Disks:
    """Keeps `disk_size_bytes{place}` and `disk_free_bytes{place}`; a folder that cannot be asked has none."""

    def __init__(self, metrics: Metrics, folders: Mapping[str, Path]) -> None:
        self._metrics = metrics
        self._folders = folders

    async def run(self) -> None:
        """Look every 15 s, at each folder by itself; runs until cancelled."""
        async with asyncio.TaskGroup() as looks:
            for place, folder in self._folders.items():
                looks.create_task(self._watch(place, folder))

    async def _watch(self, place: str, folder: Path) -> None:
        """The file system of a network may not answer at all. Then this folder has no figures and is not asked again
        until it does.
        """
        while True:
            look = asyncio.ensure_future(_ask(folder))
            await asyncio.wait({look}, timeout=DEADLINE_S)
            if not look.done():
                log.warning("a folder's file system does not answer", folder=str(folder))
                self._show(place, None)
            self._show(place, await look)
            await asyncio.sleep(EVERY_S)

    def _show(self, place: str, found: tuple[int, int] | None) -> None:
        size, free = found or (None, None)
        self._metrics.disk_size.labels(place).set(size)
        self._metrics.disk_free.labels(place).set(free)


async def _ask(folder: Path) -> tuple[int, int] | None:
    try:
        return await apart(partial(_size_and_free, folder))
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        log.warning("a folder's file system cannot be asked", folder=str(folder), reason=in_a_line(error))
        return None


def _size_and_free(folder: Path) -> tuple[int, int]:
    """Of the file system that it is or will be on; free is what we may use, without what is kept for root."""
    existing = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    found = os.statvfs(existing)
    return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
