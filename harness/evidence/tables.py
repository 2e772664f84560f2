"""Converts the state of a pass to the records of neurons, column by column."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.evidence.encoding import TURN
from harness.evidence.running import EMPTY, Sample, windows_of
from harness.evidence.state import State
from harness.exemplar_table import SCHEMA, TOGETHER, WINDOWS, neuron_column, sign_of
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
    sizes = np.diff(texts.offsets)[book_rows]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    pieces = np.repeat(texts.offsets[book_rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
    tokens = texts.known.take(pa.array(texts.codes[pieces]))
    activations = pa.array(_highest(np.concatenate(values), np.repeat(np.arange(len(sizes)), sizes), texts, pieces))
    documents = [bytes(digits).decode() for digits in state.book.documents[book_rows]]
    return pa.Table.from_arrays(
        [
            neuron_column([state.neurons[row] for row in rows], counts),
            pa.array(splits, pa.string()),
            pa.array(sources, pa.string()),
            pa.array(documents, pa.string()),
            pa.array(window, pa.int64()),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), activations),
        ],
        schema=SCHEMA,
    )


def window_table(state: State) -> pa.Table:
    """Return the token ids of all windows in use, in the order of the corpus, in the columns of ``WINDOWS``.

    They are without the special tokens that the tokenizer adds, and end at the last token that counts as evidence.
    """
    book = state.book
    width = book.marks.shape[1]
    lengths = width - (book.marks[:, ::-1] != 0).argmax(axis=1)  # every window has a token that counts
    ids = book.tokens[np.arange(width) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    documents = [bytes(digits).decode() for digits in book.documents]
    return pa.Table.from_arrays(
        [
            pa.array(book.numbers, pa.int64()),
            pa.array(documents, pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int32())),
        ],
        schema=WINDOWS,
    )


def _highest(
    values: NDArray[np.float32], rows: NDArray[np.int64], texts: _Texts, pieces: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the activation of pieces in given rows of ``values`` (n, T): the highest of their tokens."""
    width = values.shape[1]
    flat = np.append(values.ravel(), np.float32(0))  # a span may end after the last value
    spans = np.stack([rows * width + texts.starts[pieces], rows * width + texts.stops[pieces]], axis=1)
    highest = np.maximum.reduceat(flat, spans.ravel())[::2] if len(pieces) else flat[:0]
    return np.asarray(highest + np.float32(0))  # turns -0.0 into 0.0


def _of(state: State, row: int, split: Split) -> Iterator[tuple[Source, NDArray[np.int32], NDArray[np.float32]]]:
    """Yield the windows (n,) of a row and split and their activations (n, T), source by source."""
    top = state.top[split]
    kept = top.keys[row] < EMPTY
    yield Source.TOP, _numpy(windows_of(top.keys[row][kept])), _numpy(top.of(row, kept))
    if state.sample:
        sample = state.sample[split]
        picked = quantile_picks(sample, row, state.config.quantiles, state.config.per_quantile)
        yield Source.QUANTILE, _numpy(windows_of(sample.keys[row][picked])), _numpy(sample.of(row, picked))
    drawn, neuron = state.drawn[split], state.neurons[row]
    order = drawn.windows.argsort()
    order = order[drawn.windows[order] >= 0]  # a small corpus does not fill the pool
    # Seed 0: the run's seed already determined the pool.
    rng = derive_rng(0, "random windows of a neuron", split, neuron.unsigned)
    picked = order[np.sort(rng.choice(len(order), min(state.config.random_of(split), len(order)), replace=False))]
    activations = drawn.activations[:, :, state.columns[row]][picked.to(drawn.activations.device)]
    yield Source.RANDOM, _numpy(drawn.windows[picked]), _numpy(activations) * sign_of(neuron)


def quantile_picks(sample: Sample, row: int, quantiles: int, each: int) -> Tensor:
    """Return ranks in a row's sample: of each of ``quantiles`` equal parts by peak, the first ``each``, highest first.

    The ranks of all sampled peaks determine the parts. They are exact if no more windows than ``PEAKS`` activate the
    neuron. A part with fewer than ``each`` windows yields all of them.
    """
    count = int((sample.keys[row] < EMPTY).sum())
    peaks = sample.values[row, :count]
    ranks = torch.empty(count, dtype=torch.long)
    ranks[peaks.cpu().argsort(descending=True, stable=True)] = torch.arange(count)
    parts = (ranks * quantiles // max(1, count))[: sample.slots.shape[1]]
    picked = [index for part in range(quantiles) for index in (parts == part).nonzero().flatten()[:each].tolist()]
    return torch.tensor(sorted(picked, key=lambda index: int(ranks[index])), dtype=torch.long, device=peaks.device)


def _numpy(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return found


@dataclass(frozen=True)
class _Texts:
    """The pieces of the windows in the book (:meth:`harness.subject.token_texts.TokenTexts.pieces`), row after row.

    Attributes:
        known: the distinct texts of the pieces.
        offsets: the first piece of each row, and the number of pieces (n + 1).
        codes: index of each piece's text in ``known``.
        starts: position of each piece's first token in the window.
        stops: position after its last token.
    """

    known: pa.Array
    offsets: NDArray[np.int64]
    codes: NDArray[np.int32]
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]


def _texts(state: State, subject: Subject) -> _Texts:
    book = state.book
    known: dict[str, int] = {}
    offsets, pieces = [0], array("i")  # an object for each piece would take far more memory
    for tokens, marks in zip(book.tokens, book.marks, strict=True):
        counted = np.flatnonzero(marks)
        for turn in np.split(counted, np.flatnonzero(marks[counted] == TURN)):
            for piece in subject.texts.pieces(tokens[turn].tolist()):
                start, stop = turn[piece.start], turn[piece.stop - 1] + 1
                text = f"\n{piece.text}" if piece.start == 0 and turn[0] != counted[0] else piece.text
                pieces.extend((known.setdefault(text, len(known)), start, stop))
        offsets.append(len(pieces) // 3)
    codes, starts, stops = np.frombuffer(pieces, np.int32).reshape(-1, 3).T
    return _Texts(pa.array(list(known), pa.string()), np.array(offsets), codes, starts, stops)
