"""Simulation scorers: metrics computed by hand, and simulators that misbehave."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.errors import told
from support.judge_cases import MARKER, case, failure, forbidden, score, window
from support.simulators import Expectation, Rule, simulator

from harness.llm.client import LLMClient, PromptLogprobs
from harness.llm.scripted import Request, ScriptedClient
from harness.records import Exemplar, Source, Split, Status
from judges.simulation import SimulationLLM, SimulationPerToken, SimulationWritten

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
        of(Source.RANDOM, " gale", " calm"),
    ]


@pytest.mark.parametrize(("rule", "r"), [(surely, 1.0), (inverted, -1.0)])
def test_a_perfect_simulator_correlates_fully_and_an_inverted_one_negatively(rule: Rule, r: float) -> None:
    exemplars = [*weather(0.37, 0.2), *weather(0.37, 0.2, Split.CALIBRATE), *forbidden()]
    llm = simulator(rule)
    grade = score(SimulationLLM(metric="top_and_random"), case(exemplars, llm), "the strength of the wind")
    assert grade.value == pytest.approx(r)
    # A wrong scale, even of the wrong sign, is what the calibration mends; r says what it was.
    expected = {"top": r, "random": r, "constant": 0, "digit_mass": 1, "r2": 1, "absolute": 1}
    assert grade.metrics == pytest.approx(expected)
    assert len(llm.requests) == 8
    assert all("the strength of the wind" in request.text for request in llm.requests)
    assert not any(MARKER in request.text for request in llm.requests)
    lines = llm.requests[0].messages[-1].content.split("\n")
    assert lines[-3:] == [" storm\tunknown", " calm\tunknown", " wind\tunknown"]


def test_the_calibration_is_fitted_on_its_own_split() -> None:
    # The report split has t = p, the calibrate split t = 2 p + 3: there the fit is perfect, here it is not.
    exemplars = [*weather(), *weather(2, 3, Split.CALIBRATE)]
    grade = score(SimulationLLM(metric="top_and_random"), case(exemplars, simulator(surely)), "wind")
    true = np.array([10, 0, 4, 0, 7, 0, 2, 0, 4, 7, 0])
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
        # A perfect fit, so that the calibration changes nothing.
        window([" yes", " no"], [8.125, 0.75], Source.TOP, Split.CALIBRATE),
        window([" no", " yes"], [0.75, 8.125], Source.RANDOM, Split.CALIBRATE),
    ]
    llm = simulator(lambda description, token: answers[token])
    grade = score(SimulationLLM(metric="top_and_random"), case(exemplars, llm), "agreement")
    predicted, true = np.array([8.125, 0.75, 13 / 3, 0.75, 0.75, 8.125]), np.array([3.0, 1.0, 0.0, 0.0, 0.5, 2.0])

    def r(shown: slice) -> float:
        one, two = predicted[shown] - predicted[shown].mean(), true[shown] - true[shown].mean()
        return float(np.sum(one * two) / np.sqrt(np.sum(one**2) * np.sum(two**2)))

    assert grade.value == pytest.approx(r(slice(None)))
    assert grade.metrics == pytest.approx(
        {
            "top": r(slice(3)),
            "random": r(slice(3, None)),
            "constant": 0,
            "digit_mass": ((0.8 + 0.4 + 0.6) / 3 + (0.4 + 0.4 + 0.8) / 3 + (0.8 + 0.4) / 2 * 2) / 4,
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
    score(SimulationLLM(metric="top_and_random", windows=2), case(exemplars, llm), "tops")
    shown = [request.messages[-1].content.split("\n")[-2] for request in llm.requests]
    assert shown == [" top0\tunknown", " top1\tunknown"] * 4


@pytest.mark.parametrize(
    ("expected", "tokens"),
    [({"the": 1.0}, "3 of 3"), ({"the": 0.995, "3": 0.005}, "3 of 3"), ({"ten": 0.9}, "3 of 3")],
)
def test_a_simulator_that_expects_no_digits_is_a_failure_and_no_zero(expected: Expectation, tokens: str) -> None:
    llm = simulator(lambda description, token: expected)
    error = failure(
        lambda: score(
            SimulationLLM(metric="top_and_random"), case([*weather(), *weather(split=Split.CALIBRATE)], llm), "wind"
        )
    )
    assert error.status is Status.FAILED
    assert tokens in error.detail
    assert "0.01" in error.detail


@pytest.mark.parametrize(
    ("kind", "forgotten", "words"),
    [(SimulationLLM, " gale", "1 of 2"), (SimulationPerToken, " breeze", "at 1 of 1 tokens")],
)
def test_a_single_token_without_a_level_fails_its_window(kind: type[SimulationLLM], forgotten: str, words: str) -> None:
    def forgetful(description: str, token: str) -> Expectation:
        return {"the": 1.0} if token == forgotten else surely(description, token)

    error = failure(lambda: score(kind(metric="top_and_random"), case(weather(), simulator(forgetful)), "wind"))
    assert error.status is Status.FAILED
    assert words in error.detail


def test_a_random_window_that_is_also_a_top_one_counts_once() -> None:
    top = window([" storm", " calm"], [1.0, 0.0], number=900)
    again = window([" storm", " calm"], [1.0, 0.0], Source.RANDOM, number=900)
    llm = simulator(surely)
    score(
        SimulationLLM(metric="top_and_random"), case([top, again, window([" gale"], [0.2], Source.RANDOM)], llm), "wind"
    )
    assert len(llm.requests) == 2


def test_one_window_that_cannot_be_simulated_fails_the_score() -> None:
    llm = simulator(lambda description, token: surely("", token) if token != " breeze" else {"the": 1.0})
    judge = SimulationLLM(metric="top_and_random", min_digit_mass=0.8)
    assert failure(lambda: score(judge, case(weather(), llm), "wind")).status is Status.FAILED
    assert len(llm.requests) == 4


def test_a_server_without_log_probabilities_fails_with_its_reason() -> None:
    llm = ScriptedClient(token_logprobs=lambda request: PromptLogprobs((), Status.FAILED, "HTTP 400: no logprobs"))
    error = failure(lambda: score(SimulationLLM(metric="top_and_random"), case(weather(), llm), "wind"))
    assert (error.status, error.detail) == (Status.FAILED, "HTTP 400: no logprobs")


def test_a_tokenizer_that_joins_the_tab_to_the_word_is_asked_with_another_mark() -> None:
    exemplars = [*weather(), *weather(split=Split.CALIBRATE)]
    llm = simulator(surely, merges=("unknown",))
    assert score(SimulationLLM(metric="top_and_random"), case(exemplars, llm), "wind").value == pytest.approx(1)
    last = [request.messages[-1].content.split("\n")[-1].partition("\t")[2] for request in llm.requests]
    assert last.count("?") == 8
    assert last.count("unknown") == 1  # what a tokenizer does is learnt once
    assert all("? stands for a value" in request.text for request in llm.requests if request.text.endswith("?"))
    error = failure(
        lambda: score(
            SimulationLLM(metric="top_and_random"), case(exemplars, simulator(surely, merges=("unknown", "?"))), "wind"
        )
    )
    assert error.status is Status.FAILED
    assert "does not separate the placeholder from the tab" in error.detail


def test_tokens_of_a_simulator_need_not_be_those_of_the_subject() -> None:
    # A tokenizer of single characters writes 10 as 1 and 0, as many real ones do: the scale then ends at 9.
    def behind(description: str, token: str) -> Expectation:
        return {"9" if token == "m" else "0": 1.0}  # the last letter of storm, and of nothing else

    llm = simulator(behind, tokens_of=r"[\s\S]")
    exemplars = [
        window([" storm", " gale", " wind"], [2.0, 0.0, 0.0]),
        window([" gale", " storm"], [0.0, 2.0], Source.RANDOM),
    ]
    assert score(SimulationLLM(metric="top_and_random"), case(exemplars, llm), "wind").value == pytest.approx(1)
    assert "to 10 (as active" in llm.requests[0].text
    assert "to 9 (as active" in llm.requests[-1].text
    assert "10" not in llm.requests[-1].text


def test_words_of_the_prompt_inside_a_window_are_not_taken_for_its_marks() -> None:
    level = {"unknown": 10, "⇥unknown⏎": 4, " ": 0, "?": 7}
    tokens = ["unknown", "\tunknown\n", " ", "?"]
    exemplars = [window(tokens, [1.0, 0.4, 0.0, 0.7], source) for source in Source]
    llm = simulator(lambda description, token: {str(level[token]): 1.0})
    assert score(
        SimulationLLM(metric="top_and_random"), case(exemplars, llm), "the word unknown"
    ).value == pytest.approx(1)


@pytest.mark.parametrize(
    "exemplars",
    [
        [window([" storm", " calm"], [1.0, 1.0]), window([" gale"], [1.0], Source.RANDOM)],
        [window([" storm", " calm"], [-1.0, 0.0]), window([" gale"], [-2.0], Source.RANDOM)],  # the other sign's alone
    ],
)
def test_activations_that_do_not_vary_have_no_correlation_whatever_the_description(exemplars: list[Exemplar]) -> None:
    error = failure(lambda: score(SimulationLLM(metric="top_and_random"), case(exemplars, simulator(surely)), "wind"))
    assert error.status is Status.FAILED
    assert "the neuron's activations do not vary" in error.detail


@pytest.mark.parametrize("level", ["0", "7"])
def test_a_prediction_that_is_the_same_everywhere_tells_nothing_and_is_no_failure(level: str) -> None:
    exemplars = [*weather(), *weather(3, split=Split.CALIBRATE)]
    grade = score(
        SimulationLLM(metric="top_and_random"),
        case(exemplars, simulator(lambda description, token: {level: 1.0})),
        "wind",
    )
    assert grade.value == 0
    # Its calibration is the mean of the calibrate split: 3 * 34 / 11 everywhere.
    true, mean = np.array([10, 0, 4, 0, 7, 0, 2, 0, 4, 7, 0]), 3 * 34 / 11
    r2, absolute = 1 - np.mean((true - mean) ** 2) / np.mean(true**2), 1 - np.mean(np.abs(true - mean)) / np.mean(true)
    expected = {"top": 0, "random": 0, "constant": 1, "digit_mass": 1, "r2": r2, "absolute": absolute}
    assert grade.metrics == pytest.approx(expected)


def test_what_is_below_zero_belongs_to_the_other_sign() -> None:
    # The simulator knows all that a description of this sign can say: where it is active, and how strongly.
    def of(*levels: int, source: Source = Source.TOP, split: Split = Split.REPORT) -> Exemplar:
        return window([f" {max(level, 0)}" for level in levels], [0.3 * level for level in levels], source, split)

    shown = [
        of(*levels, source=source, split=split)
        for split in (Split.REPORT, Split.CALIBRATE)
        for source, levels in ((Source.TOP, (9, -8, 0)), (Source.RANDOM, (-9, 4, 0, -1)))
    ]
    grade = score(
        SimulationLLM(metric="top_and_random"),
        case(shown, simulator(lambda description, token: {token.strip(): 1.0})),
        "numbers",
    )
    assert grade.value == pytest.approx(1)
    figures = ("top", "random", "r2", "absolute")
    assert [grade.metrics[figure] for figure in figures] == pytest.approx([1, 1, 1, 1])


def test_without_a_calibrate_split_there_is_no_calibrated_figure() -> None:
    grade = score(SimulationLLM(metric="top_and_random"), case(weather(), simulator(surely)), "wind")
    assert set(grade.metrics) == {"top", "random", "constant", "digit_mass"}


def test_without_windows_there_is_no_score() -> None:
    llm = simulator(surely)
    for exemplars in ([], forbidden(), weather(split=Split.CALIBRATE)):
        assert (
            failure(
                lambda given=exemplars: score(SimulationLLM(metric="top_and_random"), case(given, llm), "wind")
            ).status
            is Status.FAILED
        )


def test_top_and_random_windows_count_alike() -> None:
    # Two top windows, one random: the second top one counts in the figure of top windows alone.
    exemplars = [
        window([" storm", " calm"], [9.0, 1.0]),
        window([" gale", " wind"], [1.0, 8.0]),
        window([" breeze", " calm"], [3.0, 1.0], Source.RANDOM),
        window([" storm", " wind", " calm"], [5.0, 2.0, 0.0], Source.TOP, Split.CALIBRATE),  # no random one: no fit
    ]
    predicted, true = np.array([10, 0, 2, 0]), np.array([9, 1, 3, 1])
    grades = {
        metric: score(SimulationLLM(metric=metric), case(exemplars, simulator(surely)), "w")
        for metric in ("top_and_random", "top", "random")
    }
    expected = {
        "top_and_random": np.corrcoef(predicted, true)[0, 1],
        "top": np.corrcoef([10, 0, 7, 4], [9, 1, 1, 8])[0, 1],
        "random": 1.0,
    }
    assert {metric: grade.value for metric, grade in grades.items()} == pytest.approx(expected)
    for metric, grade in grades.items():
        assert set(grade.metrics) == {*expected, "constant", "digit_mass"} - {metric}
    told(lambda: SimulationLLM(metric="all"), "metric: must be 'whole', 'top_and_random', 'top' or")  # type: ignore[arg-type]


def test_the_calibration_looks_at_no_window_of_the_report_split() -> None:
    # A fit on the report split itself would be perfect: t = 3 p + 1 there.
    exemplars = [*weather(3, 1), *weather(split=Split.CALIBRATE)]
    grade = score(SimulationLLM(metric="top_and_random"), case(exemplars, simulator(surely)), "wind")
    true = 3 * np.array([10, 0, 4, 0, 7, 0, 2, 0, 4, 7, 0]) + 1
    assert grade.metrics["r2"] == pytest.approx(1 - np.mean((true - (true - 1) / 3) ** 2) / np.mean(true**2))


# --- a few tokens at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, [" storm|storm", " calm| storm calm", " wind| storm calm wind"]),
        ({"tokens": 2}, [" storm, calm| storm calm", " wind| storm calm wind"]),
        ({"whole_text": True}, [" storm|« storm» calm wind", " calm| storm« calm» wind", " wind| storm calm« wind»"]),
    ],
)
def test_each_token_is_asked_of_the_text_before_it(options: dict[str, Any], asked: list[str]) -> None:
    exemplars = [
        window([" storm", " calm", " wind"], [10.0, 0.0, 4.0]),
        window([" gale", " breeze", " calm"], [7.0, 2.0, 0.0], Source.RANDOM),
        *forbidden(),
    ]
    llm = simulator(surely)
    grade = score(SimulationPerToken(metric="top_and_random", **options), case(exemplars, llm), "the wind")
    assert grade.value == pytest.approx(1)
    assert grade.metrics == pytest.approx({"top": 1, "random": 1, "constant": 0, "digit_mass": 1})
    found = []
    for request in llm.requests[: len(asked)]:
        text = request.messages[-2].content.partition("Text: ")[2]
        lines = request.messages[-1].content.split("\n")[1:]
        assert all(line.endswith("\tunknown") for line in lines)
        found.append(",".join(line.partition("\t")[0] for line in lines) + "|" + text)
    assert [item.replace("| ", "|") for item in found] == [item.replace("| ", "|") for item in asked]
    assert len(llm.requests) == 2 * len(asked)
    assert not any(MARKER in request.text for request in llm.requests)


def test_the_same_levels_give_the_same_figures_however_many_tokens_are_asked_for_at_once() -> None:
    exemplars = [*weather(0.4, 0.1), *weather(0.7, 0.3, Split.CALIBRATE)]

    def unsure(description: str, token: str) -> Expectation:
        return {str(LEVEL[token]): 0.5, "3": 0.3, "the": 0.2}

    grades = [
        score(judge, case(exemplars, simulator(unsure)), "wind")
        for judge in (
            SimulationLLM(metric="top_and_random"),
            SimulationPerToken(metric="top_and_random"),
            SimulationPerToken(metric="top_and_random", tokens=3),
        )
    ]
    assert grades[0].metrics["digit_mass"] == pytest.approx(0.8)
    for grade in grades[1:]:
        assert grade.value == pytest.approx(grades[0].value)
        assert grade.metrics == pytest.approx(grades[0].metrics)


# --- levels written out -----------------------------------------------------------------------------------------------


def writer(level: Callable[[str], int]) -> ScriptedClient:
    """Make an LLM that writes for each token what a function of the token says."""

    def answer(request: Request) -> str:
        tokens = re.findall(r"<token_(\d+)>(.*)</token_\d+>", request.text)
        assert request.schema is not None
        assert list(request.schema["required"]) == [f"token_{number}" for number, _ in tokens]
        return json.dumps({f"token_{number}": level(token) for number, token in tokens})

    return ScriptedClient(answer)


@pytest.mark.parametrize(("tokens", "requests"), [(None, 4), (3, 5), (1, 11)])
def test_levels_that_are_written_out_need_no_log_probabilities(tokens: int | None, requests: int) -> None:
    exemplars = [*weather(0.37, 0.2), *forbidden()]
    judge = SimulationWritten(metric="top_and_random", tokens=tokens)
    assert not judge.needs_logprobs
    llm = writer(LEVEL.__getitem__)
    grade = score(judge, case(exemplars, llm), "the strength of the wind")
    assert (grade.value, grade.metrics) == (pytest.approx(1), pytest.approx({"top": 1, "random": 1, "constant": 0}))
    turned = score(judge, case(exemplars, writer(lambda token: 10 - LEVEL[token])), "the strength of the wind")
    assert turned.value == pytest.approx(-1)
    assert len(llm.requests) == requests
    whole = {"".join(item.tokens) for item in weather()}
    for request in llm.requests:
        (text,) = re.findall("<text>(.*)</text>", request.text)
        asked = "".join(re.findall(r"<token_\d+>(.*)</token_\d+>", request.text))
        assert re.sub("[«»]", "", text) in whole
        assert text == asked or re.findall("«(.*)»", text) == [asked]
    assert not any(MARKER in request.text for request in llm.requests)


def test_written_levels_by_hand() -> None:
    exemplars = [
        window(["a", "b"], [2.0, 0.0]),
        window(["c", "d"], [1.0, 1.0], Source.RANDOM),
        window(["a", "d"], [4.0, 0.0], Source.TOP, Split.CALIBRATE),
        window(["b", "c"], [3.0, 1.0], Source.RANDOM, Split.CALIBRATE),
    ]
    grade = score(
        SimulationWritten(metric="top_and_random"),
        case(exemplars, writer({"a": 8, "b": 6, "c": 2, "d": 0}.__getitem__)),
        "x",
    )
    # Predicted 8, 6, 2, 0 (centred 4, 2, -2, -4) and true 2, 0, 1, 1 (centred 1, -1, 0, 0).
    assert grade.value == pytest.approx((4 - 2) / math.sqrt(40 * 2))
    # Calibrate: t = p / 2, so the report split is predicted as 4, 3, 1, 0 of 2, 0, 1, 1.
    assert grade.metrics == pytest.approx(
        {"top": 1.0, "constant": 0, "r2": 1 - (4 + 9 + 0 + 1) / (4 + 0 + 1 + 1), "absolute": 1 - (2 + 3 + 0 + 1) / 4}
    )


@pytest.mark.parametrize("level", [11, -1, "high", None])
def test_a_level_that_is_none_fails_the_score(level: Any) -> None:
    def wild(token: str) -> Any:
        return level if token == " breeze" else LEVEL[token]

    error = failure(lambda: score(SimulationWritten(metric="top_and_random"), case(weather(), writer(wild)), "wind"))
    assert error.status is Status.UNPARSED


def test_a_long_window_has_room_for_its_levels() -> None:
    tokens = [f" word{number}" for number in range(120)]
    exemplars = [window(tokens, [float(number) for number in range(120)], source) for source in Source]
    llm = writer(lambda token: int(token.removeprefix(" word")) % 11)
    score(SimulationWritten(metric="top_and_random"), case(exemplars, llm), "numbers")
    for request in llm.requests:
        assert request.sampling is not None
        assert request.sampling.max_tokens >= 120 * len('"token_120": 10, ') / 2


def test_nothing_but_zeros_written_is_a_correlation_of_zero() -> None:
    grade = score(SimulationWritten(metric="top_and_random"), case(weather(), writer(lambda token: 0)), "wind")
    assert (grade.value, grade.metrics) == (0, {"top": 0, "random": 0, "constant": 1})


def preflight(judge: SimulationLLM, llm: LLMClient) -> str:
    return asyncio.run(judge.preflight({"simulator": llm}))


def any_level(description: str, token: str) -> Expectation:
    return {"0": 0.6, "3": 0.3, "the": 0.1}


def test_the_preflight_proves_the_levels_before_any_window_is_asked() -> None:
    judge, llm = SimulationLLM(metric="top_and_random"), simulator(any_level)
    found = preflight(judge, llm)
    assert found == "levels 0-10 work with this model, with 'unknown' for an unknown level " + (
        "(90% of the probability is on the levels)"
    )
    (request,) = llm.requests
    assert all(f" token\t{level}\n" in request.messages[-1].content for level in range(11))
    # Where "unknown" is joined to the tab, "?" is found once, and no window is asked in vain.
    merging = simulator(surely, merges=("unknown",))
    proven = simulator(any_level, merges=("unknown",))
    assert "with '?' for an unknown level" in preflight(judge, proven)
    score(judge, case([*weather(), *weather(split=Split.CALIBRATE)], merging), "wind")
    assert all(request.text.endswith("?") for request in merging.requests)


def test_the_preflight_falls_back_on_one_digit() -> None:
    judge = SimulationLLM(metric="top_and_random")
    found = preflight(judge, simulator(any_level, tokens_of=r"[\s\S]"))
    assert found.startswith("levels 0-9 work with this model")
    assert found.endswith("; not 0-10, because its tokenizer writes 10 as more than one token after a tab")


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        (simulator(lambda description, token: {"the": 0.999, "3": 0.001}), ["0.001", "min_digit_mass", "leave this"]),
        (simulator(any_level, merges=("unknown", "?")), ["from the tab", "another model as llm.simulator"]),
        (
            ScriptedClient(token_logprobs=lambda request: PromptLogprobs((), Status.FAILED, "HTTP 400: no logprobs")),
            ["HTTP 400: no logprobs"],
        ),
    ],
    ids=["no digits", "no placeholder", "no log-probabilities"],
)
def test_the_preflight_says_what_will_not_work(llm: LLMClient, words: list[str]) -> None:
    told(lambda: preflight(SimulationLLM(metric="top_and_random"), llm), *words)
