"""Realistic synthetic weights of any shape: an anisotropic, clustered vocabulary, and vectors that mix its clusters.

Needs torch only, so that it runs on a bare GPU machine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clustered_vocabulary(d_model: int, tokens: int, *, device: str = "cpu", seed: int = 0) -> Tensor:
    """Return a projection (d_model, tokens), float32.

    Real embeddings share a common direction, form groups of related words whose sizes span orders of magnitude, have a
    decaying spectrum, and norms that vary by about 20 %.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    clusters = max(8, tokens // 25)
    # Zipf: the k-th cluster is drawn in proportion to 1 / (k + 10).
    sizes = 1.0 / (torch.arange(clusters, device=device) + 10.0)
    member = torch.multinomial(sizes, tokens, replacement=True, generator=generator)
    spectrum = torch.arange(1, d_model + 1, device=device) ** -0.4
    spectrum /= spectrum.square().mean().sqrt()
    projection = torch.empty(d_model, tokens, device=device)
    centres = normal(clusters, d_model)
    common = normal(d_model)
    for some in torch.split(torch.arange(tokens, device=device), 2**14):  # bounded memory at 256,000 x 4096
        rows = (0.8 * centres[member[some]] + 0.6 * normal(len(some), d_model)) * spectrum + 0.5 * common
        projection[:, some] = (rows * torch.exp(0.2 * normal(len(some), 1)) / math.sqrt(d_model)).T
    return projection


def mixed_vectors(projection: Tensor, count: int, *, seed: int = 1) -> Tensor:
    """Return ``count`` vectors (count, d_model), each a mix of a few tokens and their clusters plus noise."""
    generator = torch.Generator(projection.device).manual_seed(seed)
    picked = torch.randint(projection.shape[1], (count, 6), generator=generator, device=projection.device)
    centred = projection - projection.mean(dim=1, keepdim=True) if projection.numel() < 2**26 else projection
    shares = torch.randn(count, 6, 1, generator=generator, device=projection.device)
    mixed = (centred.T[picked] * shares).sum(dim=1)
    noise = torch.randn(count, projection.shape[0], generator=generator, device=projection.device)
    size = torch.linalg.vector_norm(mixed, dim=-1, keepdim=True)
    vectors: Tensor = mixed + noise * size / math.sqrt(projection.shape[0])
    return vectors
