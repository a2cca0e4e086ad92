"""A dashboard put together: sections of panels, the variables that its queries use, annotations and links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from app.dashboards.alert_panels import PANEL_OF_ALERT, runbook_url
from app.dashboards.panels import PROMETHEUS
from app.dashboards.promql import JOB, everywhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.metrics import Metrics
    from app.dashboards.panels import Panel

TAG: Final = "gaveurs"
ROWS_FROM: Final = 1_000
"""Numbers of the rows' headings; panels have lower ones."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """What a dashboard shows."""

    uid: str
    title: str
    says: str
    sections: tuple[Section, ...]
    since: str = "now-6h"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for section in self.sections for panel in section.panels)

    def uses(self, variable: str) -> bool:
        return any(f"${variable}" in text or f"${{{variable}" in text for panel in self.panels for text in panel.texts)


class Event(models.AnnotationQuery):
    """An annotation's query with its words, which the SDK's model leaves out."""

    def __init__(self, said: models.AnnotationQuery, **more: Any) -> None:
        super().__init__(**vars(said))
        self._more = more

    def to_json(self) -> dict[str, object]:
        return super().to_json() | self._more


class EventQuery(dashboard.AnnotationQuery):
    """Its builder."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self._more = more

    def build(self) -> models.AnnotationQuery:
        return Event(self._internal, **self._more)


def assemble(board: Board, metrics: Metrics) -> models.Dashboard:
    """The dashboard as Grafana keeps it."""
    made = dashboard.Dashboard(board.title).uid(board.uid).description(board.says).tags([TAG]).readonly()
    made.time(board.since, "now").refresh("30s").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    for variable, make in VARIABLES.items():
        if variable == "datasource" or board.uses(variable) or (variable == "postgresql" and _asks_postgresql(board)):
            made.with_variable(make(metrics))
    for event in (_starts(metrics), _trips(metrics)):
        made.annotation(event)
    made.link(_to_the_others())
    for place, section in enumerate(board.sections):
        made.with_row(dashboard.Row(section.title).id(ROWS_FROM + place))
        for panel in section.panels:
            made.with_panel(panel.builder.links(_to_runbooks(board.uid, panel.number)))
    return made.build()


def _asks_postgresql(board: Board) -> bool:
    return any("SELECT" in text for panel in board.panels for text in panel.texts)


def _datasource(name: str, label: str, kind: str, uid: str) -> dashboard.DatasourceVariable:
    chosen = models.VariableOption(selected=True, text=label, value=uid)
    return dashboard.DatasourceVariable(name).label(label).type(kind).current(chosen)


def _values(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Those that Prometheus knows in the dashboard's time range; several, or all."""
    all_ = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    variable = dashboard.QueryVariable(name).label(label).datasource(PROMETHEUS).query(query).current(all_)
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.multi(multi=True).include_all(include_all=True)


def _instances(metrics: Metrics) -> dashboard.QueryVariable:
    """All is whatever there is, so that a replica that has just come is shown too."""
    query = f'label_values({metrics.build_info.name}{{job="{JOB}"}}, instance)'
    return _values("instance", "Instance", query).all_value(".*")


def _sites(metrics: Metrics) -> dashboard.QueryVariable:
    """All is every name, since PostgreSQL is asked by names too."""
    names = "|".join(family.name for family in (metrics.devices, metrics.site_samples))
    return _values("site", "Site", f'label_values({{__name__=~"{names}", job="{JOB}"}}, site)')


VARIABLES: Final[dict[str, Callable[[Metrics], dashboard.DatasourceVariable | dashboard.QueryVariable]]] = {
    "datasource": lambda _: _datasource("datasource", "Prometheus", "prometheus", "prometheus"),
    "postgresql": lambda _: _datasource(
        "postgresql", "PostgreSQL", "grafana-postgresql-datasource", "gaveurs-postgresql"
    ),
    "site": _sites,
    "instance": _instances,
}


def _starts(metrics: Metrics) -> EventQuery:
    """Deploys and restarts, at the moment of each process's start."""
    started, version = everywhere(metrics.started).selector(), everywhere(metrics.build_info).selector()
    expr = f"{started} * on (job, instance) group_left (version) {version} * 1000"
    made = EventQuery(step="60s", titleFormat="{{version}} started", textFormat="{{instance}}", useValueForTime="on")
    return made.name("Deploys and restarts").datasource(PROMETHEUS).icon_color("blue").expr(expr)


def _trips(metrics: Metrics) -> EventQuery:
    """Breakers that opened. The window is the annotation's step: none is missed, none shown twice."""
    opened = everywhere(metrics.breaker_transitions, to="open").increase("60s").sum("name", "instance").above(0)
    made = EventQuery(step="60s", titleFormat="Breaker {{name}} opened", textFormat="{{instance}}")
    return made.name("Breaker trips").datasource(PROMETHEUS).icon_color("red").expr(opened.text)


def _to_the_others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Gaveurs").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(as_dropdown=False).include_vars(include_vars=True).keep_time(keep_time=True)


def _to_runbooks(uid: str, number: int) -> list[Any]:
    """From a panel to what is to be done about the alerts that watch it."""
    alerts = [alert for alert, place in PANEL_OF_ALERT.items() if place == (uid, number)]
    return [
        dashboard.DashboardLink(f"Runbook: {alert}")
        .type(models.DashboardLinkType.LINK)
        .url(runbook_url(alert))
        .target_blank(target_blank=True)
        for alert in alerts
    ]
