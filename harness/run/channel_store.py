"""Channels that runs share: what was found once in a vector, with the same settings, is not sought again.

A folder for each model, projection, search and form of storage holds blocks as a run folder does. A run takes what it
needs from them: some of a block's vectors, and the first of their channels if it wants fewer, for what is found later
has no part in what was found before. What judges the decomposition lies beside them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.torch import load_file

from harness.decomposition.solvers import SOLVERS
from harness.folder import RunFolder
from harness.records import Neuron, VectorKind
from harness.run.manifest import identity
from harness.run.setup import Setup
from harness.run.worker import Block
from harness.store import ensure_entry, entry_path, link_or_copy, locked
from harness.subject.identity import vocabulary_of, weights_of

logger = logging.getLogger(__name__)
#: Raised when the same search finds, or the same record says, something else than before.
VERSION = 1
_ENDINGS = ("safetensors", "channels.parquet", "vectors.parquet")  # the last says that a block is whole


@dataclass(frozen=True)
class _Stored:
    """A block in the store: its vectors, and how many channels each has."""

    name: str
    keys: tuple[tuple[Neuron, VectorKind], ...]
    channels: int


class ChannelStore:
    """The part of the store that fits a run; holds nothing and keeps nothing if the run shares nothing."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._plan = setup, setup.decomposition

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return identity_of(self._setup)  # when it is first needed, for to know the weights' hash takes a while

    @cached_property
    def _folder(self) -> RunFolder | None:
        """Where it is, if the run shares anything; made when something is put there."""
        store = self._setup.storage.store
        # What a function of the user's own does is not known from its name.
        if store is None or self._setup.config["decomposition"]["solver"] not in SOLVERS:
            return None
        return RunFolder(entry_path(Path(store).expanduser(), self._identity))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs that need the same from working on it meanwhile: they wait, and find it done."""
        if self._folder is None:
            yield
            return
        ensure_entry(self._folder.path.parent, self._identity)
        with locked(self._folder.path, "decomposes the same vectors"):
            yield

    def missing(self, pending: Sequence[Block]) -> list[Block]:
        """Return what of the blocks is not in the store."""
        return _without(pending, self._homes(pending)) if pending else []

    def restore(self, folder: RunFolder, pending: Sequence[Block]) -> list[Block]:
        """Put what the store has of some blocks into a run folder, and return the rest."""
        taken: dict[str, list[tuple[Neuron, VectorKind]]] = defaultdict(list)
        stored: dict[str, _Stored] = {}
        homes = self._homes(pending)
        for key, home in homes.items():
            stored[home.name] = home
            taken[home.name].append(key)
        for name, keys in taken.items():
            self._take_block(folder, stored[name], keys)
        if taken:
            logger.info("the channels of %d vectors are in the store", sum(map(len, taken.values())))
        return _without(pending, homes)

    def save(self, folder: RunFolder, name: str) -> None:
        """Keep a block that a run folder holds."""
        if self._folder is not None:
            _share_block(folder, self._folder, name)

    def fetch(self, path: Path) -> bool:
        """Put a file of diagnostics into its place in a run folder, if the store has it; tell whether it has."""
        if self._folder is None or not self.has(path):
            return False
        link_or_copy(self._folder.diagnostics / path.name, path)
        return True

    def has(self, path: Path) -> bool:
        """Tell whether the store has a file of diagnostics."""
        return self._folder is not None and (self._folder.diagnostics / path.name).exists()

    def keep(self, path: Path) -> None:
        """Keep a run's file of diagnostics; its name tells all that it depends on beyond the store's folder."""
        if self._folder is not None:
            ensure_entry(self._folder.path.parent, self._identity)
            link_or_copy(path, self._folder.diagnostics / path.name)

    def _homes(self, pending: Sequence[Block]) -> dict[tuple[Neuron, VectorKind], _Stored]:
        """Return where the vectors are found that the store has with enough channels: where least is cut off."""
        wanted = {
            (neuron, block.kind): self._plan.config(block.layer, block.kind).num_channels
            for block in pending
            for neuron in block.neurons
        }
        homes: dict[tuple[Neuron, VectorKind], _Stored] = {}
        for stored in _stored(self._folder) if self._folder is not None else ():
            for key in stored.keys:
                better = key not in homes or stored.channels < homes[key].channels
                if key in wanted and stored.channels >= wanted[key] and better:
                    homes[key] = stored
        return homes

    def _take_block(self, folder: RunFolder, stored: _Stored, keys: Sequence[tuple[Neuron, VectorKind]]) -> None:
        assert self._folder is not None
        kind = stored.keys[0][1]
        count = self._plan.config(stored.keys[0][0].layer, kind).num_channels
        if set(keys) == set(stored.keys) and count == stored.channels:
            _share_block(self._folder, folder, stored.name)
            return
        rows = [place for place, key in enumerate(stored.keys) if key in set(keys)]
        path = self._folder.channels
        vectors = pq.read_table(path / f"{stored.name}.vectors.parquet").take(pa.array(rows))
        shares = pc.list_slice(vectors["reconstruction"], 0, count, return_fixed_size_list=False)
        vectors = vectors.set_column(vectors.column_names.index("reconstruction"), "reconstruction", shares)
        channels = pq.read_table(path / f"{stored.name}.channels.parquet")
        chosen = [row * stored.channels + rank for row in rows for rank in range(count)]
        directions = None
        if (path / f"{stored.name}.safetensors").exists():
            directions = load_file(path / f"{stored.name}.safetensors")["directions"][rows][:, :count]
        name = Block(tuple(stored.keys[row][0] for row in rows), kind).name
        folder.write_block(name, vectors, channels.take(pa.array(chosen)), directions)


def identity_of(setup: Setup) -> dict[str, Any]:
    """Return all that a vector's channels depend on but their number, and how they are kept, as plain JSON types."""
    named = {
        name: value
        for name, value in identity(setup).items()
        if name.split(".")[0] in {"subject", "decomposition", "seed", "executor"}
        and name not in {"decomposition.num_channels", "subject.name", "subject.sources"}
    }
    if setup.config["decomposition"]["solver"] == "adamw":
        # The published optimiser stops a batch as a whole, so it matters who else is there.
        named["neurons"] = [str(neuron) for neuron in setup.neurons]
    kept = {name: value for name, value in dataclasses.asdict(setup.storage).items() if name != "store"}
    return {
        "version": VERSION,
        "weights": weights_of(setup.subject),
        "vocabulary": hashlib.sha256(vocabulary_of(setup.subject).encode()).hexdigest()[:16],
        "device": setup.executor.device.split(":")[0],
        "storage": kept,
        **named,
    }


def _stored(folder: RunFolder) -> Iterator[_Stored]:
    for path in sorted(folder.channels.glob("*.vectors.parquet")):
        table = pq.read_table(path, columns=["neuron", "kind", "reconstruction"])
        neurons = [Neuron(**row) for row in table["neuron"].to_pylist()]
        kinds = map(VectorKind, table["kind"].to_pylist())
        name = path.name.removesuffix(".vectors.parquet")
        yield _Stored(name, tuple(zip(neurons, kinds, strict=True)), len(table["reconstruction"][0]))


def _without(blocks: Sequence[Block], vectors: Collection[tuple[Neuron, VectorKind]]) -> list[Block]:
    """Return what is left of some blocks when some vectors are taken out."""
    groups = [
        dataclasses.replace(block, neurons=tuple(n for n in block.neurons if (n, block.kind) not in vectors))
        for block in blocks
    ]
    return [group for group in groups if group.neurons]


def _share_block(source: RunFolder, target: RunFolder, name: str) -> None:
    for ending in _ENDINGS:
        path = source.channels / f"{name}.{ending}"
        if path.exists():
            link_or_copy(path, target.channels / path.name)
