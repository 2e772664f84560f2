"""Descriptions that consist of several: judged by the part that fits best, shown as a list, and split into claims."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from support.describer_cases import case as describer_case
from support.describer_cases import describe
from support.judge_cases import NEURON, Compass, case, compare, excerpts_of, failure, peaked, score, window

from describers.controls import Shuffled
from harness.evidence import ReadText, TextReader
from harness.llm.client import Completion
from harness.llm.scripted import Request, ScriptedClient
from harness.methods import Draft, JudgeCase, reading
from harness.records import (
    Description,
    Exemplar,
    Neuron,
    Part,
    Side,
    SignedTokens,
    Source,
    Status,
    TokenRole,
    from_json,
    to_json,
)
from judges.claims import Claims
from judges.detection import Detection
from judges.embedding import EmbeddingDetection
from judges.pairwise import PairwiseLLM
from judges.simulation import SimulationWritten
from judges.token_match import TokenSimulation

STORMS = [f" a storm number{place} at sea" for place in range(6)]
PIANOS = [f" a piano number{place} for sale" for place in range(2)]
CALMS = [f" tea and cake number{place} at four" for place in range(12)]
#: Six windows with storms and two with pianos activate the neuron.
BOTH = [
    *(peaked(text.replace("number", "x"), 9.0) for text in STORMS),
    *(peaked(text.replace("number", "x"), 8.0) for text in PIANOS),
    *(peaked(text, 0.0, Source.RANDOM) for text in CALMS),
]


def judged(exemplars: Sequence[Exemplar], *made: Draft, llm: ScriptedClient | None = None) -> JudgeCase:
    return dataclasses.replace(case(exemplars, llm), **reading(made))


def parts(*texts: str) -> Draft:
    return Draft.of_parts([Part(text, 1.0) for text in texts])


def lists(*tokens: Sequence[str]) -> Draft:
    return Draft.of_parts([Part(", ".join(some), 1.0, tokens=tuple(some)) for some in tokens])


def described(request: Request) -> str:
    return re.findall("<description>(.*)</description>", request.text)[0]


def reader(request: Request) -> str:
    """Say yes to excerpts with a word of the description."""
    said = [int(any(word in text for word in described(request).split())) for text in excerpts_of(request)]
    return json.dumps({"reason": "so", **{f"excerpt_{place}": one for place, one in enumerate(said, 1)}})


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_set_keeps_its_parts_by_weight_and_equal_texts_once() -> None:
    draft = Draft.of_parts([Part("rain", 1.0), Part(" heavy\nstorms", 3.0), Part("rain", 1.0)], "how", missing_parts=1)
    assert draft.text == "heavy storms | rain"
    assert [(part.text, part.weight) for part in draft.parts] == [("heavy storms", 0.6), ("rain", 0.4)]
    record = Description(NEURON, "rotate", draft.text, parts=draft.parts, missing_parts=1)
    assert from_json(Description, to_json(record)) == record
    assert record.shown == "1. heavy storms; 2. rain"
    single = Draft.of_parts([Part("rain", 2.0)])
    assert (single.text, single.parts) == ("rain", ())
    assert {"parts", "missing_parts"}.isdisjoint(to_json(Description(NEURON, "rotate", "rain")))
    for wrong in ([], [Part("a", 0.0)], [Part("a", 2.0), Part("b", -1.0)]):
        with pytest.raises(ValueError, match="a set needs a part"):
            Draft.of_parts(wrong)


def test_a_judge_reads_the_parts_of_its_side() -> None:
    roles = (TokenRole.ACTIVATING, TokenRole.SILENCING, TokenRole.PROMOTED)
    draft = Draft.of_parts([Part(word, 1.0, role) for word, role in zip("abc", roles, strict=True)])
    given = judged(BOTH, draft)
    assert draft.text == "activated by a | silenced by b | promotes c"
    assert given.parts_of(draft.text) == [("a", 1), ("b", -1)]
    assert given.parts_of(draft.text, Side.OUTPUT) == [("c", 1)]
    assert given.parts_of("one text") == [("one text", 1)]
    outputs = Draft.of_parts([Part("a", 1.0, TokenRole.SUPPRESSED), Part("b", 1.0, TokenRole.PROMOTED)])
    assert judged(BOTH, outputs).parts_of(outputs.text) == [("a", -1), ("b", 1)]  # better than nothing


def test_a_control_has_the_form_of_what_it_copies() -> None:
    other, draft = Neuron(3, 18), parts("storms", "pianos")
    made = {
        "source": {neuron: Description(neuron, "source", draft.text, parts=draft.parts) for neuron in (NEURON, other)}
    }
    given = describer_case(neurons=(NEURON, other), others=made)
    assert describe(Shuffled("source"), given).parts == draft.parts


# --- the best match ---------------------------------------------------------------------------------------------------


def test_a_set_predicts_what_its_best_part_predicts_at_each_token() -> None:
    # "cat" activates and "sea" silences. Both parts and one text predict 1 at cat, -1 at sea and 0 elsewhere.
    given = [window("cat stone sea dog", [4.0, 0.0, -3.0, 2.0], Source.RANDOM)]
    signed = Draft.of_parts([Part("cat", 2.0, tokens=("cat",)), Part("sea", 1.0, TokenRole.SILENCING, tokens=("sea",))])
    assert signed.tokens == SignedTokens(("cat",), ("sea",))
    together = Draft("cat; not sea", tokens=signed.tokens)
    judge, cases = TokenSimulation(Compass()), judged(given, signed, together, lists(["cat"], ["dog", "cat"]))
    by_hand = np.corrcoef([1, 0, -1, 0], [4, 0, -3, 2])[0, 1]
    assert score(judge, cases, signed.text).value == pytest.approx(by_hand)
    assert score(judge, cases, together.text).value == pytest.approx(by_hand)
    # What two parts name counts once, not twice as in a sum.
    twice = score(judge, cases, lists(["cat"], ["dog", "cat"]).text)
    assert twice.value == pytest.approx(np.corrcoef([1, 0, 0, 1], [4, 0, -3, 2])[0, 1])


def test_polysemanticity_is_the_share_of_windows_that_need_another_part() -> None:
    judge = TokenSimulation(Compass())

    def share(draft: Draft) -> float | None:
        return score(judge, judged(BOTH, draft), draft.text).metrics.get("polysemanticity")

    assert share(lists(["storm"], ["piano"])) == pytest.approx(2 / 8)
    assert share(lists(["storm", "piano"], ["lamp"])) == 0  # one part would do
    assert share(lists(["storm", "piano"], ["piano"])) == 0
    assert share(lists(["lamp"], ["book"])) is None  # nothing is explained
    assert share(lists(["tea"], ["cake"])) is None  # silent windows alone
    assert "polysemanticity" not in score(judge, judged(BOTH), "storm, piano").metrics


def test_an_llm_is_asked_about_each_part() -> None:
    draft, llm = parts("storm", "piano"), ScriptedClient(reader)
    judge = Detection(hard=0, predicted=0, others=12)
    grade = score(judge, judged(BOTH, draft, llm=llm), draft.text)
    assert (grade.value, grade.metrics["polysemanticity"]) == (pytest.approx(1.0), pytest.approx(2 / 8))
    assert {described(request) for request in llm.requests} == {"storm", "piano"}
    assert len(llm.requests) == 2 * 4
    one = score(judge, judged(BOTH, llm=ScriptedClient(reader)), "storm").metrics
    assert one["recall"] == pytest.approx(6 / 8)

    def refuses(request: Request) -> str | Completion:
        return Completion("", Status.REFUSED, "no") if described(request) == "piano" else reader(request)

    lost = judged(BOTH, draft, llm=ScriptedClient(refuses))
    assert failure(lambda: score(judge, lost, draft.text)).status is Status.REFUSED


def test_simulated_levels_are_the_highest_of_the_parts() -> None:
    def simulate(request: Request) -> str:
        tokens = re.findall(r"<token_(\d+)>(.*?)</token_\1>", request.text)
        return json.dumps({f"token_{place}": 10 * (token.strip() == described(request)) for place, token in tokens})

    windows = [
        window(" a storm came", [0, 5, 0]),
        window(" a piano came", [0, 5, 0]),
        window(" a lamp came", [0, 0, 0], Source.RANDOM),
    ]
    draft = parts("storm", "piano")
    judge = SimulationWritten(predicted=0, hard=0)
    found = score(judge, judged(windows, draft, llm=ScriptedClient(simulate)), draft.text)
    assert (found.value, found.metrics["polysemanticity"]) == (pytest.approx(1.0), pytest.approx(0.5))
    alone = score(judge, judged(windows, llm=ScriptedClient(simulate)), "storm").value
    assert alone == pytest.approx(np.corrcoef([0, 10, 0, 0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 5, 0, 0, 0, 0])[0, 1])


def test_sentence_embeddings_match_the_nearest_part() -> None:
    exemplars = [window("0", [3.0]), window("90", [3.0]), window("200", [0.0], Source.RANDOM)]
    draft, judge = parts("0", "90"), EmbeddingDetection(Compass())
    assert score(judge, judged(exemplars, draft), draft.text).value == 1
    exemplars[2] = window("45", [0.0], Source.RANDOM)  # nearer to the mean of both than to either
    assert score(judge, judged(exemplars, draft), draft.text).value == 1
    assert score(judge, judged(exemplars), "45").value < 1


def test_a_comparator_shows_a_set_as_a_numbered_list() -> None:
    llm = ScriptedClient([json.dumps({"reason": "so", "verdict": "A"})])
    draft = parts("storm", "piano")
    compare(PairwiseLLM(hard=0.0), judged(BOTH, draft, llm=llm), draft.text, "one text")
    assert "<description_A>1. storm; 2. piano</description_A>" in llm.requests[0].text
    assert "<description_B>one text</description_B>" in llm.requests[0].text


# --- claims -----------------------------------------------------------------------------------------------------------


def claims_of(description: str, *made: Draft) -> dict[str, float]:
    grade = score(Claims(Compass()), judged(BOTH, *made), description)
    return {"value": grade.value, **grade.metrics}


def test_false_claims_cost_precision_and_missing_ones_coverage() -> None:
    right = claims_of("The neuron is active on a storm or a piano")
    assert (right["precision"], right["coverage"], right["value"]) == (1, 1, 1)
    assert (right["claims"], right["untested"]) == (2, 0)
    added = claims_of("storm, piano, tea, cake")
    assert (added["precision"], added["coverage"]) == (2 / 4, 1)
    half = claims_of("storm")
    assert (half["precision"], half["coverage"]) == (1, pytest.approx(6 / 8))
    wrong = claims_of("tea, cake")
    assert (wrong["precision"], wrong["coverage"], wrong["value"]) == (0, 0, 0)
    assert claims_of("active neurons")["claims"] == 0
    assert claims_of("activated by storm; silenced by tea")["precision"] == 1  # no claim about what activates it
    unknown = failure(lambda: claims_of("lamp"))
    assert (unknown.status, "no text to test" in unknown.detail) == (Status.FAILED, True)
    draft = lists(["storm", "gale"], ["lamp"], ["cake"])
    assert claims_of(draft.text, draft) == pytest.approx(
        {"value": 0.6, "precision": 0.5, "coverage": 0.75, "claims": 3, "untested": 1, "clusters": 8}
    )


class Told(TextReader):
    """Reads texts with a peak of 9 at each storm and piano."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        self.texts += texts
        return [
            ReadText(tuple(text.split()), tuple(9.0 * (word in ("storm", "piano")) for word in text.split()))
            for text in texts
        ]


def test_an_llm_splits_writes_and_names_the_claim_that_fits() -> None:
    def answer(request: Request) -> str:
        if "<claim_1>" not in request.text:
            words = described(request).split(" and ")
            claims = [{"claim": word, **{f"sentence_{n}": f"a {word} {n}" for n in (1, 2, 3)}} for word in words]
            return json.dumps({"claims": claims})
        claims = re.findall(r"<claim_\d+>(.*)</claim_\d+>", request.text)
        fits = [next((n for n, one in enumerate(claims, 1) if one in text), 0) for text in excerpts_of(request)]
        return json.dumps({"reason": "so", **{f"excerpt_{place}": one for place, one in enumerate(fits, 1)}})

    def graded(description: str) -> dict[str, float]:
        given = dataclasses.replace(case(BOTH, ScriptedClient(answer)), reader=Told())
        grade = score(Claims(Compass()), given, description)
        return {name: grade.metrics[name] for name in ("precision", "coverage", "claims", "silent")}

    assert graded("storm and piano") == {"precision": 1, "coverage": 1, "claims": 2, "silent": 0}
    assert graded("storm and cake") == {"precision": 0.5, "coverage": 0.75, "claims": 2, "silent": 1}
    none = ScriptedClient([json.dumps({"claims": []})])
    assert score(Claims(Compass()), case(BOTH, none), "(no description)").value == 0
    refused = ScriptedClient(lambda request: Completion("", Status.REFUSED, "no"))
    assert failure(lambda: score(Claims(Compass()), case(BOTH, refused), "storm")).status is Status.REFUSED
