"""Keyset cursors: opaque, URL-safe (A-Z a-z 0-9 - _), each good for one ordering: time, then id, both descending."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from app.core.errors import BadCursorError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAYOUT: Final = struct.Struct(">Bq16s")
_VERSION: Final = 1
_HOUR_LAYOUT: Final = struct.Struct(">Bi")
_HOUR_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of the page before: the next page starts strictly below it."""

    time: datetime
    id: UUID

    def encode(self) -> str:
        micros = (self.time - _EPOCH) // _MICROSECOND
        return base64.urlsafe_b64encode(_LAYOUT.pack(_VERSION, micros, self.id.bytes)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises BadCursorError for anything that `encode` did not make."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, micros, id_bytes = _LAYOUT.unpack(packed)
            cursor = cls(_EPOCH + micros * _MICROSECOND, UUID(bytes=id_bytes))
        except (binascii.Error, struct.error, ValueError, OverflowError) as error:
            raise BadCursorError("the cursor is not one that this API gave") from error
        if version != _VERSION or cursor.encode() != text:
            raise BadCursorError("the cursor is not one that this API gave")
        return cursor


@dataclass(frozen=True, slots=True)
class HourCursor:
    """The last hour and device of the page before: the next page starts strictly below it."""

    bucket: datetime
    device_id: str

    def encode(self) -> str:
        hours = (self.bucket - _EPOCH) // timedelta(hours=1)
        packed = _HOUR_LAYOUT.pack(_HOUR_VERSION, hours) + self.device_id.encode()
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> HourCursor:
        """Raises BadCursorError for anything that `encode` did not make."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, hours = _HOUR_LAYOUT.unpack_from(packed)
            device_id = packed[_HOUR_LAYOUT.size :].decode()
            cursor = cls(_EPOCH + hours * timedelta(hours=1), device_id)
        except (binascii.Error, struct.error, ValueError, OverflowError) as error:
            raise BadCursorError("the cursor is not one that this API gave") from error
        if version != _HOUR_VERSION or "\x00" in device_id or cursor.encode() != text:
            raise BadCursorError("the cursor is not one that this API gave")
        return cursor
