"""Settings of a decomposition, and the names of the solvers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator
from pydantic.dataclasses import dataclass

from harness.validation import STRICT, Count, CountOrZero, FractionOrZero, NonNegative, Positive, Whole

if TYPE_CHECKING:
    from torch import Tensor

Products = Literal["auto", "float32", "tf32", "bfloat16"]
#: Solvers of this package. Any other name is a function of the user, as "module.name".
SOLVERS = ("geodesic", "adamw")


@dataclass(frozen=True, config=STRICT)
class AdamWConfig:
    """Settings of the published optimiser: conf/decomposition/adamw.yaml documents them.

    Every default is that of [R] and its authors' code.
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


@dataclass(frozen=True, config=STRICT)
class GeodesicConfig:
    """Settings of the geodesic solver, which is this project's own: conf/decomposition/fast.yaml documents them."""

    lookahead: CountOrZero = 0
    max_steps: Count = 500
    tolerance: NonNegative = 1e-6
    patience: Count = 2
    refresh_every: Count = 25
    jitter: NonNegative = 0.0
    products: Products = "auto"
    compile: bool | None = None


@dataclass(frozen=True, config=STRICT)
class DecompositionConfig:
    """Settings of ROTATE: conf/decomposition/fast.yaml documents them.

    Defaults are those published for Gemma-2-2B-it, except ``objective`` and ``solver``. Every random number derives
    from ``seed`` and the vector itself. "geodesic" draws random numbers only for ``jitter``.

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
    objective: Literal["weighted", "published"] = "weighted"
    solver: str = "geodesic"
    seed: Whole = 0
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    geodesic: GeodesicConfig = field(default_factory=GeodesicConfig)

    @field_validator("solver")
    @classmethod
    def _importable(cls, solver: str) -> str:
        if solver not in SOLVERS:
            import_solver(solver)
        return solver

    @property
    def independent(self) -> bool:
        """Whether a vector's channels do not depend on the other vectors of a call, beyond rounding."""
        return self.solver == "geodesic"

    def counted(self, token_weights: Tensor) -> Tensor | None:
        """Return which tokens count in scores, kurtosis and skewness, bool like ``token_weights``; None: all.

        Those whose weight before the first channel is above 0. Unused tokens often form one cluster far from all
        others, which would set the standard deviation alone. [R] counts all tokens.
        """
        return None if self.objective == "published" else token_weights > 0

    @model_validator(mode="after")
    def _solvable(self) -> DecompositionConfig:
        if self.solver == "geodesic" and self.objective == "published":
            raise ValueError(
                "objective=published needs solver=adamw (decomposition=published): it has optima that show no concept, "
                "and only the published solver's choice of candidates avoids them"
            )
        return self


def import_solver(name: str) -> Callable[..., Any]:
    """Import a function by its dotted name; :class:`harness.decomposition.custom.Decompose` is its signature.

    Raises:
        ValueError: in one line, if the function does not exist.
    """
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"solver must be 'geodesic', 'adamw' or a function as 'module.name', not {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"solver={name} cannot be imported ({error}): is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise ValueError(f"solver={name} is not a function")
    function: Callable[..., Any] = found
    return function
