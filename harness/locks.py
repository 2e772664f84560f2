"""Locks between processes that write the same files."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder against other processes, waiting for one that has it; ``what`` it does goes to the log."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.info("waiting for another run that %s (%s)", what, folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
