"""The matrix that projects a layer's vectors onto the vocabulary: the unembedding or the embedding."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from harness.errors import HarnessError
from harness.validation import STRICT, CountOrZero

if TYPE_CHECKING:
    from torch import Tensor

    from harness.subject.weights import Weights

#: Neurons of a layer that decide in ``auto``.
SAMPLE = 64


class Rule(enum.StrEnum):
    """How the matrix is chosen."""

    UNEMBEDDING = "unembedding"
    EMBEDDING = "embedding"
    BY_LAYER = "by_layer"
    AUTO = "auto"


@dataclass(frozen=True, config=STRICT)
class ProjectionRule:
    """Which matrix projects the vectors of each layer.

    Source of ``by_layer``: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005, who project layers 0 to 12 of Llama-3.1-8B
    onto its embedding. They do not fold the norm.

    Attributes:
        projection: ``unembedding`` (W_U, or W_E.T if the model ties the two or has no head), ``embedding`` (W_E.T),
            ``by_layer``, or ``auto`` (the better :func:`alignment` in each layer, W_U if equal).
        embedding_layers: for ``by_layer``: layers below this number use the embedding, the others the unembedding.
        fold_norm: whether the rows of the unembedding are multiplied by the weight of the final norm.
    """

    projection: Rule = Rule.UNEMBEDDING
    embedding_layers: CountOrZero | None = None
    fold_norm: bool = False

    def __post_init__(self) -> None:
        if self.projection == Rule.BY_LAYER and self.embedding_layers is None:
            raise ValueError(
                "projection=by_layer needs embedding_layers, the number of layers that use the "
                "embedding (13 in the publication for Llama-3.1-8B)"
            )


class Projections:
    """The projections of one model; at most two matrices are in memory.

    Args:
        weights: the model's weights.
        rule: which matrix is used.
        vectors: for ``auto``: returns batches (N, d_model) of weight vectors of a sample of a layer's neurons.
        token_weights: for ``auto``: returns the weight of each token in a projection, (V,).
    """

    def __init__(
        self,
        weights: Weights,
        rule: ProjectionRule,
        vectors: Callable[[int], Iterable[Tensor]],
        token_weights: Callable[[Tensor], Tensor],
    ) -> None:
        self._weights, self._rule = weights, rule
        self._vectors, self._token_weights = vectors, token_weights
        self._chosen: dict[int, Rule] = {}

    def matrix(self, layer: int) -> Tensor:
        """Return the matrix of a layer, (d_model, V), float32.

        Raises:
            HarnessError: if ``fold_norm`` is set and the model has no final norm.
        """
        return self._matrix(self._choice(layer), self._rule.fold_norm)

    def unembedding(self) -> Tensor:
        """Return the unembedding without the norm, (d_model, V), float32."""
        return self._matrix(Rule.UNEMBEDDING, False)

    def embedding(self) -> Tensor:
        """Return the embedding W_E.T, (d_model, V), float32."""
        return self._matrix(Rule.EMBEDDING, False)

    def name(self, layer: int) -> str:
        """Return the name of the matrix that :meth:`matrix` returns."""
        if self._choice(layer) is Rule.EMBEDDING:
            return "W_E.T"
        name = "W_U" if self._weights.has_unembedding else "W_E.T"
        return f"diag(final norm) {name}" if self._rule.fold_norm else name

    def _choice(self, layer: int) -> Rule:
        rule = Rule(self._rule.projection)
        if rule is Rule.BY_LAYER:
            assert self._rule.embedding_layers is not None
            return Rule.EMBEDDING if layer < self._rule.embedding_layers else Rule.UNEMBEDDING
        if rule is not Rule.AUTO:
            return rule
        if not self._weights.has_unembedding and not self._rule.fold_norm:
            return Rule.UNEMBEDDING  # there is only one matrix
        if layer not in self._chosen:
            embedding, unembedding = (self._alignment(layer, which) for which in (Rule.EMBEDDING, Rule.UNEMBEDDING))
            self._chosen[layer] = Rule.EMBEDDING if embedding > unembedding else Rule.UNEMBEDDING
        return self._chosen[layer]

    def _alignment(self, layer: int, which: Rule) -> float:
        matrix = self._matrix(which, self._rule.fold_norm)
        return alignment(self._vectors(layer), matrix, self._token_weights(matrix))

    def _matrix(self, which: Rule, fold: bool) -> Tensor:
        if which is Rule.UNEMBEDDING and fold:
            return self._read("folded")
        # Tied matrices share one copy.
        return self._read("unembedding" if which is Rule.UNEMBEDDING and self._weights.has_unembedding else "embedding")

    @lru_cache(maxsize=2)  # noqa: B019 - lives as long as the run
    def _read(self, name: str) -> Tensor:
        if name == "embedding":
            return self._weights.embedding()
        if name == "unembedding":
            return self._weights.unembedding()
        if not self._weights.has_final_norm:
            raise HarnessError(f"{self._weights.name} has no final norm: set subject.fold_norm=false")
        return self._weights.unembedding().mul_(self._weights.norm_weight()[:, None])


def alignment(vectors: Iterable[Tensor], projection: Tensor, token_weights: Tensor) -> float:
    """Return how well vectors align with the tokens of a projection.

    This is the population excess kurtosis of a vector's projection on the tokens of full weight, averaged over the
    vectors: a vector that encodes words has a few extreme tokens. It is invariant to scale.

    Args:
        vectors: batches of (N, d_model).
        projection: (d_model, V).
        token_weights: (V,); tokens with a weight below 1 (special, unused, of extreme norm) are excluded.
    """
    kept = projection[:, token_weights >= 1]
    total, count = 0.0, 0
    for batch in vectors:
        z = (batch @ kept).double()
        z -= z.mean(dim=1, keepdim=True)
        square = z.square_()
        total += float((square.square().mean(dim=1) / square.mean(dim=1).square() - 3).sum())
        count += len(batch)
    return total / count
