"""Exemplars of a pass equal those of an exhaustive search through all windows."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tiny_models
from support.errors import told
from support.evidence import SMALL, Listed, both_signs, collect, cut_windows, make_subjects, pieces, short_texts
from transformers import AutoModel

from harness.evidence import (
    CorpusSummary,
)
from harness.evidence.alignment import TokenSums
from harness.evidence.encoding import CONTEXT, TEXT, special_affixes
from harness.evidence.running import PEAKS, SPARE, Rows, Sample
from harness.evidence.state import Batch, State, batches, unsigned_of
from harness.evidence.tables import exemplar_tables, quantile_picks, window_table
from harness.evidence.windows import Window
from harness.exemplar_table import ExemplarTable, write_exemplars
from harness.llm.prompts import highlighted
from harness.records import Exemplar, Neuron, Sign, Source, Split
from harness.subject import Subject, check_signs


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


class BruteForce:
    """The activations of all neurons, from running every window alone and unpadded through the whole model."""

    def __init__(self, subject: Subject, windows: Sequence[Window]) -> None:
        self.windows, self.subject = windows, subject
        model = AutoModel.from_pretrained(subject.files.folder, **tiny_models.REFERENCE).eval()
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
        """The activation of every piece of a window: the highest of its tokens."""
        values = self.activations[number][neuron.layer, :, neuron.index] * (-1 if neuron.negative else 1)
        return [max(values[at].tolist()) for _, at in pieces(self.subject, self.windows[number])]

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


@pytest.mark.parametrize("stride", [None, 5])
def test_exemplars_equal_those_of_an_exhaustive_search(
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
        tokens=sum(sum(mark != CONTEXT for mark in window.marks) for window in truth.windows),
        copies=kept.summary.copies,
        report_windows=sum(window.split is Split.REPORT for window in truth.windows),
    )
    order = [(item.neuron, list(Split).index(item.split), list(Source).index(item.source)) for item in kept.exemplars]
    assert order == sorted(order)
    for item in kept.exemplars:
        window = truth.windows[item.window]
        assert (item.document, item.split) == (window.document, window.split)
        assert item.tokens == tuple(text for text, _ in pieces(subject, window))
        assert item.activations == pytest.approx(truth.of(item.window, item.neuron), abs=5e-5)
    background: dict[tuple[Split, Neuron], list[int]] = {}
    for neuron in neurons:
        for split in Split:
            peaks = truth.peaks(neuron, split)
            top = kept.of(neuron, split, Source.TOP)
            # By value: windows that start alike have equal peaks, and rounding decides which of them is kept.
            assert len({item.window for item in top}) == len(top)
            assert [item.activation for item in top] == pytest.approx(peaks[:3], abs=5e-5)
            drawn = [item.window for item in kept.of(neuron, split, Source.RANDOM)]
            assert len(set(drawn)) == 4
            assert drawn == sorted(drawn) == background.setdefault((split, neuron.unsigned), drawn)
            check_quantiles(kept.of(neuron, split, Source.QUANTILE), peaks)
    # Both signs of a neuron show the same random windows; other neurons show others.
    assert len(set(map(tuple, background.values()))) > len(Split)


def test_a_character_of_several_tokens_has_their_highest_activation(llama: Subject, tmp_path: Path) -> None:
    lines = [
        "हिन्दी भाषा में लिखा", "ภาษาไทยง่าย", "日本語の文章を読む", "العربية لغة", "한국어 문장", "cafe\u0301 nai\u0308ve",
        "👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽", "plain English text",
    ]  # fmt: skip
    rng = random.Random(0)
    corpus = Listed([f"{number} " + " ".join(rng.sample(lines, 5)) for number in range(60)])
    neurons = both_signs(*(Neuron(1, index) for index in range(6)))
    kept = collect(corpus, llama, neurons, folder=tmp_path)
    truth = BruteForce(llama, cut_windows(corpus.documents(99), llama, seed=3))
    whole = {character for line in lines for character in regex.findall(r"\X", line)} | set("0123456789 ")
    several = 0
    for item in kept.exemplars:
        assert {character for token in item.tokens for character in regex.findall(r"\X", token)} <= whole
        assert "".join(item.tokens) in "".join(corpus.texts())
        assert item.activations == pytest.approx(truth.of(item.window, item.neuron), abs=5e-5)
        window = truth.windows[item.window]
        values = truth.activations[item.window][item.neuron.layer, :, item.neuron.index]
        spans = [at for _, at in pieces(llama, window)]
        counted = sorted({at for span in spans for at in span})
        peak = counted[int((-values if item.neuron.negative else values)[counted].argmax())]
        assert peak in spans[item.peak]
        several += len(spans[item.peak]) > 1
        # The peak's token lies inside the text that is marked.
        assert f"«{item.tokens[item.peak].strip()}" in highlighted(item, item.activation).replace("« ", "«")
    assert several > 100  # the bytes of the peak's character are several tokens


def check_quantiles(found: Sequence[Exemplar], peaks: Sequence[float]) -> None:
    """Compare samples with the three equal parts of all peaks (highest first)."""
    values = [item.activation for item in found]
    assert values == sorted(values, reverse=True)
    assert len({item.window for item in found}) == len(found)
    bounds = [-(-part * len(peaks) // 3) for part in range(4)]
    parts = [peaks[start:stop] for start, stop in itertools.pairwise(bounds)]
    for part in parts:
        inside = [value for value in values if part and part[-1] - 5e-5 <= value <= part[0] + 5e-5]
        assert len(inside) >= min(2, len(part))
    assert len(values) == sum(min(2, len(part)) for part in parts)


def test_random_windows_depend_on_the_seed(llama: Subject, texts: list[str], tmp_path: Path) -> None:
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


def test_progress_counts_every_document(llama: Subject, texts: list[str], tmp_path: Path) -> None:
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


def planted(
    *windows: Sequence[float], split: Split = Split.EXPLAIN, first: int = 0
) -> tuple[list[Window], torch.Tensor]:
    """Windows of one split, and the activations of one neuron at their tokens."""
    made = [
        Window(f"{first + place:016x}", split, 0, tuple(range(5, 5 + len(values))), bytes([TEXT] * len(values)))
        for place, values in enumerate(windows)
    ]
    return made, torch.tensor(windows, dtype=torch.float32)[..., None]


def test_peaks_and_samples_by_hand(tmp_path: Path, llama: Subject) -> None:
    config = replace(SMALL, window=3, top=2, random=2, report_random=2, quantiles=2, per_quantile=1)
    neuron = Neuron(0, 7)
    state = State(both_signs(neuron), config, torch.float32, "cpu")
    number = 0
    for split in Split:
        # Peaks 4, 1, 2, 0 with positive sign and 0, 8, 1, 0 with negative sign: the last window never activates.
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
        # The upper half of the peaks 4, 2, 1 is 4 and 2, the lower half is 1; of 8 and 1 each is a half.
        high, low = shown(Sign.POSITIVE, Source.QUANTILE)
        assert high[0] in {0, 2}
        assert low == (1, (1, -8, 1))
        assert [place for place, _ in shown(Sign.NEGATIVE, Source.QUANTILE)] == [1, 2]
        assert len(shown(Sign.POSITIVE, Source.RANDOM)) == 2
        assert [place for place, _ in shown(Sign.POSITIVE, Source.RANDOM)] == [
            place for place, _ in shown(Sign.NEGATIVE, Source.RANDOM)
        ]


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_merged_in_any_order_are_what_one_pass_keeps(
    data: st.DataObject, llama: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.evidence.state.PEAKS", 9)
    monkeypatch.setattr("harness.evidence.running.PEAKS", 9)
    config = replace(SMALL, window=3, top=3, random=1, report_random=2, quantiles=2, per_quantile=1)
    neurons, count = both_signs(Neuron(0, 1), Neuron(0, 4), Neuron(1, 2)), 70
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    tokens, splits = rng.integers(5, 60, (count, 3)), rng.choice(list(Split)[:2], count)
    windows = [
        Window(f"{number:016x}", Split(splits[number]), 0, tuple(tokens[number].tolist()), bytes([TEXT] * 3))
        for number in range(count)
    ]
    # Few different values, so that many windows have equal peaks.
    activations = torch.from_numpy(rng.integers(-2, 3, (count, 3, 3))).float()

    def kept(numbers: Sequence[int], limits: dict[Split, int]) -> tuple[State, TokenSums]:
        state = State(neurons, config, torch.float32, "cpu", limits)
        sums = TokenSums(llama, unsigned_of(neurons), "cpu")
        for number in numbers:
            state.book.add([windows[number]], number)
            batch = Batch.of([(number, windows[number])], seed=0)
            state.update(batch, activations[[number]])
            sums.update(batch.ids, batch.marks != 0, activations[[number]])
        return state, sums

    def content(state: State, sums: TokenSums) -> list[Any]:
        state.prune()
        tables = pa.concat_tables(exemplar_tables(state, llama))
        return [tables.to_pylist(), window_table(state).to_pylist(), list(sums.alignments())]

    places = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    part_of, informed = data.draw(places), data.draw(st.booleans())
    merged, merged_sums = kept([], {})
    for part in data.draw(st.permutations(range(5))):
        numbers = [number for number in range(count) if part_of[number] == part]
        state, sums = kept(data.draw(st.permutations(numbers)), merged.limits if informed else {})
        for drawn in state.drawn.values():
            drawn.drop_empty()
        state.prune()
        merged.merge(state.tensors())
        merged_sums.merge(sums.tensors())
    assert content(merged, merged_sums) == content(*kept(range(count), {}))


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
def test_quantile_samples_come_from_their_part_for_any_batches(data: st.DataObject, quantiles: int, each: int) -> None:
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
    assert misses == 0  # more than three standard errors of 256 ranks
    assert shown == 200


def test_exemplars_are_read_by_neuron(llama: Subject, texts: list[str], tmp_path: Path) -> None:
    neurons = [Neuron(layer, index) for layer in (0, 1) for index in range(40)]
    kept = collect(Listed(texts), llama, neurons, folder=tmp_path)
    table = ExemplarTable(tmp_path / "exemplars.parquet")
    assert table.neurons == neurons
    # The ids of every window's tokens, from which its text follows.
    windows = {row["window"]: row for row in pq.read_table(tmp_path / "windows.parquet").to_pylist()}
    assert set(windows) == {item.window for item in kept.exemplars}
    for item in kept.exemplars:
        pieces_of = llama.texts.pieces(windows[item.window]["token_ids"])
        assert tuple(piece.text for piece in pieces_of) == item.tokens
        assert windows[item.window]["document"] == item.document
    for neuron in (neurons[0], neurons[33], neurons[-1]):
        assert table.read([neuron]) == [item for item in kept.exemplars if item.neuron == neuron]
    assert table.read([neurons[5], neurons[2], Neuron(2, 0)]) == [
        item for item in kept.exemplars if item.neuron in (neurons[2], neurons[5])
    ]


def test_a_sign_that_neurons_never_have_is_refused(subjects: dict[str, Subject], tmp_path: Path) -> None:
    opt = Subject("opt", [str(tiny_models.tiny_subject(tmp_path / "opt", "opt"))])  # ReLU
    told(lambda: check_signs(opt, [Neuron(0, 1, sign=Sign.NEGATIVE)]), "never negative", "neurons.signs")
    check_signs(opt, [Neuron(0, 1)])
    for subject in subjects.values():  # GELU, and gated
        check_signs(subject, both_signs(Neuron(0, 1)))
