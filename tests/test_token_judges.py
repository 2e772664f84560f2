"""Judges that predict the activation of every token, and the signs of extractive descriptions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from describers.answers import INPUT_ROLES, OUTPUT_ROLES, by_strength, extract
from describers.graded import Corrupted
from describers.rotate import Rotate, role_of
from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.records import (
    Description,
    Effect,
    Neuron,
    ScoredToken,
    Side,
    SignedTokens,
    Source,
    Split,
    TokenRole,
    Winner,
    from_json,
    to_json,
)
from harness.signed_text import read_tokens
from harness.spread import lowest_quarter
from judges.embedding import EmbeddingSimulation
from judges.evidence import activating, active_and_silent
from judges.token_match import TokenOutput, TokenPairwise, TokenSimulation
from tests.support import describer_cases
from tests.support.judge_cases import NEURON, Compass, case, compare, forbidden, score, window

SIGNED = SignedTokens(("cat", "dog"), ("sea",), ("paw",), ("fin",))
TEXT = "activated by cat, dog; silenced by sea; promotes paw; suppresses fin"


class Angles(SentenceEncoder):
    """Word embeddings at given angles in degrees; other words have none."""

    def __init__(self, **angles: float) -> None:
        self._angles = angles

    def encode_words(self, texts: Sequence[str]) -> Any:
        def vector(text: str) -> tuple[float, float]:
            angle = self._angles.get(text)
            return (0.0, 0.0) if angle is None else (math.cos(math.radians(angle)), math.sin(math.radians(angle)))

        return np.array([vector(text) for text in texts], dtype=np.float32).reshape(-1, 2)


def uniform(text: str, activations: Sequence[float], split: Split = Split.REPORT) -> Any:
    return window(text, activations, Source.RANDOM, split)


# The text and the record


def test_the_text_names_the_role_of_each_token() -> None:
    assert SIGNED.text == TEXT
    assert SignedTokens(("cat", "dog")).text == "cat, dog"
    assert SignedTokens(silencing=("sea",)).text == "silenced by sea"
    assert SignedTokens.of(SIGNED.items) == SIGNED


def test_the_record_keeps_the_tokens_and_omits_them_otherwise() -> None:
    record = Description(NEURON, "rotate", TEXT, tokens=SIGNED)
    assert to_json(record)["tokens"]["silencing"] == ["sea"]
    assert from_json(Description, to_json(record)) == record
    assert "tokens" not in to_json(Description(NEURON, "rotate", "prose"))


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (Side.INPUT, (("cat", "dog"), ("sea",))),
        (Side.OUTPUT, (("paw",), ("fin",))),
        (Side.BOTH, (("cat", "dog", "paw"), ("sea", "fin"))),
    ],
)
def test_a_judge_reads_the_tokens_of_its_side(side: Side, expected: Any) -> None:
    assert SIGNED.of_side(side) == expected
    assert SignedTokens(promoted=("paw",)).of_side(side) == (("paw",), ())  # better than nothing


def test_tokens_are_read_from_text() -> None:
    assert read_tokens("anything", SIGNED) is SIGNED
    assert read_tokens(TEXT) == SIGNED
    assert read_tokens("Promotes the word cats; suppresses 'the'.") == SignedTokens(
        promoted=("word", "cats"), suppressed=("the",)
    )
    assert read_tokens('Fires on "of" after the verbs') == SignedTokens(("fires", "of", "verbs"))
    assert read_tokens("the, of, cat") == SignedTokens(("the", "of", "cat"))
    assert read_tokens("") == SignedTokens()


def test_extraction_counts_each_token_once_per_side() -> None:
    items = [
        (TokenRole.ACTIVATING, " Cat"),
        (TokenRole.SILENCING, "##cat"),
        (TokenRole.SUPPRESSED, "cat"),
        (TokenRole.SILENCING, "sea"),
        (TokenRole.ACTIVATING, "dog"),
    ]
    assert extract(items, 3) == SignedTokens(("cat",), ("sea",), (), ("cat",))


def test_ends_of_a_projection_are_merged_by_strength() -> None:
    high, low = (ScoredToken("a", 5.0), ScoredToken("b", 2.0)), (ScoredToken("c", -4.0), ScoredToken("d", -1.0))
    plus, minus = INPUT_ROLES
    assert by_strength(high, low, INPUT_ROLES) == [(plus, "a"), (minus, "c"), (plus, "b"), (minus, "d")]


@pytest.mark.parametrize(
    ("kind", "skewness", "role"),
    [
        ("gate", 2.0, TokenRole.ACTIVATING),
        ("gate", -2.0, TokenRole.SILENCING),
        ("in", 2.0, TokenRole.ACTIVATING),
        ("in", -2.0, TokenRole.SILENCING),
        ("out", 2.0, TokenRole.PROMOTED),
        ("out", -2.0, TokenRole.SUPPRESSED),
    ],
)
def test_the_role_of_a_channels_heavier_tail(kind: str, skewness: float, role: TokenRole) -> None:
    assert role_of(describer_cases.channel(0, ["a"], ["b"], kind, skewness)) is role


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def test_the_tails_of_gate_and_in_mean_what_rotate_says() -> None:
    active = silu(4.0) * 4.0
    assert silu(-4.0) * 4.0 == pytest.approx(-0.288, abs=1e-3)  # a closed gate, whatever `in` reads
    assert abs(silu(-4.0) * 4.0) < 0.02 * active
    assert abs(silu(-4.0) * -4.0) < 0.02 * active
    assert silu(4.0) * -4.0 == pytest.approx(-active)  # an open gate and the negative tail of `in`


def test_rotate_lists_silencing_tokens_as_such() -> None:
    channels = [
        describer_cases.channel(0, ["cat", "dog"], ["x"], "in", 2.0),
        describer_cases.channel(1, ["y"], ["sea", "lake"], "in", -2.0),
        describer_cases.channel(0, ["paw"], ["z"], "out", 2.0),
    ]
    draft = describer_cases.describe(Rotate(mode="extractive"), describer_cases.case(channels=channels))
    assert draft.tokens == SignedTokens(("cat", "dog"), ("sea", "lake"), ("paw",))
    assert draft.text == "activated by cat, dog; silenced by sea, lake; promotes paw"


def test_a_corruption_drops_tokens_without_changing_the_roles_of_others() -> None:
    made = {"source": {describer_cases.NEURON: Description(describer_cases.NEURON, "source", TEXT, tokens=SIGNED)}}
    given = describer_cases.case(neurons=(describer_cases.NEURON,), others=made)
    draft = describer_cases.describe(Corrupted("source", "dropped", 0.6), given)
    assert draft.tokens is not None
    assert draft.text == draft.tokens.text
    assert len(draft.tokens.items) == 2
    assert set(draft.tokens.items) < set(SIGNED.items)
    swapped = describer_cases.describe(
        Corrupted("source", "swapped"),
        dataclasses.replace(
            given,
            neurons=(describer_cases.NEURON, Neuron(3, 18)),
            others={
                "source": {
                    **made["source"],
                    Neuron(3, 18): Description(
                        Neuron(3, 18), "source", "silenced by x", tokens=SignedTokens((), ("x",))
                    ),
                }
            },
        ),
    )
    assert swapped.tokens == SignedTokens((), ("x",))


# Prediction


def test_token_simulation_by_hand() -> None:
    # "cat" predicts 1 at cat, cos(60)^4 = 1/16 at kitten, 0 at stone; "sea" predicts -1 at sea.
    encoder = Angles(cat=0, kitten=60, stone=90, sea=180)
    given = case([uniform("cat kitten stone sea", [4.0, 1.0, 0.0, -3.0]), *forbidden()])
    signed = dataclasses.replace(given, tokens={TEXT: SignedTokens(("cat",), ("sea",))})
    grade = score(TokenSimulation(encoder, active_fraction=0.5), signed, TEXT)
    assert grade.value == pytest.approx(np.corrcoef([1, 1 / 16, 0, -1], [4, 1, 0, -3])[0, 1], abs=1e-6)
    assert grade.metrics == {"auprc": 1.0, "base": 0.5, "constant": 0.0}


def test_the_sign_of_a_token_matters() -> None:
    given = case([uniform("cat stone sea", [3.0, 0.0, -3.0])])
    judge = TokenSimulation(Angles(cat=0, sea=90, stone=180))
    assert score(judge, given, "activated by cat; silenced by sea").value == pytest.approx(1.0)
    assert score(judge, given, "silenced by cat; activated by sea").value == pytest.approx(-1.0)
    assert score(judge, given, "cat, sea").value == pytest.approx(0.0, abs=1e-9)


def test_equal_tokens_match_without_an_embedding() -> None:
    given = case([uniform(" Xq stone", [2.0, 0.0])])
    assert score(TokenSimulation(Angles()), given, "xq").value == pytest.approx(1.0)


def test_a_description_without_tokens_predicts_nothing() -> None:
    grade = score(TokenSimulation(Angles()), case([uniform("cat stone", [2.0, 0.0])]), "of the")
    assert (grade.value, grade.metrics["constant"]) == (0.0, 1.0)


def test_average_precision_needs_an_active_token() -> None:
    given = case([uniform("cat stone", [-1.0, -2.0])])
    assert "auprc" not in score(TokenSimulation(Angles()), given, "cat").metrics
    with pytest.raises(Unanswered, match="never active"):
        compare(TokenPairwise(Angles(), metric="auprc"), given, "cat", "stone")


def test_activations_must_vary() -> None:
    for windows, reason in (([], "no random window"), ([uniform("cat stone", [1.0, 1.0])], "do not vary")):
        with pytest.raises(Unanswered, match=reason):
            score(TokenSimulation(Angles()), case(windows), "cat")


@pytest.mark.parametrize("metric", ["pearson", "auprc"])
def test_token_pairwise_prefers_the_better_prediction(metric: Any) -> None:
    judge = TokenPairwise(Angles(), metric=metric)
    given = case([uniform("cat stone sea", [3.0, 0.0, -1.0]), *forbidden()])
    assert compare(judge, given, "cat", "stone").winner is Winner.FIRST
    assert compare(judge, given, "stone", "cat").winner is Winner.SECOND
    assert compare(judge, given, "cat", "Cat!").winner is Winner.TIE


def test_token_output_compares_with_the_measured_change_of_sampled_tokens() -> None:
    # "cat" predicts 1 at cat and cos(60)^4 = 1/16 at kitten; "fin" predicts -1 at fin.
    sampled = tuple(ScoredToken(*item) for item in ((" Cat", 4.0), ("kitten", 1.0), ("stone", 0.0), ("fin", -3.0)))
    effects = [
        Effect(NEURON, split, value, 1.0, (), (), tokens)
        for split, value, tokens in (
            (Split.REPORT, 10.0, sampled),
            (Split.REPORT, 5.0, sampled[::-1]),
            (Split.EXPLAIN, 20.0, (ScoredToken("never", 9.0),)),
        )
    ]
    encoder = Angles(cat=0, kitten=60, stone=90, fin=180)
    judge = TokenOutput(encoder)
    given = dataclasses.replace(case([]), effects=tuple(effects))
    found = compare(judge, given, "promotes cat; suppresses fin", "suppresses cat")
    by_hand = np.corrcoef([1, 1 / 16, 0, -1], [4, 1, 0, -3])[0, 1]
    assert found.winner is Winner.FIRST
    assert found.reason.startswith(f"r {by_hand:.3f} against -")
    assert (judge.side, judge.needs_effects) == (Side.OUTPUT, True)
    assert compare(judge, given, "activated by stone; promotes cat", "promotes cat").winner is Winner.TIE
    for lacking, why in (
        (effects[2:], "no effect of the neuron"),
        ([dataclasses.replace(effects[0], sampled=())], "no tokens were sampled"),
    ):
        with pytest.raises(Unanswered, match=why):
            compare(judge, dataclasses.replace(given, effects=tuple(lacking)), "cat", "fin")


def test_missing_and_extra_labels_lower_both_metrics() -> None:
    # The sanity checks of arXiv:2506.05774: a perfect description, half of it, and as many wrong tokens added.
    right = [f"r{index}" for index in range(10)]
    wrong = [f"w{index}" for index in range(10)]
    rest = [f"n{index}" for index in range(180)]
    tokens = [*right, *wrong, *rest]
    given = case([uniform(" ".join(tokens), [1.0] * 10 + [0.0] * 190)])
    judge = TokenSimulation(Angles(), active_fraction=0.05)
    perfect, half, double = (score(judge, given, ", ".join(named)) for named in (right, right[:5], right + wrong))
    assert perfect.value == pytest.approx(1.0)
    assert perfect.metrics["auprc"] == pytest.approx(1.0)
    for worse in (half, double):
        assert worse.value < 0.75
        assert worse.metrics["auprc"] < 0.65


def test_planted_neurons_prefer_their_own_description() -> None:
    rng = np.random.default_rng(0)
    words = [f"t{index}" for index in range(60)]
    text = " ".join(rng.choice(words, 2000))
    judge, own = TokenSimulation(Angles()), []
    for start in range(0, 60, 10):
        up, down = words[start : start + 5], words[start + 5 : start + 10]
        values = [(token in up) - (token in down) + rng.normal() for token in text.split()]
        given = case([uniform(text, values)])
        scores = [
            score(
                judge,
                given,
                f"activated by {', '.join(words[s : s + 5])}; silenced by {', '.join(words[s + 5 : s + 10])}",
            ).value
            for s in range(0, 60, 10)
        ]
        own.append(int(np.argmax(scores)) == start // 10)
    assert all(own)


def test_embedding_judges_embed_what_counts_for_the_neuron() -> None:
    encoder = Compass()
    windows = [window("0", [3.0]), window("90", [0.0], Source.RANDOM), window("45", [1.0], Source.RANDOM)]
    for tokens, value in ((SignedTokens(("0",), ("90",)), 1.0), (SignedTokens((), ("0",)), -1.0)):
        given = dataclasses.replace(case(windows), tokens={"text": tokens})
        assert score(EmbeddingSimulation(encoder), given, "text").value * value > 0.9


# Dense neurons


def test_lowest_quarter() -> None:
    assert [lowest_quarter(list(map(float, range(count)))) for count in (1, 4, 5, 8)] == [0.0, 0.0, 1.0, 1.0]
    assert lowest_quarter([]) == -math.inf


def test_a_dense_neuron_has_silent_windows() -> None:
    top = [window("a", [peak]) for peak in (10.0, 9.9, 9.8)]
    random = [window("b", [9.0 + index / 10], Source.RANDOM) for index in range(8)]
    active, quiet = active_and_silent(case([*top, *random]), 3, 0.5, 3)
    assert [item.activation for item in active] == [10.0, 9.9, 9.8]
    assert [item.activation for item in quiet] == [9.0, 9.1]
    active = activating(case([*top, *random]), 3, 0.3)
    assert min(item.activation for item in active) > max(item.activation for item in quiet) == 9.1


def test_output_roles_are_those_of_tokens() -> None:
    assert OUTPUT_ROLES == (TokenRole.PROMOTED, TokenRole.SUPPRESSED)
