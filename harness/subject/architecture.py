"""Names of the weights and modules of each model family.

Tensor names are those of checkpoints without the prefix of the base model (``model.``), which is inferred from the name
of the embedding. A family that is not in the table is described in the config with the same fields
(``subject.architecture``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from harness.errors import HarnessError
from harness.records import Neuron, VectorKind

HELP = "see conf/subject/local.yaml"


@dataclass(frozen=True)
class MLP:
    """Names of the weights of one kind of MLP.

    Attributes:
        vectors: names of each vector kind's weight within the layer; the first one that the checkpoint has is used.
            ``{expert}`` is the number of an expert. A name of experts' weights without it is a tensor with the weights
            of all experts. If gate and in share a weight, its first half is gate.
        width: config option with the number of neurons; if the option is null, it is 4 d_model (GPT-2).
    """

    vectors: Mapping[VectorKind, tuple[str, ...]]
    width: str = "intermediate_size"

    def fuses(self, name: str) -> bool:
        """Return whether the weight of this name contains both gate and in."""
        return name in self.vectors.get(VectorKind.GATE, ()) and name in self.vectors[VectorKind.IN]


@dataclass(frozen=True)
class Architecture:
    """Names of the weights, modules and config options of one family.

    Attributes:
        embedding: matrix W_E (V, d_model).
        mlp: MLP of a dense layer.
        experts: experts of a mixture layer. A layer is a mixture if the checkpoint has these weights.
        shared: expert of a mixture layer that processes all tokens.
        num_experts: config option with the number of experts.
        experts_module: module of a layer that receives hidden states, selected experts and their weights.
        layer: prefix of a layer's tensors and modules, with ``{layer}``.
        transposed: whether MLP weights are stored as (inputs, outputs), as in GPT-2, and not as (outputs, inputs).
        base: module of transformers' base model that the module names are relative to.
        base_model: the base model's name within transformers' models with a head.
        unembedding: names of W_U.T (V, d_model) in the whole model; the first one that the checkpoint has is used.
            Checkpoints without any tie it to W_E.
        embedding_map: weight (d_model, width of W_E) from W_E to the residual stream, None if the family has none.
        unembedding_map: weight (width of W_U, d_model) from the residual stream to W_U, None if the family has none.
        final_norm: norm before the unembedding, None if the family has none.
        final_norm_if: config option with whether the model has the final norm; None if all have.
        norm: kind of the norm: ``rms``, or ``layer`` (subtracts the mean, adds a bias).
        norm_offset: added to the weight of the norm (Gemma stores weight - 1).
        norm_eps: epsilon of the norm, or the config option with it.
        mlp_norm: name of the norm that is applied to the MLP's output (Gemma); None for other families.
        mlp_input_norm: name of the RMS norm before the MLP. Only dictionaries that read before its weight need it.
        num_layers: config option with the number of layers.
        d_model: config option with the width of the residual stream.
        positions_after_padding: whether positions start after the padding token's id (RoBERTa), which shortens the
            context by as many tokens.
        causal: whether the family predicts the next token (BERT does not).
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
    base_model: str = "model"
    unembedding: tuple[str, ...] = ("lm_head.weight",)
    embedding_map: str | None = None
    unembedding_map: str | None = None
    final_norm: str | None = "norm"
    final_norm_if: str | None = None
    norm: str = "rms"
    norm_offset: float = 0.0
    norm_eps: str | float = "rms_norm_eps"
    mlp_norm: str | None = None
    mlp_input_norm: str | None = None
    num_layers: str = "num_hidden_layers"
    d_model: str = "hidden_size"
    positions_after_padding: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        if self.mlp is None and self.experts is None:
            raise HarnessError(f"subject.architecture has neither an mlp nor experts; {HELP}")
        if self.norm not in {"rms", "layer"}:
            raise HarnessError(f"subject.architecture.norm must be rms or layer, not {self.norm!r}")

    @property
    def kinds(self) -> tuple[VectorKind, ...]:
        """Vector kinds of a neuron."""
        mlp = self.mlp or self.experts
        assert mlp is not None
        return tuple(kind for kind in VectorKind if kind in mlp.vectors)

    def module(self, layer: int | None, name: str = "") -> str:
        """Return the path of a module in transformers' base model; for layer None, that of the list of layers."""
        where = self.layer.rpartition(".")[0] if layer is None else self.layer.format(layer=layer)
        return ".".join(part for part in (self.base, where, name) if part)


def _gated(prefix: str = "mlp.", width: str = "intermediate_size") -> MLP:
    return _mlp(prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight", width)


def _mlp(gate: str | None, into: str, out: str, width: str = "intermediate_size") -> MLP:
    named = {VectorKind.GATE: gate, VectorKind.IN: into, VectorKind.OUT: out}
    return MLP({kind: (name,) for kind, name in named.items() if name is not None}, width)


def _experts(gate: str, into: str, out: str, width: str) -> MLP:
    """Return experts stored in one tensor each (as published), or all in one tensor (as transformers saves them)."""
    together = {VectorKind.GATE: "gate_up_proj", VectorKind.IN: "gate_up_proj", VectorKind.OUT: "down_proj"}
    apart = {VectorKind.GATE: gate, VectorKind.IN: into, VectorKind.OUT: out}
    return MLP({kind: (apart[kind], f"mlp.experts.{name}") for kind, name in together.items()}, width)


_LLAMA = Architecture(mlp=_gated(), mlp_input_norm="post_attention_layernorm")
_GEMMA = replace(
    _LLAMA, norm_offset=1.0, mlp_norm="post_feedforward_layernorm", mlp_input_norm="pre_feedforward_layernorm"
)
_BERT = Architecture(
    embedding="embeddings.word_embeddings.weight",
    base_model="bert",
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

#: Families by ``model_type`` of transformers.
ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(_GEMMA, base="language_model"),
    "phi3": replace(_LLAMA, mlp=_mlp("mlp.gate_up_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight")),
    "gpt2": Architecture(
        embedding="wte.weight",
        mlp=_mlp(None, "mlp.c_fc.weight", "mlp.c_proj.weight", "n_inner"),
        layer="h.{layer}",
        base_model="transformer",
        transposed=True,
        final_norm="ln_f",
        norm="layer",
        norm_eps="layer_norm_epsilon",
        num_layers="n_layer",
        d_model="n_embd",
    ),
    "gpt_neox": Architecture(
        base_model="gpt_neox",
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
    "roberta": replace(
        _BERT, base_model="roberta", unembedding=("lm_head.decoder.weight",), positions_after_padding=True
    ),
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


def hook_names(manifest: Mapping[str, Any], neuron: Neuron) -> tuple[str, str | None] | None:
    """Return where other programs find a neuron's activation.

    Args:
        manifest: the run's manifest.
        neuron: the neuron.

    Returns:
        The hook of TransformerLens, and the module whose *input* is the activation in transformers' model with a head.
        For a latent, the hook that its dictionary reads, and the module that it belongs to (None for the embedding).
        None in layers with experts, and for a family that is not known.
    """
    subject = manifest["subject"]
    if subject.get("sae"):
        dictionary = subject["sae"][str(neuron.layer)]
        return dictionary["hook"], dictionary["module"]
    model_type = str(subject.get("model_type"))
    given = manifest.get("config", {}).get("subject", {}).get("architecture")
    if given is None and model_type not in ARCHITECTURES:
        return None
    found = architecture_of(model_type, given)
    if found.mlp is None or found.experts is not None:
        return None
    inside = found.mlp.vectors[VectorKind.OUT][0].removesuffix(".weight")
    module = f"{found.base_model}.{found.module(neuron.layer, inside)}"
    return f"blocks.{neuron.layer}.mlp.hook_post", module


def architecture_of(model_type: str, given: Architecture | Mapping[str, Any] | str | None = None) -> Architecture:
    """Return the architecture of a model.

    Args:
        model_type: transformers' name of the family.
        given: ``subject.architecture``: the name of a known family with the same names, or a mapping with fields of
            :class:`Architecture` (``like``: a known family that provides the other fields).

    Raises:
        HarnessError: if the family is unknown, or the mapping is invalid.
    """
    if isinstance(given, Architecture):
        return given
    if isinstance(given, Mapping):
        return _from_mapping(given)
    name = given or model_type
    if name not in ARCHITECTURES:
        raise HarnessError(
            f"unknown model family {name!r} (known: {', '.join(sorted(ARCHITECTURES))}): set subject.architecture to "
            f"one of these with the same names, or to the names of its MLP weights, embedding and final norm; {HELP}"
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
            f"subject.architecture.{name} must have the names of the weights in, out and, for gated MLPs, gate, and "
            f"optionally width (the config option with the number of neurons); {HELP}"
        )
    return MLP({kind: _names(names[kind]) for kind in VectorKind if names.get(kind) is not None}, width)


def _names(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
