"""Channels are removed while the model reads text: worked out by hand on a neuron whose channels are its concepts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.decomposition.measures import without_span
from harness.records import Neuron, TextAblation, VectorKind
from harness.results.diagnostics import DiagnosticsGroup, diagnostics_row
from harness.run.text_ablation import Arms, text_ablation
from harness.subject import NeuronsOnText

NEURON = Neuron(0, 0)
#: Token i has the embedding e_i; the neuron reads 2 e_0 + e_1, so that its channels are e_0 and e_1.
PROJECTION = torch.eye(6)
VECTOR = torch.tensor([2.0, 1, 0, 0, 0, 0])
CHANNELS = PROJECTION[:2]
#: Token 0 activates the neuron with 2, token 1 with 1, token 5 not at all.
TEXT = torch.tensor([0, 5, 1, 0, 5, 5, 1, 5])


@dataclass
class Reading:
    """The text as the measurement sees it: the input of the MLP is the token's embedding."""

    activation: Any = torch.relu

    tokens: Tensor = field(default_factory=TEXT.clone)

    def on_text(self, neuron: Neuron) -> tuple[NeuronsOnText, int]:
        assert neuron == NEURON
        hidden = PROJECTION[TEXT]
        before = {VectorKind.IN: (hidden @ VECTOR)[:, None]}
        activations = self.activation(before[VectorKind.IN])
        return NeuronsOnText(hidden, activations, before, lambda values: self.activation(values[VectorKind.IN])), 0


def measured(channels: Tensor = CHANNELS) -> TextAblation:
    arms = Arms.of(VECTOR, channels, PROJECTION, torch.ones(6, dtype=torch.bool), 1, seed=0)
    reading: Any = Reading()
    return text_ablation(reading, NEURON, VectorKind.IN, VECTOR, arms)


def test_a_channel_takes_the_response_to_its_own_tokens_and_no_other() -> None:
    found = measured()
    assert found.positions == (2, 2)
    # The most active 2 % of eight tokens are the two tokens 0, at 2: the unit of responses.
    assert found.response == pytest.approx((2.0, 1.0))
    assert found.channel == pytest.approx((0.0, 0.0), abs=1e-5)
    assert found.another == pytest.approx((2.0, 1.0))  # without the other channel, all of it remains
    assert found.elsewhere[1] == pytest.approx(0.0, abs=1e-5)  # token 0 is active and is not of the second channel
    assert found.elsewhere[0] is None  # no other token is active
    assert found.complete == pytest.approx(1.0)


def test_a_random_direction_takes_its_squared_cosine_on_average() -> None:
    cosine = 2 / 5**0.5
    lost = []
    for seed in range(400):
        arms = Arms.of(VECTOR, CHANNELS[:1], PROJECTION, torch.ones(6, dtype=torch.bool), 1, seed=seed)
        reading: Any = Reading(activation=lambda values: values)
        found = text_ablation(reading, NEURON, VectorKind.IN, VECTOR, arms)
        lost.append(1 - found.random[0] / found.response[0])
        assert float(arms.random[0] @ VECTOR / VECTOR.norm()) == pytest.approx(cosine, abs=1e-5)
    assert sum(lost) / len(lost) == pytest.approx(cosine**2, abs=0.05)


def test_without_leaves_what_is_orthogonal_to_the_span_of_the_directions() -> None:
    directions = torch.tensor([[1.0, 1, 0, 0, 0, 0], [2.0, 2, 0, 0, 0, 0]])
    assert without_span(VECTOR[None], directions[None])[0].tolist() == pytest.approx([0.5, -0.5, 0, 0, 0, 0], abs=1e-6)


def test_shares_lost_are_of_the_summed_responses_with_intervals_over_neurons() -> None:
    def record(index: int, response: float, channel: float) -> TextAblation:
        lost = (0.2, 0.1)
        return TextAblation(
            Neuron(0, index), VectorKind.IN, (3,), (response,), (channel,), (response,), (0.0,), (None,), *zip(lost),
            0.5, None,
        )  # fmt: skip

    empty: Any = torch.full((2, 1), torch.nan).numpy()
    group = DiagnosticsGroup(
        0, VectorKind.IN, empty[:, 0], *[empty] * 6, text_ablations=(record(0, 4.0, 1.0), record(1, 1.0, 1.0))
    )
    with pytest.warns(RuntimeWarning):  # the other metrics have no data
        row = diagnostics_row(group)
    assert (row.text_ablated, row.text_positions) == (2, 6)
    assert row.text_faithful == pytest.approx(3 / 5)
    assert row.text_random == 0.0
    assert row.text_embedding == 1.0
    assert row.text_another is None
    assert row.text_elsewhere == pytest.approx(0.2)
    assert row.text_complete == pytest.approx(0.5)
    assert row.text_complete_random is None
    assert row.text_faithful_interval is not None
    assert row.text_faithful_interval[0] <= 0.0 + 1e-9
