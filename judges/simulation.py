"""An LLM predicts a neuron's activations from its description alone; the score is how well it does.

Source: Bills et al. 2023 (all-at-once simulation: expected value over the probabilities of "0" to "10" at every token)
and Choi et al. 2024. One request per window: the tokens are laid out one to a line with a placeholder where the
activation would stand, and the log-probabilities of the prompt say what the model expected in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Message, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Split, Status
from judges.evidence import pearson

LEVELS = {str(level): level for level in range(11)}


class SimulationLLM(Scorer):
    """Scores a description by simulation: Pearson's r of predicted and true activation, signed, over pooled tokens.

    The windows are those of the report split, top and random 1:1. A linear calibration is fitted on the calibrate
    split alone; on the report split it gives ``r2`` = 1 - mean((t-p)^2) / mean(t^2) and ``absolute`` =
    1 - mean|t-p| / mean|t|. ``top`` and ``random`` are r for each source alone.

    Args:
        role: the LLM role that simulates; its server must give prompt log-probabilities (vLLM does).
        windows: windows of each source and split.
        logprobs: expectations asked for at each token.
        min_digit_mass: a window counts as simulated if the mean probability on "0" to "10" reaches this.
        placeholders: what stands where an activation would; the first that the simulator's tokenizer keeps apart from
            the tab is used ("unknown" as in Bills et al.; many tokenizers join a tab to the letters after it).
    """

    needs_logprobs = True
    prompt = Prompt("judges", "prompts/simulation.j2")

    def __init__(
        self,
        role: str = "simulator",
        windows: int = 5,
        logprobs: int = 20,
        min_digit_mass: float = 0.1,
        placeholders: Sequence[str] = ("unknown", "?"),
    ) -> None:
        self.role = role
        self._windows, self._logprobs, self._min_mass = windows, logprobs, min_digit_mass
        self._placeholders = tuple(placeholders)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Simulate all windows and correlate.

        Raises:
            Unanswered: if any window could not be simulated: a score over the others would favour descriptions on
                which the simulator fails.
        """
        llm = case.asked()
        report = {source: case.windows(Split.REPORT, source)[: self._windows] for source in Source}
        calibrate = [item for source in Source for item in case.windows(Split.CALIBRATE, source)[: self._windows]]
        shown = [*report[Source.TOP], *report[Source.RANDOM], *calibrate]
        simulated = await all_answers(self._simulate(llm, description, item) for item in shown)
        predicted = [values for values, _ in simulated]
        true = [np.array(item.activations) for item in shown]
        tops, ends = len(report[Source.TOP]), len(shown) - len(calibrate)
        value = _pooled(predicted[:ends], true[:ends])
        if value is None:
            raise Unanswered(Status.FAILED, "true or predicted activations do not vary over the report split")
        metrics = {
            "top": _pooled(predicted[:tops], true[:tops]),
            "random": _pooled(predicted[tops:ends], true[tops:ends]),
            "digit_mass": float(np.mean([mass for _, mass in simulated])),
            **_calibrated(predicted, true, ends),
        }
        return Grade(value, {name: metric for name, metric in metrics.items() if metric is not None})

    async def _simulate(
        self, llm: LLMClient, description: str, exemplar: Exemplar
    ) -> tuple[NDArray[np.float64], float]:
        """Return the expected activation (0-10) at each token, and the mean probability on the levels."""
        for placeholder in self._placeholders:
            messages = self._messages(description, exemplar, placeholder)
            answer = await llm.token_logprobs(messages, top=self._logprobs)
            if answer.status is not Status.OK:
                raise Unanswered(answer.status, answer.detail)
            positions = _positions(answer, placeholder, len(exemplar.tokens))
            if positions is not None:
                break
        else:
            raise Unanswered(
                Status.FAILED,
                f"the simulator's tokenizer keeps none of {', '.join(map(repr, self._placeholders))} apart from the "
                "tab before it; give another (placeholders)",
            )
        expected, masses = zip(*(_expectation(answer, position) for position in positions), strict=True)
        mass = float(np.mean(masses))
        if mass < self._min_mass:
            raise Unanswered(
                Status.FAILED, f"the simulator puts {mass:.3f} of its probability on 0-10, less than {self._min_mass}"
            )
        return np.array(expected), mass

    def _messages(self, description: str, exemplar: Exemplar, placeholder: str) -> list[Message]:
        return self.prompt.render(description=description, tokens=exemplar.tokens, placeholder=placeholder)


def _positions(answer: PromptLogprobs, placeholder: str, count: int) -> list[int] | None:
    """Return where the last ``count`` placeholders begin, or none if one does not begin with a token of its own."""
    text = "".join(token.text for token in answer.tokens)
    starts, at = {}, 0
    for position, token in enumerate(answer.tokens):
        if token.text:
            starts[at] = position
        at += len(token.text)
    found, end = [], len(text)
    for _ in range(count):
        tab = text.rfind(f"\t{placeholder}", 0, end)
        if tab < 0 or tab + 1 not in starts:
            return None
        found.append(starts[tab + 1])
        end = tab
    return found[::-1]


def _expectation(answer: PromptLogprobs, position: int) -> tuple[float, float]:
    """Return the expected level at a position given that a level stands there, and the probability that one does."""
    weights = {
        LEVELS[text]: math.exp(logprob)
        for text, logprob in answer.tokens[position].alternatives.items()
        if text in LEVELS
    }
    mass = sum(weights.values())
    return (sum(level * weight for level, weight in weights.items()) / mass if mass > 0 else 0.0), mass


def _pooled(predicted: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]]) -> float | None:
    return pearson(np.concatenate(predicted), np.concatenate(true)) if predicted else None


def _calibrated(
    predicted: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]], ends: int
) -> dict[str, float]:
    """Fit a line on the windows from ``ends`` on, and measure how it does on those before."""
    if ends == len(predicted) or np.ptp(np.concatenate(predicted[ends:])) < 1e-9:
        return {}
    slope, intercept = np.polyfit(np.concatenate(predicted[ends:]), np.concatenate(true[ends:]), 1)
    fitted, actual = slope * np.concatenate(predicted[:ends]) + intercept, np.concatenate(true[:ends])
    return {
        "r2": float(1 - np.mean((actual - fitted) ** 2) / np.mean(actual**2)),
        "absolute": float(1 - np.mean(np.abs(actual - fitted)) / np.mean(np.abs(actual))),
    }
