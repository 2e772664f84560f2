"""Evidence that runs share: what was captured once for a model, a corpus and settings is not captured again.

A folder for each model, corpus, tokenizer and settings holds a part for each pass: the exemplars and the activity of
the neurons of that pass. A run takes the neurons it needs from all parts, and captures those that none has.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.evidence.config import CorpusSummary, EvidenceConfig
from harness.evidence.corpus import Corpus
from harness.evidence.corpus_pass import capture
from harness.evidence.tables import activities, exemplar_tables
from harness.exemplar_table import TOGETHER, ExemplarTable, write_exemplars
from harness.folder import read_table, replacing, write_json, write_table
from harness.records import Activity, Neuron, Split
from harness.store import ensure_entry, entry_path, locked
from harness.subject import Subject
from harness.subject.identity import vocabulary_of, weights_of

logger = logging.getLogger(__name__)
#: Raised when what is captured from the same text with the same settings changes.
VERSION = 2


@dataclass(frozen=True)
class Gathered:
    """The evidence of a run's neurons, in a store.

    Attributes:
        folder: the folder of this model, corpus and settings.
        neurons: the neurons at their signs, ordered.
    """

    folder: Path
    neurons: tuple[Neuron, ...]

    @cached_property
    def summary(self) -> CorpusSummary:
        """From how much text."""
        return CorpusSummary(**json.loads((self.folder / "summary.json").read_text()))

    def write(self, exemplars: Path, activity: Path) -> None:
        """Write the neurons' evidence into a run's own files; the exemplars last."""
        parts = [ExemplarTable(path) for path in _parts(self.folder)]
        homes = {neuron: part for part in parts for neuron in part.neurons}
        known = {
            (record.neuron, record.split): record
            for path in _parts(self.folder)
            for record in read_table(_activity_of(path), Activity)
        }
        write_table(activity, [known[neuron, split] for neuron in self.neurons for split in Split])

        def tables() -> Iterator[pa.Table]:
            for start in range(0, len(self.neurons), TOGETHER):
                some = self.neurons[start : start + TOGETHER]
                yield pa.concat_tables(homes[neuron].table([neuron]) for neuron in some)

        with replacing(exemplars) as aside:
            write_exemplars(aside, tables())
        for part in parts:
            part.close()


@contextmanager
def gathered(
    corpus: Corpus,
    subject: Subject,
    neurons: Sequence[Neuron],
    config: EvidenceConfig,
    *,
    seed: int,
    device: str,
    own: Path,
    progress: Callable[[int | None, int], None] = lambda total, done: None,
) -> Iterator[Gathered]:
    """Gather evidence; nothing is captured of neurons that the store knows.

    Args:
        corpus: the text.
        subject: the model.
        neurons: the neurons at their signs.
        config: what to keep, and in which store.
        seed: the run's seed.
        device: where the model runs.
        own: folder of the run, in which a pass keeps its state if there is no store.
        progress: called with the number of documents, if it is known, and that of those done since the last call.

    Yields:
        The evidence, which others leave alone meanwhile.

    Raises:
        HarnessError: as :func:`harness.evidence.corpus_pass.capture` does.
    """
    own = own / ".evidence"
    identity = identity_of(corpus, subject, config, seed)
    folder = ensure_entry(own if config.store is None else Path(config.store).expanduser(), identity)
    with locked(folder, "gathers the same evidence"):
        known = {neuron for path in _parts(folder) for neuron in _neurons(path)}
        missing = sorted(set(neurons) - known)
        if missing:
            _capture(folder, corpus, subject, missing, config, seed, device, progress)
        else:
            logger.info("the activations of all %d neurons are in the store", len(neurons))
        yield Gathered(folder, tuple(sorted(neurons)))
    if config.store is None:
        shutil.rmtree(own)


def stored(
    corpus: Corpus, subject: Subject, neurons: Sequence[Neuron], config: EvidenceConfig, *, seed: int
) -> Gathered | None:
    """Return the evidence of those of the neurons that the store knows, or none if it knows none; writes nothing."""
    if config.store is None or not Path(config.store).expanduser().is_dir():
        return None
    folder = entry_path(Path(config.store).expanduser(), identity_of(corpus, subject, config, seed))
    known = {neuron for path in _parts(folder) for neuron in _neurons(path)} & set(neurons)
    return Gathered(folder, tuple(sorted(known))) if known else None


def _capture(
    folder: Path,
    corpus: Corpus,
    subject: Subject,
    neurons: list[Neuron],
    config: EvidenceConfig,
    seed: int,
    device: str,
    progress: Callable[[int | None, int], None],
) -> None:
    logger.info("reading the corpus %s for the activations of %d neurons", corpus.name, len(neurons))
    name = hashlib.sha256(" ".join(map(str, neurons)).encode()).hexdigest()[:16]
    saved = folder / f"pass-{name}.safetensors"
    found = capture(corpus, subject, neurons, config, seed=seed, device=device, saved=saved, progress=progress)
    write_json(folder / "summary.json", vars(found.summary))
    path = folder / f"exemplars-{name}.parquet"
    write_table(_activity_of(path), activities(found.state))
    with replacing(path) as aside:  # last, for its presence says that the part is whole
        write_exemplars(aside, exemplar_tables(found.state, subject))
    # Those of other neurons too: what is missing of them now is another set.
    for file in folder.glob("pass-*.safetensors"):
        file.unlink()


def identity_of(corpus: Corpus, subject: Subject, config: EvidenceConfig, seed: int) -> dict[str, Any]:
    """Return all that the evidence of a neuron depends on, as plain JSON types."""
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
        "corpus": {"kind": type(corpus).__qualname__, "name": corpus.name, **corpus.identity()},
        "evidence": config.identity,
    }


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("exemplars-*.parquet"))


def _activity_of(part: Path) -> Path:
    return part.with_name(part.name.replace("exemplars-", "activity-"))


def _neurons(part: Path) -> list[Neuron]:
    table = ExemplarTable(part)
    try:
        return table.neurons
    finally:
        table.close()
