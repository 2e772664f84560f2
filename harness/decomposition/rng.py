"""Random numbers of a decomposition; they depend only on the seed, the channel and the vector itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def random_normals(vectors: Tensor, seed: int, channels: Sequence[int]) -> Tensor:
    """Draw from N(0, I) for every vector, from the seed, the channel and the vector's own bytes.

    Args:
        vectors: (N, d_model).
        seed: the decomposition's seed.
        channels: N channel indices.

    Returns:
        (N, d_model), the same in every batch and on every device.
    """
    drawn = []
    for vector, channel in zip(vectors.detach().cpu().contiguous(), channels, strict=True):
        identity = f"{seed}|{channel}|".encode() + bytes(vector.view(torch.uint8).tolist())
        number = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(number)
        # Drawn on the CPU, so that every device starts from the same numbers.
        drawn.append(torch.randn(vector.shape, generator=generator, dtype=vector.dtype))
    return torch.stack(drawn).to(vectors.device)
