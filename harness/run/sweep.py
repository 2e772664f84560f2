"""Sweeps: what became of each of their runs, wherever a launcher put it, and all of them side by side at the end."""

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
    """What became of one run of a sweep.

    Attributes:
        number: its place in the sweep, from 0.
        folder: name of its folder, in that of the sweep.
        overrides: the values that make it this run; in files without secrets.
        status: ``ok``, ``failed``, ``ended early`` (a method was asked no further), or ``lost`` (its process ended
            without a word: killed, or out of memory).
        metric: the value of ``sweep.metric``, if the run has it.
        message: why it failed, in a line.
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
    """The folder of a sweep: its runs by number, and what became of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _outcomes(self) -> Path:
        return self.path / ".outcomes"

    def begin(self) -> None:
        """Forget what became of runs that were started by an earlier call; the runs themselves stay."""
        for path in self._outcomes.glob("*.json"):
            path.unlink()

    def tell(self, outcome: Outcome) -> None:
        """Note what became of a run, without secrets.

        Another process may read it: a launcher chooses where runs are made.
        """
        from harness.run.masking import without_secrets  # which the run needs anyway

        public = {
            "overrides": [_public(item, without_secrets) for item in outcome.overrides],
            "message": without_secrets(outcome.message),
        }
        write_json(self._outcomes / f"{outcome.number}.json", dataclasses.asdict(outcome) | public)

    def outcomes(self) -> list[Outcome]:
        """Return what became of the runs, in their order."""
        found = [from_json(Outcome, json.loads(path.read_text())) for path in self._outcomes.glob("*.json")]
        return sorted(found, key=lambda outcome: outcome.number)


#: The sweep that this process has started; none in processes that make its runs.
_started: SweepFolder | None = None


class SweepStart(Callback):
    """Called by Hydra where a sweep begins, before any of its runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make room for what will become of the runs."""
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
                f"error: {named[0]} has no say in a sweep, each of whose runs has its own folder below that of the "
                "sweep: name=NAME or hydra.sweep.dir=FOLDER says where",
                file=sys.stderr,
            )
            sys.exit(1)
        _started = SweepFolder(Path(config.hydra.sweep.dir))
        _started.begin()


def started() -> SweepFolder | None:
    """Return the sweep that this process has started, if it has, and forget it."""
    global _started
    sweep, _started = _started, None
    return sweep


def draw_no_bars(launcher: str) -> None:
    """Let no bars be drawn in a process that shares its terminal with other runs."""
    if launcher != BASIC:
        os.environ["TTY_COMPATIBLE"] = "0"  # rich then takes the terminal for a file


def conclude_sweep(sweep: SweepFolder, console: Console) -> list[Outcome]:
    """Set the finished runs of a sweep side by side, in files and on the console, and tell which failed.

    Returns:
        The runs that did not go well.
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
        own = ", ".join(item for item in one.overrides if item not in shared) or "no override of its own"
        print(f"{one.status}: run {one.number} ({own}): {one.message}", file=sys.stderr)
    if bad:
        print(
            f"{len(bad)} of {len(outcomes)} runs in {sweep.path} did not go well: start the sweep again to repeat them",
            file=sys.stderr,
        )
    return bad
