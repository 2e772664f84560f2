"""Converts the state of a pass to the records of neurons, column by column."""

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
from harness.evidence.running import NEVER, Sample
from harness.exemplar_table import SCHEMA, TOGETHER, neuron_column, sign_of
from harness.records import Source, Split
from harness.seeds import derive_rng
from harness.subject import Subject


def exemplar_tables(state: State, subject: Subject) -> Iterator[pa.Table]:
    """Yield the exemplars of a few neurons at a time, in the columns of ``SCHEMA``.

    Ordered by neuron, split and source. Top and quantile exemplars are ordered by activation, highest first; random
    ones by their order in the corpus.
    """
    texts = _texts(state, subject)
    for start in range(0, len(state.neurons), TOGETHER):
        yield _table(state, texts, range(start, min(start + TOGETHER, len(state.neurons))))


def _table(state: State, texts: tuple[pa.Array, NDArray[np.int32]], rows: Sequence[int]) -> pa.Table:
    pieces, codes = texts
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
    tokens = pieces.take(pa.array(codes[book_rows][counted]))
    activations = pa.array(np.concatenate(values)[counted] + np.float32(0))  # turns -0.0 into 0.0
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
    # Seed 0: the run's seed already determined the pool.
    rng = derive_rng(0, "random windows of a neuron", split, neuron.unsigned)
    picked = order[np.sort(rng.choice(len(order), min(state.config.random, len(order)), replace=False))]
    activations = drawn.activations[:, :, state.columns[row]][picked.to(drawn.activations.device)]
    yield Source.RANDOM, _numpy(drawn.windows[picked]), _numpy(activations) * sign_of(neuron)


def quantile_picks(sample: Sample, row: int, quantiles: int, each: int) -> Tensor:
    """Return ranks in a row's sample: of each of ``quantiles`` equal parts by peak, the first ``each``, highest first.

    The ranks of all sampled peaks determine the parts. They are exact if no more windows than ``PEAKS`` activate the
    neuron. A part with fewer than ``each`` windows yields all of them.
    """
    count = int((sample.priorities[row] < NEVER).sum())
    peaks = sample.values[row, :count]
    ranks = torch.empty(count, dtype=torch.long)
    ranks[peaks.cpu().argsort(descending=True, stable=True)] = torch.arange(count)
    parts = (ranks * quantiles // max(1, count))[: sample.windows.shape[1]]
    picked = [index for part in range(quantiles) for index in (parts == part).nonzero().flatten()[:each].tolist()]
    return torch.tensor(sorted(picked, key=lambda index: int(ranks[index])), dtype=torch.long, device=peaks.device)


def _numpy(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return found


def _texts(state: State, subject: Subject) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct texts of all tokens in the book, and the index of the text of each that counts (n, T)."""
    book = state.book
    known: dict[str, int] = {}
    codes = np.zeros(book.tokens.shape, np.int32)
    for row, (tokens, marks) in enumerate(zip(book.tokens, book.marks, strict=True)):
        counted = marks != 0
        texts = subject.surface(tokens[counted].tolist())
        for turn in np.flatnonzero(marks[counted] == TURN).tolist():
            texts[turn] = f"\n{texts[turn]}" if turn else texts[turn]
        codes[row, counted] = [known.setdefault(text, len(known)) for text in texts]
    return pa.array(list(known), pa.string()), codes
