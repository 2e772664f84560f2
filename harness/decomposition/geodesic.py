"""The default solver: Riemannian conjugate gradient on the sphere with an exact line search.

A single Householder reflection can map a vector to every point of the sphere |c| = |w|, so the published search ([R])
is smooth optimisation on that sphere. A step costs two products with the vocabulary, like a step of the published
optimiser, but a few dozen steps suffice. Searches run in parallel in slots, each at its own channel. When a search
ends, its slot continues with the next channel or the next vector, which keeps the matrix products large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.channels import Decomposition, Found, carried
from harness.decomposition.config import DecompositionConfig
from harness.decomposition.deflation import deflate, subtract
from harness.decomposition.great_circle import GreatCircle
from harness.decomposition.objective import (
    CentralMoments,
    Objective,
    central_moments,
    centred,
    kurtosis_gradient,
)
from harness.decomposition.rng import random_normals
from harness.decomposition.vocabulary import Vocabulary

# Ended searches wait until they make up this share of the slots: restarting slots takes matrix products, which are more
# efficient for several slots at once.
_SHARE_RESTARTED = 0.125
# Factor on the tolerance of lookahead searches.
_COARSER_AHEAD = 10.0
# Principal components that a start leaves out: at most one per this many dimensions, with at least this many times the
# average variance. They are computed with these rounds and this number of additional directions.
_WIDTH_PER_BULK, _BULK_VARIANCE, _BULK_ROUNDS, _OVERSAMPLED = 100, 5.0, 4, 8
# Maximum number of repeated searches for a channel. Each starts near another token.
_REPEATED = 8
# A start shorter than this, of a unit vector, is not used.
_SHORTEST_START = 0.1
# Elements of a projection that are restarted at once even if they exceed an eighth of the slots.
_ELEMENTS_RESTARTED = 2**21


@dataclass(frozen=True)
class Problem:
    """The input of the solver.

    Attributes:
        vectors: (N, d_model), of unit length.
        norms: (N, 1), their original lengths.
        weights: (1, V) or (N, V), the token weights before the first channel.
        objective: the loss.
        config: the settings.
    """

    vectors: Tensor
    norms: Tensor
    weights: Tensor
    objective: Objective
    config: DecompositionConfig

    @cached_property
    def bulk(self) -> Tensor:
        """The directions in which large groups of tokens differ, (d_model, k), orthonormal.

        Near such a direction the loss of any vector falls into an optimum without a concept: in Gemma-3-270M at a
        kurtosis of 1.4, with no token beyond 4 standard deviations. A search that starts without a component along
        these directions seldom ends there. They are the leading principal components of the projection's
        columns: at most d_model / 100 of them, as Mu and Viswanath 2018, arXiv:1702.01417, remove from word vectors,
        and only those with several times the average variance.
        """
        projection, weights = self.objective.projection, self.weights.mean(dim=0)
        weights = weights / weights.sum()
        (width, tokens), mean = projection.shape, projection @ weights
        count = min(width, math.ceil(width / _WIDTH_PER_BULK))
        generator = torch.Generator().manual_seed(0)
        # In float64 on the CPU, so that every dtype and device starts from the same numbers.
        drawn = torch.randn(width, min(width, count + _OVERSAMPLED), generator=generator, dtype=torch.float64)
        basis = drawn.to(projection)
        size = _ELEMENTS_RESTARTED // width + 1
        blocks = [slice(start, start + size) for start in range(0, tokens, size)]
        total = sum(float((projection[:, block].square() @ weights[block]).sum()) for block in blocks)
        total -= float(mean.square().sum())
        for _ in range(_BULK_ROUNDS):  # subspace iteration: each round multiplies the basis by the covariance
            basis, _ = torch.linalg.qr(basis)
            multiplied = torch.zeros_like(basis)
            for block in blocks:
                values = projection[:, block].T @ basis - mean @ basis
                multiplied += projection[:, block] @ (values * weights[block].unsqueeze(1))
            basis = multiplied
        directions, variances, _ = torch.linalg.svd(basis, full_matrices=False)
        large = variances[:count] > _BULK_VARIANCE * total / width
        found: Tensor = directions[:, :count][:, large]
        return found


class GeodesicSolver:
    """Finds all channels of all vectors of a problem.

    The path of a vector does not depend on the others beyond rounding. Random numbers are drawn only for ``jitter``.

    Args:
        problem: the input.
        slots: number of parallel searches.
        results: receives the channels.
        pending: rows of the unfinished vectors, in order; a row is removed when its last channel is written.
        noted: called with the number of channels just written.
    """

    def __init__(
        self,
        problem: Problem,
        slots: int,
        results: Decomposition,
        pending: dict[int, None],
        noted: Callable[[int], None],
    ) -> None:
        self._problem, self._results, self._pending, self._noted = problem, results, pending, noted
        self._config, self._settings = problem.config, problem.config.geodesic
        self._objective = problem.objective
        self._vocabulary = Vocabulary(problem.objective.projection, self._settings.products, self._settings.compile)
        self._waiting = list(pending)
        self._slots = _Slots(min(slots, len(pending)), problem)
        self._restarted_at_once = rows_restarted_at_once(slots, self._vocabulary.tokens)

    def run(self) -> None:
        """Search until every vector has its channels."""
        slots = self._slots
        rows = torch.tensor(self._waiting[: slots.count], device=slots.row.device)
        del self._waiting[: slots.count]
        slots.row.copy_(rows)
        slots.target.copy_(self._problem.vectors[rows])
        for some in torch.split(torch.arange(slots.count, device=rows.device), self._restarted_at_once):
            self._start(some, self._without_bulk(slots.target[some]))
        step = 0
        while slots.count:
            step += 1
            self._step(refresh=step % self._settings.refresh_every == 0)
            ended = slots.ended[: slots.count].nonzero().squeeze(-1)
            if len(ended) > _SHARE_RESTARTED * (slots.count - 1):
                for some in torch.split(ended, self._restarted_at_once):
                    self._restart(some)
                slots.close(slots.idle[: slots.count] < 0)

    def _step(self, refresh: bool) -> None:
        """Move every slot to the lowest point of the great circle along its heading."""
        slots, settings = self._slots, self._settings
        n = slots.count
        points, targets, roots = slots.point[:n], slots.target[:n], slots.roots[:n]
        both = slots.projections[:n]
        tangents = normalize(slots.heading[:n], dim=-1)
        cross_moments = self._vocabulary.cross_moments(both, tangents, roots, slots.mean[:n], slots.total[:n])
        cosines = (points * targets).sum(dim=-1), (tangents * targets).sum(dim=-1)
        circle = GreatCircle.through(self._objective, cross_moments, *cosines)
        angles, losses = circle.lowest()
        angles = angles.unsqueeze(-1)
        gains = circle.loss(torch.zeros_like(angles)).squeeze(-1) - losses
        cos, sin = torch.cos(angles).to(points.dtype), torch.sin(angles).to(points.dtype)
        moved = normalize(cos * points + sin * tangents, dim=-1)
        arriving = cos * tangents - sin * points  # the tangent at the circle's other end
        moments = circle.moments(angles)
        pulls = self._vocabulary.move_and_pull(both, roots, cos, sin, self._cubic(moments, slots.total[:n]))
        gradients = self._on_sphere(pulls, moved, targets)
        if refresh:
            for some in torch.split(torch.arange(n, device=both.device), self._restarted_at_once):
                both[some, 0] = self._centred(moved[some], slots.mean[some])

        # Optima found by lookahead are refined under the channel's own weights, so a coarse search suffices.
        tolerance = torch.where(slots.stage[:n] % 2 == 1, _COARSER_AHEAD * settings.tolerance, settings.tolerance)
        still = gains < tolerance
        slots.idle[:n] = torch.where(still, slots.idle[:n] + 1, 0)
        conjugate = _conjugate(gradients, slots.gradient[:n], slots.heading[:n], tangents, arriving, moved)
        # After an idle step only steepest descent can distinguish a minimum from a poor heading.
        slots.heading[:n] = torch.where(still.unsqueeze(-1), -gradients, conjugate)
        slots.gradient[:n], slots.point[:n] = gradients, moved
        slots.age[:n] += 1

        over = (slots.idle[:n] >= settings.patience) | (slots.age[:n] >= settings.max_steps)
        new = (over & ~slots.ended[:n]).unsqueeze(-1)
        slots.found[:n] = torch.where(new, moved, slots.found[:n])
        slots.found_loss[:n] = torch.where(new.squeeze(-1), losses, slots.found_loss[:n])
        slots.steps[:n] += torch.where(new.squeeze(-1), slots.age[:n], 0)
        slots.ended[:n] |= over

    def _restart(self, ended: Tensor) -> None:
        """Start the next search in each slot whose search has ended: another optimum, channel or vector."""
        slots, ahead = self._slots, self._settings.lookahead
        stage = slots.stage[ended]
        own_weights = (stage % 2 == 0) | (stage > 2 * ahead)
        better = own_weights & (slots.found_loss[ended] < slots.best_loss[ended])
        slots.best[ended] = torch.where(better.unsqueeze(-1), slots.found[ended], slots.best[ended])
        slots.best_loss[ended] = torch.where(better, slots.found_loss[ended], slots.best_loss[ended])
        if ahead:
            self._extend_mask_ahead(ended[(stage < 2 * ahead) & ((stage % 2 == 1) | (stage == 0))])
        slots.stage[ended] = stage + 1
        self._complete(ended[stage >= 2 * ahead])
        going_on = ended[slots.idle[ended] >= 0]
        stage = slots.stage[going_on]
        from_found = (stage % 2 == 0) & (stage > 0) & (stage <= 2 * ahead)
        starts = self._without_bulk(slots.target[going_on])
        self._start(going_on, torch.where(from_found.unsqueeze(-1), slots.found[going_on], starts))

    def _extend_mask_ahead(self, some: Tensor) -> None:
        """Mask the optimum just found, as if it were the channel, so that the next lookahead search finds another."""
        slots, config = self._slots, self._config
        assert slots.masked_ahead is not None
        if len(some) == 0:
            return
        first = (slots.stage[some] == 0).unsqueeze(-1)
        masked = torch.where(first, slots.masked[some], slots.masked_ahead[some])
        projected = slots.found[some] @ self._vocabulary.projection
        _, mask = carried(projected, config, self._base_weights(slots.row[some]), masked)
        slots.masked_ahead[some] = masked | mask

    def _complete(self, some: Tensor) -> None:
        """Write channels, and assign their slots their next channel or vector, if any.

        The channel is the best optimum if it shows a new concept, else that of the first repeated search that does. If
        none does, it is the best optimum.
        """
        slots, config, problem = self._slots, self._config, self._problem
        if len(some) == 0:
            return
        repeated = slots.stage[some] - 2 * self._settings.lookahead - 1
        found = self._measured(some, torch.where((repeated > 0).unsqueeze(-1), slots.found[some], slots.best[some]))
        given_up = ~found.new_concept & (repeated == _REPEATED)
        some, rest = torch.cat([some[found.new_concept], some[given_up]]), some[given_up]
        if len(some) == 0:
            return
        found = found[found.new_concept].followed_by(self._measured(rest, slots.best[rest]))
        rows, targets = slots.row[some], slots.target[some]
        base = self._base_weights(rows)
        lengths = problem.norms[rows] * slots.length[some]
        found.write(self._results, rows, slots.channel[some], problem.vectors[rows], lengths, slots.steps[some])
        if config.deflation == "mask":
            slots.masked[some] |= found.mask
        else:
            slots.target[some], left = subtract(
                targets,
                found.directions,
                config.subtraction,
                projection=self._vocabulary.projection,
                lengths=lengths,
                counted=config.counted(base),
            )
            slots.length[some] *= left
        slots.channel[some] += 1
        slots.stage[some], slots.steps[some], slots.best_loss[some] = 0, 0, torch.inf
        self._noted(len(some))
        finished = some[slots.channel[some] == config.num_channels]
        for slot, row in zip(finished.tolist(), slots.row[finished].tolist(), strict=True):
            del self._pending[row]
            if not self._waiting:
                slots.idle[slot] = -1  # closed
                continue
            slots.row[slot] = row = self._waiting.pop(0)
            slots.target[slot], slots.length[slot] = problem.vectors[row], 1.0
            slots.masked[slot], slots.channel[slot], slots.tried[slot] = False, 0, 0

    def _measured(self, some: Tensor, directions: Tensor) -> Found:
        """Return directions (n, d_model) as channels of the slots ``some`` (n,)."""
        slots, config, base = self._slots, self._config, self._base_weights(self._slots.row[some])
        weights = deflate(base, slots.masked[some], config.masked_token_weight)
        masked = slots.masked[some] if config.deflation == "mask" else None
        return Found.at(directions, slots.target[some], weights, self._objective, config, base=base, masked=masked)

    def _start(self, some: Tensor, points: Tensor) -> None:
        """Start searches at ``points``, with the token weights of the slots' stages."""
        slots = self._slots
        if len(some) == 0:
            return
        stage, masked, rows, last = slots.stage[some], slots.masked[some], slots.row[some], 2 * self._settings.lookahead
        if slots.masked_ahead is not None:
            with_more = (stage % 2 == 1) & (stage < last)
            masked = torch.where(with_more.unsqueeze(-1), slots.masked_ahead[some], masked)
        if self._settings.jitter:
            channels = slots.channel[some].tolist()
            drawn = normalize(random_normals(self._problem.vectors[rows], self._config.seed, channels), dim=-1)
            points = normalize(points + self._settings.jitter * _tangential(drawn, points), dim=-1)
        weights = deflate(self._base_weights(rows), masked, self._config.masked_token_weight)
        totals = weights.sum(dim=-1, keepdim=True)
        again = (stage > last).nonzero().squeeze(-1)
        if len(again):
            points = points.index_copy(0, again, self._leaning(points[again], weights[again], slots.tried[some[again]]))
            slots.tried[some[again]] += 1
        projections = centred(points @ self._vocabulary.projection, weights)
        moments = central_moments(projections, weights)
        by_token = kurtosis_gradient(projections, moments, totals.squeeze(-1)).mul_(weights)
        # In later steps, the mean of a direction's projection is its product with the mean column.
        pulls, means = (torch.cat([by_token, weights]) @ self._vocabulary.projection.T).tensor_split(2)
        slope = self._objective.slope_of_kurtosis(moments.kurtosis).to(points.dtype).unsqueeze(-1)
        gradients = self._on_sphere(pulls * slope, points, slots.target[some])
        slots.roots[some], slots.projections[some, 0] = weights.sqrt(), projections
        slots.mean[some], slots.total[some] = means / totals, totals
        slots.point[some], slots.gradient[some], slots.heading[some] = points, gradients, -gradients
        slots.idle[some], slots.age[some], slots.ended[some] = 0, 0, False

    def _without_bulk(self, directions: Tensor) -> Tensor:
        """Return unit directions (n, d_model) less their bulk components, normalised; unchanged if little remains."""
        bulk = self._problem.bulk
        rest = directions - (directions @ bulk) @ bulk.T
        lengths = rest.norm(dim=-1, keepdim=True)
        return torch.where(lengths < _SHORTEST_START, directions, rest / lengths.clamp_min(_SHORTEST_START))

    def _leaning(self, points: Tensor, weights: Tensor, ranks: Tensor) -> Tensor:
        """Return the points (n, d_model), moved halfway towards their tokens of these ranks (n,), from 0.

        Tokens are ranked by how far out they are in the projection of the point, times their weight.
        """
        projection = self._vocabulary.projection
        projected = centred(points @ projection, weights)
        ranks = ranks % weights.shape[1]
        far = (projected.abs() * weights).topk(int(ranks.max()) + 1, dim=-1).indices
        token = far.gather(-1, ranks.unsqueeze(-1))
        towards = projection[:, token.squeeze(-1)].T - weights @ projection.T / weights.sum(dim=-1, keepdim=True)
        towards = self._without_bulk(normalize(towards, dim=-1))
        return normalize(points + towards * projected.gather(-1, token).sign(), dim=-1)

    def _base_weights(self, rows: Tensor) -> Tensor:
        return self._problem.weights if len(self._problem.weights) == 1 else self._problem.weights[rows]

    def _centred(self, directions: Tensor, means: Tensor) -> Tensor:
        """Return the projections of ``directions`` (n, d_model) less their means, (n, V), from the mean columns."""
        return (directions @ self._vocabulary.projection).sub_((directions * means).sum(dim=-1, keepdim=True))

    def _cubic(self, moments: CentralMoments, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cubic of a projection whose product with U.T is the gradient of the kurtosis term."""
        slope = self._objective.slope_of_kurtosis(moments.kurtosis)
        a, b, c = moments.gradient_coefficients(totals)
        dtype = self._problem.vectors.dtype
        # The cubic is slope * ((a z^2 - b) z - c). The slope is multiplied in, because it can be zero.
        return (slope * a).to(dtype), (slope * b).to(dtype), (slope * c).to(dtype)

    def _on_sphere(self, pulls: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        """Return the loss's gradients on the sphere at ``points``, from those of the kurtosis term."""
        return _tangential(pulls - self._objective.fidelity_weight * targets, points)


class _Slots:
    """The parallel searches. The first dimension of every tensor is the slot; slots beyond ``count`` are closed."""

    def __init__(self, count: int, problem: Problem) -> None:
        vectors, width, tokens = problem.vectors, problem.vectors.shape[1], problem.weights.shape[1]

        def state(*shape: int, dtype: torch.dtype = vectors.dtype, value: float = 0) -> Tensor:
            return torch.full((count, *shape), value, dtype=dtype, device=vectors.device)

        self.count = count
        self.row = state(dtype=torch.int64)  # of the vector in the problem
        self.channel = state(dtype=torch.int64)  # that is searched for
        # 0: search from the vector; then lookahead with further masks (odd) and refinement without them (even);
        # beyond 2 * lookahead: from a start that leans towards a token
        self.stage = state(dtype=torch.int64)
        self.tried = state(dtype=torch.int64)  # tokens towards which searches for the vector leant
        self.target = state(width)  # unit: the vector, or its remainder after subtraction
        self.length = state(1, value=1)  # of the remainder as a share of the vector's length
        self.masked = state(tokens, dtype=torch.bool)  # tokens of the channels so far
        # The same plus the tokens of optima found by lookahead
        self.masked_ahead = state(tokens, dtype=torch.bool) if problem.config.geodesic.lookahead else None
        self.roots = state(tokens)  # square roots of the current token weights
        self.total = state(1)  # sum of the weights
        self.mean = state(width)  # mean column of U by weight: its product with a direction is the projection's mean
        self.point = state(width)  # current unit directions
        self.projections = state(2, tokens)  # centred, of the points and of the last tangents
        self.gradient = state(width)  # Riemannian, at the points
        self.heading = state(width)  # search directions: tangent, of any length
        self.idle = state(dtype=torch.int64)  # consecutive idle steps; -1: the slot will be closed
        self.age = state(dtype=torch.int64)  # steps of this search
        self.steps = state(dtype=torch.int64)  # steps of all searches for this channel
        self.ended = state(dtype=torch.bool)  # the search has ended, and its result is in found
        self.found, self.found_loss = state(width), state(dtype=torch.float64, value=torch.inf)
        # Optimum of lowest loss for this channel
        self.best, self.best_loss = state(width), state(dtype=torch.float64, value=torch.inf)

    def close(self, closing: Tensor) -> None:
        """Close slots (n,) bool: open slots from the end move into the gaps, in the same memory."""
        left = self.count - int(closing.sum())
        holes = closing[:left].nonzero().squeeze(-1)
        movers = (~closing[left:]).nonzero().squeeze(-1) + left
        for value in vars(self).values():
            if isinstance(value, Tensor):
                for hole, mover in zip(holes.tolist(), movers.tolist(), strict=True):
                    value[hole] = value[mover]
        self.count = left


def rows_restarted_at_once(slots: int, tokens: int) -> int:
    """Return how many slots are restarted together at most, which bounds the memory of a restart."""
    return max(1, slots // 8, min(slots, _ELEMENTS_RESTARTED // tokens))


def _tangential(vectors: Tensor, points: Tensor) -> Tensor:
    """Return ``vectors`` minus their components along the unit ``points``."""
    return vectors - (vectors * points).sum(dim=-1, keepdim=True) * points


def _conjugate(
    gradients: Tensor, old_gradients: Tensor, old_headings: Tensor, tangents: Tensor, arriving: Tensor, points: Tensor
) -> Tensor:
    """Return the next headings by Polak-Ribiere+, with the old vectors transported along the circle."""
    # Parallel transport along the circle rotates the component along its tangent and keeps the rest.
    along = (old_gradients * tangents).sum(dim=-1, keepdim=True)
    carried = old_gradients + along * (arriving - tangents)
    size = (old_gradients * old_gradients).sum(dim=-1, keepdim=True).clamp_min(torch.finfo(gradients.dtype).tiny)
    beta = ((gradients * (gradients - carried)).sum(dim=-1, keepdim=True) / size).clamp_min(0.0)
    headings = _tangential(beta * old_headings.norm(dim=-1, keepdim=True) * arriving - gradients, points)
    descends = (headings * gradients).sum(dim=-1, keepdim=True) < 0
    return torch.where(descends, headings, -gradients)
