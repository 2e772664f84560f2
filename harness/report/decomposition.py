"""What a decomposition found, summed up from the columns of its tables: a whole model has more records than memory."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from harness.folder import RunFolder, write_json
from harness.report.text import number, percent


@dataclass(frozen=True)
class DecompositionRow:
    """The weight vectors of one layer and kind.

    Attributes:
        layer: the layer; none for all.
        kind: the vector kind; none for all.
        vectors: number of weight vectors.
        channels: number of their channels.
        vector_kurtosis: median excess kurtosis of the vectors.
        first_kurtosis: median excess kurtosis of their first channels.
        channel_kurtosis: median excess kurtosis of all channels.
        cosine: mean cosine between a channel and its vector.
        reconstruction: mean share of a vector's squared norm inside the span of its channels.
    """

    layer: int | None
    kind: str | None
    vectors: int
    channels: int
    vector_kurtosis: float
    first_kurtosis: float
    channel_kurtosis: float
    cosine: float
    reconstruction: float


@dataclass(frozen=True)
class DecompositionSummary:
    """A decomposition in figures.

    Attributes:
        rows: by layer and kind, ordered.
        total: everything together; none if nothing has been decomposed.
    """

    rows: tuple[DecompositionRow, ...]
    total: DecompositionRow | None


class _Figures:
    """Columns of figures, gathered block by block."""

    NAMES = ("vector_kurtosis", "reconstruction", "first_kurtosis", "channel_kurtosis", "cosine")

    def __init__(self) -> None:
        self.parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.NAMES}

    def row(self, layer: int | None, kind: str | None) -> DecompositionRow:
        values = {name: np.concatenate([np.empty(0, np.float32), *parts]) for name, parts in self.parts.items()}
        return DecompositionRow(
            layer=layer,
            kind=kind,
            vectors=len(values["vector_kurtosis"]),
            channels=len(values["channel_kurtosis"]),
            vector_kurtosis=_rounded(np.median(values["vector_kurtosis"])),
            first_kurtosis=_rounded(np.median(values["first_kurtosis"])),
            channel_kurtosis=_rounded(np.median(values["channel_kurtosis"])),
            cosine=_rounded(values["cosine"].mean(dtype=np.float64)),
            reconstruction=_rounded(values["reconstruction"].mean(dtype=np.float64)),
        )


def _rounded(value: np.floating[Any]) -> float:
    return round(float(value), 4)


def read_decomposition(folder: RunFolder) -> DecompositionSummary:
    """Return the summary that a finished run has stored, or sum up what has been decomposed so far."""
    try:
        data = json.loads(folder.decomposition.read_text())
        total = data["total"] and DecompositionRow(**data["total"])
        return DecompositionSummary(tuple(DecompositionRow(**row) for row in data["rows"]), total)
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version
        return sum_up_decomposition(folder)


def sum_up_decomposition(folder: RunFolder) -> DecompositionSummary:
    """Sum up what has been decomposed so far, without reading a token."""
    groups: defaultdict[tuple[int, str], _Figures] = defaultdict(_Figures)
    for table in folder.read_columns("vectors", ["neuron.layer", "kind", "kurtosis", "reconstruction"]):
        lengths = pc.list_value_length(table["reconstruction"]).to_numpy()
        shares = pc.list_flatten(table["reconstruction"]).to_numpy()[lengths.cumsum() - 1]
        _add(groups, table, {"vector_kurtosis": table["kurtosis"].to_numpy(), "reconstruction": shares})
    for table in folder.read_columns("channels", ["neuron.layer", "kind", "rank", "kurtosis", "cosine"]):
        _add(groups, table, {"channel_kurtosis": table["kurtosis"].to_numpy(), "cosine": table["cosine"].to_numpy()})
        first = table.filter(pc.equal(table["rank"], 0))
        _add(groups, first, {"first_kurtosis": first["kurtosis"].to_numpy()})
    everything = _Figures()
    for group in groups.values():
        for name, parts in group.parts.items():
            everything.parts[name] += parts
    rows = tuple(groups[key].row(*key) for key in sorted(groups))
    return DecompositionSummary(rows, everything.row(None, None) if rows else None)


def _add(
    groups: defaultdict[tuple[int, str], _Figures], table: pa.Table, columns: dict[str, NDArray[np.float64]]
) -> None:
    layers, kinds = table["layer"].to_numpy(), table["kind"].to_numpy()
    for layer in np.unique(layers):
        for kind in np.unique(kinds[layers == layer]):
            here = (layers == layer) & (kinds == kind)
            for name, values in columns.items():
                groups[int(layer), str(kind)].parts[name].append(values[here].astype(np.float32))


def store_decomposition(folder: RunFolder) -> None:
    """Sum up what has been decomposed, and write it into the run folder: equal records make equal bytes."""
    write_json(folder.decomposition, dataclasses.asdict(sum_up_decomposition(folder)))


def print_decomposition(folder: RunFolder, console: Console) -> None:
    """Print the summary, by vector kind where there are many layers, and what it took."""
    summary = read_decomposition(folder)
    if summary.total is None:
        return
    table = Table(title="Decomposition", title_justify="left", padding=(0, 1))
    for heading in ("Layer", "Kind"):
        table.add_column(heading)
    for heading in ("Vectors", "Channels", "Kurtosis: vector", "channel 1", "channels", "Cosine", "Reconstructed %"):
        table.add_column(heading, justify="right")
    for row in (*summary.rows, summary.total):
        last = row is summary.total
        table.add_row(
            "all" if row.layer is None else str(row.layer),
            row.kind or "all",
            f"{row.vectors:,}",
            f"{row.channels:,}",
            *(number(value) for value in (row.vector_kurtosis, row.first_kurtosis, row.channel_kurtosis)),
            number(row.cosine),
            number(100 * row.reconstruction, 1),
            style="bold" if last else "",
            end_section=not last and row is summary.rows[-1],
        )
    console.print(table)
    console.print(cost(folder), style="dim", highlight=False)


def cost(folder: RunFolder) -> str:
    """Return in words how long the decomposition took, over all the times that the run was taken up."""
    timings = folder.read_timings()
    vectors = sum(timing.vectors for timing in timings)
    wall, found, kept = (sum(getattr(timing, name) for timing in timings) for name in ("wall", "decompose", "records"))
    if not vectors or not wall:
        return "no record of the time it took"
    took = datetime.timedelta(seconds=round(wall))
    return (
        f"{vectors:,} vectors in {took} ({vectors / wall:.3g} a second); of the workers' time "
        f"{percent(kept / (found + kept))} % went into records"
    )
