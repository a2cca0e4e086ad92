"""Service level objectives (docs/slo.md): what is left of each error budget, and how fast it burns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import recorded
from app.dashboards.board import Board, Section
from app.dashboards.panels import GREEN, RED, YELLOW, Face, Line, Panel, graph, rising, states
from app.dashboards.promql import process

if TYPE_CHECKING:
    from app.core.metrics import Metrics
    from app.dashboards.promql import Query

UID: Final = "gaveurs-slo"
PERIOD: Final = "30d"


def board(m: Metrics) -> Board:
    return Board(
        UID,
        "Gaveurs / Service levels",
        "Objectives, error budgets and burn rates, as docs/slo.md defines and the alerts watch them.",
        (
            Section("Objectives, 30 days", _budgets()),
            Section("Behind them", _behind(m)),
            Section("Burn rates", _burn()),
        ),
        since="now-24h",
    )


def _bad_share() -> Query:
    bad = recorded.BAD_EVENTS.over_time("avg", PERIOD).sum("slo")
    return bad.over(recorded.EVENTS.over_time("avg", PERIOD).sum("slo"))


def _budgets() -> tuple[Panel, ...]:
    spent = _bad_share().over(recorded.BUDGET.now().max("slo"))
    steps = ((0, YELLOW), (0.25, GREEN))
    return (
        states(
            Face(
                1,
                "Kept",
                f"Share of good events over {PERIOD}.",
                units.PercentUnit,
                8,
                6,
                ((0.99, GREEN),),
                RED,
                3,
                lowest=None,
            ),
            Line(_bad_share().left_of(1), "{{slo}}"),
        ),
        states(
            Face(
                2,
                "Error budget left",
                f"Of {PERIOD}: 100 % untouched, below 0 the objective is missed.",
                units.PercentUnit,
                8,
                6,
                steps,
                RED,
                1,
                lowest=None,
            ),
            Line(spent.left_of(1), "{{slo}}"),
        ),
        states(
            Face(3, "Error budget", "Share of events that may be bad.", units.PercentUnit, 8, 6, decimals=2),
            Line(recorded.BUDGET.now().max("slo"), "{{slo}}"),
        ),
    )


def _behind(m: Metrics) -> tuple[Panel, ...]:
    late = process(m.sample_processing)
    lost = process(m.acks_uncommitted).count_of().sum("instance")
    return (
        graph(
            Face(10, "Events", "Requests and samples that count, a second.", "cps", 12),
            Line(recorded.EVENTS.now().sum("slo"), "{{slo}}"),
        ),
        graph(
            Face(11, "Response time, p99", "Of requests that count; all instances.", units.Seconds, 12),
            Line(recorded.LATENCY_P99.now().max(), "p99"),
        ),
        graph(
            Face(
                12,
                "Samples committed within",
                "Share, of those of the interval. The objective is 99 % within a second.",
                units.PercentUnit,
                12,
                steps=((0.99, GREEN),),
                base=RED,
                highest=1,
            ),
            *(Line(late.within(bound).sum().over(late.observed().sum()), f"{bound:g} s") for bound in (0.1, 0.5, 1.0)),
        ),
        graph(
            Face(
                13,
                "Acknowledged but not committed",
                "Since a process began. One is a lost sample. AcknowledgedSamplesLost watches it.",
                units.Short,
                12,
                steps=((1, RED),),
            ),
            Line(lost, "{{instance}}"),
        ),
        graph(
            Face(
                14,
                "Time to the commit, p99",
                "Over 5 minutes and all instances: what AckLatencyHigh watches (1 s).",
                units.Seconds,
                24,
                steps=rising(0.5, 1),
            ),
            Line(recorded.COMMIT_P99.now().max(), "p99"),
        ),
    )


def _burn() -> tuple[Panel, ...]:
    def rate(window: str) -> Query:
        return recorded.ERRORS[window].now().sum("slo").over(recorded.BUDGET.now().max("slo"))

    pairs = {"1h": ("5m", 14.4), "6h": ("30m", 6.0), "1d": ("2h", 3.0), "3d": ("6h", 1.0)}
    return tuple(
        graph(
            Face(
                20 + place,
                f"Burn rate over {long} and {short}",
                f"1 spends the budget in {PERIOD}. ErrorBudgetBurn fires when both are above {bound:g}.",
                "x",
                12,
                steps=rising(bound / 2, bound),
            ),
            Line(rate(long), f"{{{{slo}}}} {long}"),
            Line(rate(short), f"{{{{slo}}}} {short}"),
        )
        for place, (long, (short, bound)) in enumerate(pairs.items())
    )
