"""Deflation: prevents the next search from finding the same channel ([R])."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.objective import mean

_TOKENS_MASKED_AT_LEAST = 20
# A remainder shorter than this is mostly rounding error and gives no direction to search from.
_SHORTEST_REST = 1e-3


def tail_mask(z: Tensor, threshold: float, skew_threshold: float, counted: Tensor | None = None) -> Tensor:
    """Return which tokens carry a channel.

    Args:
        z: (N, V), z-scores of the channel's unweighted projection.
        threshold: t of [R], in standard deviations.
        skew_threshold: skewness beyond which only the heavier tail carries the channel: the upper tail (z > t) if the
            skewness is above it, the lower tail (z < -t) if it is below its negative; otherwise both (|z| > t).

    Returns:
        (N, V) bool.
    """
    skewness = mean(z**3, counted)
    above, below = z > threshold, z < -threshold
    mask = (above & ~(skewness < -skew_threshold)) | (below & ~(skewness > skew_threshold))
    return mask if counted is None else mask & counted


def with_fresh_tokens(mask: Tensor, z: Tensor, skewness: Tensor, free: Tensor) -> Tensor:
    """Return masks in which a mask that covers no free token also covers the top free tokens of its heavier tail.

    Otherwise the next search would find the same channel again.

    Args:
        mask: (N, V) bool.
        z: (N, V), z-scores.
        skewness: (N,), its sign is that of the heavier tail.
        free: (N, V) bool, tokens that count and that no earlier channel masked.
    """
    stalled = ((mask & free).sum(dim=-1) < int(__import__("os").environ.get("FRESH", "1"))).nonzero().squeeze(-1)
    if len(stalled) == 0:
        return mask
    side = torch.where(skewness[stalled] >= 0, 1.0, -1.0).to(z.dtype).unsqueeze(-1)
    outward = (z[stalled] * side).masked_fill(~free[stalled], -torch.inf)
    top = outward.topk(min(_TOKENS_MASKED_AT_LEAST, z.shape[-1]), dim=-1).indices
    wider = mask.clone()
    wider[stalled] = mask[stalled].scatter(-1, top, True)
    return wider


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
