"""Panels of the infrastructure dashboard about what requests stand on: database, breakers, process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import recorded
from app.dashboards.panels import GREEN, RED, YELLOW, Face, Line, Panel, graph, number, rising, states
from app.dashboards.promql import RANGE, Like, everywhere, process

if TYPE_CHECKING:
    from app.core.metric_types import Family, Gauge
    from app.core.metrics import Metrics
    from app.dashboards.promql import Query

BREAKER: Final = {0.0: ("closed", GREEN), 1.0: ("open", RED), 2.0: ("half-open", YELLOW)}


def database(m: Metrics) -> tuple[Panel, ...]:
    free = process(m.pool_available)
    return (
        graph(
            Face(
                30,
                "Free connections by pool",
                "The fewest in the interval, of each process; at 0 callers wait. DatabasePoolExhausted watches it.",
                units.Short,
                steps=((1, GREEN),),
                base=RED,
            ),
            Line(free.over_time("min").min("pool", "instance"), "{{pool}} {{instance}}"),
        ),
        graph(
            Face(31, "Waiting for a connection", "Callers, by pool and process.", units.Short, steps=rising(1, 10)),
            Line(process(m.pool_waiters).over_time("max").max("pool", "instance"), "{{pool}} {{instance}}"),
            Line(process(m.pool_size).now().max("pool"), "size of {{pool}}"),
        ),
        graph(
            Face(
                32,
                "Statements, p95",
                "As their caller sees them, by kind. 'all' is over 5 minutes and all instances: DatabaseSlow (0.5 s).",
                units.Seconds,
                steps=rising(0.25, 0.5),
            ),
            Line(recorded.STATEMENTS_P95.now().max(), "all"),
            Line(process(m.query_duration).quantile(0.95, "query_type"), "{{query_type}}"),
        ),
        graph(
            Face(33, "Statements", "By kind.", "cps", 6),
            Line(process(m.query_duration).observed().sum("query_type"), "{{query_type}}"),
            stacked=True,
        ),
    )


def ingest(m: Metrics) -> tuple[Panel, ...]:
    received = everywhere(m.samples_received).rate("5m").sum("job")
    return (
        graph(
            Face(34, "Samples waiting for their commit", "The most in the interval, of each process.", units.Short, 6),
            Line(process(m.queue_rows).over_time("max").max("instance"), "{{instance}}"),
        ),
        graph(
            Face(35, "Bytes waiting for their commit", "The most in the interval, of each process.", units.BytesIEC, 6),
            Line(process(m.queue_bytes).over_time("max").max("instance"), "{{instance}}"),
        ),
        graph(
            Face(
                36,
                "Samples refused for our fault",
                "In the interval; devices send them again.",
                units.Short,
                6,
                steps=((1, RED),),
            ),
            Line(process(m.samples_refused, code=Like("busy|not_storable")).increase().sum("code"), "{{code}}"),
        ),
        graph(
            Face(
                37,
                "Share answered busy",
                "For our sake, over 5 minutes and all instances: what SamplesRefusedBusy watches (1 %).",
                units.PercentUnit,
                12,
                steps=rising(0.005, 0.01),
            ),
            Line(recorded.BUSY.now().max("job").over(received), "busy"),
        ),
        graph(
            Face(
                38,
                "Queue, share of its limits",
                "Least in a minute, by process: IngestQueueFilling watches it (half). Devices are slowed from 80 %.",
                units.PercentUnit,
                12,
                steps=rising(0.3, 0.5),
                highest=1,
            ),
            Line(_filled(m.queue_rows, m.queue_rows_limit), "rows {{instance}}"),
            Line(_filled(m.queue_bytes, m.queue_bytes_limit), "bytes {{instance}}"),
        ),
    )


def _filled(waiting: Family[Gauge], limit: Family[Gauge]) -> Query:
    return process(waiting).over_time("min", "1m").max("instance").over(process(limit).now().max("instance"))


def protection(m: Metrics) -> tuple[Panel, ...]:
    return (
        graph(
            Face(
                40,
                "Breaker states",
                "0 closed, 1 open, 2 half-open.",
                units.Short,
                highest=2,
                decimals=0,
                words=BREAKER,
            ),
            Line(process(m.breaker_state).over_time("max").max("name", "instance"), "{{name}} {{instance}}"),
        ),
        graph(
            Face(41, "Calls through breakers", "By dependency and outcome.", "cps"),
            Line(process(m.breaker_calls).rate().sum("name", "outcome"), "{{name}} {{outcome}}"),
            Line(process(m.breaker_rejected).rate().sum("name"), "{{name}} not let through"),
        ),
        graph(
            Face(42, "Checks of dependencies", "In the background, by outcome.", "cps"),
            Line(process(m.dependency_checks).rate().sum("name", "outcome"), "{{name}} {{outcome}}"),
        ),
        graph(
            Face(43, "Refused by limits", "By budget.", "cps", steps=rising(1, 10)),
            Line(process(m.limit_decisions, outcome="refused").rate().sum("budget"), "{{budget}}"),
        ),
        graph(
            Face(44, "Clients remembered by limits", "Who is forgotten for want of room starts anew.", units.Short),
            Line(process(m.limit_keys).now().max("budget"), "{{budget}}"),
            Line(process(m.limit_evictions).increase().sum("budget"), "{{budget}} forgotten"),
        ),
        states(
            Face(
                45,
                "Faults on purpose",
                "Switches of a game day.",
                units.Short,
                words={0.0: ("off", GREEN), 1.0: ("ON", RED)},
                nothing="switched off by settings",
            ),
            Line(process(m.fault_active).now().max("name"), "{{name}}"),
        ),
    )


def processes(m: Metrics) -> tuple[Panel, ...]:
    each = "{{instance}}"
    return (
        graph(
            Face(50, "Event loop lag", "The longest since the last scrape.", units.Seconds, steps=rising(0.1, 0.25)),
            Line(process(m.loop_lag).over_time("max").max("instance"), each),
        ),
        graph(
            Face(
                51,
                "Event loop blocked",
                "Times it stood still for too long, in the interval.",
                units.Short,
                steps=((1, RED),),
            ),
            Line(process(m.loop_blocked).increase().sum("instance"), each),
        ),
        graph(
            Face(57, "Log lines", "By level; those not written for being repeats, or for nobody reading them.", "cps"),
            Line(process(m.log_lines).rate().sum("level"), "{{level}}"),
            Line(process(m.log_suppressed).rate().sum(), "repeats, not written"),
            Line(process(m.log_dropped).rate().sum(), "dropped"),
        ),
        graph(Face(52, "CPU", "Cores in use.", units.Short), Line(process(m.cpu).rate().sum("instance"), each)),
        graph(Face(53, "Memory", "Resident.", units.BytesIEC), Line(process(m.memory).now().max("instance"), each)),
        graph(
            Face(54, "Open files", "Descriptors.", units.Short), Line(process(m.open_files).now().max("instance"), each)
        ),
        number(
            Face(
                55,
                "Starts",
                "Of processes of known addresses, in the dashboard's time range.",
                units.Short,
                12,
                4,
                steps=rising(1, 3),
            ),
            Line(process(m.started).changes(RANGE).sum(), ""),
        ),
        states(
            Face(56, "Version", "Processes by what they run.", units.Short, 12, 4),
            Line(process(m.build_info).now().sum("version", "python"), "{{version}}, Python {{python}}"),
        ),
    )
