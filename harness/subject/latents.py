"""Latents of sparse autoencoders and transcoders as neurons, read from folders in the format of SAELens.

A latent reads the model at one place with a column of the encoder (``in``), and writes to a place with a row of the
decoder (``out``)::

    before = (normalised(x) - b_dec) @ W_enc + b_enc        b_dec only with apply_b_dec_to_input
    activation = relu(before)                               standard
               = relu(before) if it is above the threshold  jumprelu, batchtopk
               = relu(before) if it is among the k highest  topk

A sparse autoencoder reads and writes at the same place. A transcoder reads the input of an MLP and writes to its
output. ``rescale_acts_by_decoder_norm`` multiplies a latent's encoder column, bias and activation by the norm of its
decoder row, and divides the row by it. At ``ln2.hook_normalized`` of a family with RMS norms, x is the input of the MLP
divided by the weight of the norm: Gemma Scope's transcoders read there. Source: SAELens 3 to 6 (``cfg.json``,
``sae_weights.safetensors``, ``SAE.encode``).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import HarnessError
from harness.records import VectorKind
from harness.subject.architecture import Architecture
from harness.subject.checkpoint import Checkpoint
from harness.subject.files import ModelFiles, content_hash

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
#: Activation function of each architecture of SAELens.
_FUNCTIONS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
#: Names of options in SAELens 3 and earlier.
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
#: Numbers of a batch of activations before the activation function that topk holds in memory.
_TOPK_NUMBERS = 1 << 24


class Place(enum.StrEnum):
    """A place in a layer where hidden states are read or changed."""

    BEFORE = "hook_resid_pre"  # residual stream, input of the layer
    AFTER = "hook_resid_post"  # residual stream, output of the layer
    MLP_INPUT = "mlp.hook_in"  # after the norm
    MLP_OUTPUT = "hook_mlp_out"  # after a norm of the output, where the family has one

    @property
    def of_mlp(self) -> bool:
        """Whether it belongs to the MLP."""
        return self in (Place.MLP_INPUT, Place.MLP_OUTPUT)


#: TransformerLens has this hook after the weight of a layer norm, but before the weight of an RMS norm.
_NORMALISED = "ln2.hook_normalized"
#: Names of TransformerLens within ``blocks.LAYER``, and of its bridge to transformers.
_PLACES = {place.value: place for place in Place} | {"hook_in": Place.BEFORE, "hook_out": Place.AFTER}


def place_of(hook: str, architecture: Architecture) -> tuple[int, Place] | None:
    """Return the layer and place of a hook; None for any other place.

    Args:
        hook: its name in TransformerLens, or of the module whose output it is in transformers' model with a head.
        architecture: the model's architecture.
    """
    pattern = re.escape(architecture.module(0)).replace("0", r"(\d+)")
    if found := re.fullmatch(rf"(?:{re.escape(architecture.base_model)}\.)?{pattern}(\.mlp)?", hook):
        # With a norm of the MLP's output, the module's output is not what TransformerLens calls the MLP's output.
        if found[2] and architecture.mlp_norm is not None:
            return None
        return int(found[1]), Place.MLP_OUTPUT if found[2] else Place.AFTER
    if not (found := re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)):
        return None
    if found[2] == _NORMALISED and (architecture.norm == "layer" or architecture.mlp_input_norm is not None):
        return int(found[1]), Place.MLP_INPUT
    return (int(found[1]), _PLACES[found[2]]) if found[2] in _PLACES else None


class Dictionary:
    """A sparse autoencoder or transcoder of one layer.

    Args:
        folder: its folder, in the format of SAELens.
        model: name of the model in messages.
        architecture: the model's architecture.
        num_layers: its number of layers.
        d_model: width of its residual stream.
        gain: returns the weight of the RMS norm before the MLP of a layer, (d_model,).

    Raises:
        HarnessError: if a file or tensor is missing, a shape differs, or the harness cannot compute its activations.
    """

    def __init__(
        self,
        folder: str,
        model: str,
        architecture: Architecture,
        num_layers: int,
        d_model: int,
        gain: Callable[[int], Tensor],
    ) -> None:
        path = Path(folder).expanduser()
        self._name = f"subject.sae: {folder}"
        for name in (CONFIG, WEIGHTS):
            if not (path / name).is_file():
                raise HarnessError(f"{self._name} has no {name}: name a folder that SAELens has saved (SAE.save_model)")
        try:
            given = json.loads((path / CONFIG).read_text("utf-8"))
            found = {**given, **(given.get("metadata") or {})}
        except (ValueError, TypeError, AttributeError) as error:
            raise HarnessError(f"{self._name}: {CONFIG} is not a JSON object; save the dictionary again") from error
        self._options = {_RENAMED.get(name, name): value for name, value in found.items()}
        self._checkpoint = Checkpoint(ModelFiles(str(path), path), WEIGHTS)
        self.paths = (path / CONFIG, path / WEIGHTS)
        self._function = self._find_function()
        self._check_options()
        self.layer, self.reads = self._place("hook_name", architecture)
        written = "hook_name_out" if self._transcodes else "hook_name"
        layer, self.writes = self._place(written, architecture)
        if layer != self.layer or self.writes is Place.MLP_INPUT:
            raise self._refused(f"writes at {self._options[written]!r}")
        if layer >= num_layers:
            raise HarnessError(f"{self._name} belongs to layer {layer}, but {model} has layers 0 to {num_layers - 1}")
        self.width = self._find_width(d_model)
        self._gain: Tensor | None = None
        if architecture.norm == "rms" and str(self._options["hook_name"]).endswith(_NORMALISED):
            self._gain = gain(layer).float()
            if (self._gain == 0).any():
                raise self._refused(f"reads at {_NORMALISED}, where the weight of the model's norm has zeros,")

    def _refused(self, what: str) -> HarnessError:
        return HarnessError(f"{self._name} {what}, which is not supported; docs/new-model.md lists what is")

    @property
    def _transcodes(self) -> bool:
        return "transcoder" in str(self._options.get("architecture")) or bool(self._options.get("hook_name_out"))

    def _find_function(self) -> str:
        architecture, named = self._options.get("architecture") or "standard", self._options.get("activation_fn")
        if architecture not in _FUNCTIONS:
            raise self._refused(f"has the architecture {architecture!r}")
        if named not in (None, "relu", "jumprelu", "topk"):
            raise self._refused(f"has the activation function {named!r}")
        if named != "topk" and architecture != "topk":
            return _FUNCTIONS[architecture]
        k = (self._options.get("activation_fn_kwargs") or {}).get("k", self._options.get("k"))
        if not isinstance(k, int) or k < 1:
            raise HarnessError(f"{self._name}: {CONFIG} has no k, the number of active latents; k is {k!r}")
        self._k = k
        return "topk"

    def _check_options(self) -> None:
        options = self._options
        self._normalisation = options.get("normalize_activations") or "none"
        if self._normalisation not in ("none", "layer_norm", "constant_norm_rescale"):
            raise self._refused(f"has normalize_activations={self._normalisation!r}")
        if options.get("hook_head_index") is not None:
            raise self._refused("reads a single attention head")
        scales = [name for name in ("finetuning_scaling_factor", "scaling_factor") if self._checkpoint.name_of(name)]
        if any((self._checkpoint.tensor(name) != 1).any() for name in scales):
            raise self._refused(f"has a {scales[0]}")
        self._subtracts = bool(options.get("apply_b_dec_to_input", True)) and not self._transcodes
        self._rescales = bool(options.get("rescale_acts_by_decoder_norm", False))

    def _place(self, option: str, architecture: Architecture) -> tuple[int, Place]:
        hook = self._options.get(option)
        if not isinstance(hook, str):
            raise HarnessError(f"{self._name}: {CONFIG} has no {option}; add the hook that the dictionary belongs to")
        found = place_of(hook, architecture)
        if found is None or (found[1].of_mlp and architecture.experts is not None):
            raise self._refused(f"has {option}={hook!r}")
        return found

    def _find_width(self, d_model: int) -> int:
        """Return the number of latents; check that all tensors fit each other and the model."""
        named = self._checkpoint.names
        stored = {name: self._checkpoint.shape(name) for name in named}
        if len(stored.get("W_enc", ())) != 2:
            raise HarnessError(f"{self._name}: {WEIGHTS} has no matrix W_enc, only {', '.join(named)}")
        width = stored["W_enc"][1]
        expected = {"W_enc": (d_model, width), "b_enc": (width,), "W_dec": (width, d_model), "b_dec": (d_model,)}
        if self._function == "jumprelu":
            if self._threshold is None:
                raise HarnessError(f"{self._name}: {WEIGHTS} has no threshold, which its architecture needs")
            expected[self._threshold] = () if self._threshold == "topk_threshold" else (width,)
        for name, shape in expected.items():
            if name not in stored:
                raise HarnessError(f"{self._name}: {WEIGHTS} has no tensor {name}")
            if stored[name] != shape:
                raise HarnessError(
                    f"{self._name}: the tensor {name} has shape {stored[name]}, not {shape}: it belongs to another "
                    f"model than one with d_model {d_model}, or is damaged"
                )
        if self._function == "topk" and self._k > width:
            raise HarnessError(f"{self._name}: k is {self._k}, but there are only {width} latents")
        return width

    @property
    def _threshold(self) -> str | None:
        return self._checkpoint.name_of("threshold", "log_threshold", "topk_threshold")

    @cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of its config and weights."""
        return [content_hash(path) for path in self.paths]

    def about(self, architecture: Architecture) -> dict[str, Any]:
        """Return what a manifest says of it.

        ``hook`` and ``hook_out`` are names in TransformerLens; ``module`` is the module of transformers' model with a
        head that the dictionary belongs to, None for the embedding; ``set`` is the kind of dictionary as Neuronpedia
        names source sets.
        """
        places = {"hook": self.reads, "hook_out": self.writes}
        hooks = {name: f"blocks.{self.layer}.{place.value}" for name, place in places.items()}
        number = self.layer - (self.reads is Place.BEFORE)  # the input of a layer is the output of the one below
        module = None if number < 0 else f"{architecture.base_model}.{architecture.module(number)}"
        return {
            **hooks,
            "module": f"{module}.mlp" if self.reads.of_mlp else module,
            "set": "transcoder" if self._transcodes else "mlp" if self.reads.of_mlp else "res",
            "latents": self.width,
            "activation": f"topk {self._k}" if self._function == "topk" else self._function,
            "sha256": self.hashes[1],
        }

    def vectors(self, indices: Sequence[int], kind: VectorKind) -> Tensor:
        """Return encoder columns (``in``) or decoder rows (``out``) of latents: (len(indices), d_model), float32."""
        if kind is VectorKind.OUT:
            rows = self._checkpoint.rows("W_dec", indices)
            return rows / rows.norm(dim=1, keepdim=True) if self._rescales else rows
        columns = self._columns(indices)
        return columns if self._gain is None else columns / self._gain

    def _columns(self, indices: Sequence[int]) -> Tensor:
        columns = self._checkpoint.columns("W_enc", indices)
        return columns * self._checkpoint.rows("W_dec", indices).norm(dim=1)[:, None] if self._rescales else columns

    @cached_property
    def _every(self) -> tuple[Tensor, Tensor]:
        """Columns (d_model, width) and biases of all latents, kept: each batch of interventions needs them."""
        columns, bias = self._checkpoint.tensor("W_enc"), self._checkpoint.tensor("b_enc")
        if self._rescales:
            norms = self._checkpoint.tensor("W_dec").norm(dim=1)
            columns, bias = columns * norms, bias * norms
        return columns, bias

    def encoder(self, indices: Sequence[int], device: str) -> Encoder:
        """Return what computes the activations of latents. With topk it holds the columns of all latents."""
        if self._function == "topk":
            columns, bias = self._every
            chosen: list[int] | None = list(indices)
        else:
            chosen, columns = None, self._columns(indices).T
            bias = self._checkpoint.tensor("b_enc")[list(indices)]
            if self._rescales:
                bias = bias * self._checkpoint.rows("W_dec", indices).norm(dim=1)
        threshold = torch.zeros(len(indices))
        if self._function == "jumprelu":
            assert self._threshold is not None
            values = self._checkpoint.tensor(self._threshold)
            values = values.exp() if self._threshold == "log_threshold" else values
            threshold = values.clamp_min(0).expand(self.width)[list(indices)]
        centre = self._checkpoint.tensor("b_dec") if self._subtracts else torch.zeros(len(columns))
        return Encoder(
            columns.contiguous().to(device),
            bias.to(device),
            centre.to(device),
            threshold.to(device),
            normalisation=self._normalisation,
            # SAELens does not undo the normalisation of a transcoder's input in its output.
            scales_out=not self._transcodes,
            top=None if chosen is None else (self._k, torch.tensor(chosen, device=device)),
            gain=None if self._gain is None else self._gain.to(device),
        )


@dataclass(frozen=True)
class Encoder:
    """Computes the activations of n latents, in float32.

    Attributes:
        columns: (d_model, n) columns of the encoder; with ``top`` those of all latents.
        bias: (n,), or those of all latents.
        centre: (d_model,), subtracted from the hidden state.
        threshold: (n,), activations up to it are 0.
        normalisation: ``normalize_activations`` of SAELens.
        scales_out: whether what is written is scaled to the hidden state.
        top: how many of all latents are active, and the indices of the n latents; None without such a limit.
        gain: (d_model,), the norm's weight. Hidden states are divided by it before encoding; None: no division.
    """

    columns: Tensor
    bias: Tensor
    centre: Tensor
    threshold: Tensor
    normalisation: str
    scales_out: bool
    top: tuple[int, Tensor] | None
    gain: Tensor | None

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return activations (..., n) at hidden states (..., d_model), and the scale (..., 1) of what is written."""
        flat = hidden.reshape(-1, hidden.shape[-1]).float()
        if self.gain is not None:
            flat = flat / self.gain
        scale = torch.ones_like(flat[:, :1])
        if self.normalisation == "layer_norm":
            flat = flat - flat.mean(dim=1, keepdim=True)
            scale = flat.std(dim=1, keepdim=True)
            flat = flat / (scale + 1e-5)
        elif self.normalisation == "constant_norm_rescale":
            scale = flat.norm(dim=1, keepdim=True) / flat.shape[1] ** 0.5
            flat = flat / scale
        flat = flat - self.centre
        if self.top is None:
            found = flat @ self.columns + self.bias
            found = torch.where(found > self.threshold, found, 0)
        else:
            size = max(1, _TOPK_NUMBERS // len(self.bias))
            found = torch.cat([self._among_top(part, *self.top) for part in torch.split(flat, size)])
        scale = scale if self.scales_out else torch.ones_like(scale)
        return found.view(*hidden.shape[:-1], -1), scale.view(*hidden.shape[:-1], 1)

    def _among_top(self, centred: Tensor, k: int, chosen: Tensor) -> Tensor:
        before = centred @ self.columns + self.bias
        lowest = before.topk(k, dim=1).values[:, -1:]
        own = before.index_select(1, chosen)
        return torch.where(own >= lowest, own, 0).clamp_min(0)


def dictionaries_of(
    folders: Sequence[str],
    model: str,
    architecture: Architecture,
    num_layers: int,
    d_model: int,
    gain: Callable[[int], Tensor],
) -> dict[int, Dictionary]:
    """Return the dictionaries of a model by layer, ordered.

    Raises:
        HarnessError: as :class:`Dictionary`; if two belong to the same layer.
    """
    found: dict[int, Dictionary] = {}
    for folder in folders:
        dictionary = Dictionary(folder, model, architecture, num_layers, d_model, gain)
        if dictionary.layer in found:
            raise HarnessError(f"subject.sae: {folder} is a second dictionary of layer {dictionary.layer}; choose one")
        found[dictionary.layer] = dictionary
    return dict(sorted(found.items()))
