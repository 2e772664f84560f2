"""Evidence that runs share: a neuron's activations on a corpus are captured once for the same model and settings.

The store has one folder for each model, tokenizer, corpus and settings. Each pass over the corpus adds a part with the
exemplars and the alignment of its neurons. A run reads the neurons it needs from all parts, and captures the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Corpus
from harness.evidence.corpus_pass import CorpusPass
from harness.evidence.shards import Spread
from harness.evidence.state import groups
from harness.evidence.tables import exemplar_tables, window_table
from harness.exemplar_table import TOGETHER, ExemplarTable, write_exemplars
from harness.folder import read_table, replacing, write_columns, write_json, write_table
from harness.records import Alignment, Neuron
from harness.store import entry_path, locked_entry
from harness.subject import Subject
from harness.subject.identity import vocabulary_of, weights_of

logger = logging.getLogger(__name__)
#: Raised when the same text and settings give other evidence.
VERSION = 6


@dataclass(frozen=True)
class Gathered:
    """The evidence of a run's neurons, in a store.

    Attributes:
        folder: the store's folder for this model, corpus and settings.
        neurons: the neurons with their signs, ordered.
    """

    folder: Path
    neurons: tuple[Neuron, ...]

    @cached_property
    def summary(self) -> CorpusSummary:
        """Size of the text that was read."""
        return CorpusSummary(**json.loads((self.folder / "summary.json").read_text()))

    def write(self, exemplars: Path) -> None:
        """Write the neurons' exemplars into a run's file, which marks the evidence as done, and their windows."""
        parts = [ExemplarTable(path) for path in _parts(self.folder)]
        part_of = {neuron: part for part in parts for neuron in part.neurons}

        used: set[int] = set()

        def tables() -> Iterator[pa.Table]:
            for start in range(0, len(self.neurons), TOGETHER):
                group = self.neurons[start : start + TOGETHER]
                table = pa.concat_tables(part_of[neuron].table([neuron]) for neuron in group)
                used.update(np.unique(table["window"].to_numpy()).tolist())
                yield table

        with replacing(exemplars) as aside:
            write_exemplars(aside, tables())
            self._write_windows(exemplars.with_name("windows.parquet"), used)
        for part in parts:
            part.close()

    def _write_windows(self, path: Path, used: Collection[int]) -> None:
        windows = pa.concat_tables(pq.read_table(part) for part in sorted(self.folder.glob("windows-*.parquet")))
        numbers, first = np.unique(windows["window"].to_numpy(), return_index=True)
        write_columns(path, windows.take(first[np.isin(numbers, list(used))]))

    def write_alignment(self, path: Path) -> None:
        """Write the alignment of the neurons with the text's tokens, in the order of the neurons, into a run's file."""
        records = {
            (item.neuron, item.kind, item.against): item
            for part in sorted(self.folder.glob("alignment-*.parquet"))
            for item in read_table(part, Alignment)
        }
        wanted = {neuron.unsigned for neuron in self.neurons}
        keys = sorted(key for key in records if key[0] in wanted)
        write_table(path, [records[key] for key in keys])


@contextmanager
def gathered(
    corpus: Corpus,
    subject: Subject,
    neurons: Sequence[Neuron],
    config: EvidenceConfig,
    *,
    seed: int,
    device: str,
    run_folder: Path,
    progress: Callable[[int | None, int], None] = lambda total, done: None,
    spread: Spread | None = None,
    seen: Corpus | None = None,
) -> Iterator[Gathered]:
    """Gather evidence, capturing only neurons that the store does not have.

    Args:
        corpus: the text.
        subject: the model.
        neurons: the neurons with their signs.
        config: what to keep, and in which store.
        seed: the run's seed.
        device: where the model runs.
        run_folder: folder of the run, used as a temporary store if the config names none.
        progress: called with the number of documents, or None if it is not known, and the number of those done since
            the last call.
        spread: reads shards of the corpus in other processes; None: this process reads it.
        seen: the corpus that describers see, if only judges see ``corpus``; None if both see it.

    Yields:
        The evidence. Its folder is locked against other processes until the block ends.

    Raises:
        HarnessError: as :meth:`harness.evidence.corpus_pass.CorpusPass.run` does.
    """
    temporary = run_folder / ".evidence"
    identity = identity_of(corpus, subject, config, seed, seen)
    root = temporary if config.store is None else Path(config.store).expanduser()
    with locked_entry(root, identity, "gathers the same evidence") as folder:
        missing = sorted(set(neurons) - _known(folder))
        passes = groups(missing, config, subject.d_model)
        for number, some in enumerate(passes, 1):
            logger.info("reading the corpus %s for the activations of %d neurons", corpus.name, len(some))
            if len(passes) > 1:
                logger.info("pass %d of %d: not all fit into evidence.memory=%g", number, len(passes), config.memory)
            name = hashlib.sha256(" ".join(map(str, some)).encode()).hexdigest()[:16]
            saved = folder / f"pass-{name}.safetensors"
            given = (corpus, subject, some, config, seed, device, saved)
            _capture(CorpusPass(*given, _of_all(progress, len(passes)), spread, seen), folder, name)
        if not missing:
            logger.info("the activations of all %d neurons are in the store", len(neurons))
        yield Gathered(folder, tuple(sorted(neurons)))
    if config.store is None:
        shutil.rmtree(temporary)


def _capture(corpus_pass: CorpusPass, folder: Path, name: str) -> None:
    """Read the corpus, and add the part ``name`` to the store's folder."""
    state, sums, summary = corpus_pass.run()
    write_json(folder / "summary.json", vars(summary))
    write_table(folder / f"alignment-{name}.parquet", sums.alignments())
    write_columns(folder / f"windows-{name}.parquet", window_table(state))
    with replacing(folder / f"exemplars-{name}.parquet") as aside:  # last: it marks the part as complete
        write_exemplars(aside, exemplar_tables(state, corpus_pass.subject))
    # Saved states are of no use any more: their neurons were captured just now, or the set changed.
    for file in folder.glob("pass-*.safetensors"):
        file.unlink()


def _of_all(progress: Callable[[int | None, int], None], passes: int) -> Callable[[int | None, int], None]:
    """Return the progress callback of one of several passes over the same documents."""
    return lambda total, done: progress(None if total is None else total * passes, done)


def stored(
    corpus: Corpus, subject: Subject, neurons: Sequence[Neuron], config: EvidenceConfig, *, seed: int
) -> Gathered | None:
    """Return the stored evidence of those neurons that the store has, or None if it has none; writes nothing."""
    if config.store is None or not Path(config.store).expanduser().is_dir():
        return None
    folder = entry_path(Path(config.store).expanduser(), identity_of(corpus, subject, config, seed))
    known = _known(folder) & set(neurons)
    return Gathered(folder, tuple(sorted(known))) if known else None


def identity_of(
    corpus: Corpus, subject: Subject, config: EvidenceConfig, seed: int, seen: Corpus | None = None
) -> dict[str, Any]:
    """Return everything that a neuron's evidence depends on, as plain JSON types; arguments as of :func:`gathered`."""
    vocabulary = vocabulary_of(subject)
    template = corpus.template or getattr(subject.tokenizer, "chat_template", None)
    return {
        "version": VERSION,
        "seed": seed,
        "subject": {
            "fingerprint": subject.fingerprint,
            "weights": weights_of(subject),
            "architecture": repr(subject.architecture),
            "dtype": subject.dtype,
            "tokenizer": hashlib.sha256(f"{vocabulary}\x1f{template}".encode()).hexdigest()[:16],
        },
        "corpus": _text_of(corpus),
        "evidence": config.identity,
        **({} if seen is None else {"seen": _text_of(seen), "report_documents": config.report_documents}),
    }


def _text_of(corpus: Corpus) -> dict[str, Any]:
    return {"kind": type(corpus).__qualname__, "name": corpus.name, **corpus.identity()}


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("exemplars-*.parquet"))


def _known(folder: Path) -> set[Neuron]:
    known: set[Neuron] = set()
    for path in _parts(folder):
        table = ExemplarTable(path)
        known.update(table.neurons)
        table.close()
    return known
