"""Terminal table of the judge checks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.folder import RunFolder
from harness.results.comparability import statistics_of
from harness.results.formatting import percent, visible
from harness.results.judge_checks import JudgeCheck
from harness.results.stored import read_judge_checks


def print_judge_checks(folder: RunFolder, console: Console) -> None:
    """Print one row for each judge with judge checks; columns without values are left out."""
    checks = read_judge_checks(folder)
    if not checks:
        return
    confidence = statistics_of(folder.read_manifest()).confidence
    columns = {
        "Right %": [percent(check.accuracy) for check in checks],
        f"{100 * confidence:g} % interval": [_range(check.interval) for check in checks],
        "Brier": [_decimal(check.brier) for check in checks],
        "n": [str(check.comparisons) for check in checks],
        "Failed": [str(check.failed) for check in checks],
        "Orders agree %": [percent(check.consistency) for check in checks],
        "First wins %": [percent(check.first_position_rate) for check in checks],
        "Longer": [_decimal(check.length_effect, sign=True) for check in checks],
        "Self": [_decimal(check.self_preference, sign=True) for check in checks],
        "Again": [_retest(check) for check in checks],
    }
    shown = {heading: values for heading, values in columns.items() if set(values) != {"–"}}
    table = Table(title="Judge checks", padding=(0, 1), title_justify="left")
    table.add_column("Judge", overflow="fold", min_width=12)
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for check, *values in zip(checks, *shown.values(), strict=True):
        table.add_row(Text(visible(check.judge)), *values)
    console.print(table)


def _range(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _retest(check: JudgeCheck) -> str:
    failed = f", {check.retests_failed} failed" if check.retests_failed else ""
    return f"{_decimal(check.retest)} of {check.retests}{failed}" if check.retests or failed else "–"


def _decimal(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"
