"""Published values of the decomposition next to a run's: worked out by hand, and the experiment that compares them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.folder import RunFolder, write_json, write_table
from harness.records import AblatedChannels, Channel, Neuron, RandomVector, Restart, VectorKind, VectorSummary
from harness.report import print_decomposition
from harness.results.claims import EXAMPLE_CHANNELS, EXAMPLE_KURTOSIS, ClaimRow, claim_rows
from harness.results.diagnostics import diagnostics_groups
from harness.results.stored import store_decomposition
from harness.run.help import compose_config
from harness.run.setup import Setup
from harness.stats.bootstrap import clustered_median_interval

IN, OUT = VectorKind.IN, VectorKind.OUT


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Three neurons of two layers with `in` and `out` vectors; every vector has two channels."""
    run = RunFolder(tmp_path)
    write_json(run.manifest, {"subject": {"vocabulary": 1000}})
    for layer, index, kurtosis in ((0, 1, 10.0), (0, 2, 20.0), (3, 1, 60.0)):
        neuron = Neuron(layer, index)
        for kind in (IN, OUT):
            name = f"L{layer}N{index}-{kind}"
            found = [Channel(neuron, kind, rank, kurtosis / (1 + rank), 1.0, 0.6, -0.5, 5, (), ()) for rank in (0, 1)]
            write_table(run.channels / f"{name}.channels.parquet", found)
            summary = VectorSummary(neuron, kind, 1.0, 0.5, 0.0, (), (), (0.36, 0.81))
            write_table(run.channels / f"{name}.vectors.parquet", [summary])
    return run


def claims(run: RunFolder) -> dict[str, ClaimRow]:
    return {row.key: row for row in claim_rows(diagnostics_groups(run), run.read_manifest())}


def test_values_are_medians_and_means_over_vectors_with_intervals_over_neurons(folder: RunFolder) -> None:
    found = claims(folder)
    assert found["kurtosis_1"].value == 20.0
    assert found["kurtosis_2"].value == 10.0
    assert found["kurtosis_1"].vectors == 6
    assert found["kurtosis_1"].interval == (10.0, 60.0)  # three neurons: the median may be any of them
    assert found["kurtosis_3"].value is None
    assert (found["cosine_1"].value, found["cosine_1"].interval) == (0.6, (0.6, 0.6))
    assert found["masked_1"].value == 0.5  # 5 of 1,000 tokens, in percent
    assert found["masked_1"].published == "0.17 (439 of 256,000)"
    assert found["norm_in_span"].value == 0.9  # the root of 0.81
    assert "2 channels" in found["norm_in_span"].claim
    assert found["seeds_cosine"].value is None  # not measured
    assert found["faithful_logits"].value is None


def test_controls_are_those_of_random_vectors_and_of_channels_that_do_not_match(folder: RunFolder) -> None:
    drawn = RandomVector(0, IN, 0, 0.1, (8.0, 4.0), (0.5, 0.7), (-0.1, -0.2), (0.25, 0.49), (0.4, None), 0.3)
    shorter = RandomVector(0, OUT, 0, 0.3, (6.0,), (0.5,), (-0.1,), (0.25,))
    write_table(folder.diagnostics / "a.random.parquet", [drawn])
    write_table(folder.diagnostics / "b.random.parquet", [shorter])
    restarts = [Restart(Neuron(0, 1), kind, 1, (1.0, 0.8), (0.5, 0.3), 0.2) for kind in (IN, OUT)]
    write_table(folder.diagnostics / "a.restarts.parquet", restarts)
    ablated = AblatedChannels(Neuron(3, 1), IN, (0.9, None), (0.5, 0.7), (0.36, 0.64), 0.8, 0.7)
    write_table(folder.diagnostics / "a.ablations.parquet", [ablated])
    found = claims(folder)
    assert found["vector_kurtosis"].control == 0.2
    assert found["kurtosis_1"].control == 7.0
    assert found["kurtosis_2"].control == 4.0
    assert found["norm_in_span"].control == 0.7  # only the vector with as many channels
    assert (found["seeds_cosine"].value, found["seeds_cosine"].control) == (0.9, 0.2)
    assert (found["seeds_cosine"].vectors, found["seeds_cosine"].interval) == (2, None)  # of one neuron
    assert (found["seeds_jaccard"].value, found["seeds_jaccard"].published) == (0.4, "about 0.8")
    assert (found["faithful"].value, found["faithful"].control) == (0.9, 0.4)
    assert (found["complete"].value, found["complete"].control) == (0.8, 0.3)


def test_file_and_terminal_show_the_table_with_its_sources(folder: RunFolder) -> None:
    store_decomposition(folder)
    text = folder.claims_markdown.read_text()
    assert "| excess kurtosis of channel 1, median | 86.6 | 20 | 10 to 60 | 6 | – |  |" in text
    assert "commit 052ff6a" in text
    assert "the sources disagree" in text
    shown = io.StringIO()
    print_decomposition(folder, Console(file=shown, width=80))
    lines = [line for line in shown.getvalue().splitlines() if "86.6" in line]
    assert any("excess" in line for line in lines)  # the claim keeps its column in a narrow terminal


def test_the_interval_of_a_median_resamples_clusters() -> None:
    # Every cluster has two equal values: the interval is that of the clusters, and wider than that of 2 n values.
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    twice, clusters = np.repeat(values, 2), np.repeat(np.arange(60), 2)
    low, high = clustered_median_interval(twice, clusters, seed=0) or (0, 0)
    assert (low, high) == clustered_median_interval(values, np.arange(60), seed=0)
    narrow = clustered_median_interval(twice, np.arange(120), seed=0) or (0, 0)
    assert low < np.median(values) < high
    assert high - low > narrow[1] - narrow[0]
    # Normal theory: the median of 60 has a standard error of 1.2533 / sqrt(60) = 0.16.
    assert 0.4 < high - low < 1.0
    assert clustered_median_interval(values[:1], [0], seed=0) is None


def test_intervals_of_medians_hold_the_median_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        shared = rng.normal(size=25)  # what the three vectors of a neuron share
        values = (shared[:, None] + 0.3 * rng.normal(size=(25, 3))).ravel()
        low, high = clustered_median_interval(values, np.repeat(np.arange(25), 3), seed=0, draws=300) or (0, 0)
        held += low <= 0 <= high
    assert 0.9 <= held / 200 <= 0.995


def test_the_running_example_is_that_of_the_paper_experiment() -> None:
    channels = Setup.of(compose_config(["experiment=paper_example"])).reference_channels
    assert channels[0].vector_kurtosis == EXAMPLE_KURTOSIS
    assert [(one.kurtosis, one.cosine) for one in channels] == [one[:2] for one in EXAMPLE_CHANNELS]


@pytest.mark.parametrize(
    ("model", "layers", "settings"),
    [
        ("gemma2_2b", [4, 11, 18], {(4, OUT): (50, 4.0, 2e-3), (11, OUT): (50, 4.0, 8e-4)}),
        (
            "llama31_8b",
            [8, 12, 16, 22, 26],
            {(8, IN): (30, 6.0, 8e-4), (22, IN): (50, 8.0, 2e-3), (12, IN): (50, 6.0, 8e-4)},
        ),
    ],
)
def test_the_published_models_compose(
    model: str, layers: list[int], settings: dict[tuple[int, VectorKind], tuple[int, float, float]]
) -> None:
    subject = {"gemma2_2b": "gemma2_2b_it", "llama31_8b": "llama31_8b_instruct"}[model]
    overrides = [f"subject={subject}", f"neurons=paper_{model}", f"decomposition=paper_{model}"]
    setup = Setup.of(compose_config(["experiment=reproduce", *overrides]))
    assert list(setup.selection.layers or ()) == layers
    assert len(setup.selection.indices or ()) in (99, 100)
    assert setup.selection.per_layer is None
    assert not setup.compares
    assert setup.diagnostics.text_ablated > 0
    for (layer, kind), wanted in settings.items():
        config = setup.decomposition.config(layer, kind)
        assert (config.solver, config.objective) == ("adamw", "published")
        assert (config.num_channels, config.mask_threshold, config.adamw.learning_rate) == wanted


def test_the_default_is_smollm2_at_three_depths() -> None:
    setup = Setup.of(compose_config(["experiment=reproduce"]))
    assert setup.subject.name == "SmolLM2-135M-Instruct"
    assert setup.selection.layers == (0, 15, 29)
    assert setup.decomposition.config(15, VectorKind.GATE).num_channels == 50
