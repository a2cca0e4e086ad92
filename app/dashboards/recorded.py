"""What the recording rules of deploy/prometheus/rules make, as far as panels show it.

A test holds these against the rules: what the alerts watch and what is shown is one thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from app.dashboards.promql import JOB, Query

SLO_LABELS: Final = frozenset({"job", "slo"})
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded series and its labels."""

    name: str
    labels: frozenset[str]

    def now(self) -> Query:
        return Query(f'{self.name}{{job="{JOB}"}}', self.labels)

    def over_time(self, how: Literal["avg", "sum"], window: str) -> Query:
        return Query(f'{how}_over_time({self.name}{{job="{JOB}"}}[{window}])', self.labels)


FAILED_RATIO: Final = Recorded("job:http_requests_failed:ratio_rate5m", frozenset({"job"}))
LATENCY_P99: Final = Recorded("job:http_request_duration_seconds:p99", frozenset({"job"}))
CACHE_HITS: Final = Recorded("job:cache_hits:ratio_rate5m", frozenset({"job"}))
STATEMENTS_P95: Final = Recorded("job:db_query_duration_seconds:p95", frozenset({"job"}))
COMMIT_P99: Final = Recorded("job:sample_processing_duration_seconds:p99", frozenset({"job"}))
BUSY: Final = Recorded("job:samples_busy:rate5m", frozenset({"job"}))
BUDGET: Final = Recorded("slo:error_budget:ratio", SLO_LABELS)
EVENTS: Final = Recorded("slo:events:rate5m", SLO_LABELS)
BAD_EVENTS: Final = Recorded("slo:events_bad:rate5m", SLO_LABELS)
ERRORS: Final = {window: Recorded(f"slo:error:ratio_rate{window}", SLO_LABELS) for window in WINDOWS}
SERVICE: Final = (FAILED_RATIO, LATENCY_P99, CACHE_HITS, STATEMENTS_P95, COMMIT_P99, BUSY)
ALL: Final = (*SERVICE, BUDGET, EVENTS, BAD_EVENTS, *ERRORS.values())
