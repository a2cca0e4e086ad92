"""From the bytes of one sample message to a work for the commit queue: decoded, checked, hashed, compressed."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.core.ids import uuid7
from app.sqal import wire
from app.sqal.errors import Code, RefusalError
from app.sqal.intake import Origin, Refusal, Work
from app.sqal.reading import MAX_TEXT, read_sample
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from datetime import datetime

    from app.core.clock import Clock
    from app.sqal.codec import MessageCodec

NOBODY: Final = ""  # the lane of messages that name no device
HASH_BYTES: Final = 16
_PATH = re.compile(r" - at `\$\.?([A-Za-z0-9_.\[\]]+)`\Z")
_INDEX = re.compile(r"\[[0-9.]*\]")


def explain(error: msgspec.DecodeError | RecursionError, raw: bytes, encoding: Encoding) -> RefusalError:
    """A decoding error in our own words: which field, never what stood there."""
    if isinstance(error, msgspec.ValidationError):
        match = _PATH.search(str(error))
        field = _INDEX.sub("", match[1]).strip(".") if match else "the message"
        if field.endswith("_matrix"):
            return RefusalError(Code.INVALID_MATRIX, f"{field} must be rows of numbers")
        return RefusalError(Code.INVALID_TYPE, f"{field} has the wrong type")
    if encoding is Encoding.MSGPACK:
        return RefusalError(Code.MALFORMED_MSGPACK, "the message is not MessagePack")
    if wire.holds_not_finite(raw):
        return RefusalError(Code.NOT_FINITE, "the message holds NaN or Infinity, which JSON does not have")
    return RefusalError(Code.MALFORMED_JSON, "the message is not JSON")


class Preparer:
    """Makes works. A message that cannot be stored becomes a work too: its refusal is committed with the rest."""

    def __init__(self, codec: MessageCodec, clock: Clock) -> None:
        self._codec = codec
        self._clock = clock

    def sample(self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None) -> Work:
        """A work for a `sensor_data` message (or one element of a batch)."""
        work = self._work(raw, encoding, origin, peer)
        try:
            message = wire.decode_as("sensor_data", raw, encoding)
            if message.type != "sensor_data":
                raise RefusalError(Code.UNKNOWN_TYPE, "this message type is not known here")  # noqa: TRY301
            work.reading = read_sample(message, encoding)
        except RefusalError as refusal:
            self._refuse(work, raw, refusal)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refuse(work, raw, explain(error, raw, encoding))
        else:
            work.lane = work.reading.device_id
        return work

    def refused(self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None, refusal: RefusalError) -> Work:
        """A work for a message that was refused before it was looked at as a sample."""
        work = self._work(raw, encoding, origin, peer)
        self._refuse(work, raw, refusal)
        return work

    def stored(self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None, received_at: datetime) -> Work:
        """A work for a message from quarantine: as `sample`, at its own time, and never quarantined again."""
        work = self.sample(raw, encoding, origin, peer)
        work.received_at = received_at
        work.keep_refused = False
        return work

    def _work(self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None) -> Work:
        return Work(
            origin=origin,
            id=uuid7(),
            lane=NOBODY,
            received_at=self._clock.now(),
            queued_at=self._clock.monotonic(),
            encoding=encoding,
            peer=peer,
            size_bytes=len(raw),
            body=self._codec.compress(raw),
            content_hash=hashlib.sha256(raw).digest()[:HASH_BYTES],
        )

    def _refuse(self, work: Work, raw: bytes, refusal: RefusalError) -> None:
        ids = wire.glance_ids(raw, work.encoding)
        device_id = _clean(ids.device_id)
        work.refusal = Refusal(refusal.code, refusal.reason, device_id, _clean(ids.sample_id), _clean(ids.timestamp))
        work.lane = device_id or NOBODY


def _clean(value: Any) -> str | None:
    """A name out of a refused message, if it is text that can be stored and sent back."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() else None
