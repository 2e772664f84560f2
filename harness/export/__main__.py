"""Write a run as a Hugging Face data set with a card, and optionally push it: ``python -m harness.export RUN``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HarnessError
from harness.export.dataset import export_run, push
from harness.folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run, print the folder, upload it with ``--push``, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.export", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder of the data set (RUN/export)")
    parser.add_argument(
        "--exemplars",
        action="store_true",
        help="include the windows of text; check first that the licence of the corpus allows it",
    )
    parser.add_argument("--licence", default="other", metavar="ID", help="licence for the card, such as cc-by-4.0")
    parser.add_argument("--push", metavar="USER/NAME", help="upload to this data set on the hub (needs HF_TOKEN)")
    parser.add_argument("--private", action="store_true", help="make a new data set private")
    options = parser.parse_args(arguments)
    try:
        folder = export_run(
            RunFolder(options.run),
            options.to or options.run / "export",
            exemplars=options.exemplars,
            licence=options.licence,
        )
        print(folder)
        if options.push:
            print(push(folder, options.push, private=options.private))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
