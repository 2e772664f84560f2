"""From a config to a plan: the open work, a trial of it on a few neurons, and the estimates that follow."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.plan.resources import disk_of, stages_of
from harness.plan.schema import (
    DEFAULT_RATE,
    Amount,
    Assumptions,
    MethodPlan,
    Power,
    RolePlan,
    RunPlan,
    SubjectPlan,
    total_cost,
)
from harness.plan.stand_in import make_stand_in
from harness.plan.trial import Trial, Work, channel_numbers, run_trial, work_of
from harness.plan.warnings import stops_of, warnings_of
from harness.run.identity import check_same_run
from harness.run.setup import Setup
from harness.stats.power import Plan, neurons_needed, smallest_difference
from harness.subject.declared import DeclaredSubject
from harness.subject.shape import DENSE

#: Largest checkpoint, in bytes, that a trial runs on a CPU.
TOO_LARGE = 2 << 30


def plan_of(setup: Setup, assumptions: Assumptions) -> RunPlan:
    """Plan a run. No LLM is called, no server is started, and nothing is written to the run's folder.

    Raises:
        HarnessError: if the run itself would refuse its config.
    """
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
    methods += _checks(found)
    roles = [_role(role, setup, methods, found, assumptions) for role in setup.backends]
    stages = stages_of(setup, work, found, folder, methods, roles, assumptions.teraflops)
    subject, here = setup.subject, not isinstance(setup.subject, DeclaredSubject)
    plan = RunPlan(
        name=setup.general.name,
        folder=str(setup.folder),
        state=state,
        subject=SubjectPlan(subject.name, here, subject.num_layers, subject.d_model, subject.d_mlp, subject.vocab_size),
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
        stages=stages,
        disk=disk_of(setup, work, found, methods, folder),
        power=_power(setup, assumptions.difference),
        calls=sum(role.amount.paid_calls for role in roles),
        cost=total_cost(roles),
        seconds=round(sum(stage.seconds or 0 for stage in stages), 1),
        trial_seconds=round(time.monotonic() - start, 1),
    )
    stops += stops_of(plan, assumptions)
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
        if setup.config["subject"].get("sae"):
            raise HarnessError(f"{error}; the latents of subject.sae can only be planned where the model is") from error
        shape = subject.shape
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


def _method(name: str, setup: Setup, work: Work, found: Trial) -> MethodPlan:
    items, again, records = work.items.get(name, []), work.retests.get(name, []), found.records.get(name, [])
    kind = "describer" if name in setup.describers else "comparator" if name in setup.comparators else "scorer"
    roles, constant = _scaled(setup, items, records)
    # Retests have another seed, so that the cache does not answer them.
    retests, _ = _scaled(setup, again, records, cached=False)
    # The number of a scorer's questions depends on the windows that the corpus has.
    exact = (constant or len(records) == len(items)) and (kind != "scorer" or found.evidence in ("run", "store"))
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


def _checks(found: Trial) -> list[MethodPlan]:
    """Return the open checks of the explainer as a method; the trial has made all of them."""
    roles: dict[str, Amount] = defaultdict(Amount)
    for record in found.checks:
        for role, used in record.usage.roles.items():
            counts = {name: getattr(used, name) for name in ("calls", "prompt_tokens", "completion_tokens")}
            paid = {f"paid_{name}": value - getattr(used, f"cached_{name}") for name, value in counts.items()}
            roles[role] += Amount(**counts, **paid)
    if not found.checks:
        return []
    return [MethodPlan("explainer check", "check", False, len(found.checks), 0, 0, True, dict(roles))]


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
    for layer, count in Counter(item[0].layer for item in items).items():
        number = channel_numbers(setup, layer)
        sample = groups.get(number) or records
        if not sample:
            return {}, False
        calls = [{role: usage.calls for role, usage in record.usage.roles.items()} for record in sample]
        constant &= number in groups and all(one == calls[0] for one in calls)
        for role, usage in (pair for record in sample for pair in record.usage.roles.items()):
            for name in ("calls", "prompt_tokens", "completion_tokens"):
                every = getattr(usage, name)
                paid = every - getattr(usage, f"cached_{name}") if cached else every
                totals[role].update({name: every * count / len(sample), f"paid_{name}": paid * count / len(sample)})
    return {
        role: Amount(**{name: round(value) for name, value in sums.items()}) for role, sums in totals.items()
    }, constant


def _role(role: str, setup: Setup, methods: Sequence[MethodPlan], found: Trial, assumptions: Assumptions) -> RolePlan:
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
        longest_tokens=getattr(found.tried.backends[role], "longest", 0),
        cost=None if price is None else round(price.cost(prompt, completion), 4),
        rate=rate,
        seconds=round(prompt / rate.prompt + completion / rate.completion, 1),
    )


def _power(setup: Setup, difference: float) -> list[Power]:
    count = max(1, len(setup.comparisons.pairs(setup.describers)))
    powers = []
    for name, tests in (("one pair, chosen beforehand", 1), ("every pair, corrected", count)):
        plan = Plan(level=1 - setup.statistics.confidence, tests=tests)
        smallest = smallest_difference(len(setup.neurons), plan)
        ratio = None if smallest is None or smallest >= 1 else round((1 + smallest) / (1 - smallest), 2)
        needed = neurons_needed(difference, plan)
        powers.append(Power(name, tests, None if smallest is None else round(smallest, 4), ratio, difference, needed))
    return powers if setup.comparators else []
