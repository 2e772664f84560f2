"""The command line: Hydra composes the config, this module runs it and prints errors as one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

# Makes Hydra pass exceptions on to main() instead of printing them.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Their progress bars would garble ours. The variables are read when the libraries are imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import HarnessError
from harness.run.help import explained, help_text, missing_choice, null_choice
from harness.run.sweep import Outcome, SweepFolder, conclude_sweep, draw_no_bars, started

if TYPE_CHECKING:
    from rich.console import Console

    from harness.folder import RunFolder
    from harness.results.schema import Leaderboard
    from harness.run.setup import Setup

ENDED_EARLY = 3  # exit status of a run or sweep in which a method exceeded its failure budget
_ended_early: list[str] = []
logger = logging.getLogger("harness.run")


def main() -> None:
    """Run the command line.

    Exits with status 1 and one line on stderr for errors that the user can fix, and if a run of a sweep failed; with 3
    if a method was stopped because too many of its answers failed; with 130 if interrupted.
    """
    _ended_early.clear()
    _import_from_working_folder()
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            _print(help_text([item for item in arguments if not item.startswith("-")]))
        elif arguments[:2] in (["--cfg", "job"], ["-c", "job"]):
            _print(explained(arguments[2:]))
        elif problems := [problem for item in arguments if (problem := null_choice(item))]:
            raise HarnessError(problems[0])
        else:
            _compose_and_run()
            if _ended_early:
                sys.exit(ENDED_EARLY)
    except HarnessError as error:
        _fail(str(error))
    except MissingConfigException as error:
        _fail(missing_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(" ".join(str(error).split()))
    except OSError as error:
        if error.filename is None:  # not about a file: an error of the network, or a bug
            raise
        logger.debug("a file failed", exc_info=True)
        _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def _compose_and_run() -> None:
    """Let Hydra start one run, or the runs of a sweep, which are then summarised."""
    broken: Exception | None = None
    try:
        # Not a decorator of `task`, because the processes of a launcher import that function by name.
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(task)()
    except Exception as error:
        broken = error
    sweep = started()
    if sweep is not None and sweep.outcomes():
        bad = conclude_sweep(sweep, _console())
        if any(outcome.status != "ended early" for outcome in bad):
            if broken is not None:  # a launcher lost its workers, or an optimiser found no run
                print(f"error: {type(broken).__name__}: {' '.join(str(broken).split())[:300]}", file=sys.stderr)
            sys.exit(1)
        if bad:
            sys.exit(ENDED_EARLY)
    if broken is not None:
        raise broken


def _import_from_working_folder() -> None:
    """Make describers and judges in the working folder importable, as with `python -m`."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _print(text: str) -> None:
    """Print a text; a reader that stops early, such as ``head``, is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would try again to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def task(config: DictConfig) -> float | None:
    """Run one configuration: a single run, or one of a sweep, which may be in a process that a launcher started.

    Returns:
        The metric that the sweep optimises (``sweep.metric``), or None if there is none or the run failed.
    """
    settings: Any = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        try:
            setup, leaderboard = _run(config, _ended_early.append)
        except HarnessError as error:
            # Not in main(): Hydra would print a line of its own first.
            _fail(str(error))
        _show(setup, leaderboard)
        return None
    _import_from_working_folder()
    draw_no_bars(settings.launcher["_target_"])
    return _run_of_sweep(config, settings)


def _run(config: DictConfig, early: Callable[[str], None]) -> tuple[Setup, Leaderboard]:
    # Imported here to keep --help fast, and after the options are checked what takes long to import.
    from harness.run.setup import Setup

    _name_folder(config)
    setup = Setup.of(config)
    _ = setup.subject.published  # a missing model is found before the imports below, which take long

    from harness.folder import RunFolder, check_writable
    from harness.run.objective import check_metric
    from harness.run.pipeline import run

    check_metric(setup.sweep.metric, setup)
    folder = RunFolder(setup.folder)
    check_writable(folder.path, "folder")
    log_to(folder, quiet=setup.general.quiet)
    return setup, run(setup, early)


def _run_of_sweep(config: DictConfig, settings: Any) -> float | None:
    """Run one configuration of a sweep; record an error instead of raising it, so that the other runs continue."""
    from harness.folder import RunFolder
    from harness.run.objective import read_metric

    sweep, folder = SweepFolder(Path(settings.sweep.dir)), Path(settings.runtime.output_dir)
    lost = "its process ended without a message (killed, or out of memory?)"
    outcome = Outcome(settings.job.num, folder.name, tuple(settings.overrides.task), "lost", None, lost)
    sweep.store(outcome)
    early: list[str] = []
    name, metric = config.sweep.metric, None
    try:
        sweep.check(settings)
        _, leaderboard = _run(config, early.append)
        if name is not None:
            metric = read_metric(name, RunFolder(folder), leaderboard)
        outcome = replace(outcome, status="ended early" if early else "ok", metric=metric, message="; ".join(early))
    except HarnessError as error:
        outcome = replace(outcome, status="failed", message=str(error))
    except Exception as error:
        logger.exception("the run failed")
        message = f"{type(error).__name__}: {' '.join(str(error).split())} ({folder}/logs/run.log)"
        outcome = replace(outcome, status="failed", message=message)
    sweep.store(outcome)
    result = "" if metric is None else f", {name} {metric:g}"
    _console().print(f"run {outcome.number}: {outcome.status}{result}", markup=False)
    return metric


def _show(setup: Setup, leaderboard: Leaderboard) -> None:
    from harness.folder import RunFolder
    from harness.report import print_decomposition, print_judge_checks, print_reference_channels, print_sanity
    from harness.results.tables import print_leaderboard

    console, folder, quiet = _console(), RunFolder(setup.folder), setup.general.quiet
    if quiet:
        trust = leaderboard.overall.trust
        if trust.trustworthy is False:
            logger.warning(trust.words)
    elif setup.compares:
        print_leaderboard(leaderboard, console)
        print_judge_checks(folder, console)
        print_sanity(folder, console)
    else:
        print_decomposition(folder, console)
    if not quiet:
        print_reference_channels(folder, console)
    print(folder.report.resolve())


def _console() -> Console:
    from rich.console import Console

    console = Console()
    # A log file or a pipe has no width; rich would assume 80 columns, which break the names.
    return console if console.is_terminal else Console(width=110)


def _name_folder(config: DictConfig) -> None:
    """Give each run of a sweep a folder of its own inside that of the sweep, and group the runs in W&B."""
    settings: Any = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        config.folder = settings.runtime.output_dir
        if OmegaConf.select(config, "tracking.group", default="") is None:
            config.tracking.group = config.name


class _Terminal(logging.StreamHandler[TextIO]):
    """Logs to the stderr of the moment: a library or test that captured it may have closed its own stream since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.stream = sys.stderr
        super().emit(record)


class _LogFile(logging.FileHandler):
    """Drops what a full disk has no room for: the run ends with one line where it cannot write a result."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print the traceback of any other error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def log_to(folder: RunFolder, *, quiet: bool) -> None:
    """Log messages of the harness (if quiet, only warnings) to the terminal, and everything to the run folder."""
    from harness.run.progress import draw_bars

    folder.logs.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers.clear()
    file = _LogFile(folder.logs / "run.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = _Terminal()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.addFilter(lambda record: record.name.startswith("harness") or record.levelno >= logging.ERROR)
    root.addHandler(file)
    root.addHandler(terminal)
    logging.getLogger("harness").setLevel(logging.DEBUG)
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    draw_bars(not quiet)
    for noisy in ("httpx", "httpx2", "httpcore", "openai", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
