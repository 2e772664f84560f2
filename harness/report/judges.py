"""What the judges of a run are worth, where it is known which description is better: as JSON, and in the terminal."""

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
    """Print one line for each judge, if the run has anything to say of them."""
    checks = read_judge_checks(folder)
    if not checks:
        return
    confidence = statistics_of(folder.read_manifest()).confidence
    columns = {
        "Right %": [percent(check.accuracy) for check in checks],
        f"{100 * confidence:g} % interval": [_range(check.interval) for check in checks],
        "Brier": [_figure(check.brier) for check in checks],
        "n": [str(check.comparisons) for check in checks],
        "Failed": [str(check.failed) for check in checks],
        "Orders agree %": [percent(check.consistency) for check in checks],
        "First wins %": [percent(check.first_position_rate) for check in checks],
        "Longer": [_figure(check.length_effect, sign=True) for check in checks],
        "Self": [_figure(check.self_preference, sign=True) for check in checks],
        "Again": [_again(check) for check in checks],
    }
    missing = {percent(None), _figure(None)}
    shown = {heading: values for heading, values in columns.items() if not set(values) <= missing}
    table = Table(title="Judging the judges", padding=(0, 1), title_justify="left")
    table.add_column("Judge", overflow="fold", min_width=12)
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for check, *values in zip(checks, *shown.values(), strict=True):
        table.add_row(Text(visible(check.judge)), *values)
    console.print(table)


def _range(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _again(check: JudgeCheck) -> str:
    failed = f", {check.retests_failed} failed" if check.retests_failed else ""
    return f"{_figure(check.retest)} of {check.retests}{failed}" if check.retests or failed else _figure(None)


def _figure(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"
