"""The report, from synthetic run folders whose texts are as hostile as a corpus or a model can make them."""

from __future__ import annotations

import dataclasses
import html
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from support.finished_run import ATTACK, decomposed_only, make_run
from support.report_pages import Reader, is_text, opened

from harness.errors import HarnessError
from harness.export import export_run
from harness.folder import RunFolder, write_json, write_table
from harness.records import (
    Description,
    Exemplar,
    Neuron,
    RoleUsage,
    Score,
    Sign,
    Source,
    Split,
    Status,
    Usage,
    Verdict,
    Vote,
    Winner,
)
from harness.report import build_report, load_run, print_judge_checks, print_leaderboard, store_judge_checks
from harness.report.__main__ import main
from harness.report.build import decomposition_figures
from harness.report.cards import build_cards, crop, disagreement
from harness.report.plots import leaderboard_figure, to_svg, win_matrix_figure
from harness.report.words import (
    comparability_warnings,
    config_differences,
    control_warnings,
    extractive_notice,
    summary,
)
from harness.results.formatting import shown_token, visible
from harness.results.leaderboard import build_leaderboard
from harness.results.schema import leaderboard_from_json
from harness.results.summary import cost_rows, failure_rows, summary_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    build_report([run], run.report)
    return opened(run.report)


def test_foreign_text_is_text(page: str) -> None:
    is_text(page)
    assert html.escape(ATTACK) in page.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert "{{ 7 * 7 }}" in page
    assert "\\u202e" in page


def test_nothing_outside_is_fetched(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_everything_on_record_is_in_the_page(run: RunFolder, page: str) -> None:
    text = "".join(Reader(page).text)
    data = load_run(run)
    assert len(data.neurons) == 4
    for neuron in data.neurons:
        assert f'id="{neuron}"' in page
    for description in data.descriptions:
        assert visible(description.text) in text
        assert all(visible(part) in text for part in description.parts)
    for verdict in data.verdicts:
        assert visible(verdict.reason) in text
    for score in data.scores:
        assert visible(score.detail) in text


def test_a_giant_token_is_cut(page: str) -> None:
    assert "x" * 20 in page
    assert "x" * 100 not in page


def test_ids_are_unique_and_headings_in_order(page: str) -> None:
    elements = Reader(page).elements
    ids = [attributes["id"] for _, attributes in elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    anchors = {attributes["href"][1:] for tag, attributes in elements if tag == "a" and attributes.get("href")}  # type: ignore[index]
    assert anchors <= set(ids)


def test_tables_and_plots_are_accessible(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        if tag == "th":
            assert attributes.get("scope")
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")


def test_equal_input_makes_equal_bytes(run: RunFolder, tmp_path: Path) -> None:
    build_report([run], tmp_path / "a.html")
    build_report([RunFolder(run.path)], tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    copy = make_run(tmp_path / "elsewhere" / "one")  # the same run, written again in another place
    build_report([copy], tmp_path / "c.html")
    assert (tmp_path / "c.html").read_bytes() == (tmp_path / "a.html").read_bytes()


def test_failures_and_costs_are_shown(page: str) -> None:
    text = " ".join("".join(Reader(page).text).split())
    assert "truncated 1" in text
    assert "unparsed 1" in text
    assert "refused" in text
    assert "60" in text  # describer calls: 4 neurons x 5 describers x 3


def rows_of(page: str, label: str) -> list[list[str]]:
    """Return the words of each row of a table, by the label of the region that it stands in."""
    table = page[page.index(f'aria-label="{label}"') :]
    table = table[: table.index("</table>")]
    return [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr[^>]*>.*?</tr>", table, re.DOTALL)]


def test_costs_are_told_by_role_and_method(page: str) -> None:
    rows = {row[0]: row[1:] for row in rows_of(page, "Costs by role of the language model")}
    # 4 neurons x 5 describers, each with 3 calls, 1 of them cached, at 0.02 of which 0.015 were paid.
    assert rows["explainer"][-7:] == ["60", "20", "18,000", "1,200", "30.0", "0.40", "0.30"]
    assert rows["rotate"] == ["12", "4", "3,600", "240", "6.0", "0.08", "0.06"]
    assert rows["judge"][0] == "qwen3-8b"
    assert rows["judge"][-2:] == ["–", "–"]  # no prices: not known, and not nothing


def test_what_was_asked_again_is_paid_for_and_can_fail(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"a": {"control": False}, "b": {"control": False}}})
    usage = Usage(1, 700, 40, 0.5, {"judge": RoleUsage(1, 700, 40, 0.5, 0.25, paid=0.25)})
    for index in range(3):
        verdict = Verdict(Neuron(0, index), "pairwise", "a", "b", True, Winner.FIRST, usage=usage)
        folder.verdicts().append(verdict)
        folder.retests().append(verdict)
        score = Score(Neuron(0, index), "detection", "a", index / 4, usage=usage)
        folder.scores().append(score)
        lost = dataclasses.replace(score, value=None, status=Status.UNPARSED, detail="no number")
        folder.score_retests().append(score if index else lost)
    store_judge_checks(folder)
    build_report([folder], folder.report)
    page = opened(folder.report)
    costs = [row for row in rows_of(page, "Costs") if row[:2] == ["ask", "again"]]
    assert costs == [["ask", "again", name, "3", "2,100", "120", "1.5"] for name in ("pairwise", "detection")]
    assert rows_of(page, "Costs")[-1] == ["All", "12", "8,400", "480", "6.0"]
    judge = rows_of(page, "Costs by role of the language model")[1]
    assert judge[-2:] == ["3.00", "3.00"]  # all twelve calls, those that were asked again among them
    assert ["asked", "again", "detection", "1", "of", "3", "unparsed", "1"] in rows_of(page, "Failures")
    checks = {row[0]: " ".join(row) for row in rows_of(page, "What the judges are worth")}
    assert checks["pairwise"].endswith("1.00 of 3")
    assert checks["detection"].endswith("1.00 of 2 1 failed")
    console = Console(file=io.StringIO(), width=120)
    print_judge_checks(folder, console)
    assert "1.00 of 2, 1 failed" in console.file.getvalue()  # type: ignore[attr-defined]

    # The tracker is told the same.
    figures = summary_of_run(folder, load_run(folder).leaderboard, ())
    assert (figures["cost/calls"], figures["cost/paid"], figures["failed/detection"]) == (12, 3.0, 1)
    stages = {(row["stage"], row["method"]): row["calls"] for row in cost_rows(folder)}
    assert stages["ask again", "pairwise"] == stages["ask again", "detection"] == 3
    (failure,) = failure_rows(folder, folder.read_manifest())
    assert (failure["stage"], failure["status"], failure["count"], failure["of"]) == ("ask again", "unparsed", 1, 3)


def test_further_figures_of_scorers_are_shown(page: str) -> None:
    heading, *rows = rows_of(page, "Scores by simulation")
    assert heading[-4:] == ["Scores", "top", "random", "Failed"]
    found = {row[0]: row for row in rows}
    # Neuron n of 4 has n/4: the mean is 3/8. Of maxact the first failed: (1 + 2 + 3) / 4 / 3.
    assert found["rotate"][-4:] == ["4", "0.375", "−1.000", "0"]
    assert found["maxact"][-5:] == ["3", "0.500", "−1.000", "unparsed", "1"]


def test_every_verdict_of_a_panel_is_shown_with_its_votes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"a": {"control": False}, "b": {"control": False}}})
    votes = (
        Vote("kind", Winner.FIRST, reason="says more"),
        Vote("stern", None, Status.REFUSED, f"will not {ATTACK}"),
        Vote("vague", Winner.TIE),
    )
    for first, second in (("a", "b"), ("b", "a")):
        verdict = Verdict(
            Neuron(0, 1), "panel", first, second, False, Winner.FIRST, reason=f"1 of 3 for {first}", preference=0.75
        )
        folder.verdicts().append(dataclasses.replace(verdict, votes=votes))
    build_report([folder], folder.report)
    page = opened(folder.report)
    _, one, other = rows_of(page, "Verdicts of panel on L0N1")
    told = "75 % kind : {0} says more stern : refused will not"
    assert " ".join(one).startswith(
        f"a and b tie: the two orders disagree a a 1 of 3 for a prefers the first with {told.format('a')}"
    )
    assert " ".join(other).startswith(f"b b 1 of 3 for b prefers the first with {told.format('b')}")
    assert " ".join(one).endswith("vague : tie")
    is_text(page)


def test_who_is_best_and_how_often_each_wins_is_kept_with_every_neuron(tmp_path: Path) -> None:
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


def test_a_thousand_neurons_stay_under_20_megabytes(tmp_path: Path) -> None:
    """Measured on few, for size grows by the same for each neuron; the rest of the page is the same for any number."""
    from bench.report import realistic_run

    sizes = {}
    for neurons in (8, 24):
        folder = realistic_run(tmp_path / str(neurons), neurons)
        data = load_run(folder)
        assert len(data.verdicts) == 30 * neurons
        build_report([folder], folder.report)
        sizes[neurons] = folder.report.stat().st_size
    each = (sizes[24] - sizes[8]) / 16
    assert each > 5_000  # it is all there
    assert sizes[24] + 976 * each < 20_000_000


@pytest.mark.parametrize(("winner", "warned"), [(Winner.FIRST, False), (Winner.TIE, True), (Winner.SECOND, True)])
def test_a_control_that_is_not_beaten_is_called_out(tmp_path: Path, winner: Winner, warned: bool) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.manifest, {"contestants": {"real": {"control": False}, "shuffled": {"control": True}}})
    for index in range(3):
        folder.verdicts().append(Verdict(Neuron(0, index), "j", "real", "shuffled", True, winner))
    warnings = control_warnings(load_run(folder))
    build_report([folder], folder.report)
    assert ("holds its own" in folder.report.read_text()) is warned
    assert len(warnings) == (2 if warned else 0)  # all judges together, and the one judge
    if winner is Winner.SECOND:
        expected = "All judges together: the control shuffled (100.0 %) ranks no lower than real (0.0 %)."
        assert warnings[0] == expected
        assert expected in folder.report.read_text()


UNTRUSTED = re.compile(r"Untrustworthy: the control shuffled wins \d+\.\d % against the real methods")


def test_an_untrustworthy_run_is_called_that_wherever_it_is_shown(tmp_path: Path) -> None:
    """A judge that prefers the descriptions of other neurons: the page, the terminal and W&B say so in words."""
    from test_run import summary_of

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


def test_what_judges_are_worth_and_who_could_not_judge_is_on_the_page(tmp_path: Path) -> None:
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
    table = page[page.index('aria-label="What the judges are worth"') :]
    cells = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)
    lines = {line.split()[0]: line.split() for line in (re.sub(r"<[^>]+>", " ", cell) for cell in cells)}
    assert lines["sees"][:4] == ["sees", "comparator", "–", "100.0"]
    assert lines["counts"][3] == "100.0"  # the right one is longer than its half
    assert " ".join(lines["counts"]).endswith("0.50 0.50 to 0.50 of 4 – –")  # of two right ones always the longer
    assert lines["sees"][-3:] == ["0.33", "of", "12"]  # ties come back as ties, and wins do not
    known = page[page.index('aria-label="Judges by what was done to a right description"') :]
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
    test_ids_are_unique_and_headings_in_order(page)
    is_text(page)


def test_a_schedule_that_leaves_pairs_out_is_explained(tmp_path: Path) -> None:
    settings = {"comparisons": {"schedule": "baseline", "baseline": "maxact"}}
    folder = make_run(tmp_path / "run", neurons=2, channels=1, config=settings)
    build_report([folder], folder.report)
    assert "every describer met maxact and nobody else" in opened(folder.report)


def test_a_large_run_shows_and_reads_some_of_its_neurons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", neurons=9, channels=1)
    whole = load_run(folder)
    monkeypatch.setattr("harness.results.run_data.SHOWN", 4)
    part = load_run(folder, recompute=True)
    assert (len(part.neurons), part.left_out) == (4, 5)
    assert [card.neuron for card in build_cards(part)] == list(part.neurons)
    assert {item.neuron for item in part.verdicts} == set(part.neurons)
    assert part.leaderboard == whole.leaderboard  # figures are of all
    assert part.seconds == whole.seconds
    build_report([folder], folder.report)
    text = " ".join("".join(Reader(folder.report.read_text()).text).split())
    assert "compared on 9 neurons" in text
    assert "Shown are 4 of the 9 neurons" in text


def test_a_neuron_at_two_signs_is_one_neuron_that_was_compared(tmp_path: Path) -> None:
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
        ({"embedding": {"is_human": False}, "human": {"is_human": True}}, "Of the judges, human says what people"),
    ],
)
def test_who_read_the_descriptions_without_an_llm_is_told_as_it_is(
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
    test_ids_are_unique_and_headings_in_order(page)
    # Three times the vectors are drawn and tabulated in the same space.
    assert abs(len(page) - len(pages[300])) < 0.02 * len(page)
    assert json.loads(main_json(tmp_path / "900"))["total"]["found"] == 3600


def main_json(run: Path) -> str:
    """The diagnostics as `python -m harness.report` stores them."""
    assert main([str(run)]) == 0
    return (run / "decomposition.json").read_text()


def test_figures_of_diagnostics_are_tabulated(page: str) -> None:
    table = re.search(r'<table class="diagnostics">.*?</table>', page, re.DOTALL)
    assert table is not None
    body = re.sub(r"<thead>.*</thead>", "", table[0], flags=re.DOTALL)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)]
    inward, outward = rows[:2]
    assert [row[:3] for row in rows[:-1]] == [[layer, kind, "2"] for layer in "35" for kind in ("in", "out")]
    assert rows[-1][:3] == ["all", "all", "8"]
    # Every first channel has loss -1, every random vector's -0.5: all neurons lie below them.
    assert inward[-15:-7] == ["2", "0.98", "0.40", "0.90", "−1.000", "−0.500", "100", "100"]
    assert outward[-12:-4] == ["–", "–", "–", "–", "−1.000", "–", "–", "–"]
    # One vector without its channels, each figure with that of chance behind it.
    assert inward[-7:] == ["1", "0.90", "0.50", "0.60", "0.50", "0.80", "0.70"]
    assert outward[-4:] == ["–"] * 4


def test_joint_report_shows_what_differs(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", name="alpha", neurons=2, channels=2, config={"a": {"lambda_k": 0.3, "same": 1}})
    two = make_run(tmp_path / "two", name="beta", neurons=3, channels=2, config={"a": {"lambda_k": 0.7, "same": 1}})
    runs = [load_run(one), load_run(two)]
    assert config_differences(runs) == [("a.lambda_k", ["0.3", "0.7"])]
    assert comparability_warnings(runs) == ["The runs describe different neurons: 2, 3, 2 in common."]
    build_report([one, two], tmp_path / "joint.html")
    page = opened(tmp_path / "joint.html")
    text = "".join(Reader(page).text)
    assert "a.lambda_k" in text
    assert "0.7" in text
    assert "The runs describe different neurons" in text
    test_ids_are_unique_and_headings_in_order(page)
    test_foreign_text_is_text(page)
    for prefix, run_ in (("r1-", runs[0]), ("r2-", runs[1])):
        assert all(f'id="{prefix}{neuron}"' in page for neuron in run_.neurons)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "one", neurons=2, channels=1)
    folder.leaderboard.write_text('{"stale": true}')
    assert main([str(folder.path)]) == 0
    assert capsys.readouterr().out == f"{folder.report}\n"
    stored = leaderboard_from_json(json.loads(folder.leaderboard.read_text()))
    assert stored == load_run(folder, recompute=True).leaderboard
    assert folder.leaderboard_csv.read_text().startswith("judge,describer,control,win_rate,low,high,")

    other = make_run(tmp_path / "two", neurons=2, channels=1)
    assert main([str(folder.path), str(other.path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path.resolve() / 'joint-report.html'}\n"
    assert main([str(folder.path), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").exists()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_that_is_no_run(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "leaderboard.json").exists()


def test_files_alone_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "sweep.json", tmp_path / "sweep.csv"]
    for path in files:
        path.write_text("")
    assert main(list(map(str, files))) == 1
    assert capsys.readouterr().err == f"error: no run folder among {files[0]}, {files[1]}: these are files\n"


def test_no_folders_at_all(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="at least one run folder"):
        build_report([], tmp_path / "x.html")


def test_the_stored_leaderboard_is_used_unless_told_otherwise(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", neurons=2, channels=1)
    stored = build_leaderboard((), (), (), controls=(), seed=99)
    write_json(folder.leaderboard, stored.to_json())
    assert load_run(folder).leaderboard == stored
    assert load_run(folder, recompute=True).leaderboard.seed == 7


# --- parts ---------------------------------------------------------------------------------------------------------


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


def test_figures(run: RunFolder) -> None:
    data = load_run(run)
    figures: list[Callable[[], Figure]] = [
        lambda: leaderboard_figure(data.leaderboard),
        lambda: win_matrix_figure(data.leaderboard),
    ]
    names = list(decomposition_figures(data.diagnostics))
    assert names == ["kurtosis", "loss", "cosine", "reconstruction", "masked", "skew", "consistency"]
    figures += [lambda name=name: decomposition_figures(data.diagnostics)[name][0] for name in names]  # type: ignore[misc]
    for figure in figures:
        svg = to_svg(figure(), "name", "a label")
        assert svg.startswith('<svg role="img" aria-label="a label"')
        assert svg == to_svg(figure(), "name", "a label")
        assert "currentColor" in svg
        assert "<style" not in svg
        assert "<image" not in svg  # vectors only
    assert ">rotate<" in to_svg(figures[0](), "x", "a label")


def test_figures_of_nothing() -> None:
    empty = build_leaderboard((), (), (), controls=(), seed=1)
    for figure in (leaderboard_figure(empty), win_matrix_figure(empty)):
        assert to_svg(figure, "empty", "nothing").startswith("<svg")
    assert decomposition_figures(()) == {}


def test_names_are_neither_markup_nor_mathematics() -> None:
    verdicts = [Verdict(Neuron(0, index), "$j$", "$a_1$ <b>", "[red]b", True, Winner.FIRST) for index in range(3)]
    leaderboard = build_leaderboard(verdicts, (), (), controls=(), seed=1)
    svg = to_svg(leaderboard_figure(leaderboard), "x", "a label")
    assert "$a_1$ &lt;b&gt;" in svg
    console = Console(file=io.StringIO(), width=120)
    print_leaderboard(leaderboard, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "$a_1$ <b>" in printed
    assert "[red]b" in printed
    assert "100.0" in printed
