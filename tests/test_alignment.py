"""Alignment of neurons with tokens: planted truth, direct computation, the store, aggregates, and the warning."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from support import tiny_models
from support.evidence import SMALL, Kept, Listed, collect, cut_windows, make_subjects, short_texts
from support.finished_run import make_run
from transformers import AutoModel

from harness.evidence.alignment import TokenSums
from harness.folder import RunFolder, write_table
from harness.records import Against, Alignment, Effect, Neuron, Split, VectorKind
from harness.report import build_report
from harness.results.alignment import alignment_notices, alignment_rows
from harness.results.run_data import load_run
from harness.results.schema import AlignmentRow
from harness.results.summary import summary_of_run
from harness.results.tables import markdown_table, print_leaderboard
from harness.stats.config import StatisticsConfig
from harness.subject import ActivationReader, Subject

Arrays = NDArray[np.float64]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return make_subjects(tmp_path_factory)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return short_texts()


def r_of(kept: Kept, neuron: Neuron, kind: VectorKind, against: Against) -> Alignment:
    (found,) = (item for item in kept.alignment if (item.neuron, item.kind, item.against) == (neuron, kind, against))
    return found


def centred(subject: Subject) -> Arrays:
    """The embedding less its mean, (V, d_model)."""
    matrix: Arrays = subject.embedding().T.double().numpy()
    found: Arrays = matrix - matrix.mean(axis=0)
    return found


def test_a_neuron_that_computes_the_projection_of_its_token_has_r_of_one(texts: list[str], tmp_path: Path) -> None:
    # All embeddings have the same norm and a first coordinate of 1. The norm keeps them, and attention adds nothing.
    folder = tiny_models.tiny_subject(tmp_path / "llama", "llama")
    model = AutoModel.from_pretrained(folder)
    reads_token, reads_gate = Neuron(0, 4), Neuron(0, 7)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = model.embed_tokens.weight
        rows.copy_(torch.randint(0, 2, rows.shape, generator=generator) * 2.0 - 1)
        rows[:, 0] = 1
        layer = model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.post_attention_layernorm.weight.fill_(1)
        drawn = torch.randn(2, rows.shape[1], generator=generator)
        drawn[:, 0] = 0
        constant = torch.eye(rows.shape[1])[0] * 20
        layer.mlp.gate_proj.weight[reads_token.index], layer.mlp.up_proj.weight[reads_token.index] = constant, drawn[0]
        layer.mlp.gate_proj.weight[reads_gate.index], layer.mlp.up_proj.weight[reads_gate.index] = drawn[1], -constant
    tokenizer = Subject("llama", [str(folder)]).tokenizer
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    subject = Subject("planted", [str(folder)])
    kept = collect(Listed(texts), subject, [reads_token, reads_gate], folder=tmp_path / "run")
    own = r_of(kept, reads_token, VectorKind.IN, Against.CURRENT)
    assert own.r == pytest.approx(1, abs=1e-4)
    assert own.tokens == kept.summary.tokens
    assert own.control is not None
    assert abs(own.control) < 0.6
    following = r_of(kept, reads_token, VectorKind.IN, Against.NEXT)
    assert following.r is not None
    assert abs(following.r) < 0.3
    assert following.tokens < own.tokens  # the last token of a window has no next one
    # silu(gate) times a negative constant: tokens that open the gate lower the activation.
    gate = r_of(kept, reads_gate, VectorKind.GATE, Against.CURRENT)
    assert gate.r is not None
    assert gate.r < -0.7
    for neuron, kind in ((reads_token, VectorKind.GATE), (reads_gate, VectorKind.IN)):
        assert r_of(kept, neuron, kind, Against.CURRENT).r is None  # the same projection for all tokens


def test_planted_activations_are_told_apart_by_the_token_they_follow(subjects: dict[str, Subject]) -> None:
    subject, neurons = subjects["llama"], [Neuron(0, index) for index in range(3)]
    rng = np.random.default_rng(0)
    vectors = subject.vectors(0, [0, 1, 2], VectorKind.IN).double().numpy()
    projected = centred(subject) @ vectors.T
    sums = TokenSums(subject, neurons, "cpu")
    for _ in range(6):
        tokens = rng.integers(0, subject.vocab_size, (64, 17))
        activations = np.empty((64, 17, 3))
        activations[..., 0] = 5 + 3 * projected[tokens, 0]
        activations[:, :-1, 1] = -projected[tokens[:, 1:], 1]
        activations[:, -1, 1] = rng.normal(size=64)
        activations[..., 2] = rng.normal(size=(64, 17))
        counted = np.ones((64, 17), bool)
        counted[:8, 12:] = False  # shorter windows
        activations[:8, 12:] = 1e6  # whatever is there does not count
        sums.update(tokens, counted, torch.from_numpy(activations).float())
    found = {(item.neuron.index, item.kind, item.against): item.r for item in sums.alignments()}
    assert found[0, VectorKind.IN, Against.CURRENT] == pytest.approx(1, abs=1e-4)
    assert found[0, VectorKind.IN, Against.NEXT] == pytest.approx(0, abs=0.06)
    assert found[1, VectorKind.IN, Against.NEXT] == pytest.approx(-1, abs=1e-4)
    assert found[1, VectorKind.IN, Against.CURRENT] == pytest.approx(0, abs=0.06)
    for against in (Against.CURRENT, Against.NEXT):
        assert found[2, VectorKind.IN, against] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_streamed_correlations_equal_numpy_on_stored_activations(
    family: str, subjects: dict[str, Subject], texts: list[str], tmp_path: Path
) -> None:
    subject, neurons = subjects[family], [Neuron(0, 3), Neuron(0, 60), Neuron(1, 9)]
    config = replace(SMALL, stride=5)
    windows = cut_windows(Listed(texts).documents(99), subject, config, seed=3)
    kept = collect(Listed(texts), subject, neurons, config, folder=tmp_path)
    reader = ActivationReader(subject, neurons, "cpu")
    tokenizer = subject.tokenizer
    before = {"llama": [tokenizer.bos_token_id], "gemma2": [], "bert": [tokenizer.cls_token_id]}[family]
    after = [tokenizer.sep_token_id] if family == "bert" else []
    activations = []
    for window in windows:
        ids = torch.tensor([[*before, *window.tokens, *after]])
        read = reader.read(ids, torch.ones_like(ids))[0]
        activations.append(read[len(before) : len(before) + len(window.tokens)].double().numpy())
    embedding = centred(subject)
    kinds = [kind for kind in subject.kinds if kind is not VectorKind.OUT]
    assert len(kept.alignment) == len(neurons) * len(kinds) * 2

    def direct(place: int, vector: Arrays, against: Against) -> float:
        step = int(against is Against.NEXT)
        tokens = np.concatenate([window.tokens[step:] for window in windows])
        values = np.concatenate([own[: len(own) - step, place] for own in activations])
        return float(np.corrcoef(values, embedding[tokens] @ vector)[0, 1])

    for place, neuron in enumerate(neurons):
        other = subject.other_neuron(neuron)
        assert other is not None
        assert (other.layer, other.index == neuron.index) == (neuron.layer, False)
        for kind in kinds:
            own, control = (
                subject.vectors(one.layer, [one.index], kind)[0].double().numpy() for one in (neuron, other)
            )
            for against in (Against.CURRENT, Against.NEXT):
                item = r_of(kept, neuron, kind, against)
                assert item.r == pytest.approx(direct(place, own, against), abs=2e-5)
                assert item.control == pytest.approx(direct(place, control, against), abs=2e-5)


def test_a_neuron_has_the_same_alignment_whatever_was_captured_with_it(
    subjects: dict[str, Subject], texts: list[str], tmp_path: Path
) -> None:
    subject, config = subjects["llama"], replace(SMALL, store=str(tmp_path / "store"))
    pair, more = [Neuron(0, 1), Neuron(1, 5)], [Neuron(0, 2), Neuron(1, 5)]
    together = collect(Listed(texts), subject, [*pair, more[0]], folder=tmp_path / "a")
    collect(Listed(texts), subject, pair, config, folder=tmp_path / "b")
    of_parts = collect(Listed(texts), subject, more, config, folder=tmp_path / "c")  # one neuron is in the store
    assert of_parts.alignment
    assert {item.neuron for item in of_parts.alignment} == set(more)
    for item in of_parts.alignment:
        same = r_of(together, item.neuron, item.kind, item.against)
        assert (item.r, item.control) == pytest.approx((same.r, same.control), abs=1e-5)


def aligned(layer: int, values: Sequence[float | None], control: float = 0.03, **changes: Any) -> list[Alignment]:
    """Alignment of one neuron for each value, ``in`` with the current token unless changed."""
    item = Alignment(Neuron(layer, 0), VectorKind.IN, Against.CURRENT, None, control, 900)
    return [replace(item, neuron=Neuron(layer, index), r=r, **changes) for index, r in enumerate(values)]


def rows_of(alignments: Sequence[Alignment], effects: Sequence[Effect] = ()) -> tuple[AlignmentRow, ...]:
    return alignment_rows(alignments, effects, seed=1, config=StatisticsConfig(draws=400))


def test_rows_by_hand() -> None:
    strong, weak, single = rows_of(
        [
            *aligned(0, [0.5, -0.3, 0.1, None], control=-0.1),
            *aligned(0, [0.05, -0.03, 0.04], against=Against.NEXT),
            *aligned(2, [0.9]),
        ]
    )
    assert (strong.layer, strong.kind, strong.against) == (0, VectorKind.IN, Against.CURRENT)
    assert (strong.neurons, strong.undefined) == (3, 1)
    assert (strong.mean_abs, strong.control, strong.above_control) == pytest.approx((0.3, 0.1, 0.2), abs=1e-6)
    assert strong.share == pytest.approx(2 / 3, abs=1e-6)
    assert strong.interval is not None
    assert strong.interval[0] < 0.3 < strong.interval[1]
    assert strong.aligned is False  # too few neurons: the interval of the difference from the control reaches zero
    assert (weak.against, weak.mean_abs, weak.share, weak.aligned) == (Against.NEXT, 0.04, 0, False)
    assert (single.neurons, single.interval, single.aligned) == (1, None, None)
    (clear,) = rows_of(aligned(0, [0.5, -0.45, 0.4, 0.55]))
    assert clear.aligned is True


def test_effects_of_all_values_count_for_their_neuron() -> None:
    first = Effect(Neuron(5, 1), Split.EXPLAIN, 10.0, 0.1, (), (), (), 0.8, 0.1)
    effects = [
        first,
        replace(first, value=-10.0, direct=0.4, direct_control=-0.3),
        *(replace(first, neuron=Neuron(5, index), direct=0.7) for index in (2, 3, 4)),
    ]
    (row,) = rows_of([], effects)
    assert (row.kind, row.against, row.neurons, row.aligned) == (VectorKind.OUT, Against.EFFECT, 4, True)
    assert row.mean_abs == pytest.approx((0.6 + 3 * 0.7) / 4)
    assert row.control == pytest.approx((0.1 + 3 * 0.1) / 4)  # |mean of 0.1 and -0.3| is 0.1


def test_the_warning_names_the_side_that_is_not_aligned() -> None:
    low, high = [0.02, -0.05, 0.04], [0.5, 0.45, 0.6]
    assert alignment_notices(rows_of([])) == []
    assert alignment_notices(rows_of([*aligned(0, low), *aligned(3, high)])) == []
    (notice,) = alignment_notices(rows_of([*aligned(0, low), *aligned(3, low, kind=VectorKind.GATE)]))
    assert "input side" in notice
    assert "0.04, layer 0 in; 0.03 with another neuron's vector; 0.1 is needed" in notice
    effects = [Effect(Neuron(3, i), Split.EXPLAIN, 10.0, 0.1, (), (), (), r, 0.04) for i, r in enumerate(low)]
    (notice,) = alignment_notices(rows_of(aligned(0, high), effects))
    assert "output side" in notice


def test_the_warning_is_above_the_leaderboard_of_a_run_without_alignment(tmp_path: Path) -> None:
    def shown(folder: RunFolder) -> tuple[str, str, str, dict[str, Any]]:
        build_report([folder], folder.report)
        console = Console(file=io.StringIO(), width=80)
        board = load_run(folder).leaderboard
        print_leaderboard(board, console)
        assert isinstance(console.file, io.StringIO)
        return (
            folder.report.read_text(),
            markdown_table(board),
            console.file.getvalue(),
            summary_of_run(folder, board, []),
        )

    folder = make_run(tmp_path / "run", hostile=False)
    page, markdown, terminal, summary = shown(folder)
    assert not any("No alignment with tokens" in text for text in (page, markdown, terminal))
    assert "Where a token list can work" in page
    assert "Aligned in this run: in with the current token (layers 3 and 5)." in page
    assert summary["alignment/3/in/current/mean_abs"] > 0.3
    assert summary["alignment/3/in/current/aligned"] is True
    weak = [replace(item, r=0.02) for item in folder.read(Alignment)]
    write_table(folder.alignment, weak)
    page, markdown, terminal, summary = shown(folder)
    assert page.index("No alignment with tokens on the input side") < page.index('id="leaderboard"')
    assert markdown.startswith("No alignment with tokens on the input side")
    assert " ".join(terminal.split()).startswith("No alignment with tokens on the input side")
    assert summary["alignment/3/in/current/aligned"] is False
    # A run without text or without these records has neither section nor warning.
    folder.alignment.unlink()
    page, markdown, terminal, summary = shown(folder)
    assert "Where a token list can work" not in page
    assert not any("No alignment" in text for text in (page, markdown, terminal))
    assert not [name for name in summary if name.startswith("alignment/")]
    assert dataclasses.asdict(load_run(folder).leaderboard)["alignment"] == ()
