"""Corpora: files, datasets, conversations and the installed documentation."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from support import tiny_models
from support.errors import told
from support.evidence import SMALL, Listed, both_signs, collect, cut_windows, lines, make_subjects, pieces
from transformers import AutoModel

from harness.evidence import (
    Conversations,
    Document,
    HuggingFaceDataset,
    InstalledDocs,
    TextFiles,
)
from harness.evidence.corpus import Message
from harness.evidence.encoding import CONTEXT, TURN, Encoder
from harness.evidence.windows import Cutter
from harness.records import Neuron, Source, Split
from harness.subject import Subject


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return make_subjects(tmp_path_factory)


@pytest.fixture
def llama(subjects: dict[str, Subject]) -> Subject:
    return subjects["llama"]


def talks(count: int) -> list[list[dict[str, str]]]:
    parts = [text[start : start + 90] for text in tiny_models.texts()[:40] for start in (0, 400, 800)]
    return [
        [
            {"role": "user", "content": f" {parts[number]} <|assistant|>"},
            {"role": "assistant", "content": parts[-number - 1]},
        ]
        for number in range(count)
    ]


def test_a_chat_templates_tokens_never_count(llama: Subject, tmp_path: Path) -> None:
    path = lines(tmp_path / "chat.jsonl", *({"messages": talk} for talk in talks(50)))
    corpus = Conversations(TextFiles([str(path)], column="messages"))
    config = replace(SMALL, window=60)
    neurons = both_signs(*(Neuron(1, index) for index in range(8)))
    kept = collect(corpus, llama, neurons, config, folder=tmp_path)
    windows = cut_windows(corpus.documents(99), llama, config, seed=3)
    tokenizer, model = llama.tokenizer, AutoModel.from_pretrained(llama.files.folder).eval()
    seen: list[torch.Tensor] = []
    model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    template = {tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<|user|>", "<|assistant|>")}
    truth: list[torch.Tensor] = []
    for window in windows:
        with torch.no_grad():
            model(input_ids=torch.tensor([[tokenizer.bos_token_id, *window.tokens]]))
        said = [at for at, token in enumerate(window.tokens) if token not in template]
        assert said == [at for at, mark in enumerate(window.marks) if mark != CONTEXT]
        truth.append(seen.pop()[1:][said])
    assert any(len(truth[n]) < len(window.tokens) for n, window in enumerate(windows))
    for item in kept.exemplars:
        values = truth[item.window][:, item.neuron.index] * (-1 if item.neuron.negative else 1)
        counted = [at for at, mark in enumerate(windows[item.window].marks) if mark != CONTEXT]
        by_piece = [
            values[[counted.index(at) for at in spans]].max() for _, spans in pieces(llama, windows[item.window])
        ]
        assert item.activations == pytest.approx([float(value) for value in by_piece], abs=5e-5)
        assert len(item.tokens) == len(item.activations)
        text = "".join(item.tokens)
        assert "<|user|>" not in text
    for neuron in neurons:
        for split in Split:
            sign = -1 if neuron.negative else 1
            own = [truth[n][:, neuron.index] * sign for n, window in enumerate(windows) if window.split is split]
            peaks = sorted((float(values.max()) for values in own), reverse=True)
            top = [item.activation for item in kept.of(neuron, split, Source.TOP)]
            assert top == pytest.approx([peak for peak in peaks if peak > 0][:3], abs=5e-5)


def test_formatted_conversation(llama: Subject) -> None:
    encoder = Encoder(llama.tokenizer)
    (talk,) = talks(1)
    messages = tuple(Message(item["role"], item["content"]) for item in talk)
    (encoded,) = encoder.encode([Document.of(messages)])
    written = llama.tokenizer.apply_chat_template(talk, tokenize=False)
    shown = llama.tokenizer.decode(encoded.tokens, clean_up_tokenization_spaces=False)
    assert f"<s>{shown}" == written  # the prefix <s> is added to every window instead
    texts = llama.surface(encoded.tokens[encoded.marks != CONTEXT].tolist())
    assert "".join(texts) == talk[0]["content"] + talk[1]["content"]  # "<|assistant|>" inside a message is text
    (turn,) = np.flatnonzero(encoded.marks == TURN)
    assert llama.surface(encoded.tokens[turn:].tolist())[0] in talk[1]["content"]


def test_a_custom_template_may_strip_and_refuse(
    llama: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
        "[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    )
    encoder = Encoder(llama.tokenizer, template)
    plain = Document.of((Message("user", "  hello there \n"), Message("bot", "user")))
    refused = Document.of((Message("system", "be kind"), Message("user", "why?")))
    one, two = encoder.encode([plain, refused])
    assert llama.tokenizer.decode(one.tokens, clean_up_tokenization_spaces=False) == "[user] hello there\n[bot] user\n"
    # The template's space is a part of the token " user".
    assert "".join(llama.surface(one.tokens[one.marks != CONTEXT].tolist())).strip() == "hello there user"
    assert len(two.tokens) == 0
    assert encoder.refused == 1
    path = lines(
        tmp_path / "chat.jsonl", *({"m": [{"role": "system", "content": "x"}, *talk], "n": 1} for talk in talks(9))
    )
    corpus = Conversations(TextFiles([str(path)], column="m"), template)
    told(
        lambda: collect(corpus, llama, [Neuron(0, 0)], folder=tmp_path),
        "refuses every conversation",
        "no system messages",
        "corpus.template",
    )


def test_malformed_conversations_are_refused(subjects: dict[str, Subject], tmp_path: Path) -> None:
    path = lines(tmp_path / "chat.jsonl", {"m": [{"from": "user", "value": "a"}], "t": "text"})
    files = TextFiles([str(path)], column="m")
    told(lambda: list(Conversations(files).texts()), str(path), "line 1", "'role'", "corpus.source.column")
    told(lambda: list(Conversations(TextFiles([str(path)], column="t")).texts()), "corpus.role")
    told(lambda: list(files.texts()), "list", "corpus=chat")
    assert list(Conversations(files, role="from", content="value").texts()) == [(Message("user", "a"),)]
    corpus = Conversations(files, role="from", content="value")
    told(
        lambda: list(Cutter(Encoder(subjects["bert"].tokenizer), SMALL, 0).cut(corpus.documents(None))),
        "no chat template",
        "corpus.template",
    )


def test_a_corpus_without_text(tmp_path: Path, llama: Subject) -> None:
    told(lambda: list(Listed(["", " \n"], "hollow").documents(None)), "hollow", "empty", "(corpus)")
    told(lambda: TextFiles([str(tmp_path)]).documents(9), "files", "empty")


def test_the_documentation_on_this_machine() -> None:
    found = [document.text for document in InstalledDocs(max_files=12).documents(None)]
    assert any(text.startswith("Record of phased-in incompatible language changes") for text in found)  # __future__.py
    assert any("context manager" in text for text in found)  # the reference's chapter on "with"
    assert min(map(len, found)) >= 200
    assert found == [document.text for document in InstalledDocs(max_files=12).documents(None)]
    long = list(InstalledDocs(max_files=1, min_characters=5000).documents(None))
    assert 0 < len(long) < len(found)
    assert min(len(document.text) for document in long) >= 5000


def test_a_local_dataset_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines(folder / "train.jsonl", {"body": "one", "n": 1}, {"body": None, "n": 2}, {"body": "three", "n": 3})
    path = str(folder)
    found = HuggingFaceDataset(path, column="body").documents(None)
    found_texts = {"one", "three"}
    assert {document.text for document in found} == found_texts
    assert [document.text for document in HuggingFaceDataset(path, column="body", max_examples=1).documents(None)] == [
        "one"
    ]
    told(lambda: list(HuggingFaceDataset(path).documents(None)), path, "'text'", "body, n", "corpus.column")
    told(lambda: list(HuggingFaceDataset(path, column="n").documents(None)), path, "'n'", "int", "corpus.column")
    told(lambda: list(HuggingFaceDataset(path, split="test").documents(None)), path, "test", "corpus.split")
    # The library takes only the files named after the split, and only one type of files.
    lines(folder / "more.jsonl", {"body": "four"})
    (folder / "train.csv").write_text("body\nfive\n")
    (folder / "README.md").write_text("About the data.")
    with caplog.at_level(logging.INFO, "harness"):
        assert {document.text for document in HuggingFaceDataset(path, column="body").documents(None)} == found_texts
    assert "files of other types or names (2)" in caplog.text
    shutil.rmtree(folder)


def test_a_cached_copy_is_not_taken_for_another_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"text": "of some revision"})
    made = datasets.load_dataset_builder("json", data_files=str(tmp_path / "train.jsonl"), cache_dir=str(tmp_path))
    made.download_and_prepare()
    copy = tmp_path / "user___name" / "default" / "0.0.0" / "abc"
    shutil.copytree(made.cache_dir, copy)
    (copy / "json-train.arrow").rename(copy / "name-train.arrow")
    info = json.loads((copy / "dataset_info.json").read_text()) | {"dataset_name": "name", "config_name": "default"}
    (copy / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert list(HuggingFaceDataset("user/name").texts()) == ["of some revision"]
    told(lambda: list(HuggingFaceDataset("user/name", revision="main").texts()), "revision main", "user/name")


def test_an_unavailable_dataset_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told(lambda: list(HuggingFaceDataset("nobody/nothing").documents(None)), "nobody/nothing", "cannot be read")
    told(lambda: list(HuggingFaceDataset(str(tmp_path / "no")).documents(None)), str(tmp_path / "no"), "corpus.path")
