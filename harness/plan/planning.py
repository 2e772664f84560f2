"""From a config to a plan: the open work, a trial of it on a few neurons, and the estimates that follow."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.plan.resources import disk_of, stages_of
from harness.plan.schema import Amount, MethodPlan, Power, RolePlan, RunPlan, SubjectPlan
from harness.plan.stand_in import make_stand_in
from harness.plan.trial import Findings, channel_numbers, run_trial
from harness.plan.warnings import stops_of, warnings_of
from harness.plan.work import Work, work_of
from harness.records import RoleUsage
from harness.run.identity import check_same_run
from harness.run.setup import Setup
from harness.stats.power import Plan, neurons_needed, smallest_difference
from harness.subject.declared import DENSE, DeclaredSubject, Shape

#: Largest checkpoint, in bytes, that a trial runs on a CPU.
TOO_LARGE = 2 << 30


class Rate(NamedTuple):
    """Tokens per second of one server, all requests together."""

    prompt: float
    completion: float


#: Order of magnitude for a model of 30 billion parameters on one large GPU.
DEFAULT_RATE = Rate(6000, 1200)


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of a plan, and its limits.

    Attributes:
        neurons: neurons of the trial.
        rates: speed of each role's server; that of the name "" holds for all other roles.
        teraflops: effective speed of the machine that will run a subject that this machine cannot run.
        difference: win-rate difference that the run should detect.
        max_calls: most LLM calls, None for no limit; likewise ``max_cost`` and ``max_hours``.
    """

    neurons: int = 4
    rates: Mapping[str, Rate] = field(default_factory=dict)
    teraflops: float = 50.0
    difference: float = 0.2
    max_calls: int | None = None
    max_cost: float | None = None
    max_hours: float | None = None


def plan_of(composed: DictConfig, assumptions: Assumptions | None = None) -> RunPlan:
    """Plan a run. No LLM is called, no server is started, and nothing is written to the run's folder.

    Raises:
        HarnessError: if the run itself would refuse its config.
    """
    return plan_of_setup(Setup.of(composed), assumptions)


def plan_of_setup(setup: Setup, assumptions: Assumptions | None = None) -> RunPlan:
    """Plan a run whose objects exist already, see :func:`plan_of`."""
    assumptions = assumptions or Assumptions()
    for role in assumptions.rates.keys() - {"", *setup.backends}:
        known = f"its roles are {', '.join(sorted(setup.backends))}" if setup.backends else "it has none"
        raise HarnessError(f"this run has no LLM role {role!r}, {known} (--tokens-per-second)")
    logger = logging.getLogger("harness")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # messages of the stages would be about the trial
    try:
        with tempfile.TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True) as scratch:
            return _plan(setup, assumptions, Path(scratch))
    finally:
        logger.setLevel(level)


def _plan(setup: Setup, assumptions: Assumptions, scratch: Path) -> RunPlan:
    start = time.monotonic()
    stops: list[str] = []
    warnings: list[str] = []
    setup, stand_in = _with_subject(setup, scratch / "stand-in", warnings)
    setup.check()
    folder, state = _folder(setup, scratch, stops)
    work = work_of(setup, folder, subject_is_here=stand_in is None)
    if state == "unfinished" and work.empty:
        state = "finished"
    found = run_trial(setup, folder, work, scratch / "run", count=assumptions.neurons, stand_in=stand_in)
    methods = [_method(name, setup, work, found) for name in {**setup.describers, **setup.judges}]
    roles = [_role(role, setup, methods, found, assumptions) for role in setup.backends]
    subject = setup.subject
    plan = RunPlan(
        name=str(setup.config["name"]),
        folder=str(setup.folder),
        state=state,
        subject=SubjectPlan(
            name=subject.name,
            here=not isinstance(subject, DeclaredSubject),
            layers=subject.num_layers,
            d_model=subject.d_model,
            d_mlp=subject.d_mlp,
            vocabulary=subject.vocab_size,
        ),
        layers=sorted({neuron.layer for neuron in setup.neurons}),
        neurons=len(setup.neurons),
        described=len(setup.described) if setup.compares else 0,
        kinds=[kind.value for kind in setup.kinds],
        vectors=sum(len(block.neurons) for block in work.vectors),
        channels=work.channels(setup),
        tried=found.neurons,
        evidence=found.evidence,
        methods=methods,
        roles=roles,
        stages=stages_of(setup, work, found, folder, methods, roles, assumptions.teraflops),
        disk=disk_of(setup, work, found, methods, folder),
        power=_power(setup, assumptions.difference),
        trial_seconds=round(time.monotonic() - start, 1),
    )
    stops += stops_of(plan, assumptions.max_calls, assumptions.max_cost, assumptions.max_hours)
    warnings += warnings_of(setup, plan, found)
    return dataclasses.replace(plan, stops=stops, warnings=warnings)


def _with_subject(setup: Setup, folder: Path, warnings: list[str]) -> tuple[Setup, Path | None]:
    """Return the setup, and the folder of a tiny model if the subject cannot run on this machine.

    If its files are not here at all, the subject of the setup is one of which only the shape is known.
    """
    subject = setup.subject
    tried = "methods were tried on a tiny random model in its place, and its times are assumed"
    try:
        layers, size = subject.num_layers, sum(path.stat().st_size for path in subject.checkpoint.paths)
    except HarnessError as error:
        if subject.shape is None:
            raise HarnessError(f"{error}; to plan without the model, set subject.shape (see conf/subject)") from error
        shape = Shape.of(subject.shape)
        warnings.append(f"{subject.name} is not on this machine: its size is subject.shape, {tried}")
        make_stand_in(folder, shape.family, shape.layers)
        return dataclasses.replace(setup, subject=DeclaredSubject(subject.name, folder, shape)), folder
    if size <= TOO_LARGE or setup.executor.device != "cpu":
        return setup, None
    family = str(subject.config.get_text_config().model_type)
    warnings.append(f"{subject.name} ({size / 1e9:.0f} GB) is too large for a trial on a CPU: {tried}")
    return setup, make_stand_in(folder, family if family in DENSE else "llama", layers)


def _folder(setup: Setup, scratch: Path, stops: list[str]) -> tuple[RunFolder, str]:
    """Return the run's folder and its state. If another run is in the folder, return one that does not exist."""
    folder = RunFolder(setup.folder)
    if not folder.manifest.exists():
        return folder, "new"
    declared = isinstance(setup.subject, DeclaredSubject)
    try:
        check_same_run(setup, folder, unknown=("subject.fingerprint", "subject.ignored_tokens") if declared else ())
    except HarnessError as error:
        stops.append(f"{error}. The plan is that of a new folder")
        return RunFolder(scratch / "new"), "another run's"
    return folder, "unfinished"


def _method(name: str, setup: Setup, work: Work, found: Findings) -> MethodPlan:
    items, again, records = work.items.get(name, []), work.retests.get(name, []), found.records.get(name, [])
    kind = "describer" if name in setup.describers else "comparator" if name in setup.comparators else "scorer"
    roles, constant = _scaled(setup, items, records)
    # Retests have another seed, so that the cache does not answer them.
    retests, _ = _scaled(setup, again, records, cached=False)
    # The number of a scorer's questions depends on the windows that the corpus has.
    exact = (constant or len(records) == len(items)) and (kind != "scorer" or found.of_run)
    return MethodPlan(
        name=name,
        kind=kind,
        control=name in setup.controls,
        items=len(items),
        retests=len(again),
        done=work.done.get(name, 0),
        exact=exact,
        roles={role: roles.get(role, Amount()) + retests.get(role, Amount()) for role in sorted({*roles, *retests})},
    )


def _scaled(
    setup: Setup, items: Sequence[tuple[Any, ...]], records: Sequence[Any], *, cached: bool = True
) -> tuple[dict[str, Amount], bool]:
    """Return the calls of all items by role, and whether all records with the same number of channels have as many.

    Each item counts as the mean of the trial's records with the same number of channels.
    """
    groups: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for record in records:
        groups[channel_numbers(setup, record.neuron.layer)].append(record)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    constant = True
    layers = Counter(item[0].layer for item in items)
    for layer, count in layers.items():
        number = channel_numbers(setup, layer)
        sample = groups.get(number) or list(records)
        if not sample:
            return {}, False
        calls = [{role: usage.calls for role, usage in record.usage.roles.items()} for record in sample]
        constant &= number in groups and all(one == calls[0] for one in calls)
        for role in set().union(*calls):
            for one in dataclasses.fields(Amount):
                total = sum(getattr(record.usage.roles.get(role, RoleUsage()), one.name) for record in sample)
                if cached or not one.name.startswith("cached"):
                    totals[role][one.name] += count * total / len(sample)
    rounded = {role: {name: round(value) for name, value in sums.items()} for role, sums in totals.items()}
    return {role: Amount(**sums) for role, sums in rounded.items()}, constant


def _role(
    role: str, setup: Setup, methods: Sequence[MethodPlan], found: Findings, assumptions: Assumptions
) -> RolePlan:
    backend, price = setup.backends[role], setup.backends[role].price
    callers = [method for method in methods if role in method.roles]
    amount = sum((method.roles[role] for method in callers), Amount())
    rate = assumptions.rates.get(role) or assumptions.rates.get("") or DEFAULT_RATE
    prompt, completion = amount.paid_prompt_tokens, amount.paid_completion_tokens
    return RolePlan(
        role=role,
        model=backend.model,
        managed=backend.server is not None,
        amount=amount,
        exact=all(method.exact for method in callers),
        longest_tokens=found.longest.get(role, 0),
        cost=None if price is None else round(price.cost(prompt, completion), 4),
        prompt_tokens_per_second=rate.prompt,
        completion_tokens_per_second=rate.completion,
        seconds=round(prompt / rate.prompt + completion / rate.completion, 1),
    )


def _power(setup: Setup, difference: float) -> Power | None:
    if not setup.comparators:
        return None
    neurons, tests = len(setup.neurons), len(setup.comparisons.pairs(setup.describers))
    one = Plan(level=1 - setup.statistics.confidence)
    every = dataclasses.replace(one, tests=max(tests, 1))
    smallest = [smallest_difference(neurons, plan) for plan in (one, every)]
    return Power(
        neurons=neurons,
        level=round(one.level, 6),
        power=one.power,
        tests=tests,
        smallest_of_one_pair=smallest[0] and round(smallest[0], 4),
        smallest_of_every_pair=smallest[1] and round(smallest[1], 4),
        wanted=difference,
        needed_for_one_pair=neurons_needed(difference, one),
        needed_for_every_pair=neurons_needed(difference, every),
    )
