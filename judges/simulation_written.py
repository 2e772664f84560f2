"""Simulation by LLMs that show no log-probabilities: the levels are written out as JSON.

Source: Bills et al. 2023, for the protocol; one level for each token, without the expected value over its alternatives,
is what is left of it where a server answers with text only. Grids of whole numbers tell descriptions apart less finely.
"""

from __future__ import annotations

import numpy as np

from harness.checks import require_count
from harness.llm.asking import all_answers
from harness.llm.client import LLMClient
from harness.llm.prompts import Prompt
from harness.records import Exemplar
from judges.numbered import ask_numbered, batches, levels
from judges.simulated import FIGURES, Prediction, Simulation


class SimulationWritten(Simulation):
    """Simulates a window by asking for the level of each token as JSON: needs no log-probabilities.

    The figures are those of :class:`judges.simulated.Simulation`; a window whose answer lacks a level is not simulated.

    Args:
        role: the LLM role that simulates.
        windows: windows of each source and split.
        figure: which r is the value: ``top_and_random``, ``top`` or ``random``.
        highest: the highest level.
        tokens: tokens asked for in one request, which shows the whole window; null for all.
    """

    prompt = Prompt("judges", "prompts/simulation_written.j2")

    def __init__(
        self,
        role: str = "simulator",
        windows: int = 5,
        figure: str = FIGURES[0],
        highest: int = 10,
        tokens: int | None = None,
    ) -> None:
        super().__init__(role, windows, figure)
        require_count("highest", highest, 1)
        if tokens is not None:
            require_count("tokens", tokens, 1)
        self._highest, self._tokens = highest, tokens

    async def simulate(self, llm: LLMClient, description: str, exemplar: Exemplar) -> Prediction:
        """Ask for the levels of all tokens."""
        count = len(exemplar.tokens)
        parts = await all_answers(
            self._ask(llm, description, exemplar.tokens, places) for places in batches(count, self._tokens or count)
        )
        return Prediction(np.array([float(level) for part in parts for level in part]))

    async def _ask(self, llm: LLMClient, description: str, tokens: tuple[str, ...], places: range) -> list[int]:
        prompt = self.prompt.render(
            description=description,
            before=tokens[: places.start],
            tokens=tokens[places.start : places.stop],
            after=tokens[places.stop :],
            highest=self._highest,
        )
        return await ask_numbered(llm, prompt, "token", len(places), levels(self._highest), reason=False)
