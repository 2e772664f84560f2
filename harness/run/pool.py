"""Decompositions for several measurements in few calls of the solver.

A step of the default solver costs about as much for one vector as for some, because it reads the whole projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.decomposition import Decomposition, DecompositionConfig, decompose
from harness.run.progress import by_difference


@dataclass
class Wanted:
    """Vectors (N, d_model), and their channels once the pool has found them."""

    vectors: Tensor
    config: DecompositionConfig
    found: Decomposition | None = None

    @property
    def channels(self) -> Decomposition:
        """The channels."""
        assert self.found is not None, "the pool has not decomposed its vectors yet"
        return self.found


@dataclass
class Pool:
    """Vectors to decompose with one projection; those with equal settings are decomposed together.

    With a solver whose channels may depend on the other vectors of a call, they are decomposed apart.

    Attributes:
        projection: (d_model, V).
        weights: the token weights, (V,).
        memory: bytes that a call may use besides the projection; None for the default.
    """

    projection: Tensor
    weights: Tensor
    memory: int | None
    _wanted: list[Wanted] = field(default_factory=list)

    def want(self, vectors: Tensor, config: DecompositionConfig) -> Wanted:
        """Add vectors (N, d_model) on the projection's device."""
        self._wanted.append(Wanted(vectors, config))
        return self._wanted[-1]

    @property
    def vectors(self) -> int:
        """The number of vectors."""
        return sum(len(one.vectors) for one in self._wanted)

    def decompose(self, found: Callable[[int], object]) -> None:
        """Find the channels of all vectors, and tell ``found`` the number of those just found."""
        calls: dict[tuple[DecompositionConfig, int | None], list[Wanted]] = {}
        for number, one in enumerate(self._wanted):
            call = None if one.config.independent else number
            calls.setdefault((one.config, call), []).append(one)
        for (config, _), together in calls.items():
            channels = decompose(
                torch.cat([one.vectors for one in together]),
                self.projection,
                token_weights=self.weights,
                config=config,
                memory_budget=self.memory,
                progress=by_difference(found),
            )
            for one, own in zip(together, channels.split([len(one.vectors) for one in together]), strict=True):
                one.found = own
