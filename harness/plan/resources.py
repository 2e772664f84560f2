"""Time of each stage and size on disk: measured in the trial, or assumed where the trial could not measure."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.folder import RunFolder
from harness.plan.schema import Basis, DiskPlan, MethodPlan, RolePlan, StagePlan
from harness.plan.trial import Findings, intervened
from harness.plan.work import Work
from harness.run.decompose import bytes_kept
from harness.run.setup import Setup

#: Optimiser steps until a channel converges: AdamW takes 5,600 to 6,200 on MiniLM. A step costs the same in both.
GEODESIC_STEPS, ADAMW_STEPS = 20, 6000
DIAGNOSED = "channels of restarts and random vectors"
#: Tokens per document if the corpus is not on this machine.
TOKENS_PER_DOCUMENT = 1000
#: Typical size of one record in bytes, and of one answer in the LLM cache.
RECORD_BYTES, ANSWER_BYTES = 1000, 500
#: Bytes in the cache per prompt token whose log-probabilities are requested: about 20 alternatives each.
LOGPROB_BYTES = 100


def stages_of(
    setup: Setup,
    work: Work,
    found: Findings,
    folder: RunFolder,
    methods: Sequence[MethodPlan],
    roles: Sequence[RolePlan],
    teraflops: float,
) -> list[StagePlan]:
    """Return the stages in order; ``teraflops`` is the assumed speed for what the trial did not measure."""
    flops = teraflops * 1e12
    stages = [
        _activations(setup, found, folder, flops),
        _decomposition("decompose", work.channels(setup), "channels", setup, found, flops),
        _decomposition("diagnostics", _diagnosed(setup, work), DIAGNOSED, setup, found, flops),
    ]
    if setup.effect_splits or setup.needs_steered:
        neurons = len(intervened(setup, work))
        each = found.interventions
        if not neurons:
            stages.append(_nothing("interventions"))
        elif each is None:
            stages.append(StagePlan("interventions", None, Basis.UNKNOWN, "the subject could not run on this machine"))
        else:
            stages.append(StagePlan("interventions", round(each * neurons, 1), Basis.MEASURED, f"{neurons:,} neurons"))
    if setup.compares:
        described = [method for method in methods if method.kind == "describer"]
        judged = [method for method in methods if method.kind != "describer"]
        stages.append(_answers("describe", described, roles, 0.0, found.describing))
        stages.append(_answers("judge", judged, roles, found.loading, found.judging))
    return stages


def _nothing(name: str, note: str = "") -> StagePlan:
    return StagePlan(name, 0.0, Basis.NOTHING, note)


def _activations(setup: Setup, found: Findings, folder: RunFolder, flops: float) -> StagePlan:
    name = "activations"
    if setup.corpus is None or not setup.compares or folder.exemplars.exists():
        return _nothing(name)
    if found.evidence == "store":
        return _nothing(name, "they are in the evidence store")
    wanted = setup.evidence.max_documents
    in_corpus = found.documents if found.complete else None
    count = wanted if in_corpus is None else min(in_corpus, wanted or in_corpus)
    if count is None:
        return StagePlan(name, None, Basis.UNKNOWN, "the corpus is read to its end: set evidence.max_documents")
    if found.tokens_per_second is None or found.tokens_per_document is None:
        tokens = found.characters / found.documents / 4 if found.documents else TOKENS_PER_DOCUMENT
        seconds = count * tokens * 2 * _parameters(setup) / flops
        note = f"{count:,} documents of {tokens:,.0f} tokens at {flops / 1e12:g} TFLOP/s, without the download"
        return StagePlan(name, round(seconds, 1), Basis.ASSUMED, note)
    reading = found.reading / max(found.documents, 1) * (in_corpus or count)
    seconds = reading + count * found.tokens_per_document / found.tokens_per_second
    note = f"{count:,} documents at {found.tokens_per_second:,.0f} tokens/s"
    return StagePlan(name, round(seconds, 1), Basis.MEASURED, note)


def _parameters(setup: Setup) -> int:
    """Return the approximate number of parameters in the subject's layers; attention has 4 d_model^2."""
    subject = setup.subject
    layer = len(subject.kinds) * subject.d_model * subject.d_mlp + 4 * subject.d_model**2
    return subject.num_layers * layer * (subject.num_experts or 1)


def _decomposition(name: str, count: int, what: str, setup: Setup, found: Findings, flops: float) -> StagePlan:
    if not count:
        return _nothing(name)
    settings, subject = setup.config["decomposition"], setup.subject
    adamw = settings["solver"] == "adamw"
    geodesic = GEODESIC_STEPS * (1 + settings["geodesic"].get("lookahead", 0))
    note, basis = f"{count:,} {what}", Basis.ASSUMED
    if found.channel is None:  # a step multiplies the vector and the projection twice, two operations per element
        seconds = count * geodesic * 4 * subject.d_model * subject.vocab_size / flops
        note += f"; at {flops / 1e12:g} TFLOP/s"
    else:
        seconds, basis = count * found.channel, Basis.ASSUMED if adamw else Basis.MEASURED
    if adamw:
        seconds *= ADAMW_STEPS / geodesic
        note += f"; about {ADAMW_STEPS:,} steps each"
    return StagePlan(name, round(seconds, 1), basis, note)


def _diagnosed(setup: Setup, work: Work) -> int:
    """Return the number of channels that the diagnostics find; ablations find none."""
    config, count = setup.diagnostics, 0
    for group, what in work.diagnostics:
        if what == "restarts":
            count += len(group.sample) * (1 + config.restarts) * group.config.num_channels
        elif what == "random":
            count += config.random_vectors * min(config.random_channels, group.config.num_channels)
    return count


def _answers(
    name: str, methods: Sequence[MethodPlan], roles: Sequence[RolePlan], loading: float, each: float
) -> StagePlan:
    items = sum(method.items + method.retests for method in methods)
    if not items:
        return _nothing(name)
    by_role = {role.role: role for role in roles}
    llm = sum(
        amount.paid_prompt_tokens / by_role[role].prompt_tokens_per_second
        + amount.paid_completion_tokens / by_role[role].completion_tokens_per_second
        for method in methods
        for role, amount in method.roles.items()
    )
    note = "LLMs at the assumed tokens per second, without the start of servers" if llm else ""
    return StagePlan(name, round(loading + each * items + llm, 1), Basis.ASSUMED if llm else Basis.MEASURED, note)


def disk_of(
    setup: Setup, work: Work, found: Findings, methods: Sequence[MethodPlan], folder: RunFolder
) -> list[DiskPlan]:
    """Return the folders that the run writes to, with the bytes it adds."""
    pending = bool(setup.compares and not folder.exemplars.exists())
    each = found.exemplar_bytes if pending else 0.0
    exemplars = None if each is None else each * len(setup.described)
    own = bytes_kept(setup, work.vectors) + RECORD_BYTES * sum(one.items + one.retests for one in methods)
    sizes = [("run folder", setup.folder, None if exemplars is None else own + exemplars)]
    if setup.evidence.store is not None and pending and found.evidence != "store":
        sizes.append(("evidence store", Path(setup.evidence.store), exemplars))
    if setup.backends:
        amounts = [amount for method in methods for amount in method.roles.values()]
        answers = sum(
            ANSWER_BYTES * one.paid_calls + (0 if one.completion_tokens else LOGPROB_BYTES * one.paid_prompt_tokens)
            for one in amounts
        )
        sizes.append(("LLM cache", Path(setup.config["serving"]["cache"]), answers))
    return [
        DiskPlan(what, str(path), None if size is None else round(size), shutil.disk_usage(_existing(path)).free)
        for what, path, size in sizes
    ]


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
