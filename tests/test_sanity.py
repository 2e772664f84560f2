"""Sanity checks of metrics on planted neurons of known base rate, and the script that reads descriptions perfectly."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.errors import told
from support.judge_cases import case, compare, excerpts_of, failure, peaked, rater, score, window
from support.planted import SOIL

from harness.folder import RunFolder, write_json
from harness.llm.client import PromptLogprobs, PromptToken
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import JudgeCase, Scorer
from harness.planted import PlantedCorpus, Planting, truth_of
from harness.planted.oracle import PlantedOracle
from harness.planted.sanity import lines, measured_sanity, passes, sanity_of, store_sanity, stored_sanity
from harness.planted.truth import Concept
from harness.records import Description, Exemplar, Neuron, Score, Source, Status, Verdict, Winner
from harness.run.main import main
from judges.detection import Detection
from judges.pairwise import PairwiseLLM
from judges.sampling import hard_negatives, report_sample
from judges.simulation import SimulationLLM
from judges.surprisal import Surprisal

LEVELS = {
    "common": {"neurons": 2, "reads": 2, "writes": 0, "rate": 0.1},
    "rare": {"neurons": 2, "reads": 2, "writes": 0, "rate": 0.01},
}
SETTINGS: dict[str, Any] = {**SOIL, "levels": LEVELS, "only_weights": 0.0, "only_text": 0.0}
GRADES = {
    **{"right": "right", "half": "half", "broad": "as many false concepts added"},
    **{"other": "another neuron's", "missing": "another neuron's (2)"},
}


def test_each_concept_has_its_share_of_the_sentences() -> None:
    planting = Planting.of(SETTINGS)
    truth = truth_of(planting)
    for neuron in truth.neurons:
        rate = LEVELS[neuron.level]["rate"]
        assert [truth.concept(part.concept).rate for part in neuron.reads] == [rate / 2] * 2
    # The concepts of the common neurons are those of no rare one.
    assert [planting.level_of(index).rate for index in range(4)] == [0.1, 0.1, 0.01, 0.01]
    texts = list(PlantedCorpus(planting, documents=2000).texts())
    for concept in truth.concepts:
        about = sum(not set(concept.words).isdisjoint(text.replace(",", "").replace(".", "").split()) for text in texts)
        expected = 2000 * (concept.rate or 0)
        assert abs(about - expected) < 5 * (expected + 1) ** 0.5
    told(lambda: Planting.of({**SETTINGS, "levels": {**LEVELS, "x": {"neurons": 1}}}), "all difficulties or none")
    crowded = Planting.of({**SETTINGS, "levels": {"x": {"neurons": 1, "reads": 2, "rate": 0.9}}})
    told(lambda: truth_of(crowded), "subject.planting.levels.x", "only 1 concepts", "lower the rate")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose scorer notices too much on common neurons only; one answer about a rare neuron failed."""
    folder = RunFolder(tmp_path)
    manifest = {
        "seed": 0,
        "commit": "abc",
        "versions": {"neuron-harness": "1.2"},
        "contestants": {name: {"corruption": {"grade": grade}} for name, grade in GRADES.items()},
        "config": {
            "subject": {"planting": SETTINGS},
            "judges": {"scorer": {"_target_": "some.Scorer"}, "comparator": {"_target_": "some.Comparator"}},
            "statistics": {},
        },
    }
    write_json(folder.manifest, manifest)
    scores, verdicts, descriptions = folder.scores(), folder.verdicts(), folder.descriptions()
    for index in range(4):
        neuron, rare = Neuron(0, index), index > 1
        values = {"right": 0.9, "half": 0.6, "broad": 0.9 if rare else 0.8, "other": 0.1}
        for name, value in values.items():
            descriptions.append(Description(neuron, name, name))
            failed = index == 3 and name == "half"
            metrics = {} if failed else {"f1": value - (name == "broad"), "base": 0.1}
            status = Status.FAILED if failed else Status.OK
            scores.append(Score(neuron, "scorer", name, None if failed else value, status, metrics=metrics))
            if name != "right":
                winner = Winner.TIE if name == "broad" and rare else Winner.SECOND
                verdicts.append(Verdict(neuron, "comparator", name, "right", True, winner, Status.OK, ""))
    # A description that does not exist is no failure of the judges.
    descriptions.append(Description(Neuron(0, 0), "missing", "", Status.FAILED))
    scores.append(Score(Neuron(0, 0), "scorer", "missing", None, Status.FAILED, "no description"))
    for journal in (scores, verdicts, descriptions):
        journal.close()
    return folder


def test_the_table_by_hand(run: RunFolder) -> None:
    table = sanity_of(run, run.read_manifest())
    assert table is not None
    assert (table.version, table.commit) == ("1.2", "abc")
    found = {
        (row.judge, row.metric, row.rate): tuple(
            (test.share, test.neurons) for test in (row.missing, row.extra, row.rank)
        )
        for row in table.rows
    }
    assert found == {
        ("scorer", "value", 0.1): ((1, 2), (1, 2), (1, 2)),
        ("scorer", "value", 0.01): ((1, 1), (0, 2), (1, 2)),
        ("scorer", "f1", 0.1): ((1, 2), (1, 2), (1, 2)),
        ("scorer", "f1", 0.01): ((1, 1), (1, 2), (1, 2)),
        ("comparator", "value", 0.1): ((1, 2), (1, 2), (1, 2)),
        ("comparator", "value", 0.01): ((1, 2), (0, 2), (1, 2)),
    }
    assert {row.chance for row in table.rows} == {0.5}
    value = table.of_target("some.Scorer")
    assert [row.rate for row in value] == [0.1, 0.01]
    assert passes(value) is False
    assert passes([row for row in table.rows if row.metric == "f1"]) is True
    assert passes(()) is None
    head, body = lines(table)
    assert head[:4] == ["judge", "metric", "passes", "missing 10 %"]
    assert body[0] == ["scorer", "value", "no", "100", "100", "100", "0", "100", "100"]


def test_it_is_stored_and_absent_where_nothing_can_be_checked(run: RunFolder) -> None:
    store_sanity(run)
    assert stored_sanity(run) == sanity_of(run, run.read_manifest())
    manifest = run.read_manifest()
    manifest["contestants"].pop("right")
    write_json(run.manifest, manifest)
    store_sanity(run)
    assert not run.sanity.exists()
    assert stored_sanity(run) is None


def test_the_packaged_judges_have_been_checked() -> None:
    table = measured_sanity()
    assert table.version
    for target in ("token_match.TokenSimulation", "embedding.EmbeddingDetection", "detection.Detection"):
        assert passes(table.of_target(f"judges.{target}")) is not None
    assert json.dumps(lines(table))


def test_windows_represent_the_whole_split() -> None:
    top = [window([" a"], [9.0]), window([" b"], [8.0], number=900)]
    random = [
        window([" b"], [8.0], Source.RANDOM, number=900),
        *(window([" c"], [0.0], Source.RANDOM) for _ in range(4)),
    ]
    report = report_sample(case([*top, *random]))
    assert report.weights.tolist() == [1, 1, 1, 1, 1, 1]  # the size of the split is not known
    # Of 22 windows 2 are the most active ones, and four random ones represent the other 20.
    known = report_sample(dataclasses.replace(case([*top, *random]), report_windows=22))
    assert known.weights.tolist() == [1, 1, 5, 5, 5, 5]


def test_hard_negatives_are_cropped_around_the_token_for_which_they_were_chosen() -> None:
    active = [window([" the", " bank"], [0, 9.0])]
    silent = [
        window([" x", " x", " river", " bank", " y", " y"], [0.1, 0, 0, 0, 0, 0], Source.RANDOM),
        window([" a", " loan", " b"], [0.1, 0, 0], Source.RANDOM),
        window([" nothing"], [0.0], Source.RANDOM),
    ]
    given = case([*active, *silent])
    for descriptions in (("loan", "money"), ("money", "loan")):
        found = hard_negatives(given, None, active, silent, descriptions, 4, 1)
        assert ["".join(item.tokens) for item in found] == [" river bank y", " a loan b"]
    assert [item.tokens for item in hard_negatives(given, None, active, silent, (), 4, 0)] == [(" bank",)]


def test_a_run_checks_its_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = {
        "every_tenth": "{neurons: 3, reads: 2, writes: 0, rate: 0.1}",
        "every_hundredth": "null",
        "every_thousandth": "null",
    }
    arguments = [
        *("experiment=sanity", f"folder={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", "tracking=none"),
        *(f"subject.planting.levels.{name}={level}" for name, level in levels.items()),
        *("judges=[token_simulation,detection,simulation,claims]", "corpus.documents=600", "evidence.store=null"),
        *("evidence.top=8", "evidence.random=8", "evidence.report_random=300", "statistics.draws=50"),
        *(f"evidence.splits.{split}=0.04" for split in ("explain", "select", "calibrate")),
        *(f"describers.sanity_another_{number}=null" for number in range(2, 9)),
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["neuron-harness", *arguments])
    main()
    folder = RunFolder(tmp_path / "run")
    table = stored_sanity(folder)
    assert table is not None
    shares = {(row.judge, row.metric): (row.missing.share, row.extra.share, row.rank.share) for row in table.rows}
    for judge in ("token_simulation", "detection", "simulation", "claims"):
        assert shares[judge, "value"] == (1, 1, 1)
    assert shares["claims", "precision"][:2] == (0, 1)  # false claims alone
    assert shares["claims", "coverage"][:2] == (1, 0)  # missing claims alone
    # Recall cannot notice that a description is too broad.
    assert shares["detection", "recall"][1] == 0
    assert "Sanity checks" in capsys.readouterr().out
    page = folder.report.read_text()
    assert "Sanity checks" in page
    assert folder.read_manifest()["corpus"]["report_windows"] > 300


CALMS = [f" tea and cake number{place} at four" for place in range(12)]


def says(*words: str) -> ScriptedClient:
    """Make an LLM that says yes to excerpts with one of the words."""
    return rater(lambda text: int(any(word in text for word in words)))


def test_a_description_that_is_too_broad_scores_lower_on_a_rare_neuron() -> None:
    # Four of 1,004 windows activate the neuron. They are known, and 100 of the others; one of these is about tea.
    rare = [peaked(f" a storm number{place} at sea", 9.0) for place in range(4)]
    others = [
        peaked(f" one {'tea' if place == 70 else 'book'} number{place} again", 0.0, Source.RANDOM)
        for place in range(100)
    ]

    def given(llm: ScriptedClient, *rivals: str) -> JudgeCase:
        return dataclasses.replace(case([*rare, *others], llm), report_windows=1004, rivals=rivals)

    judge = Detection(hard=0)
    right = score(judge, given(says("storm"), "storms", "storm or tea"), "storms")
    broad = score(judge, given(says("storm", "tea"), "storms", "storm or tea"), "storm or tea")
    assert right.value == 1
    # The window about tea represents 10 of the 1,000: precision 4 / 14.
    assert broad.value == pytest.approx(4 / 14)
    assert broad.metrics["f1"] == pytest.approx(2 * 4 / (2 * 4 + 10))
    assert broad.metrics["base"] == pytest.approx(4 / 1004)
    # Balanced accuracy hardly notices, and without competing descriptions nothing does.
    assert right.metrics["balanced_accuracy"] - broad.metrics["balanced_accuracy"] == pytest.approx(0.005)
    assert score(judge, given(says("storm", "tea")), "storm or tea").value == 1


def test_hard_negatives_have_the_tokens_of_the_peaks_and_are_reported_apart() -> None:
    active = [window([" a", " storm", " at", " sea"], [0, 9, 0, 0]), window([" the", " gale"], [0, 8])]
    silent = [
        window([" take", " it", " by", " storm"], [0, 0, 0, 0.1], Source.RANDOM),  # the same token in another sense
        *(peaked(text, 0.0, Source.RANDOM) for text in CALMS),
    ]
    llm = says("storm")
    grade = score(Detection(hard=3, others=4, context=1), case([*active, *silent], llm), "storms")
    shown = {text for request in llm.requests for text in excerpts_of(request)}
    assert {"a storm at", "the gale", "it by storm"} <= shown
    assert grade.metrics["specificity_hard"] == 0  # only one window has such a token
    assert grade.metrics["specificity"] > 0.9
    assert "specificity_hard" not in score(Detection(hard=0), case([*active, *silent], says("storm")), "storms").metrics


def test_a_description_is_scored_by_the_surprisal_that_it_takes_away() -> None:
    def reads(request: Request) -> PromptLogprobs:
        """Find "storm" likely after a description with that word, and split texts at spaces."""
        described = "storm" in request.messages[0].content
        words = re.findall(r"\s*\S+", request.messages[-1].content)
        values = [-1.0 if described and "storm" in word else -5.0 for word in words]
        tokens = (PromptToken(word, {word: value}) for word, value in zip(words, values, strict=True))
        return PromptLogprobs((PromptToken("", {}), *tokens))

    exemplars = [
        *(peaked(f" a storm number{place} at sea", 9.0) for place in range(3)),
        *(peaked(text, 0.0, Source.RANDOM) for text in CALMS),
    ]
    llm = ScriptedClient(token_logprobs=reads)
    grade = score(Surprisal(), case(exemplars, llm), "a storm")
    assert grade.value == 1
    assert grade.metrics["gain"] == pytest.approx(4 / 5)  # one word of five
    assert (grade.metrics["constant"], grade.metrics["auc"]) == (0, 1)
    assert len(llm.requests) == 2 * 15  # each window with and without the description
    other = score(Surprisal(), case(exemplars, ScriptedClient(token_logprobs=reads)), "tea")
    assert (other.value, other.metrics["constant"]) == (pytest.approx(3 / 15), 1)
    lost = ScriptedClient(token_logprobs=lambda request: PromptLogprobs((PromptToken("x", {}),)))
    assert "changes the text" in failure(lambda: score(Surprisal(), case(exemplars, lost), "a storm")).detail


def test_the_oracle_reads_descriptions_perfectly() -> None:
    oracle = PlantedOracle(Planting.of(SETTINGS))
    truth = truth_of(Planting.of(SETTINGS))
    one, two, three = truth.concepts[:3]

    def about(concept: Concept, peak: float, source: Source) -> Exemplar:
        return window([" there", " was", " a", f" {concept.words[0]}", " here"], [0, 0, 0, peak, 0], source)

    exemplars = [about(one, 9.0, Source.TOP) for _ in range(3)] + [about(two, 0.0, Source.RANDOM) for _ in range(3)]

    def scores(judge: Scorer, *named: Concept) -> float:
        text = "is active on " + " and ".join(concept.name for concept in named)
        return score(judge, dataclasses.replace(case(exemplars, oracle.client), rivals=(text,)), text).value

    for judge in (Detection(hard=0), SimulationLLM(), Surprisal(hard=0)):
        assert scores(judge, one) > scores(judge, one, two) > 0.3
        assert scores(judge, one) > 0.7
        assert scores(judge, three) <= scores(judge, one, two)
    preferred = compare(PairwiseLLM(), case(exemplars, oracle.client), f"about {two.name}", f"about {one.name}")
    assert preferred.winner is Winner.SECOND
