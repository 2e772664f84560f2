"""What a run would ask, take and show, before anything is spent: ``python -m harness.plan [OPTION=VALUE ...]``.

The overrides are those of the run itself: put ``python -m harness.plan`` in the place of ``neuron-harness``. Of a run
that was interrupted, the plan is of what remains. Some neurons are tried with LLMs that are not asked; nothing is
started, downloaded or written but into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.plan.planning import Assumptions

EXCEEDED = 2  # exit status of a plan that something would stop, or that exceeds a limit

_EPILOG = """\
examples:
  python -m harness.plan experiment=demo
  python -m harness.plan experiment=rotate_gemma2_2b --tokens-per-second 8000/2000
  python -m harness.plan experiment=llm llm@llm.explainer=openai llm.explainer.model=NAME ... --max-cost 50 --json

exit status: 0; 1 and one line on a mistake, as of the run itself; 2 if the run would be stopped or a limit is exceeded.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan; return the exit status."""
    parser = _parser()
    options, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    overrides = [*options.overrides, *rest]
    if {"-m", "--multirun"} & set(overrides):
        parser.error("a plan is of one run: leave out -m, and plan one run of the sweep, with one value of each option")
    if wrong := [item for item in overrides if item.startswith("-")]:
        parser.error(f"there is no option {wrong[0]}")
    _settle(online=options.online)
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from rich.console import Console

    from harness.errors import HarnessError
    from harness.plan.planning import plan_of
    from harness.plan.schema import RunPlan
    from harness.plan.show import show
    from harness.run.help import compose_config, missing_choice
    from harness.run.progress import draw_bars

    if options.schema:
        print(json.dumps(RunPlan.model_json_schema(), indent=2))
        return 0
    draw_bars(False)
    try:
        plan = plan_of(compose_config(overrides), _assumptions(options))
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
        print(plan.model_dump_json(indent=2))
    else:
        console = Console()
        # A log file or a pipe has no width of its own; 80 columns would fold the names.
        show(plan, console if console.is_terminal else Console(width=120, no_color=True))
    return EXCEEDED if plan.stopped else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.plan",
        description=(__doc__ or "").replace("``", ""),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="OPTION=VALUE", help="the run's own; neuron-harness --help tells them all"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, for programs")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of that, and no plan")
    parser.add_argument(
        "--neurons", type=_count, default=4, metavar="N", help="neurons to try; as many as the run has: all exact (4)"
    )
    parser.add_argument(
        "--tokens-per-second",
        type=_rate,
        action="append",
        default=[],
        metavar="[ROLE=]IN/OUT",
        help="speed of one LLM server, all its requests together: tokens read and written (6000/1200, assumed)",
    )
    parser.add_argument(
        "--teraflops", type=_positive, default=50.0, metavar="X", help="speed at which an absent subject is run (50)"
    )
    parser.add_argument(
        "--difference", type=_share, default=0.2, metavar="D", help="win-rate difference to show, 60 to 40 %% (0.2)"
    )
    parser.add_argument("--power", type=_share, default=0.8, metavar="P", help="chance to see it (0.8)")
    parser.add_argument("--max-calls", type=_count, metavar="N", help="exit status 2 if LLMs are called more often")
    parser.add_argument("--max-cost", type=_positive, metavar="X", help="... if more is paid, by llm.ROLE.price")
    parser.add_argument("--max-hours", type=_positive, metavar="X", help="... if it takes longer")
    parser.add_argument(
        "--online", action="store_true", help="let the probe download what the run would: subject, text, tokenizers"
    )
    return parser


def _assumptions(options: argparse.Namespace) -> Assumptions:
    from harness.plan.planning import Assumptions, Rate

    return Assumptions(
        neurons=options.neurons,
        rates={role: Rate(*speeds) for role, speeds in options.tokens_per_second},
        teraflops=options.teraflops,
        difference=options.difference,
        power=options.power,
        online=options.online,
        max_calls=options.max_calls,
        max_cost=options.max_cost,
        max_hours=options.max_hours,
    )


def _settle(*, online: bool) -> None:
    """Keep the libraries beneath off the network, and silent: they read these variables when first imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    # A describer or judge in the user's own folder is found by name.
    sys.path.insert(0, str(Path.cwd()))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _rate(text: str) -> tuple[str, tuple[float, float]]:
    role, _, speeds = text.rpartition("=")
    prompt, _, completion = speeds.partition("/")
    return role, (_positive(prompt), _positive(completion))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
