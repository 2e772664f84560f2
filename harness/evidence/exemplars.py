"""One pass over the corpus that keeps, for every neuron and split, the windows worth showing.

Source: exemplars as in Bills et al. 2023; splits by document so that no judge sees what a describer saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.evidence.corpus import Corpus
from harness.evidence.windows import Window, check_splits, cut_windows
from harness.records import Exemplar, Neuron, Source, Split
from harness.seeds import derive_rng
from harness.subject import ActivationReader, Subject


@dataclass(frozen=True)
class EvidenceConfig:
    """How evidence is gathered.

    Attributes:
        window: tokens per window.
        max_documents: at most so many documents of the corpus; none for all.
        splits: share of the documents of each split.
        top: windows of highest activation kept per neuron and split.
        random: random windows kept per split, the same for all neurons.
        batch_windows: windows per forward pass; changes speed and memory only.
    """

    window: int = 64
    max_documents: int | None = 4000
    splits: Mapping[Split, float] = field(
        default_factory=lambda: {Split.EXPLAIN: 0.4, Split.SELECT: 0.1, Split.CALIBRATE: 0.1, Split.REPORT: 0.4}
    )
    top: int = 20
    random: int = 40
    batch_windows: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", {Split(name): float(share) for name, share in self.splits.items()})
        if set(self.splits) != set(Split) or min(self.splits.values()) <= 0:
            raise HarnessError(f"evidence.splits needs a positive share for each of {', '.join(Split)}")
        for name in ("window", "top", "random", "batch_windows"):
            if getattr(self, name) < 1:
                raise HarnessError(f"evidence.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class CorpusSummary:
    """How much text was read, for the manifest and the report."""

    name: str
    documents: int
    windows: int
    tokens: int


@dataclass
class _Top:
    """Running top-k of one split: values (neurons, k), window numbers and their activations (neurons, k, T)."""

    values: Tensor
    windows: Tensor
    activations: Tensor

    def update(self, values: Tensor, windows: Tensor, activations: Tensor) -> None:
        """Merge a batch: values (neurons, B), windows (B,), activations (neurons, B, T)."""
        all_values = torch.cat([self.values, values], dim=1)
        all_windows = torch.cat([self.windows, windows.expand(len(values), -1)], dim=1)
        # Stable, and earlier windows stand first: equal activations keep the order of the corpus.
        order = all_values.sort(dim=1, descending=True, stable=True).indices[:, : self.values.shape[1]]
        self.values, self.windows = all_values.gather(1, order), all_windows.gather(1, order)
        all_activations = torch.cat([self.activations, activations], dim=1)
        self.activations = all_activations.gather(1, order[..., None].expand(-1, -1, all_activations.shape[2]))


def gather_windows(corpus: Corpus, subject: Subject, config: EvidenceConfig, seed: int) -> list[Window]:
    """Read the corpus and cut it, checking that it suffices.

    Raises:
        HarnessError: if the corpus is empty or too small for the splits, or a window too long for the model.
    """
    longest = subject.max_tokens
    special = sum(map(len, special_affixes(subject.tokenizer)))
    if longest is not None and config.window + special > longest:
        raise HarnessError(
            f"windows of {config.window} tokens are too long for {subject.name}: it reads {longest} at once, "
            f"{special} special ones included (evidence.window)"
        )
    documents = corpus.documents(config.max_documents)
    windows = cut_windows(documents, subject.tokenizer, length=config.window, shares=config.splits, seed=seed)
    check_splits(windows, max(config.top, config.random))
    return windows


def summarise(corpus: Corpus, windows: Sequence[Window]) -> CorpusSummary:
    """Count what was read."""
    documents = {window.document for window in windows}
    return CorpusSummary(corpus.name, len(documents), len(windows), sum(len(window.tokens) for window in windows))


def collect_exemplars(
    windows: Sequence[Window],
    subject: Subject,
    neurons: Sequence[Neuron],
    config: EvidenceConfig,
    *,
    seed: int,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Exemplar]:
    """Run the subject over all windows once and return the exemplars of all neurons.

    Memory is bounded by neurons x splits x (top + random) x window, whatever the corpus.

    Args:
        windows: the corpus.
        subject: the model.
        neurons: the neurons.
        config: what to keep.
        seed: the run's seed.
        device: where the model runs.
        progress: called with the number of windows read since the last call.

    Returns:
        Ordered by neuron, split, source; top ones by activation, highest first; random ones in corpus order.
    """
    reader = ActivationReader(subject, neurons, device)
    shape = (len(neurons), config.top)
    tops = {
        split: _Top(
            torch.full(shape, -torch.inf, device=device),
            torch.full(shape, -1, dtype=torch.long, device=device),
            torch.zeros(*shape, config.window, device=device),
        )
        for split in Split
    }
    chosen = _random_windows(windows, config, seed)
    background: dict[int, Tensor] = {}
    try:
        for batch in _batches(windows, config.batch_windows):
            activations, mask = _read(reader, subject.tokenizer, [windows[number].tokens for number in batch], config)
            activations = activations.permute(2, 0, 1)  # (neurons, B, T)
            peaks = activations.masked_fill(~mask, -torch.inf).amax(dim=2)
            numbers = torch.tensor(batch, device=device)
            for split in Split:
                rows = [row for row, number in enumerate(batch) if windows[number].split is split]
                if rows:
                    tops[split].update(peaks[:, rows], numbers[rows], activations[:, rows])
            for row, number in enumerate(batch):
                if number in chosen:
                    background[number] = activations[:, row].cpu()
            progress(len(batch))
    finally:
        reader.close()
    return _exemplars(windows, subject, neurons, tops, background)


def _random_windows(windows: Sequence[Window], config: EvidenceConfig, seed: int) -> set[int]:
    by_split = defaultdict(list)
    for number, window in enumerate(windows):
        by_split[window.split].append(number)
    return {
        int(number)
        for split in Split
        for number in derive_rng(seed, "random windows", split).choice(by_split[split], config.random, replace=False)
    }


def _batches(windows: Sequence[Window], size: int) -> Iterator[list[int]]:
    """Yield window numbers, windows of equal length together: padding would be work thrown away."""
    order = sorted(range(len(windows)), key=lambda number: (-len(windows[number].tokens), number))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _read(
    reader: ActivationReader, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[int]], config: EvidenceConfig
) -> tuple[Tensor, Tensor]:
    """Return activations (B, window, neurons) of the text's own tokens, and which positions are such (B, window)."""
    prefix, suffix = special_affixes(tokenizer)
    longest = max(map(len, batch)) + len(prefix) + len(suffix)
    ids = torch.full((len(batch), longest), tokenizer.pad_token_id or 0)
    attention = torch.zeros_like(ids)
    for row, tokens in enumerate(batch):
        whole = [*prefix, *tokens, *suffix]
        ids[row, : len(whole)] = torch.tensor(whole)
        attention[row, : len(whole)] = 1
    read = reader.read(ids, attention)
    activations = torch.zeros(len(batch), config.window, read.shape[2], device=read.device)
    mask = torch.zeros(len(batch), config.window, dtype=torch.bool, device=read.device)
    for row, tokens in enumerate(batch):
        activations[row, : len(tokens)] = read[row, len(prefix) : len(prefix) + len(tokens)]
        mask[row, : len(tokens)] = True
    return activations, mask


def special_affixes(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    full = tokenizer("a", add_special_tokens=True).input_ids
    start = next(at for at in range(len(full)) if full[at : at + len(bare)] == bare)
    return list(full[:start]), list(full[start + len(bare) :])


def _exemplars(
    windows: Sequence[Window],
    subject: Subject,
    neurons: Sequence[Neuron],
    tops: Mapping[Split, _Top],
    background: Mapping[int, Tensor],
) -> list[Exemplar]:
    def exemplar(neuron: Neuron, source: Source, number: int, activations: Tensor) -> Exemplar:
        window = windows[number]
        return Exemplar(
            neuron=neuron,
            split=window.split,
            source=source,
            document=window.document,
            window=number,
            tokens=tuple(subject.surface(window.tokens)),
            activations=tuple(round(value, 5) for value in activations[: len(window.tokens)].tolist()),
        )

    exemplars = []
    for position in sorted(range(len(neurons)), key=neurons.__getitem__):
        neuron = neurons[position]
        for split in Split:
            top = tops[split]
            for number, activations in zip(
                top.windows[position].tolist(), top.activations[position].cpu(), strict=True
            ):
                exemplars.append(exemplar(neuron, Source.TOP, number, activations))
            for number in sorted(background):
                if windows[number].split is split:
                    exemplars.append(exemplar(neuron, Source.RANDOM, number, background[number][position]))
    return exemplars
