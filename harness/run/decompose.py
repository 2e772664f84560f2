"""Stage: decompose weight vectors into vocabulary channels, in blocks that the executor runs."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from harness.decomposition import DecompositionConfig
from harness.errors import HarnessError
from harness.folder import ELSEWHERE, RunFolder
from harness.records import Channel, Neuron, VectorKind, VectorSummary, from_json, to_json
from harness.run.channel_store import ChannelStore
from harness.run.executor import Shared
from harness.run.progress import progress
from harness.run.setup import Setup
from harness.run.worker import HISTOGRAM_BINS, Block, BlockResult, BlockTask, Projected, decompose_task, listeners
from harness.subject import Subject

logger = logging.getLogger(__name__)
_READ_AT_ONCE = 1 << 14
_DIGITS, _Z_DIGITS = 5, 3


def pending_vectors(setup: Setup, folder: RunFolder) -> list[Block]:
    """Return the vectors that are not decomposed yet, as one large block for each layer and vector kind.

    Empty if the run compares describers and none of them reads channels. A vector counts as done in whatever block it
    was decomposed. Blocks with the same projection are neighbours, and among them those with the same settings.
    """
    if setup.compares and not any(describer.needs_channels for describer in setup.describers.values()):
        return []
    done = folder.decomposed()
    groups: dict[tuple[int, VectorKind], list[Neuron]] = defaultdict(list)
    for neuron, kind in product(setup.neurons, setup.kinds):
        if (neuron, kind) not in done:
            groups[neuron.layer, kind].append(neuron)
    ordered = [Block(tuple(neurons), kind) for (_, kind), neurons in groups.items()]
    return sorted(ordered, key=lambda group: (setup.subject.projection_name(group.layer), repr(_config(setup, group))))


def check_weights(setup: Setup, pending: Sequence[Block]) -> None:
    """Read every vector that is to be decomposed, so that damaged weights are found before time is spent.

    Raises:
        HarnessError: if a vector is zero or holds NaN or infinite numbers, an ignored token does not exist, or there is
            not enough memory.
    """
    for part, vectors in _read(setup, pending):
        zero = (vectors == 0).all(dim=1).nonzero().flatten()
        if len(zero):
            neuron = part.neurons[int(zero[0])]
            expert = "" if neuron.expert is None else f"expert {neuron.expert} of "
            raise HarnessError(
                f"the {part.kind} vector of neuron {neuron.index} in {expert}layer {neuron.layer} is zero (is it "
                "pruned?), so it has no direction: leave that neuron out (neurons.indices)"
            )
    for group in pending:
        setup.subject.token_weights(group.layer)
        _block_size(setup, group, joined=False)


def check_space(setup: Setup, folder: RunFolder, pending: Sequence[Block]) -> None:
    """Check that the disk has enough space for the channels.

    Raises:
        HarnessError: with both sizes, and what to leave out.
    """
    needed = bytes_kept(setup, pending)
    folder.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise HarnessError(
            f"the channels will take about {needed / 1e9:,.0f} GB, but {folder.path} has {free / 1e9:,.0f} GB left: "
            f"choose {ELSEWHERE}, storage.directions=none, or fewer storage.top_tokens"
        )
    if needed > 1e9:
        logger.info("the channels will take about %.0f GB of disk", needed / 1e9)


def bytes_kept(setup: Setup, pending: Sequence[Block]) -> int:
    """Return roughly how many bytes the channels of some vectors take on disk."""
    bytes_each = {"none": 0, "bfloat16": 2, "float32": 4}[setup.storage.directions] * setup.subject.d_model
    # A scored token takes about 5 bytes and a count 2, as measured on parquet files of MiniLM.
    bytes_each += 10 * setup.storage.top_tokens + 2 * HISTOGRAM_BINS * setup.storage.histograms
    return bytes_each * channels_in(setup, pending)


def channels_in(setup: Setup, blocks: Sequence[Block]) -> int:
    """Return the number of channels of some blocks."""
    return sum(len(block.neurons) * _config(setup, block).num_channels for block in blocks)


def decompose_blocks(setup: Setup, folder: RunFolder, pending: Sequence[Block], store: ChannelStore) -> None:
    """Decompose the vectors that the store does not have, and write the blocks of each call as soon as it is done.

    The executor must have been entered, unless the store has all vectors.

    Raises:
        HarnessError: if the executor lost its workers.
    """
    if not pending:
        return
    with store.locked():
        rest = store.restore(folder, pending)
        if rest:
            _decompose(setup, folder, rest, store)


def _decompose(setup: Setup, folder: RunFolder, pending: Sequence[Block], store: ChannelStore) -> None:
    texts, shown, process = _vocabulary_texts(setup.subject), 0, os.getpid()
    with progress("decompose", channels_in(setup, pending), "channels") as advance:

        def show(channels: int) -> None:
            nonlocal shown
            if os.getpid() != process:  # a fork of an executor, which has these listeners too
                return
            shown += channels
            advance(channels)

        listeners.append(show)
        try:
            finished = 0
            for results in setup.executor.map(decompose_task, _tasks(setup, pending)):
                for result in results:
                    vectors = _record_table(result.block, result.vectors, VectorSummary, texts)
                    channels = _record_table(result.block, result.channels, Channel, texts)
                    folder.write_block(result.block.name, vectors, channels, result.directions)
                    store.save(folder, result.block.name)
                    finished += len(channels)
                if finished > shown:  # found in another process
                    show(finished - shown)
        finally:
            listeners.remove(show)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # an LLM may need the accelerator next


def _tasks(setup: Setup, pending: Sequence[Block]) -> Iterator[BlockTask]:
    """Yield the tasks; each projection is shared once, and released before the next one is shared."""
    subject, name = setup.subject, ""
    vocabulary: Shared | None = None
    hidden = torch.tensor(sorted(subject.unused_token_ids), dtype=torch.int64)
    for joined in _joined(setup, pending):
        blocks, vectors = zip(*joined, strict=True)
        layer = blocks[0].layer
        if vocabulary is None or subject.projection_name(layer) != name:
            name, vocabulary = subject.projection_name(layer), None
            vocabulary = setup.executor.share(subject.projection(layer), subject.token_weights(layer), hidden)
        # Concatenated also if it is one block, because a slice would be pickled together with the whole tensor.
        config, memory = _config(setup, blocks[0]), setup.executor.memory_bytes
        yield BlockTask(blocks, torch.cat(vectors), vocabulary, config, setup.storage, memory)


def _joined(setup: Setup, pending: Sequence[Block]) -> Iterator[list[tuple[Block, Tensor]]]:
    """Yield the blocks, with their vectors, that are decomposed in one call.

    Small blocks of one projection and the same settings are joined, because a step of the solver costs about as much
    for one vector as for some, but no further than into about one task for each worker. With other solvers than the
    default one, channels may depend on the other vectors of the call, so their blocks are not joined.
    """
    most = math.ceil(sum(len(group.neurons) for group in pending) / setup.executor.workers)
    joined: list[tuple[Block, Tensor]] = []
    for part, vectors in _read(setup, pending):
        size = _block_size(setup, part, joined=False)
        for start in range(0, len(part.neurons), size):
            block = Block(part.neurons[start : start + size], part.kind)
            if joined and not _fits(setup, [each for each, _ in joined], block, most):
                yield joined
                joined = []
            joined.append((block, vectors[start : start + size]))
    if joined:
        yield joined


def _fits(setup: Setup, joined: Sequence[Block], block: Block, most: int) -> bool:
    """Return whether a block can be joined to others, as far as there are no more than ``most`` vectors in one task."""
    name, config = setup.subject.projection_name, _config(setup, block)
    count = sum(len(each.neurons) for each in (*joined, block))
    return (
        config.independent
        and (name(joined[0].layer), _config(setup, joined[0])) == (name(block.layer), config)
        and count <= min(most, _block_size(setup, block, joined=True))
    )


def _config(setup: Setup, group: Block) -> DecompositionConfig:
    return setup.decomposition.config(group.layer, group.kind)


def _block_size(setup: Setup, group: Block, *, joined: bool) -> int:
    subject = setup.subject
    return setup.executor.block_size(subject.d_model, subject.vocab_size, _config(setup, group), joined=joined)


def _read(setup: Setup, pending: Sequence[Block]) -> Iterator[tuple[Block, Tensor]]:
    """Read each group in large parts, because reading one column of a matrix costs as much as reading them all."""
    for group in pending:
        for start in range(0, len(group.neurons), _READ_AT_ONCE):
            part = Block(group.neurons[start : start + _READ_AT_ONCE], group.kind)
            indices, experts = [n.index for n in part.neurons], [n.expert for n in part.neurons]
            yield part, setup.subject.vectors(part.layer, indices, part.kind, experts)


def _record_table(block: Block, found: Projected, kind: Any, texts: pa.StructArray) -> pa.Table:
    """Return the records of a block's channels or vectors, built by column: an object per token would be too slow."""
    neurons = pa.array([to_json(neuron) for neuron in block.neurons])
    rows = np.repeat(np.arange(len(neurons)), len(found.tokens) // len(neurons))
    columns = {
        "neuron": neurons.take(pa.array(rows)),
        "kind": pa.repeat(block.kind.value, len(rows)),
        "positive": _scored(found.tokens[:, 0], found.z[:, 0], texts),
        "negative": _scored(found.tokens[:, 1], found.z[:, 1], texts),
    }
    for name, values in found.values.items():
        column = _rounded(values.flatten())
        columns[name] = column if values.ndim == 1 else _lists(column, values.shape)
    # In the order of the record's fields; optional fields may be missing.
    return pa.table({field.name: columns[field.name] for field in fields(kind) if field.name in columns})


def _vocabulary_texts(subject: Subject) -> pa.StructArray:
    """Return the text of each token, and what stands before it."""
    tokens = range(subject.vocab_size)
    return pa.StructArray.from_arrays(
        [pa.array(map(subject.token_text, tokens)), pa.array(map(subject.texts.before, tokens))],
        names=["token", "before"],
    )


def channels_of(result: BlockResult, subject: Subject) -> Iterator[Channel]:
    """Yield the channels of a decomposed block, by vector and order of discovery."""
    texts = _vocabulary_texts(subject)
    for row in _record_table(result.block, result.channels, Channel, texts).to_pylist():
        yield from_json(Channel, row)


def _rounded(values: Tensor) -> pa.Array:
    numbers = values.numpy()
    return pa.array(np.round(numbers.astype(np.float64), _DIGITS) if values.is_floating_point() else numbers)


def _scored(tokens: Tensor, z: Tensor, texts: pa.StructArray) -> pa.ListArray:
    """Return lists of scored tokens. Rounded z-scores repeat, so parquet's dictionaries store them in little space.

    ``texts`` are the texts of the vocabulary, and what stands before them.
    """
    names, before = texts.take(pa.array(tokens.flatten().numpy())).flatten()
    scores = pa.array(np.round(z.flatten().numpy().astype(np.float64), _Z_DIGITS))
    return _lists(pa.StructArray.from_arrays([names, scores, before], names=["token", "z", "before"]), tokens.shape)


def _lists(values: pa.Array, shape: tuple[int, ...]) -> pa.ListArray:
    """Return (rows, length) values as rows of lists."""
    rows, length = shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(length)), values)
