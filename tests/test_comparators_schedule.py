"""Schedules of comparisons: what is asked, what is spared, and that a run taken up again pays nothing twice."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_models

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.llm import Completion, ResponseCache, Serving
from harness.llm.scripted import Request, ScriptedBackend
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Neuron, Sign, Status, Verdict, Winner
from harness.results.comparisons import Comparison, merge_verdicts
from harness.results.stored import read_judge_checks
from harness.run.help import compose_config
from harness.run.judge import judge
from harness.run.pipeline import run
from harness.run.schedule import ComparisonConfig, evidence, first_round, next_round, shuffled, threshold
from harness.run.setup import Setup
from harness.seeds import derive_rng
from judges.pairwise import PairwiseLLM

ADAPTIVE = ComparisonConfig("adaptive", None, first=8, step=4, confidence=0.95, budget=1.0, retest=0.0)
NEURONS = [Neuron(0, index) for index in range(40)]
ORDER = shuffled(NEURONS, 0)
CLOSE, FAR = ("a", "b"), ("a", "c")
ORDERS = {CLOSE: ORDER, FAR: ORDER}


def test_what_speaks_against_a_draw_by_hand() -> None:
    assert evidence([1.0] * 8) == pytest.approx(8 * math.log(2))
    assert evidence([0.0] * 8) == pytest.approx(8 * math.log(2))
    assert evidence([0.5] * 9) == evidence([1.0, 0.0] * 5) == evidence([]) == 0.0
    assert evidence([1.0, 1.0, 0.5, 0.5]) == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))
    assert threshold(0.95, 1) == pytest.approx(math.log(80))
    # What the config says of the first round: seven wins of seven settle a pair, six of six do not.
    assert evidence([1.0] * 6) < threshold(0.95, 1) < evidence([1.0] * 7)
    # The shares of the allowed error over all looks and both sides sum to all of it.
    assert sum(2 * math.exp(-threshold(0.95, look)) for look in range(1, 10000)) == pytest.approx(0.05, rel=1e-3)


def test_equal_describers_are_seldom_called_settled_however_often_one_looks() -> None:
    rng, settled = np.random.default_rng(0), 0
    for _ in range(400):
        points = rng.integers(0, 2, 200).astype(float).tolist()
        looks = enumerate(range(8, 201, 4), start=1)
        settled += any(evidence(points[:count]) >= threshold(0.95, look) for look, count in looks)
    assert settled <= 0.05 * 400


def decided(pair: tuple[str, str], rate: float, count: int, order: list[Neuron] = ORDER) -> list[Comparison]:
    """Return what a judge says on the first neurons, of which the left one wins a share, evenly spread."""
    wins = [math.floor((place + 1) * rate) - math.floor(place * rate) for place in range(count)]
    return [
        Comparison(neuron, "j", *pair, float(won), False, False)
        for neuron, won in zip(order[:count], wins, strict=True)
    ]


def test_only_pairs_that_are_still_open_go_on() -> None:
    start = first_round(ADAPTIVE, ORDERS)
    assert start == {CLOSE: 8, FAR: 8}
    said = [*decided(CLOSE, 0.5, 8), *decided(FAR, 1.0, 8)]
    second = next_round(ADAPTIVE, [start], said, ORDERS)
    assert second == {CLOSE: 12, FAR: 8}
    assert next_round(ADAPTIVE, [start], said[::-1], ORDERS) == second
    # What is there beyond the plan, as of an earlier configuration, does not count.
    assert next_round(ADAPTIVE, [start], [*said, *decided(CLOSE, 1.0, 40)[8:]], ORDERS) == second
    failed = [dataclasses.replace(item, points=None) for item in decided(FAR, 1.0, 8)]
    assert next_round(ADAPTIVE, [start], [*decided(CLOSE, 0.5, 8), *failed[2:]], ORDERS) == second  # it is not there
    some = [*decided(CLOSE, 0.5, 8), *decided(FAR, 1.0, 8)[:2], *failed[2:]]
    assert next_round(ADAPTIVE, [start], some, ORDERS) == {CLOSE: 12, FAR: 12}
    # Eight wins of eight are not enough at the third look, but the pair was settled at the first.
    third = [start, {CLOSE: 12, FAR: 8}, {CLOSE: 16, FAR: 8}]
    assert evidence([1.0] * 8) < threshold(0.95, 3)
    assert next_round(ADAPTIVE, third, [*decided(CLOSE, 0.5, 16), *decided(FAR, 1.0, 8)], ORDERS) == {CLOSE: 20, FAR: 8}
    everything = {CLOSE: 40, FAR: 8}
    assert next_round(ADAPTIVE, [start, everything], [*decided(CLOSE, 0.5, 40), *decided(FAR, 1.0, 8)], ORDERS) is None


def test_both_signs_of_a_neuron_are_one_observation() -> None:
    start = {FAR: 8}
    both = [
        dataclasses.replace(item, neuron=item.neuron.with_sign(sign)) for item in decided(FAR, 1.0, 6) for sign in Sign
    ]  # twelve wins, but of six neurons
    assert next_round(ADAPTIVE, [start], both, {FAR: ORDER}) == {FAR: 12}


def test_a_budget_is_spent_on_the_closest_pairs_first() -> None:
    tight = dataclasses.replace(ADAPTIVE, budget=22 / 80)
    start = first_round(tight, ORDERS)
    said = [*decided(CLOSE, 0.5, 8), *decided(FAR, 0.75, 8)]  # both open
    assert next_round(tight, [start], said, ORDERS) == {CLOSE: 12, FAR: 10}
    assert next_round(dataclasses.replace(tight, budget=0.2), [start], said, ORDERS) is None
    assert first_round(dataclasses.replace(ADAPTIVE, budget=0.1), ORDERS) == {CLOSE: 4, FAR: 4}


def test_a_budget_is_not_spent_on_what_a_judge_does_not_cover() -> None:
    half = dataclasses.replace(ADAPTIVE, budget=0.5)
    known = {CLOSE: ORDER, FAR: ORDER[1::4], ("b", "c"): []}  # all neurons, every fourth, none
    start = first_round(half, known)
    assert start == {CLOSE: 8, FAR: 5, ("b", "c"): 0}
    said = [*decided(CLOSE, 0.5, 8), *decided(FAR, 0.5, 5, ORDER[1::4])]
    # Half of the 50 comparisons that can be made are 25, of which 13 are made.
    assert next_round(half, [start], said, known) == {CLOSE: 12, FAR: 9, ("b", "c"): 0}
    plan = {CLOSE: 14, FAR: 9, ("b", "c"): 0}
    assert next_round(half, [start, plan], [*decided(CLOSE, 0.5, 14), *said[8:]], known) == {**plan, CLOSE: 16}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schedule": "some"}, "all, baseline or adaptive"),
        ({"schedule": "baseline"}, "baseline"),
        ({"baseline": "a"}, "baseline"),
        ({"first": 0}, "first"),
        ({"step": 0}, "step"),
        ({"confidence": 1.0}, "confidence"),
        ({"budget": 0.0}, "budget"),
        ({"retest": 1.1}, "retest"),
    ],
)
def test_settings_out_of_range_are_told(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(ADAPTIVE, **change)


# --- in a run ---------------------------------------------------------------------------------------------------------


class Planted(Comparator):
    """Knows how good each describer is: equal ones win by the neuron's number, others by their order.

    Args:
        quality: of each describer.
        stop: ends the run after so many answers.
        symmetric: whether it is asked in one order only.
        failing: neurons on which it fails.
    """

    def __init__(
        self,
        quality: dict[str, int],
        stop: int | None = None,
        symmetric: bool = True,
        failing: set[Neuron] | None = None,
    ) -> None:
        self.quality, self.stop, self.symmetric, self.failing = quality, stop, symmetric, failing or set()
        self.asked: list[tuple[Neuron, str, str]] = []

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        if self.stop is not None and len(self.asked) >= self.stop:
            raise HarnessError("stopped")
        one, two = case.contestants
        self.asked.append((case.neuron, one, two))
        if case.neuron in self.failing:
            raise ZeroDivisionError("not today")
        if self.quality[one] == self.quality[two]:
            draw = derive_rng(0, case.neuron, *sorted((one, two))).random() < 0.5
            return Judgement(Winner.FIRST if draw == (one < two) else Winner.SECOND)
        return Judgement(Winner.FIRST if self.quality[one] > self.quality[two] else Winner.SECOND)


QUALITY = {"maxact": 2, "rotate": 2, "shuffled": 1, "generic": 0}
PAIRS = list(itertools.combinations(sorted(QUALITY), 2))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A run folder with descriptions of 24 neurons of a tiny Llama, and the options that made it; nothing is judged."""
    folder = tmp_path_factory.mktemp("described")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    options = [
        *("subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny", "neurons.layers=[0,1]"),
        *("neurons.per_layer=12", "neurons.kinds=[out]", "decomposition.num_channels=1", "corpus=files"),
        *(f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=40", "evidence.window=16"),
        *(
            "evidence.top=3",
            "evidence.random=6",
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            "tracking=none",
        ),
        *("describers=[rotate,maxact,shuffled,generic]", "judges=[embedding_pairwise]"),
    ]
    setup = setup_of(options, folder / "run", Planted(QUALITY, stop=0))
    with pytest.raises(HarnessError, match="stopped"):
        run(setup)
    assert len(RunFolder(folder / "run").descriptions()) == 24 * 4
    return options, folder / "run"


def setup_of(options: list[str], folder: Path, judge: Comparator, *more: str) -> Setup:
    """Compose a run whose only judge is this one."""
    setup = Setup.of(compose_config([*options, f"folder={folder}", *more]))
    return dataclasses.replace(setup, comparators={"planted": judge}, scorers={})


def judged(
    described: tuple[list[str], Path], folder: Path, judge: Comparator, *more: str, copy: bool = True
) -> list[Verdict]:
    """Judge the descriptions, in a copy of the folder."""
    options, source = described
    if copy:
        shutil.copytree(source, folder)
        (folder / "manifest.json").unlink()  # it holds the schedule of the run that it is a copy of
    run(setup_of(options, folder, judge, *more))
    return RunFolder(folder).verdicts().records()


def pairs_of(verdicts: list[Verdict]) -> Counter[tuple[str, str]]:
    return Counter((item.left, item.right) for item in merge_verdicts(verdicts))


ADAPTIVELY = ("comparisons.schedule=adaptive", "comparisons.first=8", "comparisons.step=4")


def test_all_pairs_and_a_baseline(described: tuple[list[str], Path], tmp_path: Path) -> None:
    every = judged(described, tmp_path / "all", Planted(QUALITY, symmetric=False))
    assert pairs_of(every) == dict.fromkeys(PAIRS, 24)
    assert len(every) == 2 * 6 * 24
    baseline = ("comparisons.schedule=baseline", "comparisons.baseline=rotate")
    some = judged(described, tmp_path / "baseline", Planted(QUALITY), *baseline)
    assert pairs_of(some) == {pair: 24 for pair in PAIRS if "rotate" in pair}
    assert not (tmp_path / "baseline" / "schedule.json").exists()


def test_an_adaptive_schedule_spends_more_on_close_pairs(described: tuple[list[str], Path], tmp_path: Path) -> None:
    judge = Planted(QUALITY)
    verdicts = judged(described, tmp_path / "run", judge, *ADAPTIVELY)
    close = ("maxact", "rotate")
    # Eight wins of eight settle a pair; the two that are equal go on to the last neuron.
    assert pairs_of(verdicts) == {pair: 24 if pair == close else 8 for pair in PAIRS}
    assert len(judge.asked) == len(verdicts)
    rounds = json.loads((tmp_path / "run" / "schedule.json").read_text())["planted"]
    assert [{(a, b): count for a, b, count in plan}[close] for plan in rounds] == [8, 12, 16, 20, 24]
    # The settled pairs saw the same neurons as the open one did first.
    neurons = {pair: {item.neuron for item in merge_verdicts(verdicts) if (item.left, item.right) == pair}
               for pair in PAIRS}  # fmt: skip
    assert all(neurons[pair] <= neurons[close] for pair in PAIRS)
    assert len({frozenset(found) for pair, found in neurons.items() if pair != close}) == 1
    board = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    cells = {(cell["row"], cell["column"]): cell["comparisons"] for cell in board["overall"]["cells"]}
    assert cells["rotate", "maxact"] == 24
    assert cells["rotate", "generic"] == 8


@pytest.mark.parametrize("stop", [3, 8 * 6 + 2])  # in the first round, and in a later one
def test_interrupted_and_taken_up_again_it_asks_the_same_and_nothing_twice(
    described: tuple[list[str], Path], tmp_path: Path, stop: int
) -> None:
    whole = judged(described, tmp_path / "whole", Planted(QUALITY), *ADAPTIVELY)
    cut, rest = Planted(QUALITY, stop=stop), Planted(QUALITY)
    with pytest.raises(HarnessError, match="stopped"):
        judged(described, tmp_path / "cut", cut, *ADAPTIVELY)
    told = {(item.neuron, item.first, item.second) for item in RunFolder(tmp_path / "cut").verdicts().records()}
    again = judged(described, tmp_path / "cut", rest, *ADAPTIVELY, copy=False)
    assert not told & set(rest.asked)
    assert {(item.neuron, item.first, item.second, item.winner) for item in again} == {
        (item.neuron, item.first, item.second, item.winner) for item in whole
    }
    plans = [(tmp_path / name / "schedule.json").read_bytes() for name in ("whole", "cut")]
    assert plans[0] == plans[1]
    finished = Planted(QUALITY)
    judged(described, tmp_path / "cut", finished, *ADAPTIVELY, copy=False)
    assert finished.asked == []
    # The plan is rebuilt from the verdicts, should it get lost.
    (tmp_path / "cut" / "schedule.json").unlink()
    judged(described, tmp_path / "cut", finished, *ADAPTIVELY, copy=False)
    assert finished.asked == []


def test_failures_are_tried_again_by_the_next_run_and_not_by_the_next_round(
    described: tuple[list[str], Path], tmp_path: Path
) -> None:
    setup = setup_of(described[0], tmp_path / "x", Planted(QUALITY))
    failing = set(shuffled(setup.described, setup.seed)[:2])
    judge = Planted(QUALITY, failing=failing)
    verdicts = judged(described, tmp_path / "run", judge, *ADAPTIVELY)
    assert max(Counter(judge.asked).values()) == 1
    assert {item.neuron for item in verdicts if item.status is Status.FAILED} == failing
    # Six wins of six do not settle a pair, so each takes a round more.
    assert pairs_of(verdicts)["generic", "rotate"] == 12
    mended = Planted(QUALITY)
    again = judged(described, tmp_path / "run", mended, *ADAPTIVELY, copy=False)
    assert {neuron for neuron, _, _ in mended.asked} == failing
    assert all(item.status is Status.OK for item in again)


def test_a_judge_that_is_out_of_order_plans_no_further_round(described: tuple[list[str], Path], tmp_path: Path) -> None:
    shutil.copytree(described[1], tmp_path / "run")
    setup = setup_of([*described[0], *ADAPTIVELY], tmp_path / "run", PairwiseLLM(windows=2, weaker=0))
    cache = ResponseCache(tmp_path)

    def judging(backend: ScriptedBackend, limit: float | None) -> dict[tuple[str, str], int]:
        own = dataclasses.replace(setup, backends={"judge": backend})

        async def judges() -> None:
            async with Serving(own.backends, cache, tmp_path, failure_budget=limit) as serving:
                await judge(own, RunFolder(tmp_path / "run"), serving)

        asyncio.run(judges())
        plans = json.loads((tmp_path / "run" / "schedule.json").read_text())["planted"]
        return {(a, b): count for a, b, count in plans[-1]}

    for limit, asked in ((None, 6 * 8 * 2), (0.5, 20)):
        dead = ScriptedBackend(lambda request: Completion("", Status.FAILED, "HTTP 503"), concurrency=1)
        assert judging(dead, limit) == dict.fromkeys(PAIRS, 8)
        assert len(dead.requests) == asked
    back = ScriptedBackend(lambda request: json.dumps({"reason": "so", "verdict": "A"}))  # every pair is a draw
    assert judging(back, 0.5) == dict.fromkeys(PAIRS, 24)
    # What fails in one round counts in the next: 40 of 96 is not too much, 57 of 113 is.
    (tmp_path / "run" / "verdicts.jsonl").unlink()
    (tmp_path / "run" / "schedule.json").unlink()
    answers = iter(['{"reason": "so", "verdict": "A"}'] * 56 + ["unusable"] * 10_000)
    spent = ScriptedBackend(lambda request: next(answers), concurrency=1, model="other")
    assert max(judging(spent, 0.5).values()) == 12
    assert len(spent.requests) == 96 + 17


def test_a_comparator_is_asked_only_what_it_covers(described: tuple[list[str], Path], tmp_path: Path) -> None:
    class Few(Planted):
        def covers(self, neuron: Neuron, first: str, second: str) -> bool:
            return neuron.index % 2 == 0 and "generic" not in (first, second)

    judge = Few(QUALITY)
    verdicts = judged(described, tmp_path / "run", judge)
    assert {item.neuron.index % 2 for item in verdicts} == {0}
    assert set(pairs_of(verdicts)) == {pair for pair in PAIRS if "generic" not in pair}
    assert all(item.status is Status.OK for item in verdicts)


class Draws(Scorer):
    """Draws what it looks at by the run's seed, as scorers do that choose among excerpts."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        return Grade(float(derive_rng(case.seed, case.neuron, description).random()))


def test_a_biased_llm_judge_is_found_out_in_an_ordinary_run(described: tuple[list[str], Path], tmp_path: Path) -> None:
    """It says A at first, whatever it is shown, and B when it is asked again with another seed."""

    def answer(request: Request) -> str:
        assert request.sampling is not None
        letter = "A" if request.sampling.seed == 0 else "B"
        return json.dumps({"reason": "so it is", "verdict": letter})

    backend = ScriptedBackend(answer)
    options = [item for item in described[0] if not item.startswith("describers")]
    changes = (
        *("describers=[maxact,corrupted]", "comparisons.schedule=baseline", "comparisons.baseline=corrupted_right"),
        *("comparisons.retest=0.5", f"serving.cache={tmp_path / 'cache'}"),
    )

    def setup() -> Setup:
        made = setup_of(options, tmp_path / "run", PairwiseLLM(windows=2, weaker=0), *changes)
        return dataclasses.replace(made, backends={"judge": backend}, scorers={"draws": Draws()})

    run(setup())
    draws, check = sorted(read_judge_checks(RunFolder(tmp_path / "run")), key=lambda item: item.judge)
    assert (draws.retest, draws.retests > 1) == (1.0, True)  # it was shown the very same again
    assert (check.first_position_rate, check.retest) == (1.0, 0.0)
    assert (check.consistency, check.accuracy) == (0.0, 0.5)
    assert 0.4 < check.retests / (2 * (check.comparisons + check.length_comparisons)) < 0.6
    asked = len(backend.requests)
    run(setup())
    assert len(backend.requests) == asked  # nothing is asked twice, not even what was asked again
    text = "\n".join(request.text for request in backend.requests)
    assert "corrupted_" not in text  # no judge is told whose description it reads
    assert "maxact" not in text
