"""Locks between processes that write the same files."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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


def written_once(folder: Path, what: str, write: Callable[[Path], None]) -> None:
    """Write a folder that processes share, unless it exists. Other processes wait while one writes it.

    Args:
        folder: the folder; it appears when it is complete.
        what: what the writing process does, for the log.
        write: writes the content of the folder, at a path that does not exist yet.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent, what), TemporaryDirectory(prefix=".new-", dir=folder.parent) as temporary:
        if not folder.is_dir():  # otherwise another process has written it in the meantime
            write(Path(temporary) / "new")
            (Path(temporary) / "new").rename(folder)
