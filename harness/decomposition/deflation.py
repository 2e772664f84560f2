"""Deflation: prevents the next search from finding the same channel ([R])."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

# A remainder shorter than this is mostly rounding error and gives no direction to search from.
_SHORTEST_REST = 1e-3


def tail_mask(z: Tensor, threshold: float, skew_threshold: float) -> Tensor:
    """Return which tokens carry a channel.

    Args:
        z: (N, V), z-scores of the channel's unweighted projection.
        threshold: t of [R], in standard deviations.
        skew_threshold: skewness beyond which only the heavier tail carries the channel: the upper tail (z > t) if the
            skewness is above it, the lower tail (z < -t) if it is below its negative; otherwise both (|z| > t).

    Returns:
        (N, V) bool.
    """
    skewness = (z**3).mean(dim=-1, keepdim=True)
    above, below = z > threshold, z < -threshold
    return (above & ~(skewness < -skew_threshold)) | (below & ~(skewness > skew_threshold))


def deflate(weights: Tensor, mask: Tensor, masked_weight: float) -> Tensor:
    """Return token weights in which masked tokens have at most ``masked_weight``; smaller weights, such as 0, remain.

    Args:
        weights: (1, V) or (N, V), the weights before any channel.
        mask: (N, V) bool, the tokens of all channels so far.
        masked_weight: the weight of a masked token.

    Returns:
        (N, V), new.
    """
    return torch.where(mask, weights.clamp_max(masked_weight), weights)


def subtract(targets: Tensor, directions: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
    """Subtract a channel from what remains of a vector: the ablation of [R].

    Args:
        targets: (N, d_model), of unit length.
        directions: (N, d_model), the channels, of unit length.
        share: alpha; None: the value of the grid 0, 0.05, ..., 1 that leaves the shortest remainder.

    Returns:
        (N, d_model) the remainder at unit length, and (N, 1) the length it had. If almost nothing remains, the target
        and 1.
    """
    if share is None:
        # |w - alpha c|^2 = 1 - 2 alpha cos + alpha^2 is smallest at alpha = cos.
        cosine = (targets * directions).sum(dim=-1, keepdim=True)
        alpha = (cosine * 20.0).round().div(20.0).clamp(0.0, 1.0)
    else:
        alpha = torch.full_like(targets[:, :1], share)
    rest = targets - alpha * directions
    length = rest.norm(dim=-1, keepdim=True)
    gone = length < _SHORTEST_REST
    return torch.where(gone, targets, normalize(rest, dim=-1)), torch.where(gone, torch.ones_like(length), length)
