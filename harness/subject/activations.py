"""The subject at work: the activations of chosen neurons over text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from harness.errors import HarnessError
from harness.records import Neuron
from harness.subject.modules import Modules, expert_activations, load_model
from harness.subject.subject import Subject


class ActivationReader:
    """Runs the subject and reads neurons' activations: the values that enter the down projection.

    A neuron of an expert is active only at the tokens that are routed to the expert; at the others it is 0. Its
    activation is taken before the router's weight is applied.

    Layers above the highest one asked for are dropped, for their work would be thrown away.

    Args:
        subject: the model.
        neurons: the neurons, in the order in which they are returned.
        device: where the model runs.

    Raises:
        HarnessError: if a neuron does not exist, or the model cannot be loaded or has other modules than its
            architecture says.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        for neuron in neurons:
            subject.check(neuron.layer, [neuron.index], [], [neuron.expert])
        self._subject, self._device, self._neurons = subject, device, tuple(neurons)
        self._model = load_model(subject, AutoModel)
        modules = Modules(subject, self._model)
        del modules.layers()[max(neuron.layer for neuron in neurons) + 1 :]
        self._model.to(device)
        # Where the activations of one module go: columns of the result, and their values.
        self._read: list[tuple[list[int], Tensor]] = []
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for position, neuron in enumerate(neurons):
            groups[neuron.layer, neuron.expert is not None].append(position)
        for (layer, routed), positions in groups.items():
            module = modules.experts(layer) if routed else modules.down_projection(layer)
            module.register_forward_pre_hook((self._experts_hook if routed else self._hook)(positions))

    def _hook(self, positions: list[int]) -> Any:
        indices = torch.tensor([self._neurons[position].index for position in positions], device=self._device)

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._read.append((positions, inputs[0][..., indices]))

        return keep

    def _experts_hook(self, positions: list[int]) -> Any:
        neurons = [self._neurons[position] for position in positions]
        experts = torch.tensor([neuron.expert for neuron in neurons], device=self._device)
        compute = expert_activations(self._subject, neurons, self._device)

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden, chosen, _ = inputs  # (tokens, d_model), and (tokens, experts per token) twice
            routed = (chosen[..., None] == experts).any(dim=-2)
            self._read.append((positions, torch.where(routed, compute(module, hidden), 0)))

        return keep

    @torch.inference_mode()
    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the activations of the neurons.

        Args:
            input_ids: (B, T) token ids, special tokens included.
            attention_mask: (B, T), 1 where there is a token.

        Returns:
            (B, T, neurons), float32, on the reader's device.

        Raises:
            HarnessError: if an activation is not a finite number.
        """
        self._read.clear()
        self._model(input_ids=input_ids.to(self._device), attention_mask=attention_mask.to(self._device))
        activations = torch.empty(*input_ids.shape, len(self._neurons), device=self._device)
        for positions, values in self._read:
            # Some models (OPT, mixtures) flatten batch and sequence into one dimension.
            activations[..., positions] = values.float().view(*input_ids.shape, -1)
        if not torch.isfinite(activations[attention_mask.to(self._device).bool()]).all():
            raise HarnessError(
                f"{self._subject.name} computes activations that are NaN or infinite: its weights are damaged, or too "
                "large for the number format (subject.dtype=float32)"
            )
        return activations

    def close(self) -> None:
        """Free the memory that the model holds, on the accelerator too."""
        del self._model
        self._read.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
