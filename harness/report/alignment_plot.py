"""Plot of the alignment of neurons with tokens, by layer."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.records import Against
from harness.report.plots import DASHED, INK, KINDS, MUTED, bare
from harness.results.alignment import ALIGNED
from harness.results.schema import AlignmentRow

#: Marker and text of the legend.
_SHOWN = {Against.CURRENT: ("o", "current token"), Against.NEXT: (">", "next token"), Against.EFFECT: ("s", "effect")}
#: Distance in layers between the series of one layer.
_APART = 0.12


def alignment_plot(rows: Sequence[AlignmentRow]) -> Figure:
    """Plot mean |r| with its interval by layer for each kind, its control in grey, and the limit as a dashed line."""
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    axes = bare(figure.add_subplot(), left=True)
    axes.grid(axis="y", color=MUTED, alpha=0.22, linewidth=0.7)
    axes.axhline(ALIGNED, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    series = sorted({(row.kind, row.against) for row in rows}, key=lambda key: (list(KINDS).index(key[0]), key[1]))
    for place, (kind, against) in enumerate(series):
        shift = _APART * (place - (len(series) - 1) / 2)
        found = [row for row in rows if (row.kind, row.against) == (kind, against) and row.mean_abs is not None]
        marker, name = _SHOWN[against]
        layers = [row.layer + shift for row in found]
        axes.scatter(
            layers, [row.mean_abs or 0.0 for row in found], s=30, marker=marker, color=KINDS[kind],
            label=f"{kind}: {name}", zorder=4,
        )  # fmt: skip
        for layer, row in zip(layers, found, strict=True):
            if row.interval is not None:
                axes.plot((layer, layer), row.interval, color=KINDS[kind], linewidth=1.6, zorder=3)
        controls = [(layer, row.control) for layer, row in zip(layers, found, strict=True) if row.control is not None]
        axes.scatter(
            [layer for layer, _ in controls], [value for _, value in controls], s=16, marker="_", color=MUTED,
            label="another neuron's vector" if place == 0 else None, zorder=2,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer", color=INK)
    axes.set_ylabel("mean |r|", color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
