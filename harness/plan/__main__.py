"""Estimate the LLM calls, time, disk and detectable difference of a run: ``python -m harness.plan [OPTION=VALUE ...]``.

Takes the options of the run itself. For an interrupted run, the plan covers what remains. A few neurons are tried with
scripted LLMs; no LLM is called, no server is started, nothing is downloaded, and only a temporary folder is written to.

Exit status: 0; 1 with one line for a mistake, as in the run itself; 2 if the run would be refused or a limit is
exceeded. Example: python -m harness.plan experiment=rotate_gemma2_2b --tokens-per-second 8000/2000 --max-hours 10
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

EXCEEDED = 2  # exit status if the run would be refused or a limit is exceeded


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan, and return the exit status."""
    arguments, parser = sys.argv[1:] if arguments is None else arguments, _parser()
    if {"-m", "--multirun"} & set(arguments):
        parser.error("a plan covers one run: leave out -m and plan one run of the sweep, with one value of each option")
    options = vars(parser.parse_intermixed_args(arguments))
    overrides, as_json, rates = options.pop("overrides"), options.pop("json"), options.pop("rates")
    # The libraries read these variables when they are first imported, below.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.update(TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path.cwd()))  # for describers and judges in the user's folder
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from harness.errors import HarnessError
    from harness.plan.planning import plan_of
    from harness.plan.schema import Assumptions
    from harness.plan.show import show
    from harness.records import to_json
    from harness.run.help import compose_config, missing_choice
    from harness.run.progress import draw_bars
    from harness.run.setup import Setup
    from harness.validation import explain

    draw_bars(False)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        plan = plan_of(Setup.of(compose_config(overrides)), Assumptions(rates=dict(rates), **options))
    except (HarnessError, HydraException, OmegaConfBaseException, ValidationError) as error:
        problem = missing_choice(error) if isinstance(error, MissingConfigException) else explain(error)
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if as_json:
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, metavar, kind, default, help_text in (
        ("--neurons", "N", int, 4, "neurons of the trial (4); with all, all counts are exact"),
        ("--teraflops", "X", float, 50.0, "assumed speed for a subject that this machine cannot run (50)"),
        ("--difference", "D", float, 0.2, "win-rate difference to detect; 60 %% to 40 %% is 0.2 (0.2)"),
        ("--max-calls", "N", int, None, "exit status 2 if the run makes more LLM calls"),
        ("--max-cost", "X", float, None, "exit status 2 if it costs more, by llm.ROLE.price"),
        ("--max-hours", "X", float, None, "exit status 2 if it takes longer"),
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


def _rate(text: str) -> tuple[str, tuple[float, float]]:
    role, _, speeds = text.rpartition("=")
    prompt, completion = map(float, speeds.split("/"))
    return role, (prompt, completion)


if __name__ == "__main__":
    sys.exit(main())
