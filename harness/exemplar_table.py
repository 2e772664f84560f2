"""Exemplars in a parquet file, written and read by column rather than by record.

The file has one row for each exemplar, ordered by neuron. The rows of a neuron are in one row group, so that its
exemplars can be read without those of other neurons.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.records import Exemplar, Neuron, Sign, Source, Split, from_json

#: Neurons per row group.
TOGETHER = 16
NEURON = pa.struct(
    [("layer", pa.int32()), ("index", pa.int32()), ("expert", pa.int32()), ("sign", pa.string())]
)  # null: no expert; positive
SCHEMA = pa.schema(
    [
        ("neuron", NEURON),
        ("split", pa.string()),
        ("source", pa.string()),
        ("document", pa.string()),
        ("window", pa.int64()),
        ("tokens", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),
    ]
)
#: The windows of the exemplars, each once, with the ids of their tokens: another program can run them again exactly.
WINDOWS = pa.schema([("window", pa.int64()), ("document", pa.string()), ("token_ids", pa.list_(pa.int32()))])
#: Decimals of an activation: further digits of float32 depend on the order of summation.
DECIMALS = 5
_GROUPS_HELD = 2


def neuron_column(neurons: Sequence[Neuron], counts: Sequence[int]) -> pa.StructArray:
    """Return a column that repeats each neuron ``counts`` times."""
    columns: list[list[Any]] = [
        [neuron.layer for neuron in neurons],
        [neuron.index for neuron in neurons],
        [neuron.expert for neuron in neurons],
        [neuron.sign.value if neuron.negative else None for neuron in neurons],
    ]
    rows = pa.array(np.repeat(np.arange(len(neurons)), counts))
    fields = list(NEURON)
    taken = [pa.array(values, field.type).take(rows) for values, field in zip(columns, fields, strict=True)]
    return pa.StructArray.from_arrays(taken, fields=fields)


def write_exemplars(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables with the columns of ``SCHEMA``, each as one row group."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(SCHEMA), row_group_size=max(1, table.num_rows))


class ExemplarTable:
    """Reads exemplars by neuron, and keeps only the latest row groups in memory.

    Args:
        path: a file written by :func:`write_exemplars`, or any parquet table of Exemplar records.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    @cached_property
    def _rows(self) -> dict[Neuron, list[tuple[int, int, int]]]:
        """For each neuron, row group, first row and end of each run of its rows."""
        rows: dict[Neuron, list[tuple[int, int, int]]] = {}
        for group in range(self._file.num_row_groups):
            column = self._file.read_row_group(group, columns=["neuron"])["neuron"].combine_chunks()
            changes = _changes(column)
            for start, stop in itertools.pairwise(changes):
                neuron = from_json(Neuron, column[int(start)].as_py())
                rows.setdefault(neuron, []).append((group, int(start), int(stop)))
        return rows

    @property
    def neurons(self) -> list[Neuron]:
        """The neurons of the table, ordered."""
        return sorted(self._rows)

    def table(self, neurons: Iterable[Neuron]) -> pa.Table:
        """Return the rows of some neurons, in the order of the neurons."""
        parts = [
            self._group(group).slice(start, stop - start)
            for neuron in neurons
            for group, start, stop in self._rows.get(neuron, ())
        ]
        return pa.concat_tables(parts) if parts else self._file.schema_arrow.empty_table()

    def read(self, neurons: Collection[Neuron] | None = None) -> list[Exemplar]:
        """Return the exemplars of some neurons, or of all, ordered by neuron and then as they were written."""
        chosen = self.neurons if neurons is None else sorted(set(neurons))
        return [exemplar for neuron in chosen for exemplar in _exemplars(neuron, self.table([neuron]))]

    def _group(self, group: int) -> pa.Table:
        if group not in self._groups:
            self._groups[group] = self._file.read_row_group(group).combine_chunks()
            while len(self._groups) > _GROUPS_HELD:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

    def close(self) -> None:
        """Close the file."""
        self._groups.clear()
        self._file.close()


def _changes(column: pa.StructArray) -> NDArray[np.int64]:
    """Return the rows at which another neuron begins, and the number of rows."""
    if not len(column):
        return np.zeros(1, np.int64)
    flat = [
        field.fill_null("" if pa.types.is_string(field.type) else -1).to_numpy(zero_copy_only=False)
        for field in column.flatten()
        if not pa.types.is_null(field.type)
    ]
    changed = np.any([values[1:] != values[:-1] for values in flat], axis=0)
    return np.concatenate([[0], np.flatnonzero(changed) + 1, [len(column)]])


def _exemplars(neuron: Neuron, table: pa.Table) -> list[Exemplar]:
    values = table["activations"].combine_chunks()
    values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
    numbers = values.flatten().to_numpy().astype(np.float64)
    if pa.types.is_float32(values.type.value_type):
        numbers = numbers.round(DECIMALS)
    offsets = values.offsets.to_numpy() - values.offsets[0].as_py()
    activations = numbers.tolist()
    texts = _shared_texts(table["tokens"])
    columns = table.select(["split", "source", "document", "window"]).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [
        Exemplar(
            neuron=neuron,
            split=Split(split),
            source=Source(source),
            document=document,
            window=window,
            tokens=tuple(texts[start:stop]),
            activations=tuple(activations[start:stop]),
        )
        for (split, source, document, window), (start, stop) in zip(rows, itertools.pairwise(offsets), strict=True)
    ]


def _shared_texts(tokens: pa.ChunkedArray) -> list[str]:
    """Return the tokens of all rows, one after the other. Equal tokens are one object, which saves memory and time."""
    flat = pa.concat_arrays([chunk.flatten() for chunk in tokens.chunks]).dictionary_encode()
    known = flat.dictionary.to_pylist()
    return [known[code] for code in flat.indices.to_numpy()]


def sign_of(neuron: Neuron) -> int:
    """Return 1 or -1."""
    return -1 if neuron.sign is Sign.NEGATIVE else 1
