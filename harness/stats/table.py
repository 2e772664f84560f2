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
from harness.stats.boards import Board, Leaderboard, Row
from harness.stats.bootstrap import Interval

ALL_JUDGES = "all judges"
_ENDS = ("low", "high")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\^{}", "_": r"\_",
    "~": r"\~{}", "%": r"\%",
}  # fmt: skip


def csv_table(leaderboard: Leaderboard) -> str:
    """Return one line for each board and describer, in the leaderboard's order; a missing figure is an empty field.

    The columns are ``judge`` and the fields of :class:`~harness.stats.boards.Row`; an interval becomes two, ``low`` and
    ``high`` for that of the win rate, ``rank_low`` and ``rank_high`` for that of the rank.
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
    """Return the board of all judges as a Markdown table, with its trust line and what failed."""
    head = _head(leaderboard)
    lines = [_pipes([_in_markdown(name) for name in head]), _pipes(["---", *["---:"] * (len(head) - 1)])]
    lines += [_pipes([_in_markdown(cell) for cell in cells]) for cells in _body(leaderboard)]
    return "\n".join([*lines, "", _in_markdown(_foot(leaderboard)), ""])


def latex_table(leaderboard: Leaderboard) -> str:
    """Return the board of all judges as a LaTeX table (package booktabs), with its trust line and what failed."""
    head = _head(leaderboard)
    rows = [" & ".join(map(_in_latex, cells)) + r" \\" for cells in (head, *_body(leaderboard))]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(_foot(leaderboard))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
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
