"""The run folder: where a run keeps its records, whole and readable by anyone.

Journals (JSON lines) grow one record at a time and survive a kill at any moment; tables (parquet) and documents are
written aside and renamed, so that a file that exists is complete.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.exemplar_table import ExemplarTable
from harness.records import (
    AblatedChannels,
    Activity,
    BlockTiming,
    Channel,
    Description,
    Effect,
    Exemplar,
    Neuron,
    RandomVector,
    Restart,
    Score,
    Status,
    SteeredText,
    Usage,
    VectorKind,
    VectorSummary,
    Verdict,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from torch import Tensor

Answer = TypeVar("Answer", Description, Verdict, Score)
T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it into place if the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


#: How another folder is chosen, for errors that advise it.
ELSEWHERE = "another folder (folder=...; of a sweep hydra.sweep.dir=...)"


def check_writable(folder: Path, option: str) -> None:
    """Make a folder, if it is not there, and write into it.

    Raises:
        HarnessError: naming the option that names the folder, if that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise HarnessError(
            f"{option}={folder} cannot be written to ({error.strerror}): make room or permission there, or choose "
            "another folder"
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON with sorted keys: equal data make equal bytes."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: Path, records: Iterable[Any]) -> None:
    """Write records of one type as a parquet table, nested as they are; half a surrogate pair becomes U+FFFD."""
    rows = [to_json(record) for record in records]
    try:
        table = pa.Table.from_pylist(rows)
    except UnicodeEncodeError:  # rare, and looking for them at every text is slow
        table = pa.Table.from_pylist([encodable(row) for row in rows])
    write_columns(path, table)


def encodable(value: Any) -> Any:
    """Return text, and what is nested in mappings and lists, with U+FFFD for half a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: encodable(item) for name, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list) else value


def write_columns(path: Path, table: pa.Table) -> None:
    """Write a table whose rows are records in the form that :func:`write_table` gives them."""
    with replacing(path) as aside:
        # Room for a dictionary of every token of a large vocabulary; without, tokens are spelt out again and again.
        pq.write_table(table, aside, compression="zstd", dictionary_pagesize_limit=1 << 24)


def read_table(path: Path, kind: type[T]) -> list[T]:
    """Read what :func:`write_table` wrote."""
    return _records(pq.read_table(path), kind)


def _records(table: pa.Table, kind: type[T]) -> list[T]:
    return [from_json(kind, row) for row in table.to_pylist()]


class Journal(Generic[Answer]):
    """Append-only JSON lines, one answer a line; of several lines about the same item the last counts.

    A line cut short by a kill is cut off when the journal is opened for writing, and passed over when it is only read.
    """

    def __init__(self, path: Path, kind: type[Answer], identity: Callable[[Answer], Hashable]) -> None:
        self.path = path
        self._kind: type[Answer] = kind
        self._identity: Callable[[Answer], Hashable] = identity
        self._latest: dict[Hashable, Answer] = {}
        self._descriptor: int | None = None
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = from_json(self._kind, json.loads(line))
            except ValueError as error:
                raise HarnessError(
                    f"{self.path} line {number} is not a {self._kind.__name__} record; "
                    "the file was edited or damaged: remove that line, or start a new run folder"
                ) from error
            self._latest[self._identity(record)] = record

    def __len__(self) -> int:
        return len(self._latest)

    def records(self) -> list[Answer]:
        """Return the latest record of every item, in the order of first appearance."""
        return list(self._latest.values())

    def done(self, record_identity: Hashable) -> bool:
        """Tell whether the item has an answer that need not be tried again (its status is ok)."""
        record = self._latest.get(record_identity)
        return record is not None and record.status is Status.OK

    def of(self, record_identity: Hashable) -> Answer | None:
        """Return the latest record of an item, if there is one."""
        return self._latest.get(record_identity)

    def latest(self, record: Answer) -> Answer | None:
        """Return what the journal says of a record's item so far, if anything."""
        return self._latest.get(self._identity(record))

    def append(self, record: Answer) -> None:
        """Append one record, unless the journal already says the same of its item, and it cost nothing more.

        What the records before it cost stays in its own account.
        """
        identity = self._identity(record)
        known = self._latest.get(identity)
        if known is not None:
            if _without_usage(known) == _without_usage(record) and not record.usage.drew_tokens:
                return
            record = dataclasses.replace(record, usage=record.usage.after(known.usage))
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        line = json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n"
        os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))
        self._latest[identity] = record

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = self.path.read_bytes()
        os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)

    def close(self) -> None:
        """Close the file; the journal can still be read, and appended to again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _without_usage(record: Answer) -> Answer:
    return dataclasses.replace(record, usage=Usage())


def description_identity(record: Description) -> Hashable:
    """Return what makes a description the answer to one question: the neuron and the describer."""
    return record.neuron, record.describer


def verdict_identity(record: Verdict) -> Hashable:
    """Return what makes a verdict the answer to one question: neuron, judge and the order of the two describers."""
    return record.neuron, record.judge, record.first, record.second


def score_identity(record: Score) -> Hashable:
    """Return what makes a score the answer to one question: neuron, scorer and describer."""
    return record.neuron, record.scorer, record.describer


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest(self) -> Path:
        """What was run: resolved config without secrets, revisions, versions, seeds."""
        return self.path / "manifest.json"

    @property
    def channels(self) -> Path:
        """Folder of the decomposition's blocks: NAME.safetensors, NAME.channels.parquet, NAME.vectors.parquet."""
        return self.path / "channels"

    @property
    def diagnostics(self) -> Path:
        """Folder of what judges the decomposition: NAME.restarts.parquet, NAME.random.parquet, NAME.ablations.parquet.

        A name tells what was measured with which settings.
        """
        return self.path / "diagnostics"

    @property
    def exemplars(self) -> Path:
        """The exemplars of every neuron and split."""
        return self.path / "exemplars.parquet"

    @property
    def activity(self) -> Path:
        """How often and how strongly every neuron is active, by split."""
        return self.path / "activity.parquet"

    @property
    def effects(self) -> Path:
        """Folder of what clamping neurons does to the next token, and of the text it was averaged over."""
        return self.path / "effects"

    @property
    def steered(self) -> Path:
        """Folder of the texts generated under interventions."""
        return self.path / "steered"

    @property
    def leaderboard(self) -> Path:
        """The statistics, as JSON."""
        return self.path / "leaderboard.json"

    @property
    def leaderboard_csv(self) -> Path:
        """The leaderboard's rows, as CSV."""
        return self.path / "leaderboard.csv"

    @property
    def judge_checks(self) -> Path:
        """What each judge is worth where the truth is known, as JSON."""
        return self.path / "judges.json"

    @property
    def leaderboard_markdown(self) -> Path:
        """The leaderboard's main table, as Markdown."""
        return self.path / "leaderboard.md"

    @property
    def leaderboard_latex(self) -> Path:
        """The leaderboard's main table, as LaTeX."""
        return self.path / "leaderboard.tex"

    @property
    def decomposition(self) -> Path:
        """What the decomposition found, summed up by layer and vector kind, as JSON."""
        return self.path / "decomposition.json"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.path / "logs"

    def descriptions(self) -> Journal[Description]:
        """Open the journal of descriptions."""
        return Journal(self.path / "descriptions.jsonl", Description, description_identity)

    def verdicts(self) -> Journal[Verdict]:
        """Open the journal of verdicts."""
        return Journal(self.path / "verdicts.jsonl", Verdict, verdict_identity)

    def scores(self) -> Journal[Score]:
        """Open the journal of scores."""
        return Journal(self.path / "scores.jsonl", Score, score_identity)

    def retests(self) -> Journal[Verdict]:
        """Open the journal of verdicts that were asked for again with another seed."""
        return Journal(self.path / "retests.jsonl", Verdict, verdict_identity)

    def score_retests(self) -> Journal[Score]:
        """Open the journal of scores that were asked for again with another seed."""
        return Journal(self.path / "score_retests.jsonl", Score, score_identity)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in this folder meanwhile; the lock ends with the process, however it ends.

        Raises:
            HarnessError: if another process is at work here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise HarnessError(
                    f"another process is running in {self.path}: wait for it, stop it, or choose {ELSEWHERE}"
                ) from error
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

    @property
    def timings(self) -> Path:
        """What the blocks of the decomposition cost, one line each."""
        return self.logs / "decomposition.jsonl"

    def write_block(self, name: str, vectors: pa.Table, channels: pa.Table, directions: Tensor | None) -> None:
        """Write a decomposed block, so that it is there whole or not at all.

        Args:
            name: file name of the block, without an ending.
            vectors: its records of type VectorSummary.
            channels: its records of type Channel.
            directions: (N, C, d_model), in the order of ``vectors``; none if they are not kept.
        """
        from safetensors.torch import save_file  # with torch, which who only reads records can do without

        if directions is not None:
            with replacing(self.channels / f"{name}.safetensors") as aside:
                save_file({"directions": directions.contiguous()}, aside)
        write_columns(self.channels / f"{name}.channels.parquet", channels)
        # Last, for its presence says that the block is done.
        write_columns(self.channels / f"{name}.vectors.parquet", vectors)

    def append_timing(self, timing: BlockTiming) -> None:
        """Note what a block cost."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.timings.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(timing)) + "\n")

    def read_timings(self) -> list[BlockTiming]:
        """Read what the blocks cost; a line torn by a kill is passed over."""
        if not self.timings.exists():
            return []
        lines = self.timings.read_text(encoding="utf-8").splitlines(keepends=True)
        return [from_json(BlockTiming, json.loads(line)) for line in lines if line.endswith("}\n")]

    def decomposed(self) -> set[tuple[Neuron, VectorKind]]:
        """Return which weight vectors have been decomposed so far. Reads their names only, however many there are."""
        return {key for name in self._blocks() for key in self._keys(name)}

    def read_channels(self, neurons: Collection[Neuron] | None = None) -> list[Channel]:
        """Read the channels found so far of some neurons, or of all, ordered by neuron, kind and rank."""
        channels = self._read_blocks("channels", Channel, neurons)
        return sorted(channels, key=lambda channel: (channel.neuron, channel.kind, channel.rank))

    def read_vectors(self, neurons: Collection[Neuron] | None = None) -> list[VectorSummary]:
        """Read the summaries of the weight vectors decomposed so far of some neurons, or of all, ordered likewise."""
        vectors = self._read_blocks("vectors", VectorSummary, neurons)
        return sorted(vectors, key=lambda item: (item.neuron, item.kind))

    def read_channel_blocks(self) -> Iterator[list[Channel]]:
        """Read all channels found so far, block by block, those of each ordered by neuron, kind and rank."""
        for name in self._blocks():
            channels = _records(pq.read_table(self.channels / f"{name}.channels.parquet"), Channel)
            yield sorted(channels, key=lambda channel: (channel.neuron, channel.kind, channel.rank))

    def read_columns(self, records: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns of all ``channels`` or ``vectors`` found so far, block by block.

        Args:
            records: ``channels`` or ``vectors``.
            columns: names of the record's fields; ``neuron`` comes back as ``neuron.layer``, ``neuron.index`` and,
                where there are experts, ``neuron.expert``.
        """
        for name in self._blocks():
            yield pq.read_table(self.channels / f"{name}.{records}.parquet", columns=list(columns)).flatten()

    @property
    def keeps_directions(self) -> bool:
        """Whether the directions of all channels found so far were kept."""
        return all((self.channels / f"{name}.safetensors").exists() for name in self._blocks())

    def read_directions(
        self, wanted: Collection[tuple[Neuron, VectorKind]] | None = None
    ) -> Iterator[tuple[list[tuple[Neuron, VectorKind]], Tensor]]:
        """Read the channels' directions, block by block.

        Args:
            wanted: vectors of which at least one stands in each block that is read; none for all blocks.

        Yields:
            The block's vectors, and their channels in order of discovery, (N, C, d_model), in the stored format.

        Raises:
            HarnessError: if the run did not keep the directions of a block.
        """
        from safetensors.torch import load_file

        for name in self._blocks():
            keys = self._keys(name)
            if wanted is not None and not any(key in wanted for key in keys):
                continue
            path = self.channels / f"{name}.safetensors"
            if not path.exists():
                raise HarnessError(
                    f"{self.path} does not hold the directions of its channels ({path.name} is missing): decompose "
                    "into another folder with storage.directions=bfloat16 or float32"
                )
            yield keys, load_file(path)["directions"]

    def read_restarts(self) -> list[Restart]:
        """Read how the channels that were sought again agree with the first ones."""
        return [
            item for path in sorted(self.diagnostics.glob("*.restarts.parquet")) for item in read_table(path, Restart)
        ]

    def read_ablations(self) -> list[AblatedChannels]:
        """Read what weight vectors lose without their channels."""
        files = sorted(self.diagnostics.glob("*.ablations.parquet"))
        return [item for path in files for item in read_table(path, AblatedChannels)]

    def read_random_vectors(self) -> list[RandomVector]:
        """Read what was found in random vectors."""
        return [
            item
            for path in sorted(self.diagnostics.glob("*.random.parquet"))
            for item in read_table(path, RandomVector)
        ]

    def read_exemplars(self, neurons: Collection[Neuron] | None = None) -> list[Exemplar]:
        """Read the exemplars of some neurons, or of all, ordered by neuron; none if the run has none yet."""
        table = self.exemplar_table()
        return [] if table is None else table.read(neurons)

    def exemplar_table(self) -> ExemplarTable | None:
        """Open the exemplars, to read them neuron by neuron; none if the run has none yet."""
        return ExemplarTable(self.exemplars) if self.exemplars.exists() else None

    def read_activity(self) -> list[Activity]:
        """Read how active the neurons are, or nothing if the run does not know yet."""
        return read_table(self.activity, Activity) if self.activity.exists() else []

    def read_effects(self) -> list[Effect]:
        """Read what clamping neurons does, or none if the run has not measured it, ordered by neuron and split."""
        effects = [item for path in self.effects.glob("*.effects.parquet") for item in read_table(path, Effect)]
        return sorted(effects, key=lambda item: (item.neuron, item.split))

    def read_steered(self) -> list[SteeredText]:
        """Read the steered texts, or none if the run has none, ordered by neuron."""
        texts = [item for path in self.steered.glob("*.parquet") for item in read_table(path, SteeredText)]
        return sorted(texts, key=lambda item: item.neuron)

    def _blocks(self) -> list[str]:
        # A block's vectors are written last: where they are missing, a kill left the block half done.
        return sorted(path.name.removesuffix(".vectors.parquet") for path in self.channels.glob("*.vectors.parquet"))

    def _keys(self, block: str) -> list[tuple[Neuron, VectorKind]]:
        table = pq.read_table(self.channels / f"{block}.vectors.parquet", columns=["neuron", "kind"])
        neurons = [Neuron(**row) for row in table["neuron"].to_pylist()]
        return list(zip(neurons, map(VectorKind, table["kind"].to_pylist()), strict=True))

    def _read_blocks(self, records: str, kind: type[T], neurons: Collection[Neuron] | None) -> Iterator[T]:
        wanted = None if neurons is None else set(neurons)
        for block in self._blocks():
            if wanted is not None and not any(neuron in wanted for neuron, _ in self._keys(block)):
                continue
            table = pq.read_table(self.channels / f"{block}.{records}.parquet")
            if wanted is not None:
                table = table.filter(pa.array([Neuron(**row) in wanted for row in table["neuron"].to_pylist()]))
            yield from _records(table, kind)
