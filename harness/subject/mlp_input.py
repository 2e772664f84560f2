"""The inputs of MLPs on text, and activations of neurons whose weight vectors were changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN

from harness.errors import HarnessError
from harness.records import Neuron, VectorKind
from harness.subject.modules import Modules, load_model
from harness.subject.subject import Subject

# Largest difference between computed activations and the model's own, as a share of the largest activation.
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class NeuronsOnText:
    """Neurons of one layer on P tokens of text.

    Attributes:
        hidden: (P, d_model), the input of the MLP: the residual stream after the MLP's norm.
        activations: (P, n), the values that enter the down projection.
        before: (P, n) for each kind that reads: ``hidden`` times the weight vectors, plus the bias.
        activate: computes activations from values like ``before``, of any number of columns.
    """

    hidden: Tensor
    activations: Tensor
    before: Mapping[VectorKind, Tensor]
    activate: Callable[[Mapping[VectorKind, Tensor]], Tensor]


def read_mlps(
    subject: Subject, neurons: Sequence[Neuron], batches: Sequence[Tensor], beginning: int, device: str
) -> dict[int, NeuronsOnText]:
    """Run the subject once, and return the neurons of each layer on the text.

    All of it is in memory: P (d_model + 3 n) values for each layer.

    Args:
        subject: the model.
        neurons: neurons of dense layers or shared experts, in the order of the results within their layer.
        batches: token ids (B, T) of pieces of equal length, without padding.
        beginning: number of special tokens at the start of each piece, which are left out of the results.
        device: device of the model and the results.

    Raises:
        HarnessError: if the model cannot be loaded, or its activations differ from act(gate) * in or act(in).
    """
    model = load_model(subject, AutoModel)
    modules = Modules(subject, model)
    by_layer: dict[int, list[int]] = defaultdict(list)
    for neuron in neurons:
        by_layer[neuron.layer].append(neuron.index)
    del modules.layers()[max(by_layer) + 1 :]
    model.to(device)
    seen: dict[tuple[int, str], list[Tensor]] = defaultdict(list)

    def keep(layer: int, what: str, indices: list[int] | None) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].reshape(len(current), -1, inputs[0].shape[-1])[:, beginning:].flatten(0, 1).float()
            seen[layer, what].append(value if indices is None else value[:, indices])

        return hook

    for layer, indices in by_layer.items():
        modules.into(layer, VectorKind.IN).register_forward_pre_hook(keep(layer, "hidden", None))
        modules.down_projection(layer).register_forward_pre_hook(keep(layer, "activations", indices))
    with torch.inference_mode():
        for current in batches:
            model(input_ids=current.to(device), attention_mask=torch.ones_like(current, device=device))
    activation: Callable[[Tensor], Tensor] = ACT2FN[subject.activation_function or "linear"]
    found = {}
    for layer, indices in by_layer.items():
        hidden, activations = (torch.cat(seen.pop((layer, what))) for what in ("hidden", "activations"))
        before: dict[VectorKind, Tensor] = {}
        width = subject.weights.width(subject.weights.mlp(layer, None))
        for kind in subject.kinds:
            if kind is not VectorKind.OUT:
                bias = _bias(modules.into(layer, kind), kind, indices, width)
                vectors = subject.vectors(layer, indices, kind, [None] * len(indices)).to(hidden)
                before[kind] = hidden @ vectors.T + bias
        error = (_activated(before, activation) - activations).abs().max()
        if error > _TOLERANCE * activations.abs().max():
            raise HarnessError(
                f"the activations of {subject.name} differ from act(gate) * in, so they cannot be computed again for "
                "other weights: set diagnostics.text_ablated=0"
            )
        found[layer] = NeuronsOnText(hidden, activations, before, lambda values: _activated(values, activation))
    return found


def _activated(values: Mapping[VectorKind, Tensor], activation: Callable[[Tensor], Tensor]) -> Tensor:
    if VectorKind.GATE in values:
        return activation(values[VectorKind.GATE]) * values[VectorKind.IN]
    return activation(values[VectorKind.IN])


def _bias(module: Any, kind: VectorKind, indices: list[int], width: int) -> Tensor | float:
    """Return the bias of some neurons; a module of gate and in has those of gate first."""
    bias: Tensor | None = getattr(module, "bias", None)
    if bias is None:
        return 0.0
    start = width if kind is VectorKind.IN and len(bias) == 2 * width else 0
    return bias.detach()[start : start + width][indices].float()
