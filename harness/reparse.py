"""Read the stored raw answers of runs again, and ask nothing: ``python -m harness.reparse RUN [RUN ...]``.

For answers that came but could not be used: after the parser or a method has become better at reading them, this makes
of them what a run would make of them today, appends the records, and brings statistics and report up to date. What
would need a question stays as it is, until the run is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from harness.errors import HarnessError
from harness.flat import flatten
from harness.folder import RunFolder
from harness.llm.serving import Serving
from harness.records import Status
from harness.run.describe import describe
from harness.run.identity import check_same_run
from harness.run.judge import judge
from harness.run.masking import MASK
from harness.run.pipeline import cache_of, conclude, serving_of
from harness.run.setup import Setup


def main(arguments: Sequence[str] | None = None) -> None:
    """Reparse the runs named on the command line; exit with status 1 and one line on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m harness.reparse", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a run's folder")
    sys.path.insert(0, str(Path.cwd()))  # methods in the user's own folder are found by name
    try:
        for path in parser.parse_args(arguments).runs:
            before, after = reparse(RunFolder(path))
            print(f"{path}: of {before} records without a usable answer, {before - after} have one now")
    except HarnessError as error:
        sys.exit(f"error: {error}")


def reparse(folder: RunFolder) -> tuple[int, int]:
    """Read a run's stored answers again, and return how many records were not ok before and how many are now.

    Raises:
        HarnessError: if the folder holds no run with descriptions, or its answers are not stored where its config says.
    """
    manifest = folder.read_manifest()
    with folder.locked():
        before = _unusable(folder)
        if not len(folder.descriptions()):
            raise HarnessError(f"{folder.path} has no descriptions yet: start the run again instead")
        setup = Setup.of(OmegaConf.create({**manifest["config"], "folder": str(folder.path)}))
        # What is masked in the manifest is not known here.
        masked = [name for name, value in flatten(manifest["config"]).items() if MASK in str(value)]
        check_same_run(setup, folder, unknown=masked)
        setup.check()
        if not setup.backends:
            return before, before
        place = Path(setup.config["serving"]["cache"]).expanduser()
        if not place.is_dir():
            raise HarnessError(
                f"the answers of {folder.path} are not in {place} (serving.cache): call this from the folder in which "
                "the run was started"
            )
        cache = cache_of(setup)
        try:
            asyncio.run(_read_again(setup, folder, serving_of(setup, folder, cache, ask=False)))
        finally:
            cache.close()
        conclude(setup, folder, manifest)
        return before, _unusable(folder)


async def _read_again(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    async with serving:
        await describe(setup, folder, serving)
        await judge(setup, folder, serving)


def _unusable(folder: RunFolder) -> int:
    journals = folder.descriptions(), folder.verdicts(), folder.scores()
    return sum(record.status is not Status.OK for journal in journals for record in journal.records())


if __name__ == "__main__":
    main()
