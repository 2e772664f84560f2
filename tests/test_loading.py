"""Loading models: weights that transformers would make up, ignore or read without their scales end the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_models
from support.errors import told
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from harness.embedding import SentenceEncoder
from harness.records import Neuron, VectorKind
from harness.subject import ActivationReader, Subject
from harness.subject.modules import check_model, load_model

GATE, IN, OUT = VectorKind
Weights = dict[str, Tensor]
QUERY = "model.layers.1.self_attn.q_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_subject(tmp_path_factory.mktemp("loading") / "llama", "llama")


def changed(
    source: Path, folder: Path, change: Callable[[Weights], Weights] = lambda weights: weights, **config: Any
) -> Subject:
    """Return a copy of a model with other weights and some options of its config."""
    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return Subject("tiny", [str(folder)], cache=str(folder.parent / "cache"))


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def renamed(change: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda weights: {change(name): value for name, value in weights.items()}


def check_refused(subject: Subject, *words: str) -> None:
    """Check that neither the model nor the model with its head loads, before any text is read."""
    for auto in (AutoModel, AutoModelForCausalLM):
        told(lambda auto=auto: check_model(subject, auto), "tiny cannot be loaded", *words)
        told(lambda auto=auto: load_model(subject, auto), "tiny cannot be loaded", *words)
    told(lambda: ActivationReader(subject, [Neuron(0, 0)], "cpu"), *words)


# --- missing, unexpected and renamed weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (without(QUERY), {}, ["lacks the weights", "layers.1.self_attn.q_proj.weight", "random"]),
        (without("model.norm.weight"), {}, ["lacks the weights", "norm.weight"]),
        (renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")), {}, ["lacks", "q_proj.weight"]),
        (lambda weights: {**weights, QUERY: torch.zeros(8, 8)}, {}, ["does not fit the shape", "q_proj.weight"]),
        (
            lambda weights: {**weights, QUERY.replace("weight", "bias"): torch.zeros(32)},
            {},
            ["would ignore the weights", "q_proj.bias"],
        ),
        (lambda weights: weights, {"attention_bias": True}, ["lacks the weights", "and 9 more"]),
        (lambda weights: weights, {"num_hidden_layers": 2}, ["would ignore the weights", "layers.2."]),
        (lambda weights: weights, {"num_hidden_layers": 4}, ["lacks the weights", "layers.3."]),
        (lambda weights: weights, {"vocab_size": 900}, ["does not fit the shape", "embed_tokens.weight"]),
        (lambda weights: weights, {"hidden_act": "nonesuch"}, ["'nonesuch' is not known to transformers"]),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(
    llama: Path, tmp_path: Path, change: Callable[[Weights], Weights], config: dict[str, Any], words: list[str]
) -> None:
    check_refused(changed(llama, tmp_path / "model", change, **config), *words)


def test_the_head_counts_only_where_it_is_used(llama: Path, tmp_path: Path) -> None:
    untied = changed(llama, tmp_path / "untied", without("lm_head.weight"))
    told(lambda: load_model(untied, AutoModelForCausalLM), "lacks the weights lm_head.weight")
    ActivationReader(untied, [Neuron(0, 0)], "cpu")
    tied = changed(llama, tmp_path / "tied", without("lm_head.weight"), tie_word_embeddings=True)
    model: Any = load_model(tied, AutoModelForCausalLM)
    assert torch.equal(model.lm_head.weight, load_file(llama / "model.safetensors")["model.embed_tokens.weight"])


def test_poolers_other_heads_and_old_buffers_do_not_count(tmp_path: Path) -> None:
    masked = Subject("bert", [str(tiny_models.tiny_subject(tmp_path / "bert", "bert"))])
    assert not any("pooler" in name for name in masked.checkpoint.names)
    assert any(name.startswith("cls.") for name in masked.checkpoint.names)
    check_model(masked, AutoModel)


def test_frequencies_that_old_checkpoints_hold_do_not_count(llama: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    check_model(changed(llama, tmp_path / "old", lambda weights: {**weights, name: torch.ones(4)}), AutoModel)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"language_model.{name}",
        lambda name: f"model.language_model.{name}",
        lambda name: name.replace("model.", "model.language_model.", 1),
        lambda name: f"_orig_mod.{name}",
    ],
    ids=["around", "twice around", "inside", "compiled"],
)
def test_weights_of_a_wrapped_model_are_found(llama: Path, tmp_path: Path, wrap: Callable[[str], str]) -> None:
    subject = changed(llama, tmp_path / "model", renamed(wrap))
    model = LlamaForCausalLM.from_pretrained(llama)
    for auto, reference in ((AutoModel, model.model), (AutoModelForCausalLM, model)):
        expected, loaded = reference.state_dict(), load_model(subject, auto).state_dict()
        assert expected.keys() == loaded.keys()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert torch.equal(subject.vectors(1, [3], IN), model.model.layers[1].mlp.up_proj.weight[3:4])
    assert torch.equal(subject.projection(0), model.lm_head.weight.T)  # untied: the head is found, too


def test_a_tokenizer_with_more_tokens_than_the_embedding(llama: Path, tmp_path: Path) -> None:
    larger = changed(llama, tmp_path / "larger")
    tokenizer = tiny_models.byte_level_tokenizer(800)
    tokenizer.add_tokens([AddedToken("<image>", special=True)])  # no text becomes a special token
    tokenizer.save_pretrained(tmp_path / "larger")
    check_model(larger, AutoModel)
    tokenizer.add_tokens(["Magikarp"])
    tokenizer.save_pretrained(tmp_path / "larger")
    told(
        lambda: check_model(Subject("tiny", [str(tmp_path / "larger")]), AutoModel), "'Magikarp'", "id 801", "800 rows"
    )


def test_padding_that_has_no_row_is_padding_all_the_same(llama: Path, tmp_path: Path) -> None:
    subject = changed(llama, tmp_path / "model")
    assert subject.padding_id == subject.tokenizer.pad_token_id
    subject.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert (subject.tokenizer.pad_token_id, subject.padding_id) == (800, 0)


def test_a_sentence_encoder_without_some_weights(tmp_path: Path) -> None:
    folder = tiny_models.tiny_subject(tmp_path / "bert", "bert")
    SentenceEncoder([str(folder)]).check()
    path = folder / "model.safetensors"
    name = "bert.encoder.layer.1.attention.self.query.weight"
    save_file(without(name)(load_file(path)), path, metadata={"format": "pt"})
    shutil.move(folder, tmp_path / "damaged")
    encoder = SentenceEncoder([str(tmp_path / "damaged")])
    told(encoder.check, "sentence encoder", "lacks the weights", "layer.1.attention.self.query.weight")


# --- quantised weights ------------------------------------------------------------------------------------------------


def float8(names: str, scales: str, block: Callable[[Tensor], tuple[int, int]]) -> Callable[[Weights], Weights]:
    """Return a change that quantises the weights of the layers to eight bits, with one scale per block."""

    def quantise(weights: Weights) -> Weights:
        found = dict(weights)
        for name, value in weights.items():
            if value.ndim == 2 and ".layers." in name:
                rows, columns = block(value)
                blocks = value.reshape(value.shape[0] // rows, rows, value.shape[1] // columns, columns)
                scale = blocks.abs().amax(dim=(1, 3)) / 448
                found[name] = (blocks / scale[:, None, :, None]).reshape(value.shape).to(torch.float8_e4m3fn)
                found[name.removesuffix("weight") + names] = scale.reshape(-1) if scales == "tensor" else scale
        return found

    return quantise


def compressed(strategy: str, **settings: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": strategy, **settings}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }


TENSOR, ROW, BLOCK = (lambda w: w.shape), (lambda w: (1, w.shape[1])), (lambda w: (8, 8))
FP8 = {"quant_method": "fp8"}


@pytest.mark.parametrize(
    ("name", "scales", "block", "quantisation"),
    [
        ("weight_scale_inv", "block", BLOCK, {**FP8, "weight_block_size": [8, 8]}),
        ("weight_scale_inv", "tensor", TENSOR, {**FP8, "activation_scheme": "static"}),
        ("weight_scale", "tensor", TENSOR, {**FP8, "activation_scheme": "static"}),
        ("weight_scale", "tensor", TENSOR, compressed("tensor")),
        ("weight_scale", "row", ROW, compressed("channel")),
        ("weight_scale", "block", BLOCK, compressed("block", block_structure=[8, 8])),
    ],
)
def test_float8_weights_are_read_with_their_scales(
    llama: Path,
    tmp_path: Path,
    name: str,
    scales: str,
    block: Callable[[Tensor], tuple[int, int]],
    quantisation: dict[str, Any],
) -> None:
    if quantisation["quant_method"] == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    subject = changed(llama, tmp_path / "model", float8(name, scales, block), quantization_config=quantisation)
    original, stored = (load_file(folder / "model.safetensors") for folder in (llama, tmp_path / "model"))
    for neuron in (0, 5):  # by hand: eight bits times the scale of the block
        rows, columns = block(stored[UP])
        scale = stored[UP.removesuffix("weight") + name].reshape(-1, stored[UP].shape[1] // columns)
        expected = stored[UP][neuron].float() * scale[neuron // rows].repeat_interleave(columns)
        assert torch.equal(subject.vectors(1, [neuron], IN)[0], expected)
        assert torch.allclose(expected, original[UP][neuron], rtol=0.07, atol=1e-3)
    model: Any = load_model(subject, AutoModelForCausalLM)
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight[:2], subject.vectors(1, [0, 1], IN))
    assert torch.equal(model.lm_head.weight, original["lm_head.weight"])
    assert subject.checkpoint.names == sorted(original)  # no scales are left
    again = Subject("tiny", [str(tmp_path / "model")], cache=str(tmp_path / "cache"))
    assert again.files == subject.files


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"quant_method": "mxfp4"},
        {"quant_method": "fbgemm_fp8"},
        {"quant_algo": "FP8"},
    ],
)
def test_formats_that_are_not_dequantised_exactly(llama: Path, tmp_path: Path, quantisation: dict[str, Any]) -> None:
    subject = changed(llama, tmp_path / "model", quantization_config=quantisation)
    method = quantisation.get("quant_method", "unknown format")
    for read in (lambda: subject.vectors(0, [0], IN), lambda: subject.d_model, lambda: load_model(subject, AutoModel)):
        told(read, str(tmp_path / "model"), "quantised", method, "fp8, compressed-tensors", "made from")


def test_eight_bit_weights_whose_scales_transformers_does_not_know(llama: Path, tmp_path: Path) -> None:
    subject = changed(llama, tmp_path / "model", float8("scaling", "tensor", TENSOR), quantization_config=FP8)
    told(lambda: subject.vectors(0, [0], IN), "cannot be dequantised", "would ignore the weights", "scaling")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (float8("weight_scale", "tensor", TENSOR), ["up_proj.weight_scale"]),
        (float8("factor", "tensor", TENSOR), ["F8_E4M3"]),
        (lambda weights: {**weights, UP: weights[UP].to(torch.int8)}, ["I8"]),
        (lambda weights: {**weights, UP.replace("weight", "SCB"): torch.ones(64)}, ["up_proj.SCB"]),
        (lambda weights: {**weights, UP.replace("weight", "weight_scale"): torch.ones(1)}, ["up_proj.weight_scale"]),
    ],
    ids=["float8", "float8, other names", "int8", "bitsandbytes", "plain numbers with a scale"],
)
def test_quantised_weights_without_a_word_in_the_config(
    llama: Path, tmp_path: Path, change: Callable[[Weights], Weights], words: list[str]
) -> None:
    subject = changed(llama, tmp_path / "model", change)
    told(lambda: subject.vectors(1, [0], IN), UP, "quantised", "quantization_config", *words)
