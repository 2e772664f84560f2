"""What a full disk and a kill leave: whole records, one line, and nothing temporary."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch
from support.errors import told

from harness.folder import RunFolder, write_columns, write_json, write_table
from harness.records import Against, Alignment, Description, Neuron, VectorKind


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: a write that crosses it is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def described(index: int) -> Description:
    return Description(Neuron(0, index), "rotate", f"numbers above {index}")


def test_a_journal_on_a_full_disk_keeps_whole_records(tmp_path: Path) -> None:
    journal = RunFolder(tmp_path).descriptions()
    journal.append(described(0))
    size = journal.path.stat().st_size
    with files_up_to(3 * size + size // 2):
        written = 1

        def fill() -> None:
            nonlocal written
            for index in range(1, 9):
                journal.append(described(index))
                written += 1

        told(fill, "descriptions.jsonl cannot be written (File too large): free disk space")
    assert journal.path.read_bytes().count(b"\n") == written == len(journal) == 3
    assert journal.path.read_bytes().endswith(b"\n")
    journal.append(described(7))  # the same process goes on, with more space
    journal.close()
    assert [one.neuron.index for one in RunFolder(tmp_path).descriptions().records()] == [0, 1, 2, 7]


def test_every_other_file_on_a_full_disk_is_whole_or_absent(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    table = pa.table({"random": torch.rand(20_000, generator=torch.manual_seed(0)).numpy()})
    directions = torch.rand(50, 8, 64)
    rows = [Alignment(Neuron(0, index), VectorKind.IN, Against.CURRENT, index**0.5, None, 9) for index in range(5_000)]
    with files_up_to(10_000):
        for write in (
            lambda: write_json(folder.manifest, {"text": "x" * 20_000}),
            lambda: write_columns(folder.exemplars, table),
            lambda: write_table(folder.alignment, rows),
            lambda: folder.write_block("L00-in", table, table, directions),
        ):
            told(write, str(tmp_path), "cannot be written (File too large): free disk space, and start the run again")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    write_json(folder.manifest, {"text": "x" * 20_000})
    assert len(json.loads(folder.manifest.read_text())["text"]) == 20_000


def test_a_run_removes_what_a_killed_one_was_writing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    left = [".manifest.json.123", "channels/.L00-in.vectors.parquet.9", "channels/.tmpQwMSDg", "steered/.a.parquet.77"]
    kept = [".tracked", ".lock", "channels/L00-in.vectors.parquet", "wandb/.settings.1", "logs/.x.2"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with folder.locked():
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
