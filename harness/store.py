"""Folders that runs share: results with the same identity lie in one folder, named by a hash of that identity."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.folder import remove_temporary, replacing, write_json
from harness.locks import locked


def entry_path(root: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder of an identity; it need not exist."""
    return root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def locked_entry(root: Path, identity: Mapping[str, Any], what: str) -> Iterator[Path]:
    """Lock the folder of an identity for writing, and yield it.

    It is created if necessary; ``identity.json`` in it holds the identity. What killed processes were writing is
    removed.

    Args:
        root: folder of all entries.
        identity: the identity.
        what: what is done with the folder, for the log of a process that waits.
    """
    folder = entry_path(root, identity)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, what):
        for place in (folder, *filter(Path.is_dir, folder.iterdir())):
            remove_temporary(place)
        if not (folder / "identity.json").exists():
            write_json(folder / "identity.json", identity)
        yield folder


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where links are not possible.

    Links are safe because files of runs and stores are replaced, never modified.
    """
    with replacing(target) as aside:
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)
