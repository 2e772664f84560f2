"""The channels of a call, and the measurements of a channel that a solver has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from harness.decomposition.config import DecompositionConfig
from harness.decomposition.deflation import tail_mask, with_fresh_tokens
from harness.decomposition.objective import CentralMoments, Objective, central_moments, z_scores

# A direction of lower kurtosis, that of a Laplace distribution, shows no concept.
_SPARSE = 3.0


@dataclass(frozen=True)
class Decomposition:
    """The channels of N vectors, in order of discovery.

    Attributes:
        directions: (N, C, d_model), the channels; each has the norm of its vector ("subtract": of its remainder).
        kurtosis: (N, C), population excess kurtosis of the channel's projection over the tokens that count, each once
            (:meth:`harness.decomposition.config.DecompositionConfig.counted`).
        skewness: (N, C), population skewness of the same projection; its sign is that of the channel's tail.
        loss: (N, C), the objective at the channel with the token weights used in its search.
        cosine: (N, C), between the channel and its vector.
        masked_tokens: (N, C) int64, tokens that the channel's mask covers, including those masked before.
        steps: (N, C) int64, optimiser steps of the neuron ("geodesic") or of its whole batch ("adamw").
    """

    directions: Tensor
    kurtosis: Tensor
    skewness: Tensor
    loss: Tensor
    cosine: Tensor
    masked_tokens: Tensor
    steps: Tensor

    @classmethod
    def empty(cls, vectors: Tensor, num_channels: int) -> Decomposition:
        """Return zeros in the shapes of the channels of ``vectors`` (N, d_model)."""
        count, width = vectors.shape
        measures = [vectors.new_zeros(count, num_channels) for _ in range(4)]
        counts = [vectors.new_zeros(count, num_channels, dtype=torch.int64) for _ in range(2)]
        return cls(vectors.new_zeros(count, num_channels, width), *measures, *counts)

    def split(self, sizes: Sequence[int]) -> list[Decomposition]:
        """Return copies of the channels of successive groups of these sizes, which add up to N."""
        # Copies, because a view would be pickled together with the whole tensor.
        parts = ([part.clone() for part in getattr(self, field.name).split(sizes)] for field in fields(self))
        return [Decomposition(*part) for part in zip(*parts, strict=True)]


def carried(
    projected: Tensor, config: DecompositionConfig, base: Tensor, masked: Tensor | None
) -> tuple[CentralMoments, Tensor]:
    """Return the moments of projections (n, V) over the tokens that count, and the mask (n, V).

    Args:
        projected: (n, V), the projections of channels.
        config: thresholds of the mask.
        base: (1, V) or (n, V), the token weights before the first channel.
        masked: (n, V) bool, the tokens of earlier channels; None: the mask may cover no new token.
    """
    counted = config.counted(base)
    moments = central_moments(projected, counted)
    z = z_scores(projected, counted)
    mask = tail_mask(z, config.mask_threshold, config.skew_threshold, counted)
    if counted is not None and masked is not None:
        mask = with_fresh_tokens(mask, z, moments.skewness, counted & ~masked)
    return moments, mask


@dataclass(frozen=True)
class Found:
    """New channels, one per row, with their measurements.

    Attributes:
        directions: (n, d_model), of unit length.
        kurtosis: (n,) float64, of the projection over the tokens that count.
        skewness: (n,) float64, likewise.
        loss: (n,) float64, with the token weights of the search.
        mask: (n, V) bool, the tokens that carry the channel.
        new_concept: (n,) bool, the kurtosis is at least 3, and at least half of these tokens are of no earlier channel.
    """

    directions: Tensor
    kurtosis: Tensor
    skewness: Tensor
    loss: Tensor
    mask: Tensor
    new_concept: Tensor

    @classmethod
    def at(
        cls,
        directions: Tensor,
        targets: Tensor,
        weights: Tensor,
        objective: Objective,
        config: DecompositionConfig,
        *,
        base: Tensor,
        masked: Tensor | None = None,
    ) -> Found:
        """Measure directions.

        Args:
            directions: (n, d_model), of unit length.
            targets: (n, d_model), of unit length: the vectors that the search stayed near.
            weights: (1, V) or (n, V), the token weights of the search.
            objective: the loss.
            config: thresholds of the mask.
            base: (1, V) or (n, V), the token weights before the first channel.
            masked: (n, V) bool, the tokens of earlier channels; None: none.
        """
        projected = directions @ objective.projection
        moments, mask = carried(projected, config, base, masked)
        values = objective.weighted(projected, weights)
        loss = objective.combine(central_moments(*values).kurtosis, (directions * targets).sum(dim=-1))
        new = mask if masked is None else mask & ~masked
        new_concept = (moments.kurtosis >= _SPARSE) & (2 * new.sum(dim=-1) >= mask.sum(dim=-1))
        return cls(directions, moments.kurtosis, moments.skewness, loss, mask, new_concept)

    def __getitem__(self, some: Tensor) -> Found:
        """Return the channels that ``some`` (n,), bool, selects."""
        return Found(*(getattr(self, field.name)[some] for field in fields(self)))

    def followed_by(self, other: Found) -> Found:
        """Return these channels and then those of ``other``."""
        return Found(*(torch.cat([getattr(one, field.name) for one in (self, other)]) for field in fields(self)))

    def write(
        self, into: Decomposition, rows: Tensor, channels: Tensor, vectors: Tensor, lengths: Tensor, steps: Tensor
    ) -> None:
        """Write the channels into the results.

        Args:
            into: the results.
            rows: (n,) indices of the vectors.
            channels: (n,) indices of the channels.
            vectors: (n, d_model), the vectors at unit length.
            lengths: (n, 1), the channels' lengths.
            steps: (n,), steps of the search.
        """
        index = (rows, channels)
        into.directions[index] = self.directions * lengths
        into.kurtosis[index] = self.kurtosis.to(into.kurtosis.dtype)
        into.skewness[index] = self.skewness.to(into.skewness.dtype)
        into.loss[index] = self.loss.to(into.loss.dtype)
        into.cosine[index] = (self.directions * vectors).sum(dim=-1)
        into.masked_tokens[index] = self.mask.sum(dim=-1)
        into.steps[index] = steps
