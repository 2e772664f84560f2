"""Windows, splits and copies: no text is in two splits."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_models
from support.errors import told
from support.evidence import SHARES, SMALL, Kept, Listed, collect, cut_windows, make_subjects, short_texts

from harness.evidence import (
    Corpus,
    Document,
    EvidenceConfig,
)
from harness.evidence.copies import CopyFinder
from harness.evidence.corpus_pass import check_window
from harness.evidence.encoding import Encoder
from harness.evidence.windows import Cutter, split_of
from harness.records import Neuron, Split
from harness.subject import ActivationReader, Subject
from harness.validation import explain


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return make_subjects(tmp_path_factory)


@pytest.fixture(params=tiny_models.FAMILIES)
def subject(request: pytest.FixtureRequest, subjects: dict[str, Subject]) -> Subject:
    return subjects[request.param]


@pytest.fixture
def llama(subjects: dict[str, Subject]) -> Subject:
    return subjects["llama"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return short_texts()


shares = st.fixed_dictionaries({split: st.floats(0.01, 10) for split in Split})


@given(
    shares=shares,
    seed=st.integers(0, 2**32),
    length=st.sampled_from([4, 16, 20]),
    stride=st.sampled_from([None, 1, 7, 30]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_no_text_is_in_two_splits(
    subjects: dict[str, Subject],
    shares: dict[Split, float],
    seed: int,
    length: int,
    stride: int | None,
    data: st.DataObject,
) -> None:
    paragraphs = ["a licence that all files bear ", "to be or not to be, that is ", "x = f(y)\n" * 3, "12 ", "été"]
    texts = data.draw(st.lists(st.lists(st.sampled_from(paragraphs), min_size=1, max_size=5).map("".join), min_size=1))
    documents = [Document.of(text) for text in texts]
    windows = cut_windows(documents, subjects["llama"], seed=seed, window=length, stride=stride, splits=shares)
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
    assert all(len(splits) == 1 for splits in copies.values())  # also for copied sentences at any offset
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
    windows = cut_windows(documents, llama, window=7)
    cut = defaultdict(list)
    for window in windows:
        cut[window.document].append(window.tokens)
    whole = 0
    for document in documents:
        tokens = llama.tokenizer(document.text, add_special_tokens=False).input_ids
        full = [tuple(tokens[start : start + 7]) for start in range(0, len(tokens) - 6, 7)]
        kept = cut[document.id]
        assert kept == [run for run in full if run in kept]  # in order; missing windows are in an earlier document
        whole += len(kept) == len(full)
    assert whole > len(documents) / 2
    assert {len(window.tokens) for window in windows} == {7}
    short = cut_windows([Document.of("one two")], llama, window=50)
    assert ["".join(llama.surface(window.tokens)) for window in short] == ["one two"]  # the whole document


def test_a_licence_in_all_documents_is_kept_once(llama: Subject) -> None:
    licence = "Permission is hereby granted, free of charge, to any person obtaining a copy. " * 3
    tokens = llama.tokenizer(licence, add_special_tokens=False).input_ids[:-2]  # the end may merge with what follows
    documents = [Document.of(licence + text[:300]) for text in tiny_models.texts()]
    windows = cut_windows(documents, llama, window=len(tokens))
    assert len({window.split for window in windows}) == 4
    assert [window.tokens for window in windows].count(tuple(tokens)) == 1


def test_overlapping_windows_begin_a_stride_apart(llama: Subject) -> None:
    document = Document.of(tiny_models.texts()[0])
    tokens = llama.tokenizer(document.text, add_special_tokens=False).input_ids
    windows = cut_windows([document], llama, window=10, stride=4)
    assert len(windows) > 5
    assert windows[0].start == 0
    for window in windows:
        assert window.start % 4 == 0
        assert list(window.tokens) == tokens[window.start : window.start + 10]
    starts = {window.start for window in windows}
    whole = {start: tuple(tokens[start : start + 10]) for start in range(0, len(tokens) - 9, 4)}
    assert set(whole) - starts <= {start for start in whole if list(whole.values()).count(whole[start]) > 1}


def test_documents_that_occur_twice_count_once_and_their_order_does_not_matter(
    llama: Subject, texts: list[str]
) -> None:
    windows = cut_windows(Listed(texts).documents(99), llama)
    mixed = [*texts, *texts[:9], "", " \n"]
    random.Random(0).shuffle(mixed)
    assert cut_windows(Listed(mixed).documents(99), llama) == windows
    assert cut_windows(Listed([*texts, *texts]).documents(None), llama) == cut_windows(
        Listed(texts).documents(None), llama
    )
    assert cut_windows(Listed(texts).documents(99), llama, seed=4) != windows


def test_the_documents_chosen_do_not_depend_on_their_order(texts: list[str]) -> None:
    chosen = Listed(texts).documents(10)
    assert chosen.count == len(list(chosen)) == 10
    assert list(Listed(texts[::-1]).documents(10)) == list(chosen) == list(chosen)
    every = list(Listed(texts).documents(None))
    assert list(chosen) == sorted(set(every), key=lambda document: document.id)[:10]
    assert [document.text for document in every] == texts


def test_documents_are_streamed(llama: Subject) -> None:
    read: list[int] = []

    class Endless(Corpus):
        name = "endless"

        def texts(self) -> Iterator[str]:
            rng = random.Random(0)
            for number in range(10**9):
                read.append(number)
                yield " ".join(rng.choice(["alpha", "beta", "gamma", "delta", str(number)]) for _ in range(4000))

    cutter = Cutter(Encoder(llama.tokenizer), replace(SMALL, stride=1), 0)
    windows = list(itertools.islice(cutter.cut(Endless().documents(None)), 50_000))
    assert len(windows) == 50_000
    assert len(read) < 200


def test_all_copies_are_found() -> None:
    rng = np.random.default_rng(0)
    copies = CopyFinder()
    texts = [rng.integers(0, 50_000, 400) for _ in range(100)]
    spans = [(start, start + 40) for start in range(0, 400, 40)]
    assert all(all(copies.keep(text, spans, Split.EXPLAIN)) for text in texts)
    for text in texts:
        assert not any(copies.keep(text, spans, Split.EXPLAIN))  # again
        start = int(rng.integers(0, 380)) // 40 * 40 + int(rng.integers(0, 24))  # inside a window
        copied = np.concatenate([rng.integers(0, 50_000, 13), text[start : start + 16], rng.integers(0, 50_000, 11)])
        assert copies.keep(copied, [(0, 40)], Split.REPORT) == [False]
        assert copies.keep(copied, [(0, 40)], Split.EXPLAIN) == [True]
    fresh = [rng.integers(0, 50_000, 400) for _ in range(100)]
    assert all(all(copies.keep(text, spans, Split.REPORT)) for text in fresh)


def test_windows_shorter_than_a_gram_are_copies_only_if_equal() -> None:
    copies, text = CopyFinder(), np.arange(40)
    assert copies.keep(text, [(0, 5), (5, 10), (10, 40)], Split.EXPLAIN) == [True, True, True]
    assert copies.keep(text[:10], [(0, 5), (1, 6), (5, 10)], Split.REPORT) == [False, True, False]
    assert copies.keep(text[10:], [(0, 30)], Split.REPORT) == [False]
    assert copies.keep(text[:0], [], Split.REPORT) == []


def test_copied_text_is_not_in_another_split(llama: Subject) -> None:
    # Documents with different beginnings that share a long passage, like copied docstrings.
    topics = [text for text in tiny_models.texts() if len(text) > 2000][:30]
    shared = topics[0][:400]
    documents = [Document.of(f"{text[:333]}{shared}{text[333:1200]}") for text in topics]
    windows = cut_windows(documents, llama, EvidenceConfig(window=24))
    home: dict[tuple[int, ...], Split] = {}
    for window in windows:
        for start in range(len(window.tokens) - 15):
            assert home.setdefault(window.tokens[start : start + 16], window.split) is window.split
    assert {window.split for window in windows} == set(Split)


def test_special_tokens_spelled_out_in_a_text_are_text(subject: Subject) -> None:
    text = "the tags <s> and </s> or [CLS] and [SEP] and <|user|> stand in a manual"
    (window,) = cut_windows([Document.of(text)], subject, window=99)
    assert not set(window.tokens) & set(subject.tokenizer.all_special_ids)
    joined = "".join(subject.surface(window.tokens)).replace(" ", "")
    assert joined == (text.lower() if subject.name == "bert" else text).replace(" ", "")


def test_unpaired_surrogates_are_replaced(subject: Subject) -> None:
    broken = [f"number {number}, and half of a pair: \ud83d and the rest of it" for number in range(99)]
    assert cut_windows(Listed(broken).documents(99), subject)


def test_a_character_of_several_tokens_is_one_piece(llama: Subject) -> None:
    text = "naïve 日本語 🙂 x\ufffdy"
    tokens = llama.tokenizer(text, add_special_tokens=False).input_ids
    shown = llama.surface(tokens)
    assert "".join(shown) == text
    assert all(shown)
    assert len(shown) < len(text) < len(tokens)
    found = llama.texts.pieces(tokens)
    smile = next(piece for piece in found if "🙂" in piece.text)
    assert smile.stop - smile.start == 4 + (smile.text != "🙂")
    end = next(piece for piece in found if "日" in piece.text).stop - 1
    assert "".join(llama.surface(tokens[:end])) == "naïve \ufffd"  # the text ends inside the character


def test_a_corpus_too_small_for_the_splits(
    llama: Subject, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActivationReader, "__init__", lambda *_: pytest.fail("the model is loaded for nothing"))

    def attempt(texts: list[str], config: EvidenceConfig) -> Kept:
        return collect(Listed(texts), llama, [Neuron(0, 0)], config, folder=tmp_path, seed=0)

    words = ["too small for the splits", "needs 4", "corpus", "evidence.top", "evidence.splits"]
    told(lambda: attempt(texts[:5], SMALL), *words)
    tight = {**SHARES, Split.CALIBRATE: 0.001}
    told(lambda: attempt(texts, replace(SMALL, splits=tight)), "calibrate has 0 windows")


def test_windows_longer_than_the_model_reads(subjects: dict[str, Subject]) -> None:
    bert = subjects["bert"]
    told(lambda: check_window(bert, replace(SMALL, window=127)), "127", "bert", "128", "2 special")
    check_window(bert, replace(SMALL, window=126))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"splits": {"explain": 1.0}}, ["splits: ", "explain, select, calibrate, report"]),
        ({"splits": {**SHARES, Split.REPORT: 0.0}}, ["splits.report: ", "0"]),
        ({"top": 0}, ["top: ", "1"]),
        ({"random": 0}, ["random: ", "1"]),
        ({"window": 0}, ["window: ", "1"]),
        ({"batch_windows": -1}, ["batch_windows: ", "1"]),
        ({"stride": 0}, ["stride: ", "1"]),
        ({"quantiles": -1}, ["quantiles: ", "0"]),
        ({"checkpoint_s": -1}, ["checkpoint_s: ", "0"]),
        ({"windows": 9}, ["windows: "]),
    ],
)
def test_invalid_options_are_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))) as refusal:
        EvidenceConfig(**change)
    message = explain(refusal.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words)
    assert len(message.splitlines()) == 1
