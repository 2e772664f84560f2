"""The run folder: the files in which a run keeps its records.

Journals (JSON lines) grow by one record at a time and survive a kill at any moment. All other files are written under a
temporary name and renamed, so that a file that exists is complete. ``docs/resume.md`` lists them all.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.exemplar_table import ExemplarTable
from harness.records import (
    AblatedChannels,
    Alignment,
    Channel,
    Description,
    Draw,
    Effect,
    Exemplar,
    Neuron,
    PlantedAnswer,
    RandomVector,
    Restart,
    Score,
    Status,
    SteeredText,
    TextAblation,
    VectorKind,
    VectorSummary,
    Verdict,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from torch import Tensor

Answer = TypeVar("Answer", Description, Verdict, Score, PlantedAnswer)
T = TypeVar("T")


#: Temporary files of :func:`replacing`, and of safetensors, which are left if the process is killed while it writes.
_TEMPORARY = re.compile(r"\..+\.\d+|\.tmp\w{6}")
#: Files that :class:`ByNeuron` keeps in memory: neighbouring neurons are in the same ones, one for each vector kind.
_FILES_HELD = 6
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``path`` if the block ends without an exception.

    Raises:
        HarnessError: if the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _space_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left of :func:`replacing`. No other process may write to the folder."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


@contextmanager
def _space_for(path: Path) -> Iterator[None]:
    """Turn what libraries raise on a full disk, which is not always an OSError, into a HarnessError."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        for code in _NO_SPACE:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                raise HarnessError(
                    f"{path} cannot be written ({os.strerror(code)}): free disk space, and start the run again to "
                    "continue"
                ) from error
        raise


#: How to choose another folder, for error messages.
ELSEWHERE = "another folder (folder=...; of a sweep hydra.sweep.dir=...)"


def check_writable(folder: Path, option: str) -> None:
    """Check that a folder can be created and written to.

    Args:
        folder: the folder.
        option: the option that names it, for the message.

    Raises:
        HarnessError: if it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise HarnessError(
            f"{option}={folder} cannot be written to ({error.strerror}): free disk space, change its permissions, or "
            "choose another folder"
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON with sorted keys, so that equal data give equal bytes."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, records: Iterable[Any]) -> None:
    """Write records of one type as a parquet table with nested columns; unpaired surrogates become U+FFFD."""
    rows = [to_json(record) for record in records]
    try:
        table = pa.Table.from_pylist(rows)
    except UnicodeEncodeError:  # an unpaired surrogate: rare, and checking every text for it is slow
        table = pa.Table.from_pylist([encodable(row) for row in rows])
    write_columns(path, table)


def encodable(value: Any) -> Any:
    """Replace unpaired surrogates by U+FFFD in a text, or in all texts of nested mappings and lists."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: encodable(item) for name, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list) else value


def write_columns(path: Path, table: pa.Table) -> None:
    """Write a table whose columns are the fields of a record type."""
    with replacing(path) as aside:
        # Large enough for a dictionary of all tokens: otherwise parquet stores repeated tokens in full.
        pq.write_table(table, aside, compression="zstd", dictionary_pagesize_limit=1 << 24)


def read_table(path: Path, kind: type[T]) -> list[T]:
    """Read the records of a table that :func:`write_table` wrote."""
    return [from_json(kind, row) for row in pq.read_table(path).to_pylist()]


#: The item that each type of answer is about.
_ITEMS: dict[type[Any], Callable[[Any], Hashable]] = {
    Description: attrgetter("neuron", "describer"),
    Verdict: attrgetter("neuron", "judge", "first", "second"),
    Score: attrgetter("neuron", "scorer", "describer"),
    PlantedAnswer: attrgetter("describer", "concept"),
}


def item_of(answer: Answer) -> Hashable:
    """Return the item that an answer is about: the neuron or planted concept, and the methods involved."""
    return _ITEMS[type(answer)](answer)


class Journal(Generic[Answer]):
    """Append-only JSON lines with one answer each; the last line about an item counts.

    Reading skips a line that a kill cut short; opening the journal for writing removes it.

    Raises:
        HarnessError: if another line is damaged.
    """

    def __init__(self, path: Path, kind: type[Answer]) -> None:
        self.path = path
        self._latest: dict[Hashable, Answer] = {}
        self._descriptor: int | None = None
        content = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                record = from_json(kind, json.loads(line))
            except ValueError as error:
                raise HarnessError(
                    f"{path} line {number} is not a {kind.__name__} record; "
                    "the file was edited or damaged: remove that line, or start a new run folder"
                ) from error
            self._latest[item_of(record)] = record

    def __len__(self) -> int:
        return len(self._latest)

    def records(self) -> list[Answer]:
        """Return the latest record of every item, in the order of first appearance."""
        return list(self._latest.values())

    def done(self, record_identity: Hashable) -> bool:
        """Return whether the latest record of the item has the status ok."""
        record = self._latest.get(record_identity)
        return record is not None and record.status is Status.OK

    def latest(self, record: Answer) -> Answer | None:
        """Return the latest record of the same item as ``record``, or None."""
        return self._latest.get(item_of(record))

    def append(self, record: Answer) -> None:
        """Append one record, unless it equals the item's latest record and cost no tokens.

        The usage of the item's earlier records is added to its own.

        Raises:
            HarnessError: if the disk is full.
        """
        known = self.latest(record)
        if known is not None:
            if not record.usage.drew_tokens and known == dataclasses.replace(record, usage=known.usage):
                return
            record = dataclasses.replace(record, usage=record.usage.after(known.usage))
        if self._descriptor is None:
            self._descriptor = self._open()
        line = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n"
        self._write(line.encode("utf-8", "backslashreplace"))
        self._latest[item_of(record)] = record

    def _open(self) -> int:
        with _space_for(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(descriptor, self.path.read_bytes().rfind(b"\n") + 1)
        return descriptor

    def _write(self, line: bytes) -> None:
        """Append a line as a whole, or nothing of it: a disk that becomes full takes only a part."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        try:
            with _space_for(self.path):
                while line:
                    line = line[os.write(self._descriptor, line) :]
        except BaseException:
            os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Close the file; the journal can still be read, and appended to again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


#: Files with the records of one type, and the order in which they are read; None: that of files and rows.
_TABLES: dict[type[Any], tuple[str, Callable[[Any], Any] | None]] = {
    Alignment: ("alignment.parquet", None),
    Effect: ("effects/*.effects.parquet", lambda effect: (effect.neuron, effect.split)),
    SteeredText: ("steered/*.parquet", lambda text: text.neuron),
    Restart: ("diagnostics/*.restarts.parquet", None),
    RandomVector: ("diagnostics/*.random.parquet", None),
    AblatedChannels: ("diagnostics/*.ablations.parquet", None),
    Channel: ("diagnostics/*.replacements.parquet", lambda channel: (channel.neuron, channel.kind, channel.rank)),
    TextAblation: ("diagnostics/*.text_ablations.parquet", None),
}


class ByNeuron(Generic[T]):
    """Reads records by neuron, and keeps only the latest files in memory.

    Args:
        paths: tables of the records, each of a limited number of neurons.
        kind: type of the records, which have a neuron.
        order: order of a neuron's records; None: that of files and rows.
    """

    def __init__(self, paths: Iterable[Path], kind: type[T], order: Callable[[Any], Any] | None) -> None:
        self._kind, self._order = kind, order
        self._paths: dict[Neuron, list[Path]] = defaultdict(list)
        for path in paths:
            for neuron in _rows_by_neuron(pq.read_table(path, columns=["neuron"])):
                self._paths[neuron].append(path)
        self._open = lru_cache(maxsize=_FILES_HELD)(_opened)

    def of(self, neuron: Neuron) -> list[T]:
        """Return the records of a neuron."""
        found: list[T] = []
        for path in self._paths.get(neuron, ()):
            table, rows = self._open(path)
            found += [from_json(self._kind, row) for row in table.take(pa.array(rows[neuron])).to_pylist()]
        return found if self._order is None else sorted(found, key=self._order)


def _opened(path: Path) -> tuple[pa.Table, dict[Neuron, list[int]]]:
    table = pq.read_table(path)
    return table, _rows_by_neuron(table)


def _rows_by_neuron(table: pa.Table) -> dict[Neuron, list[int]]:
    rows: dict[Neuron, list[int]] = defaultdict(list)
    for number, row in enumerate(table["neuron"].to_pylist()):
        rows[from_json(Neuron, row)].append(number)
    return rows


class RunFolder:
    """The files of one run, which ``docs/resume.md`` lists, by name.

    ``diagnostics``, ``effects`` and ``steered`` are folders of tables for :meth:`read`. A block of the decomposition is
    ``channels/NAME.safetensors``, ``NAME.channels.parquet`` and ``NAME.vectors.parquet``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"
        self.channels = path / "channels"
        self.diagnostics = path / "diagnostics"
        self.exemplars = path / "exemplars.parquet"
        self.windows = path / "windows.parquet"
        self.alignment = path / "alignment.parquet"
        self.effects = path / "effects"
        self.steered = path / "steered"
        self.leaderboard = path / "leaderboard.json"
        self.leaderboard_csv = path / "leaderboard.csv"
        self.leaderboard_markdown = path / "leaderboard.md"
        self.leaderboard_latex = path / "leaderboard.tex"
        self.judge_checks = path / "judges.json"
        self.sanity = path / "sanity.json"
        self.decomposition = path / "decomposition.json"
        self.claims = path / "claims.json"
        self.claims_markdown = path / "claims.md"
        self.report = path / "report.html"
        self.draws = path / "draws"
        self._held_out = path / "report_corpus"
        self._own_corpus = path / "own_corpus"
        self.logs = path / "logs"

    @property
    def report_corpus(self) -> RunFolder:
        """The folder of the evidence from a corpus of which only judges see text."""
        return RunFolder(self._held_out)

    @property
    def own_corpus(self) -> RunFolder:
        """The folder of verdicts and scores on the run's own corpus, if judges see another one."""
        return RunFolder(self._own_corpus)

    def draw(self, draw: Draw | None) -> RunFolder:
        """Return the folder of the descriptions, verdicts and scores of a draw; None: of the first descriptions."""
        return self if draw is None else RunFolder(self.draws / str(draw))

    def read_draws(self, *, resampled: bool | None = None) -> list[RunFolder]:
        """Return the folders of the draws that have descriptions, or of one kind of them, by number."""
        if resampled is None:
            return self.read_draws(resampled=False) + self.read_draws(resampled=True)
        folders = (self.draw(Draw(number, resampled)) for number in itertools.count(1))
        return list(itertools.takewhile(lambda folder: folder.path.is_dir(), folders))

    def descriptions(self) -> Journal[Description]:
        """Open the journal of descriptions."""
        return Journal(self.path / "descriptions.jsonl", Description)

    def verdicts(self) -> Journal[Verdict]:
        """Open the journal of verdicts."""
        return Journal(self.path / "verdicts.jsonl", Verdict)

    def scores(self) -> Journal[Score]:
        """Open the journal of scores."""
        return Journal(self.path / "scores.jsonl", Score)

    def explainer_check(self) -> Journal[PlantedAnswer]:
        """Open the journal of descriptions of planted concepts."""
        return Journal(self.path / "explainer_check.jsonl", PlantedAnswer)

    def retests(self) -> Journal[Verdict]:
        """Open the journal of second verdicts with another seed."""
        return Journal(self.path / "retests.jsonl", Verdict)

    def score_retests(self) -> Journal[Score]:
        """Open the journal of second scores with another seed."""
        return Journal(self.path / "score_retests.jsonl", Score)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes until this one ends, and remove what a killed one was writing.

        Raises:
            HarnessError: if another process holds the lock.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise HarnessError(
                    f"another process is running in {self.path}: wait for it, stop it, or choose {ELSEWHERE}"
                ) from error
            for folder in (self.path, self.channels, self.diagnostics, self.effects, self.steered, self._held_out):
                remove_temporary(folder)
            yield

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            HarnessError: if this folder holds no run.
        """
        if not self.manifest.exists():
            raise HarnessError(f"{self.path} is not a run folder: it has no manifest.json")
        manifest: dict[str, Any] = json.loads(self.manifest.read_text())
        return manifest

    def read(self, kind: type[T]) -> list[T]:
        """Return all records of a type that has files of its own, such as Alignment, Effect or Restart.

        Of the type Channel, these are the channels of random vectors in place of the neurons; :meth:`read_channels`
        reads those of the neurons. Effects, steered texts and channels are ordered by neuron. The list is empty if the
        run has none (yet).
        """
        order = _TABLES[kind][1]
        return list(self.each(kind)) if order is None else sorted(self.each(kind), key=order)

    def each(self, kind: type[T]) -> Iterator[T]:
        """Yield the records of :meth:`read` in the order of files and rows, with one file in memory at a time."""
        for path in sorted(self.path.glob(_TABLES[kind][0])):
            yield from read_table(path, kind)

    def by_neuron(self, kind: type[T]) -> ByNeuron[T]:
        """Open the records of :meth:`read` for reading by neuron."""
        pattern, order = _TABLES[kind]
        return ByNeuron(sorted(self.path.glob(pattern)), kind, order)

    def channels_by_neuron(self) -> ByNeuron[Channel]:
        """Open the neurons' channels for reading by neuron, each in the order of kind and rank."""
        paths = [self.channels / f"{block}.channels.parquet" for block in self.blocks()]
        return ByNeuron(paths, Channel, _TABLES[Channel][1])

    def read_exemplars(self, neurons: Collection[Neuron] | None = None) -> list[Exemplar]:
        """Read the exemplars of some neurons, or of all, ordered by neuron."""
        table = self.exemplar_table()
        return [] if table is None else table.read(neurons)

    @property
    def has_evidence(self) -> bool:
        """Whether the evidence is complete."""
        return self.exemplars.exists() and self.alignment.exists()

    def exemplar_table(self) -> ExemplarTable | None:
        """Open the exemplars for reading by neuron; None if the run has none yet."""
        return ExemplarTable(self.exemplars) if self.exemplars.exists() else None

    def write_block(self, name: str, vectors: pa.Table, channels: pa.Table, directions: Tensor | None) -> None:
        """Write a decomposed block; it counts as done once its last file is in place.

        Args:
            name: file name of the block without its ending.
            vectors: its records of type VectorSummary.
            channels: its records of type Channel.
            directions: (N, C, d_model), in the order of ``vectors``; None to keep none.
        """
        from safetensors.torch import save_file  # imports torch, which readers of records do not need

        if directions is not None:
            with replacing(self.channels / f"{name}.safetensors") as aside:
                save_file({"directions": directions.contiguous()}, aside)
        write_columns(self.channels / f"{name}.channels.parquet", channels)
        write_columns(self.channels / f"{name}.vectors.parquet", vectors)  # last: it marks the block as done

    def blocks(self) -> list[str]:
        """Return the names of the decomposed blocks, ordered."""
        return sorted(path.name.removesuffix(".vectors.parquet") for path in self.channels.glob("*.vectors.parquet"))

    def block_vectors(self, block: str) -> list[tuple[Neuron, VectorKind]]:
        """Return the weight vectors of a block in the order of its rows."""
        table = pq.read_table(self.channels / f"{block}.vectors.parquet", columns=["neuron", "kind"])
        neurons = [Neuron(**row) for row in table["neuron"].to_pylist()]
        return list(zip(neurons, map(VectorKind, table["kind"].to_pylist()), strict=True))

    def decomposed(self) -> set[tuple[Neuron, VectorKind]]:
        """Return the weight vectors that have been decomposed, whatever block they are in."""
        return {key for block in self.blocks() for key in self.block_vectors(block)}

    def read_channels(self, neurons: Collection[Neuron] | None = None) -> list[Channel]:
        """Read the channels of some neurons, or of all, ordered by neuron, kind and rank."""
        return _in_order(itertools.chain(*self._read_blocks("channels", Channel, neurons)))

    def read_channel_blocks(self) -> Iterator[list[Channel]]:
        """Read all channels block by block, each ordered by neuron, kind and rank."""
        return map(_in_order, self._read_blocks("channels", Channel, None))

    def read_vectors(self, neurons: Collection[Neuron] | None = None) -> list[VectorSummary]:
        """Read the summaries of the weight vectors of some neurons, or of all, ordered by neuron and kind."""
        vectors = itertools.chain(*self._read_blocks("vectors", VectorSummary, neurons))
        return sorted(vectors, key=lambda item: (item.neuron, item.kind))

    def _read_blocks(self, records: str, kind: type[T], neurons: Collection[Neuron] | None) -> Iterator[list[T]]:
        wanted = None if neurons is None else set(neurons)
        for block in self.blocks():
            if wanted is not None and not any(neuron in wanted for neuron, _ in self.block_vectors(block)):
                continue
            table = pq.read_table(self.channels / f"{block}.{records}.parquet")
            if wanted is not None:
                table = table.filter(pa.array([Neuron(**row) in wanted for row in table["neuron"].to_pylist()]))
            yield [from_json(kind, row) for row in table.to_pylist()]

    def read_columns(self, records: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns of all ``channels`` or ``vectors``, block by block.

        ``neuron`` becomes ``neuron.layer``, ``neuron.index`` and, in layers with experts, ``neuron.expert``.
        """
        for block in self.blocks():
            yield pq.read_table(self.channels / f"{block}.{records}.parquet", columns=list(columns)).flatten()

    @property
    def keeps_directions(self) -> bool:
        """Whether the directions of all channels are stored."""
        return all((self.channels / f"{block}.safetensors").exists() for block in self.blocks())

    def read_directions(
        self, wanted: Collection[tuple[Neuron, VectorKind]] | None = None
    ) -> Iterator[tuple[list[tuple[Neuron, VectorKind]], Tensor]]:
        """Read the channels' directions, block by block.

        Args:
            wanted: skip blocks that hold none of these vectors; None for all blocks.

        Yields:
            The block's vectors, and their channels in order of discovery, (N, C, d_model), in the stored format.

        Raises:
            HarnessError: if the directions of a block are not stored.
        """
        from safetensors.torch import load_file  # imports torch, which readers of records do not need

        for block in self.blocks():
            keys = self.block_vectors(block)
            if wanted is not None and not any(key in wanted for key in keys):
                continue
            path = self.channels / f"{block}.safetensors"
            if not path.exists():
                raise HarnessError(
                    f"{self.path} does not hold the directions of its channels ({path.name} is missing): decompose "
                    "into another folder with storage.directions=bfloat16 or float32"
                )
            yield keys, load_file(path)["directions"]


def _in_order(channels: Iterable[Channel]) -> list[Channel]:
    return sorted(channels, key=lambda channel: (channel.neuron, channel.kind, channel.rank))
