"""The bounded queue between sockets and the database: fair per device, emptied in commit groups."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from app.sqal.errors import Code
    from app.sqal.reading import Reading
    from app.sqal.wire import Encoding

OVERHEAD_BYTES: Final = 1_024  # of a work's Python objects, beside its bodies
HIGH_WATER: Final = 0.8
LANE_SHARE: Final = 4  # one device may hold at most a quarter of the queue


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one sample message. `status` is saved, duplicate or error; scores in 0..1."""

    status: str
    score: float | None = None
    grade: str | None = None
    code: Code | None = None
    reason: str | None = None
    retry_after_ms: int | None = None


class Origin(Protocol):
    """Whoever handed a work in: told its verdict exactly once."""

    def deliver(self, work: Work, verdict: Verdict) -> None: ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message was refused, and whom it named; any of the names may be unknown."""

    code: Code
    reason: str
    device_id: str | None
    sample_id: str | None
    timestamp: str | None


@dataclass(slots=True, eq=False)
class Work:
    """One sample message on its way to its verdict: once prepared, either `reading` or `refusal` is set."""

    origin: Origin
    id: UUID
    lane: str
    received_at: datetime
    queued_at: float
    encoding: Encoding
    peer: str | None
    size_bytes: int
    raw: bytes = b""
    """The message as it came."""
    content_hash: bytes = b""
    reading: Reading | None = None
    refusal: Refusal | None = None
    keep_refused: bool = True
    """Whether a refusal goes to quarantine; a replay from there does not go back."""
    position: int = 0
    """Which sample message of its connection this is, from 1; 0 inside a batch."""
    answered: bool = False
    committed: bool = False
    """Set once the transaction that holds it, or found it stored already, has been committed."""

    def answer(self, verdict: Verdict) -> None:
        """Tell the origin, once: a second verdict for the same work is dropped."""
        if not self.answered:
            self.answered = True
            self.origin.deliver(self, verdict)

    @property
    def cost(self) -> int:
        """Bytes that this work holds in memory, nearly."""
        return OVERHEAD_BYTES + self.size_bytes


class Intake:
    """Works waiting for their commit, at most `max_rows` and `max_bytes`, one lane a device.

    `offer` never waits; `take_group` serves the lanes in turn, so that a device with a long backlog delays nobody
    but itself. A lane holds at most a quarter of the queue.
    """

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_lane = max(1, max_rows // LANE_SHARE)
        self._lanes: dict[str, deque[Work]] = {}
        self._turns: deque[str] = deque()
        self._rows = 0
        self._bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._closed = False

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def nearly_full(self) -> bool:
        return self._rows >= HIGH_WATER * self._max_rows or self._bytes >= HIGH_WATER * self._max_bytes

    def offer(self, work: Work) -> bool:
        """Queue `work`, or return False when there is no room for it."""
        lane = self._lanes.get(work.lane)
        if self._closed or self._rows >= self._max_rows or self._bytes + work.cost > self._max_bytes:
            return False
        if lane is None:
            lane = self._lanes[work.lane] = deque()
            self._turns.append(work.lane)
        elif len(lane) >= self._max_lane:
            return False
        lane.append(work)
        self._rows += 1
        self._bytes += work.cost
        self._filled.set()
        return True

    async def offer_within(self, work: Work, seconds: float) -> bool:
        """`offer`, waiting at most `seconds` for room: a short pause of one socket, not a refusal."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.offer(work):
                    if self._closed:
                        return False
                    self._emptied.clear()
                    await self._emptied.wait()
                return True
        return False

    async def take_group(self, max_rows: int, max_bytes: int, linger_s: float) -> list[Work]:
        """The next group, in turn over the lanes; waits for the first work, then at most `linger_s` for company.

        Empty only when the intake was closed and nothing is left.
        """
        while True:
            while not self._rows:
                if self._closed:
                    return []
                self._filled.clear()
                await self._filled.wait()
            if linger_s > 0 and self._rows < max_rows and self._bytes < max_bytes and not self._closed:
                await asyncio.sleep(linger_s)
            if group := self._take(max_rows, max_bytes):  # another writer may have taken all while this one lingered
                return group

    def _take(self, max_rows: int, max_bytes: int) -> list[Work]:
        group: list[Work] = []
        taken = 0
        while self._turns and len(group) < max_rows:
            name = self._turns[0]
            lane = self._lanes[name]
            cost = lane[0].cost
            if group and taken + cost > max_bytes:
                break
            group.append(lane.popleft())
            taken += cost
            self._turns.popleft()
            if lane:
                self._turns.append(name)
            else:
                del self._lanes[name]
        self._rows -= len(group)
        self._bytes -= taken
        self._emptied.set()
        return group

    def close(self) -> None:
        """Refuse everything from now on; what is queued can still be taken."""
        self._closed = True
        self._filled.set()
        self._emptied.set()
