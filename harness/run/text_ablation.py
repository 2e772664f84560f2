"""Effect of a neuron's channels on held-out text: its weight vector loses a channel, and its activations are compared.

Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R]) claim that removing a channel removes the neuron's response to
the channel's tokens (faithful), and that the channels together account for the neuron (complete). The text and tokens
of the published values (:mod:`harness.results.claims`) are not in our sources. The protocol here:

- *Text.* Pieces of the report split, which no describer sees. Active tokens are those with the largest 2 % of a
  neuron's absolute activations.
- *gate and in.* The input of the MLP is kept, and the neuron's activation is computed again without the channel. The
  response at a token is the activation in the direction that it had before, as a share of the mean at active tokens.
  The channel's own positions are the tokens of the text that are among its top tokens.
- *out.* The model runs again with the changed out vector. The response is the change of the logits that the neuron
  makes after its most active tokens, less the mean over the vocabulary, in the direction that it had before. The
  channel's own tokens are its top tokens.
- *Controls.* The same for a random direction as close to the vector as the channel, for the neuron's other channels,
  and for the mean embedding of the channel's top tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition.measures import directions_at_cosine, heavier_tail, without_span
from harness.evidence import draw_prompts
from harness.records import Neuron, Split, TextAblation, TextPrompt, VectorKind
from harness.run.rounding import rounded
from harness.run.setup import Setup
from harness.seeds import derive_seed
from harness.subject import CausalModel, NeuronsOnText, OutChange, read_mlps

logger = logging.getLogger(__name__)
#: Channels of a vector that are removed: the first ones.
CHANNELS = 10
_ACTIVE = 0.02  # share of the tokens that count as active
_BATCH = 16  # pieces of one forward pass
_LAYERS_AT_ONCE = 4  # layers whose inputs are in memory together
_PEAKS = 4  # most active tokens of a neuron after which logits are compared
_CONTEXT = 32  # tokens before each of them


class HeldOutText:
    """The text of a run, and its neurons on it. Models are loaded when they are first needed.

    Args:
        setup: the run; it has a corpus.
        neurons: the neurons of each layer that may be asked for.
    """

    def __init__(self, setup: Setup, neurons: Mapping[int, Sequence[Neuron]]) -> None:
        self._setup, self._neurons = setup, neurons
        self._read: dict[int, NeuronsOnText] = {}
        self._causal: CausalModel | None = None

    @cached_property
    def pieces(self) -> list[TextPrompt]:
        """The pieces of text: fewer than ``text_pieces`` if the split has no more, none if all its texts are short."""
        setup, options = self._setup, self._setup.diagnostics
        assert setup.corpus is not None
        size: dict[str, Any] = {"count": options.text_pieces, "tokens": options.text_tokens, "fewest": 0}
        seed = derive_seed(setup.seed, "text ablation")
        pieces = draw_prompts(setup.corpus, setup.subject, setup.evidence, Split.REPORT, **size, seed=seed)
        if not pieces:
            logger.warning(
                "no text of the report split has %d tokens: no channels are removed on text (diagnostics.text_tokens)",
                options.text_tokens,
            )
        return pieces

    def on_text(self, neuron: Neuron) -> tuple[NeuronsOnText, int]:
        """Return the neurons of a neuron's layer on the text, and the neuron's column."""
        layer = neuron.layer
        if layer not in self._read:
            layers = [other for other in sorted(self._neurons) if other >= layer][:_LAYERS_AT_ONCE]
            neurons = [neuron for other in layers for neuron in self._neurons[other]]
            start = self._setup.beginning
            ids = torch.tensor([[*start, *piece.tokens] for piece in self.pieces])
            device = self._setup.executor.device
            self._read = read_mlps(self._setup.subject, neurons, torch.split(ids, _BATCH), len(start), device)
        return self._read[layer], list(self._neurons[layer]).index(neuron)

    @property
    def causal(self) -> CausalModel:
        """The model with its language-model head."""
        if self._causal is None:
            self._causal = CausalModel(self._setup.subject, self._setup.executor.device)
        return self._causal

    def before(self, position: int) -> Tensor:
        """Return the tokens (1, T) up to a position of the text, at most a context's length of its piece."""
        size = len(self.pieces[0].tokens)
        piece, end = self.pieces[position // size].tokens, position % size + 1
        return torch.tensor([[*self._setup.beginning, *piece[max(0, end - _CONTEXT) : end]]])

    @cached_property
    def tokens(self) -> Tensor:
        """The token at every position, (P,)."""
        return torch.tensor([token for piece in self.pieces for token in piece.tokens])

    def close(self) -> None:
        """Free the models."""
        self._read = {}
        if self._causal is not None:
            self._causal.close()
            self._causal = None


@dataclass(frozen=True)
class Arms:
    """What is removed from a weight vector w (d_model,), as unit directions (C, d_model) each.

    Attributes:
        channel: the channels, each on the side of w.
        random: random directions with the channels' cosines.
        embedding: mean of the (centred) columns of the projection of each channel's top tokens.
        top: (C, K), the channels' top tokens.
        side: (C,), 1 if they are promoted along the channel, else -1.
    """

    channel: Tensor
    random: Tensor
    embedding: Tensor
    top: Tensor
    side: Tensor

    @classmethod
    def of(
        cls, vector: Tensor, directions: Tensor, projection: Tensor, used: Tensor, top_tokens: int, seed: int
    ) -> Arms:
        """Return the arms for a vector (d_model,) and its channels (C, d_model).

        Args:
            vector: w.
            directions: the channels.
            projection: (d_model, V).
            used: (V,) bool, the tokens to choose from.
            top_tokens: K.
            seed: of the random directions.
        """
        unit = normalize(vector, dim=0)
        channel = normalize(directions, dim=-1)
        channel = channel * torch.where(channel @ unit < 0, -1.0, 1.0)[:, None]
        side, top = heavier_tail(channel @ projection, top_tokens, used)
        embeddings = projection[:, top].mean(dim=-1).T - projection.mean(dim=1)
        random = directions_at_cosine(vector, (channel @ unit).tolist(), seed)
        return cls(channel, random, normalize(embeddings, dim=-1), top, side.squeeze(1))


def text_ablation(text: HeldOutText, neuron: Neuron, kind: VectorKind, vector: Tensor, arms: Arms) -> TextAblation:
    """Measure what a neuron loses on the text without its channels.

    Args:
        text: the text.
        neuron: one of the neurons of ``text``.
        kind: kind of the vector.
        vector: (d_model,).
        arms: what is removed.
    """
    return (_of_logits if kind is VectorKind.OUT else _of_activations)(text, neuron, kind, vector, arms)


def _of_activations(text: HeldOutText, neuron: Neuron, kind: VectorKind, vector: Tensor, arms: Arms) -> TextAblation:
    on_text, column = text.on_text(neuron)
    before = on_text.activations[:, column]
    active = before.abs() >= before.abs().quantile(1 - _ACTIVE)
    unit = before[active].abs().mean().clamp_min(1e-12)

    def left(changes: Tensor) -> Tensor:
        """Return the response (changes, P) with changes (changes, d_model) added to the vector."""
        reads = {name: values[:, column : column + 1] for name, values in on_text.before.items()}
        reads[kind] = reads[kind] + on_text.hidden @ changes.T
        activations = on_text.activate({name: values.expand(-1, len(changes)) for name, values in reads.items()})
        return (before.sign()[:, None] * activations).clamp_min(0).T / unit

    response = before.abs() / unit
    own = torch.stack([torch.isin(text.tokens.to(top.device), top) for top in arms.top])  # (C, P)
    elsewhere = active & ~own
    by_arm = [left(_removals(vector, arm)) for arm in (arms.channel, arms.random, arms.embedding)]
    every = [left(without_span(vector[None], arm[None]) - vector)[0] for arm in (arms.channel, arms.random)]
    others = by_arm[0] @ own.float().T  # (removed, C): left at the positions of each channel
    return _record(
        *(neuron, kind, own.sum(dim=1), (response * own).sum(dim=1)),
        [(values * own).sum(dim=1) for values in by_arm],
        others,
        [1 - (values * elsewhere).sum(dim=1) / (response * elsewhere).sum(dim=1) for values in by_arm[:2]],
        [1 - values[active].sum() / response[active].sum() for values in every],
    )


def _of_logits(text: HeldOutText, neuron: Neuron, kind: VectorKind, vector: Tensor, arms: Arms) -> TextAblation:
    on_text, column = text.on_text(neuron)
    activations = on_text.activations[:, column]
    removals = [_removals(vector, arm) for arm in (arms.channel, arms.random, arms.embedding)]
    every = torch.cat([without_span(vector[None], arm[None]) - vector for arm in (arms.channel, arms.random)])
    changes = torch.cat([-vector[None], *removals, every])
    given = [None, *(OutChange(neuron, change) for change in changes)]
    effects: Tensor | None = None  # (1 + changes, V): what the neuron does to the logits with the changed vector
    for position in activations.abs().topk(_PEAKS).indices.tolist():
        ids = text.before(position).expand(len(given), -1)
        logits = text.causal.logits(ids, given, last=True).float()
        found = (logits - logits[1:2]) * activations[position].sign()
        effects = found if effects is None else effects + found
    assert effects is not None
    effects = effects - effects.mean(dim=1, keepdim=True)
    full, channels = effects[0], len(arms.top)
    scale = full.std().clamp_min(1e-12)
    by_arm = effects[2 : 2 + 3 * channels].view(3, channels, -1)
    strongest = full.abs().topk(arms.top.shape[1]).indices

    def own(values: Tensor) -> Tensor:
        """Return the response (..., C) of effects (..., V) on each channel's tokens."""
        return (values[..., arms.top].mean(dim=-1) * arms.side).clamp_min(0) / scale

    def lost(values: Tensor, tokens: Tensor) -> Tensor:
        sign = full[tokens].sign()
        return 1 - (sign * values[tokens]).clamp_min(0).sum() / full[tokens].abs().sum()

    diagonal = [torch.diagonal(own(values)) for values in by_arm]
    apart = [strongest[~torch.isin(strongest, top)] for top in arms.top]
    return _record(
        *(neuron, kind, torch.full((channels,), _PEAKS), own(full)),
        diagonal,
        own(by_arm[0]),
        [torch.stack([lost(row, some) for row, some in zip(values, apart, strict=True)]) for values in by_arm[:2]],
        [lost(values, strongest) for values in effects[-2:]],
    )


def _removals(vector: Tensor, directions: Tensor) -> Tensor:
    """Return the changes (C, d_model) of a vector that remove each of its unit directions (C, d_model)."""
    return -(directions @ vector)[:, None] * directions


def _record(
    neuron: Neuron,
    kind: VectorKind,
    positions: Tensor,
    response: Tensor,
    left: Sequence[Tensor],
    others: Tensor,
    elsewhere: Sequence[Tensor],
    complete: Sequence[Tensor],
) -> TextAblation:
    apart = (others.sum(dim=0) - others.diagonal()) / (len(response) - 1)  # nan (0 / 0) for a single channel
    return TextAblation(
        neuron,
        kind,
        tuple(positions.tolist()),
        *(rounded(values) for values in (response, *left)),
        *(rounded(values, undefined=True) for values in (apart, *elsewhere, *complete)),
    )
