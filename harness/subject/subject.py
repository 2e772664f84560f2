"""The model under study, as far as its files tell: shapes, tokenizer, weight vectors, projections."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from harness.errors import HarnessError
from harness.records import Neuron, ScoredToken, VectorKind
from harness.seeds import derive_rng
from harness.subject.architecture import Architecture, architecture_of
from harness.subject.checkpoint import Checkpoint
from harness.subject.files import ModelFiles, first_line, locate, sha256
from harness.subject.projection import SAMPLE, ProjectionRule, Projections
from harness.subject.token_weights import TokenGroup, TokenWeighting
from harness.subject.undertrained import under_trained
from harness.subject.vocabulary import BEYOND, KEPT_FREE, NO_UTF8, UNREACHABLE, groups_without_text
from harness.subject.weights import Weights

# How byte-level vocabularies spell bytes (GPT-2's table), and how SentencePiece names a byte that has no piece.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + place): byte for place, byte in enumerate(_HIDDEN)}
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

#: Tokens that stand for their group in a census.
EXAMPLES = 12


class Subject:
    """A transformer whose neurons are described. Nothing is read before it is asked for; weights are read row by row.

    Args:
        name: what reports call it; none for the first of its sources.
        sources: where it may be, tried in order: ``package:NAME/FOLDER``, a local folder, or a hub name.
        revision: hub revision.
        sha256: expected SHA-256 of a checkpoint that is a single file; none to skip the check.
        architecture: where a family that this project does not know keeps its neurons (see
            :func:`harness.subject.architecture.architecture_of`); none for the families that it knows.
        projection: what vectors are projected onto: ``unembedding``, ``embedding``, ``by_layer`` or ``auto`` (see
            :class:`harness.subject.projection.ProjectionRule`, also for the next two).
        embedding_layers: with ``by_layer``, how many layers take the embedding. [R] uses 13 for Llama-3.1-8B.
        fold_norm: whether the unembedding's rows are multiplied with the weight of the final norm.
        token_weighting: weights of the tokens before the first channel.
        dtype: of the model when it runs on text: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        trust_remote_code: whether code from the model's repository may run here.
        shape: how large the model is, for plans made where it is not; nothing else looks at it.
    """

    def __init__(
        self,
        name: str | None,
        sources: Sequence[str],
        revision: str | None = None,
        sha256: str | None = None,
        architecture: Architecture | Mapping[str, Any] | str | None = None,
        projection: str = "unembedding",
        embedding_layers: int | None = None,
        fold_norm: bool = False,
        token_weighting: TokenWeighting | Mapping[str, Any] | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        shape: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.shape = name or next(iter(sources), "the model"), shape
        self._sources, self._revision, self._sha256 = tuple(sources), revision, sha256
        self._architecture = architecture
        self._rule = ProjectionRule(projection, embedding_layers, fold_norm)
        self._weighting = (
            token_weighting
            if isinstance(token_weighting, TokenWeighting)
            else TokenWeighting(**(token_weighting or {}))
        )
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code

    @cached_property
    def files(self) -> ModelFiles:
        """The model's files.

        Raises:
            HarnessError: if no source has them, or the checkpoint is not the expected one.
        """
        files = locate(self._sources, self._revision)
        if self._sha256 is not None:
            paths = Checkpoint(files).paths
            found = sha256(paths[0])
            if len(paths) != 1 or found != self._sha256:
                raise HarnessError(
                    f"the checkpoint of {files.reference} is not the expected one (SHA-256 {found}, expected "
                    f"{self._sha256}): take it from another source, or set subject.sha256=null if you mean this one"
                )
        return files

    @cached_property
    def config(self) -> Any:
        """The model's transformers config.

        Raises:
            HarnessError: if it cannot be read.
        """
        try:
            return AutoConfig.from_pretrained(self.files.reference, **self.loading)
        except (OSError, ValueError) as error:
            raise HarnessError(f"the config of {self.files.reference} cannot be read ({first_line(error)})") from error

    @property
    def loading(self) -> dict[str, Any]:
        """What every ``from_pretrained`` of this model is called with."""
        return {"revision": self._revision, "trust_remote_code": self.trust_remote_code}

    @cached_property
    def architecture(self) -> Architecture:
        """Where the family keeps its neurons.

        Raises:
            HarnessError: if this project does not know the family, and the user has not said it.
        """
        return architecture_of(self.config.model_type, self._architecture)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer.

        Raises:
            HarnessError: if it cannot be loaded.
        """
        try:
            return AutoTokenizer.from_pretrained(self.files.reference, **self.loading)
        except Exception as error:  # each tokenizer library raises classes of its own
            raise HarnessError(
                f"the tokenizer of {self.files.reference} cannot be loaded ({first_line(error)}); "
                "the model needs its tokenizer.json"
            ) from error

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's weights."""
        return Checkpoint(self.files)

    @cached_property
    def weights(self) -> Weights:
        """The model's weights by meaning."""
        return Weights(self.name, self.config.get_text_config(), self.architecture, self.checkpoint)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.weights.num_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weights.d_model

    @property
    def d_mlp(self) -> int:
        """Neurons per layer; in mixtures of experts, per expert."""
        mlp = self.architecture.experts or self.architecture.mlp
        assert mlp is not None
        return self.weights.width(mlp)

    @property
    def num_experts(self) -> int | None:
        """Experts of a layer that mixes them, a shared one aside; none in dense models."""
        return self.weights.num_experts

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        return self.weights.vocab_size

    @property
    def max_tokens(self) -> int | None:
        """Tokens that the model reads at once, special ones included, if there is a limit."""
        config = self.config.get_text_config()
        longest: int | None = getattr(config, "max_position_embeddings", None)
        if longest is not None and self.architecture.positions_after_padding:
            return longest - int(config.pad_token_id) - 1
        return longest

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """The vector kinds a neuron of this model has."""
        return self.architecture.kinds

    def neurons(self, layer: int, experts: Sequence[int | str] | None = None) -> list[Neuron]:
        """Return the neurons of a layer, ordered.

        Args:
            layer: the layer.
            experts: in a mixture, only those of these experts; ``shared`` is the one that all tokens share.

        Raises:
            HarnessError: if the layer or an expert does not exist.
        """
        self.check(layer, [], [])
        widths = self.weights.widths(layer)
        if experts is not None:
            chosen = {None if expert == "shared" else expert for expert in experts}
            for expert in chosen:
                if expert not in widths or len(widths) == 1:
                    raise HarnessError(
                        f"layer {layer} of {self.name} has {self._experts_of(layer)}; there is no expert "
                        f"{'shared' if expert is None else expert} (neurons.experts)"
                    )
            widths = {expert: width for expert, width in widths.items() if expert in chosen}
        return sorted(Neuron(layer, index, expert) for expert, width in widths.items() for index in range(width))

    def _experts_of(self, layer: int) -> str:
        widths = self.weights.widths(layer)
        if len(widths) == 1:
            return "no experts"
        return f"experts 0 to {max(expert for expert in widths if expert is not None)}" + (
            " and a shared one" if None in widths else ""
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash that changes when the model does: of its config, its embedding's norms and some rows of every tensor.

        It is the same wherever the files lie, and however many there are. That a few single rows were edited, it need
        not tell; what is stored for several runs goes by the hash of whole files.
        """
        digest = hashlib.sha256(self.config.to_json_string().encode())
        for what, content in self.checkpoint.sample():
            digest.update(what.encode())
            digest.update(content)
        digest.update(self.weights.embedding_norms().numpy().tobytes())
        return digest.hexdigest()[:16]

    def vectors(
        self, layer: int, indices: Sequence[int], kind: VectorKind, experts: Sequence[int | None] | None = None
    ) -> Tensor:
        """Read weight vectors of some neurons of a layer.

        Args:
            layer: the layer.
            indices: the neurons.
            kind: which of their vectors.
            experts: the expert of each neuron, in layers that mix experts; none: none has one.

        Returns:
            (len(indices), d_model), float32.

        Raises:
            HarnessError: if the layer, a neuron or the kind does not exist, or the weights are damaged.
        """
        self.check(layer, indices, [kind], experts)
        return self.weights.vectors(layer, indices, kind, experts)

    def check(
        self,
        layer: int,
        indices: Sequence[int],
        kinds: Sequence[VectorKind],
        experts: Sequence[int | None] | None = None,
    ) -> None:
        """Check that neurons and vector kinds exist.

        Raises:
            HarnessError: naming the first that does not.
        """
        if not 0 <= layer < self.num_layers:
            raise HarnessError(
                f"{self.name} has layers 0 to {self.num_layers - 1}; there is no layer {layer} (neurons.layers)"
            )
        widths = self.weights.widths(layer) if indices else {}
        for index, expert in zip(indices, experts or [None] * len(indices), strict=True):
            if expert not in widths:
                raise HarnessError(
                    f"layer {layer} of {self.name} has {self._experts_of(layer)}; there is no neuron "
                    f"{Neuron(layer, index, expert)} (neurons.experts)"
                )
            if not 0 <= index < widths[expert]:
                place = "a layer" if expert is None else "an expert"
                raise HarnessError(
                    f"{place} of {self.name} has neurons 0 to {widths[expert] - 1}; "
                    f"there is no neuron {index} (neurons.indices)"
                )
        for kind in kinds:
            if kind not in self.kinds:
                raise HarnessError(
                    f"the MLP of {self.name} is not gated and has no {kind.value!r} vector; "
                    f"choose from {', '.join(self.kinds)} (neurons.kinds)"
                )

    @cached_property
    def _projections(self) -> Projections:
        return Projections(
            self.weights,
            self._rule,
            self._sample,
            lambda matrix: self._weighting.weights(matrix, self.unused_token_ids),
        )

    def _sample(self, layer: int) -> Iterator[Tensor]:
        """Yield the vectors of some neurons of a layer, always the same, kind by kind."""
        neurons = self.neurons(layer)
        drawn = derive_rng(0, "projection", layer).choice(len(neurons), min(SAMPLE, len(neurons)), replace=False)
        indices, experts = zip(*((neurons[i].index, neurons[i].expert) for i in sorted(drawn.tolist())), strict=True)
        for kind in self.kinds:
            yield self.vectors(layer, indices, kind, experts)

    def projection(self, layer: int) -> Tensor:
        """Return the matrix onto which a layer's vectors are projected, (d_model, V), float32."""
        return self._projections.matrix(layer)

    def projection_name(self, layer: int) -> str:
        """Say which matrix :meth:`projection` returns, for reports: W_U, W_E.T, or one with the final norm folded in.

        Where the two are tied, W_E.T.
        """
        return self._projections.name(layer)

    @lru_cache(maxsize=2)  # noqa: B019
    def token_weights(self, layer: int) -> Tensor:
        """Return the weight of each token before the first channel, (V,), float32."""
        return self._weighting.weights(self.projection(layer), self.unused_token_ids)

    def final_norm(self, vectors: Tensor) -> Tensor:
        """Apply the norm before the unembedding to (N, d_model), where the model has one."""
        return self.weights.final_norm(vectors)

    @property
    def ignored_token_ids(self) -> frozenset[int]:
        """Ids that the configuration leaves out, of its list and of its file."""
        return self._weighting.ignored

    @cached_property
    def unused_token_ids(self) -> frozenset[int]:
        """Ids of weight 0: no text, unreachable, under-trained, or left out by the configuration."""
        return frozenset().union(*self._unused_groups.values())

    @cached_property
    def _unused_groups(self) -> dict[str, frozenset[int]]:
        """The tokens of weight 0 by the reason, each in one group; see :class:`TokenGroup`."""
        size, detect = self.vocab_size, self._weighting.detect
        groups = groups_without_text(self.tokenizer, size)
        if "undertrained" in detect:
            known = [groups[name] for name in (KEPT_FREE, BEYOND, NO_UTF8, UNREACHABLE)]
            # A token that training did not show lies with the unused ones in every matrix, and stands out in one more.
            matrices = [self._projections.unembedding().T]
            if self.weights.has_unembedding:
                matrices.append(self.weights.embedding().T)
            groups["under-trained"] = frozenset().union(*(under_trained(matrix, known) for matrix in matrices))
        if "unreachable" not in detect:
            groups[UNREACHABLE] = frozenset()
        groups["ignored"] = self._weighting.ignored
        seen: set[int] = set()
        for name, tokens in groups.items():
            groups[name] = tokens - seen
            seen |= tokens
        return groups

    def token_census(self, layer: int) -> tuple[TokenGroup, ...]:
        """Return which tokens do not weigh 1 before the first channel of a layer, by the reason and with examples."""
        weights = self.token_weights(layer)
        groups = {name: sorted(tokens) for name, tokens in self._unused_groups.items()}
        groups["high norm"] = sorted(set((weights != 1).nonzero().flatten().tolist()) - self.unused_token_ids)
        return tuple(
            TokenGroup(
                name,
                round(float(weights[tokens[0]]), 6),
                len(tokens),
                tuple(map(self.token_text, tokens[:: -(-len(tokens) // EXAMPLES)])),
            )
            for name, tokens in groups.items()
            if tokens
        )

    @lru_cache(maxsize=1 << 16)  # noqa: B019
    def token_text(self, token: int) -> str:
        """Return a vocabulary entry as people read it: word pieces keep their ``##``, spaces are spaces."""
        if token >= len(self.tokenizer):
            return f"<{token}>"
        piece = str(self.tokenizer.convert_ids_to_tokens(token))
        if self._word_pieces or token in self.tokenizer.all_special_ids:
            return piece
        if "▁" in piece:  # SentencePiece's space; decoding a piece alone would drop it
            return piece.replace("▁", " ")
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def surface(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each token of a window so that, joined, they read as the text did.

        A character that several tokens make up stands whole at the last of them; the others' own text may be empty.
        One of which a part is missing, before the window or behind it, is shown as the replacement character.
        """
        if not self._word_pieces:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            last = len(tokens) - 1
            return [decoder.decode(self._token_bytes(token), at == last) for at, token in enumerate(tokens)]
        texts = [self.token_text(token) for token in tokens]
        return [text[2:] if text.startswith("##") else f" {text}" for text in texts]

    @lru_cache(maxsize=1 << 16)  # noqa: B019
    def _token_bytes(self, token: int) -> bytes:
        """Return what a token stands for in UTF-8, which may begin or end inside a character."""
        if token < len(self.tokenizer) and token not in self._added:
            piece = str(self.tokenizer.convert_ids_to_tokens(token))
            if self._byte_level and all(letter in _BYTES for letter in piece):
                return bytes(_BYTES[letter] for letter in piece)
            if _BYTE_PIECE.fullmatch(piece):
                return bytes([int(piece[3:5], 16)])
        return self.token_text(token).encode("utf-8", "replace")

    @cached_property
    def _byte_level(self) -> bool:
        """Whether the vocabulary spells bytes as letters, as GPT-2's does."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))

    @cached_property
    def _added(self) -> frozenset[int]:
        """Ids of the tokens that were added to the trained vocabulary: they are spelt as the text is."""
        return frozenset(getattr(self.tokenizer, "added_tokens_decoder", {}))

    @cached_property
    def _word_pieces(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and type(backend.model).__name__ == "WordPiece"

    def extreme_tokens(self, projected: Tensor, count: int) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
        """Return the highest and the lowest tokens of one projection, special and unused ones left out.

        Args:
            projected: (V,) values; they are turned into z-scores over the vocabulary.
            count: how many of each.
        """
        z = (projected - projected.mean()) / projected.std(correction=0).clamp_min(1e-12)
        kept = z.clone()
        hidden = sorted(self.unused_token_ids)
        count = min(count, len(kept) - len(hidden))
        kept[hidden] = -torch.inf
        high = torch.topk(kept, count)
        kept[hidden] = torch.inf
        low = torch.topk(kept, count, largest=False)
        return self._scored(high.indices, z), self._scored(low.indices, z)

    def _scored(self, indices: Tensor, z: Tensor) -> tuple[ScoredToken, ...]:
        return tuple(ScoredToken(self.token_text(i), round(float(z[i]), 3)) for i in indices.tolist())

    def vocabulary_tokens(
        self, neuron: Neuron, kind: VectorKind, count: int, *, final_norm: bool = False
    ) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
        """Return the tokens that a neuron's weight vector, at the neuron's sign, promotes most and suppresses most.

        Args:
            neuron: the neuron.
            kind: which weight vector.
            count: tokens per side.
            final_norm: whether to look as the model's own output does ([O], arXiv:2501.08319): the final norm applied
                to the vector, and the unembedding at every layer; if not, through the layer's own :meth:`projection`.
        """
        vector = self.vectors(neuron.layer, [neuron.index], kind, [neuron.expert])
        vector = -vector if neuron.flips(kind) else vector
        projection = self._projections.unembedding() if final_norm else self.projection(neuron.layer)
        if final_norm:
            vector = self.final_norm(vector)
        return self.extreme_tokens((vector @ projection)[0], count)
