"""From the bytes of one sample message to a work for the commit queue: decoded, checked, packed."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.core.ids import uuid7
from app.core.logging import get_logger
from app.sqal import wire
from app.sqal.errors import Code, RefusalError
from app.sqal.intake import Origin, Refusal, Work
from app.sqal.reading import MAX_TEXT, Draft, finish_drafts, read_sample
from app.sqal.wire import Encoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.core.clock import Clock

NOBODY: Final = ""  # the lane of messages that name no device
TOGETHER: Final = 32
log = get_logger("gaveurs.prepare")
_PATH = re.compile(r" - at `\$\.?([A-Za-z0-9_.\[\]]+)`\Z")
_INDEX = re.compile(r"\[[0-9.]*\]")


def explain(error: msgspec.DecodeError | RecursionError, raw: bytes, encoding: Encoding) -> RefusalError:
    """A decoding error in our own words: which field, never what stood there."""
    if isinstance(error, msgspec.ValidationError) and "out of range" not in str(error):
        match = _PATH.search(str(error))
        field = _INDEX.sub("", match[1]).strip(".") if match else "the message"
        if field.endswith("_matrix"):
            return RefusalError(Code.INVALID_MATRIX, f"{field} must be rows of numbers")
        return RefusalError(Code.INVALID_TYPE, f"{field} has the wrong type")
    if encoding is Encoding.MSGPACK:
        return RefusalError(Code.MALFORMED_MSGPACK, "the message is not MessagePack")
    if wire.holds_not_finite(raw) or isinstance(error, msgspec.ValidationError):
        return RefusalError(Code.NOT_FINITE, "the message holds NaN, Infinity, or a number beyond all bounds")
    return RefusalError(Code.MALFORMED_JSON, "the message is not JSON, or nested too deep")


class Preparer:
    """Makes works of messages and prepares them in groups: each step over all of them, while its code and tables are
    in the cache, costs half of all steps over each.

    A message that cannot be stored is a work too: its refusal is committed (to quarantine) with the rest.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fresh: list[Work] = []

    def sample(
        self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None, refusal: RefusalError | None = None
    ) -> Work:
        """A work for a `sensor_data` message (or an element of a batch), or for one that was refused at first sight."""
        lane = wire.glance_device(raw)
        work = Work(
            origin, uuid7(), lane, self._clock.now(), self._clock.monotonic(), encoding, peer, len(raw), raw=raw
        )
        if refusal is not None:
            self._refuse(work, refusal)
        return work

    def stored(self, raw: bytes, encoding: Encoding, origin: Origin, peer: str | None, received_at: datetime) -> Work:
        """A work for a message from quarantine: prepared, at its own time, and never quarantined again."""
        work = self.sample(raw, encoding, origin, peer)
        work.received_at = received_at
        work.keep_refused = False
        self.prepare([work])
        return work

    def prepare_soon(self, work: Work) -> None:
        """Prepare with whatever else this turn of the event loop receives: together, and while it is in the cache."""
        self._fresh.append(work)
        if len(self._fresh) >= TOGETHER:
            self._prepare_fresh()
        elif len(self._fresh) == 1:
            asyncio.get_running_loop().call_soon(self._prepare_fresh)

    def _prepare_fresh(self) -> None:
        works, self._fresh = self._fresh, []
        self.prepare(works)

    def prepare(self, works: Sequence[Work]) -> None:
        """Decode, check and pack; sets each work's reading or refusal. Works already prepared stay."""
        fresh = [work for work in works if work.reading is None and work.refusal is None]
        drafts = [(work, draft) for work in fresh if (draft := self._draft(work)) is not None]
        for (work, draft), refusal in zip(drafts, finish_drafts([draft for _, draft in drafts]), strict=True):
            if refusal is None:
                work.reading = draft.reading
                work.lane = draft.reading.device_id
            else:
                self._refuse(work, refusal)

    def _draft(self, work: Work) -> Draft | None:
        try:
            message = wire.decode_as("sensor_data", work.raw, work.encoding)
            if message.type != "sensor_data":
                raise RefusalError(Code.UNKNOWN_TYPE, "this message type is not known here")  # noqa: TRY301
            return read_sample(message, work.encoding)
        except RefusalError as refusal:
            self._refuse(work, refusal)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refuse(work, explain(error, work.raw, work.encoding))
        except Exception:  # a defect that one message brings to light must not cost the others of its group anything
            log.exception("a message could not be prepared", device_id=work.lane)
            self._refuse(work, RefusalError(Code.NOT_STORABLE, "the message cannot be stored"))
        return None

    def _refuse(self, work: Work, refusal: RefusalError) -> None:
        ids = wire.glance_ids(work.raw, work.encoding)
        device_id = _clean(ids.device_id)
        work.refusal = Refusal(refusal.code, refusal.reason, device_id, _clean(ids.sample_id), _clean(ids.timestamp))
        work.lane = device_id or NOBODY


def names_of(work: Work) -> tuple[str | None, str | None]:
    """(sample id, timestamp) of a work in any state, as its sender wrote them; None for what cannot be read."""
    named = work.reading or work.refusal
    if named is not None:
        return named.sample_id, named.timestamp
    ids = wire.glance_ids(work.raw, work.encoding)  # answered before its turn to be prepared came
    return _clean(ids.sample_id), _clean(ids.timestamp)


def _clean(value: Any) -> str | None:
    """A name out of a refused message, if it is text that can be stored and sent back."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() else None
