"""Decompositions other than ROTATE: a user's function replaces the search.

``decomposition.solver=mine.halves`` calls ``halves`` of ``mine.py`` with the weight vectors. Its channels are measured,
recorded, described and judged like ROTATE's, and so can be compared with them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from harness.decomposition.config import DecompositionConfig, import_solver


class Decompose(Protocol):
    """Signature of such a function. It works on the device of its inputs, and may be called once per block."""

    def __call__(
        self, vectors: Tensor, projection: Tensor, token_weights: Tensor, config: DecompositionConfig
    ) -> Tensor:
        """Decompose vectors into channels.

        Args:
            vectors: (N, d_model), none zero.
            projection: (d_model, V).
            token_weights: (1, V) or (N, V), 0 for tokens that the model does not use.
            config: the number of channels, and the seed of all random choices.

        Returns:
            (N, num_channels, d_model), finite and none zero; only their directions count.
        """


def directions(
    name: str, vectors: Tensor, projection: Tensor, token_weights: Tensor, config: DecompositionConfig
) -> Tensor:
    """Call the function ``name`` and check its result.

    Returns:
        (N, num_channels, d_model), of unit length, in the dtype of the vectors.

    Raises:
        ValueError: in one line, if the function does not exist or breaks the contract of :class:`Decompose`.
    """
    function: Decompose = import_solver(name)
    found: object = function(vectors, projection, token_weights, config)
    expected = (len(vectors), config.num_channels, vectors.shape[1])
    if not isinstance(found, Tensor) or found.shape != expected:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name} must return (N, num_channels, d_model)={expected}, not {got}")
    found = found.to(vectors)
    lengths = found.norm(dim=-1, keepdim=True)
    if not torch.isfinite(lengths).all() or bool((lengths == 0).any()):
        raise ValueError(f"{name} returned channels that are zero, NaN or infinite")
    units: Tensor = found / lengths
    return units
