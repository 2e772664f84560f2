"""What ROTATE minimises: the sparsity of a direction's vocabulary projection against its distance from the neuron.

Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 (called [R] throughout this package).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Variances are floored at a standard deviation of 1e-8, as in the authors' code: values that do not vary then have a
# kurtosis, -3, and a gradient, 0. The solvers work on unit directions, whose projections vary far more.
_SMALLEST_VARIANCE = 1e-16


def slog(x: Tensor) -> Tensor:
    """Return sign(x) * log(1 + |x|), elementwise; it keeps very sparse and dense neurons on one scale ([R])."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


@dataclass(frozen=True)
class CentralMoments:
    """Population central moments of order 2, 3 and 4 along the vocabulary, each (...,)."""

    second: Tensor
    third: Tensor
    fourth: Tensor

    @property
    def kurtosis(self) -> Tensor:
        """Population excess kurtosis; -3 where the values do not vary at all."""
        return self.fourth / self.second.clamp_min(_SMALLEST_VARIANCE) ** 2 - 3.0

    @property
    def skewness(self) -> Tensor:
        """Population skewness; 0 where the values do not vary at all."""
        return self.third / self.second.clamp_min(_SMALLEST_VARIANCE) ** 1.5

    def gradient_coefficients(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, c) such that the excess kurtosis has the derivative (a z^2 - b) z - c at a deviation z.

        dK/dz_j = (4/V) [ ((z_j - mean)^3 - m3) / m2^2 - (m4 / m2^3) (z_j - mean) ], V = ``tokens``.
        """
        second = self.second.clamp_min(_SMALLEST_VARIANCE)
        cubic = 4.0 / (tokens * second**2)
        return cubic, cubic * self.fourth / second, cubic * self.third


def centred(values: Tensor) -> Tensor:
    """Return ``values`` less their mean along the last dimension."""
    return values - values.mean(dim=-1, keepdim=True)


def central_moments(values: Tensor) -> CentralMoments:
    """Return the central moments of ``values`` (..., V) along the last dimension, as float64 (...,).

    The sums run in the dtype of ``values``; only their quotients, which cancel, are taken in float64.
    """
    deviations = centred(values)
    squares = deviations * deviations
    return CentralMoments(
        second=squares.mean(dim=-1).double(),
        third=(squares * deviations).mean(dim=-1).double(),
        fourth=(squares * squares).mean(dim=-1).double(),
    )


def z_scores(values: Tensor) -> Tensor:
    """Return ``values`` (..., V) as population standard deviations from their mean; zeros where they do not vary."""
    deviations = centred(values)
    # The floor lies under the root: a clamp after it would send the gradient of sqrt(0), infinity, through autograd.
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
        deviations: (N, V) values less their mean.
        moments: their central moments, each (N,).

    Returns:
        (N, V), in the dtype of ``deviations``.
    """
    a, b, c = (
        coefficient.to(deviations.dtype).unsqueeze(-1)
        for coefficient in moments.gradient_coefficients(deviations.shape[-1])
    )
    # In place on one buffer: at a vocabulary of 256,000 every further temporary is a pass through memory.
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
        """Return the loss of directions whose weighted kurtosis and whose cosine with the vector are given."""
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

    def gradient(self, directions: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        """Return the gradient of :meth:`loss` with respect to ``directions`` in closed form, (N, d_model)."""
        deviations = centred((directions @ self.projection) * weights)
        moments = central_moments(deviations)
        pull = (kurtosis_gradient(deviations, moments) * weights) @ self.projection.T
        pull *= self.slope_of_kurtosis(moments.kurtosis).to(pull.dtype).unsqueeze(-1)
        length = directions.norm(dim=-1, keepdim=True)
        unit, target = directions / length, torch.nn.functional.normalize(vectors, dim=-1)
        along = (unit * target).sum(dim=-1, keepdim=True)
        gradient: Tensor = pull - self.fidelity_weight * (target - along * unit) / length
        return gradient
