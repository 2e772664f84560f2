"""Plots of the decomposition: what many vectors have in common, so that their number does not change a plot's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from harness.records import VectorKind
from harness.report.plots import INK, KINDS, MUTED, REAL, WARM, bare
from harness.results.diagnostics import DiagnosticsGroup, Floats, rectangle

PUBLISHED_COSINE, PUBLISHED_JACCARD = 0.9, 0.8
"""Agreement of two random seeds in Avrahamy, Gur-Arieh, Geva 2026 ([R]), arXiv:2604.06005."""
_SPREAD = (0.1, 0.9)
_POINTS = 101


def reconstruction_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return the share of the squared weight norm inside the span of the first channels, by kind."""
    figure, axes = _axes("channels", "squared norm in their span")
    for kind, of_kind in _kinds(groups):
        _curve(axes, rectangle([row for group in of_kind for row in group.reconstruction]), KINDS[kind], str(kind))
    drawn = rectangle([item.reconstruction for group in groups for item in group.random])
    _curve(axes, drawn, MUTED, "random vectors")
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return _finished(figure, axes, "lower right")


def cosine_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return how close the channels lie to their weight vector, in order of discovery, by kind."""
    figure, axes = _axes("channel, in order of discovery", "cosine with the weight vector")
    for kind, of_kind in _kinds(groups):
        _curve(axes, _stacked([group.cosine for group in of_kind]), KINDS[kind], str(kind))
    _curve(axes, rectangle([item.cosine for group in groups for item in group.random]), MUTED, "random vectors")
    axes.set_ylim(0, 1.03)
    return _finished(figure, axes, "lower right")


def masked_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return how many tokens the mask of each channel covers, in order of discovery, by kind."""
    figure, axes = _axes("channel, in order of discovery", "tokens that its mask covers")
    for kind, of_kind in _kinds(groups):
        masked = _stacked([group.masked_tokens for group in of_kind])
        _curve(axes, masked, KINDS[kind], str(kind), centre=np.nanmedian)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    return _finished(figure, axes, "lower right")


def kurtosis_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return the excess kurtosis of the weight vectors (at 0) and of their channels, by kind."""
    figure, axes = _axes("weight vector (w), then its channels in order of discovery", "excess kurtosis")
    for kind, of_kind in _kinds(groups):
        with_vector = [np.column_stack([group.vector_kurtosis, group.kurtosis]) for group in of_kind]
        _curve(axes, _stacked(with_vector), KINDS[kind], str(kind), first=0, centre=np.nanmedian)
    drawn = [[item.kurtosis, *item.channel_kurtosis] for group in groups for item in group.random]
    _curve(axes, rectangle(drawn), MUTED, "random vectors", first=0, centre=np.nanmedian)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}".replace("-", "−")))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "w" if value == 0 else f"{value:g}"))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    return _finished(figure, axes, "lower right")


def loss_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return how the losses of first channels are distributed, beside those of random vectors."""
    figure, axes = _axes("loss of the first channel", "share of vectors below")
    shares = np.linspace(0, 1, _POINTS)
    for kind, of_kind in _kinds(groups):
        losses = np.concatenate([group.loss[:, 0] for group in of_kind])
        axes.plot(np.quantile(losses, shares), shares, color=KINDS[kind], linewidth=2, label=str(kind))
    drawn = [item.loss[0] for group in groups for item in group.random]
    if drawn:
        quantiles = np.quantile(drawn, shares)
        axes.plot(quantiles, shares, color=MUTED, linewidth=2, linestyle=(0, (4, 2)), label="random vectors")
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace("-", "−")))
    return _finished(figure, axes, "lower right")


def consistency_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return how alike the channels found from two starts are; dashed: what is published for two seeds."""
    figure, axes = _axes("agreement with the partner from another start", "share of channels")
    again = [item for group in groups for item in group.restarts]
    edges = np.linspace(0, 1, 21)
    for values, colour, label, published in (
        ([value for item in again for value in item.cosine], REAL, "cosine", PUBLISHED_COSINE),
        ([value for item in again for value in item.jaccard], WARM, "Jaccard of top tokens", PUBLISHED_JACCARD),
    ):
        weights = np.full(len(values), 1 / max(len(values), 1))
        counts, _ = np.histogram(np.clip(values, 0, 1), edges, weights=weights)
        axes.stairs(counts, edges, fill=True, color=to_rgba(colour, 0.2))
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(published, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlim(0, 1.01)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return _finished(figure, axes, "upper left")


def skew_figure(groups: Sequence[DiagnosticsGroup]) -> Figure:
    """Return how many channels are carried by the upper tail of their projection, in order of discovery, by kind."""
    figure, axes = _axes("channel, in order of discovery", "carried by the upper tail")
    for kind, of_kind in _kinds(groups):
        skewness = _stacked([group.skewness for group in of_kind])
        share = (skewness >= 0).sum(axis=0) / (~np.isnan(skewness)).sum(axis=0)
        _line(axes, share, KINDS[kind], str(kind))
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return _finished(figure, axes, "lower right")


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.9, 3.7), layout="constrained")
    axes = bare(figure.add_subplot(), left=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x.startswith(("channel", "weight"))))
    axes.grid(color=MUTED, alpha=0.22, linewidth=0.7)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    return figure, axes


def _finished(figure: Figure, axes: Axes, place: Literal["lower right", "upper left"]) -> Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc=place)
    return figure


def _kinds(groups: Sequence[DiagnosticsGroup]) -> Iterator[tuple[VectorKind, list[DiagnosticsGroup]]]:
    for kind in KINDS:
        found = [group for group in groups if group.kind is kind]
        if found:
            yield kind, found


def _stacked(tables: Sequence[Floats]) -> Floats:
    """Stack tables of different width, nan where one is narrower."""
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
    """Draw the centre of every column and its middle 80 %; random vectors, whose colour is muted, without spread."""
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
