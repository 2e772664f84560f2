"""Reference channels: the published running example, and channels planted in the records of a tiny model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.finished_run import make_run
from support.small_run import one_line, options, small
from support.tiny_models import Invoke

from harness.folder import RunFolder
from harness.records import Channel, Neuron, Sign, VectorKind, VectorSummary
from harness.results.reference_channels import found_channels, reference_channels
from harness.run.help import compose_config
from harness.run.setup import Setup

__all__ = ["small"]


def test_the_published_example_composes_with_its_values() -> None:
    setup = Setup.of(compose_config(["experiment=paper_example"]))
    published, *others = setup.reference_channels
    assert (str(published.neuron), published.kind, published.rank) == ("L18N9005", VectorKind.GATE, 0)
    assert published.tokens[:3] + published.tokens[-1:] == (" until", " Until", "until", " hasta")
    assert (published.vector_kurtosis, published.kurtosis, published.cosine) == (0.3, 86.6, 0.67)
    assert [(one.rank, one.kurtosis, one.cosine) for one in others] == [
        (1, 54.4, 0.68), (2, 88.0, 0.63), (3, 5.4, 0.82), (4, 77.3, 0.63),
    ]  # fmt: skip
    assert all("052ff6a" in one.source for one in setup.reference_channels)
    assert (setup.selection.layers, setup.selection.indices, setup.selection.kinds) == ((18,), (9005,), ("gate",))
    assert setup.subject.name == "gemma-2-2b-it"
    config = setup.decomposition.config(18, VectorKind.GATE)
    assert (config.objective, config.solver, config.num_channels) == ("published", "adamw", 50)
    assert config.mask_threshold == 4.0
    assert (config.kurtosis_weight, config.fidelity_weight) == (0.3, 1.0)
    assert not setup.compares  # no judge, no LLM


def test_a_tiny_run_shows_its_channels_next_to_the_reference(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    base = {name: value for name, value in small.items() if name.startswith(("subject", "decomp", "tracking"))}
    run = [
        "experiment=decompose_model",
        *options(base, folder="tiny", neurons__layers="[1]", neurons__kinds="[in]", neurons__per_layer="2"),
        *["diagnostics.sample=0", "diagnostics.random_vectors=0", "diagnostics.ablated=0"],
        # Channels are removed on text without describers, too.
        *["corpus=files", f"corpus.paths={small['corpus.paths']}", "evidence.max_documents=40"],
        *["diagnostics.text_ablated=1", "diagnostics.text_pieces=4", "diagnostics.text_tokens=16"],
    ]
    code, out, err = invoke(*run)
    assert code == 0, err
    assert "Published values, and this run" in out
    folder = RunFolder(tmp_path / "tiny")
    assert json.loads(folder.decomposition.read_text())["total"]["text_ablated"] == 1
    assert not folder.exemplars.exists()
    planted = folder.read_channels()[1]
    assert planted.rank == 1
    tokens = [token.token for token in planted.tokens[:4]]
    expected = {
        "neuron": str(planted.neuron),
        "kind": "in",
        "rank": 0,  # wrong: its tokens are those of the second channel
        "tokens": [*tokens[:3], "nothing of <b>this</b>"],
        "kurtosis": 84.3,
        "source": "<script>us</script>",
    }
    channels = {path: path.stat().st_mtime_ns for path in folder.channels.iterdir()}
    given = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in expected.items())
    code, out, err = invoke(*run, f"reference_channels=[{{{given}}}]")  # may be added to a finished run
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in channels} == channels
    words = " ".join(out.split())
    assert (
        f"{planted.neuron} in, channel 1; found as channel 2; top tokens overlap by 0.60 (Jaccard)" in words
    )  # 3 of 5
    lines = [line for line in out.splitlines() if line.startswith(("│ reference", "│ found"))]
    assert "84.3" in lines[0]
    assert f"{planted.kurtosis:.1f}".replace("-", "−") in lines[1]
    assert f"{planted.cosine:.2f}" in lines[1]
    page = folder.report.read_text()
    assert "Reference channels and the channels that the run found" in page
    assert "&lt;script&gt;us" in page
    assert "nothing of <b>" not in page


def test_the_channel_with_the_largest_overlap_of_tokens_is_found(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", neurons=2, channels=3, hostile=False)
    channels, vectors = folder.read_channels(), folder.read_vectors()
    own = [one for one in channels if (one.neuron, one.kind) == (channels[0].neuron, channels[0].kind)]
    third: Channel = dataclasses.replace(own[2], skewness=1.0)
    others = [dataclasses.replace(one, positive=own[0].positive[:1], negative=()) for one in own[:2]]
    entry = {"neuron": str(third.neuron), "kind": third.kind, "tokens": [t.token for t in third.positive]}
    (found,) = found_channels(reference_channels([entry]), [*others, third], vectors)
    assert (found.channel, found.jaccard) == (third, 1.0)
    vector: VectorSummary = next(v for v in vectors if (v.neuron, v.kind) == (third.neuron, third.kind))
    assert found.vector_kurtosis == vector.kurtosis
    # Without tokens to go by, and where none overlap, the rank decides.
    (found,) = found_channels(reference_channels([{**entry, "tokens": [], "rank": 1}]), own, vectors)
    assert (found.channel, found.jaccard) == (own[1], None)
    (found,) = found_channels(reference_channels([{**entry, "tokens": ["never"], "rank": 1}]), own, vectors)
    assert (found.channel, found.jaccard) == (own[1], 0.0)
    (found,) = found_channels(reference_channels([{**entry, "neuron": "L9N9"}]), own, vectors)
    assert (found.channel, found.jaccard, found.tokens, found.vector_kurtosis) == (None, None, (), None)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"neuron": "18/9005", "kind": "gate"},
            ["reference_channels.0.neuron", "'18/9005' is not the name of a neuron"],
        ),
        ({"neuron": "L1N1-", "kind": "in"}, ["reference_channels.0.neuron", "channels have no sign"]),
        ({"neuron": "L1N1", "kind": "sideways"}, ["reference_channels.0.kind", "gate"]),
        ({"neuron": "L1N1", "kind": "in", "kurtosi": 3}, ["reference_channels.0.kurtosi"]),
    ],
)
def test_an_invalid_entry_is_reported_in_one_line(entry: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ValueError, match="reference_channels") as caught:
        reference_channels([entry])
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_neuron_that_the_run_does_not_have_is_refused_at_the_start(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    code, _, err = invoke(*options(small, folder="no"), "reference_channels=[{neuron: L2N1, kind: in}]")
    assert code == 1
    assert one_line(err), err
    assert "the in vector of L2N1, which this run does not decompose" in err
    assert not (tmp_path / "no" / "channels").exists()


def test_names_of_neurons_come_back() -> None:
    for neuron in (Neuron(3, 17), Neuron(3, 17, 2), Neuron(0, 0, sign=Sign.NEGATIVE), Neuron(1, 2, 0, Sign.NEGATIVE)):
        assert Neuron.named(str(neuron)) == neuron
