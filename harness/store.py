"""Folders that runs share: what depends on the same things lies in one, whose name is a hash of these things."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.folder import replacing, write_json

logger = logging.getLogger(__name__)


def entry_path(root: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder of an identity, which need not be there."""
    return root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def ensure_entry(root: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder of an identity, made where there is none; it holds the identity as JSON."""
    folder = entry_path(root, identity)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "identity.json").exists():
        write_json(folder / "identity.json", identity)
    return folder


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of a folder meanwhile, waiting for those that are there; ``what`` they do is logged."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.info("waiting for another run that %s (%s)", what, folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def link_or_copy(source: Path, target: Path) -> None:
    """Let a file stand in another place as well: as the same file if the disk can, else as a copy, whole or not at all.

    Files of runs and stores are replaced and never written to, so that neither place can spoil the other.
    """
    with replacing(target) as aside:
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)
