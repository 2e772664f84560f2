"""Neurons as known mixtures of known concepts, in the embedding space of a real model.

The subject is a Llama of one layer whose attention adds nothing. Its unembedding is the real embedding, and so is its
embedding, but for the concepts that only text can show: their words share a direction there that the unembedding has
never heard of. With h the normed embedding of a token, a neuron's activation there is silu(gate . h) * (in . h).

A concept's direction is scaled to a mean product of 1 with h over the concept's words, so that weights are what the
neuron does on text: at the words of a concept of weight w, gate . h is about 4 |w| and in . h about w.
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

#: gate . h at the words of a concept of weight 1: silu is open there.
OPEN = 4.0
#: Norm of every out vector. At a full activation of about OPEN it is about as long as an embedding.
OUT_NORM = 0.3
#: Length of the direction that words of a concept "in text only" share, in units of their embedding.
SHARED = 0.6


@dataclass(frozen=True)
class PlantedWeights:
    """A planted model's weights, float32, and the truth about them.

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
class Soil:
    """The model whose embedding is used.

    Attributes:
        tokenizer: its tokenizer.
        embedding: (V, d_model), float32, as it is in the model.
        clusters: the concepts found in it.
    """

    tokenizer: PreTrainedTokenizerBase
    embedding: Tensor
    clusters: tuple[Cluster, ...]


def soil(planting: Planting) -> Soil:
    """Return the model whose embedding is used, with its concepts.

    Raises:
        HarnessError: if no source has it, it is not the expected one, or concepts are not to be found in it.
    """
    return _soil(planting.sources, planting.sha256, planting.embedding, planting.words)


@lru_cache(maxsize=1)
def _soil(sources: tuple[str, ...], sha256: str | None, name: str, words: int) -> Soil:
    files = locate(sources)
    weights = files.fetch("model.safetensors")
    if sha256 is not None and (weights is None or sha256_of(weights) != sha256):
        raise HarnessError(
            f"the embedding at {files.reference} is not the expected one (SHA-256 {sha256}): take it from another "
            "source, or set subject.planting.sha256=null if you mean this one"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.reference)
    except Exception as error:  # each tokenizer library raises classes of its own
        raise HarnessError(f"the tokenizer of {files.reference} cannot be loaded ({first_line(error)})") from error
    checkpoint = Checkpoint(files)
    found = checkpoint.name_of(name)
    if found is None:
        raise HarnessError(f"{files.reference} has no tensor {name!r} (subject.planting.embedding)")
    embedding = checkpoint.tensor(found)
    return Soil(tokenizer, embedding, tuple(grow(embedding, tokenizer.get_vocab(), words)))


def truth_of(planting: Planting) -> Truth:
    """Return what the settings plant, without making a checkpoint.

    Raises:
        HarnessError: as :func:`plant`.
    """
    concepts = _concepts(planting, soil(planting))
    return Truth(planting.key, concepts, tuple(_neurons(planting, concepts)))


def plant(planting: Planting) -> PlantedWeights:
    """Plant neurons. Equal settings give equal weights.

    Raises:
        HarnessError: if the embedding cannot be had, or there are fewer concepts than a neuron is to have.
    """
    ground, truth = soil(planting), truth_of(planting)
    clusters, concepts, neurons = ground.clusters, truth.concepts, truth.neurons
    real = ground.embedding.double()
    places = {concept.name: place for place, concept in enumerate(concepts)}
    embedding, directions = _hidden(planting, real, clusters, concepts)
    normed = embedding / embedding.square().mean(dim=1, keepdim=True).sqrt()
    read = torch.stack([_scaled(directions[place], normed, concept) for place, concept in enumerate(concepts)])
    write = torch.stack([_scaled(item.direction, real, c) for item, c in zip(clusters, concepts, strict=True)])
    gate: list[Tensor] = []
    into: list[Tensor] = []
    out: list[Tensor] = []
    for neuron in neurons:
        level = planting.levels[neuron.level]
        reads, writes = ([places[part.concept] for part in parts] for parts in (neuron.reads, neuron.writes))
        weights = torch.tensor([part.weight for part in neuron.reads], dtype=torch.float64)
        for rows, signed, kind in ((gate, OPEN * weights.abs(), "gate"), (into, weights, "in")):
            rows.append(_noisy(signed @ read[reads], level.noise, planting, neuron.index, kind))
        promoted = torch.tensor([part.weight for part in neuron.writes], dtype=torch.float64)
        # A neuron that promotes nothing writes noise.
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


def _concepts(planting: Planting, ground: Soil) -> tuple[Concept, ...]:
    """Decide which concepts only weights or only text can show, and say all that is known of each."""
    clusters = ground.clusters
    order = derive_rng(planting.seed, "planted", "seen").permutation(len(clusters)).tolist()
    only_weights, only_text = (round(share * len(order)) for share in (planting.only_weights, planting.only_text))
    seen = dict.fromkeys(range(len(order)), Seen.BOTH)
    seen.update(dict.fromkeys(order[:only_weights], Seen.WEIGHTS))
    seen.update(dict.fromkeys(order[only_weights : only_weights + only_text], Seen.TEXT))
    nearest = neighbours(clusters)
    return tuple(
        Concept(
            name=item.beginning.name,
            broader=item.beginning.broader,
            labels=item.beginning.labels,
            words=tuple(map(str, ground.tokenizer.convert_ids_to_tokens(list(item.tokens)))),
            tokens=item.tokens,
            seen=seen[place],
            neighbour=clusters[nearest[place]].beginning.name,
        )
        for place, item in enumerate(clusters)
    )


def _neurons(planting: Planting, concepts: Sequence[Concept]) -> Iterator[PlantedNeuron]:
    names = [concept.name for concept in concepts]
    reading, writing = (_Deck(names, planting.seed, side) for side in ("in", "out"))
    index = 0
    for name, level in planting.levels.items():
        if level.reads + level.negatives + level.writes > len(names):
            raise HarnessError(
                f"planting.levels.{name} gives a neuron more concepts than there are ({len(names)}): ask for fewer"
            )
        for _ in range(level.neurons):
            read = reading.deal(level.reads + level.negatives, ())
            weights = [level.falloff**place for place in range(level.reads)]
            weights += [-(level.falloff**place) for place in range(level.negatives)]
            written = writing.deal(level.writes, read)
            yield PlantedNeuron(
                index,
                name,
                tuple(Part(concept, round(weight, 6)) for concept, weight in zip(read, weights, strict=True)),
                tuple(Part(concept, round(level.falloff**place, 6)) for place, concept in enumerate(written)),
            )
            index += 1


class _Deck:
    """Deals concepts so that all are used about equally, no neuron twice the same."""

    def __init__(self, names: Sequence[str], seed: int, side: str) -> None:
        self._names, self._rng = list(names), derive_rng(seed, "planted", "deck", side)
        self._left: list[str] = []

    def deal(self, count: int, without: Sequence[str]) -> list[str]:
        hand: list[str] = []
        passed: list[str] = []
        while len(hand) < count:
            if not self._left:
                self._left = [self._names[place] for place in self._rng.permutation(len(self._names))]
            card = self._left.pop()
            (passed if card in without or card in hand or card in passed else hand).append(card)
        self._left += passed
        return hand


def _hidden(
    planting: Planting, real: Tensor, clusters: Sequence[Cluster], concepts: Sequence[Concept]
) -> tuple[Tensor, list[Tensor]]:
    """Return the embedding in which some concepts have directions of their own, and the direction that reads each."""
    embedding = real.clone()
    directions = [cluster.direction for cluster in clusters]
    for place, concept in enumerate(concepts):
        if concept.seen is Seen.TEXT:
            rows = list(concept.tokens)
            directions[place] = _random(len(real[0]), planting, "shared", concept.name)
            norms = real[rows].norm(dim=1, keepdim=True)
            moved = real[rows] + SHARED * norms * directions[place]
            # Norms stay: they decide how much a token weighs, and must not give a concept away.
            embedding[rows] = moved * norms / moved.norm(dim=1, keepdim=True)
    return embedding, directions


def _scaled(direction: Tensor, rows: Tensor, concept: Concept) -> Tensor:
    """Return the direction with a mean product of 1 with the rows of a concept's words."""
    scaled: Tensor = direction / (rows[list(concept.tokens)] @ direction).mean()
    return scaled


def _noisy(vector: Tensor, noise: float, planting: Planting, *identity: object) -> Tensor:
    """Add a random vector, isotropic, of a norm relative to the vector's own (to 1 where that is zero)."""
    length = noise * (float(vector.norm()) or 1.0)
    return vector + length * _random(len(vector), planting, "noise", *identity)


def _random(size: int, planting: Planting, *identity: object) -> Tensor:
    drawn = torch.from_numpy(derive_rng(planting.seed, "planted", *identity).standard_normal(size))
    drawn /= drawn.norm()
    return drawn
