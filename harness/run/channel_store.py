"""Channels that runs share: a vector that was decomposed with the same settings is not decomposed again.

The store has one folder for each model, projection, search and form of storage; it holds blocks and diagnostics like a
run folder. A run takes the vectors that it needs from a block, and only their first channels if it wants fewer: later
channels have no influence on earlier ones.
"""

from __future__ import annotations

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

from harness.decomposition.config import SOLVERS
from harness.folder import RunFolder
from harness.records import Neuron, VectorKind
from harness.run.identity import channels_identity
from harness.run.setup import Setup
from harness.run.worker import Block
from harness.store import entry_path, link_or_copy, locked_entry

logger = logging.getLogger(__name__)
_ENDINGS = ("safetensors", "channels.parquet", "vectors.parquet")  # the last one marks a block as complete
Key = tuple[Neuron, VectorKind]


@dataclass(frozen=True, eq=False)  # compared by identity: hashing all keys of a block would be slow
class _Stored:
    """A block in the store: its vectors, and how many channels each has."""

    name: str
    keys: tuple[Key, ...]
    channels: int


class ChannelStore:
    """The entry of the store that fits a run; empty and never written to if the run shares nothing."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._plan = setup, setup.decomposition

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return channels_identity(self._setup)  # cached and lazy: hashing the weights takes a while

    @cached_property
    def _folder(self) -> RunFolder | None:
        """The entry's folder, which need not exist yet; None if the run shares nothing."""
        store = self._setup.storage.store
        # The name of a user's own solver does not identify what it does.
        if store is None or self._setup.config["decomposition"]["solver"] not in SOLVERS:
            return None
        return RunFolder(entry_path(Path(store).expanduser(), self._identity))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the entry: other runs that need it wait, and then find the work done."""
        if self._folder is None:
            yield
            return
        with locked_entry(self._folder.path.parent, self._identity, "decomposes the same vectors"):
            yield

    def missing(self, pending: Sequence[Block]) -> list[Block]:
        """Return the blocks without the vectors that the store has."""
        return _without(pending, self._find(pending)) if pending else []

    def restore(self, folder: RunFolder, pending: Sequence[Block]) -> list[Block]:
        """Copy the vectors that the store has into a run folder, and return the blocks without them."""
        found = self._find(pending)
        taken: dict[_Stored, list[Key]] = defaultdict(list)
        for key, stored in found.items():
            taken[stored].append(key)
        for stored, keys in taken.items():
            self._restore_block(folder, stored, set(keys))
        if found:
            logger.info("the channels of %d vectors are in the store", len(found))
        return _without(pending, found)

    def save(self, folder: RunFolder, name: str) -> None:
        """Copy a block of a run folder into the store."""
        if self._folder is not None:
            _copy_block(folder, self._folder, name)

    def has(self, path: Path) -> bool:
        """Return whether the store has a file of diagnostics."""
        return self._folder is not None and (self._folder.diagnostics / path.name).exists()

    def restore_file(self, path: Path) -> bool:
        """Copy a file of diagnostics from the store to ``path``; return whether the store has it."""
        if found := self._folder is not None and self.has(path):
            link_or_copy(self._folder.diagnostics / path.name, path)
        return found

    def save_file(self, path: Path) -> None:
        """Copy a run's file of diagnostics into the store; its name contains a hash of its settings."""
        if self._folder is not None:
            link_or_copy(path, self._folder.diagnostics / path.name)

    def _find(self, pending: Sequence[Block]) -> dict[Key, _Stored]:
        """Return for each vector the stored block with the fewest channels that are enough, if there is one."""
        wanted = {
            (neuron, block.kind): self._plan.config(block.layer, block.kind).num_channels
            for block in pending
            for neuron in block.neurons
        }
        found: dict[Key, _Stored] = {}
        for stored in _stored(self._folder) if self._folder is not None else ():
            for key in stored.keys:
                better = key not in found or stored.channels < found[key].channels
                if key in wanted and stored.channels >= wanted[key] and better:
                    found[key] = stored
        return found

    def _restore_block(self, folder: RunFolder, stored: _Stored, keys: Collection[Key]) -> None:
        assert self._folder is not None
        kind = stored.keys[0][1]
        count = self._plan.config(stored.keys[0][0].layer, kind).num_channels
        if len(keys) == len(stored.keys) and count == stored.channels:
            _copy_block(self._folder, folder, stored.name)
            return
        rows = [row for row, key in enumerate(stored.keys) if key in keys]
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


def _stored(folder: RunFolder) -> Iterator[_Stored]:
    for name in folder.blocks():
        shares = pq.read_table(folder.channels / f"{name}.vectors.parquet", columns=["reconstruction"])
        yield _Stored(name, tuple(folder.block_vectors(name)), len(shares["reconstruction"][0]))


def _without(blocks: Sequence[Block], vectors: Collection[Key]) -> list[Block]:
    """Return the blocks without some vectors; blocks that become empty are left out."""
    groups = (tuple(n for n in block.neurons if (n, block.kind) not in vectors) for block in blocks)
    return [Block(neurons, block.kind) for neurons, block in zip(groups, blocks, strict=True) if neurons]


def _copy_block(source: RunFolder, target: RunFolder, name: str) -> None:
    for ending in _ENDINGS:
        path = source.channels / f"{name}.{ending}"
        if path.exists():
            link_or_copy(path, target.channels / path.name)
