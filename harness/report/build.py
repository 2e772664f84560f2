"""The report: one HTML file without any outside part, from run folders alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from harness.errors import HarnessError
from harness.folder import RunFolder, replacing
from harness.planted import sanity
from harness.report import notes, tables
from harness.report.alignment_plot import alignment_plot
from harness.report.cards import Card, build_cards, histogram_path
from harness.report.decomposition_plots import decomposition_plots
from harness.report.packed import FRAGMENTS_PER_LINE, pack
from harness.report.plots import leaderboard_plot, to_svg, win_matrix_plot
from harness.report.sweep_plots import sweep_plot
from harness.results import columns
from harness.results.alignment import alignment_notices
from harness.results.diagnostics import DiagnosticsRow, diagnostics_row, together
from harness.results.formatting import number, p_value, percent, plural, shown_token, visible
from harness.results.pool import Pool
from harness.results.run_data import RunData, load_run
from harness.results.sweep import Sweep

_HERE = Path(__file__).parent
IN_FULL = 4
"""Runs of a joint report that are shown in full, their neurons included; of more, what they have side by side."""


@dataclass(frozen=True)
class RunSection:
    """One run as the template shows it.

    Attributes:
        prefix: keeps its anchors apart from those of the other runs.
        data: the run.
        summary: the run in two sentences.
        notice: what its results cannot say, if there is more than usual.
        unaligned: warnings that neurons do not align with tokens.
        warnings: controls that hold their own.
        cards: the neurons, without what is shown when one is opened.
        packed: what is shown then: see :mod:`harness.report.packed`.
        plots: the plots, by name.
        diagnostics: the diagnostics of the decomposition by layer and kind, those of all behind them.
        config: the configuration as JSON.
    """

    prefix: str
    data: RunData
    summary: str
    notice: str | None
    unaligned: list[str]
    warnings: list[str]
    cards: list[Card]
    packed: list[str]
    plots: dict[str, Markup]
    diagnostics: list[DiagnosticsRow]
    config: str


def build_report(folders: Sequence[RunFolder], path: Path) -> None:
    """Write the report of one run, or of several side by side, to ``path``.

    The statistics are those in ``leaderboard.json``, or computed from the records if there is none. Equal folders make
    equal bytes. The file loads nothing from outside; its content security policy forbids it.

    Raises:
        HarnessError: if a folder is damaged or not a run folder, or there are no folders.
    """
    write_report([load_run(folder) for folder in folders], path)


def write_report(runs: Sequence[RunData], path: Path, pooled: Pool | None = None) -> None:
    """Write the report of loaded runs, optionally with their pooled leaderboard; see :func:`build_report`."""
    if not runs:
        raise HarnessError("a report needs at least one run folder")
    html = render_report(runs, pooled)
    with replacing(path) as aside:
        aside.write_text(html, encoding="utf-8")


def script_hash(script: str) -> str:
    """Return the source expression that allows an inline script in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def render_report(runs: Sequence[RunData], pooled: Pool | None = None) -> str:
    """Return the report as HTML; with more than ``IN_FULL`` runs, only their comparison."""
    sweep = Sweep(tuple(runs))
    templates = environment()
    prefixes = [f"r{place}-" if len(runs) > 1 else "" for place in range(1, len(runs) + 1)]
    shown = list(zip(runs, prefixes, strict=True)) if len(runs) <= IN_FULL else []
    sections = [_section(run, prefix, templates) for run, prefix in shown]
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    return templates.get_template("report.html.j2").render(
        sections=sections,
        fragments_per_line=FRAGMENTS_PER_LINE,
        several=len(runs) > 1,
        differences=notes.config_differences(runs),
        sweep=sweep,
        sweep_plots=_sweep_plots(sweep) if len(runs) > 1 else [],
        on_text=columns.ON_TEXT,
        pooled=pooled,
        pooled_plot=_pooled_plot(pooled) if pooled else None,
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=script_hash(script),
    )


def _sweep_plots(sweep: Sweep) -> list[tuple[str, Markup]]:
    """Return the plots of win rates and scores against each parameter, by its name."""
    found: list[tuple[str, Markup]] = []
    for parameter in sweep.parameters:
        for scorer in (None, *sweep.scorers) if len(parameter.levels) > 1 else ():
            if (figure := sweep_plot(sweep, parameter, scorer)) is not None:
                measure = "Mean score" if scorer else "Win rate"
                label = f"{measure} of each describer, with its interval, against a parameter (numbers: sweep.json)"
                found.append((parameter.name, Markup(to_svg(figure, f"sweep{len(found)}", label))))
    return found


def _pooled_plot(pooled: Pool) -> Markup:
    label = "Win rates of the describers of all runs with their intervals; the table below has the numbers"
    return Markup(to_svg(leaderboard_plot(pooled.leaderboard), "pooled", label))


def _section(run: RunData, prefix: str, templates: jinja2.Environment) -> RunSection:
    config = json.dumps(run.part("config"), indent=2, sort_keys=True, ensure_ascii=False, default=str)
    cards: list[Card] = []
    return RunSection(
        prefix=prefix,
        data=run,
        summary=notes.summary(run),
        notice=" ".join(filter(None, (notes.extractive_notice(run), notes.own_encoder_notice(run)))) or None,
        unaligned=alignment_notices(run.leaderboard.alignment),
        warnings=notes.control_warnings(run),
        packed=pack(_insides(run, prefix, templates, cards)),
        cards=cards,
        plots=_plots(run, prefix),
        diagnostics=[diagnostics_row(group) for group in (*run.diagnostics, together(run.diagnostics))]
        if run.diagnostics
        else [],
        config=config,
    )


def _insides(run: RunData, prefix: str, templates: jinja2.Environment, heads: list[Card]) -> Iterator[str]:
    """Yield the inside of each card, and collect the heads; all cards at once would take too much memory."""
    inside: Any = templates.get_template("neuron.html.j2").module.neuron_inside  # type: ignore[attr-defined]
    level = 3 if prefix else 2
    for card in build_cards(run):
        yield inside(card, prefix, level)
        heads.append(replace(card, vectors=(), splits=(), descriptions=(), comparisons=()))


def _plots(run: RunData, prefix: str) -> dict[str, Markup]:
    """Return the plots that the run has data for, by name."""
    board = run.leaderboard
    plots: dict[str, tuple[Figure, str]] = {}
    if board.overall.rows and not board.only_scores:
        label = "Win rates of the describers with their intervals; the table below has the numbers"
        plots["leaderboard"] = (leaderboard_plot(board), label)
    if board.overall.cells:
        label = "Win rate in percent of each describer, in rows, against each other one, in columns"
        plots["matrix"] = (win_matrix_plot(board), label)
    if board.alignment:
        label = "Mean size of the correlation of neurons with tokens by layer; the table below has the numbers"
        plots["alignment"] = (alignment_plot(board.alignment), label)
    plots |= decomposition_plots(run.diagnostics)
    # matplotlib escapes the names in its texts; the labels above hold none.
    return {name: Markup(to_svg(figure, prefix + name, label)) for name, (figure, label) in plots.items()}


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of all pages: HTML is escaped, and invisible characters are shown."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalise,
    )
    made.filters |= {
        "percent": percent,
        "number": number,
        "token": shown_token,
        "plural": plural,
        "p_value": p_value,
    }
    made.globals |= {"histogram_path": histogram_path, "failed": _failed}
    made.globals |= {"columns": columns, "tables": tables, "notes": notes, "sanity": sanity}
    return made


def _finalise(value: Any) -> Any:
    """Make invisible characters visible in every string of the page."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _failed(statuses: dict[str, int]) -> dict[str, int]:
    """Return the counts of the statuses that are not ok and occur."""
    return {status: count for status, count in statuses.items() if status != "ok" and count}
