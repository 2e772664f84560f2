"""The published solver: AdamW on the vector of one Householder reflection per neuron ([R]).

It differentiates the loss by autograd and so owes nothing to the closed forms of the geodesic solver.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decomposition.checks import require, require_count
from harness.decomposition.objective import Objective, kurtosis

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@dataclass(frozen=True)
class AdamWConfig:
    """How the published optimiser runs; every default is that of [R] and its authors' code.

    Attributes:
        learning_rate: step size of AdamW (2e-3 for Gemma-2-2B layer 4 ``out`` and Llama-3.1-8B layer 22).
        weight_decay: decoupled decay of the reflection vector.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        max_steps: most steps per channel.
        checkpoint_every: steps between two candidates, of which the one with the greatest |kurtosis| of its unweighted
            projection becomes the channel.
        convergence_window: number of last losses whose spread decides convergence.
        convergence_std: a neuron has converged once their population standard deviation is below this.
        convergence_min_steps: steps before which convergence is not checked.
        mixed_precision: whether to compute in float16 where PyTorch's autocast does; None: on CUDA,
            where alone it is possible.

    Raises:
        ValueError: if a value is out of range.
    """

    learning_rate: float = 8e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    max_steps: int = 10_000
    checkpoint_every: int = 100
    convergence_window: int = 100
    convergence_std: float = 1e-4
    convergence_min_steps: int = 2000
    mixed_precision: bool | None = None

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "adamw.learning_rate", self.learning_rate, "finite and positive")
        require(0 <= self.weight_decay < math.inf, "adamw.weight_decay", self.weight_decay, "finite and not negative")
        require_count("adamw.warmup_steps", self.warmup_steps, 0)
        require_count("adamw.max_steps", self.max_steps, 1)
        require_count("adamw.checkpoint_every", self.checkpoint_every, 1)
        require_count("adamw.convergence_window", self.convergence_window, 1)
        require(
            0 <= self.convergence_std < math.inf,
            "adamw.convergence_std",
            self.convergence_std,
            "finite and not negative",
        )
        require(
            self.convergence_min_steps >= 1, "adamw.convergence_min_steps", self.convergence_min_steps, "at least 1"
        )


@torch.enable_grad()
def solve(
    objective: Objective, vectors: Tensor, weights: Tensor, config: AdamWConfig, *, seed: int, channel: int
) -> tuple[Tensor, Tensor]:
    """Find one channel per vector as published.

    Where a neuron starts depends on the seed, the channel and its own vector alone. Its path may depend on its batch:
    the batch stops only when all its neurons have converged, and AdamW's epsilon weighs on a mean over the batch.

    Args:
        objective: the loss.
        vectors: (N, d_model), of unit length.
        weights: (1, V) or (N, V), the token weights.
        config: the optimiser's settings.
        seed: the run's seed.
        channel: number of the channel, from 0; every channel starts from a fresh random reflection.

    Returns:
        (N, d_model) unit directions, and (N,) int64, the steps the batch took.
    """
    device = vectors.device
    mixed = device.type == "cuda" and config.mixed_precision is not False
    mirrors = random_mirrors(vectors, seed, channel).requires_grad_()
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
        if plateau.reached(losses.detach()):
            break
    return best, torch.full((len(vectors),), step + 1, dtype=torch.int64, device=device)


def _reflect(vectors: Tensor, mirrors: Tensor) -> Tensor:
    """Return ``vectors`` mirrored in the hyperplanes across ``mirrors``: one Householder reflection each."""
    share = (mirrors * vectors).sum(dim=-1, keepdim=True) / (mirrors * mirrors).sum(dim=-1, keepdim=True)
    return vectors - 2.0 * share * mirrors


def random_mirrors(vectors: Tensor, seed: int, channel: int) -> Tensor:
    """Draw u ~ N(0, I) for every vector from the seed, the channel and the vector's own bytes."""
    drawn = []
    for vector in vectors.detach().cpu().contiguous():
        identity = f"{seed}|{channel}|".encode() + bytes(vector.view(torch.uint8).tolist())
        number = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(number)
        # Drawn on the CPU, so that every device starts alike.
        drawn.append(torch.randn(vector.shape, generator=generator, dtype=vector.dtype))
    return torch.stack(drawn).to(vectors.device)


class _Plateau:
    """Says when every neuron's loss has once been flat over the window."""

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
