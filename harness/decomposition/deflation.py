"""Deflation: prevents the next search from finding the same channel ([R])."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.objective import CentralMoments, centred, mean, z_scores

# Tokens that a mask covers at least, if it would cover none that still counts.
_TOKENS_MASKED_AT_LEAST = 20
# The authors' search for the share to subtract: number of shares, and z-score and skewness of extreme tokens.
_SHARES, _EXTREME, _EXTREME_SKEWNESS = 1000, 7.0, 0.05
# A remainder shorter than this is mostly rounding error and gives no direction to search from.
_SHORTEST_REST = 1e-3


def tail_mask(z: Tensor, threshold: float, skew_threshold: float, counted: Tensor | None = None) -> Tensor:
    """Return which tokens carry a channel.

    Args:
        z: (N, V), z-scores of the channel's projection.
        threshold: t of [R], in standard deviations.
        skew_threshold: skewness beyond which only the heavier tail carries the channel: the upper tail (z > t) if the
            skewness is above it, the lower tail (z < -t) if it is below its negative; otherwise both (|z| > t).
        counted: (1, V) or (N, V) bool, the tokens that count; None: all. A mask covers no others.

    Returns:
        (N, V) bool.
    """
    skewness = mean(z**3, counted)
    above, below = z > threshold, z < -threshold
    mask = (above & ~(skewness < -skew_threshold)) | (below & ~(skewness > skew_threshold))
    return mask if counted is None else mask & counted


def with_fresh_tokens(mask: Tensor, z: Tensor, skewness: Tensor, free: Tensor) -> Tensor:
    """Extend every mask that covers no free token by the top free tokens of its heavier tail.

    Otherwise the next search would find the same channel again.

    Args:
        mask: (N, V) bool.
        z: (N, V), z-scores.
        skewness: (N,), its sign is that of the heavier tail.
        free: (N, V) bool, tokens that count and that no earlier channel masked.

    Returns:
        (N, V) bool.
    """
    stalled = ~(mask & free).any(dim=-1)
    if stalled.any():
        side = torch.where(skewness[stalled] >= 0, 1.0, -1.0).to(z.dtype).unsqueeze(-1)
        outward = (z[stalled] * side).masked_fill(~free[stalled], -torch.inf)
        top = outward.topk(min(_TOKENS_MASKED_AT_LEAST, z.shape[-1]), dim=-1).indices
        mask = mask.clone()
        mask[stalled] |= torch.zeros_like(mask[stalled]).scatter(-1, top, True) & free[stalled]
    return mask


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


def subtract(
    targets: Tensor,
    directions: Tensor,
    share: float | None,
    *,
    projection: Tensor,
    lengths: Tensor,
    counted: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Subtract a channel from what remains of a vector: the ablation of [R].

    Args:
        targets: (N, d_model), of unit length.
        directions: (N, d_model), the channels, of unit length.
        share: alpha; None: the authors' choice, see :func:`_best_share`.
        projection: U, (d_model, V).
        lengths: (N, 1), the lengths of what remains.
        counted: (1, V) or (N, V) bool, the tokens that count in the kurtosis; None: all.

    Returns:
        (N, d_model) the remainder at unit length, and (N, 1) the length it had, as a share of ``lengths``. If almost
        nothing remains, the target and 1.
    """
    if share is None:
        alpha = _best_share(targets @ projection, directions @ projection, lengths, counted)
    else:
        alpha = torch.full_like(targets[:, :1], share)
    rest = targets - alpha * directions
    length = rest.norm(dim=-1, keepdim=True)
    gone = length < _SHORTEST_REST
    return torch.where(gone, targets, normalize(rest, dim=-1)), torch.where(gone, torch.ones_like(length), length)


def _best_share(target: Tensor, channel: Tensor, lengths: Tensor, counted: Tensor | None) -> Tensor:
    """Return the share of each channel to subtract, (N, 1), by the criterion of the authors' code.

    Of 1,000 shares from 0 to 1 it is the one with the lowest kurtosis(rest) + 5 * mean |rest| over the channel's
    extreme tokens, where rest is the projection of what remains; 0 if the kurtosis does not fall. A token is extreme
    if its z-score in the channel is above 7 on the side of the skewness, or on either side if the skewness is within
    0.05.

    Args:
        target: (N, V), projections of the targets at unit length.
        channel: (N, V), projections of the channels at unit length.
        lengths: (N, 1), their true lengths.
        counted: the tokens that count in kurtosis and skewness.
    """
    shares = torch.linspace(0.0, 1.0, _SHARES, dtype=torch.float64, device=target.device)
    here, there = centred(target, counted).double(), centred(channel, counted).double()

    def moment(order: int) -> Tensor:
        """Return the central moments (N, shares) of target - share * channel, a polynomial in the share."""
        terms = [
            math.comb(order, j) * mean(here ** (order - j) * there**j, counted) * (-shares) ** j
            for j in range(order + 1)
        ]
        return torch.stack(terms).sum(dim=0)

    sparsity = CentralMoments(moment(2), moment(3), moment(4)).kurtosis
    z = z_scores(channel, counted)
    extreme = tail_mask(z, _EXTREME, _EXTREME_SKEWNESS, counted)
    left = torch.stack(
        [
            (row[:, None] - shares * part[:, None]).abs().sum(dim=0) / max(1, len(row))
            for row, part in ((target[i, some].double(), channel[i, some].double()) for i, some in enumerate(extreme))
        ]
    )
    best = (sparsity + 5.0 * lengths.double() * left).argmin(dim=-1, keepdim=True)
    falls = sparsity.gather(-1, best) < sparsity[:, :1]
    return torch.where(falls, shares[best], 0.0).to(target.dtype)
