"""Rebuild the report from the records, or set runs side by side: ``python -m harness.report RUN [RUN ...]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.planted.sanity import store_sanity
from harness.report.build import write_report
from harness.results.pool import pool
from harness.results.run_data import load_run
from harness.results.stored import store_decomposition, store_judge_checks, store_leaderboard, store_pooled
from harness.results.sweep import write_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild leaderboard, decomposition.json and the report; print the report's path; return the exit status.

    One run: its own report.html, unless ``--output`` says otherwise. Several: one joint report,
    ``joint-report.html`` in the folder that holds the first run, with ``sweep.json`` and ``sweep.csv`` beside it, and,
    with ``--pool``, ``pooled-leaderboard`` as JSON, CSV, Markdown and LaTeX.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.report", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the report")
    pooling = "make one leaderboard of several runs; refused if their subject, neurons or evidence differ"
    parser.add_argument("--pool", action="store_true", help=pooling)
    options = parser.parse_args(arguments)
    # A sweep keeps files of its own beside its runs, which `runs/NAME/*` names as well.
    folders = [RunFolder(path) for path in options.runs if len(options.runs) == 1 or not path.is_file()]
    if not folders:
        print(f"error: no run folder among {', '.join(map(str, options.runs))}: these are files", file=sys.stderr)
        return 1
    several = len(folders) > 1
    beside = options.runs[0].resolve().parent / "joint-report.html"
    output = options.output or (beside if several else folders[0].report)
    try:
        if options.pool and not several:
            raise HarnessError("--pool makes one leaderboard of several runs: name more than one folder")
        pooled = pool(folders) if options.pool else None
        runs = [load_run(folder, recompute=True) for folder in folders]
        for folder, run in zip(folders, runs, strict=True):
            store_leaderboard(folder, run.leaderboard)
            store_decomposition(folder)
            store_judge_checks(folder)
            store_sanity(folder)
        if several:
            write_tables(runs, output.parent)
        if pooled is not None:
            store_pooled(pooled.leaderboard, output.parent)
        write_report(runs, output, pooled)
    except (HarnessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
