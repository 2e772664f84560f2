"""Stage: diagnostics of the decomposition: restarts, random vectors, and vectors without their channels."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.decomposition import (
    Decomposition,
    DecompositionConfig,
    ablation,
    consistency,
    decompose,
    kurtosis,
    random_vectors,
    reconstruction,
)
from harness.folder import RunFolder, write_table
from harness.records import AblatedChannels, Neuron, RandomVector, Restart, TextAblation, VectorKind
from harness.run.channel_store import ChannelStore
from harness.run.progress import progress
from harness.run.sections import DiagnosticsConfig
from harness.run.setup import Setup
from harness.run.text_ablation import CHANNELS, Arms, HeldOutText, text_ablation
from harness.seeds import derive_rng, derive_seed
from harness.subject import lacks_head

_POPULATION = 1 << 14


@dataclass(frozen=True)
class Group:
    """The vectors of one layer and kind, and what is measured of them.

    Attributes:
        sample: neurons whose vectors are decomposed again.
        ablated: neurons whose channels are removed from their vectors.
        text_ablated: neurons whose channels are removed while the model reads text.
        config: how the run decomposed its vectors.
    """

    layer: int
    kind: VectorKind
    sample: tuple[Neuron, ...]
    ablated: tuple[Neuron, ...]
    text_ablated: tuple[Neuron, ...]
    config: DecompositionConfig
    diagnostics: DiagnosticsConfig

    def path(self, folder: RunFolder, name: str) -> Path:
        """Return the file of one measurement; its name contains a hash of everything that can change the result."""
        settings = repr((self.sample, self.ablated, self.text_ablated, self.config, self.diagnostics))
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
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
        pending = {path: job for path, job in jobs.items() if not (path.exists() or store.restore_file(path))}
        if not pending:
            return
        on_text: dict[int, set[Neuron]] = defaultdict(set)
        for group, name in pending.values():
            if name == "text_ablations":
                on_text[group.layer].update(group.text_ablated)
        text = HeldOutText(setup, {layer: sorted(neurons) for layer, neurons in on_text.items()})
        try:
            with progress("diagnostics", len(pending), "measurements") as advance:
                for path, (group, name) in pending.items():
                    write_table(path, _MEASUREMENTS[name](_Measuring(setup, group, folder, text)))
                    store.save_file(path)
                    advance(1)
        finally:
            text.close()


def pending_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore | None) -> list[tuple[Group, str]]:
    """Return the measurements that are missing once all of the run's vectors are decomposed: group and name.

    Args:
        setup: the run.
        folder: its folder.
        store: what other runs measured; None if it is not known here.
    """
    vectors = {(neuron, kind) for neuron in setup.neurons for kind in setup.kinds} | folder.decomposed()
    jobs = [(group, name, group.path(folder, name)) for group, name in _jobs(setup, folder, vectors)]
    return [
        (group, name) for group, name, path in jobs if not (path.exists() or (store is not None and store.has(path)))
    ]


def _jobs(
    setup: Setup, folder: RunFolder, vectors: Collection[tuple[Neuron, VectorKind]]
) -> Iterator[tuple[Group, str]]:
    decomposed: dict[tuple[int, VectorKind], list[Neuron]] = {}
    for neuron, kind in sorted(vectors):
        decomposed.setdefault((neuron.layer, kind), []).append(neuron)
    chosen, keeps_directions = setup.diagnostics, folder.keeps_directions
    for (layer, kind), known in sorted(decomposed.items()):
        rng = derive_rng(setup.seed, "diagnostics", layer, kind)
        sample, ablated = (
            tuple(known[i] for i in sorted(rng.choice(len(known), min(count, len(known)), replace=False).tolist()))
            for count in (chosen.sample, chosen.ablated)
        )
        on_text = _on_text(setup, layer, kind, known) if keeps_directions else ()
        group = Group(layer, kind, sample, ablated, on_text, setup.decomposition.config(layer, kind), chosen)
        if chosen.sample:
            yield group, "restarts"
        if chosen.random_vectors:
            yield group, "random"
        if chosen.ablated and keeps_directions:
            yield group, "ablations"
        if on_text:
            yield group, "text_ablations"


def _on_text(setup: Setup, layer: int, kind: VectorKind, known: Sequence[Neuron]) -> tuple[Neuron, ...]:
    """Return the neurons of a layer whose channels are removed on text: the same ones for all kinds.

    Neurons of experts are left out, because their activations cannot be computed from the input of the MLP alone. So
    are out vectors of models that predict no next token.
    """
    if setup.corpus is None or not setup.compares or (kind is VectorKind.OUT and lacks_head(setup.subject)):
        return ()
    dense = [neuron for neuron in known if neuron.expert is None]
    order = sorted(dense, key=lambda neuron: derive_seed(setup.seed, "text ablation", neuron))
    return tuple(sorted(order[: setup.diagnostics.text_ablated]))


class _Measuring:
    """What the measurements of a group share."""

    def __init__(self, setup: Setup, group: Group, folder: RunFolder, text: HeldOutText) -> None:
        self.group, self.folder, self.subject, self.text = group, folder, setup.subject, text
        self.device, self._memory = setup.executor.device, setup.executor.memory_bytes
        self.projection = self.subject.projection(group.layer).to(self.device)
        #: Which tokens are text that the model has seen in training, (V,) bool.
        self.used = torch.ones(self.projection.shape[1], dtype=torch.bool, device=self.device)
        self.used[sorted(self.subject.unused_token_ids)] = False
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

    def decompose(self, vectors: Tensor, **changes: Any) -> Decomposition:
        config = dataclasses.replace(self.group.config, **changes)
        weights = self.subject.token_weights(self.group.layer).to(self.device)
        return decompose(vectors, self.projection, token_weights=weights, config=config, memory_budget=self._memory)


def _restarts(given: _Measuring) -> Iterator[Restart]:
    """Decompose the sample as the run did and from other starting points, and compare the channels."""
    group, vectors = given.group, given.vectors(given.group.sample).to(given.device)
    # Not read from the run's files: these may not hold the directions, or hold them in bfloat16.
    first = given.decompose(vectors).directions
    geodesic = dataclasses.replace(group.config.geodesic, jitter=group.diagnostics.jitter)
    for restart in range(1, group.diagnostics.restarts + 1):
        # The seed alone moves the start of adamw; the geodesic solver also needs jitter.
        seed = derive_seed(group.config.seed, "restart", restart)
        second = given.decompose(vectors, seed=seed, geodesic=geodesic).directions
        found = consistency(first, second, given.projection, top_tokens=given.top_tokens, tokens=given.used)
        for row, neuron in enumerate(group.sample):
            values = (_rounded(each[row]) for each in (found.cosine, found.jaccard, found.apart))
            yield Restart(neuron, group.kind, restart, *values)


def _ablations(given: _Measuring) -> Iterator[AblatedChannels]:
    """Remove the run's channels from some vectors."""
    for neurons, vectors, removed in given.with_directions(given.group.ablated):
        found = ablation(vectors, removed, given.projection, top_tokens=given.top_tokens, tokens=given.used)
        measured = (found.faithful, found.kept, found.chance, found.complete, found.complete_chance)
        for row, neuron in enumerate(neurons):
            yield AblatedChannels(neuron, given.group.kind, *(_rounded(each[row]) for each in measured))


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


def _random(given: _Measuring) -> Iterator[RandomVector]:
    """Decompose random vectors with the run's settings.

    They share mean and covariance with the layer's vectors, or with a sample of those of a large layer.
    """
    group, options = given.group, given.group.diagnostics
    population = given.subject.neurons(group.layer, None)
    if len(population) > _POPULATION:
        rng = derive_rng(group.config.seed, "population", group.layer, group.kind)
        population = [population[i] for i in sorted(rng.choice(len(population), _POPULATION, replace=False).tolist())]
    vectors = random_vectors(
        given.vectors(population),
        options.random_vectors,
        seed=derive_seed(group.config.seed, "random vectors", group.layer, group.kind),
        covariance=options.random == "covariance",
    ).to(given.device)
    found = given.decompose(vectors, num_channels=min(options.random_channels, group.config.num_channels))
    measured = (found.kurtosis, found.cosine, found.loss, reconstruction(vectors, found.directions))
    for row, vector in enumerate(vectors):
        own = _rounded(kurtosis(vector @ given.projection))
        yield RandomVector(group.layer, group.kind, row, own, *(_rounded(each[row]) for each in measured))


_MEASUREMENTS: dict[str, Callable[[_Measuring], Iterator[Any]]] = {
    "restarts": _restarts,
    "random": _random,
    "ablations": _ablations,
    "text_ablations": _text_ablations,
}


def _rounded(values: Tensor) -> Any:
    """Return a number (for a scalar) or a tuple, with None for NaN."""
    numbers = tuple(None if math.isnan(value) else round(value, 5) for value in values.flatten().tolist())
    return numbers if values.ndim else numbers[0]
