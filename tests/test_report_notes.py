"""What the report says about a run: trust, judge checks, missing parts, and runs without an LLM."""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.finished_run import ATTACK, decomposed_only, make_run
from support.report_pages import Reader, check_structure, is_text, opened
from support.small_run import summary_of

from harness.export import export_run
from harness.folder import RunFolder, write_json, write_table
from harness.records import (
    Description,
    Exemplar,
    Neuron,
    Score,
    Sign,
    Source,
    Split,
    Status,
    Verdict,
    Winner,
)
from harness.report import build_report
from harness.report.__main__ import main
from harness.report.cards import build_cards
from harness.report.notes import (
    control_warnings,
    extractive_notice,
    summary,
)
from harness.results.run_data import load_run
from harness.results.tables import print_leaderboard


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    build_report([run], run.report)
    return opened(run.report)


UNTRUSTED = re.compile(r"Untrustworthy: the control shuffled wins \d+\.\d % against the real methods")


@pytest.mark.parametrize(("winner", "warned"), [(Winner.FIRST, False), (Winner.TIE, True), (Winner.SECOND, True)])
def test_a_control_that_is_not_beaten_is_a_warning(tmp_path: Path, winner: Winner, warned: bool) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"real": {"control": False}, "shuffled": {"control": True}}})
    for index in range(3):
        folder.verdicts().append(Verdict(Neuron(0, index), "j", "real", "shuffled", True, winner))
    warnings = control_warnings(load_run(folder))
    build_report([folder], folder.report)
    assert ("A control is level with or above a real describer" in folder.report.read_text()) is warned
    assert len(warnings) == (2 if warned else 0)  # all judges together, and the one judge
    if winner is Winner.SECOND:
        expected = "All judges together: the control shuffled (100.0 %) ranks no lower than real (0.0 %)."
        assert warnings[0] == expected
        assert expected in folder.report.read_text()


def test_an_untrustworthy_run_is_marked_everywhere(tmp_path: Path) -> None:
    """A judge that prefers the descriptions of other neurons: the page, the terminal and W&B say so in words."""
    from harness.run.trackers import WandbTracker

    order = ("shuffled", "rotate", "maxact", "vocab_proj", "empty")
    folder = make_run(tmp_path / "run", neurons=12, channels=1, quality=order, hostile=False)
    data = load_run(folder)
    trust = data.leaderboard.overall.trust
    assert trust.trustworthy is False
    assert UNTRUSTED.match(trust.words)

    build_report([folder], folder.report)
    text = "".join(Reader(folder.report.read_text()).text)
    assert text.index(trust.words) < text.index("All judges together, 12 neurons")  # above the leaderboard
    assert all(f"Judge {one.judge}: {one.trust.words}" in text for one in data.leaderboard.judges)

    console = Console(file=io.StringIO(), width=80)
    print_leaderboard(data.leaderboard, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert trust.words in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
    row = data.leaderboard.overall.rows[0]
    assert row.rank_interval is not None
    assert f"│ {row.rank} ({row.rank_interval[0]}–{row.rank_interval[1]}) │" in printed
    assert "Fai" in printed  # the last column is not cut off
    assert "Failed ┃" in printed

    WandbTracker().log(folder, data.leaderboard, {**data.manifest, "commit": None})
    (log,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    summary = summary_of(log)
    assert summary["trust/words"] == trust.words
    assert summary["trust/trustworthy"] is False
    assert summary["trust/pairwise/words"] == data.leaderboard.judges[1].trust.words
    assert summary[f"strength/{row.describer}"] == row.strength
    assert summary[f"adjusted_win_rate/{row.describer}"] == row.adjusted_win_rate
    assert summary["judge/pairwise/inconsistency"] == data.leaderboard.health[1].inconsistency


def test_judge_checks_and_left_out_scorers_are_shown(tmp_path: Path) -> None:
    """Descriptions of known quality, judged by one who sees it and by one who goes by length alone."""
    folder = RunFolder(tmp_path / "run")
    grades = {"right": ("right", 1.0, 0.0), "half": ("dropped", 0.5, 0.5), "long": ("padded", 1.0, 1.0)}
    write_json(
        folder.manifest,
        {
            "seed": 3,
            "contestants": {
                name: {
                    "control": False,
                    "mode": "given",
                    "models": [],
                    "corruption": {"grade": grade, "quality": quality, "strength": strength},
                }
                for name, (grade, quality, strength) in grades.items()
            },
            "judges": {"sees": {"kind": "comparator", "side": "output"}, "counts": {"kind": "comparator"}},
            "left_out": {"steering": f"the subject has no head {ATTACK}"},
            "llm": {},
        },
    )
    texts = {"right": "one two three", "half": "one", "long": "one two three four five six"}
    for index in range(4):
        neuron = Neuron(0, index)
        for name, text in texts.items():
            folder.descriptions().append(Description(neuron, name, text))
        for one, two in itertools.combinations(sorted(texts), 2):
            longer = Winner.FIRST if len(texts[one]) > len(texts[two]) else Winner.SECOND
            seen = Winner.SECOND if one == "half" else Winner.TIE
            for judge, winner in (("sees", seen), ("counts", longer)):
                verdict = Verdict(neuron, judge, one, two, True, winner)
                folder.verdicts().append(verdict)
            folder.retests().append(Verdict(neuron, "sees", one, two, True, Winner.TIE))
    build_report([folder], folder.report)
    page = opened(folder.report)
    text = " ".join("".join(Reader(page).text).split())
    table = page[page.index('aria-label="Judge checks"') :]
    cells = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)
    lines = {line.split()[0]: line.split() for line in (re.sub(r"<[^>]+>", " ", cell) for cell in cells)}
    assert lines["sees"][:4] == ["sees", "comparator", "–", "100.0"]
    assert lines["counts"][3] == "100.0"  # the right one is longer than its half
    assert " ".join(lines["counts"]).endswith("0.50 0.50 to 0.50 of 4 – –")  # of two right ones always the longer
    assert lines["sees"][-3:] == ["0.33", "of", "12"]  # ties come back as ties, and wins do not
    known = page[page.index('aria-label="Judges by corruption of a right description"') :]
    rows = re.findall(r"<tr>(.*?)</tr>", known[: known.index("</table>")], re.DOTALL)
    found = [re.sub(r"<[^>]+>", " ", row).split() for row in rows[1:]]
    # The columns are the judges by name: counts, which prefers padding, and sees, which does not.
    assert [row[0] for row in found] == ["dropped", "padded"]
    assert " ".join(found[1]).startswith("padded equal 1.00 right , long 0 0 to 0 0 / 0 / 4 50 50 to 50 0 / 4 / 0")
    assert "Pairs without a right description (1)" in text
    assert "steering: the subject has no head" in text
    assert html.escape(ATTACK).replace("&#x27;", "&#39;") in page
    assert "The descriptions of" not in text
    assert "given to the run" in text
    check_structure(page)
    is_text(page)


def test_a_schedule_that_leaves_pairs_out_is_explained(tmp_path: Path) -> None:
    settings = {"comparisons": {"schedule": "baseline", "baseline": "maxact"}}
    folder = make_run(tmp_path / "run", neurons=2, channels=1, config=settings)
    build_report([folder], folder.report)
    assert "every describer was compared with maxact only" in opened(folder.report)


def test_a_large_run_shows_and_reads_some_of_its_neurons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", neurons=9, channels=1)
    whole = load_run(folder)
    monkeypatch.setattr("harness.results.run_data.SHOWN", 4)
    part = load_run(folder, recompute=True)
    assert (len(part.neurons), part.left_out) == (4, 5)
    assert [card.neuron for card in build_cards(part)] == list(part.neurons)
    assert {item.neuron for item in part.verdicts} == set(part.neurons)
    assert part.leaderboard == whole.leaderboard  # figures are of all
    assert part.answers == whole.answers
    build_report([folder], folder.report)
    text = " ".join("".join(Reader(folder.report.read_text()).text).split())
    assert "compared on 9 neurons" in text
    assert "Shown are 4 of the 9 neurons" in text


def test_a_neuron_at_two_signs_counts_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"a": {"control": False}, "b": {"control": False}}})
    for index in range(3):
        for sign in Sign:
            neuron = Neuron(4, index, sign=sign)
            folder.descriptions().append(Description(neuron, "a", "some text"))
            if index < 2:
                folder.verdicts().append(Verdict(neuron, "j", "a", "b", True, Winner.FIRST))
    # Of the neurons that were described, and of those that merely have exemplars, nothing was compared yet.
    tokens, activations = (" one", " two"), (0.0, 1.0)
    window = Exemplar(Neuron(5, 9), Split.REPORT, Source.TOP, "d", 1, tokens, activations)
    write_table(folder.exemplars, [window])
    data = load_run(folder)
    assert data.leaderboard.neurons == 2
    assert summary(data).split("compared on ")[1].startswith("2 neurons at both signs of an unnamed subject (layer 4).")
    assert "neurons: 2 neurons at both signs\n" in (export_run(folder, tmp_path / "out") / "README.md").read_text()
    build_report([folder], folder.report)
    text = " ".join("".join(Reader(folder.report.read_text()).text).split())
    assert "Neurons2at both signs, 0 channels" in text


def test_a_run_that_only_scores_shows_its_scores(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"a": {"control": False}, "b": {"control": True}}})
    for index in range(3):
        folder.scores().append(Score(Neuron(0, index), "own_words", "a", -index / 4))
        lost = Score(Neuron(0, index), "own_words", "b", None, Status.FAILED, "no text")
        folder.scores().append(lost if index else dataclasses.replace(lost, value=0.5, status=Status.OK))
    data = load_run(folder)
    console = Console(file=io.StringIO(), width=80)
    print_leaderboard(data.leaderboard, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].strip() == "Scores: no judge compares"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[:3] + row[4:] for row in rows] == [
        ["own_words", "b (control)", "0.500", "1", "2"],
        ["own_words", "a", "−0.250", "3", "0"],
    ]
    assert not any("trust" in line.lower() for line in lines)
    card = (export_run(folder, tmp_path / "out") / "README.md").read_text()
    assert "| own\\_words | a | −0.250 |" in card
    assert "Win rates" not in card
    build_report([folder], folder.report)
    html = folder.report.read_text()
    assert 'id="scores"' in html
    assert 'id="leaderboard"' not in html
    assert 'href="#leaderboard"' not in html


def test_a_run_without_llm_says_so(tmp_path: Path, page: str) -> None:
    assert "No language model was configured" not in page
    assert "vocab_proj are extractive" in page
    folder = make_run(tmp_path / "plain", neurons=2, channels=1, llm=False)
    build_report([folder], folder.report)
    assert "No language model was configured" in folder.report.read_text()


@pytest.mark.parametrize(
    ("judges", "told"),
    [
        ({}, None),
        ({"embedding": {"is_human": False}}, "No judge reads descriptions"),
        ({"human": {"is_human": True}}, None),
        (
            {"embedding": {"is_human": False}, "human": {"is_human": True}},
            "Of the judges, human records the preferences",
        ),
    ],
)
def test_the_notice_says_which_judges_read_descriptions(
    tmp_path: Path, judges: dict[str, Any], told: str | None
) -> None:
    folder = RunFolder(tmp_path)
    contestants = {name: {"control": False, "mode": "extractive"} for name in "ab"}
    write_json(folder.manifest, {"contestants": contestants, "judges": judges, "llm": {}})
    notice = extractive_notice(load_run(folder))
    assert notice is not None
    assert "No language model was configured" in notice
    assert "read" not in notice if told is None else told in notice


def test_a_bare_manifest_is_enough(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "bare")
    write_json(folder.manifest, {})
    build_report([folder], folder.report)
    page = opened(folder.report)
    assert "<h1><bdi>bare</bdi></h1>" in page
    assert "No judge has given a verdict or a score yet." in page


def test_records_without_decomposition_or_exemplars(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "partial")
    write_json(folder.manifest, {"name": "partial", "contestants": {"a": {"control": False, "mode": "llm"}}})
    folder.descriptions().append(Description(Neuron(0, 1), "a", "some text"))
    folder.verdicts().append(Verdict(Neuron(0, 1), "j", "a", "b", False, None, Status.FAILED, "server died"))
    build_report([folder], folder.report)
    page = opened(folder.report)
    assert "server died" in page
    assert "failed (failed, missing)" in page


def test_whole_layers_without_describers_make_a_small_page_about_the_decomposition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.results.run_data.SHOWN", 100)
    pages = {}
    for neurons in (300, 900):
        folder = decomposed_only(tmp_path / str(neurons), neurons)
        build_report([folder], folder.report)
        pages[neurons] = folder.report.read_text(encoding="utf-8")
    page = pages[900]
    text = " ".join("".join(Reader(page).text).split())
    assert "1,800 weight vectors (out) of 1,800 neurons of a-model (layers 0 and 1) were decomposed into 3,600" in text
    assert "Shown are 100 of the 1,800 neurons" in text
    assert "Leaderboard" not in page
    assert "No language model was configured" not in page
    check_structure(page)
    # Three times the vectors are drawn and tabulated in the same space.
    assert abs(len(page) - len(pages[300])) < 0.02 * len(page)
    assert json.loads(main_json(tmp_path / "900"))["total"]["found"] == 3600


def main_json(run: Path) -> str:
    """The diagnostics as `python -m harness.report` stores them."""
    assert main([str(run)]) == 0
    return (run / "decomposition.json").read_text()
