"""The kinds of panel the dashboards are made of. Every one has a description and a unit."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from promql import buckets, quantile

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
LEVELS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
GREEN, AMBER, RED = "green", "orange", "red"
NOTHING = "none"  # a counter that has not counted yet has no series

Query = tuple[str, str]
"""PromQL and the legend."""
Step = tuple[float | None, str]
"""From this value on, this colour."""


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    width: int = 8,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time, or areas that add up. A query whose legend begins with "objective" is drawn as a dashed line."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .min(0)
        .no_value(NOTHING)
        .fill_opacity(40 if stacked else 5)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .span(width)
        .height(8)
        .targets(_targets(queries))
        .override_by_regexp(
            "/^objective/",
            [
                DynamicConfigValue("color", {"mode": "fixed", "fixedColor": RED}),
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}),
                DynamicConfigValue("custom.fillOpacity", 0),
                DynamicConfigValue("custom.stacking", {"mode": "none"}),
            ],
        )
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return panel if most is None else panel.max(most)


def quantiles(
    title: str, description: str, histogram: str, *more: Query, width: int = 8, unit: str = "s"
) -> timeseries.Panel:
    queries = [(quantile(level, histogram), name) for name, level in LEVELS.items()]
    return lines(title, description, unit, *queries, *more, width=width)


def number(title: str, description: str, unit: str, query: str, steps: Sequence[Step], decimals: int = 0) -> stat.Panel:
    """One number, now, coloured by the steps it has passed."""
    thresholds = [Threshold(value=value, color=color) for value, color in steps]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .decimals(decimals)
        .datasource(SOURCE)
        .no_value(NOTHING)
        .mappings([_not_a_number()])
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.AREA)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(3)
        .height(4)
        .targets(_targets([(query, title)]))
    )


def heat(title: str, description: str, unit: str, histogram: str, width: int = 8) -> heatmap.Panel:
    """How a histogram's observations spread over time."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit).decimals(1))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .cell_gap(1)
        .show_legend()
        .max_data_points(120)
        .span(width)
        .height(8)
        .targets([_target(buckets(histogram), "{{le}}").format(PromQueryFormat.HEATMAP)])
    )


def states(
    title: str, description: str, query: Query, names: dict[str, tuple[str, str]], width: int = 8
) -> statetimeline.Panel:
    """A value for each series over time, named and coloured: value -> (name, colour)."""
    results = {value: ValueMappingResult(text=text, color=color) for value, (text, color) in names.items()}
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .unit("none")
        .datasource(SOURCE)
        .no_value(NOTHING)
        .mappings([ValueMap(options=results)])
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .show_value(VisibilityMode.AUTO)
        .row_height(0.8)
        .span(width)
        .height(8)
        .targets(_targets([query]))
    )


def listing(title: str, description: str, query: str, columns: Sequence[str], width: int = 8) -> table.Panel:
    """The labels of what there is now, a row for each series."""
    wanted = {"include": {"names": list(columns)}}
    return (
        table.Panel()
        .title(title)
        .description(description)
        .unit("string")
        .datasource(SOURCE)
        .no_value(NOTHING)
        .span(width)
        .height(8)
        .targets([_target(query, "").format(PromQueryFormat.TABLE).instant()])
        .with_transformation(DataTransformerConfig(id_val="filterFieldsByName", options=wanted))
    )


def _legend() -> common.VizLegendOptions:
    options = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    return options.placement(LegendPlacement.BOTTOM)


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [_target(expr, legend).ref_id(chr(ord("A") + i)) for i, (expr, legend) in enumerate(queries)]


def _target(expr: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).range().ref_id("A")


def _not_a_number() -> SpecialValueMap:
    """0 / 0: nothing was asked."""
    options = DashboardSpecialValueMapOptions(
        match=SpecialValueMatch.NA_N, result=ValueMappingResult(text="idle", color=GREEN)
    )
    return SpecialValueMap(options)
