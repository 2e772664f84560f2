"""Judge checks on a planted subject: descriptions of known quality, and a run that is judged on them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.describer_cases import NOWHERE, case
from support.errors import told
from support.planted import SOIL, spelt

from describers.graded import Graded, GradedFile, KnowsTruth
from harness.folder import RunFolder
from harness.llm.client import Unanswered
from harness.planted import Grade, PlantedSubject
from harness.records import Neuron, Side, Sign, Status
from harness.results.judge_checks import JudgeCheck
from harness.results.stored import stored_judge_checks
from harness.run.main import main

CONF = Path(__file__).parent.parent / "conf"
LEVELS: dict[str, Any] = {
    "plain": {"neurons": 6, "reads": 2, "writes": 1},
    "two_sided": {"neurons": 2, "reads": 1, "writes": 0, "negatives": 1},
}
SETTINGS: dict[str, Any] = {**SOIL, "levels": LEVELS, "only_weights": 0.0, "only_text": 0.0}
NEURONS = [Neuron(0, index) for index in range(8)]
TWO_SIDED, PLAIN = NEURONS[:2], NEURONS[2:]  # the easiest level comes first


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def subject(cache: Path) -> PlantedSubject:
    return PlantedSubject("planted", SETTINGS, str(cache))


def said(describer: Graded, subject: PlantedSubject, neuron: Neuron = PLAIN[0]) -> str:
    return asyncio.run(describer.describe(case(neuron=neuron, subject=subject, neurons=tuple(NEURONS)))).text


def test_a_planted_subject_grades_descriptions_of_the_side_that_is_asked_for(subject: PlantedSubject) -> None:
    assert isinstance(subject, KnowsTruth)
    truth = subject.truth
    for side in Side:
        right = said(Graded("right", 1, 0, side=side), subject)
        assert right == truth.description(PLAIN[0], side)
        assert said(Graded("another neuron's", 0, side=side), subject) != right
    read, written = (said(Graded("right", 1, 0, side=side), subject) for side in ("input", "output"))
    assert read.startswith("is active on ")
    assert written.startswith("promotes ")
    assert said(Graded("half", 0.5), subject) in f"{read}; {written}"
    assert said(Graded("empty", 0), subject) == "(no description)"  # an empty text would be a failure


def test_another_neurons_description_is_not_that_of_its_other_sign(subject: PlantedSubject) -> None:
    both = [neuron.with_sign(sign) for neuron in TWO_SIDED for sign in Sign]
    for neuron in both:
        made = subject.graded(neuron, both, side=Side.INPUT, seed=0)
        others = [other for other in both if other.unsigned != neuron.unsigned]
        assert made[Grade.OTHER] in {subject.truth.description(other, Side.INPUT) for other in others}


def test_a_neuron_that_writes_nothing_has_no_description_of_what_it_writes(subject: PlantedSubject) -> None:
    with pytest.raises(Unanswered, match="no description of grade 'right' of this neuron"):
        said(Graded("right", 1, side="output"), subject, TWO_SIDED[0])
    Graded("right", 1, side="output").check(NEURONS, subject)  # a failure of one neuron, not of the run
    told(lambda: Graded("right", 1, side="output").check(TWO_SIDED, subject), "of any of the 2 neurons", "output")


def test_the_configs_grades_are_the_planted_ones() -> None:
    entries = yaml.safe_load((CONF / "describers" / "graded.yaml").read_text())
    quality = {entry["grade"]: entry["quality"] for entry in entries.values()}
    assert set(quality) == set(Grade)
    in_order = [quality[grade] for grade in Grade]
    assert in_order == sorted(in_order, reverse=True)
    assert quality[Grade.RIGHT] == quality[Grade.PADDED]  # neither is better


def test_what_nobody_knows_is_told_before_time_is_spent(subject: PlantedSubject, tmp_path: Path) -> None:
    told(lambda: Graded("right", 1).check(NEURONS, NOWHERE), "nobody knows the truth", "subject=planted", "GradedFile")
    told(lambda: Graded("rihgt", 1).check(NEURONS, subject), "grade 'rihgt'", "the truth has 'right'")
    told(lambda: Graded("right", 1, side="in"), "side: must be 'input', 'output' or 'both', not 'in'")
    path = tmp_path / "truth.csv"
    path.write_text(f"neuron,grade,text,side\n{PLAIN[0]},right,storms,input\n{PLAIN[0]},right,rain,output\n")
    for side, text in (("input", "storms"), ("output", "rain")):
        describer = Graded("right", 1, truth=GradedFile(str(path)), side=side)
        describer.check(NEURONS, NOWHERE)
        assert said(describer, subject) == text
    told(lambda: Graded("right", 1, truth=GradedFile(str(path))).check(NEURONS, NOWHERE), "side=both", "none of them")


def test_a_subject_without_truth_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["neuron-harness", "describers=[graded]", "tracking=none"])
    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "describers.graded_right: nobody knows the truth about the neurons of" in line
    assert not any(tmp_path.rglob("exemplars*"))


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, JudgeCheck]:
    """The judges of a whole run from the command line, as its folder says what they are worth."""
    folder = tmp_path_factory.mktemp("runs") / "judges"
    levels = {"one": None, "two_noisy": None, "three_uneven": None, "four_drowned": None, **LEVELS}
    arguments = [
        *("experiment=judge_check_planted", f"folder={folder}", f"subject.cache={cache}", "tracking=none"),
        *("judges=[planted,embedding_pairwise]", "corpus.documents=300", "evidence.top=12", "evidence.random=24"),
        *("subject.planting.only_weights=0", "subject.planting.only_text=0", "statistics.draws=200"),
        *("comparisons.retest=0.5", "evidence.store=null"),
        *(f"++subject.planting.levels.{name}={spelt(level)}" for name, level in levels.items()),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neuron-harness", *arguments])
        patch.chdir(folder.parent)
        main()
    assert any(item.status is Status.OK for item in RunFolder(folder).verdicts().records())
    return {check.judge: check for check in stored_judge_checks(RunFolder(folder)) or ()}


def _accuracy(check: JudgeCheck) -> dict[str, float]:
    """Return how often a judge prefers the right description to each worse one."""
    pairs = [pair for pair in check.pairs if pair.better == "graded_right" and pair.ordered]
    return {pair.worse: pair.accuracy for pair in pairs if pair.accuracy is not None}


def test_who_knows_the_truth_is_nearly_always_right(checks: dict[str, JudgeCheck]) -> None:
    known = checks["planted"]
    assert known.accuracy is not None
    assert known.accuracy > 0.9
    assert known.retest == pytest.approx(1)
    accuracy = _accuracy(known)
    assert accuracy["graded_another"] == accuracy["graded_neighbour"] == accuracy["graded_empty"] == 1


def test_a_judge_is_less_often_right_the_less_was_done(checks: dict[str, JudgeCheck]) -> None:
    judge = checks["embedding_pairwise"]
    assert judge.retest == 1
    accuracy = _accuracy(judge)
    assert accuracy["graded_another"] > 0.9
    assert accuracy["graded_empty"] > 0.9
    worst = [accuracy[name] for name in ("graded_another", "graded_generic", "graded_empty")]
    slight = [accuracy[name] for name in ("graded_half", "graded_narrow", "graded_broad")]
    assert sum(worst) / 3 > sum(slight) / 3
    assert accuracy["graded_another"] >= accuracy["corrupted_swapped_75"] > accuracy["corrupted_swapped_25"]
