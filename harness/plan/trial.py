"""The trial: the stages of a run on a few of its neurons, in a temporary folder, with scripted LLMs.

The trial uses what the run already has: evidence and channels of its folder or of the shared stores, its records, and
the answers in its cache. Its prompts are then those of the run, and a question that the cache answers here is answered
there too. Nothing is written outside the temporary folder.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness.decomposition import decompose
from harness.errors import HarnessError
from harness.evidence import Corpus, Document, Gathered, gathered, split_of, stored
from harness.folder import Journal, RunFolder, write_table
from harness.llm.cache import ResponseCache
from harness.llm.serving import Serving
from harness.plan.dry import DryBackend, DryCache, DryServing
from harness.plan.stand_in import StandInCorpus, stand_in_neurons
from harness.plan.work import Work, open_items
from harness.records import Channel, Neuron, Split
from harness.run.channel_store import ChannelStore
from harness.run.decompose import decompose_blocks, pending_vectors
from harness.run.describe import describe
from harness.run.executor import LocalExecutor
from harness.run.interventions.measure import draw_texts, intervene
from harness.run.judge import judge
from harness.run.sections import DecompositionPlan
from harness.run.setup import Setup
from harness.run.worker import Block
from harness.seeds import derive_seed
from harness.subject import ActivationReader, CausalModel, Subject

#: Fewest documents of each split that the subject reads, and most if the documents are short.
MIN_DOCUMENTS, MAX_DOCUMENTS = 4, 256
#: Seconds spent on reading the corpus to learn its length.
READING_S = 5.0
#: Neurons whose activations are recorded while the subject is timed: recording takes time too.
RECORDED = 128
#: Seconds that the decomposition may take; beyond that, found channels are repeated in place of the missing ones.
DECOMPOSING_S = 20.0
#: Vectors in a timed batch.
TIMED = 8


@dataclass
class Findings:
    """Results of the trial. Times are in seconds, and None if they were not measured.

    Attributes:
        evidence: origin of the evidence, see :class:`harness.plan.schema.RunPlan`.
        neurons: neurons of the trial, each sign counted separately.
        records: records of each method.
        longest: tokens of each role's longest conversation, including its longest allowed answer.
        describing, judging: time per description and per verdict or score, apart from the time of LLMs.
        loading: time until the judges can start, such as for loading an encoder.
        documents, characters: of the corpus, as far as it was read.
        complete: whether the corpus was read to its end.
        reading: time to read these documents.
        tokens_per_document: tokens of the subject's tokenizer, in windows.
        tokens_per_second: of the subject on the corpus.
        channel: time per channel of the geodesic solver.
        interventions: time of effects and steered texts per neuron.
        exemplar_bytes: size of the exemplars of one neuron.
        problems: what could not be done, and why.
    """

    evidence: str = "run"
    neurons: int = 0
    records: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    longest: dict[str, int] = field(default_factory=dict)
    describing: float = 0.0
    judging: float = 0.0
    loading: float = 0.0
    documents: int = 0
    characters: int = 0
    complete: bool = False
    reading: float = 0.0
    tokens_per_document: float | None = None
    tokens_per_second: float | None = None
    channel: float | None = None
    interventions: float | None = None
    exemplar_bytes: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def of_run(self) -> bool:
        """Whether the evidence is that of the run."""
        return self.evidence in ("run", "store")


@dataclass(frozen=True)
class _TrialSetup(Setup):
    """A setup with the given neurons."""

    chosen: tuple[Neuron, ...] = ()

    @cached_property
    def neurons(self) -> list[Neuron]:
        return list(self.chosen)


class _Documents(Corpus):
    """Documents that were already read."""

    def __init__(self, corpus: Corpus, documents: Sequence[Document]) -> None:
        self.name, self.template, self._documents = corpus.name, corpus.template, documents

    def texts(self) -> Iterator[Any]:
        yield from (document.messages or document.text for document in self._documents)


def trial_neurons(setup: Setup, work: Work, count: int) -> list[Neuron]:
    """Return ``count`` of the run's neurons, those with the most open items first.

    There are at least two for each number of channels that a neuron's vectors can have: the number of LLM calls depends
    on it, and some methods compare neurons.
    """
    groups: dict[tuple[int, ...], list[Neuron]] = defaultdict(list)
    numbers = {layer: channel_numbers(setup, layer) for layer in {neuron.layer for neuron in setup.neurons}}
    for neuron in setup.neurons:
        groups[numbers[neuron.layer]].append(neuron)
    each = max(2, -(-count // len(groups)))
    signs = {neuron.sign for neuron in setup.described}

    def order(neuron: Neuron) -> tuple[int, int]:
        items = sum(work.per_neuron[neuron.with_sign(sign)] for sign in signs)
        return -items, derive_seed(setup.seed, "plan", neuron)

    return sorted(neuron for members in groups.values() for neuron in heapq.nsmallest(each, members, key=order))


def channel_numbers(setup: Setup, layer: int) -> tuple[int, ...]:
    """Return the number of channels of each vector kind in a layer."""
    return tuple(setup.decomposition.config(layer, kind).num_channels for kind in setup.kinds)


def intervened(setup: Setup, work: Work) -> set[Neuron]:
    """Return the neurons with open items of methods that need effects or steered texts."""
    methods = {**setup.describers, **setup.judges}
    names = [name for name, one in methods.items() if one.needs_effects or one.needs_steered]
    return {item[0] for name in names for item in work.items.get(name, ())}


def survey(corpus: Corpus, setup: Setup, findings: Findings) -> list[Document]:
    """Read a corpus for a few seconds to learn its size, and return some documents of each split.

    Raises:
        HarnessError: if it cannot be read.
    """
    start, evidence, sample = time.monotonic(), setup.evidence, list[Document]()
    kept, windows = Counter[Split](), defaultdict[Split, float](float)
    for document in corpus.stream():
        findings.documents += 1
        findings.characters += len(document.text)
        split = split_of(document.id, evidence.splits, setup.seed)
        enough = windows[split] >= 2 * max(evidence.top, evidence.random)
        if kept[split] < (MIN_DOCUMENTS if enough else MAX_DOCUMENTS):
            sample.append(document)
            kept[split] += 1
            # At least one window; at most six characters per token.
            windows[split] += max(1.0, len(document.text) / 6 / evidence.step)
        findings.reading = time.monotonic() - start
        if findings.reading > READING_S:
            break
    else:
        findings.complete = True
    return sample


def run_trial(
    setup: Setup,
    folder: RunFolder,
    work: Work,
    scratch: Path,
    *,
    count: int,
    stand_in: Path | None,
) -> Findings:
    """Run the stages on ``count`` neurons in the folder ``scratch``; the run's own ``folder`` is only read.

    ``stand_in`` is the folder of the tiny model that replaces the subject, None if the subject itself runs.
    """
    findings = Findings()
    if not setup.compares and not work.vectors and not work.diagnostics:
        return findings
    chosen = trial_neurons(setup, work, count)
    backends = {role: DryBackend(backend) for role, backend in setup.backends.items()}
    fast = {"solver": "geodesic"}
    decomposition = setup.decomposition
    changes = {
        "folder": scratch,
        "subject": setup.subject if stand_in is None else Subject(setup.subject.name, [str(stand_in)]),
        "decomposition": DecompositionPlan(
            {**decomposition.settings, **fast}, [*decomposition.overrides, fast], decomposition.seed
        ),
        "storage": dataclasses.replace(setup.storage, store=None),
        "evidence": dataclasses.replace(setup.evidence, store=None, max_documents=None),
        "comparisons": dataclasses.replace(setup.comparisons, retest=0.0),
        "backends": backends,
        "executor": LocalExecutor(setup.executor.device, memory=setup.executor.memory),
        "chosen": tuple(chosen if stand_in is None else stand_in_neurons(chosen)),
    }
    own = {one.name: getattr(setup, one.name) for one in dataclasses.fields(Setup)}
    trial = _Trial(setup, _TrialSetup(**{**own, **changes}), folder, findings, here=stand_in is None)
    trial.gather()
    trial.decompose(work)
    if setup.compares:
        trial.intervene(work)
        asyncio.run(trial.answer())
    findings.longest = {role: backend.longest for role, backend in backends.items()}
    return findings


class _Trial:
    """The stages; each writes to the temporary folder of the setup ``tried`` what the next one reads.

    ``here``: whether the subject itself runs, so that what ``folder`` has can be used.
    """

    def __init__(self, setup: Setup, tried: _TrialSetup, folder: RunFolder, findings: Findings, *, here: bool) -> None:
        self._setup, self._tried, self._folder, self._findings, self._here = setup, tried, folder, findings, here
        self._scratch, self._shortened = RunFolder(tried.folder), False
        self._scratch.path.mkdir(parents=True, exist_ok=True)
        findings.neurons = len(tried.described)

    def gather(self) -> None:
        """Get evidence: that of the run, that of the store, or that of a few documents."""
        setup, findings, scratch = self._setup, self._findings, self._scratch
        if setup.corpus is None or not setup.compares:
            return
        described, known = tuple(self._tried.described), None
        if self._here and self._folder.exemplars.exists():
            scratch.exemplars.symlink_to(self._folder.exemplars.resolve())
            return
        if self._here:
            known = stored(setup.corpus, setup.subject, setup.described, setup.evidence, seed=setup.seed)
        if known is not None and set(known.neurons) >= set(setup.described):
            Gathered(known.folder, described).write(scratch.exemplars)
            findings.evidence = "store"
        else:
            self._read_corpus(setup.corpus)
        findings.exemplar_bytes = scratch.exemplars.stat().st_size / len(described)

    def _read_corpus(self, corpus: Corpus) -> None:
        """Run the subject on a few documents, and record more neurons than those of the trial, as the run does."""
        tried, findings = self._tried, self._findings
        findings.evidence = "trial" if self._here else "stand-in"
        documents: list[Document] = []
        try:
            documents = survey(corpus, self._setup, findings)
        except HarnessError:
            findings.problems.append(
                f"the text of {corpus.name} is not on this machine: Python's reference replaces it in the trial"
            )
        if not documents or not self._here:  # a tiny model's tokenizer lacks the corpus's chat template
            corpus = StandInCorpus()
            documents = survey(corpus, self._setup, Findings())
        recorded = sorted({*tried.described, *self._setup.described[:RECORDED]}) if self._here else tried.described
        start = loaded = time.monotonic()
        if self._here:
            ActivationReader(tried.subject, sorted({one.unsigned for one in recorded}), tried.executor.device).close()
            loaded = time.monotonic()
        with gathered(
            _Documents(corpus, documents),
            tried.subject,
            recorded,
            tried.evidence,
            seed=tried.seed,
            device=tried.executor.device,
            run_folder=self._scratch.path,
        ) as evidence:
            seconds, summary = time.monotonic() - loaded, evidence.summary
            Gathered(evidence.folder, tuple(tried.described)).write(self._scratch.exemplars)
        if self._here:
            findings.tokens_per_second = summary.tokens / max(seconds - (loaded - start), seconds / 10)
            findings.tokens_per_document = summary.tokens / max(summary.documents, 1)

    def decompose(self, work: Work) -> None:
        """Time the decomposition, and find the channels of the trial's neurons."""
        tried, scratch = self._tried, self._scratch
        if self._here and self._folder.channels.is_dir():
            scratch.channels.mkdir()
            for path in self._folder.channels.glob("*.parquet"):
                (scratch.channels / path.name).symlink_to(path.resolve())
        pending = pending_vectors(tried, scratch)
        if self._here and (work.vectors or work.diagnostics):
            groups = [
                Block(group.sample or tuple(self._setup.neurons[:1]), group.kind) for group, _ in work.diagnostics
            ]
            self._findings.channel = self._time(max(work.vectors or groups, key=lambda block: len(block.neurons)))
        if not pending:
            return
        plan = tried.decomposition
        numbers = [(plan.config(block.layer, block.kind).num_channels, len(block.neurons)) for block in pending]
        seconds = sum(channels * vectors for channels, vectors in numbers) * self._time(pending[0])
        if seconds > DECOMPOSING_S:
            self._shortened = True
            few = max(1, int(max(numbers)[0] * DECOMPOSING_S / seconds))
            plan = dataclasses.replace(plan, overrides=[*plan.overrides, {"num_channels": few}])
        setup = dataclasses.replace(tried, decomposition=plan)
        decompose_blocks(setup, scratch, pending, ChannelStore(setup))
        if self._shortened:
            self._repeat_channels()

    def _time(self, block: Block) -> float:
        """Return the seconds per channel of the geodesic solver in a batch of some vectors."""
        tried, executor = self._tried, self._tried.executor
        config = tried.decomposition.config(block.layer, block.kind)
        config = dataclasses.replace(config, num_channels=min(2, config.num_channels))
        neurons = block.neurons[:TIMED]
        indices, experts = [neuron.index for neuron in neurons], [neuron.expert for neuron in neurons]
        vectors = tried.subject.vectors(block.layer, indices, block.kind, experts).to(executor.device)
        projection = tried.subject.projection(block.layer).to(executor.device)
        weights = tried.subject.token_weights(block.layer).to(executor.device)
        seconds = []
        for _ in range(2):  # the first pass includes start-up costs
            start = time.monotonic()
            decompose(vectors, projection, token_weights=weights, config=config, memory_budget=executor.memory_bytes)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - start)
        return min(seconds) / (len(neurons) * config.num_channels)

    def _repeat_channels(self) -> None:
        """Repeat the channels that were found in place of the missing ones, so that prompts have their usual length."""
        vectors = self._scratch.read_vectors()
        found: dict[Any, list[Channel]] = defaultdict(list)
        for channel in self._scratch.read_channels():
            found[channel.neuron, channel.kind].append(channel)
        repeated = []
        for vector in vectors:
            own = found[vector.neuron, vector.kind]
            count = self._setup.decomposition.config(vector.neuron.layer, vector.kind).num_channels
            repeated += [dataclasses.replace(own[rank % len(own)], rank=rank) for rank in range(count)]
        shutil.rmtree(self._scratch.channels)
        write_table(self._scratch.channels / "trial.channels.parquet", repeated)
        write_table(self._scratch.channels / "trial.vectors.parquet", vectors)

    def intervene(self, work: Work) -> None:
        """Measure effects and generate steered texts of the trial's neurons, if a method with open items needs them."""
        if not intervened(self._setup, work):
            return
        # The corpus of the run may not be on this machine.
        setup = dataclasses.replace(self._tried, corpus=StandInCorpus())
        try:
            loading = time.monotonic()
            CausalModel(setup.subject, setup.executor.device).close()
            start = time.monotonic()
            draw_texts(setup, self._scratch)
            intervene(setup, self._scratch)
        except HarnessError as error:
            self._findings.problems.append(f"effects and steered texts could not be tried ({error})")
            return
        if self._here:
            seconds = time.monotonic() - start
            self._findings.interventions = max(seconds - (start - loading), seconds / 10) / len(setup.described)

    async def answer(self) -> None:
        """Let every describer and judge answer the open items of the trial's neurons."""
        tried, scratch, settings = self._tried, self._scratch, self._setup.config["serving"]
        journals: list[Journal[Any]] = [scratch.descriptions(), scratch.verdicts(), scratch.scores()]
        if self._here:
            for journal in journals:
                if (self._folder.path / journal.path.name).exists():
                    shutil.copyfile(self._folder.path / journal.path.name, journal.path)
        items = open_items(tried, scratch)
        folder = Path(settings["cache"]).expanduser()
        run_cache = ResponseCache(folder) if (folder / "responses.sqlite").exists() and tried.backends else None
        # Prompts of the tiny model, or with repeated channels, repeat more often than those of the run.
        cache = DryCache(scratch.path, run_cache, keep=self._here and not self._shortened)
        redraw, servers = bool(settings["redraw"]), max(1, len(tried.backends))
        try:
            async with DryServing(tried.backends, cache, scratch.logs, servers, redraw=redraw) as serving:
                await self._time_answers(serving, items)
        finally:
            cache.close()
        answered: list[tuple[tuple[Any, ...], Any]] = [
            *(((one.describer, one.neuron), one) for one in scratch.descriptions().records()),
            *(((one.judge, one.neuron, one.first, one.second), one) for one in scratch.verdicts().records()),
            *(((one.scorer, one.neuron, one.describer), one) for one in scratch.scores().records()),
        ]
        was_open = {(name, *item) for name, found in items.items() for item in found}
        for key, record in answered:
            if key in was_open:
                self._findings.records[key[0]].append(record)

    async def _time_answers(self, serving: Serving, items: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        tried, scratch, findings = self._tried, self._scratch, self._findings
        start = time.monotonic()
        await describe(tried, scratch, serving)
        described = time.monotonic()
        # Judges work on one neuron first: the difference is their loading time.
        await judge(dataclasses.replace(tried, chosen=tried.chosen[:1]), scratch, serving)
        loaded = time.monotonic()
        await judge(tried, scratch, serving)
        end = time.monotonic()
        judged = [item[0].unsigned for name in tried.judges for item in items[name]]
        first = judged.count(tried.neurons[0])
        findings.describing = (described - start) / max(1, sum(len(items[name]) for name in tried.describers))
        findings.judging = (end - loaded) / max(1, len(judged) - first)
        findings.loading = max(0.0, loaded - described - first * findings.judging)
