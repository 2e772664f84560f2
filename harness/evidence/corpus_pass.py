"""One pass over the corpus that keeps exemplar windows for every neuron, sign and split, and sums for its alignment.

Sources: top exemplars as in Bills et al. 2023; samples by activation quantile as in Paulo et al. 2024. Splits are by
document, so that no judge sees what a describer saw. This process cuts the text into windows and finds copies. It runs
the model on one shard of ``POOL`` windows after another, or an executor's workers do. What is kept does not depend on
that, nor on the order in which shards are finished; sums of floats are equal up to rounding.

Memory is bounded by :mod:`harness.evidence.state`, 2 x d_model x neurons for the sums of
:mod:`harness.evidence.alignment`, and ``POOL`` windows of waiting text for each shard that is being read; only the
record of seen text (:mod:`harness.evidence.copies`) grows with the corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from harness.errors import HarnessError
from harness.evidence.alignment import TokenSums
from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Corpus
from harness.evidence.encoding import Encoder, special_affixes
from harness.evidence.shards import Job, Shard, ShardTask, Spread, read_shard, read_windows
from harness.evidence.state import POOL, State
from harness.evidence.windows import Cutter
from harness.folder import replacing
from harness.records import Neuron, Split
from harness.subject import Subject

logger = logging.getLogger(__name__)


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
    """One pass of the subject over the corpus.

    Args:
        corpus: the text.
        subject: the model.
        neurons: the neurons with their signs, ordered.
        config: what to keep.
        seed: the run's seed.
        device: device of the model, and of what is kept, in this process.
        saved: file in which the state is saved from time to time, and from which an interrupted pass resumes. The
            earlier text is then read again, but not run through the model. The caller removes the file once it has
            stored the result.
        progress: called with the number of documents, or None if it is not known, and the number of those done since
            the last call.
        spread: reads shards in other processes; None: this process reads them.
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
    spread: Spread | None = None
    seen: Corpus | None = None

    def run(self) -> tuple[State, TokenSums, CorpusSummary]:
        """Run the subject over the corpus once; return what was kept and added up, and how much text was read.

        Raises:
            HarnessError: if the corpus is empty or too small for the splits, the model cannot be run, or workers are
                lost.
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
        self.state: State | None = None
        self.done: dict[int, tuple[str, int]] = {}  # of each shard: digest of its text, windows that were read
        self.digests: dict[int, str] = {}
        self.finished = self.reported = self.windows = 0  # documents of finished shards, those reported, all windows
        self.last_save = time.monotonic()
        # A saved state is valid only for the same values.
        identity = [self.corpus.name, self.config.identity, self.seed, [str(neuron) for neuron in self.neurons]]
        identity.append(self.subject.fingerprint)
        self.identity = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self.job = Job(self.identity, self.subject, self.neurons, self.config, self.seed)
        self._load()
        encoder = Encoder(self.subject.tokenizer, self.corpus.template)
        cutter = Cutter(encoder, self.config, self.seed, held_out=self.seen is not None)
        if self.seen is not None:
            seen = self.seen.documents(self.config.max_documents)
            cutter.remember(seen, Encoder(self.subject.tokenizer, self.seen.template))
        shards = self._shards(cutter)
        if self.spread is None:
            self._read_here(shards)
        else:
            self._read_elsewhere(shards, self.spread)
        cutter.check()
        assert self.state is not None
        self._report(cutter.read)
        self.state.prune()
        if encoder.refused:
            logger.warning("the chat template refused %d conversations of %s", encoder.refused, self.corpus.name)
        counts = (cutter.documents, self.windows, cutter.tokens, cutter.copies, cutter.windows[Split.REPORT])
        return self.state, self.sums, CorpusSummary(self.corpus.name, *counts)

    def _shards(self, cutter: Cutter) -> Iterator[Shard]:
        """Cut the whole corpus; yield the shards that have not been read."""
        windows, documents = cutter.cut(self.documents), 0
        for number in itertools.count():
            pool = list(islice(windows, POOL))
            if number == 0 and len(pool) < POOL:
                cutter.check()  # reports a corpus that is too small before the model is loaded
            if not pool:
                break
            digest = hashlib.sha256("".join(f"{one.document}{one.tokens}" for one in pool).encode()).hexdigest()
            before, done = self.done.get(number, (digest, 0))
            if before != digest:
                break
            self.digests[number] = digest
            shard = Shard(number, self.windows, pool, cutter.read - documents, done)
            self.windows, documents = self.windows + len(pool), cutter.read
            if done < len(pool):
                yield shard
            else:
                self.finished += shard.documents
        if not self.digests.keys() >= self.done.keys():
            raise _StaleState("the corpus has changed since it was interrupted")

    def _read_here(self, shards: Iterator[Shard]) -> None:
        reader = None
        try:
            for shard in shards:
                reader = reader or self.job.reader(self.device)
                state = self.state or self._begin(reader.dtype)
                state.book.add(shard.windows, shard.first)
                done = shard.done
                for count in read_windows(self.job, reader, shard, state, self.sums):
                    done += count
                    self.done[shard.number] = (self.digests[shard.number], done)
                    self._report(self.finished + shard.documents * done // len(shard.windows))
                    self._save_if_due(shard.first)
                self.finished += shard.documents
                if state.book.needs_pruning():
                    state.prune(shard.first + len(shard.windows))
        finally:
            if reader is not None:
                reader.close()

    def _read_elsewhere(self, shards: Iterator[Shard], spread: Spread) -> None:
        sent: dict[int, Shard] = {}

        def tasks() -> Iterator[ShardTask]:
            for shard in shards:
                sent[shard.number] = shard
                yield ShardTask(self.job, shard, {} if self.state is None else self.state.limits)

        try:
            for result in spread(read_shard, tasks()):
                shard, tensors = sent.pop(result.shard), result.tensors
                state = self.state or self._begin(tensors["top.report.activations"].dtype)
                state.merge(tensors)
                self.sums.merge(tensors)
                self.done[shard.number] = (self.digests[shard.number], len(shard.windows))
                self.finished += shard.documents
                self._report(self.finished)
                self._save_if_due(None)
        except HarnessError:  # such as lost workers
            if self.state is not None:
                self._save(None)
            raise

    def _begin(self, dtype: torch.dtype) -> State:
        """Make an empty state: on the CPU if others read, whose accelerators may be those of this machine."""
        device = self.device if self.spread is None else "cpu"
        self.state = State(self.neurons, self.config, dtype, device)
        self.sums = self.job.sums(device)
        return self.state

    def _report(self, documents: int) -> None:
        if documents > self.reported:
            self.progress(self.documents.count, documents - self.reported)
            self.reported = documents

    def _save_if_due(self, waiting: int | None) -> None:
        if time.monotonic() - self.last_save >= self.config.checkpoint_s:
            self._save(waiting)

    def _save(self, waiting: int | None) -> None:
        """Save the state; the text of windows numbered ``waiting`` or above remains."""
        assert self.state is not None
        self.state.prune(waiting)
        position = json.dumps({"done": list(self.done.items()), "identity": self.identity})
        with replacing(self.saved) as temporary:
            kept = {**self.state.tensors(), **self.sums.tensors()}
            tensors = {name: tensor.contiguous() for name, tensor in kept.items()}
            save_file(tensors, temporary, metadata={"position": position})
        self.last_save = time.monotonic()

    def _load(self) -> None:
        """Load a saved state, if there is one."""
        if not self.saved.exists():
            return
        try:
            with safe_open(self.saved, framework="pt") as file:
                position = json.loads((file.metadata() or {})["position"])
                if position["identity"] != self.identity:
                    raise _StaleState("it had other settings or neurons")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            state = self._begin(tensors["top.report.activations"].dtype)
            state.merge(tensors)
            self.sums.merge(tensors)
            self.done = {shard: (digest, done) for shard, (digest, done) in position["done"]}
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise _StaleState(f"its saved state, {self.saved}, is not readable ({error})") from error
        logger.info("resuming the interrupted pass")
