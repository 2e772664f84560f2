"""Write a run as a Hugging Face data set or in the format of another project: ``python -m harness.export RUN``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from harness.errors import HarnessError
from harness.export.elsewhere import Elsewhere, export_to
from harness.folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run, print the folder, upload it with ``--push``, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.export", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder to write (RUN/export, RUN/FORMAT)")
    parser.add_argument(
        "--format",
        choices=["dataset", *get_args(Elsewhere)],
        default="dataset",
        help="dataset (default): tables for the hub; docs/formats.md describes the others",
    )
    parser.add_argument(
        "--exemplars",
        action="store_true",
        help="include the windows of text; check first that the licence of the corpus allows it",
    )
    parser.add_argument("--directions", action="store_true", help="data set: include the directions of the channels")
    parser.add_argument("--licence", default="other", metavar="ID", help="data set: licence, such as cc-by-4.0")
    parser.add_argument("--push", metavar="USER/NAME", help="data set: upload to this name on the hub (needs HF_TOKEN)")
    parser.add_argument("--private", action="store_true", help="make a new data set private")
    options = parser.parse_args(arguments)
    if options.format != "dataset" and (options.directions or options.push or options.private):
        parser.error("--directions, --push and --private are for the data set only")
    try:
        if options.format == "dataset":
            return _data_set(options)
        to = options.to or options.run / options.format
        written, left_out = export_to(RunFolder(options.run), to, options.format, exemplars=options.exemplars)
        print(to)
        if left_out:
            print(f"{written} neurons; left out: {left_out}, which are negative or belong to an expert")
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _data_set(options: argparse.Namespace) -> int:
    from harness.export.dataset import export_run, push  # imports datasets, which the other formats do not need

    folder = export_run(
        RunFolder(options.run),
        options.to or options.run / "export",
        exemplars=options.exemplars,
        directions=options.directions,
        licence=options.licence,
    )
    print(folder)
    if options.push:
        print(push(folder, options.push, private=options.private))
    return 0


if __name__ == "__main__":
    sys.exit(main())
