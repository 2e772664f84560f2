"""How the next channel is kept from being the last one again: the last one's tokens lose their weight ([R])."""

from __future__ import annotations

import torch
from torch import Tensor


def tail_mask(z: Tensor, threshold: float, skew_threshold: float) -> Tensor:
    """Return which tokens carry a channel.

    Args:
        z: (N, V), z-scores of the channel's unweighted projection.
        threshold: t of [R], in standard deviations.
        skew_threshold: skewness beyond which only the heavier tail carries the channel: the upper one (z > t) where the
            skewness is above it, the lower one (z < -t) where it is below its negative; else both (|z| > t).

    Returns:
        (N, V) bool.
    """
    skewness = (z**3).mean(dim=-1, keepdim=True)
    above, below = z > threshold, z < -threshold
    return (above & ~(skewness < -skew_threshold)) | (below & ~(skewness > skew_threshold))


def deflate(weights: Tensor, mask: Tensor, masked_weight: float) -> Tensor:
    """Return token weights in which masked tokens have at most ``masked_weight``; smaller ones, such as 0, stay.

    Args:
        weights: (1, V) or (N, V), the weights so far.
        mask: (N, V) bool.
        masked_weight: the weight of a masked token.

    Returns:
        (N, V), new.
    """
    return torch.where(mask, weights.clamp_max(masked_weight), weights)
