"""Terminal table of the judge checks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder
from harness.results import columns
from harness.results.comparability import statistics_of
from harness.results.formatting import visible
from harness.results.judge_checks import JudgeCheck
from harness.results.stored import read_judge_checks


def print_judge_checks(folder: RunFolder, console: Console) -> None:
    """Print one row for each judge with judge checks; columns without values are left out."""
    checks = read_judge_checks(folder)
    if not checks:
        return
    confidence = statistics_of(folder.read_manifest()).confidence
    found: dict[str, list[str]] = {}
    for metric in columns.shown_in(columns.CHECKS, columns.TERMINAL):
        cells = [metric.cells(check) for check in checks]
        if metric.key == "retest":
            cells = [[text + _retests(check)] for [text], check in zip(cells, checks, strict=True)]
        found |= dict(zip(metric.headings(confidence, short=True), map(list, zip(*cells, strict=True)), strict=True))
    shown = {heading: values for heading, values in found.items() if set(values) != {"–"}}
    table = Table(title="Judge checks", padding=(0, 1), title_justify="left")
    table.add_column("Judge", overflow="fold", min_width=12)
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for check, *values in zip(checks, *shown.values(), strict=True):
        table.add_row(Text(visible(check.judge)), *values)
    console.print(table)


def _retests(check: JudgeCheck) -> str:
    failed = f", {check.retests_failed} failed" if check.retests_failed else ""
    return f" of {check.retests}{failed}" if check.retests or failed else ""
