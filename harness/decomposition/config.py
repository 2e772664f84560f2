"""Settings of a decomposition. Defaults are the published ones unless stated otherwise."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from harness.decomposition.solvers import SOLVERS, import_solver
from harness.validation import Count, CountOrZero, FractionOrZero, NonNegative, Positive

Products = Literal["auto", "float32", "tf32", "bfloat16"]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class AdamWConfig:
    """Settings of the published optimiser; every default is that of [R] and its authors' code.

    Attributes:
        learning_rate: step size of AdamW (2e-3 for Gemma-2-2B layer 4 ``out`` and Llama-3.1-8B layer 22).
        weight_decay: decoupled decay of the reflection vector.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        max_steps: maximum steps per channel.
        checkpoint_every: steps between two candidates. The candidate with the greatest |kurtosis| of its unweighted
            projection becomes the channel.
        convergence_window: number of last losses whose spread decides convergence.
        convergence_std: a neuron has converged once their population standard deviation is below this.
        convergence_min_steps: steps before which convergence is not checked.
        mixed_precision: whether to compute in float16 where PyTorch's autocast does; None: on CUDA, the only device
            that supports it here.
    """

    learning_rate: Positive = 8e-4
    weight_decay: NonNegative = 0.01
    warmup_steps: CountOrZero = 100
    max_steps: Count = 10_000
    checkpoint_every: Count = 100
    convergence_window: Count = 100
    convergence_std: NonNegative = 1e-4
    convergence_min_steps: Count = 2000
    mixed_precision: bool | None = None


@dataclass(frozen=True, config=_STRICT)
class GeodesicConfig:
    """Settings of the geodesic solver. The solver is this project's own, and so are its defaults.

    Attributes:
        lookahead: further optima tried for every channel: those that deflation would lead to next, then refined with
            the channel's own token weights. The optimum of lowest loss becomes the channel. 0 keeps the optimum
            downhill from the vector. Time grows roughly with 1 + lookahead.
        max_steps: maximum steps per search; a search that reaches it keeps its best point.
        tolerance: a step that lowers a neuron's loss (nats of slog-kurtosis) by less than this is idle.
        patience: consecutive idle steps that end a search.
        refresh_every: steps between recomputations of the projections from the directions. In between they are
            updated as linear combinations, and rounding errors add up.
        jitter: length of a random tangent that is added to the unit vector before every search. 0 starts at the vector
            itself. Other values, with several seeds, show how much the channels depend on the start.
        products: arithmetic of the two matrix products of a step: "float32" (or the wider dtype of the inputs), "tf32",
            or "bfloat16" with float32 sums; "auto": bfloat16 on CUDA, else float32. Moments, the line search and all
            results use float32 or wider.
        compile: whether torch.compile fuses the passes over the vocabulary; None: on CUDA. If compilation fails, the
            same passes run uncompiled.
    """

    lookahead: CountOrZero = 0
    max_steps: Count = 500
    tolerance: NonNegative = 1e-4
    patience: Count = 2
    refresh_every: Count = 25
    jitter: NonNegative = 0.0
    products: Products = "auto"
    compile: bool | None = None


@dataclass(frozen=True, config=_STRICT)
class DecompositionConfig:
    """Settings of ROTATE. Defaults are those published for Gemma-2-2B-it unless stated otherwise.

    Attributes:
        num_channels: channels per vector; 50 in [R] (30 for Llama-3.1-8B layers 8, 16, 26).
        kurtosis_weight: lambda_k, the weight of slog(kurtosis) in the loss; 0.3 in [R] (Gemma layer 18 ``out``: 0.5).
        fidelity_weight: lambda_f, the weight of 1 - cosine in the loss; 1.0 in [R].
        mask_threshold: z-score, in standard deviations, beyond which a token belongs to a channel; 4 in [R] for
            Gemma-2, 6 for Llama-3.1-8B (layer 22: 8).
        skew_threshold: skewness of a projection beyond which only its heavier tail is masked; 10 in the authors' code.
        masked_token_weight: weight of a masked token in later channels; 0.01 in the authors' code.
        deflation: "mask" as published, or the ablation "subtract": token weights do not change; instead the scaled
            channel is subtracted from the vector, and the next channel is searched for in the remainder.
        subtraction: alpha, the share of the channel that "subtract" removes; None: per channel, the value of the grid
            0, 0.05, ..., 1 that leaves the shortest remainder ([R] names the grid but not the criterion).
        solver: "geodesic" (this project's conjugate gradient on the sphere), "adamw" (the published optimiser), or a
            function as "module.name"; see :mod:`harness.decomposition.custom`.
        seed: every random number derives from it and from the vector itself. Only "adamw", and "geodesic" with
            ``jitter``, draw random numbers.
        adamw: settings of the published optimiser.
        geodesic: settings of the geodesic solver.

    Raises:
        ValueError: if a value is out of range, or the solver cannot be imported.
    """

    num_channels: Count = 50
    kurtosis_weight: NonNegative = 0.3
    fidelity_weight: NonNegative = 1.0
    mask_threshold: NonNegative = 4.0
    skew_threshold: NonNegative = 10.0
    masked_token_weight: FractionOrZero = 0.01
    deflation: Literal["mask", "subtract"] = "mask"
    subtraction: FractionOrZero | None = None
    solver: str = "geodesic"
    seed: int = 0
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    geodesic: GeodesicConfig = field(default_factory=GeodesicConfig)

    @field_validator("solver")
    @classmethod
    def _importable(cls, solver: str) -> str:
        if solver not in SOLVERS:
            import_solver(solver)
        return solver
