"""ROTATE: a vector taken apart into vocabulary channels, one after the other ([R])."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from harness.decomposition import adamw, geodesic
from harness.decomposition.adamw import AdamWConfig
from harness.decomposition.checks import require, require_count
from harness.decomposition.deflation import deflate, tail_mask
from harness.decomposition.geodesic import GeodesicConfig
from harness.decomposition.objective import Objective, central_moments, z_scores

_ROWS_NAMED = 10


@dataclass(frozen=True)
class DecompositionConfig:
    """What ROTATE looks for, and how. Defaults are those published for Gemma-2-2B-it unless said otherwise.

    Attributes:
        num_channels: channels per vector; 50 in [R] (30 for Llama-3.1-8B layers 8, 16, 26).
        kurtosis_weight: lambda_k, the weight of slog(kurtosis) in the loss; 0.3 in [R] (Gemma layer 18 ``out``: 0.5).
        fidelity_weight: lambda_f, the weight of 1 - cosine in the loss; 1.0 in [R].
        mask_threshold: z-score beyond which a token belongs to a channel, in standard deviations; 4 in [R] for Gemma-2,
            6 for Llama-3.1-8B (layer 22: 8).
        skew_threshold: skewness of a projection beyond which only its heavier tail is masked; 10 in the authors' code.
        masked_token_weight: weight of a masked token in later channels; 0.01 in the authors' code.
        solver: "geodesic", this project's conjugate gradient on the sphere, or "adamw", the published optimiser.
        seed: from which, with the vector itself, every random number derives. Only "adamw" draws any.
        adamw: settings of the published optimiser.
        geodesic: settings of the geodesic solver.

    Raises:
        ValueError: if a value is out of range.
    """

    num_channels: int = 50
    kurtosis_weight: float = 0.3
    fidelity_weight: float = 1.0
    mask_threshold: float = 4.0
    skew_threshold: float = 10.0
    masked_token_weight: float = 0.01
    solver: Literal["geodesic", "adamw"] = "geodesic"
    seed: int = 0
    adamw: AdamWConfig = field(default_factory=AdamWConfig)
    geodesic: GeodesicConfig = field(default_factory=GeodesicConfig)

    def __post_init__(self) -> None:
        require_count("num_channels", self.num_channels, 1)
        for name in ("kurtosis_weight", "fidelity_weight", "mask_threshold", "skew_threshold"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "finite and not negative")
        require(0 <= self.masked_token_weight <= 1, "masked_token_weight", self.masked_token_weight, "between 0 and 1")
        require(self.solver in ("geodesic", "adamw"), "solver", self.solver, "'geodesic' or 'adamw'")


@dataclass(frozen=True)
class Decomposition:
    """The channels of N vectors, in order of discovery.

    Attributes:
        directions: (N, C, d_model), the channels; each has the norm of its vector.
        kurtosis: (N, C), population excess kurtosis of the channel's unweighted projection.
        skewness: (N, C), population skewness of the same projection; its sign tells the channel's tail.
        loss: (N, C), the objective at the channel with the token weights in force when it was sought.
        cosine: (N, C), between the channel and its vector.
        masked_tokens: (N, C) int64, how many tokens the channel's mask covers, masked before or not.
        steps: (N, C) int64, optimiser steps that the neuron took ("geodesic") or that its whole batch took ("adamw").
    """

    directions: Tensor
    kurtosis: Tensor
    skewness: Tensor
    loss: Tensor
    cosine: Tensor
    masked_tokens: Tensor
    steps: Tensor


@torch.no_grad()
def decompose(
    vectors: Tensor,
    projection: Tensor,
    *,
    token_weights: Tensor | None = None,
    config: DecompositionConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decomposition:
    """Take every vector apart into vocabulary channels (ROTATE, [R]).

    One channel is a direction near the vector, of the vector's norm, whose projection on the vocabulary is sparse.
    After each channel the tokens that carry it lose their weight for that vector, so that the next one lies elsewhere.

    Memory is a few times N * V numbers: the caller chooses N. Equal inputs give equal results; with the geodesic solver
    a vector's channels do not depend on the others in the call, beyond the rounding of matrix products.

    Args:
        vectors: (N, d_model), floating point, finite, none zero.
        projection: (d_model, V), floating point, finite: the unembedding or the transposed embedding.
        token_weights: (V,) or (N, V), finite and not negative; None: ones. Weight 0 takes a token out of the search.
        config: what to look for; None: the published settings with the geodesic solver.
        progress: called after each channel with the number of channels done and ``config.num_channels``.

    Returns:
        The channels, on the device of the inputs, in their dtype or in float32 if that is narrower.

    Raises:
        ValueError: in one line, if a shape, device or value is not as above.
    """
    config = DecompositionConfig() if config is None else config
    vectors, projection, weights = _checked(vectors, projection, token_weights)
    objective = Objective(projection, config.kurtosis_weight, config.fidelity_weight)
    units, norms = _directions_and_norms(vectors)
    channels: list[tuple[Tensor, ...]] = []
    for channel in range(config.num_channels):
        if config.solver == "geodesic":
            tangents = normalize(adamw.random_mirrors(units, config.seed, channel), dim=-1)
            tangents = tangents - (tangents * units).sum(dim=-1, keepdim=True) * units
            starts = normalize(units + config.geodesic.jitter * normalize(tangents, dim=-1), dim=-1)
            found, steps = geodesic.solve(objective, units, weights, config.geodesic, starts)
        else:
            found, steps = adamw.solve(objective, units, weights, config.adamw, seed=config.seed, channel=channel)
        directions = normalize(found, dim=-1)
        projected = directions @ projection
        moments = central_moments(projected)
        cosine = cosine_similarity(directions, units, dim=-1)
        loss = objective.combine(central_moments(projected * weights).kurtosis, cosine)
        mask = tail_mask(z_scores(projected), config.mask_threshold, config.skew_threshold)
        weights = deflate(weights, mask, config.masked_token_weight)
        figures = [figure.to(vectors.dtype) for figure in (moments.kurtosis, moments.skewness, loss, cosine)]
        channels.append((directions * norms, *figures, mask.sum(dim=-1), steps))
        if progress is not None:
            progress(channel + 1, config.num_channels)
    return Decomposition(*(torch.stack(column, dim=1) for column in zip(*channels, strict=True)))


def _directions_and_norms(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors (N, d_model) and norms (N, 1), also where squares of the entries underflow."""
    scale = vectors.abs().amax(dim=-1, keepdim=True)
    scaled = vectors / scale
    norms = scaled.norm(dim=-1, keepdim=True)
    return scaled / norms, norms * scale


def _checked(vectors: Tensor, projection: Tensor, token_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs in the dtype to compute in, the weights as (1, V) or (N, V), or raise ValueError."""
    if vectors.ndim != 2 or vectors.numel() == 0:
        raise ValueError(f"vectors must be (N, d_model) and not empty, not {tuple(vectors.shape)}")
    if projection.ndim != 2 or projection.shape[0] != vectors.shape[1] or projection.shape[1] < 2:
        raise ValueError(
            f"projection must be (d_model={vectors.shape[1]}, V) with V >= 2, not {tuple(projection.shape)}"
        )
    tokens = projection.shape[1]
    if token_weights is None:
        token_weights = torch.ones(tokens, dtype=vectors.dtype, device=vectors.device)
    if token_weights.shape not in ((tokens,), (len(vectors), tokens)):
        expected = f"(V={tokens},) or (N={len(vectors)}, V={tokens})"
        raise ValueError(f"token_weights must be {expected}, not {tuple(token_weights.shape)}")
    named = {"vectors": vectors, "projection": projection, "token_weights": token_weights}
    for name, tensor in named.items():
        if tensor.device != vectors.device:
            raise ValueError(f"{name} is on {tensor.device} but vectors is on {vectors.device}: move them together")
        if name != "token_weights" and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, not {tensor.dtype}")
    _refuse(~torch.isfinite(vectors).all(dim=1), "vectors has NaN or infinite values in rows")
    _refuse((vectors == 0).all(dim=1), "vectors is zero, and so has no direction, in rows")
    _refuse(~torch.isfinite(projection).all(dim=0), "projection has NaN or infinite values in columns")
    weights = token_weights.reshape(-1, tokens)
    _refuse(
        ~(torch.isfinite(weights) & (weights >= 0)).all(dim=0), "token_weights is negative, NaN or infinite for tokens"
    )
    _refuse((weights == 0).all(dim=1), "token_weights leaves no token in rows")
    dtype = torch.promote_types(torch.promote_types(vectors.dtype, projection.dtype), torch.float32)
    return vectors.to(dtype), projection.to(dtype), weights.to(dtype)


def _refuse(bad: Tensor, problem: str) -> None:
    """Raise ValueError naming the first indices at which ``bad`` (K,) is true, if it is anywhere."""
    indices = bad.nonzero().squeeze(-1).tolist()
    if indices:
        shown = ", ".join(map(str, indices[:_ROWS_NAMED])) + (", ..." if len(indices) > _ROWS_NAMED else "")
        raise ValueError(f"{problem} {shown} ({len(indices)} of {len(bad)})")
