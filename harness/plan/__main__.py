"""Estimate the LLM calls, time, disk and detectable difference of a run: ``python -m harness.plan [OPTION=VALUE ...]``.

Takes the options of the run itself. For an interrupted run, the plan covers what remains. A few neurons are tried with
scripted LLMs; no LLM is called, no server is started, nothing is downloaded, and only a temporary folder is written to.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EXCEEDED = 2  # exit status if the run would be refused or a limit is exceeded

_EPILOG = """\
example: python -m harness.plan experiment=rotate_gemma2_2b --tokens-per-second 8000/2000 --max-hours 10

exit status: 0; 1 with one line for a mistake, as in the run itself; 2 if the run would be refused or a limit is
exceeded.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan, and return the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    overrides = [*options.overrides, *rest]
    if {"-m", "--multirun"} & set(overrides):
        parser.error("a plan covers one run: leave out -m and plan one run of the sweep, with one value of each option")
    if unknown := [item for item in overrides if item.startswith("-")]:
        parser.error(f"there is no option {unknown[0]}")
    # The libraries read these variables when they are first imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path.cwd()))  # for describers and judges in the user's folder
    # Imported after the variables are set.
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from harness.errors import HarnessError
    from harness.plan.planning import Assumptions, Rate, plan_of
    from harness.plan.show import show
    from harness.records import to_json
    from harness.run.help import compose_config, missing_choice
    from harness.run.progress import draw_bars

    draw_bars(False)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    assumptions = {name: value for name, value in vars(options).items() if name not in ("overrides", "json", "rates")}
    rates = {role: Rate(*speeds) for role, speeds in options.rates}
    try:
        plan = plan_of(compose_config(overrides), Assumptions(rates=rates, **assumptions))
    except HarnessError as error:
        return _fail(str(error))
    except MissingConfigException as error:
        return _fail(missing_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(to_json(plan), indent=2))
    else:
        console = Console()
        # A pipe or a file has no width; 80 columns would fold the names.
        show(plan, console if console.is_terminal else Console(width=120, no_color=True))
    return EXCEEDED if plan.stops else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.plan",
        description=(__doc__ or "").replace("``", ""),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    positive, count, difference = _number(float), _number(int), _number(float, below=1)
    for name, metavar, kind, default, help_text in (
        ("--neurons", "N", count, 4, "neurons of the trial (4); with all, all counts are exact"),
        ("--teraflops", "X", positive, 50.0, "assumed speed for a subject that this machine cannot run (50)"),
        ("--difference", "D", difference, 0.2, "win-rate difference to detect; 60 %% to 40 %% is 0.2 (0.2)"),
        ("--max-calls", "N", count, None, "exit status 2 if the run makes more LLM calls"),
        ("--max-cost", "X", positive, None, "exit status 2 if it costs more, by llm.ROLE.price"),
        ("--max-hours", "X", positive, None, "exit status 2 if it takes longer"),
    ):
        parser.add_argument(name, metavar=metavar, type=kind, default=default, help=help_text)
    parser.add_argument(
        "--tokens-per-second",
        dest="rates",
        metavar="[ROLE=]IN/OUT",
        type=_rate,
        action="append",
        default=[],
        help="assumed speed of one LLM server, all requests together: tokens read and written (6000/1200)",
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument(
        "overrides", nargs="*", metavar="OPTION=VALUE", help="options of the run; neuron-harness --help lists them"
    )
    return parser


def _number(kind: type[int] | type[float], below: float = math.inf) -> Callable[[str], Any]:
    """Return a parser of numbers above 0."""

    def number(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < below:
            raise ValueError
        return value

    return number


def _rate(text: str) -> tuple[str, tuple[float, float]]:
    role, _, speeds = text.rpartition("=")
    prompt, _, completion = speeds.partition("/")
    return role, (_number(float)(prompt), _number(float)(completion))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
