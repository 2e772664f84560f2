"""What a pass over a corpus keeps, and the batches of windows that it reads.

Memory is bounded by neurons x signs x splits x (top + ``SPARE`` x quantiles x per_quantile) x window and neurons x
(report_random + 3 x ``POOLED`` x random) x window activations (:func:`bytes_of_neuron`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.evidence.config import EvidenceConfig
from harness.evidence.running import EMPTY, NEVER, PEAKS, SPARE, Drawn, Kept, Rows, Sample, Top, keys_of
from harness.evidence.windows import Window
from harness.exemplar_table import sign_of
from harness.records import Neuron, Split
from harness.seeds import derive_seed

#: Windows read together and sorted, so that a batch holds windows of one split and of similar length.
POOL = 4096
#: Random windows kept for each window that a neuron shows. Every neuron draws its own from this pool: if all neurons
#: showed the same few windows, all results would depend on one draw, unseen by the intervals over neurons.
POOLED = 4


class Book:
    """The text of all windows in use, by window number."""

    _COLUMNS = ("numbers", "documents", "tokens", "marks")

    def __init__(self, window: int) -> None:
        self.numbers = np.zeros(0, np.int32)
        self.documents = np.zeros((0, 16), np.uint8)  # hexadecimal digits of the identities
        self.tokens = np.zeros((0, window), np.int32)
        self.marks = np.zeros((0, window), np.uint8)
        self._pruned_size = 0

    def add(self, pool: Sequence[Window], first: int) -> None:
        """Add windows, numbered from ``first``."""
        width = self.tokens.shape[1]
        self._merge(
            {
                "numbers": np.arange(first, first + len(pool), dtype=np.int32),
                "documents": np.frombuffer("".join(one.document for one in pool).encode(), np.uint8).reshape(-1, 16),
                "tokens": _padded([window.tokens for window in pool], width, np.int32),
                "marks": _padded([list(window.marks) for window in pool], width, np.uint8),
            }
        )

    def _merge(self, added: Mapping[str, NDArray[Any]]) -> None:
        """Add windows, which may be there already, and order all by number."""
        joined = {name: np.concatenate([getattr(self, name), added[name]]) for name in self._COLUMNS}
        _, places = np.unique(joined["numbers"], return_index=True)
        for name, values in joined.items():
            setattr(self, name, values[places])

    def needs_pruning(self) -> bool:
        """Return whether the book may have doubled since it was last pruned."""
        return len(self.numbers) > 2 * self._pruned_size + POOL

    def prune(self, used: NDArray[np.int32], waiting: int) -> None:
        """Remove windows that are not in use; windows numbered ``waiting`` or above remain."""
        kept = np.isin(self.numbers, used) | (self.numbers >= waiting)
        for name in self._COLUMNS:
            setattr(self, name, getattr(self, name)[kept])
        self._pruned_size = len(self.numbers)

    def tensors(self) -> dict[str, Tensor]:
        """Return the content as tensors by name."""
        return {f"book.{name}": torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in self._COLUMNS}

    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the windows of the result of :meth:`tensors`."""
        self._merge({name: tensors[f"book.{name}"].numpy() for name in self._COLUMNS})


class State:
    """Everything kept during a pass; see :mod:`harness.evidence.running`.

    Args:
        neurons: the neurons with their signs.
        config: what to keep.
        dtype: number format of the kept activations: the model's own, so that nothing is lost.
        device: device of the state.
        limits: for some splits, the key from which on no random window is kept, because others have kept enough.
    """

    def __init__(
        self,
        neurons: Sequence[Neuron],
        config: EvidenceConfig,
        dtype: torch.dtype,
        device: str,
        limits: Mapping[Split, int] = MappingProxyType({}),
    ) -> None:
        self.neurons = sorted(neurons)
        unsigned = unsigned_of(neurons)
        column_of = {neuron: column for column, neuron in enumerate(unsigned)}
        self.columns = [column_of[neuron.unsigned] for neuron in self.neurons]
        self.rows = rows = Rows(self.columns, [sign_of(neuron) for neuron in self.neurons], device)
        self.config, self.device = config, device
        sample = _sampled(config)
        self.top = {split: Top(rows, config.top, config.window, dtype) for split in Split}
        self.sample = {split: Sample(rows, sample, config.window, dtype) for split in Split} if sample else {}
        self.drawn = {
            split: Drawn(len(unsigned), _pool(config, split), config.window, dtype, device, limits.get(split, EMPTY))
            for split in Split
        }
        self.book = Book(config.window)

    @property
    def limits(self) -> dict[Split, int]:
        """The key below which a random window enters, by split."""
        return {split: drawn.limit for split, drawn in self.drawn.items()}

    @torch.inference_mode()
    def update(self, batch: Batch, activations: Tensor) -> None:
        """Merge the activations of a batch (B, T, neurons), without those at the special tokens around each window."""
        counted = batch.marks != 0
        if not counted.all():
            activations = activations * torch.from_numpy(counted).to(activations.device)[..., None]
        on_cpu = torch.from_numpy(batch.numbers)
        numbers = on_cpu.to(self.device)
        peaks = self.rows.peaks(activations)
        self.top[batch.split].update(peaks, numbers, activations)
        if self.sample:
            priorities = torch.from_numpy(batch.priorities[0]).to(self.device)
            self.sample[batch.split].update(peaks, priorities, numbers, activations)
        keys = keys_of(torch.from_numpy(batch.priorities[1]), on_cpu)
        self.drawn[batch.split].merge(keys, activations)

    @torch.inference_mode()
    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Merge the tensors of another state, of other windows. The result is that of one state for all windows."""
        for place, part in self._parts():
            given = {name: tensors[f"{place}.{name}"] for name in _fields(part)}
            if isinstance(part, Drawn):
                part.merge(given["keys"], given["activations"].to(self.device))
            else:
                part.merge(**{name: tensor.to(self.device) for name, tensor in given.items()})
        self.book.merge(tensors)

    def prune(self, waiting: int | None = None) -> None:
        """Remove the text of windows that are no longer in use; windows numbered ``waiting`` or above remain."""
        used = [np.unique(part.windows.cpu().numpy()) for _, part in self._parts()]
        self.book.prune(np.unique(np.concatenate(used)), NEVER if waiting is None else waiting)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors by name."""
        kept = {f"{place}.{name}": value for place, part in self._parts() for name, value in _fields(part).items()}
        return {**kept, **self.book.tensors()}

    def _parts(self) -> Iterator[tuple[str, Kept | Drawn]]:
        for kind in ("top", "sample", "drawn"):
            for split, part in getattr(self, kind).items():
                yield f"{kind}.{split.value}", part


def _fields(part: Kept | Drawn) -> dict[str, Tensor]:
    return {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}


def unsigned_of(neurons: Sequence[Neuron]) -> list[Neuron]:
    """Return the neurons without signs, ordered: the columns of the activations."""
    return sorted({neuron.unsigned for neuron in neurons})


def groups(neurons: Sequence[Neuron], config: EvidenceConfig, d_model: int) -> list[list[Neuron]]:
    """Return the neurons, ordered, in as few groups as can each be captured within ``config.memory``.

    Args:
        neurons: the neurons with their signs.
        config: what to keep.
        d_model: width of the residual stream.
    """
    unsigned = unsigned_of(neurons)
    needed = bytes_of_neuron(config, d_model, len(neurons) / max(1, len(unsigned)))
    together = max(1, int(config.memory * 2**30 / needed))
    chosen = [set(unsigned[start : start + together]) for start in range(0, len(unsigned), together)]
    return [sorted(neuron for neuron in neurons if neuron.unsigned in some) for some in chosen]


def bytes_of_neuron(config: EvidenceConfig, d_model: int, signs: float) -> float:
    """Return how much memory a neuron takes during a pass, if an activation has 4 bytes.

    Args:
        config: what to keep.
        d_model: width of the residual stream.
        signs: how many of its signs are captured.
    """
    window, sample = 4 * config.window, _sampled(config)
    # Of each window an activation at every token, and its key, peak and slot; see Kept and Drawn.
    exemplars = config.top * (window + 20) + sample * (window + 8) + (max(PEAKS, sample) * 12 if sample else 0)
    drawn = sum(_pool(config, split) for split in Split) * window
    sums = 2 * 8 * d_model
    batch = 3 * config.batch_windows * window  # the activations of a batch, and copies of them
    return signs * len(Split) * exemplars + drawn + sums + batch


def _sampled(config: EvidenceConfig) -> int:
    return SPARE * config.quantiles * config.per_quantile


def _pool(config: EvidenceConfig, split: Split) -> int:
    return max(POOLED * config.random, config.random_of(split))


@dataclass(frozen=True)
class Batch:
    """Windows of one split.

    Attributes:
        split: their split.
        numbers: numbers of the windows (B,), int32.
        tokens: tokens of each window.
        marks: role of each token (B, T), 0 after the end of a shorter window.
        priorities: random numbers, for quantile samples and for random windows (2, B), int32.
    """

    split: Split
    numbers: NDArray[np.int32]
    tokens: list[tuple[int, ...]]
    marks: NDArray[np.uint8]
    priorities: NDArray[np.int32]

    @property
    def ids(self) -> NDArray[np.int32]:
        """Tokens of each window (B, T), 0 after the end of a shorter one."""
        return _padded(self.tokens, self.marks.shape[1], np.int32)

    @classmethod
    def of(cls, windows: Sequence[tuple[int, Window]], seed: int) -> Batch:
        """Make a batch of numbered windows of one split."""
        tokens = [window.tokens for _, window in windows]
        marks = _padded([list(window.marks) for _, window in windows], max(map(len, tokens)), np.uint8)
        priorities = [
            [derive_seed(seed, what, window.document, window.start) % NEVER for _, window in windows]
            for what in ("quantile windows", "random windows")
        ]
        numbers = np.array([number for number, _ in windows], np.int32)
        return cls(windows[0][1].split, numbers, tokens, marks, np.array(priorities, np.int32))


def _padded(rows: Sequence[Sequence[int]], width: int, dtype: type[np.number]) -> NDArray[Any]:
    """Return rows of different lengths as an array (rows, width), 0 after the end of each."""
    found = np.zeros((len(rows), width), dtype)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return found


def batches(pool: Sequence[Window], first: int, size: int, seed: int, done: int = 0) -> Iterator[Batch]:
    """Yield the batches of a pool whose windows are numbered from ``first``: one split each, similar lengths together.

    The first ``done`` windows are skipped; which these are does not depend on the size of the batches.
    """
    order = list(Split)
    numbered = sorted(
        enumerate(pool, start=first), key=lambda item: (order.index(item[1].split), -len(item[1].tokens), item[0])
    )
    start = done
    while start < len(numbered):
        stop = start + 1
        while stop < min(start + size, len(numbered)) and numbered[stop][1].split is numbered[start][1].split:
            stop += 1
        yield Batch.of(numbered[start:stop], seed)
        start = stop
