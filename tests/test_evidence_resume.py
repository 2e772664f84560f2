"""Interrupted passes over the corpus resume, and runs share evidence."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evidence import SHARES, SMALL, Kept, Listed, both_signs, collect, make_subjects, short_texts

from harness.errors import HarnessError
from harness.evidence.shards import ShardResult, ShardTask, Spread
from harness.evidence.state import POOL, bytes_of_neuron
from harness.records import Neuron, Split
from harness.subject import ActivationReader, Subject


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return make_subjects(tmp_path_factory)


@pytest.fixture
def llama(subjects: dict[str, Subject]) -> Subject:
    return subjects["llama"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return short_texts()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of neurons of each forward pass."""
    seen: list[int] = []
    read = ActivationReader.read

    def counted(self: ActivationReader, *given: torch.Tensor) -> torch.Tensor:
        found = read(self, *given)
        seen.append(found.shape[2])
        return found

    monkeypatch.setattr(ActivationReader, "read", counted)
    return seen


@pytest.mark.parametrize("pool", [POOL, 40])
def test_a_killed_pass_resumes_with_the_same_result(
    llama: Subject,
    texts: list[str],
    tmp_path: Path,
    forwards: list[int],
    pool: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.evidence.corpus_pass.POOL", pool)
    neurons = both_signs(Neuron(0, 1), Neuron(1, 5))
    config = replace(SMALL, checkpoint_s=0)
    whole = collect(Listed(texts), llama, neurons, config, folder=tmp_path / "whole")
    passes = len(forwards)

    def dies(total: int | None, done: int) -> None:
        if len(forwards) >= passes + 9:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # pragma: no cover
        collect(Listed(texts), llama, neurons, config, folder=tmp_path / "killed", progress=dies)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert list((tmp_path / "killed").rglob("pass-*.safetensors"))
    forwards.clear()
    assert collect(Listed(texts), llama, neurons, config, folder=tmp_path / "killed") == whole
    assert 0 < len(forwards) <= passes - 8
    assert not list((tmp_path / "killed").rglob("*.safetensors"))


def assert_same(one: Kept, other: Kept) -> None:
    """Assert that the same windows were kept; activations may differ by rounding."""
    assert one.summary == other.summary
    for found, expected in zip(one.exemplars, other.exemplars, strict=True):
        assert found == replace(expected, activations=pytest.approx(expected.activations, abs=1e-5))
    for got, wanted in zip(one.alignment, other.alignment, strict=True):
        assert (got.neuron, got.kind, got.against, got.tokens) == (
            *(wanted.neuron, wanted.kind, wanted.against, wanted.tokens),
        )
        assert got.r == pytest.approx(wanted.r, abs=1e-5)


def elsewhere(lost_after: int | None = None) -> Spread:
    """Read shards in a random order from pickled tasks, as workers do; lose the workers after some results."""

    def spread(work: Callable[[ShardTask, str], ShardResult], items: Iterable[ShardTask]) -> Iterator[ShardResult]:
        rest, waiting, rng = iter(items), list[bytes](), random.Random(1)
        for number in itertools.count():
            waiting += map(pickle.dumps, islice(rest, 4 - len(waiting)))
            if not waiting:
                assert number > 5
                return
            if number == lost_after:
                raise HarnessError("the workers are lost")
            task = pickle.loads(waiting.pop(rng.randrange(len(waiting))))
            yield pickle.loads(pickle.dumps(work(task, "cpu")))

    return spread


def test_shards_that_others_read_give_the_same_evidence_and_only_missing_ones_are_read_again(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.evidence.corpus_pass.POOL", 20)
    neurons = both_signs(Neuron(0, 1), Neuron(1, 5))
    whole = collect(Listed(texts), llama, neurons, folder=tmp_path / "whole")
    passes = len(forwards)
    done: list[int] = []
    spread = collect(
        *(Listed(texts), llama, neurons),
        folder=tmp_path / "spread",
        spread=elsewhere(),
        progress=lambda total, count: done.append(count),
    )
    assert_same(spread, whole)
    assert sum(done) == len(set(texts))
    assert len(forwards) == 2 * passes

    forwards.clear()
    with pytest.raises(HarnessError, match="the workers are lost"):
        collect(Listed(texts), llama, neurons, folder=tmp_path / "lost", spread=elsewhere(lost_after=2))
    before = len(forwards)
    assert_same(collect(Listed(texts), llama, neurons, folder=tmp_path / "lost"), whole)
    assert 0 < before < len(forwards) == passes


def test_neurons_that_do_not_fit_into_memory_are_captured_in_several_passes(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int]
) -> None:
    neurons = both_signs(Neuron(0, 1), Neuron(0, 7), Neuron(1, 5))
    whole = collect(Listed(texts), llama, neurons, folder=tmp_path / "whole")
    passes, each = len(forwards), bytes_of_neuron(SMALL, llama.d_model, signs=2)
    done: list[tuple[int | None, int]] = []
    config = replace(SMALL, memory=2.5 * each / 2**30)  # two neurons together
    parts = collect(
        *(Listed(texts), llama, neurons, config),
        folder=tmp_path / "parts",
        progress=lambda total, count: done.append((total, count)),
    )
    assert_same(parts, whole)
    assert forwards == [3] * passes + [2] * passes + [1] * passes
    assert {total for total, _ in done} == {sum(count for _, count in done)} == {2 * len(set(texts))}


def stopping(forwards: list[int], count: int) -> Callable[[int | None, int], None]:
    """Return a progress function that interrupts a pass after some forward passes."""

    def stops(total: int | None, done: int) -> None:
        if len(forwards) >= count:
            raise KeyboardInterrupt

    return stops


def test_a_pass_over_a_changed_corpus_starts_again(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    class Changing(Listed):
        def identity(self) -> dict[str, Any]:
            return {"say": "the same"}

    config = replace(SMALL, checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        collect(Changing(texts), llama, [Neuron(0, 1)], config, folder=tmp_path, progress=stopping(forwards, 9))
    others = [f"changed {text}" for text in texts]
    now = collect(Changing(others), llama, [Neuron(0, 1)], config, folder=tmp_path)
    assert "has changed" in caplog.text
    assert now == collect(Changing(others), llama, [Neuron(0, 1)], config, folder=tmp_path / "new")


def test_a_pass_resumes_with_another_batch_size(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    config, smaller = (replace(SMALL, checkpoint_s=0, batch_windows=size) for size in (16, 4))
    whole = collect(Listed(texts), llama, [Neuron(0, 1)], smaller, folder=tmp_path / "whole")
    passes = len(forwards)
    forwards.clear()
    with pytest.raises(KeyboardInterrupt):
        collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path / "cut", progress=stopping(forwards, 9))
    forwards.clear()
    rest = collect(Listed(texts), llama, [Neuron(0, 1)], smaller, folder=tmp_path / "cut")
    assert "starts again" not in caplog.text
    assert 0 < len(forwards) <= passes - 9 * 2

    assert [item.activation for item in rest.exemplars] == pytest.approx(
        [item.activation for item in whole.exemplars], abs=5e-5
    )
    assert [item.window for item in rest.exemplars] == [item.window for item in whole.exemplars]


def test_a_damaged_state_is_reported_as_unreadable(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(SMALL, checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path, progress=stopping(forwards, 3))
    (saved,) = tmp_path.rglob("pass-*.safetensors")
    saved.write_bytes(b"rubbish")
    collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path)
    assert "is not readable" in caplog.text
    assert "changed" not in caplog.text


def test_runs_share_what_was_captured(llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int]) -> None:
    config = replace(SMALL, store=str(tmp_path / "store"))
    some, more = both_signs(Neuron(0, 1), Neuron(1, 5)), [Neuron(0, 2), Neuron(1, 5)]
    first = collect(Listed(texts), llama, some, config, folder=tmp_path / "a")
    assert forwards
    forwards.clear()
    assert collect(Listed(texts), llama, some, config, folder=tmp_path / "b") == first
    assert collect(Listed(texts), llama, some[:1], config, folder=tmp_path / "c").exemplars == [
        item for item in first.exemplars if item.neuron == some[0]
    ]
    assert not forwards  # everything was in the store
    (entry,) = (tmp_path / "store").iterdir()
    left = [entry / ".exemplars-1.parquet.77", entry / ".tmpQwMSDg"]  # of killed processes
    for path in left:
        path.touch()
    third = collect(Listed(texts), llama, more, config, folder=tmp_path / "d")
    assert not any(path.exists() for path in left)
    assert set(forwards) == {1}  # the one neuron that was not in the store
    alone = collect(Listed(texts), llama, more, folder=tmp_path / "e")
    assert third.exemplars == alone.exemplars
    for changed in (
        replace(config, window=13),
        replace(config, stride=6),
        replace(config, quantiles=2),
        replace(config, splits={**SHARES, Split.EXPLAIN: 0.4}),
    ):
        forwards.clear()
        collect(Listed(texts), llama, some[:1], changed, folder=tmp_path / "f")
        assert forwards
    forwards.clear()
    collect(Listed(texts[:-1]), llama, some[:1], config, folder=tmp_path / "g")
    collect(Listed(texts), llama, some[:1], config, folder=tmp_path / "h", seed=4)
    assert forwards


def test_other_weights_under_the_same_name_are_another_model(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int]
) -> None:
    from safetensors.torch import load_file, save_file

    config = replace(SMALL, store=str(tmp_path / "store"))
    shutil.copytree(str(llama.files.folder), tmp_path / "edited")
    weights = load_file(tmp_path / "edited" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][5] *= 2  # one neuron, as model editing does
    save_file(weights, tmp_path / "edited" / "model.safetensors", metadata={"format": "pt"})
    edited = Subject("llama", [str(tmp_path / "edited")])
    assert edited.fingerprint == llama.fingerprint
    before = collect(Listed(texts), llama, [Neuron(1, 5)], config, folder=tmp_path / "a")
    after = collect(Listed(texts), edited, [Neuron(1, 5)], config, folder=tmp_path / "b")
    assert after.exemplars[0].activation == pytest.approx(2 * before.exemplars[0].activation, rel=1e-4)
