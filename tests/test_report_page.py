"""The HTML report: safe, complete, accessible and reproducible, on synthetic runs with hostile texts."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.finished_run import ATTACK, make_run
from support.report_pages import Reader, check_structure, is_text, opened, shows_attack_as_text, table_rows

from harness.errors import HarnessError
from harness.folder import RunFolder, write_json
from harness.records import (
    Neuron,
    RoleUsage,
    Score,
    Status,
    Usage,
    Verdict,
    Vote,
    Winner,
)
from harness.report import build_report, print_judge_checks
from harness.report.__main__ import main
from harness.report.notes import (
    config_differences,
)
from harness.results.formatting import visible
from harness.results.leaderboard import build_leaderboard
from harness.results.run_data import load_run
from harness.results.schema import leaderboard_from_json
from harness.results.stored import store_judge_checks
from harness.results.summary import cost_rows, failure_rows, summary_of_run
from harness.results.sweep import comparability_warnings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    build_report([run], run.report)
    return opened(run.report)


def test_foreign_text_is_text(page: str) -> None:
    shows_attack_as_text(page)


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
        assert all(visible(part) in text for part in description.steps)
    for verdict in data.verdicts:
        assert visible(verdict.reason) in text
    for score in data.scores:
        assert visible(score.detail) in text


def test_a_giant_token_is_cut(page: str) -> None:
    assert "x" * 20 in page
    assert "x" * 100 not in page


def test_ids_are_unique_and_headings_in_order(page: str) -> None:
    check_structure(page)


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


def test_costs_are_shown_by_role_and_method(page: str) -> None:
    rows = {row[0]: row[1:] for row in table_rows(page, "Costs by role of the language model")}
    # 4 neurons x 5 describers, each with 3 calls, 1 of them cached, at 0.02 of which 0.015 were paid.
    assert rows["explainer"][-7:] == ["60", "20", "18,000", "1,200", "30.0", "0.40", "0.30"]
    assert rows["rotate"] == ["12", "4", "3,600", "240", "6.0", "0.08", "0.06"]
    assert rows["judge"][0] == "qwen3-8b"
    assert rows["judge"][-2:] == ["–", "–"]  # no prices: not known, and not nothing


def test_retests_have_costs_and_failures(tmp_path: Path) -> None:
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
    costs = [row for row in table_rows(page, "Costs") if row[:2] == ["ask", "again"]]
    assert costs == [["ask", "again", name, "3", "2,100", "120", "1.5"] for name in ("pairwise", "detection")]
    assert table_rows(page, "Costs")[-1] == ["All", "12", "8,400", "480", "6.0"]
    judge = table_rows(page, "Costs by role of the language model")[1]
    assert judge[-2:] == ["3.00", "3.00"]  # all twelve calls, those that were asked again among them
    assert ["asked", "again", "detection", "1", "of", "3", "unparsed", "1"] in table_rows(page, "Failures")
    checks = {row[0]: " ".join(row) for row in table_rows(page, "Judge checks")}
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


def test_other_metrics_of_scorers_are_shown(page: str) -> None:
    heading, *rows = table_rows(page, "Scores by simulation")
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
    _, one, other = table_rows(page, "Verdicts of panel on L0N1")
    told = "75 % kind : {0} says more stern : refused will not"
    assert " ".join(one).startswith(
        f"a and b tie: the two orders disagree a a 1 of 3 for a prefers the first with {told.format('a')}"
    )
    assert " ".join(other).startswith(f"b b 1 of 3 for b prefers the first with {told.format('b')}")
    assert " ".join(one).endswith("vague : tie")
    is_text(page)


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


def test_diagnostics_are_tabulated(page: str) -> None:
    table = re.search(r'<table class="diagnostics">.*?</table>', page, re.DOTALL)
    assert table is not None
    body = re.sub(r"<thead>.*</thead>", "", table[0], flags=re.DOTALL)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)]
    inward, outward = rows[:2]
    assert [row[:3] for row in rows[:-1]] == [[layer, kind, "2"] for layer in "35" for kind in ("in", "out")]
    assert rows[-1][:3] == ["all", "all", "8"]
    # Every first channel has loss -1, every random vector's -0.5: all neurons lie below them.
    assert inward[-17:-9] == ["2", "0.98", "0.40", "0.90", "−1.000", "−0.500", "100", "100"]
    assert outward[-12:-4] == ["–", "–", "–", "–", "−1.000", "–", "–", "–"]
    # One vector without its channels, each figure with that of chance behind it, and faithful and complete with
    # those of random vectors, which were not measured.
    assert inward[-9:] == ["1", "0.90", "0.50,", "–", "0.60", "0.50", "0.80", "0.70,", "–"]
    assert outward[-4:] == ["–"] * 4
    published = re.search(r'aria-label="Published values, and this run".*?</table>', page, re.DOTALL)
    assert published is not None
    lines = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", published[0], re.DOTALL)]
    (seeds,) = [line for line in lines if line[:4] == ["cosine", "of", "matched", "channels"]]
    assert seeds[7:10] == ["about", "0.9", "0.98"]
    assert "0.4" in seeds  # channels that are not matched


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
    check_structure(page)
    shows_attack_as_text(page)
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
def test_a_folder_that_is_not_a_run(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "leaderboard.json").exists()


def test_files_are_not_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "sweep.json", tmp_path / "sweep.csv"]
    for path in files:
        path.write_text("")
    assert main(list(map(str, files))) == 1
    assert capsys.readouterr().err == f"error: no run folder among {files[0]}, {files[1]}: these are files\n"


def test_no_folders_at_all(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="at least one run folder"):
        build_report([], tmp_path / "x.html")


def test_the_stored_leaderboard_is_used_unless_recomputed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", neurons=2, channels=1)
    stored = build_leaderboard((), (), (), controls=(), seed=99)
    write_json(folder.leaderboard, stored.to_json())
    assert load_run(folder).leaderboard == stored
    assert load_run(folder, recompute=True).leaderboard.seed == 7
