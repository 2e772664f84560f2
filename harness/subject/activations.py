"""Activations of chosen neurons on text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from harness.errors import HarnessError
from harness.records import Neuron, VectorKind
from harness.subject.latents import Dictionary
from harness.subject.modules import Modules, expert_activations, load_model
from harness.subject.subject import Subject


class ActivationReader:
    """Runs the subject and reads the activations of neurons: the values that enter the down projection.

    Latents of a dictionary are computed from the hidden states. The activation of an expert's neuron is 0 at tokens
    that are not routed to the expert. It is taken before the router's weight is applied. Layers above the highest
    requested one do not run.

    Args:
        subject: the model.
        neurons: the neurons, in the order of the result.
        device: device of the model.

    Raises:
        HarnessError: if a neuron does not exist, the model cannot be loaded, or its modules differ from its
            architecture.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        for neuron in neurons:
            subject.check(neuron.layer, [neuron.index], [], [neuron.expert])
        self._subject, self._device, self._neurons = subject, device, tuple(neurons)
        self._model = load_model(subject, AutoModel)
        modules = Modules(subject, self._model)
        del modules.layers()[max(neuron.layer for neuron in neurons) + 1 :]
        self._model.to(device)
        # Inputs of the hooked modules by group: the activations of the group's neurons, in order.
        self._read: dict[int, Tensor] = {}
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for position, neuron in enumerate(neurons):
            groups[neuron.layer, neuron.expert is not None].append(position)
        for number, ((layer, routed), positions) in enumerate(groups.items()):
            if dictionary := subject.weights.dictionaries.get(layer):
                modules.hook(layer, dictionary.reads, self._latents_hook(number, positions, dictionary))
                continue
            module = modules.experts(layer) if routed else modules.down_projection(layer)
            module.register_forward_pre_hook((self._experts_hook if routed else self._hook)(number, positions))
        order = [position for positions in groups.values() for position in positions]
        # No reordering if the neurons are sorted by layer, as most callers pass them.
        self._order = None if order == sorted(order) else torch.tensor(order, device=device).argsort()

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the model's activations."""
        return next(self._model.parameters()).dtype

    def _hook(self, group: int, positions: list[int]) -> Any:
        indices = torch.tensor([self._neurons[position].index for position in positions], device=self._device)

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            flat = inputs[0].flatten(0, -2)  # index_select is five times as fast on two dimensions
            self._read[group] = flat.index_select(1, indices)

        return keep

    def _latents_hook(self, group: int, positions: list[int], dictionary: Dictionary) -> Callable[[Tensor], None]:
        encode = dictionary.encoder([self._neurons[position].index for position in positions], self._device)

        def keep(hidden: Tensor) -> None:
            self._read[group], _ = encode(hidden)

        return keep

    def _experts_hook(self, group: int, positions: list[int]) -> Any:
        neurons = [self._neurons[position] for position in positions]
        experts = torch.tensor([neuron.expert for neuron in neurons], device=self._device)
        compute = expert_activations(self._subject, neurons, self._device)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden, chosen, _ = inputs  # (tokens, d_model), and (tokens, experts per token) twice
            routed = (chosen[..., None] == experts).any(dim=-2)
            self._read[group] = torch.where(routed, compute(module, hidden), 0)

        return keep

    @torch.inference_mode()
    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the activations of the neurons.

        Args:
            input_ids: (B, T) token ids, special tokens included.
            attention_mask: (B, T), 1 for tokens and 0 for padding.

        Returns:
            (B, T, neurons), float32, on the reader's device.

        Raises:
            HarnessError: if an activation is not a finite number.
        """
        self._read.clear()
        self._model(input_ids=input_ids.to(self._device), attention_mask=attention_mask.to(self._device))
        # Some models (OPT, mixtures) flatten batch and sequence into one dimension.
        parts = [self._read[group].float().view(*input_ids.shape, -1) for group in sorted(self._read)]
        self._read.clear()
        activations = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        if self._order is not None:
            activations = activations[..., self._order]
        # A sum is finite only if every term is.
        if not torch.isfinite(activations.sum(dim=-1)[attention_mask.to(self._device).bool()]).all():
            raise HarnessError(
                f"{self._subject.name} computes activations that are NaN or infinite: its weights are damaged, or they "
                "overflow (set subject.dtype=float32)"
            )
        return activations

    def close(self) -> None:
        """Free the model's memory, also on the accelerator."""
        del self._model
        self._read.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


#: Activation functions without negative values, as named in transformers.
NEVER_NEGATIVE = frozenset({"relu", "relu2", "relu6", "sigmoid"})


def check_signs(subject: Subject, neurons: Iterable[Neuron]) -> None:
    """Check that the subject's neurons can have the requested signs.

    Gated neurons have both signs with any activation function, because the in projection is a factor.

    Raises:
        HarnessError: if negative neurons are requested and activations are never negative.
    """
    if VectorKind.GATE in subject.kinds or not any(neuron.negative for neuron in neurons):
        return
    function = subject.activation_function
    if function in NEVER_NEGATIVE:
        raise HarnessError(
            f"the activations of {subject.name} are never negative (activation function {function}): describe only the "
            "positive sign (neurons.signs=[positive])"
        )
