"""The leaderboard as CSV, as Markdown, as LaTeX and in the terminal; :mod:`harness.results.columns` has the columns."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import replacing
from harness.results import columns
from harness.results.alignment import alignment_notices
from harness.results.claims import CONFIDENCE, ClaimRow
from harness.results.columns import Metric, shown_in
from harness.results.formatting import percent, visible
from harness.results.schema import Board, Cell, Leaderboard, Row

ALL_JUDGES = "all judges"
_STYLES = {True: "green", False: "bold red", None: "yellow"}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\^{}", "_": r"\_",
    "~": r"\~{}", "%": r"\%",
}  # fmt: skip


def csv_metrics(place: str) -> list[Metric]:
    """Return the metrics of a describer that are shown in ``place``, in the order of the fields of a row."""
    order = [field.name for field in dataclasses.fields(Row)]
    return sorted(shown_in(columns.BOARD, place), key=lambda metric: order.index(metric.key))


def csv_table(leaderboard: Leaderboard) -> str:
    """Return one line for each board and describer, in the leaderboard's order; a missing value is an empty field.

    An interval has two columns: ``low`` and ``high`` for the win rate, ``rank_low`` and ``rank_high`` for the rank.
    """
    text, metrics = io.StringIO(), csv_metrics(columns.CSV)
    writer = csv.writer(text)
    writer.writerow(["judge", "describer", "control", *(name for metric in metrics for name in metric.csv_names())])
    for board in (leaderboard.overall, *leaderboard.judges):
        for row in board.rows:
            values = [value for metric in metrics for value in metric.csv_values(row)]
            writer.writerow([board.judge or ALL_JUDGES, row.describer, row.control, *values])
    return text.getvalue()


def write_csv(leaderboard: Leaderboard, path: Path) -> None:
    """Write :func:`csv_table` atomically."""
    with replacing(path) as aside:
        aside.write_text(csv_table(leaderboard), encoding="utf-8", errors="backslashreplace", newline="")


#: Longest cell that the terminal never breaks, in characters.
_WHOLE = 16


@dataclass(frozen=True)
class _Grid:
    """One table: its rows, the columns that name a row, its metrics, and a note below."""

    title: str
    rows: Sequence[Any]
    names: dict[str, Callable[[Any], str]]
    metrics: Sequence[Metric]
    place: str
    note: str = ""

    def headings(self, confidence: float) -> list[str]:
        """Return the headings of the metrics."""
        short = self.place == columns.TERMINAL
        shown = shown_in(self.metrics, self.place, self.rows)
        return [heading for metric in shown for heading in metric.headings(confidence, short=short)]

    def cells(self, row: Any) -> list[tuple[Metric, str]]:
        """Return the cells of a row below the headings, each with its metric."""
        return [
            (metric, cell) for metric in shown_in(self.metrics, self.place, self.rows) for cell in metric.cells(row)
        ]


def _grids(leaderboard: Leaderboard, place: str) -> Iterator[_Grid]:
    """Yield head to head, boards, pairs with controls, scores, variation and the explainer, as far as they exist."""
    control = {row.describer for row in leaderboard.overall.rows if row.control}
    control |= {row.describer for row in leaderboard.scores if row.control}

    def named(attribute: str) -> Callable[[Any], str]:
        def name(row: Any) -> str:
            value: str = getattr(row, attribute)
            return f"{value} (control)" if value in control else value

        return name

    def pairs(title: str, note: str, cells: Callable[[Board], Sequence[Cell]]) -> Iterator[_Grid]:
        names = {"describer": named("row"), "against": named("column")}
        for board in leaderboard.shown:
            if found := cells(board):
                whole = board is leaderboard.overall
                about = f"{note}, {'all judges together' if whole else board.title}."
                name = title if whole else f"{title}: {board.title}"
                yield _Grid(name, found, names, columns.PAIRS, place, about)

    known = "Every pair of describers that know the neuron"
    yield from pairs("Head to head", known, attrgetter("head_to_head"))
    if not leaderboard.only_scores:
        names = {"describer": named("describer")}
        for board in leaderboard.shown:
            judges = "judge" if len(leaderboard.judges) == 1 else "judges"
            title = f"{leaderboard.neurons} neurons, {len(leaderboard.judges)} comparing {judges}"
            title = f"Leaderboard: {title if board is leaderboard.overall else board.title}"
            yield _Grid(title, board.rows, names, columns.BOARD, place, _note(leaderboard, board))
    if place != columns.TERMINAL:
        blind = "Every pair with a control that knows nothing of the neuron"
        yield from pairs("Against controls", blind, attrgetter("against_controls"))
    if leaderboard.scores:
        names = {"scorer": lambda row: row.scorer, "describer": named("describer")}
        note = "Mean scores, each in its scorer's own unit; higher is better."
        yield _Grid("Scores: no judge compares", leaderboard.scores, names, columns.SCORES, place, note)
    if place != columns.TERMINAL:
        names = {"measure": lambda row: row.measure, "describer": named("describer")}
        if leaderboard.variance:
            note = "Variance of win rates on a neuron and of scores, by source in %. " + " ".join(
                f"{measure}: {words}."
                for measure, words in dict.fromkeys((row.measure, row.words) for row in leaderboard.variance)
                if words
            )
            yield _Grid("What results vary with", leaderboard.variance, names, columns.VARIANCE, place, note)
        if leaderboard.corpus_shift:
            note = "Win rates and mean scores on held-out text of the corpus that describers see, and of the other one."
            yield _Grid("Shift between two corpora", leaderboard.corpus_shift, names, columns.SHIFT, place, note)
        if leaderboard.stability:
            names = {"evidence": lambda row: row.evidence, "describer": named("describer")}
            note = "Further descriptions of a neuron, from the same or from resampled evidence, and the first one."
            yield _Grid("Stability of descriptions", leaderboard.stability, names, columns.STABILITY, place, note)
    if leaderboard.explainer:
        names = {"explainer with": lambda row: row.describer or "all describers"}
        note = "The explainer on evidence that shows one known concept, with the prompts of each describer."
        yield _Grid("Explainer check: known concepts", leaderboard.explainer, names, columns.EXPLAINER, place, note)


def markdown_table(leaderboard: Leaderboard) -> str:
    """Return Markdown tables: head to head, boards with their trust lines, scores, variation and the explainer.

    A warning that no layer is aligned with tokens comes first.
    """
    blocks = [f"{_in_markdown(notice)}\n" for notice in alignment_notices(leaderboard.alignment)]
    blocks += [_markdown(grid, leaderboard.confidence) for grid in _grids(leaderboard, columns.TEXT)]
    return "\n".join(blocks)


def claims_markdown(rows: Sequence[ClaimRow]) -> str:
    """Return the published values of the decomposition next to a run's as a Markdown table."""
    return _markdown(_claims_grid(rows, columns.TEXT), CONFIDENCE)


def print_claims(rows: Sequence[ClaimRow], console: Console) -> None:
    """Print the published values of the decomposition next to a run's."""
    if rows:
        console.print(_terminal(_claims_grid(rows, columns.TERMINAL), CONFIDENCE))


def _claims_grid(rows: Sequence[ClaimRow], place: str) -> _Grid:
    note = f"Published: {'; '.join(dict.fromkeys(row.source for row in rows))}."
    names = {"decomposition": lambda row: str(row.claim)}
    return _Grid("Published values, and this run", rows, names, columns.CLAIMS, place, note)


def _markdown(grid: _Grid, confidence: float) -> str:
    metrics = grid.headings(confidence)
    lines = [[*grid.names, *metrics], ["---"] * len(grid.names) + ["---:"] * len(metrics)]
    lines += [[_in_markdown(cell) for cell in cells] for cells in _text_rows(grid)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", _in_markdown(grid.note), ""])


def latex_table(leaderboard: Leaderboard) -> str:
    """Return the tables of :func:`markdown_table` in LaTeX (package booktabs)."""
    blocks = []
    for grid in _grids(leaderboard, columns.TEXT):
        metrics = grid.headings(leaderboard.confidence)
        lines = [" & ".join(map(_in_latex, cells)) + r" \\" for cells in ([*grid.names, *metrics], *_text_rows(grid))]
        blocks += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(grid.note)}}}",
            rf"\begin{{tabular}}{{{'l' * len(grid.names)}{'r' * len(metrics)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join(blocks)


def _text_rows(grid: _Grid) -> Iterator[list[str]]:
    for row in grid.rows:
        yield [*(name(row) for name in grid.names.values()), *(cell for _, cell in grid.cells(row))]


def _note(leaderboard: Leaderboard, board: Board) -> str:
    neurons = f"{board.neurons} neuron{'s' * (board.neurons != 1)}"
    judges = board.judge or ", ".join(str(one.judge) for one in leaderboard.judges)
    judged = f"judged by {judges}" if judges else "no comparing judge"
    return " ".join(filter(None, [f"{neurons}, {judged}.", board.trust.words, board.graph.words, board.length.words]))


def print_leaderboard(leaderboard: Leaderboard, console: Console) -> None:
    """Print head to head, the boards, and whether the controls lose, in 80 columns.

    A run whose judges only score prints its scores instead. A warning that no layer is aligned with tokens comes first.
    """
    for notice in alignment_notices(leaderboard.alignment):
        console.print(Text(visible(notice), style="yellow"))
    for grid in _grids(leaderboard, columns.TERMINAL):
        if grid.rows and (grid.metrics is not columns.SCORES or leaderboard.only_scores):
            console.print(_terminal(grid, leaderboard.confidence))
    if leaderboard.only_scores:
        return
    boards = leaderboard.judges if len(leaderboard.judges) > 1 else ()
    for board in (leaderboard.overall, *boards):
        # A single judge is only worth a line if it contradicts all judges together.
        if board.judge is None or board.trust.trustworthy is not leaderboard.overall.trust.trustworthy:
            who = "" if board.judge is None else f"{board.judge}: "
            console.print(Text(visible(who + board.trust.words), style=_STYLES[board.trust.trustworthy]))
    if len(leaderboard.overall.graph.groups) > 1:
        console.print(Text(visible(leaderboard.overall.graph.words), style="yellow"))
    for health in leaderboard.health:
        parts = [f"{health.failed} of {health.failed + health.comparisons} comparisons failed"]
        if health.inconsistency is not None:
            parts.append(f"{percent(health.inconsistency)} % inconsistent between the two orders")
        if health.first_position_rate is not None:
            parts.append(f"{percent(health.first_position_rate)} % won by the first shown")
        console.print(Text(f"{visible(health.judge)}: {', '.join(parts)}", style="dim"))


def _terminal(grid: _Grid, confidence: float) -> Table:
    table = Table(title=grid.title, padding=(0, 1), title_justify="left")
    for heading in grid.names:
        table.add_column(heading.capitalize(), overflow="fold", min_width=10)
    cells_of = [[cell for _, cell in grid.cells(row)] for row in grid.rows]
    for place, heading in enumerate(grid.headings(confidence)):
        longest = max((len(cells[place]) for cells in cells_of), default=0)
        table.add_column(heading, justify="right", no_wrap=longest <= _WHOLE, overflow="fold")
    for row in grid.rows:
        shown: list[Text] = []
        for name in grid.names.values():
            text, control, end = visible(name(row)).partition(" (control)")
            shown.append(Text(text).append(control + end, style="dim"))  # a Text: brackets in a name are not markup
        for metric, cell in grid.cells(row):
            style = "bold" if metric.bold else "red" if metric.key == "failed" and cell != "0" else ""
            shown.append(Text(cell, style=style))
        table.add_row(*shown, style="dim" if getattr(row, "control", False) else "")
    return table


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", _one_line(text))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))
