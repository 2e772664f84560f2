"""The subject reads one part of a corpus, in whatever process an executor does that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from harness.evidence.alignment import TokenSums
from harness.evidence.config import EvidenceConfig
from harness.evidence.encoding import framed, special_affixes
from harness.evidence.state import State, batches, unsigned_of
from harness.evidence.windows import Window
from harness.records import Neuron, Split
from harness.subject import ActivationReader, Subject


@dataclass(frozen=True)
class Shard:
    """Consecutive windows of a corpus.

    Attributes:
        number: place of the shard in the corpus.
        first: number of its first window; the others follow.
        windows: the windows.
        documents: documents that were read for it.
        done: how many windows have been read, in the order of :func:`harness.evidence.state.batches`.
    """

    number: int
    first: int
    windows: Sequence[Window]
    documents: int
    done: int = 0


@dataclass(frozen=True)
class Job:
    """What is the same for all shards of a pass.

    Attributes:
        key: different for different jobs.
        subject: the model.
        neurons: the neurons with their signs, ordered.
        config: what to keep.
        seed: the run's seed.
    """

    key: str
    subject: Subject
    neurons: Sequence[Neuron]
    config: EvidenceConfig
    seed: int

    def reader(self, device: str) -> ActivationReader:
        """Load the model."""
        return ActivationReader(self.subject, unsigned_of(self.neurons), device)

    def sums(self, device: str) -> TokenSums:
        """Return empty sums."""
        return TokenSums(self.subject, unsigned_of(self.neurons), device)


@dataclass(frozen=True)
class ShardTask:
    """A shard to read.

    Attributes:
        job: what is the same for all shards.
        shard: the shard.
        limits: for some splits, the key from which on no random window is kept (:class:`State`).
    """

    job: Job
    shard: Shard
    limits: Mapping[Split, int]


@dataclass(frozen=True)
class ShardResult:
    """What was kept and added up of a shard, as tensors by name, on the CPU."""

    shard: int
    tensors: dict[str, Tensor]


class Spread(Protocol):
    """Reads shards in other processes: :meth:`harness.run.executor.Executor.map`."""

    def __call__(
        self, work: Callable[[ShardTask, str], ShardResult], items: Iterable[ShardTask], /
    ) -> Iterator[ShardResult]:
        """Yield ``work(item, device)`` of every item, in any order."""


#: The model that this process used last: job, device, its own copy of the job, reader.
_loaded: tuple[str, str, Job, ActivationReader] | None = None


def read_shard(task: ShardTask, device: str) -> ShardResult:
    """Read a shard with a model that stays loaded in this process."""
    global _loaded
    if _loaded is None or _loaded[:2] != (task.job.key, device):
        _loaded = None  # frees the old model before the new one is loaded
        _loaded = (task.job.key, device, task.job, task.job.reader(device))
    job, reader = _loaded[2:]
    state = State(job.neurons, job.config, reader.dtype, device, task.limits)
    sums = job.sums(device)
    state.book.add(task.shard.windows, task.shard.first)
    for _ in read_windows(job, reader, task.shard, state, sums):
        pass
    for drawn in state.drawn.values():
        drawn.drop_empty()
    state.prune()
    kept = {**state.tensors(), **sums.tensors()}
    return ShardResult(task.shard.number, {name: tensor.cpu() for name, tensor in kept.items()})


def read_windows(job: Job, reader: ActivationReader, shard: Shard, state: State, sums: TokenSums) -> Iterator[int]:
    """Read the rest of a shard's windows in batches; yield the number of windows of each, after it was read."""
    prefix, suffix = special_affixes(job.subject.tokenizer)
    for batch in batches(shard.windows, shard.first, job.config.batch_windows, job.seed, shard.done):
        ids, attention = framed(batch.tokens, prefix, suffix, job.subject.padding_id)
        activations = reader.read(ids, attention)[:, len(prefix) : len(prefix) + batch.marks.shape[1]]
        state.update(batch, activations)
        sums.update(batch.ids, batch.marks != 0, activations)
        yield len(batch.numbers)
