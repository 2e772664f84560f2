"""Sweeps: the outcome of each run, which may be in another process, and the comparison of all runs at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended.

    Attributes:
        number: its number in the sweep, from 0.
        folder: name of its folder in that of the sweep.
        overrides: the options that distinguish the run; in files without secrets.
        status: ``ok``, ``failed``, ``ended early`` (a method was stopped because too many of its requests failed), or
            ``lost`` (its process ended without a message: killed, or out of memory).
        metric: the value of ``sweep.metric``, if the run has it.
        message: why it failed, in one line.
    """

    number: int
    folder: str
    overrides: tuple[str, ...]
    status: Literal["ok", "failed", "ended early", "lost"]
    metric: float | None = None
    message: str = ""


def _public(override: str, without_secrets: Callable[[Any], Any]) -> str:
    """Return an override such as ``llm.judge.env.HF_TOKEN=abc`` without the secrets in its value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override)
    names = parsed.key_or_group.split(".")
    value = masked = parsed.value()
    for name in reversed(names):
        masked = {name: masked}
    masked = without_secrets(masked)
    for name in names:
        masked = masked[name] if isinstance(masked, Mapping) else masked
    shown = masked if isinstance(masked, str) else json.dumps(masked)
    return override if masked == value else f"{override.partition('=')[0]}={shown}"


def _chosen(hydra: DictConfig) -> dict[str, str]:
    """Return hashes of what Hydra reads once for all runs of a sweep."""
    return {
        name: hashlib.sha256(OmegaConf.to_yaml(hydra[name]).encode()).hexdigest() for name in ("launcher", "sweeper")
    }


class SweepFolder:
    """The folder of a sweep, with its runs and a file for the outcome of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._outcomes = path / ".outcomes"
        self._chosen = self._outcomes / "chosen"

    def begin(self, hydra: DictConfig) -> None:
        """Remove the outcomes of earlier calls, and note the launcher and the sweeper; the runs themselves stay."""
        from harness.folder import write_json

        for path in self._outcomes.glob("*.json"):
            path.unlink()
        write_json(self._chosen, _chosen(hydra))

    def check(self, hydra: DictConfig) -> None:
        """Check that a run's config has the launcher and the sweeper that the sweep began with.

        Raises:
            HarnessError: if a config that the sweep varies sets another one, which Hydra ignores.
        """
        from harness.errors import HarnessError

        used = json.loads(self._chosen.read_text())
        for name, digest in _chosen(hydra).items():
            if digest != used[name]:
                raise HarnessError(
                    f"a config that the sweep varies sets hydra.{name}, which has no effect once the sweep has begun: "
                    "move it to the command line, or into a config that is the same for all runs (sweep=...)"
                )

    def store(self, outcome: Outcome) -> None:
        """Store the outcome of a run, without secrets, for the process that started the sweep."""
        from harness.folder import write_json
        from harness.run.masking import without_secrets

        public = {
            "overrides": [_public(item, without_secrets) for item in outcome.overrides],
            "message": without_secrets(outcome.message),
        }
        write_json(self._outcomes / f"{outcome.number}.json", dataclasses.asdict(outcome) | public)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of the runs, in their order."""
        from harness.records import from_json

        found = [from_json(Outcome, json.loads(path.read_text())) for path in self._outcomes.glob("*.json")]
        return sorted(found, key=lambda outcome: outcome.number)


#: The sweep that this process has started; None in processes that only work on its runs.
_started: SweepFolder | None = None


class SweepStart(Callback):
    """Called by Hydra where a sweep begins, before any of its runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of the sweep, and remove old outcomes."""
        global _started
        problem = ""
        if config.hydra.sweeper.get("_target_", "").endswith("OptunaSweeper") and config.sweep.metric is None:
            problem = "Optuna needs a metric: set sweep.metric=win_rate/rotate, or another metric of docs/metrics.md"
        if named := [item for item in config.hydra.overrides.task if item.lstrip("+").startswith("folder=")]:
            problem = (
                f"{named[0]} cannot be set in a sweep, where each run has its own folder inside that of the sweep: "
                "set name=NAME or hydra.sweep.dir=FOLDER"
            )
        if problem:
            # Not an exception: Hydra would turn it into a warning.
            print(f"error: {problem}", file=sys.stderr)
            sys.exit(1)
        _started = SweepFolder(Path(config.hydra.sweep.dir))
        _started.begin(config.hydra)


def started() -> SweepFolder | None:
    """Return the sweep that this process has started, and forget it; None if there is none."""
    global _started
    sweep, _started = _started, None
    return sweep


def draw_no_bars(launcher: str) -> None:
    """Draw no progress bars in a process that shares its terminal with other runs."""
    if launcher != BASIC:
        os.environ["TTY_COMPATIBLE"] = "0"  # makes rich treat the terminal as a file


def conclude_sweep(sweep: SweepFolder, console: Console) -> list[Outcome]:
    """Compare the finished runs of a sweep, in files and on the console, and return the outcomes that are not ok."""
    # Imported here to keep start-up fast.
    from harness.folder import RunFolder
    from harness.report.build import write_report
    from harness.results.run_data import load_run
    from harness.results.sweep import print_sweep, write_tables

    outcomes = sweep.outcomes()
    finished = [RunFolder(sweep.path / one.folder) for one in outcomes if one.status in ("ok", "ended early")]
    if finished:
        runs = [load_run(folder) for folder in finished]
        report = sweep.path / "joint-report.html"
        print_sweep(runs, console, metrics={one.folder: one.metric for one in outcomes if one.metric is not None})
        write_tables(runs, sweep.path)
        write_report(runs, report)
        console.print(str(report.resolve()), soft_wrap=True)
    bad = [one for one in outcomes if one.status != "ok"]
    shared = set.intersection(*(set(one.overrides) for one in outcomes)) if len(outcomes) > 1 else set()
    for one in bad:
        own = ", ".join(item for item in one.overrides if item not in shared) or "no options of its own"
        print(f"{one.status}: run {one.number} ({own}): {one.message}", file=sys.stderr)
    if bad:
        counts = f"{len(bad)} of {len(outcomes)} runs in {sweep.path}"
        print(f"{counts} failed or ended early: start the sweep again to repeat them", file=sys.stderr)
    return bad
