"""All describers compete in one run from the command line; errors in their options end the run before it starts."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_models
from support.tiny_models import Invoke

from harness.folder import RunFolder
from harness.records import EvidenceSize, Status
from harness.run.main import main

ALL = "[rotate,maxact,best_of_k,contrastive,vocab_proj,ensemble_raw,ensemble_concat,shuffled,generic,empty,longest]"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that takes seconds: a tiny Llama over part of Python's reference."""
    folder = tmp_path_factory.mktemp("small")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny-llama"),
        *("neurons.layers=[0,1]", "neurons.per_layer=2", "corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]"),
        *("evidence.max_documents=40", "evidence.window=24", "evidence.top=5", "evidence.random=8"),
        *(
            "decomposition.num_channels=3",
            tiny_models.SHORT_SEARCH,
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
            "tracking=none",
        ),
    ]


def written(path: Path, run: Path) -> None:
    """Write a set with two descriptions of each neuron of a run."""
    names = RunFolder(run).read_manifest()["neurons"]
    path.write_text(
        "\n".join(
            json.dumps({"name": name, "said": f"{said} {name}"}) for name in names for said in ("numbers", "lists")
        )
    )


def test_all_describers_in_one_run_under_one_budget(invoke: Invoke, small: list[str], tmp_path: Path) -> None:
    # A scorer that reads new text selects among the candidates.
    by = "judges@describers.best_of_k.by=own_words"
    code, _, err = invoke(*small, f"describers={ALL}", "folder=all", "evidence_budget=60", "target_words=7", by)
    assert code == 0, err
    run = RunFolder(tmp_path / "all")
    made = {(item.describer, item.neuron): item for item in run.descriptions().records()}
    names = ALL.strip("[]").split(",")
    assert len(made) == len(names) * 4
    assert all(item.status is Status.OK for item in made.values()), made
    for (name, neuron), item in made.items():
        if name in {"generic", "empty"}:
            assert item.evidence == EvidenceSize()
        elif name == "ensemble_concat":
            parts = [made[part, neuron].evidence.tokens for part in ("rotate", "maxact", "vocab_proj")]
            assert item.evidence.tokens == sum(parts)
        else:
            assert 0 < item.evidence.tokens <= 60
        if name not in {"generic", "empty", "ensemble_concat"}:
            assert 1 <= len(item.text.split(", ")) <= 7
    assert all(len(made["best_of_k", neuron].steps) == 5 for name, neuron in made if name == "best_of_k")
    contestants = run.read_manifest()["contestants"]
    assert {name for name, entry in contestants.items() if entry["control"]} == {
        "shuffled", "generic", "empty", "longest"
    }  # fmt: skip
    assert {entry["target_words"] for name, entry in contestants.items() if name in {"rotate", "best_of_k"}} == {7}
    assert {entry["mode"] for entry in contestants.values()} == {"extractive"}
    assert "prompts/ensemble_raw.j2" in contestants["ensemble_raw"]["prompts"]


def test_a_description_set_competes_and_is_part_of_what_was_run(
    invoke: Invoke, small: list[str], tmp_path: Path
) -> None:
    assert invoke(*small, "describers=[rotate,generic]", "folder=before")[0] == 0
    written(tmp_path / "set.jsonl", tmp_path / "before")
    columns = "{text: said, neuron: name, layer: null, index: null, expert: null, sign: null}"
    given = [
        *(*small, "folder=given", "describers=[rotate,precomputed,longest]", "describers.longest.source=precomputed"),
        *("describers.precomputed.path=set.jsonl", f"describers.precomputed.columns={columns}"),
        "describers.precomputed.several=keep",
    ]
    code, _, err = invoke(*given)
    assert code == 0, err
    run = RunFolder(tmp_path / "given")
    made = {(str(item.neuron), item.describer): item for item in run.descriptions().records()}
    names = run.read_manifest()["neurons"]
    assert {made[name, "precomputed"].text for name in names} == {f"numbers {name} | lists {name}" for name in names}
    assert all(len(made[name, "longest"].parts) == 2 for name in names)
    # A set is judged by its best match, and each judge measures how far it needs more than one part.
    board = json.loads((tmp_path / "given" / "leaderboard.json").read_text())
    assert {row["describer"]: row["mean_parts"] for row in board["descriptions"]} == {
        "rotate": 1, "precomputed": 2, "longest": 2
    }  # fmt: skip
    shares = {row["describer"]: row["polysemanticity"] for row in board["scores"]}
    assert shares["rotate"] is None
    assert 0 <= shares["precomputed"] <= 0.5
    assert "Other parts %" in (tmp_path / "given" / "report.html").read_text()
    assert run.read_manifest()["contestants"]["precomputed"]["mode"] == "given"
    assert invoke(*given)[0] == 0

    (tmp_path / "set.jsonl").write_text((tmp_path / "set.jsonl").read_text().replace("lists", "changed"))
    code, _, err = invoke(*given)
    assert code == 1
    assert "inputs.precomputed" in err


def test_with_an_explainer_each_description_tells_what_it_cost(
    invoke: Invoke, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explainers.py").write_text(
        textwrap.dedent(
            """
            import json
            from harness.llm.client import Completion
            from harness.llm.scripted import ScriptedBackend

            class Explainer(ScriptedBackend):
                def __init__(self):
                    super().__init__(self.answer)

                def answer(self, request):
                    if request.sampling.temperature == 1 and request.sampling.seed % 2:
                        return "no idea"
                    return Completion(json.dumps({"description": f"seed {request.sampling.seed}"}), completion_tokens=3)
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = [
        *(
            *small,
            "folder=asked",
            "mode=llm",
            "explainer_check.concepts=2",
            "+llm.explainer._target_=explainers.Explainer",
        ),
        "describers=[rotate,maxact,best_of_k,contrastive,ensemble_raw,ensemble_concat,vocab_proj]",
    ]
    code, _, err = invoke(*asked)
    assert code == 0, err
    run = RunFolder(tmp_path / "asked")
    made = {(item.describer, item.neuron): item for item in run.descriptions().records()}
    calls = {"rotate": 2 * 3 + 1, "best_of_k": 5, "ensemble_concat": 0}
    for (name, _), item in made.items():
        assert item.usage.calls == calls.get(name, 1)
        if name == "best_of_k":
            lost = sum(part.startswith("no description") for part in item.steps)
            assert (len(item.steps), item.usage.completion_tokens) == (5, 3 * (5 - lost))
            assert (f"{lost} of 5 without a description: unparsed" in item.detail) == (lost > 0)
        elif name != "ensemble_concat":
            assert item.text == "seed 0"
    assert {entry["mode"] for entry in run.read_manifest()["contestants"].values()} == {"llm"}
    # Every describer that asks the explainer has described the planted concepts; best_of_k through maxact.
    checked = Counter((item.describer, item.status) for item in run.explainer_check().records())
    asking = ("rotate", "maxact", "best_of_k", "contrastive", "ensemble_raw", "vocab_proj")
    assert checked == {(name, Status.OK): 2 for name in asking}


MISTAKES = [
    (["describers=[rotate,best_of_k]", "describers.best_of_k.k=0"], ["describers.best_of_k", "k: must be at least 1"]),
    (["describers=[rotate,best_of_k]", "judges@describers.best_of_k.by=simulation"], ["best_of_k", "llm.simulator"]),
    (["describers=[rotate,best_of_k]", "judges@describers.best_of_k.by=pairwise"], ["pairwise", "Scorer"]),
    (["describers=[rotate,best_of_k]", "judges@describers.best_of_k.by=faithfulness"], ["best_of_k", "steered texts"]),
    (["describers=[rotate,best_of_k]", "describers.best_of_k.of.maxact.sampling=all"], ["best_of_k", "all"]),
    (
        ["describers=[rotate,best_of_k]", "describers@describers.best_of_k.of=shuffled",
         "describers.best_of_k.of.shuffled.source=nobody"],
        ["describers.best_of_k", "nobody"],
    ),
    (["describers=[rotate,ensemble_concat]"], ["ensemble_concat", "maxact"]),
    (["describers=[rotate,ensemble_raw]", "describers@describers.ensemble_raw.of=[rotate,generic]"], ["generic"]),
    (["describers=[rotate,maxact]", "target_words=0"], ["target_words: must be at least 1"]),
    (["describers=[rotate,maxact]", "evidence_budget=0"], ["evidence_budget"]),
    (["describers=[rotate,maxact]", "evidence_budget=many"], ["evidence_budget"]),
    (["describers=[rotate,precomputed]", "describers.precomputed.path=nowhere.csv"], ["nowhere.csv", "No such file"]),
    (["describers=[rotate,contrastive]", "describers.contrastive.encoder.sha256='00'"], ["sentence encoder"]),
    (
        ["describers=[rotate,maxact]", "judges=[panel]", "+judges@judges.panel.members=[pairwise,pairwise_output]",
         "judges.panel.members.pairwise_output.role=simulator",
         "llm@llm.judge=vllm", "llm.judge.model=a", "llm@llm.simulator=vllm", "llm.simulator.model=b"],
        ["panel", "serving.max_servers=2"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "words"), MISTAKES, ids=[" ".join(mistake) for mistake, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line_before_time_is_spent(
    invoke: Invoke, small: list[str], tmp_path: Path, mistake: list[str], words: list[str]
) -> None:
    code, _, err = invoke(*small, *mistake, "folder=mistaken")
    assert code == 1
    assert len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err
    assert not (tmp_path / "mistaken" / "exemplars.parquet").exists()


def test_options_of_methods_inside_methods_are_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["neuron-harness", "--cfg", "job", f"describers={ALL}", "describers@describers.best_of_k.of=rotate"],
    )
    main()
    lines = capsys.readouterr().out.splitlines()
    inside = lines[next(place for place, line in enumerate(lines) if line == "    of:") :]
    kurtosis = next(place for place, line in enumerate(inside) if "min_kurtosis" in line)
    assert "excess kurtosis" in inside[kurtosis - 1]
