"""Decompositions that are not ROTATE's: a function of yours in the place of its search.

``decomposition.solver=mine.halves`` calls ``halves`` of ``mine.py`` with the weight vectors; what it returns is
measured, recorded, described and judged like ROTATE's channels, and so can be compared with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from harness.decomposition.config import DecompositionConfig


class Decompose(Protocol):
    """What such a function takes and gives. It works on the device of its inputs, and may be called once per block."""

    def __call__(
        self, vectors: Tensor, projection: Tensor, token_weights: Tensor, config: DecompositionConfig
    ) -> Tensor:
        """Take vectors apart.

        Args:
            vectors: (N, d_model), none zero.
            projection: (d_model, V).
            token_weights: (1, V) or (N, V), 0 where a token is none that the model knows.
            config: how many channels, and the seed from which random choices must come.

        Returns:
            (N, num_channels, d_model), finite and none zero; only their directions count.
        """


def function(name: str) -> Decompose:
    """Import a function by its dotted name.

    Raises:
        ValueError: in one line, if there is none.
    """
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"solver must be 'geodesic', 'adamw' or a function as 'module.name', not {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"solver={name} cannot be imported ({error}): is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise ValueError(f"solver={name} is no function")
    return cast(Decompose, found)


def directions(
    name: str, vectors: Tensor, projection: Tensor, token_weights: Tensor, config: DecompositionConfig
) -> Tensor:
    """Call the function and check what it gives.

    Returns:
        (N, num_channels, d_model), of unit length, in the dtype of the vectors.

    Raises:
        ValueError: in one line, if it is not what :class:`Decompose` promises.
    """
    found: object = function(name)(vectors, projection, token_weights, config)
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
