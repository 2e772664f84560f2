"""Where each family of models keeps its neurons: the one table of this project that knows about architectures.

Names are those of the base model's tensors; checkpoints of a model with a head put a prefix before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError
from harness.records import VectorKind


@dataclass(frozen=True)
class Architecture:
    """The names of one family.

    Attributes:
        layer: prefix of a layer's tensors and modules, with ``{layer}``.
        vectors: for each vector kind the layer has, the matrix and whether its neurons are ``rows`` or ``columns``.
        activation: module whose input is the neurons' activation: what enters the down projection.
        embedding: matrix W_E (V, d_model).
        unembedding: matrix W_U.T (V, d_model) in checkpoints with a language-model head; absent if tied to W_E.
        final_norm: weight of the norm before the unembedding (d_model), if the family has one.
        norm_offset: what is added to that weight (Gemma stores weight - 1).
        prefixes: what checkpoints may put before the base model's names.
    """

    layer: str
    vectors: dict[VectorKind, tuple[str, str]]
    activation: str
    embedding: str
    unembedding: str
    final_norm: str | None
    norm_offset: float
    prefixes: tuple[str, ...]


_LLAMA = Architecture(
    layer="layers.{layer}",
    vectors={
        VectorKind.GATE: ("mlp.gate_proj.weight", "rows"),
        VectorKind.IN: ("mlp.up_proj.weight", "rows"),
        VectorKind.OUT: ("mlp.down_proj.weight", "columns"),
    },
    activation="mlp.down_proj",
    embedding="embed_tokens.weight",
    unembedding="lm_head.weight",
    final_norm="norm.weight",
    norm_offset=0.0,
    prefixes=("model.", ""),
)

_GEMMA = Architecture(
    layer=_LLAMA.layer,
    vectors=_LLAMA.vectors,
    activation=_LLAMA.activation,
    embedding=_LLAMA.embedding,
    unembedding=_LLAMA.unembedding,
    final_norm=_LLAMA.final_norm,
    norm_offset=1.0,
    prefixes=_LLAMA.prefixes,
)

_BERT = Architecture(
    layer="encoder.layer.{layer}",
    vectors={
        VectorKind.IN: ("intermediate.dense.weight", "rows"),
        VectorKind.OUT: ("output.dense.weight", "columns"),
    },
    activation="output.dense",
    embedding="embeddings.word_embeddings.weight",
    unembedding="cls.predictions.decoder.weight",
    final_norm=None,
    norm_offset=0.0,
    prefixes=("", "bert."),
)

#: By transformers' ``model_type``.
ARCHITECTURES = {"llama": _LLAMA, "gemma2": _GEMMA, "bert": _BERT}


def architecture_of(model_type: str) -> Architecture:
    """Return the family's names.

    Raises:
        HarnessError: if the family is unknown.
    """
    if model_type not in ARCHITECTURES:
        raise HarnessError(
            f"the model type {model_type!r} is not known; known are {', '.join(sorted(ARCHITECTURES))}: "
            "add an entry that names its MLP matrices to harness/subject/architecture.py"
        )
    return ARCHITECTURES[model_type]
