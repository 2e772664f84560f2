"""The model under study: shapes, tokenizer, weight vectors and projections, read from its files."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
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
from harness.subject.gguf import converted
from harness.subject.projection import SAMPLE, ProjectionRule, Projections
from harness.subject.quantised import dequantised, quantisation_of
from harness.subject.token_weights import TokenGroup, TokenWeighting
from harness.subject.undertrained import under_trained
from harness.subject.vocabulary import BEYOND, KEPT_FREE, NO_UTF8, SPECIAL, UNREACHABLE, groups_without_text
from harness.subject.weights import Weights

# How byte-level vocabularies spell bytes (GPT-2's table), and how SentencePiece names a byte that has no piece.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + index): byte for index, byte in enumerate(_HIDDEN)}
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")

#: Examples of each group in a census.
EXAMPLES = 12


class Subject:
    """A transformer whose neurons are described. Everything is read on demand; weights are read row by row.

    ``conf/subject/minilm.yaml`` explains the options.

    Args:
        name: name in reports; None for the first source.
        sources: locations of the model, tried in order.
        revision: revision on the hub.
        sha256: expected SHA-256 of the checkpoint or GGUF file; None to skip the check.
        architecture: names of the weights of an unknown family (see
            :func:`harness.subject.architecture.architecture_of`).
        projection: rule for the projection of each layer (see
            :class:`harness.subject.projection.ProjectionRule`, also for the next two).
        embedding_layers: for ``by_layer``: number of layers that use the embedding.
        fold_norm: whether the weight of the final norm is folded into the unembedding.
        token_weighting: weights of the tokens before the first channel.
        dtype: data type of the model when it runs on text.
        trust_remote_code: whether code from the model's repository may run.
        shape: size of the model, for plans on machines without it.
        cache: folder of models that are converted to plain weights: GGUF files and quantised checkpoints.
    """

    def __init__(
        self,
        name: str | None,
        sources: Sequence[str | Sequence[str]],
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
        cache: str = ".cache/models",
    ) -> None:
        first = next(iter(sources), "the model")
        self.name, self.shape, self._cache = name or (first if isinstance(first, str) else first[0]), shape, cache
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
            HarnessError: if no source has them, or the checkpoint has another hash.
        """
        files = locate(self._sources, self._revision)
        if files.gguf:
            folder = converted(files.gguf, Path(self._cache), self._sha256)
            return ModelFiles(str(folder), folder)
        if self._sha256 is not None:
            paths = Checkpoint(files).paths
            found = sha256(paths[0])
            if len(paths) != 1 or found != self._sha256:
                raise HarnessError(
                    f"the checkpoint of {files.reference} is not the expected one (SHA-256 {found}, expected "
                    f"{self._sha256}): choose another source, or set subject.sha256=null to accept this one"
                )
        if quantisation := quantisation_of(files):
            folder = dequantised(files, quantisation, Path(self._cache), self.loading)
            return ModelFiles(str(folder), folder)
        return files

    @cached_property
    def config(self) -> Any:
        """The model's transformers config.

        Raises:
            HarnessError: if it cannot be read.
        """
        try:
            return AutoConfig.from_pretrained(self.files.reference, **self.loading)
        except (OSError, ValueError, KeyError) as error:
            raise HarnessError(f"the config of {self.files.reference} cannot be read ({first_line(error)})") from error

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of every ``from_pretrained`` call for this model."""
        return {"revision": self._revision, "trust_remote_code": self.trust_remote_code}

    @cached_property
    def architecture(self) -> Architecture:
        """Names of the family's weights and modules.

        Raises:
            HarnessError: if the family is unknown and the config does not describe it.
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
        except Exception as error:  # each tokenizer library has its own exceptions
            raise HarnessError(
                f"the tokenizer of {self.files.reference} cannot be loaded ({first_line(error)}); "
                "the model needs its tokenizer.json"
            ) from error

    def check_tokenizer(self) -> None:
        """Check that the embedding has a row for every token that text can be encoded as.

        Special tokens may lack one: text never becomes a special token. Gemma 3's text models have such a token.

        Raises:
            HarnessError: naming the first token without a row.
        """
        rows, special = self.vocab_size, set(self.tokenizer.all_special_ids)
        special.update(token for token, added in self.tokenizer.added_tokens_decoder.items() if added.special)
        used = set(self.tokenizer.get_vocab().values()) - special | set(self.tokenizer("a").input_ids)
        stray = min((token for token in used if token >= rows), default=None)
        if stray is not None:
            raise HarnessError(
                f"the tokenizer of {self.name} has a token {self.token_text(stray)!r} with the id {stray}, but its "
                f"embedding has {rows} rows: use the tokenizer that the model was trained with"
            )

    @property
    def padding_id(self) -> int:
        """Id that fills up a batch: that of the padding token, or 0 if the embedding has no row for it."""
        given = self.tokenizer.pad_token_id
        return given if given is not None and given < self.vocab_size else 0

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's weights."""
        return Checkpoint(self.files)

    @cached_property
    def weights(self) -> Weights:
        """The model's weight vectors, embeddings and final norm."""
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
        """Experts per mixture layer without a shared one; None in dense models."""
        return self.weights.num_experts

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        return self.weights.vocab_size

    @property
    def max_tokens(self) -> int | None:
        """Longest input in tokens, special tokens included; None without a limit."""
        config = self.config.get_text_config()
        longest: int | None = getattr(config, "max_position_embeddings", None)
        if longest is not None and self.architecture.positions_after_padding:
            return longest - int(config.pad_token_id) - 1
        return longest

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """Vector kinds of a neuron."""
        return self.architecture.kinds

    def neurons(self, layer: int, experts: Sequence[int | str] | None = None) -> list[Neuron]:
        """Return the neurons of a layer, ordered.

        Args:
            layer: the layer.
            experts: experts of a mixture; ``shared`` is the expert for all tokens; None for all experts.

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
        """Hash of the config, the norms of the embedding and some rows of every tensor.

        It does not depend on the location or number of the files. An edit of a few rows may go unnoticed, so shared
        stores use the hashes of the files (:mod:`harness.subject.identity`).
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
                where = "a layer" if expert is None else "an expert"
                raise HarnessError(
                    f"{where} of {self.name} has neurons 0 to {widths[expert] - 1}; "
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
        """Yield the vectors of a fixed sample of a layer's neurons, kind by kind."""
        neurons = self.neurons(layer)
        drawn = derive_rng(0, "projection", layer).choice(len(neurons), min(SAMPLE, len(neurons)), replace=False)
        indices, experts = zip(*((neurons[i].index, neurons[i].expert) for i in sorted(drawn.tolist())), strict=True)
        for kind in self.kinds:
            yield self.vectors(layer, indices, kind, experts)

    def projection(self, layer: int) -> Tensor:
        """Return the matrix that projects a layer's vectors onto the vocabulary, (d_model, V), float32."""
        return self._projections.matrix(layer)

    def projection_name(self, layer: int) -> str:
        """Return the name of the matrix that :meth:`projection` returns, for reports; W_E.T if W_U is tied to it."""
        return self._projections.name(layer)

    @lru_cache(maxsize=2)  # noqa: B019
    def token_weights(self, layer: int) -> Tensor:
        """Return the weight of each token before the first channel, (V,), float32."""
        return self._weighting.weights(self.projection(layer), self.unused_token_ids)

    def final_norm(self, vectors: Tensor) -> Tensor:
        """Apply the final norm to (N, d_model), if the model has one."""
        return self.weights.final_norm(vectors)

    @property
    def ignored_token_ids(self) -> frozenset[int]:
        """Ids that the configuration excludes, from its list and its file."""
        return self._weighting.ignored

    @cached_property
    def unused_token_ids(self) -> frozenset[int]:
        """Ids of weight 0: no text, unreachable, under-trained, or excluded by the configuration."""
        return frozenset().union(*self._unused_groups.values())

    @cached_property
    def _unused_groups(self) -> dict[str, frozenset[int]]:
        """Tokens of weight 0 by reason, each in one group; see :class:`TokenGroup`."""
        size, detect = self.vocab_size, self._weighting.detect
        groups = groups_without_text(self.tokenizer, size)
        if "undertrained" in detect:
            known = [groups[name] for name in (SPECIAL, KEPT_FREE, BEYOND, NO_UTF8, UNREACHABLE)]
            # A token that training never used may stand out in only one of the two matrices.
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
        """Return the tokens whose weight before a layer's first channel is not 1, by reason and with examples."""
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
        """Return a vocabulary entry as readable text: word pieces keep their ``##``, spaces are spaces."""
        if token >= len(self.tokenizer):
            return f"<{token}>"
        piece = str(self.tokenizer.convert_ids_to_tokens(token))
        if self._word_pieces or token in self.tokenizer.all_special_ids:
            return piece
        if "▁" in piece:  # SentencePiece's space, which decoding a single piece would drop
            return piece.replace("▁", " ")
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def surface(self, tokens: Sequence[int]) -> list[str]:
        """Return the text of each token of a window; joined, they are the original text.

        A character that several tokens encode is part of the last one's text; the text of the others may be empty. A
        character that is cut by the window becomes the replacement character.
        """
        if not self._word_pieces:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            last = len(tokens) - 1
            return [decoder.decode(self._token_bytes(token), index == last) for index, token in enumerate(tokens)]
        texts = [self.token_text(token) for token in tokens]
        return [text[2:] if text.startswith("##") else f" {text}" for text in texts]

    @lru_cache(maxsize=1 << 16)  # noqa: B019
    def _token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token, which may start or end inside a character."""
        if token < len(self.tokenizer) and token not in self._added:
            piece = str(self.tokenizer.convert_ids_to_tokens(token))
            if self._byte_level and all(letter in _BYTES for letter in piece):
                return bytes(_BYTES[letter] for letter in piece)
            if _BYTE_PIECE.fullmatch(piece):
                return bytes([int(piece[3:5], 16)])
        return self.token_text(token).encode("utf-8", "replace")

    @cached_property
    def _byte_level(self) -> bool:
        """Whether the vocabulary encodes bytes as letters (GPT-2)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))

    @cached_property
    def _added(self) -> frozenset[int]:
        """Ids of tokens added to the trained vocabulary, which are stored as plain text."""
        return frozenset(getattr(self.tokenizer, "added_tokens_decoder", {}))

    @cached_property
    def _word_pieces(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and type(backend.model).__name__ == "WordPiece"

    def extreme_tokens(self, projected: Tensor, count: int) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
        """Return the highest and the lowest tokens of one projection, without special and unused tokens.

        Args:
            projected: (V,) values, which are converted to z-scores over the vocabulary.
            count: number of tokens per side.
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
        """Return the tokens that a neuron's weight vector, with the neuron's sign, promotes and suppresses most.

        Args:
            neuron: the neuron.
            kind: which weight vector.
            count: number of tokens per side.
            final_norm: whether to apply the final norm and the unembedding (Gur-Arieh et al. 2025, arXiv:2501.08319)
                instead of the layer's own :meth:`projection`.
        """
        vector = self.vectors(neuron.layer, [neuron.index], kind, [neuron.expert])
        vector = -vector if neuron.flips(kind) else vector
        projection = self._projections.unembedding() if final_norm else self.projection(neuron.layer)
        if final_norm:
            vector = self.final_norm(vector)
        return self.extreme_tokens((vector @ projection)[0], count)
