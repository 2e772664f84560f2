"""ROTATE: decomposition of weight vectors into vocabulary channels. Needs PyTorch and pydantic only.

Source: Avrahamy, Gur-Arieh, Geva 2026, "Disentangling MLP Neuron Weights in Vocabulary Space", arXiv:2604.06005 ([R]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import lazy_exports

if TYPE_CHECKING:
    from harness.decomposition.ablate import ablation
    from harness.decomposition.channels import Decomposition
    from harness.decomposition.config import AdamWConfig, DecompositionConfig, GeodesicConfig
    from harness.decomposition.deflation import tail_mask
    from harness.decomposition.measures import consistency, directions_at_cosine, random_vectors, reconstruction
    from harness.decomposition.memory import default_budget, vectors_within
    from harness.decomposition.objective import kurtosis, skewness, z_scores
    from harness.decomposition.search import decompose

__all__ = [
    "AdamWConfig",
    "Decomposition",
    "DecompositionConfig",
    "GeodesicConfig",
    "ablation",
    "consistency",
    "decompose",
    "default_budget",
    "directions_at_cosine",
    "kurtosis",
    "random_vectors",
    "reconstruction",
    "skewness",
    "tail_mask",
    "vectors_within",
    "z_scores",
]

__getattr__ = lazy_exports(__name__, __file__)
