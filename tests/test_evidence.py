"""Evidence: no text stands in two splits, and what is kept is what a search through every window would find."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_models
from support.errors import told
from tokenizers import processors
from transformers import AutoModel

from harness.evidence import (
    Conversations,
    Corpus,
    CorpusSummary,
    Document,
    EvidenceConfig,
    HuggingFaceDataset,
    InstalledDocs,
    Message,
    TextFiles,
    Window,
    gathered,
)
from harness.evidence.copies import CopyTable
from harness.evidence.corpus_pass import POOL, State, batches, check_window
from harness.evidence.encoding import CONTEXT, TEXT, TURN, Encoder, special_affixes
from harness.evidence.running import PEAKS, SPARE, Rows, Sample
from harness.evidence.tables import activities, exemplar_tables, quantile_picks
from harness.evidence.windows import Cutter, split_of
from harness.exemplar_table import ExemplarTable, write_exemplars
from harness.folder import read_table
from harness.records import Activity, Exemplar, Neuron, Sign, Source, Split
from harness.subject import ActivationReader, Subject, check_signs

SHARES = {Split.EXPLAIN: 0.3, Split.SELECT: 0.2, Split.CALIBRATE: 0.2, Split.REPORT: 0.3}
SMALL = EvidenceConfig(
    window=12, splits=SHARES, top=3, random=4, quantiles=3, per_quantile=2, batch_windows=16, copy_table_mib=1
)


class Listed(Corpus):
    """A corpus of one's own."""

    def __init__(self, texts: Sequence[str], name: str = "listed") -> None:
        self.name, self._texts = name, texts

    def texts(self) -> Iterator[str]:
        yield from self._texts


def cut_windows(
    documents: Iterable[Document], subject: Subject, config: EvidenceConfig = SMALL, seed: int = 0, **changes: Any
) -> list[Window]:
    config = replace(config, **changes)
    return list(Cutter(Encoder(subject.tokenizer), config, seed).cut(documents))


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
            tokenizer.chat_template = tiny_models.CHAT_TEMPLATE
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


@given(
    shares=shares,
    seed=st.integers(0, 2**32),
    length=st.sampled_from([4, 16, 20]),
    stride=st.sampled_from([None, 1, 7, 30]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_no_text_stands_in_two_splits(
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
    windows = cut_windows(documents, llama, window=7)
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
    short = cut_windows([Document.of("one two")], llama, window=50)
    assert ["".join(llama.surface(window.tokens)) for window in short] == ["one two"]  # all there is


def test_a_licence_that_all_documents_bear_is_kept_once(llama: Subject) -> None:
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


def test_documents_are_streamed_and_no_more_is_read_than_the_copy_table_can_remember(
    llama: Subject, texts: list[str]
) -> None:
    read: list[int] = []

    class Endless(Corpus):
        name = "endless"

        def texts(self) -> Iterator[str]:
            rng = random.Random(0)
            for number in range(10**9):
                read.append(number)
                yield " ".join(rng.choice(["alpha", "beta", "gamma", "delta", str(number)]) for _ in range(4000))

    cutter = Cutter(Encoder(llama.tokenizer), replace(SMALL, stride=1), 0)
    windows = sum(1 for _ in cutter.cut(Endless().documents(None)))
    assert not cutter.complete
    assert 0.7 * 2**18 / 2 < windows < 2**18  # a MiB has 2**18 places; a window of 12 tokens takes two
    assert len(read) < 200


def test_the_copy_table_forgets_nothing() -> None:
    rng = np.random.default_rng(0)
    table = CopyTable(1)
    told = [rng.integers(0, 50_000, 400) for _ in range(100)]
    spans = [(start, start + 40) for start in range(0, 400, 40)]
    assert all(all(table.keep(text, spans, Split.EXPLAIN)) for text in told)
    for text in told:
        assert not any(table.keep(text, spans, Split.EXPLAIN))  # again
        at = int(rng.integers(0, 380)) // 40 * 40 + int(rng.integers(0, 24))  # inside a window
        copied = np.concatenate([rng.integers(0, 50_000, 13), text[at : at + 16], rng.integers(0, 50_000, 11)])
        assert table.keep(copied, [(0, 40)], Split.REPORT) == [False]
        assert table.keep(copied, [(0, 40)], Split.EXPLAIN) == [True]
    fresh = [rng.integers(0, 50_000, 400) for _ in range(100)]
    assert all(all(table.keep(text, spans, Split.REPORT)) for text in fresh)


def test_special_tokens_spelt_out_in_a_text_are_text(subject: Subject) -> None:
    text = "the tags <s> and </s> or [CLS] and [SEP] and <|user|> stand in a manual"
    (window,) = cut_windows([Document.of(text)], subject, window=99)
    assert not set(window.tokens) & set(subject.tokenizer.all_special_ids)
    joined = "".join(subject.surface(window.tokens)).replace(" ", "")
    assert joined == (text.lower() if subject.name == "bert" else text).replace(" ", "")


def test_a_text_with_half_a_character_can_be_read(subject: Subject) -> None:
    broken = [f"number {number}, and half of a pair: \ud83d and the rest of it" for number in range(99)]
    assert cut_windows(Listed(broken).documents(99), subject)


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
        values = self.activations[number][neuron.layer, :, neuron.index]
        return [value * (-1 if neuron.negative else 1) for value in values.tolist()]

    def peaks(self, neuron: Neuron, split: Split) -> list[float]:
        """The peaks of the windows that activate the neuron, highest first."""
        numbers = [number for number, window in enumerate(self.windows) if window.split is split]
        return sorted((peak for number in numbers if (peak := max(self.of(number, neuron))) > 0), reverse=True)

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
        name: BruteForce(subject, cut_windows(Listed(texts).documents(99), subject, seed=3))
        for name, subject in subjects.items()
    }


@dataclass(frozen=True)
class Kept:
    """What a run's folder holds after evidence was gathered."""

    exemplars: list[Exemplar]
    activity: list[Activity]
    summary: CorpusSummary

    def of(self, neuron: Neuron, split: Split, source: Source) -> list[Exemplar]:
        return [item for item in self.exemplars if (item.neuron, item.split, item.source) == (neuron, split, source)]


def collect(
    corpus: Corpus,
    subject: Subject,
    neurons: Sequence[Neuron],
    config: EvidenceConfig = SMALL,
    *,
    folder: Path,
    seed: int = 3,
    progress: Callable[[int | None, int], None] = lambda total, done: None,
) -> Kept:
    with gathered(
        corpus, subject, neurons, config, seed=seed, device="cpu", run_folder=folder, progress=progress
    ) as found:
        found.write(folder / "exemplars.parquet", folder / "activity.parquet")
        summary = found.summary
    return Kept(
        ExemplarTable(folder / "exemplars.parquet").read(), read_table(folder / "activity.parquet", Activity), summary
    )


def both_signs(*neurons: Neuron) -> list[Neuron]:
    return [neuron.with_sign(sign) for neuron in neurons for sign in Sign]


@pytest.mark.parametrize("stride", [None, 5])
def test_what_is_kept_is_what_a_search_through_every_window_finds(
    subject: Subject, brute: dict[str, BruteForce], texts: list[str], tmp_path: Path, stride: int | None
) -> None:
    config = replace(SMALL, stride=stride)
    truth = brute[subject.name]
    if stride is not None:
        truth = BruteForce(subject, cut_windows(Listed(texts).documents(99), subject, config, seed=3))
    lengths = {len(window.tokens) for window in truth.windows}
    assert len(lengths) > 1  # so some windows are padded in their batch
    neurons = both_signs(Neuron(1, 9), Neuron(0, 60), Neuron(1, 2), Neuron(0, 3))
    kept = collect(Listed(texts), subject, neurons, config, folder=tmp_path)
    assert kept.summary == CorpusSummary(
        "listed",
        documents=len({window.document for window in truth.windows}),
        windows=len(truth.windows),
        tokens=sum(len(window.tokens) for window in truth.windows),
        copies=kept.summary.copies,
    )
    order = [(item.neuron, list(Split).index(item.split), list(Source).index(item.source)) for item in kept.exemplars]
    assert order == sorted(order)
    for item in kept.exemplars:
        window = truth.windows[item.window]
        assert (item.document, item.split) == (window.document, window.split)
        assert item.tokens == tuple(subject.surface(window.tokens))
        assert item.activations == pytest.approx(truth.of(item.window, item.neuron), abs=5e-5)
    background: dict[tuple[Split, Neuron], list[int]] = {}
    for neuron in neurons:
        for split in Split:
            peaks = truth.peaks(neuron, split)
            top = kept.of(neuron, split, Source.TOP)
            # By value: windows that begin alike have the same peak, and which one is kept is left to rounding.
            assert len({item.window for item in top}) == len(top)
            assert [item.activation for item in top] == pytest.approx(peaks[:3], abs=5e-5)
            drawn = [item.window for item in kept.of(neuron, split, Source.RANDOM)]
            assert len(set(drawn)) == 4
            assert drawn == sorted(drawn) == background.setdefault((split, neuron.unsigned), drawn)
            check_quantiles(kept.of(neuron, split, Source.QUANTILE), peaks)
            (activity,) = [item for item in kept.activity if (item.neuron, item.split) == (neuron, split)]
            numbers = [number for number, window in enumerate(truth.windows) if window.split is split]
            check_activity(activity, [value for number in numbers for value in truth.of(number, neuron)])
    # Both signs of a neuron show the same random windows, and another neuron others.
    assert len(set(map(tuple, background.values()))) > len(Split)


def check_quantiles(found: Sequence[Exemplar], peaks: Sequence[float]) -> None:
    """Hold samples to the three equal parts of the peaks (highest first) that a search found."""
    values = [item.activation for item in found]
    assert values == sorted(values, reverse=True)
    assert len({item.window for item in found}) == len(found)
    bounds = [-(-part * len(peaks) // 3) for part in range(4)]
    parts = [peaks[start:stop] for start, stop in itertools.pairwise(bounds)]
    for part in parts:
        inside = [value for value in values if part and part[-1] - 5e-5 <= value <= part[0] + 5e-5]
        assert len(inside) >= min(2, len(part))
    assert len(values) == sum(min(2, len(part)) for part in parts)


def check_activity(activity: Activity, values: Sequence[float]) -> None:
    """Hold an activity to all activations at that sign."""
    active = [value for value in values if value > 0]
    assert activity.tokens == len(values)
    assert activity.density == pytest.approx(len(active) / len(values), abs=1e-6 + 2 / len(values))  # rounding about 0
    assert activity.mean == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert activity.maximum == pytest.approx(max(0, *values), abs=5e-5)
    if len(active) > 3:
        assert activity.mean_active == pytest.approx(sum(active) / len(active), rel=0.05)
        assert 0.08 * max(values) < activity.threshold <= 0.1 * max(values) + 1e-6
        near = [value for value in values if abs(value - activity.threshold) < 5e-5]
        strong = sum(value >= activity.threshold for value in values) / len(values)
        assert activity.strong_density == pytest.approx(strong, abs=1e-6 + len(near) / len(values))


def test_random_windows_are_others_with_another_seed(llama: Subject, texts: list[str], tmp_path: Path) -> None:
    def drawn(seed: int) -> list[list[str]]:
        kept = collect(Listed(texts), llama, [Neuron(0, 1)], folder=tmp_path / str(seed), seed=seed)
        return [list(item.tokens) for item in kept.exemplars if item.source is Source.RANDOM]

    assert len(drawn(3)) == 16
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_size_of_a_batch_changes_nothing(subject: Subject, texts: list[str], tmp_path: Path, size: int) -> None:
    neurons = both_signs(Neuron(0, 1), Neuron(1, 5))
    usual = collect(Listed(texts), subject, neurons, folder=tmp_path / "a")
    other = collect(Listed(texts), subject, neurons, replace(SMALL, batch_windows=size), folder=tmp_path / "b")
    for one, two in zip(usual.exemplars, other.exemplars, strict=True):
        assert (one.neuron, one.split, one.source) == (two.neuron, two.split, two.source)
        assert one.activation == pytest.approx(two.activation, abs=5e-5)
        if one.source is Source.RANDOM:
            assert one.window == two.window
            assert one.activations == pytest.approx(two.activations, abs=5e-5)
    assert [item.tokens for item in usual.activity] == [item.tokens for item in other.activity]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_special_tokens_never_count(
    subjects: dict[str, Subject], brute: dict[str, BruteForce], texts: list[str], family: str, tmp_path: Path
) -> None:
    truth = brute[family]
    neuron = truth.neuron_that_the_frame_excites()
    kept = collect(Listed(texts), subjects[family], [neuron], folder=tmp_path)
    for item in kept.exemplars:
        assert len(item.activations) == len(item.tokens) == len(truth.windows[item.window].tokens)
        assert not set(item.tokens) & {"<s>", "</s>", "[CLS]", "[SEP]", "[PAD]"}
    for split in Split:
        best, *_ = kept.of(neuron, split, Source.TOP)
        assert best.activation == pytest.approx(truth.peaks(neuron, split)[0], abs=5e-5)


def test_special_affixes(subjects: dict[str, Subject]) -> None:
    assert special_affixes(subjects["bert"].tokenizer) == ([2], [3])  # [CLS], [SEP]
    assert special_affixes(subjects["llama"].tokenizer) == ([0], [])
    assert special_affixes(subjects["gemma2"].tokenizer) == ([], [])


def test_progress_is_told_of_every_document(llama: Subject, texts: list[str], tmp_path: Path) -> None:
    told_of: list[tuple[int | None, int]] = []
    collect(
        Listed(texts),
        llama,
        [Neuron(0, 0)],
        folder=tmp_path,
        progress=lambda total, done: told_of.append((total, done)),
    )
    count = len(set(texts))
    assert {total for total, _ in told_of} == {count if SMALL.max_documents else None}
    assert sum(done for _, done in told_of) == count
    assert len(told_of) > 3


# --- the running state, by hand ---------------------------------------------------------------------------------------


def planted(
    *windows: Sequence[float], split: Split = Split.EXPLAIN, first: int = 0
) -> tuple[list[Window], torch.Tensor]:
    """Windows of one split, and the activations of one neuron at their tokens."""
    made = [
        Window(f"{first + place:016x}", split, 0, tuple(range(5, 5 + len(values))), bytes([TEXT] * len(values)))
        for place, values in enumerate(windows)
    ]
    return made, torch.tensor(windows, dtype=torch.float32)[..., None]


def test_peaks_densities_and_means_by_hand(tmp_path: Path, llama: Subject) -> None:
    config = replace(SMALL, window=3, top=2, random=2, quantiles=2, per_quantile=1, strong=0.5)
    neuron = Neuron(0, 7)
    state = State(both_signs(neuron), config, torch.float32, "cpu")
    number = 0
    for split in Split:
        # Peaks 4, 1, 2, 0: the last activates at neither sign; below zero they are 0, 8, 1, 0.
        windows, activations = planted([4, 0, 0], [1, -8, 1], [-1, 2, 0], [0, 0, 0], split=split, first=number)
        state.book.add(windows, number)
        for batch in batches(windows, number, 3, seed=0):
            rows = batch.numbers - number
            state.update(batch, activations[rows])
        number += len(windows)
    write_exemplars(tmp_path / "e.parquet", exemplar_tables(state, llama))
    kept = ExemplarTable(tmp_path / "e.parquet").read()
    for split, first in zip(Split, range(0, number, 4), strict=True):

        def shown(sign: Sign, source: Source, split: Split = split, first: int = first) -> list[tuple[int, Any]]:
            chosen = (neuron.with_sign(sign), split, source)
            return [
                (item.window - first, item.activations)
                for item in kept
                if (item.neuron, item.split, item.source) == chosen
            ]

        assert shown(Sign.POSITIVE, Source.TOP) == [(0, (4, 0, 0)), (2, (-1, 2, 0))]
        assert shown(Sign.NEGATIVE, Source.TOP) == [(1, (-1, 8, -1)), (2, (1, -2, 0))]
        # Of the peaks 4, 2, 1 the higher half is 4 and 2, the lower 1; of 8, 1 each is a half.
        high, low = shown(Sign.POSITIVE, Source.QUANTILE)
        assert high[0] in {0, 2}
        assert low == (1, (1, -8, 1))
        assert [place for place, _ in shown(Sign.NEGATIVE, Source.QUANTILE)] == [1, 2]
        assert len(shown(Sign.POSITIVE, Source.RANDOM)) == 2
        assert [place for place, _ in shown(Sign.POSITIVE, Source.RANDOM)] == [
            place for place, _ in shown(Sign.NEGATIVE, Source.RANDOM)
        ]
    positive, negative = (next(item for item in activities(state) if item.neuron.sign is sign) for sign in Sign)
    # Above zero: 4, 1, 1, 2 of twelve; from 2 = 0.5 x 4 on: 4 and 2. Their sum is 8, that of all -1.
    assert positive == Activity(neuron, Split.EXPLAIN, 12, 4 / 12, 2 / 12, 2.0, -1 / 12, 2.0, 4.0) or (
        positive.density == pytest.approx(4 / 12)
        and positive.strong_density == pytest.approx(2 / 12)
        and (positive.tokens, positive.threshold, positive.mean_active, positive.maximum) == (12, 2.0, 2.0, 4.0)
        and positive.mean == pytest.approx(-1 / 12)
    )
    assert negative.density == pytest.approx(2 / 12)  # 8 and 1
    assert negative.strong_density == pytest.approx(1 / 12)
    assert (negative.threshold, negative.mean_active, negative.maximum) == (4.0, 4.5, 8.0)
    assert negative.mean == pytest.approx(1 / 12)


def sampled(peaks: Sequence[float], cuts: Sequence[int], count: int = 8) -> Sample:
    """Feed one neuron's peaks in batches that end at ``cuts``."""
    rows = Rows([0], [1], "cpu")
    sample = Sample(rows, count, 1, torch.float32)
    priorities = np.random.default_rng(5).permutation(10**6)[: len(peaks)].astype(np.int32)
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(peaks)]):
        if start < stop:
            some = torch.tensor(peaks[start:stop])
            numbers = torch.arange(start, stop, dtype=torch.int32)
            given = torch.from_numpy(priorities[start:stop])
            sample.update(some[None], given, numbers, some[:, None, None])
    active = [number for number, peak in enumerate(peaks) if peak > 0]
    chosen = sorted(active, key=priorities.__getitem__)
    kept = min(len(chosen), count)
    assert sample.windows[0, :kept].tolist() == chosen[:kept]  # the smallest priorities among those that activate
    assert sample.of(0, torch.arange(kept))[:, 0].tolist() == [np.float32(peaks[number]) for number in chosen[:kept]]
    assert sample.values[0, : min(len(chosen), PEAKS)].tolist() == [np.float32(peaks[n]) for n in chosen[:PEAKS]]
    return sample


@given(data=st.data(), quantiles=st.integers(1, 6), each=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_quantile_samples_come_from_their_part_whatever_the_batches(
    data: st.DataObject, quantiles: int, each: int
) -> None:
    peaks = data.draw(st.lists(st.sampled_from([-1.0, 0.0, *[value / 7 for value in range(1, 40)]]), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, max(0, len(peaks))), max_size=5))
    spare = max(40, SPARE * quantiles * each)  # all windows that activate are candidates
    sample = sampled(peaks, cuts, spare)
    picked = quantile_picks(sample, 0, quantiles, each).tolist()
    active = sorted((peak for peak in peaks if peak > 0), reverse=True)
    values = [float(sample.values[0, place]) for place in picked]
    assert values == sorted(values, reverse=True)
    sizes = Counter(rank * quantiles // len(active) for rank in range(len(active)))
    assert len(picked) == len(set(picked)) == sum(min(each, size) for size in sizes.values())
    at = 0
    for part, size in sorted(sizes.items()):
        inside = [np.float32(peak) for rank, peak in enumerate(active) if rank * quantiles // len(active) == part]
        taken = values[at : at + min(each, size)]
        assert all(inside[-1] <= value <= inside[0] for value in taken)
        at += len(taken)


def test_quantiles_of_a_long_corpus_are_near_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    misses, shown = 0, 0
    for _ in range(20):
        peaks = rng.permutation(4000).astype(float) + 1  # so a peak is its rank
        sample = sampled(peaks.tolist(), [1000, 1500, 3999], count=40)
        picked = quantile_picks(sample, 0, 5, 2)
        assert len(picked) == 10
        for place, peak in enumerate(sample.values[0, picked].tolist()):
            low = 1 - (place // 2 + 1) / 5
            misses += not low - 0.1 <= peak / 4000 <= low + 0.3
            shown += 1
    assert misses == 0  # three standard errors of 256 ranks, and more
    assert shown == 200


# --- interrupted, and shared by runs ----------------------------------------------------------------------------------


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many neurons each forward pass reads."""
    seen: list[int] = []
    read = ActivationReader.read

    def counted(self: ActivationReader, *given: torch.Tensor) -> torch.Tensor:
        found = read(self, *given)
        seen.append(found.shape[2])
        return found

    monkeypatch.setattr(ActivationReader, "read", counted)
    return seen


@pytest.mark.parametrize("pool", [POOL, 40])
def test_a_pass_that_is_killed_goes_on_where_it_was_and_ends_the_same(
    llama: Subject,
    texts: list[str],
    tmp_path: Path,
    forwards: list[int],
    pool: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.evidence.corpus_pass.POOL", pool)
    neurons = both_signs(Neuron(0, 1), Neuron(1, 5))
    config = replace(SMALL, checkpoint_s=0)
    whole = collect(Listed(texts), llama, neurons, config, folder=tmp_path / "whole")
    passes = len(forwards)

    def dies(total: int | None, done: int) -> None:
        if len(forwards) >= passes + 9:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:  # pragma: no cover
        collect(Listed(texts), llama, neurons, config, folder=tmp_path / "killed", progress=dies)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert list((tmp_path / "killed").rglob("pass-*.safetensors"))
    forwards.clear()
    assert collect(Listed(texts), llama, neurons, config, folder=tmp_path / "killed") == whole
    assert 0 < len(forwards) <= passes - 8
    assert not list((tmp_path / "killed").rglob("*.safetensors"))


def test_a_pass_over_a_corpus_that_has_changed_begins_anew(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    class Changing(Listed):
        def identity(self) -> dict[str, Any]:
            return {"say": "the same"}

    def stops(total: int | None, done: int) -> None:
        if len(forwards) >= 9:
            raise KeyboardInterrupt

    config = replace(SMALL, checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        collect(Changing(texts), llama, [Neuron(0, 1)], config, folder=tmp_path, progress=stops)
    others = [f"changed {text}" for text in texts]
    now = collect(Changing(others), llama, [Neuron(0, 1)], config, folder=tmp_path)
    assert "has changed" in caplog.text
    assert now == collect(Changing(others), llama, [Neuron(0, 1)], config, folder=tmp_path / "new")


def test_a_pass_is_taken_up_with_batches_of_another_size(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def stops(total: int | None, done: int) -> None:
        if len(forwards) >= 9:
            raise KeyboardInterrupt

    config, smaller = (replace(SMALL, checkpoint_s=0, batch_windows=size) for size in (16, 4))
    whole = collect(Listed(texts), llama, [Neuron(0, 1)], smaller, folder=tmp_path / "whole")
    passes = len(forwards)
    forwards.clear()
    with pytest.raises(KeyboardInterrupt):
        collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path / "cut", progress=stops)
    forwards.clear()
    rest = collect(Listed(texts), llama, [Neuron(0, 1)], smaller, folder=tmp_path / "cut")
    assert "begins anew" not in caplog.text
    assert 0 < len(forwards) <= passes - 9 * 2
    assert [item.tokens for item in rest.activity] == [item.tokens for item in whole.activity]
    assert [item.maximum for item in rest.activity] == pytest.approx(
        [item.maximum for item in whole.activity], abs=5e-5
    )
    assert [item.window for item in rest.exemplars] == [item.window for item in whole.exemplars]


def test_a_damaged_state_is_told_as_what_it_is(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def stops(total: int | None, done: int) -> None:
        if len(forwards) >= 3:
            raise KeyboardInterrupt

    config = replace(SMALL, checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path, progress=stops)
    (saved,) = tmp_path.rglob("pass-*.safetensors")
    saved.write_bytes(b"rubbish")
    collect(Listed(texts), llama, [Neuron(0, 1)], config, folder=tmp_path)
    assert "is not readable" in caplog.text
    assert "changed" not in caplog.text


def test_runs_share_what_was_captured(llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int]) -> None:
    config = replace(SMALL, store=str(tmp_path / "store"))
    some, more = both_signs(Neuron(0, 1), Neuron(1, 5)), [Neuron(0, 2), Neuron(1, 5)]
    first = collect(Listed(texts), llama, some, config, folder=tmp_path / "a")
    assert forwards
    forwards.clear()
    assert collect(Listed(texts), llama, some, config, folder=tmp_path / "b") == first
    assert collect(Listed(texts), llama, some[:1], config, folder=tmp_path / "c").exemplars == [
        item for item in first.exemplars if item.neuron == some[0]
    ]
    assert not forwards  # all of it was known
    third = collect(Listed(texts), llama, more, config, folder=tmp_path / "d")
    assert set(forwards) == {1}  # the one neuron that was not
    alone = collect(Listed(texts), llama, more, folder=tmp_path / "e")
    assert third.exemplars == alone.exemplars
    for one, two in zip(third.activity, alone.activity, strict=True):  # sums differ in the last digit
        assert replace(one, mean=0, mean_active=0) == replace(two, mean=0, mean_active=0)
        assert (one.mean, one.mean_active) == pytest.approx((two.mean, two.mean_active), abs=1e-6)
    for changed in (
        replace(config, window=13),
        replace(config, stride=6),
        replace(config, quantiles=2),
        replace(config, splits={**SHARES, Split.EXPLAIN: 0.4}),
    ):
        forwards.clear()
        collect(Listed(texts), llama, some[:1], changed, folder=tmp_path / "f")
        assert forwards
    forwards.clear()
    collect(Listed(texts[:-1]), llama, some[:1], config, folder=tmp_path / "g")
    collect(Listed(texts), llama, some[:1], config, folder=tmp_path / "h", seed=4)
    assert forwards


def test_other_weights_under_the_same_name_are_another_model(
    llama: Subject, texts: list[str], tmp_path: Path, forwards: list[int]
) -> None:
    from safetensors.torch import load_file, save_file

    config = replace(SMALL, store=str(tmp_path / "store"))
    shutil.copytree(str(llama.files.folder), tmp_path / "edited")
    weights = load_file(tmp_path / "edited" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][5] *= 2  # one neuron, as model editing does
    save_file(weights, tmp_path / "edited" / "model.safetensors", metadata={"format": "pt"})
    edited = Subject("llama", [str(tmp_path / "edited")])
    assert edited.fingerprint == llama.fingerprint
    before = collect(Listed(texts), llama, [Neuron(1, 5)], config, folder=tmp_path / "a")
    after = collect(Listed(texts), edited, [Neuron(1, 5)], config, folder=tmp_path / "b")
    assert after.activity[0].maximum == pytest.approx(2 * before.activity[0].maximum, rel=1e-4)


def test_exemplars_are_read_by_neuron(llama: Subject, texts: list[str], tmp_path: Path) -> None:
    neurons = [Neuron(layer, index) for layer in (0, 1) for index in range(40)]
    kept = collect(Listed(texts), llama, neurons, folder=tmp_path)
    table = ExemplarTable(tmp_path / "exemplars.parquet")
    assert table.neurons == neurons
    for neuron in (neurons[0], neurons[33], neurons[-1]):
        assert table.read([neuron]) == [item for item in kept.exemplars if item.neuron == neuron]
    assert table.read([neurons[5], neurons[2], Neuron(2, 0)]) == [
        item for item in kept.exemplars if item.neuron in (neurons[2], neurons[5])
    ]


def test_a_sign_that_neurons_never_have_is_refused(subjects: dict[str, Subject], tmp_path: Path) -> None:
    opt = Subject("opt", [str(tiny_models.tiny_subject(tmp_path / "opt", "opt"))])  # ReLU
    told(lambda: check_signs(opt, [Neuron(0, 1, sign=Sign.NEGATIVE)]), "never active below zero", "neurons.signs")
    check_signs(opt, [Neuron(0, 1)])
    for subject in subjects.values():  # GELU, and gated
        check_signs(subject, both_signs(Neuron(0, 1)))


# --- conversations ----------------------------------------------------------------------------------------------------


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
        assert item.activations == pytest.approx(values.tolist(), abs=5e-5)
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
            (activity,) = [item for item in kept.activity if (item.neuron, item.split) == (neuron, split)]
            check_activity(activity, torch.cat(own).tolist())


def test_how_a_conversation_is_written_out(llama: Subject) -> None:
    encoder = Encoder(llama.tokenizer)
    (talk,) = talks(1)
    messages = tuple(Message(item["role"], item["content"]) for item in talk)
    (encoded,) = encoder.encode([Document.of(messages)])
    written = llama.tokenizer.apply_chat_template(talk, tokenize=False)
    shown = llama.tokenizer.decode(encoded.tokens, clean_up_tokenization_spaces=False)
    assert f"<s>{shown}" == written  # the model's own beginning stands before every window
    texts = llama.surface(encoded.tokens[encoded.marks != CONTEXT].tolist())
    assert "".join(texts) == talk[0]["content"] + talk[1]["content"]  # "<|assistant|>", where it is said, is text
    (turn,) = np.flatnonzero(encoded.marks == TURN)
    assert llama.surface(encoded.tokens[turn:].tolist())[0] in talk[1]["content"]


def test_a_template_of_ones_own_that_strips_and_refuses(
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
    assert "".join(llama.surface(one.tokens[one.marks != CONTEXT].tolist())) == "hello thereuser"
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


def test_conversations_that_are_none(subjects: dict[str, Subject], tmp_path: Path) -> None:
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


def test_characters_of_several_tokens_stand_whole_at_the_last(llama: Subject) -> None:
    text = "naïve 日本語 🙂 x\ufffdy"
    tokens = llama.tokenizer(text, add_special_tokens=False).input_ids
    shown = llama.surface(tokens)
    assert "".join(shown) == text
    assert len(shown) == len(tokens) > len(text)
    assert [piece for piece in shown if "日" in piece] == ["日"]
    assert shown[shown.index("🙂") - 3 : shown.index("🙂")] == ["", "", ""]
    cut = tokens[: next(at for at, piece in enumerate(shown) if "日" in piece)]  # the window ends inside it
    assert "".join(llama.surface(cut)) == "naïve \ufffd"


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
    told(lambda: list(TextFiles([str(missing)]).documents(None)), str(missing), "does not exist", "corpus.paths")
    told(lambda: list(TextFiles([str(other)]).documents(None)), str(other), ".jsonl", "corpus.paths")


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "3", '{"body": "x"}', '{"text": null}', '{"text": ["x"]}'])
def test_a_line_that_is_no_document(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    told(lambda: list(TextFiles([str(path)]).documents(None)), str(path), "line 2", "'text'", "corpus.column")


def test_a_corpus_without_text(tmp_path: Path, llama: Subject) -> None:
    told(lambda: list(Listed(["", " \n"], "hollow").documents(None)), "hollow", "empty", "(corpus)")
    told(lambda: TextFiles([str(tmp_path)]).documents(9), "files", "empty")


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
        ({"splits": {"explain": 1.0}}, ["evidence.splits", "explain, select, calibrate, report"]),
        ({"splits": {**SHARES, Split.REPORT: 0.0}}, ["evidence.splits", "positive"]),
        ({"top": 0}, ["evidence.top"]),
        ({"random": 0}, ["evidence.random"]),
        ({"window": 0}, ["evidence.window"]),
        ({"batch_windows": -1}, ["evidence.batch_windows"]),
        ({"stride": 0}, ["evidence.stride", "null"]),
        ({"quantiles": -1}, ["evidence.quantiles", "0"]),
        ({"strong": 1.0}, ["evidence.strong"]),
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
    long = list(InstalledDocs(max_files=1, min_characters=5000).documents(None))
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
    told(lambda: list(HuggingFaceDataset(path).documents(None)), path, "'text'", "body, n", "corpus.column")
    told(lambda: list(HuggingFaceDataset(path, column="n").documents(None)), path, "'n'", "int", "corpus.column")
    told(lambda: list(HuggingFaceDataset(path, split="test").documents(None)), path, "test", "corpus.split")
    shutil.rmtree(folder)


def test_a_dataset_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told(lambda: list(HuggingFaceDataset("nobody/nothing").documents(None)), "nobody/nothing", "cannot be read")
    told(lambda: list(HuggingFaceDataset(str(tmp_path / "no")).documents(None)), str(tmp_path / "no"), "corpus.path")


def test_copied_text_does_not_come_back_in_another_split(llama: Subject) -> None:
    # Documents of one's own beginning and a long passage that all of them share, as copied docstrings do.
    topics = [text for text in tiny_models.texts() if len(text) > 2000][:30]
    shared = topics[0][:400]
    documents = [Document.of(f"{text[:333]}{shared}{text[333:1200]}") for text in topics]
    windows = cut_windows(documents, llama, EvidenceConfig(window=24))
    home: dict[tuple[int, ...], Split] = {}
    for window in windows:
        for start in range(len(window.tokens) - 15):
            assert home.setdefault(window.tokens[start : start + 16], window.split) is window.split
    assert {window.split for window in windows} == set(Split)
