"""What can be set about a decomposition. Defaults are the published ones unless said otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from harness.checks import require, require_count
from harness.decomposition import custom

SOLVERS = ("geodesic", "adamw")
Products = Literal["auto", "float32", "tf32", "bfloat16"]


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
        require_count("adamw.convergence_min_steps", self.convergence_min_steps, 1)


@dataclass(frozen=True)
class GeodesicConfig:
    """How the geodesic solver runs. The solver is this project's own, and so are its defaults.

    Attributes:
        lookahead: further optima tried for every channel: those that deflation would lead to next, brought back to the
            channel's own token weights; the one of lowest loss is the channel. 0 keeps the optimum that is downhill
            from the vector. Time grows about with 1 + lookahead.
        max_steps: most steps per search; the few that reach it keep the best point they found.
        tolerance: a step that lowers a neuron's loss (nats of slog-kurtosis) by less than this is idle.
        patience: consecutive idle steps after which a search is finished.
        refresh_every: steps after which projections, otherwise updated as linear combinations, are recomputed from
            the directions, against the drift of rounding.
        jitter: length of a random tangent that is added to the unit vector before every search: 0 starts at the vector
            itself; another value, with other seeds, tells how far the channels depend on the start.
        products: arithmetic of the two matrix products of a step: "float32" (or the wider one of the inputs), "tf32" or
            "bfloat16" with float32 sums; "auto": bfloat16 on CUDA, else float32. Moments, line search and all figures
            that are returned stay in float32 or wider.
        compile: whether the passes over the vocabulary are fused by torch.compile; None: on CUDA. Where compilation
            fails the same passes run as plain PyTorch.

    Raises:
        ValueError: if a value is out of range.
    """

    lookahead: int = 0
    max_steps: int = 500
    tolerance: float = 1e-4
    patience: int = 2
    refresh_every: int = 25
    jitter: float = 0.0
    products: Products = "auto"
    compile: bool | None = None

    def __post_init__(self) -> None:
        require_count("geodesic.lookahead", self.lookahead, 0)
        require_count("geodesic.max_steps", self.max_steps, 1)
        require(0 <= self.tolerance < math.inf, "geodesic.tolerance", self.tolerance, "finite and not negative")
        require_count("geodesic.patience", self.patience, 1)
        require_count("geodesic.refresh_every", self.refresh_every, 1)
        require(0 <= self.jitter < math.inf, "geodesic.jitter", self.jitter, "finite and not negative")
        known = get_args(Products)
        require(self.products in known, "geodesic.products", self.products, f"one of {', '.join(known)}")


@dataclass(frozen=True)
class DecompositionConfig:
    """What ROTATE looks for, and how. Defaults are those published for Gemma-2-2B-it unless said otherwise.

    Attributes:
        num_channels: channels per vector; 50 in [R] (30 for Llama-3.1-8B layers 8, 16, 26).
        kurtosis_weight: lambda_k, the weight of slog(kurtosis) in the loss; 0.3 in [R] (Gemma layer 18 ``out``: 0.5).
        fidelity_weight: lambda_f, the weight of 1 - cosine in the loss; 1.0 in [R].
        mask_threshold: z-score beyond which a token belongs to a channel, in standard deviations; 4 in [R] for Gemma-2,
            6 for Llama-3.1-8B (layer 22: 8).
        skew_threshold: skewness of a projection beyond which only its heavier tail is masked; 10 in the authors' code.
        masked_token_weight: weight of a masked token in later channels; 0.01 in the authors' code.
        deflation: "mask" as published, or the ablation "subtract": no token loses weight; instead the channel, scaled,
            is taken away from the vector, and the next channel is sought in the rest.
        subtraction: alpha, the share of the channel that "subtract" takes away; None: per channel, of the grid 0, 0.05,
            ..., 1 the one that leaves the shortest rest ([R] names the grid and not the criterion).
        solver: "geodesic", this project's conjugate gradient on the sphere, "adamw", the published optimiser, or a
            function of yours as "module.name"; see :mod:`harness.decomposition.custom`.
        seed: from which, with the vector itself, every random number derives. Only "adamw", and "geodesic" with
            ``jitter``, draw any.
        adamw: settings of the published optimiser.
        geodesic: settings of the geodesic solver.

    Raises:
        ValueError: if a value is out of range.
    """

    num_channels: int = 50
    kurtosis_weight: float = 0.3
    fidelity_weight: float = 1.0
    mask_threshold: float = 4.0
    skew_threshold: float = 10.0
    masked_token_weight: float = 0.01
    deflation: Literal["mask", "subtract"] = "mask"
    subtraction: float | None = None
    solver: str = "geodesic"
    seed: int = 0
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    geodesic: GeodesicConfig = field(default_factory=GeodesicConfig)

    def __post_init__(self) -> None:
        require_count("num_channels", self.num_channels, 1)
        for name in ("kurtosis_weight", "fidelity_weight", "mask_threshold", "skew_threshold"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "finite and not negative")
        require(0 <= self.masked_token_weight <= 1, "masked_token_weight", self.masked_token_weight, "between 0 and 1")
        require(self.deflation in ("mask", "subtract"), "deflation", self.deflation, "'mask' or 'subtract'")
        share = self.subtraction
        require(share is None or 0 <= share <= 1, "subtraction", share, "null, or between 0 and 1")
        if self.solver not in SOLVERS:
            custom.function(self.solver)
