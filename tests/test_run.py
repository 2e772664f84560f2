"""Whole runs from the command line: results, resume, sweeps, methods of users, and errors in one line."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support import tiny_models
from support.small_run import one_line, options, records, records_of, summary_of
from support.tiny_models import Invoke

from harness.folder import RunFolder
from harness.records import Neuron, RandomVector, Restart, Source, Split, Status, VectorKind
from harness.run.help import compose_config
from harness.run.main import log_to
from harness.run.setup import Setup
from harness.subject import ActivationReader


def test_a_run_writes_all_its_files(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    code, out, _ = invoke(*options(small, folder="first"))
    assert code == 0
    assert out.strip().splitlines()[-1] == str(tmp_path / "first" / "report.html")
    run = RunFolder(tmp_path / "first")

    channels = run.read_channels()
    assert len(channels) == 2 * 3 * 2 * 3  # layers, neurons, kinds, channels
    assert {channel.kind for channel in channels} == {VectorKind.IN, VectorKind.OUT}
    exemplars = run.read_exemplars()
    # Neurons, splits, top and quantiles; random ones, of which the report split has more.
    assert len(exemplars) == 6 * (4 * (5 + 5 * 2) + 3 * 8 + 40)
    documents = {split: {item.document for item in exemplars if item.split is split} for split in Split}
    assert sum(map(len, documents.values())) == len(set.union(*documents.values()))

    descriptions = run.descriptions().records()
    assert len(descriptions) == 6 * 5
    assert all(item.status is Status.OK and item.text for item in descriptions)
    verdicts = run.verdicts().records()
    assert len(verdicts) == 6 * 10  # every pair of five, once: the embedding judge minds no order
    assert len(run.scores().records()) == 6 * 5

    board = json.loads(run.leaderboard.read_text())
    rows = {row["describer"]: row for row in board["overall"]["rows"]}
    assert set(rows) == {"rotate", "maxact", "vocab_proj", "shuffled", "generic"}
    assert {name for name, row in rows.items() if row["control"]} == {"shuffled", "generic"}
    # Against real methods only: a real one meets the two others, a control all three.
    met = {name: row["comparisons"] + row["failed"] for name, row in rows.items()}
    assert met == {"rotate": 6 * 2, "maxact": 6 * 2, "vocab_proj": 6 * 2, "shuffled": 6 * 3, "generic": 6 * 3}
    manifest = run.read_manifest()
    assert manifest["corpus"]["documents"] <= 40
    assert manifest["contestants"]["rotate"]["mode"] == "extractive"
    assert len(manifest["neurons"]) == 6
    report = run.report.read_text()
    assert all(neuron in report for neuron in manifest["neurons"])


def test_run_again_changes_nothing_and_another_config_is_refused(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    assert invoke(*options(small, folder="again"))[0] == 0
    run = RunFolder(tmp_path / "again")
    files = sorted(path for path in run.path.rglob("*") if path.is_file() and "logs" not in path.parts)
    before = {path: path.read_bytes() for path in files}
    exemplars_written = run.exemplars.stat().st_mtime_ns
    assert invoke(*options(small, folder="again"))[0] == 0
    assert {path: path.read_bytes() for path in files} == before
    board = run.leaderboard.read_bytes()
    assert invoke(*options(small, folder="again", executor__block="5"))[0] == 0  # how it is run may change
    assert run.leaderboard.read_bytes() == board
    before = {path: path.read_bytes() for path in files}
    assert run.exemplars.stat().st_mtime_ns == exemplars_written

    code, _, err = invoke(*options(small, folder="again", decomposition__kurtosis_weight="0.7"))
    assert code == 1
    assert one_line(err)
    assert "decomposition.kurtosis_weight was 0.3, is now 0.7" in err
    assert "folder=" in err
    assert {path: path.read_bytes() for path in files} == before


def test_a_torn_line_and_lost_records_are_restored(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    assert invoke(*options(small, folder="torn"))[0] == 0
    whole, board = records(tmp_path / "torn"), (tmp_path / "torn" / "leaderboard.json").read_bytes()
    journal = tmp_path / "torn" / "verdicts.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]) + lines[7][:31])
    (tmp_path / "torn" / "scores.jsonl").unlink()
    assert invoke(*options(small, folder="torn"))[0] == 0
    assert records(tmp_path / "torn") == whole
    assert journal.read_bytes().splitlines(keepends=True)[:7] == lines[:7]
    assert (tmp_path / "torn" / "leaderboard.json").read_bytes() == board


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_result(small: dict[str, str], invoke: Invoke, tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen[bytes]:
        alone = {"executor.block": "1", "storage.store": "null"}  # the second run must not reuse the first one's work
        command = [sys.executable, "-m", "harness", *options(small | alone, folder=folder)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert invoke(*options(small, folder="whole", executor__block="1", storage__store="null"))[0] == 0
    whole = records(tmp_path / "whole")
    run = RunFolder(tmp_path / "killed")
    milestones = [
        lambda: len(list(run.channels.glob("*.vectors.parquet"))) >= 3,  # inside the decomposition
        lambda: (run.path / "verdicts.jsonl").exists(),  # inside the judging
    ]
    for reached in milestones:
        process = start("killed")
        while process.poll() is None and not reached():
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not run.leaderboard.exists()
    written = {path: path.stat().st_mtime_ns for path in run.channels.iterdir()}
    assert invoke(*options(small, folder="killed", executor__block="1", storage__store="null"))[0] == 0
    assert records(tmp_path / "killed") == whole
    assert run.leaderboard.read_bytes() == RunFolder(tmp_path / "whole").leaderboard.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in written} == written  # finished work is not repeated


def test_a_sweep_gives_comparable_runs_side_by_side(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[ActivationReader] = []
    init = ActivationReader.__init__
    monkeypatch.setattr(ActivationReader, "__init__", lambda *given: (readers.append(given[0]), init(*given))[1])
    from harness.report.__main__ import main as report

    sweep = [item for item in options(small, name="sweep") if not item.startswith("folder")]
    assert invoke("-m", "decomposition.kurtosis_weight=0.1,1.0", *sweep)[0] == 0
    runs = sorted(path.parent for path in (tmp_path / "runs" / "sweep").rglob("manifest.json"))
    assert len(runs) == 2
    found = [records(path) for path in runs]
    assert found[0]["exemplars"] == found[1]["exemplars"]
    assert len(readers) == 1  # activations were captured once
    assert found[0]["channels"] != found[1]["channels"]
    joint = tmp_path / "joint.html"
    assert report([*map(str, runs), "--output", str(joint)]) == 0
    assert "decomposition.kurtosis_weight" in joint.read_text()


@pytest.mark.slow
def test_a_run_measures_its_decomposition(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    changes = {"describers": "[rotate,generic]", "judges": "[embedding_pairwise]", "neurons.per_layer": "12"}
    base = options(
        small | changes, folder="worth", diagnostics__sample="2", diagnostics__restarts="2", diagnostics__jitter="1e-7"
    )
    base += [
        "diagnostics.random_vectors=24",
        "diagnostics.random_channels=2",
        "diagnostics.ablated=64",
        "diagnostics.text_ablated=0",
        "storage.store=null",
    ]
    assert invoke(*base)[0] == 0
    run = RunFolder(tmp_path / "worth")
    rows = json.loads(run.decomposition.read_text())["rows"]
    assert [(row["layer"], row["kind"]) for row in rows] == [(0, "in"), (0, "out"), (1, "in"), (1, "out")]
    assert all((row["vectors"], row["channels"], row["again"], row["random"]) == (12, 3, 2, 24) for row in rows)
    # From almost the same start the same channels are found, except after a channel of these random weights that masks
    # no new token: the next search then starts elsewhere, by the seed.
    same = [row for row in rows if row["consistency"] > 0.999 and row["jaccard"] > 0.95]
    assert len(same) >= 3
    assert all(row["consistency"] > 0.95 and row["apart"] < 0.95 for row in rows)
    # The weights of an untrained model are random vectors.
    assert 0.35 < sum(row["chance_below"] for row in rows) / len(rows) < 0.65
    assert [len(item.loss) for item in run.read(RandomVector)] == [2] * 24 * 4
    assert [item.restart for item in run.read(Restart)] == [1, 1, 2, 2] * 4

    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.diagnostics.iterdir()}
    assert len(files) == 3 * 4
    # Removing a channel affects its own tokens more than others.
    assert all(row["ablated"] == 12 and row["faithful"] > 1 - row["kept"] for row in rows)
    # It does so in random vectors as well.
    assert all(abs(row["faithful"] - row["random_faithful"]) < 0.1 and row["random_complete"] is None for row in rows)
    board, table = run.leaderboard.read_bytes(), run.decomposition.read_bytes()
    lost = sorted(files)[3]
    lost.unlink()  # as after a kill before it was written
    assert invoke(*base)[0] == 0
    assert {path: path.read_bytes() for path in run.diagnostics.iterdir()} == {
        path: old for path, (old, _) in files.items()
    }
    kept = set(files) - {lost}
    assert all(path.stat().st_mtime_ns == files[path][1] for path in kept)
    assert run.decomposition.read_bytes() == table

    # Diagnostics may change on a finished run: old measurements are removed, everything else stays.
    assert invoke(*base, "diagnostics.sample=0", "diagnostics.random=isotropic")[0] == 0
    assert len(list(run.diagnostics.iterdir())) == 2 * 4
    assert not kept & set(run.diagnostics.iterdir())
    assert all(row["consistency"] is None for row in json.loads(run.decomposition.read_text())["rows"])
    assert run.leaderboard.read_bytes() == board


def from_documentation(page: str, language: str) -> str:
    """Return the first code block of a language on a page."""
    text = (Path(__file__).parent.parent / page).read_text()
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def test_the_documented_methods_of_a_user_compete(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(from_documentation("README.md", "python"))
    (tmp_path / "myconf" / "describers").mkdir(parents=True)
    (tmp_path / "myconf" / "describers" / "peaks.yaml").write_text(from_documentation("README.md", "yaml"))
    (tmp_path / "myjudges.py").write_text(from_documentation("docs/new-judge.md", "python"))
    (tmp_path / "myparts.py").write_text(from_documentation("docs/new-decomposition.md", "python"))
    search = f"hydra.searchpath=[file://{tmp_path / 'myconf'}]"
    others = ["+judges.named._target_=myjudges.Named", "+judges.more._target_=myjudges.NamesMore"]
    others += ["decomposition.solver=myparts.pursuit"]
    code, _, err = invoke(*options(small, folder="plugged", describers="[rotate,peaks,shuffled]"), search, *others)
    assert code == 0, err
    run = RunFolder(tmp_path / "plugged")
    mine = [item for item in run.descriptions().records() if item.describer == "peaks"]
    shown = [item for item in run.read_exemplars() if item.split is Split.EXPLAIN and item.source is Source.TOP]
    for description in mine:
        windows = [item for item in shown if item.neuron == description.neuron][:3]
        expected = ", ".join(item.tokens[item.peak].strip() or "space" for item in windows)
        assert description.text == " ".join(expected.split())
    assert "peaks" in run.leaderboard.read_text()
    held_out = [item for item in run.read_exemplars() if item.split is Split.REPORT and item.source is Source.TOP]
    texts = {(item.describer, item.neuron): item.text.lower() for item in run.descriptions().records() if item.text}
    named = [score for score in run.scores().records() if score.scorer == "named"]
    assert len(named) == 6 * 3
    for score in named:
        own = (item for item in held_out if item.neuron == score.neuron)
        peaks = {item.tokens[item.peak].strip().lower() or "space" for item in own}
        text = texts[score.describer, score.neuron]
        assert score.value == pytest.approx(sum(peak in text for peak in peaks) / len(peaks))
    more = [verdict for verdict in run.verdicts().records() if verdict.judge == "more"]
    assert len(more) == 6 * 3
    assert all(verdict.status is Status.OK for verdict in more)
    # A channel of matching pursuit is a token's embedding: that token is its first or its last.
    assert len(run.read_channels()) == 6 * 2 * 3
    assert all(max(channel.positive[0].z, -channel.negative[0].z) > 4 for channel in run.read_channels())


def test_failures_of_a_describer_are_counted(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        textwrap.dedent(
            """
            from harness.methods import Describer

            class Broken(Describer):
                async def describe(self, case):
                    if case.neuron.layer == 0:
                        raise ZeroDivisionError("no idea")
                    return "a description"
            """
        )
    )
    code, _, err = invoke(*options(small, folder="broken"), "+describers.broken._target_=broken.Broken")
    assert code == 0, err
    run = RunFolder(tmp_path / "broken")
    mine = [item for item in run.descriptions().records() if item.describer == "broken"]
    failed = [item for item in mine if item.status is Status.FAILED]
    assert len(failed) == 3
    assert all(item.detail == "ZeroDivisionError: no idea" for item in failed)
    row = next(r for r in json.loads(run.leaderboard.read_text())["overall"]["rows"] if r["describer"] == "broken")
    assert (row["failed"], row["comparisons"]) == (3 * 3, 3 * 3)  # against the three real methods
    assert sum(score.status is Status.FAILED for score in run.scores().records()) == 3


def test_weights_and_biases_holds_the_same_tables(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    tracked = options(small, folder="tracked", tracking="wandb_offline", tracking__tags="foo")
    code, _, err = invoke(*tracked)
    assert code == 0, err
    assert "could not log" not in err
    run = RunFolder(tmp_path / "tracked")
    (offline,) = (run.path / "wandb").glob("offline-run-*")
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in offline.rglob("*.table.json")}
    board = json.loads(run.leaderboard.read_text())
    leaderboard = tables["leaderboard"]
    logged = [dict(zip(leaderboard["columns"], row, strict=True)) for row in leaderboard["data"]]
    assert [row["describer"] for row in logged] == [row["describer"] for row in board["overall"]["rows"]]
    assert [row["win_rate"] for row in logged] == [row["win_rate"] for row in board["overall"]["rows"]]
    assert len(tables["verdicts"]["data"]) == len(run.verdicts().records())
    assert len(tables["descriptions"]["data"]) == len(run.descriptions().records())
    assert len(list(offline.rglob("*.png"))) == 3 + 7  # leaderboard, win matrix, alignment; seven of the decomposition
    diagnostics = [dict(zip(tables["layers"]["columns"], row, strict=True)) for row in tables["layers"]["data"]]
    for row in diagnostics:  # a cell of a table holds an interval as text
        row |= {name: list(ast.literal_eval(row[name])) for name in row if name.endswith("_interval") and row[name]}
    assert diagnostics == json.loads(run.decomposition.read_text())["rows"]
    log = next(offline.glob("*.wandb"))
    summary = summary_of(log)
    assert [list(one.run.tags) for one in records_of(log) if one.WhichOneof("record_type") == "run"][-1] == ["foo"]
    assert (
        summary["win_rate/rotate"]
        == next(r for r in board["overall"]["rows"] if r["describer"] == "rotate")["win_rate"]
    )
    code, out, err = invoke(*tracked, "quiet=true")
    assert (code, out) == (0, f"{run.report.resolve()}\n")  # quiet: only the path of the report
    untrusted = board["overall"]["trust"]["trustworthy"] is False
    assert err == (f"{board['overall']['trust']['words']}\n" if untrusted else "")
    assert "writing the report" in (run.logs / "run.log").read_text()
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 1  # nothing new to log


MISTAKES = [
    (["describers=[rotate,nonsense]"], ["describers=nonsense", "maxact"]),
    (["judges=[nonsense]"], ["judges=nonsense", "embedding_pairwise"]),
    (["neurons.layers=[9]"], ["layer 9", "0 to 2", "neurons.layers"]),
    (["neurons=listed", "neurons.indices=[99999]"], ["99999", "neurons.indices"]),
    (["neurons.kinds=[sideways]"], ["sideways", "gate", "neurons.kinds"]),
    (["subject=minilm", "neurons.layers=[3]", "neurons.kinds=[gate]"], ["not gated", "in, out"]),
    (["subject.sources=[./nowhere]"], ["./nowhere", "does not exist"]),
    (["corpus.paths=[EMPTY]"], ["empty"]),
    (["evidence.max_documents=3"], ["too small for the splits", "evidence"]),
    (["evidence.max_document=3"], ["max_document"]),
    (["experiment=llm"], ["explainer", "llm@llm.explainer"]),
    (["decomposition.kurtosis_weight=-1"], ["kurtosis_weight"]),
    (["diagnostics.jitter=0"], ["diagnostics.jitter: must be above 0, not 0"]),
    (["diagnostics.random=gaussian"], ["diagnostics.random: must be 'covariance' or 'isotropic'"]),
    (["diagnostics.samples=3"], ["samples"]),
    (["quiet=much"], ["quiet: must be true or false, not 'much'"]),
    (["corpus=null"], ["corpus=null is not possible", "~corpus"]),
    (["tracking=null"], ["tracking=null is not possible", "choose tracking=none"]),
    (["executor=null"], ["executor=null is not possible", "choose from local, ray"]),
    (["judges=null"], ["judges=null is not possible", "judges=[]"]),
    (["llm@llm.judge=null"], ["llm@llm.judge=null is not possible", "llm@llm.judge=none"]),
    (["storage.store=EMPTY/store"], ["storage.store=", "cannot be written to (Not a directory)"]),
    (["evidence.store=EMPTY/store"], ["evidence.store=", "cannot be written to"]),
    (["llm@llm.judge=openai", "llm.judge.model=m", "serving.cache=EMPTY/cache"], ["serving.cache=", "cannot be"]),
    (["subject=local"], ["no source was given (subject.sources)"]),
    (["neurons=listed", "neurons.indices=[1]"], ["no layer is chosen (neurons.layers)"]),
    (["describers.shuffled.source=nobody"], ["nobody"]),
    (["describers=[rotate]"], ["two describers"]),
    (["llm@llm.explainer=openai", "llm.explainer.base_url=http://127.0.0.1:9/v1", "llm.explainer.model=m",
      "llm.explainer.retries=0"], ["explainer", "127.0.0.1:9"]),
    (["llm@llm.explainer=vllm"], ["llm.explainer", "model"]),
    (["executor.device=cuda"], ["executor.device=cpu"]),
    (["executor.device=mps"], ["mps", "cpu or cuda"]),
    (["executor.block=0"], ["executor.block", "at least 1"]),
    (["executor=ray", "executor.num_cpus=0", "executor.num_gpus=0"], ["executor.num_cpus", "executor.num_gpus"]),
    (["describers=[]"], ["two describers", "experiment=decompose_model"]),
    (["judges=[]"], ["no judge", "experiment=decompose_model"]),
    (["experiment=decompose_model", "describers=[rotate,maxact]", "judges=[embedding_pairwise]"], ["corpus="]),
    (["experiment=decompose_model", "neurons.layers=[]"], ["no layer", "neurons.layers"]),
    (["storage.directions=float16"], ["storage.directions", "bfloat16"]),
    (["storage.top_tokens=0"], ["storage.top_tokens"]),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "told"), MISTAKES, ids=[" ".join(mistake) for mistake, _ in MISTAKES])
def test_an_error_of_the_user_is_one_line_before_the_run(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, mistake: list[str], told: list[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    mistake = [item.replace("EMPTY", str(tmp_path / "empty.txt")) for item in mistake]
    named = {item.partition("=")[0] for item in mistake}
    base = {name: value for name, value in small.items() if name not in named}
    if "experiment=decompose_model" in mistake:
        base = {name: value for name, value in base.items() if not name.startswith("corpus")}
    if "subject" in named or "neurons" in named:
        base = {name: value for name, value in base.items() if name.split(".")[0] not in {"subject", "neurons"}}
        if "subject" not in named:
            base |= {name: value for name, value in small.items() if name.startswith("subject")}
            if "neurons.indices=[99999]" in mistake:
                base["neurons.layers"] = "[0]"
    code, _, err = invoke(*options(base, folder="mistaken"), *mistake)
    assert code == 1
    assert one_line(err), err
    for words in told:
        assert words in err
    assert not (tmp_path / "mistaken" / "descriptions.jsonl").exists()
    assert not (tmp_path / "mistaken" / "channels").exists()


def test_a_single_index_and_layer_are_a_neuron(small: dict[str, str]) -> None:
    chosen = {"neurons": "listed", "neurons.indices": "17", "neurons.layers": "1", "neurons.per_layer": "null"}
    assert Setup.of(compose_config(options(small | chosen))).neurons == [Neuron(1, 17)]


def test_a_folder_that_cannot_be_created_is_one_line(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = invoke(*options(small, folder="file/run"))
    assert code == 1
    assert one_line(err)
    assert err == "error: file/run: Not a directory\n"
    code, _, err = invoke("-m", *options(small), "hydra.sweep.dir=file/sweep", "seed=1,2")
    assert code == 1
    assert err.splitlines()[-1] == "error: file/sweep: Not a directory"


def test_the_folder_of_one_run_is_refused_for_a_sweep(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    code, _, err = invoke("-m", *options(small, folder="mine"), "seed=1,2")
    assert code == 1
    assert one_line(err)
    assert "folder=mine cannot be set in a sweep" in err
    assert "hydra.sweep.dir=FOLDER" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("judges=[human]", ["judges.human.path"]),
        ("describers=[rotate,precomputed]", ["describers.precomputed.path"]),
        ("describers=[precomputed,shuffled] judges=[human]", ["describers.precomputed.path", "judges.human.path"]),
        ("corpus=files", ["corpus.paths"]),
        ("corpus=chat_files", ["corpus.source.paths"]),
    ],
)
def test_a_required_option_is_named_in_one_line(invoke: Invoke, chosen: str, names: list[str]) -> None:
    code, _, err = invoke(*chosen.split(), "tracking=none")
    assert code == 1
    assert one_line(err), err
    assert f"error: {', '.join(names)} must be set" in err
    assert all(f"{name}=..." in err for name in names)


def test_damaged_weights_are_found_before_the_run(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = Path(small["subject.sources"].strip("[]"))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in source.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = load_file(damaged / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][:, 0] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    code, _, err = invoke(*options(small, folder="hurt", subject__sources=f"[{damaged}]"))
    assert code == 1
    assert one_line(err)
    assert "model.layers.1.mlp.up_proj.weight" in err
    assert "NaN" in err
    assert not (tmp_path / "hurt" / "exemplars.parquet").exists()
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    code, _, err = invoke(*options(small, folder="bin", subject__sources=f"[{damaged}]"))
    assert code == 1
    assert one_line(err)
    assert "safetensors" in err


@pytest.mark.slow
def test_a_run_on_experts_of_a_family_that_the_user_describes(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    tiny_models.tiny_subject(tmp_path / "olmoe", "olmoe")
    weights = {
        kind: f"'mlp.experts.{{expert}}.{name}_proj.weight'"
        for kind, name in [("gate", "gate"), ("in", "up"), ("out", "down")]
    }
    experts = ", ".join(f"{kind}: {name}" for kind, name in weights.items())
    run = options(
        small,
        folder="experts",
        subject__sources=f"[{tmp_path / 'olmoe'}]",
        subject__architecture=f"{{like: llama, mlp: null, experts: {{{experts}}}}}",
        neurons__layers="[1]",
        neurons__experts="[0,2]",
        neurons__per_layer="4",
    )
    assert invoke(*run)[0] == 0
    folder = RunFolder(tmp_path / "experts")
    names = folder.read_manifest()["neurons"]
    assert {name[:4] for name in names} == {"L1E0", "L1E2"}
    assert folder.read_manifest()["subject"]["experts"] == 3
    channels, exemplars = folder.read_channels(), folder.read_exemplars()
    assert [str(neuron) for neuron in sorted({channel.neuron for channel in channels})] == names
    assert {str(item.neuron) for item in exemplars} == set(names)
    report = folder.report.read_text()
    assert "2 layers × 3 experts × 40 neurons" in report
    assert all(f'id="{name}"' in report for name in names)
    before = {path: path.stat().st_mtime_ns for path in folder.channels.iterdir()}
    assert invoke(*run)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.channels.iterdir()} == before
    code, _, err = invoke(*run, "subject.fold_norm=true")
    assert code == 1
    assert "subject.fold_norm was False, is now True" in err


def test_a_pruned_neuron_is_found_before_the_run(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source, pruned = Path(small["subject.sources"].strip("[]")), tmp_path / "pruned"
    shutil.copytree(source, pruned)
    weights = load_file(pruned / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][:] = 0
    save_file(weights, pruned / "model.safetensors", metadata={"format": "pt"})
    code, _, err = invoke(*options(small, folder="zero", subject__sources=f"[{pruned}]"))
    assert code == 1
    assert one_line(err)
    assert "in vector of neuron" in err
    assert "layer 1 is zero" in err


def test_two_processes_do_not_run_in_one_folder(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    with RunFolder(tmp_path / "busy").locked():
        code, _, err = invoke(*options(small, folder="busy"))
    assert code == 1
    assert "another process is running" in err


def test_options_of_answers_may_change_until_there_are_any(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    base = options(small, folder="begun")
    assert invoke(*base, "describers=[rotate,maxact]")[0] == 0
    code, _, err = invoke(*base, "describers=[rotate,generic]")
    assert code == 1
    assert "describers" in err
    (tmp_path / "begun" / "descriptions.jsonl").unlink()  # as after a kill before the first description
    (tmp_path / "begun" / "verdicts.jsonl").unlink()
    (tmp_path / "begun" / "scores.jsonl").unlink()
    exemplars = (tmp_path / "begun" / "exemplars.parquet").stat().st_mtime_ns
    assert invoke(*base, "describers=[rotate,generic]")[0] == 0
    assert (tmp_path / "begun" / "exemplars.parquet").stat().st_mtime_ns == exemplars
    code, _, err = invoke(*base, "describers=[rotate,generic]", "evidence.top=4")
    assert code == 1
    assert "evidence.top was 5, is now 4" in err


def test_secrets_never_reach_the_run_folder(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    code, _, err = invoke(
        *options(small, folder="secret", tracking="wandb_offline", describers="[maxact,generic]"),
        *["llm@llm.judge=vllm", "llm.judge.model=m", "+llm.judge.env.HF_TOKEN=hf-very-secret"],
        *['llm.simulator.base_url="https://me:very-secret@host/v1?api_key=very-secret"'],
        *["llm@llm.simulator=openai", "llm.simulator.model=m", "llm.simulator.api_key_env=MY_KEY"],
    )
    assert code == 0, err  # no method uses these roles, so no server starts
    content = b"".join(path.read_bytes() for path in (tmp_path / "secret").rglob("*") if path.is_file())
    assert b"very-secret" not in content
    assert b"MY_KEY" in content


def test_the_published_settings(small: dict[str, str]) -> None:
    from harness.run.setup import Setup

    paper = Path(__file__).parent / "data"
    gemma = Setup.of(compose_config(["experiment=rotate_gemma2_2b"]))
    plan = gemma.decomposition
    assert plan.config(18, VectorKind.GATE).kurtosis_weight == 0.3
    assert plan.config(18, VectorKind.OUT).kurtosis_weight == 0.5
    assert plan.config(4, VectorKind.OUT).adamw.learning_rate == 2e-3
    assert plan.config(4, VectorKind.IN).adamw.learning_rate == 8e-4
    assert plan.config(18, VectorKind.OUT).solver == "adamw"
    assert (plan.config(4, VectorKind.IN).num_channels, plan.config(4, VectorKind.IN).mask_threshold) == (50, 4.0)
    assert gemma.selection.kinds == ("gate", "in", "out")
    assert sorted(gemma.selection.indices or []) == sorted(map(int, (paper / "neurons_gemma.txt").read_text().split()))
    assert gemma.backends["explainer"].server != gemma.backends["judge"].server == gemma.backends["simulator"].server

    llama = Setup.of(compose_config(["experiment=rotate_llama31_8b"]))
    plan = llama.decomposition
    for layer, channels, threshold, rate in ((8, 30, 6.0, 8e-4), (22, 50, 8.0, 2e-3), (12, 50, 6.0, 8e-4)):
        config = plan.config(layer, VectorKind.GATE)
        assert (config.num_channels, config.mask_threshold, config.adamw.learning_rate) == (channels, threshold, rate)
    assert sorted(llama.selection.indices or []) == sorted(map(int, (paper / "neurons_llama.txt").read_text().split()))


def test_help_explains_every_option(invoke: Invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert "experiment=demo" in out
    assert "describers=rotate" in out
    # Judges that compose shared options keep the comment of their own.
    code, shown, _ = invoke("--cfg", "job", "judges=[detection,pairwise_output]")
    assert code == 0
    for comment, judge in (
        ("# An LLM infers from", "  detection:"),
        ("# An LLM sees the tokens", "  pairwise_output:"),
    ):
        assert comment in shown.partition(judge)[0]
    code, explained, _ = invoke("--cfg", "job", "llm@llm.explainer=vllm")
    assert code == 0
    lines = explained.splitlines()
    unexplained = []
    for number, line in enumerate(lines):
        name, _, value = line.strip().partition(":")
        leaf = value.strip() and not line.strip().startswith(("#", "-"))
        above = lines[number - 1].strip() if number else ""
        # One comment may explain a few neighbouring options.
        near = any(item.strip().startswith("#") for item in lines[max(0, number - 5) : number])
        if leaf and not above.startswith("#") and not near and not name.startswith("_"):
            unexplained.append(line)
    assert unexplained == []


@pytest.mark.slow
def test_the_small_demo_ranks_real_evidence_above_the_controls(invoke: Invoke, tmp_path: Path) -> None:
    # The input side alone: layers above the highest one that is read are not run.
    code, out, err = invoke(
        *("experiment=demo", "folder=demo", "neurons.layers=[0]", "neurons.per_layer=12", "evidence.max_documents=120"),
        *("describers=[rotate,maxact,raw_tokens,shuffled,generic]", "judges=[token_pairwise]"),
        *("decomposition.num_channels=3", "tracking=none"),
        *("diagnostics.sample=0", "diagnostics.random_vectors=0", "diagnostics.ablated=0"),
        "diagnostics.text_ablated=0",
    )
    assert code == 0, err
    assert out.strip().endswith("report.html")
    board = json.loads((tmp_path / "demo" / "leaderboard.json").read_text())["overall"]
    assert board["rows"][0]["describer"] == "maxact"  # it reads the same kind of evidence as the judge
    assert board["trust"]["trustworthy"] is True
    run = RunFolder(tmp_path / "demo")
    first = [channel.kurtosis for channel in run.read_channels() if channel.rank == 0]
    whole = [vector.kurtosis for vector in run.read_vectors()]
    assert sum(first) / len(first) > 5 + sum(whole) / len(whole)  # undecomposed vectors are less readable


def test_messages_after_a_captured_stderr_was_closed_go_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captured = io.StringIO()
    with monkeypatch.context() as replaced:
        replaced.setattr("sys.stderr", captured)
        log_to(RunFolder(tmp_path), quiet=False)
        logging.getLogger("harness.test").info("first")
    captured.close()
    logging.getLogger("harness.test").info("second")
    assert capsys.readouterr().err == "second\n"
    assert (tmp_path / "logs" / "run.log").read_text().count("harness.test") == 2
