"""Effect of removing channels from their vectors, measured on the vocabulary alone: no text, model run or judge.

Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R]) ask whether an ablated channel's tokens stop activating the
neuron (faithfulness), and whether the channels together account for the neuron (completeness). [R] publishes 0.46-0.71
and 0.49-0.60, above sparse autoencoders, but does not state which tokens and text it measures on. The values here can
be compared with each other and with chance, not with the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.measures import check_channels, check_top_tokens, heavier_tail, without_span


@dataclass(frozen=True)
class Ablation:
    """What N vectors lose when channels are removed.

    A response is a token's projection minus the mean over the tokens to choose from.

    For ``gate`` and ``in`` vectors a response is how much the token's direction in the residual stream adds to what the
    vector reads; for ``out`` vectors, how much the neuron promotes the token. Like an activation, a response counts
    only if it has the channel's sign. The chance levels are those of a random direction at the same cosine to the
    vector: removing it removes the squared cosine of the vector, and so of every response.

    Attributes:
        faithful: (N, C), share of the response on the channel's own tokens that is lost without the channel: at most
            1, chance ``chance``; nan if the vector does not respond to them.
        kept: (N, C), mean share, over the other channels, of the response on their tokens that remains: 1 if nothing
            else changes, chance 1 - ``chance``; nan if no other channel has a response.
        chance: (N, C), squared cosine of channel and vector.
        complete: (N,), share of the response on the vector's own strongest tokens that is lost without all channels:
            1 if the channels account for it.
        complete_chance: (N,), the same for an equal number of random directions at the same cosines.
    """

    faithful: Tensor
    kept: Tensor
    chance: Tensor
    complete: Tensor
    complete_chance: Tensor


def ablation(
    vectors: Tensor, directions: Tensor, projection: Tensor, *, top_tokens: int = 20, tokens: Tensor | None = None
) -> Ablation:
    """Remove each channel, and all channels together, from their vectors.

    Removing directions leaves the part of the vector that is orthogonal to them.

    Args:
        vectors: (N, d_model), not zero.
        directions: (N, C, d_model), their channels.
        projection: (d_model, V).
        top_tokens: number of tokens of a channel, the furthest in the heavier tail of its projection; and number of
            strongest tokens of a vector, at either end.
        tokens: (V,) bool, the tokens to choose from; None: all.

    Raises:
        ValueError: if the shapes do not match, or there are fewer tokens than ``top_tokens``.
    """
    check_channels(vectors, directions)
    check_top_tokens(top_tokens, projection, tokens)
    targets, units = normalize(vectors.float(), dim=-1), normalize(directions.float(), dim=-1)
    cosines = torch.einsum("ncd,nd->nc", units, targets)
    used = projection if tokens is None else projection[:, tokens]
    mean = used.float().mean(dim=1)
    one_by_one = [
        _one_by_one(
            target @ projection - target @ mean, unit @ projection - (unit @ mean)[:, None], cosine, top_tokens, tokens
        )
        for target, unit, cosine in zip(targets, units, cosines, strict=True)
    ]
    complete = torch.stack(
        [
            _complete(target @ projection - target @ mean, left @ projection - left @ mean, top_tokens, tokens)
            for target, left in zip(targets, without_span(targets, units), strict=True)
        ]
    )
    squares = (cosines**2).clamp_max(1 - 1e-6)
    return Ablation(
        faithful=torch.stack([pair[0] for pair in one_by_one]),
        kept=torch.stack([pair[1] for pair in one_by_one]),
        chance=squares,
        complete=complete,
        complete_chance=1 - 1 / (1 + (squares / (1 - squares)).sum(dim=-1)),
    )


def _one_by_one(
    response: Tensor, channels: Tensor, cosines: Tensor, count: int, tokens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return ``faithful`` and ``kept`` (C,) of one vector.

    Args:
        response: (V,), of the vector at unit length.
        channels: (C, V), responses of its channels at unit length.
        cosines: (C,), between vector and channels.
        count: tokens of a channel.
        tokens: (V,) bool, the tokens to choose from.
    """
    side, top = heavier_tail(channels, count, tokens)  # (C, 1), (C, K)
    before = (side * response[top]).clamp_min(0)  # (C, K), relu as for an activation
    after = (side * (response[top] - cosines[:, None, None] * channels[:, top])).clamp_min(0)  # (removed, C, K)
    # Tokens shared with the removed channel do not count as tokens of the other channel.
    alone = ~(top[:, None, :, None] == top[None, :, None, :]).any(dim=2)  # (removed, C, K)
    itself = torch.eye(len(top), dtype=torch.bool, device=top.device)
    counted = alone | itself[:, :, None]
    total = (before * counted).sum(dim=2)
    share = torch.where(total > 0, (after * counted).sum(dim=2) / total, torch.nan)  # (removed, C)
    return 1 - share.diagonal(), share.masked_fill(itself, torch.nan).nanmean(dim=1)


def _complete(response: Tensor, rest: Tensor, count: int, tokens: Tensor | None) -> Tensor:
    strength = response.abs() if tokens is None else response.abs().masked_fill(~tokens, -torch.inf)
    top = strength.topk(count).indices
    left = (response[top].sign() * rest[top]).clamp_min(0)
    return 1 - left.sum() / strength[top].sum()
