"""Runs with interventions: planted neurons, resume, and who sees which effects."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from support import tiny_models
from support.describer_cases import case, describe, failure, saying, shown_tokens
from support.errors import told
from transformers import AutoModelForCausalLM

from describers.token_change import TokenChange
from harness.evidence import EvidenceConfig, TextFiles, draw_prompts
from harness.evidence.windows import split_of
from harness.folder import RunFolder, read_table
from harness.llm.scripted import ScriptedBackend
from harness.methods import DescriberCase, JudgeCase
from harness.records import Effect, EvidenceSize, Neuron, ScoredToken, Sign, Split, Status, SteeredText, TextPrompt
from harness.run.building import validate
from harness.run.help import compose_config
from harness.run.interventions import measure
from harness.run.interventions.config import EffectsConfig, SteeringConfig, TextsConfig, peaks
from harness.run.interventions.measure import Clamping
from harness.run.pipeline import run
from harness.run.setup import Setup
from harness.subject import CausalModel, Intervention, Subject

PLANTED, PLAIN = Neuron(2, 9), Neuron(2, 30)
CONCEPT = "class"

#: A user's scorer: how much more often steered texts contain the concept than unsteered ones.
GAIN = """
from harness.methods import Grade, Scorer


class Gain(Scorer):
    needs_effects = True
    needs_steered = True
    seen = []

    async def score(self, case, description):
        self.seen.append(case)
        own = case.steered[case.neuron]
        said = {None: [], "steered": []}
        for text in own:
            said[text.strength and "steered"].append("{concept}" in text.text)
        share = {name: sum(values) / len(values) for name, values in said.items()}
        return Grade(share["steered"] - share[None])
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in whose last layer one neuron writes the unembedding of one token."""
    folder = tiny_models.tiny_subject(tmp_path_factory.mktemp("planted") / "llama", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    token = token_of(Subject("planted", [str(folder)]))
    with torch.no_grad():
        model.lm_head.weight *= 10  # after the usual initialisation all tokens are about equally likely
        mlp = model.model.layers[2].mlp
        mlp.down_proj.weight[:, PLANTED.index] = model.lm_head.weight[token]
        mlp.up_proj.weight[PLANTED.index] *= 0.01  # without clamping it is hardly ever active
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part of Python's reference as a corpus."""
    path = tmp_path_factory.mktemp("corpus") / "topics.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in tiny_models.texts()))
    return path


@pytest.fixture
def base(planted: Path, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a run of two neurons that takes seconds."""
    (tmp_path / "gain.py").write_text(textwrap.dedent(GAIN.replace("{concept}", CONCEPT)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "gain", raising=False)
    return [
        *("subject=local", f"subject.sources=[{planted}]", "subject.name=planted", "tracking=none"),
        *("neurons=listed", "neurons.layers=[2]", f"neurons.indices=[{PLANTED.index},{PLAIN.index}]"),
        *("corpus=files", f"corpus.paths=[{topics}]", "evidence.max_documents=40", "evidence.window=16"),
        *("evidence.top=3", "evidence.random=6"),
        *("describers=[token_change,vocab_proj,generic]", "judges=[]", "+judges.gain._target_=gain.Gain"),
        *("steering.texts.unit=absolute", "steering.texts.values=[200]", "steering.texts.tokens=8"),
    ]


def start(options: list[str], folder: Path) -> RunFolder:
    run(Setup.of(compose_config([*options, f"folder={folder}"])))
    return RunFolder(folder)


def token_of(subject: Subject) -> int:
    (token,) = subject.tokenizer(CONCEPT, add_special_tokens=False).input_ids
    return int(token)


def of(folder: RunFolder, neuron: Neuron, split: Split = Split.EXPLAIN) -> dict[float, Effect]:
    return {item.value: item for item in folder.read(Effect) if item.neuron == neuron and item.split is split}


def test_a_planted_neuron_is_found_by_what_it_does(base: list[str], tmp_path: Path) -> None:
    folder = start([*base, "neurons.signs=[positive,negative]"], tmp_path / "run")
    on, off = of(folder, PLANTED)[10.0], of(folder, PLANTED)[-10.0]
    assert on.promoted[0].token == CONCEPT
    assert off.suppressed[0].token == CONCEPT
    assert (len(on.promoted), len(on.suppressed)) == (50, 50)
    assert on.promoted[0].z > 3 > 0 > on.suppressed[0].z
    assert of(folder, PLAIN)[10.0].promoted[0].token != CONCEPT
    # The negative sign is the same neuron times -1.
    # It writes one token; what it changes is what its out vector says, with either sign, and nothing else.
    for effect in (on, off):
        assert effect.direct is not None
        assert effect.direct_control is not None
        assert effect.direct > 0.9
        assert abs(effect.direct_control) < 0.4
    (row,) = (row for row in folder.read_manifest()["alignment"] if row["kind"] == "out")
    assert (row["layer"], row["against"], row["neurons"]) == (2, "effect", 2)
    negative = of(folder, PLANTED.with_sign(Sign.NEGATIVE))
    assert negative[10.0] == dataclasses.replace(off, neuron=PLANTED.with_sign(Sign.NEGATIVE), value=10.0)
    assert negative[-10.0] == dataclasses.replace(on, neuron=PLANTED.with_sign(Sign.NEGATIVE), value=-10.0)

    said = {item.neuron: item for item in folder.descriptions().records() if item.describer == "token_change"}
    planted, plain = said[PLANTED].tokens, said[PLAIN].tokens
    assert planted is not None
    assert plain is not None
    assert planted.promoted[0] == CONCEPT
    assert CONCEPT not in (*plain.promoted[:3], *plain.suppressed[:3])
    assert said[PLANTED].evidence == EvidenceSize(tokens=50)

    texts = {
        neuron: [item for item in folder.read(SteeredText) if item.neuron == neuron]
        for neuron in (PLANTED, PLAIN, PLANTED.with_sign(Sign.NEGATIVE))
    }
    for item in texts[PLANTED]:
        assert (item.text == CONCEPT * 8) == (item.strength is not None)
    assert not any(CONCEPT * 2 in item.text for item in (*texts[PLAIN], *texts[PLANTED.with_sign(Sign.NEGATIVE)]))
    assert {(item.prompt, item.strength, item.value) for item in texts[PLAIN]} == {
        (prompt, *strength)
        for prompt in ("I think that", "The next thing", "It is", "We found that", "Here is a")
        for strength in ((None, None), (200.0, 200.0))
    }
    scores = {item.neuron: item.value for item in folder.scores().records()}
    assert scores[PLANTED] == 1.0
    # A text that is not steered may hold the concept by chance: one of five prompts.
    assert all(-0.2 <= scores[neuron] <= 0 for neuron in (PLAIN, PLANTED.with_sign(Sign.NEGATIVE)))


def test_describers_and_judges_see_effects_over_text_of_their_own(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "curious.py").write_text(
        textwrap.dedent(
            """
            from harness.methods import Describer

            class Curious(Describer):
                needs_effects = True
                seen = []

                async def describe(self, case):
                    self.seen.append(case)
                    return "something"

            class Indifferent(Curious):
                needs_effects = False
                seen = []
            """
        )
    )
    more = [f"+describers.{name.lower()}._target_=curious.{name}" for name in ("Curious", "Indifferent")]
    folder = start([*base, *more], tmp_path / "run")
    import curious  # type: ignore[import-not-found]
    import gain  # type: ignore[import-not-found]

    shown: list[DescriberCase] = curious.Curious.seen
    judged: list[JudgeCase] = gain.Gain.seen
    assert {item.split for case in shown for item in case.effects} == {Split.EXPLAIN}
    assert {item.split for case in judged for item in case.effects} == {Split.REPORT}
    assert [item.value for item in shown[0].effects] == [10.0, -10.0]
    assert all(case.effects == () for case in curious.Indifferent.seen)
    # A judge may compare a neuron's texts with those of others.
    assert all(set(case.steered) == {PLANTED, PLAIN} for case in judged)
    texts = [item for path in folder.effects.glob("*.prompts.parquet") for item in read_table(path, TextPrompt)]
    documents = {split: {item.document for item in texts if item.split is split} for split in Split}
    assert len(texts) == 2 * 32
    assert all(len(item.tokens) == 32 for item in texts)
    assert documents[Split.EXPLAIN]
    assert documents[Split.REPORT]
    assert not documents[Split.EXPLAIN] & documents[Split.REPORT]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the uses of the model."""
    counts = {"clamped": 0, "texts": 0, "loaded": 0}

    def counting(name: str, kind: Any, method: str, count: Callable[..., int]) -> None:
        real = getattr(kind, method)

        def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            counts[name] += count(*arguments)
            return real(self, *arguments, **options)

        monkeypatch.setattr(kind, method, counted)

    counting("clamped", CausalModel, "logits", lambda ids, given: sum(item is not None for item in given))
    counting("texts", CausalModel, "generate", lambda prompt, given, *_: len(given))
    counting("loaded", CausalModel, "__init__", lambda *_: 1)
    return counts


def test_effects_and_texts_are_computed_once_for_all_methods(
    base: list[str], tmp_path: Path, counted: dict[str, int]
) -> None:
    more = ["+describers.again._target_=describers.token_change.TokenChange", "+judges.twice._target_=gain.Gain"]
    folder = start([*base, *more, "neurons.signs=[positive,negative]"], tmp_path / "run")
    # Two neurons, two values, and 32 pieces for each of two splits, shared by both signs and all methods.
    assert counted == {"clamped": 2 * 2 * 32 * 2, "texts": 2 * 5 * 3, "loaded": 1}
    said = {(item.describer, item.neuron): item.text for item in folder.descriptions().records()}
    assert all(said["again", neuron] == said["token_change", neuron] for _, neuron in said)
    before = dict(counted)
    start([*base, *more, "neurons.signs=[positive,negative]", "steering.rows=7"], tmp_path / "run")
    assert counted == before


def test_a_run_without_interventions_loads_no_model(base: list[str], tmp_path: Path, counted: dict[str, int]) -> None:
    options = [item for item in base if "gain" not in item]
    options = [
        item.replace("judges=[]", "judges=[embedding_simulation]").replace("token_change,", "") for item in options
    ]
    folder = start(options, tmp_path / "run")
    assert counted["loaded"] == 0
    assert not folder.effects.exists()
    assert not folder.steered.exists()
    # Settings of effects that are not computed may change.
    start([*options, "steering.texts.tokens=3", "steering.effects.prompts=3"], tmp_path / "run")


def test_an_interrupted_run_measures_nothing_twice(
    base: list[str], tmp_path: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_BLOCK", 1)
    whole = start(base, tmp_path / "whole")
    total = dict(counted)
    real, written = measure.write_table, []

    def breaking(path: Path, records: Any) -> None:
        if len(written) == 3:  # a split's pieces, those of the other, and one neuron's effects
            raise KeyboardInterrupt
        real(path, records)
        written.append(path)

    monkeypatch.setattr(measure, "write_table", breaking)
    with pytest.raises(KeyboardInterrupt):
        start(base, tmp_path / "broken")
    monkeypatch.setattr(measure, "write_table", real)
    kept = {path: path.stat().st_mtime_ns for path in written}
    counted["clamped"] = counted["texts"] = 0
    again = start(base, tmp_path / "broken")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert counted["clamped"] == total["clamped"] - 2 * 32
    assert counted["texts"] == total["texts"]
    assert again.read(Effect) == whole.read(Effect)
    assert again.read(SteeredText) == whole.read(SteeredText)


def test_other_settings_measure_anew_until_there_are_answers(base: list[str], tmp_path: Path) -> None:
    folder = start(base, tmp_path / "run")
    told(lambda: start([*base, "steering.effects.values=[5]"], folder.path), "steering.effects.values", "folder=")
    for journal in ("descriptions", "scores"):
        (folder.path / f"{journal}.jsonl").unlink()  # as after a kill before the first answer
    texts = {path: path.stat().st_mtime_ns for path in folder.steered.iterdir()}
    prompts = {path: path.stat().st_mtime_ns for path in folder.effects.glob("*.prompts.parquet")}
    start([*base, "steering.effects.values=[5]"], folder.path)
    assert {item.value for item in folder.read(Effect)} == {5.0}  # nothing of the old ones stays
    assert {path: path.stat().st_mtime_ns for path in folder.steered.iterdir()} == texts
    assert {path: path.stat().st_mtime_ns for path in folder.effects.glob("*.prompts.parquet")} == prompts


def test_strengths_in_peaks_of_the_neuron(base: list[str], tmp_path: Path) -> None:
    options = [*base, "steering.effects.unit=peak", "steering.effects.values=[2,-1]", "steering.texts.unit=peak"]
    folder = start([*options, "steering.texts.values=[3]", "steering.texts.mode=add"], tmp_path / "run")
    highest = peaks(folder.read_exemplars())
    assert set(highest) == {PLANTED, PLAIN}
    for neuron, peak in highest.items():
        explained = [item.activation for item in folder.read_exemplars() if item.neuron == neuron]
        assert 0 < peak <= max(explained)
        assert list(of(folder, neuron)) == pytest.approx([2 * peak, -peak], abs=1e-5)
        steered = [item for item in folder.read(SteeredText) if item.neuron == neuron and item.strength is not None]
        assert {item.strength for item in steered} == {3.0}
        assert steered[0].value == pytest.approx(3 * peak, abs=1e-5)


def test_a_neuron_that_is_never_active_has_no_peak(
    base: list[str], planted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = tmp_path / "silent"
    model = AutoModelForCausalLM.from_pretrained(planted)
    with torch.no_grad():
        model.model.layers[2].mlp.gate_proj.weight[PLAIN.index] = 0
    model.save_pretrained(silent)
    Subject("planted", [str(planted)]).tokenizer.save_pretrained(silent)
    options = [*base, f"subject.sources=[{silent}]", "steering.effects.unit=peak", "steering.texts.unit=peak"]
    folder = start([*options, "steering.effects.values=[1]"], tmp_path / "run")
    assert "1 of 2 neurons are never active" in caplog.text
    said = {item.neuron: item for item in folder.descriptions().records() if item.describer == "token_change"}
    assert said[PLANTED].status is Status.OK
    assert said[PLAIN].status is Status.FAILED
    assert "no peak" in said[PLAIN].detail
    scores = [item for item in folder.scores().records() if item.neuron == PLAIN]
    assert scores
    assert all(item.status is Status.FAILED for item in scores)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_the_effect_is_the_mean_change_over_all_tokens(planted: Path) -> None:
    subject, model = Subject("planted", [str(planted)]), AutoModelForCausalLM.from_pretrained(planted)
    steered = CausalModel(subject, "cpu")
    pieces = [TextPrompt(Split.EXPLAIN, "d", tuple(range(start, start + 6)), "") for start in (40, 90, 300)]
    clamping = Clamping(steered, pieces, [0], rows=2)
    given = [
        Intervention(PLAIN, 7.0),
        Intervention(Neuron(0, 3), -4.0),
        Intervention(PLAIN.with_sign(Sign.NEGATIVE), -7.0),
    ]
    changes = clamping.changes(given)
    assert len(changes) == 2  # two of the three are the same intervention
    ids = torch.tensor([[0, *piece.tokens] for piece in pieces])
    plain = model(input_ids=ids).logits[:, 1:].detach()
    positions = torch.ones_like(ids)
    positions[:, 0] = 0
    for one in given[:2]:
        clamped = steered.logits(ids, [one] * 3, positions=positions)[:, 1:]
        change = changes[one.neuron, one.raw]
        assert torch.allclose(change, (clamped - plain).mean(dim=(0, 1)), atol=1e-4)
        # Logits and log-probabilities differ by a constant.
        shares = (clamped.log_softmax(dim=-1) - plain.log_softmax(dim=-1)).mean(dim=(0, 1))
        assert float((change - shares).std()) < 1e-4 < float(change.std())
    (found,) = measure.effects_of(clamping, subject, Split.EXPLAIN, {PLAIN: {7.0: 7.0}}, 5)
    change = changes[PLAIN, 7.0]
    assert found.scale == pytest.approx(float(change.std(correction=0)), abs=1e-5)
    assert found.promoted[0].z * found.scale == pytest.approx(float(change.max() - change.mean()), abs=2e-3)
    kept = [place for place in change.argsort(descending=True).tolist() if place not in subject.unused_token_ids]
    assert [item.token for item in found.promoted] == [subject.token_text(place) for place in kept[:5]]


def test_the_last_layer_moves_logits_along_its_out_vector(planted: Path) -> None:
    """The stream before the final norm changes only by the neuron's out vector times the change of its activation."""
    subject, model = Subject("planted", [str(planted)]), AutoModelForCausalLM.from_pretrained(planted)
    ids, seen = torch.tensor([[0, 50, 60, 70, 80]]), {}
    model.model.norm.register_forward_pre_hook(lambda _, inputs: seen.update(stream=inputs[0]))
    down = model.model.layers[2].mlp.down_proj
    down.register_forward_pre_hook(lambda _, inputs: seen.update(activation=inputs[0][..., PLAIN.index]))
    with torch.no_grad():
        model(input_ids=ids)
        moved = seen["stream"] + (6.0 - seen["activation"])[..., None] * down.weight[:, PLAIN.index]
        expected = model.lm_head(model.model.norm(moved))
    found = CausalModel(subject, "cpu").logits(ids, [Intervention(PLAIN, 6.0)])
    assert torch.allclose(found, expected, atol=1e-4)


def test_pieces_of_text_come_from_as_many_documents_as_there_are(planted: Path, topics: Path, tmp_path: Path) -> None:
    subject, config = Subject("planted", [str(planted)]), EvidenceConfig()
    corpus = TextFiles([str(topics)])

    def draw(count: int, tokens: int = 12, seed: int = 0, split: Split = Split.REPORT) -> list[TextPrompt]:
        return draw_prompts(corpus, subject, config, split, count=count, tokens=tokens, seed=seed)

    some = draw(20)
    assert len({item.document for item in some}) == 20
    assert all(len(item.tokens) == 12 and item.split is Split.REPORT for item in some)
    assert all(split_of(item.document, config.splits, 0) is Split.REPORT for item in some)
    assert draw(20) == some
    assert {item.document for item in draw(20, seed=1)} != {item.document for item in some}
    # More pieces than documents: several from one document, but no piece twice.
    many = draw(200)
    documents = {item.document for item in many}
    assert many[: len(documents)] == draw(len(documents))
    assert len({(item.document, item.tokens) for item in many}) > len(documents)
    text = {document.id: document.text for document in corpus.documents(None)}
    assert all(item.text.strip() in text[item.document] for item in some if item.text.isascii())
    told(lambda: draw(10**6), "the report split", "1000000", "steering.effects.prompts")


# --- token_change -----------------------------------------------------------------------------------------------------


def effect(value: float, promoted: list[str], suppressed: list[str]) -> Effect:
    def scored(tokens: list[str], z: float) -> tuple[ScoredToken, ...]:
        return tuple(ScoredToken(token, z) for token in tokens)

    return Effect(Neuron(3, 17), Split.EXPLAIN, value, 0.5, scored(promoted, 4.0), scored(suppressed, -4.0))


EFFECTS = (effect(-10.0, [" desk", " chair"], [" sea"]), effect(10.0, [" sea", "ship", " tide"], [" hill", " rock"]))


def test_token_change_shows_what_rises_and_falls_at_each_value() -> None:
    llm = saying("the sea")
    draft = describe(TokenChange(tokens=2, target_words=12), case(effects=EFFECTS, llm=llm))
    assert (draft.text, draft.detail) == ("the sea", "from clamping to 10, -10")
    assert draft.evidence == EvidenceSize(tokens=2 + 2 + 2 + 1)
    (request,) = llm.requests
    assert shown_tokens(request.text) == [" sea", "ship", " hill", " rock", " desk", " chair", " sea"]
    assert request.text.index("forced on") < request.text.index("the opposite way") < request.text.rindex("desk")
    assert "at most 12 words" in request.text
    alone = saying("the sea")
    draft = describe(TokenChange(opposite=False), case(effects=EFFECTS, llm=alone))
    assert shown_tokens(alone.requests[0].text) == [" sea", "ship", " tide", " hill", " rock"]
    assert "opposite" not in alone.requests[0].text
    assert draft.evidence == EvidenceSize(tokens=5)


def test_token_change_without_an_explainer_names_what_the_neuron_makes_likelier() -> None:
    draft = describe(TokenChange(mode="extractive"), case(effects=EFFECTS))
    text = "promotes sea, ship, tide; suppresses hill, rock"
    assert (draft.text, draft.evidence) == (text, EvidenceSize(tokens=5))
    # If the neuron was only clamped below zero, the tokens change roles.
    assert "suppresses" in describe(TokenChange(), case(effects=EFFECTS[:1])).text
    assert describe(TokenChange(), case(effects=EFFECTS[:1])).text.startswith("promotes sea")
    assert "below zero only" in failure(TokenChange(opposite=False), case(effects=EFFECTS[:1])).detail
    assert "no peak" in failure(TokenChange(), case()).detail


def test_token_change_as_the_explainer_reads_it() -> None:
    llm = saying("the sea")
    describe(TokenChange(), case(effects=[effect(10.0, [" sea"], [" hill"])], llm=llm))
    first, on, risen, fallen, last = re.split(r"\n(?=With the neuron|Tokens)", llm.requests[0].messages[1].content)
    assert first.startswith("A neuron of a language model was forced to a fixed activation")
    assert on == "With the neuron forced on:"
    assert risen == "Tokens that became likelier, strongest first:\n<token> sea</token>"
    assert fallen == "Tokens that became unlikelier, strongest first:\n<token> hill</token>\n"
    assert last.startswith("Tokens may be pieces of words, in any language. In at most 30 words:")


def test_an_explainer_describes_every_neuron_of_a_run(base: list[str], tmp_path: Path) -> None:
    setup = Setup.of(compose_config([*base, f"folder={tmp_path / 'run'}", f"serving.cache={tmp_path / 'cache'}"]))
    llm = ScriptedBackend(lambda request: json.dumps({"description": f"promotes{shown_tokens(request.text)[0]}"}))
    run(dataclasses.replace(setup, backends={"explainer": llm}))
    said = {
        item.neuron: item
        for item in RunFolder(setup.folder).descriptions().records()
        if item.describer == "token_change"
    }
    assert said[PLANTED].text == f"promotes{CONCEPT}"
    assert said[PLANTED].evidence == EvidenceSize(tokens=100)
    assert said[PLAIN].usage.calls == 1


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_encoder_is_refused_before_the_run(base: list[str], tmp_path: Path) -> None:
    without = [item for item in base if not item.startswith(("subject", "neurons", "judges", "+judges"))]
    demo = [*without, "subject=minilm", "judges=[embedding_simulation]"]
    message = told(lambda: start(demo, tmp_path / "run"), "token_change needs a causal language model")
    assert message.endswith(
        "all-MiniLM-L6-v2 is a masked/encoder model: choose another subject, or leave token_change out"
    )
    assert not (tmp_path / "run" / "exemplars.parquet").exists()
    judged = [*[item.replace("token_change,", "") for item in demo], "+judges.gain._target_=gain.Gain"]
    # A scorer is left out, and the run goes on with the others, for which no text is steered.
    setup = Setup.of(compose_config(judged))
    assert setup.left_out["gain"].startswith("needs a causal language model")
    assert not setup.needs_steered
    setup.check()


@pytest.mark.parametrize(
    ("part", "option", "value", "words"),
    [
        ("effects", "values", [], ["steering.effects.values"]),
        ("effects", "values", [0, 1], ["steering.effects.values", "other than 0"]),
        ("effects", "values", {"a": 10}, ["steering.effects.values: must be a list"]),
        ("effects", "prompts", 0, ["steering.effects.prompts"]),
        ("effects", "unit", "sigma", ["steering.effects.unit: must be 'absolute' or 'peak'"]),
        ("texts", "values", [1, 1], ["steering.texts.values", "twice"]),
        ("texts", "mode", "shout", ["steering.texts.mode: must be 'clamp' or 'add'"]),
        ("texts", "prompts", [], ["steering.texts.prompts"]),
        ("texts", "prompts", ["a", "a"], ["steering.texts.prompts"]),
        ("texts", "top_p", 0, ["steering.texts.top_p"]),
        ("texts", "temperature", -1, ["steering.texts.temperature"]),
        ("texts", "token", 3, ["steering.texts.token: unknown option"]),
    ],
)
def test_invalid_settings_are_refused(part: str, option: str, value: Any, words: list[str]) -> None:
    told(lambda: validate(SteeringConfig, {part: {option: value}}, "steering"), *words)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("steering.rows=0", ["steering.rows"]),
        ("steering.effects.tokens=129", ["129 tokens are too long", "steering.effects.tokens"]),
        ("steering.texts.tokens=127", ["127 more", "steering.texts.tokens"]),
        ("steering.effects.prompts=100000", ["pieces of 32 tokens and needs 100000"]),
    ],
)
def test_settings_that_do_not_fit_the_subject_are_refused_before_the_run(
    base: list[str], tmp_path: Path, mistake: str, words: list[str]
) -> None:
    told(lambda: start([*base, mistake], tmp_path / "run"), *words)
    assert not (tmp_path / "run" / "exemplars.parquet").exists()


def test_the_defaults_of_the_config_are_those_that_are_documented() -> None:
    given: Any = OmegaConf.to_container(compose_config([])["steering"])
    assert SteeringConfig(**given).effects == EffectsConfig()
    texts = TextsConfig(**given["texts"])
    assert len(texts.prompts) == 5
    assert dataclasses.replace(texts, prompts=TextsConfig().prompts) == TextsConfig()
