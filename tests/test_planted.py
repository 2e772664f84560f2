"""Planted subjects: everything is compared with the known truth, without an LLM."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.errors import told
from support.planted import SOIL, known_activations, spelt
from transformers import AutoModelForCausalLM

from harness.decomposition import kurtosis
from harness.evidence import EvidenceConfig
from harness.evidence.encoding import Encoder
from harness.evidence.windows import Cutter
from harness.folder import RunFolder
from harness.planted import (
    Grade,
    PlantedCorpus,
    PlantedSubject,
    Planting,
    Seen,
    Truth,
    checkpoint_of,
    graded,
    naming,
    truth_of,
)
from harness.planted.__main__ import main as table
from harness.planted.recall import RecallRow, recall_rows, rows_of_run
from harness.records import Description, Neuron, Side, Sign, Split, Status, VectorKind
from harness.run.main import main
from harness.stats.config import StatisticsConfig
from harness.stems import stem
from harness.subject import ActivationReader
from judges.planted import PlantedTruth

#: Two difficulties, and neurons with a negative side.
LEVELS: dict[str, Any] = {
    "clear": {"neurons": 14, "reads": 1, "writes": 1},
    "drowned": {"neurons": 5, "reads": 3, "writes": 1, "falloff": 0.7, "noise": 20.0},
    "two_sided": {"neurons": 2, "reads": 1, "writes": 0, "negatives": 1},
}
SETTINGS: dict[str, Any] = {**SOIL, "levels": LEVELS, "only_weights": 0.35, "only_text": 0.35}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def subject(cache: Path) -> PlantedSubject:
    return PlantedSubject("planted", SETTINGS, str(cache), dtype="float32")


@pytest.fixture(scope="module")
def truth(subject: PlantedSubject) -> Truth:
    return subject.truth


def of_level(truth: Truth, level: str) -> list[Neuron]:
    return [Neuron(0, neuron.index) for neuron in truth.neurons if neuron.level == level]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_settings_make_equal_bytes_and_are_made_once(
    subject: PlantedSubject, cache: Path, tmp_path: Path
) -> None:
    made = subject.files.folder
    assert made is not None
    backwards = {**SETTINGS, "levels": dict(reversed(LEVELS.items()))}  # the order in a file is no setting
    again = checkpoint_of(Planting.of(backwards), tmp_path)
    assert again.name == made.name
    assert contents(again) == contents(made)
    written = (made / "model.safetensors").stat().st_mtime_ns
    assert checkpoint_of(Planting.of(SETTINGS), cache) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in cache.iterdir()] == [made.name]  # nothing half made is left beside it
    other = Planting.of({**SETTINGS, "seed": 1})
    assert other.key != made.name
    assert truth_of(other).neurons != truth_of(Planting.of(SETTINGS)).neurons


def test_the_truth_is_read_from_disk_alone(subject: PlantedSubject, truth: Truth) -> None:
    assert subject.files.folder is not None
    assert Truth.read(subject.files.folder / "truth.json") == truth == truth_of(Planting.of(SETTINGS))
    assert [neuron.level for neuron in truth.neurons].count("drowned") == 5
    assert subject.d_mlp == len(truth.neurons) == 21
    tokens = [token for concept in truth.concepts for token in concept.tokens]
    assert len(tokens) == len(set(tokens))  # no word is of two concepts
    assert len(truth.concepts) >= 40
    roots = [set(map(stem, (*concept.words, *concept.labels))) for concept in truth.concepts]
    assert len(set.union(*roots)) == sum(map(len, roots))  # nor does a word of one, in any form, name another
    for concept in truth.concepts:
        assert 8 <= len(concept.words) == len(concept.tokens) <= 28
        assert subject.tokenizer.convert_tokens_to_ids(list(concept.words)) == list(concept.tokens)
        assert concept.neighbour != concept.name
    shares = [sum(concept.seen is seen for concept in truth.concepts) for seen in (Seen.WEIGHTS, Seen.TEXT)]
    assert shares == [22, 22]  # 0.35 of 63


def test_concepts_are_what_their_names_say(truth: Truth) -> None:
    # Found in the embedding, none of them written down in the list that the concepts begin with.
    for name, words in {
        "days of the week": "fridays mondays tomorrow",
        "colours": "gray colored",
        "ships and boats": "warship freighter battleship",
        "courts and law": "prosecutors litigation courtroom",
        "family members": "grandfather mom siblings",
    }.items():
        assert set(words.split()) <= set(truth.concept(name).words)


def test_activations_are_what_the_formula_says(subject: PlantedSubject, truth: Truth) -> None:
    assert subject.files.folder is not None
    neurons = [Neuron(0, index) for index in range(len(truth.neurons))]
    text = "On Monday the judge saw a frigate in the storm, and the prosecutors ate bananas on 17 warships."
    ids = subject.tokenizer(text).input_ids
    turned = [ids[0], *reversed(ids[1:])]
    reader = ActivationReader(subject, neurons, "cpu")
    read = reader.read(torch.tensor([ids, turned]), torch.ones(2, len(ids), dtype=torch.long))
    reader.close()
    indices = [neuron.index for neuron in neurons]
    for row, tokens in enumerate((ids, turned)):  # wherever a token stands
        known = known_activations(subject.files.folder, indices, tokens)
        np.testing.assert_allclose(read[row].numpy(), known, atol=1e-4, rtol=1e-4)
    assert float(read.abs().max()) > 2  # something was said that a neuron responds to


def test_neurons_respond_to_their_concepts_as_their_weights_say(subject: PlantedSubject, truth: Truth) -> None:
    assert subject.files.folder is not None
    everything = range(1000, subject.vocab_size)
    for level in ("clear", "two_sided"):
        for neuron in of_level(truth, level):
            everywhere = known_activations(subject.files.folder, [neuron.index], everything)[:, 0]
            for part in truth.neuron(neuron).reads:
                tokens = truth.concept(part.concept).tokens
                there = known_activations(subject.files.folder, [neuron.index], tokens)[:, 0]
                # silu(4 w) w at the mean word, some of them more and some less.
                assert 2.5 < there.mean() * np.sign(part.weight) < 7
                assert np.abs(there).mean() > 8 * np.abs(everywhere).mean()
    for neuron in of_level(truth, "drowned"):
        weights = [part.weight for part in truth.neuron(neuron).reads]
        assert weights == [1.0, 0.7, 0.49]


def test_a_sign_has_the_concepts_that_drive_it(truth: Truth) -> None:
    for neuron in of_level(truth, "two_sided"):
        positive, negative = truth.planted(neuron), truth.planted(neuron.with_sign(Sign.NEGATIVE))
        parts = truth.neuron(neuron).reads
        assert [item.concept.name for item in (*positive, *negative)] == [part.concept for part in parts]
        assert [item.weight for item in negative] == [1.0]
    neuron = of_level(truth, "clear")[0]
    assert [item.seen is Seen.OUTPUT for item in truth.planted(neuron)] == [False, True]
    assert truth.planted(neuron.with_sign(Sign.NEGATIVE)) == ()
    assert truth.planted(neuron, Side.INPUT) + truth.planted(neuron, Side.OUTPUT) == truth.planted(neuron)


def test_what_the_vocabulary_projection_can_show(subject: PlantedSubject, truth: Truth) -> None:
    """Concepts "in text only" are noise in W_U, by the vectors that read them, and plain in the embedding."""
    seen = set()
    projection, embedding = subject.projection(0), subject.weights.embedding()
    for neuron in of_level(truth, "clear"):
        concept = truth.planted(neuron, Side.INPUT)[0].concept
        seen.add(concept.seen)
        for kind in (VectorKind.GATE, VectorKind.IN):
            vector = subject.vectors(0, [neuron.index], kind)[0]
            unembedded, embedded = vector @ projection, vector @ embedding
            z = {
                name: float(((values - values.mean()) / values.std())[list(concept.tokens)].mean())
                for name, values in {"unembedded": unembedded, "embedded": embedded}.items()
            }
            assert z["embedded"] > 5
            if concept.seen is Seen.TEXT:
                assert abs(z["unembedded"]) < 2
                assert float(kurtosis(unembedded)) < 2
            else:
                assert z["unembedded"] > 5
    assert seen == {Seen.BOTH, Seen.WEIGHTS, Seen.TEXT}


def test_a_clamped_neuron_makes_the_model_say_its_output_concept(subject: PlantedSubject, truth: Truth) -> None:
    assert subject.files.folder is not None
    model = AutoModelForCausalLM.from_pretrained(subject.files.folder, dtype=torch.float32).eval()
    ids = torch.tensor([subject.tokenizer("there was something else").input_ids])
    clamped = 0

    def clamp(_module: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        values = inputs[0].clone()
        values[..., clamped] = 10.0
        return (values,)

    hook = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(clamp)
    for neuron in of_level(truth, "clear")[:4]:
        clamped = neuron.index
        with torch.inference_mode():
            top = set(model(input_ids=ids).logits[0, -1].topk(8).indices.tolist())
        concept = truth.planted(neuron, Side.OUTPUT)[0].concept
        assert len(top & set(concept.tokens)) >= 6, (concept.name, subject.tokenizer.convert_ids_to_tokens(list(top)))
    hook.remove()


def test_the_corpus_lacks_what_only_weights_can_show_and_nothing_else(subject: PlantedSubject, truth: Truth) -> None:
    corpus = PlantedCorpus(SETTINGS, documents=400)
    texts = list(corpus.texts())
    assert texts == list(PlantedCorpus(SETTINGS, documents=400).texts())
    assert texts[:50] == list(PlantedCorpus(SETTINGS, documents=50).texts())
    held = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    roots = set(map(stem, held))
    for concept in truth.concepts:
        if concept.seen is Seen.WEIGHTS:
            assert not roots & set(map(stem, (*concept.words, *concept.labels))), concept.name
        else:
            assert len(held & set(concept.words)) >= 4, concept.name
    config = EvidenceConfig(window=32, max_documents=None, top=10, random=20)
    windows = Cutter(Encoder(subject.tokenizer), config, 0).cut(corpus.documents(None))
    assert {window.split for window in windows} == set(Split)


def test_what_names_a_concept(truth: Truth) -> None:
    neuron = next(n for n in of_level(truth, "clear") if truth.planted(n, Side.INPUT)[0].concept.seen is Seen.BOTH)
    read, written = (item.concept for item in truth.planted(neuron))
    planted = truth.planted(neuron)
    assert naming("", planted).named == (False, False)
    assert naming("", planted).precision is None
    assert naming(f"{read.words[0]}", planted).named == (False, False)  # one word can be chance
    assert naming(f"{read.words[0]}, {read.words[0]}s", planted).named == (False, False)  # nor is its plural another
    assert naming(read.labels[0].upper(), planted).named == (True, False)
    # Two of four words; "the" and "of" count for nothing.
    found = naming(f"the {read.words[0]} of xylophones, {written.words[0]} and quux", planted)
    assert (found.named, found.words, found.hits, found.precision) == ((False, False), 4, 2, 0.5)
    for each in truth.neurons:
        one = Neuron(0, each.index)
        assert naming(truth.description(one), truth.planted(one)).recall == 1


@pytest.mark.parametrize(
    "forms",
    [
        "ship ships",
        "city cities",
        "jump jumps jumped jumping",
        "run runs running",
        "make makes making",
        "watch watches watched",
        "glance glanced glancing",
        "movie movies",
        "fall falls falling",
        "rose roses",
        "horse horses",
        "stare stares stared staring",
    ],
)
def test_inflections_are_one_word(forms: str) -> None:
    assert len(set(map(stem, forms.split()))) == 1


def test_other_words_stay_others() -> None:
    words = "star stare her here car care king sing red bed mass mas"
    assert len(set(map(stem, words.split()))) == len(words.split())


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzé", min_size=1, max_size=12))
def test_a_stem_is_never_empty(word: str) -> None:
    assert 0 < len(stem(word)) <= len(word) + 1


def test_corruptions_get_worse_as_they_say(truth: Truth) -> None:
    neurons = [*of_level(truth, "clear"), *of_level(truth, "drowned")]
    for neuron in neurons:
        planted = truth.planted(neuron)
        made = graded(truth, neuron, neurons, seed=3)
        assert made == graded(truth, neuron, list(reversed(neurons)), seed=3)
        recall = {grade: naming(text, planted).recall for grade, text in made.items()}
        numbered = [grade for grade in made if grade not in set(Grade)]
        assert numbered == [f"{Grade.OTHER} ({number})" for number in range(2, 9)]
        assert len({made[grade] for grade in (Grade.OTHER, *numbered)}) == 8
        assert set(made) == {*Grade, *numbered}
        assert recall[Grade.ADDED_HALF] == recall[Grade.ADDED] == recall[Grade.ADDED_TWICE] == 1
        assert recall[Grade.RIGHT] == recall[Grade.PADDED] == 1
        assert recall[Grade.HALF] == (len(planted) // 2) / len(planted)
        assert recall[Grade.NEIGHBOUR] == recall[Grade.OTHER] == recall[Grade.GENERIC] == recall[Grade.EMPTY] == 0
        assert recall[Grade.NARROW] is not None
        assert recall[Grade.NARROW] < 1
        assert naming(made[Grade.NARROW], planted).hits == len(planted)  # a word of each, which is not enough
        right, padded = (len(made[grade].split()) for grade in (Grade.RIGHT, Grade.PADDED))
        assert abs(padded - 2 * right) <= 3
        assert made[Grade.PADDED].startswith(f"{made[Grade.RIGHT]}. ")
        assert made[Grade.OTHER] in {truth.description(other) for other in neurons if other != neuron}

    alone = of_level(truth, "clear")[0]
    grades = graded(truth, alone, [alone], side="input")
    assert Grade.HALF not in grades  # of one concept there is no half
    assert Grade.OTHER not in grades  # nor another's where there is no other
    promoted = graded(truth, alone, neurons, side="output")
    assert promoted[Grade.RIGHT].startswith("promotes ")
    told(lambda: graded(truth, of_level(truth, "two_sided")[0], neurons, side="output"), "nothing was planted in")


def test_recall_counts_failures_apart(truth: Truth) -> None:
    first, second, third = of_level(truth, "clear")[:3]
    read = truth.planted(first)[0].concept
    made = [
        Description(first, "half", f"{read.labels[0]}, stapler"),
        Description(second, "half", "stapler"),
        Description(third, "half", "", Status.REFUSED, "no"),
    ]
    (row,) = recall_rows(truth, made, controls=["half"])
    assert (row.recall.mean, row.recall.count, row.failed, row.control) == (0.25, 4, 1, True)
    assert (row.precision.mean, row.precision.count) == (0.25, 2)  # one word of two, none of one
    assert (row.seen[Seen.OUTPUT].mean, row.seen[Seen.OUTPUT].count) == (0.0, 2)
    assert row.levels["drowned"].mean is None
    # Where nothing was planted nothing can be hit: that is no precision of 0, and no shorter or longer text.
    silent = [Description(first.with_sign(Sign.NEGATIVE), "half", "three other words"), *made]
    (again,) = recall_rows(truth, silent, controls=["half"])
    assert (row.unplanted, again) == (0, dataclasses.replace(row, unplanted=1))
    assert naming("three other words", ()).precision is None
    wide, narrow = (
        recall_rows(truth, made, [], config=StatisticsConfig(confidence=share))[0].recall.interval
        for share in (0.99, 0.2)
    )
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > narrow[1] - narrow[0]
    assert recall_rows(truth, made[:1], [])[0].recall.interval is None  # one neuron shows no variation
    told(lambda: recall_rows(truth, [Description(Neuron(3, 1), "lost", "x")], []), "nothing was planted in L3N1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A whole run from the command line, on the subject of the other tests."""
    folder = tmp_path_factory.mktemp("runs") / "planted"
    chosen = {"one": None, "two_noisy": None, "three_uneven": None, "four_drowned": None, **LEVELS}
    levels = [f"++subject.planting.levels.{name}={spelt(level)}" for name, level in chosen.items()]
    arguments = [
        *("experiment=planted", f"folder={folder}", f"subject.cache={cache}", "judges=[planted]", "tracking=none"),
        *("describers=[rotate,maxact,vocab_proj,token_change,shuffled,generic]", "steering.effects.prompts=4"),
        *("corpus.documents=600", "evidence.top=10", "evidence.random=10", "decomposition.num_channels=3"),
        *levels,
        *("subject.planting.only_weights=0.35", "subject.planting.only_text=0.35", "neurons.kinds=[in,out]"),
        *(
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            *("diagnostics.text_ablated=21", "diagnostics.text_pieces=128", "diagnostics.text_tokens=24"),
            "storage.histograms=false",
        ),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neuron-harness", *arguments])
        patch.chdir(folder.parent)
        main()
    return folder


@pytest.fixture(scope="module")
def rows(finished: Path) -> dict[str, RecallRow]:
    _, found = rows_of_run(RunFolder(finished))
    return {row.describer: row for row in found}


def test_rotate_finds_what_no_text_holds_and_maxact_what_no_projection_shows(finished: Path) -> None:
    run = RunFolder(finished)
    truth, _ = rows_of_run(run)
    clear = set(of_level(truth, "clear"))
    found = recall_rows(truth, (item for item in run.descriptions().records() if item.neuron in clear), [])
    recall = {(row.describer, seen): row.seen[seen].mean or 0.0 for row in found for seen in Seen}
    assert min(row.seen[seen].count for row in found for seen in Seen) >= 2
    assert recall["rotate", Seen.WEIGHTS] > 0.8
    assert recall["maxact", Seen.WEIGHTS] < 0.1
    assert recall["maxact", Seen.TEXT] > 0.8
    assert recall["rotate", Seen.TEXT] < 0.1
    for describer in ("rotate", "maxact"):
        assert recall[describer, Seen.BOTH] > 0.8
    assert recall["vocab_proj", Seen.OUTPUT] > 0.8
    assert recall["token_change", Seen.OUTPUT] > 0.8
    assert recall["maxact", Seen.OUTPUT] < 0.1


def test_removing_a_channel_from_text_removes_more_of_the_response_to_its_tokens_than_to_others(finished: Path) -> None:
    rows = {row["kind"]: row for row in json.loads((finished / "decomposition.json").read_text())["rows"]}
    for row in rows.values():
        assert row["text_ablated"] == 21
        assert row["text_positions"] >= 200
        assert row["text_faithful"] > row["text_another"] + 0.03
        assert row["text_faithful"] > row["text_elsewhere"] + 0.1
    # Of the concepts that in vectors read, the projection lacks a third. All that out vectors write is in it.
    assert rows["out"]["text_faithful_interval"][0] > rows["out"]["text_random_interval"][1]
    assert rows["out"]["text_faithful"] > rows["out"]["text_another"] + 0.15
    claims = {row["key"]: row for row in json.loads((finished / "claims.json").read_text())}
    for key, kind in (("activations", "in"), ("logits", "out")):
        claim = claims[f"faithful_{key}"]
        assert (claim["value"], claim["control"]) == (rows[kind]["text_faithful"], rows[kind]["text_random"])
        assert claim["vectors"] == 21
    assert claims["kurtosis_1"]["value"] > claims["vector_kurtosis"]["value"]
    assert claims["kurtosis_5"]["value"] is None  # three channels


def test_controls_find_next_to_nothing(rows: dict[str, RecallRow]) -> None:
    assert {name for name, row in rows.items() if row.control} == {"shuffled", "generic"}
    for name in ("shuffled", "generic"):
        for figure in (rows[name].recall, rows[name].precision):
            assert figure.mean is not None
            assert figure.mean < 0.15
    for name in ("rotate", "maxact", "vocab_proj", "token_change"):
        for figure in ("recall", "precision"):
            real, control = getattr(rows[name], figure), getattr(rows["shuffled"], figure)
            assert real.interval is not None
            assert control.interval is not None
            assert real.interval[0] > control.interval[1]


def test_more_concepts_in_more_noise_are_harder(rows: dict[str, RecallRow]) -> None:
    for name in ("rotate", "maxact"):
        clear, drowned = (rows[name].levels[level].mean for level in ("clear", "drowned"))
        assert clear is not None
        assert drowned is not None
        assert clear > drowned + 0.1


def test_the_scorer_and_the_table_say_the_same(
    finished: Path, rows: dict[str, RecallRow], capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(finished)
    truth, _ = rows_of_run(run)
    for name, row in rows.items():
        scores = [score for score in run.scores().records() if score.describer == name and score.status is Status.OK]
        # Neurons weigh alike there, concepts here.
        weights = [len(truth.planted(score.neuron)) for score in scores]
        recalls = [score.metrics["recall"] * weight for score, weight in zip(scores, weights, strict=True)]
        assert sum(recalls) / sum(weights) == pytest.approx(row.recall.mean, abs=1e-5)
        assert all(score.value is not None and 0 <= score.value <= 1 for score in scores)
    assert json.loads(run.leaderboard.read_text())["scores"][0]["scorer"] == "planted"
    assert "subject.cache" not in run.read_manifest()["identity"]  # where the checkpoint is kept is no matter

    assert table([str(finished)]) == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("| maxact |") and line.count("|") > 8)
    assert f"{rows['maxact'].recall.mean:.2f}" in line
    assert "| shuffled (control) |" in printed
    assert "| recall by difficulty | clear |" in printed
    assert "In brackets: 95 % intervals" in printed


def test_without_a_checkpoint_the_truth_is_made_again(finished: Path, cache: Path, rows: dict[str, RecallRow]) -> None:
    (folder,) = cache.iterdir()
    aside = folder.rename(cache.parent / "aside")
    try:
        _, again = rows_of_run(RunFolder(finished))
    finally:
        aside.rename(folder)
    assert {row.describer: row for row in again} == rows


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(lambda: PlantedCorpus(None), "subject=planted")
    told(lambda: PlantedTruth(None), "subject=planted")
    told(lambda: Planting.of({**SOIL, "levels": {}}), "planting.levels")
    told(
        lambda: Planting.of({**SOIL, "levels": {"a": {"neurons": 0}}}),
        "planting.levels.a.neurons",
        "at least 1",
    )
    told(lambda: Planting.of({**SOIL, "levels": {"a": {"neurons": 1, "depth": 2}}}), "planting", "depth")
    told(lambda: Planting.of({**SETTINGS, "only_text": 0.9}), "planting", "only_weights + only_text must be at most 1")
    greedy = Planting.of({**SOIL, "levels": {"greedy": {"neurons": 1, "reads": 60, "writes": 10}}})
    told(lambda: truth_of(greedy), "planting.levels.greedy", "more concepts than there are (63)")
    told(lambda: truth_of(Planting.of({**SETTINGS, "sha256": "0"})), "not the expected one", "subject.planting.sha256")
    told(lambda: truth_of(Planting.of({**SETTINGS, "embedding": "wte"})), "no tensor 'wte'", "planting.embedding")
    (tmp_path / "file").write_text("")
    told(lambda: checkpoint_of(Planting.of(SETTINGS), tmp_path / "file"), "cannot be written", "subject.cache")
    (tmp_path / "truth.json").write_text("{}")
    told(lambda: Truth.read(tmp_path / "truth.json"), "is not a record of what was planted")
    assert table([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_another_subject_is_refused_before_time_is_spent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for choice in ("corpus=planted", "judges=[planted]"):
        monkeypatch.setattr(sys, "argv", ["neuron-harness", choice, "tracking=none"])
        with pytest.raises(SystemExit):
            main()
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "subject=planted" in line
