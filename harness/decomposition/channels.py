"""The channels of a call, and what is measured of one once a solver has found it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decomposition.config import DecompositionConfig
from harness.decomposition.deflation import tail_mask
from harness.decomposition.objective import Objective, central_moments, z_scores


@dataclass(frozen=True)
class Decomposition:
    """The channels of N vectors, in order of discovery.

    Attributes:
        directions: (N, C, d_model), the channels; each has the norm of its vector ("subtract": of what was left of it).
        kurtosis: (N, C), population excess kurtosis of the channel's unweighted projection.
        skewness: (N, C), population skewness of the same projection; its sign tells the channel's tail.
        loss: (N, C), the objective at the channel with the token weights in force when it was sought.
        cosine: (N, C), between the channel and its vector.
        masked_tokens: (N, C) int64, how many tokens the channel's mask covers, masked before or not.
        steps: (N, C) int64, optimiser steps that the neuron took ("geodesic") or that its whole batch took ("adamw").
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
        """Return room for the channels of ``vectors`` (N, d_model)."""
        count, width = vectors.shape
        figures = [vectors.new_zeros(count, num_channels) for _ in range(4)]
        counts = [vectors.new_zeros(count, num_channels, dtype=torch.int64) for _ in range(2)]
        return cls(vectors.new_zeros(count, num_channels, width), *figures, *counts)


@dataclass(frozen=True)
class Found:
    """Channels just found, one per row, with what is measured of them.

    Attributes:
        directions: (n, d_model), of unit length.
        kurtosis: (n,) float64, of the unweighted projection.
        skewness: (n,) float64, likewise.
        loss: (n,) float64, with the token weights in force.
        mask: (n, V) bool, the tokens that carry the channel.
    """

    directions: Tensor
    kurtosis: Tensor
    skewness: Tensor
    loss: Tensor
    mask: Tensor

    @classmethod
    def at(
        cls, directions: Tensor, targets: Tensor, weights: Tensor, objective: Objective, config: DecompositionConfig
    ) -> Found:
        """Measure directions.

        Args:
            directions: (n, d_model), of unit length.
            targets: (n, d_model), of unit length: what the search was to stay near.
            weights: (1, V) or (n, V), the token weights in force.
            objective: the loss.
            config: thresholds of the mask.
        """
        projected = directions @ objective.projection
        moments = central_moments(projected)
        mask = tail_mask(z_scores(projected), config.mask_threshold, config.skew_threshold)
        loss = objective.combine(central_moments(projected * weights).kurtosis, (directions * targets).sum(dim=-1))
        return cls(directions, moments.kurtosis, moments.skewness, loss, mask)

    def write(
        self, into: Decomposition, rows: Tensor, channels: Tensor, vectors: Tensor, lengths: Tensor, steps: Tensor
    ) -> None:
        """Note the channels.

        Args:
            into: where.
            rows: (n,) the vectors' places.
            channels: (n,) the channels' numbers.
            vectors: (n, d_model), of unit length: the vectors themselves.
            lengths: (n, 1), the channels' lengths.
            steps: (n,), what the search took.
        """
        place = (rows, channels)
        into.directions[place] = self.directions * lengths
        into.kurtosis[place] = self.kurtosis.to(into.kurtosis.dtype)
        into.skewness[place] = self.skewness.to(into.skewness.dtype)
        into.loss[place] = self.loss.to(into.loss.dtype)
        into.cosine[place] = (self.directions * vectors).sum(dim=-1)
        into.masked_tokens[place] = self.mask.sum(dim=-1)
        into.steps[place] = steps
