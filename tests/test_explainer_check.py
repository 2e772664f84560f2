"""The explainer is checked on evidence whose answer is known, before it describes neurons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.endpoint import FakeEndpoint, Reply, endpoint, said
from support.small_run import options
from support.tiny_models import Invoke

from harness.folder import RunFolder
from harness.llm.probe import PROBE
from harness.planted.explainer_cases import planted_concepts
from harness.records import PlantedAnswer, Status
from harness.results.explainer_check import explainer_rows
from harness.results.schema import leaderboard_from_json
from harness.results.summary import summary_of_run
from harness.run.sections import ExplainerCheckConfig
from harness.stats.config import StatisticsConfig

CONCEPTS = planted_concepts()
_TOKEN = re.compile(r"<token>([^<]*)</token>|^\s*(\w+)\t10$", re.MULTILINE)


def about(text: str) -> str:
    """Return the concept that a prompt shows, as a competent explainer would: by its three strongest tokens."""
    words = {(one or two).strip() for one, two in _TOKEN.findall(text)[:3]}
    return next((concept.name for concept in CONCEPTS if words & set(concept.shown)), f"topic {abs(hash(text))}")


def explaining(answer: Callable[[str], str]) -> Callable[[dict[str, Any]], Reply]:
    """Return an explainer whose description of a prompt is given by ``answer``."""

    def reply(body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        if text == PROBE[-1].content:
            return said('{"answer": "yes"}')
        return said(json.dumps({"description": answer(text)}))

    return reply


def run(small: dict[str, str], invoke: Invoke, server: FakeEndpoint, folder: str) -> tuple[RunFolder, str]:
    """Run two describers that ask the explainer, and return the folder and the messages."""
    changes = {
        **{"describers": "[maxact,vocab_proj,generic]", "judges": "[own_words]", "folder": folder},
        **{"llm@llm.explainer": "openai", "llm.explainer.model": "m", "llm.explainer.base_url": server.url},
        **{"llm.explainer.retries": "0", "neurons.per_layer": "1", "diagnostics.random_vectors": "0"},
        **{"diagnostics.ablated": "0", "diagnostics.sample": "0", "serving.cache": f"{folder}-cache"},
    }
    code, out, err = invoke(*options({**small, **changes}))
    assert code == 0, err
    return RunFolder(Path(folder)), out + err


def test_evidence_alone_names_no_concept(small: dict[str, str], invoke: Invoke) -> None:
    with endpoint(explaining(about)) as server:
        folder, messages = run(small, invoke, server, "able")
        asked = len(server.requests)
        run(small, invoke, server, "able")
        assert len(server.requests) == asked  # started again, the run pays for nothing
        probe, *prompts = [request["messages"] for request in server.requests]
    # A model that copies its prompt, instructions and evidence, has named nothing.
    assert probe[-1]["content"] == PROBE[-1].content
    text = "\n".join(message["content"] for prompt in prompts[:20] for message in prompt)
    assert [concept.name for concept in CONCEPTS if concept.is_named(text)] == []

    # An explainer that knows every concept by its words.
    total, maxact, projection = leaderboard_from_json(json.loads(folder.leaderboard.read_text())).explainer
    assert (total.describer, maxact.describer, projection.describer) == (None, "maxact", "vocab_proj")
    assert (total.right, total.answers, total.unusable, total.failed) == (1.0, 20, 0, 0)
    assert total.interval == (1.0, 1.0)
    assert total.chance == 0.0
    assert folder.read_manifest()["explainer_check"]["right"] == 1.0
    assert "too few" not in messages
    assert "named 100.0 % of the planted concepts" in (folder.logs / "run.log").read_text()
    summary = summary_of_run(folder, leaderboard_from_json(json.loads(folder.leaderboard.read_text())), [])
    assert summary["explainer/right"] == summary["explainer/maxact/right"] == 1.0
    assert "Explainer check" in messages
    assert "vocab\\_proj | 100.0" in folder.leaderboard_markdown.read_text()


def test_an_explainer_that_says_nothing_is_announced_before_neurons_are_described(
    small: dict[str, str], invoke: Invoke
) -> None:
    with endpoint(explaining(lambda text: "description")) as server:
        folder, _ = run(small, invoke, server, "unable")
    (warning,) = [line for line in (folder.logs / "run.log").read_text().splitlines() if "too few" in line]
    assert "the explainer (m) named 0.0 % of the planted concepts in 20 answers, 20 of them unusable" in warning
    assert "explainer_check.warn_below=0.5" in warning
    log = (folder.logs / "run.log").read_text()
    assert log.index("too few") < log.index("describe with maxact")
    assert {item.status for item in folder.explainer_check().records()} == {Status.DEGENERATE}
    report = folder.report.read_text()
    assert "It is not competent" in report
    assert "degenerate 10" in report
    # So it says nothing about neurons either, which is counted by describer and apart from the check.
    leaderboard = leaderboard_from_json(json.loads(folder.leaderboard.read_text()))
    written = {row.describer: row.statuses["degenerate"] for row in leaderboard.descriptions}
    assert written == {"maxact": 2, "vocab_proj": 2, "generic": 0}
    assert summary_of_run(folder, leaderboard, [])["failed/maxact"] == 2


def test_an_explainer_that_always_says_the_same_is_no_better_than_chance() -> None:
    everything = tuple(concept.name for concept in CONCEPTS)
    answers = [PlantedAnswer("maxact", concept.name, "all of it", everything) for concept in CONCEPTS]
    total, _ = explainer_rows(answers, seed=0, config=StatisticsConfig(draws=100))
    assert (total.right, total.chance) == (1.0, 1.0)


def test_shares_of_named_concepts_by_hand() -> None:
    answers = [
        PlantedAnswer("a", "days", "days", ("days",)),
        PlantedAnswer("a", "colours", "days and numbers", ("days", "numbers")),
        PlantedAnswer("a", "numbers", "", status=Status.DEGENERATE),
        PlantedAnswer("b", "days", "", status=Status.FAILED),
        PlantedAnswer("b", "colours", "colours", ("colours",)),
    ]
    total, first, second = explainer_rows(answers, seed=0, config=StatisticsConfig(draws=200))
    assert (first.right, first.answers, first.unusable, first.failed) == (pytest.approx(1 / 3), 3, 1, 0)
    assert first.chance == pytest.approx((0 / 2 + 2 / 2 + 0 / 2) / 3)
    assert (second.right, second.answers, second.unusable, second.failed) == (1.0, 1, 0, 1)
    assert second.interval is None  # one concept
    assert (total.right, total.answers) == (0.5, 4)
    assert total.interval is not None
    assert explainer_rows([], seed=0, config=StatisticsConfig()) == ()


def test_concepts_are_named_by_label_or_by_words_that_the_evidence_does_not_show() -> None:
    days = CONCEPTS[0]
    assert days.is_named("Days of the week, in English")
    assert days.is_named("Thursday, Sunday and the like")
    assert not days.is_named(", ".join(days.shown))
    assert not days.is_named("Thursday")
    for concept in CONCEPTS:
        assert concept.is_named(concept.name)
        assert [other.name for other in CONCEPTS if other.is_named(concept.name)] == [concept.name]


@pytest.mark.parametrize("wrong", [{"concepts": -1}, {"concepts": 1.5}, {"warn_below": 2}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExplainerCheckConfig(**{"concepts": 10, "warn_below": 0.5, **wrong})
