"""Tables of a decomposed block's records, built by column: one Python object per token would be far too slow."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from harness.records import to_json
from harness.run.worker import Block, Projected

DIGITS, Z_DIGITS = 5, 3


def record_table(block: Block, found: Projected, kind: Any, texts: pa.Array) -> pa.Table:
    """Return the records of a block's channels or vectors.

    Args:
        block: the block.
        found: its channels, by vector and order of discovery, or its vectors.
        kind: :class:`harness.records.Channel` or :class:`harness.records.VectorSummary`.
        texts: text of every token of the vocabulary, (V,).
    """
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


def _rounded(values: Tensor) -> pa.Array:
    numbers = values.numpy()
    return pa.array(np.round(numbers.astype(np.float64), DIGITS) if values.is_floating_point() else numbers)


def _scored(tokens: Tensor, z: Tensor, texts: pa.Array) -> pa.ListArray:
    """Return lists of scored tokens. Rounded z-scores repeat, so parquet's dictionaries store them in little space."""
    names = texts.take(pa.array(tokens.flatten().numpy()))
    scores = pa.array(np.round(z.flatten().numpy().astype(np.float64), Z_DIGITS))
    return _lists(pa.StructArray.from_arrays([names, scores], names=["token", "z"]), tokens.shape)


def _lists(values: pa.Array, shape: tuple[int, ...]) -> pa.ListArray:
    """Return (rows, length) values as rows of lists."""
    rows, length = shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(length)), values)
