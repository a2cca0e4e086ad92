"""UUIDs that sort by the time they were made (RFC 9562, version 7)."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, then randomness."""
    value = int.from_bytes(os.urandom(10), "big") | ((time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
