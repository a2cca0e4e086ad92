"""Keyset cursors: opaque, URL-safe (A-Z a-z 0-9 - _), each good for one ordering."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from app.core.errors import BadCursorError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound="Any")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAYOUT: Final = struct.Struct(">Bq16s")
_VERSION: Final = 1


def to_micros(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The inverse; OverflowError beyond the years that a datetime has."""
    return _EPOCH + micros * _MICROSECOND


def encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode(text: str, unpack: Callable[[bytes], T]) -> T:
    """What `unpack` makes of the bytes; BadCursorError for anything whose own `encode` is not `text`."""
    wrong = BadCursorError("the cursor is not one that this API gave")
    try:
        made = unpack(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, struct.error, ValueError, OverflowError) as error:
        raise wrong from error
    if made.encode() != text:
        raise wrong
    return made


@dataclass(frozen=True, slots=True)
class Cursor:
    """By time, then id: the last row of the page before; the next page starts strictly beyond it."""

    time: datetime
    id: UUID

    def encode(self) -> str:
        return encode(_LAYOUT.pack(_VERSION, to_micros(self.time), self.id.bytes))

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises BadCursorError for anything that `encode` did not make."""
        return decode(text, cls._unpack)

    @classmethod
    def _unpack(cls, packed: bytes) -> Cursor:
        version, micros, id_bytes = _LAYOUT.unpack(packed)
        if version != _VERSION:
            raise ValueError("a cursor of another ordering")
        return cls(from_micros(micros), UUID(bytes=id_bytes))
