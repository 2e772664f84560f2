"""Tables of a decomposed block's records, built by column: one Python object per token would be far too slow."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from harness.records import Channel, VectorSummary, to_json
from harness.run.worker import BlockResult

DIGITS, Z_DIGITS = 5, 3


def channel_table(result: BlockResult, texts: pa.Array) -> pa.Table:
    """Return the records of the block's channels (:class:`Channel`), by vector and order of discovery.

    Args:
        result: the block.
        texts: text of every token of the vocabulary, (V,).
    """
    count, ranks = result.channels["kurtosis"].shape
    ends = result.channel_extremes
    columns = {
        **_keys(result, repeat=ranks),
        "rank": pa.array(np.tile(np.arange(ranks), count)),
        **{name: _rounded(values.flatten()) for name, values in result.channels.items()},
        "positive": _scored(ends.tokens[:, 0], ends.z[:, 0], texts),
        "negative": _scored(ends.tokens[:, 1], ends.z[:, 1], texts),
    }
    if ends.histogram is not None:
        columns["histogram"] = _lists(pa.array(ends.histogram.flatten().numpy()), ends.histogram.shape)
    return _ordered(columns, Channel)


def vector_table(result: BlockResult, texts: pa.Array) -> pa.Table:
    """Return the records of the block's vectors (:class:`VectorSummary`); arguments as in :func:`channel_table`."""
    columns, ends = dict(result.vectors), result.vector_extremes
    shares = columns.pop("reconstruction")
    table = {
        **_keys(result, repeat=1),
        **{name: _rounded(values) for name, values in columns.items()},
        "positive": _scored(ends.tokens[:, 0], ends.z[:, 0], texts),
        "negative": _scored(ends.tokens[:, 1], ends.z[:, 1], texts),
        "reconstruction": _lists(_rounded(shares.flatten()), shares.shape),
    }
    return _ordered(table, VectorSummary)


def _keys(result: BlockResult, *, repeat: int) -> dict[str, pa.Array]:
    neurons = pa.array([to_json(neuron) for neuron in result.block.neurons])
    rows = np.repeat(np.arange(len(neurons)), repeat)
    return {"neuron": neurons.take(pa.array(rows)), "kind": pa.repeat(result.block.kind.value, len(rows))}


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


def _ordered(columns: dict[str, pa.Array], kind: Any) -> pa.Table:
    """Return a table with the columns in the order of the record's fields; optional fields may be missing."""
    return pa.table({field.name: columns[field.name] for field in fields(kind) if field.name in columns})
