"""What the lines produce: samples, grades, scores and rejects, by site; claims that disagree; alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import sql
from app.dashboards.board import Board, Section
from app.dashboards.panels import (
    GREEN,
    RED,
    YELLOW,
    Face,
    Line,
    Panel,
    buckets,
    graph,
    history,
    listing,
    number,
    rising,
)
from app.dashboards.promql import Not, process, shared

if TYPE_CHECKING:
    from app.core.metrics import Metrics
    from app.dashboards.promql import Query

UID: Final = "gaveurs-business"
HOUR_S: Final = 3_600
PER_HOUR: Final = "samples/h"


def board(m: Metrics) -> Board:
    return Board(
        UID,
        "Gaveurs / Business",
        "Samples, grades, scores, rejects and alerts, by site.",
        (
            Section("Now, chosen sites", _now(m)),
            Section("Over time", (*_grades(m), *_judgement(m))),
            Section("By site", _by_site(m)),
            Section("From the database", _kept()),
        ),
        since="now-12h",
    )


def _graded(m: Metrics, *by: str, window: str = "$__rate_interval") -> Query:
    return process(m.site_samples, grade=Not("NOT_GRADABLE")).rate(window).sum(*by)


def _reject_share(m: Metrics, *by: str, window: str = "$__rate_interval") -> Query:
    rejected = process(m.site_samples, grade="REJECT").rate(window).sum(*by)
    return rejected.over(_graded(m, *by, window=window))


def _score(m: Metrics, *by: str, window: str = "$__rate_interval") -> Query:
    return process(m.site_scores).rate(window).sum(*by).over(_graded(m, *by, window=window))


def _now(m: Metrics) -> tuple[Panel, ...]:
    rejects = _reject_share(m, window="15m")
    return (
        number(
            Face(1, "Samples in the last hour", "Committed.", units.Short, 4, 5, decimals=0),
            Line(process(m.site_samples).increase("1h").sum(), ""),
        ),
        number(
            Face(
                2,
                "Quality score",
                "Average of graded samples, 0 to 1, over 15 minutes.",
                units.NoUnit,
                5,
                5,
                ((0.4, YELLOW), (0.6, GREEN)),
                RED,
                3,
                highest=1,
                nothing="nothing graded",
            ),
            Line(_score(m, window="15m"), ""),
        ),
        number(
            Face(
                3,
                "Rejects",
                "Of graded samples, over 15 minutes.",
                units.PercentUnit,
                5,
                5,
                rising(0.05, 0.1),
                decimals=1,
                nothing="nothing graded",
            ),
            Line(rejects, ""),
        ),
        number(
            Face(
                4,
                "Conformity",
                "Share that is no REJECT, over 15 minutes.",
                units.PercentUnit,
                5,
                5,
                ((0.9, YELLOW), (0.95, GREEN)),
                RED,
                1,
                nothing="nothing graded",
            ),
            Line(rejects.left_of(1), ""),
        ),
        number(
            Face(5, "Alerts open", "Of devices, readings and quarantine; all sites.", units.Short, 5, 5, rising(1, 10)),
            Line(shared(m.alerts_open).now().max("severity").sum(), ""),
        ),
    )


def _grades(m: Metrics) -> tuple[Panel, ...]:
    committed = process(m.site_samples).rate()
    return (
        graph(
            Face(10, "Samples an hour, by grade", "Committed, at the pace of the interval.", units.Short),
            Line(committed.sum("grade").times(HOUR_S), "{{grade}}"),
            stacked=True,
        ),
        graph(
            Face(11, "Grades", "Share of each among all committed samples.", units.PercentUnit, highest=1),
            *(
                Line(process(m.site_samples, grade=grade).rate().sum().over(committed.sum()), grade)
                for grade in ("A+", "A", "B", "C", "REJECT", "NOT_GRADABLE")
            ),
            stacked=True,
        ),
        buckets(
            Face(
                12,
                "Quality score distribution",
                "How many samples in each range of the score; all sites.",
                units.NoUnit,
                decimals=2,
            ),
            process(m.sample_quality).buckets(),
        ),
    )


def _judgement(m: Metrics) -> tuple[Panel, ...]:
    claims = process(m.claims_disagree).rate().sum()
    return (
        graph(
            Face(
                13,
                "Claims that disagree",
                "Share of samples whose device claimed another grade than we found; all sites.",
                units.PercentUnit,
                6,
            ),
            Line(claims.over(process(m.samples_committed).rate().sum()), "disagree"),
        ),
        graph(
            Face(
                14,
                "Conform and rejected, by process",
                "Of what each process committed in the last 5 minutes; absent without samples.",
                units.Percent,
                6,
            ),
            Line(process(m.conformity_rate).now().max("instance"), "conform {{instance}}"),
            Line(process(m.reject_rate).now().max("instance"), "rejected {{instance}}"),
        ),
        graph(
            Face(
                16,
                "Quality score, by process",
                "Of what each process committed in the last 5 minutes; absent without samples.",
                units.NoUnit,
                6,
                highest=1,
                decimals=3,
            ),
            Line(process(m.average_score).now().max("instance"), "{{instance}}"),
        ),
        graph(
            Face(15, "Alerts open, by severity", "All sites.", units.Short, 6, steps=rising(1, 10)),
            Line(shared(m.alerts_open).now().max("severity"), "{{severity}}"),
            stacked=True,
        ),
    )


def _by_site(m: Metrics) -> tuple[Panel, ...]:
    return (
        graph(
            Face(20, "Samples an hour, by site", "Committed.", units.Short, 12),
            Line(process(m.site_samples).rate().sum("site").times(HOUR_S), "{{site}}"),
        ),
        graph(
            Face(
                21,
                "Quality score, by site",
                "Average of graded samples, 0 to 1.",
                units.NoUnit,
                12,
                highest=1,
                decimals=3,
            ),
            Line(_score(m, "site"), "{{site}}"),
        ),
        graph(
            Face(22, "Rejects, by site", "Of graded samples.", units.PercentUnit, 12, steps=rising(0.05, 0.1)),
            Line(_reject_share(m, "site"), "{{site}}"),
        ),
        graph(
            Face(23, "Throughput, by process", "Samples a second in the last 5 minutes; all sites.", "cps", 12),
            Line(process(m.throughput).now().max("instance"), "{{instance}}"),
            Line(process(m.throughput).now().sum(), "all"),
        ),
    )


def _kept() -> tuple[Panel, ...]:
    return (
        history(
            Face(
                30,
                "Samples by hour and site",
                "From the rollups, whatever Prometheus still remembers.",
                units.Short,
                12,
            ),
            sql.SAMPLES_BY_HOUR,
        ),
        listing(
            Face(
                31,
                "Lots with most rejects",
                "Of the time range, by whole hours; 20 of them.",
                units.Short,
                12,
                lowest=None,
            ),
            sql.WORST_LOTS,
            {"rejects": units.PercentUnit, "score": units.NoUnit},
        ),
    )
