"""How long each stage of a run takes: from what the probe measured, and where it could not, from an assumed speed."""

from __future__ import annotations

from collections.abc import Sequence

from harness.folder import RunFolder
from harness.plan.probe import ADAMW_STEPS, Findings
from harness.plan.schema import Basis, MethodPlan, RolePlan, StagePlan
from harness.plan.work import Work
from harness.run.setup import Setup

#: Steps of the geodesic solver for one channel, and tokens of a document, where neither could be measured.
GEODESIC_STEPS, TOKENS_PER_DOCUMENT = 20, 1000


def stages_of(
    setup: Setup,
    work: Work,
    found: Findings,
    folder: RunFolder,
    methods: Sequence[MethodPlan],
    roles: Sequence[RolePlan],
    absent: bool,
    teraflops: float,
) -> list[StagePlan]:
    """Return the stages in their order.

    Args:
        setup: the run.
        work: what it still has to do.
        found: what the probe measured.
        folder: the run's folder.
        methods: what each method asks.
        roles: what each role is asked.
        absent: whether another model stood in for the subject, so that its times are assumed.
        teraflops: the speed that is assumed then.
    """
    times = _Times(setup, work, found, absent, teraflops * 1e12)
    stages = [times.activations(folder), times.decomposition(), times.diagnostics()]
    if setup.effect_splits:
        stages.append(times.each("effects", found.effects, len(setup.effect_splits), folder))
    if setup.needs_steered:
        stages.append(times.each("steered texts", found.steered, 1, folder))
    rates = {role.role: role for role in roles}
    for name, kinds in (("describe", {"describer"}), ("judge", {"comparator", "scorer"})):
        if setup.compares:
            stages.append(_answers(name, [method for method in methods if method.kind in kinds], rates))
    return stages


def _answers(name: str, methods: Sequence[MethodPlan], roles: dict[str, RolePlan]) -> StagePlan:
    if not any(method.items or method.retests for method in methods):
        return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING)
    local = sum(method.local_seconds or 0 for method in methods)
    llm = sum(
        amount.paid_prompt_tokens / roles[role].prompt_tokens_per_second
        + amount.paid_completion_tokens / roles[role].completion_tokens_per_second
        for method in methods
        for role, amount in method.roles.items()
    )
    if not llm:
        return StagePlan(name=name, seconds=round(local, 1), basis=Basis.MEASURED)
    return StagePlan(
        name=name,
        seconds=round(local + llm, 1),
        basis=Basis.ASSUMED,
        note="LLMs at the assumed tokens per second; starting servers comes on top",
    )


class _Times:
    def __init__(self, setup: Setup, work: Work, found: Findings, absent: bool, flops: float) -> None:
        self._setup, self._work, self._found, self._absent, self._flops = setup, work, found, absent, flops

    @property
    def _parameters(self) -> int:
        """Weights of the subject's layers, about: attention four times d_model squared."""
        subject = self._setup.subject
        own = len(subject.kinds) * subject.d_model * subject.d_mlp + 4 * subject.d_model**2
        return subject.num_layers * own * (subject.num_experts or 1)

    def activations(self, folder: RunFolder) -> StagePlan:
        setup, found, name = self._setup, self._found, "activations"
        if setup.corpus is None or not setup.compares or folder.exemplars.exists():
            return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING)
        if found.evidence == "store" and not found.problems:
            return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING, note="they are in the evidence store")
        documents, text = setup.evidence.max_documents, found.text
        there = None if text is None or not text.complete else text.documents
        count = documents if there is None else min(there, documents or there)
        if count is None:
            return StagePlan(
                name=name,
                seconds=None,
                basis=Basis.UNKNOWN,
                note="the corpus is read to its end, which the probe did not reach: set evidence.max_documents",
            )
        if self._absent or found.tokens_per_second is None or found.tokens_per_document is None:
            each = TOKENS_PER_DOCUMENT if text is None else text.characters / max(text.documents, 1) / 4
            seconds = count * each * 2 * self._parameters / self._flops
            return StagePlan(
                name=name,
                seconds=round(seconds, 1),
                basis=Basis.ASSUMED,
                note=f"{count:,} documents of {each:,.0f} tokens at {self._flops / 1e12:g} TFLOP/s; the download aside",
            )
        reading = text.seconds / text.documents * (there or max(count, text.documents)) if text is not None else 0.0
        running = count * found.tokens_per_document / found.tokens_per_second
        note = f"{count:,} documents at {found.tokens_per_second:,.0f} tokens/s"
        if there is None:
            note += "; how long it takes to read the corpus to its end is not known"
        return StagePlan(
            name=name, seconds=round((found.load or 0) + reading + running, 1), basis=Basis.MEASURED, note=note
        )

    def decomposition(self) -> StagePlan:
        setup, name = self._setup, "decompose"
        if not self._work.vectors:
            return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING)
        count = sum(
            len(block.neurons) * setup.decomposition.config(block.layer, block.kind).num_channels
            for block in self._work.vectors
        )
        solver = setup.config["decomposition"]["solver"]
        note = f"{count:,} channels"
        if solver == "adamw":
            note += f", some {ADAMW_STEPS:,} steps each"
        found = self._found.channel
        if found is None:
            return StagePlan(
                name=name,
                seconds=round(count * self._channel_seconds(), 1),
                basis=Basis.ASSUMED,
                note=f"{note}; at {self._flops / 1e12:g} TFLOP/s",
            )
        if not setup.executor.device.startswith("cuda"):
            note += "; on this CPU, by one worker"
        if solver == "adamw":
            # What a step takes was measured, and how many there will be was not.
            return StagePlan(name=name, seconds=round(count * found, 1), basis=Basis.ASSUMED, note=note)
        return StagePlan(name=name, seconds=round(count * found, 1), basis=Basis.MEASURED, note=note)

    def _channel_seconds(self) -> float:
        """Return the assumed seconds of one channel: two products of a vector and the projection at each step."""
        setup, subject = self._setup, self._setup.subject
        settings = setup.config["decomposition"]
        steps = ADAMW_STEPS if settings["solver"] == "adamw" else GEODESIC_STEPS
        if settings["solver"] == "geodesic":
            steps *= 1 + settings["geodesic"].get("lookahead", 0)
        return steps * 4 * subject.d_model * subject.vocab_size / self._flops

    def diagnostics(self) -> StagePlan:
        setup, diagnostics, name = self._setup, self._setup.diagnostics, "diagnostics"
        if not self._work.diagnostics:
            return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING)
        count = 0  # ablations decompose nothing
        for group, what in self._work.diagnostics:
            if what == "restarts":
                count += len(group.sample) * (1 + diagnostics.restarts) * group.config.num_channels
            elif what == "random":
                count += diagnostics.random_vectors * min(diagnostics.random_channels, group.config.num_channels)
        found = self._found.channel_alone
        adamw = setup.config["decomposition"]["solver"] == "adamw"
        how = Basis.ASSUMED if adamw else Basis.MEASURED
        seconds, basis = (count * found, how) if found is not None else (None, Basis.UNKNOWN)
        if not count:
            seconds, basis = 0.0, Basis.MEASURED
        if seconds is None and self._absent:
            seconds, basis = count * self._channel_seconds(), Basis.ASSUMED
        note = f"{count:,} channels of restarts and random vectors"
        return StagePlan(name=name, seconds=None if seconds is None else round(seconds, 1), basis=basis, note=note)

    def each(self, name: str, seconds: float | None, times: int, folder: RunFolder) -> StagePlan:
        place = folder.effects if name == "effects" else folder.steered
        if place.is_dir() and len(list(place.glob("*.parquet"))) and seconds is None:
            return StagePlan(name=name, seconds=0.0, basis=Basis.NOTHING)
        if seconds is None:
            return StagePlan(name=name, seconds=None, basis=Basis.UNKNOWN, note="the subject could not be run here")
        whole = seconds * times * len(self._setup.described)
        return StagePlan(name=name, seconds=round(whole, 1), basis=Basis.MEASURED)
