"""A disk that is full ends a run with one line, in every stage; with more space the run continues."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.drills import Drilled, Oracle, contents, one_clear_line, roles, run_options

pytestmark = [pytest.mark.slow, pytest.mark.drill]
PAGE = 4096
#: Pages that are free at a start.
SPACE = 8


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system in memory (a tmpfs) of some bytes."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "drill", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a small disk can be mounted only by root: {mount.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free(mounted: Path, pages: int) -> None:
    """Let a number of pages be free."""
    size = shutil.disk_usage(mounted).used + pages * PAGE
    subprocess.run(["mount", "-o", f"remount,size={size}", str(mounted)], check=True)


def started(run: Drilled, mounted: Path, failed: Path | None) -> tuple[int, str]:
    """Run to the end; once the file that failed last is written, leave little space for what comes next."""
    begun = time.time()
    run.start()
    assert run.process is not None
    while run.process.exitcode is None:
        if failed is not None and failed.exists() and failed.stat().st_mtime >= begun:
            free(mounted, SPACE)
            failed = None
        time.sleep(0.005)
    return run.wait(), run.log.read_text()


def test_a_disk_that_is_full_again_and_again_loses_nothing(tmp_path: Path) -> None:
    # No state of the pass over the corpus: it is larger than all other files, and would leave its space to them.
    options = [*run_options(tmp_path), "evidence.checkpoint_s=600"]
    oracle, expected = Oracle(), Oracle()
    with expected.serving() as server:
        whole = Drilled(tmp_path / "whole", [*options, *roles(server.url)])
        assert whole.run()[0] == 0
    full: list[str] = []
    with oracle.serving() as server, disk(tmp_path / "disk", SPACE * PAGE) as mounted:
        run = Drilled(mounted, [*options, *roles(server.url)])
        space, failed = SPACE, None
        while (result := started(run, mounted, failed))[0]:
            code, output = result
            assert code == 1, output[-3000:]
            line = one_clear_line(output)
            assert "No space left" in line or "is full" in line, line
            print(line, flush=True)
            # More only where it was not enough, so that the disk is full in every stage.
            space = 2 * space if line in full else SPACE
            full.append(line)
            named = re.match("error: (.*) cannot be written", line)
            failed = mounted / named[1] if named else None
            free(mounted, space)
        found, files = contents(run.folder), set(run.files())
        stored = run.answers_stored
    assert len(set(full)) > 8
    wanted = contents(whole.folder)
    assert {name for name in wanted if found.get(name) != wanted[name]} == set()
    assert files == set(whole.files())
    assert set(oracle.asked) == set(expected.asked)
    # An answer that could not be stored is asked for again, as are those under way at that moment; no other is.
    assert len(oracle.asked) - stored <= 8 * len(full)
