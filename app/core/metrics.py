"""Every metric of the service, declared once: name, labels, buckets and meaning. Whoever does a thing records it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from app.core.metric_types import Registry

ENDPOINTS: Final = ("sensors", "realtime")
CACHE_TYPES: Final = (
    "latest_sample", "dashboard_metrics", "device_stats", "hourly_aggregates", "bug_summary", "bug_figures"
)  # fmt: skip
CACHE_OPERATIONS: Final = ("get", "set", "delete")
QUERY_TYPES: Final = ("select", "insert", "update", "delete", "copy", "commit", "other")
OUTCOMES: Final = ("allowed", "refused")
REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
FAST_SECONDS: Final = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
BODY_BYTES: Final = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
SCORES: Final = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096


class Metrics:
    """The catalogue of one process. Series whose labels are known exist from the start, at zero."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._declare_http()
        self._declare_cache()
        self._declare_samples()
        self._declare_database()
        self._declare_sockets()
        self._declare_business()
        self._declare_bugs()
        self._declare_attachments()
        self._declare_webhooks()
        self._declare_holdings()
        self._declare_backups()
        self._declare_protection()
        self._declare_process()

    def _declare_http(self) -> None:
        new = self.registry
        self.http_requests = new.counter(
            "http_requests_total", "HTTP requests answered.", ("method", "endpoint", "status")
        )
        self.http_duration = new.histogram(
            "http_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            REQUEST_SECONDS,
            ("method", "endpoint"),
        )
        self.http_request_size = new.histogram("http_request_size_bytes", "Bodies of HTTP requests.", BODY_BYTES)
        self.http_response_size = new.histogram("http_response_size_bytes", "Bodies of HTTP answers.", BODY_BYTES)
        self.http_in_progress = new.gauge("http_requests_in_progress", "HTTP requests being answered now.")

    def _declare_cache(self) -> None:
        new = self.registry
        self.cache_hits = new.counter("cache_hits_total", "Reads that the cache answered.", ("cache_type",))
        self.cache_misses = new.counter("cache_misses_total", "Reads for which a value was loaded.", ("cache_type",))
        self.cache_latency = new.histogram(
            "cache_latency_seconds", "Cache operations, loading not included.", FAST_SECONDS, ("operation",)
        )
        self.cache_size = new.gauge("cache_size_bytes", "Held in this process's cache.")
        self.cache_entries = new.gauge("cache_entries", "Keys in this process's cache.")
        self.cache_evictions = new.counter("cache_evictions_total", "Entries dropped for want of room.")
        self.cache_expirations = new.counter("cache_expirations_total", "Entries dropped at the end of their time.")
        self.cache_level_hits = new.counter(
            "cache_level_hits_total", "Hits by where the value was: this process (l1) or Redis (l2).", ("level",)
        )
        self.cache_stale = new.counter(
            "cache_stale_served_total", "Reads answered with an old value because loading failed.", ("cache_type",)
        )
        self.cache_loads = new.counter(
            "cache_loads_total", "Values loaded into the cache, and loads that failed.", ("cache_type", "outcome")
        )
        self.cache_errors = new.counter("cache_errors_total", "Calls to Redis that failed.", ("operation",))
        self.cache_dropped = new.counter(
            "cache_writes_dropped_total", "Values not written to Redis: it refused them, or too many waited."
        )
        known = [(name,) for name in CACHE_TYPES]
        for family in (self.cache_hits, self.cache_misses, self.cache_stale):
            family.prepare(known)
        self.cache_loads.prepare((name, outcome) for name in CACHE_TYPES for outcome in ("success", "failure"))
        self.cache_level_hits.prepare([("l1",), ("l2",)])
        self.cache_latency.prepare((name,) for name in CACHE_OPERATIONS)
        self.cache_errors.prepare((name,) for name in CACHE_OPERATIONS)

    def _declare_samples(self) -> None:
        new = self.registry
        self.sample_processing = new.histogram(
            "sample_processing_duration_seconds",
            "From a sample's arrival to its commit.",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )
        self.sample_quality = new.histogram(
            "sample_quality_score", "Scores of committed samples, 0 to 1.", SCORES, ("grade",)
        )
        self.samples_committed = new.counter("samples_committed_total", "Samples committed, by grade.", ("grade",))
        self.site_samples = new.counter(
            "site_samples_committed_total", "Samples committed, by their device's site and by grade.", ("site", "grade")
        )
        self.site_scores = new.counter(
            "site_sample_scores_total", "Sum of the scores, 0 to 1, of committed samples that have a grade.", ("site",)
        )
        self.samples_received = new.counter("samples_received_total", "Sample messages read from device sockets.")
        self.samples_refused = new.counter(
            "samples_refused_total", "Sample messages answered with an error, by code.", ("code",)
        )
        self.quarantined = new.counter(
            "quarantined_messages_total", "Refused messages kept in quarantine, by code.", ("code",)
        )
        self.acks_sent = new.counter("acks_sent_total", "Samples acknowledged to their device.", ("status",))
        self.over_limit = new.counter(
            "samples_over_limit_total", "Sample messages answered busy since their device was over its own limit."
        )
        self.acks_uncommitted = new.counter(
            "acks_uncommitted_total", "Acks of samples that no commit covers. One is one too many."
        )
        self.claims_disagree = new.counter(
            "sample_claims_disagree_total", "Committed samples whose device claimed another grade."
        )
        self.queue_rows = new.gauge("ingest_queue_rows", "Samples waiting for their commit.")
        self.queue_bytes = new.gauge("ingest_queue_bytes", "Bytes of samples waiting for their commit.")
        self.queue_rows_limit = new.gauge("ingest_queue_rows_limit", "How many may wait.")
        self.queue_bytes_limit = new.gauge("ingest_queue_bytes_limit", "How many bytes may.")
        self.acks_sent.prepare([("saved",), ("duplicate",)])

    def _declare_database(self) -> None:
        new = self.registry
        self.pool_size = new.gauge(
            "db_connection_pool_size", "Connections that a pool may have at once, at most.", ("pool",)
        )
        self.pool_available = new.gauge(
            "db_connection_pool_available", "Of them, how many could be lent now; 0: callers wait.", ("pool",)
        )
        self.pool_waiters = new.gauge("db_pool_waiters", "Callers that wait for a connection.", ("pool",))
        self.query_duration = new.histogram(
            "db_query_duration_seconds", "Statements, as their caller sees them.", REQUEST_SECONDS, ("query_type",)
        )
        self.query_duration.prepare((kind,) for kind in QUERY_TYPES)

    def _declare_sockets(self) -> None:
        new = self.registry
        self.sockets_active = new.gauge("websocket_connections_active", "WebSockets open now.", ("endpoint",))
        self.sockets_sent = new.counter("websocket_messages_sent_total", "Messages to peers.", ("endpoint",))
        self.sockets_received = new.counter("websocket_messages_received_total", "Messages from peers.", ("endpoint",))
        self.sockets_errors = new.counter(
            "websocket_errors_total", "Messages answered with an error, handshakes refused, broken connections.",
            ("endpoint",),
        )  # fmt: skip
        self.sockets_closed = new.counter(
            "websocket_closed_total", "WebSockets that we closed, by close code.", ("endpoint", "code")
        )
        for family in (self.sockets_sent, self.sockets_received, self.sockets_errors):
            family.prepare((name,) for name in ENDPOINTS)

    def _declare_business(self) -> None:
        new = self.registry
        window = "of the samples that this process committed in the last 5 minutes"
        self.conformity_rate = new.gauge("conformity_rate_percent", f"Share that is no REJECT {window}.")
        self.reject_rate = new.gauge("reject_rate_percent", f"Share that is REJECT {window}.")
        self.throughput = new.gauge("samples_throughput_per_second", f"Rate {window}.")
        self.average_score = new.gauge("average_quality_score", f"Average score, 0 to 1, {window}.")
        self.devices = new.gauge("devices", "Devices by site and state.", ("site", "state"))

    def _declare_bugs(self) -> None:
        new = self.registry
        self.bugs_open = new.gauge("bugs_open", "Bugs that are neither resolved nor closed.", ("severity",))
        self.bugs_resolved_today = new.gauge(
            "bugs_resolved_today", "Bugs whose resolution is of today, which begins in TIMEZONE."
        )
        self.bugs_average_resolution = new.gauge(
            "bugs_average_resolution_hours", "From report to resolution, of all bugs that are or were resolved."
        )

    def _declare_attachments(self) -> None:
        new = self.registry
        self.orphans_swept = new.counter(
            "bug_attachment_orphans_swept_total", "Files of bugs that nothing named any more, deleted."
        )

    def _declare_webhooks(self) -> None:
        new = self.registry
        self.webhook_deliveries = new.counter(
            "webhook_deliveries_total", "Attempts to deliver to webhooks, and what they came to.", ("outcome",)
        )
        self.webhook_waiting = new.gauge("webhook_deliveries_waiting", "Deliveries to webhooks that wait, of all.")
        self.webhook_deliveries.prepare([("delivered",), ("retried",), ("dead",)])

    def _declare_holdings(self) -> None:
        new = self.registry
        self.database_size = new.gauge("database_size_bytes", "The whole database, as PostgreSQL counts it.")
        self.quarantine_rows = new.gauge("quarantine_rows", "Refused messages in quarantine now.")
        self.quarantine_bytes = new.gauge("quarantine_bytes", "What they take as stored.")
        self.quarantine_rows_limit = new.gauge("quarantine_rows_limit", "How many may be there; the oldest go first.")
        self.quarantine_bytes_limit = new.gauge("quarantine_bytes_limit", "How many bytes of them may.")
        self.alerts_open = new.gauge(
            "alerts_open", "Alerts of readings, devices and quarantine that are open.", ("severity",)
        )
        self.disk_size = new.gauge("disk_size_bytes", "Size of the file system of a folder of ours.", ("place",))
        self.disk_free = new.gauge("disk_free_bytes", "Of it, what we may still write.", ("place",))

    def _declare_backups(self) -> None:
        new = self.registry
        self.backup_success = new.gauge(
            "backup_last_success_timestamp_seconds", "Begin of the newest backup that succeeded, Unix time."
        )
        self.backup_verified = new.gauge(
            "backup_last_verified_timestamp_seconds", "Begin of the newest one that was restored for proof, Unix time."
        )
        self.backup_failure = new.gauge(
            "backup_last_failure_timestamp_seconds", "Begin of the newest backup that failed, Unix time."
        )
        self.backup_size = new.gauge("backup_last_size_bytes", "Of the newest backup that succeeded, as stored.")
        self.backup_duration = new.gauge("backup_last_duration_seconds", "How long the newest that succeeded took.")

    def _declare_protection(self) -> None:
        new = self.registry
        self.breaker_state = new.gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open.", ("name",))
        self.breaker_calls = new.counter("circuit_breaker_calls_total", "Calls by outcome.", ("name", "outcome"))
        self.breaker_transitions = new.counter(
            "circuit_breaker_transitions_total", "Times the state was entered.", ("name", "to")
        )
        self.breaker_rejected = new.counter(
            "circuit_breaker_rejected_total", "Calls that were not let through.", ("name",)
        )
        self.limit_decisions = new.counter(
            "rate_limit_decisions_total", "Times a limit was asked.", ("budget", "outcome")
        )
        self.limit_keys = new.gauge("rate_limit_keys", "Clients whose use is remembered.", ("budget",))
        self.limit_evictions = new.counter(
            "rate_limit_evictions_total", "Clients forgotten for want of room: they start anew.", ("budget",)
        )
        self.dependency_up = new.gauge("dependency_up", "1 when its last check succeeded, else 0.", ("name",))
        self.dependency_checks = new.counter(
            "dependency_checks_total", "Background checks by outcome.", ("name", "outcome")
        )
        self.fault_active = new.gauge("fault_switch_active", "1 while a fault is injected on purpose.", ("name",))

    def _declare_process(self) -> None:
        new = self.registry
        self.loop_lag = new.gauge("event_loop_lag_seconds", "The longest lag of the event loop since the last scrape.")
        self.loop_blocked = new.counter("event_loop_blocked_total", "Times the event loop stood still for too long.")
        self.draining = new.gauge("shutdown_draining", "1 from the signal to the end.")
        self.build_info = new.gauge("build_info", "1, with what runs.", ("version", "python"))
        self.log_lines = new.counter("log_lines_total", "Lines that were logged, written or not.", ("level",))
        self.log_suppressed = new.counter(
            "log_lines_suppressed_total", "Of them, not written because they only repeated others."
        )
        self.log_dropped = new.counter(
            "log_lines_dropped_total", "Of them, not written because nobody read the log in time."
        )
        self.log_lines.prepare((level,) for level in ("debug", "info", "warning", "error", "critical"))
        self.cpu = new.counter("process_cpu_seconds_total", "User and system time.")
        self.memory = new.gauge("process_resident_memory_bytes", "Resident memory.")
        self.open_files = new.gauge("process_open_fds", "Open file descriptors.")
        self.started = new.gauge("process_start_time_seconds", "When this process started, Unix time.")
        self.started.labels().set(time.time())
        new.before_scrape(self._read_process)

    def _read_process(self) -> None:
        times = os.times()
        self.cpu.labels().set_total(times.user + times.system)
        status = Path("/proc/self/statm")
        if status.exists():  # Linux
            self.memory.labels().set(int(status.read_text().split()[1]) * _PAGE)
            self.open_files.labels().set(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - a count, cheaply
