"""Published sets of descriptions and exemplars: what each format says, and what an export brings back."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.describer_cases import NOWHERE, case, describe, failure
from support.errors import told
from support.finished_run import make_run
from support.small_run import options
from support.tiny_models import Invoke

from describers.imported_evidence import ImportedDescriber
from describers.maxact import MaxAct
from describers.precomputed import Precomputed
from harness.export import export_to
from harness.export.__main__ import main
from harness.folder import RunFolder
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Description, Neuron, Sign, Source, Split, Status, Winner
from harness.subject.architecture import hook_names
from judges.imported_evidence import ImportedScorer, on_imported
from judges.published_score import PublishedScore

POSITIVE, NEGATIVE = Neuron(6, 650), Neuron(6, 650, sign=Sign.NEGATIVE)
NP = {"modelId": "gpt2-small", "layer": "6", "index": "650"}
BY_GPT = {"description": "ends of years", "typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini"}
BY_CLAUDE = {"description": "years", "typeName": "eleuther_acts_top20", "explanationModelName": "claude-3-5-haiku"}


def save(path: Path, *rows: Any) -> Path:
    """Write JSON lines, or one JSON value for ``.json``; compressed if the name ends in ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def looked_up(neuron: Neuron, path: Path, kind: str, **options: Any) -> tuple[str, str]:
    """Return the text and the detail of a neuron's description in a set."""
    method = Precomputed(str(path), format=kind, **options)  # type: ignore[arg-type]
    method.check([neuron], NOWHERE)
    draft = describe(method, case(neuron=neuron))
    return draft.text, draft.detail


def test_neuronpedia_exports_and_answers_of_its_api(tmp_path: Path) -> None:
    folder = tmp_path / "6" / "explanations"
    save(folder / "batch-0.jsonl.gz", {**NP, **BY_GPT, "embedding": [0.1]}, {**NP, "index": "7", **BY_CLAUDE})
    save(folder / "batch-1.jsonl.gz", {**NP, **BY_CLAUDE, "scores": [{"value": 0.7}], "scoreV1": 0})
    message = told(lambda: looked_up(POSITIVE, tmp_path, "neuronpedia"), "describes L6N650 twice", "several")
    assert "batch-0.jsonl.gz, line 1, batch-1.jsonl.gz, line 1" in message
    assert "oai_token-act-pair by gpt-4o-mini, eleuther_acts_top20 by claude-3-5-haiku" in message
    # One author is chosen, or each competes as a describer of its own.
    where = {"typeName": "oai_token-act-pair"}
    assert looked_up(POSITIVE, tmp_path, "neuronpedia", where=where) == (
        "ends of years",
        f"from {tmp_path.name}, by oai_token-act-pair by gpt-4o-mini",
    )
    text, detail = looked_up(POSITIVE, tmp_path, "neuronpedia", where={"explanationModelName": "claude-3-5-haiku"})
    assert (text, detail.endswith("score in the set 0.7")) == ("years", True)
    answer = save(tmp_path / "feature.json", {**NP, "explanations": [BY_GPT, BY_CLAUDE], "activations": []})
    assert looked_up(POSITIVE, answer, "neuronpedia", several="join")[0] == "ends of years; years"
    assert looked_up(POSITIVE, answer, "neuronpedia", several="first")[0] == "ends of years"
    told(lambda: looked_up(POSITIVE, answer, "neuronpedia", several="best"), "several=best needs scores")


def test_latents_of_a_dictionary_are_not_taken_for_neurons(tmp_path: Path) -> None:
    path = save(tmp_path / "b.jsonl", {**NP, "layer": "6-res-jb", **BY_GPT})
    told(
        lambda: looked_up(POSITIVE, path, "neuronpedia"), "latents of res-jb, not MLP neurons", "where={source: res-jb}"
    )
    assert looked_up(POSITIVE, path, "neuronpedia", where={"source": "res-jb"})[0] == "ends of years"
    save(path, {**NP, "layer": "6-res-jb", **BY_GPT}, {**NP, **BY_CLAUDE})
    assert looked_up(POSITIVE, path, "neuronpedia")[0] == "years"


def test_openai_files_have_one_neuron_each_with_scores(tmp_path: Path) -> None:
    scored = [
        {"explanation": "worse", "scored_simulation": {"ev_correlation_score": 0.1, "scored_sequence_simulations": []}},
        {"explanation": "better", "scored_simulation": {"ev_correlation_score": 0.4}},
        {"explanation": "not scored", "scored_simulation": {"ev_correlation_score": None}},
    ]
    named = {"dataclass_name": "NeuronId", "layer_index": 6, "neuron_index": 650}
    save(tmp_path / "6" / "650.jsonl", {"neuron_id": named, "scored_explanations": scored[:2]})
    assert looked_up(POSITIVE, tmp_path, "openai", several="best") == (
        "better",
        f"from {tmp_path.name}, score in the set 0.4, the best of 2",
    )
    judge = PublishedScore(str(tmp_path), "openai", several="best")
    assert judge.covers(POSITIVE, "precomputed")
    assert not judge.covers(POSITIVE, "rotate")
    assert not judge.covers(NEGATIVE, "precomputed")
    seen = JudgeCase(POSITIVE, (), NOWHERE, None, 0)
    assert asyncio.run(judge.score(seen, "better")) == Grade(0.4)
    with pytest.raises(Exception, match="no score of this description"):
        asyncio.run(judge.score(seen, "other words"))
    save(tmp_path / "6" / "650.jsonl", {"neuron_id": named, "scored_explanations": scored[2:]})
    assert not PublishedScore(str(tmp_path), "openai").covers(POSITIVE, "precomputed")
    with pytest.raises(ValueError, match="a table has no scores"):
        PublishedScore(str(tmp_path), "table")


def test_transluce_tables_and_files_have_both_signs(tmp_path: Path) -> None:
    rows = [
        {"layer": 6, "neuron": 650, "polarity": 1, "description": "up", "score": 0.5},
        {"layer": 6, "neuron": 650, "polarity": "-1", "description": "down", "score": None},
    ]
    table = save(tmp_path / "table.jsonl", *rows)
    assert looked_up(POSITIVE, table, "transluce") == ("up", "from table.jsonl, score in the set 0.5")
    assert looked_up(NEGATIVE, table, "transluce") == ("down", "from table.jsonl")
    explained = {"positive": [{"explanation": "many"}, {"explanation": "more"}], "negative": None}
    save(tmp_path / "half_neurons" / "6" / "650.json", {"explanations": explained})
    folder = tmp_path / "half_neurons"
    assert looked_up(POSITIVE, folder, "transluce", several="first")[0] == "many"
    lenient = Precomputed(str(folder), format="transluce", several="first", gaps="fail")
    lenient.check([POSITIVE, NEGATIVE], NOWHERE)
    assert failure(lenient, case(neuron=NEGATIVE)).status is Status.FAILED


def test_delphi_folders_name_the_module(tmp_path: Path) -> None:
    save(tmp_path / "mlp" / "transformer.h.6.mlp.c_proj_latent650.txt", "years")
    assert looked_up(POSITIVE, tmp_path / "mlp", "delphi")[0] == "years"
    save(tmp_path / "sae" / "layers.6.mlp_latent650.txt", "dates")
    told(
        lambda: looked_up(POSITIVE, tmp_path / "sae", "delphi"),
        "latents of layers.*.mlp",
        "where={source: layers.*.mlp}",
    )
    assert looked_up(POSITIVE, tmp_path / "sae", "delphi", where={"source": "layers.*.mlp"})[0] == "dates"
    save(tmp_path / "other" / "notes.txt", "nothing")
    told(lambda: looked_up(POSITIVE, tmp_path / "other", "delphi"), "notes.txt", "{module}_latent{index}.txt")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "layers.6.mlp_latent1.txt").write_text("not JSON")
    told(lambda: looked_up(POSITIVE, tmp_path / "plain", "delphi"), "layers.6.mlp_latent1.txt")


def test_prism_has_several_concepts_and_output_centric_several_describers(tmp_path: Path) -> None:
    prism = tmp_path / "prism.csv"
    long = "x" * 200_000  # the highlights of the published files exceed the limit of the csv module
    rows = ["layer,unit,description,mean_activation,highlights", f"6,650,years.,0.5,{long}", "6,650,dates,0.1,[]"]
    prism.write_text("\n".join(rows))
    told(lambda: looked_up(POSITIVE, prism, "prism"), "describes L6N650 twice (line 2, line 3)")
    assert looked_up(POSITIVE, prism, "prism", several="join")[0] == "years; dates"
    assert looked_up(POSITIVE, prism, "prism", several="keep")[0] == "years | dates"

    centric = tmp_path / "llama.csv"
    header = "Layer,Feature,Sae Type,Sae Size,VocabProj Description,MaxAct Description,MaxAct Input Success"
    centric.write_text(f"{header}\n6,650,mlp,32k,No explanation found,years,True\n")
    chosen = {"source": "mlp/32k", "describer": "MaxAct"}
    assert looked_up(POSITIVE, centric, "output_centric", where=chosen) == ("years", "from llama.csv, by MaxAct")
    told(
        lambda: looked_up(POSITIVE, centric, "output_centric", where={**chosen, "describer": "VocabProj"}),
        "holds no description where",
    )


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("table", {"layer": 1, "unit": 2, "description": "a"}, ["no column 'neuron'", "unit", "format=prism"]),
        ("table", {**NP, **BY_GPT}, ["no column 'neuron'", "there are modelId, layer", "format=neuronpedia"]),
        ("prism", {"a": 1, "b": 2}, ["no column 'layer'; there are a, b"]),
        ("openai", {"neuron_id": 3, "scored_explanations": []}, ["not the layout of the format"]),
        ("neuronpedia", {**NP, "explanations": "none"}, ["not the layout of the format"]),
        ("neuronpedia", {**NP, "description": 4}, ["not text, but 4"]),
        ("transluce", {"layer": 1, "neuron": 2, "polarity": "up", "description": "a"}, ["'up' is not a sign"]),
        ("output_centric", {"Layer": 1, "Feature": 2}, ["no column 'MaxAct Description'"]),
    ],
)
def test_another_layout_is_one_line_with_the_columns(tmp_path: Path, kind: str, row: Any, words: list[str]) -> None:
    path = save(tmp_path / "set.jsonl", row)
    columns = {"layer": "layer", "index": "neuron", "text": "description"}
    told(lambda: looked_up(POSITIVE, path, kind, columns=columns), str(path), "line 1", *words)


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "set.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    told(lambda: looked_up(POSITIVE, broken, "neuronpedia"), str(broken))
    broken.write_bytes(b"not compressed")
    told(lambda: looked_up(POSITIVE, broken, "neuronpedia"), str(broken), "cannot be read")
    (tmp_path / "empty").mkdir()
    told(lambda: looked_up(POSITIVE, tmp_path / "empty", "neuronpedia"), "has no file that ends in .jsonl")
    told(lambda: looked_up(POSITIVE, tmp_path / "nowhere.json", "neuronpedia"), "nowhere.json", "No such file")


#: All windows for describers, or half of them for each of the two sides.
SPLITS = {Split.EXPLAIN: 1.0, Split.SELECT: 1e-9, Split.CALIBRATE: 1e-9, Split.REPORT: 1.0}


def windows_of_neuronpedia(path: Path) -> Path:
    """Write 40 windows of one neuron, each about another year."""
    return save(
        path,
        *[
            {**NP, "tokens": ["in", f" {1900 + number}"], "values": [0.0, 1.0 + number], "binMin": -1}
            for number in range(40)
        ],
    )


class Sees(Scorer):
    """A scorer that keeps what it is shown."""

    llm_required = False

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def score(self, case: JudgeCase, description: str) -> Grade:
        assert {window.split for window in case.exemplars} == {Split.REPORT}
        self.seen = ["".join(window.tokens) for window in case.exemplars]
        return Grade(1.0)


def test_exemplars_of_a_set_are_evidence_that_is_marked_and_split(tmp_path: Path) -> None:
    path = windows_of_neuronpedia(tmp_path / "activations.jsonl.gz")
    method = ImportedDescriber(MaxAct(exemplars=40, target_words=40), str(path), "neuronpedia", SPLITS, 0)
    method.check([POSITIVE], NOWHERE)
    draft = describe(method, case(neuron=POSITIVE))
    assert draft.detail.startswith("exemplars of activations.jsonl.gz, not of the run; from ")
    years = draft.text.split(", ")
    assert years == sorted(years, reverse=True)  # the highest activation first
    inner = Sees()
    judge = on_imported(inner, str(path), "neuronpedia", SPLITS, 0)
    assert isinstance(judge, ImportedScorer)
    judge.check([POSITIVE])
    asyncio.run(judge.score(JudgeCase(POSITIVE, (), NOWHERE, None, 0), draft.text))
    shown = {text.removeprefix("in ") for text in inner.seen}
    assert len(years) + len(shown) == 40
    assert not shown & set(years)
    told(
        lambda: ImportedDescriber(MaxAct(), str(path), "neuronpedia", SPLITS, 0).check([Neuron(0, 1)], NOWHERE),
        "no exemplars",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a neuron that no other project can name."""
    folder = make_run(tmp_path_factory.mktemp("exported") / "run", neurons=3, channels=1, hostile=False)
    journal = folder.descriptions()
    journal.append(Description(Neuron(3, 5, sign=Sign.NEGATIVE), "rotate", "the opposite"))
    journal.close()
    manifest = folder.read_manifest()
    manifest["neurons"].append("L3N5-")
    folder.manifest.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("neuronpedia", "all-minilm-l6-v2/*/explanations"),
        ("openai", "explanations/DESCRIBER"),
        ("delphi", "DESCRIBER"),
    ],
)
def test_an_export_comes_back_as_it_was(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, inside: str
) -> None:
    to = tmp_path / kind
    assert main([str(run.path), "--format", kind, "--to", str(to), "--exemplars"]) == 0
    assert "left out: 1" in capsys.readouterr().out
    made: dict[str, dict[Neuron, str]] = {}
    for item in run.descriptions().records():
        if item.status is Status.OK and not item.neuron.negative and item.text:
            made.setdefault(item.describer, {})[item.neuron] = item.text
    assert len(made) == 4  # all but the empty descriptions
    for describer, texts in made.items():
        paths = [str(path) for path in to.glob(inside.replace("DESCRIBER", describer))]
        where = {"typeName": describer} if kind == "neuronpedia" else {}
        method = Precomputed(paths, format=kind, where=where)  # type: ignore[arg-type]
        method.check(list(texts), NOWHERE)
        assert {neuron: describe(method, case(neuron=neuron)).text for neuron in texts} == texts
    before = {file: file.read_bytes() for file in to.rglob("*") if file.is_file()}
    again = tmp_path / "again"
    assert main([str(run.path), "--format", kind, "--to", str(again), "--exemplars"]) == 0
    assert {again / file.relative_to(to): data for file, data in before.items()} == {
        file: file.read_bytes() for file in again.rglob("*") if file.is_file()
    }
    assert main([str(run.path), "--format", kind, "--to", str(to)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_a_set_of_every_format_competes_with_rotate_and_maxact(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    # The sets have maxact's own descriptions: against every other describer they must do exactly as maxact does.
    off = {f"diagnostics.{name}": "0" for name in ("sample", "random_vectors", "ablated", "text_ablated")}
    chosen = {**small, **off, "describers": "[rotate,maxact,generic]", "judges": "[token_pairwise]"}
    assert invoke(*options(chosen, folder="own"))[0] == 0
    own = RunFolder(tmp_path / "own")
    texts = {item.neuron: item.text for item in own.descriptions().records() if item.describer == "maxact"}
    for kind in ("neuronpedia", "openai", "delphi"):
        export_to(own, tmp_path / kind, kind)  # type: ignore[arg-type]
    units = [(neuron.layer, neuron.index, text) for neuron, text in texts.items()]
    fields = ("layer", "neuron", "description")
    save(tmp_path / "transluce.jsonl", *[{**dict(zip(fields, unit, strict=True)), "polarity": 1} for unit in units])
    tables = {"prism": ("layer", "unit", "description"), "centric": ("Layer", "Feature", "MaxAct Description")}
    for name, header in tables.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *units])
    sets = {
        "neuronpedia": (sorted((tmp_path / "neuronpedia" / "tiny-llama").glob("*/explanations")), "typeName: maxact"),
        "openai": ([tmp_path / "openai" / "explanations" / "maxact"], ""),
        "delphi": ([tmp_path / "delphi" / "maxact"], ""),
        "transluce": ([tmp_path / "transluce.jsonl"], ""),
        "prism": ([tmp_path / "prism.csv"], ""),
        "output_centric": ([tmp_path / "centric.csv"], "describer: MaxAct"),
    }
    target = "_target_: describers.precomputed.Precomputed"
    code, _, err = invoke(
        *options(chosen, folder="together"),
        *(
            f"+describers.{kind}={{{target}, format: {kind}, path: [{', '.join(map(str, paths))}], where: {{{where}}}}}"
            for kind, (paths, where) in sets.items()
        ),
    )
    assert code == 0, err
    outcomes: dict[tuple[str, str], dict[Neuron, str]] = {}
    for verdict in RunFolder(tmp_path / "together").verdicts().records():
        shown = {Winner.FIRST: verdict.first, Winner.SECOND: verdict.second, Winner.TIE: "tie", None: verdict.status}
        for one, other in ((verdict.first, verdict.second), (verdict.second, verdict.first)):
            winner = shown[verdict.winner].replace(one, "itself")
            outcomes.setdefault((one, other), {})[verdict.neuron] = winner
    for kind in sets:
        assert set(outcomes["maxact", kind].values()) == {"tie"}
        for other in ("rotate", "generic"):
            assert outcomes[kind, other] == outcomes["maxact", other]
    assert len(set(outcomes["maxact", "rotate"].values()) | set(outcomes["maxact", "generic"].values())) > 1


@pytest.mark.parametrize(("kind", "inside"), [("neuronpedia", "all-minilm-l6-v2/*/activations"), ("openai", "neurons")])
def test_exported_windows_come_back_with_their_activations(
    run: RunFolder, tmp_path: Path, kind: str, inside: str
) -> None:
    assert main([str(run.path), "--format", kind, "--to", str(tmp_path / "to"), "--exemplars"]) == 0
    neuron = Neuron(3, 5)
    paths = [str(path) for path in sorted((tmp_path / "to").glob(inside))]
    inner = Sees()
    judge = on_imported(inner, paths, kind, {**SPLITS, Split.EXPLAIN: 1e-9}, 0)  # type: ignore[arg-type]
    judge.check([neuron])  # type: ignore[call-arg]
    found = judge._evidence.of(neuron, Split)
    assert {item.source for item in found} == {Source.TOP, Source.RANDOM}
    known = {item.tokens: item for item in run.read_exemplars([neuron])}
    assert all(item.tokens in known for item in found)
    for item in found:
        assert item.activations == pytest.approx(known[item.tokens].activations, abs=1e-4)


def test_a_run_opens_in_the_viewers_of_neuronpedia_and_saedashboard(run: RunFolder, tmp_path: Path) -> None:
    assert main([str(run.path), "--format", "neuronpedia", "--to", str(tmp_path / "to")]) == 0
    folder = tmp_path / "to" / "all-minilm-l6-v2" / "3"
    model, source = (json.loads((folder / f"{name}.jsonl").read_text()) for name in ("model", "source"))
    assert (model["id"], model["layers"], source["id"], source["setName"]) == ("all-minilm-l6-v2", 6, "3", "neurons")
    with gzip.open(folder / "features" / "batch-0.jsonl.gz", "rt") as file:
        features = [json.loads(line) for line in file]
    dashboards = json.loads((folder / "saedashboard" / "batch-0.json").read_text())["features"]
    assert [item["index"] for item in features] == [str(item["feature_index"]) for item in dashboards] == ["5", "39"]
    assert {item["hookName"] for item in features} == {"blocks.3.mlp.hook_post"}
    assert len(features[0]["pos_str"]) == len(features[0]["pos_values"]) == 20
    # Without --exemplars, no text of the corpus is written.
    with gzip.open(folder / "activations" / "batch-0.jsonl.gz", "rt") as file:
        assert file.read() == ""
    assert dashboards[0]["activations"] == []


def test_hooks_are_named_as_in_the_libraries() -> None:
    found = {
        kind: hook_names({"subject": {"model_type": kind}}, Neuron(3, 17))
        for kind in ("llama", "gpt2", "bert", "mixtral", "unheard")
    }
    assert found == {
        "llama": ("blocks.3.mlp.hook_post", "model.layers.3.mlp.down_proj"),
        "gpt2": ("blocks.3.mlp.hook_post", "transformer.h.3.mlp.c_proj"),
        "bert": ("blocks.3.mlp.hook_post", "bert.encoder.layer.3.output.dense"),
        "mixtral": None,
        "unheard": None,
    }
