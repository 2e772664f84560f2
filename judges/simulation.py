"""An LLM predicts a neuron's activations from its description alone; the score is how well it does.

Sources: Bills et al. 2023 (all-at-once simulation: expected value over the probabilities of "0" to "10" at every token;
the slower original, one token at a time; correlation over top-and-random or random windows) and Choi et al. 2024 (the
signed correlation, and the linear calibration).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Message, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Source, Split, Status
from harness.validation import METHOD, Count, CountOrZero, FractionOrZero
from judges.accuracy import Floats, pearson, varies
from judges.evidence import top_and_random
from judges.numbered import ask_numbered, in_batches, levels
from judges.parts import Predicted, polysemanticity
from judges.sampling import Sample, Sampler

#: Windows over which the correlation is the value.
Metric = Literal["whole", "top_and_random", "top", "random"]

#: Lines of the preflight's prompt after those with the levels: ordinary text on which activations differ.
PROOF_TOKENS = (" The", " bridge", " is", " forty", " metres", " long", ".")
PROOF_DESCRIPTION = "numbers and quantities"

#: Highest level of the scale, and the placeholder for an unknown level: tried in order, until one fits the tokenizer.
#: Many tokenizers join a tab with the letters after it, and many split 10 into two tokens, of which the first is 1.
FORMATS = ((10, "unknown"), (10, "?"), (9, "unknown"), (9, "?"))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A simulated window: the level at each token, and the mean probability on the levels if it is known."""

    levels: Floats
    mass: float | None = None


@dataclass(config=METHOD, eq=False)
class Simulation(Sampler, Scorer):
    """Scores a description by simulation: Pearson's r of predicted and true activation, signed, over pooled tokens.

    ``metric`` selects the windows. ``whole``: r over all text of the report split, estimated from weighted windows
    (:class:`judges.sampling.Sampler`). ``top_and_random``, as published: r over equally many top and random windows;
    ``top`` and ``random`` are then r over one source alone. On rare neurons these three do not notice that a
    description is too broad. Each is from -1 to 1, chance 0. A negative activation belongs to the neuron's other sign,
    so the truth is 0 there, as in the levels that describers see. A constant prediction has r = 0 and ``constant`` = 1
    (else 0): it is an answer without information, not a failure.

    A linear calibration is fitted on equally many top and random windows of the calibrate split (the mean there, if
    the prediction is constant). On the report split, it gives ``r2`` = 1 - mean((t-p)^2) / mean(t^2) and ``absolute`` =
    1 - mean|t-p| / mean|t|: at most 1, and 0 for the constant prediction 0. ``predicted_in_hard`` is the mean highest
    level predicted in hard negatives, divided by that in active windows: 0 is right. ``digit_mass``, if it is known, is
    the mean probability that the simulator puts on the levels.
    """

    role: str = "simulator"
    windows: Count = 5
    metric: Metric = "whole"
    predicted: CountOrZero = 12
    hard: CountOrZero = 2
    others: Count = 5

    @abstractmethod
    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Predict one window; raises ``Unanswered`` if it cannot be simulated."""

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Simulate all windows and correlate.

        Raises:
            Unanswered: if a window could not be simulated, because a score over the others would favour descriptions on
                which the simulator fails; or if the neuron's activations do not vary over the windows.
        """
        llm = case.require_llm()
        calibrate = _even(top_and_random(case, Split.CALIBRATE, self.windows))
        sample = self.draw(case) if self.metric == "whole" else None
        parts = {"whole": sample.windows} if sample else self._published(case)
        shown = {_key(item): item for part in (*parts.values(), calibrate) for item in part}
        masses: list[float] = []

        async def levels_of(part: str) -> Floats:
            simulated = await all_answers(self.simulate(llm, part, item) for item in shown.values())
            masses.extend(item.mass for item in simulated if item.mass is not None)
            return np.concatenate([np.zeros(0), *(item.levels for item in simulated)])

        found = await Predicted.asked(case, description, levels_of)
        starts = np.cumsum([0, *(len(item.tokens) for item in shown.values())])[:-1]
        by_window = np.split(np.maximum(found.best, 0.0), starts[1:])[: len(shown)]
        predicted = dict(zip(shown, by_window, strict=True))

        def pooled(exemplars: Sequence[Exemplar]) -> tuple[Floats, Floats]:
            levels = [predicted[_key(item)] for item in exemplars]
            true = [np.maximum(item.activations, 0.0) for item in exemplars]
            return (np.concatenate(levels), np.concatenate(true)) if exemplars else (np.zeros(0), np.zeros(0))

        pools = {name: pooled(items) for name, items in parts.items()}
        weights = np.repeat(sample.weights, [len(item.tokens) for item in sample.windows]) if sample else None
        correlations: dict[str, float | None] = {name: pearson(*pool, weights) for name, pool in pools.items()}
        value = correlations.pop(self.metric)
        if value is None:
            raise Unanswered(Status.FAILED, "the neuron's activations do not vary over the report split")
        metrics: dict[str, float | None] = {
            **correlations,
            "constant": float(not varies(pools[self.metric][0])),
            "digit_mass": float(np.mean(masses)) if masses else None,
            "predicted_in_hard": _in_hard(sample, predicted) if sample else None,
            **_calibrated(pooled(calibrate), next(iter(pools.values())), weights),
        }
        if sample is not None:
            place = {key: number for number, key in enumerate(shown)}
            own = [place[_key(item)] for item in sample.windows]
            peaks = found.map(lambda row: np.maximum.reduceat(row, starts)[own])
            metrics |= polysemanticity(peaks, sample.active, sample.weights)
        return Grade(value, {name: metric for name, metric in metrics.items() if metric is not None})

    def _published(self, case: JudgeCase) -> dict[str, Sequence[Exemplar]]:
        """Return the windows of the published metrics."""
        report = top_and_random(case, Split.REPORT, self.windows)
        return {"top_and_random": _even(report), "top": report[Source.TOP], "random": report[Source.RANDOM]}


@dataclass(config=METHOD, eq=False)
class SimulationLLM(Simulation):
    """Simulates a window in one request, and reads the level at each token from the prompt's log-probabilities.

    The prompt has one line per token, with a placeholder for its activation; the log-probabilities of the prompt give
    the model's expectation at the placeholder. The value and metrics are those of :class:`Simulation`.
    """

    needs_logprobs = True
    prompt = Prompt("judges", "prompts/simulation.j2")
    logprobs: Count = 20
    min_digit_mass: FractionOrZero = 0.01

    def __post_init__(self) -> None:
        self._formats = list(FORMATS)
        self._step: int | None = None  # tokens per request; None for all

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        """Find the scale and the placeholder that work with the simulator's tokenizer and chat template.

        Each format is tried with one prompt that contains every level after a tab: each level must be one token, and
        the model must expect a level at each placeholder.

        Raises:
            HarnessError: if no format works.
        """
        reason = ""
        for highest, placeholder in FORMATS:
            messages = self.prompt.render(
                description=PROOF_DESCRIPTION,
                placeholder=placeholder,
                highest=highest,
                **self._layout(PROOF_TOKENS, 0, len(PROOF_TOKENS)),
            )
            header, _, lines = messages[-1].content.partition("\n")
            written = "".join(f" token\t{level}\n" for level in range(highest + 1))
            messages[-1] = Message("assistant", f"{header}\n{written}{lines}")
            answer = await llms[self.role or ""].token_logprobs(messages, top=self.logprobs)
            if answer.status is not Status.OK:
                raise HarnessError(f"the simulator gives no log-probabilities of prompts: {answer.detail}")
            positions = _positions(answer, placeholder, len(PROOF_TOKENS))
            if positions is None:
                reason = reason or f"its tokenizer or chat template does not separate {placeholder!r} from the tab"
                continue
            if split := [level for level in range(highest + 1) if not _is_token(answer, level)]:
                reason = f"its tokenizer writes {split[0]} as more than one token after a tab"
                continue
            masses = [_expectation(answer, position, highest)[1] for position in positions]
            if min(masses) < self.min_digit_mass:
                reason = f"it puts {min(masses):.2g} of its probability on the levels where one belongs"
                continue
            self._formats = [(highest, placeholder)]
            fallback = "" if highest == FORMATS[0][0] else f"; not 0-{FORMATS[0][0]}, because {reason}"
            return (
                f"levels 0-{highest} work with this model, with {placeholder!r} for an unknown level "
                f"({np.mean(masses):.0%} of the probability is on the levels){fallback}"
            )
        raise HarnessError(
            f"the simulator cannot write levels 0-10 or 0-9: {reason}; take another model as llm.{self.role}, lower "
            "min_digit_mass if it is near, or leave this judge out"
        )

    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Read the expectation at each token, of the whole window at once or of a few tokens at a time."""
        count = len(exemplar.tokens)
        step = self._step or count
        parts = await all_answers(
            self._read(llm, description, exemplar.tokens, start, min(start + step, count))
            for start in range(0, count, step)
        )
        levels, masses = (np.concatenate(values) for values in zip(*parts, strict=True))
        return Prediction(levels, float(np.mean(masses)))

    def _layout(self, tokens: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Return the values with which the prompt asks for the levels of ``tokens[start:stop]``."""
        return {"tokens": tokens[start:stop]}

    async def _read(
        self, llm: LLMClient, description: str, tokens: Sequence[str], start: int, stop: int
    ) -> tuple[list[float], list[float]]:
        """Return the expected level, and the probability on the levels, at each of ``tokens[start:stop]``."""
        await llm.ready()  # the preflight chooses the format
        for candidate in tuple(self._formats):
            highest, placeholder = candidate
            layout = self._layout(tokens, start, stop)
            messages = self.prompt.render(description=description, placeholder=placeholder, highest=highest, **layout)
            answer = await llm.token_logprobs(messages, top=self.logprobs)
            if answer.status is not Status.OK:
                raise Unanswered(answer.status, answer.detail)
            positions = _positions(answer, placeholder, stop - start)
            if positions is not None and _is_token(answer, highest):
                self._formats = [candidate]  # depends on the tokenizer alone, so it works for all prompts
                break
        else:
            raise Unanswered(
                Status.FAILED,
                "the simulator's tokenizer does not separate the placeholder from the tab, so no level can be read",
            )
        pairs = [_expectation(answer, position, highest) for position in positions]
        expected, masses = [level for level, _ in pairs], [mass for _, mass in pairs]
        if min(masses) < self.min_digit_mass:
            raise Unanswered(
                Status.FAILED,
                f"at {sum(mass < self.min_digit_mass for mass in masses)} of {len(masses)} tokens the simulator puts "
                f"less than {self.min_digit_mass} of its probability on 0-{highest}",
            )
        return expected, masses


@dataclass(config=METHOD, eq=False)
class SimulationPerToken(SimulationLLM):
    """Simulates a window in many requests: each shows the text up to a few tokens, and reads the levels of these.

    With ``tokens`` = 1 this is the original protocol: no level depends on those of other tokens, at the price of one
    request per token. The value and metrics are those of :class:`Simulation`.
    """

    prompt = Prompt("judges", "prompts/simulation_per_token.j2")

    tokens: Count = 1
    whole_text: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._step = self.tokens

    def _layout(self, tokens: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        return {
            "before": tokens[:start],
            "tokens": tokens[start:stop],
            "after": tokens[stop:] if self.whole_text else (),
            "whole": self.whole_text,
        }


@dataclass(config=METHOD, eq=False)
class SimulationWritten(Simulation):
    """Simulates a window by asking for the level of each token as JSON, for servers without log-probabilities.

    One written level replaces the expected value over its alternatives, so the score distinguishes descriptions less
    finely. A window whose answer lacks a level is not simulated. The value and metrics are those of
    :class:`Simulation`.
    """

    prompt = Prompt("judges", "prompts/simulation_written.j2")

    highest: Count = 10
    tokens: Count | None = None

    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Ask for the levels of all tokens."""
        tokens = exemplar.tokens

        async def answer(indices: Sequence[int]) -> list[int]:
            start, stop = indices[0], indices[-1] + 1
            messages = self.prompt.render(
                description=description,
                before=tokens[:start],
                tokens=tokens[start:stop],
                after=tokens[stop:],
                highest=self.highest,
            )
            return await ask_numbered(llm, messages, "token", len(indices), levels(self.highest), reason=False)

        written = await in_batches(range(len(tokens)), self.tokens or len(tokens), answer)
        return Prediction(np.array(written, dtype=float))


def _even(groups: dict[Source, list[Exemplar]]) -> list[Exemplar]:
    """Return equally many windows of each source."""
    count = min(map(len, groups.values()))
    return [item for group in groups.values() for item in group[:count]]


def _in_hard(sample: Sample, predicted: Mapping[tuple[Split, int], Floats]) -> float | None:
    """Return the mean of the highest predicted level in hard negatives, relative to that in active windows."""
    highest = np.array([predicted[_key(item)].max() for item in sample.windows])
    active = highest[sample.active].mean()
    return float(highest[sample.hard].mean() / active) if sample.hard.any() and active > 0 else None


def _key(exemplar: Exemplar) -> tuple[Split, int]:
    return exemplar.split, exemplar.window


def _calibrated(fit: tuple[Floats, Floats], test: tuple[Floats, Floats], weights: Floats | None) -> dict[str, float]:
    """Fit a line from predicted to true activations on one part, and return its errors on another."""
    if not len(fit[0]) or not len(test[0]) or not np.any(test[1]):
        return {}
    slope, intercept = np.polyfit(*fit, 1) if varies(fit[0]) else (0.0, fit[1].mean())
    fitted, actual = slope * test[0] + intercept, test[1]

    def total(values: Floats) -> float:
        return float(np.average(values, weights=weights))

    return {
        "r2": 1 - total((actual - fitted) ** 2) / total(actual**2),
        "absolute": 1 - total(np.abs(actual - fitted)) / total(np.abs(actual)),
    }


def _is_token(answer: PromptLogprobs, level: int) -> bool:
    """Return whether a level in the prompt is one token between a tab and the end of its line."""
    texts = [token.text for token in answer.tokens]
    return any(
        before.endswith("\t") and token == str(level) and not after[:1].isdigit()
        for before, token, after in zip(texts, texts[1:], [*texts[2:], ""], strict=False)
    )


def _positions(answer: PromptLogprobs, placeholder: str, count: int) -> list[int] | None:
    """Return the positions of the last ``count`` placeholders, or None if one does not start a token of its own."""
    text = "".join(token.text for token in answer.tokens)
    starts, offset = {}, 0
    for position, token in enumerate(answer.tokens):
        if token.text:
            starts[offset] = position
        offset += len(token.text)
    found, end = [], len(text)
    for _ in range(count):
        tab = text.rfind(f"\t{placeholder}", 0, end)
        if tab < 0 or tab + 1 not in starts:
            return None
        found.append(starts[tab + 1])
        end = tab
    return found[::-1]


def _expectation(answer: PromptLogprobs, position: int, highest: int) -> tuple[float, float]:
    """Return the expected level at a position, given that it is a level, and the probability that it is one."""
    levels = {str(level): level for level in range(highest + 1)}
    alternatives = answer.tokens[position].alternatives
    weights = {levels[text]: math.exp(logprob) for text, logprob in alternatives.items() if text in levels}
    mass = sum(weights.values())
    return (sum(level * weight for level, weight in weights.items()) / mass if mass > 0 else 0.0), mass
