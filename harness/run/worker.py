"""The work on blocks of weight vectors, in whatever process an executor runs it; it needs the task alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decomposition import Decomposition, DecompositionConfig, decompose, kurtosis, reconstruction, skewness
from harness.records import Neuron, VectorKind
from harness.run.executor import Shared
from harness.run.progress import by_difference
from harness.run.sections import Storage

HISTOGRAM_BINS, HISTOGRAM_RANGE = 40, 10.0
#: Elements of the projections (rows, V) in memory at once while records are built: few on a CPU, to fit its caches, and
#: many on a GPU, to keep it busy; at least _ROWS rows, because each product reads the whole matrix.
_SLICE_CPU, _SLICE_GPU, _ROWS = 1 << 21, 1 << 26, 64

#: Called with the number of channels just found, in the process that finds them.
listeners: list[Callable[[int], None]] = []


@dataclass(frozen=True)
class Block:
    """Weight vectors of one kind and layer whose channels are stored together."""

    neurons: tuple[Neuron, ...]
    kind: VectorKind

    @property
    def layer(self) -> int:
        """The layer of all neurons."""
        return self.neurons[0].layer

    @property
    def name(self) -> str:
        """The block's file name, determined by its vectors."""
        first, digest = self.neurons[0], hashlib.sha256(",".join(map(str, self.neurons)).encode()).hexdigest()[:8]
        expert = "" if first.expert is None else f"E{first.expert:03d}-"
        return f"L{self.layer:02d}-{self.kind}-{expert}{first.index:05d}-{digest}"


@dataclass(frozen=True)
class BlockTask:
    """The input of one call of the solver.

    Attributes:
        blocks: which vectors.
        vectors: the vectors, (N, d_model), block by block.
        vocabulary: the projection (d_model, V), the token weights (V,) and the ids (int64) of tokens that are not text.
        config: settings of the search.
        storage: what to return.
        memory: bytes that the decomposition may use besides the projection; None for its default.
    """

    blocks: tuple[Block, ...]
    vectors: Tensor
    vocabulary: Shared
    config: DecompositionConfig
    storage: Storage
    memory: int | None


@dataclass(frozen=True)
class Projected:
    """Records of M channels or vectors, on the CPU.

    Attributes:
        values: statistics by record field, (M,) or, for lists, (M, L).
        tokens: (M, 2, K) int32, ids of the highest tokens of the projection, best first, and of the lowest, lowest
            first.
        z: (M, 2, K) float32, their z-scores over the tokens that count.
    """

    values: dict[str, Tensor]
    tokens: Tensor
    z: Tensor


@dataclass(frozen=True)
class BlockResult:
    """A decomposed block, on the CPU.

    Attributes:
        block: which vectors.
        channels: the channels, by vector and order of discovery (M = N * C).
        vectors: the vectors (M = N).
        directions: (N, C, d_model) in the storage format, or None.
    """

    block: Block
    channels: Projected
    vectors: Projected
    directions: Tensor | None


def decompose_task(task: BlockTask, device: str) -> list[BlockResult]:
    """Decompose the blocks of a task on a device, and reduce the results to what is stored."""
    projection, weights, hidden = task.vocabulary.on(device)
    vectors = task.vectors.to(device)
    found = decompose(
        vectors,
        projection,
        token_weights=weights,
        config=task.config,
        memory_budget=task.memory,
        progress=by_difference(_tell),
    )
    sizes = [len(block.neurons) for block in task.blocks]
    parts = zip(task.blocks, torch.split(vectors, sizes), found.split(sizes), strict=True)
    return [reduced(*part, (projection, weights, hidden), task.config, task.storage) for part in parts]


def _tell(channels: int) -> None:
    for listener in listeners:
        listener(channels)


def reduced(
    block: Block,
    vectors: Tensor,
    found: Decomposition,
    vocabulary: tuple[Tensor, Tensor, Tensor],
    config: DecompositionConfig,
    storage: Storage,
) -> BlockResult:
    """Reduce the channels of a block to what is stored.

    Args:
        block: which vectors.
        vectors: the vectors, (N, d_model).
        found: their channels.
        vocabulary: as in :class:`BlockTask`, on the device of the channels.
        config: settings of the search.
        storage: what to return.
    """
    projection, weights, hidden = vocabulary
    counted, top = config.counted(weights), min(storage.top_tokens, projection.shape[1] - len(hidden))
    kept_tokens = _Vocabulary(projection, counted, hidden, top)
    count, ranks = found.kurtosis.shape
    names = ("kurtosis", "skewness", "cosine", "loss", "masked_tokens")
    of_channels = {name: getattr(found, name).flatten() for name in names}
    of_channels["rank"] = torch.arange(ranks).repeat(count)
    projected = [(kurtosis(part, counted), skewness(part, counted)) for part in _projections(vectors, projection)]
    of_vectors = {
        "norm": vectors.norm(dim=1),
        "kurtosis": torch.cat([pair[0] for pair in projected]),
        "skewness": torch.cat([pair[1] for pair in projected]),
        "reconstruction": reconstruction(vectors, found.directions),
    }
    kept = None if storage.directions == "none" else found.directions.to(getattr(torch, storage.directions)).cpu()
    return BlockResult(
        block=block,
        channels=_projected(of_channels, found.directions.flatten(0, 1), kept_tokens, histogram=storage.histograms),
        vectors=_projected(of_vectors, vectors, kept_tokens, histogram=False),
        directions=kept,
    )


@dataclass(frozen=True)
class _Vocabulary:
    """The projection (d_model, V), which tokens count in z-scores (V,), ids left out of the ends, and their length."""

    projection: Tensor
    counted: Tensor | None
    hidden: Tensor
    top: int


def _projected(values: dict[str, Tensor], directions: Tensor, vocabulary: _Vocabulary, *, histogram: bool) -> Projected:
    """Return statistics of directions (M, d_model) and the ends of their projections, in parts that fit into memory."""
    parts = [_ends(part, vocabulary, histogram) for part in _projections(directions, vocabulary.projection)]
    tokens, z, *counts = (torch.cat(part) for part in zip(*parts, strict=True))
    values = {name: value.cpu() for name, value in values.items()} | ({"histogram": counts[0]} if counts else {})
    return Projected(values, tokens, z)


def _projections(directions: Tensor, projection: Tensor) -> Iterator[Tensor]:
    elements = _SLICE_GPU if projection.is_cuda else _SLICE_CPU
    for part in torch.split(directions, max(_ROWS, elements // projection.shape[1])):
        yield part @ projection


def _ends(projected: Tensor, vocabulary: _Vocabulary, histogram: bool) -> tuple[Tensor, ...]:
    """Return tokens, z-scores and perhaps histogram of projections (rows, V); overwrites the projections."""
    counted, hidden, count = vocabulary.counted, vocabulary.hidden, vocabulary.top
    used = projected if counted is None else projected[:, counted]
    deviation, mean = torch.std_mean(used, dim=1, keepdim=True, correction=0)
    deviation.clamp_min_(1e-12)
    counts = (_histogram((used - mean) / deviation),) if histogram else ()
    projected -= mean
    # Values and z-scores have the same order, so it is enough to scale the ends.
    high = projected.index_fill_(1, hidden, -torch.inf).topk(count, dim=1)
    low = projected.index_fill_(1, hidden, torch.inf).topk(count, dim=1, largest=False)
    tokens = torch.stack([high.indices, low.indices], dim=1).to(torch.int32)
    z = torch.stack([high.values, low.values], dim=1) / deviation[:, None]
    return tokens.cpu(), z.float().cpu(), *counts


def _histogram(z: Tensor) -> Tensor:
    """Count z-scores (rows, V) in half-open bins, the last one closed; overwrites the z-scores."""
    rows, bins = len(z), HISTOGRAM_BINS
    cells = z.add_(HISTOGRAM_RANGE).mul_(bins / (2 * HISTOGRAM_RANGE)).clamp_(0, bins - 1).to(torch.int32)
    cells += torch.arange(0, rows * bins, bins, dtype=torch.int32, device=z.device)[:, None]
    return torch.bincount(cells.flatten(), minlength=rows * bins).view(rows, bins).to(torch.int32).cpu()
