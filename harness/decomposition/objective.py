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

    def gradient_coefficients(self, total: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, c) such that the derivative of the excess kurtosis at a deviation z is ((a z^2 - b) z - c) m.

        dK/dz_j = (4 m_j / M) [ ((z_j - mean)^3 - m3) / m2^2 - (m4 / m2^3) (z_j - mean) ]. m_j is the weight of token j,
        M = ``total`` the sum of all weights.
        """
        second = self.second.clamp_min(_SMALLEST_VARIANCE)
        cubic = 4.0 / (total * second**2)
        return cubic, cubic * self.fourth / second, cubic * self.third


def mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of ``values`` (..., V) over the vocabulary, (..., 1); token j counts weights[..., j] times."""
    if weights is None:
        return values.mean(dim=-1, keepdim=True)
    return (values * weights).sum(dim=-1, keepdim=True) / weights.sum(dim=-1, keepdim=True)


def centred(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ``values`` minus their :func:`mean`."""
    return values - mean(values, weights)


def central_moments(values: Tensor, weights: Tensor | None = None) -> CentralMoments:
    """Return the central moments of ``values`` (..., V) along the last dimension, as float64 (...,).

    Token j counts weights[..., j] times. Sums use the dtype of ``values``. Quotients of the moments are computed in
    float64, because they cancel.
    """
    deviations = centred(values, weights)
    squares = deviations * deviations
    return CentralMoments(
        second=mean(squares, weights).squeeze(-1).double(),
        third=mean(squares * deviations, weights).squeeze(-1).double(),
        fourth=mean(squares * squares, weights).squeeze(-1).double(),
    )


def z_scores(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the population z-scores of ``values`` (..., V) along the last dimension; 0 for constant values.

    In mean and variance, token j counts weights[..., j] times.
    """
    deviations = centred(values, weights)
    # Clamped before the root: otherwise autograd would propagate the infinite gradient of sqrt(0).
    variance = mean(deviations * deviations, weights).clamp_min(_SMALLEST_VARIANCE)
    return deviations / variance.sqrt()


def kurtosis(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the population excess kurtosis of ``values`` (..., V) along the last dimension, differentiable.

    Token j counts weights[..., j] times.
    """
    return mean(z_scores(values, weights) ** 4, weights).squeeze(-1) - 3.0


def skewness(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the population skewness of ``values`` (..., V), counted and differentiable like :func:`kurtosis`."""
    return mean(z_scores(values, weights) ** 3, weights).squeeze(-1)


def kurtosis_gradient(deviations: Tensor, moments: CentralMoments, total: Tensor | float) -> Tensor:
    """Return the derivative of the excess kurtosis with respect to every value, divided by the value's weight.

    Args:
        deviations: (N, V) values minus their mean.
        moments: their central moments, each (N,).
        total: (N,), the sum of all weights; V if every value counts once.

    Returns:
        (N, V), in the dtype of ``deviations``.
    """
    a, b, c = (coefficient.to(deviations.dtype).unsqueeze(-1) for coefficient in moments.gradient_coefficients(total))
    # In place on one buffer: for a vocabulary of 256,000 every temporary costs a pass through memory.
    gradient = deviations * deviations
    return gradient.mul_(a).sub_(b).mul_(deviations).sub_(c)


@dataclass(frozen=True)
class Objective:
    """ROTATE's loss for one projection: -kurtosis_weight * slog(kurtosis) + fidelity_weight * (1 - cos(w, c)).

    The kurtosis is that of c @ U, in whose moments token j counts m_j times. [R] instead multiplies the projections by
    the weights: kurt((c @ U) * m). A token of small weight then moves to 0, which is far out in a direction whose
    projections have a mean far from 0: such a direction has a low loss and no concept.

    Attributes:
        projection: U, (d_model, V), the unembedding or the transposed embedding.
        kurtosis_weight: lambda_k of [R].
        fidelity_weight: lambda_f of [R].
        published: whether the weights multiply the projections.
    """

    projection: Tensor
    kurtosis_weight: float
    fidelity_weight: float
    published: bool = False

    def combine(self, kurtosis: Tensor, cosine: Tensor) -> Tensor:
        """Return the loss of directions from their weighted kurtosis and their cosine with the vector."""
        return -self.kurtosis_weight * slog(kurtosis) + self.fidelity_weight * (1.0 - cosine)

    def weighted(self, projected: Tensor, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the values (N, V) whose kurtosis is in the loss, and how often each counts; None: once."""
        return (projected * weights, None) if self.published else (projected, weights)

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
        return self.combine(kurtosis(*self.weighted(directions @ self.projection, weights)), cosine)

    def slope_of_kurtosis(self, kurtosis: Tensor) -> Tensor:
        """Return the derivative of the loss with respect to the kurtosis."""
        slope: Tensor = -self.kurtosis_weight / (1.0 + kurtosis.abs())
        return slope
