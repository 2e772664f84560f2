"""The loss along a great circle, exact at every angle, from one pass over the vocabulary.

Unit directions are points of a sphere. Along the great circle cos(a) c + sin(a) p, the moments of the projection are
trigonometric polynomials in a. Their coefficients are the cross-moments of the projections of c and p.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decomposition.objective import CentralMoments, Objective

_ZOOM_POINTS = 17
_ZOOM_ROUNDS = 3
# Minima of the grid that are refined: the lowest two can differ by less than what refinement gains.
_REFINED = 2


@dataclass(frozen=True)
class GreatCircle:
    """The loss of N neurons along one great circle each: directions cos(a) c + sin(a) p.

    Attributes:
        objective: the loss.
        second: (N, 3) float64, coefficients of cos^2, cos sin, sin^2 in the projection's second central moment.
        third: (N, 4), likewise for the third moment.
        fourth: (N, 5), likewise for the fourth moment.
        cosine: (N, 2), coefficients of cos, sin in the cosine with the neuron's vector.
    """

    objective: Objective
    second: Tensor
    third: Tensor
    fourth: Tensor
    cosine: Tensor

    @classmethod
    def through(
        cls, objective: Objective, cross_moments: Tensor, cosine_here: Tensor, cosine_there: Tensor
    ) -> GreatCircle:
        """Return the circle.

        Args:
            objective: the loss.
            cross_moments: (N, 12) float64, of the centred weighted projections of c and p, in the order of
                ``vocabulary.ORDERS``.
            cosine_here: (N,), cosine of c with the neuron's vector.
            cosine_there: (N,), cosine of p with the neuron's vector.
        """
        second, third, fourth = cross_moments[:, :3], cross_moments[:, 3:7], cross_moments[:, 7:]
        return cls(
            objective=objective,
            second=second * second.new_tensor([1, 2, 1]),
            third=third * third.new_tensor([1, 3, 3, 1]),
            fourth=fourth * fourth.new_tensor([1, 4, 6, 4, 1]),
            cosine=torch.stack([cosine_here, cosine_there], dim=-1).double(),
        )

    def moments(self, angles: Tensor) -> CentralMoments:
        """Return the central moments of the projections at ``angles`` (N, A), each (N, A)."""
        cos, sin = torch.cos(angles), torch.sin(angles)
        # Rounding could make the variance of a near-constant projection negative.
        return CentralMoments(
            second=_homogeneous(self.second, cos, sin).clamp_min(0.0),
            third=_homogeneous(self.third, cos, sin),
            fourth=_homogeneous(self.fourth, cos, sin),
        )

    def loss(self, angles: Tensor) -> Tensor:
        """Return the loss at ``angles`` (N, A), as (N, A)."""
        cosine = _homogeneous(self.cosine, torch.cos(angles), torch.sin(angles))
        return self.objective.combine(self.moments(angles).kurtosis, cosine)

    def _loss_on_the_grid(self) -> Tensor:
        """Return :meth:`loss` at all angles of the grid, (N, A), with one small matrix product per moment."""
        second, third, fourth, cosine = (
            coefficients @ _powers(self.cosine.device, coefficients.shape[-1] - 1)
            for coefficients in (self.second, self.third, self.fourth, self.cosine)
        )
        return self.objective.combine(CentralMoments(second.clamp_min(0.0), third, fourth).kurtosis, cosine)

    def lowest(self) -> tuple[Tensor, Tensor]:
        """Return the angle of the lowest loss on each circle and that loss, each (N,).

        A grid over the whole circle, geometric near zero, finds brackets, and repeated refinement the angles inside
        them. Angle 0 is on the grid, so the returned loss is never above the loss at the start.
        """
        grid = _grid(self.cosine.device)
        losses = self._loss_on_the_grid()
        minima = (losses <= losses.roll(1, dims=-1)) & (losses <= losses.roll(-1, dims=-1))
        best = losses.masked_fill(~minima, torch.inf).topk(_REFINED, dim=-1, largest=False).indices
        # The two ends of the grid are the same point of the circle. Each has one neighbour only, which is sufficient.
        low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(len(grid) - 1)]
        angle, loss = grid[best], losses.gather(-1, best)
        fractions = torch.linspace(0.0, 1.0, _ZOOM_POINTS, dtype=grid.dtype, device=grid.device)
        for _ in range(_ZOOM_ROUNDS):
            spacing = (high - low) / (_ZOOM_POINTS - 1)
            finer = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * fractions
            losses = self.loss(finer.flatten(1)).view_as(finer)
            best = losses.argmin(dim=-1, keepdim=True)
            found, lower = finer.gather(-1, best).squeeze(-1), losses.gather(-1, best).squeeze(-1)
            angle, loss = torch.where(lower < loss, found, angle), torch.minimum(lower, loss)
            low, high = found - spacing, found + spacing
        best = loss.argmin(dim=-1, keepdim=True)
        return angle.gather(-1, best).squeeze(-1), loss.gather(-1, best).squeeze(-1)


def _homogeneous(coefficients: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return sum_j coefficients[:, j] cos^(k-j) sin^j at (N, A) angles, k the highest order, by Horner's rule."""
    value = coefficients[:, :1] * torch.ones_like(cos)
    power = torch.ones_like(sin)
    for order in range(1, coefficients.shape[-1]):
        power = power * sin
        value = value * cos + coefficients[:, order : order + 1] * power
    return value


@functools.cache
def _grid(device: torch.device) -> Tensor:
    """Return angles in [-pi, pi], sorted: geometric from 1e-5 to 0.1 on either side of 0, then at most 0.1 apart."""
    near = torch.logspace(-5, -1, 17, dtype=torch.float64, device=device)
    far = torch.linspace(0.1, math.pi, 32, dtype=torch.float64, device=device)[1:]
    positive = torch.cat([near, far])
    return torch.cat([-positive.flip(0), positive.new_zeros(1), positive])


@functools.cache
def _powers(device: torch.device, order: int) -> Tensor:
    """Return cos^(order - j) sin^j at the angles of the grid, (order + 1, A)."""
    cos, sin = torch.cos(_grid(device)), torch.sin(_grid(device))
    return torch.stack([cos ** (order - j) * sin**j for j in range(order + 1)])
