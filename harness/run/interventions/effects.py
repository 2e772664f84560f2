"""Effects of clamping neurons on the next token, averaged over text.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (TokenChange).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.records import Effect, Neuron, Split, TextPrompt
from harness.subject import CausalModel, Intervention, Subject


class Clamping:
    """Averages the change of the logits over pieces of text of equal length.

    The neuron is clamped at all tokens of all pieces, and the mean is over all of them. Special tokens before the text
    are neither clamped nor counted.

    Args:
        model: the model.
        prompts: the pieces.
        beginning: special tokens before each piece.
        rows: rows of one forward pass.
    """

    def __init__(self, model: CausalModel, prompts: Sequence[TextPrompt], beginning: Sequence[int], rows: int) -> None:
        self._model, self._rows, self._start = model, rows, len(beginning)
        self._ids = torch.tensor([[*beginning, *prompt.tokens] for prompt in prompts])
        self._positions = torch.ones_like(self._ids, dtype=torch.bool)
        self._positions[:, : self._start] = False
        self._plain = self._means([None])[0]

    def changes(self, given: Sequence[Intervention]) -> dict[tuple[Neuron, float], Tensor]:
        """Return the mean change of each token's logit, (V,) float32, by unsigned neuron and raw value.

        Clamps that both signs of a neuron need are computed once.
        """
        distinct = {(one.neuron.unsigned, one.raw): one for one in given}
        means = self._means(list(distinct.values()))
        return {key: mean - self._plain for key, mean in zip(distinct, means, strict=True)}

    def _means(self, given: Sequence[Intervention | None]) -> Tensor:
        """Return the mean logits under each intervention, (interventions, V), float32, on the CPU."""
        pieces, length = len(self._ids), self._ids.shape[1] - self._start
        work = [(which, piece) for which in range(len(given)) for piece in range(pieces)]
        sums: Tensor | None = None
        for start in range(0, len(work), self._rows):
            which, piece = (list(part) for part in zip(*work[start : start + self._rows], strict=True))
            logits = self._model.logits(
                self._ids[piece], [given[index] for index in which], positions=self._positions[piece]
            )
            each = logits[:, self._start :].sum(dim=1, dtype=torch.float32)
            if sums is None:
                sums = torch.zeros(len(given), each.shape[1], device=each.device)
            sums.index_add_(0, torch.tensor(which, device=each.device), each)
        return torch.empty(0) if sums is None else (sums / (pieces * length)).cpu()


def effects_of(
    clamping: Clamping, subject: Subject, split: Split, values: Mapping[Neuron, Sequence[float]], top_tokens: int
) -> list[Effect]:
    """Return the effects of clamping neurons.

    Args:
        clamping: the text over which they are averaged.
        subject: the model.
        split: the split of that text.
        values: the values to which each neuron is clamped, one measurement for each.
        top_tokens: tokens kept of those that rise most, and of those that fall most.
    """
    given = [Intervention(neuron, value) for neuron, clamped in values.items() for value in clamped]
    changes = clamping.changes(given)
    effects = []
    for one in given:
        change = changes[one.neuron.unsigned, one.raw]
        promoted, suppressed = subject.extreme_tokens(change, top_tokens)
        scale = round(float(change.std(correction=0)), 6)
        effects.append(Effect(one.neuron, split, round(one.value, 6), scale, promoted, suppressed))
    return effects
