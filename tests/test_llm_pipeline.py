"""Whole runs with LLMs: a real vLLM on the CPU explains, judges and simulates for two subject families."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support import tiny_models
from support.small_run import SMOLLM2, managed

from harness.folder import RunFolder
from harness.llm.scripted import Request, ScriptedBackend
from harness.records import Status, VectorKind, Winner
from harness.results.schema import leaderboard_from_json
from harness.results.tables import markdown_table
from harness.run.help import compose_config
from harness.run.pipeline import run
from harness.run.setup import Setup

ROLES = ("explainer", "judge", "simulator")
ALL_DESCRIBERS = [
    "rotate",
    "maxact",
    "best_of_k",
    "contrastive",
    "vocab_proj",
    "token_change",
    "ensemble_raw",
    "ensemble_concat",
    "sage",
    "rotate_parts",
]
ALL_DESCRIBERS += ["shuffled", "generic", "empty", "longest"]


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus: part of Python's reference."""
    return tiny_models.topics_file(tmp_path_factory.mktemp("corpus"))


def overrides(subject: Path, topics: Path, folder: Path) -> list[str]:
    """Return the options of a small run of ``experiment=llm``."""
    return [
        "experiment=llm",
        *("subject=local", f"subject.sources=[{subject}]", f"subject.name={subject.name}"),
        *("neurons.layers=[1]", "neurons.per_layer=2", "neurons.kinds=[gate,in,out]", "decomposition.num_channels=2"),
        tiny_models.SHORT_SEARCH,
        *("corpus=files", f"corpus.paths=[{topics}]", "evidence.max_documents=40", "evidence.window=16"),
        *("evidence.top=3", "evidence.random=6", "evidence.report_random=6", "judges.simulation.windows=1"),
        *("judges.simulation.active=1", "judges.simulation.predicted=1", "judges.simulation.hard=0"),
        "judges.simulation.others=1",
        *("diagnostics.sample=0", "diagnostics.random_vectors=0", "diagnostics.ablated=0"),
        *(
            "diagnostics.text_ablated=0",
            "tracking=none",
            "explainer_check.concepts=1",
            f"folder={folder}",
            f"serving.cache={folder.parent / 'cache'}",
        ),
    ]


@pytest.mark.slow
@pytest.mark.vllm
def test_smollm2_on_a_managed_server_is_found_not_to_be_competent(topics: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    subject = tiny_models.tiny_subject(tmp_path / "tiny-llama", "llama")
    options = [*overrides(subject, topics, tmp_path / "llama"), *managed(SMOLLM2, *ROLES), "neurons.per_layer=1"]
    options += ["describers=[maxact,generic]", "+describers.words={_target_: describers.maxact.MaxAct}"]
    options += ["+describers.words.mode=extractive", "explainer_check.concepts=3"]
    options += [f"llm.{role}.sampling.max_tokens=200" for role in ROLES]
    run(Setup.of(compose_config(options)))
    folder = RunFolder(tmp_path / "llama")
    # Its answers fit the schema, and say nothing; they are compared with nothing.
    status = {item.describer: item.status for item in folder.descriptions().records()}
    assert status == {"maxact": Status.DEGENERATE, "words": Status.OK, "generic": Status.OK}
    verdicts = {tuple(sorted((one.first, one.second))): one.status for one in folder.verdicts().records()}
    assert verdicts[("generic", "maxact")] is verdicts[("maxact", "words")] is Status.FAILED
    # As a simulator it takes the levels 0 to 9, because its tokenizer writes 10 as two tokens. At some tokens it puts
    # almost no probability on them, which depends on the text: such a score is a failure that says so.
    for item in folder.scores().records():
        if item.describer != "maxact":
            assert item.status is Status.OK or item.detail.endswith("of its probability on 0-9"), item.detail
            assert item.status is Status.FAILED or item.metrics["digit_mass"] > 0.1
    total, _ = leaderboard_from_json(json.loads(folder.leaderboard.read_text())).explainer
    assert total.answers == 3
    assert total.right is not None
    assert total.right < 0.5
    assert "It is not competent" in folder.report.read_text()
    logs = list((tmp_path / "llama" / "logs").glob("vllm-*.log"))
    assert len(logs) == 1  # one server served the three roles
    assert logs[0].read_text().count("Started server process") == 1


@pytest.mark.slow
@pytest.mark.vllm
def test_every_describer_on_an_endpoint_that_already_runs(
    vllm: tiny_models.Served, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_KEY", vllm.client.api.api_key)
    subject = tiny_models.tiny_subject(tmp_path / "tiny-gemma", "gemma2")
    options = [*overrides(subject, topics, tmp_path / "gemma"), *endpoint(vllm, "PIPELINE_KEY")]
    options += [f"describers=[{','.join(ALL_DESCRIBERS)}]", "judges=[pairwise,pairwise_output,simulation]"]
    options += ["comparisons.schedule=baseline", "comparisons.baseline=generic"]
    options += ["describers.sage.rounds=1", "describers.sage.sentences=1"]
    run(Setup.of(compose_config(options)))
    folder = RunFolder(tmp_path / "gemma")
    check_records(folder, len(ALL_DESCRIBERS), pairs=len(ALL_DESCRIBERS) - 1, judges=2)
    asked = {record.describer: record.usage.calls for record in folder.descriptions().records()}
    single = dict.fromkeys(("maxact", "contrastive", "vocab_proj", "token_change", "ensemble_raw"), 1)
    controls = dict.fromkeys(("shuffled", "generic", "empty", "longest"), 0)
    assert asked.pop("rotate") in (3 * 2, 3 * 2 + 1)  # kinds, channels, and one merge if enough of them say something
    assert asked.pop("rotate_parts") == 3 * 2
    assert asked.pop("sage") in (1, 2)  # the hypothesis with its sentences, and a last one unless they confirm it
    assert asked == single | controls | {
        "best_of_k": 5,
        "ensemble_concat": 0,  # it joins the descriptions of others
    }


def endpoint(served: tiny_models.Served, key_variable: str) -> list[str]:
    """Return the options that attach all roles to a running server."""
    each = [
        "llm@llm.{role}=openai",
        f"llm.{{role}}.model={served.client.model}",
        f"llm.{{role}}.base_url={served.client.api.base_url}",
        f"llm.{{role}}.api_key_env={key_variable}",
        "llm.{role}.sampling.max_tokens=1000",
    ]
    return [option.format(role=role) for role in ROLES for option in each]


def check_records(folder: RunFolder, count: int, pairs: int, judges: int = 1) -> None:
    """Check what holds for any LLM, however weak: every item has a record with the right status."""
    neurons = folder.read_manifest()["neurons"]
    assert {channel.kind for channel in folder.read_channels()} == set(VectorKind)
    descriptions = folder.descriptions().records()
    assert len(descriptions) == len(neurons) * count
    status = {(item.neuron, item.describer): item.status for item in descriptions}
    assert all(status[neuron, "generic"] is Status.OK for neuron, _ in status)
    # The words of a tiny LLM are random, and may say nothing.
    assert any(item.status in (Status.OK, Status.DEGENERATE) for item in descriptions if item.describer == "maxact")

    verdicts = folder.verdicts().records()
    assert len(verdicts) == len(neurons) * pairs * 2 * judges  # every pair, in both orders
    for verdict in verdicts:
        usable = all(status[verdict.neuron, name] is Status.OK for name in (verdict.first, verdict.second))
        assert usable or verdict.status is Status.FAILED
        assert (verdict.status is Status.OK) == (verdict.winner is not None)
    judged = [item for item in verdicts if item.status is Status.OK]
    assert judged
    assert all(item.winner in Winner and item.usage.calls <= 1 for item in judged)
    scores = folder.scores().records()
    assert len(scores) == len(neurons) * count
    simulated = [item for item in scores if item.status is Status.OK]
    assert simulated
    assert all(-1 <= (item.value or 0) <= 1 and item.metrics["digit_mass"] > 0.1 for item in simulated)

    board = json.loads(folder.leaderboard.read_text())
    for health in board["health"]:
        told = Counter(item.status for item in verdicts if item.judge == health["judge"])
        assert health["statuses"] == {**dict.fromkeys(Status, 0), **told}
    assert len(board["health"]) == judges
    counted = {row["describer"]: row["statuses"] for row in board["descriptions"]}
    for name, counts in counted.items():
        found = Counter(item.status for item in descriptions if item.describer == name)
        assert counts == {**dict.fromkeys(Status, 0), **found}


class Script:
    """A scripted LLM that answers by the kind of prompt, and can be interrupted after ``breaks_after`` requests."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.breaks_after: int | None = None

    def __call__(self, request: Request) -> str:
        text = request.text
        kind = "judge" if "description_A" in text else "merge" if "<part>" in text else "describe"
        self.asked[kind] += 1
        if self.breaks_after is not None and self.asked.total() > self.breaks_after:
            raise KeyboardInterrupt
        if kind == "judge":
            return '{"reason": "the first is the first", "verdict": "A"}'
        return json.dumps({"description": f"{kind} {hashlib.sha256(text.encode()).hexdigest()[:8]}"})


def scripted_run(options: list[str], script: Script) -> RunFolder:
    """Run ``options`` with one scripted LLM as explainer and judge."""
    setup = Setup.of(compose_config(options))
    backend = ScriptedBackend(script, concurrency=1)  # so that every request before the interruption was answered
    setup = dataclasses.replace(setup, backends={"explainer": backend, "judge": backend})
    run(setup)
    return RunFolder(setup.folder)


def test_a_judge_that_always_prefers_the_first_gives_ties(topics: Path, tmp_path: Path) -> None:
    subject = tiny_models.tiny_subject(tmp_path / "tiny", "llama")
    options = [*overrides(subject, topics, tmp_path / "biased"), "judges=[pairwise]"]
    folder = scripted_run([item for item in options if "judges.simulation" not in item], Script())
    board = json.loads(folder.leaderboard.read_text())
    (health,) = board["health"]
    assert health["first_position_rate"] == 1.0
    assert health["inconsistency"] == 1.0
    assert all(row["win_rate"] == 0.5 and row["ties"] == row["comparisons"] for row in board["overall"]["rows"])


class PrefersTheFirstByName(Script):
    """A judge that prefers the description whose text sorts first, whichever order it is shown in."""

    def __call__(self, request: Request) -> str:
        shown = re.search(r"<description_A>(.*)</description_A>\s*<description_B>(.*)</description_B>", request.text)
        if shown is None:
            return super().__call__(request)
        self.asked["judge"] += 1
        return json.dumps({"reason": "it sorts first", "verdict": "A" if shown[1] < shown[2] else "B"})


def test_the_comparison_is_head_to_head_with_every_opponent(topics: Path, tmp_path: Path) -> None:
    subject = tiny_models.tiny_subject(tmp_path / "tiny", "llama")
    options = [item for item in overrides(subject, topics, tmp_path / "run") if "simulation" not in item]
    options[0] = "experiment=comparison_llm"
    options += ["judges=[pairwise,pairwise_output,pairwise_steered]", "steering.effects.prompts=2"]
    options += ["judges@describers.best_of_k.by=token_simulation", "steering.texts.tokens=4"]
    script = PrefersTheFirstByName()
    folder = scripted_run([*options, "explainer_check.concepts=0"], script)
    texts = {(item.neuron, item.describer): item.text for item in folder.descriptions().records()}
    neurons = {neuron for neuron, _ in texts}
    assert script.asked["judge"] == 36 * 2 * 3 * len(neurons)  # nine describers, two orders, three judges
    board = leaderboard_from_json(json.loads(folder.leaderboard.read_text()))
    assert {one.side for one in board.judges} == {"input", "output"}
    opponents = {"maxact", "best_of_k", "contrastive", "token_change", "vocab_proj", "raw_tokens"}
    for one in board.judges:
        assert {name for cell in one.head_to_head for name in (cell.row, cell.column)} == opponents | {"rotate"}
        for cell in (*one.head_to_head, *one.against_controls):
            won = sum(texts[neuron, cell.row] < texts[neuron, cell.column] for neuron in neurons)
            assert (cell.wins, cell.losses, cell.ties, cell.failed) == (won, len(neurons) - won, 0, 0)
    tables = markdown_table(board)
    assert 0 <= tables.index("| describer | against |") < tables.index("| describer | rank |")


def test_an_interrupted_run_sends_no_request_twice(topics: Path, tmp_path: Path) -> None:
    subject = tiny_models.tiny_subject(tmp_path / "tiny", "llama")
    options = [*overrides(subject, topics, tmp_path / "whole"), "judges=[pairwise]"]
    options = [item for item in options if "judges.simulation" not in item]
    script = Script()
    whole = scripted_run([*options, f"serving.cache={tmp_path / 'cache-whole'}"], script)
    neurons = 2
    # Three kinds of two channels each and one merge; maxact and vocab_proj once; ten pairs in two orders. The planted
    # concept has one channel of each kind.
    asked = {"describe": neurons * (3 * 2 + 2) + 3 + 2, "merge": neurons + 1, "judge": neurons * 10 * 2}
    assert script.asked == asked

    broken = Script()
    broken.breaks_after = 25
    with pytest.raises(KeyboardInterrupt):
        scripted_run([*options, f"folder={tmp_path / 'broken'}"], broken)
    resumed = Script()
    again = scripted_run([*options, f"folder={tmp_path / 'broken'}"], resumed)
    assert resumed.asked.total() + 25 == script.asked.total()
    assert again.leaderboard.read_bytes() == whole.leaderboard.read_bytes()

    # The same requests in another run folder: all are answered from the cache.
    silent = Script()
    scripted_run([*options, f"folder={tmp_path / 'third'}"], silent)
    assert silent.asked.total() == 0
