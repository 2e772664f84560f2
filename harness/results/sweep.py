"""Several runs as one table: the options they vary and the metrics of every describer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import replacing, write_json
from harness.results import columns
from harness.results.comparability import incomparable
from harness.results.diagnostics import diagnostics_row, together
from harness.results.formatting import percent, visible
from harness.results.parameters import Parameter, shown, swept
from harness.results.run_data import RunData
from harness.results.schema import Row
from harness.results.tables import csv_metrics
from harness.stats.bootstrap import Interval


@dataclass(frozen=True)
class Sweep:
    """Runs side by side.

    Attributes:
        runs: the runs.
    """

    runs: tuple[RunData, ...]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Options that the runs vary."""
        return swept([run.manifest for run in self.runs])

    @cached_property
    def describers(self) -> tuple[str, ...]:
        """All describers of the runs: real ones first, then controls, in the order of the leaderboards."""
        names = dict.fromkeys(name for run in self.runs for name in run.describers)
        return tuple(sorted(names, key=lambda name: name in self.controls))

    @cached_property
    def controls(self) -> frozenset[str]:
        """The describers that are controls."""
        return frozenset(row.describer for run in self.runs for row in run.leaderboard.overall.rows if row.control)

    @cached_property
    def incomparable(self) -> list[str]:
        """Reasons why the metrics of the runs are not comparable; empty if they are."""
        return comparability_warnings(self.runs)

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """All scorers of the runs, in the order of the leaderboards."""
        return tuple(dict.fromkeys(row.scorer for run in self.runs for row in run.leaderboard.scores))

    def row(self, run: int, describer: str) -> Row | None:
        """Return the row of a describer in the leaderboard of a run, or None."""
        rows = self.runs[run].leaderboard.overall.rows
        return next((row for row in rows if row.describer == describer), None)

    def result(self, run: int, describer: str, scorer: str | None) -> tuple[float | None, Interval | None]:
        """Return the mean score of a describer in a run and its interval; without ``scorer``, its win rate."""
        if scorer is None:
            row = self.row(run, describer)
            return (None, None) if row is None else (row.win_rate, row.interval)
        scores = self.runs[run].leaderboard.scores
        found = ((one.mean, one.interval) for one in scores if (one.scorer, one.describer) == (scorer, describer))
        return next(found, (None, None))

    def value_text(self, parameter: Parameter, run: int) -> str:
        """Return the value of a parameter in a run as text."""
        value = parameter.values[run]
        return "–" if value is None else shown(value)

    def words(self) -> str:
        """Return sentences on what the runs vary and whether they are comparable."""
        if not self.parameters:
            varied = "The runs do not differ in any option."
        else:
            varied = "The runs vary " + "; ".join(
                f"{one.name} ({', '.join(shown(level) for level in one.levels)})" for one in self.parameters
            )
            varied += "."
        if self.incomparable:
            return varied
        return (
            f"{varied} They have the same subject, neurons, evidence and judges, so their metrics are comparable. A "
            "win rate is relative to the other describers of the same run, which may depend on the same options. "
            "Intervals are of single runs, which share their neurons: to test whether two runs differ, pool them "
            "(python -m harness.report --pool)."
        )


def comparability_warnings(runs: Sequence[RunData]) -> list[str]:
    """Return reasons why the metrics of the runs are not comparable, including different describers."""
    warnings = [difference.words for difference in incomparable([run.manifest for run in runs])]
    if len({frozenset(run.describers) for run in runs}) > 1:
        warnings.append("The runs compare different describers, and a win rate depends on who the opponents were.")
    return warnings


def write_tables(runs: Sequence[RunData], folder: Path) -> None:
    """Write ``sweep.json`` and ``sweep.csv``."""
    sweep = Sweep(tuple(runs))
    write_json(folder / "sweep.json", sweep_json(sweep))
    with replacing(folder / "sweep.csv") as aside:
        aside.write_text(sweep_csv(sweep), encoding="utf-8", errors="backslashreplace", newline="")


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """Return the runs with their parameters and metrics as plain JSON types.

    ``parameters`` holds names and levels, ``incomparable`` reasons. Each of the ``runs`` has ``folder``, ``name``,
    ``parameters``, ``trustworthy``, ``describers`` (metrics by describer), ``scores`` (means by scorer and describer)
    and ``decomposition`` (metrics of all layers and kinds, None if nothing was decomposed).
    """
    return {
        "parameters": [{"name": one.name, "levels": list(one.levels)} for one in sweep.parameters],
        "incomparable": sweep.incomparable,
        "runs": [_run_json(sweep, place) for place in range(len(sweep.runs))],
    }


def _run_json(sweep: Sweep, place: int) -> dict[str, Any]:
    run = sweep.runs[place]
    scores: dict[str, dict[str, float | None]] = {}
    for score in run.leaderboard.scores:
        scores.setdefault(score.scorer, {})[score.describer] = score.mean
    total = vars(diagnostics_row(together(run.diagnostics))) if run.diagnostics else None
    return {
        "folder": run.folder,
        "name": run.name,
        "parameters": {one.name: one.values[place] for one in sweep.parameters},
        "trustworthy": run.leaderboard.overall.trust.trustworthy,
        "describers": {
            row.describer: {"control": row.control, **dict(zip(_csv_names(), _csv_values(row), strict=True))}
            for row in run.leaderboard.overall.rows
        },
        "scores": scores,
        "decomposition": {name: value for name, value in (total or {}).items() if name not in {"layer", "kind"}}
        or None,
    }


def sweep_csv(sweep: Sweep) -> str:
    """Return a line for each run and describer: folder, parameters, describer, whether it is a control, metrics."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["folder", *(one.name for one in sweep.parameters), "describer", "control", *_csv_names()])
    for place, run in enumerate(sweep.runs):
        values = ["" if one.values[place] is None else shown(one.values[place]) for one in sweep.parameters]
        for row in run.leaderboard.overall.rows:
            writer.writerow([run.folder, *values, row.describer, row.control, *_csv_values(row)])
    return text.getvalue()


def _csv_names() -> list[str]:
    return [name for metric in csv_metrics(columns.SWEEP) for name in metric.csv_names()]


def _csv_values(row: Row) -> list[Any]:
    return [value for metric in csv_metrics(columns.SWEEP) for value in metric.csv_values(row)]


def print_sweep(runs: Sequence[RunData], console: Console, metrics: Mapping[str, float]) -> None:
    """Print the parameters of the runs and the win rates of all describers.

    Args:
        runs: the runs.
        console: where to print.
        metrics: the value of ``sweep.metric`` by folder, for the runs that have one.
    """
    sweep = Sweep(tuple(runs))
    table = Table(title=f"Sweep: {len(runs)} finished runs, win rates in %", title_justify="left", padding=(0, 1))
    table.add_column("Run", no_wrap=True)
    for parameter in sweep.parameters:
        table.add_column(Text(visible(parameter.short)), overflow="fold", justify="right")
    if metrics:
        table.add_column("Metric", justify="right")
    for name in sweep.describers:
        table.add_column(Text(visible(name), style="dim" if name in sweep.controls else ""), justify="right")
    best = max(metrics.values(), default=None)
    for place, run in enumerate(runs):
        value = metrics.get(run.folder)
        cells = [Text(visible(run.folder)), *(Text(visible(sweep.value_text(one, place))) for one in sweep.parameters)]
        if metrics:
            style = "bold" if value is not None and value == best else ""
            cells.append(Text("–" if value is None else f"{value:.4g}", style=style))
        rows = [sweep.row(place, name) for name in sweep.describers]
        cells += [Text("–" if row is None else percent(row.win_rate)) for row in rows]
        table.add_row(*cells)
    console.print(table)
    for reason in sweep.incomparable:
        console.print(Text(visible(reason), style="yellow"))
