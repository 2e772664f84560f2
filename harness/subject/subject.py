"""The model under study: shapes, tokenizer, weight vectors and projections, read from its files."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, InstanceOf

from harness.errors import HarnessError
from harness.records import Neuron, ScoredToken, VectorKind
from harness.seeds import derive_rng
from harness.subject.architecture import Architecture, architecture_of
from harness.subject.files import ModelFiles, first_line, locate, sha256
from harness.subject.projection import SAMPLE, ProjectionRule, Projections, Rule
from harness.subject.shape import Shape
from harness.subject.token_texts import TokenTexts
from harness.subject.token_weights import TokenGroup, TokenWeighting
from harness.subject.vocabulary import BEYOND, KEPT_FREE, NO_UTF8, SPECIAL, UNREACHABLE, groups_without_text
from harness.validation import CountOrZero, OneOrMore, validated

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from harness.subject.checkpoint import Checkpoint
    from harness.subject.weights import Weights

#: Examples of each group in a census.
EXAMPLES = 12


class Subject:
    """A transformer whose neurons are described. Everything is read on demand; weights are read row by row.

    PyTorch and transformers are imported when something is read, so that a mistake in the options is found before.

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
        shuffled: whether the weights are shuffled within each matrix, as a control.
        sae: folders of sparse autoencoders and transcoders whose latents are described in place of the neurons, at most
            one for each layer; None for the neurons (see :mod:`harness.subject.latents`).
        shape: size of the model, for plans on machines without it.
        cache: folder of models that are converted to plain weights: GGUF files and quantised checkpoints.
    """

    @validated
    def __init__(
        self,
        name: str | None,
        sources: OneOrMore[str | Annotated[tuple[str, ...], Field(min_length=1)]],
        revision: str | None = None,
        sha256: str | None = None,
        architecture: InstanceOf[Architecture] | dict[str, Any] | str | None = None,
        projection: Rule = Rule.UNEMBEDDING,
        embedding_layers: CountOrZero | None = None,
        fold_norm: bool = False,
        token_weighting: TokenWeighting | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        trust_remote_code: bool = False,
        shuffled: bool = False,
        sae: OneOrMore[str] | None = None,
        shape: Shape | None = None,
        cache: str = ".cache/models",
    ) -> None:
        first = next(iter(sources), "the model")
        self.name, self.shape, self._cache = name or (first if isinstance(first, str) else first[0]), shape, cache
        if shuffled:
            self.name += " (shuffled weights)"
        self._sources, self._revision, self._sha256, self._shuffled = sources, revision, sha256, shuffled
        self._architecture, self._sae = architecture, sae
        self._rule = ProjectionRule(projection, embedding_layers, fold_norm)
        self._weighting = token_weighting or TokenWeighting()
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code

    def __getstate__(self) -> dict[str, Any]:
        """Return the options and the place of the files, for another process, which reads everything else itself."""
        classes = type(self).__mro__
        read = {name for one in classes for name, value in vars(one).items() if isinstance(value, cached_property)}
        files = self.files
        if files.folder is not None:
            files = ModelFiles(str(files.folder.resolve()), files.folder.resolve())
        return {name: value for name, value in vars(self).items() if name not in read} | {"files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Use the files where they were, or else, on a machine without them, search for them again."""
        vars(self).update(state)
        if self.files.folder is not None and not self.files.folder.is_dir():
            del self.files

    @cached_property
    def published(self) -> ModelFiles:
        """The model's files as its source has them. Found without PyTorch and transformers, which take long to import.

        Raises:
            HarnessError: if no source has them.
        """
        return locate(self._sources, self._revision)

    @cached_property
    def files(self) -> ModelFiles:
        """The model's files, or those of its shuffled copy, converted if the harness cannot read their format.

        Raises:
            HarnessError: as :attr:`published`; if the checkpoint has another hash, or cannot be converted.
        """
        files = self._readable()
        if not self._shuffled:
            return files
        from harness.subject.shuffled import shuffled

        folder = shuffled(files, Path(self._cache), self.loading)
        return ModelFiles(str(folder), folder)

    def _readable(self) -> ModelFiles:
        from harness.subject.checkpoint import Checkpoint
        from harness.subject.gguf import converted
        from harness.subject.quantised import dequantised, quantisation_of

        files = self.published
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
        from transformers import AutoConfig

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
        from transformers import AutoTokenizer

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
        from harness.subject.checkpoint import Checkpoint

        return Checkpoint(self.files)

    @cached_property
    def weights(self) -> Weights:
        """The model's weight vectors, embeddings and final norm; with ``sae``, the vectors are those of the latents.

        Raises:
            HarnessError: if a dictionary is damaged, does not fit the model, or is not supported.
        """
        from harness.subject.weights import Weights

        config = self.config.get_text_config()
        return Weights(self.name, config, self.architecture, self.checkpoint, self._sae or ())

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.weights.num_layers

    @property
    def layers(self) -> Sequence[int]:
        """The layers that have neurons; with ``sae``, those that have a dictionary."""
        return list(self.weights.dictionaries) or range(self.num_layers)

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
    def activation_function(self) -> str | None:
        """Name of the activation function, as in transformers, or None if the config does not specify it."""
        if self.weights.dictionaries:
            return "relu"
        config = self.config.get_text_config()
        # Gemma's models use hidden_activation; its hidden_act has no effect.
        options = ("hidden_activation", "hidden_act", "activation_function")
        return next((found for name in options if isinstance(found := getattr(config, name, None), str)), None)

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """Vector kinds of a neuron."""
        return (VectorKind.IN, VectorKind.OUT) if self.weights.dictionaries else self.architecture.kinds

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
        """Hash of the config, the norms of the embedding, some rows of every tensor, and all of each dictionary.

        It does not depend on the location or number of the files. An edit of a few rows may go unnoticed, so shared
        stores use the hashes of the files (:mod:`harness.subject.identity`).
        """
        digest = hashlib.sha256(self.config.to_json_string().encode())
        for what, content in self.checkpoint.sample():
            digest.update(what.encode())
            digest.update(content)
        digest.update(self.weights.embedding_norms().numpy().tobytes())
        for dictionary in self.weights.dictionaries.values():
            digest.update("".join(dictionary.hashes).encode())
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

    def sample_vectors(self, layer: int, kind: VectorKind, seed: int, count: int = 1 << 14) -> Tensor:
        """Read the vectors of all neurons of a layer, or of a random sample of a larger layer.

        Returns:
            (at most count, d_model), float32.
        """
        population = self.neurons(layer)
        if len(population) > count:
            drawn = derive_rng(seed, "population", layer, kind).choice(len(population), count, replace=False)
            population = [population[i] for i in sorted(drawn.tolist())]
        return self.vectors(
            layer, [neuron.index for neuron in population], kind, [neuron.expert for neuron in population]
        )

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
        if layer not in self.layers:
            raise HarnessError(
                f"subject.sae has latents of layer {', '.join(map(str, self.layers))}; there are none of layer {layer} "
                "(neurons.layers; null for all that there are)"
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
                what = "a latent" if self.weights.dictionaries else f"the MLP of {self.name} is not gated and"
                raise HarnessError(
                    f"{what} has no {kind.value!r} vector; choose from {', '.join(self.kinds)} (neurons.kinds)"
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

    def embedding(self) -> Tensor:
        """Return the embedding W_E.T, (d_model, V), float32."""
        return self._projections.embedding()

    def direct_logits(self, vectors: Tensor) -> Tensor:
        """Return the direct contribution of ``out`` vectors to the logits, (N, V) from (N, d_model).

        The final norm is applied to the vectors alone, then the unembedding (Gur-Arieh et al. 2025, arXiv:2501.08319).
        Later layers, and a norm of the MLP's output (Gemma), are ignored.
        """
        return self.final_norm(vectors) @ self._projections.unembedding()

    def other_neuron(self, neuron: Neuron) -> Neuron | None:
        """Return another neuron of the same layer and expert, always the same one: a control. None if it is alone."""
        width = self.weights.widths(neuron.layer)[neuron.expert]
        if width == 1:
            return None
        step = int(derive_rng(0, "another neuron", neuron.unsigned).integers(1, width))
        return dataclasses.replace(neuron, index=(neuron.index + step) % width)

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
        from harness.subject.undertrained import under_trained

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

    def token_text(self, token: int) -> str:
        """Return a vocabulary entry as readable text; see :meth:`harness.subject.token_texts.TokenTexts.text`."""
        return self.texts.text(token)

    def surface(self, tokens: Sequence[int]) -> list[str]:
        """Return consecutive tokens as pieces of text; see :meth:`harness.subject.token_texts.TokenTexts.pieces`."""
        return [piece.text for piece in self.texts.pieces(tokens)]

    @cached_property
    def texts(self) -> TokenTexts:
        """The text of tokens."""
        return TokenTexts(self.tokenizer)

    def extreme_tokens(self, projected: Tensor, count: int) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
        """Return the highest and the lowest tokens of one projection, without special and unused tokens.

        Args:
            projected: (V,) values, which are converted to z-scores over the vocabulary.
            count: number of tokens per side.
        """
        z = _z_scores(projected)
        kept = z.clone()
        hidden = sorted(self.unused_token_ids)
        count = min(count, len(kept) - len(hidden))
        kept[hidden] = -math.inf
        high = kept.topk(count)
        kept[hidden] = math.inf
        low = kept.topk(count, largest=False)
        return self._scored(high.indices.tolist(), z), self._scored(low.indices.tolist(), z)

    def random_tokens(self, count: int, seed: int) -> list[int]:
        """Return the ids of ``count`` tokens drawn uniformly from those that are not unused, ordered."""
        counted = [token for token in range(self.vocab_size) if token not in self.unused_token_ids]
        drawn = derive_rng(seed, "tokens").choice(len(counted), min(count, len(counted)), replace=False)
        return [counted[place] for place in sorted(drawn.tolist())]

    def scored_tokens(self, projected: Tensor, tokens: Sequence[int]) -> tuple[ScoredToken, ...]:
        """Return some tokens of one projection (V,), with z-scores over the vocabulary."""
        return self._scored(tokens, _z_scores(projected))

    def _scored(self, indices: Sequence[int], z: Tensor) -> tuple[ScoredToken, ...]:
        return tuple(ScoredToken(self.token_text(i), round(float(z[i]), 3)) for i in indices)

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
        projected = self.direct_logits(vector) if final_norm else vector @ self.projection(neuron.layer)
        return self.extreme_tokens(projected[0], count)


def _z_scores(projected: Tensor) -> Tensor:
    return (projected - projected.mean()) / projected.std(correction=0).clamp_min(1e-12)
