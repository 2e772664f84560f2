"""Controls: descriptions that say nothing about the neuron."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.describer_cases import (
    NEURON,
    NOWHERE,
    case,
    describe,
    failure,
    window,
)

from describers.adversaries import ConfidentMechanism, KeywordStuffing, Shotgun, Verbatim
from describers.controls import Generic, Longest, Shuffled
from harness.fillers import EMPTY
from harness.methods import DescriberCase
from harness.records import (
    Description,
    EvidenceSize,
    Neuron,
    Sign,
    Source,
    Split,
    Status,
)
from harness.seeds import derangement


@given(count=st.integers(2, 25), seed=st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_a_derangement_leaves_nothing_in_its_place(count: int, seed: int) -> None:
    order = derangement(count, seed, "x")
    assert sorted(order) == list(range(count))
    assert all(place != item for place, item in enumerate(order))
    assert order == derangement(count, seed, "x")


def dealt(count: int, seed: int) -> list[str]:
    neurons = tuple(Neuron(0, index) for index in range(count))
    made = {neuron: Description(neuron, "rotate", f"about {neuron}") for neuron in neurons}
    texts = []
    for neuron in neurons:
        given = DescriberCase(neuron, (), NOWHERE, None, seed, neurons=neurons, others={"rotate": made})
        draft = describe(Shuffled("rotate"), given)
        assert draft.detail == f"rotate's description of {draft.text.removeprefix('about ')}"
        texts.append(draft.text)
    return texts


@pytest.mark.parametrize("count", [2, 3, 12])
def test_shuffled_gives_every_description_to_another_neuron(count: int) -> None:
    own = [f"about L0N{index}" for index in range(count)]
    texts = dealt(count, seed=5)
    assert sorted(texts) == sorted(own)
    assert all(text != mine for text, mine in zip(texts, own, strict=True))
    assert texts == dealt(count, seed=5)


def test_shuffled_depends_on_the_seed() -> None:
    assert dealt(12, seed=5) != dealt(12, seed=6)


@pytest.mark.parametrize("status", [None, Status.FAILED, Status.UNPARSED])
def test_shuffled_without_a_donor_fails(status: Status | None) -> None:
    neurons = (Neuron(0, 0), Neuron(0, 1))
    made = {} if status is None else {neurons[1]: Description(neurons[1], "rotate", "", status, "why")}
    given = DescriberCase(neurons[0], (), NOWHERE, None, 0, neurons=neurons, others={"rotate": made})
    error = failure(Shuffled("rotate"), given)
    assert (error.status, error.detail) == (Status.FAILED, "rotate has no description of L0N1")


def test_shuffled_needs_two_neurons() -> None:
    made = {"rotate": {NEURON: Description(NEURON, "rotate", "about me")}}
    error = failure(Shuffled("rotate"), case(neurons=(NEURON,), others=made))
    assert error.status is Status.FAILED
    assert "no other neuron" in error.detail


def test_generic_says_the_same_of_every_neuron() -> None:
    texts = {describe(Generic(), case(neuron=Neuron(0, index))).text for index in range(3)}
    assert len(texts) == 1
    assert texts.pop()
    assert describe(Generic("text"), case()).text == "text"


def test_empty_says_nothing_in_words_that_a_judge_can_be_shown() -> None:
    draft = describe(Generic(EMPTY), case())
    assert draft.text == "(no description)"
    assert Generic(EMPTY).control


def test_longest_gives_all_neurons_the_longest_description_of_another_one() -> None:
    texts = ["a b c", "a b cc", "longest of all these", "", "longest of all those", "abcdefghijklmnopqrstuvwxyz"]
    neurons = tuple(Neuron(0, index) for index in range(len(texts)))
    made = {
        neuron: Description(neuron, "rotate", text, Status.OK if text else Status.FAILED, evidence=EvidenceSize(1, 7))
        for neuron, text in zip(neurons, texts, strict=True)
    }
    given = {neuron: case(neuron=neuron, neurons=neurons, others={"rotate": made}) for neuron in neurons}
    drafts = [describe(Longest("rotate"), given[neuron]) for neuron in neurons]
    assert [draft.text for draft in drafts] == [texts[4] if index == 2 else texts[2] for index in range(6)]
    assert drafts[0].evidence == EvidenceSize(1, 7)
    assert "L0N2" in drafts[0].detail
    alone = case(neuron=neurons[0], neurons=neurons[:1], others={"rotate": {neurons[0]: made[neurons[0]]}})
    assert "no description of another neuron" in failure(Longest("rotate"), alone).detail


def test_the_other_sign_of_a_neuron_is_no_other_neuron() -> None:
    neuron, twin, other = Neuron(0, 1), Neuron(0, 1, sign=Sign.NEGATIVE), Neuron(0, 2)
    made = {one: Description(one, "rotate", text) for one, text in ((neuron, "a b"), (twin, "a b c"), (other, "a"))}
    given = case(neuron=neuron, neurons=(neuron, twin, other), others={"rotate": made})
    assert describe(Longest("rotate"), given).text == "a"


def test_adversaries_try_to_win_without_describing_the_neuron() -> None:
    neurons = [Neuron(0, index) for index in range(6)]
    shotguns = {describe(Shotgun(5), case(neuron=neuron)).text for neuron in neurons}
    assert shotguns == {"is active on numbers, dates and years, names of people, names of places, punctuation"}
    mechanisms = [describe(ConfidentMechanism(), case(neuron=neuron)).text for neuron in neurons]
    assert mechanisms == [describe(ConfidentMechanism(), case(neuron=neuron)).text for neuron in neurons]
    assert len(set(mechanisms)) > 1
    shown = [
        window([" a", " storm", " at", " sea"], [0, 9, 0, 0]),
        window([" the", " gale"], [0, 8]),
        window([" hidden"], [9], split=Split.SELECT),
        window([" Green", " the", " tables", "##", " green"], [0, 0, 0, 0, 0], source=Source.RANDOM),
    ]
    assert describe(Verbatim(windows=2, context=1), case(exemplars=shown)).text == '"a storm at"; "the gale"'
    source = {"rotate": {NEURON: Description(NEURON, "rotate", "storms")}}
    stuffed = describe(KeywordStuffing("rotate"), case(exemplars=shown, others=source))
    assert stuffed.text == "storms, green, tables"
    for adversary in (Shotgun(), ConfidentMechanism(), Verbatim(), KeywordStuffing("rotate")):
        assert adversary.control
        assert adversary.corruption is not None
        assert adversary.corruption.quality < 0.5
