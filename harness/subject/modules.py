"""The subject's transformers model: loading it, and finding the modules of its neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from harness.errors import HarnessError
from harness.records import Neuron, VectorKind
from harness.subject.files import first_line
from harness.subject.latents import Place
from harness.subject.pretrained import from_pretrained, problem_of
from harness.subject.subject import Subject


def load_model(subject: Subject, auto: Any) -> nn.Module:
    """Load a subject's model on the CPU with a class of transformers such as ``AutoModel``.

    Raises:
        HarnessError: as :func:`check_model`.
    """
    model, _ = _read(subject, auto, check_model(subject, auto))
    loaded: nn.Module = model.eval()
    return loaded


def check_model(subject: Subject, auto: Any) -> Mapping[str, str] | None:
    """Check that transformers finds all weights of a subject's model. It reads none of them, which takes a second.

    Args:
        subject: the model.
        auto: the class of transformers that will load it.

    Returns:
        How the weights must be renamed for transformers, as patterns and replacements; None if it knows their names.

    Raises:
        HarnessError: if the model cannot be loaded; if weights that it computes with are missing, not expected or of
            another shape; or if its tokenizer has more tokens than its embedding.
    """
    subject.check_tokenizer()
    if (problem := _problem(subject, auto, None)) is None:
        return None
    renamed = subject.weights.without_wrapper
    if _problem(subject, auto, renamed) is not None:
        raise HarnessError(
            f"{subject.name} cannot be loaded: {problem}; download the checkpoint again, or correct its config.json"
        )
    return renamed


def _problem(subject: Subject, auto: Any, renamed: Mapping[str, str] | None) -> str | None:
    model, report = _read(subject, auto, renamed, device_map="meta")
    _find(subject, model.base_model, subject.architecture.module(None))  # a wrong base is named as such
    return problem_of(model, report, subject.architecture.base, subject.weights.prefix)


def _read(subject: Subject, auto: Any, renamed: Mapping[str, str] | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    if getattr(subject.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        options["attn_implementation"] = "eager"  # the default, SDPA, ignores the cap without a warning (Gemma 2)
    try:
        return from_pretrained(
            auto, subject.files.reference, dtype=subject.dtype, key_mapping=renamed, **options, **subject.loading
        )
    # A KeyError is an activation function or a kind of position embedding that transformers does not know.
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError, SafetensorError) as error:
        unknown = " is not known to transformers" if isinstance(error, KeyError) else ""
        raise HarnessError(
            f"{subject.name} cannot be loaded ({first_line(error)}{unknown}); check subject.sources, subject.dtype and "
            "the model's config.json"
        ) from error


class Modules:
    """Finds modules in the base model of a subject, which has no head.

    Its methods raise :class:`HarnessError` if the model's modules differ from its architecture.
    """

    def __init__(self, subject: Subject, base: nn.Module) -> None:
        self._subject, self._base = subject, base

    def layers(self) -> nn.ModuleList:
        """Return the list of layers."""
        return cast(nn.ModuleList, self._submodule(self._subject.architecture.module(None)))

    def down_projection(self, layer: int) -> nn.Module:
        """Return the module that receives a layer's activations; in a mixture, those of the shared expert."""
        return self._of_vectors(layer, VectorKind.OUT)

    def into(self, layer: int, kind: VectorKind) -> nn.Module:
        """Return the module with a layer's gate or in vectors, which receives the MLP's input."""
        return self._of_vectors(layer, kind)

    def _of_vectors(self, layer: int, kind: VectorKind) -> nn.Module:
        weight, *_ = self._subject.weights.mlp(layer, None).vectors[kind]
        return self._submodule(self._subject.architecture.module(layer, weight.removesuffix(".weight")))

    def hook(self, layer: int, place: Place, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call a function with the hidden states at a place of a layer; a returned tensor replaces them."""
        architecture = self._subject.architecture
        if place is Place.MLP_OUTPUT:
            norm = architecture.mlp_norm
            module = self.down_projection(layer) if norm is None else self._submodule(architecture.module(layer, norm))
        else:
            module = self.into(layer, VectorKind.IN) if place is Place.MLP_INPUT else self.layers()[layer]
        if place in (Place.BEFORE, Place.MLP_INPUT):

            def enter(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
                changed = function(inputs[0])
                return None if changed is None else (changed, *inputs[1:])

            return module.register_forward_pre_hook(enter)

        def leave(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
            changed = function(output[0] if isinstance(output, tuple) else output)
            return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

        return module.register_forward_hook(leave)

    def experts(self, layer: int) -> nn.Module:
        """Return the module that receives hidden states, the experts selected for them and the router's weights.

        Raises:
            HarnessError: also if it does not compute like those of transformers' Mixtral and Qwen models.
        """
        architecture = self._subject.architecture
        experts: Any = self._submodule(architecture.module(layer, architecture.experts_module))
        if not hasattr(experts, "_apply_gate") or experts.has_bias or not experts.is_concatenated:
            raise HarnessError(
                f"the activations of {self._subject.name}'s experts cannot be read: {type(experts).__name__} differs "
                "from the experts of transformers' Mixtral and Qwen models (no biases, gate before in); choose "
                "describers and judges that need no text"
            )
        return cast(nn.Module, experts)

    def _submodule(self, name: str) -> nn.Module:
        return _find(self._subject, self._base, name)


def _find(subject: Subject, base: nn.Module, name: str) -> nn.Module:
    try:
        return base.get_submodule(name)
    except AttributeError as error:
        raise HarnessError(
            f"{subject.name} has no module {name} ({first_line(error)}): correct subject.architecture "
            "(base, layer, the name of the out weight, experts_module)"
        ) from error


def expert_activations(subject: Subject, neurons: Sequence[Neuron], device: str) -> Callable[[Any, Tensor], Tensor]:
    """Return a function that computes the activations of neurons of experts.

    Fused kernels do not expose the experts' activations to hooks, so they are computed again for these neurons.

    Args:
        subject: the model.
        neurons: neurons of experts in one layer.
        device: device of the model.

    Returns:
        A function of the experts' module and the hidden states (tokens, d_model). It returns (tokens, neurons), as if
        every token were routed to every expert, before the router's weight is applied.
    """

    def vectors(kind: VectorKind) -> Tensor:
        found = subject.vectors(neurons[0].layer, [n.index for n in neurons], kind, [n.expert for n in neurons])
        return found.to(device)

    into = vectors(VectorKind.IN)
    gate = vectors(VectorKind.GATE) if VectorKind.GATE in subject.kinds else None

    def compute(module: Any, hidden: Tensor) -> Tensor:
        value = linear(hidden, into.to(hidden))
        if gate is None:
            activated: Tensor = module.act_fn(value)
        else:
            activated = module._apply_gate(torch.cat([linear(hidden, gate.to(hidden)), value], dim=-1))
        return activated

    return compute
