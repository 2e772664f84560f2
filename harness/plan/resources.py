"""Time of each stage and size on disk: measured in the trial, or assumed where the trial could not measure."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.folder import RunFolder
from harness.plan.schema import Basis, DiskPlan, MethodPlan, RolePlan, StagePlan
from harness.plan.trial import Trial, Work, intervened
from harness.run.decompose import bytes_kept
from harness.run.setup import Setup

#: Steps per channel: 31 on MiniLM and 59 on SmolLM2; AdamW takes 5,600 to 7,000. A step costs the same in both.
GEODESIC_STEPS, ADAMW_STEPS = 50, 6000
#: Tokens per document if the corpus is not on this machine.
TOKENS_PER_DOCUMENT = 1000
RECORD_BYTES = 1000  # typical size of one record


def stages_of(
    setup: Setup,
    work: Work,
    found: Trial,
    folder: RunFolder,
    methods: Sequence[MethodPlan],
    roles: Sequence[RolePlan],
    teraflops: float,
) -> list[StagePlan]:
    """Return the stages in order; ``teraflops`` is the assumed speed for what the trial did not measure."""
    measured = sum(group.channels(name) for group, name in work.diagnostics)
    stages = [
        _activations(setup, found, folder, teraflops),
        _decomposition("decompose", work.channels(setup), "channels", setup, found, teraflops),
        _decomposition("diagnostics", measured, "channels of restarts and random vectors", setup, found, teraflops),
    ]
    if setup.effect_splits or setup.needs_steered:
        neurons = len(intervened(setup, work))
        note = f"{neurons:,} neurons" if found.interventions else "the subject could not run on this machine"
        stages.append(_stage("interventions", neurons, found.interventions, Basis.MEASURED, note))
    if setup.compares:
        described = [method for method in methods if method.kind in ("check", "describer")]
        judged = [method for method in methods if method.kind in ("comparator", "scorer")]
        stages += [_answers("describe", described, roles, found.describing)]
        stages += [_answers("judge", judged, roles, found.judging)]
    return stages


def _stage(name: str, count: float, seconds: float | None, basis: Basis, note: str) -> StagePlan:
    """Return a stage of a number of items that take the given seconds each, None if they are not known."""
    if not count:
        return StagePlan(name, 0.0, Basis.NOTHING)
    if seconds is None:
        return StagePlan(name, None, Basis.UNKNOWN, note)
    return StagePlan(name, round(count * seconds, 1), basis, note)


def _activations(setup: Setup, found: Trial, folder: RunFolder, teraflops: float) -> StagePlan:
    wanted, in_corpus = setup.evidence.max_documents, found.documents if found.complete else None
    if setup.corpus is None or not setup.compares or folder.has_evidence or found.evidence == "store":
        count: int | None = 0
    else:
        count = wanted if in_corpus is None else min(in_corpus, wanted or in_corpus)
        if setup.report_corpus is not None and count is not None:
            further = setup.evidence.report_documents
            count = None if further is None else count + further
    if count is None:
        note = "the corpus is read to its end: set evidence.max_documents"
        return StagePlan("activations", None, Basis.UNKNOWN, note)
    note, tokens, speed = f"{count:,} documents", found.tokens_per_document, found.tokens_per_second
    if tokens is not None and speed is not None:
        return _stage("activations", count, tokens / speed, Basis.MEASURED, f"{note} at {speed:,.0f} tokens/s")
    tokens = found.characters / found.documents / 4 if found.documents else TOKENS_PER_DOCUMENT
    subject = setup.subject
    # Attention has 4 d_model^2 parameters in each layer.
    parameters = len(subject.kinds) * subject.d_model * subject.d_mlp + 4 * subject.d_model**2
    parameters *= subject.num_layers * (subject.num_experts or 1)
    note += f" of {tokens:,.0f} tokens at {teraflops:g} TFLOP/s, without the download"
    return _stage("activations", count, tokens * 2 * parameters / teraflops / 1e12, Basis.ASSUMED, note)


def _decomposition(name: str, count: int, what: str, setup: Setup, found: Trial, teraflops: float) -> StagePlan:
    settings, subject, note = setup.config["decomposition"], setup.subject, f"{count:,} {what}"
    steps = GEODESIC_STEPS * (1 + settings["geodesic"].get("lookahead", 0))
    seconds, basis = found.channel, Basis.MEASURED
    if seconds is None:  # a step multiplies the vector and the projection twice, two operations per element
        seconds, basis = steps * 4 * subject.d_model * subject.vocab_size / teraflops / 1e12, Basis.ASSUMED
        note += f"; at {teraflops:g} TFLOP/s"
    if settings["solver"] == "adamw":
        seconds, basis = seconds * ADAMW_STEPS / steps, Basis.ASSUMED
        note += f"; about {ADAMW_STEPS:,} steps each"
    return _stage(name, count, seconds, basis, note)


def _answers(name: str, methods: Sequence[MethodPlan], roles: Sequence[RolePlan], each: float) -> StagePlan:
    items = sum(method.items + method.retests for method in methods)
    llm = 0.0
    for role in roles:
        for amount in (method.roles[role.role] for method in methods if role.role in method.roles):
            llm += amount.paid_prompt_tokens / role.rate.prompt
            llm += amount.paid_completion_tokens / role.rate.completion
    note = "LLMs at the assumed tokens per second, without the start of servers" if llm else ""
    return _stage(name, items, each + llm / max(items, 1), Basis.ASSUMED if llm else Basis.MEASURED, note)


def disk_of(setup: Setup, work: Work, found: Trial, methods: Sequence[MethodPlan], folder: RunFolder) -> list[DiskPlan]:
    """Return the folders that the run writes to, with the bytes it adds."""
    pending = bool(setup.compares and not folder.has_evidence)
    each = found.exemplar_bytes if pending else 0.0
    exemplars = None if each is None else each * len(setup.described)
    own = bytes_kept(setup, work.vectors) + RECORD_BYTES * sum(one.items + one.retests for one in methods)
    sizes = [("run folder", setup.folder, None if exemplars is None else own + exemplars)]
    if setup.evidence.store is not None and pending and found.evidence != "store":
        sizes.append(("evidence store", Path(setup.evidence.store), exemplars))
    plans = []
    for what, path, size in sizes:
        path = path.expanduser().absolute()
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        plans.append(DiskPlan(what, str(path), None if size is None else round(size), shutil.disk_usage(there).free))
    return plans
