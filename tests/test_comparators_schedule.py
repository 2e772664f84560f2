"""Schedules of comparisons: which pairs are compared, and that a resumed run pays for nothing twice."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.errors import told

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.llm.cache import ResponseCache
from harness.llm.client import Completion
from harness.llm.scripted import Request, ScriptedBackend
from harness.llm.serving import Serving
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Neuron, Status, Verdict, Winner
from harness.results.comparisons import merge_verdicts
from harness.results.stored import stored_judge_checks
from harness.run.building import validate
from harness.run.help import compose_config
from harness.run.judge import judge
from harness.run.pipeline import run
from harness.run.sections import ComparisonConfig
from harness.run.setup import Setup
from harness.seeds import derive_rng
from judges.pairwise import PairwiseLLM

BASE = {"schedule": "all", "baseline": None, "retest": 0.0}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schedule": "some"}, "comparisons.schedule: must be 'all' or 'baseline', not 'some'"),
        ({"schedule": "adaptive"}, "comparisons.schedule: must be 'all' or 'baseline', not 'adaptive'"),
        ({"schedule": "baseline"}, "baseline"),
        ({"baseline": "a"}, "baseline"),
        ({"retest": 1.1}, "comparisons.retest: must be at most 1, not 1.1"),
        ({"budget": 0.5}, "comparisons.budget: unknown option"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], word: str) -> None:
    assert validate(ComparisonConfig, BASE, "comparisons") == ComparisonConfig("all", None, 0.0)
    told(lambda: validate(ComparisonConfig, {**BASE, **change}, "comparisons"), word)


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
        tiny_models.SHORT_SEARCH,
        *(f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=40", "evidence.window=16"),
        *(
            "evidence.top=3",
            "evidence.random=6",
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
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


def test_all_pairs_and_a_baseline(described: tuple[list[str], Path], tmp_path: Path) -> None:
    every = judged(described, tmp_path / "all", Planted(QUALITY, symmetric=False))
    assert pairs_of(every) == dict.fromkeys(PAIRS, 24)
    assert len(every) == 2 * 6 * 24
    baseline = ("comparisons.schedule=baseline", "comparisons.baseline=rotate")
    some = judged(described, tmp_path / "baseline", Planted(QUALITY), *baseline)
    assert pairs_of(some) == {pair: 24 for pair in PAIRS if "rotate" in pair}


@pytest.mark.parametrize("stop", [3, 8 * 6 + 2])
def test_an_interrupted_run_asks_nothing_twice(described: tuple[list[str], Path], tmp_path: Path, stop: int) -> None:
    whole = judged(described, tmp_path / "whole", Planted(QUALITY))
    cut, rest = Planted(QUALITY, stop=stop), Planted(QUALITY)
    with pytest.raises(HarnessError, match="stopped"):
        judged(described, tmp_path / "cut", cut)
    known = {(item.neuron, item.first, item.second) for item in RunFolder(tmp_path / "cut").verdicts().records()}
    again = judged(described, tmp_path / "cut", rest, copy=False)
    assert not known & set(rest.asked)
    assert {(item.neuron, item.first, item.second, item.winner) for item in again} == {
        (item.neuron, item.first, item.second, item.winner) for item in whole
    }
    finished = Planted(QUALITY)
    judged(described, tmp_path / "cut", finished, copy=False)
    assert finished.asked == []


def test_failures_are_tried_again_by_the_next_run(described: tuple[list[str], Path], tmp_path: Path) -> None:
    setup = setup_of(described[0], tmp_path / "x", Planted(QUALITY))
    failing = set(setup.neurons[:2])
    judge = Planted(QUALITY, failing=failing)
    verdicts = judged(described, tmp_path / "run", judge)
    assert max(Counter(judge.asked).values()) == 1
    assert {item.neuron for item in verdicts if item.status is Status.FAILED} == failing
    mended = Planted(QUALITY)
    again = judged(described, tmp_path / "run", mended, copy=False)
    assert {neuron for neuron, _, _ in mended.asked} == failing
    assert all(item.status is Status.OK for item in again)


def test_a_failing_judge_is_stopped_by_its_budget(described: tuple[list[str], Path], tmp_path: Path) -> None:
    shutil.copytree(described[1], tmp_path / "run")
    setup = setup_of(described[0], tmp_path / "run", PairwiseLLM(windows=2, weaker=0))
    cache = ResponseCache(tmp_path)

    def judging(backend: ScriptedBackend, limit: float | None) -> None:
        own = dataclasses.replace(setup, backends={"judge": backend})

        async def judges() -> None:
            async with Serving(own.backends, cache, tmp_path, failure_budget=limit) as serving:
                await judge(own, RunFolder(tmp_path / "run"), serving)

        asyncio.run(judges())

    for limit, asked in ((None, 6 * 24 * 2), (0.5, 20)):
        dead = ScriptedBackend(lambda request: Completion("", Status.FAILED, "HTTP 503"), concurrency=1)
        judging(dead, limit)
        assert len(dead.requests) == asked
    back = ScriptedBackend(lambda request: json.dumps({"reason": "so", "verdict": "A"}))
    judging(back, 0.5)
    assert all(item.status is Status.OK for item in RunFolder(tmp_path / "run").verdicts().records())
    # 56 usable answers: more than half have failed with the 113th.
    (tmp_path / "run" / "verdicts.jsonl").unlink()
    answers = iter(['{"reason": "so", "verdict": "A"}'] * 56 + ["unusable"] * 10_000)
    spent = ScriptedBackend(lambda request: next(answers), concurrency=1, model="other")
    judging(spent, 0.5)
    assert len(spent.requests) == 56 + 57


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
    draws, check = sorted(stored_judge_checks(RunFolder(tmp_path / "run")) or (), key=lambda item: item.judge)
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
