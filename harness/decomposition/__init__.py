"""ROTATE: weight vectors taken apart into vocabulary channels, on PyTorch alone.

Source: Avrahamy, Gur-Arieh, Geva 2026, "Disentangling MLP Neuron Weights in Vocabulary Space", arXiv:2604.06005 ([R]).
"""

from harness.decomposition.adamw import AdamWConfig
from harness.decomposition.decompose import Decomposition, DecompositionConfig, decompose
from harness.decomposition.deflation import tail_mask
from harness.decomposition.geodesic import GeodesicConfig
from harness.decomposition.measures import Consistency, consistency, random_vectors, reconstruction
from harness.decomposition.objective import kurtosis, skewness, slog, z_scores

__all__ = [
    "AdamWConfig",
    "Consistency",
    "Decomposition",
    "DecompositionConfig",
    "GeodesicConfig",
    "consistency",
    "decompose",
    "kurtosis",
    "random_vectors",
    "reconstruction",
    "skewness",
    "slog",
    "tail_mask",
    "z_scores",
]
