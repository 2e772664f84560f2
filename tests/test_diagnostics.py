"""Diagnostics of a decomposition: agreement of two starts, ablations, and the difference from random vectors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from support.tiny_models import Invoke, tiny_subject
from torch import Tensor

from harness.decomposition import (
    DecompositionConfig,
    GeodesicConfig,
    ablation,
    consistency,
    decompose,
    random_vectors,
    reconstruction,
)
from harness.folder import RunFolder, write_table
from harness.records import AblatedChannels, Channel, Neuron, RandomVector, Restart, VectorKind, VectorSummary
from harness.results.diagnostics import chance_below, diagnostics_groups, diagnostics_json, diagnostics_row, share_below


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10**6), st.integers(1, 7))
def test_the_same_channels_in_another_order_are_found_again(seed: int, channels: int) -> None:
    first, projection = normal(seed, 2, channels, 9), normal(seed + 1, 9, 60)
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    lengths = 0.5 + torch.rand(2, channels, 1, dtype=torch.float64)
    found = consistency(first, (lengths * first)[:, order], projection, top_tokens=5)
    assert torch.equal(order[found.partner], torch.arange(channels).expand(2, -1))
    torch.testing.assert_close(found.cosine, torch.ones(2, channels, dtype=torch.float64))
    torch.testing.assert_close(found.jaccard, torch.ones(2, channels, dtype=torch.float64))


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_no_two_channels_would_rather_have_each_other(seed: int, channels: int) -> None:
    first, second = normal(seed, 3, channels, 4), normal(seed + 1, 3, channels, 4)
    found = consistency(first, second, normal(seed + 2, 4, 30), top_tokens=3)
    cosines = torch.nn.functional.cosine_similarity(first.unsqueeze(2), second.unsqueeze(1), dim=-1)
    for row in range(3):
        partner = found.partner[row].tolist()
        assert sorted(partner) == list(range(channels))
        theirs = {column: cosines[row, ours, column] for ours, column in enumerate(partner)}
        for ours, column in itertools.product(range(channels), repeat=2):
            assert not (
                cosines[row, ours, column] > found.cosine[row, ours] + 1e-9
                and cosines[row, ours, column] > theirs[column] + 1e-9
            )
        together = cosines[row].sum()
        if channels > 1:
            others = (together - found.cosine[row].sum()) / (channels**2 - channels)
            torch.testing.assert_close(found.apart[row], others)
        else:
            assert found.apart[row].isnan()


def test_agreement_by_hand() -> None:
    # Two channels in a plane: the second decomposition has them turned by 30 and by 60 degrees, in the other order.
    def at(*degrees: float) -> Tensor:
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1).unsqueeze(0)

    # Tokens 0 to 3 lie far along the first axis, 4 to 7 far along the second's negative end, the rest near 0.
    projection = torch.zeros(2, 40, dtype=torch.float64)
    projection[0, :4] = torch.tensor([9.0, 8.0, 7.0, 6.0])
    projection[1, 4:8] = torch.tensor([-9.0, -8.0, -7.0, -6.0])
    found = consistency(at(0, 90), at(150, 30), projection, top_tokens=4)
    # Turned by 30 degrees each: 0 -> 30 at cos 30; 90 -> 150 is left, at cos 60.
    assert found.partner.tolist() == [[1, 0]]
    torch.testing.assert_close(found.cosine, torch.tensor([[math.sqrt(3) / 2, 0.5]], dtype=torch.float64))
    # The others: 0 -> 150 (cos 150) and 90 -> 30 (cos 60).
    torch.testing.assert_close(found.apart, torch.tensor([(0.5 - math.sqrt(3) / 2) / 2], dtype=torch.float64))
    # At 0 and 30 degrees the upper tail holds tokens 0 to 3; at 90 the lower one tokens 4 to 7, at 150 tokens 0 to 3.
    assert found.jaccard.tolist() == [[1.0, 0.0]]
    # Of three tokens of each, the channels at 0 and 30 degrees share all; leaving out token 0 changes nothing of that.
    some = torch.ones(40, dtype=torch.bool)
    some[0] = False
    assert consistency(at(0), at(30), projection, top_tokens=3, tokens=some).jaccard.tolist() == [[1.0]]
    # At 90 and 120 degrees: {4, 5, 6, 7} and {4, 5, 6, 0}, since -9 sin 120 = -7.8, ..., -5.2 and 9 cos 120 = -4.5.
    near = consistency(at(90), at(125), projection, top_tokens=4)
    # sin 125 = 0.819: -7.4, -6.6, -5.7, -4.9; cos 125 = -0.574: -5.2, -4.6: tokens 4, 5, 6 and 0. 3 of 5 are shared.
    torch.testing.assert_close(near.jaccard, torch.tensor([[0.6]], dtype=torch.float64))


def test_two_starts_find_the_planted_channels_and_no_start_beside_the_vector_the_very_same() -> None:
    generator = torch.Generator().manual_seed(11)
    concepts = torch.linalg.qr(torch.randn(64, 4, generator=generator)).Q.T
    columns = torch.randn(64, 900, generator=generator) / 8
    columns[:, :40] = 0.9 * concepts.repeat_interleave(10, dim=0).T + 0.4 * columns[:, :40]
    vectors = concepts[0:1] + 0.9 * concepts[1:2] + 0.8 * concepts[2:3]
    start = decompose(vectors, columns, config=DecompositionConfig(num_channels=3))
    for jitter, least in ((0.0, 1 - 1e-6), (0.2, 0.99)):
        config = DecompositionConfig(num_channels=3, seed=5, geodesic=GeodesicConfig(jitter=jitter))
        again = decompose(vectors, columns, config=config)
        found = consistency(start.directions, again.directions, columns, top_tokens=10)
        assert found.cosine.min() > least
        assert found.jaccard.min() > 0.8
        assert found.apart.max() < 0.8  # the concepts are orthogonal; only the vector is common


@pytest.mark.parametrize(
    ("first", "second", "tokens", "message"),
    [
        ((2, 3, 4), (2, 2, 4), 5, r"both be \(N, C, d_model\), not \(2, 3, 4\) and \(2, 2, 4\)"),
        ((2, 3, 5), (2, 3, 5), 5, r"projection must be .*, not \(4, 9\)"),
        ((2, 3, 4), (2, 3, 4), 10, r"top_tokens must be from 1 to the number of tokens, 9, not 10"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: tuple[int, ...], second: tuple[int, ...], tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        consistency(torch.ones(first), torch.ones(second), torch.ones(4, 9), top_tokens=tokens)


@given(st.integers(0, 10**6), st.booleans())
def test_random_vectors_have_the_norms_of_the_population_and_one_seed(seed: int, covariance: bool) -> None:
    population = normal(seed, 5, 3) + 1
    drawn = random_vectors(population, 11, seed=seed, covariance=covariance)
    norms = population.norm(dim=1)
    assert drawn.shape == (11, 3)
    assert all(torch.isclose(norm, norms).any() for norm in drawn.norm(dim=1))
    assert torch.equal(drawn, random_vectors(population, 11, seed=seed, covariance=covariance))
    assert not torch.equal(drawn, random_vectors(population, 11, seed=seed + 1, covariance=covariance))


def test_random_vectors_point_where_a_gaussian_of_the_population_does() -> None:
    population = normal(0, 400, 3) @ torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 0.2]]).double() + normal(1, 3)
    gaussian = torch.distributions.MultivariateNormal(population.mean(0), population.T.cov(correction=0))
    torch.manual_seed(2)
    expected = torch.nn.functional.normalize(gaussian.sample(torch.Size([40_000])), dim=1)
    drawn = torch.nn.functional.normalize(random_vectors(population, 40_000, seed=3), dim=1)
    torch.testing.assert_close(drawn.mean(0), expected.mean(0), atol=0.015, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), expected.T.cov(), atol=0.015, rtol=0)
    even = torch.nn.functional.normalize(random_vectors(population, 40_000, seed=3, covariance=False), dim=1)
    torch.testing.assert_close(even.mean(0), torch.zeros(3).double(), atol=0.015, rtol=0)
    torch.testing.assert_close(even.T.cov(), torch.eye(3).double() / 3, atol=0.015, rtol=0)


def test_neurons_made_of_concepts_lie_below_blends_of_their_layer() -> None:
    generator = torch.Generator().manual_seed(4)
    concepts = torch.nn.functional.normalize(torch.randn(40, 48, generator=generator), dim=1)
    columns = torch.randn(48, 1200, generator=generator) / 7
    columns[:, :400] = 0.9 * concepts.repeat_interleave(10, dim=0).T + 0.4 * columns[:, :400]
    layer = concepts + 0.5 * concepts.roll(7, dims=0) + 0.02 * torch.randn(40, 48, generator=generator)
    config = DecompositionConfig(num_channels=1)
    neurons = decompose(layer, columns, config=config).loss[:, 0].numpy()
    blends = decompose(random_vectors(layer, 40, seed=0), columns, config=config).loss[:, 0].numpy()
    assert chance_below(neurons, blends) > 0.95
    assert share_below(neurons, blends) > 0.8


def test_the_span_of_directions_at_one_angle_is_known_in_closed_form() -> None:
    # Directions cos(t) w + sin(t) p with orthogonal p leave 1 / (1 + C cot(t)^2) of |w|^2: why a high share is cheap.
    angle, basis = math.acos(0.7), torch.eye(60, dtype=torch.float64)
    directions = math.cos(angle) * basis[0] + math.sin(angle) * basis[1:51]
    shares = reconstruction(3 * basis[:1], directions.unsqueeze(0))
    expected = 1 - 1 / (1 + torch.arange(1, 51).double() / math.tan(angle) ** 2)
    torch.testing.assert_close(shares[0], expected)
    assert 0.979 < shares[0, -1] < 0.980


def skewed(axis: int, width: int, count: int = 4) -> Tensor:
    """Tokens along an axis, (width, 4 * count): the first ``count`` far out, the others as far in sum on its back."""
    columns = torch.zeros(width, 4 * count)
    columns[axis, :count], columns[axis, count:] = 3.0, -1.0
    return columns


def test_ablation_by_hand() -> None:
    # Two concepts at right angles, the vector 0.8 of one and 0.6 of the other; the vocabulary's mean is zero.
    projection = torch.cat([skewed(0, 3), skewed(1, 3), torch.zeros(3, 8)], dim=1)
    vectors = torch.tensor([[0.8, 0.6, 0.0], [0.8, -0.6, 0.0]]) * 5
    axes = torch.eye(3)
    directions = torch.stack([torch.stack([axes[0], 2 * axes[1]]), torch.stack([axes[0], vectors[1]])])
    found = ablation(vectors, directions, projection, top_tokens=4)
    # The concepts' own axes take all of their tokens, and nothing of the other's.
    assert found.faithful[0].tolist() == pytest.approx([1, 1])
    assert found.kept[0].tolist() == pytest.approx([1, 1])
    assert found.chance.flatten().tolist() == pytest.approx([0.64, 0.36, 0.64, 1.0], abs=1e-5)
    assert found.complete.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert float(found.complete_chance[0]) == pytest.approx(1 - 1 / (1 + 0.64 / 0.36 + 0.36 / 0.64))
    # The vector as its own channel: its tail holds the first concept's tokens too (2.4 beyond 0.6), so both channels
    # have the same tokens, and no other is left to keep.
    assert found.faithful[1].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert found.kept[1].isnan().all()
    # A channel between the two concepts, at 45 degrees, takes (0.8 + 0.6) / 2 of both: of the response 0.8 * 3 stays
    # 0.1 * 3, of 0.6 * 3 nothing. Its own tokens are those of both.
    between = (axes[0] + axes[1]).expand(1, 1, 3)
    half = ablation(vectors[:1], between, projection, top_tokens=8)
    assert half.faithful.item() == pytest.approx(1 - 0.1 / (0.8 + 0.6))
    assert half.kept.isnan().all()
    strongest = ablation(vectors[:1], between, projection, top_tokens=4)
    assert strongest.complete.item() == pytest.approx(1 - 0.1 / 0.8)  # the first concept's tokens
    # Tokens that may not count are passed over: without the first, three are left far out.
    some = torch.ones(projection.shape[1], dtype=torch.bool)
    some[0] = False
    # The mean of the other 39 is -3 / 39 along the first concept. So the second concept's tokens have a response of
    # 0.8 / 13 beside 0.6 * 3, which removing the second concept does not touch.
    left = 0.8 / 13
    passed_over = ablation(vectors[:1], directions[:1], projection, top_tokens=3, tokens=some)
    assert passed_over.faithful[0].tolist() == pytest.approx([1, 1 - left / (0.6 * 3 + left)])


def test_what_a_channel_does_not_touch_is_kept() -> None:
    projection = torch.cat([skewed(axis, 4) for axis in range(4)], dim=1)
    vector, axes = torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.eye(4)
    # Channels lean on the vector: removing one takes cos^2 of everything, and of its own tokens more.
    leaning = torch.nn.functional.normalize(axes + 0.5 * vector, dim=1).unsqueeze(0)
    found = ablation(vector, leaning, projection, top_tokens=4)
    length = (1.25**2 + 3 * 0.25**2) ** 0.5
    along = (0.5 * 1.25 + 3 * 0.5 * 0.25) / length
    assert found.chance.flatten().tolist() == pytest.approx([along**2] * 4)
    assert found.faithful.flatten().tolist() == pytest.approx([min(1.0, along * 1.25 / length / 0.5)] * 4)
    assert found.kept.flatten().tolist() == pytest.approx([1 - along * 0.25 / length / 0.5] * 4)
    assert (found.faithful > found.chance).all()
    assert (found.kept > 1 - found.chance).all()


def test_random_directions_are_complete_as_chance_says() -> None:
    width, count, cosine = 1500, 30, 0.3
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(12, width, generator=generator), dim=1)
    noise = torch.randn(12, count, width, generator=generator)
    noise -= (noise @ vectors.unsqueeze(2)) * vectors.unsqueeze(1)
    directions = cosine * vectors.unsqueeze(1) + (1 - cosine**2) ** 0.5 * torch.nn.functional.normalize(noise, dim=2)
    found = ablation(vectors, directions, torch.randn(width, 4000, generator=generator), top_tokens=20)
    assert found.complete_chance.tolist() == pytest.approx([1 - 1 / (1 + count * 0.09 / 0.91)] * 12, abs=1e-4)
    assert found.complete.mean().item() == pytest.approx(found.complete_chance.mean().item(), abs=0.03)
    assert found.kept.nanmean().item() == pytest.approx(1 - cosine**2, abs=0.05)


@pytest.mark.parametrize(
    ("vectors", "directions", "tokens", "message"),
    [
        ((2, 4), (3, 2, 4), 5, r"must be \(N, C, d_model\) for vectors"),
        ((2, 4), (2, 4), 5, r"must be \(N, C, d_model\) for vectors"),
        ((2, 4), (2, 3, 4), 10, r"top_tokens must be from 1 to the number of tokens, 9, not 10"),
    ],
)
def test_what_cannot_be_ablated_is_refused(
    vectors: tuple[int, ...], directions: tuple[int, ...], tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ablation(torch.ones(vectors), torch.ones(directions), torch.ones(4, 9), top_tokens=tokens)


floats = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@given(floats, floats)
@settings(max_examples=50)
def test_the_chance_to_lie_below_is_the_area_under_the_curve(values: list[float], baseline: list[float]) -> None:
    labels, scores = [1] * len(values) + [0] * len(baseline), [-item for item in values + baseline]
    expected = roc_auc_score(labels, scores)
    assert chance_below(np.array(values), np.array(baseline)) == pytest.approx(expected)


def test_share_below_by_hand() -> None:
    baseline = np.arange(101.0)  # its 5 % quantile is 5
    assert share_below(np.array([4.0, 4.9, 5.0, 80.0]), baseline) == 0.5


def test_figures_of_a_layer_by_hand(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert diagnostics_groups(folder) == ()
    # Two blocks of layer 2 `in`, the later neuron first; the second vector has one channel only.
    figures = {
        9: (0.5, [(30.0, 4.0, 0.6, -0.8), (20.0, -3.0, 0.8, -0.4)], (0.36, 0.7)),
        4: (-0.1, [(10.0, -1.0, 0.5, -0.2)], (0.25,)),
    }
    for block, (index, (kurtosis, channels, shares)) in enumerate(figures.items()):
        neuron = Neuron(2, index)
        records = [Channel(neuron, VectorKind.IN, rank, *four, 7, (), ()) for rank, four in enumerate(channels)]
        write_table(folder.channels / f"b{block}.channels.parquet", records)
        summary = VectorSummary(neuron, VectorKind.IN, 1.0, kurtosis, 0.0, (), (), shares)
        write_table(folder.channels / f"b{block}.vectors.parquet", [summary])
    again = Restart(Neuron(2, 9), VectorKind.IN, 1, (1.0, 0.8), (0.5, 0.25), 0.3)
    write_table(folder.diagnostics / "a.restarts.parquet", [again])
    drawn = [
        RandomVector(2, VectorKind.IN, place, 0.0, (12.0,), (0.6,), (loss,), (0.3,), (0.5 - loss, None), 0.7 - loss)
        for place, loss in enumerate((-0.1, -0.3, -0.5))
    ]
    write_table(folder.diagnostics / "a.random.parquet", drawn)

    ablated = AblatedChannels(Neuron(2, 9), VectorKind.IN, (0.9, None), (0.5, 0.7), (0.36, 0.64), 0.8, 0.7)
    write_table(folder.diagnostics / "a.ablations.parquet", [ablated])

    (group,) = diagnostics_groups(folder)
    assert group.ablations == (ablated,)
    assert group.vector_kurtosis.tolist() == [-0.1, 0.5]
    assert group.reconstruction.tolist() == [[0.25, 0.25], [0.36, 0.7]]
    row = diagnostics_row(group)
    assert (row.layer, row.kind, row.vectors, row.channels, row.again, row.random) == (2, VectorKind.IN, 2, 2, 1, 3)
    assert (row.vector_kurtosis, row.first_kurtosis, row.random_first_kurtosis) == (0.2, 20.0, 12.0)
    assert row.first_cosine == 0.55
    assert row.cosine == pytest.approx((0.6 + 0.8 + 0.5) / 3, abs=1e-5)
    assert row.reconstruction == 0.475
    assert row.positive == pytest.approx(1 / 3, abs=1e-5)
    assert (row.consistency, row.jaccard, row.apart) == (0.9, 0.375, 0.3)
    assert (row.first_loss, row.random_first_loss) == (-0.5, -0.3)
    assert (row.ablated, row.faithful, row.faithful_chance, row.kept) == (1, 0.9, 0.5, 0.6)
    assert (row.complete, row.complete_chance) == (0.8, 0.7)
    assert (row.random_faithful, row.random_complete) == (0.8, 1.0)
    # Neuron 9 (-0.8) lies below all three, neuron 4 (-0.2) below one of them.
    assert row.chance_below == pytest.approx(4 / 6)
    assert row.below == 0.5  # the 5 % quantile lies between -0.5 and -0.48
    assert diagnostics_json([group])["rows"][0]["kind"] == "in"


def test_neurons_of_experts_stand_beside_those_of_dense_layers_in_the_figures(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    # The same index in two experts, and in the expert that all tokens share.
    neurons = [Neuron(1, 5, expert) for expert in (None, 0, 3)]
    for block, some in enumerate(([neurons[2], neurons[0]], [neurons[1]], [Neuron(0, 5)])):
        vectors = [VectorSummary(n, VectorKind.OUT, 1.0, _number(n), 0.0, (), (), (0.5,)) for n in some]
        write_table(folder.channels / f"b{block}.vectors.parquet", vectors)
        channels = [Channel(n, VectorKind.OUT, 0, 10 + _number(n), 1.0, 0.5, -0.1, 3, (), ()) for n in some]
        write_table(folder.channels / f"b{block}.channels.parquet", channels)
    dense, mixture = diagnostics_groups(folder)
    assert dense.vector_kurtosis.tolist() == [1.0]
    assert mixture.vector_kurtosis.tolist() == [1.0, 2.0, 5.0]
    assert mixture.kurtosis[:, 0].tolist() == [11.0, 12.0, 15.0]
    total = diagnostics_json([dense, mixture])["total"]
    assert (total["layer"], total["vectors"], total["found"], total["first_kurtosis"]) == (None, 4, 4, 11.5)
    assert diagnostics_json([]) == {"rows": [], "total": None}


def _number(neuron: Neuron) -> float:
    return 1.0 if neuron.expert is None else 2.0 + neuron.expert


def test_random_vectors_that_do_not_respond_to_their_channels(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A solver that returns opposite vectors: what is lost without a channel is then undefined, and no damage."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "opposites.py").write_text(
        "def opposite(vectors, projection, token_weights, config):\n    return -vectors[:, None]\n"
    )
    tiny_subject(tmp_path / "llama", "llama")
    code, _, err = invoke(
        *("experiment=decompose_model", "subject=local", f"subject.sources=[{tmp_path / 'llama'}]", "tracking=none"),
        *("neurons.layers=[1]", "neurons.kinds=[in]", "neurons.per_layer=1", "decomposition.num_channels=1"),
        *("decomposition.solver=opposites.opposite", "storage.store=null", "folder=run"),
        *("diagnostics.sample=0", "diagnostics.random_vectors=2", "diagnostics.ablated=1"),
    )
    assert code == 0, err
    assert [item.faithful for item in RunFolder(tmp_path / "run").read(RandomVector)] == [(None,), (None,)]
