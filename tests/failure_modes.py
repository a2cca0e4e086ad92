"""What each loss of a dependency does: the table that tests/system/test_failure_modes_*.py prove, case by case, and
from which docs/failure-modes.md is made (`python -m tests.failure_modes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "failure-modes.md"

STORED = "goes on: every sample is stored and acknowledged"
BUSY = "sockets stay open; samples are answered `busy` with `retry_after_ms`, none is lost"
FRESH = "200, as ever"
STALE = '200 with the last value and its `Age` (`Cache-Status: ...; detail="stale"`)'
UNCACHED_503 = "503 with `Retry-After`"
READY = "200"
UNREADY = "503 after 3 s, 200 again once the database serves"
STAYS_READY = "200: it is over before readiness counts it as lost"


@dataclass(frozen=True, slots=True)
class FailureMode:
    """One row. `metrics` are what must show at the end of the outage: `name = value`, or `name grows`."""

    key: str
    what: str
    ingest: str
    cached_reads: str
    other_reads: str
    ready: str
    health: str
    metrics: tuple[str, ...]
    note: str = ""


CACHE_OPEN = ('dependency_up{name="cache"} = 0', 'circuit_breaker_state{name="cache"} = 1')
REDIS = (
    FailureMode(
        "redis_killed", "Redis refuses connections (killed)", STORED, FRESH, FRESH, READY, "degraded, 200",
        (*CACHE_OPEN, 'circuit_breaker_rejected_total{name="cache"} grows'),
        "Replicas do not hear each other: values are believed for 2 s. Limits hold in each process alone.",
    ),
    FailureMode(
        "redis_stalled", "Redis accepts and does not answer (SIGSTOP)", STORED, FRESH, FRESH, READY, "degraded, 200",
        (*CACHE_OPEN, 'circuit_breaker_calls_total{name="cache",outcome="failure"} grows'),
        "At most five calls wait their 50 ms each.",
    ),
    FailureMode(
        "redis_nonsense", "another program answers on Redis's port", STORED, FRESH, FRESH, READY, "degraded, 200",
        CACHE_OPEN,
    ),
    FailureMode(
        "redis_full", "Redis is full and may not evict", STORED, FRESH, FRESH, READY, "healthy, 200",
        ('cache_errors_total{operation="set"} grows', 'circuit_breaker_state{name="cache"} = 0'),
        "Values stay in each process; what Redis holds is still read.",
    ),
    FailureMode(
        "redis_restarted", "Redis restarts, empty", STORED, FRESH, FRESH, READY, "healthy again within seconds",
        ('dependency_up{name="cache"} = 1',),
    ),
    FailureMode(
        "redis_flushed", "Redis is flushed", STORED, FRESH, FRESH, READY, "healthy, 200",
        ('circuit_breaker_state{name="cache"} = 0',),
    ),
)  # fmt: skip
DATABASE_OPEN = ('dependency_up{name="database"} = 0', 'circuit_breaker_state{name="database"} = 1')
POSTGRES = (
    FailureMode(
        "postgres_stopped", "PostgreSQL refuses connections (stopped)", BUSY, STALE, UNCACHED_503, UNREADY,
        "unhealthy, 503, after 3 s", (*DATABASE_OPEN, 'cache_stale_served_total{cache_type="latest_sample"} grows'),
    ),
    FailureMode(
        "postgres_stalled", "PostgreSQL does not answer (SIGSTOP)", BUSY, STALE, UNCACHED_503, UNREADY,
        "unhealthy, 503, after 3 s",
        ('dependency_up{name="database"} = 0', 'circuit_breaker_calls_total{name="database",outcome="failure"} grows'),
        "Until the breaker opens a read waits for its deadline (QUERY_DEADLINE_S); then it is answered at once.",
    ),
    FailureMode(
        "postgres_out_of_connections", "PostgreSQL takes no more connections", BUSY, STALE, UNCACHED_503, UNREADY,
        "unhealthy, 503, after 3 s", DATABASE_OPEN,
    ),
    FailureMode(
        "postgres_restarted", "PostgreSQL restarts", "a moment of `busy`, then it goes on; none is lost", FRESH,
        "a moment of 503 with `Retry-After`", STAYS_READY, "healthy again within seconds",
        ('dependency_up{name="database"} = 1',),
    ),
    FailureMode(
        "postgres_read_only", "PostgreSQL takes no writes (a standby)", BUSY, FRESH, FRESH, UNREADY,
        "unhealthy, 503, after 3 s",
        ('dependency_up{name="database"} = 0', 'circuit_breaker_state{name="database"} = 0'),
        "It answers, so its breaker stays closed and everything that was committed can be read.",
    ),
)  # fmt: skip

HEAD = """# Failure modes

What the loss of a dependency does to ingest, reads, probes and metrics. Each row is proved by a test of the same name in
`tests/system/test_failure_modes_redis.py` or `..._postgres.py`: a real server under load, its real PostgreSQL and
Redis taken away for some seconds; `make soak` does the same for a minute. This page is made from the table that the
tests check (`python -m tests.failure_modes`).

Through all of it `/health/live` and `/health/startup` answer 200, no socket is closed, nothing that was acknowledged is
lost, and everything heals by itself: `retry_after_ms` and `Retry-After` say when to come back, a check every second
finds the dependency again, and the breaker lets calls through one by one, then three at a time, until two succeeded.

Cached reads are `/api/sqal/latest`, `/dashboard`, `/aggregates/hourly` and `/devices/{id}/stats`; a value that was never
read before has nothing to be stale, and is answered like the other reads. Old values are kept for an hour
(CACHE_KEEP_STALE_S).
"""


def page() -> str:
    lines = [HEAD]
    for title, rows in (("Redis", REDIS), ("PostgreSQL", POSTGRES)):
        lines += [f"## {title}", ""]
        for row in rows:
            lines += [f"### {row.what}", ""]
            lines += ["| | |", "|---|---|", f"| ingest | {row.ingest} |", f"| cached reads | {row.cached_reads} |"]
            lines += [f"| other reads | {row.other_reads} |", f"| `/health/ready` | {row.ready} |"]
            lines += [f"| `/health` | {row.health} |"]
            lines += [f"| metrics | {', '.join(f'`{metric}`' for metric in row.metrics)} |", ""]
            if row.note:
                lines += [row.note, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
