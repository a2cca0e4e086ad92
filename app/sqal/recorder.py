"""What became of samples, counted where it happens: the metrics about them, and the receipt of a shutdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.sqal.errors import Code
from app.sqal.flags import Flag
from app.sqal.frame import MICRO
from app.sqal.reading import GRADES, NOT_GRADABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.clock import Clock
    from app.core.metrics import Metrics
    from app.sqal.intake import Verdict, Work
    from app.sqal.store import Written

WINDOW_S: Final = 300
SLOT_S: Final = 5
REJECT: Final = "REJECT"
NO_SITE: Final = "unknown"
OTHER_SITE: Final = "other"
_DISAGREES: Final = int(Flag.CLAIM_DISAGREES)


@dataclass(slots=True)
class _Slot:
    number: int = -1
    samples: int = 0
    graded: int = 0
    rejected: int = 0
    score_sum: float = 0.0


class RecentQuality:
    """Counts of the last 5 minutes, in slots of 5 s on a monotonic clock given by the caller."""

    def __init__(self) -> None:
        self._slots = [_Slot() for _ in range(WINDOW_S // SLOT_S)]

    def note(self, now_s: float, samples: int, scores: Sequence[float] = (), *, rejected: bool = False) -> None:
        """Committed samples: `scores` (0..1) of those that could be graded, all of them rejected or none."""
        number = int(now_s // SLOT_S)
        slot = self._slots[number % len(self._slots)]
        if slot.number != number:
            slot.number, slot.samples, slot.graded, slot.rejected, slot.score_sum = number, 0, 0, 0, 0.0
        slot.samples += samples
        slot.graded += len(scores)
        slot.rejected += len(scores) if rejected else 0
        slot.score_sum += sum(scores)

    def read(self, now_s: float) -> _Slot:
        """The sums of the window that ends now."""
        newest = int(now_s // SLOT_S)
        total = _Slot(newest)
        for slot in self._slots:
            if newest - len(self._slots) < slot.number <= newest:
                total.samples += slot.samples
                total.graded += slot.graded
                total.rejected += slot.rejected
                total.score_sum += slot.score_sum
        return total


class SampleRecorder:
    """One for the process. `lost_acked` of its receipt is what must stay 0: acknowledged but not committed."""

    def __init__(self, metrics: Metrics, clock: Clock, sites: Sequence[str]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._sites = frozenset(sites)
        self._began_s = clock.monotonic()
        self._recent = RecentQuality()
        self._verdicts = 0
        metrics.sample_quality.prepare((grade,) for grade in GRADES)
        metrics.samples_committed.prepare((grade,) for grade in (*GRADES, NOT_GRADABLE))
        metrics.samples_refused.prepare((str(code),) for code in Code)
        metrics.quarantined.prepare((str(code),) for code in Code)
        metrics.site_samples.prepare((site, grade) for site in sites for grade in (*GRADES, NOT_GRADABLE))
        metrics.site_scores.prepare((site,) for site in sites)
        metrics.registry.before_scrape(self._report)

    def received(self, number: int = 1) -> None:
        """Sample messages were read from a socket."""
        self._metrics.samples_received.labels().inc(number)

    def over_limit(self) -> None:
        """A sample message is answered busy since its device is over its own limit."""
        self._metrics.over_limit.labels().inc()

    def judged(self, work: Work, verdict: Verdict) -> None:
        """A sample message of a socket got its verdict."""
        self._verdicts += 1
        if verdict.code is None and not work.committed:
            self._metrics.acks_uncommitted.labels().inc()
        if verdict.code is not None:
            self._metrics.samples_refused.labels(str(verdict.code)).inc()

    def acknowledged(self, status: str, number: int = 1) -> None:
        """Acks were handed to an open socket."""
        self._metrics.acks_sent.labels(status).inc(number)

    def note(self, group: Sequence[Work], written: Written) -> None:
        """A group was committed."""
        m, now_s = self._metrics, self._clock.monotonic()
        processing = m.sample_processing.labels()
        for work, verdict in zip(group, written.verdicts, strict=True):
            if verdict.code is None:
                processing.observe(now_s - work.queued_at)
            elif work.keep_refused:
                m.quarantined.labels(str(verdict.code)).inc()
        by_grade: dict[str, list[float]] = {}
        disagreeing = 0
        for row in written.samples:
            by_grade.setdefault(row["grade"], []).append((row["score"] or 0) / MICRO)
            disagreeing += row["flags"] & _DISAGREES != 0
        m.claims_disagree.labels().inc(disagreeing)
        self._note_sites(written.samples)
        for grade, scores in by_grade.items():
            m.samples_committed.labels(grade).inc(len(scores))
            if grade == NOT_GRADABLE:
                self._recent.note(now_s, len(scores))
                continue
            quality = m.sample_quality.labels(grade)
            for score in scores:
                quality.observe(score)
            self._recent.note(now_s, len(scores), scores, rejected=grade == REJECT)

    def _note_sites(self, samples: Sequence[dict[str, Any]]) -> None:
        """Sites that are not configured are one: whoever sends may invent them."""
        for row in samples:
            site, grade = row["site_code"] or NO_SITE, row["grade"]
            known = site if site in self._sites or site == NO_SITE else OTHER_SITE
            self._metrics.site_samples.labels(known, grade).inc()
            if grade != NOT_GRADABLE:
                self._metrics.site_scores.labels(known).inc((row["score"] or 0) / MICRO)

    def receipt(self) -> dict[str, Any]:
        """Everything that was received from sockets since the start, and what became of it."""
        m = self._metrics
        received = int(m.samples_received.labels().value)
        committed = int(sum(series.value for _, series in m.samples_committed.items()))
        acked = {status: int(m.acks_sent.labels(status).value) for status in ("saved", "duplicate")}
        return {
            "received": received,
            "committed": committed,
            "acked": acked["saved"] + acked["duplicate"],
            "duplicates": acked["duplicate"],
            "refused": int(sum(series.value for _, series in m.samples_refused.items())),
            "in_hand": received - self._verdicts,
            "lost_acked": max(int(m.acks_uncommitted.labels().value), acked["saved"] - committed),
        }

    def _report(self) -> None:
        m, now_s = self._metrics, self._clock.monotonic()
        recent = self._recent.read(now_s)
        graded = recent.graded or None
        m.conformity_rate.labels().set(graded and 100 * (recent.graded - recent.rejected) / graded)
        m.reject_rate.labels().set(graded and 100 * recent.rejected / graded)
        m.average_score.labels().set(graded and recent.score_sum / graded)
        covered_s = min(WINDOW_S, max(1.0, now_s - self._began_s))
        m.throughput.labels().set(recent.samples / covered_s if recent.samples else None)
