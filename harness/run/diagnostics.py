"""Stage: what the decomposition is worth: vectors decomposed again, random ones, and vectors without their channels."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.decomposition import (
    DecompositionConfig,
    ablation,
    consistency,
    decompose,
    kurtosis,
    random_vectors,
    reconstruction,
)
from harness.folder import RunFolder, write_table
from harness.records import AblatedChannels, Neuron, RandomVector, Restart, VectorKind
from harness.run.channel_store import ChannelStore
from harness.run.progress import progress
from harness.run.sections import DiagnosticsConfig
from harness.run.setup import Setup
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject

_POPULATION = 1 << 14


@dataclass(frozen=True)
class Group:
    """The vectors of one layer and kind, and how some of them are to be judged.

    Attributes:
        layer: the layer.
        kind: the vector kind.
        sample: neurons whose vectors are decomposed again.
        ablated: neurons whose channels are taken out of their vectors.
        config: how the run's vectors were decomposed.
        diagnostics: how much is done.
        memory: bytes that a decomposition may use beside the projection; none for its own choice.
    """

    layer: int
    kind: VectorKind
    sample: tuple[Neuron, ...]
    ablated: tuple[Neuron, ...]
    config: DecompositionConfig
    diagnostics: DiagnosticsConfig
    memory: int | None

    def path(self, folder: RunFolder, what: str) -> Path:
        """Return where the group's records of one sort go; the name changes with all that can change what is found."""
        digest = hashlib.sha256(repr((self.sample, self.ablated, self.config, self.diagnostics)).encode()).hexdigest()[
            :8
        ]
        return folder.diagnostics / f"L{self.layer:02d}-{self.kind}-{digest}.{what}.parquet"


def measure_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore) -> None:
    """Measure what neither the folder nor the store has for this configuration; what is of another one is removed."""
    jobs = _jobs(setup, folder, folder.decomposed())
    paths = [group.path(folder, what) for group, what in jobs]
    for path in folder.diagnostics.glob("*.parquet"):
        if path not in paths:
            path.unlink()
    if all(path.exists() for path in paths):
        return
    with store.locked():
        pending = [job for job, path in zip(jobs, paths, strict=True) if not (path.exists() or store.fetch(path))]
        if pending:
            _measure(setup, folder, pending, store)


def pending_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore | None) -> list[tuple[Group, str]]:
    """Return what is still to be measured when all of the run's vectors are decomposed, as group and what of it.

    Args:
        setup: the run.
        folder: its folder.
        store: what other runs measured; none if it cannot be known.
    """
    whole = {(neuron, kind) for neuron in setup.neurons for kind in setup.kinds} | folder.decomposed()
    jobs = [(group, what, group.path(folder, what)) for group, what in _jobs(setup, folder, whole)]
    return [
        (group, what) for group, what, path in jobs if not (path.exists() or (store is not None and store.has(path)))
    ]


def _jobs(setup: Setup, folder: RunFolder, vectors: Collection[tuple[Neuron, VectorKind]]) -> list[tuple[Group, str]]:
    return [(group, what) for group in _groups(setup, vectors) for what in _wanted(setup, folder)]


def _measure(setup: Setup, folder: RunFolder, pending: Sequence[tuple[Group, str]], store: ChannelStore) -> None:
    with progress("diagnostics", len(pending), "measurements") as advance:
        for group, what in pending:
            path = group.path(folder, what)
            write_table(path, _measured(what, setup.subject, setup.executor.device, group, folder))
            store.keep(path)
            advance(1)


def _groups(setup: Setup, vectors: Collection[tuple[Neuron, VectorKind]]) -> Iterator[Group]:
    decomposed: dict[tuple[int, VectorKind], list[Neuron]] = {}
    for neuron, kind in sorted(vectors):
        decomposed.setdefault((neuron.layer, kind), []).append(neuron)
    diagnostics = setup.diagnostics
    for (layer, kind), known in sorted(decomposed.items()):
        rng = derive_rng(setup.seed, "diagnostics", layer, kind)
        sample, ablated = (
            tuple(
                known[place] for place in sorted(rng.choice(len(known), min(count, len(known)), replace=False).tolist())
            )
            for count in (diagnostics.sample, diagnostics.ablated)
        )
        yield Group(
            layer,
            kind,
            sample,
            ablated,
            setup.decomposition.config(layer, kind),
            diagnostics,
            setup.executor.memory_bytes,
        )


def _wanted(setup: Setup, folder: RunFolder) -> list[str]:
    diagnostics = setup.diagnostics
    ablations = diagnostics.ablated > 0 and folder.keeps_directions
    return (
        ["restarts"] * (diagnostics.sample > 0)
        + ["random"] * (diagnostics.random_vectors > 0)
        + ["ablations"] * ablations
    )


def _measured(what: str, subject: Subject, device: str, group: Group, folder: RunFolder) -> Iterator[Any]:
    if what == "ablations":
        return _ablations(subject, device, group, folder)
    return _restarts(subject, device, group) if what == "restarts" else _random(subject, device, group)


def _vocabulary(subject: Subject, device: str, group: Group) -> tuple[Tensor, Tensor]:
    return subject.projection(group.layer).to(device), subject.token_weights(group.layer).to(device)


def _words(subject: Subject, projection: Tensor) -> Tensor:
    """Return which tokens are text that the model knows, (V,) bool."""
    words = torch.ones(projection.shape[1], dtype=torch.bool, device=projection.device)
    words[sorted(subject.unused_token_ids)] = False
    return words


def _vectors(subject: Subject, group: Group, neurons: Sequence[Neuron]) -> Tensor:
    indices, experts = [neuron.index for neuron in neurons], [neuron.expert for neuron in neurons]
    return subject.vectors(group.layer, indices, group.kind, experts)


def _population(subject: Subject, group: Group) -> list[Neuron]:
    """Return the neurons whose mean and covariance random vectors take: the layer's, or of very many a part."""
    neurons = subject.neurons(group.layer, None)
    if len(neurons) <= _POPULATION:
        return neurons
    rng = derive_rng(group.config.seed, "population", group.layer, group.kind)
    return [neurons[place] for place in sorted(rng.choice(len(neurons), _POPULATION, replace=False).tolist())]


def _restarts(subject: Subject, device: str, group: Group) -> Iterator[Restart]:
    """Decompose the sample as the run did and from other starts, and compare."""
    vectors = _vectors(subject, group, group.sample).to(device)
    projection, weights = _vocabulary(subject, device, group)
    words = _words(subject, projection)
    # Once more rather than from the run's files, which need not hold the directions in full.
    first = decompose(
        vectors, projection, token_weights=weights, config=group.config, memory_budget=group.memory
    ).directions
    geodesic = dataclasses.replace(group.config.geodesic, jitter=group.diagnostics.jitter)
    for restart in range(1, group.diagnostics.restarts + 1):
        # The published optimiser starts elsewhere with another seed; the geodesic one only where it is jittered too.
        seed = derive_seed(group.config.seed, "restart", restart)
        config = dataclasses.replace(group.config, seed=seed, geodesic=geodesic)
        second = decompose(
            vectors, projection, token_weights=weights, config=config, memory_budget=group.memory
        ).directions
        count = min(group.diagnostics.top_tokens, int(words.sum()))
        found = consistency(first, second, projection, top_tokens=count, tokens=words)
        for row, neuron in enumerate(group.sample):
            yield Restart(
                neuron=neuron,
                kind=group.kind,
                restart=restart,
                cosine=_rounded(found.cosine[row]),
                jaccard=_rounded(found.jaccard[row]),
                apart=None if found.apart[row].isnan() else _rounded(found.apart[row : row + 1])[0],
            )


def _ablations(subject: Subject, device: str, group: Group, folder: RunFolder) -> Iterator[AblatedChannels]:
    """Take the run's own channels out of some vectors."""
    wanted = {(neuron, group.kind) for neuron in group.ablated}
    projection, _ = _vocabulary(subject, device, group)
    words = _words(subject, projection)
    count = min(group.diagnostics.top_tokens, int(words.sum()))
    for keys, directions in folder.read_directions(wanted):
        places = [place for place, key in enumerate(keys) if key in wanted]
        neurons = [keys[place][0] for place in places]
        vectors = _vectors(subject, group, neurons).to(device)
        found = ablation(vectors, directions[places].float().to(device), projection, top_tokens=count, tokens=words)
        for row, neuron in enumerate(neurons):
            yield AblatedChannels(
                neuron=neuron,
                kind=group.kind,
                faithful=_known(found.faithful[row]),
                kept=_known(found.kept[row]),
                chance=_rounded(found.chance[row]),
                complete=round(float(found.complete[row]), 5),
                complete_chance=round(float(found.complete_chance[row]), 5),
            )


def _random(subject: Subject, device: str, group: Group) -> Iterator[RandomVector]:
    """Decompose random vectors as the run's own."""
    vectors = random_vectors(
        _vectors(subject, group, _population(subject, group)),
        group.diagnostics.random_vectors,
        seed=derive_seed(group.config.seed, "random vectors", group.layer, group.kind),
        covariance=group.diagnostics.random == "covariance",
    ).to(device)
    projection, weights = _vocabulary(subject, device, group)
    channels = min(group.diagnostics.random_channels, group.config.num_channels)
    config = dataclasses.replace(group.config, num_channels=channels)
    found = decompose(vectors, projection, token_weights=weights, config=config, memory_budget=group.memory)
    shares = reconstruction(vectors, found.directions)
    for place, vector in enumerate(vectors):
        yield RandomVector(
            layer=group.layer,
            kind=group.kind,
            place=place,
            kurtosis=round(float(kurtosis(vector @ projection)), 5),
            channel_kurtosis=_rounded(found.kurtosis[place]),
            cosine=_rounded(found.cosine[place]),
            loss=_rounded(found.loss[place]),
            reconstruction=_rounded(shares[place]),
        )


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values.tolist())


def _known(values: Tensor) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else round(value, 5) for value in values.tolist())
