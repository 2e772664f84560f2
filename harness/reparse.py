"""Parse the stored answers of runs again, without calling an LLM: ``python -m harness.reparse RUN [RUN ...]``.

For answers that could not be used: after the parser or a method has become better at reading them, this makes the
records that a run would make today, appends them, and updates statistics and report. Items that need a new answer keep
their record until the run is started again.
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
from harness.run.explainer_check import check_explainer
from harness.run.identity import check_same_run
from harness.run.judge import judge
from harness.run.masking import MASK
from harness.run.pipeline import cache_of, conclude, serving_of
from harness.run.setup import Setup


def main(arguments: Sequence[str] | None = None) -> None:
    """Reparse the runs named on the command line; exit with status 1 and one line on a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m harness.reparse", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    sys.path.insert(0, str(Path.cwd()))  # so that the config can name methods in the user's folder
    try:
        for path in parser.parse_args(arguments).runs:
            before, after = reparse(RunFolder(path))
            print(f"{path}: of {before} records without a usable answer, {before - after} have one now")
    except HarnessError as error:
        sys.exit(f"error: {error}")


def reparse(folder: RunFolder) -> tuple[int, int]:
    """Parse a run's stored answers again, and return the number of records that are not ok, before and after.

    Raises:
        HarnessError: if the folder contains no run with descriptions, or the cache is not where its config says.
    """
    manifest = folder.read_manifest()
    with folder.locked():
        before = _unusable(folder)
        if not len(folder.descriptions()):
            raise HarnessError(f"{folder.path} has no descriptions yet: start the run again instead")
        setup = Setup.of(OmegaConf.create({**manifest["config"], "folder": str(folder.path)}))
        # Secrets are masked in the manifest, so their values are unknown here.
        masked = [name for name, value in flatten(manifest["config"]).items() if MASK in str(value)]
        check_same_run(setup, folder, unknown=masked)
        setup.check()
        if not setup.backends:
            return before, before
        cache_folder = Path(setup.serving.cache).expanduser()
        if not cache_folder.is_dir():
            raise HarnessError(
                f"the answers of {folder.path} are not in {cache_folder} (serving.cache): call this from the folder in "
                "which the run was started"
            )
        cache = cache_of(setup)
        try:
            asyncio.run(_parse_again(setup, folder, serving_of(setup, folder, cache, ask=False)))
        finally:
            cache.close()
        conclude(setup, folder, manifest)
        return before, _unusable(folder)


async def _parse_again(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    async with serving:
        await check_explainer(setup, folder, serving)
        await describe(setup, folder, serving)
        await judge(setup, folder, serving)


def _unusable(folder: RunFolder) -> int:
    found = [
        one
        for part in (folder, *folder.read_draws(), folder.own_corpus)
        for one in (part.descriptions(), part.verdicts(), part.scores())
    ]
    return sum(record.status is not Status.OK for journal in found for record in journal.records())


if __name__ == "__main__":
    main()
