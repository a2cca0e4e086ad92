"""When a device that could not be served should try again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.core.dependency import Dependency

RETRY_AWAY_MS: Final = (2_000, 4_000)
RETRY_FULL_MS: Final = (500, 1_500)


def retry_after_ms(storage: Dependency) -> int:
    """Longer while the database is away; spread, so that not all come at once."""
    return random.randint(*(RETRY_AWAY_MS if storage.away else RETRY_FULL_MS))  # noqa: S311 - jitter
