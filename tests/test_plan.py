"""Plans: they count the LLM calls that the run then makes, call no LLM themselves, and report likely mistakes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from support import tiny_models
from support.tiny_models import Invoke
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from harness.export.__main__ import main as export
from harness.folder import RunFolder
from harness.llm.client import Price
from harness.llm.scripted import Request, ScriptedBackend
from harness.plan.__main__ import main
from harness.plan.dry import filled
from harness.plan.planning import plan_of
from harness.plan.schema import Amount, Assumptions, Basis, Rate, RolePlan, RunPlan, total_cost, unpriced
from harness.plan.stand_in import WIDTH, small_config
from harness.planted.__main__ import main as planted
from harness.records import from_json
from harness.reparse import main as reparse
from harness.report.__main__ import main as report
from harness.run.channel_store import ChannelStore
from harness.run.diagnostics import measure_diagnostics
from harness.run.help import compose_config, help_text
from harness.run.pipeline import run
from harness.run.setup import Setup
from harness.subject.architecture import ARCHITECTURES

ALL = Assumptions(neurons=99)  # every neuron is tried, so that all counts are exact


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run of seconds: four neurons of a tiny Llama over part of Python's reference."""
    folder = tmp_path_factory.mktemp("planned")
    tiny_models.tiny_subject(folder / "llama", "llama")
    tiny_models.topics_file(folder)
    return [
        *("subject=local", f"subject.sources=[{folder / 'llama'}]", "subject.name=tiny-llama"),
        *("neurons.layers=[0,1]", "neurons.per_layer=2", "neurons.kinds=[in,out]", "decomposition.num_channels=3"),
        tiny_models.SHORT_SEARCH,
        "decomposition.overrides=[{layers: [1], num_channels: 2}]",
        *("corpus=files", f"corpus.paths=[{folder / 'topics.jsonl'}]", "evidence.max_documents=40"),
        *(
            "evidence.window=16",
            "evidence.top=5",
            "evidence.random=10",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
            "diagnostics.sample=0",
        ),
        *("diagnostics.random_vectors=0", "tracking=none", "judges=[pairwise,detection]", "mode=llm"),
        "explainer_check.concepts=2",
    ]


class Script:
    """Scripted LLMs whose answers fit every schema. They count their calls, and can fail after a number of them."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self._breaks_after = breaks_after

    def role(self, name: str) -> ScriptedBackend:
        # One at a time, so that what was asked before a break was also answered.
        return ScriptedBackend(lambda request: self._answer(name, request), model=name, concurrency=1)

    def _answer(self, role: str, request: Request) -> str:
        self.asked[role] += 1
        if self._breaks_after is not None and self.asked.total() > self._breaks_after:
            raise KeyboardInterrupt
        assert request.schema is not None
        return json.dumps(filled(request.schema, hashlib.sha256(request.text.encode()).hexdigest()[:6]))


def setup_of(options: list[str], script: Script, place: Path, **changes: Any) -> Setup:
    """Make a run with one scripted LLM for each role and its folders in ``place``."""
    own = [f"folder={place / 'run'}", f"cache={place / 'cache'}"]
    setup = Setup.of(compose_config([*options, *own]))
    backends = {"explainer": script.role("explainer"), "judge": script.role("judge")}
    return dataclasses.replace(setup, backends=backends, **changes)


def paid(plan: RunPlan) -> dict[str, int]:
    """Return the calls that reach an LLM, by role."""
    return {role.role: role.amount.paid_calls for role in plan.roles}


def test_planned_calls_are_those_of_the_run(small: list[str], tmp_path: Path) -> None:
    script = Script()
    setup = setup_of(small, script, tmp_path)
    planned = plan_of(setup, ALL)
    assert not script.asked
    assert not any(tmp_path.iterdir())  # neither a folder for the run, nor a cache, nor a store

    # From the config alone: two neurons of layer 0 with three channels of two vectors each, two of layer 1 with two.
    calls = {method.name: method.total.calls for method in planned.methods}
    assert calls["rotate"] == 2 * (2 * 3 + 1) + 2 * (2 * 2 + 1)
    assert calls["maxact"] == calls["vocab_proj"] == 4
    assert calls["generic"] == calls["shuffled"] == 0
    assert calls["explainer check"] == 2 * (2 + 1 + 1 + 1)  # a planted concept has one channel of each kind
    assert calls["pairwise"] == 4 * 10 * 2
    # How many windows a neuron has, the pass over the corpus will show.
    assert {method.name for method in planned.methods if not method.exact} == {"detection"}
    assert (planned.neurons, planned.vectors, planned.channels, planned.state) == (4, 8, 2 * 2 * 3 + 2 * 2 * 2, "new")

    few = plan_of(setup, Assumptions(neurons=2))  # two of each kind of layer
    assert {method.name: method.total.calls for method in few.methods} == calls

    # A question that comes up twice is paid once: here, two describers ask the same.
    twice = plan_of(
        dataclasses.replace(setup, describers={**setup.describers, "again": setup.describers["maxact"]}), ALL
    )
    assert {method.name: method.total.calls for method in twice.methods}["again"] == 4
    assert paid(twice)["explainer"] == paid(planned)["explainer"]

    run(setup)
    assert script.asked["explainer"] == paid(planned)["explainer"] == calls["rotate"] + 2 * 4 + calls["explainer check"]
    assert paid(planned)["judge"] == calls["pairwise"] + calls["detection"]
    assert script.asked["judge"] == pytest.approx(paid(planned)["judge"], rel=0.1)

    finished = plan_of(setup, ALL)
    assert finished.state == "finished"
    assert finished.calls == 0
    assert finished.seconds == 0
    assert {method.done for method in finished.methods if method.kind == "describer"} == {4}

    # Diagnostics that are not there yet are work, whatever other ones are; those that are there are none.
    def measuring(**diagnostics: int) -> Setup:
        return dataclasses.replace(setup, diagnostics=dataclasses.replace(setup.diagnostics, **diagnostics))

    def diagnostics_of(plan: RunPlan) -> str:
        (stage,) = (stage for stage in plan.stages if stage.name == "diagnostics")
        assert stage.basis is (Basis.MEASURED if stage.note else Basis.NOTHING)
        return stage.note

    two, three = measuring(random_vectors=2, random_channels=2), measuring(random_vectors=3, random_channels=2)
    planned = plan_of(two, ALL)
    # Two layers and two kinds of vectors, in each of which two random ones are drawn, with two channels.
    assert (planned.state, diagnostics_of(planned)) == ("unfinished", "16 channels of restarts and random vectors")
    measure_diagnostics(two, RunFolder(setup.folder), ChannelStore(two))
    assert (plan_of(two, ALL).state, diagnostics_of(plan_of(two, ALL))) == ("finished", "")
    assert diagnostics_of(plan_of(three, ALL)) == "24 channels of restarts and random vectors"

    # A new folder: the store has the evidence and the cache every answer.
    again = plan_of(
        dataclasses.replace(setup, general=dataclasses.replace(setup.general, folder=str(tmp_path / "again"))), ALL
    )
    assert (again.evidence, again.calls) == ("store", 0)
    assert all(method.exact for method in again.methods)
    assert sum(method.total.calls - method.total.paid_calls for method in again.methods) == script.asked["judge"] + sum(
        calls[name] for name in ("rotate", "maxact", "vocab_proj", "explainer check")
    )
    assert next(stage for stage in again.stages if stage.name == "activations").basis is Basis.NOTHING

    # Another judge: the descriptions are paid for, the verdicts and scores are not.
    other = {**setup.backends, "judge": Script().role("another model")}
    general = dataclasses.replace(setup.general, folder=str(tmp_path / "other"))
    changed = dataclasses.replace(setup, general=general, backends=other)
    assert paid(plan_of(changed, ALL)) == {"explainer": 0, "judge": script.asked["judge"]}

    clash = dataclasses.replace(setup, general=dataclasses.replace(setup.general, seed=5))
    clash.config["seed"] = 5
    told = plan_of(clash, Assumptions(neurons=2))
    assert told.state == "another run's"
    assert any("holds a run of a different configuration (seed was 0" in stop for stop in told.stops)


def test_the_plan_of_an_interrupted_run_covers_what_remains(small: list[str], tmp_path: Path) -> None:
    broken = Script(breaks_after=60)
    with pytest.raises(KeyboardInterrupt):
        run(setup_of(small, broken, tmp_path))
    resumed = Script()
    setup = setup_of(small, resumed, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.jsonl")}
    planned = plan_of(setup, ALL)
    assert (planned.state, planned.evidence, planned.vectors) == ("unfinished", "run", 0)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.jsonl")} == before
    run(setup)
    assert resumed.asked.total() > 0
    assert paid(planned) == {"explainer": 0, "judge": resumed.asked["judge"]}


def test_likely_mistakes_are_reported(small: list[str], tmp_path: Path) -> None:
    script = Script()
    options = [
        *small,
        *("describers=[rotate,maxact]", "judges=[pairwise]"),
        "evidence.max_documents=100000",
    ]
    setup = setup_of(options, script, tmp_path)
    one = script.role("one model")
    assert isinstance(one, ScriptedBackend)
    setup = dataclasses.replace(setup, backends={"explainer": one, "judge": one})
    limits = Assumptions(neurons=2, max_calls=3, max_cost=1.0, rates={"judge": Rate(100, 10)})
    plan = plan_of(setup, limits)
    warnings = "\n".join(plan.warnings)
    assert any("exceed the limit of 3 (--max-calls)" in stop for stop in plan.stops)
    assert any("cannot be checked: set llm.explainer.price and llm.judge.price" in stop for stop in plan.stops)
    for words in (
        "no control among the describers",
        "judges with one model, which also writes descriptions",
        "only one judge compares descriptions (pairwise)",
        "4 neurons are too few to detect a win-rate difference of 0.2",
        "194 are needed",
        "llm.judge (one model) has no price",
    ):
        assert words in warnings, words
    assert "fewer than evidence.max_documents=100,000" in warnings
    (judge,) = (method for method in plan.methods if method.name == "pairwise")
    assert (judge.items, judge.exact) == (4 * 2, True)

    # The same with what was missing; a price makes the cost known, and a limit that holds stops nothing.
    better = setup_of([*small, "comparisons.retest=0.5"], script, tmp_path)
    for backend in better.backends.values():
        backend.price = Price(1.0, 10.0)
    plan = plan_of(better, Assumptions(neurons=4, max_cost=1.0))
    assert not plan.stops
    assert plan.cost is not None
    told = sum(role.amount.paid_prompt_tokens * 1e-6 + role.amount.paid_completion_tokens * 1e-5 for role in plan.roles)
    assert plan.cost == pytest.approx(told, abs=1e-3)
    warnings = "\n".join(plan.warnings)
    assert not any(words in warnings for words in ("no control", "also writes", "no price"))
    (pairwise,) = (method for method in plan.methods if method.name == "pairwise")
    assert 0 < pairwise.retests < pairwise.items
    assert pairwise.total.calls == pairwise.items + pairwise.retests
    assert not script.asked


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Call ``python -m harness.plan`` in an empty folder, off the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_hub_model_is_planned_without_network(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = invoke("experiment=rotate_gemma2_2b", "corpus=installed_docs", "corpus.max_files=9", "--json")
    assert code == 0
    plan = from_json(RunPlan, json.loads(out))
    assert (plan.subject.here, plan.subject.d_mlp, plan.subject.vocabulary) == (False, 9216, 256_000)
    assert (plan.neurons, plan.vectors, plan.channels) == (297, 891, 44_550)
    calls = {method.name: method.total.calls for method in plan.methods}
    assert calls["rotate"] == 297 * (3 * 50 + 1)
    assert calls["pairwise"] == calls["pairwise_output"] == calls["pairwise_steered"] == 297 * 36 * 2
    assert calls["simulation"] == 297 * 9 * (29 + 10)  # windows of the report and of the calibrate split
    assert calls["best_of_k"] == 297 * 5 * (1 + 29)  # each candidate is simulated on the select split
    assert not any("failed in the trial" in one or "also writes" in one for one in plan.warnings)
    pair, every = plan.power
    assert pair.smallest_difference is not None
    difference = pair.smallest_difference
    assert pair.smallest_ratio == pytest.approx((1 + difference) / (1 - difference), abs=0.01)
    assert every.smallest_ratio is not None
    assert pair.smallest_ratio < every.smallest_ratio
    times = {stage.name: stage for stage in plan.stages}
    assert {times[name].basis for name in ("activations", "decompose", "describe", "judge")} == {Basis.ASSUMED}
    assert any("not on this machine" in warning for warning in plan.warnings)
    assert [path.name for path in tmp_path.iterdir()] == []

    code, _, err = invoke("experiment=rotate_gemma2_2b", "neurons.layers=[26]")
    assert code == 1
    assert err.startswith("error: gemma-2-2b-it has layers 0 to 25")
    code, _, err = invoke("experiment=rotate_gemma2_2b", "subject.shape.family=gemma9")
    assert code == 1
    assert "subject.shape: family must be one of bert, " in err


@pytest.mark.parametrize("family", sorted(name for name, known in ARCHITECTURES.items() if known.experts is None))
def test_the_stand_in_of_every_family_is_tiny(family: str) -> None:
    config = small_config(family, layers=3, vocabulary=2000, pad_token_id=0)
    auto = AutoModelForCausalLM if ARCHITECTURES[family].causal else AutoModelForMaskedLM
    with torch.device("meta"):  # counted, not made: a full-size model would take the memory of this machine
        model = auto.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000
    stand_in = ARCHITECTURES[config.model_type]
    assert stand_in.mlp is not None
    assert stand_in.mlp.vectors.keys() == ARCHITECTURES[family].mlp.vectors.keys()  # type: ignore[union-attr]
    assert getattr(config, stand_in.mlp.width) == WIDTH
    assert config.num_hidden_layers == 3


def test_a_plan_in_a_pipe_is_plain_text(invoke: Invoke, small: list[str]) -> None:
    quick = [item for item in small if not item.startswith(("judges", "mode"))]
    code, out, _ = invoke(*quick, "describers=[maxact,generic]", "judges=[own_words]", "--neurons", "2")
    assert code == 0
    assert "\x1b" not in out
    assert "| maxact" in out
    assert "generic (control)" in out
    assert "measured" in out
    assert "no judge compares descriptions" in out
    code, _, err = invoke("judges=[nonsense]")
    assert code == 1
    assert err.startswith("error: there is no judges=nonsense; choose from ")
    code, _, err = invoke(*quick, "describers=[maxact]")
    assert code == 1
    assert err.startswith("error: at least two describers are needed")
    code, _, err = invoke("--nonsense")
    assert code == 2
    assert "unrecognized arguments: --nonsense" in err
    for several in ("-m", "--multirun"):
        code, _, err = invoke(several, "seed=1,2")
        assert code == 2
        assert "plan one run of the sweep" in err
    code, _, err = invoke(*quick, "--tokens-per-second", "jugde=8000/2000")
    assert code == 1
    assert err == "error: this run has no LLM role 'jugde', it has none (--tokens-per-second)\n"


def test_managed_servers_cost_nothing_per_token() -> None:
    def role(name: str, *, managed: bool, cost: float | None, calls: int = 1) -> RolePlan:
        amount = Amount(calls=calls, paid_calls=calls)
        return RolePlan(name, "model", managed, amount, True, 0, cost, Rate(6000, 1200), 0.0)

    own, priced = role("judge", managed=True, cost=None), role("explainer", managed=False, cost=2.5)
    assert total_cost([own, priced]) == 2.5
    unknown = [own, priced, role("simulator", managed=False, cost=None)]
    assert (total_cost(unknown), unpriced(unknown)) == (None, ["simulator"])
    unasked = role("simulator", managed=False, cost=None, calls=0)
    assert total_cost([own, unasked]) == 0


def test_help_names_every_command(invoke: Invoke, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    for option in ("--json", "--neurons", "--tokens-per-second", "--max-cost", "OPTION=VALUE"):
        assert option in out
    listed = help_text([])
    commands = {"plan": main, "report": report, "export": export, "reparse": reparse, "planted": planted}
    for name, command in commands.items():
        assert f"python -m harness.{name} " in listed
        with pytest.raises(SystemExit):
            command(["--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert shown.startswith(f"usage: python -m harness.{name} ")
        assert f": python -m harness.{name} " in shown
