"""Neurons as known mixtures of known concepts, in the embedding space of a real model.

The subject is a Llama with one layer whose attention adds nothing. Its unembedding is the real embedding. Its embedding
is the same, except for the concepts that only text can show: their words share a direction that the unembedding does
not have. With h the normed embedding of a token, a neuron's activation is silu(gate . h) * (in . h).

A concept's direction is scaled so that its mean product with h over the concept's words is 1. At the words of a concept
with weight w, gate . h is then about 4 |w| and in . h about w.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.planted.clusters import Cluster, grow, neighbours
from harness.planted.settings import Planting
from harness.planted.truth import Concept, Part, PlantedNeuron, Seen, Truth
from harness.seeds import derive_rng
from harness.subject.checkpoint import Checkpoint
from harness.subject.files import first_line, locate
from harness.subject.files import sha256 as sha256_of

#: gate . h at the words of a concept of weight 1, where silu(x) is about x.
GATE_SCALE = 4.0
#: Norm of every out vector. At an activation of about GATE_SCALE it adds about the norm of an embedding.
OUT_NORM = 0.3
#: Largest share of the documents that are about the concepts of one difficulty with a rate.
_COMMON = 0.4
#: Norm of the direction shared by the words of a text-only concept, relative to the norm of each embedding.
SHARED_SCALE = 0.6


@dataclass(frozen=True)
class PlantedWeights:
    """A planted model's weights, float32, and what was planted in them.

    Attributes:
        truth: what was planted.
        embedding: W_E, (V, d_model).
        unembedding: W_U.T, (V, d_model).
        gate: (neurons, d_model).
        into: (neurons, d_model), the ``in`` vectors.
        out: (neurons, d_model).
    """

    truth: Truth
    embedding: Tensor
    unembedding: Tensor
    gate: Tensor
    into: Tensor
    out: Tensor


@dataclass(frozen=True)
class BaseModel:
    """The model whose embedding is used.

    Attributes:
        tokenizer: its tokenizer.
        embedding: (V, d_model), float32, unchanged.
        clusters: the concepts found in it.
    """

    tokenizer: PreTrainedTokenizerBase
    embedding: Tensor
    clusters: tuple[Cluster, ...]


def base_model(planting: Planting) -> BaseModel:
    """Return the model whose embedding is used, with the concepts found in it.

    Raises:
        HarnessError: if it is not found, is not the expected model, or lacks words of a concept.
    """
    return _base_model(planting.sources, planting.sha256, planting.embedding, planting.words)


@lru_cache(maxsize=1)
def _base_model(sources: tuple[str, ...], sha256: str | None, name: str, max_words: int) -> BaseModel:
    files = locate(sources)
    weights = files.fetch("model.safetensors")
    if sha256 is not None and (weights is None or sha256_of(weights) != sha256):
        raise HarnessError(
            f"the embedding at {files.reference} is not the expected one (SHA-256 {sha256}): use another source, or "
            "set subject.planting.sha256=null to accept it"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.reference)
    except Exception as error:  # each tokenizer library raises its own classes
        raise HarnessError(f"the tokenizer of {files.reference} cannot be loaded ({first_line(error)})") from error
    checkpoint = Checkpoint(files)
    tensor = checkpoint.name_of(name)
    if tensor is None:
        raise HarnessError(f"{files.reference} has no tensor {name!r} (subject.planting.embedding)")
    embedding = checkpoint.tensor(tensor)
    return BaseModel(tokenizer, embedding, tuple(grow(embedding, tokenizer.get_vocab(), max_words)))


def truth_of(planting: Planting) -> Truth:
    """Return what the settings plant, without making a checkpoint.

    Raises:
        HarnessError: as :func:`plant`.
    """
    concepts = _concepts(planting, base_model(planting))
    return Truth(planting.key, concepts, tuple(_neurons(planting, concepts)))


def plant(planting: Planting) -> PlantedWeights:
    """Plant neurons. Equal settings give equal weights.

    Raises:
        HarnessError: if the embedding cannot be loaded, or a neuron needs more concepts than there are.
    """
    base, truth = base_model(planting), truth_of(planting)
    clusters, concepts, neurons = base.clusters, truth.concepts, truth.neurons
    real = base.embedding.double()
    index_of = {concept.name: index for index, concept in enumerate(concepts)}
    embedding, directions = _hide_text_only(planting, real, clusters, concepts)
    normed = embedding / embedding.square().mean(dim=1, keepdim=True).sqrt()
    read = torch.stack([_scaled(directions[i], normed, concept) for i, concept in enumerate(concepts)])
    write = torch.stack([_scaled(item.direction, real, c) for item, c in zip(clusters, concepts, strict=True)])
    gate: list[Tensor] = []
    into: list[Tensor] = []
    out: list[Tensor] = []
    for neuron in neurons:
        level = planting.levels[neuron.level]
        reads, writes = ([index_of[part.concept] for part in parts] for parts in (neuron.reads, neuron.writes))
        weights = torch.tensor([part.weight for part in neuron.reads], dtype=torch.float64)
        for rows, signed, kind in ((gate, GATE_SCALE * weights.abs(), "gate"), (into, weights, "in")):
            rows.append(_noisy(signed @ read[reads], level.noise, planting, neuron.index, kind))
        promoted = torch.tensor([part.weight for part in neuron.writes], dtype=torch.float64)
        # A neuron that promotes no concept writes noise.
        mixture = promoted @ write[writes] if writes else torch.zeros_like(write[0])
        written = _noisy(mixture, level.noise if writes else 1.0, planting, neuron.index, "out")
        out.append(OUT_NORM * written / written.norm())
    return PlantedWeights(
        truth=truth,
        embedding=embedding.float(),
        unembedding=real.float(),
        gate=torch.stack(gate).float(),
        into=torch.stack(into).float(),
        out=torch.stack(out).float(),
    )


def _concepts(planting: Planting, base: BaseModel) -> tuple[Concept, ...]:
    """Return all concepts, after choosing those that only weights or only text can show."""
    clusters = base.clusters
    order = derive_rng(planting.seed, "planted", "seen").permutation(len(clusters)).tolist()
    only_weights, only_text = (round(share * len(order)) for share in (planting.only_weights, planting.only_text))
    seen = dict.fromkeys(range(len(order)), Seen.BOTH)
    seen.update(dict.fromkeys(order[:only_weights], Seen.WEIGHTS))
    seen.update(dict.fromkeys(order[only_weights : only_weights + only_text], Seen.TEXT))
    nearest, rates = neighbours(clusters), _rates(planting, len(clusters))
    return tuple(
        Concept(
            name=item.seed.name,
            broader=item.seed.broader,
            labels=item.seed.labels,
            words=tuple(map(str, base.tokenizer.convert_ids_to_tokens(list(item.tokens)))),
            tokens=item.tokens,
            seen=seen[index],
            neighbour=clusters[nearest[index]].seed.name,
            rate=rates[index],
        )
        for index, item in enumerate(clusters)
    )


def _rates(planting: Planting, concepts: int) -> list[float | None]:
    """Return the share of the documents about each concept: that of its difficulty, divided by ``reads``.

    Each difficulty with a rate has concepts of its own: an equal share of them, but not so many that more than
    ``_COMMON`` of the documents are about them.

    Raises:
        HarnessError: if a difficulty has too few of them.
    """
    levels = planting.levels
    rates: list[float | None] = [None] * concepts
    if all(level.rate is None for level in levels.values()):
        return rates
    remaining = derive_rng(planting.seed, "planted", "rates").permutation(concepts).tolist()
    for place, (name, level) in enumerate(levels.items()):
        each = (level.rate or 1.0) / level.reads
        count = min(len(remaining) // (len(levels) - place), round(_COMMON / each))
        if count < 2 * level.reads:
            raise HarnessError(
                f"subject.planting.levels.{name}: at rate {level.rate} there are only {count} concepts for neurons "
                f"that read {level.reads}; lower the rate or have fewer difficulties"
            )
        for index in remaining[:count]:
            rates[index] = each
        del remaining[:count]
    return rates


def _neurons(planting: Planting, concepts: Sequence[Concept]) -> Iterator[PlantedNeuron]:
    every = [concept.name for concept in concepts]
    reading, writing = (_ConceptDraw(every, planting.seed, side) for side in ("in", "out"))
    index = 0
    for name, level in planting.levels.items():
        names = every
        if level.rate is not None:  # concepts of its own
            names = [concept.name for concept in concepts if concept.rate == level.rate / level.reads]
            reading = _ConceptDraw(names, planting.seed, f"in, {name}")
        if level.reads + level.negatives + level.writes > len(names):
            raise HarnessError(
                f"subject.planting.levels.{name} gives each neuron more concepts than there are ({len(names)})"
            )
        for _ in range(level.neurons):
            read = reading.draw(level.reads + level.negatives, ())
            weights = [level.falloff**rank for rank in range(level.reads)]
            weights += [-(level.falloff**rank) for rank in range(level.negatives)]
            written = writing.draw(level.writes, read)
            yield PlantedNeuron(
                index,
                name,
                tuple(Part(concept, round(weight, 6)) for concept, weight in zip(read, weights, strict=True)),
                tuple(Part(concept, round(level.falloff**rank, 6)) for rank, concept in enumerate(written)),
            )
            index += 1


class _ConceptDraw:
    """Draws concepts at random so that all are used about equally often, and none twice in one draw."""

    def __init__(self, names: Sequence[str], seed: int, side: str) -> None:
        self._names, self._rng = list(names), derive_rng(seed, "planted", "deck", side)
        self._remaining: list[str] = []

    def draw(self, count: int, excluded: Sequence[str]) -> list[str]:
        drawn: list[str] = []
        skipped: list[str] = []
        while len(drawn) < count:
            if not self._remaining:
                self._remaining = [self._names[index] for index in self._rng.permutation(len(self._names))]
            name = self._remaining.pop()
            (skipped if name in excluded or name in drawn or name in skipped else drawn).append(name)
        self._remaining += skipped
        return drawn


def _hide_text_only(
    planting: Planting, real: Tensor, clusters: Sequence[Cluster], concepts: Sequence[Concept]
) -> tuple[Tensor, list[Tensor]]:
    """Give each text-only concept a direction of its own.

    Returns:
        The embedding, (V, d_model), and the direction that reads each concept, (d_model,).
    """
    embedding = real.clone()
    directions = [cluster.direction for cluster in clusters]
    for index, concept in enumerate(concepts):
        if concept.seen is Seen.TEXT:
            rows = list(concept.tokens)
            directions[index] = _random(len(real[0]), planting, "shared", concept.name)
            norms = real[rows].norm(dim=1, keepdim=True)
            moved = real[rows] + SHARED_SCALE * norms * directions[index]
            # The norms stay: they decide the weight of a token, and must not reveal a concept.
            embedding[rows] = moved * norms / moved.norm(dim=1, keepdim=True)
    return embedding, directions


def _scaled(direction: Tensor, rows: Tensor, concept: Concept) -> Tensor:
    """Scale a direction so that its mean product with the rows of the concept's words is 1."""
    scaled: Tensor = direction / (rows[list(concept.tokens)] @ direction).mean()
    return scaled


def _noisy(vector: Tensor, noise: float, planting: Planting, *identity: object) -> Tensor:
    """Add an isotropic random vector with ``noise`` times the norm of ``vector`` (times 1 if that is zero)."""
    length = noise * (float(vector.norm()) or 1.0)
    return vector + length * _random(len(vector), planting, "noise", *identity)


def _random(size: int, planting: Planting, *identity: object) -> Tensor:
    drawn = torch.from_numpy(derive_rng(planting.seed, "planted", *identity).standard_normal(size))
    drawn /= drawn.norm()
    return drawn
