"""Stage: diagnostics of the decomposition: restarts, random vectors, and vectors without their channels."""

from __future__ import annotations

import dataclasses
import hashlib
import math
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
    """The vectors of one layer and kind, and what is measured of them.

    Attributes:
        sample: neurons whose vectors are decomposed again.
        ablated: neurons whose channels are removed from their vectors.
        config: how the run decomposed its vectors.
        diagnostics: the settings of the measurements.
        memory: bytes that a decomposition may use besides the projection; None for its default.
    """

    layer: int
    kind: VectorKind
    sample: tuple[Neuron, ...]
    ablated: tuple[Neuron, ...]
    config: DecompositionConfig
    diagnostics: DiagnosticsConfig
    memory: int | None

    def path(self, folder: RunFolder, what: str) -> Path:
        """Return the file of one measurement; its name contains a hash of everything that can change the result."""
        settings = repr((self.sample, self.ablated, self.config, self.diagnostics))
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        return folder.diagnostics / f"L{self.layer:02d}-{self.kind}-{digest}.{what}.parquet"


def measure_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore) -> None:
    """Measure what neither the folder nor the store has, and remove the files of other settings."""
    jobs = _jobs(setup, folder, folder.decomposed())
    paths = [group.path(folder, what) for group, what in jobs]
    for path in folder.diagnostics.glob("*.parquet"):
        if path not in paths:
            path.unlink()
    if all(path.exists() for path in paths):
        return
    with store.locked():
        pending = [
            job for job, path in zip(jobs, paths, strict=True) if not (path.exists() or store.restore_file(path))
        ]
        if pending:
            _measure(setup, folder, pending, store)


def pending_diagnostics(setup: Setup, folder: RunFolder, store: ChannelStore | None) -> list[tuple[Group, str]]:
    """Return the measurements that are missing once all of the run's vectors are decomposed: group and name.

    Args:
        setup: the run.
        folder: its folder.
        store: what other runs measured; None if it is not known here.
    """
    vectors = {(neuron, kind) for neuron in setup.neurons for kind in setup.kinds} | folder.decomposed()
    jobs = [(group, what, group.path(folder, what)) for group, what in _jobs(setup, folder, vectors)]
    return [
        (group, what) for group, what, path in jobs if not (path.exists() or (store is not None and store.has(path)))
    ]


def _jobs(setup: Setup, folder: RunFolder, vectors: Collection[tuple[Neuron, VectorKind]]) -> list[tuple[Group, str]]:
    return [(group, what) for group in _groups(setup, vectors) for what in _wanted(setup, folder)]


def _measure(setup: Setup, folder: RunFolder, pending: Sequence[tuple[Group, str]], store: ChannelStore) -> None:
    with progress("diagnostics", len(pending), "measurements") as advance:
        for group, what in pending:
            path = group.path(folder, what)
            write_table(path, _MEASUREMENTS[what](setup.subject, setup.executor.device, group, folder))
            store.save_file(path)
            advance(1)


def _groups(setup: Setup, vectors: Collection[tuple[Neuron, VectorKind]]) -> Iterator[Group]:
    decomposed: dict[tuple[int, VectorKind], list[Neuron]] = {}
    for neuron, kind in sorted(vectors):
        decomposed.setdefault((neuron.layer, kind), []).append(neuron)
    diagnostics = setup.diagnostics
    for (layer, kind), known in sorted(decomposed.items()):
        rng = derive_rng(setup.seed, "diagnostics", layer, kind)
        sample, ablated = (
            tuple(known[i] for i in sorted(rng.choice(len(known), min(count, len(known)), replace=False).tolist()))
            for count in (diagnostics.sample, diagnostics.ablated)
        )
        config, memory = setup.decomposition.config(layer, kind), setup.executor.memory_bytes
        yield Group(layer, kind, sample, ablated, config, diagnostics, memory)


def _wanted(setup: Setup, folder: RunFolder) -> list[str]:
    wanted = {
        "restarts": setup.diagnostics.sample > 0,
        "random": setup.diagnostics.random_vectors > 0,
        "ablations": setup.diagnostics.ablated > 0 and folder.keeps_directions,
    }
    return [what for what, chosen in wanted.items() if chosen]


def _used_tokens(subject: Subject, projection: Tensor) -> Tensor:
    """Return which tokens are text that the model has seen in training, (V,) bool."""
    used = torch.ones(projection.shape[1], dtype=torch.bool, device=projection.device)
    used[sorted(subject.unused_token_ids)] = False
    return used


def _vectors(subject: Subject, group: Group, neurons: Sequence[Neuron]) -> Tensor:
    indices, experts = [neuron.index for neuron in neurons], [neuron.expert for neuron in neurons]
    return subject.vectors(group.layer, indices, group.kind, experts)


def _population(subject: Subject, group: Group) -> list[Neuron]:
    """Return the neurons whose mean and covariance random vectors share: the layer's, or a sample of a large layer."""
    neurons = subject.neurons(group.layer, None)
    if len(neurons) <= _POPULATION:
        return neurons
    rng = derive_rng(group.config.seed, "population", group.layer, group.kind)
    return [neurons[i] for i in sorted(rng.choice(len(neurons), _POPULATION, replace=False).tolist())]


def _restarts(subject: Subject, device: str, group: Group, _: RunFolder) -> Iterator[Restart]:
    """Decompose the sample as the run did and from other starting points, and compare the channels."""
    vectors = _vectors(subject, group, group.sample).to(device)
    projection = subject.projection(group.layer).to(device)
    used = _used_tokens(subject, projection)
    # Not read from the run's files: these may not hold the directions, or hold them in bfloat16.
    first = _decompose(subject, group, group.config, vectors, projection).directions
    geodesic = dataclasses.replace(group.config.geodesic, jitter=group.diagnostics.jitter)
    for restart in range(1, group.diagnostics.restarts + 1):
        # The seed alone moves the start of adamw; the geodesic solver also needs jitter.
        seed = derive_seed(group.config.seed, "restart", restart)
        config = dataclasses.replace(group.config, seed=seed, geodesic=geodesic)
        second = _decompose(subject, group, config, vectors, projection).directions
        count = min(group.diagnostics.top_tokens, int(used.sum()))
        found = consistency(first, second, projection, top_tokens=count, tokens=used)
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
    """Remove the run's channels from some vectors."""
    wanted = {(neuron, group.kind) for neuron in group.ablated}
    projection = subject.projection(group.layer).to(device)
    used = _used_tokens(subject, projection)
    count = min(group.diagnostics.top_tokens, int(used.sum()))
    for keys, directions in folder.read_directions(wanted):
        rows = [row for row, key in enumerate(keys) if key in wanted]
        neurons = [keys[row][0] for row in rows]
        vectors = _vectors(subject, group, neurons).to(device)
        found = ablation(vectors, directions[rows].float().to(device), projection, top_tokens=count, tokens=used)
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


def _random(subject: Subject, device: str, group: Group, _: RunFolder) -> Iterator[RandomVector]:
    """Decompose random vectors with the run's settings."""
    vectors = random_vectors(
        _vectors(subject, group, _population(subject, group)),
        group.diagnostics.random_vectors,
        seed=derive_seed(group.config.seed, "random vectors", group.layer, group.kind),
        covariance=group.diagnostics.random == "covariance",
    ).to(device)
    projection = subject.projection(group.layer).to(device)
    channels = min(group.diagnostics.random_channels, group.config.num_channels)
    config = dataclasses.replace(group.config, num_channels=channels)
    found = _decompose(subject, group, config, vectors, projection)
    shares = reconstruction(vectors, found.directions)
    for row, vector in enumerate(vectors):
        yield RandomVector(
            layer=group.layer,
            kind=group.kind,
            place=row,
            kurtosis=round(float(kurtosis(vector @ projection)), 5),
            channel_kurtosis=_rounded(found.kurtosis[row]),
            cosine=_rounded(found.cosine[row]),
            loss=_rounded(found.loss[row]),
            reconstruction=_rounded(shares[row]),
        )


_MEASUREMENTS: dict[str, Callable[[Subject, str, Group, RunFolder], Iterator[Any]]] = {
    "restarts": _restarts,
    "random": _random,
    "ablations": _ablations,
}


def _decompose(
    subject: Subject, group: Group, config: DecompositionConfig, vectors: Tensor, projection: Tensor
) -> Decomposition:
    weights = subject.token_weights(group.layer).to(projection.device)
    return decompose(vectors, projection, token_weights=weights, config=config, memory_budget=group.memory)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values.tolist())


def _known(values: Tensor) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else round(value, 5) for value in values.tolist())
