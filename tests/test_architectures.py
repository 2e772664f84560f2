"""Model families: weights, sizes and activations equal those of transformers' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_models
from support.errors import told
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu, softmax
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Gemma3ForConditionalGeneration

from harness.decomposition import DecompositionConfig, decompose, kurtosis
from harness.folder import read_table, write_table
from harness.records import Neuron, VectorKind, VectorSummary, from_json, to_json
from harness.run.sections import NeuronSelection
from harness.subject import ActivationReader, Subject
from harness.subject.architecture import ARCHITECTURES, MLP, Architecture

GATE, IN, OUT = VectorKind
TEXT = "The with statement is used to wrap the execution of a block with methods defined by a context manager"
Matrices = dict[VectorKind, Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")


# --- the models, taken apart by hand ----------------------------------------------------------------------------------


def gated(mlp: Any) -> Matrices:
    return {GATE: mlp.gate_proj.weight, IN: mlp.up_proj.weight, OUT: mlp.down_proj.weight.T}


def phi3(mlp: Any) -> Matrices:
    gate, into = mlp.gate_up_proj.weight.chunk(2)
    return {GATE: gate, IN: into, OUT: mlp.down_proj.weight.T}


def expert(experts: Any, number: int) -> Matrices:
    gate, into = experts.gate_up_proj[number].chunk(2)
    return {GATE: gate, IN: into, OUT: experts.down_proj[number].T}


@dataclass(frozen=True)
class Family:
    """How the tests find their way in a family's modules, without the harness.

    Attributes:
        layers: the list of layers.
        mlp: a layer's MLP module, which is called with its input (the first linear module, where there is none).
        matrices: the MLP's matrices, one neuron a row.
        act: the activation function.
        bias: of the first linear module.
        norm: the final norm.
    """

    layers: Callable[[Any], Any] = lambda model: model.model.layers
    mlp: Callable[[Any], Any] = lambda layer: layer.mlp
    matrices: Callable[[Any], Matrices] = lambda layer: gated(layer.mlp)
    act: Callable[[Tensor], Tensor] = silu
    bias: Callable[[Any], Tensor] | None = None
    norm: Callable[[Any], nn.Module] | None = lambda model: model.model.norm


LLAMA = Family()
GEMMA = Family(act=gelu_tanh)
BERT = Family(
    layers=lambda model: model.base_model.encoder.layer,
    mlp=lambda layer: layer.intermediate,
    matrices=lambda layer: {IN: layer.intermediate.dense.weight, OUT: layer.output.dense.weight.T},
    act=gelu,
    bias=lambda layer: layer.intermediate.dense.bias,
    norm=None,
)
MIXTURE = Family(matrices=lambda layer: {})  # see Mixture
FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gemma3": Family(
        layers=lambda model: model.model.language_model.layers,
        act=gelu_tanh,
        norm=lambda model: model.model.language_model.norm,
    ),
    "phi3": Family(matrices=lambda layer: phi3(layer.mlp)),
    "gpt2": Family(
        layers=lambda model: model.transformer.h,
        matrices=lambda layer: {IN: layer.mlp.c_fc.weight.T, OUT: layer.mlp.c_proj.weight},
        act=gelu_tanh,
        bias=lambda layer: layer.mlp.c_fc.bias,
        norm=lambda model: model.transformer.ln_f,
    ),
    "gpt_neox": Family(
        layers=lambda model: model.gpt_neox.layers,
        matrices=lambda layer: {IN: layer.mlp.dense_h_to_4h.weight, OUT: layer.mlp.dense_4h_to_h.weight.T},
        act=gelu,
        bias=lambda layer: layer.mlp.dense_h_to_4h.bias,
        norm=lambda model: model.gpt_neox.final_layer_norm,
    ),
    "opt": Family(
        layers=lambda model: model.model.decoder.layers,
        mlp=lambda layer: layer.fc1,
        matrices=lambda layer: {IN: layer.fc1.weight, OUT: layer.fc2.weight.T},
        act=relu,
        bias=lambda layer: layer.fc1.bias,
        norm=lambda model: model.model.decoder.final_layer_norm,
    ),
    "bert": BERT,
    "roberta": BERT,
    "mixtral": MIXTURE,
    "qwen2_moe": MIXTURE,
    "qwen3_moe": MIXTURE,
}
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")


def load(folder: Path) -> Any:
    """Load a model whole, with its head."""
    family = json.loads((folder / "config.json").read_text())["model_type"]
    auto: Any = AutoModelForMaskedLM if "bert" in family else AutoModelForCausalLM
    kind = Gemma3ForConditionalGeneration if family == "gemma3" else auto
    return kind.from_pretrained(folder, **tiny_models.REFERENCE)


@dataclass(frozen=True)
class Tiny:
    """A tiny model three times: its folder, as the harness sees it, and whole in transformers."""

    family: Family
    folder: Path
    subject: Subject
    model: Any

    def matrices(self, layer: int, number: int | None = None) -> Matrices:
        """Return the matrices of one MLP, or one expert, as transformers holds them."""
        block = self.family.layers(self.model)[layer]
        if number is not None:
            found = expert(block.mlp.experts, number)
        elif hasattr(block, "mlp") and hasattr(block.mlp, "experts"):
            found = gated(block.mlp.shared_expert)
        else:
            found = gated(block.mlp) if self.family is MIXTURE else self.family.matrices(block)
        return {kind: matrix.detach() for kind, matrix in found.items()}

    def mlps(self, layer: int) -> list[int | None]:
        """Return the experts of a layer, as transformers builds it; none is the MLP that all tokens pass."""
        block = self.family.layers(self.model)[layer]
        if not hasattr(block, "mlp") or not hasattr(block.mlp, "experts"):
            return [None]
        shared = [None] if hasattr(block.mlp, "shared_expert") else []
        return [*shared, *range(len(block.mlp.experts.gate_up_proj))]

    def inputs(self, input_ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Run the model over one text; return what enters every layer's MLP, and what leaves it, (T, ...) each."""
        entered: list[Tensor] = []
        left: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            entered.append(inputs[0].flatten(0, -2))
            left.append(output.flatten(0, -2))

        hooks = [self.family.mlp(layer).register_forward_hook(keep) for layer in self.family.layers(self.model)]
        with torch.no_grad():
            self.model(input_ids=input_ids[None])
        for hook in hooks:
            hook.remove()
        return entered, left

    def activations(self, layer: int, number: int | None, x: Tensor) -> Tensor:
        """Compute the activations of one MLP from what entered the layer's, (T, neurons)."""
        block, matrices = self.family.layers(self.model)[layer], self.matrices(layer, number)
        bias = None if self.family.bias is None else self.family.bias(block).detach()
        into = linear(x, matrices[IN], bias)
        values = self.family.act(linear(x, matrices[GATE])) * into if GATE in matrices else self.family.act(into)
        if number is None:
            return values
        return values * (self.routing(layer, x)[:, number] > 0)[:, None]

    def routing(self, layer: int, x: Tensor) -> Tensor:
        """Return the weight with which each token is routed to each expert, (T, experts), 0 for those not chosen."""
        block, config = self.family.layers(self.model)[layer].mlp, self.model.config
        top = softmax(linear(x, block.gate.weight.detach()), dim=-1).topk(config.num_experts_per_tok)
        values = top.values
        if config.model_type == "mixtral" or config.norm_topk_prob:
            values = values / values.sum(dim=-1, keepdim=True)
        return torch.zeros(len(x), len(block.experts.gate_up_proj)).scatter(1, top.indices, values)


def make(folder: Path, family: str, **options: Any) -> Tiny:
    tiny_models.tiny_subject(folder, family, **options)
    return Tiny(FAMILIES[family], folder, Subject(family, [str(folder)]), load(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Gives a tiny model of each family, made once."""
    made: dict[str, Tiny] = {}

    def give(family: str) -> Tiny:
        if family not in made:
            made[family] = make(tmp_path_factory.mktemp("family") / family, family)
        return made[family]

    return give


@pytest.fixture(params=FAMILIES)
def each(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


def assert_rows_are_the_models(tiny: Tiny, subject: Subject) -> None:
    for layer in range(len(tiny.family.layers(tiny.model))):
        for number in tiny.mlps(layer):
            expected = tiny.matrices(layer, number)
            assert subject.kinds == tuple(expected)
            for kind, matrix in expected.items():
                some = [3, 0, len(matrix) - 1, 3]
                found = subject.vectors(layer, some, kind, [number] * 4)
                assert torch.equal(found, matrix[some]), (layer, number, kind)


# --- every family -----------------------------------------------------------------------------------------------------


def test_every_family_of_the_table_is_tested() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


def test_vectors_are_what_the_model_computes_with(each: Tiny) -> None:
    assert_rows_are_the_models(each, each.subject)


def test_sizes_are_those_of_the_modules(each: Tiny) -> None:
    subject, layers = each.subject, each.family.layers(each.model)
    assert subject.num_layers == len(layers)
    for layer in range(len(layers)):
        rows = {number: len(each.matrices(layer, number)[IN]) for number in each.mlps(layer)}
        assert subject.neurons(layer) == [Neuron(layer, i, number) for number, n in rows.items() for i in range(n)]
    assert each.matrices(0, each.mlps(0)[-1])[OUT].shape == (subject.d_mlp, subject.d_model)
    assert subject.vocab_size == each.model.get_input_embeddings().weight.shape[0] == 800


def test_activations_are_what_a_hand_computes_from_the_mlps_input(each: Tiny) -> None:
    ids = torch.tensor(each.subject.tokenizer(TEXT).input_ids)
    entered, left = each.inputs(ids)
    neurons, expected = [], []
    for layer, x in enumerate(entered):
        for number in each.mlps(layer):
            values = each.activations(layer, number, x)
            for index in (values.shape[1] - 1, 0, 5):
                neurons.append(Neuron(layer, index, number))
                expected.append(values[:, index])
    order = torch.randperm(len(neurons)).tolist()  # whatever the order in which they are asked for
    read = ActivationReader(each.subject, [neurons[i] for i in order], "cpu").read(ids[None], torch.ones(1, len(ids)))
    found = torch.stack(expected, dim=1)
    assert found.std() > 1e-3
    assert torch.allclose(read[0], found[:, order], atol=1e-5)
    assert len(left) == len(entered)


def test_padding_and_batches_change_nothing(each: Tiny) -> None:
    long = torch.tensor(each.subject.tokenizer(TEXT).input_ids)
    batch, mask = torch.zeros(2, len(long), dtype=torch.long), torch.ones(2, len(long), dtype=torch.long)
    batch[0], batch[1, :5], mask[1, 5:] = long, long[:5], 0
    neurons = [Neuron(layer, 4, number) for layer in range(each.subject.num_layers) for number in each.mlps(layer)]
    reader = ActivationReader(each.subject, neurons, "cpu")
    read = reader.read(batch, mask)
    for row, ids in enumerate([long, long[:5]]):
        assert torch.allclose(read[row, : len(ids)], reader.read(ids[None], torch.ones(1, len(ids)))[0], atol=1e-5)


def test_the_final_norm_is_the_models_own(each: Tiny) -> None:
    vectors = torch.randn(5, each.subject.d_model) * torch.tensor([[3.0], [1.0], [1.0], [0.1], [0.01]]) + 0.2
    if each.family.norm is None:
        assert torch.equal(each.subject.final_norm(vectors), vectors)
        return
    with torch.no_grad():
        expected = each.family.norm(each.model)(vectors)
    assert torch.allclose(each.subject.final_norm(vectors), expected, rtol=1e-5, atol=1e-6)


def test_the_projections_are_the_models_unembedding_and_embedding(each: Tiny) -> None:
    embedding, head = each.model.get_input_embeddings().weight, each.model.get_output_embeddings().weight
    assert torch.equal(each.subject.projection(1), head.T)
    tied = torch.equal(embedding, head)
    assert each.subject.projection_name(1) == ("W_E.T" if tied else "W_U")
    early = Subject("early", [str(each.folder)], projection="embedding")
    assert torch.equal(early.projection(1), embedding.T)
    assert early.projection_name(1) == "W_E.T"


def test_vectors_decompose(each: Tiny) -> None:
    neurons = each.subject.neurons(1)[:: max(1, len(each.subject.neurons(1)) // 4)][:4]
    projection = each.subject.projection(1)
    for kind in each.subject.kinds:
        vectors = each.subject.vectors(1, [n.index for n in neurons], kind, [n.expert for n in neurons])
        weights = each.subject.token_weights(1)
        found = decompose(vectors, projection, token_weights=weights, config=DecompositionConfig(num_channels=2))
        assert found.directions.shape == (len(neurons), 2, each.subject.d_model)
        # Some vector at least has a sharper direction beside it.
        assert (found.kurtosis[:, 0] > kurtosis(vectors @ projection)).any()


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "opt", "roberta", "mixtral"])
def test_a_checkpoint_of_the_base_model_reads_like_that_of_the_whole(
    tiny: Callable[[str], Tiny], tmp_path: Path, family: str
) -> None:
    whole = tiny(family)
    base = AutoModel.from_pretrained(whole.folder, dtype=torch.float32)
    base.save_pretrained(tmp_path)
    whole.subject.tokenizer.save_pretrained(tmp_path)
    subject = Subject("base", [str(tmp_path)])
    assert_rows_are_the_models(whole, subject)
    assert torch.equal(subject.projection(0), whole.model.get_input_embeddings().weight.T)
    assert subject.projection_name(0) == "W_E.T"


# --- what is particular to some families ------------------------------------------------------------------------------


def test_gpt2_without_a_width_has_four_times_that_of_the_stream(tmp_path: Path) -> None:
    model = make(tmp_path, "gpt2", n_inner=None)
    assert model.subject.d_mlp == 96
    assert_rows_are_the_models(model, model.subject)


def test_a_cap_of_attention_scores_counts(tmp_path: Path) -> None:
    # Nearly 0, it makes layer 0 attend to all tokens alike: then the order of the earlier ones does not matter.
    def apart(name: str, cap: float | None) -> float:
        subject = make(tmp_path / name, "gemma2", attn_logit_softcapping=cap).subject
        ids = torch.tensor(subject.tokenizer(TEXT).input_ids)
        both = torch.stack([ids, torch.cat([ids[:-1].flip(0), ids[-1:]])])
        read = ActivationReader(subject, subject.neurons(0), "cpu").read(both, torch.ones_like(both))
        return float((read[0, -1] - read[1, -1]).abs().max() / read[0, -1].abs().max())

    assert apart("capped", 1e-6) < 1e-4
    assert apart("free", None) > 1e-2


def test_narrow_opt_embeddings_are_mapped_to_the_residual_stream(tmp_path: Path) -> None:
    opt = make(tmp_path, "opt", word_embed_proj_dim=16, do_layer_norm_before=False)
    decoder, head = opt.model.model.decoder, opt.model.lm_head
    stream = torch.randn(3, 24)
    with torch.no_grad():
        assert torch.allclose(stream @ opt.subject.projection(0), head(decoder.project_out(stream)), atol=1e-6)
        embedded = decoder.project_in(decoder.embed_tokens.weight)
    assert opt.subject.projection_name(0) == "W_U"  # tied, and yet another matrix
    early = Subject("opt", [str(tmp_path)], projection="embedding")
    assert torch.allclose(early.projection(0), embedded.T, atol=1e-6)
    # This kind of OPT normalises after each block and not at the end.
    assert torch.equal(opt.subject.final_norm(stream), stream)
    assert_rows_are_the_models(opt, opt.subject)
    ids = torch.tensor(opt.subject.tokenizer(TEXT).input_ids)
    expected = opt.activations(1, None, opt.inputs(ids)[0][1])
    read = ActivationReader(opt.subject, [Neuron(1, 7)], "cpu").read(ids[None], torch.ones(1, len(ids)))
    assert torch.allclose(read[0, :, 0], expected[:, 7], atol=1e-5)


def test_roberta_reads_less_than_it_has_positions(tiny: Callable[[str], Tiny]) -> None:
    model, longest = tiny("roberta"), tiny("roberta").subject.max_tokens
    assert longest is not None
    reader = ActivationReader(model.subject, [Neuron(0, 0)], "cpu")
    ids = torch.full((1, longest + 1), 9)
    assert reader.read(ids[:, :-1], torch.ones(1, longest)).shape == (1, longest, 1)
    with pytest.raises((IndexError, RuntimeError)):
        reader.read(ids, torch.ones(1, longest + 1))


# --- mixtures of experts ----------------------------------------------------------------------------------------------


@pytest.fixture(params=MIXTURES)
def mixture(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


def test_activations_of_experts_make_up_what_their_layer_gives_out(mixture: Tiny) -> None:
    """The hand-computed activations are those of the real class: weighted and led back, they sum up to its output."""
    ids = torch.tensor(mixture.subject.tokenizer(TEXT).input_ids)
    x, output = (values[0] for values in mixture.inputs(ids))
    routing, total = mixture.routing(0, x), torch.zeros_like(output)
    numbers = [number for number in mixture.mlps(0) if number is not None]
    neurons = [neuron for neuron in mixture.subject.neurons(0) if neuron.expert is not None]
    read = ActivationReader(mixture.subject, neurons, "cpu").read(ids[None], torch.ones(1, len(ids)))[0]
    for number, values in zip(numbers, read.split(mixture.subject.d_mlp, dim=1), strict=True):
        assert ((values != 0).any(dim=1) == (routing[:, number] > 0)).all()
        total += routing[:, number, None] * (values @ mixture.matrices(0, number)[OUT])
    block = mixture.family.layers(mixture.model)[0].mlp
    if None in mixture.mlps(0):
        with torch.no_grad():
            total += torch.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)
    assert output.std() > 1e-3
    assert torch.allclose(total, output, atol=1e-5)


def test_experts_in_one_tensor_read_like_experts_one_by_one(mixture: Tiny, tmp_path: Path) -> None:
    family = mixture.model.config.model_type
    tiny_models.tiny_subject(tmp_path / "fused", family, per_expert=False, max_shard_size="40KB")
    fused = Subject("fused", [str(tmp_path / "fused")])
    assert any("experts.gate_up_proj" in name for name in fused.checkpoint.names)
    assert not any("experts.0" in name for name in fused.checkpoint.names)
    assert any("experts.0" in name for name in mixture.subject.checkpoint.names)
    assert_rows_are_the_models(mixture, fused)
    ids = torch.tensor([[5, 9, 300, 17]])
    neurons = [Neuron(0, 3, 0), Neuron(0, 2, 2)]
    same = [ActivationReader(s, neurons, "cpu").read(ids, torch.ones(1, 4)) for s in (fused, mixture.subject)]
    assert torch.allclose(*same, atol=1e-6)
    together = {"gate": "mlp.experts.gate_up_proj", "in": "mlp.experts.gate_up_proj", "out": "mlp.experts.down_proj"}
    given = {"like": family, "experts": {**together, "width": "hidden_size"}}
    wrong = Subject("wrong", [str(tmp_path / "fused")], architecture=given)
    told(lambda: wrong.vectors(0, [0], IN, [1]), "experts.gate_up_proj", "not (3, 48, 24)", "width")


def test_only_the_experts_that_are_asked_for_are_read(tmp_path: Path) -> None:
    model = make(tmp_path, "mixtral", max_shard_size="8KB")
    shards = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = shards["model.layers.1.block_sparse_moe.experts.2.w1.weight"]
    for file in tmp_path.glob("*.safetensors"):
        if file.name != wanted:
            file.unlink()
    assert torch.equal(model.subject.vectors(1, [5], GATE, [2]), model.matrices(1, 2)[GATE][[5]])


def test_neurons_of_experts_have_names_and_an_order() -> None:
    neurons = [Neuron(3, 17, 10), Neuron(3, 2, 10), Neuron(4, 0), Neuron(3, 99, 2), Neuron(3, 5)]
    assert list(map(str, sorted(neurons))) == ["L3N5", "L3E2N99", "L3E10N2", "L3E10N17", "L4N0"]
    assert Neuron(3, 5) != Neuron(3, 5, 0)
    assert Neuron(3, 5) < Neuron(3, 5, 0) <= Neuron(3, 5, 0)


def test_neurons_of_experts_are_kept_and_those_of_dense_models_as_ever(tmp_path: Path) -> None:
    assert to_json(Neuron(3, 17)) == {"layer": 3, "index": 17}
    assert to_json(Neuron(3, 17, 0)) == {"layer": 3, "index": 17, "expert": 0}
    records = [VectorSummary(n, IN, 1.0, 2.0, 3.0, (), (), (0.5,)) for n in (Neuron(3, 17), Neuron(3, 17, 2))]
    assert [from_json(VectorSummary, json.loads(json.dumps(to_json(record)))) for record in records] == records
    for some in (records, records[:1], records[1:], records[::-1]):
        write_table(tmp_path / "table.parquet", some)
        assert read_table(tmp_path / "table.parquet", VectorSummary) == some


def test_selections_of_experts(tiny: Callable[[str], Tiny]) -> None:
    """In this model layer 0 mixes three experts of 12 neurons and a shared one of 20; layer 1 is dense, of 40."""
    subject = tiny("qwen2_moe").subject

    def names(layers: list[int], **chosen: Any) -> list[str]:
        return list(map(str, NeuronSelection(layers, ["in"], **chosen).select(subject, seed=0)))

    everything = names([0, 1])
    assert len(everything) == 20 + 3 * 12 + 40
    assert everything[0] == "L0N0"
    assert everything[20:21] == ["L0E0N0"]
    assert names([0], experts=[2, "shared"], indices=[4, 1]) == ["L0N1", "L0N4", "L0E2N1", "L0E2N4"]
    assert names([0], indices=[3]) == ["L0N3", "L0E0N3", "L0E1N3", "L0E2N3"]
    drawn = names([0, 1], per_layer=30)
    assert len(set(drawn)) == 60
    assert {"L0N", "L0E0N", "L0E1N", "L0E2N", "L1N"} == {name.rstrip("0123456789") for name in drawn}
    assert names([0, 1], per_layer=30) == drawn
    assert set(names([0], experts=[1], per_layer=12)) == {f"L0E1N{index}" for index in range(12)}
    told(lambda: names([0], experts=[1], per_layer=13), "layer 0", "12 neurons in the chosen experts")
    told(
        lambda: names([0], experts=[3]), "layer 0", "experts 0 to 2 and a shared one", "no expert 3", "neurons.experts"
    )
    told(lambda: names([1], experts=[0]), "layer 1", "no experts", "neurons.experts")
    told(lambda: names([0], experts=[1], indices=[15]), "an expert", "0 to 11", "no neuron 15", "neurons.indices")
    told(lambda: subject.vectors(1, [0], IN, [0]), "layer 1", "no experts", "L1E0N0")
    mixtral = tiny("mixtral").subject
    told(lambda: mixtral.vectors(0, [4], IN), "experts 0 to 2;", "no neuron L0N4", "neurons.experts")
    told(lambda: NeuronSelection([0], ["in"], experts=["shared"]).select(mixtral, 0), "no expert shared")
    told(lambda: NeuronSelection([0], ["in"], experts=[0]).select(tiny("llama").subject, 0), "no experts")


# --- which projection -------------------------------------------------------------------------------------------------


def test_layers_are_projected_as_the_rule_says(tiny: Callable[[str], Tiny]) -> None:
    folder = str(tiny("llama").folder)

    def names(**rule: Any) -> list[str]:
        subject = Subject("llama", [folder], **rule)
        return [subject.projection_name(layer) for layer in range(3)]

    assert names() == names(projection="unembedding") == ["W_U"] * 3
    assert names(projection="embedding") == ["W_E.T"] * 3
    assert names(projection="by_layer", embedding_layers=1) == ["W_E.T", "W_U", "W_U"]
    told(lambda: names(projection="by_layer"), "projection=by_layer needs embedding_layers", "13")
    told(lambda: names(projection="sideways"), "'sideways'", "'unembedding', 'embedding', 'by_layer' or 'auto'")


def test_the_automatic_rule_takes_the_matrix_with_which_a_layer_aligns(
    tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    """Layer 0 reads and writes single tokens of the embedding, layer 1 of the unembedding, layer 2 nothing at all."""
    tiny_models.tiny_subject(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    for layer, matrix in [(0, embedding), (1, head)]:
        tokens = torch.arange(100, 164)
        for name in ("gate_proj", "up_proj"):
            weights[f"model.layers.{layer}.mlp.{name}.weight"] = matrix[tokens].clone()
        weights[f"model.layers.{layer}.mlp.down_proj.weight"] = matrix[tokens].T.contiguous()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    names = [Subject("a", [str(tmp_path)], projection="auto").projection_name(layer) for layer in (0, 1)]
    assert names == ["W_E.T", "W_U"]
    # Neither the matrices' scale nor a special token far out in one of them decides.
    embedding *= 7
    head[0] = 1000 * torch.randn(32)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    subject = Subject("b", [str(tmp_path)], projection="auto")
    assert [subject.projection_name(layer) for layer in (1, 0)] == ["W_U", "W_E.T"]
    assert torch.equal(subject.projection(0), embedding.T)
    assert torch.equal(subject.projection(1), head.T)
    assert Subject("c", [str(tiny("bert").folder)], projection="auto").projection_name(0) == "W_E.T"  # the only one


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_the_final_norm_is_folded_in(tiny: Callable[[str], Tiny], family: str) -> None:
    """Normalised vectors then have the model's own logits, up to what is the same for every vector (a norm's bias)."""
    model = tiny(family)
    subject = Subject(family, [str(model.folder)], fold_norm=True)
    vectors = torch.randn(4, subject.d_model)
    assert model.family.norm is not None
    norm, head = model.family.norm(model.model), model.model.get_output_embeddings()
    with torch.no_grad():
        if family in {"llama", "gemma2"}:
            normalised = vectors / vectors.pow(2).mean(dim=1, keepdim=True).add(1e-6).sqrt()
            expected = head(norm(vectors))
        else:
            centred = vectors - vectors.mean(dim=1, keepdim=True)
            normalised = centred / centred.pow(2).mean(dim=1, keepdim=True).add(1e-5).sqrt()
            expected = head(norm(vectors)) - head(norm.bias)
    assert torch.allclose(normalised @ subject.projection(0), expected, rtol=1e-4, atol=1e-5)
    matrix = model.subject.projection_name(0)
    assert subject.projection_name(0) == f"diag(final norm) {matrix}"
    # The model's own view of a vector stays what it is: the norm is not applied twice.
    neuron = Neuron(1, 3)
    assert subject.vocabulary_tokens(neuron, OUT, 9, final_norm=True) == model.subject.vocabulary_tokens(
        neuron, OUT, 9, final_norm=True
    )
    early = Subject(family, [str(model.folder)], projection="embedding", fold_norm=True)
    assert early.projection_name(0) == "W_E.T"
    assert torch.equal(early.projection(0), model.model.get_input_embeddings().weight.T)


def test_a_norm_that_is_not_there_cannot_be_folded_in(tiny: Callable[[str], Tiny]) -> None:
    subject = Subject("bert", [str(tiny("bert").folder)], fold_norm=True)
    told(lambda: subject.projection(0), "bert", "no final norm", "subject.fold_norm=false")


# --- families that the harness does not know --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["olmo2", "stablelm"])
def test_the_error_for_an_unknown_family_names_what_to_provide(tmp_path: Path, family: str) -> None:
    tiny_models.tiny_subject(tmp_path, family)
    subject = Subject("strange", [str(tmp_path)])
    told(lambda: subject.vectors(0, [0], IN), repr(family), "llama", "subject.architecture", "MLP", "local.yaml")


OLMOE_EXPERT = {
    kind: f"mlp.experts.{{expert}}.{name}_proj.weight" for kind, name in [(GATE, "gate"), (IN, "up"), (OUT, "down")]
}
GIVEN: dict[str, tuple[str, Any, Family]] = {
    "by the name of a family alike": ("olmo2", "llama", LLAMA),
    "by what differs from a family": (
        "stablelm",
        {"like": "llama", "norm": "layer", "norm_eps": "layer_norm_eps"},
        LLAMA,
    ),
    "in full": (
        "starcoder2",
        {
            "embedding": "embed_tokens.weight",
            "layer": "layers.{layer}",
            "mlp": {"in": "mlp.c_fc.weight", "out": "mlp.c_proj.weight", "width": "intermediate_size"},
            "final_norm": "norm",
            "norm": "layer",
            "norm_eps": "norm_epsilon",
        },
        Family(
            matrices=lambda layer: {IN: layer.mlp.c_fc.weight, OUT: layer.mlp.c_proj.weight.T},
            act=gelu_tanh,
            bias=lambda layer: layer.mlp.c_fc.bias,
        ),
    ),
    "as an object": (
        "olmo2",
        Architecture(
            mlp=MLP({GATE: ("mlp.gate_proj.weight",), IN: ("mlp.up_proj.weight",), OUT: ("mlp.down_proj.weight",)})
        ),
        LLAMA,
    ),
    "a mixture of experts": ("olmoe", {"like": "llama", "mlp": None, "experts": OLMOE_EXPERT}, MIXTURE),
}


@pytest.mark.parametrize("way", GIVEN)
def test_a_family_that_the_user_describes(tmp_path: Path, way: str) -> None:
    name, architecture, family = GIVEN[way]
    tiny_models.tiny_subject(tmp_path, name)
    subject = Subject("mine", [str(tmp_path)], architecture=architecture)
    model = Tiny(family, tmp_path, subject, load(tmp_path))
    assert_rows_are_the_models(model, subject)
    ids = torch.tensor(subject.tokenizer(TEXT).input_ids)
    number = model.mlps(1)[-1]
    expected = model.activations(1, number, model.inputs(ids)[0][1])
    neurons = [Neuron(1, 2, number), Neuron(1, 7, number)]
    read = ActivationReader(subject, neurons, "cpu").read(ids[None], torch.ones(1, len(ids)))
    assert torch.allclose(read[0], expected[:, [2, 7]], atol=1e-5)
    vectors = torch.randn(3, subject.d_model) + 0.3
    with torch.no_grad():
        assert torch.allclose(subject.final_norm(vectors), model.model.model.norm(vectors), rtol=1e-5, atol=1e-6)
    assert torch.equal(subject.projection(0), model.model.get_output_embeddings().weight.T)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nonesuch", ["'nonesuch'", "llama", "subject.architecture"]),
        ({"like": "nonesuch"}, ["'nonesuch'", "llama"]),
        ({"embeddings": "wte.weight"}, ["no field 'embeddings'", "embedding, mlp"]),
        ({"embedding": "embed_tokens.weight"}, ["neither an mlp nor experts"]),
        ({"like": "llama", "norm": "batch"}, ["'batch'", "rms or layer"]),
        ({"like": "llama", "mlp": {"in": "a.weight"}}, ["subject.architecture.mlp", "in, out", "gate"]),
        ({"like": "llama", "mlp": {"in": "a", "out": "b", "up": "c"}}, ["subject.architecture.mlp"]),
        ({"like": "llama", "mlp": {"in": "a.weight", "out": "b.weight"}}, ["no tensor layers.0.a.weight"]),
        ({"like": "llama", "embedding": "wte.weight"}, ["no tensor wte.weight"]),
        ({"like": "llama", "final_norm": "ln_f"}, ["no tensor ln_f.weight"]),
        ({"like": "llama", "d_model": "n_embd"}, ["no option 'n_embd'", "subject.architecture"]),
        ({"like": "llama", "transposed": True}, ["mlp.up_proj.weight", "(40, 24)", "(24, 40)", "transposed"]),
        (
            {
                "like": "llama",
                "mlp": {"in": "mlp.up_proj.weight", "out": "mlp.down_proj.weight", "width": "hidden_size"},
            },
            ["mlp.up_proj.weight", "(40, 24)", "(24, 24)", "width"],
        ),
        ({"like": "llama", "base": "decoder"}, ["no module decoder.layers", "subject.architecture"]),
    ],
)
def test_what_can_be_wrong_with_a_description(tmp_path: Path, given: Any, words: list[str]) -> None:
    tiny_models.tiny_subject(tmp_path, "olmo2")
    subject = Subject("mine", [str(tmp_path)], architecture=given)

    def use() -> None:
        subject.vectors(0, [0], IN)
        subject.projection(0)
        subject.final_norm(torch.randn(1, 24))
        ActivationReader(subject, [Neuron(0, 0)], "cpu")

    told(use, *words)


def test_experts_whose_activations_would_be_guessed_are_refused(tmp_path: Path) -> None:
    tiny_models.tiny_subject(tmp_path, "mixtral")
    subject = Subject("mine", [str(tmp_path)], architecture={"like": "mixtral", "experts_module": "mlp.gate"})
    assert subject.vectors(0, [0], IN, [1]).shape == (1, 24)
    told(lambda: ActivationReader(subject, [Neuron(0, 0, 1)], "cpu"), "experts cannot be read", "TopKRouter")
