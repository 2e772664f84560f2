"""What looks wrong with a run, as someone would see it who is about to pay for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.methods import Method
from harness.plan.probe import Findings
from harness.plan.schema import Flag, Level, RunPlan
from harness.plan.work import Work
from harness.records import Side, Status
from harness.run.setup import Setup

if TYPE_CHECKING:
    from harness.plan.planning import Assumptions

#: Windows of a split for each top window that is kept, below which these are hardly top ones.
WINDOWS_PER_TOP = 5
#: Neurons below which the normal approximation of the power analysis, and intervals over neurons, promise too much.
FEW = 20


def flags_of(setup: Setup, plan: RunPlan, work: Work, found: Findings, assumed: Assumptions) -> list[Flag]:
    """Return everything that looks wrong, in no order."""
    found_wrong = [
        *_limits(plan, assumed),
        *_state(plan),
        *_subject(setup, found, plan),
        *_text(setup, found),
    ]
    if setup.compares:
        found_wrong += [
            *_contestants(setup),
            *_judges(setup, plan),
            *_power(setup, plan),
            *_llms(setup, plan),
            *_samples(found),
        ]
    return [Flag(level=level, text=text) for level, text in found_wrong]


Wrong = Iterator[tuple[Level, str]]


def _limits(plan: RunPlan, assumed: Assumptions) -> Wrong:
    if assumed.max_calls is not None and plan.calls > assumed.max_calls:
        yield Level.STOP, f"{plan.calls:,} LLM calls exceed the limit of {assumed.max_calls:,} (--max-calls)"
    if assumed.max_cost is not None:
        if plan.cost is None:
            missing = " and ".join(f"llm.{role}.price" for role in plan.unpriced)
            yield Level.STOP, f"the cost is not known, so its limit cannot be kept: set {missing} (--max-cost)"
        elif plan.cost > assumed.max_cost:
            yield Level.STOP, f"a cost of {plan.cost:,.2f} exceeds the limit of {assumed.max_cost:,.2f} (--max-cost)"
    if assumed.max_hours is not None and plan.seconds / 3600 > assumed.max_hours:
        yield (
            Level.STOP,
            f"{plan.seconds / 3600:,.1f} hours, measured and assumed, exceed the limit of {assumed.max_hours:g} "
            "(--max-hours)",
        )
    for room in plan.disk:
        if room.bytes is not None and room.bytes > room.free:
            yield (
                Level.STOP,
                f"the {room.what} takes some {room.bytes / 1e9:,.1f} GB, and {room.path} has {room.free / 1e9:,.1f} "
                "left: name another folder, or keep less (storage.directions, storage.top_tokens)",
            )
        elif room.bytes is not None and room.bytes > room.free / 2:
            yield Level.WARNING, f"the {room.what} takes more than half of the disk that {room.path} has left"


def _state(plan: RunPlan) -> Wrong:
    if plan.state == "finished":
        yield Level.NOTE, f"{plan.folder} holds this run, and it is finished: the same command would ask nothing"
    elif plan.state == "unfinished":
        yield Level.NOTE, f"{plan.folder} holds this run in part: the plan is of what remains"


def _subject(setup: Setup, found: Findings, plan: RunPlan) -> Wrong:
    if not plan.subject.here and setup.executor.device == "cpu":
        yield Level.NOTE, "this machine has no GPU that PyTorch could use: times are assumed for one that has"
    elif setup.executor.device == "cpu" and plan.vectors and plan.subject.d_model * plan.subject.vocabulary > 1 << 28:
        yield Level.WARNING, f"{plan.subject.name} would be decomposed on a CPU: a GPU takes a small part of the time"
    if found.active is not None:
        active, looked = found.active
        if active < looked:
            yield (
                Level.WARNING,
                f"{looked - active} of {looked} neurons were never active on the text that was read: of such neurons "
                "no text can tell anything, and they count as failures",
            )
    yield from ((Level.NOTE, problem) for problem in found.problems)


def _text(setup: Setup, found: Findings) -> Wrong:
    text, evidence = found.text, setup.evidence
    if text is None:
        return
    wanted = evidence.max_documents
    if text.complete and wanted is not None and text.documents < wanted:
        yield (
            Level.NOTE,
            f"the corpus has {text.documents:,} documents, fewer than evidence.max_documents={wanted:,}: all are read",
        )
    if not text.complete and wanted is None:
        yield (
            Level.WARNING,
            "evidence.max_documents=null reads the corpus to its end, and after "
            f"{text.documents:,} documents the probe had not seen it",
        )
    if not text.complete and wanted is not None and text.documents < wanted:
        count = wanted
    else:
        count = min(text.documents, wanted or text.documents)
    each = found.tokens_per_document or text.characters / max(text.documents, 1) / 4
    shares = sum(evidence.splits.values())
    for split, share in evidence.splits.items():
        windows = count * max(1, each / evidence.step) * share / shares
        if windows < WINDOWS_PER_TOP * evidence.top:
            yield (
                Level.WARNING,
                f"the {split.value} split gets some {windows:,.0f} windows of text: too few for top {evidence.top} "
                "windows that stand out (evidence.max_documents, evidence.splits, evidence.top, corpus)",
            )


def _contestants(setup: Setup) -> Wrong:
    real = [name for name in setup.describers if name not in setup.controls]
    if not setup.controls:
        yield (
            Level.WARNING,
            "there is no control among the describers: nothing shows whether a judge can tell right from wrong "
            "(describers=[...,shuffled,generic])",
        )
    elif "shuffled" not in setup.describers:
        yield (
            Level.NOTE,
            "no shuffled control: only a description of another neuron shows that judges look at the neuron",
        )
    if len(real) < 2:
        yield Level.NOTE, f"only {len(real)} of the describers is no control: nothing is compared with its like"
    asking = [name for name in real if setup.describers[name].role is not None]
    if asking and "explainer" not in setup.backends:
        yield (
            Level.WARNING,
            f"no explainer: the descriptions of {', '.join(asking)} are the evidence's own tokens, which is not what "
            "the published methods write (llm@llm.explainer=...)",
        )


def _judges(setup: Setup, plan: RunPlan) -> Wrong:
    for name, reason in setup.left_out.items():
        yield Level.WARNING, f"judges.{name} is left out: it {reason}"
    if not setup.comparators:
        yield Level.WARNING, "no judge compares descriptions: there will be scores, and no win rates"
        return
    makers = set[str]().union(*(_models(setup, describer) for describer in setup.describers.values()))
    models = {name: _models(setup, judge) for name, judge in setup.comparators.items()}
    for name, own in models.items():
        if own & makers:
            yield (
                Level.WARNING,
                f"judges.{name} judges with {', '.join(sorted(own & makers))}, which writes the descriptions too: "
                "models prefer what they wrote (give the judge another model)",
            )
    asked = [own for own in models.values() if own]
    if len(setup.comparators) == 1 and not any(hasattr(judge, "members") for judge in setup.comparators.values()):
        yield (
            Level.WARNING,
            f"one judge alone compares ({next(iter(setup.comparators))}): its taste cannot be told from the truth "
            "(judges=[...], or a panel)",
        )
    elif len(asked) > 1 and len(set.union(*asked)) == 1:
        yield Level.NOTE, f"all LLM judges are one model ({next(iter(asked[0]))}): they share their mistakes"
    sides = {judge.side for judge in setup.comparators.values()}
    if len(sides) == 1 and Side.BOTH not in sides:
        side = next(iter(sides))
        yield (
            Level.NOTE,
            f"every comparing judge looks at the {side.value} side of the neurons, which favours describers that do "
            "(add one of the other side)",
        )
    if any(own for own in models.values()) and not setup.comparisons.retest:
        yield (
            Level.NOTE,
            "no judge is asked a second time, so none shows whether it agrees with itself (comparisons.retest)",
        )


def _models(setup: Setup, method: Method) -> set[str]:
    return {setup.backends[role].model for role in method.roles if role in setup.backends}


def _power(setup: Setup, plan: RunPlan) -> Wrong:
    power = plan.power
    if power is None:
        return
    if power.neurons < power.needed_for_one_pair:
        smallest = power.smallest_of_one_pair
        shown = "none" if smallest is None else f"only one of {smallest:.2f} or more"
        yield (
            Level.WARNING,
            f"{power.neurons} neurons are too few to show a win-rate difference of {power.wanted:g} between two "
            f"describers: {power.needed_for_one_pair} are needed, and these show {shown} (neurons, --difference)",
        )
    elif power.neurons < power.needed_for_every_pair:
        yield (
            Level.NOTE,
            f"{power.neurons} neurons show a win-rate difference of {power.wanted:g} of one pair chosen beforehand; "
            f"for all {power.tests} pairs {power.needed_for_every_pair} are needed",
        )
    if power.neurons < FEW:
        yield Level.NOTE, f"with fewer than {FEW} neurons intervals are rough, and the figures of power too hopeful"


def _llms(setup: Setup, plan: RunPlan) -> Wrong:
    for role in plan.roles:
        config, name = setup.config["llm"].get(role.role, {}), f"llm.{role.role}"
        if not role.amount.calls:
            yield Level.NOTE, f"{name} ({role.model}) is asked nothing"
            continue
        try:
            setup.backends[role.role].check()
        except HarnessError as error:
            yield Level.WARNING, f"on this machine the run would stop: {name}: {error}"
        if role.cost is None and not role.managed:
            yield Level.WARNING, f"{name} ({role.model}) has no price, so its cost is not known ({name}.price)"
        room = (config.get("options") or {}).get("max-model-len")
        if room is not None and role.longest_tokens > room:
            yield (
                Level.WARNING,
                f"the longest conversation with {role.role} has about {role.longest_tokens:,} tokens, its answer "
                f"included, and {name}.options.max-model-len is {room:,}: it would fail",
            )
        if role.managed and config.get("revision") is None:
            yield Level.NOTE, f"{name}.revision is not set: the hub's main branch may move under a repeated run"
    servers = {setup.backends[role.role].server for role in plan.roles if role.managed and role.amount.paid_calls}
    if len(servers) > setup.config["serving"]["max_servers"]:
        yield Level.NOTE, f"{len(servers)} managed models take turns: each is started when it is first asked"
    if setup.config["serving"]["failure_budget"] is None and plan.calls:
        yield Level.NOTE, "serving.failure_budget=null: a judge that always fails would be asked to the end"


def _samples(found: Findings) -> Wrong:
    own = found.evidence in ("run", "store")
    for name, samples in found.samples.items():
        failed = [sample for sample in samples if sample.status is not Status.OK]
        if failed:
            (detail, _), *_rest = Counter(sample.detail for sample in failed).most_common(1)
            where = "the evidence of this run" if own else "the little evidence of the probe"
            yield (
                Level.WARNING if own else Level.NOTE,
                f"{len(failed)} of {len(samples)} answers of {name} failed on {where}, such as: {detail}",
            )
