"""The subject at work: the activations of chosen neurons over text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel

from harness.errors import HarnessError
from harness.records import Neuron
from harness.subject.files import first_line
from harness.subject.subject import Subject


class ActivationReader:
    """Runs the subject and reads neurons' activations: the values that enter the down projection.

    Layers above the highest one asked for are dropped, for their work would be thrown away.

    Args:
        subject: the model.
        neurons: the neurons, in the order in which they are returned.
        device: where the model runs.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        for neuron in neurons:
            subject.check(neuron.layer, [neuron.index], [])
        self._subject, self._device = subject, device
        self._columns: dict[int, tuple[Tensor, Tensor]] = {}
        by_layer: dict[int, list[int]] = defaultdict(list)
        for position, neuron in enumerate(neurons):
            by_layer[neuron.layer].append(position)
        for layer, positions in by_layer.items():
            indices = torch.tensor([neurons[position].index for position in positions], device=device)
            self._columns[layer] = (torch.tensor(positions, device=device), indices)
        self._count = len(neurons)
        self._model = self._load()
        self._read: dict[int, Tensor] = {}
        for layer, (_, indices) in self._columns.items():
            name = f"{subject.architecture.layer.format(layer=layer)}.{subject.architecture.activation}"
            self._model.get_submodule(name).register_forward_pre_hook(self._hook(layer, indices))

    def _load(self) -> nn.Module:
        subject = self._subject
        try:
            model: nn.Module = AutoModel.from_pretrained(
                subject.files.reference, dtype=subject.dtype, use_safetensors=True, **subject.loading
            )
        except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
            raise HarnessError(
                f"{subject.name} cannot be loaded ({first_line(error)}); check subject.sources and subject.dtype"
            ) from error
        layers = model.get_submodule(subject.architecture.layer.rpartition(".")[0])
        assert isinstance(layers, nn.ModuleList)
        del layers[max(self._columns) + 1 :]
        return model.eval().to(self._device)

    def _hook(self, layer: int, indices: Tensor) -> Any:
        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._read[layer] = inputs[0][..., indices]

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
        self._model(input_ids=input_ids.to(self._device), attention_mask=attention_mask.to(self._device))
        activations = torch.empty(*input_ids.shape, self._count, device=self._device)
        for layer, (positions, _) in self._columns.items():
            activations[..., positions] = self._read.pop(layer).float()
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
