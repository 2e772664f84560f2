"""From the running state to the records of neurons, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.evidence.corpus_pass import State
from harness.evidence.encoding import TURN
from harness.evidence.running import NEVER, Sample, Tally, lower_edges
from harness.exemplar_table import SCHEMA, TOGETHER, neuron_column, sign_of
from harness.records import Activity, Neuron, Source, Split
from harness.seeds import derive_rng
from harness.subject import Subject


def exemplar_tables(state: State, subject: Subject) -> Iterator[pa.Table]:
    """Yield the exemplars of a few neurons at a time, in the columns of ``SCHEMA``.

    Ordered by neuron, split and source: top and quantile ones by activation, highest first; random ones in corpus
    order.
    """
    texts = _Texts(state, subject)
    for start in range(0, len(state.neurons), TOGETHER):
        yield _table(state, texts, range(start, min(start + TOGETHER, len(state.neurons))))


def _table(state: State, texts: _Texts, rows: Sequence[int]) -> pa.Table:
    splits: list[str] = []
    sources: list[str] = []
    counts: list[int] = []
    numbers: list[NDArray[np.int32]] = []
    values: list[NDArray[np.float32]] = []
    for row in rows:
        before = len(splits)
        for split in Split:
            for source, windows, activations in _of(state, row, split):
                splits += [split.value] * len(windows)
                sources += [source.value] * len(windows)
                numbers.append(windows)
                values.append(activations)
        counts.append(len(splits) - before)
    window = np.concatenate(numbers)
    book_rows = np.searchsorted(state.book.numbers, window)
    counted = state.book.marks[book_rows] != 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(counted.sum(axis=1))]), pa.int32())
    tokens = pa.array(texts.pieces, pa.string()).take(pa.array(texts.codes[book_rows][counted]))
    activations = pa.array(np.concatenate(values)[counted] + np.float32(0))  # no -0.0
    documents = [bytes(digits).decode() for digits in state.book.documents[book_rows]]
    return pa.Table.from_arrays(
        [
            neuron_column([state.neurons[row] for row in rows], counts),
            pa.array(splits, pa.string()),
            pa.array(sources, pa.string()),
            pa.array(documents, pa.string()),
            pa.array(window, pa.int64()),
            pa.ListArray.from_arrays(offsets, tokens),
            pa.ListArray.from_arrays(offsets, activations),
        ],
        schema=SCHEMA,
    )


def _of(state: State, row: int, split: Split) -> Iterator[tuple[Source, NDArray[np.int32], NDArray[np.float32]]]:
    """Yield the windows (n,) of a row and split and their activations (n, T), source by source."""
    top = state.top[split]
    kept = top.windows[row] >= 0
    yield Source.TOP, _numpy(top.windows[row][kept]), _numpy(top.of(row, kept))
    if state.sample:
        sample = state.sample[split]
        picked = quantile_picks(sample, row, state.config.quantiles, state.config.per_quantile)
        yield Source.QUANTILE, _numpy(sample.windows[row][picked]), _numpy(sample.of(row, picked))
    drawn, neuron = state.drawn[split], state.neurons[row]
    order = drawn.windows.argsort()
    order = order[drawn.windows[order] >= 0]  # a small corpus does not fill the pool
    # The pool itself was drawn by the run's seed.
    rng = derive_rng(0, "random windows of a neuron", split, neuron.unsigned)
    mine = order[np.sort(rng.choice(len(order), min(state.config.random, len(order)), replace=False))]
    own = drawn.activations[:, :, state.columns[row]][mine.to(drawn.activations.device)]
    yield Source.RANDOM, _numpy(drawn.windows[mine]), _numpy(own) * sign_of(neuron)


def quantile_picks(sample: Sample, row: int, quantiles: int, each: int) -> Tensor:
    """Return places in a row's sample: of each of ``quantiles`` equal parts by peak, the first ``each``, highest first.

    A part is known by the ranks of all peaks kept; where no more windows activate than that, the parts are exact. A
    part with fewer windows gives fewer.
    """
    count = int((sample.priorities[row] < NEVER).sum())
    peaks = sample.values[row, :count]
    ranks = torch.empty(count, dtype=torch.long)
    ranks[peaks.cpu().argsort(descending=True, stable=True)] = torch.arange(count)
    parts = (ranks * quantiles // max(1, count))[: sample.windows.shape[1]]
    picked = [place for part in range(quantiles) for place in (parts == part).nonzero().flatten()[:each].tolist()]
    return torch.tensor(sorted(picked, key=lambda place: int(ranks[place])), dtype=torch.long, device=peaks.device)


def _numpy(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return found


class _Texts:
    """The tokens of all windows in the book as text, each text once.

    Attributes:
        pieces: the texts.
        codes: for each token of each window its text, where it counts (n, T), int32.
    """

    def __init__(self, state: State, subject: Subject) -> None:
        book = state.book
        known: dict[str, int] = {}
        self.codes = np.zeros(book.tokens.shape, np.int32)
        for row, (tokens, marks) in enumerate(zip(book.tokens, book.marks, strict=True)):
            counted = marks != 0
            texts = subject.surface(tokens[counted].tolist())
            for place in np.flatnonzero(marks[counted] == TURN).tolist():
                texts[place] = f"\n{texts[place]}" if place else texts[place]
            self.codes[row, counted] = [known.setdefault(text, len(known)) for text in texts]
        self.pieces = list(known)


def activities(state: State) -> Iterator[Activity]:
    """Yield the activity of each neuron and split, ordered."""
    edges = lower_edges().double().numpy()
    signs = {sign_of(neuron) for neuron in state.neurons}
    counts = {(split, sign): _numpy(state.tally[split].active(sign)) for split in Split for sign in signs}
    for row, neuron in enumerate(state.neurons):
        column, sign = state.columns[row], sign_of(neuron)
        for split in Split:
            yield _activity(state, neuron, split, state.tally[split], counts[split, sign][column], column, edges)


def _activity(
    state: State,
    neuron: Neuron,
    split: Split,
    tally: Tally,
    counts: NDArray[np.int64],
    column: int,
    edges: NDArray[np.float64],
) -> Activity:
    """Return the activity of a neuron and split; ``counts`` are of its sign (BINS,), ``edges`` where bins begin."""
    sign = sign_of(neuron)
    tokens, active = int(tally.tokens), int(counts.sum())
    positive, negative = tally.sums[column].tolist()
    maximum = float(tally.highest[column, 0 if sign > 0 else 1])
    strongest = state.config.strong * max(maximum, 0.0)
    start = max(0, int(np.searchsorted(edges, strongest, side="right")) - 1)
    total = positive if sign > 0 else -negative
    return Activity(
        neuron=neuron,
        split=split,
        tokens=tokens,
        density=round(active / tokens, 9),
        strong_density=round(int(counts[start:].sum()) / tokens, 9),
        threshold=float(edges[start]) if active else 0.0,
        mean=round(sign * (positive + negative) / tokens, 9),
        mean_active=round(total / active, 9) if active else 0.0,
        maximum=round(max(maximum, 0.0), 6),
    )
