"""Block sizes from a memory budget, and smaller blocks if memory runs out all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from harness.decomposition.config import DecompositionConfig
from harness.decomposition.geodesic import rows_restarted_at_once
from harness.decomposition.vocabulary import BLOCK_BUFFERS, block_elements, passes_fused, products_used

logger = logging.getLogger(__name__)
T = TypeVar("T")
# More slots do not make the products of a step faster per vector.
_MOST_SLOTS = {"cpu": 64, "cuda": 2048}
_SHARE_OF_FREE_MEMORY = 0.8
_CPU_BUDGET = 2**30
# How often the vectors of a long call fill the slots: few slots are then empty when the last searches end.
_FILLS = 8
# Share of a block's memory that the returned channels may take.
_SHARE_RETURNED = 0.125
# Floating-point rows of V in memory: for one slot (projections of point and tangent, token weights), for each slot that
# is restarted, and for one vector of the published optimiser with its autograd graph.
_ROWS_PER_SLOT = 3
_ROWS_PER_RESTART = 12
_ROWS_PER_VECTOR_OF_ADAMW = 20


def default_budget(device: torch.device) -> int:
    """Return the bytes that may be used in addition to the inputs: on CUDA 80 % of the free memory, else 1 GiB."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(_SHARE_OF_FREE_MEMORY * free)
    return _CPU_BUDGET


def bytes_returned(vectors: int, d_model: int, channels: int, element_bytes: int) -> int:
    """Return the bytes of the channels of some vectors, and of the vectors at unit length."""
    return vectors * ((channels + 1) * d_model + 8 * channels) * element_bytes


def slots_within(
    budget: int, device: torch.device, d_model: int, tokens: int, element_bytes: int, config: DecompositionConfig
) -> int:
    """Return how many searches of the geodesic solver fit in parallel, up to a useful maximum.

    Args:
        budget: bytes.
        device: the device of the searches.
        d_model: width of the residual stream.
        tokens: size of the vocabulary.
        element_bytes: bytes of one number.
        config: settings of the decomposition.

    Raises:
        ValueError: in one line, if not even one search fits.
    """
    fused = passes_fused(config.geodesic.compile, device)
    # Compiled passes do not split the vocabulary into blocks: their buffers grow with the slots.
    fixed = 0 if fused else BLOCK_BUFFERS * block_elements(device) * element_bytes
    if products_used(config.geodesic.products, device, element_bytes) == "bfloat16":  # a copy of the projection
        fixed += 2 * d_model * tokens
    masks = 1 + (config.geodesic.lookahead > 0)
    rows = _ROWS_PER_SLOT + (2 if fused else 0)
    each = tokens * (rows * element_bytes + masks) + 16 * d_model * element_bytes

    def needed(slots: int) -> int:
        restarted = rows_restarted_at_once(slots, tokens)
        return fixed + slots * each + restarted * _ROWS_PER_RESTART * tokens * element_bytes

    if needed(1) > budget:
        raise ValueError(
            f"memory_budget leaves {_readable(max(0, budget))} for the search, too little: one vector and a vocabulary "
            f"of {tokens} tokens needs {_readable(needed(1))} besides the projection and the returned channels"
        )
    slots = _MOST_SLOTS.get(device.type, _MOST_SLOTS["cuda"])
    while needed(slots) > budget:
        slots -= max(1, slots // 8)
    return slots


def vectors_within(
    budget: int,
    d_model: int,
    tokens: int,
    element_bytes: int,
    config: DecompositionConfig,
    device: torch.device,
    *,
    once: bool = False,
) -> int:
    """Return how many vectors a long run should pass to one call of ``decompose``.

    Enough to fill the slots of the geodesic solver several times (``once``: once), few enough for the channels to fit
    in memory as well.
    """
    each = bytes_returned(1, d_model, config.num_channels, element_bytes)
    if config.solver == "adamw":
        return max(1, int(budget / (_ROWS_PER_VECTOR_OF_ADAMW * tokens * element_bytes + each)))
    rest = int(budget * (1 - _SHARE_RETURNED))
    slots = slots_within(rest, device, d_model, tokens, element_bytes, config)
    return max(1, min(slots if once else _FILLS * slots, int(budget * _SHARE_RETURNED / each)))


def check_adamw_fits(budget: int, vectors: int, tokens: int, element_bytes: int) -> None:
    """Raise ValueError in one line if the published optimiser needs more memory than it may use.

    Its batches are not split silently, because the step at which a batch stops depends on all its vectors.
    """
    needed = _ROWS_PER_VECTOR_OF_ADAMW * vectors * tokens * element_bytes
    if needed > budget:
        raise ValueError(
            f"adamw needs about {_readable(needed)} for {vectors} vectors of {tokens} tokens, and the budget is "
            f"{_readable(budget)}: pass at most {int(vectors * budget / needed)} vectors at a time, or raise the budget"
        )


def halving(slots: int, attempt: Callable[[int], T]) -> T:
    """Call ``attempt`` with ``slots``, and again with half as many whenever memory runs out.

    Raises:
        RuntimeError: PyTorch's error, if not even one slot fits.
    """
    while True:
        try:
            return attempt(slots)
        except RuntimeError as error:
            if slots == 1 or not _out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory with %d parallel searches; continuing with %d", slots, slots // 2)
        slots //= 2


def _out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out. The CPU's allocator has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _readable(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
