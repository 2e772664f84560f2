"""ROTATE: decomposes a vector into vocabulary channels, one after the other ([R])."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition import adamw, custom
from harness.decomposition.channels import Decomposition, Found
from harness.decomposition.config import SOLVERS, DecompositionConfig
from harness.decomposition.deflation import deflate, subtract
from harness.decomposition.geodesic import GeodesicSolver, Problem
from harness.decomposition.memory import bytes_returned, check_adamw_fits, default_budget, halving, slots_within
from harness.decomposition.objective import Objective

_ROWS_NAMED = 10
_CHECKED_AT_ONCE = 2**24


@torch.no_grad()
def decompose(
    vectors: Tensor,
    projection: Tensor,
    *,
    token_weights: Tensor | None = None,
    config: DecompositionConfig | None = None,
    memory_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Decomposition:
    """Decompose every vector into vocabulary channels (ROTATE, [R]).

    A channel is a direction near the vector, of the vector's norm, whose projection on the vocabulary is sparse. After
    each channel the tokens that carry it lose their weight for that vector, so the next channel lies elsewhere.
    The geodesic solver repeats a search that ends below a kurtosis of 3, or mostly in tokens of earlier channels, from
    up to eight starts near other tokens.

    Equal inputs give equal results. With the geodesic solver a vector's channels depend neither on the other vectors of
    the call nor on how many are searched in parallel, beyond the rounding of matrix products. Rounding can add a token
    to a mask, and later channels may then be others of similar loss; the lower the tolerance, the later that happens
    (tests/bench/RESULTS.md).

    Args:
        vectors: (N, d_model), floating point, finite, none zero.
        projection: (d_model, V), floating point, finite: the unembedding or the transposed embedding.
        token_weights: (V,) or (N, V), finite and not negative; None: ones. Weight 0 excludes a token from the search.
        config: settings; None: the published ones with the geodesic solver.
        memory_budget: bytes that may be used in addition to the inputs (a narrower projection is first widened to
            float32), including the returned channels; None: on CUDA 80 % of the free memory, else 1 GiB plus the
            channels. The geodesic solver searches as many vectors in parallel as fit, and halves their number whenever
            memory runs out.
        progress: called with the number of channels finished so far, over all vectors, and N * C.

    Returns:
        The channels, on the device of the inputs, in their dtype or at least float32.

    Raises:
        ValueError: in one line, if a shape, device or value is not as above, or the budget is too small.
    """
    config = DecompositionConfig() if config is None else config
    vectors, projection, weights = _checked(vectors, projection, token_weights)
    (width, tokens), bytes_each = projection.shape, vectors.element_size()
    returned = bytes_returned(len(vectors), width, config.num_channels, bytes_each)
    if memory_budget is None:
        memory_budget = default_budget(vectors.device) + (0 if vectors.is_cuda else returned)
    budget = memory_budget - returned
    objective = Objective(
        projection, config.kurtosis_weight, config.fidelity_weight, published=config.objective == "published"
    )
    units, norms = _directions_and_norms(vectors)
    problem = Problem(units, norms, weights, objective, config)
    results = Decomposition.empty(vectors, config.num_channels)
    total, done = len(vectors) * config.num_channels, 0

    def noted(channels: int) -> None:
        nonlocal done
        done += channels
        if progress is not None:
            progress(done, total)

    if config.solver not in SOLVERS:
        _by_custom(problem, results, noted)
        return results
    if config.solver == "adamw":
        check_adamw_fits(budget, len(vectors), tokens, bytes_each)
        _by_adamw(problem, results, noted)
        return results
    pending = dict.fromkeys(range(len(vectors)))
    slots = slots_within(budget, vectors.device, width, tokens, bytes_each, config)

    def attempt(slots: int) -> None:
        nonlocal done
        done = (len(vectors) - len(pending)) * config.num_channels
        GeodesicSolver(problem, slots, results, pending, noted).run()

    halving(slots, attempt)
    return results


def _by_adamw(problem: Problem, results: Decomposition, noted: Callable[[int], None]) -> None:
    """Find the channels one after the other, each for all vectors, with the published optimiser."""
    config, targets, lengths = problem.config, problem.vectors, problem.norms
    rows = torch.arange(len(targets), device=targets.device)
    masked = torch.zeros(len(targets), problem.weights.shape[1], dtype=torch.bool, device=targets.device)
    for channel in range(config.num_channels):
        weights = deflate(problem.weights, masked, config.masked_token_weight)
        best, steps = adamw.solve(problem.objective, targets, weights, config.adamw, seed=config.seed, channel=channel)
        found = Found.at(
            normalize(best, dim=-1), targets, weights, problem.objective, config, base=problem.weights, masked=masked
        )
        found.write(results, rows, torch.full_like(rows, channel), problem.vectors, lengths, steps)
        if config.deflation == "mask":
            masked |= found.mask
        else:
            targets, left = subtract(
                targets,
                found.directions,
                config.subtraction,
                projection=problem.objective.projection,
                lengths=lengths,
                counted=config.counted(problem.weights),
            )
            lengths = lengths * left
        noted(len(targets))


def _by_custom(problem: Problem, results: Decomposition, noted: Callable[[int], None]) -> None:
    """Let the user's function find all channels, and measure them."""
    config, targets, objective = problem.config, problem.vectors, problem.objective
    rows = torch.arange(len(targets), device=targets.device)
    vectors, weights = targets * problem.norms, problem.weights
    channels = custom.directions(config.solver, vectors, objective.projection, weights, config)
    for channel in range(config.num_channels):
        found = Found.at(channels[:, channel], targets, weights, objective, config, base=weights)
        found.write(results, rows, torch.full_like(rows, channel), targets, problem.norms, torch.ones_like(rows))
        noted(len(targets))


def _directions_and_norms(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors (N, d_model) and norms (N, 1), also if squares of the entries underflow."""
    scale = vectors.abs().amax(dim=-1, keepdim=True)
    scaled = vectors / scale
    norms = scaled.norm(dim=-1, keepdim=True)
    return scaled / norms, norms * scale


def _checked(vectors: Tensor, projection: Tensor, token_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inputs in the dtype to compute in, with weights as (1, V) or (N, V).

    Raises:
        ValueError: if a shape, device or value is invalid.
    """
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
    _refuse((vectors == 0).all(dim=1), "vectors is zero, so has no direction, in rows")
    _refuse(_columns_not_finite(projection), "projection has NaN or infinite values in columns")
    weights = token_weights.reshape(-1, tokens)
    _refuse(
        ~(torch.isfinite(weights) & (weights >= 0)).all(dim=0), "token_weights is negative, NaN or infinite for tokens"
    )
    _refuse((weights == 0).all(dim=1), "token_weights leaves no token in rows")
    dtype = torch.promote_types(torch.promote_types(vectors.dtype, projection.dtype), torch.float32)
    return vectors.to(dtype), projection.to(dtype), weights.to(dtype)


def _columns_not_finite(projection: Tensor) -> Tensor:
    """Return which columns hold NaN or infinite values, (V,), computed in pieces to bound the size of temporaries."""
    pieces = torch.split(projection, max(1, _CHECKED_AT_ONCE // projection.shape[0]), dim=1)
    return torch.cat([~torch.isfinite(piece).all(dim=0) for piece in pieces])


def _refuse(bad: Tensor, problem: str) -> None:
    """Raise ValueError naming the first indices at which ``bad`` (K,) is true, if there are any."""
    indices = bad.nonzero().squeeze(-1).tolist()
    if indices:
        shown = ", ".join(map(str, indices[:_ROWS_NAMED])) + (", ..." if len(indices) > _ROWS_NAMED else "")
        raise ValueError(f"{problem} {shown} ({len(indices)} of {len(bad)})")
