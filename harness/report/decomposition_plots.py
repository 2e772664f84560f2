"""Plots of the decomposition. They show distributions over vectors, so their size does not grow with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from harness.records import VectorKind
from harness.report.plots import DASHED, INK, KINDS, MUTED, REAL, WARM, bare, percent_axis
from harness.results.diagnostics import DiagnosticsGroup, Floats, rectangle

PUBLISHED_COSINE, PUBLISHED_JACCARD = 0.9, 0.8
"""Agreement of two random seeds in Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005."""
_SPREAD = (0.1, 0.9)
_QUANTILES = 101
_RANDOM = "random vectors"
_RANK = "channel, in order of discovery"

Groups = Sequence[DiagnosticsGroup]


def decomposition_plots(groups: Groups) -> dict[str, tuple[Figure, str]]:
    """Return all plots of a decomposition with their alternative texts, by name; empty without decomposed vectors."""
    if not groups:
        return {}
    plots = {
        "kurtosis": (kurtosis_plot(groups), "Excess kurtosis of weight vectors and of their channels by rank"),
        "loss": (loss_plot(groups), "Losses of first channels of neurons and of random vectors"),
        "cosine": (cosine_plot(groups), "Cosine of channels and their weight vector"),
        "reconstruction": (
            reconstruction_plot(groups),
            "Fraction of the squared weight norm in the span of the first channels",
        ),
        "masked": (masked_plot(groups), "Number of tokens in the mask of each channel"),
        "skew": (skew_plot(groups), "Fraction of channels with positive skewness"),
    }
    if any(group.restarts for group in groups):
        plots["consistency"] = (consistency_plot(groups), "Agreement of channels found from two starts")
    return plots


def reconstruction_plot(groups: Groups) -> Figure:
    """Plot the fraction of the squared weight norm in the span of the first channels, by kind."""
    figure, axes = _axes("channels", "squared norm in their span")
    for kind, of_kind in _kinds(groups):
        _curve(axes, rectangle([row for group in of_kind for row in group.reconstruction]), KINDS[kind], str(kind))
    _curve(axes, rectangle([item.reconstruction for group in groups for item in group.random]), MUTED, _RANDOM)
    axes.set_ylim(0, 1.03)
    percent_axis(axes.yaxis)
    return _finished(figure, axes)


def cosine_plot(groups: Groups) -> Figure:
    """Plot the cosine of channels and their weight vector by rank, by kind."""
    figure, axes = _axes(_RANK, "cosine with the weight vector")
    for kind, of_kind in _kinds(groups):
        _curve(axes, _stacked([group.cosine for group in of_kind]), KINDS[kind], str(kind))
    _curve(axes, rectangle([item.cosine for group in groups for item in group.random]), MUTED, _RANDOM)
    axes.set_ylim(0, 1.03)
    return _finished(figure, axes)


def masked_plot(groups: Groups) -> Figure:
    """Plot the number of tokens in the mask of each channel by rank, by kind."""
    figure, axes = _axes(_RANK, "tokens in its mask")
    for kind, of_kind in _kinds(groups):
        masked = _stacked([group.masked_tokens for group in of_kind])
        _curve(axes, masked, KINDS[kind], str(kind), centre=np.nanmedian)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    return _finished(figure, axes)


def kurtosis_plot(groups: Groups) -> Figure:
    """Plot the excess kurtosis of the weight vectors (at 0) and of their channels by rank, by kind."""
    figure, axes = _axes("weight vector (w), then its channels in order of discovery", "excess kurtosis")
    for kind, of_kind in _kinds(groups):
        with_vector = [np.column_stack([group.vector_kurtosis, group.kurtosis]) for group in of_kind]
        _curve(axes, _stacked(with_vector), KINDS[kind], str(kind), first=0, centre=np.nanmedian)
    random = [[item.kurtosis, *item.channel_kurtosis] for group in groups for item in group.random]
    _curve(axes, rectangle(random), MUTED, _RANDOM, first=0, centre=np.nanmedian)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}".replace("-", "−")))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "w" if value == 0 else f"{value:g}"))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    return _finished(figure, axes)


def loss_plot(groups: Groups) -> Figure:
    """Plot the cumulative distribution of the losses of first channels, of neurons and of random vectors."""
    figure, axes = _axes("loss of the first channel", "fraction of vectors below")
    fractions = np.linspace(0, 1, _QUANTILES)
    for kind, of_kind in _kinds(groups):
        losses = np.concatenate([group.loss[:, 0] for group in of_kind])
        axes.plot(np.quantile(losses, fractions), fractions, color=KINDS[kind], linewidth=2, label=str(kind))
    random = [item.loss[0] for group in groups for item in group.random]
    if random:
        quantiles = np.quantile(random, fractions)
        axes.plot(quantiles, fractions, color=MUTED, linewidth=2, linestyle=(0, (4, 2)), label=_RANDOM)
    axes.set_ylim(0, 1.03)
    percent_axis(axes.yaxis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace("-", "−")))
    return _finished(figure, axes)


def consistency_plot(groups: Groups) -> Figure:
    """Plot the agreement of channels found from two starts; dashed lines show the published values for two seeds."""
    figure, axes = _axes("agreement with the matched channel from another start", "fraction of channels")
    restarts = [item for group in groups for item in group.restarts]
    edges = np.linspace(0, 1, 21)
    for values, colour, label, published in (
        ([value for item in restarts for value in item.cosine], REAL, "cosine", PUBLISHED_COSINE),
        ([value for item in restarts for value in item.jaccard], WARM, "Jaccard of top tokens", PUBLISHED_JACCARD),
    ):
        weights = np.full(len(values), 1 / max(len(values), 1))
        counts, _ = np.histogram(np.clip(values, 0, 1), edges, weights=weights)
        axes.stairs(counts, edges, fill=True, color=to_rgba(colour, 0.2))
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(published, color=colour, linewidth=1.2, linestyle=DASHED, zorder=1)
    axes.set_xlim(0, 1.01)
    percent_axis(axes.yaxis)
    return _finished(figure, axes, "upper left")


def skew_plot(groups: Groups) -> Figure:
    """Plot the fraction of channels with positive skewness by rank, by kind."""
    figure, axes = _axes(_RANK, "positive skewness")
    for kind, of_kind in _kinds(groups):
        skewness = _stacked([group.skewness for group in of_kind])
        _line(axes, (skewness >= 0).sum(axis=0) / (~np.isnan(skewness)).sum(axis=0), KINDS[kind], str(kind))
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    axes.set_ylim(0, 1.03)
    percent_axis(axes.yaxis)
    return _finished(figure, axes)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.9, 3.7), layout="constrained")
    axes = bare(figure.add_subplot(), left=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x.startswith(("channel", "weight"))))
    axes.grid(color=MUTED, alpha=0.22, linewidth=0.7)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    return figure, axes


def _finished(figure: Figure, axes: Axes, corner: Literal["lower right", "upper left"] = "lower right") -> Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc=corner)
    return figure


def _kinds(groups: Groups) -> Iterator[tuple[VectorKind, list[DiagnosticsGroup]]]:
    for kind in KINDS:
        found = [group for group in groups if group.kind is kind]
        if found:
            yield kind, found


def _stacked(tables: Sequence[Floats]) -> Floats:
    """Stack tables along the first axis, padding narrower ones with nan."""
    width = max(table.shape[1] for table in tables)
    return np.concatenate(
        [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=np.nan) for table in tables]
    )


def _curve(
    axes: Axes,
    table: Floats,
    colour: str,
    label: str,
    *,
    first: int = 1,
    centre: Callable[..., Floats] = np.nanmean,
) -> None:
    """Plot the centre of every column and, except for random vectors (muted colour), the middle 80 %."""
    if not table.size:
        return
    _line(axes, centre(table, axis=0), colour, label, first)
    if colour != MUTED:
        low, high = np.nanquantile(table, _SPREAD, axis=0)
        steps = np.arange(first, first + table.shape[1])
        axes.fill_between(steps, low, high, color=to_rgba(colour, 0.16), linewidth=0)


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
