"""What must not be left half done when we are told to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises. Cancellations, however many, wait until it has ended; then one goes on."""
    task, stopped = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            stopped = error
    if stopped is not None:
        raise stopped from (None if task.cancelled() else task.exception())
    return task.result()
