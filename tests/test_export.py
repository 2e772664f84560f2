"""The exported data set: it loads with ``datasets``, and its descriptions can be read by ``precomputed``."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from support.finished_run import ATTACK, make_run
from support.small_run import options, small
from support.tiny_models import Invoke

from harness.export.__main__ import main
from harness.folder import RunFolder
from harness.records import Description, Neuron, Sign, Status, Verdict, Vote, Winner

__all__ = ["small"]
LONE = "half a pair \ud83d here"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with hostile texts, failures and a neuron at its negative sign."""
    folder = make_run(tmp_path_factory.mktemp("exported") / "run", neurons=4, channels=2)
    journal = folder.descriptions()
    negative = Neuron(3, 5, sign=Sign.NEGATIVE)
    journal.append(Description(negative, "rotate", f"{ATTACK} {LONE}", steps=(LONE,)))
    journal.append(Description(Neuron(3, 998), "rotate", "", Status.REFUSED, f"no {ATTACK}"))
    journal.close()
    votes = (Vote("kind", Winner.FIRST), Vote("stern", None, Status.REFUSED, "no"))
    panel = Verdict(Neuron(3, 5), "panel", "rotate", "maxact", True, Winner.FIRST, votes=votes)
    folder.verdicts().append(panel)
    folder.retests().append(dataclasses.replace(panel, winner=Winner.TIE))
    return folder


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Path:
    assert main([str(run.path), "--exemplars", "--licence", "cc-by-4.0"]) == 0
    return run.path / "export"


def front(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def load(folder: Path, name: str, cache: Path) -> list[dict[str, Any]]:
    found = datasets.load_dataset(str(folder), name, cache_dir=str(cache), split="train")
    return list(found)


def test_every_configuration_loads_as_a_dataset(run: RunFolder, exported: Path, tmp_path: Path) -> None:
    names = [entry["config_name"] for entry in front(exported)["configs"]]
    assert names == ["descriptions", "verdicts", "scores", "channels", "exemplars", "neurons", "verdicts_again"]
    assert datasets.get_dataset_config_names(str(exported)) == names
    expected = {
        "descriptions": run.descriptions().records(),
        "verdicts": run.verdicts().records(),
        "scores": run.scores().records(),
        "channels": run.read_channels(),
        "exemplars": run.read_exemplars(),
        "neurons": run.read_manifest()["neurons"],
        "verdicts_again": run.retests().records(),
    }
    loaded = {name: load(exported, name, tmp_path) for name in names}
    assert {name: len(rows) for name, rows in loaded.items()} == {name: len(of) for name, of in expected.items()}

    rows = {(row["neuron"], row["describer"]): row for row in loaded["descriptions"]}
    for record in expected["descriptions"]:
        row = rows[str(record.neuron), record.describer]
        assert row["description"] == re.sub("[\ud800-\udfff]", "\ufffd", record.text)
        assert (row["status"], row["control"]) == (record.status, record.describer in {"shuffled", "empty"})
    refused = rows["L3N998", "rotate"]
    assert (refused["description"], refused["status"], refused["detail"]) == ("", "refused", f"no {ATTACK}")
    assert rows["L3N5-", "rotate"]["sign"] == "negative"
    failed = [row for row in loaded["verdicts"] if row["status"] != "ok"]
    assert len(failed) == sum(record.status is not Status.OK for record in expected["verdicts"]) > 0
    assert all(row["winner"] is row["preferred"] is None and row["detail"] for row in failed)
    won = next(row for row in loaded["verdicts"] if row["winner"] == "second")
    assert won["preferred"] == won["second"]
    assert all(row["preferred"] is None for row in loaded["verdicts"] if row["winner"] == "tie")
    panel = next(row for row in loaded["verdicts"] if row["judge"] == "panel")
    assert [(vote["judge"], vote["winner"], vote["status"]) for vote in panel["votes"]] == [
        ("kind", "first", "ok"),
        ("stern", None, "refused"),
    ]
    (role,) = rows["L3N5", "rotate"]["roles"]
    assert (role["role"], role["calls"], role["cost"], role["paid"]) == ("explainer", 3, 0.02, 0.015)
    assert [(row["judge"], row["winner"]) for row in loaded["verdicts_again"]] == [("panel", "tie")]
    bad = [row for row in loaded["scores"] if row["status"] != "ok"]
    assert all(row["value"] is None for row in bad)
    named = loaded["neurons"][0]
    assert (named["neuron"], named["id"], named["transformer_lens"], named["transformers"]) == (
        *("L3N5", "all-MiniLM-L6-v2@3:5"),
        *("blocks.3.mlp.hook_post", "bert.encoder.layer.3.output.dense"),
    )
    channel, row = run.read_channels()[0], loaded["channels"][0]
    assert (row["neuron"], row["kind"], row["rank"]) == (str(channel.neuron), channel.kind, channel.rank)
    assert row["positive_tokens"] == [token.token for token in channel.positive]


def test_the_card_says_what_was_run_and_lets_no_text_speak(run: RunFolder, exported: Path) -> None:
    card = (exported / "README.md").read_text("utf-8")
    assert front(exported)["license"] == "cc-by-4.0"
    assert ATTACK in run.read_manifest()["name"]
    body = card.split("---\n", 2)[2]
    assert "<script" not in body.replace("\\<", "")
    board = json.loads((exported / "leaderboard.json").read_text())
    for row in board["overall"]["rows"]:
        assert row["describer"].replace("_", "\\_") in body
    assert "+describers.precomputed.where.describer=" in body
    for words in ("all-MiniLM-L6-v2", "installed-docs", "qwen3-8b", "@article", "load_dataset("):
        assert words in body


def test_equal_runs_make_equal_bytes_and_no_text_stays_behind(run: RunFolder, exported: Path) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert main([str(run.path), "--exemplars", "--licence", "cc-by-4.0"]) == 0
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    # Once exported without, the text of an earlier export is gone as well.
    assert main([str(run.path), "--licence", "cc-by-4.0"]) == 0
    assert set(before) - {path.name for path in exported.iterdir()} == {"exemplars.parquet"}
    text = run.read_exemplars()[0].tokens[0]
    assert text
    assert "No text of the corpus" in (exported / "README.md").read_text("utf-8")
    assert main([str(run.path), "--exemplars", "--licence", "cc-by-4.0"]) == 0


def test_exported_descriptions_and_exemplars_compete_again(
    invoke: Invoke, small: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = {"diagnostics.sample": "0", "diagnostics.random_vectors": "0", "neurons.per_layer": "2"}
    base = options(small | cheap)
    judges = "judges=[embedding_pairwise,embedding_simulation]"
    assert invoke(*base, "folder=one", "describers=[maxact,rotate]", judges)[0] == 0
    first = RunFolder(tmp_path / "one")
    assert main([str(first.path), "--to", str(tmp_path / "out"), "--exemplars", "--directions"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    for kind in ("neuronpedia", "openai", "delphi"):
        assert main([str(first.path), "--to", str(tmp_path / kind), "--format", kind, "--exemplars"]) == 0
    explanations = [str(path) for path in (tmp_path / "neuronpedia").glob("tiny-llama/*/explanations")]
    by_maxact = f"format: neuronpedia, path: {explanations}, where: {{typeName: maxact}}"
    sets = {
        "neuronpedia": by_maxact,
        "openai": f"format: openai, path: {tmp_path / 'openai' / 'explanations' / 'maxact'}",
        "delphi": f"format: delphi, path: {tmp_path / 'delphi' / 'maxact'}",
    }
    code, _, err = invoke(
        *[*base, "folder=two", "describers=[precomputed,imported_evidence,generic]", "judges=[embedding_pairwise]"],
        *[f"describers.precomputed.path={tmp_path / 'out' / 'precomputed.jsonl'}"],
        "+describers.precomputed.where.describer=maxact",
        *[f"+describers.{name}={{_target_: describers.precomputed.Precomputed, {of}}}" for name, of in sets.items()],
        *(f"describers.imported_evidence.path={tmp_path / 'openai' / 'neurons'}", "mode=extractive"),
        "describers.imported_evidence.format=openai",
        f"+judges.published={{_target_: judges.published_score.PublishedScore, describer: neuronpedia, {by_maxact}}}",
    )
    assert code == 0, err

    def texts(folder: RunFolder, name: str) -> dict[Neuron, str]:
        return {item.neuron: item.text for item in folder.descriptions().records() if item.describer == name}

    second = RunFolder(tmp_path / "two")
    made = texts(first, "maxact")
    assert len(made) == 2 * 2
    assert all(texts(second, name) == made for name in ("precomputed", *sets))
    borrowed = [item for item in second.descriptions().records() if item.describer == "imported_evidence"]
    assert all(item.detail.startswith("exemplars of neurons, not of the run; ") for item in borrowed)
    assert {item.status for item in borrowed} == {Status.OK}
    usable = [item for item in first.scores().records() if item.describer == "maxact" and item.status is Status.OK]
    assert usable
    assert {item.neuron: item.value for item in second.scores().records()} == {one.neuron: one.value for one in usable}
    # The windows' token ids, and the directions of the channels.
    windows = pq.read_table(tmp_path / "out" / "windows.parquet").to_pylist()
    shown = {row["window"] for row in pq.read_table(tmp_path / "out" / "exemplars.parquet").to_pylist()}
    assert [row["window"] for row in windows] == sorted(shown)
    directions = pq.read_table(tmp_path / "out" / "directions.parquet").to_pylist()
    stored = [row for _, block in first.read_directions() for row in block.float().flatten(0, 1).tolist()]
    assert [row["direction"] for row in directions] == stored


def test_hostile_text_comes_back_as_it_was(run: RunFolder, exported: Path) -> None:
    from support.describer_cases import NOWHERE, case, describe, failure

    from describers.precomputed import Precomputed

    columns = {"text": "description", "layer": "layer", "index": "neuron", "expert": "expert", "sign": "sign"}
    method = Precomputed(str(exported / "precomputed.jsonl"), columns, where={"describer": "rotate"}, gaps="fail")
    mine = [record for record in run.descriptions().records() if record.describer == "rotate"]
    method.check([record.neuron for record in mine], NOWHERE)
    for record in mine:
        if record.status is Status.OK:
            assert describe(method, case(neuron=record.neuron)).text == record.text
        else:
            assert failure(method, case(neuron=record.neuron)).status is Status.FAILED


@pytest.mark.parametrize(
    ("prepare", "arguments", "told"),
    [
        ("nothing", [], "is not a run folder"),
        ("run", ["--to", "full"], "contains mine.txt, which is not part of an export"),
        ("run", ["--to", "full/mine.txt"], "is not a folder"),
        ("bare", ["--exemplars"], "has no exemplars: remove --exemplars"),
        ("bare", [], "has no records yet"),
    ],
)
def test_a_mistake_is_one_line(
    run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    prepare: str,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text("{}")
    source = str(run.path) if prepare == "run" else prepare
    assert main([source, *arguments]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert told in err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_it_is_pushed_on_request_only(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arguments of the upload; the upload itself needs the hub, and is the library's."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **given: Any) -> str:
            asked.append(("create", {"name": name, **given}))
            return f"https://hub/{name}"

        def upload_folder(self, **given: Any) -> None:
            asked.append(("upload", given))

    monkeypatch.setattr("harness.export.dataset.HfApi", Hub)
    assert main([str(run.path), "--to", str(tmp_path / "out")]) == 0
    assert asked == []
    assert main([str(run.path), "--to", str(tmp_path / "out"), "--push", "me/mine", "--private"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "https://hub/me/mine"
    (_, made), (_, upload) = asked
    assert made == {"name": "me/mine", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (upload["folder_path"], upload["repo_id"]) == (tmp_path / "out", "me/mine")
    assert set(upload["allow_patterns"]) >= {path.name for path in (tmp_path / "out").iterdir()}

    def refused(self: Hub, name: str, **given: Any) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr(Hub, "create_repo", refused)
    assert main([str(run.path), "--to", str(tmp_path / "out"), "--push", "me/mine"]) == 1
    assert "me/mine could not be pushed (no network)" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_is_one_line(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert main([str(run.path), "--to", str(tmp_path / "out"), "--push", "me/mine"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: me/mine could not be pushed ([Errno 111] Connection refused); the export is in")
