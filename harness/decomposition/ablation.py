"""What is lost when a channel is taken out of its vector, by the vocabulary alone: no text, no model run, no judge.

Source of the question: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R]): an ablated channel's tokens must no
longer activate the neuron (faithful), and the channels together must account for it (complete). [R] publishes 0.46-0.71
for the former and 0.49-0.60 for the latter, above sparse autoencoders. How its authors measure the two, on which tokens
and with what text, our sources do not say: these figures compare with each other and with chance, not with theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.objective import skewness


@dataclass(frozen=True)
class Ablation:
    """What N vectors lose without their channels. A response is a token's projection beyond the vocabulary's mean.

    Of ``gate`` and ``in`` it is how much the token's direction in the residual stream adds to what the vector reads; of
    ``out``, how much the neuron promotes the token. As an activation would, it counts only as far as it has its sign.
    Beside each figure stands what a random direction as near to the vector gives: removing it, too, takes away the
    squared cosine of the whole vector and with it of every response.

    Attributes:
        faithful: (N, C), share of the response on the channel's own tokens that goes with the channel: at most 1,
            chance ``chance``; nan if the vector does not respond to them.
        kept: (N, C), mean share, over the other channels, of the response on their tokens that stays: 1 if nothing
            else is touched, chance 1 - ``chance``; nan if there is no other channel that can tell.
        chance: (N, C), squared cosine of channel and vector.
        complete: (N,), share of the response on the vector's own strongest tokens that goes with all channels at once:
            1 if they account for it.
        complete_chance: (N,), what as many random directions at the same cosines take away.
    """

    faithful: Tensor
    kept: Tensor
    chance: Tensor
    complete: Tensor
    complete_chance: Tensor


def ablation(
    vectors: Tensor, directions: Tensor, projection: Tensor, *, top_tokens: int = 20, tokens: Tensor | None = None
) -> Ablation:
    """Take each channel, and all channels, out of their vectors.

    To take directions out is to leave the part of the vector that is orthogonal to them.

    Args:
        vectors: (N, d_model), not zero.
        directions: (N, C, d_model), their channels.
        projection: (d_model, V).
        top_tokens: a channel's tokens: so many of the tail that its projection's skewness points to, furthest first;
            and so many of a vector's own, at either end.
        tokens: (V,) bool, the tokens that may be among them; None: all.

    Raises:
        ValueError: if the shapes do not fit together, or there are fewer tokens than ``top_tokens``.
    """
    if directions.ndim != 3 or vectors.shape != (directions.shape[0], directions.shape[2]):
        raise ValueError(
            f"directions must be (N, C, d_model) for vectors (N, d_model), not {tuple(directions.shape)} "
            f"for {tuple(vectors.shape)}"
        )
    allowed = projection.shape[1] if tokens is None else int(tokens.sum())
    if not 1 <= top_tokens <= allowed:
        raise ValueError(f"top_tokens must be from 1 to the number of tokens, {allowed}, not {top_tokens}")
    targets, units = normalize(vectors.float(), dim=-1), normalize(directions.float(), dim=-1)
    cosines = torch.einsum("ncd,nd->nc", units, targets)
    mean = projection.float().mean(dim=1)
    one_by_one = [
        _one_by_one(
            target @ projection - target @ mean, own @ projection - (own @ mean)[:, None], cosine, top_tokens, tokens
        )
        for target, own, cosine in zip(targets, units, cosines, strict=True)
    ]
    # Orthonormal bases of the spans: directions that add nothing to those before them have no singular value.
    _, sizes, spans = torch.linalg.svd(units.double(), full_matrices=False)
    spans = spans * (sizes > 1e-6 * sizes[:, :1]).unsqueeze(-1)
    rest = targets.double() - torch.einsum("nkd,nk->nd", spans, torch.einsum("nkd,nd->nk", spans, targets.double()))
    complete = torch.stack(
        [
            _complete(target @ projection - target @ mean, left @ projection - left @ mean, top_tokens, tokens)
            for target, left in zip(targets, rest.float(), strict=True)
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
        response: (V,), of the vector, of unit length.
        channels: (C, V), of its channels, of unit length.
        cosines: (C,), between them.
        count: tokens of a channel.
        tokens: (V,) bool, those that may be among them.
    """
    side = torch.where(skewness(channels) >= 0, 1.0, -1.0).to(channels.dtype)[:, None]
    outward = channels * side if tokens is None else (channels * side).masked_fill(~tokens, -torch.inf)
    top = outward.topk(count, dim=1).indices  # (C, K)
    before = (side * response[top]).clamp_min(0)  # (C, K), relu like an activation
    after = (side * (response[top] - cosines[:, None, None] * channels[:, top])).clamp_min(0)  # (removed, C, K)
    # A token of both is no token of the other.
    alone = ~(top[:, None, :, None] == top[None, :, None, :]).any(dim=2)  # (removed, C, K)
    own = torch.eye(len(top), dtype=torch.bool, device=top.device)
    counted = alone | own[:, :, None]
    had = (before * counted).sum(dim=2)
    share = torch.where(had > 0, (after * counted).sum(dim=2) / had, torch.nan)  # (removed, C)
    return 1 - share.diagonal(), share.masked_fill(own, torch.nan).nanmean(dim=1)


def _complete(response: Tensor, rest: Tensor, count: int, tokens: Tensor | None) -> Tensor:
    strength = response.abs() if tokens is None else response.abs().masked_fill(~tokens, -torch.inf)
    top = strength.topk(count).indices
    left = (response[top].sign() * rest[top]).clamp_min(0)
    return 1 - left.sum() / strength[top].sum()
