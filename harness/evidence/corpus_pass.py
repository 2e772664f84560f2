"""One pass over the corpus that keeps exemplar windows for every neuron, sign and split, and sums for its alignment.

Sources: top exemplars as in Bills et al. 2023; samples by activation quantile as in Paulo et al. 2024. Splits are by
document, so that no judge sees what a describer saw. Memory is bounded by neurons x signs x splits x (top + ``SPARE`` x
quantiles x per_quantile) x window and neurons x (report_random + 3 x ``POOLED`` x random) x window for the state,
2 x d_model x neurons for the sums of :mod:`harness.evidence.alignment`, and ``POOL`` windows of waiting text; only the
record of seen text (:mod:`harness.evidence.copies`) grows with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import HarnessError
from harness.evidence.alignment import TokenSums
from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Corpus
from harness.evidence.encoding import Encoder, framed, special_affixes
from harness.evidence.running import NEVER, SPARE, Drawn, Rows, Sample, Top
from harness.evidence.windows import Cutter, Window
from harness.exemplar_table import sign_of
from harness.folder import replacing
from harness.records import Neuron, Split
from harness.seeds import derive_seed
from harness.subject import ActivationReader, Subject

logger = logging.getLogger(__name__)

#: Windows read ahead and sorted, so that a batch holds windows of one split and of similar length.
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
        added = {
            "numbers": np.arange(first, first + len(pool), dtype=np.int32),
            "documents": np.frombuffer("".join(window.document for window in pool).encode(), np.uint8).reshape(-1, 16),
            "tokens": _padded([window.tokens for window in pool], width, np.int32),
            "marks": _padded([list(window.marks) for window in pool], width, np.uint8),
        }
        for name, values in added.items():
            setattr(self, name, np.concatenate([getattr(self, name), values]))

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

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of :meth:`tensors`."""
        for name in self._COLUMNS:
            setattr(self, name, tensors[f"book.{name}"].numpy())


class State:
    """Everything kept during a pass; see :mod:`harness.evidence.running`.

    Args:
        neurons: the neurons with their signs.
        config: what to keep.
        dtype: number format of the kept activations: the model's own, so that nothing is lost.
        device: device of the state.
    """

    def __init__(self, neurons: Sequence[Neuron], config: EvidenceConfig, dtype: torch.dtype, device: str) -> None:
        self.neurons = sorted(neurons)
        unsigned = sorted({neuron.unsigned for neuron in neurons})
        column_of = {neuron: column for column, neuron in enumerate(unsigned)}
        self.columns = [column_of[neuron.unsigned] for neuron in self.neurons]
        self.rows = rows = Rows(self.columns, [sign_of(neuron) for neuron in self.neurons], device)
        self.config, self.device = config, device
        sample = SPARE * config.quantiles * config.per_quantile
        self.top = {split: Top(rows, config.top, config.window, dtype) for split in Split}
        self.sample = {split: Sample(rows, sample, config.window, dtype) for split in Split} if sample else {}
        pools = {split: max(POOLED * config.random, config.random_of(split)) for split in Split}
        self.drawn = {split: Drawn(len(unsigned), pools[split], config.window, dtype, device) for split in Split}
        self.book = Book(config.window)

    @torch.inference_mode()
    def update(self, batch: Batch, activations: Tensor) -> None:
        """Merge the activations of a batch (B, T, neurons), without those at the special tokens around each window."""
        counted = batch.marks != 0
        if not counted.all():
            activations = activations * torch.from_numpy(counted).to(activations.device)[..., None]
        numbers = torch.from_numpy(batch.numbers).to(self.device)
        peaks = self.rows.peaks(activations)
        self.top[batch.split].update(peaks, numbers, activations)
        if self.sample:
            priorities = torch.from_numpy(batch.priorities[0]).to(self.device)
            self.sample[batch.split].update(peaks, priorities, numbers, activations)
        drawn = torch.from_numpy(batch.priorities[1])
        self.drawn[batch.split].update(drawn, torch.from_numpy(batch.numbers), activations)

    def prune(self, waiting: int) -> None:
        """Remove the text of windows that are no longer in use; windows numbered ``waiting`` or above remain."""
        parts: list[Top | Sample | Drawn] = [*self.top.values(), *self.sample.values(), *self.drawn.values()]
        used = [np.unique(part.windows.cpu().numpy()) for part in parts]
        self.book.prune(np.unique(np.concatenate(used)), waiting)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors by name."""
        return {**dict(self._parts()), **self.book.tensors()}

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        for kind in ("top", "sample", "drawn"):
            for split, part in getattr(self, kind).items():
                for name, value in vars(part).items():
                    if isinstance(value, Tensor) and not name.startswith("_"):
                        yield f"{kind}.{split.value}.{name}", value

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of :meth:`tensors`."""
        for name, value in self._parts():
            value.copy_(tensors[name])
        self.book.load(tensors)


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


class _StaleState(Exception):
    """The saved state of an interrupted pass cannot be used; the message is the reason."""


def check_window(subject: Subject, config: EvidenceConfig) -> None:
    """Check that a window fits into the model's context.

    Raises:
        HarnessError: if it does not.
    """
    longest = subject.max_tokens
    special = sum(map(len, special_affixes(subject.tokenizer)))
    if longest is not None and config.window + special > longest:
        raise HarnessError(
            f"windows of {config.window} tokens are too long for {subject.name}: it reads at most {longest}, "
            f"{special} special ones included (evidence.window)"
        )


@dataclass
class CorpusPass:
    """One pass of the subject over the corpus; counts the pools and windows done and the documents reported.

    Args:
        corpus: the text.
        subject: the model.
        neurons: the neurons with their signs, ordered.
        config: what to keep.
        seed: the run's seed.
        device: device of the model.
        saved: file in which the state is saved from time to time, and from which an interrupted pass resumes. The
            earlier text is then read again, but not run through the model. The caller removes the file once it has
            stored the result.
        progress: called with the number of documents, or None if it is not known, and the number of those done since
            the last call.
        seen: the corpus that describers see, if only judges see this one; None if both see this one.
    """

    corpus: Corpus
    subject: Subject
    neurons: list[Neuron]
    config: EvidenceConfig
    seed: int
    device: str
    saved: Path
    progress: Callable[[int | None, int], None]
    seen: Corpus | None = None

    def run(self) -> tuple[State, TokenSums, CorpusSummary]:
        """Run the subject over the corpus once; return what was kept and added up, and how much text was read.

        Raises:
            HarnessError: if the corpus is empty or too small for the splits, or the model cannot be run.
        """
        check_window(self.subject, self.config)
        self.documents = self.corpus.documents(self.config.most_documents(self.seen is not None))
        try:
            return self._run()
        except _StaleState as reason:
            logger.warning("the interrupted pass over the corpus %s starts again: %s", self.corpus.name, reason)
            self.saved.unlink(missing_ok=True)
            return self._run()

    def _run(self) -> tuple[State, TokenSums, CorpusSummary]:
        self.pools_done = self.windows_done = self.reported = 0  # the windows are those of the next pool
        self.last_save = time.monotonic()
        # A saved state is valid only for the same values.
        identity = [self.corpus.name, self.config.identity, self.seed, [str(neuron) for neuron in self.neurons]]
        self.identity = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self.encoder = Encoder(self.subject.tokenizer, self.corpus.template)
        cutter = Cutter(self.encoder, self.config, self.seed, held_out=self.seen is not None)
        if self.seen is not None:
            known = self.seen.documents(self.config.max_documents)
            cutter.remember(known, Encoder(self.subject.tokenizer, self.seen.template))
        windows = cutter.cut(self.documents)
        pool = list(islice(windows, POOL))
        if len(pool) < POOL:
            cutter.check()  # reports a corpus that is too small before the model is loaded
        unsigned = sorted({neuron.unsigned for neuron in self.neurons})
        reader = ActivationReader(self.subject, unsigned, self.device)
        try:
            state = State(self.neurons, self.config, reader.dtype, self.device)
            self.sums = TokenSums(self.subject, unsigned, self.device)
            digest, saved_digest = hashlib.sha256(), self._load(state)
            verified = saved_digest is None
            number = first = read = 0
            while pool:
                for window in pool:
                    digest.update(f"{window.document}{window.tokens}".encode())
                if number == self.pools_done and not verified:
                    verified = digest.hexdigest() == saved_digest
                    if not verified:
                        break
                if number >= self.pools_done:
                    if number > self.pools_done or not self.windows_done:
                        state.book.add(pool, first)
                    self._read(reader, state, pool, first, digest.hexdigest(), (read, cutter.read))
                first, read, number = first + len(pool), cutter.read, number + 1
                pool = list(islice(windows, POOL))
            if not verified:
                raise _StaleState("the corpus has changed since it was interrupted")
        finally:
            reader.close()
        cutter.check()
        self._report(cutter.read)
        state.prune(first)
        if self.encoder.refused:
            logger.warning("the chat template refused %d conversations of %s", self.encoder.refused, self.corpus.name)
        counts = (cutter.documents, first, cutter.tokens, cutter.copies, cutter.windows[Split.REPORT])
        return state, self.sums, CorpusSummary(self.corpus.name, *counts)

    def _read(
        self, reader: ActivationReader, state: State, pool: list[Window], first: int, digest: str, read: tuple[int, int]
    ) -> None:
        """Read the rest of a pool; ``read`` are the documents read before it and including it."""
        before, after = read
        prefix, suffix = self.encoder.prefix, self.encoder.suffix
        for batch in batches(pool, first, self.config.batch_windows, self.seed, self.windows_done):
            ids, attention = framed(batch.tokens, prefix, suffix, self.subject.padding_id)
            activations = reader.read(ids, attention)[:, len(prefix) : len(prefix) + batch.marks.shape[1]]
            state.update(batch, activations)
            self.sums.update(batch.ids, batch.marks != 0, activations)
            self.windows_done += len(batch.numbers)
            self._report(before + (after - before) * self.windows_done // len(pool))
            if time.monotonic() - self.last_save >= self.config.checkpoint_s:
                self._save(state, first, digest)
        if state.book.needs_pruning():
            state.prune(first + len(pool))
        self.pools_done, self.windows_done = self.pools_done + 1, 0

    def _report(self, documents: int) -> None:
        if documents > self.reported:
            self.progress(self.documents.count, documents - self.reported)
            self.reported = documents

    def _save(self, state: State, first: int, digest: str) -> None:
        state.prune(first)
        position = {
            "pools_done": self.pools_done,
            "windows_done": self.windows_done,
            "digest": digest,
            "identity": self.identity,
        }
        with replacing(self.saved) as temporary:
            kept = {**state.tensors(), **self.sums.tensors()}
            tensors = {name: tensor.contiguous() for name, tensor in kept.items()}
            save_file(tensors, temporary, metadata={"position": json.dumps(position)})
        self.last_save = time.monotonic()

    def _load(self, state: State) -> str | None:
        """Load a saved state; return the digest of the text up to its position, or None if there is no saved state."""
        if not self.saved.exists():
            return None
        try:
            with safe_open(self.saved, framework="pt") as file:
                position = json.loads((file.metadata() or {})["position"])
                if position["identity"] != self.identity:
                    raise _StaleState("it had other settings or neurons")
                self.pools_done, self.windows_done = position["pools_done"], position["windows_done"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                state.load(tensors)
                self.sums.load(tensors)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise _StaleState(f"its saved state, {self.saved}, is not readable ({error})") from error
        logger.info("resuming the interrupted pass")
        digest: str = position["digest"]
        return digest
