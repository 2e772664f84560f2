"""What a set of channels is worth, whatever found them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.objective import skewness


def reconstruction(vectors: Tensor, directions: Tensor) -> Tensor:
    """Return how much of each vector its first channels span.

    Args:
        vectors: (N, d_model), not zero.
        directions: (N, C, d_model), the channels in order of discovery. One that lies in the span of those before it
            (within rounding) adds nothing.

    Returns:
        (N, C) in the dtype of ``directions``: entry C is the share of the squared norm of the vector inside the span of
        the first C + 1 directions, between 0 and 1 and never falling. [R] publishes above 0.99 for 50 channels.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if directions.ndim != 3 or vectors.shape != (directions.shape[0], directions.shape[2]):
        raise ValueError(
            f"directions must be (N, C, d_model) for vectors (N, d_model), not {tuple(directions.shape)} "
            f"for {tuple(vectors.shape)}"
        )
    negligible = 16.0 * torch.finfo(directions.dtype).eps
    targets = normalize(vectors.double(), dim=-1)
    basis = torch.zeros(directions.shape, dtype=torch.float64, device=directions.device)
    for channel, direction in enumerate(normalize(directions.double(), dim=-1).unbind(dim=1)):
        rest = direction
        # Once more than Gram and Schmidt: the second pass removes what rounding left behind in the first.
        for _ in range(2):
            known = torch.einsum("ncd,nd->nc", basis, rest)
            rest = rest - torch.einsum("ncd,nc->nd", basis, known)
        fresh = rest.norm(dim=-1, keepdim=True) > negligible
        basis[:, channel] = torch.where(fresh, normalize(rest, dim=-1), torch.zeros_like(rest))
    shares = torch.einsum("ncd,nd->nc", basis, targets) ** 2
    return shares.cumsum(dim=-1).clamp_max(1.0).to(directions.dtype)


@dataclass(frozen=True)
class Consistency:
    """How two decompositions of the same N vectors agree, channel by channel of the first.

    Attributes:
        partner: (N, C) int64, the channel of the second decomposition that each channel of the first is matched with.
        cosine: (N, C), between partners.
        jaccard: (N, C), of the partners' top tokens.
        apart: (N,), mean cosine of channels that are not partners; nan if there is one channel only. All channels
            share a part, their vector: this is what they agree by that alone.
    """

    partner: Tensor
    cosine: Tensor
    jaccard: Tensor
    apart: Tensor


def consistency(
    first: Tensor, second: Tensor, projection: Tensor, *, top_tokens: int = 20, tokens: Tensor | None = None
) -> Consistency:
    """Compare two decompositions of the same vectors, such as from two seeds.

    Channels are matched one to one, the closest pair that is still free first. The best assignment there is can only
    have a higher total: what is returned is a lower bound of it. [R] publishes about 0.9 for the cosine and 0.8 for the
    Jaccard index between two seeds; how its authors match, and how many tokens they take, our sources do not say.

    Args:
        first: (N, C, d_model), the channels of one decomposition.
        second: (N, C, d_model), those of the other.
        projection: (d_model, V).
        top_tokens: tokens of a channel that are compared: those of the tail that its projection's skewness points to,
            furthest first.
        tokens: (V,) bool, the tokens that may be among them; None: all.

    Raises:
        ValueError: if the shapes do not fit together, or there are fewer tokens than ``top_tokens``.
    """
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(f"first and second must both be (N, C, d_model), not {_shapes(first, second)}")
    if projection.ndim != 2 or len(projection) != first.shape[2]:
        raise ValueError(f"projection must be (d_model, V) for channels (N, C, d_model), not {_shapes(projection)}")
    allowed = projection.shape[1] if tokens is None else int(tokens.sum())
    if not 1 <= top_tokens <= allowed:
        raise ValueError(f"top_tokens must be from 1 to the number of tokens, {allowed}, not {top_tokens}")
    count, channels = first.shape[:2]
    cosines = normalize(first, dim=-1) @ normalize(second, dim=-1).mT
    partner = _matched(cosines)
    cosine = cosines.gather(2, partner.unsqueeze(2)).squeeze(2)
    apart = (cosines.sum(dim=(1, 2)) - cosine.sum(dim=1)) / (channels * (channels - 1))  # 0 / 0 is nan, as promised
    jaccard = torch.empty_like(cosine)
    # One vector at a time: the projections of all channels of many would not fit into memory.
    for row in range(count):
        ours = _top(first[row] @ projection, top_tokens, tokens)
        theirs = _top(second[row, partner[row]] @ projection, top_tokens, tokens)
        shared = (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(dim=2).sum(dim=1)
        jaccard[row] = shared / (2 * top_tokens - shared)
    return Consistency(partner, cosine, jaccard, apart)


def _matched(similarity: Tensor) -> Tensor:
    """Return for each row of every (C, C) matrix its column: of all pairs still free, the most similar first."""
    left = similarity.clone()
    count, channels = left.shape[:2]
    every = torch.arange(count, device=left.device)
    partner = torch.empty((count, channels), dtype=torch.int64, device=left.device)
    for _ in range(channels):
        best = left.flatten(1).argmax(dim=1)
        row, column = best // channels, best % channels
        partner[every, row] = column
        left[every, row] = -torch.inf
        left[every, :, column] = -torch.inf
    return partner


def _top(projected: Tensor, count: int, tokens: Tensor | None) -> Tensor:
    """Return the ids (C, count) of the tokens furthest out in the heavier tail of each projection (C, V)."""
    side = torch.where(skewness(projected) >= 0, 1.0, -1.0).to(projected.dtype)
    outward = projected * side.unsqueeze(1)
    if tokens is not None:
        outward = outward.masked_fill(~tokens, -torch.inf)
    return outward.topk(count, dim=1).indices


def random_vectors(population: Tensor, count: int, *, seed: int, covariance: bool = True) -> Tensor:
    """Draw vectors to decompose beside those of a model: what is found in these too, is no property of a neuron.

    The fair baseline has the mean and the covariance of the layer's own weight vectors. The vectors of a layer lie
    along few directions of the residual stream, and so do its embeddings: directions drawn evenly would differ from
    neurons in that already, which says nothing about concepts. A Gaussian that shares mean and covariance differs from
    the neurons only by what makes them single neurons and not blends of their layer.

    Args:
        population: (M, d_model), weight vectors of one layer and kind, best all of them.
        count: how many to draw.
        seed: the draw's seed; it is the same on every device.
        covariance: whether to draw with the mean and covariance of ``population``; else every direction is as likely
            as any other.

    Returns:
        (count, d_model), each of the norm of one of the population.
    """
    generator = torch.Generator().manual_seed(seed)
    of_whom = torch.randint(len(population), (count,), generator=generator).to(population.device)
    if covariance:
        # A Gaussian mixture of the deviations has their covariance, without a factorisation.
        shares = torch.randn(count, len(population), generator=generator, dtype=population.dtype)
        mean = population.mean(dim=0)
        drawn = mean + shares.to(population.device) @ (population - mean) / len(population) ** 0.5
    else:
        drawn = torch.randn(count, population.shape[1], generator=generator, dtype=population.dtype)
        drawn = drawn.to(population.device)
    vectors: Tensor = normalize(drawn, dim=-1) * population[of_whom].norm(dim=-1, keepdim=True)
    return vectors


def _shapes(*tensors: Tensor) -> str:
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
