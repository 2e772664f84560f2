"""What is computed of one block of weight vectors, wherever an executor puts the work: from the task alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from harness.decomposition import DecompositionConfig, decompose, kurtosis, reconstruction, skewness
from harness.errors import HarnessError
from harness.records import Neuron, VectorKind
from harness.run.executor import Shared

Directions = Literal["float32", "bfloat16", "none"]
HISTOGRAM_BINS, HISTOGRAM_RANGE = 40, 10.0
#: Elements of the projections (rows, V) that are held at once while records are built: few on a CPU, for its caches;
#: many on a GPU, to keep it busy. But at least so many rows, or products would spend their time on reading the matrix.
_SLICE_CPU, _SLICE_GPU, _ROWS = 1 << 21, 1 << 26, 64


@dataclass(frozen=True)
class Storage:
    """What is kept of a decomposition beside its statistics; changes no figure.

    Attributes:
        top_tokens: tokens kept from each end of every projection.
        histograms: whether the histogram of every channel's z-scores is kept.
        directions: number format of the channels' directions, or ``none`` to keep none.
        store: folder of the channels that runs share; none to share none.
    """

    top_tokens: int = 50
    histograms: bool = True
    directions: Directions = "float32"
    store: str | None = None

    def __post_init__(self) -> None:
        if self.top_tokens < 1:
            raise HarnessError(f"storage.top_tokens must be at least 1, not {self.top_tokens}")
        if self.directions not in get_args(Directions):
            known = ", ".join(get_args(Directions))
            raise HarnessError(f"storage.directions={self.directions} is not known; choose from {known}")


@dataclass(frozen=True)
class Block:
    """Vectors of one kind, of neurons of one layer, that are decomposed together."""

    neurons: tuple[Neuron, ...]
    kind: VectorKind

    @property
    def layer(self) -> int:
        """The neurons' layer."""
        return self.neurons[0].layer

    @property
    def name(self) -> str:
        """The block's file name: the same vectors always have the same one."""
        first, digest = self.neurons[0], hashlib.sha256(",".join(map(str, self.neurons)).encode()).hexdigest()[:8]
        expert = "" if first.expert is None else f"E{first.expert:03d}-"
        return f"L{self.layer:02d}-{self.kind}-{expert}{first.index:05d}-{digest}"


@dataclass(frozen=True)
class BlockTask:
    """All that is needed to decompose a block.

    Attributes:
        block: which vectors.
        vectors: the vectors, (N, d_model).
        vocabulary: the projection (d_model, V), the token weights (V,) and the ids (int64) that are no text.
        config: what to look for.
        storage: what to hand back.
        memory: bytes that the decomposition may use beside the projection; none for its own choice.
    """

    block: Block
    vectors: Tensor
    vocabulary: Shared
    config: DecompositionConfig
    storage: Storage
    memory: int | None


@dataclass(frozen=True)
class Extremes:
    """The ends of M projections on the vocabulary, on the CPU.

    Attributes:
        tokens: (M, 2, K) int32, ids of the highest tokens, best first, and of the lowest, lowest first.
        z: (M, 2, K) float32, their z-scores over the whole vocabulary.
        histogram: (M, bins) int32, counts of all z-scores in equal bins over [-10, 10], the outer ones open; or none.
    """

    tokens: Tensor
    z: Tensor
    histogram: Tensor | None


@dataclass(frozen=True)
class BlockResult:
    """A decomposed block, on the CPU.

    Attributes:
        block: which vectors.
        channels: figures of the channels by the name of their field in the record, (N, C) each.
        vectors: figures of the vectors likewise, (N,) each; ``reconstruction`` is (N, C).
        channel_extremes: of the channels' projections, vector by vector, in order of discovery (M = N * C).
        vector_extremes: of the vectors' projections (M = N).
        directions: (N, C, d_model) in the format asked for, or none.
        seconds: spent on the decomposition.
        record_seconds: spent on everything after it.
    """

    block: Block
    channels: dict[str, Tensor]
    vectors: dict[str, Tensor]
    channel_extremes: Extremes
    vector_extremes: Extremes
    directions: Tensor | None
    seconds: float
    record_seconds: float


def decompose_block(task: BlockTask, device: str) -> BlockResult:
    """Decompose a block on a device, and reduce what was found to what is kept."""
    start = time.perf_counter()
    projection, weights, hidden = task.vocabulary.on(device)
    vectors = task.vectors.to(device)
    found = decompose(vectors, projection, token_weights=weights, config=task.config, memory_budget=task.memory)
    if vectors.is_cuda:
        torch.cuda.synchronize()
    middle = time.perf_counter()
    storage, names = task.storage, ("kurtosis", "skewness", "cosine", "loss", "masked_tokens")
    projected = [(kurtosis(part), skewness(part)) for part in _projections(vectors, projection)]
    figures = {
        "norm": vectors.norm(dim=1),
        "kurtosis": torch.cat([pair[0] for pair in projected]),
        "skewness": torch.cat([pair[1] for pair in projected]),
        "reconstruction": reconstruction(vectors, found.directions),
    }
    directions = found.directions.flatten(0, 1)
    kept = None if storage.directions == "none" else found.directions.to(getattr(torch, storage.directions)).cpu()
    channel_extremes = extremes(directions, projection, hidden, storage.top_tokens, histogram=storage.histograms)
    return BlockResult(
        block=task.block,
        channels={name: getattr(found, name).cpu() for name in names},
        vectors={name: figure.cpu() for name, figure in figures.items()},
        channel_extremes=channel_extremes,
        vector_extremes=extremes(vectors, projection, hidden, storage.top_tokens, histogram=False),
        directions=kept,
        seconds=middle - start,
        record_seconds=time.perf_counter() - middle,
    )


def extremes(directions: Tensor, projection: Tensor, hidden: Tensor, count: int, *, histogram: bool) -> Extremes:
    """Return the ends of the directions' projections on the vocabulary; memory does not grow with their number.

    Args:
        directions: (M, d_model).
        projection: (d_model, V).
        hidden: ids (int64) that are left out of the ends, but not of mean and deviation.
        count: tokens of each end; fewer if there are no more.
        histogram: whether to count z-scores.
    """
    count = min(count, projection.shape[1] - len(hidden))
    parts = [_ends(part, hidden, count, histogram) for part in _projections(directions, projection)]
    counts: Sequence[Tensor] = [part[2] for part in parts if part[2] is not None]
    return Extremes(
        tokens=torch.cat([part[0] for part in parts]),
        z=torch.cat([part[1] for part in parts]),
        histogram=torch.cat([*counts]) if counts else None,
    )


def _projections(directions: Tensor, projection: Tensor) -> Iterator[Tensor]:
    elements = _SLICE_GPU if projection.is_cuda else _SLICE_CPU
    for part in torch.split(directions, max(_ROWS, elements // projection.shape[1])):
        yield part @ projection


def _ends(projected: Tensor, hidden: Tensor, count: int, histogram: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return tokens, z-scores and histogram of projections (rows, V), which are overwritten."""
    size = projected.shape[1]
    projected -= projected.mean(dim=1, keepdim=True)
    deviation = projected.norm(dim=1, keepdim=True).div(size**0.5).clamp_min(1e-12)
    counts = _histogram(projected / deviation) if histogram else None
    # The order of the values is that of the z-scores: only the ends are scaled.
    high = projected.index_fill_(1, hidden, -torch.inf).topk(count, dim=1)
    low = projected.index_fill_(1, hidden, torch.inf).topk(count, dim=1, largest=False)
    tokens = torch.stack([high.indices, low.indices], dim=1).to(torch.int32)
    z = torch.stack([high.values, low.values], dim=1) / deviation[:, None]
    return tokens.cpu(), z.float().cpu(), counts


def _histogram(z: Tensor) -> Tensor:
    """Count z-scores (rows, V), which are overwritten, in bins whose upper edge is open but for the last."""
    rows, bins = len(z), HISTOGRAM_BINS
    places = z.add_(HISTOGRAM_RANGE).mul_(bins / (2 * HISTOGRAM_RANGE)).clamp_(0, bins - 1).to(torch.int32)
    places += torch.arange(0, rows * bins, bins, dtype=torch.int32, device=z.device)[:, None]
    return torch.bincount(places.flatten(), minlength=rows * bins).view(rows, bins).to(torch.int32).cpu()
