"""UUIDs that sort by the time they were made (RFC 9562, version 7)."""

from __future__ import annotations

import time
from random import getrandbits
from typing import TYPE_CHECKING

from asyncpg.pgproto.pgproto import UUID as FastUUID  # noqa: N811

if TYPE_CHECKING:
    from uuid import UUID

_LAYOUT = (0x7 << 76) | (0x2 << 62)
_LOW_62 = (1 << 62) - 1


def uuid7() -> UUID:
    """48 bits of Unix milliseconds, 12 of their fraction (a quarter of a microsecond), 62 random ones.

    The driver's own UUID type: made in a tenth of the time.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    value = milliseconds << 80 | (nanoseconds << 12) // 1_000_000 << 64 | getrandbits(62) & _LOW_62 | _LAYOUT
    made: UUID = FastUUID(value.to_bytes(16, "big"))
    return made
