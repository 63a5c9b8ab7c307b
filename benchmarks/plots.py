"""The plots of docs/performance.md: the same bytes for the same results, by the same matplotlib."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.docs import drawn, plots_of
from benchmarks.growth import curves
from benchmarks.harness import OURS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Rounds, Workload

# Text stays text, and neither ids nor metadata have anything of the day: https://matplotlib.org/stable/users/explain/customizing.html
mpl.rcParams.update(
    {"svg.hashsalt": "ts-otel-logging", "svg.fonttype": "none", "font.size": 8, "font.family": "sans-serif"}
)
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_OURS, _PEER = "#1b6ca8", "#b9b9b9"


def draw(folder: Path, found: list[tuple[Workload, Rounds]]) -> None:
    """Write a room's plots, as `plots_of` names them."""
    grown = [(workload, rounds) for workload, rounds in found if workload.axis]
    for name, _ in plots_of(found):
        figure = _curve(*grown.pop(0)) if grown else _bars(drawn(found))
        figure.savefig(folder / f"{name}.svg", metadata=_NO_METADATA)


def _curve(workload: Workload, rounds: Rounds) -> Figure:
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    for curve in curves(rounds):
        x, y = zip(*curve.points)
        color = _OURS if curve.contender == OURS else _PEER
        axes.plot(x, y, "o-", markersize=3, color=color, label=f"{curve.contender}, exponent {curve.exponent:.2f}")
        if curve.contender == OURS:
            linear = [y[-1] * at / x[-1] for at in x]
            axes.plot(x, linear, "--", linewidth=0.8, color="#808080", label="linear, to the same end")
    axes.set(xscale="log", yscale="log", xlabel=workload.axis, ylabel=workload.unit, title=workload.title)
    axes.set_xticks([at for at, _ in curves(rounds)[0].points], [str(at) for at, _ in curves(rounds)[0].points])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    return figure


def _bars(found: list[tuple[Workload, Rounds]]) -> Figure:
    heights = [len(rounds) + 1.5 for _, rounds in found]
    figure = Figure(figsize=(7.0, 0.19 * sum(heights)), layout="constrained")
    panels: Any = figure.subplots(len(found), 1, height_ratios=heights, squeeze=False)
    for (workload, rounds), axes in zip(found, panels[:, 0]):
        names = list(rounds)
        medians = [statistics.median(rounds[name]) for name in names]
        below = [median - min(rounds[name]) for name, median in zip(names, medians)]
        above = [max(rounds[name]) - median for name, median in zip(names, medians)]
        axes.barh(
            names,
            medians,
            xerr=(below, above),
            color=[_OURS if name.startswith(OURS) else _PEER for name in names],
            error_kw={"linewidth": 0.7, "ecolor": "#404040"},
        )
        axes.invert_yaxis()
        axes.set_title(f"{workload.title} ({workload.unit})", loc="left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
