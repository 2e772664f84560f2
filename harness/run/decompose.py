"""Stage: weight vectors into vocabulary channels, block by block."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.decomposition import Decomposition, decompose, kurtosis, reconstruction, skewness, z_scores
from harness.errors import HarnessError
from harness.folder import RunFolder, replacing, write_table
from harness.records import Channel, Neuron, VectorKind, VectorSummary
from harness.run.progress import progress
from harness.run.setup import DecompositionPlan, Setup
from harness.subject import Subject

logger = logging.getLogger(__name__)
TOP_TOKENS = 50
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Block:
    """Vectors of one layer and kind that are decomposed together."""

    layer: int
    kind: VectorKind
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the block: the same vectors always have the same one."""
        digest = hashlib.sha256(",".join(map(str, self.indices)).encode()).hexdigest()[:8]
        return f"L{self.layer:02d}-{self.kind}-{self.indices[0]:05d}-{digest}"


def pending_blocks(setup: Setup, folder: RunFolder) -> list[Block]:
    """Return what is still to be decomposed; nothing if no describer reads channels."""
    if not any(describer.needs_channels for describer in setup.describers.values()):
        return []
    done = {(summary.neuron, summary.kind) for summary in folder.read_vectors()}
    blocks = []
    for layer in sorted({neuron.layer for neuron in setup.neurons}):
        for kind in setup.kinds:
            indices = [n.index for n in setup.neurons if n.layer == layer and (n, kind) not in done]
            size = setup.executor.block
            blocks += [
                Block(layer, kind, tuple(indices[start : start + size])) for start in range(0, len(indices), size)
            ]
    return blocks


def decompose_blocks(setup: Setup, folder: RunFolder, blocks: Sequence[Block]) -> None:
    """Decompose the blocks; each is on disk, whole, before the next is begun.

    Raises:
        HarnessError: if the weights are damaged.
    """
    if not blocks:
        return
    work = partial(_decompose_block, setup.subject, setup.decomposition, Workbench(setup), folder)
    with progress("decompose", sum(len(block.indices) for block in blocks), "vectors") as advance:
        for count in setup.executor.map(work, blocks):
            advance(count)
    del work  # and with it what lies on the accelerator, which an LLM may need next
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Workbench:
    """What all blocks need on the device: the projection, copied there once rather than once a block."""

    def __init__(self, setup: Setup) -> None:
        self.device = setup.executor.device
        self._subject = setup.subject
        self._ready: tuple[str, Tensor, Tensor] | None = None

    def vocabulary(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the projection (d_model, V) and the token weights (V,) of a layer, on the device."""
        name = self._subject.projection_name(layer)
        if self._ready is None or self._ready[0] != name:
            self._ready = None  # frees the last one before the next takes its place
            projection, weights = self._subject.projection(layer), self._subject.token_weights(layer)
            self._ready = (name, projection.to(self.device), weights.to(self.device))
        return self._ready[1:]


def check_weights(setup: Setup, blocks: Sequence[Block]) -> None:
    """Read every vector that is to be decomposed, so that damaged weights are found before time is spent.

    Raises:
        HarnessError: if one holds NaN or infinite numbers, or nothing but zeros, or an ignored token does not exist.
    """
    for block in blocks:
        zero = (setup.subject.vectors(block.layer, block.indices, block.kind) == 0).all(dim=1).nonzero().flatten()
        if len(zero):
            raise HarnessError(
                f"the {block.kind} vector of neuron {block.indices[int(zero[0])]} in layer {block.layer} is zero (is "
                "it pruned?), so it has no direction: leave that neuron out (neurons.indices)"
            )
    for layer in {block.layer for block in blocks}:
        setup.subject.token_weights(layer)


def _decompose_block(
    subject: Subject, plan: DecompositionPlan, bench: Workbench, folder: RunFolder, block: Block
) -> int:
    vectors = subject.vectors(block.layer, block.indices, block.kind).to(bench.device)
    projection, weights = bench.vocabulary(block.layer)
    found = decompose(vectors, projection, token_weights=weights, config=plan.config(block.layer, block.kind))
    neurons = [Neuron(block.layer, index) for index in block.indices]
    shares = reconstruction(vectors, found.directions).cpu()
    summaries = [
        _summary(subject, neuron, block.kind, vectors[row], projection, shares[row])
        for row, neuron in enumerate(neurons)
    ]
    base = folder.channels / block.name
    write_table(base.with_suffix(".channels.parquet"), _channels(subject, neurons, block.kind, found, projection))
    with replacing(base.with_suffix(".safetensors")) as aside:
        save_file({"directions": found.directions.to(torch.float32).cpu().contiguous()}, aside)
    # Last, for its presence says that the block is done.
    write_table(base.with_suffix(".vectors.parquet"), summaries)
    return len(neurons)


def _summary(
    subject: Subject, neuron: Neuron, kind: VectorKind, vector: Tensor, projection: Tensor, shares: Tensor
) -> VectorSummary:
    projected = vector @ projection
    positive, negative = subject.extreme_tokens(projected.cpu(), TOP_TOKENS)
    return VectorSummary(
        neuron=neuron,
        kind=kind,
        norm=_rounded(vector.norm()),
        kurtosis=_rounded(kurtosis(projected)),
        skewness=_rounded(skewness(projected)),
        positive=positive,
        negative=negative,
        reconstruction=tuple(_rounded(share) for share in shares),
    )


def _channels(
    subject: Subject, neurons: Sequence[Neuron], kind: VectorKind, found: Decomposition, projection: Tensor
) -> Iterator[Channel]:
    for row, neuron in enumerate(neurons):
        projected = (found.directions[row] @ projection).cpu()
        for rank in range(projected.shape[0]):
            positive, negative = subject.extreme_tokens(projected[rank], TOP_TOKENS)
            bins = torch.histc(z_scores(projected[rank]).clamp(-10, 10), HISTOGRAM_BINS, -10, 10)
            yield Channel(
                neuron=neuron,
                kind=kind,
                rank=rank,
                kurtosis=_rounded(found.kurtosis[row, rank]),
                skewness=_rounded(found.skewness[row, rank]),
                cosine=_rounded(found.cosine[row, rank]),
                loss=_rounded(found.loss[row, rank]),
                masked_tokens=int(found.masked_tokens[row, rank]),
                positive=positive,
                negative=negative,
                histogram=tuple(int(count) for count in bins),
            )


def _rounded(value: Tensor) -> float:
    return round(float(value), 5)
