"""Where each family of models keeps its neurons: the one table of this project that knows about architectures.

Tensors are named as in checkpoints, without what a checkpoint puts before the base model's names (``model.``): that is
found out from the name of the embedding. A family that is not in the table is described in the config, by the same
fields (``subject.architecture``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from harness.errors import HarnessError
from harness.records import VectorKind

HELP = "conf/subject/local.yaml shows how"


@dataclass(frozen=True)
class MLP:
    """One kind of MLP that a layer can have.

    Attributes:
        vectors: for each vector kind it has, the weight's name from its layer on; of several names, the first that the
            checkpoint has. ``{expert}`` stands for the number of an expert; where a name of experts' weights lacks it,
            the tensor holds all of them, expert by expert. If gate and in are one weight, its first half is gate.
        width: config option with the number of neurons; where it is null, that number is 4 d_model (GPT-2).
    """

    vectors: Mapping[VectorKind, tuple[str, ...]]
    width: str = "intermediate_size"

    def fuses(self, name: str) -> bool:
        """Tell whether the weight of this name is gate and in at once."""
        return name in self.vectors.get(VectorKind.GATE, ()) and name in self.vectors[VectorKind.IN]


@dataclass(frozen=True)
class Architecture:
    """The names of one family.

    Attributes:
        embedding: matrix W_E (V, d_model).
        mlp: the MLP of a layer; of a layer that is no mixture, in families that mix.
        experts: the experts of a mixture. Layers for which the checkpoint has such weights are mixtures.
        shared: the expert of a mixture that all tokens share.
        num_experts: config option with the number of experts.
        experts_module: module of a layer that is called with hidden states, chosen experts and their weights.
        layer: prefix of a layer's tensors and modules, with ``{layer}``.
        transposed: whether MLP weights are stored as (from, to), as GPT-2 does, rather than (to, from).
        base: module of transformers' base model from which modules are named.
        unembedding: full name of W_U.T (V, d_model) in checkpoints with a language-model head, or several to try;
            absent if tied to W_E.
        embedding_map: weight (d_model, width of W_E) that leads from W_E into the residual stream, if the checkpoint
            has one.
        unembedding_map: weight (width of W_U, d_model) that leads from the residual stream to W_U, likewise.
        final_norm: the norm before the unembedding, if the family has one.
        final_norm_if: config option that says whether this model has it; always, if none.
        norm: its kind: ``rms``, or ``layer`` (mean removed, bias added).
        norm_offset: what is added to its weight (Gemma stores weight - 1).
        norm_eps: config option with its epsilon, or the number.
        num_layers: config option with the number of layers.
        d_model: config option with the width of the residual stream.
        positions_after_padding: whether positions are counted from the padding token's id on (RoBERTa), so that the
            model reads that many tokens less at once.
        causal: whether the family predicts the next token; BERT and its like, which read in both directions, do not.
    """

    embedding: str = "embed_tokens.weight"
    mlp: MLP | None = None
    experts: MLP | None = None
    shared: MLP | None = None
    num_experts: str = "num_experts"
    experts_module: str = "mlp.experts"
    layer: str = "layers.{layer}"
    transposed: bool = False
    base: str = ""
    unembedding: tuple[str, ...] = ("lm_head.weight",)
    embedding_map: str | None = None
    unembedding_map: str | None = None
    final_norm: str | None = "norm"
    final_norm_if: str | None = None
    norm: str = "rms"
    norm_offset: float = 0.0
    norm_eps: str | float = "rms_norm_eps"
    num_layers: str = "num_hidden_layers"
    d_model: str = "hidden_size"
    positions_after_padding: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        if self.mlp is None and self.experts is None:
            raise HarnessError(f"subject.architecture names neither an mlp nor experts; {HELP}")
        if self.norm not in {"rms", "layer"}:
            raise HarnessError(f"subject.architecture.norm is {self.norm!r}; choose rms or layer")

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """The vector kinds that a neuron has."""
        mlp = self.mlp or self.experts
        assert mlp is not None
        return tuple(kind for kind in VectorKind if kind in mlp.vectors)

    def module(self, layer: int | None, name: str = "") -> str:
        """Return the path of a module in transformers' base model; without a layer, that of the list of layers."""
        where = self.layer.rpartition(".")[0] if layer is None else self.layer.format(layer=layer)
        return ".".join(part for part in (self.base, where, name) if part)


def _gated(prefix: str = "mlp.", width: str = "intermediate_size") -> MLP:
    return _mlp(prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight", width)


def _mlp(gate: str | None, into: str, out: str, width: str = "intermediate_size") -> MLP:
    named = {VectorKind.GATE: gate, VectorKind.IN: into, VectorKind.OUT: out}
    return MLP({kind: (name,) for kind, name in named.items() if name is not None}, width)


def _experts(gate: str, into: str, out: str, width: str) -> MLP:
    """Return experts whose checkpoints hold them one by one (as published), or all in one tensor (as transformers)."""
    together = {VectorKind.GATE: "gate_up_proj", VectorKind.IN: "gate_up_proj", VectorKind.OUT: "down_proj"}
    apart = {VectorKind.GATE: gate, VectorKind.IN: into, VectorKind.OUT: out}
    return MLP({kind: (apart[kind], f"mlp.experts.{name}") for kind, name in together.items()}, width)


_LLAMA = Architecture(mlp=_gated())
_GEMMA = replace(_LLAMA, norm_offset=1.0)
_BERT = Architecture(
    embedding="embeddings.word_embeddings.weight",
    mlp=_mlp(None, "intermediate.dense.weight", "output.dense.weight"),
    layer="encoder.layer.{layer}",
    unembedding=("cls.predictions.decoder.weight",),
    final_norm=None,
    causal=False,
)
_QWEN_EXPERT = "mlp.experts.{expert}."
_QWEN3_MOE = replace(
    _LLAMA,
    experts=_experts(
        f"{_QWEN_EXPERT}gate_proj.weight",
        f"{_QWEN_EXPERT}up_proj.weight",
        f"{_QWEN_EXPERT}down_proj.weight",
        "moe_intermediate_size",
    ),
)
_MIXTRAL_EXPERT = "block_sparse_moe.experts.{expert}."

#: By transformers' ``model_type``.
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(_GEMMA, base="language_model", unembedding=("lm_head.weight", "language_model.lm_head.weight")),
    "phi3": replace(_LLAMA, mlp=_mlp("mlp.gate_up_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight")),
    "gpt2": Architecture(
        embedding="wte.weight",
        mlp=_mlp(None, "mlp.c_fc.weight", "mlp.c_proj.weight", "n_inner"),
        layer="h.{layer}",
        transposed=True,
        final_norm="ln_f",
        norm="layer",
        norm_eps="layer_norm_epsilon",
        num_layers="n_layer",
        d_model="n_embd",
    ),
    "gpt_neox": Architecture(
        embedding="embed_in.weight",
        mlp=_mlp(None, "mlp.dense_h_to_4h.weight", "mlp.dense_4h_to_h.weight"),
        unembedding=("embed_out.weight", "lm_head.weight"),
        final_norm="final_layer_norm",
        norm="layer",
        norm_eps="layer_norm_eps",
    ),
    "opt": Architecture(
        mlp=_mlp(None, "fc1.weight", "fc2.weight", "ffn_dim"),
        base="decoder",
        embedding_map="project_in.weight",
        unembedding_map="project_out.weight",
        final_norm="final_layer_norm",
        final_norm_if="do_layer_norm_before",
        norm="layer",
        norm_eps=1e-5,
    ),
    "bert": _BERT,
    "roberta": replace(_BERT, unembedding=("lm_head.decoder.weight",), positions_after_padding=True),
    "mixtral": replace(
        _LLAMA,
        mlp=None,
        experts=_experts(
            f"{_MIXTRAL_EXPERT}w1.weight",
            f"{_MIXTRAL_EXPERT}w3.weight",
            f"{_MIXTRAL_EXPERT}w2.weight",
            "intermediate_size",
        ),
        num_experts="num_local_experts",
    ),
    "qwen2_moe": replace(_QWEN3_MOE, shared=_gated("mlp.shared_expert.", "shared_expert_intermediate_size")),
    "qwen3_moe": _QWEN3_MOE,
}


def architecture_of(model_type: str, given: Architecture | Mapping[str, Any] | str | None = None) -> Architecture:
    """Return the names of a model's family.

    Args:
        model_type: transformers' name of the family.
        given: what the user says of it: the name of a family in the table that names its weights alike, or a mapping
            of the fields of :class:`Architecture` (``like``: a family from which the others are taken).

    Raises:
        HarnessError: if the family is unknown and nothing is given, or what is given says too little or too much.
    """
    if isinstance(given, Architecture):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given)
    name = given or model_type
    if name not in ARCHITECTURES:
        raise HarnessError(
            f"the model family {name!r} is not known (known are {', '.join(sorted(ARCHITECTURES))}): say in "
            f"subject.architecture where it keeps its MLP weights, embedding and final norm, or which of these names "
            f"them alike; {HELP}"
        )
    return ARCHITECTURES[name]


def _from_mapping(given: Mapping[str, Any]) -> Architecture:
    known = {field.name: field for field in fields(Architecture)}
    unknown = [name for name in given if name not in known and name != "like"]
    if unknown:
        raise HarnessError(
            f"subject.architecture has no field {unknown[0]!r}; its fields are like, {', '.join(known)} ({HELP})"
        )
    values = {name: value for name, value in given.items() if name != "like"}
    for name in ("mlp", "experts", "shared"):
        if values.get(name) is not None:
            values[name] = _mlp_from_mapping(name, values[name])
    if "unembedding" in values:
        values["unembedding"] = _names(values["unembedding"])
    if given.get("like") is not None:
        return replace(architecture_of(given["like"]), **values)
    defaults = {name: field.default for name, field in known.items() if field.default is not MISSING}
    return Architecture(**{**defaults, **values})


def _mlp_from_mapping(name: str, given: Any) -> MLP:
    names = dict(given) if isinstance(given, Mapping) else {}
    width = names.pop("width", "intermediate_size")
    if not {"in", "out"} <= names.keys() <= set(VectorKind):
        raise HarnessError(
            f"subject.architecture.{name} must name the weights in, out and, in gated MLPs, gate, and may say width "
            f"(the config option with the number of neurons); {HELP}"
        )
    return MLP({kind: _names(names[kind]) for kind in VectorKind if names.get(kind) is not None}, width)


def _names(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
