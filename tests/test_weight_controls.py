"""Controls that describe other directions than the channels of a neuron, to show what the rotation adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import tiny_models
from support.describer_cases import case, channel, describe, failure, saying, shown_tokens
from support.small_run import options
from support.tiny_models import Invoke
from torch.nn.functional import cosine_similarity

from describers.rotate import Rotate
from describers.weight_controls import RandomDirections, RawTokens, RotateRandom
from harness.decomposition import directions_at_cosine
from harness.folder import RunFolder
from harness.records import Channel, Neuron, Side, Status, VectorKind
from harness.subject import Subject

NEURON = Neuron(1, 5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.tiny_subject(folder, "llama")
    return Subject("tiny-llama", [str(folder)])


def test_raw_tokens_are_both_ends_of_every_vector(tiny: Subject) -> None:
    describer = RawTokens(kinds=list(VectorKind), channels=3, tokens=4)
    given = case(subject=tiny, neuron=NEURON)
    draft = describe(describer, given)
    assert draft.tokens is not None
    assert draft.detail == "tokens of 6 ends of whole vectors"
    assert draft.evidence.tokens == 3 * 3 * 4  # as many as rotate shows of three channels of each vector
    for kind, up, down in (
        (VectorKind.IN, draft.tokens.activating, draft.tokens.silencing),
        (VectorKind.OUT, draft.tokens.promoted, draft.tokens.suppressed),
    ):
        high, low = tiny.vocabulary_tokens(NEURON, kind, 1)
        assert high[0].token.strip().lower() in up
        assert low[0].token.strip().lower() in down
    llm = saying(*"123456", "all")
    describe(describer, case(subject=tiny, neuron=NEURON, llm=llm))
    assert [len(shown_tokens(request.text)) for request in llm.requests] == [6 + 3] * 6 + [0]


def test_random_directions_have_the_given_cosines() -> None:
    vector, cosines = torch.arange(1.0, 9.0), [0.9, 0.5, -0.2]
    drawn = directions_at_cosine(vector, cosines, seed=1)
    assert cosine_similarity(drawn, vector[None]).tolist() == pytest.approx(cosines, abs=1e-5)
    assert drawn.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_random_directions_take_the_place_of_each_channel(tiny: Subject) -> None:
    channels = [Channel(NEURON, VectorKind.IN, rank, 9.0, 2.0, 0.7, 0.0, 1, (), ()) for rank in range(3)]
    given = case(subject=tiny, neuron=NEURON, channels=channels)
    first, again = describe(RandomDirections(), given), describe(RandomDirections(), given)
    assert first == again
    assert first.detail == "tokens of 3 random directions"
    assert failure(RandomDirections(), case(subject=tiny, neuron=NEURON)).status is Status.FAILED


def test_rotate_random_describes_the_channels_of_random_vectors_as_rotate_does() -> None:
    own, other = channel(0, ["own"]), channel(0, ["random", "vector"])
    draft = describe(RotateRandom(), case(channels=[own], random_channels=[other]))
    assert draft.text == describe(Rotate(), case(channels=[other])).text == "random, vector"
    assert draft.steps == ("in random channel 1, activated by: random, vector",)


def test_the_controls_compete_in_a_run(invoke: Invoke, small: dict[str, str], tmp_path: Path) -> None:
    names = ["rotate", "vocab_proj", "raw_tokens", "random_directions", "rotate_random", "shuffled"]
    command = options(
        small,
        describers=f"[{','.join(names)}]",
        judges="[token_pairwise,token_simulation,token_output]",
        neurons__kinds="[gate,in,out]",
        diagnostics__ablated="0",
        diagnostics__sample="0",
        diagnostics__random_vectors="0",
        steering__effects__prompts="2",
        steering__effects__tokens="8",
        steering__effects__sampled_tokens="60",
        folder="controls",
    )
    command += [f"+comparisons.layers.{judge}=[0]" for judge in ("token_pairwise", "token_simulation")]
    command.append("+comparisons.layers.token_output=[1]")
    code, out, err = invoke(*command)
    assert code == 0, err
    assert "Judge token_output (output side)" in out
    assert "Judge token_pairwise (input side)" in out
    run = RunFolder(tmp_path / "controls")
    made = {(item.describer, item.neuron): item for item in run.descriptions().records()}
    assert {name for name, _ in made} == set(names)
    assert all(item.status is Status.OK for item in made.values())
    assert len({item.evidence for (name, _), item in made.items() if name not in ("vocab_proj",)}) == 1
    entries = run.read_manifest()["contestants"]
    assert [name for name in names if entries[name]["control"]] == names[2:]
    assert [name for name in names if entries[name]["informed"]] == names[2:4]
    verdicts = run.verdicts().records()
    assert {(item.judge, item.side, item.neuron.layer) for item in verdicts} == {
        ("token_pairwise", Side.INPUT, 0),
        ("token_output", Side.OUTPUT, 1),
    }
    assert {item.neuron.layer for item in run.scores().records()} == {0}
    random, found = run.read(Channel), run.read_channels()
    assert [(one.neuron, one.kind, one.rank) for one in random] == [(one.neuron, one.kind, one.rank) for one in found]
    assert all(one.tokens != other.tokens for one, other in zip(random, found, strict=True))
    assert min(one.cosine for one in random) > 0.2
    # Run again with another describer: the random channels come from the store, and are the same.
    assert invoke(*command, "folder=again")[0] == 0
    assert RunFolder(tmp_path / "again").read(Channel) == random
    board = json.loads((tmp_path / "controls" / "leaderboard.json").read_text())
    assert {one["judge"]: one["side"] for one in board["judges"]} == {
        "token_pairwise": "input",
        "token_output": "output",
    }
    # Each board counts the neurons that its own judge compared.
    tables = (tmp_path / "controls" / "leaderboard.md").read_text().replace("\\_", "_")
    for judge in ("token_pairwise", "token_output"):
        neurons = {item.neuron.unsigned for item in verdicts if item.judge == judge}
        assert len(neurons) < len({item.neuron.unsigned for item in verdicts})
        assert f"{len(neurons)} neurons, judged by {judge}." in tables


def test_layers_of_judges_are_checked(invoke: Invoke, small: dict[str, str]) -> None:
    chosen = options(small, describers="[rotate,generic]", judges="[own_words]")
    code, _, err = invoke(*chosen, "+comparisons.layers.nobody=[0]", "+comparisons.layers.own_words=[7]")
    assert code == 1
    *warned, refused = err.splitlines()
    assert "comparisons.layers names the judge nobody, which is not in this run (own_words)" in "".join(warned)
    assert "comparisons.layers.own_words names layer 7, of which this run has no neuron" in refused
