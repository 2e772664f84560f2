"""Latents of dictionaries in the place of neurons: as plain PyTorch computes them from transformers' hidden states."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.dictionaries import random_tensors, write_dictionary
from support.errors import told
from support.small_run import options
from support.tiny_models import Invoke
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.export.elsewhere import export_to
from harness.folder import RunFolder
from harness.records import Neuron, Sign, Status, VectorKind
from harness.subject import ActivationReader, CausalModel, Decoding, Intervention, Mode, Subject, check_signs

TEXT = "The with statement is used to wrap the execution of a block"
LATENTS = 40
CHOSEN = [7, 0, 39]
LAYERS: dict[str, Callable[[Any], Any]] = {
    "llama": lambda model: model.model.layers,
    "gemma2": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
}
WIDTHS = {"llama": 32, "gemma2": 48, "gpt2": 24}
#: RMS norms before the MLP.
NORMS = {"llama": "post_attention_layernorm", "gemma2": "pre_feedforward_layernorm"}
#: The end of an encoder in plain PyTorch, by the architecture that SAELens names; ``t`` has the dictionary's tensors.
ORACLES: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "standard": lambda pre, t: pre.relu(),
    "jumprelu": lambda pre, t: pre.relu() * (pre > t["threshold"]),
    "batchtopk": lambda pre, t: pre.relu() * (pre > t["topk_threshold"]),
    "topk": lambda pre, t: torch.zeros_like(pre).scatter(-1, (top := pre.topk(20, dim=-1)).indices, top.values.relu()),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, small: dict[str, str]) -> Callable[[str], tuple[Path, Any]]:
    """Gives the folder of a tiny model of a family, and the model in transformers."""
    made: dict[str, tuple[Path, Any]] = {}

    def give(family: str) -> tuple[Path, Any]:
        if family not in made:
            folder = Path(small["subject.sources"].strip("[]"))
            if family != "llama":
                folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("family") / family, family)
            made[family] = folder, AutoModelForCausalLM.from_pretrained(folder, **tiny_models.REFERENCE).eval()
        return made[family]

    return give


def subject_of(folder: Path, *sae: str) -> Subject:
    return Subject("tiny", [str(folder)], dtype="float32", sae=list(sae))


def ids_of(subject: Subject) -> Tensor:
    return torch.tensor([subject.tokenizer(TEXT).input_ids])


@contextmanager
def hooked(*pairs: tuple[Any, Callable[[Any, Any, Any], Any]]) -> Iterator[None]:
    hooks = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outputs_of(model: Any, module: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input and output of a module."""
    seen: list[Tensor] = []
    with hooked((module, lambda _, given, out: seen.extend((given[0], out)))), torch.no_grad():
        model(input_ids=ids)
    return seen[0], seen[1]


def read(subject: Subject, ids: Tensor) -> list[Tensor]:
    """Return the activations of the chosen latents of each layer that has a dictionary."""
    neurons = [Neuron(layer, index) for layer in subject.layers for index in CHOSEN]
    reader = ActivationReader(subject, neurons, "cpu")
    found = reader.read(ids, torch.ones_like(ids))
    reader.close()
    return list(torch.split(found, len(CHOSEN), dim=-1))


@pytest.mark.parametrize(
    ("architecture", "newer"),
    [("standard", False), ("topk", False), ("topk", True), ("jumprelu", True), ("batchtopk", True)],
)
def test_activations_are_those_of_plain_torch(
    models: Callable[[str], tuple[Path, Any]], tmp_path: Path, architecture: str, newer: bool
) -> None:
    folder, model = models("llama")
    t = random_tensors(32, LATENTS)
    config: dict[str, Any] = {"architecture": architecture, "d_in": 32, "d_sae": LATENTS, "apply_b_dec_to_input": newer}
    if architecture == "jumprelu":
        t["threshold"] = torch.linspace(0, 3, LATENTS)
    if architecture == "batchtopk":
        t["topk_threshold"] = torch.tensor(0.5, dtype=torch.double)
    if newer:
        config |= {"metadata": {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.0.0"}, "k": 20}
    else:
        config |= {"hook_point": "blocks.1.hook_resid_post", "normalize_activations": False}
        if architecture == "topk":  # earlier versions had no such architecture
            config |= {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 20}}
    subject = subject_of(folder, write_dictionary(tmp_path, t, **config))
    ids = ids_of(subject)
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    before = (hidden - newer * t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    expected = ORACLES[architecture](before, t)[..., CHOSEN]
    assert 0 < (expected > 0).float().mean() < 1
    torch.testing.assert_close(read(subject, ids)[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(subject.vectors(1, CHOSEN, VectorKind.IN), t["W_enc"].T[CHOSEN])
    torch.testing.assert_close(subject.vectors(1, CHOSEN, VectorKind.OUT), t["W_dec"][CHOSEN])
    assert (subject.kinds, subject.layers, len(subject.neurons(1))) == ((VectorKind.IN, VectorKind.OUT), [1], LATENTS)


@pytest.mark.parametrize("family", LAYERS)
def test_every_place_of_a_layer(models: Callable[[str], tuple[Path, Any]], tmp_path: Path, family: str) -> None:
    folder, model = models(family)
    layers, t = LAYERS[family](model), random_tensors(WIDTHS[family], LATENTS)
    ids = ids_of(subject_of(folder))
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    mlp_input, _ = outputs_of(model, layers[1].mlp, ids)
    # TransformerLens has the output of Gemma's MLP after its norm.
    _, mlp_output = outputs_of(
        model, layers[1].post_feedforward_layernorm if family == "gemma2" else layers[1].mlp, ids
    )
    #: Hooks that one subject has at the same time, with the hidden states of layers 0 and 1.
    groups = [
        ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", states[1]),
        ("model.layers.0", "blocks.1.hook_mlp_out", mlp_output),
        ("blocks.0.hook_out", "blocks.1.mlp.hook_in", mlp_input),
    ]
    if family == "gpt2":  # the names that the others do not have
        groups = [
            ("transformer.h.0", "transformer.h.1.mlp", mlp_output),
            ("blocks.0.hook_out", "blocks.1.ln2.hook_normalized", mlp_input),
        ]
    if family in NORMS:  # before the weight of the norm, as Gemma Scope's transcoders read
        norm = getattr(layers[1], NORMS[family])
        assert (norm.weight.std() > 0.1).item()
        before, _ = outputs_of(model, norm, ids)
        unweighted = before * (before.pow(2).mean(dim=-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
        groups.append(("blocks.0.hook_out", "blocks.1.ln2.hook_normalized", unweighted))
    for first, second, hidden in groups:
        given: dict[str, Any] = {"apply_b_dec_to_input": False, "hook_name": second}
        if second.startswith(("blocks.1.mlp.hook_in", "blocks.1.ln2")):
            given |= {"architecture": "transcoder", "hook_name_out": "blocks.1.hook_mlp_out"}
        lower = write_dictionary(tmp_path / first, t, hook_name=first, apply_b_dec_to_input=False)
        subject = subject_of(folder, lower, write_dictionary(tmp_path / second, t, **given))
        for found, state in zip(read(subject, ids), (states[1], hidden), strict=True):
            expected = (state @ t["W_enc"] + t["b_enc"]).relu()[..., CHOSEN]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        # The vector of a latent that reads the MLP's input multiplies that input, wherever its own hook is.
        if "architecture" in given:
            own = (mlp_input @ subject.vectors(1, CHOSEN, VectorKind.IN).T + t["b_enc"][CHOSEN]).relu()
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_latents_of_several_layers_normalised_and_rescaled(
    models: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, model = models("llama")
    tensors = [random_tensors(32, LATENTS, seed) for seed in range(3)]
    common = {"architecture": "topk", "k": 20}
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)]
    given = (
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "constant_norm_rescale"},
        {"rescale_acts_by_decoder_norm": True},
    )
    folders = [
        write_dictionary(tmp_path / str(layer), tensors[layer], hook_name=hooks[layer], **common, **given[layer])
        for layer in range(3)
    ]
    subject = subject_of(folder, *folders)
    ids = ids_of(subject)
    with torch.no_grad():
        states = list(model(input_ids=ids, output_hidden_states=True).hidden_states)
    centred = states[0] - states[0].mean(dim=-1, keepdim=True)
    states[0] = centred / (centred.std(dim=-1, keepdim=True) + 1e-5)
    states[1] = states[1] * 32**0.5 / states[1].norm(dim=-1, keepdim=True)
    norms = tensors[2]["W_dec"].norm(dim=1)
    expected = []
    for layer, t in enumerate(tensors):
        before = (states[layer] - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
        expected.append(ORACLES["topk"](before * norms if layer == 2 else before, t))
    chosen = [Neuron(2, 8), Neuron(0, 3), Neuron(1, 30), Neuron(0, 1)]
    found = ActivationReader(subject, chosen, "cpu").read(ids, torch.ones_like(ids))
    wanted = torch.stack([expected[neuron.layer][..., neuron.index] for neuron in chosen], dim=-1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # The product of activation and out vector is the same as without the factor.
    torch.testing.assert_close(
        subject.vectors(2, [8], VectorKind.OUT)[0] * norms[8], tensors[2]["W_dec"][8], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["residual stream", "normalised", "transcoder"])
def test_a_clamped_latent_moves_the_stream_along_its_decoder_row(
    models: Callable[[str], tuple[Path, Any]], tmp_path: Path, kind: str
) -> None:
    folder, model = models("llama")
    layer, t = model.model.layers[1], random_tensors(32, LATENTS)
    t["b_enc"][9] += 50  # active everywhere, so that its ablation has an effect
    config: dict[str, Any] = {"apply_b_dec_to_input": False, "hook_name": "blocks.1.hook_resid_post"}
    if kind == "normalised":
        config["normalize_activations"] = "constant_norm_rescale"
    if kind == "transcoder":
        config |= {"architecture": "transcoder", "hook_name": "blocks.1.mlp.hook_in"}
        config["hook_name_out"] = "blocks.1.hook_mlp_out"
    subject = subject_of(folder, write_dictionary(tmp_path, t, **config))
    steered, ids = CausalModel(subject, "cpu"), ids_of(subject)

    def edited(change: Callable[[Tensor], Tensor], index: int) -> Tensor:
        """Return the logits after a hook that adds the change of a latent's activation times its decoder row."""

        def hook(_module: Any, given: Any, out: Any) -> Any:
            hidden = given[0] if kind == "transcoder" else out
            scale = hidden.norm(dim=-1, keepdim=True) / 32**0.5 if kind == "normalised" else 1
            activation = ((hidden / scale) @ t["W_enc"][:, index] + t["b_enc"][index]).relu()
            return out + (change(activation) - activation)[..., None] * scale * t["W_dec"][index]

        with hooked((layer.mlp if kind == "transcoder" else layer, hook)), torch.no_grad():
            return model(input_ids=ids).logits

    interventions = [
        None,
        Intervention(Neuron(1, 7), 4.0),
        Intervention(Neuron(1, 8), 2.0, Mode.ADD),
        Intervention.ablation(Neuron(1, 9)),
    ]
    found = steered.logits(ids.expand(4, -1), interventions)
    changes: list[tuple[Callable[[Tensor], Tensor], int]] = [
        (lambda a: a, 7), (lambda a: torch.full_like(a, 4.0), 7), (lambda a: a + 2.0, 8), (torch.zeros_like, 9)
    ]  # fmt: skip
    expected = torch.cat([edited(change, index) for change, index in changes])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all((expected[row] - expected[0]).abs().max() > 0.05 for row in (1, 2, 3))
    # Generated tokens are changed as well.
    prompt, decoding = ids[0].tolist(), Decoding(tokens=4, temperature=0.0)
    (new,) = steered.generate(prompt, interventions[1:2], decoding, [np.random.default_rng(0)])
    for token in new:
        assert int(steered.logits(torch.tensor([prompt]), interventions[1:2], last=True).argmax()) == token
        prompt.append(token)
    assert new


def test_a_run_describes_planted_latents(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    # Each latent reads one token from the embedding, and writes its unembedding: the truth is known.
    plain = Subject(None, [small["subject.sources"].strip("[]")], dtype="float32")
    # The first merges of the tokenizer are the most frequent words.
    decoded = {token: plain.tokenizer.decode([token]) for token in range(len(plain.tokenizer))}
    tokens = [token for token, word in decoded.items() if re.fullmatch(" [a-z]{4,}", word)][:4]
    words = [decoded[token] for token in tokens]
    embedding = plain.embedding()
    directions = torch.nn.functional.normalize(embedding[:, tokens] - embedding.mean(dim=1, keepdim=True), dim=0)
    own = directions.T @ embedding
    # Only the token itself is above the bias.
    highest_other = own.scatter(1, torch.tensor(tokens)[:, None], -torch.inf).max(dim=1).values
    bias = -(highest_other + own[range(len(tokens)), tokens]) / 2
    t = {"W_enc": directions, "b_enc": bias, "b_dec": torch.zeros(32)}
    t["W_dec"] = plain.direct_logits(torch.eye(32))[:, tokens].T
    config = {"architecture": "standard", "hook_name": "blocks.0.hook_resid_pre", "apply_b_dec_to_input": False}
    sae = write_dictionary(tmp_path / "sae", t, **config)
    given = {key: value for key, value in small.items() if not key.startswith("neurons")}
    chosen = options(
        given,
        **{"subject.sae": sae, "neurons": "all", "subject.projection": "embedding", "folder": "run"},
        describers="[rotate,maxact,raw_tokens,token_change]",
        judges="[token_simulation]",
        steering__effects__prompts="2",
    )
    code, _, err = invoke(*chosen)
    assert code == 0, err
    run = RunFolder(tmp_path / "run")
    manifest = run.read_manifest()
    assert manifest["neurons"] == [f"L0N{index}" for index in range(len(tokens))]
    about = manifest["subject"]["sae"]["0"]
    assert (about["hook"], about["latents"]) == ("blocks.0.hook_resid_pre", len(tokens))
    texts = {(item.describer, item.neuron.index): item for item in run.descriptions().records()}
    assert {item.status for item in texts.values()} == {Status.OK}
    for index, word in enumerate(words):
        # What activates the latent, what its encoder column is closest to, and what its decoder row promotes.
        for describer in ("maxact", "raw_tokens", "token_change"):
            assert word.strip() in texts[describer, index].text, (describer, word, texts[describer, index])
    for item in run.read_exemplars([Neuron(0, 3)]):
        assert all(
            (value > 0) == (token == words[3]) for token, value in zip(item.tokens, item.activations, strict=True)
        )
    scores = {(item.describer, item.neuron.index): item.value for item in run.scores().records()}
    assert sum(scores["maxact", index] or 0 for index in range(len(tokens))) > 0.5 * len(tokens), scores
    export_to(run, tmp_path / "neuronpedia", "neuronpedia")
    source = tmp_path / "neuronpedia" / "tiny-llama" / "0-res" / "source.jsonl"
    assert json.loads(source.read_text())["setName"] == "res"
    # Another dictionary at the same place is another run.
    write_dictionary(tmp_path / "sae", t | {"b_enc": bias / 2}, **config)
    code, _, err = invoke(*chosen)
    assert code == 1
    assert "holds a run of a different configuration" in err


def test_what_cannot_work_is_refused_in_one_line(models: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    folder, _ = models("llama")
    t, good = random_tensors(32, LATENTS), {"architecture": "standard", "hook_name": "blocks.1.hook_resid_post"}

    def refused(*words: str, tensors: dict[str, Tensor] | None = None, **config: Any) -> None:
        sae = write_dictionary(tmp_path / "sae", t if tensors is None else tensors, **{**good, **config})
        told(lambda: subject_of(folder, sae).weights, "subject.sae", *words)

    refused("architecture 'gated'", architecture="gated")
    refused("normalize_activations='expected_average_only_in'", normalize_activations="expected_average_only_in")
    refused("'tanh-relu'", activation_fn_str="tanh-relu")
    refused("k is None", architecture="topk")
    refused("k is 41", "40 latents", architecture="topk", k=41)
    refused("'blocks.1.attn.hook_z'", hook_name="blocks.1.attn.hook_z")
    refused("'blocks.1.ln1.hook_normalized'", hook_name="blocks.1.ln1.hook_normalized")
    refused("has layers 0 to 2", hook_name="blocks.3.hook_resid_post")
    refused("no hook_name", hook_name=None)
    refused("no hook_name_out", architecture="transcoder")
    refused("attention head", hook_head_index=2)
    refused("no threshold", architecture="jumprelu")
    refused("no tensor b_dec", tensors={name: value for name, value in t.items() if name != "b_dec"})
    refused("no matrix W_enc", tensors={"W_dec": t["W_dec"]})
    refused("W_enc", "(48, 40)", "d_model 32", tensors=random_tensors(48, LATENTS))
    refused("W_dec", "(40, 48)", tensors=t | {"W_dec": torch.zeros(LATENTS, 48)})
    refused("finetuning_scaling_factor", tensors=t | {"finetuning_scaling_factor": torch.full((LATENTS,), 2.0)})
    told(lambda: subject_of(folder, str(tmp_path)).weights, "has no cfg.json")
    sae = write_dictionary(tmp_path / "sae", t, **good)
    told(lambda: subject_of(folder, sae, sae).weights, "second dictionary of layer 1")
    subject = subject_of(folder, sae)
    told(lambda: subject.check(0, [], []), "latents of layer 1", "neurons.layers")
    told(lambda: subject.check(1, [LATENTS], []), "neurons 0 to 39")
    told(lambda: subject.check(1, [], [VectorKind.GATE]), "a latent has no 'gate' vector", "neurons.kinds")
    told(partial(check_signs, subject, [Neuron(1, 3, sign=Sign.NEGATIVE)]), "never negative")
