"""A short probe: the run's own stages on a few neurons, in a folder that is thrown away, with LLMs that are not asked.

What the run has already paid for is used: its evidence and channels, or those of the shared store, its records, and
the answers in its cache. So the prompts of the probe are, for its neurons, those of the run wherever that is possible,
and what is found in the cache here is what the run will find there. Nothing is written but into the scratch folder.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import shutil
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.decomposition import DecompositionConfig, decompose
from harness.errors import HarnessError
from harness.evidence import Corpus, Document, Gathered, gathered, split_of, stored
from harness.folder import RunFolder, write_table
from harness.llm.cache import ResponseCache
from harness.llm.serving import Serving
from harness.plan.dry import CacheAbove, Counter, DryBackend, DryServing, by_characters
from harness.plan.stand_in import StandInCorpus, standing_in
from harness.plan.work import Work
from harness.records import Activity, Channel, Effect, Neuron, RoleUsage, Split, Status, SteeredText, Usage
from harness.run.channel_store import ChannelStore
from harness.run.decompose import decompose_blocks, pending_vectors
from harness.run.describe import describe, pending_descriptions
from harness.run.executor import LocalExecutor
from harness.run.interventions.measure import draw_texts, intervene
from harness.run.judge import judge, pending_scores, pending_verdicts
from harness.run.sections import DecompositionPlan, NeuronSelection
from harness.run.setup import Setup
from harness.run.worker import Block
from harness.seeds import derive_seed
from harness.subject import ActivationReader, CausalModel, Subject

#: Documents of each split that are run through the subject: at least so many, and of short ones at most so many more.
DOCUMENTS, SHORT = 4, 256
#: Seconds in which as much of the corpus is read as can be, to know how long it is.
READING_S = 5.0
#: Neurons whose activations are kept in the timed pass: what is kept of each takes time as well.
KEPT = 128
#: Seconds that the decomposition of the probe's neurons may take; channels beyond are told by those found in it.
DECOMPOSING_S, STANDING_IN_S = 20.0, 2.0
#: Optimiser steps of AdamW that are timed, and what a channel takes of them: 5,600 to 6,200 on MiniLM.
ADAMW_TIMED, ADAMW_STEPS = 20, 6000
#: Vector components times vocabulary of a timed batch: enough to be told by its products, and done in a second or two.
TIMED_CPU, TIMED_GPU = 1 << 28, 1 << 36


@dataclass(frozen=True)
class Sample:
    """One item that the probe answered.

    Attributes:
        neuron: its neuron, as the run names it.
        usage: what it would have asked of the LLMs, and what of that the cache knows; its seconds are real.
        status: how it ended.
        detail: why it is not ok.
    """

    neuron: Neuron
    usage: Usage
    status: Status
    detail: str

    @property
    def roles(self) -> Mapping[str, RoleUsage]:
        """What it asked of each role."""
        return self.usage.roles


@dataclass(frozen=True)
class Text:
    """How much text a corpus has.

    Attributes:
        documents: read.
        characters: in them.
        complete: whether these are all.
        seconds: that took.
        some: a few documents of each split, the same whatever the order of the corpus.
    """

    documents: int
    characters: int
    complete: bool
    seconds: float
    some: tuple[Document, ...]


@dataclass
class Findings:
    """What the probe found. Times are in seconds, and missing where nothing was measured.

    Attributes:
        evidence: from where the prompts of the probe come: ``run``, ``store``, ``probe`` or ``stand-in``.
        neurons: how many neurons, at their signs, were tried.
        samples: the answered items by method.
        loading: of each method, before its first answer: such as to load an encoder.
        working: of each method, for one answer, many of them together.
        longest: tokens of the longest conversation of each role, its longest allowed answer included.
        text: how much text there is.
        tokens_per_document: of the subject, in windows that count.
        load: to load the subject for running.
        tokens_per_second: of the subject, over the corpus.
        channel: to find one channel of one vector, in a batch.
        channel_alone: the same, in the small batches of the diagnostics.
        effects: of clamping, for one neuron and split.
        steered: of steered texts, for one neuron.
        exemplar_bytes: of the exemplars of one neuron.
        effect_bytes: of the effects and steered texts of one neuron.
        record_bytes: of one record, by method.
        active: how many of the tried neurons are ever active, and how many were looked at.
        problems: what could not be measured, and why.
    """

    evidence: str = "run"
    neurons: int = 0
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    working: dict[str, float] = field(default_factory=dict)
    longest: dict[str, int] = field(default_factory=dict)
    text: Text | None = None
    tokens_per_document: float | None = None
    load: float | None = None
    tokens_per_second: float | None = None
    channel: float | None = None
    channel_alone: float | None = None
    effects: float | None = None
    steered: float | None = None
    exemplar_bytes: float | None = None
    effect_bytes: float = 0.0
    record_bytes: dict[str, float] = field(default_factory=dict)
    active: tuple[int, int] | None = None
    problems: list[str] = field(default_factory=list)


class _Chosen(NeuronSelection):
    """Neurons that are already chosen."""

    def __init__(self, selection: NeuronSelection, neurons: Sequence[Neuron]) -> None:
        super().__init__(selection.layers, selection.kinds, signs=selection.signs)
        object.__setattr__(self, "_neurons", sorted({neuron.unsigned for neuron in neurons}))

    def select(self, subject: Subject, seed: int) -> list[Neuron]:
        """Return them."""
        return list(self.__dict__["_neurons"])


@dataclass(frozen=True)
class _Short(DecompositionPlan):
    """A decomposition whose searches are cut short: with the fast solver, and at most so many channels."""

    channels: int | None = None

    def config(self, layer: int, kind: Any) -> DecompositionConfig:
        """Return the settings for one layer and vector kind."""
        config = super().config(layer, kind)
        count = config.num_channels if self.channels is None else min(config.num_channels, self.channels)
        return dataclasses.replace(config, num_channels=count, solver="geodesic")


class _Documents(Corpus):
    """Documents that were already read."""

    def __init__(self, corpus: Corpus, documents: Sequence[Document]) -> None:
        self.name, self.template, self._documents = corpus.name, corpus.template, documents

    def texts(self) -> Iterator[Any]:
        """Yield them."""
        yield from (document.messages or document.text for document in self._documents)


def probed_neurons(setup: Setup, work: Work, count: int) -> list[Neuron]:
    """Return some of the run's whole neurons: those for which most is still to be done, some of every kind of layer.

    Layers are of one kind if as many channels are sought in them: that decides how often an LLM is asked.

    Args:
        setup: the run.
        work: what it still has to do.
        count: how many; at least two of each kind of layer, for some methods compare neurons.
    """
    of_layer = {layer: kind_of_layer(setup, layer) for layer in {neuron.layer for neuron in setup.neurons}}
    kinds: dict[tuple[int, ...], list[Neuron]] = {}
    for neuron in setup.neurons:
        kinds.setdefault(of_layer[neuron.layer], []).append(neuron)
    each = max(2, -(-count // len(kinds)))
    waiting = work.waiting

    signs = {other.sign for other in setup.described}

    def order(neuron: Neuron) -> tuple[int, int]:
        items = sum(waiting[neuron.with_sign(sign)] for sign in signs)
        return -items, derive_seed(setup.seed, "plan", neuron)

    return sorted(neuron for members in kinds.values() for neuron in heapq.nsmallest(each, members, key=order))


def kind_of_layer(setup: Setup, layer: int) -> tuple[int, ...]:
    """Return how many channels are sought in each vector of a layer's neurons."""
    return tuple(setup.decomposition.config(layer, kind).num_channels for kind in setup.kinds)


def survey(corpus: Corpus, setup: Setup, seconds: float = READING_S) -> Text:
    """Read a corpus for a while, count its text, and keep a few documents of each split.

    Raises:
        HarnessError: if it cannot be read.
    """
    start = time.monotonic()
    held: dict[Split, dict[str, Document]] = {split: {} for split in Split}
    documents = characters = 0
    complete = True
    for document in corpus.stream():
        documents += 1
        characters += len(document.text)
        own = held[split_of(document.id, setup.evidence.splits, setup.seed)]
        own[document.id] = document
        if len(own) >= 2 * SHORT:
            for name in sorted(own)[SHORT:]:
                del own[name]
        if documents % 16 == 0 and time.monotonic() - start > seconds:
            complete = False
            break
    some = tuple(document for own in held.values() for document in _enough(own, setup))
    return Text(documents, characters, complete, time.monotonic() - start, some)


def _enough(documents: Mapping[str, Document], setup: Setup) -> Iterator[Document]:
    """Yield documents of a split until they make as many windows as its exemplars need, and some more."""
    evidence, windows = setup.evidence, 0.0
    for place, name in enumerate(sorted(documents)[:SHORT]):
        if place >= DOCUMENTS and windows >= 2 * max(evidence.top, evidence.random):
            return
        # A token of code has three characters; the window is filled or it is the only one.
        windows += max(1.0, len(documents[name].text) / 6 / evidence.step)
        yield documents[name]


def probe(
    setup: Setup,
    folder: RunFolder,
    work: Work,
    scratch: Path,
    *,
    count: int,
    counters: Mapping[str, Counter],
    stand_in: Path | None,
    online: bool = False,
) -> Findings:
    """Try a run on a few of its neurons.

    Args:
        setup: the run, of whose subject no more than its shape need be known if another stands in for it.
        folder: the run's folder, from which is only read.
        work: what the run still has to do.
        scratch: a folder to throw away.
        count: neurons to try.
        counters: how the tokens of a role's text are counted; by characters where none is given.
        stand_in: folder of the tiny model that is tried in the subject's place; none to try the subject itself.
        online: whether the network may be used, so that it is worth telling why it did not help.
    """
    found = Findings()
    if not setup.compares and not work.vectors and not work.diagnostics:
        return found
    chosen = probed_neurons(setup, work, count)
    backends = {
        role: DryBackend(backend, counters.get(role, by_characters)) for role, backend in setup.backends.items()
    }
    tried = dataclasses.replace(
        setup,
        folder=scratch,
        selection=_Chosen(setup.selection, standing_in(chosen) if stand_in is not None else chosen),
        subject=setup.subject if stand_in is None else Subject(setup.subject.name, [str(stand_in)]),
        decomposition=_Short(setup.decomposition.settings, setup.decomposition.overrides, setup.seed),
        evidence=dataclasses.replace(setup.evidence, store=None, max_documents=None),
        comparisons=dataclasses.replace(setup.comparisons, retest=0.0),
        backends=dict(backends),
        executor=LocalExecutor(setup.executor.device, memory=setup.executor.memory),
    )
    trial = _Trial(setup, tried, folder, RunFolder(scratch), found, absent=stand_in is not None, told=online)
    trial.gather()
    trial.decompose(work)
    trial.intervene()
    if setup.compares:
        trial.answer()
    found.longest = {role: backend.client.longest for role, backend in backends.items()}
    return found


class _Trial:
    """The stages of one probe, each of which leaves in the scratch folder what the next one needs."""

    def __init__(
        self,
        setup: Setup,
        tried: Setup,
        real: RunFolder,
        scratch: RunFolder,
        found: Findings,
        *,
        absent: bool,
        told: bool,
    ) -> None:
        self._told = told
        self._setup, self._tried, self._real, self._scratch = setup, tried, real, scratch
        self._found, self._absent, self._short = found, absent, False
        self._found.neurons = len(tried.described)
        scratch.path.mkdir(parents=True, exist_ok=True)

    def gather(self) -> None:
        """Get evidence: the run's own, that of the store, or that of a few documents."""
        setup, found = self._setup, self._found
        if setup.corpus is None or not setup.compares:
            return
        if not self._absent and self._real.exemplars.exists():
            self._link(self._real.exemplars, self._real.activity)
            self._count_active()
            return
        if not self._absent:
            known = stored(setup.corpus, setup.subject, setup.described, setup.evidence, seed=setup.seed)
            if known is not None and set(self._tried.described) <= set(known.neurons):
                Gathered(known.folder, tuple(self._tried.described)).write(
                    self._scratch.exemplars, self._scratch.activity
                )
                found.evidence = "store"
                if set(known.neurons) < set(setup.described):
                    found.problems.append(
                        f"the store knows {len(known.neurons)} of {len(setup.described)} neurons: the corpus is read "
                        "once more for the others"
                    )
                self._measure_exemplars()
                self._count_active()
                return
        found.evidence = "stand-in" if self._absent else "probe"
        corpus: Corpus = setup.corpus
        try:
            found.text = survey(corpus, setup)
        except HarnessError as error:
            why = f" ({error})" if self._told else f", {corpus.name}"
            found.problems.append(f"the text is not here{why}: prompts are tried on Python's own reference")
            corpus = StandInCorpus()
        if self._absent:  # whose tokenizer may lack what the corpus needs, such as a chat template
            corpus = StandInCorpus()
        text = found.text if found.text is not None and corpus is setup.corpus else survey(corpus, setup)
        # Not deterministic: only how much is read in time. The windows that are shown do not hang on it.
        self._pass(_Documents(corpus, text.some))

    def _pass(self, corpus: Corpus) -> None:
        """Run the subject over a few documents, for more neurons than are tried, as the run would."""
        tried, found = self._tried, self._found
        more = [*tried.described]
        if not self._absent:
            more = sorted({*more, *self._setup.described[:KEPT]})
            start = time.monotonic()
            ActivationReader(tried.subject, sorted({neuron.unsigned for neuron in more}), tried.executor.device).close()
            found.load = time.monotonic() - start
        start = time.monotonic()
        # The text of one document may be cut into few windows: there are enough documents for what judges ask.
        with gathered(
            corpus,
            tried.subject,
            more,
            tried.evidence,
            seed=tried.seed,
            device=tried.executor.device,
            run_folder=self._scratch.path,
        ) as evidence:
            seconds, summary = time.monotonic() - start, evidence.summary
            Gathered(evidence.folder, tuple(tried.described)).write(self._scratch.exemplars, self._scratch.activity)
        if not self._absent:
            found.tokens_per_second = summary.tokens / max(seconds - (found.load or 0), seconds / 10)
            found.tokens_per_document = summary.tokens / max(summary.documents, 1)
            self._count_active()
        self._measure_exemplars()

    def _measure_exemplars(self) -> None:
        size = sum(path.stat().st_size for path in (self._scratch.exemplars, self._scratch.activity))
        self._found.exemplar_bytes = size / len(self._tried.described)

    def _count_active(self) -> None:
        highest: dict[Neuron, float] = {}
        for record in self._scratch.read(Activity):
            highest[record.neuron] = max(highest.get(record.neuron, 0.0), record.maximum)
        self._found.active = (sum(peak > 0 for peak in highest.values()), len(highest))

    def decompose(self, work: Work) -> None:
        """Time the decomposition, and give the neurons that are tried their channels."""
        tried, scratch, found = self._tried, self._scratch, self._found
        if not self._absent and self._real.channels.is_dir():
            self._link(*self._real.channels.iterdir(), into=scratch.channels)
        pending = pending_vectors(tried, scratch)
        if work.vectors and not self._absent:
            largest = max(work.vectors, key=lambda block: len(block.neurons))
            found.channel = self._time(self._setup, largest, _batch(self._setup, largest))
            if self._setup.config["decomposition"]["solver"] != "geodesic":
                few = max(1, min(self._setup.diagnostics.sample, len(largest.neurons)))
                found.channel_alone = self._time(self._setup, largest, few)
        elif work.diagnostics and not self._absent:
            group, _ = work.diagnostics[0]
            block = Block(
                group.sample or tuple(n for n in self._setup.neurons if n.layer == group.layer)[:1], group.kind
            )
            found.channel_alone = self._time(self._setup, block, len(block.neurons))
        if not pending:
            return
        known, wanted = tried.decomposition, 0
        for block in pending:
            wanted += known.config(block.layer, block.kind).num_channels * len(block.neurons)
        fast = self._setup.config["decomposition"]["solver"] == "geodesic"
        each = found.channel if fast and found.channel is not None else self._time(tried, pending[0], 2)
        most = max(known.config(block.layer, block.kind).num_channels for block in pending)
        share = (STANDING_IN_S if self._absent else DECOMPOSING_S) / max(wanted * each, 1e-9)
        short = None if share >= 1 else max(1, int(most * share))
        plan = _Short(known.settings, known.overrides, known.seed, short) if short else known
        start = time.monotonic()
        alone = dataclasses.replace(tried, decomposition=plan, storage=dataclasses.replace(tried.storage, store=None))
        decompose_blocks(alone, scratch, pending, ChannelStore(alone))
        if short:
            self._short = True
            self._repeat_channels()
        elif fast and not self._absent:
            found.channel_alone = (time.monotonic() - start) / wanted

    def _time(self, setup: Setup, block: Block, count: int) -> float:
        """Return the seconds that one channel of one vector takes in a batch of so many."""
        config, subject = setup.decomposition.config(block.layer, block.kind), self._tried.subject
        device = self._tried.executor.device
        some = block.neurons[:count]
        vectors = subject.vectors(
            block.layer, [neuron.index for neuron in some], block.kind, [neuron.expert for neuron in some]
        ).to(device)
        projection, weights = subject.projection(block.layer).to(device), subject.token_weights(block.layer).to(device)
        channels, scale = min(2, config.num_channels), 1.0
        if config.solver == "adamw":
            timed = dataclasses.replace(
                config.adamw,
                max_steps=ADAMW_TIMED,
                warmup_steps=min(config.adamw.warmup_steps, ADAMW_TIMED),
                checkpoint_every=ADAMW_TIMED,
            )
            scale = min(ADAMW_STEPS, config.adamw.max_steps) / ADAMW_TIMED
            channels, config = 1, dataclasses.replace(config, adamw=timed)
        config = dataclasses.replace(config, num_channels=channels)
        memory = self._tried.executor.memory_bytes
        start = time.monotonic()
        decompose(vectors, projection, token_weights=weights, config=config, memory_budget=memory)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return scale * (time.monotonic() - start) / (len(some) * channels)

    def _repeat_channels(self) -> None:
        """Let channels that were found stand for those that were not sought, so that prompts get their length."""
        vectors = self._scratch.read_vectors()
        found: dict[Any, list[Channel]] = {}
        for channel in self._scratch.read_channels():
            found.setdefault((channel.neuron, channel.kind), []).append(channel)
        repeated = []
        for vector in vectors:
            own = found[vector.neuron, vector.kind]
            count = self._setup.decomposition.config(vector.neuron.layer, vector.kind).num_channels
            repeated += [_shifted(own[rank % len(own)], rank, rank // len(own)) for rank in range(count)]
        shutil.rmtree(self._scratch.channels)
        write_table(self._scratch.channels / "probe.channels.parquet", repeated)
        write_table(self._scratch.channels / "probe.vectors.parquet", vectors)

    def intervene(self) -> None:
        """Clamp and steer the neurons that are tried, if a method looks at that."""
        tried, found, scratch = self._tried, self._found, self._scratch
        if not tried.effect_splits and not tried.needs_steered:
            return
        if not self._absent:
            for there, here in ((self._real.effects, scratch.effects), (self._real.steered, scratch.steered)):
                if there.is_dir():
                    self._link(*there.iterdir(), into=here)
            if {effect.neuron for effect in scratch.read(Effect)} >= set(tried.described) and (
                not tried.needs_steered or {text.neuron for text in scratch.read(SteeredText)} >= set(tried.described)
            ):
                return
        effects = dataclasses.replace(tried.steering.effects, prompts=min(4, tried.steering.effects.prompts))
        steering = dataclasses.replace(tried.steering, effects=effects)
        corpus = StandInCorpus()
        with_text = dataclasses.replace(tried, steering=steering, corpus=corpus)
        try:
            start = time.monotonic()
            CausalModel(tried.subject, tried.executor.device).close()
            load = time.monotonic() - start
            for name, wanted in (("effects", tried.effect_splits), ("steered", tried.needs_steered)):
                if wanted:
                    one, own = _only(with_text, effects=name == "effects"), RunFolder(scratch.path / f"trial-{name}")
                    self._link(scratch.exemplars, scratch.activity, into=own.path)
                    draw_texts(one, own)
                    start = time.monotonic()
                    intervene(one, own)
                    seconds = time.monotonic() - start
                    rows = len(tried.described) * (len(tried.effect_splits) if name == "effects" else 1)
                    each = max(seconds - load, seconds / 10) / rows
                    each *= tried.steering.effects.prompts / effects.prompts if name == "effects" else 1
                    if not self._absent:
                        setattr(found, name, each)
                    made = own.effects if name == "effects" else own.steered
                    place = scratch.effects if name == "effects" else scratch.steered
                    self._link(*made.glob("*.parquet"), into=place)
        except HarnessError as error:
            found.problems.append(f"clamping and steering could not be tried ({error})")
        kept = [path for place in (scratch.effects, scratch.steered) if place.is_dir() for path in place.iterdir()]
        found.effect_bytes = sum(path.stat().st_size for path in kept) / len(tried.described)

    def answer(self) -> None:
        """Let every describer and judge answer what is pending of the neurons that are tried, LLMs left unasked."""
        tried, scratch, found = self._tried, self._scratch, self._found
        if not self._absent:
            for journal in (self._real.descriptions(), self._real.verdicts(), self._real.scores()):
                if journal.path.exists():
                    shutil.copyfile(journal.path, scratch.path / journal.path.name)
        descriptions = {
            (neuron, name): name
            for name, neurons in pending_descriptions(tried, scratch.descriptions()).items()
            for neuron in neurons
        }
        verdicts = {
            (pair[0], name, pair[1], pair[2]): name
            for name, pairs in pending_verdicts(tried, scratch.verdicts()).items()
            for pair in pairs
        }
        scores = {
            (question[0], name, question[1]): name
            for name, questions in pending_scores(tried, scratch.scores()).items()
            for question in questions
        }
        items = Tally([*descriptions.values(), *verdicts.values(), *scores.values()])
        asyncio.run(self._answer(items))
        for item in scratch.descriptions().records():
            if (item.neuron, item.describer) in descriptions:
                self._note(item.describer, item.neuron, item.usage, item.status, item.detail)
        for verdict in scratch.verdicts().records():
            if (verdict.neuron, verdict.judge, verdict.first, verdict.second) in verdicts:
                self._note(verdict.judge, verdict.neuron, verdict.usage, verdict.status, verdict.reason)
        for score in scratch.scores().records():
            if (score.neuron, score.scorer, score.describer) in scores:
                self._note(score.scorer, score.neuron, score.usage, score.status, score.detail)
        sizes = {
            "descriptions.jsonl": len(descriptions),
            "verdicts.jsonl": len(verdicts),
            "scores.jsonl": len(scores),
        }
        for name, count in sizes.items():
            path, there = scratch.path / name, self._real.path / name
            before = there.stat().st_size if there.exists() and not self._absent else 0
            if path.exists() and count:
                found.record_bytes[name] = max(0, path.stat().st_size - before) / count

    def _note(self, name: str, neuron: Neuron, usage: Usage, status: Status, detail: str) -> None:
        self._found.samples.setdefault(name, []).append(Sample(neuron, usage, status, detail))

    async def _answer(self, items: Mapping[str, int]) -> None:
        settings = self._setup.config["serving"]
        place = Path(settings["cache"]).expanduser()
        beneath = ResponseCache(place) if (place / "responses.sqlite").exists() and self._setup.backends else None
        cache = CacheAbove(beneath)
        try:
            async with DryServing(
                self._tried.backends,
                cache,
                self._scratch.logs,
                max_servers=max(1, len(self._tried.backends)),
                redraw=bool(settings["redraw"]),
            ) as serving:
                await self._describe(serving, cache, items)
                cache.keep = self._own
                await self._judge(serving, items)
        finally:
            cache.close()

    @property
    def _own(self) -> bool:
        """Whether the evidence and the channels of the probe are those of the run."""
        return self._found.evidence in ("run", "store") and not self._short

    async def _describe(self, serving: Serving, cache: CacheAbove, items: Mapping[str, int]) -> None:
        """Describe with one describer after the other, each timed."""
        before: list[str] = []
        for name in self._tried.ordered_describers():
            before.append(name)
            some = {one: self._tried.describers[one] for one in before}
            weights_alone = not any(getattr(one, "needs_exemplars", False) for one in some[name].walk)
            cache.keep = self._own or (weights_alone and not self._absent and not self._short)
            start = time.monotonic()
            await describe(dataclasses.replace(self._tried, describers=some), self._scratch, serving)
            if items.get(name):
                self._found.working[name] = (time.monotonic() - start) / items[name]

    async def _judge(self, serving: Serving, items: Mapping[str, int]) -> None:
        """Judge with one judge after the other, of one neuron first: so loading is told from working."""
        tried, found = self._tried, self._found
        first = _Chosen(tried.selection, tried.neurons[:1])
        for name in tried.judges:
            if not items.get(name):
                continue
            alone = dataclasses.replace(
                tried,
                comparators={one: judge for one, judge in tried.comparators.items() if one == name},
                scorers={one: judge for one, judge in tried.scorers.items() if one == name},
            )
            one = dataclasses.replace(alone, selection=first)
            begun = len(pending_verdicts(one, self._scratch.verdicts()).get(name, ()))
            begun += len(pending_scores(one, self._scratch.scores()).get(name, ()))
            start = time.monotonic()
            await judge(one, self._scratch, serving)
            middle = time.monotonic()
            await judge(alone, self._scratch, serving)
            rest = items[name] - begun
            found.working[name] = (time.monotonic() - (middle if rest else start)) / (rest or items[name])
            found.loading[name] = max(0.0, middle - start - begun * found.working[name]) if rest else 0.0

    def _link(self, *paths: Path, into: Path | None = None) -> None:
        """Let files of the run be found in the scratch folder."""
        into = into or self._scratch.path
        into.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.exists() and not path.name.startswith("."):
                (into / path.name).symlink_to(path.resolve())


def _only(setup: Setup, *, effects: bool) -> Setup:
    """Return a setup of which only the methods that look at effects, or only the others, are left."""

    def keeps(method: Any) -> bool:
        return bool(method.needs_effects) if effects else bool(method.needs_steered)

    return dataclasses.replace(
        setup,
        describers={name: method for name, method in setup.describers.items() if effects and keeps(method)},
        comparators={name: method for name, method in setup.comparators.items() if keeps(method)},
        scorers={name: method for name, method in setup.scorers.items() if keeps(method)},
    )


def _shifted(channel: Channel, rank: int, places: int) -> Channel:
    """Return a channel at another rank with its tokens in another order, so that it is no channel shown before."""
    at, back = places % len(channel.positive), places % len(channel.negative)
    return dataclasses.replace(
        channel,
        rank=rank,
        positive=channel.positive[at:] + channel.positive[:at],
        negative=channel.negative[back:] + channel.negative[:back],
    )


def _batch(setup: Setup, block: Block) -> int:
    """Return how many vectors make a timed batch."""
    matrix = setup.subject.d_model * setup.subject.vocab_size
    room = (TIMED_GPU if setup.executor.device.startswith("cuda") else TIMED_CPU) // matrix
    return max(1, min(len(block.neurons), room, 256))
