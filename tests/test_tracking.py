"""Logging to Weights & Biases, read back from the files of the real client, without a network."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import ATTACK, make_run
from support.small_run import options, small, summary_of
from support.tiny_models import Invoke

from harness.folder import RunFolder, write_json
from harness.records import Neuron, RoleUsage, Status, Usage
from harness.results import columns
from harness.results.diagnostics import diagnostics_groups
from harness.results.run_data import load_run
from harness.results.schema import Leaderboard
from harness.results.stored import store_decomposition, store_leaderboard
from harness.results.summary import cost_rows, failure_rows, neuron_rows, summary_of_run
from harness.run.masking import without_secrets
from harness.run.progress import progress
from harness.run.trackers import WandbTracker

__all__ = ["small"]
NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Leaderboard]:
    """A run with failures, costs and hostile text, told to W&B offline."""
    folder = make_run(tmp_path_factory.mktemp("told") / "run", neurons=4, channels=2)
    journal = folder.descriptions()
    first = journal.records()[0]
    used = {"editor": RoleUsage(2, 100, 20, 1.5, 0.25, 1, 50, 10, 0.125)}
    journal.append(type(first)(Neuron(3, 999), "rotate", "priced", usage=Usage(2, 100, 20, 1.5, used)))
    journal.append(type(first)(Neuron(3, 998), "rotate", "", Status.REFUSED, f"no {ATTACK}", usage=Usage()))
    journal.close()
    write_json(folder.manifest, {**folder.read_manifest(), "left_out": {"fuzzing": "needs an LLM"}, "commit": None})
    data = load_run(folder, recompute=True)
    store_leaderboard(folder, data.leaderboard)
    store_decomposition(folder)
    folder.report.write_text("<title>the report</title>")
    tracker = WandbTracker(group="lambda", tags=["a", "b"], live=True)
    with tracker.watching(folder, {"name": "told"}), progress("describe with rotate", 4, "neurons") as advance:
        for _ in range(4):
            advance(1)
    assert tracker.log(folder, data.leaderboard, data.manifest) is True
    return folder, data.leaderboard


def offline(folder: RunFolder) -> Path:
    (run,) = folder.path.glob("wandb/offline-run-*")
    return run


def tables(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in offline(folder).rglob("*.table.json"):
        table = json.loads(path.read_text())
        name = path.name.rsplit("_", 2)[0]
        found[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return found


def records(folder: RunFolder) -> list[Any]:
    """Return every record that the real client wrote."""
    from wandb.proto import wandb_internal_pb2

    (log,) = offline(folder).glob("*.wandb")
    content, block, at, whole, found = log.read_bytes(), 32768, 7, b"", []
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole, at = whole + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def test_a_run_is_one_wandb_run_with_its_group_tags_and_progress(told: tuple[RunFolder, Leaderboard]) -> None:
    folder, _ = told
    run = next(record.run for record in records(folder) if record.HasField("run"))
    assert (run.run_group, list(run.tags), run.display_name) == ("lambda", ["a", "b"], "told")
    assert run.run_id == (folder.path / ".wandb-id").read_text()
    history = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(folder)
        for item in record.history.item
    }
    assert history["progress/describe_with_rotate"] == 1.0
    assert records(folder)[-1].exit.exit_code == 0  # the log is whole when the tracker comes back


def test_every_table_and_plot_is_there(told: tuple[RunFolder, Leaderboard]) -> None:
    folder, board = told
    found = tables(folder)
    plain = board.to_json()
    assert [row["win_rate"] for row in found["leaderboard"]] == [row["win_rate"] for row in plain["overall"]["rows"]]
    assert len(found["win_matrix"]) == len(plain["overall"]["cells"])
    assert len(found["scores"]) == len(plain["scores"])
    assert {row["judge"] for row in found["judges"]} == {health.judge for health in board.health}
    published = {row["key"]: row for row in found["claims"]}
    assert published["faithful"]["published"] == "0.46 to 0.71"
    assert (
        published["seeds_cosine"]["value"]
        == summary_of_run(folder, board, diagnostics_groups(folder))["decomposition/consistency"]
    )
    pictures = {path.name.rsplit("_", 2)[0] for path in offline(folder).rglob("*.png")}
    assert {"leaderboard_plot", "win_matrix_plot", "decomposition_kurtosis"} <= pictures

    neurons = {row["neuron"]: row for row in found["neurons"]}
    assert neurons["L3N999"]["rotate: description"] == "priced"
    assert neurons["L3N998"]["rotate: description"] == f"[refused] no {ATTACK}"
    assert neurons["L3N998"]["rotate: win rate"] is None
    judged = neurons["L3N5"]
    assert judged["rotate: win rate"] > judged["empty: win rate"]
    assert "pairwise: rotate beats" in judged["verdicts"]
    assert judged["kurtosis"] == max(c.kurtosis for c in folder.read_channels([Neuron(3, 5)]))

    failures = {(row["stage"], row["method"], row["status"]): row for row in found["failures"]}
    assert failures["describe", "rotate", "refused"]["count"] >= 1
    assert failures["left out", "fuzzing", None]["such as"] == "needs an LLM"
    (cost,) = [row for row in found["costs"] if (row["method"], row["role"]) == ("rotate", "editor")]
    assert (cost["calls"], cost["prompt_tokens"], cost["cost"], cost["paid"], cost["seconds"]) == (
        2,
        100,
        0.25,
        0.125,
        1.5,
    )
    assert found["costs"] == cost_rows(folder)
    assert found["neurons"] == neuron_rows(folder)
    assert found["failures"] == failure_rows(folder, folder.read_manifest())


def test_the_summary_has_the_documented_metrics(told: tuple[RunFolder, Leaderboard]) -> None:
    folder, board = told
    (log,) = offline(folder).glob("*.wandb")
    summary = summary_of(log)
    for row in board.overall.rows:
        assert summary[f"win_rate/{row.describer}"] == row.win_rate
        assert summary[f"rank/{row.describer}"] == row.rank
    for score in board.scores:
        assert summary[f"score/{score.scorer}/{score.describer}"] == score.mean
    best = max((row for row in board.overall.rows if not row.control), key=lambda row: row.win_rate or 0)
    assert (summary["best/describer"], summary["best/win_rate"]) == (best.describer, best.win_rate)
    assert summary["trust/words"] == board.overall.trust.words
    assert summary["cost/editor/calls"] == 2
    assert summary["cost/editor/cost"] == 0.25
    assert summary["cost/editor/paid"] == 0.125
    assert "cost/paid" not in summary  # the judge has no price, so the sum is not known
    bad = [record for record in folder.descriptions().records() if record.status is not Status.OK]
    assert summary["failed/rotate"] == sum(record.describer == "rotate" for record in bad)
    for name in summary_of_run(folder, board, ()):
        assert f"`{name.split('/')[0]}/" in columns.documentation(), name


def test_the_artifact_holds_records_index_board_and_report(told: tuple[RunFolder, Leaderboard]) -> None:
    folder, _ = told
    (artifact,) = [r.artifact for r in records(folder) if r.artifact.type == "neuron-harness-run"]
    held = {entry.path for entry in artifact.manifest.contents} or manifest_of(artifact)
    assert {"descriptions.jsonl", "verdicts.jsonl", "scores.jsonl", "leaderboard.json", "report.html"} <= held
    assert any(name.startswith("channels/") and name.endswith(".channels.parquet") for name in held)
    assert not any(name.endswith(".safetensors") or "exemplars" in name for name in held)


def test_the_artifact_without_the_report_has_no_corpus_text(
    told: tuple[RunFolder, Leaderboard],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, board = told
    mine = RunFolder(tmp_path / "mine")
    shutil.copytree(folder.path, mine.path, ignore=shutil.ignore_patterns("wandb", ".wandb-id"))
    # A table that the client would cut is left out, and that is told.
    monkeypatch.setattr("wandb.Table.MAX_ARTIFACT_ROWS", 60)
    WandbTracker(report=False).log(mine, board, mine.read_manifest())
    (artifact,) = [r.artifact for r in records(mine) if r.artifact.type == "neuron-harness-run"]
    held = {entry.path for entry in artifact.manifest.contents} or manifest_of(artifact)
    assert "verdicts.jsonl" in held
    assert not {"report.html", "exemplars.parquet"} & held
    assert "verdicts" not in tables(mine)
    assert "descriptions" in tables(mine)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "harness.run.trackers"]
    assert f"at most 60 rows, so these are left out: verdicts ({len(mine.verdicts().records())} rows);" in line


def manifest_of(artifact: Any) -> set[str]:
    """Return the names in an artifact; the client hands them over in a file beside its log."""
    content = gzip.decompress(Path(artifact.manifest.manifest_file_path).read_bytes()).decode()
    return {json.loads(line)["path"] for line in content.splitlines()}


def test_a_moved_folder_resumes_the_same_wandb_run(told: tuple[RunFolder, Leaderboard], tmp_path: Path) -> None:
    folder, board = told
    moved = RunFolder(tmp_path / "elsewhere")
    shutil.copytree(folder.path, moved.path, ignore=shutil.ignore_patterns("wandb", "channels"))
    WandbTracker(artifacts=False).log(moved, board, moved.read_manifest())
    assert f"-{(folder.path / '.wandb-id').read_text()}" in offline(moved).name


def test_the_run_of_a_sweeps_agent_is_used(
    told: tuple[RunFolder, Leaderboard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, board = told
    mine = RunFolder(tmp_path / "agent")
    shutil.copytree(folder.path, mine.path, ignore=shutil.ignore_patterns("wandb", "channels", ".wandb-id"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "agentsrun")
    WandbTracker(artifacts=False).log(mine, board, mine.read_manifest())
    assert offline(mine).name.endswith("-agentsrun")


def test_an_unreachable_service_warns_once_and_fails_no_run(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", NOBODY)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    given = options(
        small, folder="cut", tracking="wandb", tracking__open_timeout_s="2", describers="[maxact,generic]",
        judges="[embedding_pairwise]", neurons__per_layer="1", diagnostics__sample="0", diagnostics__random_vectors="0",
    )  # fmt: skip
    started = time.monotonic()
    code, out, err = invoke(*given)
    assert code == 0, err
    assert out.strip().endswith("report.html")
    assert err.count("W&B") == 1, err
    assert "cannot be reached" in err
    assert time.monotonic() - started < 120
    run = RunFolder(tmp_path / "cut")
    assert {row["describer"] for row in tables(run)["leaderboard"]} == {"maxact", "generic"}  # for `wandb sync`
    content = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    assert b"a" * 40 not in content
    # The service has not been told: run again, it is tried again.
    assert "cannot be reached" in invoke(*given)[2]


def test_online_without_a_key_fails_at_once(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", NOBODY)
    code, _, err = invoke(*options(small, folder="keyless", tracking="wandb"))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: W&B: No API key")
    assert "tracking=wandb_offline" in err
    assert not (tmp_path / "keyless" / "exemplars.parquet").exists()


@pytest.mark.parametrize("change", [{"mode": "sideways"}, {"open_timeout_s": 0}, {"close_timeout_s": -1}])
def test_options_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        WandbTracker(**change)


def test_a_network_that_dies_later_is_a_warning(
    told: tuple[RunFolder, Leaderboard], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr("wandb.init", broken)
    folder, _ = told
    tracker = WandbTracker(mode="online", live=True)
    with caplog.at_level(logging.WARNING), tracker.watching(folder, {"name": "x"}):
        pass
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["W&B cannot be reached (gone)"]


@pytest.mark.parametrize("stuck", [False, True])
def test_a_failing_service_does_not_hide_the_error_of_the_run(
    told: tuple[RunFolder, Leaderboard], stuck: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    class Service:
        def finish(self, exit_code: int) -> None:
            assert exit_code == 1
            if stuck:
                over.wait(60)
                return
            raise TimeoutError("Timed out finishing run.")

    monkeypatch.setattr("wandb.init", lambda **_: Service())
    monkeypatch.setattr("harness.run.trackers.FAILED_SECONDS", 0.05 if stuck else 60)
    folder, _ = told
    with pytest.raises(RuntimeError, match="the real error"), WandbTracker(mode="online").watching(folder, {}):
        raise RuntimeError("the real error")
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("W&B has not ")
    over.set()


SECRET = "sk-planted-0123456789"


@pytest.mark.parametrize(
    "place",
    [
        {"env": {"ANYTHING": SECRET}},
        {"env": {"NESTED": {"DEEP": [SECRET]}}},
        {"servers": [{"CUDA_VISIBLE_DEVICES": "0", "WHATEVER": SECRET}]},
        {"options": {"api-key": SECRET}},
        {"options": {"api-key": [SECRET, SECRET]}},
        {"options": {"hf-token": SECRET}},
        {"extra_body": {"headers": {"X-Odd": SECRET}}},
        {"extra_body": {"Authorization": f"Bearer {SECRET}"}},
        {"default_headers": {"Cookie": SECRET}},
        {"api_key_env": SECRET},
        {"api_keys": [SECRET]},
        {"accessToken": SECRET},
        {"passphrase": SECRET},
        {"api_key": {"value": SECRET}},
        {"headers": [f"Authorization: Bearer {SECRET}"]},
        {"env": [f"ANYTHING={SECRET}"]},
        {"password": 12345678901},
        {"base_url": f"https://me:{SECRET}@host/v1"},
        {"base_url": [f"https://host/v1?key={SECRET}", "http://other/v1"]},
        {"paths": [f"see https://{SECRET}@host/data and more"]},
        {"notes": f"the words {SECRET} in the middle"},  # as ${oc.env:MY_TOKEN} puts it there
    ],
    ids=str,
)
def test_a_secret_is_masked_wherever_it_is_put(place: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "notes" in place:
        monkeypatch.setenv("MY_TOKEN", SECRET)
    masked = without_secrets({"llm": {"judge": {"model": "m", **place}}, "max_tokens": 5})
    assert SECRET not in json.dumps(masked)
    assert "12345678901" not in json.dumps(masked)
    assert masked["max_tokens"] == 5
    assert masked["llm"]["judge"]["model"] == "m"


def test_what_is_no_secret_is_kept() -> None:
    plain = {
        "api_key_env": "OPENAI_API_KEY",
        "base_url": ["http://localhost:8000/v1", None],
        "sampling": {"max_tokens": 512},
        "masked_token_weight": 0.01,
        "env": {},
        "api_key": None,
    }
    assert without_secrets(plain) == plain


def test_no_secret_reaches_the_client(
    told: tuple[RunFolder, Leaderboard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config that the tracker is handed is the manifest's, and nothing of the environment is added to it."""
    folder, board = told
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("MY_TOKEN", SECRET)
    mine = RunFolder(tmp_path / "mine")
    shutil.copytree(folder.path, mine.path, ignore=shutil.ignore_patterns("wandb", "channels", ".wandb-id"))
    config = without_secrets({"name": "mine", "llm": {"judge": {"env": {"A": SECRET}, "model": f"x{SECRET}"}}})
    tracker = WandbTracker(live=True)
    with tracker.watching(mine, config):
        pass
    tracker.log(mine, board, {**mine.read_manifest(), "config": config})
    content = b"".join(path.read_bytes() for path in mine.path.rglob("*") if path.is_file())
    assert SECRET.encode() not in content
    assert b"f" * 40 not in content
    assert os.environ["MY_TOKEN"] == SECRET
