"""Measures of a set of channels, whichever method found them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.objective import skewness


def check_channels(vectors: Tensor, directions: Tensor) -> None:
    """Raise ValueError unless ``directions`` is (N, C, d_model) for ``vectors`` (N, d_model)."""
    if directions.ndim != 3 or vectors.shape != (directions.shape[0], directions.shape[2]):
        raise ValueError(
            f"directions must be (N, C, d_model) for vectors (N, d_model), not {tuple(directions.shape)} "
            f"for {tuple(vectors.shape)}"
        )


def check_top_tokens(top_tokens: int, projection: Tensor, tokens: Tensor | None) -> None:
    """Raise ValueError unless ``top_tokens`` is from 1 to the number of tokens to choose from."""
    allowed = projection.shape[1] if tokens is None else int(tokens.sum())
    if not 1 <= top_tokens <= allowed:
        raise ValueError(f"top_tokens must be from 1 to the number of tokens, {allowed}, not {top_tokens}")


def heavier_tail(projected: Tensor, count: int, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sign of the heavier tail of each projection (C, V), and the furthest tokens in it.

    The heavier tail is that of the skewness over the tokens to choose from.

    Args:
        projected: (C, V).
        count: tokens per projection.
        tokens: (V,) bool, the tokens to choose from; None: all.

    Returns:
        Signs (C, 1), 1 or -1; and token ids (C, count), furthest first.
    """
    side = torch.where(skewness(projected, tokens) >= 0, 1.0, -1.0).to(projected.dtype).unsqueeze(1)
    outward = projected * side
    if tokens is not None:
        outward = outward.masked_fill(~tokens, -torch.inf)
    return side, outward.topk(count, dim=1).indices


def reconstruction(vectors: Tensor, directions: Tensor) -> Tensor:
    """Return how much of each vector its first channels span.

    Args:
        vectors: (N, d_model), not zero.
        directions: (N, C, d_model), the channels in order of discovery. A channel in the span of the earlier ones
            (within rounding) adds nothing.

    Returns:
        (N, C) in the dtype of ``directions``: entry C is the share of the squared norm of the vector inside the span of
        the first C + 1 directions, between 0 and 1 and never falling. The sources disagree on
        the published value for 50 channels: above 0.99 of the norm (abstract pages), or a cosine above 0.95 and an
        explained norm above 0.7 (a third-party note).

    Raises:
        ValueError: if the shapes do not match.
    """
    check_channels(vectors, directions)
    negligible = 16.0 * torch.finfo(directions.dtype).eps
    targets = normalize(vectors.double(), dim=-1)
    basis = torch.zeros(directions.shape, dtype=torch.float64, device=directions.device)
    for channel, direction in enumerate(normalize(directions.double(), dim=-1).unbind(dim=1)):
        rest = direction
        # Two passes of Gram-Schmidt: the second removes the rounding errors of the first.
        for _ in range(2):
            known = torch.einsum("ncd,nd->nc", basis, rest)
            rest = rest - torch.einsum("ncd,nc->nd", basis, known)
        fresh = rest.norm(dim=-1, keepdim=True) > negligible
        basis[:, channel] = torch.where(fresh, normalize(rest, dim=-1), torch.zeros_like(rest))
    shares = torch.einsum("ncd,nd->nc", basis, targets) ** 2
    return shares.cumsum(dim=-1).clamp_max(1.0).to(directions.dtype)


def without_span(vectors: Tensor, directions: Tensor) -> Tensor:
    """Return what is left of vectors (N, d_model) without the span of their directions (N, C, d_model)."""
    # Orthonormal bases of the spans. A direction inside the span of the others has a singular value of 0.
    _, sizes, spans = torch.linalg.svd(directions.double(), full_matrices=False)
    spans = spans * (sizes > 1e-6 * sizes[:, :1]).unsqueeze(-1)
    inside = torch.einsum("nkd,nk->nd", spans, torch.einsum("nkd,nd->nk", spans, vectors.double()))
    return (vectors.double() - inside).to(vectors)


@dataclass(frozen=True)
class Consistency:
    """Agreement of two decompositions of the same N vectors, for each channel of the first.

    Attributes:
        partner: (N, C) int64, the channel of the second decomposition matched with each channel of the first.
        cosine: (N, C), between partners.
        jaccard: (N, C), Jaccard index of the partners' top tokens.
        apart: (N,), mean cosine of channels that are not partners; nan if there is only one channel. All channels of a
            vector are near the vector: this is the agreement that follows from it alone.
    """

    partner: Tensor
    cosine: Tensor
    jaccard: Tensor
    apart: Tensor


def consistency(
    first: Tensor, second: Tensor, projection: Tensor, *, top_tokens: int = 20, tokens: Tensor | None = None
) -> Consistency:
    """Compare two decompositions of the same vectors, such as from two seeds.

    Channels are matched one to one, greedily: the closest free pair first. The optimal assignment can only have a
    higher total, so the result is a lower bound. [R] publishes about 0.9 for the cosine and 0.8 for the Jaccard index
    between two seeds, but does not state how channels are matched or how many tokens are compared.

    Args:
        first: (N, C, d_model), the channels of one decomposition.
        second: (N, C, d_model), those of the other.
        projection: (d_model, V).
        top_tokens: number of tokens of a channel that are compared, the furthest in the heavier tail of its projection.
        tokens: (V,) bool, the tokens to choose from; None: all.

    Raises:
        ValueError: if the shapes do not match, or there are fewer tokens than ``top_tokens``.
    """
    if first.ndim != 3 or first.shape != second.shape:
        raise ValueError(
            f"first and second must both be (N, C, d_model), not {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if projection.ndim != 2 or len(projection) != first.shape[2]:
        raise ValueError(f"projection must be (d_model, V) for channels (N, C, d_model), not {tuple(projection.shape)}")
    check_top_tokens(top_tokens, projection, tokens)
    count, channels = first.shape[:2]
    cosines = normalize(first, dim=-1) @ normalize(second, dim=-1).mT
    partner = _matched(cosines)
    cosine = cosines.gather(2, partner.unsqueeze(2)).squeeze(2)
    apart = (cosines.sum(dim=(1, 2)) - cosine.sum(dim=1)) / (channels * (channels - 1))  # nan (0 / 0) for one channel
    jaccard = torch.empty_like(cosine)
    # One vector at a time: the projections of all channels of all vectors would not fit into memory.
    for row in range(count):
        _, ours = heavier_tail(first[row] @ projection, top_tokens, tokens)
        _, theirs = heavier_tail(second[row, partner[row]] @ projection, top_tokens, tokens)
        shared = (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(dim=2).sum(dim=1)
        jaccard[row] = shared / (2 * top_tokens - shared)
    return Consistency(partner, cosine, jaccard, apart)


def _matched(similarity: Tensor) -> Tensor:
    """Return the column matched with each row of every (C, C) matrix: of all free pairs, the most similar first."""
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


def directions_at_cosine(vector: Tensor, cosines: Sequence[float], seed: int) -> Tensor:
    """Draw random unit vectors with given cosines with a vector, uniform in the directions orthogonal to it.

    Args:
        vector: (d_model,), not zero.
        cosines: C numbers from -1 to 1.
        seed: seed of the draw, which is the same on every device.

    Returns:
        (C, d_model), in the dtype of ``vector``.
    """
    unit = normalize(vector, dim=0)
    drawn = torch.randn(len(cosines), len(unit), generator=torch.Generator().manual_seed(seed)).to(unit)
    across = normalize(drawn - (drawn @ unit)[:, None] * unit, dim=-1)
    along = unit.new_tensor(cosines)[:, None]
    return along * unit + (1 - along**2).clamp_min(0).sqrt() * across


def random_vectors(population: Tensor, count: int, *, seed: int, covariance: bool = True) -> Tensor:
    """Draw random vectors as a baseline: what is also found in them is not a property of neurons.

    The fair baseline shares the mean and covariance of the layer's weight vectors. Weight vectors and embeddings both
    lie along few directions of the residual stream, so isotropic vectors differ from neurons in that alone, which says
    nothing about concepts.

    Args:
        population: (M, d_model), weight vectors of one layer and kind, ideally all of them.
        count: number of vectors to draw.
        seed: seed of the draw, which is the same on every device.
        covariance: whether to draw with the mean and covariance of ``population``; otherwise isotropically.

    Returns:
        (count, d_model), each with the norm of a random member of the population.
    """
    generator = torch.Generator().manual_seed(seed)
    norm_of = torch.randint(len(population), (count,), generator=generator).to(population.device)
    if covariance:
        # A Gaussian mixture of the deviations has their covariance, without a factorisation.
        shares = torch.randn(count, len(population), generator=generator, dtype=population.dtype)
        mean = population.mean(dim=0)
        drawn = mean + shares.to(population.device) @ (population - mean) / len(population) ** 0.5
    else:
        drawn = torch.randn(count, population.shape[1], generator=generator, dtype=population.dtype)
        drawn = drawn.to(population.device)
    vectors: Tensor = normalize(drawn, dim=-1) * population[norm_of].norm(dim=-1, keepdim=True)
    return vectors
