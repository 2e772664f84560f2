"""Alignment of neurons with tokens: correlation of activations with projections of the text's tokens.

For a neuron with the weight vector w (``in`` or ``gate``), this is Pearson's r, over the tokens t of the text, between
the activation at t and the projection w . e(t) of the token's embedding; and the same with the embedding of the token
that follows. If neither correlates, no list of tokens read from w describes what the neuron responds to.

*Tokens.* All tokens that count as evidence, of all splits, uniformly: no selection by activation. Tokens of overlapping
windows count once for each window. A token without a successor in its window has no next token.

*Embedding.* e is a row of the model's embedding, less the mean over the vocabulary; r does not depend on the mean or on
a scale. The norm before the MLP, attention and position embeddings are left out, as in a list of tokens. Where lists
are read from an untied unembedding, r still uses the embedding.

*Sign.* A positive r means that tokens in the upper tail of w's projection raise the activation. Neurons are unsigned.
At the negative sign, r of ``in`` is the same, because vector and activation both flip, and r of ``gate`` has the other
sign, because a gate does not flip (:meth:`harness.records.Neuron.flips`).

*Gated neurons.* The activation is act(gate . x) * (in . x). ``in`` gives it its sign and ``gate`` its size, so r of
``gate`` is near 0 for a neuron whose ``in`` projection is as often positive as negative where the gate is open, even if
the current token alone opens the gate. Where r of ``gate`` is not 0, it has the sign of the usual ``in``, positive for
some neurons and negative for others. A low r of ``gate`` is weaker evidence than a low r of ``in``. Without a gate,
``in`` is the only vector.

*Experts.* The activation of a neuron of an expert is 0 at tokens that are not routed to it; these tokens count.

*Control.* The same activation with the vector of another neuron of the layer. What remains of |r| there is the noise of
a finite text, and what all neurons of the layer share.

*Sums.* The sum of activation times projection equals w . sum(activation * e). So a pass keeps d_model sums for each
neuron and either token, and how often each token occurred. Neither activations nor projections of the vocabulary are
stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.records import Against, Alignment, Neuron, VectorKind
from harness.subject import Subject

#: Tokens whose projections are computed together at the end.
_TOKENS = 4096
#: Neurons whose correlations are computed together.
_NEURONS = 512
_AGAINST = (Against.CURRENT, Against.NEXT)


class TokenSums:
    """Sums over the tokens of a text: 16 bytes for each neuron and dimension, 16 for each token of the vocabulary.

    Args:
        subject: the model.
        neurons: the unsigned neurons, in the order of the activations, sorted.
        device: device of the activations.
    """

    def __init__(self, subject: Subject, neurons: Sequence[Neuron], device: str) -> None:
        self._subject, self._neurons, self._device = subject, tuple(neurons), device
        self._embedding = subject.embedding()  # on the CPU; a batch needs few of its columns
        self._centre = self._embedding.mean(dim=1, keepdim=True)
        size = len(_AGAINST)
        # Of activation times embedding (d_model, neurons), of activations and of their squares (neurons).
        self.products = torch.zeros(size, self._embedding.shape[0], len(neurons), dtype=torch.float64, device=device)
        self.activations = torch.zeros(size, len(neurons), dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.activations)
        self.counts = torch.zeros(size, self._embedding.shape[1], dtype=torch.int64)  # of each token

    @torch.inference_mode()
    def update(self, tokens: NDArray[np.integer], counted: NDArray[np.bool_], activations: Tensor) -> None:
        """Add a batch.

        Args:
            tokens: token ids (B, T).
            counted: which of them count (B, T).
            activations: (B, T, neurons).
        """
        distinct, place = np.unique(tokens[counted], return_inverse=True)
        places = np.zeros(tokens.shape, np.int64)
        places[counted] = place.ravel()
        paired = counted[:, :-1] & counted[:, 1:]
        parts = ((counted, places[counted], activations), (paired, places[:, 1:][paired], activations[:, :-1]))
        # Added up by token first: the products below then have a row for each distinct token only.
        by_token = torch.zeros(len(distinct), len(parts), len(self._neurons), device=self._device)
        for row, (mask, which, values) in enumerate(parts):
            chosen = values.flatten(0, 1) if mask.all() else values[torch.from_numpy(mask).to(self._device)]
            by_token[:, row].index_add_(0, torch.from_numpy(which).to(self._device), chosen)
            self.squares[row] += chosen.square().sum(dim=0)
            self.counts[row] += torch.from_numpy(np.bincount(distinct[which], minlength=self.counts.shape[1]))
        self.activations += by_token.sum(dim=0, dtype=torch.float64)
        embedded = self._embedded(torch.from_numpy(distinct.astype(np.int64))).to(self._device)
        products = embedded @ by_token.flatten(1)
        self.products += products.view(len(embedded), len(parts), -1).movedim(1, 0)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Return the centred embeddings of tokens, (d_model, tokens)."""
        return self._embedding.index_select(1, tokens) - self._centre

    def tensors(self) -> dict[str, Tensor]:
        """Return all sums as tensors by name."""
        return {f"alignment.{name}": value for name, value in vars(self).items() if name[0] != "_"}

    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Add the result of :meth:`tensors` of other text; the order matters only for rounding."""
        for name, value in self.tensors().items():
            value += tensors[name].to(value.device)

    def alignments(self) -> Iterator[Alignment]:
        """Yield the alignment of each neuron, with each vector that it reads with and either token."""
        columns: dict[int, list[int]] = defaultdict(list)
        for column, neuron in enumerate(self._neurons):
            columns[neuron.layer].append(column)
        for together in columns.values():
            for start in range(0, len(together), _NEURONS):
                yield from self._of(together[start : start + _NEURONS])

    def _of(self, columns: Sequence[int]) -> Iterator[Alignment]:
        """Yield the alignments of some neurons of one layer."""
        neurons = [self._neurons[column] for column in columns]
        others = [self._subject.other_neuron(neuron) for neuron in neurons]
        kinds = [kind for kind in self._subject.kinds if kind is not VectorKind.OUT]
        found: dict[tuple[VectorKind, bool], tuple[Tensor, ...]] = {}
        for kind in kinds:
            for control in (False, True):
                of = [
                    other if control and other is not None else own for own, other in zip(neurons, others, strict=True)
                ]
                vectors = self._subject.vectors(
                    of[0].layer, [neuron.index for neuron in of], kind, [neuron.expert for neuron in of]
                )
                found[kind, control] = self._correlations(columns, vectors)
        for position, neuron in enumerate(neurons):
            for kind in kinds:
                for row, against in enumerate(_AGAINST):
                    own, other = (_number(found[kind, control][row][position]) for control in (False, True))
                    tokens = int(self.counts[row].sum())
                    yield Alignment(neuron, kind, against, own, None if others[position] is None else other, tokens)

    def _correlations(self, columns: Sequence[int], vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the correlations of neurons with the current and the next token, (neurons,) each, NaN if undefined."""
        seen = self.counts.sum(dim=0).nonzero().flatten()
        first = torch.zeros(len(_AGAINST), len(columns), dtype=torch.float64)
        second = torch.zeros_like(first)
        for tokens in torch.split(seen, _TOKENS):
            projected = (vectors @ self._embedded(tokens)).double().T
            counts = self.counts[:, tokens].double()
            first += counts @ projected
            second += counts @ projected.square()
        total = self.counts.sum(dim=1, keepdim=True).double()
        products = (self.products[:, :, list(columns)].cpu() * vectors.T.double()).sum(dim=1)
        activations, squares = (sums[:, list(columns)].cpu() for sums in (self.activations, self.squares))
        covariance = products - first * activations / total
        variances = squares - activations.square() / total, second - first.square() / total
        # Rounding leaves a small variance to what is constant.
        constant = (variances[0] <= 1e-6 * squares) | (variances[1] <= 1e-6 * second)
        r = covariance / (variances[0] * variances[1]).sqrt()
        return tuple(torch.where(constant, torch.nan, r).clamp(-1, 1))


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else round(float(value), 6)
