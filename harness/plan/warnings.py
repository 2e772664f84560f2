"""Findings about a planned run: exceeded limits, likely mistakes, and what the results will not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.methods import Method
from harness.plan.schema import RunPlan, unpriced
from harness.plan.trial import Findings
from harness.records import Status
from harness.run.setup import Setup

#: Windows of a split per top window that is kept; with fewer, the top windows are hardly exceptional.
WINDOWS_PER_TOP = 5


def warnings_of(setup: Setup, plan: RunPlan, found: Findings) -> Iterator[str]:
    """Yield what the user should know before the run starts."""
    yield from found.problems
    yield from _text(setup, found)
    if setup.compares:
        yield from _describers(setup)
        yield from _judges(setup)
        yield from _power(plan)
        yield from _llms(setup, plan)
        yield from _failures(found)


def stops_of(plan: RunPlan, max_calls: int | None, max_cost: float | None, max_hours: float | None) -> Iterator[str]:
    """Yield each limit that the run exceeds."""
    hours = plan.seconds / 3600
    if max_calls is not None and plan.calls > max_calls:
        yield f"{plan.calls:,} LLM calls exceed the limit of {max_calls:,} (--max-calls)"
    if max_cost is not None and plan.cost is None:
        missing = " and ".join(f"llm.{role}.price" for role in unpriced(plan.roles))
        yield f"the cost is unknown, so its limit cannot be checked: set {missing} (--max-cost)"
    elif max_cost is not None and plan.cost is not None and plan.cost > max_cost:
        yield f"a cost of {plan.cost:,.2f} exceeds the limit of {max_cost:,.2f} (--max-cost)"
    if max_hours is not None and hours > max_hours:
        yield f"{hours:,.1f} hours exceed the limit of {max_hours:g} (--max-hours)"
    for disk in plan.disk:
        if disk.bytes is not None and disk.bytes > disk.free:
            yield (
                f"the {disk.what} needs {disk.bytes / 1e9:,.1f} GB, but {disk.path} has {disk.free / 1e9:,.1f} free: "
                "choose another folder, or keep less (storage.directions, storage.top_tokens)"
            )


def _text(setup: Setup, found: Findings) -> Iterator[str]:
    evidence, count = setup.evidence, found.documents
    wanted = evidence.max_documents
    if not count:
        return
    if found.complete and wanted is not None and count < wanted:
        yield (f"the corpus has {count:,} documents, fewer than evidence.max_documents={wanted:,}: all are read")
    if not found.complete and wanted is None:
        yield (f"evidence.max_documents=null reads the corpus to its end, which is beyond {count:,} documents")
    if wanted is not None:
        count = min(count, wanted) if found.complete else wanted
    tokens = found.tokens_per_document or found.characters / found.documents / 4
    for split, share in evidence.splits.items():
        windows = count * max(1, tokens / evidence.step) * share / sum(evidence.splits.values())
        if windows < WINDOWS_PER_TOP * evidence.top:
            yield (
                f"the {split.value} split gets about {windows:,.0f} windows of text, too few to select the top "
                f"{evidence.top} (evidence.max_documents, evidence.splits, evidence.top, corpus)"
            )


def _describers(setup: Setup) -> Iterator[str]:
    real = [name for name in setup.describers if name not in setup.controls]
    if not setup.controls:
        yield (
            "there is no control among the describers: nothing shows whether judges can distinguish right from wrong "
            "(describers=[...,shuffled,generic])"
        )
    extractive = [name for name in real if setup.describers[name].role is not None]
    if extractive and "explainer" not in setup.backends:
        yield (
            f"no explainer: the descriptions of {', '.join(extractive)} are lists of tokens, unlike those of the "
            "published methods (llm@llm.explainer=...)"
        )


def _judges(setup: Setup) -> Iterator[str]:
    for name, reason in setup.left_out.items():
        yield f"judges.{name} is left out: it {reason}"
    if not setup.comparators:
        yield "no judge compares descriptions: there will be scores, but no win rates"
        return
    writers = set[str]().union(*(_models(setup, describer) for describer in setup.describers.values()))
    models = {name: _models(setup, judge) for name, judge in setup.comparators.items()}
    for name, own in models.items():
        if own & writers:
            yield (
                f"judges.{name} judges with {', '.join(sorted(own & writers))}, which also writes descriptions: LLMs "
                "prefer their own texts (give the judge another model)"
            )
    if len(models) == 1 and not any(hasattr(judge, "members") for judge in setup.comparators.values()):
        yield (
            f"only one judge compares descriptions ({next(iter(models))}): its bias cannot be distinguished from the "
            "truth (judges=[...], or a panel)"
        )


def _models(setup: Setup, method: Method) -> set[str]:
    return {setup.backends[role].model for role in method.roles if role in setup.backends}


def _power(plan: RunPlan) -> Iterator[str]:
    power = plan.power
    if power is None:
        return
    smallest = power.smallest_of_one_pair
    if power.neurons < power.needed_for_one_pair:
        shown = "none" if smallest is None else f"only one of at least {smallest:.2f}"
        yield (
            f"{power.neurons} neurons are too few to detect a win-rate difference of {power.wanted:g} between two "
            f"describers: {power.needed_for_one_pair} are needed, and these detect {shown} (neurons, --difference)"
        )
    elif power.neurons < power.needed_for_every_pair:
        yield (
            f"{power.neurons} neurons detect a win-rate difference of {power.wanted:g} in one pair chosen beforehand; "
            f"for all {power.tests} pairs {power.needed_for_every_pair} are needed"
        )


def _llms(setup: Setup, plan: RunPlan) -> Iterator[str]:
    for role in plan.roles:
        config, name = setup.config["llm"].get(role.role, {}), f"llm.{role.role}"
        if not role.amount.calls:
            continue
        try:
            setup.backends[role.role].check()
        except HarnessError as error:
            yield f"on this machine the run would stop: {name}: {error}"
        if role.cost is None and not role.managed:
            yield f"{name} ({role.model}) has no price, so its cost is unknown ({name}.price)"
        context = (config.get("options") or {}).get("max-model-len")
        if context is not None and role.longest_tokens > context:
            yield (
                f"the longest conversation with {role.role} has about {role.longest_tokens:,} tokens with its answer, "
                f"more than {name}.options.max-model-len={context:,}: it would fail"
            )


def _failures(found: Findings) -> Iterator[str]:
    for name, records in found.records.items():
        details = [
            getattr(one, "detail", "") or getattr(one, "reason", "") for one in records if one.status is not Status.OK
        ]
        if details:
            detail = Counter(details).most_common(1)[0][0]
            text = f"{len(details)} of {len(records)} answers of {name} failed in the trial, for example: {detail}"
            yield text
