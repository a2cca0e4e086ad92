"""The keyset cursor of hours: by hour, then device, both descending."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from app.core import cursor

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAYOUT: Final = struct.Struct(">Bi")
_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class HourCursor:
    """The last hour and device of the page before: the next page starts strictly below it."""

    bucket: datetime
    device_id: str

    def encode(self) -> str:
        hours = (self.bucket - _EPOCH) // timedelta(hours=1)
        return cursor.encode(_LAYOUT.pack(_VERSION, hours) + self.device_id.encode())

    @classmethod
    def decode(cls, text: str) -> HourCursor:
        """Raises BadCursorError for anything that `encode` did not make."""
        return cursor.decode(text, cls._unpack)

    @classmethod
    def _unpack(cls, packed: bytes) -> HourCursor:
        version, hours = _LAYOUT.unpack_from(packed)
        device_id = packed[_LAYOUT.size :].decode()
        if version != _VERSION or "\x00" in device_id:
            raise ValueError("a cursor of another ordering")
        return cls(_EPOCH + hours * timedelta(hours=1), device_id)
