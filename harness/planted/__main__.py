"""Recall and precision of the describers of a run on a planted subject: ``python -m harness.planted RUN``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.planted.recall import markdown, rows_of_run
from harness.results.comparability import statistics_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Print recall and precision of concepts as Markdown; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.planted", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--words", type=int, default=2, metavar="N", help="different words of a concept that count as naming it (2)"
    )
    options = parser.parse_args(arguments)
    try:
        folder = RunFolder(options.run)
        _, rows = rows_of_run(folder, words=options.words)
        confidence = statistics_of(folder.read_manifest()).confidence
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(rows, confidence))
    return 0


if __name__ == "__main__":
    sys.exit(main())
