"""The live feed: what was committed, as a bounded log that each dashboard reads at its own pace.

One log for all: a commit costs the same with no dashboard and with a hundred. A message is encoded once, when the
first of them takes it. A reader that falls behind gets the newest of each device instead of all that it missed. The
feed measures what sending costs, and takes no more than a small share of the process for it: beyond that all readers
come round less often, and conflate more.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.core.clock import iso
from app.core.server import TextMessage
from app.sqal.queries import as_item
from app.sqal.reading import GRADES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from app.core.clock import Clock

LOG_ENTRIES: Final = 256
DEVICES: Final = 4_096  # whose newest sample is remembered; the longest silent goes first
ALERTS: Final = 256
LATEST_OF: Final = 512  # devices heard of last, among which the latest sample is looked for
SHARE: Final = 0.03  # of the process, for sending
ROUND_S: Final = 0.1
LONGEST_ROUND_S: Final = 2.0
SAMPLE: Final = "sensor_update"
ALERT: Final = "alert"
RANKS: Final = {grade: rank for rank, grade in enumerate(reversed(GRADES))}


class _Names(msgspec.Struct, gc=False):
    """What filters and conflation need of a message that another process encoded."""

    device_id: str | None = None
    site_code: str | None = None
    grade: str | None = None
    bucket_time: datetime | None = None
    devices: list[str] = []


class _Message(msgspec.Struct, gc=False):
    type: str
    data: _Names


@dataclass(slots=True, eq=False)
class Entry:
    """One message of the feed."""

    number: int
    kind: str
    device_id: str | None
    site_code: str | None
    grade: str | None
    bucket_time: datetime | None
    at: datetime
    data: Mapping[str, Any] | None
    devices: Sequence[str] = ()
    """Whom an alert lists."""
    remote: bool = False
    """Committed by another process."""
    _message: TextMessage | None = None

    @property
    def message(self) -> TextMessage:
        """As JSON text."""
        if self._message is None:
            data = as_item(self.data) if self.kind == SAMPLE and self.data else self.data
            encoded = msgspec.json.encode({"type": self.kind, "timestamp": iso(self.at), "data": data})
            self._message = TextMessage(encoded)
        return self._message


@dataclass(frozen=True, slots=True)
class LiveFilter:
    """Which messages a dashboard wants; None does not narrow. `min_grade` is about samples alone; what could not be
    graded has no grade to reach it.
    """

    device_id: str | None = None
    site_code: str | None = None
    min_grade: str | None = None

    def wants(self, entry: Entry) -> bool:
        if self.device_id is not None and self.device_id != entry.device_id and self.device_id not in entry.devices:
            return False
        if entry.kind != SAMPLE:  # an alert without a site concerns all of them
            return self.site_code is None or entry.site_code in (None, self.site_code)
        if self.site_code is not None and entry.site_code != self.site_code:
            return False
        if self.min_grade is None:
            return True
        return RANKS.get(entry.grade or "", -1) >= RANKS[self.min_grade]


EVERYTHING: Final = LiveFilter()


class LiveFeed:
    """Bounded in entries, devices and alerts; `run` wakes readers, no more often than their cost allows."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = 0
        self._log: deque[Entry] = deque(maxlen=LOG_ENTRIES)
        self._newest: OrderedDict[str, Entry] = OrderedDict()
        self._alerts: deque[Entry] = deque(maxlen=ALERTS)
        self._readers: set[Reader] = set()
        self._news = asyncio.Event()
        self._spent_s = 0.0

    @property
    def number(self) -> int:
        """Of the newest entry."""
        return self._number

    def note(self, samples: Iterable[Mapping[str, Any]] = (), alerts: Iterable[Mapping[str, Any]] = ()) -> None:
        """Rows of `samples` and alerts that this process has committed, in the order of their commit."""
        at = self._clock.now()
        for row in samples:
            entry = Entry(0, SAMPLE, row["device_id"], row["site_code"], row["grade"], row["bucket_time"], at, row)
            self._append(entry)
        for alert in alerts:
            self._append(
                Entry(0, ALERT, alert["device_id"], alert["site_code"], None, None, at, alert, alert["devices"])
            )

    def note_remote(self, payload: bytes) -> None:
        """A message that another process committed and encoded. Raises msgspec.DecodeError for what is none."""
        message = _DECODER.decode(payload)
        names = message.data
        self._append(
            Entry(
                0, message.type, names.device_id, names.site_code, names.grade, names.bucket_time, self._clock.now(),
                None, names.devices, remote=True, _message=TextMessage(payload),
            )
        )  # fmt: skip

    def _append(self, entry: Entry) -> None:
        self._number += 1
        entry.number = self._number
        self._log.append(entry)
        if entry.kind == ALERT:
            self._alerts.append(entry)
        elif entry.device_id is not None:
            held = self._newest.get(entry.device_id)
            # A replay that comes in now does not become the device's newest state.
            if held is None or _is_newer(entry, held):
                self._newest[entry.device_id] = entry
                self._newest.move_to_end(entry.device_id)
                if len(self._newest) > DEVICES:
                    self._newest.popitem(last=False)
        self._news.set()

    def since(self, number: int) -> tuple[list[Entry], bool]:
        """What came after `number`, in order, and whether that is all; if not, it is the newest of each device, and
        the alerts.
        """
        missed = self._number - number
        if missed <= len(self._log):
            return [self._log[at] for at in range(len(self._log) - missed, len(self._log))], True
        newest = [entry for entry in self._newest.values() if entry.number > number]
        alerts = [entry for entry in self._alerts if entry.number > number]
        return sorted([*newest, *alerts], key=lambda entry: entry.number), False

    def latest(self, wanted: LiveFilter = EVERYTHING) -> Entry | None:
        """The newest sample that is wanted, of the devices heard of last."""
        recent = islice(reversed(self._newest.values()), LATEST_OF)
        return next((entry for entry in recent if wanted.wants(entry)), None)

    def subscribe(self, wake: Callable[[], None]) -> Reader:
        """A reader of everything from now on; `wake` is called when there is something to take. Close it."""
        reader = Reader(self, wake, self._number)
        self._readers.add(reader)
        self._news.set()
        return reader

    def unsubscribe(self, reader: Reader) -> None:
        self._readers.discard(reader)

    def spend(self, seconds: float) -> None:
        """What some reader's sending took."""
        self._spent_s += seconds

    async def run(self) -> None:
        """Wake the readers in rounds; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            began = time.perf_counter()
            self._spent_s = 0.0
            for reader in self._readers:
                if reader.waits:
                    reader.wake()
            await asyncio.sleep(ROUND_S)
            while (rest_s := self._spent_s / SHARE - (time.perf_counter() - began)) > 0:
                await asyncio.sleep(min(rest_s, LONGEST_ROUND_S))
                if time.perf_counter() - began > LONGEST_ROUND_S:
                    break


@dataclass(slots=True, eq=False)
class Reader:
    """One place in the feed."""

    feed: LiveFeed
    wake: Callable[[], None]
    position: int
    wanted: LiveFilter | None = field(default=EVERYTHING)
    """None: nothing."""

    @property
    def waits(self) -> bool:
        return self.position < self.feed.number

    def take(self) -> tuple[list[Entry], bool]:
        """What is new and wanted, and whether that is all of it."""
        entries, complete = self.feed.since(self.position)
        self.position = self.feed.number
        wanted = self.wanted
        if wanted is None:
            return [], True
        return [entry for entry in entries if wanted.wants(entry)], complete

    def close(self) -> None:
        self.feed.unsubscribe(self)


def _is_newer(entry: Entry, held: Entry) -> bool:
    if entry.bucket_time is None or held.bucket_time is None:
        return held.bucket_time is None
    return entry.bucket_time >= held.bucket_time


_DECODER: Final = msgspec.json.Decoder(_Message)
