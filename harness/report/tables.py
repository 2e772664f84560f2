"""Lists of the leaderboard as tables with one column per describer or judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import RoleUsage, Usage, total_roles
from harness.results.answers import MethodAnswers
from harness.results.columns import SCORES
from harness.results.judge_checks import JudgeCheck, KnownPair
from harness.results.schema import Board, BreakdownRow, Concordance, LeftOut, LeftOutRow


@dataclass(frozen=True)
class Breakdown:
    """Win rates by one division of the neurons.

    Attributes:
        facet: how the neurons are divided.
        describers: the columns, best first.
        parts: each part with a row for each column, or None.
    """

    facet: str
    describers: tuple[str, ...]
    parts: tuple[tuple[str, tuple[BreakdownRow | None, ...]], ...]


def breakdowns(rows: Iterable[BreakdownRow], describers: Sequence[str]) -> list[Breakdown]:
    """Return one table for each division, in the order of the leaderboard."""
    facets: dict[str, dict[str, dict[str, BreakdownRow]]] = {}
    for row in rows:
        facets.setdefault(row.facet, {}).setdefault(row.part, {})[row.describer] = row
    found = []
    for facet, parts in facets.items():
        columns = tuple(name for name in describers if any(name in cells for cells in parts.values()))
        lines = tuple((part, tuple(cells.get(name) for name in columns)) for part, cells in parts.items())
        found.append(Breakdown(facet, columns, lines))
    return found


KnownLine = tuple[KnownPair, tuple[KnownPair | None, ...]]
"""A pair of known quality, and the result of each judge for it."""


def known_pairs(
    checks: Sequence[JudgeCheck], contestants: Mapping[str, Any]
) -> tuple[list[KnownLine], list[KnownLine]]:
    """Return the pairs of known quality, sorted by corruption: those with a right description, and the others.

    Args:
        checks: the judges, which are the columns.
        contestants: the contestants of the manifest with their corruption. The right ones have the highest quality and
            the weakest corruption.
    """
    done = {name: entry["corruption"] for name, entry in contestants.items() if entry.get("corruption")}
    order = {name: (-known["quality"], known.get("strength", 1.0)) for name, known in done.items()}
    right = {name for name, place in order.items() if place == min(order.values())}
    lines: dict[tuple[str, str], dict[str, KnownPair]] = {}
    for check in checks:
        for pair in check.pairs:
            lines.setdefault((pair.better, pair.worse), {})[check.judge] = pair
    found = [
        (next(iter(cells.values())), tuple(cells.get(check.judge) for check in checks)) for cells in lines.values()
    ]
    found.sort(key=lambda line: (not line[0].ordered, line[0].better, line[0].grade, -line[0].strength, line[0].worse))
    return (
        [line for line in found if right & {line[0].better, line[0].worse}],
        [line for line in found if not right & {line[0].better, line[0].worse}],
    )


def without_each(left_out: Sequence[LeftOut]) -> list[tuple[str, tuple[LeftOutRow, ...]]]:
    """Return each describer with its rows when each judge is left out, in the order of the judges."""
    lines: dict[str, list[LeftOutRow]] = {}
    for one in left_out:
        for row in one.rows:
            lines.setdefault(row.describer, []).append(row)
    return [(describer, tuple(rows)) for describer, rows in lines.items()]


def concordance_lines(
    concordance: Sequence[Concordance],
) -> tuple[list[str], list[tuple[str | None, tuple[Concordance | None, ...]]]]:
    """Return the scorers, and for each judge (None for all together) the concordance with each scorer."""
    scorers = sorted({item.scorer for item in concordance})
    lines: dict[str | None, dict[str, Concordance]] = {}
    for item in concordance:
        lines.setdefault(item.judge, {})[item.scorer] = item
    return scorers, [(judge, tuple(cells.get(name) for name in scorers)) for judge, cells in lines.items()]


def comparison_failures(board: Board, describer: str) -> dict[str, int]:
    """Return the number of failed single verdicts of a describer by status."""
    counts: Counter[str] = Counter()
    for cell in board.cells:
        if cell.row == describer:
            counts.update(cell.failures)
    return dict(sorted(counts.items()))


def by_role(answers: Iterable[MethodAnswers]) -> list[tuple[str, RoleUsage, list[tuple[str, RoleUsage]]]]:
    """Return the total usage of each LLM role, and its usage by method, including retests."""
    usages: dict[str, list[Usage]] = {}
    for one in answers:
        usages.setdefault(one.method, []).append(one.usage)
    roles = {method: total_roles(used) for method, used in usages.items()}
    totals = total_roles(Usage(roles=used) for used in roles.values())
    return [
        (role, total, [(method, used[role]) for method, used in roles.items() if role in used])
        for role, total in totals.items()
    ]


def further_metrics(metrics: Mapping[tuple[str, str], Mapping[str, Any]], scorer: str) -> list[str]:
    """Return the names of a scorer's metrics that have no column of their own, in the order of its scores."""
    names = dict.fromkeys(name for (own, _), found in metrics.items() if own == scorer for name in found)
    return [name for name in names if name not in {metric.key for metric in SCORES}]
