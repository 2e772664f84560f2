"""Evidence: no text stands in two splits, and what is kept is what a search through every window would find."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mistakes import told
from tokenizers import processors
from transformers import AutoModel

from harness.evidence import (
    Corpus,
    CorpusSummary,
    Document,
    EvidenceConfig,
    HuggingFaceDataset,
    InstalledDocs,
    TextFiles,
    Window,
    collect_exemplars,
    gather_windows,
    special_affixes,
    summarise,
)
from harness.evidence.windows import cut_windows, split_of
from harness.records import Exemplar, Neuron, Source, Split
from harness.subject import Subject

SHARES = {Split.EXPLAIN: 0.3, Split.SELECT: 0.2, Split.CALIBRATE: 0.2, Split.REPORT: 0.3}
SMALL = EvidenceConfig(window=12, splits=SHARES, top=3, random=4, batch_windows=16)


class Listed(Corpus):
    """A corpus of one's own."""

    def __init__(self, texts: Sequence[str], name: str = "listed") -> None:
        self.name, self._texts = name, texts

    def texts(self) -> Iterator[str]:
        yield from self._texts


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """Models whose tokenizers frame a text: BERT's on both sides, Llama's with <s>; Gemma's not at all."""
    made = {}
    for family in tiny_models.FAMILIES:
        folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("evidence") / family, family)
        if family == "llama":
            tokenizer = tiny_models.byte_level_tokenizer(800)
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
            )
            tokenizer.save_pretrained(folder)
        made[family] = Subject(family, [str(folder)])
    return made


@pytest.fixture(params=tiny_models.FAMILIES)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return subjects[request.param]


@pytest.fixture
def llama(subjects: dict[str, Subject]) -> Subject:
    return subjects["llama"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Sixty beginnings of texts, some so short that they are less than a window."""
    return [text[: 20 if number % 6 == 0 else 150] for number, text in enumerate(tiny_models.texts()[:60])]


# --- splits and windows -----------------------------------------------------------------------------------------------

shares = st.fixed_dictionaries({split: st.floats(0.01, 10) for split in Split})


@given(shares=shares, seed=st.integers(0, 2**32), length=st.sampled_from([4, 16, 20]), data=st.data())
@settings(max_examples=100, deadline=None)
def test_no_text_stands_in_two_splits(
    subjects: dict[str, Subject], shares: dict[Split, float], seed: int, length: int, data: st.DataObject
) -> None:
    paragraphs = ["a licence that all files bear ", "to be or not to be, that is ", "x = f(y)\n" * 3, "12 ", "été"]
    texts = data.draw(st.lists(st.lists(st.sampled_from(paragraphs), min_size=1, max_size=5).map("".join), min_size=1))
    documents = [Document.of(text) for text in texts]
    windows = cut_windows(documents, subjects["llama"].tokenizer, length=length, shares=shares, seed=seed)
    homes: dict[str, set[Split]] = defaultdict(set)
    for window in windows:
        homes[window.document].add(window.split)
    assert all(len(splits) == 1 for splits in homes.values())
    runs = Counter(window.tokens for window in windows)
    assert set(runs.values()) <= {1}
    copies: dict[tuple[int, ...], set[Split]] = defaultdict(set)
    for window in windows:
        for start in range(len(window.tokens) - 15):
            copies[window.tokens[start : start + 16]].add(window.split)
    assert all(len(splits) == 1 for splits in copies.values())  # not even a copied sentence, wherever a window begins
    assert windows


@given(shares=shares, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_splits_get_their_shares_of_the_documents(shares: dict[Split, float], seed: int) -> None:
    count = 1500
    dealt = Counter(split_of(f"document {number}", shares, seed) for number in range(count))
    for split, share in shares.items():
        expected = share / sum(shares.values())
        assert abs(dealt[split] / count - expected) < 6 * (expected * (1 - expected) / count) ** 0.5 + 1e-9


def test_windows_tile_their_document(llama: Subject, texts: list[str]) -> None:
    documents = [Document.of(text) for text in dict.fromkeys(texts) if len(text) == 150]
    windows = cut_windows(documents, llama.tokenizer, length=7, shares=SHARES, seed=0)
    cut = defaultdict(list)
    for window in windows:
        cut[window.document].append(window.tokens)
    whole = 0
    for document in documents:
        tokens = llama.tokenizer(document.text, add_special_tokens=False).input_ids
        full = [tuple(tokens[start : start + 7]) for start in range(0, len(tokens) - 6, 7)]
        kept = cut[document.id]
        assert kept == [run for run in full if run in kept]  # in order; what is missing stands in an earlier document
        whole += len(kept) == len(full)
    assert whole > len(documents) / 2
    assert {len(window.tokens) for window in windows} == {7}
    short = cut_windows([Document.of("one two")], llama.tokenizer, length=50, shares=SHARES, seed=0)
    assert ["".join(llama.surface(window.tokens)) for window in short] == ["one two"]  # all there is


def test_a_licence_that_all_documents_bear_is_kept_once(llama: Subject) -> None:
    licence = "Permission is hereby granted, free of charge, to any person obtaining a copy. " * 3
    tokens = llama.tokenizer(licence, add_special_tokens=False).input_ids[:-2]  # the end may merge with what follows
    documents = [Document.of(licence + text[:300]) for text in tiny_models.texts()]
    windows = cut_windows(documents, llama.tokenizer, length=len(tokens), shares=SHARES, seed=0)
    assert len({window.split for window in windows}) == 4
    assert [window.tokens for window in windows].count(tuple(tokens)) == 1


def test_documents_that_occur_twice_count_once_and_their_order_does_not_matter(
    llama: Subject, texts: list[str]
) -> None:
    windows = gather_windows(Listed(texts), llama, SMALL, seed=3)
    mixed = [*texts, *texts[:9], "", " \n"]
    random.Random(0).shuffle(mixed)
    assert gather_windows(Listed(mixed), llama, SMALL, seed=3) == windows
    assert gather_windows(Listed(texts), llama, SMALL, seed=4) != windows


def test_the_documents_chosen_do_not_depend_on_their_order(texts: list[str]) -> None:
    chosen = Listed(texts).documents(10)
    assert len(chosen) == 10
    assert Listed(texts[::-1]).documents(10) == chosen
    assert Listed(texts).documents(None)[:10] == chosen
    assert set(chosen) < set(Listed(texts).documents(30))


def test_special_tokens_spelt_out_in_a_text_are_text(subject: Subject) -> None:
    text = "the tags <s> and </s> or [CLS] and [SEP] and <|user|> stand in a manual"
    (window,) = cut_windows([Document.of(text)], subject.tokenizer, length=99, shares=SHARES, seed=0)
    assert not set(window.tokens) & set(subject.tokenizer.all_special_ids)
    joined = "".join(subject.surface(window.tokens)).replace(" ", "")
    assert joined == (text.lower() if subject.name == "bert" else text).replace(" ", "")


def test_a_text_with_half_a_character_can_be_read(subject: Subject) -> None:
    broken = [f"number {number}, and half of a pair: \ud83d and the rest of it" for number in range(99)]
    assert gather_windows(Listed(broken), subject, SMALL, seed=0)


def test_the_corpus_is_summed_up(llama: Subject, texts: list[str]) -> None:
    windows = [Window("a", Split.EXPLAIN, (1, 2)), Window("a", Split.EXPLAIN, (3,)), Window("b", Split.REPORT, (4,))]
    assert summarise(Listed([], "mine"), windows) == CorpusSummary("mine", documents=2, windows=3, tokens=4)


# --- exemplars --------------------------------------------------------------------------------------------------------


class BruteForce:
    """Every window run alone and unpadded through the whole model: the activations of all neurons at all its tokens."""

    def __init__(self, subject: Subject, windows: Sequence[Window]) -> None:
        self.windows = windows
        model = AutoModel.from_pretrained(subject.files.folder, dtype=torch.float32).eval()
        if subject.name == "bert":
            modules = [layer.output.dense for layer in model.encoder.layer]
        else:
            modules = [layer.mlp.down_proj for layer in model.layers]
        kept: list[torch.Tensor] = []
        for module in modules:
            module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0]))
        tokenizer = subject.tokenizer
        before = {"llama": [tokenizer.bos_token_id], "gemma2": [], "bert": [tokenizer.cls_token_id]}[subject.name]
        after = [tokenizer.sep_token_id] if subject.name == "bert" else []
        self.framed, self.activations = [], []
        for window in windows:
            kept.clear()
            with torch.no_grad():
                model(input_ids=torch.tensor([[*before, *window.tokens, *after]]))
            whole = torch.stack(kept)  # (layers, T, d_mlp)
            self.framed.append(whole)
            self.activations.append(whole[:, len(before) : len(before) + len(window.tokens)])

    def of(self, number: int, neuron: Neuron) -> list[float]:
        return self.activations[number][neuron.layer, :, neuron.index].tolist()

    def peaks(self, neuron: Neuron, split: Split) -> list[float]:
        numbers = [number for number, window in enumerate(self.windows) if window.split is split]
        return sorted((max(self.of(number, neuron)) for number in numbers), reverse=True)

    def neuron_that_the_frame_excites(self) -> Neuron:
        """Return the neuron that special tokens activate most, compared to text."""
        special = torch.stack([whole.amax(dim=1) for whole in self.framed])
        text = torch.stack([own.amax(dim=1) for own in self.activations])
        layer, index = divmod(int((special - text).median(dim=0).values.argmax()), special.shape[2])
        assert float((special - text)[:, layer, index].median()) > 0.01, "the special tokens excite nothing"
        return Neuron(layer, index)


@pytest.fixture(scope="module")
def brute(subjects: dict[str, Subject], texts: list[str]) -> dict[str, BruteForce]:
    return {
        name: BruteForce(subject, gather_windows(Listed(texts), subject, SMALL, seed=3))
        for name, subject in subjects.items()
    }


def collect(
    subject: Subject, brute: BruteForce, neurons: Sequence[Neuron], config: EvidenceConfig = SMALL, seed: int = 3
) -> list[Exemplar]:
    return collect_exemplars(brute.windows, subject, neurons, config, seed=seed, device="cpu")


def test_exemplars_are_what_a_search_through_every_window_finds(subject: Subject, brute: dict[str, BruteForce]) -> None:
    truth = brute[subject.name]
    lengths = {len(window.tokens) for window in truth.windows}
    assert len(lengths) > 1  # so some windows are padded in their batch
    neurons = [Neuron(1, 9), Neuron(0, 60), Neuron(1, 2), Neuron(0, 3)]
    exemplars = collect(subject, truth, neurons, SMALL)
    expected = [
        (neuron, split, source)
        for neuron in sorted(neurons)
        for split in Split
        for source, count in [(Source.TOP, 3), (Source.RANDOM, 4)]
        for _ in range(count)
    ]
    assert [(item.neuron, item.split, item.source) for item in exemplars] == expected
    for neuron in neurons:
        for split in Split:
            found = [item for item in exemplars if (item.neuron, item.split, item.source) == (neuron, split, "top")]
            # By value: windows that begin alike have the same peak, and which one is kept is left to rounding.
            assert len({item.window for item in found}) == 3
            assert [item.activation for item in found] == pytest.approx(truth.peaks(neuron, split)[:3], abs=5e-5)
    for item in exemplars:
        window = truth.windows[item.window]
        assert (item.document, item.split) == (window.document, window.split)
        assert item.tokens == tuple(subject.surface(window.tokens))
        assert item.activations == pytest.approx(truth.of(item.window, item.neuron), abs=5e-5)


def test_random_windows_are_the_same_for_all_neurons_and_others_with_another_seed(
    llama: Subject, brute: dict[str, BruteForce]
) -> None:
    def drawn(seed: int, neuron: Neuron) -> list[int]:
        exemplars = collect(llama, brute["llama"], [Neuron(0, 1), Neuron(1, 5)], seed=seed)
        return [item.window for item in exemplars if item.source is Source.RANDOM and item.neuron == neuron]

    first = drawn(3, Neuron(0, 1))
    assert drawn(3, Neuron(1, 5)) == first == drawn(3, Neuron(0, 1))
    assert drawn(4, Neuron(0, 1)) != first
    assert len(set(first)) == 16


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_size_of_a_batch_changes_nothing(subject: Subject, brute: dict[str, BruteForce], size: int) -> None:
    neurons = [Neuron(0, 1), Neuron(1, 5)]
    usual = collect(subject, brute[subject.name], neurons)
    other = collect(subject, brute[subject.name], neurons, replace(SMALL, batch_windows=size))
    for one, two in zip(usual, other, strict=True):
        assert (one.neuron, one.split, one.source) == (two.neuron, two.split, two.source)
        assert one.activation == pytest.approx(two.activation, abs=5e-5)
        if one.source is Source.RANDOM:
            assert one.window == two.window
            assert one.activations == pytest.approx(two.activations, abs=5e-5)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_special_tokens_never_count(subjects: dict[str, Subject], brute: dict[str, BruteForce], family: str) -> None:
    truth = brute[family]
    neuron = truth.neuron_that_the_frame_excites()
    for item in collect(subjects[family], truth, [neuron]):
        assert len(item.activations) == len(item.tokens) == len(truth.windows[item.window].tokens)
        assert item.activation == pytest.approx(max(truth.of(item.window, neuron)), abs=5e-5)
        assert not set(item.tokens) & {"<s>", "</s>", "[CLS]", "[SEP]", "[PAD]"}
    for split in Split:
        best = next(item for item in collect(subjects[family], truth, [neuron]) if item.split is split)
        assert best.activation == pytest.approx(truth.peaks(neuron, split)[0], abs=5e-5)


def test_special_affixes(subjects: dict[str, Subject]) -> None:
    assert special_affixes(subjects["bert"].tokenizer) == ([2], [3])  # [CLS], [SEP]
    assert special_affixes(subjects["llama"].tokenizer) == ([0], [])
    assert special_affixes(subjects["gemma2"].tokenizer) == ([], [])


def test_progress_is_told_of_every_window(llama: Subject, brute: dict[str, BruteForce]) -> None:
    done: list[int] = []
    windows = brute["llama"].windows
    collect_exemplars(windows, llama, [Neuron(0, 0)], SMALL, seed=0, device="cpu", progress=done.append)
    assert sum(done) == len(windows)
    assert max(done) == SMALL.batch_windows


# --- corpora ----------------------------------------------------------------------------------------------------------


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_text_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "deep.txt").mkdir()
    (tmp_path / "deep.txt" / "b.md").write_text("# b", "utf-8")
    (tmp_path / "a.txt").write_text("été", "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    # Two characters that end a line for str.splitlines, and that JSON lets stand in a string; and a blank line.
    jsonl = lines(tmp_path / "c.jsonl", {"body": "one\u2028two\x85three"}, {"body": "four", "text": "no"})
    jsonl.write_text(jsonl.read_text("utf-8") + "\n", "utf-8")
    assert list(TextFiles([str(tmp_path)], column="body").texts()) == [
        "été",
        "one\u2028two\x85three",
        "four",
        "# b",
    ]
    assert list(TextFiles([str(jsonl), str(tmp_path / "a.txt")], column="body").texts())[-1] == "été"


def test_text_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    missing, other = tmp_path / "none.txt", tmp_path / "a.csv"
    other.write_text("a,b")
    told(lambda: TextFiles([str(missing)]).documents(None), str(missing), "does not exist", "corpus.paths")
    told(lambda: TextFiles([str(other)]).documents(None), str(other), ".jsonl", "corpus.paths")


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "3", '{"body": "x"}', '{"text": null}', '{"text": ["x"]}'])
def test_a_line_that_is_no_document(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    told(lambda: TextFiles([str(path)]).documents(None), str(path), "line 2", "'text'", "corpus.column")


def test_a_corpus_without_text(tmp_path: Path, llama: Subject) -> None:
    told(lambda: gather_windows(Listed(["", " \n"], "hollow"), llama, SMALL, 0), "hollow", "empty", "(corpus)")
    told(lambda: TextFiles([str(tmp_path)]).documents(None), "files", "empty")


def test_a_corpus_too_small_for_the_splits(llama: Subject, texts: list[str]) -> None:
    words = ["too small for the splits", "needs 4", "corpus", "evidence.top", "evidence.splits"]
    told(lambda: gather_windows(Listed(texts[:5]), llama, SMALL, 0), *words)
    tight = {**SHARES, Split.CALIBRATE: 0.001}
    told(lambda: gather_windows(Listed(texts), llama, replace(SMALL, splits=tight), 0), "calibrate has 0 windows")


def test_windows_longer_than_the_model_reads(subjects: dict[str, Subject], texts: list[str]) -> None:
    texts = ["".join(texts)]
    bert = subjects["bert"]
    told(lambda: gather_windows(Listed(texts), bert, replace(SMALL, window=127), 0), "127", "bert", "128", "2 special")
    told(lambda: gather_windows(Listed(texts), bert, replace(SMALL, window=126), 0), "too small")  # so it is not long


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"splits": {"explain": 1.0}}, ["evidence.splits", "explain, select, calibrate, report"]),
        ({"splits": {**SHARES, Split.REPORT: 0.0}}, ["evidence.splits", "positive"]),
        ({"top": 0}, ["evidence.top"]),
        ({"random": 0}, ["evidence.random"]),
        ({"window": 0}, ["evidence.window"]),
        ({"batch_windows": -1}, ["evidence.batch_windows"]),
    ],
)
def test_a_config_that_cannot_work(change: dict[str, Any], words: list[str]) -> None:
    told(lambda: EvidenceConfig(**change), *words)


def test_the_documentation_on_this_machine() -> None:
    found = [document.text for document in InstalledDocs(max_files=12).documents(None)]
    assert any(text.startswith("Record of phased-in incompatible language changes") for text in found)  # __future__.py
    assert any("context manager" in text for text in found)  # the reference's chapter on "with"
    assert min(map(len, found)) >= 200
    assert found == [document.text for document in InstalledDocs(max_files=12).documents(None)]
    long = InstalledDocs(max_files=1, min_characters=5000).documents(None)
    assert 0 < len(long) < len(found)
    assert min(len(document.text) for document in long) >= 5000


def test_a_dataset_in_the_libraries_own_format(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines(folder / "train.jsonl", {"body": "one", "n": 1}, {"body": None, "n": 2}, {"body": "three", "n": 3})
    path = str(folder)
    found = HuggingFaceDataset(path, column="body").documents(None)
    assert {document.text for document in found} == {"one", "three"}
    assert [document.text for document in HuggingFaceDataset(path, column="body", max_examples=1).documents(None)] == [
        "one"
    ]
    told(lambda: HuggingFaceDataset(path).documents(None), path, "'text'", "body, n", "corpus.column")
    told(lambda: HuggingFaceDataset(path, column="n").documents(None), path, "'n'", "int", "corpus.column")
    told(lambda: HuggingFaceDataset(path, split="test").documents(None), path, "test", "corpus.split")
    shutil.rmtree(folder)


def test_a_dataset_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told(lambda: HuggingFaceDataset("nobody/nothing").documents(None), "nobody/nothing", "cannot be read")
    told(lambda: HuggingFaceDataset(str(tmp_path / "no")).documents(None), str(tmp_path / "no"), "corpus.path")


def test_copied_text_does_not_come_back_in_another_split(tmp_path: Path, llama: Subject) -> None:
    # Documents of one's own beginning and a long passage that all of them share, as copied docstrings do.
    topics = [text for text in tiny_models.texts() if len(text) > 2000][:30]
    shared = topics[0][:400]
    documents = [Document.of(f"{text[:333]}{shared}{text[333:1200]}") for text in topics]
    windows = cut_windows(documents, llama.tokenizer, length=24, shares=EvidenceConfig().splits, seed=0)
    home: dict[tuple[int, ...], Split] = {}
    for window in windows:
        for start in range(len(window.tokens) - 15):
            assert home.setdefault(window.tokens[start : start + 16], window.split) is window.split
    assert {window.split for window in windows} == set(Split)
