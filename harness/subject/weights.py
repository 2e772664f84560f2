"""A model's weights by meaning: vectors of neurons, embeddings and the final norm, read from its checkpoint."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Place:
    """Where neurons lie in a tensor.

    Attributes:
        name: of the tensor.
        page: which of its matrices, if it holds one for each expert.
        fused: whether it holds gate, then in.
    """

    name: str
    page: int | None
    fused: bool


class Weights:
    """The weights of one model.

    Args:
        name: what messages call the model.
        config: transformers' config of its language model.
        architecture: where its family keeps them.
        checkpoint: its tensors.

    Raises, on reading:
        HarnessError: if the checkpoint lacks a tensor that the architecture names, or one has another shape.
    """

    def __init__(self, name: str, config: Any, architecture: Architecture, checkpoint: Checkpoint) -> None:
        self.name, self.architecture, self.checkpoint = name, architecture, checkpoint
        self._config = config
        self.num_layers: int = int(self._option(architecture.num_layers))
        self.d_model: int = int(self._option(architecture.d_model))
        self._widths: dict[int, dict[int | None, int]] = {}

    def _option(self, name: str) -> Any:
        if not hasattr(self._config, name):
            raise HarnessError(
                f"the config of {self.name} has no option {name!r}, which its architecture counts on: "
                "correct subject.architecture"
            )
        return getattr(self._config, name)

    def width(self, mlp: MLP) -> int:
        """Return the neurons of an MLP."""
        width = self._option(mlp.width)
        return 4 * self.d_model if width is None else int(width)

    @property
    def num_experts(self) -> int | None:
        """Experts of a layer that is a mixture, a shared one aside; none in dense models."""
        return None if self.architecture.experts is None else int(self._option(self.architecture.num_experts))

    def widths(self, layer: int) -> dict[int | None, int]:
        """Return the neurons of each MLP of a layer, by expert; none is the MLP that all tokens pass."""
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
            self.architecture.mlp is None or self._place(layer, 0, experts, VectorKind.OUT) is not None
        )

    def mlp(self, layer: int, expert: int | None) -> MLP:
        """Return the names of one MLP of a layer."""
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
        """Read weight vectors of neurons that exist: (len(indices), d_model), float32."""
        places: dict[int | None, list[int]] = defaultdict(list)
        for place, expert in enumerate(experts or [None] * len(indices)):
            places[expert].append(place)
        vectors = torch.empty(len(indices), self.d_model)
        for expert, members in places.items():
            vectors[members] = self._read(layer, expert, kind, [indices[place] for place in members])
        return vectors

    def _read(self, layer: int, expert: int | None, kind: VectorKind, indices: Sequence[int]) -> Tensor:
        mlp = self.mlp(layer, expert)
        place = self._place(layer, expert, mlp, kind)
        if place is None:
            where = self.architecture.layer.format(layer=layer)
            raise self._lacks(*(f"{where}.{name.format(expert=expert)}" for name in mlp.vectors[kind]))
        width = self.width(mlp)
        by_columns = (kind is VectorKind.OUT) != self.architecture.transposed
        neurons = 2 * width if place.fused else width
        self._check_shape(place, (self.d_model, neurons) if by_columns else (neurons, self.d_model))
        start = width if place.fused and kind is VectorKind.IN else 0
        read = self.checkpoint.columns if by_columns else self.checkpoint.rows
        return read(place.name, [start + index for index in indices], place.page)

    def _place(self, layer: int, expert: int | None, mlp: MLP, kind: VectorKind) -> Place | None:
        where = f"{self._prefix}{self.architecture.layer.format(layer=layer)}."
        for name in mlp.vectors[kind]:
            full = self.checkpoint.name_of(where + name.format(expert=expert))
            if full is not None:
                return Place(full, None if "{expert}" in name else expert, mlp.fuses(name))
        return None

    def _check_shape(self, place: Place, expected: tuple[int, ...]) -> None:
        if place.page is not None:
            expected = (self.num_experts or 0, *expected)
        found = self.checkpoint.shape(place.name)
        if found != expected:
            raise HarnessError(
                f"the tensor {place.name} of {self.name} has shape {found}, not {expected}: correct "
                "subject.architecture (the width, whether weights are transposed, whether gate and in share a tensor)"
            )

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.checkpoint.shape(self._embedding_name)[0]

    @property
    def has_unembedding(self) -> bool:
        """Whether the matrix of :meth:`unembedding` is another than that of :meth:`embedding`."""
        return self._unembedding_name is not None or self._mapped(self.architecture.unembedding_map) is not None

    def embedding(self) -> Tensor:
        """Read W_E.T, led into the residual stream where the model is narrower there: (d_model, V), float32."""
        matrix = self.checkpoint.tensor(self._embedding_name).T
        name = self._mapped(self.architecture.embedding_map)
        return self._in_stream(matrix if name is None else self.checkpoint.tensor(name) @ matrix, self._embedding_name)

    def unembedding(self) -> Tensor:
        """Read W_U, from the residual stream on; that is W_E.T if the two are tied or there is no head: likewise."""
        if not self.has_unembedding:
            return self.embedding()
        name = self._unembedding_name or self._embedding_name
        matrix = self.checkpoint.tensor(name).T
        mapped = self._mapped(self.architecture.unembedding_map)
        return self._in_stream(matrix if mapped is None else self.checkpoint.tensor(mapped).T @ matrix, name)

    def embedding_norms(self) -> Tensor:
        """Return the norm of each row of the embedding as it is stored, (V,)."""
        norms: Tensor = self.checkpoint.tensor(self._embedding_name).norm(dim=1)
        return norms

    def _in_stream(self, matrix: Tensor, name: str) -> Tensor:
        if matrix.shape[0] != self.d_model:
            raise HarnessError(
                f"the tensor {name} of {self.name} leads to {matrix.shape[0]} dimensions, not to the {self.d_model} of "
                "the residual stream: name the matrix between them (subject.architecture.embedding_map, "
                "unembedding_map)"
            )
        return matrix.contiguous()

    @property
    def has_final_norm(self) -> bool:
        """Whether there is a norm before the unembedding."""
        condition = self.architecture.final_norm_if
        return self.architecture.final_norm is not None and (condition is None or bool(self._option(condition)))

    def norm_weight(self) -> Tensor:
        """Read the weight of the final norm, as it is multiplied with: (d_model,)."""
        name = f"{self.architecture.final_norm}.weight"
        found = self.checkpoint.name_of(self._prefix + name)
        if found is None:
            raise self._lacks(name)
        return self.checkpoint.tensor(found) + self.architecture.norm_offset

    def final_norm(self, vectors: Tensor) -> Tensor:
        """Apply the final norm to (N, d_model), where the model has one."""
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
        return None if name is None else self.checkpoint.name_of(self._prefix + name)

    @cached_property
    def _embedding_name(self) -> str:
        wanted = self.architecture.embedding
        # The shortest: other parts of a model that reads more than text may embed as well.
        found = sorted((n for n in self.checkpoint.names if f".{n}".endswith(f".{wanted}")), key=lambda n: (len(n), n))
        if not found:
            raise self._lacks(wanted)
        return found[0]

    @cached_property
    def _prefix(self) -> str:
        """What this checkpoint puts before the base model's names."""
        return self._embedding_name.removesuffix(self.architecture.embedding)

    @cached_property
    def _unembedding_name(self) -> str | None:
        return self.checkpoint.name_of(*self.architecture.unembedding)

    def _lacks(self, *names: str) -> HarnessError:
        return HarnessError(
            f"the checkpoint of {self.name} has no tensor {' or '.join(names)}, which its architecture names; "
            "if the family differs from what subject.architecture says, correct that"
        )
