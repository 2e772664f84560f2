"""Plots of the decomposition. They show distributions over vectors, so their size does not grow with the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from harness.records import RandomVector, Restart, VectorKind
from harness.report.plots import DASHED, INK, KINDS, MUTED, REAL, WARM, bare, percent_axis
from harness.results.claims import SEEDS_COSINE, SEEDS_JACCARD
from harness.results.diagnostics import DiagnosticsGroup, Floats, rectangle, together

_SPREAD = (0.1, 0.9)
_QUANTILES = 101
_RANDOM = "random vectors"
_RANK = "channel, in order of discovery"

_AXIS = FuncFormatter(lambda value, _: f"{value:,.4g}".replace("-", "−"))

Kinds = Mapping[VectorKind, DiagnosticsGroup]


def decomposition_plots(groups: Sequence[DiagnosticsGroup]) -> dict[str, tuple[Figure, str]]:
    """Return all plots of a decomposition with their alternative texts, by name; empty without decomposed vectors."""
    if not groups:
        return {}
    kinds = {kind: together(found) for kind in KINDS if (found := [group for group in groups if group.kind is kind])}
    random, restarts = together(groups).random, together(groups).restarts
    plots = {
        "kurtosis": (kurtosis_plot(kinds, random), "Excess kurtosis of weight vectors and of their channels by rank"),
        "loss": (loss_plot(kinds, random), "Losses of first channels of neurons and of random vectors"),
        "cosine": (cosine_plot(kinds, random), "Cosine of channels and their weight vector"),
        "reconstruction": (
            reconstruction_plot(kinds, random),
            "Fraction of the squared weight norm in the span of the first channels",
        ),
        "masked": (masked_plot(kinds), "Number of tokens in the mask of each channel"),
        "skew": (skew_plot(kinds), "Fraction of channels with positive skewness"),
    }
    if restarts:
        plots["consistency"] = (consistency_plot(restarts), "Agreement of channels found from two starts")
    return plots


def reconstruction_plot(kinds: Kinds, random: Sequence[RandomVector]) -> Figure:
    """Plot the fraction of the squared weight norm in the span of the first channels, by kind."""
    figure, axes = _axes("channels", "squared norm in their span", share=True)
    _curves(axes, kinds, lambda group: group.reconstruction, [item.reconstruction for item in random])
    return _finished(figure, axes)


def cosine_plot(kinds: Kinds, random: Sequence[RandomVector]) -> Figure:
    """Plot the cosine of channels and their weight vector by rank, by kind."""
    figure, axes = _axes(_RANK, "cosine with the weight vector")
    _curves(axes, kinds, lambda group: group.cosine, [item.cosine for item in random])
    axes.set_ylim(0, 1.03)
    return _finished(figure, axes)


def masked_plot(kinds: Kinds) -> Figure:
    """Plot the number of tokens in the mask of each channel by rank, by kind."""
    figure, axes = _axes(_RANK, "tokens in its mask")
    _curves(axes, kinds, lambda group: group.masked_tokens, centre=np.nanmedian)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_AXIS)
    return _finished(figure, axes)


def kurtosis_plot(kinds: Kinds, random: Sequence[RandomVector]) -> Figure:
    """Plot the excess kurtosis of the weight vectors (at 0) and of their channels by rank, by kind."""
    figure, axes = _axes("weight vector (w), then its channels in order of discovery", "excess kurtosis")
    curves = [[item.kurtosis, *item.channel_kurtosis] for item in random]
    _curves(
        axes, kinds, lambda group: np.column_stack([group.vector_kurtosis, group.kurtosis]), curves, 0, np.nanmedian
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(_AXIS)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "w" if value == 0 else f"{value:g}"))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    return _finished(figure, axes)


def loss_plot(kinds: Kinds, random: Sequence[RandomVector]) -> Figure:
    """Plot the cumulative distribution of the losses of first channels, of neurons and of random vectors."""
    figure, axes = _axes("loss of the first channel", "fraction of vectors below", share=True)
    fractions = np.linspace(0, 1, _QUANTILES)
    for kind, group in kinds.items():
        axes.plot(np.quantile(group.loss[:, 0], fractions), fractions, color=KINDS[kind], linewidth=2, label=str(kind))
    if random:
        losses = np.quantile([item.loss[0] for item in random], fractions)
        axes.plot(losses, fractions, color=MUTED, linewidth=2, linestyle=(0, (4, 2)), label=_RANDOM)
    axes.xaxis.set_major_formatter(_AXIS)
    return _finished(figure, axes)


def consistency_plot(restarts: Sequence[Restart]) -> Figure:
    """Plot the agreement of channels found from two starts; dashed lines show the published values for two seeds."""
    figure, axes = _axes("agreement with the matched channel from another start", "fraction of channels")
    edges = np.linspace(0, 1, 21)
    for values, colour, label, published in (
        ([value for item in restarts for value in item.cosine], REAL, "cosine", SEEDS_COSINE),
        ([value for item in restarts for value in item.jaccard], WARM, "Jaccard of top tokens", SEEDS_JACCARD),
    ):
        weights = np.full(len(values), 1 / max(len(values), 1))
        counts, _ = np.histogram(np.clip(values, 0, 1), edges, weights=weights)
        axes.stairs(counts, edges, fill=True, color=to_rgba(colour, 0.2))
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(published, color=colour, linewidth=1.2, linestyle=DASHED, zorder=1)
    axes.set_xlim(0, 1.01)
    percent_axis(axes.yaxis)
    return _finished(figure, axes, "upper left")


def skew_plot(kinds: Kinds) -> Figure:
    """Plot the fraction of channels with positive skewness by rank, by kind."""
    figure, axes = _axes(_RANK, "positive skewness", share=True)
    for kind, group in kinds.items():
        positive = (group.skewness >= 0).sum(axis=0) / (~np.isnan(group.skewness)).sum(axis=0)
        _line(axes, positive, KINDS[kind], str(kind))
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    return _finished(figure, axes)


def _axes(x: str, y: str, *, share: bool = False) -> tuple[Figure, Axes]:
    """Return an empty plot; with ``share``, its vertical axis is a share in percent."""
    figure = Figure(figsize=(4.9, 3.7), layout="constrained")
    axes = bare(figure.add_subplot(), left=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x.startswith(("channel", "weight"))))
    axes.grid(color=MUTED, alpha=0.22, linewidth=0.7)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    if share:
        axes.set_ylim(0, 1.03)
        percent_axis(axes.yaxis)
    return figure, axes


def _finished(figure: Figure, axes: Axes, corner: Literal["lower right", "upper left"] = "lower right") -> Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc=corner)
    return figure


def _curves(
    axes: Axes,
    kinds: Kinds,
    table_of: Callable[[DiagnosticsGroup], Floats],
    random: Sequence[Sequence[float]] = (),
    first: int = 1,
    centre: Callable[..., Floats] = np.nanmean,
) -> None:
    """Plot the centre of every column and the middle 80 % for each kind, and the centre for random vectors."""
    for kind, group in kinds.items():
        table = table_of(group)
        if table.size:
            _line(axes, centre(table, axis=0), KINDS[kind], str(kind), first)
            low, high = np.nanquantile(table, _SPREAD, axis=0)
            steps = np.arange(first, first + table.shape[1])
            axes.fill_between(steps, low, high, color=to_rgba(KINDS[kind], 0.16), linewidth=0)
    if random:
        _line(axes, centre(rectangle(random), axis=0), MUTED, _RANDOM, first)


def _line(axes: Axes, values: Floats, colour: str, label: str, first: int = 1) -> None:
    axes.plot(
        np.arange(first, first + len(values)),
        values,
        color=colour,
        linewidth=2,
        linestyle=(0, (4, 2)) if colour == MUTED else "-",
        marker="o" if len(values) <= 15 else None,
        markersize=3.5 if len(values) > 1 else 6,
        label=label,
    )
