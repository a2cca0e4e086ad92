"""One `sensor_batch` on its way to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from app.sqal import answers
from app.sqal.prepare import names_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sqal.intake import Verdict, Work


class Batch:
    """Collects the verdicts of `size` works. Each is told to `on_verdict`; when the last is in, `on_complete` gets them
    in input order.
    """

    def __init__(
        self,
        size: int,
        on_verdict: Callable[[Work, Verdict], None],
        on_complete: Callable[[list[tuple[Work, Verdict]]], None],
    ) -> None:
        self._size = size
        self._on_verdict = on_verdict
        self._on_complete = on_complete
        self._order: list[Work] = []
        self._verdicts: dict[int, Verdict] = {}

    def add(self, work: Work) -> None:
        self._order.append(work)

    def deliver(self, work: Work, verdict: Verdict) -> None:
        self._on_verdict(work, verdict)
        self._verdicts[id(work)] = verdict
        if len(self._verdicts) == self._size:
            self._on_complete([(work, self._verdicts[id(work)]) for work in self._order])


def batch_ack(results: list[tuple[Work, Verdict]]) -> answers.BatchAck:
    """One answer for all, in input order."""
    retry_ms = max((verdict.retry_after_ms or 0 for _, verdict in results), default=0)
    return answers.BatchAck([_result(work, verdict) for work, verdict in results], retry_ms or msgspec.UNSET)


def _result(work: Work, verdict: Verdict) -> dict[str, Any]:
    sample_id, timestamp = names_of(work)
    result: dict[str, Any] = {"sample_id": sample_id, "timestamp": timestamp, "status": verdict.status}
    if verdict.code is not None:
        result |= {"code": str(verdict.code), "error": verdict.reason}
    else:
        result |= {"fusion_score": verdict.score, "fusion_grade": verdict.grade}
    return result
