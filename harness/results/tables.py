"""The leaderboard's rows as CSV for a spreadsheet, as Markdown for a page, and as LaTeX for a paper."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.folder import replacing
from harness.results.schema import Board, Leaderboard, Row
from harness.stats.bootstrap import Interval

ALL_JUDGES = "all judges"
_ENDS = ("low", "high")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\^{}", "_": r"\_",
    "~": r"\~{}", "%": r"\%",
}  # fmt: skip


def csv_table(leaderboard: Leaderboard) -> str:
    """Return one line for each board and describer, in the leaderboard's order; a missing figure is an empty field.

    The columns are ``judge`` and the fields of :class:`~harness.results.schema.Row`; an interval becomes two, ``low``
    and ``high`` for that of the win rate, ``rank_low`` and ``rank_high`` for that of the rank.
    """
    text = io.StringIO()
    header = ["judge", *(name for field in dataclasses.fields(Row) for name in _columns(field.name))]
    writer = csv.DictWriter(text, header)
    writer.writeheader()
    for board in (leaderboard.overall, *leaderboard.judges):
        judge = ALL_JUDGES if board.judge is None else board.judge
        for row in board.rows:
            writer.writerow({"judge": judge, **dict(_cells(row))})
    return text.getvalue()


def _columns(field: str) -> list[str]:
    name = field.removesuffix("interval")
    return [field] if name == field else [name + end for end in _ENDS]


def _cells(row: Row) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(row):
        value, names = getattr(row, field.name), _columns(field.name)
        yield from zip(names, [value] if len(names) == 1 else value or (None, None), strict=True)


def write_csv(leaderboard: Leaderboard, path: Path) -> None:
    """Write :func:`csv_table`, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(csv_table(leaderboard), encoding="utf-8", errors="backslashreplace", newline="")


def markdown_table(leaderboard: Leaderboard) -> str:
    """Return the board of all judges as a Markdown table, with its trust line and what failed, and then the scores.

    Of a run whose judges only score there are no more than the scores.
    """
    blocks = []
    for head, text, body, foot in _tables(leaderboard):
        lines = [_pipes([_in_markdown(name) for name in head])]
        lines += [_pipes(["---"] * text + ["---:"] * (len(head) - text))]
        lines += [_pipes([_in_markdown(cell) for cell in cells]) for cells in body]
        blocks.append("\n".join([*lines, "", _in_markdown(foot), ""]))
    return "\n".join(blocks)


def latex_table(leaderboard: Leaderboard) -> str:
    """Return what :func:`markdown_table` does as LaTeX tables (package booktabs)."""
    return "\n".join(_latex(*table) for table in _tables(leaderboard))


def _latex(head: list[str], text: int, body: list[list[str]], foot: str) -> str:
    rows = [" & ".join(map(_in_latex, cells)) + r" \\" for cells in (head, *body)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(foot)}}}",
            rf"\begin{{tabular}}{{{'l' * text}{'r' * (len(head) - text)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tables(leaderboard: Leaderboard) -> Iterator[tuple[list[str], int, list[list[str]], str]]:
    """Yield tables: the heads of their columns, how many of these are text, the rows, and what is said below."""
    if not leaderboard.only_scores:
        yield _head(leaderboard), 1, list(_body(leaderboard)), _foot(leaderboard)
    if leaderboard.scores:
        head = ["scorer", "describer", "mean score", f"{100 * leaderboard.confidence:g} % interval", "n", "failed"]
        yield head, 2, list(_scores(leaderboard)), "Mean scores, each in its scorer's own unit; higher is better."


def _scores(leaderboard: Leaderboard) -> Iterator[list[str]]:
    for row in leaderboard.scores:
        yield [
            row.scorer,
            row.describer + (" (control)" if row.control else ""),
            _score(row.mean),
            "–" if row.interval is None else " to ".join(map(_score, row.interval)),
            str(row.scores),
            str(sum(row.statuses.values()) - row.scores),
        ]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _head(leaderboard: Leaderboard) -> list[str]:
    interval = f"{100 * leaderboard.confidence:g} % interval"
    return ["describer", "win rate %", interval, "at equal length %", "strength", "rank", "n", "failed", "words"]


def _body(leaderboard: Leaderboard) -> Iterator[list[str]]:
    for row in leaderboard.overall.rows:
        yield [
            row.describer + (" (control)" if row.control else ""),
            _percent(row.win_rate),
            _span(row.interval),
            _percent(row.adjusted_win_rate),
            "–" if row.strength is None else f"{row.strength:.2f}".replace("-", "−"),
            "–"
            if row.rank is None
            else str(row.rank) + ("" if row.rank_interval is None else _ranks(row.rank_interval)),
            str(row.comparisons),
            str(row.failed),
            "–" if row.mean_words is None else f"{row.mean_words:.1f}",
        ]


def _foot(leaderboard: Leaderboard) -> str:
    board = leaderboard.overall
    neurons = f"{leaderboard.neurons} neuron{'s' * (leaderboard.neurons != 1)}"
    notes = [board.trust.words, board.graph.words, board.length.words]
    return " ".join([f"{neurons}, {_judges(leaderboard)}.", *filter(None, notes)])


def _judges(leaderboard: Leaderboard) -> str:
    boards: tuple[Board, ...] = leaderboard.judges
    return f"judged by {', '.join(str(board.judge) for board in boards)}" if boards else "no comparing judge"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _span(interval: Interval | None) -> str:
    return "–" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"


def _ranks(interval: tuple[int, int]) -> str:
    return "" if interval[0] == interval[1] else f" ({interval[0]} to {interval[1]})"


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", _one_line(text))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))
