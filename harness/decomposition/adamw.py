"""The published solver: AdamW on the vector of one Householder reflection per neuron ([R]).

It differentiates the loss by autograd, independently of the closed forms of the geodesic solver.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.decomposition.config import AdamWConfig
from harness.decomposition.objective import Objective, kurtosis
from harness.decomposition.rng import random_normals

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@torch.enable_grad()
def solve(
    objective: Objective,
    vectors: Tensor,
    weights: Tensor,
    config: AdamWConfig,
    *,
    seed: int,
    channel: int,
    watch: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Find one channel per vector as published.

    A neuron's start depends only on the seed, the channel and its own vector. Its path may depend on its batch: the
    batch stops only when all its neurons have converged, and AdamW's epsilon acts on the gradient of the batch mean.

    Args:
        objective: the loss.
        vectors: (N, d_model), of unit length.
        weights: (1, V) or (N, V), the token weights.
        config: the optimiser's settings.
        seed: the run's seed.
        channel: number of the channel, from 0; every channel starts from a new random reflection.
        watch: called at every step with the losses (N,), which are not part of the result.

    Returns:
        (N, d_model) directions, and (N,) int64, the steps of the batch.
    """
    device = vectors.device
    mixed = device.type == "cuda" and config.mixed_precision is not False
    mirrors = random_normals(vectors, seed, [channel] * len(vectors)).requires_grad_()
    optimiser = torch.optim.AdamW(
        [mirrors], lr=config.learning_rate, betas=_BETAS, eps=_EPSILON, weight_decay=config.weight_decay
    )
    scaler = torch.amp.GradScaler(device.type, enabled=mixed)
    plateau = _Plateau(len(vectors), config, device)
    best, best_score = vectors.clone(), torch.full((len(vectors),), -1.0, dtype=vectors.dtype, device=device)
    step = 0
    for step in range(config.max_steps):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=mixed):
            candidates = _reflect(vectors, mirrors)
            losses = objective.loss(candidates, vectors, weights)
        if step % config.checkpoint_every == 0:
            with torch.no_grad(), torch.autocast(device.type, enabled=mixed):
                score = kurtosis((candidates @ objective.projection).to(vectors.dtype)).abs()
            better = score > best_score
            best[better], best_score[better] = candidates.detach()[better], score[better]
        scaler.scale(losses.mean()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimiser)
        scaler.update()
        if watch is not None:
            watch(losses.detach())
        if plateau.reached(losses.detach()):
            break
    return best, torch.full((len(vectors),), step + 1, dtype=torch.int64, device=device)


def _reflect(vectors: Tensor, mirrors: Tensor) -> Tensor:
    """Return ``vectors`` reflected in the hyperplanes orthogonal to ``mirrors``: one Householder reflection each."""
    share = (mirrors * vectors).sum(dim=-1, keepdim=True) / (mirrors * mirrors).sum(dim=-1, keepdim=True)
    return vectors - 2.0 * share * mirrors


class _Plateau:
    """Detects when every neuron's loss has been flat over the window at least once."""

    def __init__(self, count: int, config: AdamWConfig, device: torch.device) -> None:
        self._config = config
        self._losses = torch.zeros(count, config.convergence_window, device=device)
        self._converged = torch.zeros(count, dtype=torch.bool, device=device)
        self._seen = 0

    def reached(self, losses: Tensor) -> bool:
        self._losses[:, self._seen % self._config.convergence_window] = losses
        self._seen += 1
        if self._seen < max(self._config.convergence_min_steps, self._config.convergence_window):
            return False
        self._converged |= self._losses.std(dim=-1, correction=0) < self._config.convergence_std
        return bool(self._converged.all())
