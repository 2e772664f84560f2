"""Runs that only decompose: records, storage, resume, custom executors, a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support import tiny_models
from support.small_run import options as small_options

from harness.decomposition import DecompositionConfig, decompose, reconstruction
from harness.errors import HarnessError
from harness.folder import RunFolder, read_table
from harness.records import Alignment, Channel, Neuron, VectorKind, VectorSummary
from harness.run import decompose as stage
from harness.run import pool, worker
from harness.run import progress as progress_module
from harness.run.executor import LocalExecutor
from harness.run.help import compose_config
from harness.run.main import main
from harness.run.pipeline import run
from harness.run.ray_executor import RayExecutor
from harness.run.setup import Setup
from harness.subject import Subject

LAYERS, NEURONS, KINDS, D_MODEL = 3, 64, 3, 32  # of the tiny Llama
# Diagnostics, where they are not what is tested.
BRIEFLY = ("diagnostics.sample=1", "diagnostics.random_vectors=2", "diagnostics.ablated=4")
UNMEASURED = ("diagnostics.sample=0", "diagnostics.random_vectors=0", "diagnostics.ablated=0")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_subject(tmp_path_factory.mktemp("subject") / "llama", "llama")


def options(llama: Path, folder: Path, *more: str) -> list[str]:
    threads = [] if "executor=ray" in more else ["executor.threads=1"]  # a Ray task has as many threads as CPUs
    return [
        *("experiment=decompose_model", "subject=local", f"subject.sources=[{llama}]", "subject.name=tiny-llama"),
        *("decomposition.num_channels=3", "tracking=none", tiny_models.SHORT_SEARCH),
        *(f"folder={folder}", *threads, *more),
    ]


def decomposed(llama: Path, folder: Path, *more: str) -> RunFolder:
    run(Setup.of(compose_config(options(llama, folder, *more))))
    return RunFolder(folder)


def start(llama: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *options(llama, folder, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def block_files(folder: RunFolder) -> dict[str, bytes]:
    """Return the content of all files of blocks."""
    return {path.name: path.read_bytes() for path in folder.channels.iterdir()}


def assert_same_blocks(one: RunFolder, other: RunFolder) -> None:
    """Assert that two runs wrote the same blocks, up to the rounding of products in different processes.

    The result of a matrix product depends on where its operands lie in memory, in the last digits of float32.
    """
    assert block_files(one).keys() == block_files(other).keys()
    for path in one.channels.iterdir():
        twin = other.channels / path.name
        if path.suffix == ".safetensors":
            torch.testing.assert_close(load_file(path), load_file(twin), rtol=1e-3, atol=1e-5)
        else:
            assert flat(pq.read_table(path).to_pylist()) == pytest.approx(
                flat(pq.read_table(twin).to_pylist()), rel=1e-3
            )


def flat(value: Any) -> list[Any]:
    """Return the numbers and texts of nested lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.slow
def test_a_whole_model_is_decomposed_without_text_describers_or_judges(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("decomposition.num_channels=1", "tracking=wandb_offline", *BRIEFLY)
    monkeypatch.setattr("sys.argv", ["neuron-harness", *options(llama, tmp_path / "all", *more)])
    main()
    out, err = capsys.readouterr()
    folder = RunFolder(tmp_path / "all")
    vectors = folder.read_vectors()
    expected = {
        (Neuron(layer, index), kind) for layer in range(LAYERS) for index in range(NEURONS) for kind in VectorKind
    }
    assert {(vector.neuron, vector.kind) for vector in vectors} == expected == folder.decomposed()
    assert len(folder.read_channels()) == LAYERS * NEURONS * KINDS
    assert not folder.exemplars.exists()
    assert not any(folder.path.glob("*.jsonl"))

    summary = json.loads(folder.decomposition.read_text())
    assert [(row["layer"], row["kind"], row["vectors"]) for row in summary["rows"]] == [
        (layer, kind, NEURONS) for layer in range(LAYERS) for kind in ("gate", "in", "out")
    ]
    kurtoses = [vector.kurtosis for vector in vectors]
    assert summary["total"]["vector_kurtosis"] == pytest.approx(np.median(kurtoses), abs=1e-3)
    assert summary["total"]["reconstruction"] == pytest.approx(
        np.mean([vector.reconstruction[-1] for vector in vectors]), abs=1e-3
    )
    # The end of the output: a table and the path of the report.
    *table, report = out.strip().splitlines()
    assert any(line.split("│")[1:5] == [" all   ", " all  ", "     576 ", "      576 "] for line in table), out
    assert "decompose: 576 of 576 channels in " in err
    assert report == str(folder.report)
    page = folder.report.read_text()
    assert "576 weight vectors (gate, in and out) of 192 neurons of tiny-llama (layers 0 to 2)" in page
    assert 'id="leaderboard"' not in page
    assert 'href="#leaderboard"' not in page
    (offline,) = (folder.path / "wandb").glob("offline-run-*")
    claims = json.loads((folder.path / "claims.json").read_text())
    logged = sorted(len(json.loads(table.read_text())["data"]) for table in offline.rglob("*.table.json"))
    assert logged == sorted([len(summary["rows"]), len(claims)])


def test_records_are_those_of_one_projection_at_a_time(llama: Path, tmp_path: Path) -> None:
    folder = decomposed(llama, tmp_path / "run", "storage.directions=float32", "neurons.per_layer=5")
    subject = Setup.of(compose_config(options(llama, tmp_path / "run"))).subject
    vectors = {(item.neuron, item.kind): item for item in folder.read_vectors()}
    channels = {(item.neuron, item.kind, item.rank): item for item in folder.read_channels()}
    assert len(vectors) == LAYERS * 5 * KINDS
    for keys, directions in folder.read_directions():
        for (neuron, kind), found in zip(keys, directions, strict=True):
            weights, projection = subject.vectors(neuron.layer, [neuron.index], kind), subject.projection(neuron.layer)
            summary = vectors[neuron, kind]
            counted = subject.token_weights(neuron.layer) > 0
            assert 0 < counted.sum() < len(counted)
            check_projection(subject, summary, weights[0] @ projection, counted)
            assert summary.norm == pytest.approx(weights.norm().item(), abs=1e-4)
            shares = reconstruction(weights, found[None])[0]
            assert summary.reconstruction == pytest.approx(tuple(shares.tolist()), abs=2e-5)
            for rank, direction in enumerate(found):
                channel, projected = channels[neuron, kind, rank], direction @ projection
                check_projection(subject, channel, projected, counted)
                z = z_scores(projected, counted)[counted]
                counts, _ = np.histogram(z.clamp(-10, 10).numpy(), bins=40, range=(-10, 10))
                assert sum(channel.histogram) == len(z)
                assert np.abs(np.cumsum(channel.histogram) - np.cumsum(counts)).max() <= 1  # a value on an edge
                cosine = torch.cosine_similarity(direction, weights[0], dim=0)
                assert channel.cosine == pytest.approx(cosine.item(), abs=1e-4)


def z_scores(projected: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the z-scores of a projection (V,), by mean and deviation of the tokens that count."""
    used = projected[counted]
    return (projected - used.mean()) / used.std(correction=0)


def check_projection(
    subject: Subject, record: Channel | VectorSummary, projected: torch.Tensor, counted: torch.Tensor
) -> None:
    """Compare a record with the subject's own projection and with the definition of kurtosis."""
    centred = projected[counted].double() - projected[counted].double().mean()
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2 - 3
    assert record.kurtosis == pytest.approx(kurtosis.item(), rel=1e-3, abs=1e-3)
    z = z_scores(projected, counted)
    sides = zip((record.positive, record.negative), subject.extreme_tokens(projected, 50), (True, False), strict=True)
    for side, expected, largest in sides:
        assert len(side) == 50
        furthest = z[counted].topk(50, largest=largest).values
        assert [token.z for token in side] == pytest.approx(furthest.tolist(), abs=2e-3)
        assert {token.token for token in side[:-2]} <= {token.token for token in expected}
        assert side[0].token == expected[0].token or abs(side[0].z - side[1].z) < 2e-3


def test_storage_options_change_no_value(llama: Path, tmp_path: Path) -> None:
    few = ("neurons.layers=[1]", "neurons.per_layer=6")
    full = decomposed(llama, tmp_path / "full", *few, "storage.directions=float32")
    half = decomposed(llama, tmp_path / "half", *few)
    least = decomposed(
        *(llama, tmp_path / "least", *few),
        *("storage.directions=none", "storage.histograms=false", "storage.top_tokens=7"),
    )
    assert half.read_channels() == full.read_channels()
    cut = [
        dataclasses.replace(item, positive=item.positive[:7], negative=item.negative[:7], histogram=())
        for item in full.read_channels()
    ]
    assert least.read_channels() == cut
    for (keys, exact), (same_keys, rounded) in zip(full.read_directions(), half.read_directions(), strict=True):
        assert keys == same_keys
        assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(exact.to(torch.bfloat16), rounded)
        assert torch.cosine_similarity(exact, rounded.float(), dim=-1).min() > 0.99999
    with pytest.raises(HarnessError, match=r"does not hold the directions.*storage\.directions=bfloat16"):
        list(least.read_directions())
    assert "<svg" in least.report.read_text()
    # Diagnostics compare other starts with the directions, where there are any.
    measured = {run: {path.name.split(".")[1] for path in run.diagnostics.iterdir()} for run in (half, least)}
    assert measured == {half: {"restarts", "random", "ablations"}, least: {"random"}}

    before = block_files(least)
    decomposed(llama, tmp_path / "least", *few, "storage.top_tokens=50")  # what is done stays as it is
    assert block_files(least) == before


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of vectors of each call of the solver."""
    found: list[int] = []

    def counted(vectors: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        found.append(len(vectors))
        return decompose(vectors, *arguments, **options)

    for module in (worker, pool):
        monkeypatch.setattr(module, "decompose", counted)
    return found


# Layer 0 through W_E, layers 1 and 2 through W_U; two vectors of each kind and layer.
TWO_PROJECTIONS = ("neurons.per_layer=2", "subject.projection=by_layer", "subject.embedding_layers=1")
UNSHARED = ("decomposition.num_channels=2", "storage.store=null")


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        ([], [6, 12]),
        (["executor.block=4"], [4, 2, 4, 4, 4]),
        (["executor.block=1"], [1] * 18),
        # Other settings of a layer or kind are another call.
        (["decomposition.overrides=[{kinds: [in], num_channels: 1}]"], [4, 2, 8, 4]),
        # The channels of adamw depend on the other vectors of a call.
        (["decomposition=published", "decomposition.num_channels=2", "decomposition.adamw.max_steps=3"], [2] * 9),
    ],
)
def test_few_vectors_of_many_layers_share_a_call(
    llama: Path, tmp_path: Path, calls: list[int], more: list[str], sizes: list[int]
) -> None:
    progress: list[tuple[str, int, int | None]] = []
    with progress_module.listening(lambda *heard: progress.append(heard)):
        found = decomposed(llama, tmp_path / "run", *TWO_PROJECTIONS, *UNSHARED, *UNMEASURED, *more)
    assert sorted(calls) == sorted(sizes)
    assert len(found.blocks()) == (18 if more == ["executor.block=1"] else LAYERS * KINDS)
    # Progress does not wait for the end of a call.
    shown = [done for title, done, _ in progress if title == "decompose"]
    total = len(found.read_channels())
    assert shown == sorted(shown)
    assert shown[-1] == total == progress[-1][2]
    assert len(shown) > len(sizes)


def test_joined_vectors_have_the_channels_that_they_have_alone(llama: Path, tmp_path: Path) -> None:
    together = decomposed(llama, tmp_path / "together", *TWO_PROJECTIONS, *UNSHARED, *UNMEASURED)
    alone = decomposed(llama, tmp_path / "alone", *TWO_PROJECTIONS, *UNSHARED, *UNMEASURED, "executor.block=2")
    assert_same_blocks(together, alone)


def test_every_worker_gets_a_task(
    llama: Path, tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExecutor, "workers", 3)
    decomposed(llama, tmp_path / "run", *TWO_PROJECTIONS, *UNSHARED, *UNMEASURED)
    assert sorted(calls) == [6, 6, 6]


def test_diagnostics_of_many_layers_share_calls(llama: Path, tmp_path: Path, calls: list[int]) -> None:
    measured = ("diagnostics.sample=1", "diagnostics.random_vectors=1", "diagnostics.ablated=1")
    few = ("neurons.per_layer=2", *UNSHARED, "diagnostics.random_channels=2")
    run = decomposed(llama, tmp_path / "run", *few, *measured)
    # All vectors of the run; then the sample from another start, and the random vectors.
    assert calls == [18, 9, 9]
    alone = decomposed(llama, tmp_path / "alone", *few, *measured, "executor.block=1")
    assert len(calls) > 20
    for name in ("restarts", "random"):
        files = sorted(run.diagnostics.glob(f"*.{name}.parquet")), sorted(alone.diagnostics.glob(f"*.{name}.parquet"))
        assert len(files[0]) == LAYERS * KINDS
        for one, other in zip(*files, strict=True):
            assert one.name == other.name
            assert flat(read_rows(one)) == pytest.approx(flat(read_rows(other)), rel=1e-3)


def read_rows(path: Path) -> list[Any]:
    return pq.read_table(path).to_pylist()


def test_diagnostics_with_the_published_optimiser_are_saved_one_by_one(
    llama: Path, tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = ("decomposition=published", "decomposition.num_channels=1", "decomposition.adamw.max_steps=3")
    few = ("neurons.per_layer=2", "storage.store=null", *published)
    run = decomposed(llama, tmp_path / "run", *few, *UNMEASURED)
    counted, before = pool.decompose, len(calls)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(calls) == before + 2:
            raise KeyboardInterrupt
        return counted(*arguments, **options)

    monkeypatch.setattr(pool, "decompose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decomposed(llama, tmp_path / "run", *few, *BRIEFLY)
    # Calls: restarts of layer 0 gate, its random vectors, and restarts of layer 0 in, which are interrupted.
    assert sorted(path.name.split(".")[1] for path in run.diagnostics.glob("*.parquet")) == ["random", "restarts"]


def test_results_of_joined_blocks_travel_alone(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[list[int]] = []

    def decompose_task(task: Any, device: str) -> list[Any]:
        results = worker.decompose_task(task, device)
        sizes.append([len(pickle.dumps(result)) for result in results])
        return results

    monkeypatch.setattr(stage, "decompose_task", decompose_task)
    exact = (*TWO_PROJECTIONS, *UNSHARED, *UNMEASURED, "storage.directions=float32")
    decomposed(llama, tmp_path / "together", *exact)
    decomposed(llama, tmp_path / "alone", *exact, "executor.block=2")
    together, alone = sizes[:2], sizes[2:]
    assert [len(each) for each in together] == [3, 6]
    assert [len(each) for each in alone] == [1] * LAYERS * KINDS
    assert max(size for each in together for size in each) <= 1.01 * max(size for (size,) in alone)


def test_joined_calls_stay_within_what_is_searched_in_parallel() -> None:
    config = DecompositionConfig(num_channels=2)
    for block, joined, alone in ((None, 64, 512), (5, 5, 5), (1000, 64, 1000)):
        executor = LocalExecutor(device="cpu", block=block)
        assert executor.block_size(D_MODEL, 800, config, joined=True) == joined
        assert executor.block_size(D_MODEL, 800, config) == alone


def test_a_vector_is_done_whatever_block_it_was_in(llama: Path, tmp_path: Path) -> None:
    few = ("neurons.layers=[0]", "neurons.per_layer=6", "neurons.kinds=[in,out]", "decomposition.num_channels=1")
    whole = decomposed(llama, tmp_path / "whole", *few)
    again = decomposed(llama, tmp_path / "again", *few, "executor.block=3")
    for place, path in enumerate(sorted(again.channels.glob("*.vectors.parquet"))):
        if place % 2:  # as if killed before these were whole
            path.unlink()
    assert len(again.decomposed()) == 6
    kept = {path: path.stat().st_mtime_ns for path in again.channels.glob("*.vectors.parquet")}
    decomposed(llama, tmp_path / "again", *few, "executor.block=5")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(again.read_vectors()) == 12  # none twice
    for one, other in zip(again.read_channels(), whole.read_channels(), strict=True):
        assert (one.neuron, one.kind, one.rank) == (other.neuron, other.kind, other.rank)
        # Rounding of matrix products depends on their shape, and the search amplifies it up to its tolerance.
        assert one.loss == pytest.approx(other.loss, abs=5e-3)


def test_the_report_of_many_neurons_shows_some_and_counts_all(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.results.run_data.SHOWN", 4)
    folder = decomposed(llama, tmp_path / "run", "neurons.kinds=[out]", "decomposition.num_channels=1")
    page = folder.report.read_text()
    assert "Shown are 4 of the 192 neurons" in page
    assert "192 weight vectors (out) of 192 neurons" in page
    assert all(f"L{layer}N{index}" in page for layer, index in ((0, 0), (0, 48), (1, 32), (2, 16)))
    assert "L0N1<" not in page


class Pool:
    """A custom executor in few lines: processes that share only a folder."""

    SOURCE = textwrap.dedent(
        """
        import pickle
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from pathlib import Path

        import torch
        from safetensors.torch import load_file, save_file

        from harness.run.executor import Executor, Shared


        class InFile(Shared):
            def __init__(self, path):
                self.path = path

            def on(self, device):
                return tuple(tensor for _, tensor in sorted(load_file(self.path, device).items()))


        def task(pickled):
            torch.set_num_threads(1)
            work, item = pickle.loads(pickled)
            return work(item, "cpu")


        class PoolExecutor(Executor):
            def __init__(self, folder, block, threads):
                self.device, self.block, self.folder = "cpu", block, Path(folder)

            def __enter__(self):
                self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
                return self

            def __exit__(self, *error):
                self.pool.shutdown(cancel_futures=True)

            def share(self, *tensors):
                path = self.folder / f"shared-{len(list(self.folder.glob('shared-*')))}"
                save_file({str(place): tensor for place, tensor in enumerate(tensors)}, path)
                return InFile(path)

            def map(self, work, items):
                for item in items:
                    pickled = pickle.dumps((work, item))
                    with (self.folder / "sizes").open("a") as file:
                        print(len(pickled), file=file)
                    yield self.pool.submit(task, pickled).result()
        """
    )


@pytest.mark.slow
def test_a_custom_executor_gets_each_projection_once(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_pool.py").write_text(Pool.SOURCE)
    (tmp_path / "conf" / "executor").mkdir(parents=True)
    (tmp_path / "conf" / "executor" / "pool.yaml").write_text(
        "_target_: my_pool.PoolExecutor\nblock: 4\nthreads: 1\nfolder: ???\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))  # for the pool's processes
    few = (
        "neurons.per_layer=8",
        "decomposition.num_channels=1",
        "decomposition.geodesic.max_steps=3",  # longer searches can end apart, by rounding alone
        "subject.projection=by_layer",
        "subject.embedding_layers=1",
    )  # layer 0 through W_E, layers 1 and 2 through W_U
    local = decomposed(llama, tmp_path / "local", *few, "executor.block=4")
    mine = decomposed(
        *(llama, tmp_path / "mine", *few, f"hydra.searchpath=[file://{tmp_path / 'conf'}]"),
        *("executor=pool", f"executor.folder={tmp_path}"),
    )
    assert_same_blocks(mine, local)
    assert len(list(tmp_path.glob("shared-*"))) == 2
    sizes = [int(line) for line in (tmp_path / "sizes").read_text().split()]
    assert len(sizes) == LAYERS * KINDS * 2
    projection = D_MODEL * 800 * 4
    assert max(sizes) < 4 * D_MODEL * 4 + 4096 < projection


def test_a_full_disk_is_reported_before_time_is_spent(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**5))
    with pytest.raises(HarnessError, match=r"left: choose another folder .*storage\.directions=none"):
        decomposed(llama, tmp_path / "full")
    assert not (tmp_path / "full" / "channels").exists()


def test_without_a_terminal_lines_show_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), progress_module.progress("decompose", 10_000, "vectors") as advance:
        for _ in range(100):
            now[0] += 12.5
            advance(100)
    lines = [record.message for record in caplog.records]
    assert lines[0] == "decompose: 500 of 10,000 vectors, 8/s, 0:19:48 left"  # a minute has passed after 62.5 s
    assert len(lines) == 20
    assert lines[-1] == "decompose: 10000 of 10000 vectors in 1250.0 s"


def test_a_terminal_shows_a_bar_with_rate_and_time_left_unless_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
    seen = {}
    for bars in (True, False):
        progress_module.draw_bars(bars)
        with progress_module.progress("decompose", 40, "vectors") as advance:
            for _ in range(3):
                advance(10)
                time.sleep(0.15)
        seen[bars] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    progress_module.draw_bars(True)
    assert re.search(r"decompose .*━.* 30/40 vectors \d+\.\d/s \d:\d\d:\d\d", seen[True])
    assert "━" not in seen[False]
    assert "30/40" not in seen[False]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_unreachable_cluster_is_reported_in_one_line(llama: Path, tmp_path: Path, address: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'neuron-harness[ray]'")
    with pytest.raises(
        HarnessError, match=r"the Ray cluster executor\.address=.* cannot be reached .*`ray start"
    ) as it:
        decomposed(llama, tmp_path / "run", "executor=ray", f"executor.address={address}")
    assert "\n" not in str(it.value)
    assert not (tmp_path / "run" / "manifest.json").exists()


#: Blocks that take long enough to be killed in the middle.
SLOWLY = ("decomposition.geodesic.patience=10", "decomposition.geodesic.max_steps=10")  # nine searches a channel


def descendants(pid: int) -> dict[int, str]:
    """Return the command lines of all descendants of a process, by process id."""
    parents, commands = {}, {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError, IndexError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
    found = {pid}
    while len(found) < len(found := found | {child for child, parent in parents.items() if parent in found}):
        pass
    return {child: commands.get(child, "") for child in found - {pid}}


def kill_a_working_worker(ended: Callable[[], object]) -> list[int]:
    """Wait until a Ray worker of this test's cluster runs a task, and kill it, unless the run ends before."""
    while ended() is None:
        working = [pid for pid, command in descendants(os.getpid()).items() if command.startswith("ray::_run")]
        if working:
            os.kill(working[0], signal.SIGKILL)
            return working[:1]
        time.sleep(0.02)
    return []


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster with two simulated machines of one CPU each."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'neuron-harness[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # the default priority is too low for a busy machine
        for attempts_left in (3, 2, 1, 0):
            nodes = Cluster()
            try:
                nodes.add_node(num_cpus=1, include_dashboard=False)  # the first one is the head
                nodes.add_node(num_cpus=1)
                break
            except Exception:  # Ray raises Exception itself if a node did not start within its 30 s
                nodes.shutdown()
                if not attempts_left:
                    raise
        yield nodes.address
        nodes.shutdown()


@pytest.mark.slow
def test_a_cluster_that_loses_drivers_and_workers_gives_the_same_records(
    cluster: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting.py").write_text(
        textwrap.dedent(
            """
            from pathlib import Path

            from harness.run.ray_executor import RayExecutor


            class Counting(RayExecutor):
                def share(self, *tensors):
                    with Path(__file__).with_name("shared").open("a") as file:
                        print(*(tuple(tensor.shape) for tensor in tensors), file=file)
                    return super().share(*tensors)
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    much = ("executor.block=4", "neurons.per_layer=8", "storage.store=null", *SLOWLY, *UNMEASURED)
    much += ("subject.projection=by_layer", "subject.embedding_layers=1")
    on_cluster = ("executor=ray", f"executor.address={cluster}", "executor._target_=counting.Counting")
    local, folder = decomposed(llama, tmp_path / "local", *much), RunFolder(tmp_path / "ray")

    def shared() -> list[str]:
        return (tmp_path / "shared").read_text().splitlines()

    # Without retries, a lost worker ends the run with one line; finished blocks stay.
    with monkeypatch.context() as once:
        once.setenv("RAY_TASK_MAX_RETRIES", "0")
        process = start(llama, folder.path, *much, *on_cluster)
    wait_for_more_than(0, folder, process)
    kill_a_working_worker(process.poll)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert err.strip().splitlines()[-1].startswith("error: Ray could not finish a block (")
    finished = block_files(folder)
    assert len(shared()) == 1  # only layer 0 uses the embedding

    # A run whose driver was killed is resumed, and the block of a lost worker runs again.
    process = start(llama, folder.path, *much, *on_cluster)
    wait_for_more_than(len(finished), folder, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(shared())
    process = start(llama, folder.path, *much, *on_cluster)
    kill_a_working_worker(process.poll)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 workers" in err
    assert_same_blocks(folder, local)
    assert finished.items() <= block_files(folder).items()
    assert 1 <= len(shared()) - before <= 2  # once for each projection that is still needed
    assert all(line.startswith(f"({D_MODEL}, 800) (800,)") for line in shared())
    assert len(folder.decomposed()) == len(folder.read_vectors()) == LAYERS * 8 * KINDS
    names = ["vectors", "channels"]
    for name, kind in zip(names, (VectorSummary, Channel), strict=True):
        assert all(read_table(path, kind) for path in folder.channels.glob(f"*.{name}.parquet"))


def wait_for_more_than(files: int, folder: RunFolder, process: subprocess.Popen[str]) -> None:
    """Wait until a run has written more than ``files`` files of blocks."""
    while len(list(folder.channels.glob("*.parquet"))) <= files:
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gathers_the_same_evidence(
    cluster: str, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.evidence.corpus_pass.POOL", 64)

    def gathered(name: str, *more: str) -> RunFolder:
        given = {"describers": "[maxact,generic]", "judges": "[token_pairwise]", "evidence.store": "null"}
        given = {**given, "neurons.layers": "[0,2]", "folder": str(tmp_path / name)}
        run(Setup.of(compose_config([*small_options({**small, **given}), *more])))
        return RunFolder(tmp_path / name)

    local = gathered("local", "executor.threads=1")
    # From here on, this process must not read the corpus itself.
    monkeypatch.delattr("harness.evidence.corpus_pass.read_windows")
    killed: list[int] = []
    finished = threading.Event()
    killer = threading.Thread(target=lambda: killed.extend(kill_a_working_worker(lambda: finished.is_set() or None)))
    killer.start()
    spread = gathered("ray", "executor=ray", f"executor.address={cluster}")
    finished.set()
    killer.join()
    assert len(killed) == 1
    assert [(item.neuron, item.window, item.tokens) for item in spread.read_exemplars()] == [
        (item.neuron, item.window, item.tokens) for item in local.read_exemplars()
    ]
    for one, other in zip(spread.read_exemplars(), local.read_exemplars(), strict=True):
        assert one.activations == pytest.approx(other.activations, rel=1e-3, abs=1e-5)
    for found, expected in zip(*(read_table(one.alignment, Alignment) for one in (spread, local)), strict=True):
        assert (found.neuron, found.kind, found.against) == (expected.neuron, expected.kind, expected.against)
        assert found.r == pytest.approx(expected.r, abs=1e-4)


class Patience(logging.Handler):
    """Lets Ray wait as long as it needs once an attempt to start it has failed."""

    def __init__(self, environment: pytest.MonkeyPatch) -> None:
        super().__init__(logging.WARNING)
        self.environment = environment

    def emit(self, record: logging.LogRecord) -> None:
        self.environment.setenv("RAY_gcs_server_port_wait_time_s", "120")


@pytest.mark.drill
@pytest.mark.slow
def test_ray_that_does_not_start_in_time_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'neuron-harness[ray]'")
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "0")  # too short for any machine
    executor, handler, before = RayExecutor(device="cpu"), Patience(monkeypatch), descendants(os.getpid())
    logger = logging.getLogger("harness.run.ray_executor")
    logger.addHandler(handler)
    try:
        with executor:
            assert sorted(executor.map(lambda item, device: 2 * item, [1, 2, 3])) == [2, 4, 6]
    finally:
        logger.removeHandler(handler)
    assert "Ray did not start (Timed out waiting for file" in caplog.messages[0]
    assert caplog.messages[0].endswith("attempt 2 of 4")
    left = {pid: command for pid, command in descendants(os.getpid()).items() if pid not in before and running(pid)}
    assert not [command for command in left.values() if "gcs_server" in command or "raylet" in command]


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_ctrl_c_ends_a_run_and_leaves_no_process(executor: str, llama: Path, tmp_path: Path) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install 'neuron-harness[ray]'")
    folder = RunFolder(tmp_path / "run")
    process = start(llama, folder.path, *SLOWLY, f"executor={executor}", "executor.block=4")
    while not list(folder.channels.glob("*.vectors.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    below = descendants(process.pid)
    assert any("raylet" in command for command in below.values()) is (executor == "ray")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("interrupted: run the same command again")
    assert 0 < len(folder.decomposed()) < LAYERS * NEURONS * KINDS
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [command for pid, command in below.items() if running(pid)]


def running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
