"""Sweeps: what runs share, a run that fails, optimisers, and tables and plots of several runs."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from support import tiny_models
from support.errors import told
from support.tiny_models import Invoke

import harness.run.decompose as stage
from harness.folder import RunFolder, write_json
from harness.records import Description, Neuron, Score, Verdict, Winner
from harness.report.__main__ import main as report
from harness.report.sweep_plots import sweep_plot
from harness.results.parameters import swept
from harness.results.pool import pool
from harness.results.run_data import load_run
from harness.results.sweep import Sweep
from harness.run.help import compose_config
from harness.run.objective import check_metric
from harness.run.setup import Setup
from harness.run.sweep import Outcome, SweepFolder, conclude_sweep


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of runs that take a second: a tiny Llama, few texts, and a judge without an encoder."""
    folder = tmp_path_factory.mktemp("small")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("subject=local", f"subject.sources=[{folder / 'llama'}]", "neurons.layers=[0,1]", "neurons.per_layer=3"),
        *("corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=30"),
        *("evidence.window=24", "evidence.top=3", "evidence.random=4", "decomposition.num_channels=3"),
        tiny_models.SHORT_SEARCH,
        *("describers=[rotate,maxact,generic]", "judges=[own_words]", "tracking=none", "statistics.draws=20"),
        *(
            "diagnostics.sample=0",
            "diagnostics.random_vectors=2",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
        ),
    ]


def decomposing(small: list[str]) -> list[str]:
    """Return the options of a run that only decomposes."""
    more = ("corpus", "describers", "judges", "evidence")
    kept = [item for item in small if not item.startswith(more)]
    return [*kept, "experiment=decompose_model", "storage.store=.cache/channels"]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The blocks that are decomposed, in order."""
    found: list[Any] = []
    real = stage.decompose_task
    monkeypatch.setattr(
        stage, "decompose_task", lambda task, device: (found.extend(task.blocks), real(task, device))[1]
    )
    return found


def test_a_sweep_over_a_judge_decomposes_once_and_continues_after_a_failed_run(
    invoke: Invoke, small: list[str], blocks: list[Any], tmp_path: Path
) -> None:
    code, out, err = invoke(
        "-m",
        "name=judge",
        "judges.own_words.texts=20,5",
        "statistics.ridge=0.1,-1",
        "sweep.metric=score/own_words/maxact",
        *small,
    )
    assert code == 1
    assert len(blocks) == 4  # layers and kinds, once for all runs
    runs = [RunFolder(tmp_path / "runs" / "judge" / str(number)) for number in range(3)]
    assert [run.leaderboard.exists() for run in runs] == [True, False, True]
    assert runs[0].read_channels() == runs[2].read_channels()
    assert [path.name for path in sorted(runs[0].diagnostics.iterdir())] == [
        path.name for path in sorted(runs[2].diagnostics.iterdir())
    ]
    last = err.strip().splitlines()[-2:]
    assert last[0].startswith(
        "failed: run 3 (judges.own_words.texts=5, statistics.ridge=-1): statistics.ridge: must be"
    )
    assert "2 of 4 runs" in last[1]
    assert "subject" not in last[0].split(")")[0]  # what all runs have in common does not tell them apart
    assert out.count("score/own_words/maxact") == 2
    # What the runs are, for people and for programs.
    assert str(tmp_path / "runs" / "judge" / "joint-report.html") in out
    table = json.loads((tmp_path / "runs" / "judge" / "sweep.json").read_text())
    assert [one["folder"] for one in table["runs"]] == ["0", "2"]
    assert [text.split(" differs")[0] for text in table["incomparable"]] == ["The judge own_words"]
    (parameter,) = table["parameters"]
    assert parameter["name"] == "judges.own_words.texts"
    # Two runs of three describers; the only judge is a scorer, so there are no win rates.
    lines = (tmp_path / "runs" / "judge" / "sweep.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["folder", *["0"] * 3, *["2"] * 3]
    assert all(line.split(",")[4] == "" for line in lines[1:])


def test_a_swept_config_cannot_choose_how_the_sweep_runs(invoke: Invoke, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    for name, override in (("serial", "basic"), ("parallel", "joblib")):
        text = f"# @package _global_\ndefaults:\n  - override /hydra/launcher: {override}\nname: {name}\n"
        (folder / f"{name}.yaml").write_text(text)
    found = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    brief = ("neurons.per_layer=1", "decomposition.num_channels=1", "quiet=true")
    code, _, err = invoke("-m", "experiment=serial,parallel", found, "name=two", *small, *brief)
    assert code == 1
    assert "run 1 (experiment=parallel): a config that the sweep varies sets hydra.launcher, which has no effect" in err
    assert [(tmp_path / "runs" / "two" / name / "report.html").exists() for name in ("0", "1")] == [True, False]


def test_a_smaller_run_reuses_the_channel_store(
    invoke: Invoke, small: list[str], blocks: list[Any], tmp_path: Path
) -> None:
    # Random weights have flat optima: the short searches also keep those for fewer vectors from ending elsewhere.
    base = [*(item for item in decomposing(small) if not item.startswith("neurons")), "neurons.layers=[1]"]
    assert invoke("folder=all", "neurons.indices=[2,5,9]", *base)[0] == 0
    done = len(blocks)
    fewer = ["neurons.indices=[2,9]", "decomposition.num_channels=2"]
    assert invoke("folder=some", *base, *fewer)[0] == 0
    assert len(blocks) == done
    assert invoke("folder=alone", *base, *fewer, "storage.store=null")[0] == 0
    assert len(blocks) == 2 * done
    some, alone = RunFolder(tmp_path / "some"), RunFolder(tmp_path / "alone")
    assert {neuron for neuron, _ in some.decomposed()} == {Neuron(1, 2), Neuron(1, 9)}
    for one, other in zip(some.read_channels(), alone.read_channels(), strict=True):
        assert (one.neuron, one.kind, one.rank) == (other.neuron, other.kind, other.rank)
        assert one.kurtosis == pytest.approx(other.kurtosis, rel=1e-3)
        assert one.positive[0].token == other.positive[0].token
    for vector, again in zip(some.read_vectors(), alone.read_vectors(), strict=True):
        assert vector.reconstruction == pytest.approx(again.reconstruction, rel=1e-3)
    for (keys, found), (_, own) in zip(some.read_directions(), alone.read_directions(), strict=True):
        assert found.shape == own.shape == (len(keys), 2, found.shape[2])
        assert torch.cosine_similarity(found.float(), own.float(), dim=-1).min() > 0.999
    # More channels than are known, or others, are sought.
    assert invoke("folder=more", *base, *fewer, "decomposition.num_channels=4")[0] == 0
    assert invoke("folder=other", *base, *fewer, "decomposition.mask_threshold=3")[0] == 0
    assert len(blocks) == 4 * done


@pytest.mark.drill
@pytest.mark.slow
def test_two_runs_at_once_do_the_work_of_one(invoke: Invoke, small: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs pip install 'neuron-harness[sweep]'")
    code, out, err = invoke(
        "-m", "sweep=joblib", "name=both", "judges.own_words.texts=20,5", "statistics.ridge=0.1,-1", *small
    )
    assert code == 1
    assert "failed: run 1" in err
    assert "run 0: ok" in out or (tmp_path / "runs" / "both" / "0" / "report.html").exists()
    logs = [(tmp_path / "runs" / "both" / number / "logs" / "run.log").read_text() for number in ("0", "2")]
    assert sum("decompose: " in log for log in logs) == 1
    assert sum("the channels of 12 vectors are in the store" in log for log in logs) == 1
    assert sum("reading the corpus" in log for log in logs) == 1
    assert (tmp_path / "runs" / "both" / "joint-report.html").exists()


@pytest.mark.slow
def test_optuna_optimises_a_metric_and_resumes(
    invoke: Invoke, small: list[str], blocks: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs pip install 'neuron-harness[sweep]'")
    base = [*decomposing(small), "name=sought", "hydra.sweeper.n_trials=3"]
    base += ["decomposition.kurtosis_weight=interval(0.1,2)", "decomposition.num_channels=1"]
    assert invoke("-m", "sweep=optuna", *base)[0] == 1  # nothing to seek
    code, _, err = invoke("-m", "sweep=optuna", "sweep.metric=decomposition/first_cosin", *base)
    assert code == 1
    assert "such as decomposition/first_cosine" in err
    assert "no metric 'decomposition/first_cosin'" in err
    assert blocks == []
    command = ["-m", "sweep=optuna", "sweep.metric=decomposition/first_cosine", *base]
    assert invoke(*command)[0] == 0
    done = len(blocks)
    assert done == 3 * 2 * 3  # runs, layers and kinds
    folder = tmp_path / "runs" / "sought"
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    found = {run["parameters"]["decomposition.kurtosis_weight"]: run["decomposition"]["first_cosine"] for run in runs}
    assert len(found) == 3
    assert best["best_value"] == max(found.values())
    assert found[best["best_params"]["decomposition.kurtosis_weight"]] == best["best_value"]
    # Less weight on kurtosis keeps channels nearer to their vectors.
    assert best["best_params"]["decomposition.kurtosis_weight"] == min(found)
    assert invoke(*command)[0] == 0
    assert len(blocks) == done


def test_the_wandb_sweep_composes_and_optimises_a_logged_metric(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load((Path(__file__).parent.parent / "docs" / "wandb_sweep.yaml").read_text())
    drawn = {
        name: {"value": given["values"][0] if "values" in given else given["max"]}
        for name, given in sweep["parameters"].items()
    }
    args = create_sweep_command_args({"args": drawn})
    command: list[str] = []
    for part in create_sweep_command(sweep["command"]):
        command += args["args_no_hyphens"] if part == "${args_no_hyphens}" else [part]
    assert command[0] == "neuron-harness"
    config = compose_config(command[1:])
    assert config.folder == "runs/wandb_sweep/abc123"
    assert config.decomposition.kurtosis_weight == 2.0
    setup = Setup.of(config)
    check_metric(sweep["metric"]["name"], setup)
    told(lambda: check_metric("win_rate/rotat", setup), "win_rate/rotate", "sweep.metric")


def test_a_metric_can_be_optimised_if_and_only_if_the_run_can_have_it(small: list[str]) -> None:
    from harness.llm.client import Price
    from harness.llm.scripted import ScriptedBackend

    def setup_of(*more: str) -> Setup:
        return Setup.of(compose_config([*small, *more]))

    priced, free = (ScriptedBackend(lambda _: "", model=name) for name in ("a", "b"))
    priced.price = Price(1.0, 2.0)
    whole = setup_of("judges=[pairwise,detection,panel]", "comparisons.retest=0.5")
    whole = dataclasses.replace(whole, backends={"explainer": free, "judge": priced})
    for name in (
        *("win_rate/rotate", "judge/pairwise/inconsistency", "judge/pairwise/retest", "judge/detection/retest"),
        *("judge/panel/input/retest", "cost/judge/calls", "cost/judge/paid", "cost/explainer/prompt_tokens"),
        *("cost/calls", "failed/detection", "score/detection/maxact"),
    ):
        check_metric(name, whole)
    # Nobody's truth is known, the explainer has no price, and so there is no total.
    for name in ("judge/pairwise/accuracy", "cost/explainer/paid", "cost/total", "cost/simulator/calls"):
        told(lambda name=name: check_metric(name, whole), "has no metric", name)
    scoring = setup_of()
    check_metric("score/own_words/rotate", scoring)
    for name in ("win_rate/rotate", "best/win_rate", "judge/own_words/retest", "cost/paid"):
        told(lambda name=name: check_metric(name, scoring), "has no metric", name)


def test_stored_outcomes_hold_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "planted-0123456789")
    plain = ("neurons.layers=[1,2]", "~judges", "+describers.x.target_words=30", "name='a b'", "seed=null")
    secret = {
        "llm.judge.env.HF_HOME=hf_planted": "llm.judge.env.HF_HOME=***",
        "++llm.judge.options={api-key:sk-planted,n:2}": '++llm.judge.options={"api-key": "***", "n": 2}',
        "llm.judge.base_url=https://me:planted@host/v1": "llm.judge.base_url=https://host/v1",
        "name=planted-0123456789": "name=***",
    }
    sweep = SweepFolder(tmp_path)
    overrides = (*plain, *secret)
    sweep.store(Outcome(0, "0", overrides, "failed", None, "no answer from https://planted@host/v1"))
    (outcome,) = sweep.outcomes()
    assert outcome.overrides == (*plain, *secret.values())
    conclude_sweep(sweep, Console(file=io.StringIO()))
    told_of = capsys.readouterr().err
    assert "no answer from https://host/v1" in told_of
    assert "planted" not in told_of + "".join(path.read_text() for path in tmp_path.rglob("*.json"))


# --- several runs from their records alone --------------------------------------------------------------------------


def made(
    path: Path,
    weight: float,
    *,
    rotate: str,
    winner: Winner = Winner.FIRST,
    judge: str = "strict",
    neurons: int = 3,
    **more: Any,
) -> RunFolder:
    """Write a run of three describers, in which ``rotate`` says ``rotate``, and the others the same in every run."""
    folder = RunFolder(path)
    ids = [Neuron(0, index) for index in range(neurons)]
    contestants = {"rotate": {"control": False}, "maxact": {"control": False}, "generic": {"control": True}}
    write_json(
        folder.manifest,
        {
            "name": path.name,
            "seed": 1,
            "subject": {"name": "tiny", "fingerprint": "f"},
            "neurons": [str(neuron) for neuron in ids],
            "contestants": contestants,
            "judges": {"pairs": {"kind": "comparator"}},
            "identity": {"judges.pairs.mode": judge},
            "config": {
                "name": path.name,
                "decomposition": {"kurtosis_weight": weight, **more},
                "judges": {"pairs": {"mode": judge}},
                "describers": {name: {"words": 30} for name in contestants},
                "statistics": {"draws": 50},
            },
        },
    )
    descriptions, verdicts, scores = folder.descriptions(), folder.verdicts(), folder.scores()
    for neuron in ids:
        for name, text in {"rotate": rotate, "maxact": "text", "generic": "anything"}.items():
            descriptions.append(Description(neuron, name, text))
            scores.append(Score(neuron, "grade", name, 0.5))
        verdicts.append(Verdict(neuron, "pairs", "rotate", "maxact", True, winner))
        verdicts.append(Verdict(neuron, "pairs", "rotate", "generic", True, Winner.FIRST))
        verdicts.append(Verdict(neuron, "pairs", "maxact", "generic", True, Winner.FIRST))
    return folder


def test_pooling_counts_nothing_twice(tmp_path: Path) -> None:
    low = made(tmp_path / "low", 0.1, rotate="a", winner=Winner.SECOND)
    high = made(tmp_path / "high", 1.0, rotate="b")
    pooled = pool([low, high])
    rows = {row.describer: row for row in pooled.leaderboard.overall.rows}
    assert set(rows) == {"rotate (kurtosis_weight=0.1)", "rotate (kurtosis_weight=1)", "maxact", "generic"}
    assert rows["generic"].control
    # By hand: maxact meets each version of rotate on three neurons, one beats it and one loses. Generic, a control,
    # counts for none of them, and meets all three.
    assert (rows["maxact"].wins, rows["maxact"].losses, rows["maxact"].comparisons) == (3, 3, 6)
    assert (rows["generic"].losses, rows["generic"].comparisons) == (9, 9)
    assert rows["rotate (kurtosis_weight=1)"].wins == 3
    assert rows["rotate (kurtosis_weight=1)"].rank == 1  # the two never met: maxact, which they share, tells
    assert rows["rotate (kurtosis_weight=0.1)"].rank == 3
    # maxact against generic, both descriptions and both scores of the two, on three neurons.
    assert (pooled.repeated, pooled.disagreeing) == (3 + 6 + 6, 0)
    assert pool([low, low]).leaderboard.overall == pool([low]).leaderboard.overall


def test_incomparable_runs_are_not_pooled(tmp_path: Path, capsys: Any) -> None:
    low, more = made(tmp_path / "low", 0.1, rotate="a"), made(tmp_path / "more", 0.1, rotate="a", neurons=5)
    told(lambda: pool([low, more]), "different neurons: 3, 5, 3 in common")
    mild = made(tmp_path / "mild", 1.0, rotate="b", judge="mild")
    told(lambda: pool([low, mild]), "judge pairs differs")  # other judges of other describers: who judged would win
    assert report(["--pool", str(low.path), str(mild.path)]) == 1
    assert "judge pairs differs" in capsys.readouterr().err
    # Other judges of the same describers are judges beside each other.
    same = made(tmp_path / "same", 0.1, rotate="a", judge="mild")
    boards = pool([low, same]).leaderboard.judges
    assert {board.judge for board in boards} == {"pairs (mode=strict)", "pairs (mode=mild)"}
    assert report(["--pool", str(low.path)]) == 1


def test_tables_and_plots_by_parameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        made(tmp_path / f"{weight}-{channels}", weight, rotate=f"{weight}", num_channels=channels)
        for weight in (0.1, 0.3, 1.0)
        for channels in (2, 4)
    ]
    assert report(["--pool", *(str(folder.path) for folder in folders)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "joint-report.html")
    page = (tmp_path / "joint-report.html").read_text()
    assert "decomposition.kurtosis_weight (0.1, 0.3, 1); decomposition.num_channels (2, 4)" in page
    assert page.count("<svg ") == 5  # win rates and scores against each parameter, and the pooled leaderboard
    assert "rotate (kurtosis_weight=0.3)" in page
    assert 'id="r1-run"' not in page  # six runs: each has a report of its own
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith(
        "folder,decomposition.kurtosis_weight,decomposition.num_channels,describer,control,win_rate"
    )
    assert len(lines) == 1 + 6 * 3
    assert "0.3-4,0.3,4,rotate,False,1.0," in "\n".join(lines)
    assert json.loads((tmp_path / "pooled-leaderboard.json").read_text())["neurons"] == 3

    sweep = Sweep(tuple(load_run(folder) for folder in folders))
    weight, channels = sweep.parameters
    assert weight.spans_decades
    assert not channels.spans_decades
    for parameter, scale in ((weight, "log"), (channels, "linear")):
        figure = sweep_plot(sweep, parameter)
        assert figure is not None
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert [axes.get_title() for axes in shown] == ["rotate", "maxact", "generic (control)"]
        assert {axes.get_xscale() for axes in shown} == {scale}
    alone = Sweep(sweep.runs[::2])
    figure = sweep_plot(alone, alone.parameters[0])
    assert figure is not None
    (axes,) = figure.axes
    lines_by = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines_by["rotate"]) == [1, 1, 1]
    assert list(lines_by["generic (control)"]) == [0, 0, 0]
    figure = sweep_plot(alone, alone.parameters[0], "grade")
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_ylabel() == "mean score, grade"
    lines_by = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert [list(lines_by[name]) for name in ("rotate", "generic (control)")] == [[0.5] * 3] * 2


def test_the_parameters_that_runs_vary() -> None:
    def manifest(**config: Any) -> dict[str, Any]:
        return {"config": {"name": "whatever", "folder": "anywhere", **config}}

    fast = {"solver": "geodesic", "geodesic": {"steps": 500}}
    adamw = {"solver": "adamw", "adamw": {"rate": 0.1}}
    (solver,) = swept([manifest(decomposition=fast), manifest(decomposition=adamw)])
    assert (solver.name, solver.levels) == ("decomposition.solver", ("geodesic", "adamw"))
    (who,) = swept(
        [manifest(describers={"a": {"words": 3}}), manifest(describers={"a": {"words": 3}, "b": {"words": 3}})]
    )
    assert (who.name, who.values) == ("describers", (["a"], ["a", "b"]))
    rates = swept([manifest(decomposition=adamw), manifest(decomposition={**adamw, "adamw": {"rate": 0.2}})])
    assert [one.name for one in rates] == ["decomposition.adamw.rate"]
    assert swept([manifest(), manifest()]) == ()
    # What a describer takes from another setting is no parameter of its own.
    taken = [manifest(decomposition={"n": n}, describers={"a": {"channels": n}}) for n in (2, 5)]
    assert [one.name for one in swept(taken)] == ["decomposition.n"]


def test_sweep_configs_have_comments() -> None:
    for path in (Path(__file__).parent.parent / "conf" / "sweep").glob("*.yaml"):
        text = path.read_text()
        assert text.startswith("# @package _global_\n# ")
        assert re.search(r"^hydra:", text, re.MULTILINE)
