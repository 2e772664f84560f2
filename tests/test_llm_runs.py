"""Runs whose LLM fails: usage, failure counts, reparsing, and the next run."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.endpoint import FakeEndpoint, Reply, endpoint, failed, said
from support.tiny_models import Invoke

import harness.llm.asking
from harness.folder import RunFolder
from harness.llm.probe import PROBE
from harness.records import Status
from harness.reparse import main as reparse

Answer = Callable[[str], Reply]  # of the prompt's text


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of four neurons, two describers and one judge that need an LLM, and a control."""
    folder = tmp_path_factory.mktemp("small")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("experiment=llm", "subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny"),
        *("neurons.layers=[1]", "neurons.per_layer=4", "neurons.kinds=[out]", "decomposition.num_channels=1"),
        tiny_models.SHORT_SEARCH,
        *("corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=40"),
        *(
            "evidence.window=16",
            "evidence.top=3",
            "evidence.random=6",
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
        ),
        *(
            "describers=[maxact,vocab_proj,generic]",
            "judges=[pairwise]",
            "tracking=none",
            "folder=run",
            "explainer_check.concepts=0",
        ),
    ]


def options(small: list[str], server: FakeEndpoint, *more: str) -> list[str]:
    roles = [
        option
        for role in ("explainer", "judge")
        for option in (f"llm@llm.{role}=openai", f"llm.{role}.model=m", f"llm.{role}.base_url={server.url}")
    ]
    return [*small, *roles, *(f"llm.{role}.retries=0" for role in ("explainer", "judge")), *more]


def answering(maxact: Reply, projection: Reply, judge: Reply) -> Callable[[dict[str, Any]], Reply]:
    """Return a reply for each kind of prompt; the probe is always answered."""

    def answer(body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        if text == PROBE[-1].content:
            return said('{"answer": "yes"}')
        return judge if "description_A" in text else maxact if "<excerpt>" in text else projection

    return answer


def asked(server: FakeEndpoint) -> int:
    return sum(request["messages"][-1]["content"] != PROBE[-1].content for request in server.requests)


def statuses() -> Counter[tuple[str, Status]]:
    folder = RunFolder(Path("run"))
    made = [(record.describer, record.status) for record in folder.descriptions().records()]
    return Counter([*made, *(("pairwise", record.status) for record in folder.verdicts().records())])


GOOD, ALIKE = said('{"description": "numbers"}'), said('{"description": "letters"}')
VERDICT = said('{"reason": "so", "verdict": "A"}')
PYTHONIC = said("{'description': 'letters'}")


def test_unparsed_answers_are_paid_once_and_reparsed_by_a_better_parser(
    small: list[str],
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with endpoint(answering(GOOD, PYTHONIC, VERDICT)) as server:
        prices = ["llm.explainer.price.prompt=1000", "llm.explainer.price.completion=0"]
        assert invoke(*options(small, server, *prices))[0] == 0
        first = asked(server)
        assert statuses()["vocab_proj", Status.UNPARSED] == 4
        assert statuses()["pairwise", Status.OK] == 4 * 2  # maxact and generic in both orders
        assert statuses()["pairwise", Status.FAILED] == 4 * 4  # with vocab_proj, which has no description
        usage = RunFolder(Path("run")).descriptions().records()[0].usage
        explainer = usage.roles["explainer"]
        assert (explainer.calls, explainer.cached_calls, explainer.cost, explainer.paid) == (1, 0, 0.007, 0.007)
        assert "judge" not in usage.roles
        assert invoke(*options(small, server, *prices))[0] == 0
        assert asked(server) == first  # the unparsed answers are cached

        reparse(["run"])  # the same parser finds nothing new
        assert capsys.readouterr().out == "run: of 20 records without a usable answer, 0 have one now\n"

        def pythonic(text: str) -> Iterator[dict[str, Any]]:
            yield from (ast.literal_eval(found) for found in re.findall(r"\{.*?\}", text))

        monkeypatch.setattr(harness.llm.asking, "_objects", pythonic)
        reparse(["run"])
        assert capsys.readouterr().out == "run: of 20 records without a usable answer, 4 have one now\n"
        assert asked(server) == first
        assert statuses()["vocab_proj", Status.OK] == 4
        assert statuses()["pairwise", Status.FAILED] == 4 * 4  # they were never asked for
        again = next(item for item in RunFolder(Path("run")).descriptions().records() if item.describer == "vocab_proj")
        assert again.usage.roles["explainer"].cached_calls == 0  # this run paid for it
        assert again.usage.roles["explainer"].paid == 0.007

        assert invoke(*options(small, server, *prices))[0] == 0  # the next run sends these requests
        assert asked(server) == first + 4 * 4
        assert statuses()["pairwise", Status.OK] == 4 * 6


def test_a_run_with_cached_answers_needs_no_endpoint(
    small: list[str], invoke: Invoke, tmp_path: Path, own_cache: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^error: [^\n]*not a run folder[^\n]*$"):
        reparse([str(tmp_path)])
    with endpoint(answering(GOOD, ALIKE, VERDICT)) as server:
        assert invoke(*options(small, server))[0] == 0
    before = statuses()
    Path("run").rename("first")
    assert invoke(*options(small, server, "serving.preflight=none"))[0] == 0  # the endpoint is down, and not needed
    assert statuses() == before
    own_cache.rename(tmp_path / "moved")
    with pytest.raises(SystemExit, match=r"^error: [^\n]*/llm \(serving\.cache\): call this from[^\n]*$"):
        reparse(["run"])


def test_a_run_ends_early_after_too_many_failures_and_continues_when_started_again(
    small: list[str], invoke: Invoke
) -> None:
    limits = ["serving.failure_minimum=5", "serving.failure_budget=0.4", "llm.judge.concurrency=1"]
    with endpoint(answering(GOOD, ALIKE, failed(400, "context too long"))) as server:
        code, out, _ = invoke(*options(small, server, *limits))
        assert asked(server) == 4 + 4 + 5
    assert code == 3
    assert "report.html" in out  # statistics and report are written
    (line,) = [line for line in Path("run/logs/run.log").read_text().splitlines() if "ends early" in line]
    line = line.partition("harness.llm.budget: ")[2]
    assert line.startswith("pairwise ends early: 5 of the first 5 answers to pairwise failed, more than serving.f")
    assert "context too long" in line
    assert statuses()["pairwise", Status.FAILED] == 24
    reasons = Counter(record.reason.split(":")[0] for record in RunFolder(Path("run")).verdicts().records())
    assert reasons == {"HTTP 400": 5, "not asked": 19}
    (health,) = json.loads(RunFolder(Path("run")).leaderboard.read_text())["health"]
    assert health["statuses"]["failed"] == 24

    with endpoint(answering(GOOD, ALIKE, VERDICT)) as server:
        assert invoke(*options(small, server, *limits))[0] == 0
        assert asked(server) == 24
    assert statuses()["pairwise", Status.OK] == 24


def test_descriptions_that_are_all_the_same_are_found_after_a_kill(small: list[str], invoke: Invoke) -> None:
    more = ["neurons.per_layer=10", "describers=[maxact,generic]", "serving.redraw=true", "serving.preflight=none"]
    with endpoint(answering(GOOD, ALIKE, VERDICT)) as server:
        assert invoke(*options(small, server, *more))[0] == 0
    assert statuses()["maxact", Status.DEGENERATE] == 10
    journal = RunFolder(Path("run")).descriptions().path
    made = [line for line in journal.read_text().splitlines() if "DEGENERATE" not in line.upper()]
    assert len(made) == 20
    journal.write_text("\n".join(made) + "\n")  # as after a kill right after the last answer
    Path("run/verdicts.jsonl").unlink()
    # No server is left: an answer that says nothing is an answer, and redraw does not ask for another one.
    assert invoke(*options(small, server, *more))[0] == 0
    assert statuses()["maxact", Status.DEGENERATE] == 10
    assert statuses()["pairwise", Status.FAILED] == 20


def test_a_run_stops_when_it_has_spent_what_it_may_and_continues_with_a_higher_limit(
    small: list[str], invoke: Invoke
) -> None:
    with endpoint(answering(GOOD, ALIKE, VERDICT)) as server:
        code, out, _ = invoke(*options(small, server, "serving.max_calls=10"))
        assert (code, asked(server)) == (3, 10)
        assert "report.html" in out
        (line,) = [line for line in Path("run/logs/run.log").read_text().splitlines() if "higher limit" in line]
        assert "the run has sent 10 LLM calls, and serving.max_calls=10 is reached" in line
        assert statuses()["pairwise", Status.FAILED] == 24 - 2
        reasons = {one.reason for one in RunFolder(Path("run")).verdicts().records() if one.status is Status.FAILED}
        assert reasons == {"not asked: the run has sent 10 LLM calls, and serving.max_calls=10 is reached"}

        assert invoke(*options(small, server, "serving.max_calls=10"))[0] == 3  # earlier starts count
        assert asked(server) == 10

        # An answer of three tokens costs 3: a fourth one would exceed 10. Nobody stated the price of the earlier ones.
        price = {"prompt": 0, "completion": 1_000_000}
        roles = ("explainer", "judge")
        prices = [f"llm.{role}.price.{kind}={value}" for role in roles for kind, value in price.items()]
        code, _, err = invoke(*options(small, server, "serving.max_cost=10"))
        assert code == 1
        assert "serving.max_cost needs the price" in err.splitlines()[-1]
        code, _, _ = invoke(*options(small, server, *prices, "serving.max_cost=10"))
        assert (code, asked(server)) == (3, 13)

        assert invoke(*options(small, server, "serving.max_calls=100"))[0] == 0
        assert asked(server) == 8 + 24
    assert statuses()["pairwise", Status.OK] == 24


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("serving.max_calls=0", ("serving.max_calls", "at least 1")),
        ("serving.max_cost=0", ("serving.max_cost",)),
        ("serving.preflight=some", ("serving.preflight", "must be 'endpoints', 'all' or 'none', not 'some'")),
        ("serving.failure_budget=2", ("serving.failure_budget", "2")),
        ("serving.redrow=true", ("redrow",)),
        ("llm.judge.price.prompt=1", ("llm.judge", "price")),
    ],
)
def test_a_mistake_in_the_serving_options_is_one_line(
    small: list[str],
    invoke: Invoke,
    option: str,
    words: tuple[str, ...],
) -> None:
    with endpoint(answering(GOOD, ALIKE, VERDICT)) as server:
        code, _, err = invoke(*options(small, server, option))
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    for word in words:
        assert word in line
