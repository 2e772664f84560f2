"""The default solver: Riemannian conjugate gradient on the sphere with an exact line search.

A single Householder reflection takes a vector to every point of the sphere |c| = |w|, so the published search ([R]) is
smooth optimisation on that sphere. Along a great circle the moments of the projection are trigonometric polynomials,
whose coefficients one pass over the vocabulary gives: the loss is then known at every angle, and the line search needs
no matrix product. A step costs two products, as a step of the published optimiser does, and some dozens suffice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.checks import require, require_count
from harness.decomposition.objective import CentralMoments, Objective, central_moments

# Elements of one block of the vocabulary pass: few enough for the processor's cache, many enough for a GPU's launch.
_BLOCK_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
_FEWEST_TOKENS_IN_A_BLOCK = 256
# Finished neurons stay in the batch, their results already noted, until they are this share of it:
# leaving costs a copy of the others' projections.
_SHARE_THAT_LEAVES = 0.125
_ZOOM_POINTS = 17
_ZOOM_ROUNDS = 4


@dataclass(frozen=True)
class GeodesicConfig:
    """How the geodesic solver runs. The solver is this project's own, and so are its defaults.

    Attributes:
        max_steps: most steps per channel; the few neurons that reach it keep the best point they found.
        tolerance: a step that lowers a neuron's loss (nats of slog-kurtosis) by less than this is idle.
        patience: consecutive idle steps after which a neuron is finished.
        refresh_every: steps after which the projection, otherwise updated as a linear combination, is recomputed
            from the direction, against the drift of rounding.
        jitter: length of a random tangent that is added to the unit vector to start from.

    Raises:
        ValueError: if a value is out of range.
    """

    max_steps: int = 500
    tolerance: float = 1e-5
    patience: int = 3
    refresh_every: int = 25
    jitter: float = 0.0

    def __post_init__(self) -> None:
        require_count("geodesic.max_steps", self.max_steps, 1)
        require(0 <= self.tolerance < math.inf, "geodesic.tolerance", self.tolerance, "finite and not negative")
        require_count("geodesic.patience", self.patience, 1)
        require_count("geodesic.refresh_every", self.refresh_every, 1)
        require(0 <= self.jitter < math.inf, "geodesic.jitter", self.jitter, "finite and not negative")


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
        cls, objective: Objective, here: Tensor, there: Tensor, cosine_here: Tensor, cosine_there: Tensor
    ) -> GreatCircle:
        """Return the circle from the centred weighted projections of c and p.

        Args:
            objective: the loss.
            here: (N, V), the projection of the unit direction c, less its mean.
            there: (N, V), the projection of the unit tangent p, less its mean.
            cosine_here: (N,), cosine of c with the neuron's vector.
            cosine_there: (N,), cosine of p with the neuron's vector.
        """
        gram = _gram(here, there) / here.shape[-1]
        z, q, zz, zq, qq = range(5)

        def coefficients(*entries: tuple[int, int, int]) -> Tensor:
            return torch.stack([factor * gram[:, row, column] for factor, row, column in entries], dim=-1)

        return cls(
            objective=objective,
            second=coefficients((1, z, z), (2, z, q), (1, q, q)),
            third=coefficients((1, z, zz), (3, zz, q), (3, z, qq), (1, q, qq)),
            fourth=coefficients((1, zz, zz), (4, zz, zq), (6, zz, qq), (4, zq, qq), (1, qq, qq)),
            cosine=torch.stack([cosine_here, cosine_there], dim=-1).double(),
        )

    def moments(self, angles: Tensor) -> CentralMoments:
        """Return the central moments of the projections at ``angles`` (N, A), each (N, A)."""
        cos, sin = torch.cos(angles), torch.sin(angles)
        # A variance is not negative; rounding of a near-constant projection could make it so.
        return CentralMoments(
            second=_homogeneous(self.second, cos, sin).clamp_min(0.0),
            third=_homogeneous(self.third, cos, sin),
            fourth=_homogeneous(self.fourth, cos, sin),
        )

    def loss(self, angles: Tensor) -> Tensor:
        """Return the loss at ``angles`` (N, A), as (N, A)."""
        cosine = _homogeneous(self.cosine, torch.cos(angles), torch.sin(angles))
        return self.objective.combine(self.moments(angles).kurtosis, cosine)

    def lowest(self) -> tuple[Tensor, Tensor]:
        """Return the angle of the lowest loss on each circle and that loss, each (N,).

        A grid over the whole circle, geometric near zero, finds the bracket; zooming finds the angle in it. Angle 0 is
        on the grid, so the loss returned is never above the one at the start.
        """
        count = self.cosine.shape[0]
        grid = _grid(self.cosine.device)
        losses = self.loss(grid.expand(count, -1))
        best = losses.argmin(dim=-1, keepdim=True)
        # The grid's two ends are one point of the circle, but each has only one neighbour, which is bracket enough.
        low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(len(grid) - 1)]
        angle, loss = grid[best], losses.gather(-1, best)
        fractions = torch.linspace(0.0, 1.0, _ZOOM_POINTS, dtype=grid.dtype, device=grid.device)
        for _ in range(_ZOOM_ROUNDS):
            spacing = (high - low) / (_ZOOM_POINTS - 1)
            finer = low + (high - low) * fractions
            losses = self.loss(finer)
            best = losses.argmin(dim=-1, keepdim=True)
            found, lower = finer.gather(-1, best), losses.gather(-1, best)
            angle, loss = torch.where(lower < loss, found, angle), torch.minimum(lower, loss)
            low, high = found - spacing, found + spacing
        return angle.squeeze(-1), loss.squeeze(-1)


def _homogeneous(coefficients: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Evaluate sum_j coefficients[:, j] cos^(k-j) sin^j at (N, A) angles, k the highest order, by Horner's rule."""
    value = coefficients[:, :1] * torch.ones_like(cos)
    power = torch.ones_like(sin)
    for order in range(1, coefficients.shape[-1]):
        power = power * sin
        value = value * cos + coefficients[:, order : order + 1] * power
    return value


def _grid(device: torch.device) -> Tensor:
    """Angles in [-pi, pi], sorted: geometric from 1e-5 to 0.1 on either side of 0, then 0.1 apart or less."""
    near = torch.logspace(-5, -1, 17, dtype=torch.float64, device=device)
    far = torch.linspace(0.1, math.pi, 32, dtype=torch.float64, device=device)[1:]
    positive = torch.cat([near, far])
    return torch.cat([-positive.flip(0), positive.new_zeros(1), positive])


def _gram(here: Tensor, there: Tensor) -> Tensor:
    """Return the (N, 5, 5) float64 sums over the vocabulary of all products of two of z, q, z^2, zq, q^2.

    They hold every cross-moment of order 2 to 4. One small matrix product per block of the vocabulary is about ten
    times as fast on a CPU as one reduction per moment, and summing the blocks in float64 costs nothing.
    """
    count, tokens = here.shape
    block = max(
        _FEWEST_TOKENS_IN_A_BLOCK, _BLOCK_ELEMENTS.get(here.device.type, _BLOCK_ELEMENTS["cuda"]) // max(1, count)
    )
    total = torch.zeros(count, 5, 5, dtype=torch.float64, device=here.device)
    for start in range(0, tokens, block):
        z, q = here[:, start : start + block], there[:, start : start + block]
        terms = torch.stack([z, q, z * z, z * q, q * q], dim=1)
        total += torch.bmm(terms, terms.transpose(1, 2))
    return total


@dataclass
class _Batch:
    """The neurons still in the search; every tensor's first dimension is the batch, save that of shared weights."""

    rows: Tensor  # (n,) place of each neuron in the caller's batch
    targets: Tensor  # (n, d) unit vectors
    weights: Tensor  # (1, V) or (n, V)
    points: Tensor  # (n, d) current unit directions
    projections: Tensor  # (n, V) their weighted projections, centred
    gradients: Tensor  # (n, d) Riemannian gradients there
    headings: Tensor  # (n, d) search directions: tangent, of any length
    idle: Tensor  # (n,) consecutive idle steps
    noted: Tensor  # (n,) whether the result is already written

    @classmethod
    def at(cls, objective: Objective, targets: Tensor, weights: Tensor, starts: Tensor) -> _Batch:
        """Return the batch at its starts."""
        projections = _project(objective, starts, weights)
        gradients = _gradients(objective, starts, targets, projections, central_moments(projections), weights)
        count = torch.arange(len(targets), device=targets.device)
        return cls(
            rows=count,
            targets=targets,
            weights=weights,
            points=starts,
            projections=projections,
            gradients=gradients,
            headings=-gradients,
            idle=torch.zeros_like(count),
            noted=torch.zeros_like(count, dtype=torch.bool),
        )

    def keep(self, rows: Tensor) -> None:
        """Let all neurons but those of ``rows`` leave."""
        for field in fields(self):
            if field.name != "weights" or len(self.weights) > 1:
                setattr(self, field.name, getattr(self, field.name)[rows])

    def step(self, objective: Objective, tolerance: float, refresh: bool) -> None:
        """Move every neuron to the lowest point of the great circle along its heading."""
        tangents = normalize(self.headings, dim=-1)
        sideways = _project(objective, tangents, self.weights)
        circle = GreatCircle.through(
            objective,
            self.projections,
            sideways,
            (self.points * self.targets).sum(dim=-1),
            (tangents * self.targets).sum(dim=-1),
        )
        angles, losses = circle.lowest()
        angles = angles.unsqueeze(-1)
        gains = circle.loss(torch.zeros_like(angles)).squeeze(-1) - losses
        moments = circle.moments(angles)
        moments = CentralMoments(*(getattr(moments, field.name).squeeze(-1) for field in fields(moments)))
        cos, sin = torch.cos(angles).to(tangents.dtype), torch.sin(angles).to(tangents.dtype)

        points = normalize(cos * self.points + sin * tangents, dim=-1)
        arriving = cos * tangents - sin * self.points  # the tangent at the circle's other end
        if refresh:
            self.projections = _project(objective, points, self.weights)
        else:
            self.projections.mul_(cos).addcmul_(sideways, sin)
        gradients = _gradients(objective, points, self.targets, self.projections, moments, self.weights)

        still = gains < tolerance
        self.idle = torch.where(still, self.idle + 1, 0)
        conjugate = _conjugate(gradients, self.gradients, self.headings, tangents, arriving, points)
        # After an idle step only the steepest descent can tell a minimum from a heading that has gone stale.
        self.headings = torch.where(still.unsqueeze(-1), -gradients, conjugate)
        self.points, self.gradients = points, gradients


def _project(objective: Objective, directions: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted projections of ``directions`` (n, d) less their means, (n, V)."""
    projections = directions @ objective.projection
    projections *= weights
    projections -= projections.mean(dim=-1, keepdim=True)
    return projections


def _tangential(vectors: Tensor, points: Tensor) -> Tensor:
    """Return what is left of ``vectors`` without their part along the unit ``points``."""
    return vectors - (vectors * points).sum(dim=-1, keepdim=True) * points


def _gradients(
    objective: Objective, points: Tensor, targets: Tensor, projections: Tensor, moments: CentralMoments, weights: Tensor
) -> Tensor:
    """Return the loss's gradients on the sphere at ``points``."""
    pull = objective.kurtosis_pull(projections, moments, weights)
    return _tangential(pull - objective.fidelity_weight * targets, points)


def _conjugate(
    gradients: Tensor, old_gradients: Tensor, old_headings: Tensor, tangents: Tensor, arriving: Tensor, points: Tensor
) -> Tensor:
    """Return the next headings by Polak-Ribiere+, the old vectors carried along the circle to the new points."""
    # Parallel transport along the circle turns its tangent and leaves what is across it alone.
    along = (old_gradients * tangents).sum(dim=-1, keepdim=True)
    carried = old_gradients + along * (arriving - tangents)
    size = (old_gradients * old_gradients).sum(dim=-1, keepdim=True).clamp_min(torch.finfo(gradients.dtype).tiny)
    beta = ((gradients * (gradients - carried)).sum(dim=-1, keepdim=True) / size).clamp_min(0.0)
    headings = _tangential(beta * old_headings.norm(dim=-1, keepdim=True) * arriving - gradients, points)
    descends = (headings * gradients).sum(dim=-1, keepdim=True) < 0
    return torch.where(descends, headings, -gradients)


@torch.no_grad()
def solve(
    objective: Objective, vectors: Tensor, weights: Tensor, config: GeodesicConfig, starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find one channel per vector, starting from the vector itself.

    No random number is drawn, and no neuron's path depends on the others in the batch beyond rounding. The loss falls
    at every step.

    Args:
        objective: the loss.
        vectors: (N, d_model), of unit length.
        weights: (1, V) or (N, V), the token weights.
        config: limits and tolerance.
        starts: (N, d_model), of unit length; None: the vectors themselves.

    Returns:
        (N, d_model) unit directions, and (N,) int64, the steps each neuron took.
    """
    directions = vectors.clone()
    steps = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    batch = _Batch.at(objective, vectors, weights, vectors if starts is None else starts)
    for step in range(1, config.max_steps + 1):
        batch.step(objective, config.tolerance, refresh=step % config.refresh_every == 0)
        new = ((batch.idle >= config.patience) | (step == config.max_steps)) & ~batch.noted
        directions[batch.rows[new]] = batch.points[new]
        steps[batch.rows[new]] = step
        batch.noted |= new
        staying = (~batch.noted).nonzero().squeeze(-1)
        if len(staying) == 0:
            break
        if len(staying) <= (1.0 - _SHARE_THAT_LEAVES) * len(batch.rows):
            batch.keep(staying)
    return directions, steps
