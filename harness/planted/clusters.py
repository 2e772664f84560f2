"""Concepts as clusters of whole words in a real embedding, grown around hand-chosen words.

A concept's direction is that of the mean of its words in the whitened embedding (the direction of linear discriminant
analysis with shrinkage): it sets the words apart from the whole vocabulary. Whatever lies half as far along it as the
words that it began with, and is a whole word that belongs to no other concept more, joins it.
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
from harness.planted.stems import stem

#: Shrinkage of the covariance towards a multiple of the identity, in units of its mean eigenvalue.
_SHRINKAGE = 1.0
#: How far along a concept's direction a word must lie, relative to the mean of the words that the concept began with.
_REACH = 0.5
#: A cluster with fewer words is no concept of this vocabulary.
_FEWEST = 8


@dataclass(frozen=True)
class Beginning:
    """What a concept is grown from; see ``concepts.yaml``."""

    name: str
    broader: str
    labels: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Cluster:
    """A concept as it was found in an embedding.

    Attributes:
        beginning: what it was grown from.
        tokens: ids of its words, the most typical first.
        direction: (d_model,), float64, of norm 1.
    """

    beginning: Beginning
    tokens: tuple[int, ...]
    direction: Tensor


@cache
def beginnings() -> tuple[Beginning, ...]:
    """Return the hand-written beginnings of all concepts."""
    listed: Any = OmegaConf.create(concept_list())
    return tuple(
        Beginning(name, broader, tuple(labels.split()), tuple(words.split()))
        for name, (broader, labels, words) in listed.items()
    )


def grow(embedding: Tensor, vocabulary: Mapping[str, int], words: int) -> list[Cluster]:
    """Grow every concept in an embedding.

    Args:
        embedding: (V, d_model).
        vocabulary: id of each token.
        words: at most so many words each.

    Returns:
        The clusters, no word in two of them, in whatever form.

    Raises:
        HarnessError: if the vocabulary lacks so many of a concept's words that nothing grows.
    """
    space = _Space(embedding)
    starts = [[vocabulary[word] for word in item.words if word in vocabulary] for item in beginnings()]
    for item, start in zip(beginnings(), starts, strict=True):
        if len(start) < 4:
            raise _not_there(item)
    reach = torch.stack([space.along(space.direction(start), start) for start in starts])  # (concepts, V)
    owner = _owners(reach, vocabulary)
    clusters = []
    for place, item in enumerate(beginnings()):
        joins = (owner == place) & (reach[place] >= _REACH)
        order = reach[place].masked_fill(~joins, -torch.inf).sort(descending=True, stable=True).indices
        tokens = order[: min(words, int(joins.sum()))].tolist()
        if len(tokens) < _FEWEST:
            raise _not_there(item)
        clusters.append(Cluster(item, tuple(tokens), space.direction(tokens)))
    return clusters


def _owners(reach: Tensor, vocabulary: Mapping[str, int]) -> Tensor:
    """Return which concept each token belongs to, (V,), -1 for what is no whole word.

    All forms of a word belong to one concept: the one that it is a label of, else the one along which a form of it lies
    farthest. So no description can name a concept by a word of another.
    """
    labels = {stem(label): place for place, item in enumerate(beginnings()) for label in item.labels}
    words = {text: token for text, token in vocabulary.items() if len(text) > 2 and text.isascii() and text.isalpha()}
    farthest, nearest = (found.tolist() for found in reach.max(dim=0))
    best: dict[str, tuple[float, int]] = {}
    for text, token in words.items():
        root = stem(text)
        best[root] = max(best.get(root, (-torch.inf, -1)), (farthest[token], nearest[token]))
    owner = torch.full((reach.shape[1],), -1)
    owner[list(words.values())] = torch.tensor([labels.get(stem(text), best[stem(text)][1]) for text in words])
    return owner


def neighbours(clusters: Sequence[Cluster]) -> list[int]:
    """Return the place of the cluster whose direction is nearest to each one's own."""
    directions = torch.stack([cluster.direction for cluster in clusters])
    cosines = (directions @ directions.T).fill_diagonal_(-torch.inf)
    nearest: list[int] = cosines.argmax(dim=1).tolist()
    return nearest


class _Space:
    """An embedding with its mean taken away, and its inverse covariance."""

    def __init__(self, embedding: Tensor) -> None:
        rows = embedding.double()
        self._centred = rows - rows.mean(dim=0)
        covariance = self._centred.T @ self._centred / len(rows)
        size = len(covariance)
        self._covariance = covariance + _SHRINKAGE * covariance.trace() / size * torch.eye(size, dtype=torch.float64)

    def direction(self, tokens: Sequence[int]) -> Tensor:
        """Return the direction that sets some tokens apart, (d_model,), of norm 1."""
        found: Tensor = torch.linalg.solve(self._covariance, self._centred[list(tokens)].mean(dim=0))
        found /= found.norm()
        return found

    def along(self, direction: Tensor, tokens: Sequence[int]) -> Tensor:
        """Return how far every token lies along a direction, (V,), in units of the mean of some."""
        distances = self._centred @ direction
        return distances / distances[list(tokens)].mean()


def _not_there(item: Beginning) -> HarnessError:
    return HarnessError(
        f"the embedding has too few words of {item.name!r} to plant that concept: take one with an English vocabulary "
        "of whole words in lower case (subject.planting.sources)"
    )
