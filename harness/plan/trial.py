"""What a run still has to do, and its trial: the stages on a few neurons, in a temporary folder, with scripted LLMs.

The trial uses what the run already has: evidence and channels, its records, and the answers in its cache. Its prompts
are then those of the run, and a question that the cache answers here is answered there too. Nothing is written outside
the temporary folder.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import HarnessError
from harness.evidence import Corpus, CorpusSummary, Document, Gathered, gathered, split_of, stored
from harness.folder import RunFolder
from harness.llm.cache import ResponseCache
from harness.plan.dry import DryBackend, DryCache, DryServing
from harness.plan.stand_in import WIDTH, StandInCorpus
from harness.records import Neuron, PlantedAnswer, Split, Status
from harness.run.channel_store import ChannelStore
from harness.run.decompose import channels_in, decompose_blocks, pending_vectors
from harness.run.describe import describe
from harness.run.diagnostics import Group, measure_diagnostics, pending_diagnostics
from harness.run.executor import LocalExecutor
from harness.run.explainer_check import check_explainer, pending_checks
from harness.run.interventions.measure import draw_texts, intervene
from harness.run.judge import asked_again, judge, open_items
from harness.run.setup import Setup
from harness.run.worker import Block
from harness.seeds import derive_seed
from harness.subject import ActivationReader, CausalModel, Subject

#: Seconds spent on reading the corpus to learn its length.
READING_S = 5.0
#: Neurons whose activations are recorded while the subject is timed: recording takes time too.
RECORDED = 128
#: Vectors and channels of the timed decomposition.
TIMED_VECTORS, TIMED_CHANNELS = 8, 2
T = TypeVar("T")


#: Items by method: (neuron,), (neuron, first, second) or (neuron, describer).
Items = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Work:
    """Open work of a run."""

    vectors: tuple[Block, ...]  # to decompose, one block for each layer and vector kind
    diagnostics: tuple[tuple[Group, str], ...]  # to measure: a group of vectors, and the kind of diagnostic
    items: Items = field(default_factory=dict)  # open items
    retests: Items = field(default_factory=dict)  # items that each judge answers again if it answers every open one
    done: Counter[str] = field(default_factory=Counter)  # answered items of each method

    @cached_property
    def per_neuron(self) -> Counter[Neuron]:
        """Number of open items of each neuron."""
        return Counter(item[0] for items in self.items.values() for item in items)

    @property
    def empty(self) -> bool:
        """Whether the run is finished."""
        return not self.vectors and not self.diagnostics and not self.per_neuron and not any(self.retests.values())

    def channels(self, setup: Setup) -> int:
        """Return the number of channels to find."""
        return channels_in(setup, self.vectors)


def answers(folder: RunFolder) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Yield method, item and record of each answer, usable or not, those of draws and of the run's own corpus last."""
    for records in (folder, *folder.read_draws(), folder.own_corpus):
        for description in records.descriptions().records():
            yield description.describer, (description.neuron,), description
        for verdict in records.verdicts().records():
            yield verdict.judge, (verdict.neuron, verdict.first, verdict.second), verdict
        for score in records.scores().records():
            yield score.scorer, (score.neuron, score.describer), score


def work_of(setup: Setup, folder: RunFolder, *, subject_is_here: bool = True) -> Work:
    """Return the open work of a run.

    Args:
        setup: the run.
        folder: its folder; it need not exist.
        subject_is_here: whether the subject's weights can be read: without them, shared channels cannot be found.
    """
    pending = pending_vectors(setup, folder)
    store = ChannelStore(setup) if subject_is_here else None
    vectors = tuple(pending if store is None else store.missing(pending))
    work = Work(vectors, tuple(pending_diagnostics(setup, folder, store)))
    if not setup.compares:
        return work
    work.items.update(open_items(setup, folder))
    answered: Items = {name: list(items) for name, items in work.items.items()}
    for name, item, record in answers(folder):
        if record.status is Status.OK:
            work.done[name] += 1
            answered.setdefault(name, []).append(item)
    for name in setup.judges:
        journal: Any = folder.retests() if name in setup.comparators else folder.score_retests()
        drawn = asked_again(setup, name, list(dict.fromkeys(answered[name])))  # once, whatever the number of draws
        work.retests[name] = [item for item in drawn if not journal.done((item[0], name, *item[1:]))]
    return work


def channel_numbers(setup: Setup, layer: int) -> tuple[int, ...]:
    """Return the number of channels of each vector kind in a layer."""
    return tuple(setup.decomposition.config(layer, kind).num_channels for kind in setup.kinds)


def trial_neurons(setup: Setup, work: Work, count: int) -> list[Neuron]:
    """Return ``count`` of the run's neurons, those with the most open items first.

    There are at least two for each number of channels that a neuron's vectors can have: the number of LLM calls depends
    on it, and some methods compare neurons.
    """
    groups: dict[tuple[int, ...], list[Neuron]] = defaultdict(list)
    numbers = {layer: channel_numbers(setup, layer) for layer in {neuron.layer for neuron in setup.neurons}}
    for neuron in setup.neurons:
        groups[numbers[neuron.layer]].append(neuron)
    signs = {neuron.sign for neuron in setup.described}

    def order(neuron: Neuron) -> tuple[int, int]:
        items = sum(work.per_neuron[neuron.with_sign(sign)] for sign in signs)
        return -items, derive_seed(setup.seed, "plan", neuron)

    each = max(2, -(-count // len(groups)))
    return sorted(neuron for members in groups.values() for neuron in heapq.nsmallest(each, members, key=order))


def intervened(setup: Setup, work: Work) -> set[Neuron]:
    """Return the neurons with open items of methods that need effects or steered texts."""
    names = [name for name, one in setup.methods.items() if one.needs_effects or one.needs_steered]
    return {item[0] for name in names for item in work.items.get(name, ())}


def survey(corpus: Corpus, setup: Setup) -> tuple[list[Document], int, int, bool]:
    """Read a corpus for a few seconds, and return enough documents of each split for a trial.

    Returns:
        These documents, the numbers of documents and characters that were read, and whether these are all.
    """
    start, evidence, sample, windows = time.monotonic(), setup.evidence, list[Document](), Counter[Split]()
    documents = characters = 0
    for document in corpus.stream():
        if time.monotonic() - start > READING_S:
            return sample, documents, characters, False
        documents += 1
        characters += len(document.text)
        split = split_of(document.id, evidence.splits, setup.seed)
        if windows[split] < 2 * max(evidence.top, evidence.random):
            sample.append(document)
            windows[split] += 1 + len(document.text) // (6 * evidence.step)  # at most six characters per token
    return sample, documents, characters, True


def run_trial(
    setup: Setup, folder: RunFolder, work: Work, scratch: Path, *, count: int, stand_in: Path | None
) -> Trial:
    """Run the stages on ``count`` neurons in the folder ``scratch``; the run's own ``folder`` is only read.

    ``stand_in`` is the folder of the tiny model that replaces the subject, None if the subject itself runs.
    """
    # The fast solver refuses the published objective. A trial counts channels, and does not read what they show.
    fast: dict[str, Any] = {"solver": "geodesic", "objective": "weighted"}
    here, plan = stand_in is None, setup.decomposition
    if not here:  # its channels are not timed, and random weights have few that a search finds soon
        fast["geodesic"] = {"lookahead": 0, "max_steps": 3}
    neurons = trial_neurons(setup, work, count)
    if not here:  # the first neurons of the same layers
        layers = Counter(neuron.layer for neuron in neurons)
        neurons = [Neuron(layer, index) for layer in sorted(layers) for index in range(min(layers[layer], WIDTH))]
    tried = _with_neurons(
        setup,
        neurons,
        general=dataclasses.replace(setup.general, folder=str(scratch)),
        subject=setup.subject if stand_in is None else Subject(setup.subject.name, (str(stand_in),)),
        decomposition=plan.with_settings(fast),
        storage=dataclasses.replace(setup.storage, store=None),
        evidence=dataclasses.replace(setup.evidence, store=None, max_documents=None),
        report_corpus=None,
        comparisons=dataclasses.replace(setup.comparisons, retest=0.0),
        backends={role: DryBackend(backend) for role, backend in setup.backends.items()},
        executor=LocalExecutor(setup.executor.device, memory=setup.executor.memory),
    )
    trial = Trial(setup, tried, RunFolder(scratch), here)
    if not setup.compares and not work.vectors and not work.diagnostics:
        return trial
    if here and folder.path.exists():
        unused = shutil.ignore_patterns("logs", "diagnostics", ".*")
        shutil.copytree(folder.path, scratch, copy_function=_link_or_copy, ignore=unused)
    scratch.mkdir(exist_ok=True)
    trial.neurons = len(tried.described)
    trial.gather()
    trial.decompose(work)
    if setup.compares:
        trial.intervene(work)
        asyncio.run(trial.answer())
    return trial


def _with_neurons(setup: Setup, neurons: Sequence[Neuron], **changes: Any) -> Setup:
    """Return the setup with other neurons than it selects, and with other changes."""
    changed = dataclasses.replace(setup, **changes)
    vars(changed)["neurons"] = list(neurons)  # the value of the cached property
    return changed


def _link_or_copy(source: str, target: str) -> None:
    """Copy a journal, because the trial appends to it, and link any other file."""
    if source.endswith(".jsonl"):
        shutil.copyfile(source, target)
    else:
        Path(target).symlink_to(Path(source).resolve())


def _timed(load: Callable[[], Any], work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of ``work`` and its seconds without those of ``load``, which it includes."""
    start = time.monotonic()
    load()
    loaded = time.monotonic()
    result = work()
    seconds = time.monotonic() - loaded
    return result, max(seconds - (loaded - start), seconds / 10)


@dataclass
class Trial:
    """The stages, each of which reads what the ones before wrote to the temporary folder, and their findings.

    Times are in seconds, and None if they were not measured.
    """

    setup: Setup  # the run
    tried: Setup  # its trial
    scratch: RunFolder  # the temporary folder
    here: bool  # whether the subject itself runs
    evidence: str = "run"  # its origin, see RunPlan
    neurons: int = 0  # each sign counted separately
    checks: list[PlantedAnswer] = field(default_factory=list)  # open checks of the explainer
    records: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))  # of each method
    describing: float = 0.0  # per description, apart from the time of LLMs
    judging: float = 0.0  # per verdict or score, apart from the time of LLMs
    documents: int = 0  # of the corpus, as far as it was read, as are the characters
    characters: int = 0
    complete: bool = False  # whether the corpus was read to its end
    tokens_per_document: float | None = None  # of the subject's tokenizer, in windows
    tokens_per_second: float | None = None  # of the subject on the corpus
    channel: float | None = None  # of the geodesic solver, per channel
    interventions: float | None = None  # of effects and steered texts, per neuron
    exemplar_bytes: float | None = None  # of one neuron
    problems: list[str] = field(default_factory=list)  # what could not be done, and why

    def gather(self) -> None:
        """Get evidence: that of the run, that of the store, or that of a few documents."""
        setup, scratch, described, known = self.setup, self.scratch, tuple(self.tried.described), None
        if setup.corpus is None or not setup.compares or scratch.exemplars.exists():
            return
        if self.here:
            known = stored(setup.corpus, setup.subject, setup.described, setup.evidence, seed=setup.seed)
        if known is not None and set(known.neurons) >= set(setup.described):
            Gathered(known.folder, described).write(scratch.exemplars)
            self.evidence = "store"
        else:
            self._read_corpus(setup.corpus)
        self.exemplar_bytes = scratch.exemplars.stat().st_size / len(described)

    def _read_corpus(self, corpus: Corpus) -> None:
        """Run the subject on a few documents, and record more neurons than those of the trial, as the run does."""
        tried, scratch, documents = self.tried, self.scratch, list[Document]()
        self.evidence = "trial" if self.here else "stand-in"
        try:
            documents, self.documents, self.characters, self.complete = survey(corpus, self.setup)
        except HarnessError:
            self.problems.append(
                f"the text of {corpus.name} is not on this machine: Python's reference replaces it in the trial"
            )
        if not documents or not self.here:  # the tiny model's tokenizer lacks the corpus's chat template
            corpus = StandInCorpus()
            documents, *_ = survey(corpus, self.setup)
        sample = StandInCorpus([document.messages or document.text for document in documents], corpus.template)
        recorded = sorted({*tried.described, *self.setup.described[:RECORDED]}) if self.here else tried.described
        options: Any = {"seed": tried.seed, "device": tried.executor.device, "run_folder": scratch.path}

        def load() -> None:
            ActivationReader(tried.subject, sorted({one.unsigned for one in recorded}), options["device"]).close()

        def gather() -> CorpusSummary:
            with gathered(sample, tried.subject, recorded, tried.evidence, **options) as evidence:
                Gathered(evidence.folder, tuple(tried.described)).write(scratch.exemplars)
                return evidence.summary

        summary, seconds = _timed(load, gather)
        if self.here:
            self.tokens_per_second = summary.tokens / seconds
            self.tokens_per_document = summary.tokens / max(summary.documents, 1)

    def decompose(self, work: Work) -> None:
        """Time the decomposition, and find the channels of the trial's neurons if describers may read them."""
        tried, scratch = self.tried, self.scratch
        if self.here and (work.vectors or work.diagnostics):
            self.channel = self._seconds_per_channel()
        if not self.setup.compares:
            return
        decompose_blocks(tried, scratch, pending_vectors(tried, scratch), ChannelStore(tried))
        if any(describer.needs_random_channels for describer in tried.describers.values()):
            plain = dataclasses.replace(tried.diagnostics, sample=0, random_vectors=0, ablated=0)
            measure_diagnostics(_with_neurons(tried, tried.neurons, diagnostics=plain), scratch, ChannelStore(tried))

    def _seconds_per_channel(self) -> float:
        plan = self.tried.decomposition.with_settings({"num_channels": TIMED_CHANNELS})
        setup, name = dataclasses.replace(self.tried, decomposition=plan), self.tried.subject.projection_name
        first, kind = self.setup.neurons[0], setup.kinds[0]
        # A run decomposes few vectors of many layers together, if their channels are independent.
        joined = self.setup.decomposition.config(first.layer, kind).independent
        timed = [
            neuron
            for neuron in self.setup.neurons
            if neuron.layer == first.layer or (joined and name(neuron.layer) == name(first.layer))
        ][:TIMED_VECTORS]
        blocks = [Block(tuple(same), kind) for _, same in groupby(timed, key=lambda neuron: neuron.layer)]
        folder, seconds = RunFolder(self.scratch.path / "timed"), 0.0
        for some in ([Block((first,), kind)], blocks):  # the first block includes start-up costs
            start = time.monotonic()
            decompose_blocks(setup, folder, some, ChannelStore(setup))
            seconds = time.monotonic() - start
        return seconds / (len(timed) * TIMED_CHANNELS)

    def intervene(self, work: Work) -> None:
        """Measure effects and generate steered texts of the trial's neurons, if a method with open items needs them."""
        if not intervened(self.setup, work):
            return
        # The corpus of the run may not be on this machine.
        setup = _with_neurons(self.tried, self.tried.neurons, corpus=StandInCorpus())

        def measure() -> None:
            draw_texts(setup, self.scratch)
            intervene(setup, self.scratch)

        try:
            _, seconds = _timed(lambda: CausalModel(setup.subject, setup.executor.device).close(), measure)
        except HarnessError as error:
            self.problems.append(f"effects and steered texts could not be tried ({error})")
        else:
            self.interventions = seconds / len(setup.described) if self.here else None

    async def answer(self) -> None:
        """Let every describer and judge answer the open items of the trial's neurons."""
        tried, scratch, config = self.tried, self.scratch, self.setup.serving
        items, folder = open_items(tried, scratch), Path(config.cache).expanduser()
        run_cache = ResponseCache(folder if (folder / "responses.sqlite").exists() else scratch.path / "no-cache")
        # Prompts of the tiny model repeat more often than those of the run.
        cache = DryCache(scratch.path, run_cache) if self.here else None
        servers = max(1, len(tried.backends))
        async with DryServing(
            tried.backends, cache, scratch.logs, max_servers=servers, redraw=config.redraw
        ) as serving:
            pending = pending_checks(tried, scratch.explainer_check())
            checks = {(name, concept.name) for name, concepts in pending.items() for concept in concepts}
            await check_explainer(tried, scratch, serving)
            times = [time.monotonic()]
            await describe(tried, scratch, serving)
            times.append(time.monotonic())
            await judge(_with_neurons(tried, tried.neurons[:1]), scratch, serving)  # loads the judges' encoders
            times.append(time.monotonic())
            await judge(tried, scratch, serving)
            times.append(time.monotonic())
        for one in (cache, run_cache):
            if one is not None:
                one.close()
        judged = [item for name in tried.judges for item in items[name] if item[0].unsigned != tried.neurons[0]]
        self.describing = (times[1] - times[0]) / max(1, sum(len(items[name]) for name in tried.describers))
        self.judging = (times[3] - times[2]) / max(1, len(judged))
        planted = scratch.explainer_check().records()
        self.checks = [record for record in planted if (record.describer, record.concept) in checks]
        for name, item, record in answers(scratch):
            if item in items.get(name, ()):
                self.records[name].append(record)
