"""How much memory a server needs at least, by what was measured and by its settings' bounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.settings import Settings

BUSY_BYTES: Final = 135 * 2**20  # docs/benchmarks.md: resident at full load
MARGIN: Final = 1.25  # for what allocators keep, and for sockets
UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def bytes_of(amount: str) -> int:
    """Kubernetes' binary units, and Compose's and Redis' (`mb`), which are binary too."""
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi|[kmg]?)b?", amount)
    assert found is not None, amount
    return int(found[1]) * UNITS[found[2]]


def needed_bytes(settings: Settings) -> int:
    return int((BUSY_BYTES + settings.ingest_queue_bytes + settings.cache_max_bytes) * MARGIN)
