"""Other projects' own code gives what ours gives on the same inputs, where their packages are installed.

``docs/methods.md`` lists the differences of definition, which these tests also show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.judge_cases import case, score, window
from support.peers import peer
from support.simulators import Expectation, simulator

from describers.windows import discretised
from harness.records import Exemplar, Source, Split
from judges.detection import recognised
from judges.simulation import SimulationLLM

WORDS = [" calm", " breeze", " wind", " gale", " storm"]


def windows(split: Split) -> list[Exemplar]:
    """Return windows with activations above zero that no line predicts."""
    rng = np.random.default_rng(list(Split).index(split))
    made = []
    for source in (Source.TOP, Source.TOP, Source.RANDOM, Source.RANDOM):
        tokens = [WORDS[place] for place in rng.integers(len(WORDS), size=6)]
        made.append(window(tokens, rng.gamma(1.0, 2.0, len(tokens)).tolist(), source, split))
    return made


def expects(description: str, token: str) -> Expectation:
    """Put probability on three levels and on a word."""
    level = 2 * WORDS.index(token)
    return {str(level): 0.4, str(level + 1): 0.2, "0": 0.1, "the": 0.3} if level else {"0": 0.6, "3": 0.1, "the": 0.3}


def test_simulation_scores_are_those_of_automated_interpretability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bills et al. 2023: correlation, explained variance and absolute deviation after their linear calibration."""
    peer("neuron_explainer", "explanations.scoring", monkeypatch)
    from neuron_explainer.activations.activations import ActivationRecord
    from neuron_explainer.explanations import calibrated_simulator, scoring
    from neuron_explainer.explanations import simulator as simulators
    from neuron_explainer.explanations.explanations import ActivationScale, SequenceSimulation

    class Reads(simulators.NeuronSimulator):  # type: ignore[misc]
        async def simulate(self, tokens: Sequence[str]) -> Any:
            found = []
            for token in tokens:
                logprobs = {word: float(np.log(share)) for word, share in expects("", token).items()}
                found.append(simulators.compute_predicted_activation_stats_for_token(logprobs))
            probabilities = [list(levels.values()) for levels, _ in found]
            values = [[float(level) for level in levels] for levels, _ in found]
            scale = ActivationScale.SIMULATED_NORMALIZED_ACTIVATIONS
            return SequenceSimulation(list(tokens), [float(mean) for _, mean in found], scale, values, probabilities)

    report, calibrate = windows(Split.REPORT), windows(Split.CALIBRATE)
    records = {
        split: [ActivationRecord(list(item.tokens), list(item.activations)) for item in items]
        for split, items in ((Split.REPORT, report), (Split.CALIBRATE, calibrate))
    }
    theirs: Any = calibrated_simulator.LinearCalibratedNeuronSimulator(Reads())
    asyncio.run(theirs.calibrate(records[Split.CALIBRATE]))
    plain = asyncio.run(scoring.simulate_and_score(Reads(), records[Split.REPORT]))
    expected = asyncio.run(scoring.simulate_and_score(theirs, records[Split.REPORT]))
    grade = score(SimulationLLM(metric="top_and_random"), case([*report, *calibrate], simulator(expects)), "wind")
    assert grade.value == pytest.approx(plain.ev_correlation_score)
    # A calibration of negative slope takes the sign from their correlation, and not from ours.
    assert abs(grade.value or 0) == pytest.approx(abs(expected.ev_correlation_score))
    assert grade.metrics["r2"] == pytest.approx(expected.rsquared_score)
    assert grade.metrics["absolute"] == pytest.approx(expected.absolute_dev_explained_score)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 20), max_size=30), st.floats(0.01, 20))
def test_levels_in_prompts_are_those_of_automated_interpretability(values: list[float], positive: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        records = peer("neuron_explainer", "activations.activation_records", monkeypatch)
        values, highest = [*values, positive], max([*values, positive])
        item = window([" a"] * len(values), values)
        assert [level for _, level in discretised(item, highest)] == records.normalize_activations(values, highest)


def test_simulation_of_all_windows_together_is_that_of_delphi(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring: Any = peer("delphi", "scorers.simulator.simulation.scoring", monkeypatch)
    report = windows(Split.REPORT)
    judge, llm = SimulationLLM(metric="top_and_random"), simulator(expects)

    class Reads:
        async def simulate(self, tokens: Sequence[str]) -> list[float]:
            shown = window(list(tokens), [1.0] * len(tokens))
            return [float(level) for level in (await judge.simulate(llm, "wind", shown)).levels]

    top, random = (
        [scoring.ActivationRecord(list(item.tokens), list(item.activations), 1) for item in items]
        for items in (report[:2], report[2:])
    )
    found = {item.distance: item for item in asyncio.run(scoring.simulate_and_score(Reads(), top, random))}
    grade = score(judge, case(report, llm), "wind")
    assert grade.value == pytest.approx(found[0].ev_correlation_score)
    assert grade.metrics["top"] == pytest.approx(found[2].ev_correlation_score)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=40))
def test_recognition_is_that_of_delphi(items: list[tuple[bool, int]]) -> None:
    """Paulo et al. 2024: balanced accuracy, F1, and the AUC of graded answers."""
    right, answers = [one for one, _ in items], [level for _, level in items]
    if len(set(right)) < 2:
        return  # ours fails without one of the two kinds; theirs counts its rate as 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        analysis = peer("delphi", "log.result_analysis", monkeypatch)
        import pandas as pd

        said = [level > 5 for level in answers]
        frame = pd.DataFrame({"activating": right, "prediction": said, "probability": [one / 10 for one in answers]})
        expected = analysis.compute_classification_metrics(analysis.compute_confusion(frame))
        auc = analysis.compute_auc(frame)
    grade = recognised(right, answers, 10)
    assert grade.value == pytest.approx(expected["accuracy"])
    assert grade.metrics["f1"] == pytest.approx(expected["f1_score"])
    assert grade.metrics["recall"] == pytest.approx(expected["recall"])
    assert grade.metrics["auc"] == pytest.approx(auc)
