"""Weight vectors of neurons, embeddings and the final norm, read from a checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from harness.errors import HarnessError
from harness.records import VectorKind
from harness.subject.architecture import MLP, Architecture
from harness.subject.checkpoint import Checkpoint
from harness.subject.latents import dictionaries_of


@dataclass(frozen=True)
class Location:
    """Location of neurons in a tensor.

    Attributes:
        name: name of the tensor.
        page: index of the expert's matrix if the tensor has those of all experts, else None.
        fused: whether the tensor has gate followed by in.
    """

    name: str
    page: int | None
    fused: bool


class Weights:
    """The weights of one model.

    Reading raises :class:`HarnessError` if the checkpoint lacks a tensor of the architecture, or its shape differs.

    Args:
        name: name of the model in messages.
        config: transformers' config of the language model.
        architecture: names of the weights.
        checkpoint: the tensors.
        sae: folders of dictionaries.
    """

    def __init__(
        self, name: str, config: Any, architecture: Architecture, checkpoint: Checkpoint, sae: Sequence[str] = ()
    ) -> None:
        self.name, self.architecture, self.checkpoint = name, architecture, checkpoint
        self._config = config
        self.num_layers: int = int(self._option(architecture.num_layers))
        self.d_model: int = int(self._option(architecture.d_model))
        self._widths: dict[int, dict[int | None, int]] = {}
        #: Dictionaries by layer. If there are some, their latents take the place of all neurons.
        self.dictionaries = dictionaries_of(sae, name, architecture, self.num_layers, self.d_model, self.mlp_input_gain)

    def _option(self, name: str) -> Any:
        if not hasattr(self._config, name):
            raise HarnessError(
                f"the config of {self.name} has no option {name!r}, which its architecture needs: "
                "correct subject.architecture"
            )
        return getattr(self._config, name)

    def width(self, mlp: MLP) -> int:
        """Return the number of neurons of an MLP."""
        width = self._option(mlp.width)
        return 4 * self.d_model if width is None else int(width)

    @property
    def num_experts(self) -> int | None:
        """Experts per mixture layer without a shared one; None in dense models."""
        return None if self.architecture.experts is None else int(self._option(self.architecture.num_experts))

    def widths(self, layer: int) -> dict[int | None, int]:
        """Return the number of neurons of each expert in a layer; None is the MLP for all tokens, or a dictionary."""
        if self.dictionaries:
            return {None: self.dictionaries[layer].width}
        if layer not in self._widths:
            self._widths[layer] = dict(self._layer_widths(layer))
        return self._widths[layer]

    def _layer_widths(self, layer: int) -> list[tuple[int | None, int]]:
        mixture = self._is_mixture(layer)
        common = self.architecture.shared if mixture else self.architecture.mlp
        widths: list[tuple[int | None, int]] = [] if common is None else [(None, self.width(common))]
        if mixture:
            assert self.architecture.experts is not None
            width = self.width(self.architecture.experts)
            widths += [(expert, width) for expert in range(self.num_experts or 0)]
        return widths

    def _is_mixture(self, layer: int) -> bool:
        experts = self.architecture.experts
        return experts is not None and (
            self.architecture.mlp is None or self._location(layer, 0, experts, VectorKind.OUT) is not None
        )

    def mlp(self, layer: int, expert: int | None) -> MLP:
        """Return the MLP of an expert in a layer; None is the MLP for all tokens."""
        architecture = self.architecture
        if expert is not None:
            found = architecture.experts
        else:
            found = architecture.shared if self._is_mixture(layer) else architecture.mlp
        assert found is not None, "widths() knows which MLPs there are"
        return found

    def vectors(
        self, layer: int, indices: Sequence[int], kind: VectorKind, experts: Sequence[int | None] | None = None
    ) -> Tensor:
        """Return weight vectors of existing neurons: (len(indices), d_model), float32."""
        if self.dictionaries:
            return self.dictionaries[layer].vectors(indices, kind)
        positions: dict[int | None, list[int]] = defaultdict(list)
        for position, expert in enumerate(experts or [None] * len(indices)):
            positions[expert].append(position)
        vectors = torch.empty(len(indices), self.d_model)
        for expert, members in positions.items():
            vectors[members] = self._read(layer, expert, kind, [indices[position] for position in members])
        return vectors

    def _read(self, layer: int, expert: int | None, kind: VectorKind, indices: Sequence[int]) -> Tensor:
        mlp = self.mlp(layer, expert)
        location = self._location(layer, expert, mlp, kind)
        if location is None:
            where = self.architecture.layer.format(layer=layer)
            raise self._lacks(*(f"{where}.{name.format(expert=expert)}" for name in mlp.vectors[kind]))
        width = self.width(mlp)
        by_columns = (kind is VectorKind.OUT) != self.architecture.transposed
        neurons = 2 * width if location.fused else width
        self._check_shape(location, (self.d_model, neurons) if by_columns else (neurons, self.d_model))
        start = width if location.fused and kind is VectorKind.IN else 0
        read = self.checkpoint.columns if by_columns else self.checkpoint.rows
        return read(location.name, [start + index for index in indices], location.page)

    def _location(self, layer: int, expert: int | None, mlp: MLP, kind: VectorKind) -> Location | None:
        where = f"{self.prefix}{self.architecture.layer.format(layer=layer)}."
        for name in mlp.vectors[kind]:
            full = self.checkpoint.name_of(where + name.format(expert=expert))
            if full is not None:
                return Location(full, None if "{expert}" in name else expert, mlp.fuses(name))
        return None

    def _check_shape(self, location: Location, expected: tuple[int, ...]) -> None:
        if location.page is not None:
            expected = (self.num_experts or 0, *expected)
        found = self.checkpoint.shape(location.name)
        if found != expected:
            raise HarnessError(
                f"the tensor {location.name} of {self.name} has shape {found}, not {expected}: correct "
                "subject.architecture (the width, whether weights are transposed, whether gate and in share a tensor)"
            )

    @property
    def vocab_size(self) -> int:
        """Number of rows of the embedding."""
        return self.checkpoint.shape(self._embedding_name)[0]

    @property
    def has_unembedding(self) -> bool:
        """Whether :meth:`unembedding` differs from :meth:`embedding`."""
        return self._head is not None or self._mapped(self.architecture.unembedding_map) is not None

    def embedding(self) -> Tensor:
        """Return W_E.T, mapped to the residual stream if its width differs: (d_model, V), float32."""
        matrix = self.checkpoint.tensor(self._embedding_name).T
        name = self._mapped(self.architecture.embedding_map)
        return self._in_stream(matrix if name is None else self.checkpoint.tensor(name) @ matrix, self._embedding_name)

    def unembedding(self) -> Tensor:
        """Return W_U from the residual stream, W_E.T if tied or without a head: (d_model, V), float32."""
        if not self.has_unembedding:
            return self.embedding()
        name = self._head[0] if self._head else self._embedding_name
        matrix = self.checkpoint.tensor(name).T
        mapped = self._mapped(self.architecture.unembedding_map)
        return self._in_stream(matrix if mapped is None else self.checkpoint.tensor(mapped).T @ matrix, name)

    def embedding_norms(self) -> Tensor:
        """Return the norm of each row of the stored embedding, (V,)."""
        norms: Tensor = self.checkpoint.tensor(self._embedding_name).norm(dim=1)
        return norms

    def _in_stream(self, matrix: Tensor, name: str) -> Tensor:
        if matrix.shape[0] != self.d_model:
            raise HarnessError(
                f"the tensor {name} of {self.name} has {matrix.shape[0]} dimensions and the residual stream "
                f"{self.d_model}: name the matrix between them (subject.architecture.embedding_map, unembedding_map)"
            )
        return matrix.contiguous()

    @property
    def has_final_norm(self) -> bool:
        """Whether the model has a norm before the unembedding."""
        condition = self.architecture.final_norm_if
        return self.architecture.final_norm is not None and (condition is None or bool(self._option(condition)))

    def norm_weight(self) -> Tensor:
        """Return the weight of the final norm with its offset: (d_model,)."""
        name = f"{self.architecture.final_norm}.weight"
        found = self.checkpoint.name_of(self.prefix + name)
        if found is None:
            raise self._lacks(name)
        return self.checkpoint.tensor(found) + self.architecture.norm_offset

    def mlp_input_gain(self, layer: int) -> Tensor:
        """Return the weight of the RMS norm before a layer's MLP with its offset: (d_model,)."""
        name = f"{self.architecture.layer.format(layer=layer)}.{self.architecture.mlp_input_norm}.weight"
        found = self.checkpoint.name_of(self.prefix + name)
        if found is None:
            raise self._lacks(name)
        return self.checkpoint.tensor(found) + self.architecture.norm_offset

    def final_norm(self, vectors: Tensor) -> Tensor:
        """Apply the final norm to (N, d_model), if the model has one."""
        if not self.has_final_norm:
            return vectors
        given = self.architecture.norm_eps
        eps = float(self._option(given)) if isinstance(given, str) else given
        weight = self.norm_weight().to(vectors)
        if self.architecture.norm == "rms":
            return vectors * vectors.pow(2).mean(dim=-1, keepdim=True).add(eps).rsqrt() * weight
        name = self._mapped(f"{self.architecture.final_norm}.bias")
        bias = None if name is None else self.checkpoint.tensor(name).to(vectors)
        normed: Tensor = layer_norm(vectors, weight.shape, weight, bias, eps)
        return normed

    def _mapped(self, name: str | None) -> str | None:
        return None if name is None else self.checkpoint.name_of(self.prefix + name)

    @cached_property
    def _embedding_name(self) -> str:
        wanted = self.architecture.embedding
        # The shortest name: in multimodal models other parts have embeddings too.
        found = sorted((n for n in self.checkpoint.names if f".{n}".endswith(f".{wanted}")), key=lambda n: (len(n), n))
        if not found:
            raise self._lacks(wanted)
        return found[0]

    @cached_property
    def prefix(self) -> str:
        """Prefix of the base model's names in this checkpoint, such as ``model.`` or ``language_model.model.``."""
        return self._embedding_name.removesuffix(self.architecture.embedding)

    @cached_property
    def _head(self) -> tuple[str, str] | None:
        """Name of the unembedding in this checkpoint, and without the prefix of a model that wraps this one."""
        parts = self.prefix.split(".")
        for name in self.architecture.unembedding:
            # The head is part of the base model's parent, or of one further out.
            outer = (".".join([*parts[:depth], name]) for depth in reversed(range(len(parts))))
            if found := self.checkpoint.name_of(*outer):
                return found, name
        return None

    @property
    def without_wrapper(self) -> dict[str, str]:
        """How to rename the weights so that no prefix is left, as patterns and replacements."""
        base = f"{self.architecture.base}." if self.architecture.base else ""
        renamed = {f"^{re.escape(self.prefix)}": base} if self.prefix else {}
        if self._head is not None:
            found, name = self._head
            renamed[f"^{re.escape(found)}$"] = name
        return renamed

    def _lacks(self, *names: str) -> HarnessError:
        return HarnessError(
            f"the checkpoint of {self.name} has no tensor {' or '.join(names)}, which its architecture needs: "
            "if the architecture is wrong, correct subject.architecture"
        )
