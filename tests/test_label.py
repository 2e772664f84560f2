"""The page on which people compare descriptions: its pairs, its use in Chromium, agreement of judges with people."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.browser import ARTEFACTS
from support.browser import chromium as chromium  # a fixture
from support.small_run import options

from harness.folder import RunFolder
from harness.label import choose_pairs, main, page_of
from harness.records import Description, Neuron, Verdict, Winner
from harness.results.leaderboard import build_leaderboard
from harness.results.schema import leaderboard_from_json
from harness.run.help import compose_config
from harness.run.pipeline import run
from harness.run.setup import Setup


def test_pairs_are_balanced_and_repeatable() -> None:
    names, neurons = ("a", "b", "c"), [Neuron(0, place) for place in range(20)]
    made = [Description(neuron, name, f"{name} of {neuron}") for neuron in neurons for name in names]
    pairs = choose_pairs(made, 30, seed=0)
    assert all(one.first.neuron == one.second.neuron for one in pairs)
    counts = Counter(frozenset((one.first.describer, one.second.describer)) for one in pairs)
    assert set(counts.values()) == {10}
    first = Counter((one.first.describer, one.second.describer) for one in pairs)
    assert set(first.values()) == {5}
    assert len({one.first.neuron for one in pairs}) > 10
    assert choose_pairs(made[::-1], 30, seed=0) == pairs != choose_pairs(made, 30, seed=1)
    assert len(choose_pairs(made, 1000, seed=0)) == 60
    # Equal texts say nothing about a preference.
    same = [Description(neuron, name, "the same") for neuron in neurons for name in names[:2]]
    assert choose_pairs(same, 30, seed=0) == []


def test_kappa_with_people_is_that_of_the_two_judges() -> None:
    first, second, tie = Winner.FIRST, Winner.SECOND, Winner.TIE
    # On 8 labelled pairs the judge agrees on 6; the outcomes and their mirror images occur equally often.
    people = [first, first, first, second, second, second, tie, tie]
    judged = [first, first, second, second, second, first, tie, tie]
    verdicts = [
        Verdict(Neuron(0, place), judge, "a", "b", True, winner)
        for judge, outcomes in (("human", people), ("llm", [*judged, first, second]))
        for place, winner in enumerate(outcomes)
    ]
    board = build_leaderboard(verdicts, (), (), controls=(), people={"human"}, seed=0)
    human, llm = board.health
    assert (human.people_kappa, human.people_items) == (None, 0)
    # Chance agreement: 3/8 x 3/8 for either winner, 1/4 x 1/4 for ties.
    chance = 2 * (3 / 8) ** 2 + (1 / 4) ** 2
    assert llm.people_kappa == pytest.approx((6 / 8 - chance) / (1 - chance), abs=1e-6)
    assert llm.people_items == 8
    assert llm.people_interval is not None
    assert llm.people_interval[0] < llm.people_kappa < llm.people_interval[1]
    alone = build_leaderboard(verdicts, (), (), controls=(), seed=0)
    assert [one.people_items for one in alone.health] == [0, 0]


@pytest.fixture(scope="module")
def labelled(small: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run without an LLM."""
    place = tmp_path_factory.mktemp("labelled")
    changes = {"folder": str(place / "run"), "cache": str(place / "cache"), "judges": "[embedding_pairwise]"}
    run(Setup.of(compose_config(options(small, describers="[maxact,vocab_proj,generic]", **changes))))
    return RunFolder(place / "run")


def key_of(page: str) -> list[dict[str, str]]:
    """Return what the page knows of its pairs."""
    found = re.search(r'id="key">([^<]+)<', page)
    assert found
    pairs: list[dict[str, str]] = json.loads(base64.b64decode(found[1]))
    return pairs


def test_the_page_is_blind_and_shows_what_a_judge_sees(
    labelled: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(labelled.path), "--pairs", "6", "--describers", "maxact,vocab_proj"]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    pairs = key_of(page)
    assert len(pairs) == 6
    assert {frozenset((one["first"], one["second"])) for one in pairs} == {frozenset(("maxact", "vocab_proj"))}
    assert all(name not in page for name in ("maxact", "vocab_proj", *(one["neuron"] for one in pairs)))
    assert page.count("Active on these excerpts") == 6
    assert page.count("<mark>") >= 6
    for mistake, words in (
        (["--judge", "embedding_pairwise"], ["embedding_pairwise shows no evidence", "pairwise"]),
        (["--judge", "nobody"], ["'nobody'", "conf/judges"]),
        (["--judge", "pairwise_steered"], ["pairwise_steered", "judges of the run"]),
        (["--describers", "rotate"], ["'rotate'", "generic, maxact, vocab_proj"]),
        (["--describers", "maxact"], ["no two descriptions"]),
    ):
        assert main([str(labelled.path), *mistake]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert all(word in error for word in words), error
    assert main([str(tmp_path)]) == 1


@pytest.mark.slow  # starts Chromium
def test_people_label_by_keyboard_and_their_agreement_with_judges_is_reported(
    labelled: RunFolder, chromium: Any, small: dict[str, str], tmp_path: Path
) -> None:
    address = tmp_path / "label.html"
    address.write_text(page_of(labelled, 12))
    pairs = key_of(address.read_text())
    tab = chromium.new_page(viewport={"width": 1100, "height": 900}, accept_downloads=True)
    tab.set_default_timeout(10_000)
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address.as_uri())
    status = tab.get_by_role("status")
    assert status.text_content() == "0 of 12 pairs labelled."
    tab.keyboard.press("s")
    assert "Enter your name" in status.text_content()
    tab.keyboard.type("Zoë 10s")  # the keys of the page do not count in the field
    tab.keyboard.press("Tab")
    ARTEFACTS.mkdir(exist_ok=True)
    tab.screenshot(path=ARTEFACTS / "label.png")
    # Prefers maxact to all others, and is undecided between those.
    wanted = [
        "first" if one["first"] == "maxact" else "second" if one["second"] == "maxact" else "tie" for one in pairs
    ]
    keys = {"first": "1", "second": "2", "tie": "0"}
    tab.keyboard.press("2" if wanted[0] == "first" else "1")  # a slip
    tab.keyboard.press("ArrowLeft")
    for winner in wanted[:6]:
        tab.keyboard.press(keys[winner])
    tab.reload()  # what was answered is kept, and the next pair is shown
    assert tab.locator("article:visible h2").text_content() == "Pair 7 of 12"
    assert tab.get_by_label("Your name").input_value() == "Zoë 10s"
    for winner in wanted[6:]:
        tab.keyboard.press(keys[winner])
    assert status.text_content() == "12 of 12 pairs labelled. Save your labels."
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save labels").click()
    assert download.value.suggested_filename == "labels-Zoë-10s.jsonl"
    labels = tmp_path / "labels.jsonl"
    download.value.save_as(labels)
    tab.close()
    assert complaints == []
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    assert lines == [one | {"winner": won, "rater": "Zoë 10s"} for one, won in zip(pairs, wanted, strict=True)]

    changes = {"folder": str(tmp_path / "again"), "cache": str(labelled.path.parent / "cache")}
    again = options(small, describers="[maxact,vocab_proj,generic]", **changes)
    again += ["judges=[embedding_pairwise,human]", f"judges.human.path={labels}"]
    with ThreadPoolExecutor(1) as pool:  # Playwright's own event loop runs in this thread
        pool.submit(run, Setup.of(compose_config(again))).result()
    board = leaderboard_from_json(json.loads((tmp_path / "again" / "leaderboard.json").read_text()))
    judge, human = board.health
    assert (human.comparisons, human.failed) == (12, 0)
    assert judge.people_items == 12
    assert -1 <= (judge.people_kappa or 0) <= 1
    assert "Kappa with people" in (tmp_path / "again" / "report.html").read_text()
