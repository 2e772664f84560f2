"""Plots of the leaderboard with matplotlib. The report renders them as SVG, experiment tracking as images."""

from __future__ import annotations

import io
import re
import warnings

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, MultipleLocator

from harness.records import VectorKind
from harness.results.formatting import percent, visible
from harness.results.schema import Leaderboard, Row

INK = "#1b1f2a"  # for images on white; :func:`to_svg` replaces it by the colour of the surrounding text
MUTED = "#8b919e"  # this and the other colours are legible on light and dark backgrounds
REAL = "#2a9d8f"
CONTROL = "#9a8fb0"
WARM = "#d9733a"
KINDS = {VectorKind.GATE: "#4f86d9", VectorKind.IN: "#2a9d8f", VectorKind.OUT: "#d9733a"}
DASHED = (0, (4, 3))
MARKERS = "osD^vPX*<>"


def leaderboard_plot(leaderboard: Leaderboard) -> Figure:
    """Plot win rates with their intervals over all judges, and the win rates of single judges as small markers."""
    rows = leaderboard.overall.rows
    figure = Figure(figsize=(9.6, 1.15 + 0.42 * max(len(rows), 1)), layout="constrained")
    axes = bare(figure.add_subplot())
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=DASHED, zorder=1)
    several = len(leaderboard.judges) > 1
    for index, board in enumerate(leaderboard.judges if several else ()):
        rates = {row.describer: row.win_rate for row in board.rows}
        points = [(rates.get(row.describer), y) for y, row in enumerate(rows)]
        known = [(rate, y) for rate, y in points if rate is not None]
        marker = MARKERS[index % len(MARKERS)]
        axes.scatter(
            [rate for rate, _ in known],
            [y + 0.24 for _, y in known],
            s=15,
            marker=marker,
            facecolors="none",
            edgecolors=MUTED,
            linewidths=1,
            label=safe(board.judge or ""),
            zorder=2,
        )
    for y, row in enumerate(rows):
        _interval_bar(axes, row, y)
    axes.set_yticks(range(len(rows)), [safe(row.describer) for row in rows], parse_math=False)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(CONTROL if row.control else INK)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MultipleLocator(0.25))
    percent_axis(axes.xaxis)
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.7)
    axes.set_xlabel("win rate, ties as half", color=INK)
    if several:
        legend = figure.legend(
            loc="outside lower center",
            ncols=min(4, len(leaderboard.judges)),
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handletextpad=0.2,
        )
        plain_legend(legend)
    return figure


def _interval_bar(axes: Axes, row: Row, y: int) -> None:
    if row.win_rate is None:
        axes.text(0.5, y, " no decided comparison ", color=MUTED, fontsize=9, va="center", ha="center")
        return
    colour = CONTROL if row.control else REAL
    axes.barh(y, row.win_rate, height=0.3, color=to_rgba(colour, 0.22), zorder=1)
    if row.interval is not None:
        axes.plot(row.interval, (y, y), color=colour, linewidth=2.6, solid_capstyle="round", zorder=3)
    axes.scatter([row.win_rate], [y], s=44, color=colour, zorder=4)


def win_matrix_plot(leaderboard: Leaderboard) -> Figure:
    """Plot the win rate of each describer (row) against each other one (column), in percent, over all judges."""
    names = [row.describer for row in leaderboard.overall.rows]
    rates = {(cell.row, cell.column): cell.win_rate for cell in leaderboard.overall.cells}
    side = 0.62 * max(len(names), 2)
    figure = Figure(figsize=(min(1.9 + side, 11), min(1.3 + 0.8 * side, 9)), layout="constrained")
    axes = bare(figure.add_subplot())
    axes.spines["bottom"].set_visible(False)
    colours = np.zeros((len(names), len(names), 4))
    for y, row in enumerate(names):
        for x, column in enumerate(names):
            rate = rates.get((row, column))
            if rate is None:
                text, colour = ("" if row == column else "–"), to_rgba(MUTED, 0.12)
            else:
                text = percent(rate, 0)
                colour = to_rgba(REAL if rate >= 0.5 else WARM, 0.06 + 1.5 * abs(rate - 0.5))
            colours[y, x] = colour
            axes.text(x, y, text, ha="center", va="center", color=INK, fontsize=9.5)
    # A mesh stays vector graphics; imshow would embed a PNG whose bytes depend on the library's version.
    edges = np.arange(len(names) + 1) - 0.5
    if names:
        axes.pcolormesh(edges, edges, colours, edgecolors="none", rasterized=False)
    labels = [safe(name) for name in names]
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.set_xticks(range(len(names)), labels, parse_math=False, rotation=35, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    controls = {row.describer for row in leaderboard.overall.rows if row.control}
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, name in zip(ticks, names, strict=True):
            label.set_color(CONTROL if name in controls else INK)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    return figure


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Render a plot as an inline SVG element with a transparent background.

    Text stays text, and :data:`INK` becomes the colour of the surrounding text. Plots made in the same way give equal
    strings; rendering the same object twice may not.

    Args:
        figure: the plot.
        name: prefix of the element's ids, unique on the page and a valid id.
        label: alternative text, without markup.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has them
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(INK, "currentColor", svg, flags=re.IGNORECASE)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def bare(axes: Axes, *, left: bool = False) -> Axes:
    """Remove the frame of the axes, except the bottom line and, if ``left``, the left line."""
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" or (left and side == "left"))
        spine.set_color(MUTED)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.tick_params(which="minor", length=0)
    axes.patch.set_alpha(0)
    return axes


def safe(name: str, limit: int = 32) -> str:
    """Return a name for a plot: without invisible characters, at most ``limit`` characters long."""
    text = visible(name)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def percent_axis(axis: Axis) -> None:
    """Label an axis of fractions in percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def plain_legend(legend: Legend) -> None:
    """Show dollar signs in a legend's names as they are, not as mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)
