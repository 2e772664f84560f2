"""Concepts as clusters of whole words in a real embedding, grown from hand-chosen seed words.

The direction of a concept is the mean of its words in the whitened embedding, as in linear discriminant analysis with
shrinkage: it separates these words from the rest of the vocabulary. A whole word joins the concept if its projection on
this direction is at least half the mean projection of the seed words, and no other concept fits it better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from harness.errors import HarnessError
from harness.planted.settings import concept_list
from harness.stems import stem

#: Shrinkage of the covariance towards a multiple of the identity, in units of its mean eigenvalue.
_SHRINKAGE = 1.0
#: Smallest projection of a word on a concept's direction, relative to the mean of the seed words.
_THRESHOLD = 0.5
#: Smallest number of words in a cluster.
_MIN_WORDS = 8


@dataclass(frozen=True)
class ConceptSeed:
    """One line of ``concepts.yaml``."""

    name: str
    broader: str
    labels: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Cluster:
    """A concept as it was found in an embedding.

    Attributes:
        seed: the concept's line of ``concepts.yaml``.
        tokens: ids of its words, most typical first.
        direction: (d_model,), float64, of norm 1.
    """

    seed: ConceptSeed
    tokens: tuple[int, ...]
    direction: Tensor


@cache
def concept_seeds() -> tuple[ConceptSeed, ...]:
    """Return the lines of ``concepts.yaml``."""
    listed: Any = OmegaConf.create(concept_list())
    return tuple(
        ConceptSeed(name, broader, tuple(labels.split()), tuple(words.split()))
        for name, (broader, labels, words) in listed.items()
    )


def grow(embedding: Tensor, vocabulary: Mapping[str, int], max_words: int) -> list[Cluster]:
    """Grow every concept in an embedding.

    Args:
        embedding: (V, d_model).
        vocabulary: id of each token.
        max_words: largest number of words per cluster.

    Returns:
        The clusters. No two of them contain forms of the same word.

    Raises:
        HarnessError: if the vocabulary has too few words of a concept.
    """
    space = _WhitenedSpace(embedding)
    seed_tokens = [[vocabulary[word] for word in seed.words if word in vocabulary] for seed in concept_seeds()]
    for seed, tokens in zip(concept_seeds(), seed_tokens, strict=True):
        if len(tokens) < 4:
            raise _too_few_words(seed)
    projections = torch.stack([space.project(space.direction(tokens), tokens) for tokens in seed_tokens])
    owner = _assign(projections, vocabulary)
    clusters = []
    for index, seed in enumerate(concept_seeds()):
        members = (owner == index) & (projections[index] >= _THRESHOLD)
        ranked = projections[index].masked_fill(~members, -torch.inf).sort(descending=True, stable=True).indices
        found = ranked[: min(max_words, int(members.sum()))].tolist()
        if len(found) < _MIN_WORDS:
            raise _too_few_words(seed)
        clusters.append(Cluster(seed, tuple(found), space.direction(found)))
    return clusters


def _assign(projections: Tensor, vocabulary: Mapping[str, int]) -> Tensor:
    """Return the index of the concept that each token belongs to, (V,); -1 for tokens that are no whole words.

    All forms of a word belong to one concept: the one it is a label of, otherwise the one with the largest projection
    of any form. A description can then never name a concept with a word of another concept.

    Args:
        projections: (concepts, V), of every token on every concept's direction.
        vocabulary: id of each token.
    """
    labels = {stem(label): index for index, seed in enumerate(concept_seeds()) for label in seed.labels}
    words = {text: token for text, token in vocabulary.items() if len(text) > 2 and text.isascii() and text.isalpha()}
    largest, concept = (values.tolist() for values in projections.max(dim=0))
    best: dict[str, tuple[float, int]] = {}
    for text, token in words.items():
        root = stem(text)
        best[root] = max(best.get(root, (-torch.inf, -1)), (largest[token], concept[token]))
    owner = torch.full((projections.shape[1],), -1)
    owner[list(words.values())] = torch.tensor([labels.get(stem(text), best[stem(text)][1]) for text in words])
    return owner


def neighbours(clusters: Sequence[Cluster]) -> list[int]:
    """Return, for each cluster, the index of the cluster with the most similar direction (cosine)."""
    directions = torch.stack([cluster.direction for cluster in clusters])
    cosines = (directions @ directions.T).fill_diagonal_(-torch.inf)
    nearest: list[int] = cosines.argmax(dim=1).tolist()
    return nearest


class _WhitenedSpace:
    """A centred embedding and its covariance with shrinkage."""

    def __init__(self, embedding: Tensor) -> None:
        rows = embedding.double()
        self._centred = rows - rows.mean(dim=0)
        covariance = self._centred.T @ self._centred / len(rows)
        size = len(covariance)
        self._covariance = covariance + _SHRINKAGE * covariance.trace() / size * torch.eye(size, dtype=torch.float64)

    def direction(self, tokens: Sequence[int]) -> Tensor:
        """Return the direction that separates these tokens from the vocabulary, (d_model,), of norm 1."""
        found: Tensor = torch.linalg.solve(self._covariance, self._centred[list(tokens)].mean(dim=0))
        found /= found.norm()
        return found

    def project(self, direction: Tensor, tokens: Sequence[int]) -> Tensor:
        """Return the projection of every token on a direction, (V,), in units of the mean over ``tokens``."""
        projections = self._centred @ direction
        return projections / projections[list(tokens)].mean()


def _too_few_words(seed: ConceptSeed) -> HarnessError:
    return HarnessError(
        f"the embedding has too few words of the concept {seed.name!r}: choose a model whose vocabulary has whole "
        "English words in lower case (subject.planting.sources)"
    )
