"""Sweeps: the outcome of each run, whichever launcher started it, and the summary at the end."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from harness.folder import RunFolder, write_json
from harness.records import from_json

logger = logging.getLogger(__name__)
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass(frozen=True)
class Outcome:
    """Outcome of one run of a sweep.

    Attributes:
        number: index in the sweep.
        folder: name of its folder inside the folder of the sweep.
        overrides: its overrides; stored without secrets.
        status: ``ok``, ``failed``, ``ended early`` (a method failed too often) or ``lost`` (its process died, such as
            out of memory).
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
    parsed = OverridesParser.create().parse_override(override)
    value = parsed.value()
    nested = {parsed.key_or_group.rpartition(".")[2]: value}
    for name in reversed(parsed.key_or_group.split(".")[:-1]):
        nested = {name: nested}
    masked = without_secrets(nested)
    for name in parsed.key_or_group.split("."):
        masked = masked[name] if isinstance(masked, Mapping) else masked
    name = override.partition("=")[0]
    return override if masked == value else f"{name}={masked if isinstance(masked, str) else json.dumps(masked)}"


class SweepFolder:
    """Folder of a sweep: its runs by number, and their outcomes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _outcomes(self) -> Path:
        return self.path / ".outcomes"

    def begin(self) -> None:
        """Remove the outcomes of an earlier start; the run folders stay."""
        for path in self._outcomes.glob("*.json"):
            path.unlink()

    def store(self, outcome: Outcome) -> None:
        """Store the outcome of a run, without secrets.

        It is a file because launchers run each run in a process of their own.
        """
        from harness.run.masking import without_secrets

        public = {
            "overrides": [_public(item, without_secrets) for item in outcome.overrides],
            "message": without_secrets(outcome.message),
        }
        write_json(self._outcomes / f"{outcome.number}.json", dataclasses.asdict(outcome) | public)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes in the order of the runs."""
        found = [from_json(Outcome, json.loads(path.read_text())) for path in self._outcomes.glob("*.json")]
        return sorted(found, key=lambda outcome: outcome.number)


#: The sweep that this process started; None in the processes of its runs.
_started: SweepFolder | None = None


class SweepStart(Callback):
    """Called by Hydra before the first run of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of the sweep and remove earlier outcomes."""
        global _started
        if config.hydra.sweeper.get("_target_", "").endswith("OptunaSweeper") and config.sweep.metric is None:
            # Not an exception: Hydra would turn it into a warning.
            print(
                "error: Optuna needs a metric: set sweep.metric=win_rate/rotate, or another metric of docs/metrics.md",
                file=sys.stderr,
            )
            sys.exit(1)
        named = [item for item in config.hydra.overrides.task if item.lstrip("+").startswith("folder=")]
        if named:
            print(
                f"error: {named[0]} cannot be set in a sweep, whose runs have folders of their own: set name=NAME or "
                "hydra.sweep.dir=FOLDER",
                file=sys.stderr,
            )
            sys.exit(1)
        _started = SweepFolder(Path(config.hydra.sweep.dir))
        _started.begin()


def started() -> SweepFolder | None:
    """Return the sweep that this process started, once, or None."""
    global _started
    sweep, _started = _started, None
    return sweep


def draw_no_bars(launcher: str) -> None:
    """Disable progress bars in a process that shares its terminal with other runs."""
    if launcher != BASIC:
        os.environ["TTY_COMPATIBLE"] = "0"  # rich then takes the terminal for a file


def conclude_sweep(sweep: SweepFolder, console: Console) -> list[Outcome]:
    """Write and print the tables and the joint report of the finished runs, and list the runs that failed.

    Returns:
        The runs that are not ok.
    """
    # Imported here to keep start-up fast.
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
        own = ", ".join(item for item in one.overrides if item not in shared) or "no different override"
        print(f"{one.status}: run {one.number} ({own}): {one.message}", file=sys.stderr)
    if bad:
        print(
            f"{len(bad)} of {len(outcomes)} runs in {sweep.path} are not ok: start the sweep again to repeat them",
            file=sys.stderr,
        )
    return bad
