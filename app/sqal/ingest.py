"""What every device session of the process shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.core.clock import Clock
    from app.core.dependency import Dependency
    from app.core.metrics import Metrics
    from app.core.patience import Patience
    from app.sqal.admission import DeviceLimits
    from app.sqal.fleet import Fleet
    from app.sqal.intake import Intake
    from app.sqal.prepare import Preparer
    from app.sqal.recorder import SampleRecorder


@dataclass(frozen=True, slots=True)
class Ingest:
    """Where messages go, and within which bounds."""

    intake: Intake
    preparer: Preparer
    fleet: Fleet
    storage: Dependency
    clock: Clock
    recorder: SampleRecorder
    limits: DeviceLimits
    metrics: Metrics
    max_message_bytes: int
    max_batch: int
    patience: Patience

    def said_limits(self) -> dict[str, float]:
        """What a hello is answered with."""
        messages = self.limits.messages
        return {
            "max_message_bytes": self.max_message_bytes,
            "max_batch": self.max_batch,
            "messages_per_second": messages.rate.per_second,
            "messages_burst": messages.rate.burst,
            "backlog_allowance": messages.capacity - messages.rate.burst,
        }
