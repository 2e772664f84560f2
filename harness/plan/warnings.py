"""Trial about a planned run: exceeded limits, likely mistakes, and what the results will not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.errors import HarnessError
from harness.plan.schema import Assumptions, RunPlan, unpriced
from harness.plan.trial import Trial
from harness.records import Status
from harness.run.setup import Setup

#: Windows of a split per top window that is kept; with fewer, the top windows are hardly exceptional.
WINDOWS_PER_TOP = 5
#: Neurons below which intervals and tests of the leaderboard are unreliable.
FEW_NEURONS = 20


def warnings_of(setup: Setup, plan: RunPlan, found: Trial) -> Iterator[str]:
    """Yield what the user should know before the run starts."""
    yield from found.problems
    yield from _text(setup, found)
    if setup.compares:
        yield from _describers(setup)
        yield from _judges(setup)
        yield from _power(plan)
        yield from _llms(setup, plan)
        for name, records in found.records.items():
            failed = [one for one in records if one.status is not Status.OK]
            if failed:
                details = Counter(getattr(one, "detail", "") or getattr(one, "reason", "") for one in failed)
                yield (
                    f"{len(failed)} of {len(records)} answers of {name} failed in the trial, for example: "
                    f"{details.most_common(1)[0][0]}"
                )


def stops_of(plan: RunPlan, limits: Assumptions) -> Iterator[str]:
    """Yield each limit that the run exceeds."""
    hours = plan.seconds / 3600
    if limits.max_calls is not None and plan.calls > limits.max_calls:
        yield f"{plan.calls:,} LLM calls exceed the limit of {limits.max_calls:,} (--max-calls)"
    if limits.max_cost is not None and plan.cost is None:
        missing = " and ".join(f"llm.{role}.price" for role in unpriced(plan.roles))
        yield f"the cost is unknown, so its limit cannot be checked: set {missing} (--max-cost)"
    elif limits.max_cost is not None and (plan.cost or 0) > limits.max_cost:
        yield f"a cost of {plan.cost:,.2f} exceeds the limit of {limits.max_cost:,.2f} (--max-cost)"
    if limits.max_hours is not None and hours > limits.max_hours:
        yield f"{hours:,.1f} hours exceed the limit of {limits.max_hours:g} (--max-hours)"
    for disk in plan.disk:
        if disk.bytes is not None and disk.bytes > disk.free:
            yield (
                f"the {disk.what} needs {disk.bytes / 1e9:,.1f} GB, but {disk.path} has {disk.free / 1e9:,.1f} free: "
                "choose another folder, or keep less (storage.directions, storage.top_tokens)"
            )


def _text(setup: Setup, found: Trial) -> Iterator[str]:
    evidence, count, wanted = setup.evidence, found.documents, setup.evidence.max_documents
    if not count:
        return
    if found.complete and wanted is not None and count < wanted:
        yield f"the corpus has {count:,} documents, fewer than evidence.max_documents={wanted:,}: all are read"
    if not found.complete and wanted is None:
        yield f"evidence.max_documents=null reads the corpus to its end, which is beyond {count:,} documents"
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
    distinguish = "whether judges can distinguish right from wrong"
    if not setup.controls:
        yield f"there is no control among the describers: nothing shows {distinguish} (describers=[...,shuffled])"
    elif "shuffled" not in setup.controls:
        yield f"there is no shuffled control: it best shows {distinguish} (describers=[...,shuffled])"
    extractive = [name for name, one in setup.describers.items() if not one.control and one.role is not None]
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
    writers = set[str]().union(*(setup.models_of(describer) for describer in setup.describers.values()))
    for name, judge in setup.comparators.items():
        if shared := setup.models_of(judge) & writers:
            yield (
                f"judges.{name} judges with {', '.join(sorted(shared))}, which also writes descriptions: LLMs "
                "prefer their own texts (give the judge another model)"
            )
    names = list(setup.comparators)
    if len(names) == 1 and not hasattr(setup.comparators[names[0]], "members"):
        yield (
            f"only one judge compares descriptions ({names[0]}): its bias cannot be distinguished from the truth "
            "(judges=[...], or a panel)"
        )


def _power(plan: RunPlan) -> Iterator[str]:
    if plan.neurons < FEW_NEURONS:
        yield f"with fewer than {FEW_NEURONS} neurons, intervals and tests are unreliable (neurons)"
    for power in plan.power:
        if plan.neurons < power.neurons_needed:
            least = power.smallest_difference
            yield (
                f"{plan.neurons} neurons are too few to detect a win-rate difference of {power.wanted:g} between "
                f"describers ({power.comparison}): {power.neurons_needed} are needed, and these detect "
                f"{'none' if least is None else f'only one of at least {least:.2f}'} (neurons, --difference)"
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
