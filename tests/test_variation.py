"""What results vary with: variance components, further descriptions of the same neurons, a second prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_models
from support.errors import told
from support.small_run import options

from harness.evidence import Document, EvidenceConfig, split_of
from harness.folder import RunFolder
from harness.llm.scripted import Request, ScriptedBackend
from harness.records import Split
from harness.results.schema import Leaderboard, leaderboard_from_json
from harness.results.summary import summary_of_run, tables_of_run
from harness.results.variation import judge_families
from harness.run.help import compose_config
from harness.run.pipeline import run
from harness.run.setup import Setup
from harness.stats.bootstrap import Resamples
from harness.stats.variance import COMPONENTS, Component, variance_components

PLANTED = {"neuron": 2.0, "draw": 1.0, "judge": 0.5, "prompt": 0.3, "neuron_by_judge": 0.7, "residual": 0.4}


def planted(neurons: int, draws: int, judges: list[int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return values with the planted components, neurons x draws x raters."""

    def effect(name: str, *shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(0, PLANTED[name] ** 0.5, shape)

    count = len(judges)
    return (
        effect("neuron", neurons, 1, 1)
        + effect("draw", neurons, draws, 1)
        + effect("judge", max(judges) + 1)[judges]
        + effect("prompt", count)
        + effect("neuron_by_judge", neurons, 1, count)
        + effect("residual", neurons, draws, count)
    )


def components(values: np.ndarray[Any, Any], judges: list[int], samples: int = 1) -> dict[str, Component]:
    count = len(values)
    found = variance_components(values, judges, np.arange(count), Resamples(count, 0, samples))
    return {one.name: one for one in found}


def test_complete_data_give_the_analysis_of_variance() -> None:
    n, d, r = 5, 3, 4
    y = planted(n, d, list(range(r)), np.random.default_rng(1))
    mean, by_neuron, by_draw, by_judge = y.mean(), y.mean((1, 2)), y.mean(2), y.mean((0, 1))
    both = y.mean(1)
    # Mean squares of the design in which draws are nested in neurons and crossed with judges, and their expectations.
    of_neuron = d * r * ((by_neuron - mean) ** 2).sum() / (n - 1)
    of_draw = r * ((by_draw - by_neuron[:, None]) ** 2).sum() / (n * (d - 1))
    of_judge = n * d * ((by_judge - mean) ** 2).sum() / (r - 1)
    of_both = d * ((both - by_neuron[:, None] - by_judge + mean) ** 2).sum() / ((n - 1) * (r - 1))
    rest = y - by_draw[:, :, None] - both[:, None] + by_neuron[:, None, None]
    residual = (rest**2).sum() / (n * (d - 1) * (r - 1))
    expected = {
        "neuron": (of_neuron - of_draw - of_both + residual) / (d * r),
        "draw": (of_draw - residual) / r,
        "judge": (of_judge - of_both) / (n * d),
        "neuron_by_judge": (of_both - residual) / d,
        "residual": residual,
    }
    found = components(y, list(range(r)))
    assert {name: one.variance for name, one in found.items()} == pytest.approx(expected)
    assert found["judge"].includes == ("prompt",)
    # Sum rule: the components add up to half the mean squared difference of two values that differ in everything.
    differ = [(y[i, j, k] - y[a, b, c]) ** 2 / 2 for i, j, k in np.ndindex(y.shape) for a, b, c in np.ndindex(y.shape)
              if i != a and k != c]  # fmt: skip
    assert sum(one.variance for one in found.values()) == pytest.approx(np.mean(differ))


def test_planted_components_come_back_although_values_are_missing() -> None:
    judges, rng = [0, 0, 1, 1, 2, 2], np.random.default_rng(2)
    found, spread = [], []
    for _ in range(80):
        y = planted(20, 3, judges, rng)
        y[rng.random(y.shape) < 0.15] = np.nan
        got = components(y, judges, samples=40)
        assert tuple(got) == COMPONENTS
        found.append([one.variance for one in got.values()])
        spread.append([one.drawn.std() for one in got.values()])
    errors = np.std(found, axis=0) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - list(PLANTED.values())) < 4 * errors).all()
    # The bootstrap knows how the components of neurons vary; it cannot know it of judges and prompts.
    of_neurons = [0, 1, 4, 5]
    assert np.mean(spread, axis=0)[of_neurons] == pytest.approx(np.std(found, axis=0)[of_neurons], rel=0.25)


def test_what_cannot_be_separated_is_said() -> None:
    y = planted(6, 2, [0, 0, 1], np.random.default_rng(3))
    assert {name: one.includes for name, one in components(y[:, :1], [0, 0, 1]).items()} == {
        "neuron": ("draw",), "judge": (), "prompt": (), "neuron_by_judge": ("residual",),
    }  # fmt: skip
    assert {name: one.includes for name, one in components(y[:, :, :1], [0]).items()} == {
        "neuron": ("neuron_by_judge",), "draw": ("residual",),
    }  # fmt: skip
    assert {name: one.includes for name, one in components(y[:1], [0, 0, 1]).items()} == {
        "draw": (), "judge": (), "prompt": ("neuron_by_judge",), "residual": (),
    }  # fmt: skip


def test_judges_that_differ_only_in_their_prompt_are_one_judge() -> None:
    one, other = {"_target_": "A", "windows": 8, "template": "x"}, {"_target_": "A", "windows": 4, "template": "x"}
    config = {"b": one, "a": {**one, "template": "y"}, "c": other}
    assert judge_families(config) == {"a": "a", "b": "a", "c": "c"}


# --- a run ------------------------------------------------------------------------------------------------------------


class Script:
    """An explainer that names its seed and the evidence, and a judge with an opinion for each prompt.

    The first prompt prefers the describer of text, the second prompt that of weights, except that both prefer the
    latter where the text's description comes from an odd draw. On text in capital letters, both prefer weights.
    """

    def __call__(self, request: Request) -> str:
        shown = re.search(r"<description_A>(.*)</description_A>\s*<description_B>(.*)</description_B>", request.text)
        if shown is None:
            assert request.sampling is not None
            kind = "weights" if "<token>" in request.text else "text"
            seen = hashlib.sha256(request.text.encode()).hexdigest()[:8]
            return json.dumps({"description": f"{kind} draw{request.sampling.seed} evidence{seen}"})
        (first, second), criteria = shown.groups(), "examiner" in request.text
        odd = "draw10000" in first + second
        capitals = all(text.isupper() for text in re.findall("<active>(.*)</active>", request.text))
        wanted = "weights" if criteria or odd or capitals else "text"
        return json.dumps({"reason": "an opinion", "verdict": "A" if first.startswith(wanted) else "B"})


def finished(overrides: list[str]) -> tuple[RunFolder, Leaderboard]:
    setup = Setup.of(compose_config(overrides))
    backend = ScriptedBackend(Script())
    run(dataclasses.replace(setup, backends={"explainer": backend, "judge": backend}))
    folder = RunFolder(setup.folder)
    return folder, leaderboard_from_json(json.loads(folder.leaderboard.read_text()))


def options_of(small: dict[str, str], folder: Path) -> list[str]:
    """Return the options of a run of two describers with an LLM and one judge."""
    return [
        *options(small, folder=str(folder), describers="[maxact,vocab_proj]", explainer_check__concepts="0"),
        *("judges=[pairwise]", "judges.pairwise.encoder=null", "evidence.top=12", "statistics.draws=200"),
        *(
            "diagnostics.sample=0",
            "diagnostics.text_ablated=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
        ),
        "neurons.layers=[1]",
    ]


def test_a_run_says_what_its_win_rates_vary_with(
    small: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = [*options_of(small, tmp_path / "run"), "judges=[pairwise,pairwise_criteria]"]
    base += ["judges.pairwise_criteria.encoder=null"]
    folder, board = finished(base)
    before = folder.leaderboard.read_bytes()
    of_text = next(row for row in board.variance if row.describer == "maxact")
    # Every neuron: 1 by the first prompt, 0 by the second. Half of the squared difference is 1/2, all of it the
    # prompt's.
    design = of_text.neurons, of_text.draws, of_text.judges, of_text.prompts
    assert (of_text.measure, design) == ("win_rate", (3, 1, 1, 2))
    assert (of_text.total, of_text.prompt, of_text.prompt_interval, of_text.neuron) == (0.5, 1.0, (1.0, 1.0), 0.0)
    assert of_text.draw is of_text.judge is of_text.residual is of_text.asked_again is None
    assert of_text.words == "neuron includes draw; neuron by judge includes residual"
    assert not board.stability

    folder, board = finished([*base, "draws.repeated=2", "draws.resampled=1", "comparisons.retest=1"])
    assert "the temperature of the explainer is 0" in caplog.text
    assert board.overall.rows == leaderboard_from_json(json.loads(before)).overall.rows  # draws change no headline
    of_text = next(row for row in board.variance if row.describer == "maxact")
    # First prompt 1, 0, 1 in the three draws, second prompt 0, 0, 0, the same for every neuron. The squares of the
    # draws of a neuron add up to 1/3 with two degrees of freedom, and so do those of the residual. All neurons are
    # alike, so the mean squares of neurons, and of neurons by judge, are 0.
    residual, of_draw = 1 / 6, 1 / 6
    assert of_text.draws == 3
    assert of_text.total is not None
    share = pytest.approx
    assert of_text.draw == share((of_draw - residual) / 2 / of_text.total, abs=1e-5)
    assert of_text.residual == share(residual / of_text.total, abs=1e-5)
    assert of_text.neuron_by_judge == share(-residual / 3 / of_text.total, abs=1e-5)
    assert of_text.neuron == share((0 - of_draw - 0 + residual) / 6 / of_text.total, abs=1e-5)
    parts = of_text.neuron, of_text.draw, of_text.prompt, of_text.neuron_by_judge, of_text.residual
    assert sum(part for part in parts if part is not None) == share(1, abs=1e-5)
    assert of_text.asked_again == 0.0  # the script has the same opinion when it is asked again
    stable = {(row.evidence, row.describer): row for row in board.stability}
    # "text draw0 evidenceN" and "text draw10000 evidenceN" share two of four words.
    assert stable["same", "maxact"].similarity == stable["same", "vocab_proj"].similarity == 0.5
    assert stable["resampled", "vocab_proj"].similarity == 1.0  # weights do not depend on the documents
    assert stable["resampled", "maxact"].similarity == 0.5  # other windows: "evidenceM"
    assert [row.pairs for row in board.stability] == [6, 6, 3, 3]
    assert summary_of_run(folder, board, [])["similarity/same/maxact"] == 0.5
    assert {"variance", "stability"} <= tables_of_run(folder, board, [], folder.read_manifest()).keys()
    page = folder.report.read_text()
    text = folder.leaderboard_markdown.read_text()
    for title in ("Variance of win_rate", "3 draws, 1 judge, 2 prompts", "Stability of descriptions, resampled"):
        assert title in page
    assert "| measure | describer | neurons | variance | neuron | draw |" in text
    assert "| resampled | vocab\\_proj | 1.00" in text


def test_judges_may_see_another_corpus(small: dict[str, str], tmp_path: Path) -> None:
    documents = sorted(map(Document.of, tiny_models.texts()), key=lambda document: document.id)[:40]
    splits = EvidenceConfig().splits
    seen = [one.text for one in documents if split_of(one.id, splits, 0) in (Split.EXPLAIN, Split.SELECT)]
    # The other corpus: the same text in capital letters, and copies of what describers see.
    other = tmp_path / "other.jsonl"
    other.write_text(
        "\n".join(json.dumps({"text": text}) for text in (*(one.text.upper() for one in documents), *seen))
    )
    base = options_of(small, tmp_path / "run")
    more = ["corpus@evidence.report_corpus=files", f"evidence.report_corpus.paths=[{other}]"]
    folder, board = finished([*base, *more])
    judged = folder.report_corpus.read_exemplars()
    assert {one.split for one in judged} == {Split.CALIBRATE, Split.REPORT}
    assert not any(any(map(str.islower, one.tokens)) for one in judged)  # no copy of what a describer saw
    manifest = folder.read_manifest()
    assert manifest["report_corpus"]["copies"] > manifest["corpus"]["copies"]
    rates = {row.describer: row.win_rate for row in board.overall.rows}
    assert rates == {"maxact": 0.0, "vocab_proj": 1.0}  # of the other corpus
    (of_text, of_weights) = board.corpus_shift
    assert (of_text.describer, of_text.own, of_text.other, of_text.shift) == ("maxact", 1.0, 0.0, -1.0)
    assert (of_weights.shift, of_weights.shift_interval) == (1.0, (1.0, 1.0))
    assert summary_of_run(folder, board, [])["corpus_shift/win_rate/maxact/shift"] == -1.0
    assert "Shift of win_rate: describers saw" in folder.report.read_text()
    row = "| win\\_rate | maxact | 1.000 (1.000–1.000) | 0.000 (0.000–0.000) | −1.000"
    assert row in folder.leaderboard_markdown.read_text()
    told(lambda: finished(base), "holds a run of a different configuration", "report_corpus")
