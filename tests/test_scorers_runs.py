"""Scorers in whole runs: each one on a real subject; those that cannot run are left out and named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.errors import told

from harness.folder import RunFolder
from harness.llm.scripted import Request, ScriptedBackend
from harness.records import Status
from harness.run.help import compose_config
from harness.run.pipeline import run
from harness.run.setup import Setup
from harness.subject import Subject

LLM_SCORERS = [
    "detection",
    "fuzzing",
    "intruder",
    "simulation_written",
    "input_based",
    "clarity",
    "responsiveness",
    "purity",
    "output_based",
    "faithfulness",
]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that takes seconds: a tiny Llama over part of Python's reference, both signs."""
    folder = tmp_path_factory.mktemp("scored")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny-llama", "neurons.layers=[1]"),
        *(
            "neurons.per_layer=3",
            "neurons.signs=[positive,negative]",
            "neurons.kinds=[in]",
            "describers=[maxact,generic]",
        ),
        *("corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=60"),
        *("evidence.window=16", "evidence.top=6", "evidence.random=20", "decomposition.num_channels=1"),
        tiny_models.SHORT_SEARCH,
        *(
            "steering.texts.tokens=6",
            "steering.texts.values=[1,4]",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
        ),
        *("diagnostics.sample=0", "diagnostics.random_vectors=0", "tracking=none"),
        f"serving.cache={folder / 'cache'}",
    ]


def obedient(request: Request) -> str:
    """Answer whatever a schema asks for, the same to the same question: any word, the first or the last choice."""

    def value(name: str, schema: dict[str, Any]) -> Any:
        place = hashlib.sha256(f"{name} {request.text}".encode()).digest()[0]
        if "enum" in schema:
            return schema["enum"][place % len(schema["enum"])]
        return f"The {name} is number {place} of the statement."

    assert request.schema is not None
    return json.dumps({name: value(name, schema) for name, schema in request.schema["properties"].items()})


def made(options: list[str], *more: str, llm: bool = True) -> Setup:
    setup = Setup.of(compose_config([*options, *more]))
    backends = {role: ScriptedBackend(obedient) for role in ("judge", "simulator")} if llm else {}
    return dataclasses.replace(setup, backends=backends)


def test_every_scorer_scores_a_real_subject(options: list[str], tmp_path: Path) -> None:
    names = [*LLM_SCORERS, "embedding_simulation", "embedding_detection", "own_words"]
    judges = f"judges=[embedding_pairwise,{','.join(names)}]"
    run(made(options, judges, f"folder={tmp_path / 'run'}", "judges.input_based.sentences=3"))
    folder = RunFolder(tmp_path / "run")
    scores = folder.scores().records()
    assert len(scores) == len(names) * 3 * 2 * 2  # neurons, signs, describers
    for name in names:
        own = [score for score in scores if score.scorer == name]
        good = [score for score in own if score.status is Status.OK]
        assert good, (name, own[0].detail)
        assert all(score.detail for score in own if score.status is not Status.OK)
        if name in LLM_SCORERS:
            assert all(score.usage.calls for score in good)
    ranges = {
        "clarity": -1,
        "faithfulness": -1,
        "own_words": -1,
        "responsiveness": -1,
        "simulation_written": -1,
        "embedding_simulation": -1,
    }
    assert all(ranges.get(score.scorer, 0) <= score.value <= 1 for score in scores if score.value is not None)
    manifest = folder.read_manifest()
    assert manifest["left_out"] == {}
    assert set(manifest["judges"]) == {"embedding_pairwise", *names}
    assert not any(judge["is_human"] for judge in manifest["judges"].values())
    assert "detection" in folder.report.read_text()

    # Everything again, elsewhere: the same answers give the same figures, in whatever order they were asked.
    run(made(options, judges, f"folder={tmp_path / 'again'}", "judges.input_based.sentences=3"))
    figures = [
        {(score.neuron, score.scorer, score.describer): (score.value, score.metrics) for score in one}
        for one in (scores, RunFolder(tmp_path / "again").scores().records())
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.vllm
def test_every_scorer_asks_a_real_server(
    vllm: tiny_models.Served, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORERS_KEY", vllm.client.api.api_key)
    names = [*LLM_SCORERS, "simulation", "simulation_per_token", "surprisal", "claims"]
    # As few questions as each can do with: what is tried is the road, and every call takes a CPU half a second.
    small = ["neurons.signs=[positive]", "neurons.per_layer=3", f"judges=[{','.join(names)}]"]
    small += ["judges.simulation.windows=1", "judges.simulation_per_token.windows=1"]
    small += ["judges.simulation_per_token.tokens=3", "judges.simulation_written.windows=1"]
    small += [f"judges.detection.{count}=4" for count in ("active", "others", "batch")]
    sampled = ("detection", "surprisal", "simulation", "simulation_per_token", "simulation_written")
    small += [f"judges.{name}.{group}=0" for name in sampled for group in ("predicted", "hard")]
    small += [f"judges.{name}.{group}=1" for name in sampled[1:] for group in ("active", "others")]
    small += ["judges.fuzzing.active=4", "judges.fuzzing.batch=4", "judges.responsiveness.active=3"]
    small += [f"judges.purity.{count}=4" for count in ("active", "random", "batch")]
    small += [f"judges.claims.{count}=1" for count in ("max_claims", "sentences", "others")]
    small += ["judges.claims.active=4"]
    small += ["judges.clarity.texts=2", "judges.input_based.sentences=1", "judges.intruder.rounds=1"]
    for role in ("judge", "simulator"):
        small += [
            f"llm@llm.{role}=openai",
            f"llm.{role}.model={vllm.client.model}",
            f"llm.{role}.sampling.max_tokens=1000",
        ]
        small += [f"llm.{role}.base_url={vllm.client.api.base_url}", f"llm.{role}.api_key_env=SCORERS_KEY"]
    run(Setup.of(compose_config([*options, *small, f"folder={tmp_path / 'served'}"])))
    scores = RunFolder(tmp_path / "served").scores().records()
    assert len(scores) == len(names) * 3 * 2
    told = {name: Counter(score.status for score in scores if score.scorer == name) for name in names}
    # A tiny model writes any words, but the schema holds it to the form: what it cannot do is told, and is no zero.
    for name in names:
        unable = name in {
            "responsiveness",
            "purity",
            "simulation_written",
        }  # it gives all excerpts and tokens one number
        assert unable or told[name][Status.OK], (name, told[name])
        assert sum(told[name].values()) == 6
    assert all(score.detail and score.value is None for score in scores if score.status is not Status.OK)


def test_a_scorer_without_its_llm_is_left_out_and_said_once(
    options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = made(options, "judges=[embedding_pairwise,detection,own_words]", f"folder={tmp_path / 'run'}", llm=False)
    with caplog.at_level(logging.WARNING, "harness"):
        run(setup)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("detection is left out of this run: it needs an LLM as judge")
    folder = RunFolder(tmp_path / "run")
    assert {score.scorer for score in folder.scores().records()} == {"own_words"}
    assert list(folder.read_manifest()["left_out"]) == ["detection"]
    assert set(folder.read_manifest()["judges"]) == {"embedding_pairwise", "own_words"}


def test_a_scorer_that_can_tell_nothing_of_a_subject_is_left_out(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judges.clarity.OwnWords.unavailable", lambda self, subject: f"cannot speak to {subject.name}")
    setup = made(options, "judges=[embedding_pairwise,own_words]", f"folder={tmp_path / 'run'}")
    assert setup.left_out == {"own_words": "cannot speak to tiny-llama"}
    setup.check()
    alone = made(options, "judges=[own_words]", f"folder={tmp_path / 'run'}")
    told(alone.check, "no judge is left", "own_words cannot speak to tiny-llama")
    monkeypatch.setattr("judges.embedding.EmbeddingPairwise.unavailable", _no_embedding, raising=False)
    told(setup.check, "embedding_pairwise finds no text", "or leave embedding_pairwise out")


def _no_embedding(judge: object, subject: Subject) -> str:
    return "finds no text"


def test_a_run_whose_judges_all_need_an_llm_is_told_before_it_starts(options: list[str]) -> None:
    told(made(options, "judges=[detection,clarity]", llm=False).check, "no judge is left", "llm@llm.judge=vllm")
    told(made(options, "judges=[pairwise,own_words]", llm=False).check, "pairwise needs an LLM", "leave pairwise out")


def test_a_choice_among_three_neurons_needs_three(options: list[str]) -> None:
    few = ["neurons.per_layer=1", "judges=[output_based]"]
    told(made(options, *few).check, "judges.output_based", "three or more", "neurons.per_layer=3")
