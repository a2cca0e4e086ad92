"""The client's own record of what it sent and what was acknowledged: what the database is held against."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from pathlib import Path

Identity = tuple[str, str, str]
"""(device_id, timestamp, sample_id)"""


LATENCIES: Final = 100_000


@dataclass(slots=True)
class Journal:
    """Counts by distinct sample, and, when it remembers, every acknowledged identity with its status.

    With a file, each ack is a line in it before it is counted. Without remembering, its size is bounded.
    """

    path: Path | None = None
    remember: bool = True
    made: int = 0
    sent: int = 0
    transmissions: int = 0
    acked: int = 0
    duplicates: int = 0
    refused: int = 0
    under_way: int = 0
    """Sent and without an answer at this moment, over all devices."""
    dropped: int = 0
    busy: int = 0
    slow_downs: int = 0
    reconnections: int = 0
    acks: dict[Identity, str] = field(default_factory=dict)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    _file: TextIO | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            self._file = self.path.open("a", buffering=1)

    def note_sent(self, *, first: bool) -> None:
        self.sent += first
        self.transmissions += 1

    def note_ack(self, identity: Identity, status: str, latency_s: float) -> None:
        """`duplicates` counts answers that told of an earlier, committed copy."""
        if self._file is not None:
            record = dict(zip(("device_id", "timestamp", "sample_id", "status"), (*identity, status), strict=True))
            self._file.write(json.dumps(record) + "\n")
        if self.remember:
            self.acks[identity] = status
        self.acked += 1
        self.duplicates += status == "duplicate"
        self.latencies_s.append(latency_s)

    @property
    def unacknowledged(self) -> int:
        """Measured but without a verdict, those pushed out of a full buffer included."""
        return self.made - self.acked - self.refused

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def summary(self) -> str:
        """What `gaveurs simulate` prints at its end."""
        names = ("sent", "acked", "duplicates", "unacknowledged", "refused", "dropped")
        more = ("transmissions", "busy", "slow_downs", "reconnections")
        figures = [f"{name}: {getattr(self, name)}" for name in (*names, *more)]
        ordered = sorted(self.latencies_s)
        if ordered:
            figures += [
                f"ack_p{share}_ms: {ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1_000:.1f}"
                for share in (50, 99)
            ]
        return "\n".join(figures)
