"""A disk that is full ends a run with one line, in every stage; with more space the run continues."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.drills import Drilled, Oracle, contents, one_clear_line, roles, run_options

pytestmark = [pytest.mark.slow, pytest.mark.drill]
PAGE = 4096
#: How often the disk is full, about.
FILLS = 20


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


def grow(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def test_a_disk_that_is_full_again_and_again_loses_nothing(tmp_path: Path) -> None:
    options = run_options(tmp_path)
    oracle, expected = Oracle(), Oracle()
    with expected.serving() as server:
        whole = Drilled(tmp_path / "whole", [*options, *roles(server.url)])
        assert whole.run()[0] == 0
    pages = sum(-(-path.stat().st_size // PAGE) for path in whole.place.rglob("*") if path.is_file())
    report = -(-whole.folder.report.stat().st_size // PAGE)
    step = max(1, (pages - report) // FILLS)
    ended = []
    with oracle.serving() as server, disk(tmp_path / "disk", 8 * PAGE) as mounted:
        run, size = Drilled(mounted, [*options, *roles(server.url)]), 8
        code, output = run.run()
        while code:
            assert code == 1, output[-3000:]
            line = one_clear_line(output)
            assert "No space left" in line or "is full" in line, line
            ended.append(line)
            size += step if run.folder.leaderboard.exists() is False else step + report
            assert size < 4 * pages
            grow(mounted, size * PAGE)
            code, output = run.run()
        print(f"{len(ended)} times full:", *dict.fromkeys(line.replace(str(mounted), "DISK") for line in ended), sep="\n")
        assert len(ended) > FILLS // 2
        found = contents(run.folder)
        files = set(run.files())
    assert {name: None for name in found if found[name] != contents(whole.folder)[name]} == {}
    assert files == set(whole.files())
    assert sorted(set(oracle.asked)) == sorted(expected.asked)
    # An answer that could not be stored is asked for again; no other is.
    assert len(oracle.asked) - len(expected.asked) <= 8 * len(ended)
