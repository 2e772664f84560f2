"""Folders that runs share: results with the same identity lie in one folder, named by a hash of that identity."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.folder import replacing, write_json


def entry_path(root: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder of an identity; it need not exist."""
    return root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def ensure_entry(root: Path, identity: Mapping[str, Any]) -> Path:
    """Return the folder of an identity, created if necessary; ``identity.json`` in it holds the identity."""
    folder = entry_path(root, identity)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "identity.json").exists():
        write_json(folder / "identity.json", identity)
    return folder


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where links are not possible.

    Links are safe because files of runs and stores are replaced, never modified.
    """
    with replacing(target) as aside:
        try:
            os.link(source, aside)
        except OSError:
            shutil.copyfile(source, aside)
