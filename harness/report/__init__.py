"""The report of a run: one HTML file, its plots, and the table in the terminal; all from the run folder alone."""

from harness.report.build import build_report
from harness.report.decomposition import print_decomposition
from harness.report.expected import print_expected
from harness.report.judges import print_judge_checks
from harness.report.terminal import print_leaderboard

__all__ = [
    "build_report",
    "print_decomposition",
    "print_expected",
    "print_judge_checks",
    "print_leaderboard",
]
