"""The command line: Hydra composes, this module runs, and whatever the user can mend is one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

# Exceptions are to reach main(), which tells them in one line; Hydra would print its own.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Their bars and notes would draw over ours; the variables are read when the libraries are first imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.run.help import explained, help_text, missing_choice
from harness.run.progress import draw_bars

logger = logging.getLogger("harness.run")
ENDED_EARLY = 3  # exit status of a run, or of a sweep with one, in which a method spent its failure budget
_ended_early: list[str] = []


def main() -> None:
    """Run the command line.

    Exits with status 1 and one line on the user's mistakes, 3 if a method was asked no further because too many of its
    answers failed, 130 when interrupted.
    """
    _ended_early.clear()
    # A describer or judge in the user's own folder is found by name, as with `python -m`.
    sys.path.insert(0, str(Path.cwd()))
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            _explain("help", [item for item in arguments if not item.startswith("-")])
        elif arguments[:2] in (["--cfg", "job"], ["-c", "job"]):
            _explain("cfg", arguments[2:])
        else:
            _task()
            if _ended_early:
                sys.exit(ENDED_EARLY)
    except HarnessError as error:
        _fail(str(error))
    except MissingConfigException as error:
        _fail(missing_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


def _explain(what: str, overrides: list[str]) -> None:
    print(help_text(overrides) if what == "help" else explained(overrides))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _task(config: DictConfig) -> float | None:
    """Run one configuration; of a sweep, each in turn. Returns the best real describer's win rate, for optimisers."""
    # Imported here, so that --help and a misspelt option answer at once.
    from harness.report import print_decomposition, print_judge_checks, print_leaderboard
    from harness.run.pipeline import run
    from harness.run.setup import Setup

    folder = _folder(config)
    try:
        setup = Setup.of(config)
        quiet = _quiet(config)
        _log_to(folder, quiet=quiet)
        leaderboard = run(setup, _ended_early.append)
    except HarnessError as error:
        # Here, not in main(): Hydra would put a line of its own before ours.
        _fail(str(error))
    console = Console()
    # A log file or a pipe has no width of its own; 80 columns would fold the names.
    console = console if console.is_terminal else Console(width=110)
    if quiet:
        trust = leaderboard.overall.trust
        if trust.trustworthy is False:
            logger.warning(trust.words)
    elif setup.compares:
        print_leaderboard(leaderboard, console)
        print_judge_checks(folder, console)
    else:
        print_decomposition(folder, console)
    print(folder.report.resolve())
    rates = [row.win_rate for row in leaderboard.overall.rows if not row.control and row.win_rate is not None]
    return max(rates, default=None)


def _quiet(config: DictConfig) -> bool:
    if not isinstance(config.quiet, bool):
        raise HarnessError(f"quiet is {config.quiet!r}; choose true or false")
    return config.quiet


def _folder(config: DictConfig) -> RunFolder:
    """Return the run's folder; the runs of a sweep each have their own below the sweep's."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        config.folder = settings.runtime.output_dir
        if config.tracking.get("group", "") is None:
            config.tracking.group = config.name
    return RunFolder(Path(str(config.folder)))


def _log_to(folder: RunFolder, *, quiet: bool) -> None:
    """Log the harness's own messages to the terminal, or its warnings alone, and everything to the run folder."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers.clear()
    file = logging.FileHandler(folder.logs / "run.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler()
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
