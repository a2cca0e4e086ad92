"""What protects and shows the rest, made from the settings: dependencies and their breakers, cache, limits, metrics,
health. All of it exists before anything is opened, and works without what it protects against.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from app.core import database, redis_link
from app.core.breaker_policy import Outcome
from app.core.cache import Cache
from app.core.cache_entry import CacheType
from app.core.cache_redis import RedisStore
from app.core.circuit_breaker import CircuitBreaker
from app.core.client_address import ClientAddresses
from app.core.dependency import Declaration, Dependency, Need
from app.core.errors import UnavailableError
from app.core.faults import FaultSwitches
from app.core.logging import line_handler
from app.core.loop_watchdog import LoopWatchdog
from app.core.metrics import Metrics
from app.core.patience import Patience
from app.core.rate_limiter import Limiter
from app.core.rate_policy import Rate
from app.core.redis_link import RedisLink
from app.core.requests_in_hand import RequestsInHand
from app.sqal.recorder import SampleRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.core.clock import Clock
    from app.settings import Settings

DATABASE: Final = Declaration(
    "database",
    Need.REQUIRED,
    deadline_s=2.0,
    lost_after_s=3.0,
    fallback="samples are answered busy, cached reads are served with their age, others get 503 with Retry-After",
)
CACHE: Final = Declaration(
    "cache",
    Need.DEGRADED,
    deadline_s=0.25,
    lost_after_s=3.0,
    fallback="each process caches and limits by itself; reads go to the database more often",
)
EVENT_LOOP: Final = "event_loop"
CACHE_ENTRIES: Final = "cache_entries"
LOOKUPS_PER_SECOND: Final = Rate(20.0, 100.0)
MAX_CLIENTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Every budget. `connects` and `rest` are shared by all replicas where there is Redis."""

    connects: Limiter
    messages: Limiter
    message_bytes: Limiter
    rest: Limiter
    lookups: Limiter
    """Unknown API keys, by address: each costs a query."""

    @property
    def all(self) -> Sequence[Limiter]:
        return (self.connects, self.messages, self.message_bytes, self.rest, self.lookups)


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """One process's."""

    metrics: Metrics
    faults: FaultSwitches
    database: Dependency
    redis: Dependency | None
    cache: Cache
    limits: Limits
    addresses: ClientAddresses
    watchdog: LoopWatchdog
    in_hand: RequestsInHand
    patience: Patience
    recorder: SampleRecorder

    @property
    def dependencies(self) -> Sequence[Dependency]:
        return (self.database,) if self.redis is None else (self.database, self.redis)


def make_infrastructure(settings: Settings, clock: Clock) -> Infrastructure:
    metrics = Metrics()
    metrics.build_info.labels(version("gaveurs-backend"), platform.python_version()).set(1)
    _show_limits(metrics, settings)
    names = [DATABASE.name, EVENT_LOOP, CACHE_ENTRIES, *([CACHE.name] if settings.redis_host else [])]
    faults = FaultSwitches(clock, names)

    def depend(
        declared: Declaration, judge: Callable[[BaseException], Outcome], slow_call_s: float | None = None
    ) -> Dependency:
        breaker = CircuitBreaker(
            name=declared.name,
            failure_threshold=settings.breaker_failure_threshold,
            success_threshold=settings.breaker_success_threshold,
            timeout=settings.breaker_timeout_s,
            max_timeout=max(300.0, settings.breaker_timeout_s),
            half_open_max_calls=settings.breaker_half_open_max_calls,
            slow_call=slow_call_s,
            classify=judge,
            rehearsed=True,
            monotonic=clock.monotonic,
        )
        return Dependency(declared, breaker, faults, clock)

    made = Infrastructure(
        metrics=metrics,
        faults=faults,
        database=depend(DATABASE, database.judge, settings.breaker_slow_call_s),
        redis=depend(CACHE, redis_link.judge) if settings.redis_host else None,
        cache=_make_cache(settings, metrics, clock, lambda: faults.active(CACHE_ENTRIES) is not None),
        limits=_make_limits(settings, clock),
        addresses=ClientAddresses(settings.trusted_proxies),
        watchdog=LoopWatchdog(blocked_after_s=settings.loop_blocked_after_s, exit_after_s=settings.loop_blocked_exit_s),
        in_hand=RequestsInHand(),
        patience=Patience(settings.shutdown_deadline_s),
        recorder=SampleRecorder(metrics, clock, settings.sites),
    )
    metrics.registry.before_scrape(lambda: _report(made))
    return made


def make_redis(
    settings: Settings, clock: Clock, made: Infrastructure, redis: Dependency
) -> tuple[RedisLink, RedisStore]:
    """The way to Redis, and the cache's second level on it; connects at first use."""
    timeout_s = settings.redis_timeout_ms / 1_000
    client = redis_link.make_client(
        host=settings.redis_host or "",
        port=settings.redis_port,
        db=settings.redis_db,
        password=settings.redis_password.get_secret_value() if settings.redis_password else None,
        timeout_s=timeout_s,
    )
    link = RedisLink(client, redis, timeout_s)
    return link, RedisStore(link, made.cache, made.metrics, settings.redis_prefix, clock.monotonic)


def _make_cache(settings: Settings, metrics: Metrics, clock: Clock, forgetting: Callable[[], bool]) -> Cache:
    return Cache(
        [
            CacheType("latest_sample", settings.cache_ttl_latest_sample_s),
            CacheType("dashboard_metrics", settings.cache_ttl_dashboard_metrics_s),
            CacheType("device_stats", settings.cache_ttl_device_stats_s),
            CacheType("hourly_aggregates", settings.cache_ttl_hourly_aggregates_s),
            CacheType("bug_summary", settings.cache_ttl_bug_summary_s, strict=True),
            CacheType("bug_figures", settings.cache_ttl_bug_figures_s),
        ],
        metrics,
        max_entries=settings.cache_max_entries,
        max_bytes=settings.cache_max_bytes,
        keep_stale_s=settings.cache_keep_stale_s,
        stale_on=(UnavailableError,),
        alone=settings.database_url is None,  # nobody else has the embedded database
        monotonic=clock.monotonic,
        forgetting=forgetting,
    )


def _make_limits(settings: Settings, clock: Clock) -> Limits:
    connects = settings.ws_connects_per_minute
    rate, burst, backlog = settings.ws_messages_per_second, settings.ws_messages_burst, settings.ws_backlog_allowance
    each = settings.ws_message_bytes_average

    def limit(name: str, rate: Rate, allowance: float = 0.0) -> Limiter:
        return Limiter(name, rate, monotonic=clock.monotonic, max_keys=MAX_CLIENTS, allowance=allowance)

    return Limits(
        connects=limit("ws_connects", Rate(connects / 60, max(1.0, connects))),
        messages=limit("ws_messages", Rate(rate, burst), backlog),
        message_bytes=limit("ws_bytes", Rate(rate * each, burst * each), backlog * each),
        rest=limit("rest", Rate(settings.rest_requests_per_second, settings.rest_burst)),
        lookups=limit("key_lookups", LOOKUPS_PER_SECOND),
    )


def _show_limits(metrics: Metrics, settings: Settings) -> None:
    """What alerts compare with, as it is set here."""
    metrics.queue_rows_limit.labels().set(settings.ingest_queue_rows)
    metrics.queue_bytes_limit.labels().set(settings.ingest_queue_bytes)
    metrics.quarantine_rows_limit.labels().set(settings.quarantine_rows)
    metrics.quarantine_bytes_limit.labels().set(settings.quarantine_bytes)


def _report(made: Infrastructure) -> None:
    """What breakers, checks and limits have counted, at a scrape."""
    m = made.metrics
    for dependency in made.dependencies:
        name, breaker = dependency.declared.name, dependency.breaker
        m.breaker_state.labels(name).set(breaker.state_number)
        for outcome, count in breaker.outcomes.items():
            m.breaker_calls.labels(name, outcome).set_total(count)
        m.breaker_rejected.labels(name).set_total(breaker.outcomes[Outcome.REJECTED])
        for state, count in breaker.entered.items():
            m.breaker_transitions.labels(name, state).set_total(count)
        m.dependency_up.labels(name).set(0 if dependency.away else 1)
        for result, count in dependency.checks.items():
            m.dependency_checks.labels(name, result).set_total(count)
    for name in made.faults.names:
        m.fault_active.labels(name).set(0 if made.faults.active(name) is None else 1)
    for limiter in made.limits.all:
        m.limit_decisions.labels(limiter.name, "allowed").set_total(limiter.allowed)
        m.limit_decisions.labels(limiter.name, "refused").set_total(limiter.refused)
        m.limit_keys.labels(limiter.name).set(limiter.keys)
        m.limit_evictions.labels(limiter.name).set_total(limiter.evictions)
    m.loop_lag.labels().set(made.watchdog.max_lag_s())
    m.loop_blocked.labels().set_total(made.watchdog.episodes)
    m.http_in_progress.labels().set(made.in_hand.count)
    _report_lines(m)


def _report_lines(metrics: Metrics) -> None:
    if (lines := line_handler()) is None:
        return
    for level, count in lines.lines.items():
        metrics.log_lines.labels(level).set_total(count)
    metrics.log_suppressed.labels().set_total(lines.suppressed)
    metrics.log_dropped.labels().set_total(lines.dropped)
