"""Parts of the report: cards of neurons, cropped windows, plots."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from support.finished_run import make_run

from harness.folder import RunFolder, write_json
from harness.records import (
    Description,
    Exemplar,
    Neuron,
    Source,
    Split,
    Verdict,
    Winner,
)
from harness.report.cards import build_cards, crop, disagreement
from harness.report.decomposition_plots import decomposition_plots
from harness.report.plots import leaderboard_plot, to_svg, win_matrix_plot
from harness.results.formatting import shown_token
from harness.results.leaderboard import build_leaderboard
from harness.results.run_data import load_run
from harness.results.tables import print_leaderboard


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs") / "one")


def test_cards_hold_win_rates_and_the_best_describer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {name: {"control": False} for name in "abc"}})
    for index, third in enumerate((Winner.FIRST, Winner.TIE)):
        neuron = Neuron(2, index)
        folder.verdicts().append(Verdict(neuron, "j", "a", "b", True, Winner.SECOND))
        folder.verdicts().append(Verdict(neuron, "j", "b", "c", True, third))
        folder.verdicts().append(Verdict(neuron, "j", "a", "c", True, Winner.SECOND if index else Winner.TIE))
        for name in "abc":
            folder.descriptions().append(Description(neuron, name, f"text of {name}"))
    first, second = build_cards(load_run(folder))
    assert first.shares == {"a": 0.25, "b": 1.0, "c": 0.25}
    assert (first.best, first.headline) == ("b", "text of b")
    assert second.shares == {"a": 0.0, "b": 0.75, "c": 0.75}
    assert second.best is None


def test_crop_keeps_the_peak_and_the_tokens() -> None:
    activations = [0.0] * 64
    activations[60] = 4.0
    activations[59] = 1.0
    tokens = tuple(f" t{number}" for number in range(64))
    item = Exemplar(Neuron(0, 0), Split.REPORT, Source.TOP, "d", 1, tokens, tuple(activations))
    window = crop(item, highest=4.0)
    assert (window.before, window.after, window.activation) == (True, False, 4.0)
    assert "".join(part.text for part in window.segments) == "".join(tokens[32:])
    assert [(part.text, part.level) for part in window.segments if part.level] == [(" t59", 3), (" t60", 9)]
    short = dataclasses.replace(item, tokens=(" a", " b"), activations=(-1.0, -2.0))
    assert [(part.text, part.level) for part in crop(short, highest=0.0).segments] == [(" a b", 0)]


def test_disagreement_by_hand() -> None:
    def say(first: str, second: str, winner: Winner | None) -> Verdict:
        return Verdict(Neuron(0, 0), "j", first, second, False, winner)

    assert disagreement([]) is None
    assert disagreement([say("a", "b", None)]) is None
    assert disagreement([say("a", "b", Winner.FIRST), say("b", "a", Winner.SECOND)]) == 0.0
    # a against b is split in halves (1/2), a against c unanimous (0): the mean is 1/4.
    split = [say("a", "b", Winner.FIRST), say("b", "a", Winner.FIRST), say("a", "c", Winner.TIE)]
    assert disagreement(split) == 0.25


def test_cards_follow_the_leaderboard(run: RunFolder) -> None:
    data = load_run(run)
    card = next(build_cards(data))
    assert [item.description.describer for item in card.descriptions] == list(data.describers)
    assert [str(split) for split, _ in card.splits] == ["report", "explain"]
    assert [len(windows) for _, windows in card.splits] == [8, 8]
    first = card.splits[0][1]
    assert [window.activation for window in first[:6]] == sorted((w.activation for w in first[:6]), reverse=True)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" until", " until"),
        ("\n\t", "⏎⇥"),
        ("  ", "␣␣"),
        ("", ""),
        ("\x00\x1b", "␀␛"),
        ("a\u202eb", "a\\u202eb"),
        ("x" * 50, "x" * 39 + "…"),
        ("\ud800", "\\ud800"),
        ("直到", "直到"),
    ],
)
def test_shown_token(token: str, shown: str) -> None:
    assert shown_token(token) == shown


def test_plots_are_vector_graphics(run: RunFolder) -> None:
    data = load_run(run)
    figures: list[Callable[[], Figure]] = [
        lambda: leaderboard_plot(data.leaderboard),
        lambda: win_matrix_plot(data.leaderboard),
    ]
    names = list(decomposition_plots(data.diagnostics))
    assert names == ["kurtosis", "loss", "cosine", "reconstruction", "masked", "skew", "consistency"]
    figures += [lambda name=name: decomposition_plots(data.diagnostics)[name][0] for name in names]  # type: ignore[misc]
    for figure in figures:
        svg = to_svg(figure(), "name", "a label")
        assert svg.startswith('<svg role="img" aria-label="a label"')
        assert svg == to_svg(figure(), "name", "a label")
        assert "currentColor" in svg
        assert "<style" not in svg
        assert "<image" not in svg  # vectors only
    assert ">rotate<" in to_svg(figures[0](), "x", "a label")


def test_plots_without_data() -> None:
    empty = build_leaderboard((), (), (), controls=(), seed=1)
    for figure in (leaderboard_plot(empty), win_matrix_plot(empty)):
        assert to_svg(figure, "empty", "nothing").startswith("<svg")
    assert decomposition_plots(()) == {}


def test_names_are_neither_markup_nor_mathematics() -> None:
    verdicts = [Verdict(Neuron(0, index), "$j$", "$a_1$ <b>", "[red]b", True, Winner.FIRST) for index in range(3)]
    leaderboard = build_leaderboard(verdicts, (), (), controls=(), seed=1)
    svg = to_svg(leaderboard_plot(leaderboard), "x", "a label")
    assert "$a_1$ &lt;b&gt;" in svg
    console = Console(file=io.StringIO(), width=120)
    print_leaderboard(leaderboard, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "$a_1$ <b>" in printed
    assert "[red]b" in printed
    assert "100.0" in printed
