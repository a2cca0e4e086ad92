"""The bug tracker: what is open, how soon it is dealt with, how service levels are kept, what waits longest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import sql
from app.dashboards.board import Board, Section
from app.dashboards.panels import RED, YELLOW, Face, Line, Panel, graph, history, listing, number, rising
from app.dashboards.promql import process, shared

if TYPE_CHECKING:
    from app.core.metrics import Metrics
    from app.dashboards.sql import ServiceLevels

UID: Final = "gaveurs-bugs"


def board(m: Metrics, levels: ServiceLevels) -> Board:
    return Board(
        UID,
        "Gaveurs / Bugs",
        "Open bugs, resolution, service levels, webhooks.",
        (
            Section("Now", _now(m)),
            Section("Over time", _over_time(m)),
            Section("From the database", _kept(levels)),
        ),
        since="now-30d",
    )


def _now(m: Metrics) -> tuple[Panel, ...]:
    opened = shared(m.bugs_open)
    critical = shared(m.bugs_open, severity="critical").now().max()
    return (
        number(
            Face(1, "Critical bugs open", "CriticalBugsOpen watches it.", units.Short, 6, 5, ((1, RED),)),
            Line(critical, ""),
        ),
        number(
            Face(2, "Bugs open", "Neither resolved nor closed.", units.Short, 6, 5),
            Line(opened.now().max("severity").sum(), ""),
        ),
        number(
            Face(3, "Resolved today", "Today begins in TIMEZONE.", units.Short, 6, 5),
            Line(shared(m.bugs_resolved_today).now().max(), ""),
        ),
        number(
            Face(
                4,
                "Average resolution",
                "From report to resolution, of all that are or were resolved.",
                units.Hours,
                6,
                5,
                decimals=1,
                nothing="nothing resolved yet",
            ),
            Line(shared(m.bugs_average_resolution).now().max(), ""),
        ),
    )


def _over_time(m: Metrics) -> tuple[Panel, ...]:
    return (
        graph(
            Face(10, "Open, by severity", "As the database counts them.", units.Short, 6),
            Line(shared(m.bugs_open).now().max("severity"), "{{severity}}"),
            stacked=True,
        ),
        graph(
            Face(11, "Average resolution over time", "From report to resolution.", units.Hours, 6),
            Line(shared(m.bugs_average_resolution).now().max(), "average"),
        ),
        graph(
            Face(
                12,
                "Webhooks",
                "Attempts by what they came to, and deliveries that wait.",
                units.Short,
                6,
                steps=((1, YELLOW),),
            ),
            Line(process(m.webhook_deliveries).increase().sum("outcome"), "{{outcome}}"),
            Line(shared(m.webhook_waiting).now().max(), "waiting"),
        ),
        graph(
            Face(13, "Attachments swept", "Files that nothing named any more, deleted.", units.Short, 6),
            Line(process(m.orphans_swept).increase().sum(), "files"),
        ),
    )


def _kept(levels: ServiceLevels) -> tuple[Panel, ...]:
    return (
        history(Face(20, "Created and resolved by day", "UTC days.", units.Short, 12), sql.BUG_TREND),
        history(Face(21, "Open at the end of the day", "UTC days.", units.Short, 12), sql.BUGS_OPEN, bars=False),
        listing(
            Face(
                22,
                "Service levels",
                "Bugs created in the time range. Targets are those of BUG_SLA_* when the dashboard was built.",
                units.Short,
                12,
                lowest=None,
            ),
            sql.service_levels(levels),
            {"acknowledge": units.Hours, "resolve": units.Hours},
        ),
        listing(
            Face(
                23,
                "How soon",
                "Hours to acknowledge and to resolve, of bugs created in the time range.",
                units.Hours,
                12,
                lowest=None,
            ),
            sql.HOW_SOON,
            {"bugs": units.Short},
        ),
        listing(
            Face(
                24,
                "Oldest open",
                "The 20 that were reported first, the gravest first.",
                units.Short,
                16,
                10,
                rising(7, 30),
                lowest=None,
            ),
            sql.OLDEST_BUGS,
            {"age": units.Days},
        ),
        listing(
            Face(25, "By firmware", "Bugs created in the time range.", units.Short, 8, 10, lowest=None),
            sql.BUGS_BY_FIRMWARE,
            {},
        ),
    )
