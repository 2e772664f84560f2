"""Describers that contain others: the best of several candidates, and ensembles."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.describer_cases import NEURON, NOWHERE, case, channel, describe, failure, shown_tokens, window
from support.errors import told

from describers.best_of_k import BestOfK
from describers.controls import Generic
from describers.ensembles import EnsembleConcat, EnsembleRaw
from describers.maxact import MaxAct
from describers.rotate import Rotate
from describers.vocab_proj import VocabProj
from harness.errors import HarnessError
from harness.evidence import ReadText, TextReader
from harness.llm.client import Completion, Sampling, Unanswered
from harness.llm.prompts import prompts_of
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import Describer, DescriberCase, Draft, Grade, JudgeCase, Scorer
from harness.records import (
    Description,
    EvidenceSize,
    Exemplar,
    Neuron,
    Source,
    Split,
    Status,
    VectorKind,
)
from harness.validation import explain
from judges.clarity import OwnWords
from judges.steered import Faithfulness, OutputBased


class Told(Scorer):
    """Grades as it is told, and remembers what it was shown."""

    def __init__(self, rule: Callable[[str], float]) -> None:
        self.rule = rule
        self.cases: list[JudgeCase] = []
        self.texts: list[str] = []

    async def score(self, case: JudgeCase, description: str) -> Grade:
        self.cases.append(case)
        self.texts.append(description)
        await asyncio.sleep(0)
        return Grade(self.rule(description))


class Names(Describer):
    """Names the windows and channels that it is given."""

    def __init__(self) -> None:
        self.cases: list[DescriberCase] = []

    async def describe(self, case: DescriberCase) -> Draft:
        self.cases.append(case)
        names = [str(item.window) for item in case.exemplars]
        names += [f"{item.kind}{item.rank}" for item in case.channels]
        return Draft(" ".join(names), evidence=EvidenceSize(len(case.exemplars), 10))


def evidence(splits: tuple[Split, ...] = (Split.EXPLAIN, Split.SELECT)) -> list[Exemplar]:
    """Ten windows of each source and split, each of its own document."""
    return [
        window([f"{split} {source} {place}"], [10.0 - place], split, source, 100 * number + place)
        for number, (split, source) in enumerate((split, source) for split in splits for source in Source)
        for place in range(10)
    ]


def full(**more: Any) -> DescriberCase:
    channels = [channel(rank, [f"{kind}{rank}"], kind=kind) for kind in ("in", "out") for rank in range(5)]
    return case(exemplars=evidence(), channels=channels, **more)


# --- best_of_k --------------------------------------------------------------------------------------------------------


def test_the_candidate_that_scores_best_wins_and_all_are_kept() -> None:
    names, scorer = Names(), Told(lambda text: 99 - float(text.split()[0]))
    draft = describe(BestOfK({"names": names}, {"told": scorer}, k=6), full())
    assert len(names.cases) == 6
    assert len(draft.steps) == 6
    firsts = [int(part.partition(": ")[2].split()[0]) for part in draft.steps]
    assert len(set(firsts)) > 1
    assert int(draft.text.split()[0]) == min(firsts)
    assert draft.steps[firsts.index(min(firsts))] == f"{99 - min(firsts):.4f}: {draft.text}"
    assert draft.detail == f"best of 6 by names (told {99 - min(firsts):.4f} on the select split)"
    assert draft.evidence.tokens == 60


def test_a_candidate_sees_a_share_of_the_explain_split_and_of_the_channels_and_nothing_else() -> None:
    names = Names()
    describe(BestOfK(names, Told(len), k=8, windows=0.25, channels=0.6), full())
    for seen in names.cases:
        assert {item.split for item in seen.exemplars} == {Split.EXPLAIN}
        for source in Source:
            numbers = [item.window for item in seen.windows(Split.EXPLAIN, source)]
            assert len(set(numbers)) == 3  # a quarter of ten, rounded up
            assert numbers == sorted(numbers)
        for kind in ("in", "out"):
            ranks = [item.rank for item in seen.channels_of(VectorKind(kind))]
            assert len(set(ranks)) == 3
            assert ranks == sorted(ranks)
    assert len({seen.exemplars for seen in names.cases}) == len({seen.channels for seen in names.cases}) == 8


def test_the_scorer_takes_the_select_split_for_held_out_evidence_and_sees_no_other() -> None:
    scorer = Told(len)
    describe(BestOfK(Names(), scorer), full())
    assert len(scorer.cases) == 5
    (seen,) = {item.exemplars for item in scorer.cases}
    assert {item.tokens[0].split()[0] for item in seen} == {"select"}
    assert len(seen) == 30
    homes: dict[Split, set[str]] = {
        split: {item.document for item in seen if item.split is split} for split in {item.split for item in seen}
    }
    assert set(homes) == {Split.CALIBRATE, Split.REPORT}
    assert not homes[Split.CALIBRATE] & homes[Split.REPORT]
    assert len(homes[Split.CALIBRATE]) == 7  # a quarter of 30 documents


class Hears(TextReader):
    """A subject that is as active on a text as it is long."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        self.heard += texts
        return [ReadText(text, (float(len(text)),)) for text in texts]


def test_a_scorer_that_reads_new_text_can_select() -> None:
    reader = Hears()
    draft = describe(BestOfK(Names(), {"own_words": OwnWords()}, k=3), full(reader=reader))
    # Every candidate names many windows, and is longer than a window's text.
    assert "own_words 1.0000" in draft.detail
    assert any(text.startswith("select random") for text in reader.heard)
    assert not any(text.startswith("explain") for text in reader.heard)


def test_a_scorer_that_cannot_select_is_refused_before_time_is_spent() -> None:
    for scorer in (OutputBased(), Faithfulness()):
        with pytest.raises(ValueError, match="by=them looks at steered texts, and these are made for the judges"):
            BestOfK(Names(), {"them": scorer})

    class Choosy(Told):
        def check(self, neurons: Sequence[Neuron]) -> None:
            raise HarnessError(f"not with {len(neurons)} neurons")

    told(lambda: BestOfK(Names(), {"choosy": Choosy(len)}).check([NEURON], NOWHERE), "by=choosy: not with 1 neurons")


def test_a_single_document_to_select_by_is_not_spent_on_calibration() -> None:
    scorer = Told(len)
    select = [window(["a"], [1.0], Split.SELECT, source, 7) for source in (Source.TOP, Source.RANDOM)]
    describe(BestOfK(Names(), scorer, k=1), case(exemplars=[*evidence((Split.EXPLAIN,)), *select]))
    assert {item.split for item in scorer.cases[0].exemplars} == {Split.REPORT}


def test_what_judges_see_never_reaches_it() -> None:
    with pytest.raises(AssertionError, match="saw too much"):
        asyncio.run(BestOfK(Names(), Told(len)).describe(case(exemplars=evidence(tuple(Split)))))
    error = failure(BestOfK(Names(), Told(len)), case(exemplars=evidence((Split.EXPLAIN,))))
    assert error.detail == "no windows of the select split to choose a candidate by"


@pytest.mark.parametrize("worthless", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_never_wins(worthless: float) -> None:
    texts: dict[str, float] = {}

    def rule(text: str) -> float:
        return texts.setdefault(text, worthless if len(texts) != 2 else -99.0)

    draft = describe(BestOfK(Names(), Told(rule), k=4), full())
    assert texts[draft.text] == -99.0
    assert "3 of 4 without a score: failed, the score is" in draft.detail
    assert [part.partition(":")[0] for part in draft.steps].count("-99.0000") == 1
    error = failure(BestOfK(Names(), Told(lambda text: worthless), k=4), full())
    assert error.status is Status.FAILED
    assert "4 of 4 without a score" in error.detail


def test_candidates_and_scores_that_fail_are_counted_among_the_k() -> None:
    class Moody(Names):
        async def describe(self, case: DescriberCase) -> Draft:
            made = await super().describe(case)
            if len(self.cases) == 1:
                raise Unanswered(Status.REFUSED, "I would rather not")
            if len(self.cases) == 2:
                raise ZeroDivisionError("no idea")
            return Draft("  \n") if len(self.cases) == 3 else made

    def rule(text: str) -> float:
        if rule.calls == 0:  # type: ignore[attr-defined]
            rule.calls = 1  # type: ignore[attr-defined]
            raise Unanswered(Status.UNPARSED, "no digits")
        return 1.0

    rule.calls = 0  # type: ignore[attr-defined]
    scorer = Told(rule)
    draft = describe(BestOfK(Moody(), scorer, k=5), full())
    assert draft.text == scorer.texts[1]
    assert [part.partition(": ")[0] for part in draft.steps] == [*["no description"] * 3, "no digits", "1.0000"]
    assert draft.steps[1] == "no description: ZeroDivisionError: no idea"
    assert draft.detail.endswith(
        "; 3 of 5 without a description: refused, I would rather not; 1 of 5 without a score: unparsed, no digits"
    )

    class Silent(Names):
        async def describe(self, case: DescriberCase) -> Draft:
            raise Unanswered(Status.REFUSED, "I would rather not")

    error = failure(BestOfK(Silent(), Told(len), k=2), full())
    assert (error.status, scorer.texts[2:]) == (Status.REFUSED, [])
    assert "2 of 2 without a description" in error.detail


def test_a_mistake_of_the_users_is_no_failed_candidate() -> None:
    def rule(text: str) -> float:
        raise HarnessError("name another encoder")

    told(lambda: describe(BestOfK(Names(), Told(rule)), full()), "name another encoder")


def test_of_equal_scores_the_earlier_candidate_wins_and_equal_texts_are_graded_once() -> None:
    names = Names()
    draft = describe(BestOfK(names, Told(lambda text: 0.5), k=5), full())
    assert draft.steps[0] == f"0.5000: {draft.text}"
    scorer = Told(lambda text: 0.5)
    draft = describe(BestOfK(Generic("always this"), scorer, k=5), full())
    assert scorer.texts == ["always this"]
    assert draft.steps == ("0.5000: always this",) * 5


def test_neither_order_nor_concurrency_changes_what_is_drawn() -> None:
    def drafts(order: list[int]) -> dict[int, Draft]:
        async def all_of_them() -> list[Draft]:
            method = BestOfK(Names(), Told(lambda text: float(text.split()[0])), k=4)
            return await asyncio.gather(
                *(method.describe(dataclasses.replace(full(), neuron=Neuron(0, index))) for index in order)
            )

        return dict(zip(order, asyncio.run(all_of_them()), strict=True))

    one, other = drafts([0, 1, 2, 3]), drafts([3, 1, 0, 2])
    assert one == other
    assert len({draft.steps for draft in one.values()}) == 4  # another neuron, another draw
    alone = describe(
        BestOfK(Names(), Told(lambda text: float(text.split()[0])), k=4),
        dataclasses.replace(full(), neuron=Neuron(0, 2)),
    )
    assert alone == one[2]
    other_seed = dataclasses.replace(full(), neuron=Neuron(0, 2), seed=1)
    assert describe(BestOfK(Names(), Told(len), k=4), other_seed).steps != one[2].steps


class Asking(Told):
    """Asks the simulator before it grades."""

    role = "simulator"
    needs_logprobs = True

    async def score(self, case: JudgeCase, description: str) -> Grade:
        assert case.llms.keys() == {"simulator"}
        await case.require_llm().generate([])
        return await super().score(case, description)


def test_describer_and_scorer_ask_their_own_roles_and_candidates_are_drawn_at_temperature_1() -> None:
    explainer = ScriptedClient(
        lambda request: json.dumps({"description": f"drawn {request.sampling.seed}"}),  # type: ignore[union-attr]
        sampling=Sampling(max_tokens=99, seed=0),
    )
    simulator = ScriptedClient(lambda request: "yes")
    method = BestOfK({"maxact": MaxAct()}, Asking(len), k=3)
    assert method.roles == {"explainer": False, "simulator": True}
    assert method.role == "explainer"
    assert method.target_words == 30
    given = full(llm=explainer, llms={"explainer": explainer, "simulator": simulator})
    draft = describe(method, given)
    samplings = [request.sampling for request in explainer.requests]
    assert len(samplings) == len({sampling.seed for sampling in samplings if sampling}) == 3
    assert all((item.temperature, item.max_tokens) == (1.0, 99) for item in samplings if item)
    assert len(simulator.requests) == 3
    assert all(request.sampling == Sampling() for request in simulator.requests)
    assert draft.text.startswith("drawn ")
    again = ScriptedClient(
        lambda request: json.dumps({"description": "x"}), sampling=Sampling(temperature=None, seed=None)
    )
    describe(method, full(llm=again, llms={"explainer": again, "simulator": simulator}))
    # A role that leaves both to its server keeps that.
    assert {(item.sampling.temperature, item.sampling.seed) for item in again.requests if item.sampling} == {
        (None, None)
    }


def test_the_run_learns_what_is_inside() -> None:
    method = BestOfK({"rotate": Rotate(kinds=["out"], mode="llm")}, {"asking": Asking(len)})
    assert (method.needs_channels, method.needs_exemplars, method.kinds) == (True, True, (VectorKind.OUT,))
    assert [type(one).__name__ for one in method.walk] == ["BestOfK", "Rotate", "Asking"]
    assert set(prompts_of(method)) == {"prompts/rotate_channel.j2", "prompts/rotate_merge.j2"}
    both = EnsembleRaw({"a": Rotate(kinds=["in"]), "b": Rotate(kinds=["gate"]), "c": MaxAct()})
    assert (both.needs_channels, both.needs_exemplars) == (True, True)
    assert both.kinds == (VectorKind.GATE, VectorKind.IN)
    assert BestOfK(EnsembleConcat(["x", "y"]), Told(len)).after == ("x", "y")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BestOfK({"a": Names(), "b": Names()}, Told(len)), "of names 2 methods"),
        (lambda: BestOfK({}, Told(len)), "of names 0 methods"),
        (lambda: BestOfK(Told(len), Told(len)), "must be a Describer"),  # type: ignore[arg-type]
        (lambda: BestOfK(Names(), Names()), "must be a Scorer"),  # type: ignore[arg-type]
        (lambda: BestOfK(Names(), Told(len), k=0), "k: must be at least 1, not 0"),
        (lambda: BestOfK(Names(), Told(len), windows=0), "windows: must be above 0, not 0"),
        (lambda: EnsembleRaw({"rotate": Rotate()}), "at least two"),
        (lambda: EnsembleRaw({"rotate": Rotate(), "generic": Generic()}), "generic cannot show its evidence"),
        (lambda: EnsembleConcat(["rotate"]), "at least two"),
    ],
)
def test_what_cannot_be_built_says_why(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        build()
    assert words in explain(caught.value)


# --- ensembles --------------------------------------------------------------------------------------------------------


def ensemble(**options: Any) -> EnsembleRaw:
    return EnsembleRaw({"rotate": Rotate(kinds=None, channels=1), "maxact": MaxAct(exemplars=2)}, **options)


def test_the_raw_ensemble_shows_all_evidence_in_one_prompt() -> None:
    llm = ScriptedClient([json.dumps({"description": "everything"})])
    draft = describe(ensemble(target_words=12), full(llm=llm, llms={"explainer": llm}))
    (request,) = llm.requests
    assert draft.text == "everything"
    assert shown_tokens(request.text) == ["in0", "out0"]
    assert re.findall(r"(?:explain|select) \w+ \d", request.text) == ["explain top 0", "explain top 1"]
    assert request.text.index("reads from its input") < request.text.index("writes to its output")
    assert "at most 12 words" in request.text
    assert draft.detail == "from the evidence of rotate, maxact"
    assert draft.evidence == EvidenceSize(2, 4)


def test_the_raw_ensemble_does_with_what_there_is_and_says_what_is_missing() -> None:
    channels = [channel(0, [" until"])]
    llm = ScriptedClient(lambda request: json.dumps({"description": "time"}))
    draft = describe(ensemble(), case(channels=channels, llm=llm))
    assert draft.detail == (
        "from the evidence of rotate (missing: maxact: the neuron is never active on the explain split)"
    )
    assert describe(ensemble(), case(channels=channels)).text == "until"
    error = failure(ensemble(min_shown=1.0), case(channels=channels, llm=llm))
    assert error.detail.startswith("1 of the ensemble are missing (maxact: the neuron is never active")
    assert "2 of the ensemble" in failure(ensemble(), case(llm=llm)).detail
    assert len(llm.requests) == 1


def test_the_raw_ensemble_without_an_explainer_takes_the_tokens_of_each_in_turn() -> None:
    given = case(
        channels=[channel(0, [" red", " blue", " green"])], exemplars=[window([" dog", " Red", " cat"], [3, 2, 1])]
    )
    both = EnsembleRaw({"maxact": MaxAct(), "rotate": Rotate()}, target_words=4)
    draft = describe(both, given)
    assert draft.text == "dog, red, blue, cat"
    assert draft.steps == ("maxact: dog, red, cat", "rotate: red, blue, green")
    assert draft.evidence == EvidenceSize(1, 6)


def by(name: str, text: str, status: Status = Status.OK, tokens: int = 5) -> dict[Neuron, Description]:
    return {NEURON: Description(NEURON, name, text, status, "why", evidence=EvidenceSize(1, tokens))}


def test_the_concatenated_ensemble_joins_the_descriptions_of_others() -> None:
    method = EnsembleConcat(["rotate", "maxact", "vocab_proj"])
    assert (method.after, method.role) == (("rotate", "maxact", "vocab_proj"), None)
    others = {"rotate": by("rotate", "the sea."), "maxact": by("maxact", "ships"), "vocab_proj": by("v", "the sea")}
    draft = describe(method, case(others=others))
    assert draft.text == "the sea; ships"
    assert draft.steps == ("rotate: the sea.", "maxact: ships", "vocab_proj: the sea")
    assert draft.evidence == EvidenceSize(3, 15)

    others["maxact"] = by("maxact", "", Status.REFUSED)
    draft = describe(method, case(others=others))
    assert draft.detail == "joined from rotate, vocab_proj (missing: maxact: refused, why)"
    assert draft.evidence == EvidenceSize(2, 10)
    error = failure(EnsembleConcat(["rotate", "maxact"], min_described=0.6), case(others=others))
    assert (error.status, error.detail) == (Status.FAILED, "1 of the ensemble are missing (maxact: refused, why)")
    assert "rotate: no description" in failure(method, case(others={**others, "rotate": {}})).detail


def test_a_refusal_inside_an_ensemble_is_a_refusal_of_the_best_of_them() -> None:
    llm = ScriptedClient(lambda request: Completion("", Status.REFUSED, "I would rather not"))
    error = failure(BestOfK(ensemble(), Told(len), k=2), full(llm=llm, llms={"explainer": llm}))
    assert error.status is Status.REFUSED
    assert len(llm.requests) == 2
    requests: list[Request] = llm.requests
    assert "select" not in "".join(request.text for request in requests)


def test_vocab_proj_of_a_model_without_that_vector_is_told_and_not_skipped(tmp_path: Any) -> None:
    from support import tiny_models

    from harness.subject import Subject

    bert = Subject("bert", [str(tiny_models.tiny_subject(tmp_path / "bert", "bert"))])
    method = EnsembleRaw({"proj": VocabProj(kind="gate"), "maxact": MaxAct()})
    told(lambda: describe(method, full(subject=bert, neuron=Neuron(0, 0))), "no 'gate' vector")
