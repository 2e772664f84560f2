"""ROTATE's loss: trades the sparsity of a direction's vocabulary projection against its distance from the neuron.

Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R] throughout this package).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Variances are clamped to a standard deviation of 1e-8, as in the authors' code: constant values then have kurtosis -3
# and gradient 0. The solvers use unit directions, whose projections vary far more.
_SMALLEST_VARIANCE = 1e-16


def slog(x: Tensor) -> Tensor:
    """Return sign(x) * log(1 + |x|), elementwise; puts very sparse and dense neurons on one scale ([R])."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


@dataclass(frozen=True)
class CentralMoments:
    """Population central moments of order 2, 3 and 4 along the vocabulary, each (...,)."""

    second: Tensor
    third: Tensor
    fourth: Tensor

    @property
    def kurtosis(self) -> Tensor:
        """Population excess kurtosis; -3 for constant values."""
        return self.fourth / self.second.clamp_min(_SMALLEST_VARIANCE) ** 2 - 3.0

    @property
    def skewness(self) -> Tensor:
        """Population skewness; 0 for constant values."""
        return self.third / self.second.clamp_min(_SMALLEST_VARIANCE) ** 1.5

    def gradient_coefficients(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, c) such that the derivative of the excess kurtosis at a deviation z is (a z^2 - b) z - c.

        dK/dz_j = (4/V) [ ((z_j - mean)^3 - m3) / m2^2 - (m4 / m2^3) (z_j - mean) ], V = ``tokens``.
        """
        second = self.second.clamp_min(_SMALLEST_VARIANCE)
        cubic = 4.0 / (tokens * second**2)
        return cubic, cubic * self.fourth / second, cubic * self.third


def centred(values: Tensor) -> Tensor:
    """Return ``values`` minus their mean along the last dimension."""
    return values - values.mean(dim=-1, keepdim=True)


def central_moments(values: Tensor) -> CentralMoments:
    """Return the central moments of ``values`` (..., V) along the last dimension, as float64 (...,).

    Sums use the dtype of ``values``. Quotients of the moments are computed in float64, because they cancel.
    """
    deviations = centred(values)
    squares = deviations * deviations
    return CentralMoments(
        second=squares.mean(dim=-1).double(),
        third=(squares * deviations).mean(dim=-1).double(),
        fourth=(squares * squares).mean(dim=-1).double(),
    )


def z_scores(values: Tensor) -> Tensor:
    """Return the population z-scores of ``values`` (..., V) along the last dimension; 0 for constant values."""
    deviations = centred(values)
    # Clamped before the root: otherwise autograd would propagate the infinite gradient of sqrt(0).
    variance = (deviations * deviations).mean(dim=-1, keepdim=True).clamp_min(_SMALLEST_VARIANCE)
    return deviations / variance.sqrt()


def kurtosis(values: Tensor) -> Tensor:
    """Return the population excess kurtosis of ``values`` (..., V) along the last dimension, differentiable."""
    return (z_scores(values) ** 4).mean(dim=-1) - 3.0


def skewness(values: Tensor) -> Tensor:
    """Return the population skewness of ``values`` (..., V) along the last dimension, differentiable."""
    return (z_scores(values) ** 3).mean(dim=-1)


def kurtosis_gradient(deviations: Tensor, moments: CentralMoments) -> Tensor:
    """Return the derivative of the excess kurtosis with respect to every value, in closed form.

    Args:
        deviations: (N, V) values minus their mean.
        moments: their central moments, each (N,).

    Returns:
        (N, V), in the dtype of ``deviations``.
    """
    a, b, c = (
        coefficient.to(deviations.dtype).unsqueeze(-1)
        for coefficient in moments.gradient_coefficients(deviations.shape[-1])
    )
    # In place on one buffer: for a vocabulary of 256,000 every temporary costs a pass through memory.
    gradient = deviations * deviations
    return gradient.mul_(a).sub_(b).mul_(deviations).sub_(c)


@dataclass(frozen=True)
class Objective:
    """ROTATE's loss for one projection: -kurtosis_weight * slog(kurt((c @ U) * m)) + fidelity_weight * (1 - cos(w, c)).

    Attributes:
        projection: U, (d_model, V), the unembedding or the transposed embedding.
        kurtosis_weight: lambda_k of [R].
        fidelity_weight: lambda_f of [R].
    """

    projection: Tensor
    kurtosis_weight: float
    fidelity_weight: float

    def combine(self, kurtosis: Tensor, cosine: Tensor) -> Tensor:
        """Return the loss of directions from their weighted kurtosis and their cosine with the vector."""
        return -self.kurtosis_weight * slog(kurtosis) + self.fidelity_weight * (1.0 - cosine)

    def loss(self, directions: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of every direction, differentiable.

        Args:
            directions: c, (N, d_model), of any positive length.
            vectors: w, (N, d_model).
            weights: m, (1, V) or (N, V), the token weights.

        Returns:
            (N,).
        """
        cosine = torch.nn.functional.cosine_similarity(directions, vectors, dim=-1)
        return self.combine(kurtosis((directions @ self.projection) * weights), cosine)

    def slope_of_kurtosis(self, kurtosis: Tensor) -> Tensor:
        """Return the derivative of the loss with respect to the kurtosis."""
        slope: Tensor = -self.kurtosis_weight / (1.0 + kurtosis.abs())
        return slope
