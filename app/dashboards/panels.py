"""Panels by what they show, in the house's looks. Each has a number that stays: alerts and links name it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models import prometheus as prometheus_models

from app.dashboards.postgresql import DATASOURCE as POSTGRESQL
from app.dashboards.postgresql import Rows, SqlQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.dashboards.promql import Query

    Builder = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel | bargauge.Panel

PROMETHEUS: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, RED = "green", "orange", "red"
WHOLE: Final = 24


@dataclass(frozen=True, slots=True)
class Line:
    """A query and what its series are called."""

    query: Query
    legend: str


@dataclass(frozen=True, slots=True)
class Face:
    """What every panel has. `steps` are thresholds: a colour from a value on, and the first one's below all."""

    number: int
    title: str
    says: str
    unit: str
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    base: str = GREEN
    decimals: int | None = None
    lowest: float | None = 0
    highest: float | None = None
    nothing: str | None = None
    """What to show where there is no series, rightly."""
    words: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    """Words and colours for single values."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel's number and title, and what makes it; `links` are added when the dashboard is put together."""

    number: int
    title: str
    builder: Builder
    texts: tuple[str, ...]


def rising(warn: float, bad: float) -> tuple[tuple[float, str], ...]:
    """The higher the worse."""
    return ((warn, YELLOW), (bad, RED))


def graph(face: Face, *lines: Line, stacked: bool = False, exemplars: bool = False) -> Panel:
    """Lines over time."""
    panel = timeseries.Panel().show_points(shapes.VisibilityMode.NEVER).line_width(1)
    panel.fill_opacity(40 if stacked else 8).legend(_legend()).tooltip(_tooltip())
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    if face.steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED))
    return _over_prometheus(panel, face, lines, exemplars=exemplars)


def number(face: Face, line: Line) -> Panel:
    """The newest value, large, over its recent course."""
    panel = stat.Panel().graph_mode(shapes.BigValueGraphMode.AREA).color_mode(shapes.BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _over_prometheus(panel, face, (line,))


def states(face: Face, line: Line) -> Panel:
    """One coloured field for each series, now."""
    panel = stat.Panel().graph_mode(shapes.BigValueGraphMode.NONE).color_mode(shapes.BigValueColorMode.BACKGROUND)
    panel.text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _over_prometheus(panel, face, (line,), instant=True)


def buckets(face: Face, query: Query) -> Panel:
    """A histogram's buckets over time."""
    panel = heatmap.Panel().calculate(calculate=False)
    panel.color(heatmap.HeatmapColorOptions().mode(heatmaps.HeatmapColorMode.SCHEME).scheme("Spectral").steps(64))
    panel.scale_distribution(common.ScaleDistributionConfig().type(shapes.ScaleDistribution.LINEAR))
    panel.y_axis(heatmap.YAxisConfig().unit(face.unit).decimals(face.decimals or 0))
    _dress(panel, face).datasource(PROMETHEUS)
    panel.with_target(_target(Line(query, "{{le}}"), "A").format(prometheus_models.PromQueryFormat.HEATMAP))
    return Panel(face.number, face.title, panel, (query.text,))


def shares(face: Face, rows: Rows) -> Panel:
    """A bar for each row of a PostgreSQL query: its first column names it, its second is its length."""
    panel = bargauge.Panel().orientation(shapes.VizOrientation.HORIZONTAL).show_unfilled(show_unfilled=True)
    panel.display_mode(shapes.BarGaugeDisplayMode.BASIC)
    panel.reduce_options(common.ReduceDataOptions().values(values=True).calcs(["lastNotNull"]))
    return _over_postgresql(panel, face, rows)


def listing(face: Face, rows: Rows, units: Mapping[str, str]) -> Panel:
    """The rows of a PostgreSQL query; `units` by column."""
    panel = table.Panel().filterable(filterable=True)
    for column, unit in units.items():
        panel.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return _over_postgresql(panel, face, rows)


def history(face: Face, rows: Rows, *, bars: bool = True) -> Panel:
    """A PostgreSQL query's columns over its column `time`."""
    panel = timeseries.Panel().legend(_legend()).tooltip(_tooltip())
    style = shapes.GraphDrawStyle.BARS if bars else shapes.GraphDrawStyle.LINE
    panel.draw_style(style).fill_opacity(60 if bars else 8).show_points(shapes.VisibilityMode.NEVER)
    return _over_postgresql(panel, face, rows)


def _over_prometheus(
    panel: timeseries.Panel | stat.Panel,
    face: Face,
    lines: Sequence[Line],
    *,
    exemplars: bool = False,
    instant: bool = False,
) -> Panel:
    _dress(panel, face).datasource(PROMETHEUS)
    for place, line in enumerate(lines):
        target = _target(line, "ABCDEFGH"[place])
        if exemplars:
            target.exemplar(exemplar=True)
        panel.with_target(target.instant() if instant else target)
    return Panel(face.number, face.title, panel, tuple(line.query.text for line in lines))


def _over_postgresql(panel: timeseries.Panel | table.Panel | bargauge.Panel, face: Face, rows: Rows) -> Panel:
    _dress(panel, face).datasource(POSTGRESQL).with_target(SqlQuery(rows))
    return Panel(face.number, face.title, panel, (rows.sql,))


def _target(line: Line, ref_id: str) -> prometheus.Dataquery:
    query = line.query
    if query.shared:
        raise ValueError(f"every replica shows {query.text}: aggregate it by max")
    target = prometheus.Dataquery().expr(query.text).legend_format(query.check_legend(line.legend)).range()
    return target.ref_id(ref_id).editor_mode(prometheus_models.QueryEditorMode.CODE).datasource(PROMETHEUS)


def _dress(panel: Builder, face: Face) -> Builder:
    panel.id(face.number).title(face.title).description(face.says).unit(face.unit)
    panel.span(face.width).height(face.height)
    steps = [models.Threshold(value=None, color=face.base)]
    steps += [models.Threshold(value=value, color=colour) for value, colour in face.steps]
    panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    if face.decimals is not None:
        panel.decimals(face.decimals)
    if face.lowest is not None:
        panel.min(face.lowest)
    if face.highest is not None:
        panel.max(face.highest)
    if face.nothing is not None:
        panel.no_value(face.nothing)
    if face.words:
        panel.mappings([_spelled(face.words)])
    return panel


def _spelled(words: Mapping[float, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        {
            f"{value:g}": models.ValueMappingResult(text=text, color=colour, index=place)
            for place, (value, (text, colour)) in enumerate(words.items())
        }
    )


def _legend() -> common.VizLegendOptions:
    """As a table with the newest and the highest value: of twenty series one finds the worst."""
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE).show_legend(show_legend=True)
    return legend.placement(shapes.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
