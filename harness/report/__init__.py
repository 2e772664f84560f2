"""The report of a run: one HTML file, its plots, and the table in the terminal; all from the run folder alone."""

from harness.report.build import build_report
from harness.report.decomposition import print_decomposition, store_decomposition
from harness.report.expected import print_expected
from harness.report.judges import print_judge_checks, store_judge_checks
from harness.report.terminal import print_leaderboard
from harness.results.run_data import RunData, load_run, store_leaderboard

__all__ = [
    "RunData",
    "build_report",
    "load_run",
    "print_decomposition",
    "print_expected",
    "print_judge_checks",
    "print_leaderboard",
    "store_decomposition",
    "store_judge_checks",
    "store_leaderboard",
]
