"""Measuring the judges: scripted judges with known faults, and metrics computed by hand."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.errors import told

from describers.graded import Corrupted, Graded, GradedFile, Rephrased
from harness.fillers import EMPTY, padded
from harness.llm.client import Unanswered
from harness.llm.scripted import ScriptedClient
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Corruption, Description, Neuron, Score, Side, Sign, Status, Verdict, Vote, Winner
from harness.results.judge_checks import JudgeCheck, judge_checks
from harness.stats.config import StatisticsConfig
from harness.subject import Subject

A, B, T = Winner.FIRST, Winner.SECOND, Winner.TIE
NEURONS = [Neuron(0, index) for index in range(4)]
KNOWN = {
    "right": Corruption("right", 1.0, 0.0),
    "padded": Corruption("padded", 1.0),
    "half": Corruption("dropped", 0.5, 0.5),
    "another": Corruption("swapped", 0.0),
}
WORDS = {"right": 4, "padded": 8, "half": 2, "another": 4}
PAIRS = [("right", "padded"), ("half", "right"), ("another", "right")]
Rule = Callable[[Neuron, str, str], Winner]


def descriptions() -> list[Description]:
    return [Description(neuron, name, f"{name} " * count) for neuron in NEURONS for name, count in WORDS.items()]


def asked(rule: Rule, judge: str = "judge", pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Verdict]:
    """Ask a judge in both orders."""
    return [
        Verdict(neuron, judge, one, two, False, rule(neuron, one, two))
        for neuron in NEURONS
        for a, b in pairs
        for one, two in ((a, b), (b, a))
    ]


def checked(verdicts: Sequence[Verdict], **more: Any) -> JudgeCheck:
    (found,) = judge_checks(verdicts, [], descriptions(), KNOWN, seed=0, **more)
    return found


def knows(neuron: Neuron, one: str, two: str) -> Winner:
    first, second = KNOWN[one].quality, KNOWN[two].quality
    return T if first == second else A if first > second else B


def always_a(neuron: Neuron, one: str, two: str) -> Winner:
    return A


def length_lover(neuron: Neuron, one: str, two: str) -> Winner:
    return T if WORDS[one] == WORDS[two] else A if WORDS[one] > WORDS[two] else B


def wrong_on_the_first(neuron: Neuron, one: str, two: str) -> Winner:
    right = knows(neuron, one, two)
    return {A: B, B: A, T: T}[right] if neuron == NEURONS[0] else right


def test_a_judge_that_knows() -> None:
    found = checked(asked(knows))
    assert (found.comparisons, found.failed) == (8, 0)
    assert (found.accuracy, found.interval, found.brier) == (1.0, (1.0, 1.0), 0.0)
    assert (found.consistency, found.first_position_rate) == (1.0, 0.5)
    assert (found.length_effect, found.length_comparisons) == (0.0, 4)
    rows = {(pair.better, pair.worse): pair for pair in found.pairs}
    assert set(rows) == {("right", "padded"), ("right", "half"), ("right", "another")}
    equal, half = rows["right", "padded"], rows["right", "half"]
    assert (equal.ordered, equal.accuracy, equal.ties, equal.brier) == (False, 0.5, 4, None)
    assert (half.ordered, half.grade, half.strength, half.right, half.wrong) == (True, "dropped", 0.5, 4, 0)


def test_a_judge_that_always_says_a() -> None:
    found = checked(asked(always_a))
    assert (found.accuracy, found.brier) == (0.5, 0.25)  # its two orders disagree: ties, all of them
    assert (found.consistency, found.first_position_rate) == (0.0, 1.0)
    assert found.length_effect == 0.0


def test_a_judge_that_likes_length() -> None:
    found = checked(asked(length_lover))
    # Right against half is 4 words against 2, which it gets right; against another's it is 4 against 4: a tie.
    assert (found.accuracy, found.brier) == (0.75, 0.125)
    assert (found.length_effect, found.length_interval) == (0.5, (0.5, 0.5))
    assert (found.consistency, found.first_position_rate) == (1.0, 0.5)


def test_a_judge_that_is_wrong_on_one_neuron_of_four() -> None:
    found = checked(asked(wrong_on_the_first))
    assert (found.accuracy, found.brier) == (0.75, 0.25)
    # The neurons were sampled, not the comparisons: of four, one wrong, nothing can be said (Student's t, 3 degrees).
    assert found.interval == (0.0, 1.0)
    # Both signs of a neuron are one cluster.
    signed = [Verdict(item.neuron.with_sign(Sign.NEGATIVE), "judge", item.first, item.second, False, item.winner)
              for item in asked(wrong_on_the_first)]  # fmt: skip
    assert checked([*asked(wrong_on_the_first), *signed]).interval == found.interval


def test_intervals_are_as_the_run_has_them() -> None:
    # Half of four neurons wrong: the interval that covers less is narrower.
    verdicts = asked(lambda neuron, one, two: knows(neuron, one, two) if neuron in NEURONS[:2] else T)
    narrow = checked(verdicts, config=StatisticsConfig(confidence=0.2))
    wide = checked(verdicts, config=StatisticsConfig(confidence=0.95))
    assert wide == checked(verdicts)
    for one, other in ((narrow, wide), (narrow.pairs[0], wide.pairs[0])):
        assert one.interval is not None
        assert other.interval is not None
        assert one.interval[1] - one.interval[0] < other.interval[1] - other.interval[0]


def test_a_score_that_is_no_number_neither_wins_nor_loses() -> None:
    values = {"right": math.nan, "half": 0.3, "another": math.inf}
    scores = [Score(neuron, "s", name, value) for neuron in NEURONS for name, value in values.items()]
    (found,) = judge_checks([], scores, descriptions(), KNOWN, seed=0, score_retests=scores)
    assert (found.comparisons, found.failed, found.accuracy, found.retests) == (0, 8, None, 4)


def test_failures_are_counted_and_part_of_no_figure() -> None:
    verdicts = asked(knows)
    broken = next(place for place, item in enumerate(verdicts) if {item.first, item.second} == {"half", "right"})
    item = verdicts[broken]
    verdicts[broken] = Verdict(item.neuron, "judge", item.first, item.second, False, None, Status.REFUSED, "no")
    found = checked(verdicts)
    assert (found.comparisons, found.failed, found.accuracy) == (7, 1, 1.0)
    assert [(pair.failed, pair.comparisons) for pair in found.pairs if pair.worse == "half"] == [(1, 3)]


def test_a_soft_preference_is_what_the_brier_score_is_made_of() -> None:
    one, two = NEURONS[:2]
    verdicts = [
        Verdict(one, "judge", "right", "half", False, A, preference=0.9, mass=0.8),
        Verdict(one, "judge", "half", "right", False, B, preference=0.3, mass=0.6),
        # Only one order has a preference: then the comparison has none, and counts for 1.
        Verdict(two, "judge", "right", "half", False, A, preference=0.6, mass=0.7),
        Verdict(two, "judge", "half", "right", False, B, mass=0.01),
    ]
    found = checked(verdicts)
    (pair,) = found.pairs
    assert pair.brier == found.brier == pytest.approx((1 - 0.8) ** 2 / 2)
    assert (pair.soft, found.preferences) == (1, 3)
    assert found.mass == pytest.approx((0.8 + 0.6 + 0.7 + 0.01) / 4)


def test_a_pair_of_equal_texts_tells_nothing_of_a_judge() -> None:
    same = [
        Description(item.neuron, item.describer, "same" if item.neuron == NEURONS[0] else item.text)
        for item in descriptions()
    ]
    (found,) = judge_checks(asked(wrong_on_the_first), [], same, KNOWN, seed=0)
    assert (found.comparisons, found.accuracy) == (6, 1.0)  # the one neuron on which it is wrong is left out
    values = [Score(neuron, "s", name, float(name == "right")) for neuron in NEURONS for name in ("right", "half")]
    (scorer,) = judge_checks([], values, same, KNOWN, seed=0)
    assert scorer.comparisons == 3


def test_a_judge_asked_again() -> None:
    again = asked(knows)[:8]
    again[0] = Verdict(again[0].neuron, "judge", again[0].first, again[0].second, False, A)
    again[1] = Verdict(again[1].neuron, "judge", again[1].first, again[1].second, False, None, Status.FAILED)
    found = checked(asked(knows), retests=again)
    # The first was a tie and is none now, the second gave no answer: 6 of 7 agree.
    assert (found.retest, found.retests, found.retests_failed) == (pytest.approx(6 / 7, abs=1e-6), 7, 1)


def test_a_scorer_is_judged_by_which_description_it_grades_higher() -> None:
    values = {"right": 0.5, "padded": 0.75, "half": 0.5, "another": 0.25}
    scores = [Score(neuron, "scorer", name, value) for neuron in NEURONS for name, value in values.items()]
    scores[3] = Score(NEURONS[0], "scorer", "another", None, Status.FAILED, "no")
    again = [Score(item.neuron, "scorer", item.describer, 2 * item.value) for item in scores if item.value is not None]
    (found,) = judge_checks([], scores, descriptions(), KNOWN, seed=0, score_retests=again)
    assert (found.kind, found.comparisons, found.failed) == ("scorer", 7, 1)
    # Right against half is a tie, on four neurons; right against another's is right, on three.
    assert found.accuracy == pytest.approx(5 / 7, abs=1e-6)
    assert found.length_effect == 0.5  # padded beats right
    assert (found.retest, found.retests) == (1.0, 15)
    assert (found.consistency, found.first_position_rate, found.side) == (None, None, None)
    rows = {(pair.better, pair.worse): pair.accuracy for pair in found.pairs}
    assert rows["padded", "half"] == 1.0  # said, but no part of the accuracy, which is that of the right ones
    assert rows["half", "another"] == 1.0


def test_a_scorer_asked_again_is_told_of_without_contestants_of_known_quality() -> None:
    scores = [Score(neuron, "scorer", "a", float(place)) for place, neuron in enumerate(NEURONS)]
    again = [*scores[1:], Score(NEURONS[0], "scorer", "a", None, Status.UNPARSED, "no number")]
    (found,) = judge_checks([], scores, descriptions(), {}, seed=0, score_retests=again)
    assert (found.judge, found.kind, found.comparisons, found.accuracy) == ("scorer", "scorer", 0, None)
    assert (found.retest, found.retests, found.retests_failed) == (1.0, len(NEURONS) - 1, 1)


def test_the_members_of_a_panel_are_judges_of_their_own() -> None:
    verdicts = [
        Verdict(item.neuron, "panel", item.first, item.second, False, item.winner,
                votes=(Vote("good", item.winner), Vote("biased", A), Vote("mute", None, Status.REFUSED)))
        for item in asked(knows)
    ]  # fmt: skip
    found = {item.judge: item for item in judge_checks(verdicts, [], descriptions(), KNOWN, seed=0)}
    assert set(found) == {"panel", "panel/good", "panel/biased", "panel/mute"}
    assert found["panel/good"].accuracy == 1.0
    assert found["panel/biased"].first_position_rate == 1.0
    assert (found["panel/mute"].accuracy, found["panel/mute"].failed) == (None, 8)


def test_a_judge_that_prefers_its_own_words() -> None:
    known = {**KNOWN, "rephrased": Corruption("rephrased", 1.0)}
    pairs = [("right", "rephrased"), ("foreign", "rephrased")]

    def vain(neuron: Neuron, one: str, two: str) -> Winner:
        return A if one == "rephrased" else B

    def fair(neuron: Neuron, one: str, two: str) -> Winner:
        return T

    def check(models: dict[str, list[str]]) -> dict[str, tuple[float | None, int]]:
        verdicts = [*asked(vain, "vain", pairs), *asked(fair, "fair", pairs)]
        found = judge_checks(verdicts, [], descriptions(), known, seed=0, models=models)
        return {item.judge: (item.self_preference, item.self_comparisons) for item in found}

    # Against the right one, 1/2 is right; against one of unknown quality, what the other judge says, which is 1/2 too.
    models = {"rephrased": ["m1"], "vain": ["m1"], "fair": ["m2"]}
    assert check(models) == {"vain": (0.5, 8), "fair": (None, 0)}
    # Without a judge of another model, only what is known can be held against it.
    assert check({**models, "fair": ["m1"]}) == {"vain": (0.5, 4), "fair": (0.0, 4)}
    assert check({}) == {"vain": (None, 0), "fair": (None, 0)}


def test_the_order_of_records_changes_nothing_and_two_answers_to_one_question_are_a_mistake() -> None:
    verdicts = asked(wrong_on_the_first)
    assert checked(verdicts[::-1]) == checked(verdicts)
    with pytest.raises(ValueError, match="two verdicts"):
        checked([*verdicts, verdicts[0]])
    with pytest.raises(ValueError, match="two scores"):
        judge_checks([], [Score(NEURONS[0], "s", "right", 1.0)] * 2, [], KNOWN, seed=0)
    assert judge_checks([], [], [], {}, seed=0) == ()
    (unknown,) = judge_checks(verdicts, [], [], {}, seed=0)
    assert (unknown.accuracy, unknown.brier, unknown.comparisons, unknown.pairs) == (None, None, 0, ())
    assert unknown.consistency == 1.0


# --- where descriptions of known quality come from --------------------------------------------------------------------

TEXTS = {neuron: ", ".join(f"word{neuron.index}{letter}" for letter in "abcdefgh") for neuron in NEURONS}


def describe(
    describer: Describer,
    neuron: Neuron = NEURONS[0],
    llm: ScriptedClient | None = None,
    texts: Mapping[Neuron, str] = TEXTS,
) -> Draft:
    made = {key: Description(key, "source", text) for key, text in texts.items()}
    case = DescriberCase(
        neuron, (), Subject("nobody", []), llm, 0, neurons=tuple(sorted(TEXTS)), others={"source": made}
    )
    draft = asyncio.run(describer.describe(case))
    assert isinstance(draft, Draft)
    return draft


def corrupted(grade: str, strength: float = 1.0, neuron: Neuron = NEURONS[0]) -> list[str]:
    return describe(Corrupted("source", grade, strength), neuron).text.split(", ")


def test_a_stronger_corruption_does_what_a_weaker_one_does_and_more() -> None:
    right = corrupted("right")
    assert ", ".join(right) == TEXTS[NEURONS[0]]
    kept = [set(corrupted("swapped", strength)) & set(right) for strength in (0.25, 0.5, 0.75, 1.0)]
    assert [len(items) for items in kept] == [6, 4, 2, 0]
    assert all(more > less for more, less in itertools.pairwise(kept))
    swapped = corrupted("swapped", 0.5)
    assert len(swapped) == 8
    assert len({item[4] for item in swapped}) == 2  # items of two neurons, its own and one other
    assert len(corrupted("dropped", 0.5)) == 4
    assert set(corrupted("dropped", 0.5)) <= set(right)
    assert len(corrupted("dropped", 1.0)) == 1


def test_added_items_of_another_neuron_follow_the_own_ones() -> None:
    right = corrupted("right")
    half, whole = corrupted("added", 0.5), corrupted("added", 1.0)
    assert half[:8] == whole[:8] == right
    assert (len(half), len(whole)) == (12, 16)
    assert half[8:] == whole[8:12]  # a stronger corruption includes the weaker one
    (other,) = {item[4] for item in whole[8:]}
    assert other != right[0][4]
    texts = {neuron: f"The word number{neuron.index}." for neuron in NEURONS}
    added = describe(Corrupted("source", "added", 1.0), texts=texts).text
    assert re.fullmatch(r"The word number0; The word number[1-9]\.", added)
    known = Corrupted("s", "added", 1.0).corruption
    assert known is not None
    assert (known.quality, known.strength) == (0.5, 0.5)  # half of what it claims is false


@pytest.mark.parametrize("text", ["Mentions of the word until.", "storms, at sea", "Verbs, e.g. run; i.e., acts."])
@pytest.mark.parametrize(("grade", "strength"), [("swapped", 0.0), ("dropped", 0.0), ("right", 1.0), ("swapped", 1.0)])
def test_what_is_not_changed_stays_letter_for_letter(text: str, grade: str, strength: float) -> None:
    # At strength 1 the other neuron says the very same.
    assert describe(Corrupted("source", grade, strength), texts=dict.fromkeys(NEURONS, text)).text == text


def test_a_single_clause_has_nothing_to_drop_and_no_part_to_swap() -> None:
    texts = {neuron: f"Mentions of the word number{neuron.index}." for neuron in NEURONS}
    own = texts[NEURONS[0]]
    for grade, strength in (("dropped", 0.5), ("dropped", 1.0), ("swapped", 0.25), ("swapped", 0.5)):
        assert describe(Corrupted("source", grade, strength), texts=texts).text == own
    assert describe(Corrupted("source", "swapped", 0.75), texts=texts).text in set(texts.values()) - {own}


def test_sentences_keep_their_marks_and_abbreviations() -> None:
    text = "Verbs of motion, e.g. run; also in French. Never nouns."
    whole = {
        describe(Corrupted("source", "dropped", 1.0), neuron, texts=dict.fromkeys(NEURONS, text)).text
        for neuron in NEURONS
    }
    assert whole <= {"Verbs of motion.", "e.g. run.", "also in French.", "Never nouns."}
    half = describe(Corrupted("source", "dropped", 0.25), texts=dict.fromkeys(NEURONS, text)).text
    assert half in {
        "e.g. run; also in French. Never nouns.",
        "Verbs of motion, also in French. Never nouns.",
        "Verbs of motion, e.g. run; Never nouns.",
        "Verbs of motion, e.g. run; also in French.",
    }


def test_every_neuron_gets_another_neurons() -> None:
    whole = [{item[:5] for item in corrupted("swapped", 1.0, neuron)} for neuron in NEURONS]
    assert all(
        len(items) == 1 and f"word{neuron.index}" not in items for neuron, items in zip(NEURONS, whole, strict=True)
    )
    assert len(set.union(*whole)) == 4


@pytest.mark.parametrize("words", [1, 3, 8, 9, 20, 100])
@pytest.mark.parametrize(("end", "after"), [("", "."), (".", "."), ("...", "."), (" .", "."), ("?", "?")])
def test_padding_about_doubles_the_words_in_whole_sentences(words: int, end: str, after: str) -> None:
    text = " ".join(["Cities"] * words)
    whole = padded(text + end)
    assert whole.startswith(f"{text}{after} ")
    added = whole.removeprefix(f"{text}{after} ")
    assert abs(len(added.split()) - words) <= 3 or (words < 3 and len(added.split()) == 6)
    assert re.fullmatch(r"([A-Z][a-z ]+\. ?)+", added)
    assert added.endswith(".")


def test_padding_says_nothing() -> None:
    text = describe(Corrupted("source", "padded")).text
    assert "word" not in text.removeprefix(TEXTS[NEURONS[0]]).replace("words", "")
    assert describe(Corrupted("source", "empty")).text == EMPTY
    texts = {describe(Corrupted("source", "generic"), neuron).text for neuron in NEURONS}
    assert len(texts) == 1


def test_what_is_known_of_a_corruption() -> None:
    known = {
        (grade, strength): Corrupted("s", grade, strength).corruption
        for grade, strength in [("right", 1.0), ("swapped", 0.25), ("dropped", 0.5), ("padded", 1.0), ("empty", 1.0)]
    }
    found = {grade: (item.quality, item.strength) for (grade, _), item in known.items() if item is not None}
    assert found == {
        "right": (1.0, 0.0),
        "swapped": (0.75, 0.25),
        "dropped": (0.5, 0.5),
        "padded": (1.0, 1.0),
        "empty": (0.0, 1.0),
    }
    told(lambda: Corrupted("s", "worse"), "'worse'", "swapped")
    told(lambda: Corrupted("s", "swapped", strength=1.5), "strength: must be at most 1, not 1.5")


def test_a_source_that_has_no_description_makes_a_failure() -> None:
    case = DescriberCase(NEURONS[0], (), Subject("nobody", []), None, 0, others={"source": {}})
    with pytest.raises(Unanswered, match="source has no description of L0N0"):
        asyncio.run(Corrupted("source", "right").describe(case))


def test_graded_descriptions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text('neuron,grade,text\nL0N0,right,"storms, gales"\nL0N0,too broad,weather\nL0N1,empty,\n')
    truth = GradedFile(str(path))
    broad = Graded("too broad", 2, 0.5, truth)
    assert broad.corruption == Corruption("too broad", 2, 0.5)
    assert describe(broad).text == "weather"
    assert describe(Graded("empty", 0, truth=truth), NEURONS[1]).text == EMPTY
    with pytest.raises(Unanswered, match="no description of grade 'too broad'"):
        describe(broad, NEURONS[1])
    before = broad.inputs
    path.write_text(path.read_text() + "L0N0,right,again\n")
    assert Graded("right", 3, truth=GradedFile(str(path))).inputs != before
    told(lambda: describe(Graded("right", 3, truth=GradedFile(str(path)))), "line 5", "second description of right")
    lines = tmp_path / "truth.jsonl"
    lines.write_text(json.dumps({"neuron": "L0N0", "grade": "right", "text": "storms"}) + '\n{"neuron": "L0N0"}\n')
    told(lambda: describe(Graded("right", 3, truth=GradedFile(str(lines)))), "line 2", "grade")
    told(lambda: describe(Graded("right", 3, truth=GradedFile("/nowhere.csv"))), "cannot be read")
    told(lambda: describe(Graded("right", 3)), "nobody knows the truth", "planted")


def test_a_subject_that_knows_the_truth_is_asked_for_it() -> None:
    class Planted(Subject):
        def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> dict[str, str]:
            return {"half": f"half of {neuron} among {len(among)} on {side} by {seed}"}

    case = DescriberCase(NEURONS[2], (), Planted("planted", []), None, 5, neurons=tuple(NEURONS))
    draft = asyncio.run(Graded("half", 2).describe(case))
    assert draft == Draft("half of L0N2 among 4 on both by 5", "known to be half")


def test_the_explainer_rephrases() -> None:
    llm = ScriptedClient([json.dumps({"description": "storms, in other words"})])
    rephrased = Rephrased("source")
    assert rephrased.llm_required
    assert describe(rephrased, llm=llm).text == "storms, in other words"
    assert f"<description>{TEXTS[NEURONS[0]]}</description>" in llm.requests[0].text
    assert "in about 8 words" in llm.requests[0].text
