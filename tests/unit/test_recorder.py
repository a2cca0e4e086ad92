"""What became of samples: the 5-minute window against a model of it, and the gauges made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.metrics import Metrics
from app.sqal.errors import Code
from app.sqal.flags import Flag
from app.sqal.intake import Verdict, Work
from app.sqal.recorder import SLOT_S, WINDOW_S, RecentQuality, SampleRecorder
from app.sqal.store import Written
from app.sqal.wire import Encoding

RATES = ("conformity_rate_percent", "reject_rate_percent", "average_quality_score", "samples_throughput_per_second")


@dataclass
class ManualClock:
    now_s: float = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return datetime(2026, 2, 2, tzinfo=UTC)


class Nobody:
    """Verdicts reach nobody."""

    def deliver(self, work: Work, verdict: Verdict) -> None: ...


def sample_work(queued_at: float) -> Work:
    return Work(Nobody(), UUID(int=0), "D1", datetime(2026, 2, 2, tzinfo=UTC), queued_at, Encoding.JSON, None, 2)


SITES = ("LL", "LS", "other", "unknown")


@dataclass
class Bench:
    """A recorder on a clock that is moved by hand."""

    clock: ManualClock = field(default_factory=ManualClock)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.recorder = SampleRecorder(self.metrics, self.clock, ("LL", "LS"))

    def commit(
        self, grade: str, score: float | None = None, *, flags: int = 0, waited_s: float = 0.0, site: str | None = "LL"
    ) -> None:
        work = sample_work(self.clock.now_s - waited_s)
        row: dict[str, Any] = {
            "grade": grade,
            "flags": flags,
            "site_code": site,
            "score": None if score is None else round(score * 1e6),
        }
        self.recorder.note([work], Written([Verdict("saved")], [row], []))

    def shown(self) -> dict[str, float]:
        """The business gauges of a scrape; what is absent is not there."""
        lines = self.metrics.registry.render().decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line.startswith(RATES)]
        return {name: float(value) for name, value in pairs}

    def value(self, series: str) -> float:
        lines = self.metrics.registry.render().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} "))


@dataclass(frozen=True)
class Sample:
    """One committed sample, `after_s` the one before."""

    after_s: float
    score: float | None
    rejected: bool


SAMPLES = st.lists(
    st.builds(Sample, st.floats(0, 400), st.one_of(st.none(), st.floats(0, 1)), st.booleans()), max_size=40
)


@given(st.floats(0, 1e6), SAMPLES, st.floats(0, 700))
def test_the_window_holds_exactly_its_last_five_minutes(began_s: float, came: list[Sample], later_s: float) -> None:
    recent, now_s = RecentQuality(), began_s
    known: list[tuple[float, Sample]] = []
    for sample in came:
        now_s += sample.after_s
        scores = [] if sample.score is None else [sample.score]
        recent.note(now_s, 1, scores, rejected=sample.rejected)
        known.append((now_s, sample))
    now_s += later_s
    oldest = now_s // SLOT_S - WINDOW_S // SLOT_S
    inside = [sample for moment, sample in known if moment // SLOT_S > oldest]
    graded = [sample for sample in inside if sample.score is not None]
    read = recent.read(now_s)
    assert (read.samples, read.graded) == (len(inside), len(graded))
    assert read.rejected == sum(sample.rejected for sample in graded)
    assert read.score_sum == pytest.approx(sum(sample.score or 0.0 for sample in graded))


def test_before_the_first_sample_there_is_no_rate_and_no_average() -> None:
    bench = Bench()
    assert bench.shown() == {}
    bench.clock.now_s += 1_000
    assert bench.shown() == {}


def test_rates_and_averages_are_of_the_graded_samples() -> None:
    bench = Bench()
    bench.clock.now_s += 10
    bench.commit("A+", 0.9)
    assert bench.shown() == {
        "conformity_rate_percent": 100,
        "reject_rate_percent": 0,
        "average_quality_score": 0.9,
        "samples_throughput_per_second": 0.1,
    }
    bench.commit("REJECT", 0.3)
    bench.commit("NOT_GRADABLE")
    assert bench.shown() == {
        "conformity_rate_percent": 50,
        "reject_rate_percent": 50,
        "average_quality_score": pytest.approx(0.6),
        "samples_throughput_per_second": 0.3,
    }


def test_only_what_could_not_be_graded_makes_a_rate_of_samples_alone() -> None:
    bench = Bench()
    bench.commit("NOT_GRADABLE")
    assert bench.shown() == {"samples_throughput_per_second": 1.0}


def test_after_five_quiet_minutes_the_gauges_are_absent_again() -> None:
    bench = Bench()
    bench.commit("A", 0.8)
    bench.clock.now_s += WINDOW_S - SLOT_S
    assert bench.shown()["average_quality_score"] == pytest.approx(0.8)
    assert bench.shown()["samples_throughput_per_second"] == pytest.approx(1 / (WINDOW_S - SLOT_S))
    bench.clock.now_s += SLOT_S
    assert bench.shown() == {}


def test_the_throughput_of_a_long_life_is_that_of_the_window() -> None:
    bench = Bench()
    bench.clock.now_s += 10_000
    for _ in range(30):
        bench.commit("A", 0.8)
    assert bench.shown()["samples_throughput_per_second"] == pytest.approx(0.1)


def test_a_commit_counts_by_grade_with_its_score_and_its_time() -> None:
    bench = Bench()
    for _ in range(2):
        bench.commit("B", 0.71, waited_s=0.25)
    bench.commit("NOT_GRADABLE", flags=int(Flag.CLAIM_DISAGREES))
    assert bench.value('samples_committed_total{grade="B"}') == 2
    assert bench.value('sample_quality_score_count{grade="B"}') == 2
    assert bench.value('sample_quality_score_sum{grade="B"}') == pytest.approx(1.42)
    assert bench.value('samples_committed_total{grade="NOT_GRADABLE"}') == 1
    assert 'sample_quality_score_count{grade="NOT_GRADABLE"}' not in bench.metrics.registry.render().decode()
    assert bench.value("sample_processing_duration_seconds_count") == 3
    assert bench.value("sample_processing_duration_seconds_sum") == pytest.approx(0.5)
    assert bench.value("sample_claims_disagree_total") == 1


def test_a_refused_message_of_a_group_is_no_processed_sample() -> None:
    bench = Bench()
    work = sample_work(bench.clock.now_s)
    bench.recorder.note([work], Written([Verdict("error", code=Code.MISSING_FIELD)], [], []))
    assert bench.value("sample_processing_duration_seconds_count") == 0


def test_every_code_and_grade_is_there_at_zero_before_it_is_met() -> None:
    bench = Bench()
    for code in Code:
        assert bench.value(f'samples_refused_total{{code="{code}"}}') == 0
    for grade in ("A+", "A", "B", "C", "REJECT"):
        assert bench.value(f'samples_committed_total{{grade="{grade}"}}') == 0
        assert bench.value(f'sample_quality_score_count{{grade="{grade}"}}') == 0


def test_the_receipt_tells_what_became_of_everything() -> None:
    bench = Bench()
    bench.recorder.received(5)
    bench.commit("A", 0.8)
    bench.commit("B", 0.7)
    for verdict in (Verdict("saved"), Verdict("saved"), Verdict("duplicate"), Verdict("error", code=Code.BUSY)):
        bench.recorder.judged(replace(sample_work(0), committed=True), verdict)
    bench.recorder.acknowledged("saved", 2)
    bench.recorder.acknowledged("duplicate")
    assert bench.recorder.receipt() == {
        "received": 5,
        "committed": 2,
        "acked": 3,
        "duplicates": 1,
        "refused": 1,
        "in_hand": 1,
        "lost_acked": 0,
    }
    bench.recorder.acknowledged("saved")
    assert bench.recorder.receipt()["lost_acked"] == 1


def test_samples_are_counted_by_site_and_sites_that_are_not_configured_are_one() -> None:
    bench = Bench()
    for site, score in (("LL", 0.5), ("LL", 0.25), ("XX", 1.0), ("YY", 1.0), (None, 0.125)):
        bench.commit("A", score, site=site)
    bench.commit("NOT_GRADABLE", site="LL")
    counted = {site: bench.value(f'site_samples_committed_total{{site="{site}",grade="A"}}') for site in SITES}
    assert counted == {"LL": 2, "LS": 0, "other": 2, "unknown": 1}
    assert bench.value('site_samples_committed_total{site="LL",grade="NOT_GRADABLE"}') == 1
    assert [bench.value(f'site_sample_scores_total{{site="{site}"}}') for site in SITES] == [0.75, 0, 2, 0.125]


def test_a_refused_message_that_is_kept_is_counted_as_quarantined() -> None:
    bench = Bench()
    kept, dropped = sample_work(0), replace(sample_work(0), keep_refused=False)
    refused = Verdict("error", code=Code.OUT_OF_RANGE)
    bench.recorder.note([kept, dropped], Written([refused, refused], [], []))
    assert bench.value('quarantined_messages_total{code="out_of_range"}') == 1


def test_an_ack_that_no_commit_covers_is_counted_and_told_in_the_receipt() -> None:
    bench = Bench()
    bench.commit("A", 0.5)
    bench.commit("A", 0.5)
    bench.recorder.judged(replace(sample_work(0), committed=True), Verdict("saved"))
    bench.recorder.judged(sample_work(0), Verdict("error", code=Code.BUSY))
    assert (bench.value("acks_uncommitted_total"), bench.recorder.receipt()["lost_acked"]) == (0, 0)
    bench.recorder.judged(sample_work(0), Verdict("saved"))
    assert (bench.value("acks_uncommitted_total"), bench.recorder.receipt()["lost_acked"]) == (1, 1)
