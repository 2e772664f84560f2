"""Interventions on neurons: equal to models with edited weights, in every causal family."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.errors import told
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from harness.records import Neuron, Sign, VectorKind
from harness.subject import (
    ActivationReader,
    CausalModel,
    Decoding,
    Intervention,
    Mode,
    OutChange,
    Subject,
    check_causal,
    read_mlps,
)
from harness.subject.architecture import ARCHITECTURES

#: Where each family keeps its layers, and a layer the module that leads from the neurons back into the stream.
LAYERS: dict[str, Callable[[Any], Any]] = {
    "gemma3": lambda model: model.model.language_model.layers,
    "gpt2": lambda model: model.transformer.h,
    "gpt_neox": lambda model: model.gpt_neox.layers,
    "opt": lambda model: model.model.decoder.layers,
}
DOWN: dict[str, Callable[[Any], Any]] = {
    "gpt2": lambda layer: layer.mlp.c_proj,
    "gpt_neox": lambda layer: layer.mlp.dense_4h_to_h,
    "opt": lambda layer: layer.fc2,
    "qwen2_moe": lambda layer: layer.mlp.shared_expert.down_proj,
}
DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3", *DOWN)
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
ENCODERS = ("bert", "roberta")
TEXT = "The with statement is used to wrap the execution of a block"


@dataclass(frozen=True)
class Tiny:
    """A tiny model as the harness sees it, run with interventions, and whole in transformers."""

    family: str
    folder: Path
    subject: Subject
    steered: CausalModel
    model: Any

    @property
    def ids(self) -> Tensor:
        return torch.tensor([self.subject.tokenizer(TEXT).input_ids])

    def down(self, model: Any, layer: int) -> Any:
        """Return a layer's down projection, found without the harness."""
        layers = LAYERS.get(self.family, lambda model: model.model.layers)(model)
        return DOWN.get(self.family, lambda layer: layer.mlp.down_proj)(layers[layer])

    def edited(self, layer: int, index: int, *, keep: float, bias: float) -> Tensor:
        """Return the logits of the model with a neuron's out vector scaled, and a multiple of it added to the bias."""
        model = copy.deepcopy(self.model)
        down = self.down(model, layer)
        with torch.no_grad():
            row = down.weight[index] if self.family == "gpt2" else down.weight[:, index]
            added = bias * row
            down.bias = nn.Parameter(added.clone() if down.bias is None else down.bias + added)
            row *= keep
            return model(input_ids=self.ids).logits

    def plain(self) -> Tensor:
        with torch.no_grad():
            return self.model(input_ids=self.ids).logits


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Gives a tiny model of each family, made once."""
    made: dict[str, Tiny] = {}

    def give(family: str) -> Tiny:
        if family not in made:
            folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("family") / family, family)
            subject = Subject(family, [str(folder)], dtype="float32")
            whole = AutoModelForCausalLM.from_pretrained(folder, **tiny_models.REFERENCE)
            made[family] = Tiny(family, folder, subject, CausalModel(subject, "cpu"), whole)
        return made[family]

    return give


@pytest.fixture(params=DENSE)
def dense(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


@pytest.fixture(params=MIXTURES)
def mixture(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


def same(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-4, atol=1e-4)


def test_every_causal_family_is_tested() -> None:
    assert {*DENSE, *MIXTURES, *ENCODERS} == set(ARCHITECTURES)


def test_interventions_are_edits_of_the_weights(dense: Tiny) -> None:
    ids, index = dense.ids, 7
    for layer in (0, 1) if dense.family != "qwen2_moe" else (0,):
        neuron = Neuron(layer, index)
        plain = dense.plain()
        expected = {
            Intervention(neuron, 30.0): dense.edited(layer, index, keep=0, bias=30),
            Intervention(neuron.with_sign(Sign.NEGATIVE), 30.0): dense.edited(layer, index, keep=0, bias=-30),
            Intervention(neuron, 12.0, Mode.ADD): dense.edited(layer, index, keep=1, bias=12),
            Intervention(neuron.with_sign(Sign.NEGATIVE), 12.0, Mode.ADD): dense.edited(layer, index, keep=1, bias=-12),
            Intervention.ablation(neuron): dense.edited(layer, index, keep=0, bias=0),
            Intervention.ablation(neuron, 0.5): dense.edited(layer, index, keep=0, bias=0.5),
            None: plain,
        }
        # All in one batch, each row its own; then one by one.
        rows = list(expected)
        together = dense.steered.logits(ids.repeat(len(rows), 1), rows)
        for row, (given, logits) in enumerate(expected.items()):
            assert same(together[row], logits[0]), given
            assert same(dense.steered.logits(ids, [given])[0], logits[0]), given
            assert given is None or not torch.equal(logits, plain)


#: Where a layer keeps the gate and in vectors of its dense or shared MLP; phi3 keeps both in one module, gate first.
READING: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gpt2": lambda layer: {"in": layer.mlp.c_fc},
    "gpt_neox": lambda layer: {"in": layer.mlp.dense_h_to_4h},
    "opt": lambda layer: {"in": layer.fc1},
    "phi3": lambda layer: {"gate": layer.mlp.gate_up_proj, "in": layer.mlp.gate_up_proj},
    "qwen2_moe": lambda layer: {"gate": layer.mlp.shared_expert.gate_proj, "in": layer.mlp.shared_expert.up_proj},
}


def test_changed_out_vectors_are_edits_of_the_weights(dense: Tiny) -> None:
    neuron = Neuron(0, 7)
    weight = dense.down(dense.model, 0).weight.detach()
    vector = weight[7] if dense.family == "gpt2" else weight[:, 7]
    rows = [None, OutChange(neuron, -vector), OutChange(neuron, 2 * vector), Intervention.ablation(Neuron(0, 3))]
    expected = [dense.plain(), *(dense.edited(0, index, keep=keep, bias=0) for index, keep in ((7, 0), (7, 3), (3, 0)))]
    found = dense.steered.logits(dense.ids.repeat(len(rows), 1), rows)
    for logits, right in zip(found, expected, strict=True):
        assert same(logits, right[0])
    assert torch.equal(dense.steered.logits(dense.ids.repeat(len(rows), 1), rows, last=True), found[:, -1])


def test_activations_of_changed_vectors_are_those_of_edited_models(dense: Tiny) -> None:
    indices, start = [7, 3], 1
    found = read_mlps(dense.subject, [Neuron(0, index) for index in indices], [dense.ids], start, "cpu")[0]
    change = torch.randn(dense.subject.d_model, generator=torch.Generator().manual_seed(0))
    for kind in (kind for kind in dense.subject.kinds if kind is not VectorKind.OUT):
        before = dict(found.before)
        before[kind] = before[kind] + (found.hidden @ change)[:, None]

        model = copy.deepcopy(dense.model)
        layers = LAYERS.get(dense.family, lambda model: model.model.layers)(model)
        both = READING.get(dense.family, lambda layer: {"gate": layer.mlp.gate_proj, "in": layer.mlp.up_proj})
        weight = both(layers[0])[kind].weight
        offset = dense.subject.d_mlp if dense.family == "phi3" and kind is VectorKind.IN else 0
        entering: list[Tensor] = []
        dense.down(model, 0).register_forward_pre_hook(lambda _, inputs, kept=entering: kept.append(inputs[0]))
        with torch.no_grad():
            for index in indices:
                row = weight[:, index] if dense.family == "gpt2" else weight[offset + index]
                row += change
            model(input_ids=dense.ids)
        assert same(found.activate(before), entering[0].view(-1, entering[0].shape[-1])[start:, indices])


@pytest.mark.parametrize("family", ENCODERS)
def test_activations_of_encoders_are_computed_from_the_input_of_the_mlp(family: str, tmp_path: Path) -> None:
    subject = Subject(family, [str(tiny_models.tiny_subject(tmp_path / family, family))], dtype="float32")
    ids = torch.tensor([subject.tokenizer(TEXT).input_ids])
    neurons = [Neuron(1, 2), Neuron(1, 9)]
    found = read_mlps(subject, neurons, [ids], 0, "cpu")[1]
    assert same(found.activations, ActivationReader(subject, neurons, "cpu").read(ids, torch.ones_like(ids))[0])
    assert same(found.activate(found.before), found.activations)


def test_neurons_of_different_layers_share_a_batch(dense: Tiny) -> None:
    if dense.family == "qwen2_moe":
        pytest.skip("its second layer is no mixture, and its first neuron is tested above")
    rows = [Intervention(Neuron(0, 3), 9.0), None, Intervention(Neuron(1, 5), -9.0), Intervention(Neuron(1, 3), 9.0)]
    together = dense.steered.logits(dense.ids.repeat(len(rows), 1), rows)
    assert same(together[0], dense.edited(0, 3, keep=0, bias=9)[0])
    assert same(together[1], dense.plain()[0])
    assert same(together[2], dense.edited(1, 5, keep=0, bias=-9)[0])
    assert same(together[3], dense.edited(1, 3, keep=0, bias=9)[0])


def test_only_the_chosen_positions_are_changed(dense: Tiny) -> None:
    ids, neuron = dense.ids, Neuron(0, 2)
    positions = torch.zeros_like(ids)
    positions[:, 4:] = 1
    some = dense.steered.logits(ids, [Intervention(neuron, 25.0)], positions=positions)
    whole, plain = dense.steered.logits(ids, [Intervention(neuron, 25.0)]), dense.plain()
    assert same(some[:, :4], plain[:, :4])  # what comes later is not seen
    assert not same(some[:, 4:], plain[:, 4:])
    assert not same(some[:, 4:], whole[:, 4:])


def test_padding_changes_nothing(dense: Tiny) -> None:
    ids = dense.ids
    padded, mask = torch.cat([ids, ids[:, :3]], dim=1), torch.ones(1, ids.shape[1] + 3, dtype=torch.long)
    mask[:, -3:] = 0
    given = [Intervention(Neuron(0, 2), 25.0)]
    found = dense.steered.logits(padded, given, attention_mask=mask)
    assert same(found[:, : ids.shape[1]], dense.steered.logits(ids, given))


def test_nothing_is_left_behind(dense: Tiny) -> None:
    before = dense.steered.logits(dense.ids, [None])
    dense.steered.logits(dense.ids, [Intervention(Neuron(0, 1), 50.0)])
    told(lambda: dense.steered.logits(dense.ids, [Intervention(Neuron(0, 1), float("nan"))]), "NaN", "float32")
    assert torch.equal(dense.steered.logits(dense.ids, [None]), before)


def by_hand(tiny: Tiny, layer: int, expert: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits of a model whose one layer's experts are computed one by one, the activations changed."""
    model = copy.deepcopy(tiny.model)
    experts = model.model.layers[layer].mlp.experts

    def forward(hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden)
        for number in range(len(experts.down_proj)):
            gate, into = linear(hidden, experts.gate_up_proj[number]).chunk(2, dim=-1)
            activations = nn.functional.silu(gate) * into
            activations = change(activations.clone()) if number == expert else activations
            weight = (weights * (chosen == number)).sum(dim=-1, keepdim=True)
            total += weight * linear(activations, experts.down_proj[number])
        return total

    experts.forward = forward
    with torch.no_grad():
        return model(input_ids=tiny.ids).logits


def test_neurons_of_experts_are_changed_where_tokens_are_routed_to_them(mixture: Tiny) -> None:
    index = 4
    assert same(by_hand(mixture, 0, 0, lambda values: values), mixture.plain())
    for expert in range(3):

        def clamped(values: Tensor, value: float = 40.0) -> Tensor:
            values[:, index] = value
            return values

        def added(values: Tensor) -> Tensor:
            values[:, index] -= 8.0
            return values

        neuron = Neuron(0, index, expert)
        rows = [
            Intervention(neuron, 40.0),
            Intervention(neuron.with_sign(Sign.NEGATIVE), 8.0, Mode.ADD),
            Intervention.ablation(neuron),
            None,
            Intervention(Neuron(0, index, (expert + 1) % 3), 40.0),
        ]
        together = mixture.steered.logits(mixture.ids.repeat(len(rows), 1), rows)
        assert same(together[0], by_hand(mixture, 0, expert, clamped)[0])
        assert same(together[1], by_hand(mixture, 0, expert, added)[0])
        assert same(together[2], by_hand(mixture, 0, expert, lambda values: clamped(values, 0.0))[0])
        assert same(together[3], mixture.plain()[0])
        assert same(together[4], by_hand(mixture, 0, (expert + 1) % 3, clamped)[0])


def test_models_that_are_not_causal_are_refused(tmp_path: Path, tiny: Callable[[str], Tiny]) -> None:
    for family in ENCODERS:
        subject = Subject(f"my-{family}", [str(tiny_models.tiny_subject(tmp_path / family, family))])
        told(partial(check_causal, subject, "token_change"), "token_change needs a causal", f"my-{family} is a masked")
        told(partial(CausalModel, subject, "cpu"), "causal language model")
    llama = tiny("llama")
    told(lambda: llama.steered.logits(llama.ids, [Intervention(Neuron(0, 64), 1.0)]), "neurons 0 to 63")
    told(lambda: llama.steered.logits(llama.ids, [Intervention(Neuron(7, 0), 1.0)]), "no layer 7")
    # A checkpoint of the base model alone: transformers would make up a head.
    tiny_models.tiny_subject(tmp_path / "base", "llama")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").model
    base.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    told(lambda: check_causal(Subject("base", [str(tmp_path / "base")]), "token_change"), "no language-model head")


def test_interventions_in_half_precision(tiny: Callable[[str], Tiny]) -> None:
    llama = tiny("llama")
    half = CausalModel(Subject("half", [str(llama.folder)], dtype="bfloat16"), "cpu")
    given = [Intervention(Neuron(1, 2), 25.0), Intervention(Neuron(2, 2), -9.0, Mode.ADD), None]
    ids = llama.ids.repeat(3, 1)
    found, expected = half.logits(ids, given), llama.steered.logits(ids, given)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).std() < 0.03 * expected.std()
    assert len(half.generate(llama.ids[0].tolist(), given, Decoding(4), numbers(3))) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
@pytest.mark.parametrize("family", ["gemma2", "opt", "qwen2_moe"])
def test_a_gpu_computes_and_writes_the_same(tiny: Callable[[str], Tiny], family: str) -> None:
    cpu = tiny(family)
    gpu = CausalModel(cpu.subject, "cuda")
    expert = 1 if family == "qwen2_moe" else None
    given = [Intervention(Neuron(0, 2), 25.0), Intervention(Neuron(0, 2, expert), -9.0, Mode.ADD), None]
    ids, positions = cpu.ids.repeat(3, 1), torch.ones_like(cpu.ids).repeat(3, 1)
    positions[:, 0] = 0
    found = gpu.logits(ids, given, positions=positions)
    assert found.is_cuda
    assert torch.allclose(found.cpu(), cpu.steered.logits(ids, given, positions=positions), atol=1e-3)
    prompt, decoding = cpu.ids[0].tolist(), Decoding(8)
    texts = [model.generate(prompt, given, decoding, numbers(3), spare=1) for model in (cpu.steered, gpu)]
    assert texts[0] == texts[1]


# --- texts ------------------------------------------------------------------------------------------------------------


def numbers(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(count)]


def continued(
    tiny: Tiny,
    rows: list[Intervention | None],
    decoding: Decoding,
    draws: list[np.random.Generator] | None = None,
    spare: int = 0,
) -> list[list[int]]:
    return tiny.steered.generate(tiny.ids[0].tolist(), rows, decoding, draws or numbers(len(rows)), spare=spare)


def test_greedy_texts_are_those_of_the_logits(dense: Tiny) -> None:
    """Token by token with a cache the same happens as in whole passes over the growing text."""
    rows = [None, Intervention(Neuron(0, 2), 25.0), Intervention(Neuron(0, 2).with_sign(Sign.NEGATIVE), 25.0)]
    found = continued(dense, rows, Decoding(5, temperature=0), spare=2)
    for given, tokens in zip(rows, found, strict=True):
        text = dense.ids
        for token in tokens:
            positions = torch.ones_like(text)
            positions[:, :2] = 0
            logits = dense.steered.logits(text, [given], positions=positions)[0, -1]
            assert logits[token] >= logits.max() - 1e-4
            text = torch.cat([text, torch.tensor([[token]])], dim=1)


def test_a_row_says_the_same_in_any_batch(dense: Tiny) -> None:
    rows = [Intervention(Neuron(0, index), value) for index in (1, 4) for value in (-20.0, 20.0)] + [None]
    together = continued(dense, rows, Decoding(8))
    for row, given in enumerate(rows):
        assert continued(dense, [given], Decoding(8), [numbers(len(rows))[row]]) == [together[row]]
    assert together != continued(dense, rows, Decoding(8), numbers(len(rows), seed=1))


def test_tokens_are_drawn_as_often_as_the_model_says(tiny: Callable[[str], Tiny]) -> None:
    llama, count = tiny("llama"), 4000
    drawn = [tokens[0] for tokens in continued(llama, [None] * count, Decoding(1, temperature=0.3)) if tokens]
    expected = torch.softmax(llama.plain()[0, -1] / 0.3, dim=0)
    found = torch.bincount(torch.tensor(drawn), minlength=800) / count
    likely = expected.topk(5).indices
    deviation = (expected[likely] * (1 - expected[likely]) / count).sqrt()
    assert expected[likely[0]] > 0.01
    assert ((found - expected)[likely].abs() < 4 * deviation).all()
    # Only the likeliest that together have the share.
    order = expected.sort(descending=True)
    kept = order.indices[: int((order.values.cumsum(0) < 0.2).sum()) + 1]
    nucleus = continued(llama, [None] * 200, Decoding(1, temperature=0.3, top_p=0.2))
    assert {tokens[0] for tokens in nucleus if tokens} <= set(kept.tolist())
