"""The report of a run: one HTML file, its plots, and the table in the terminal; all from the run folder alone."""

from harness.report.build import build_report
from harness.report.terminal import print_decomposition, print_judge_checks, print_reference_channels, print_sanity

__all__ = ["build_report", "print_decomposition", "print_judge_checks", "print_reference_channels", "print_sanity"]
