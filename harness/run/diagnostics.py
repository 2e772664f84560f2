"""Stage: diagnostics of the decomposition: restarts, random vectors, and vectors without their channels.

The channels of random vectors in place of the neurons, which a control describes, are found here as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.decomposition import (
    DecompositionConfig,
    ablation,
    consistency,
    kurtosis,
    random_vectors,
    reconstruction,
)
from harness.folder import RunFolder, write_table
from harness.records import AblatedChannels, Channel, Neuron, RandomVector, Restart, TextAblation, VectorKind
from harness.run.channel_store import ChannelStore
from harness.run.decompose import channels_of
from harness.run.pool import Pool, Wanted
from harness.run.progress import progress
from harness.run.rounding import rounded
from harness.run.sections import DiagnosticsConfig
from harness.run.setup import Setup
from harness.run.text_ablation import CHANNELS, Arms, HeldOutText, text_ablation
from harness.run.worker import Block, reduced
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject, lacks_head

#: The measurement that finds the channels of random vectors in place of the neurons.
REPLACEMENTS = "replacements"
#: The measurement on the run's text. Runs do not share it, because they may have other text.
ON_TEXT = "text_ablations"
#: Yields the records of a measurement, once its pool has decomposed the vectors.
Records = Callable[[], Iterator[Any]]


@dataclass(frozen=True)
class Group:
    """The vectors of one layer and kind, and what is measured of them.

    Attributes:
        sample: neurons whose vectors are decomposed again, from other starts.
        ablated: neurons whose channels are removed from their vectors.
        replaced: neurons in whose place random vectors are decomposed.
        text_ablated: neurons whose channels are removed while the model reads text.
        config: how the run decomposed its vectors.
    """

    layer: int
    kind: VectorKind
    sample: tuple[Neuron, ...]
    ablated: tuple[Neuron, ...]
    replaced: tuple[Neuron, ...]
    text_ablated: tuple[Neuron, ...]
    config: DecompositionConfig
    diagnostics: DiagnosticsConfig

    def channels(self, name: str) -> int:
        """Return how many channels a measurement finds."""
        options, each = self.diagnostics, self.config.num_channels
        found = {
            "restarts": len(self.sample) * options.restarts * each,
            "random": options.random_vectors * min(options.random_channels, each),
            REPLACEMENTS: len(self.replaced) * each,
        }
        return found.get(name, 0)

    def path(self, folder: RunFolder, name: str) -> Path:
        """Return the file of one measurement; its name contains a hash of everything that can change the result."""
        settings = {
            REPLACEMENTS: (self.replaced, self.config),
            ON_TEXT: (self.text_ablated, self.config, self.diagnostics),
        }.get(name, (self.sample, self.ablated, self.config, self.diagnostics))
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
        return folder.diagnostics / f"L{self.layer:02d}-{self.kind}-{digest}.{name}.parquet"


def measure_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore) -> None:
    """Measure what neither the folder nor the store has, and remove the files of other settings."""
    jobs = {group.path(folder, name): (group, name) for group, name in _jobs(setup, folder, folder.decomposed())}
    for path in folder.diagnostics.glob("*.parquet"):
        if path not in jobs:
            path.unlink()
    if all(path.exists() for path in jobs):
        return
    with store.locked():
        pending = {
            path: (group, name)
            for path, (group, name) in jobs.items()
            if not (path.exists() or (name != ON_TEXT and store.restore_file(path)))
        }
        if not pending:
            return
        on_text: dict[int, set[Neuron]] = defaultdict(set)
        for group, name in pending.values():
            if name == ON_TEXT:
                on_text[group.layer].update(group.text_ablated)
        text = HeldOutText(setup, {layer: sorted(neurons) for layer, neurons in on_text.items()})
        try:
            channels = sum(group.channels(name) for group, name in pending.values())
            with progress("diagnostics", channels + len(pending), "channels and measurements") as advance:
                for pool, batch in _batches(setup, folder, pending, text):
                    pool.decompose(advance)
                    for path in list(batch):
                        records = batch.pop(path)  # so that the next call does not find these results in memory
                        write_table(path, records())
                        if pending[path][1] != ON_TEXT:
                            store.save_file(path)
                        advance(1)
                    del pool, records
        finally:
            text.close()


def _batches(
    setup: Setup, folder: RunFolder, pending: Mapping[Path, tuple[Group, str]], text: HeldOutText
) -> Iterator[tuple[Pool, dict[Path, Records]]]:
    """Yield measurements that share a projection and calls of the solver: a pool, and the records of each file."""
    subject, executor = setup.subject, setup.executor

    def projection_name(item: tuple[Path, tuple[Group, str]]) -> str:
        return subject.projection_name(item[1][0].layer)

    def batches(jobs: Sequence[tuple[Path, tuple[Group, str]]]) -> Iterator[tuple[Pool, dict[Path, Records]]]:
        vocabulary = _Vocabulary(subject, jobs[0][1][0].layer, executor.device)
        pool, batch = vocabulary.pool(executor.memory_bytes), dict[Path, Records]()
        for path, (group, name) in jobs:
            if pool.vectors and (
                # Other solvers share no calls, so nothing is gained by waiting.
                not group.config.independent
                or pool.vectors >= executor.block_size(subject.d_model, subject.vocab_size, group.config, joined=True)
            ):
                yield pool, batch
                pool, batch = vocabulary.pool(executor.memory_bytes), {}
            batch[path] = _MEASUREMENTS[name](_Measuring(setup, group, folder, text, vocabulary, pool))
        yield pool, batch

    for _, same in groupby(sorted(pending.items(), key=projection_name), key=projection_name):
        yield from batches(list(same))


def pending_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore | None) -> list[tuple[Group, str]]:
    """Return the measurements that are missing once all of the run's vectors are decomposed: group and name.

    Args:
        setup: the run.
        folder: its folder.
        store: what other runs measured; None if it is not known here.
    """
    vectors = {*product(setup.neurons, setup.kinds)} | folder.decomposed()
    jobs = [(group, name, group.path(folder, name)) for group, name in _jobs(setup, folder, vectors)]
    return [
        (group, name)
        for group, name, path in jobs
        if not (path.exists() or (store is not None and name != ON_TEXT and store.has(path)))
    ]


def _jobs(
    setup: Setup, folder: RunFolder, vectors: Collection[tuple[Neuron, VectorKind]]
) -> Iterator[tuple[Group, str]]:
    decomposed: dict[tuple[int, VectorKind], list[Neuron]] = {}
    for neuron, kind in sorted(vectors, key=lambda vector: vector[0].order):
        decomposed.setdefault((neuron.layer, kind), []).append(neuron)
    chosen = setup.diagnostics
    keeps_directions = folder.keeps_directions if folder.blocks() else setup.storage.directions != "none"
    replaces = any(describer.needs_random_channels for describer in setup.describers.values())
    if replaces:  # also where no describer needs the channels of the neurons themselves
        for neuron, kind in product(setup.neurons, setup.kinds):
            decomposed.setdefault((neuron.layer, kind), [])
    for (layer, kind), known in sorted(decomposed.items()):
        rng = derive_rng(setup.seed, "diagnostics", layer, kind)
        sample, ablated = (
            tuple(known[i] for i in sorted(rng.choice(len(known), min(count, len(known)), replace=False).tolist()))
            for count in (chosen.sample, chosen.ablated)
        )
        replaced = tuple(neuron for neuron in setup.neurons if replaces and neuron.layer == layer)
        on_text = _on_text(setup, layer, kind, known) if keeps_directions else ()
        config = setup.decomposition.config(layer, kind)
        group = Group(layer, kind, sample, ablated, replaced, on_text, config, chosen)
        if known and chosen.sample and keeps_directions:
            yield group, "restarts"
        if known and chosen.random_vectors:
            yield group, "random"
        if known and chosen.ablated and keeps_directions:
            yield group, "ablations"
        if replaced:
            yield group, REPLACEMENTS
        if on_text:
            yield group, ON_TEXT


def _on_text(setup: Setup, layer: int, kind: VectorKind, known: Sequence[Neuron]) -> tuple[Neuron, ...]:
    """Return the neurons of a layer whose channels are removed on text: the same ones for all kinds.

    Neurons of experts are left out, because their activations cannot be computed from the input of the MLP alone. So
    are latents, and out vectors of models that predict no next token.
    """
    latents = layer in setup.subject.weights.dictionaries
    if setup.corpus is None or latents or (kind is VectorKind.OUT and lacks_head(setup.subject)):
        return ()
    dense = [neuron for neuron in known if neuron.expert is None]
    order = sorted(dense, key=lambda neuron: derive_seed(setup.seed, "text ablation", neuron))
    return tuple(sorted(order[: setup.diagnostics.text_ablated]))


class _Vocabulary:
    """What the measurements of layers with the same projection share, on one device."""

    def __init__(self, subject: Subject, layer: int, device: str) -> None:
        self.projection = subject.projection(layer).to(device)
        self.weights = subject.token_weights(layer).to(device)
        #: Ids of the tokens that are no text that the model has seen in training.
        self.hidden = torch.tensor(sorted(subject.unused_token_ids), dtype=torch.int64, device=device)
        #: The other tokens, (V,) bool.
        self.used = torch.ones(self.projection.shape[1], dtype=torch.bool, device=device)
        self.used[self.hidden] = False

    def pool(self, memory: int | None) -> Pool:
        return Pool(self.projection, self.weights, memory)


class _Measuring:
    """What the measurements of a group share."""

    def __init__(
        self, setup: Setup, group: Group, folder: RunFolder, text: HeldOutText, vocabulary: _Vocabulary, pool: Pool
    ) -> None:
        self.group, self.folder, self.subject, self.text = group, folder, setup.subject, text
        self.device, self.storage, self.vocabulary, self.pool = setup.executor.device, setup.storage, vocabulary, pool
        self.projection, self.used = vocabulary.projection, vocabulary.used
        self.top_tokens = min(group.diagnostics.top_tokens, int(self.used.sum()))

    def vectors(self, neurons: Sequence[Neuron]) -> Tensor:
        indices, experts = [neuron.index for neuron in neurons], [neuron.expert for neuron in neurons]
        return self.subject.vectors(self.group.layer, indices, self.group.kind, experts)

    def with_directions(self, neurons: Sequence[Neuron]) -> Iterator[tuple[list[Neuron], Tensor, Tensor]]:
        """Yield some of the neurons with their vectors (n, d_model) and the run's channels (n, C, d_model)."""
        wanted = {(neuron, self.group.kind) for neuron in neurons}
        for keys, directions in self.folder.read_directions(wanted):
            rows = [row for row, key in enumerate(keys) if key in wanted]
            found = [keys[row][0] for row in rows]
            yield found, self.vectors(found).to(self.device), directions[rows].float().to(self.device)

    def wanted(self, vectors: Tensor, **changes: Any) -> Wanted:
        """Want the channels of vectors (N, d_model), with the run's settings but for changes."""
        return self.pool.want(vectors.to(self.device), dataclasses.replace(self.group.config, **changes))


def _restarts(given: _Measuring) -> Records:
    """Decompose the sample from other starting points, and compare the channels with the run's."""
    group, vectors = given.group, given.vectors(given.group.sample)
    geodesic = dataclasses.replace(group.config.geodesic, jitter=group.diagnostics.jitter)
    # The seed alone moves the start of adamw; the geodesic solver also needs jitter.
    seeds = [derive_seed(group.config.seed, "restart", restart + 1) for restart in range(group.diagnostics.restarts)]
    again = [given.wanted(vectors, seed=seed, geodesic=geodesic) for seed in seeds]

    def records() -> Iterator[Restart]:
        for neurons, _, first in given.with_directions(group.sample):
            rows = [group.sample.index(neuron) for neuron in neurons]
            for restart, second in enumerate(again, start=1):
                both = first, second.channels.directions[rows].float()
                found = consistency(*both, given.projection, top_tokens=given.top_tokens, tokens=given.used)
                for row, neuron in enumerate(neurons):
                    cosine, jaccard = rounded(found.cosine[row]), rounded(found.jaccard[row])
                    apart = rounded(found.apart[row], undefined=True)
                    yield Restart(neuron, group.kind, restart, cosine, jaccard, apart)

    return records


def _ablations(given: _Measuring) -> Iterator[AblatedChannels]:
    """Remove the run's channels from some vectors."""
    for neurons, vectors, removed in given.with_directions(given.group.ablated):
        found = ablation(vectors, removed, given.projection, top_tokens=given.top_tokens, tokens=given.used)
        for row, neuron in enumerate(neurons):
            yield AblatedChannels(
                neuron,
                given.group.kind,
                faithful=rounded(found.faithful[row], undefined=True),
                kept=rounded(found.kept[row], undefined=True),
                chance=rounded(found.chance[row]),
                complete=rounded(found.complete[row], undefined=True),
                complete_chance=rounded(found.complete_chance[row]),
            )


def _text_ablations(given: _Measuring) -> Iterator[TextAblation]:
    """Remove the run's channels from some vectors while the model reads text."""
    group = given.group
    if not given.text.pieces:
        return
    for neurons, vectors, channels in given.with_directions(group.text_ablated):
        for neuron, vector, directions in zip(neurons, vectors, channels, strict=True):
            seed = derive_seed(group.config.seed, "random directions", neuron, group.kind)
            arms = Arms.of(vector, directions[:CHANNELS], given.projection, given.used, given.top_tokens, seed)
            yield text_ablation(given.text, neuron, group.kind, vector, arms)


def _random(given: _Measuring) -> Records:
    """Decompose random vectors with the run's settings.

    They share mean and covariance with the layer's vectors, or with a sample of those of a large layer.
    """
    group, options = given.group, given.group.diagnostics
    vectors = random_vectors(
        given.subject.sample_vectors(group.layer, group.kind, group.config.seed),
        options.random_vectors,
        seed=derive_seed(group.config.seed, "random vectors", group.layer, group.kind),
        covariance=options.random == "covariance",
    ).to(given.device)
    wanted = given.wanted(vectors, num_channels=min(options.random_channels, group.config.num_channels))

    def records() -> Iterator[RandomVector]:
        found, projection = wanted.channels, given.projection
        measured = [found.kurtosis, found.cosine, found.loss, reconstruction(vectors, found.directions)]
        maybe_undefined: list[Tensor] = []  # where a vector does not respond to the tokens
        if options.ablated:
            removed = ablation(vectors, found.directions, projection, top_tokens=given.top_tokens, tokens=given.used)
            maybe_undefined.append(removed.faithful)
            if found.directions.shape[1] == group.config.num_channels:
                maybe_undefined.append(removed.complete)
        counted = group.config.counted(given.vocabulary.weights)
        for row, vector in enumerate(vectors):
            own = rounded(kurtosis(vector @ projection, counted))
            values = [rounded(each[row]) for each in measured]
            values += [rounded(each[row], undefined=True) for each in maybe_undefined]
            yield RandomVector(group.layer, group.kind, row, own, *values)

    return records


def _replacements(given: _Measuring) -> Records:
    """Decompose a random vector in place of each neuron's, with the mean and covariance of the layer's vectors."""
    group, subject, vocabulary = given.group, given.subject, given.vocabulary
    population = subject.sample_vectors(group.layer, group.kind, group.config.seed)
    drawn = [
        random_vectors(population, 1, seed=derive_seed(group.config.seed, "replacement", neuron, group.kind))
        for neuron in group.replaced
    ]
    wanted = given.wanted(torch.cat(drawn))

    def records() -> Iterator[Channel]:
        tensors = vocabulary.projection, vocabulary.weights, vocabulary.hidden
        block = Block(group.replaced, group.kind)
        result = reduced(block, wanted.vectors, wanted.channels, tensors, group.config, given.storage)
        return channels_of(result, subject)

    return records


def _at_once(records: Callable[[_Measuring], Iterator[Any]]) -> Callable[[_Measuring], Records]:
    """Return a measurement that decomposes nothing."""
    return lambda given: partial(records, given)


#: What starts each measurement: it tells the pool what to decompose.
_MEASUREMENTS: dict[str, Callable[[_Measuring], Records]] = {
    "restarts": _restarts,
    "random": _random,
    "ablations": _at_once(_ablations),
    REPLACEMENTS: _replacements,
    ON_TEXT: _at_once(_text_ablations),
}
