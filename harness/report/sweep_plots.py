"""Plots of win rates and scores against the parameters that runs vary, one plot per parameter and measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from harness.report.plots import CONTROL, DASHED, INK, MARKERS, MUTED, bare, percent_axis, plain_legend, safe
from harness.results.parameters import Parameter, shown
from harness.results.sweep import Sweep

_COLOURS = ("#2a9d8f", "#d9733a", "#4f86d9", "#c2577b", "#8a9a3a", "#9a8fb0", "#b98a2f", "#5aa5c4")
_PANELS_A_ROW = 3


def sweep_plot(sweep: Sweep, parameter: Parameter, scorer: str | None = None) -> Figure | None:
    """Return a plot of the win rates of all describers, or of their mean scores, with intervals, against a parameter.

    If the runs vary only this parameter, all describers share one panel. Otherwise each describer has a panel; lines
    connect runs that are equal in all other parameters, which colours and markers show. The axis is logarithmic if the
    values span a decade. The dashed line marks a win rate of 0.5. If no run has a value, return None.
    """
    runs = range(len(sweep.runs))
    if all(sweep.result(run, name, scorer)[0] is None for run in runs for name in sweep.describers):
        return None
    others = [one for one in sweep.parameters if one is not parameter and not _follows(one, parameter)]
    if others:
        return _faceted(sweep, parameter, others, scorer)
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = bare(figure.add_subplot(), left=True)
    places = _positions(axes, parameter)
    step = _step(parameter, places, len(sweep.describers))
    colours = iter(_COLOURS * (1 + len(sweep.describers) // len(_COLOURS)))
    for number, name in enumerate(sweep.describers):
        control = name in sweep.controls
        shift = (number - (len(sweep.describers) - 1) / 2) * step
        _line(
            axes, sweep, name, scorer, runs, places, shift, parameter,
            colour=CONTROL if control else next(colours), marker=MARKERS[number % len(MARKERS)],
            label=f"{safe(name)} (control)" if control else safe(name), dashed=control,
        )  # fmt: skip
    _finish(axes, parameter, scorer)
    _legend(figure, axes, len(sweep.describers))
    return figure


def _faceted(sweep: Sweep, parameter: Parameter, others: Sequence[Parameter], scorer: str | None) -> Figure:
    columns = min(_PANELS_A_ROW, len(sweep.describers))
    lines = -(-len(sweep.describers) // columns)
    figure = Figure(figsize=(1.0 + 3.1 * columns, 0.9 + 2.5 * lines), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).ravel()
    groups: dict[tuple[str, ...], list[int]] = {}
    for run in range(len(sweep.runs)):
        groups.setdefault(tuple(shown(one.values[run]) for one in others), []).append(run)
    colours = [shown(level) for level in others[0].levels]
    marks = sorted(
        {key[1:] for key in groups}, key=lambda key: [_order(one, k) for one, k in zip(others[1:], key, strict=True)]
    )
    keys = sorted(groups, key=lambda key: [_order(one, k) for one, k in zip(others, key, strict=True)])
    for axes, name in zip(panels, sweep.describers, strict=False):
        bare(axes, left=True)
        places = _positions(axes, parameter)
        step = _step(parameter, places, len(keys))
        for number, key in enumerate(keys):
            label = ", ".join(f"{one.short}={value}" for one, value in zip(others, key, strict=True))
            _line(
                axes, sweep, name, scorer, groups[key], places, (number - (len(keys) - 1) / 2) * step, parameter,
                colour=_COLOURS[colours.index(key[0]) % len(_COLOURS)],
                marker=MARKERS[marks.index(key[1:]) % len(MARKERS)], label=safe(label, 60), dashed=False,
            )  # fmt: skip
        title = f"{safe(name)} (control)" if name in sweep.controls else safe(name)
        axes.set_title(title, fontsize=10, color=CONTROL if name in sweep.controls else INK, parse_math=False)
        _finish(axes, parameter, scorer)
    for axes in panels[len(sweep.describers) :]:
        axes.set_visible(False)
    for place, axes in enumerate(panels):
        if place < len(sweep.describers) - columns:
            axes.set_xlabel("")
        else:  # the lowest panel of its column
            axes.tick_params(labelbottom=True)
        if place % columns:
            axes.set_ylabel("")
    _legend(figure, panels[0], len(keys))
    return figure


def _line(
    axes: Axes,
    sweep: Sweep,
    describer: str,
    scorer: str | None,
    runs: Sequence[int],
    places: Sequence[float],
    shift: float,
    parameter: Parameter,
    *,
    colour: str,
    marker: str,
    label: str,
    dashed: bool,
) -> None:
    found = ((places[run], *sweep.result(run, describer, scorer)) for run in runs)
    known = sorted((x, value, interval) for x, value, interval in found if value is not None)
    if not known:
        return
    xs = [x * 10**shift if parameter.spans_decades else x + shift for x, _, _ in known]
    style = (0, (3, 2)) if dashed else "solid"
    joined = parameter.numeric and len(known) > 1
    for x, (_, _, interval) in zip(xs, known, strict=True):
        if interval is not None:
            axes.plot((x, x), interval, color=colour, linewidth=1.4, alpha=0.55, solid_capstyle="round", zorder=2)
    axes.plot(
        xs, [rate for _, rate, _ in known], color=colour, linestyle=style if joined else "none", linewidth=1.3,
        marker=marker, markersize=5, label=label, zorder=3,
    )  # fmt: skip


def _positions(axes: Axes, parameter: Parameter) -> list[float]:
    """Return the position of each run on the axis, and label the axis."""
    levels = list(parameter.levels)
    if parameter.spans_decades:
        axes.set_xscale("log")
    ticks = [float(level) for level in levels] if parameter.numeric else [float(n) for n in range(len(levels))]
    if len(levels) <= 12:
        axes.set_xticks(ticks, [safe(shown(level), 24) for level in levels], parse_math=False)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    known = {shown(level): tick for level, tick in zip(levels, ticks, strict=True)}
    return [known[shown(value)] for value in parameter.values]


def _step(parameter: Parameter, places: Sequence[float], count: int) -> float:
    """Return the distance between marks at one value, so that intervals do not overlap."""
    distinct = sorted(set(places))
    if len(distinct) < 2:
        return 0.02
    where = np.log10(distinct) if parameter.spans_decades else np.array(distinct)
    return min(1 / 25, 0.5 / count) * float(np.diff(where).min())


def _finish(axes: Axes, parameter: Parameter, scorer: str | None) -> None:
    if scorer is None:
        axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
        percent_axis(axes.yaxis)
    axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.7)
    axes.set_xlabel(safe(parameter.name, 60), color=INK, fontsize=9.5, parse_math=False)
    label = "win rate" if scorer is None else f"mean score, {safe(scorer, 40)}"
    axes.set_ylabel(label, color=INK, fontsize=9.5, parse_math=False)


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, entries), frameon=False, fontsize=8.5, labelcolor=INK
    )
    plain_legend(legend)


def _order(parameter: Parameter, value: str) -> int:
    return [shown(level) for level in parameter.levels].index(value)


def _follows(one: Parameter, other: Parameter) -> bool:
    """Return whether a parameter is a function of another: equal values of the other imply equal values of it."""
    pairs = {(shown(b), shown(a)) for a, b in zip(one.values, other.values, strict=True)}
    return len(pairs) == len({b for b, _ in pairs})
