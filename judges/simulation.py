"""An LLM predicts a neuron's activations from its description alone; the score is how well it does.

Source: Bills et al. 2023 (all-at-once simulation: expected value over the probabilities of "0" to "10" at every token;
and the slower original, one token at a time). The tokens are laid out one to a line with a placeholder where the
activation would stand, and the log-probabilities of the prompt say what the model expected in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.checks import require_count
from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient, Message, PromptLogprobs, Unanswered
from harness.llm.prompts import Prompt
from harness.records import Exemplar, Status
from judges.numbered import batches
from judges.simulated import FIGURES, Floats, Prediction, Simulation

#: Lines of the preflight behind those that hold every level: words of ordinary text, of unlike activation.
PROOF_TOKENS = (" The", " bridge", " is", " forty", " metres", " long", ".")
PROOF_DESCRIPTION = "numbers and quantities"

#: Highest level of the scale, and what stands where a level is not known: tried in order, until one fits the tokenizer.
#: Many tokenizers join a tab to the letters after it, and many write 10 as two tokens, of which the first says 1.
FORMATS = ((10, "unknown"), (10, "?"), (9, "unknown"), (9, "?"))


class SimulationLLM(Simulation):
    """Simulates a window in one request, and reads the level at each token from the prompt's log-probabilities.

    The figures are those of :class:`judges.simulated.Simulation`.

    Args:
        role: the LLM role that simulates; its server must give prompt log-probabilities (vLLM does).
        windows: windows of each source and split.
        figure: which r is the value: ``top_and_random``, ``top`` or ``random``.
        logprobs: expectations asked for at each token.
        min_digit_mass: a window counts as simulated only if the probability on the levels reaches this at every token.
    """

    needs_logprobs = True
    prompt = Prompt("judges", "prompts/simulation.j2")

    def __init__(
        self,
        role: str = "simulator",
        windows: int = 5,
        figure: str = FIGURES[0],
        logprobs: int = 20,
        min_digit_mass: float = 0.01,
    ) -> None:
        super().__init__(role, windows, figure)
        self._logprobs, self._min_mass = logprobs, min_digit_mass
        self._formats = list(FORMATS)

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        """Find the scale and the placeholder that work with the simulator's tokenizer and chat template.

        One prompt for each, in which every level stands written after a tab: each must be a token of its own, and where
        the placeholder stands the model must expect a level.

        Raises:
            HarnessError: if none works.
        """
        reason = ""
        for highest, placeholder in FORMATS:
            messages = self.prompt.render(
                description=PROOF_DESCRIPTION,
                placeholder=placeholder,
                highest=highest,
                **self._laid_out(PROOF_TOKENS, slice(None)),
            )
            header, _, lines = messages[-1].content.partition("\n")
            written = "".join(f" token\t{level}\n" for level in range(highest + 1))
            messages[-1] = Message("assistant", f"{header}\n{written}{lines}")
            answer = await llms[self.role or ""].token_logprobs(messages, top=self._logprobs)
            if answer.status is not Status.OK:
                raise HarnessError(f"the simulator gives no log-probabilities of prompts: {answer.detail}")
            positions = _positions(answer, placeholder, len(PROOF_TOKENS))
            if positions is None:
                reason = reason or f"its tokenizer or chat template keeps no {placeholder!r} apart from the tab before"
                continue
            if missing := [level for level in range(highest + 1) if not _writes(answer, level)]:
                reason = f"its tokenizer writes {missing[0]} as more than one token after a tab"
                continue
            masses = [_expectation(answer, position, highest)[1] for position in positions]
            if min(masses) < self._min_mass:
                reason = f"it puts {min(masses):.2g} of its probability on the levels where one belongs"
                continue
            self._formats = [(highest, placeholder)]
            fallback = "" if highest == FORMATS[0][0] else f"; not 0-{FORMATS[0][0]}, for {reason}"
            return (
                f"levels 0-{highest} work with this model, {placeholder!r} standing for one that is not known "
                f"({np.mean(masses):.0%} of the probability is on the levels){fallback}"
            )
        raise HarnessError(
            f"the simulator cannot write levels 0-10 or 0-9: {reason}; take another model as llm.{self.role}, lower "
            "min_digit_mass if it is near, or leave this judge out"
        )

    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Lay out the whole window and read what is expected behind each token."""
        shown = self._laid_out(exemplar.tokens, slice(None))
        levels, masses = await self._read(llm, len(exemplar.tokens), description=description, **shown)
        return Prediction(levels, float(np.mean(masses)))

    def _laid_out(self, tokens: Sequence[str], places: slice) -> dict[str, Any]:
        """Return what the prompt shows of a window when the levels at ``places`` are asked for."""
        return {"tokens": tokens[places]}

    async def _read(self, llm: LLMClient, count: int, **shown: Any) -> tuple[Floats, Floats]:
        """Return the expected level and the probability on the levels at each of ``count`` placeholders."""
        await llm.ready()  # the preflight says which format
        for form in tuple(self._formats):
            highest, placeholder = form
            answer = await llm.token_logprobs(
                self.prompt.render(**shown, placeholder=placeholder, highest=highest), top=self._logprobs
            )
            if answer.status is not Status.OK:
                raise Unanswered(answer.status, answer.detail)
            positions = _positions(answer, placeholder, count)
            if positions is not None and _writes(answer, highest):
                self._formats = [form]  # a matter of the tokenizer: what fits once fits always
                break
        else:
            raise Unanswered(
                Status.FAILED,
                "the simulator's tokenizer keeps no placeholder apart from the tab before it, so no level can be read",
            )
        expected, masses = zip(*(_expectation(answer, at, highest) for at in positions), strict=True)
        if min(masses) < self._min_mass:
            raise Unanswered(
                Status.FAILED,
                f"at {sum(mass < self._min_mass for mass in masses)} of {len(masses)} tokens the simulator puts less "
                f"than {self._min_mass} of its probability on 0-{highest}",
            )
        return np.array(expected), np.array(masses)


class SimulationPerToken(SimulationLLM):
    """Simulates a window in many requests: each shows the text up to a few tokens, and asks for the levels of these.

    This is the original protocol where ``tokens`` is 1: no level depends on what was asked of another token, at the
    price of a request for each. The figures are those of :class:`judges.simulated.Simulation`.

    Args:
        role: the LLM role that simulates; its server must give prompt log-probabilities (vLLM does).
        windows: windows of each source and split.
        figure: which r is the value: ``top_and_random``, ``top`` or ``random``.
        tokens: tokens asked for in one request.
        whole_text: whether the text behind those tokens is shown too, and they are marked in it: for subjects that read
            in both directions.
        logprobs: expectations asked for at each token.
        min_digit_mass: a window counts as simulated only if the probability on the levels reaches this at every token.
    """

    prompt = Prompt("judges", "prompts/simulation_per_token.j2")

    def __init__(
        self,
        role: str = "simulator",
        windows: int = 5,
        figure: str = FIGURES[0],
        tokens: int = 1,
        whole_text: bool = False,
        logprobs: int = 20,
        min_digit_mass: float = 0.01,
    ) -> None:
        super().__init__(role, windows, figure, logprobs, min_digit_mass)
        require_count("tokens", tokens, 1)
        self._tokens, self._whole_text = tokens, whole_text

    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Ask for a few tokens at a time."""
        tokens = exemplar.tokens
        parts = await all_answers(
            self._read(
                llm,
                len(places),
                description=description,
                **self._laid_out(tokens, slice(places.start, places.stop)),
            )
            for places in batches(len(tokens), self._tokens)
        )
        levels, masses = (np.concatenate(figures) for figures in zip(*parts, strict=True))
        return Prediction(levels, float(np.mean(masses)))

    def _laid_out(self, tokens: Sequence[str], places: slice) -> dict[str, Any]:
        """Return the tokens asked for, and the text around them."""
        start, stop, _ = places.indices(len(tokens))
        return {
            "before": tokens[:start],
            "tokens": tokens[start:stop],
            "after": tokens[stop:] if self._whole_text else (),
            "whole": self._whole_text,
        }


def _writes(answer: PromptLogprobs, level: int) -> bool:
    """Tell whether the tokenizer writes a level that stands in the prompt as one token after a tab, ending a line."""
    texts = [token.text for token in answer.tokens]
    return any(
        before.endswith("\t") and token == str(level) and not after[:1].isdigit()
        for before, token, after in zip(texts, texts[1:], [*texts[2:], ""], strict=False)
    )


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


def _expectation(answer: PromptLogprobs, position: int, highest: int) -> tuple[float, float]:
    """Return the expected level at a position given that a level stands there, and the probability that one does."""
    levels = {str(level): level for level in range(highest + 1)}
    alternatives = answer.tokens[position].alternatives
    weights = {levels[text]: math.exp(logprob) for text, logprob in alternatives.items() if text in levels}
    mass = sum(weights.values())
    return (sum(level * weight for level, weight in weights.items()) / mass if mass > 0 else 0.0), mass
