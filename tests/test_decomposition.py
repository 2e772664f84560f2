"""ROTATE: recovers planted concepts, and its closed forms, solvers, memory limits and errors are correct."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.decomposition import (
    AdamWConfig,
    DecompositionConfig,
    GeodesicConfig,
    decompose,
    kurtosis,
    reconstruction,
    skewness,
    tail_mask,
    vectors_within,
    z_scores,
)
from harness.decomposition import vocabulary as passes
from harness.decomposition.deflation import deflate, subtract
from harness.decomposition.great_circle import GreatCircle
from harness.decomposition.memory import slots_within
from harness.decomposition.objective import Objective, central_moments, centred, kurtosis_gradient, mean
from harness.decomposition.vocabulary import Vocabulary
from harness.validation import explain

CONCEPTS, TOKENS_PER_CONCEPT = 6, 12
# The published search with fewer steps: a planted concept needs far fewer than a real neuron.
QUICK_ADAMW = AdamWConfig(learning_rate=2e-2, max_steps=500, convergence_min_steps=200)


def vocabulary(d_model: int = 96, tokens: int = 1500) -> tuple[Tensor, Tensor]:
    """Return concepts and a random vocabulary (d_model, V) of unit columns; token i < 72 belongs to concept i // 12."""
    generator = torch.Generator().manual_seed(11)
    concepts = torch.linalg.qr(torch.randn(d_model, CONCEPTS, generator=generator)).Q.T
    columns = torch.randn(d_model, tokens, generator=generator) / math.sqrt(d_model)
    members = torch.arange(CONCEPTS * TOKENS_PER_CONCEPT)
    columns[:, members] = 0.9 * concepts[members // TOKENS_PER_CONCEPT].T + 0.4 * columns[:, members]
    return concepts, columns / columns.norm(dim=0)


def random_problem(seed: int, neurons: int = 3, d_model: int = 8, tokens: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors, projection and token weights in float64, heavy-tailed and off-centre like real ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    projection = normal(d_model, tokens) * torch.exp(normal(tokens)) + normal(d_model, 1)
    return normal(neurons, d_model), projection, torch.rand(neurons, tokens, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["geodesic", "adamw"])
def test_channels_are_the_concepts_mixed_into_a_neuron(solver: str) -> None:
    concepts, projection = vocabulary()
    recipes = [{0: 1.0, 1: 0.8, 2: 0.7}, {3: 1.0, 4: -0.9, 5: 0.7}]
    noise = torch.randn(2, concepts.shape[1], generator=torch.Generator().manual_seed(5))
    vectors = torch.stack([sum(share * concepts[i] for i, share in recipe.items()) for recipe in recipes])  # type: ignore[misc]
    vectors = 3.0 * (vectors + 0.02 * noise)
    config = DecompositionConfig(num_channels=3, solver=solver, adamw=QUICK_ADAMW)  # type: ignore[arg-type]

    found = decompose(vectors, projection, config=config)

    for recipe, directions, skews in zip(recipes, found.directions, found.skewness, strict=True):
        seen = {}
        for direction, skew in zip(directions, skews, strict=True):
            scores = (direction @ projection) * torch.sign(skew)
            top = scores.topk(TOKENS_PER_CONCEPT).indices // TOKENS_PER_CONCEPT
            assert len(top.unique()) == 1, "the channel's top tokens are of more than one concept"
            seen[int(top[0])] = float(torch.sign(skew))
        assert seen == {concept: math.copysign(1.0, share) for concept, share in recipe.items()}
    assert (found.kurtosis > 1.5 * kurtosis(vectors @ projection).unsqueeze(-1)).all(), "channels are sparser than w"
    assert (found.masked_tokens >= TOKENS_PER_CONCEPT).all()
    assert reconstruction(vectors, found.directions)[:, -1].min() > 0.9
    assert found.steps.shape == (2, 3)
    assert (found.steps >= 1).all()


def gradient_of(objective: Objective, directions: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of ``objective.loss`` with respect to ``directions`` in closed form, (N, d_model)."""
    projected = directions @ objective.projection
    moments = central_moments(projected, weights)
    by_token = kurtosis_gradient(centred(projected, weights), moments, weights.sum(dim=-1)) * weights
    pull = by_token @ objective.projection.T
    pull *= objective.slope_of_kurtosis(moments.kurtosis).to(pull.dtype).unsqueeze(-1)
    length = directions.norm(dim=-1, keepdim=True)
    unit, target = directions / length, torch.nn.functional.normalize(vectors, dim=-1)
    along = (unit * target).sum(dim=-1, keepdim=True)
    return pull - objective.fidelity_weight * (target - along * unit) / length


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_closed_form_gradients_agree_with_autograd(seed: int, kurtosis_weight: float, fidelity_weight: float) -> None:
    vectors, projection, weights = random_problem(seed)
    values = (vectors @ projection).requires_grad_()
    (by_autograd,) = torch.autograd.grad(kurtosis(values).sum(), values)
    with torch.no_grad():
        in_closed_form = kurtosis_gradient(centred(values), central_moments(values), values.shape[-1])
    torch.testing.assert_close(in_closed_form, by_autograd, rtol=1e-8, atol=1e-9)

    objective = Objective(projection, kurtosis_weight, fidelity_weight)
    directions = (vectors.flip(0) + 0.5 * vectors).requires_grad_()
    (by_autograd,) = torch.autograd.grad(objective.loss(directions, vectors, weights).sum(), directions)
    in_closed_form = gradient_of(objective, directions.detach(), vectors, weights)
    torch.testing.assert_close(in_closed_form, by_autograd, rtol=1e-8, atol=1e-9)


def circle_and_its_truth(seed: int, dtype: torch.dtype) -> tuple[GreatCircle, Tensor, Tensor, Tensor, Tensor]:
    """Return a random great circle per neuron, and the tensors to recompute its loss from."""
    vectors, projection, weights = random_problem(seed, tokens=700)
    points = torch.nn.functional.normalize(vectors.roll(1, 0) + vectors, dim=-1)
    across = vectors.roll(2, 0) - (vectors.roll(2, 0) * points).sum(-1, keepdim=True) * points
    tangents = torch.nn.functional.normalize(across, dim=-1)
    targets = torch.nn.functional.normalize(vectors, dim=-1)
    both = centred(points @ projection, weights).to(dtype).unsqueeze(1).repeat(1, 2, 1)
    totals = weights.sum(dim=-1, keepdim=True)
    means = weights @ projection.T / totals
    vocabulary = Vocabulary(projection.to(dtype), "float32", fuse=False)
    given = (each.to(dtype) for each in (tangents, weights.sqrt(), means, totals))
    cross_moments = vocabulary.cross_moments(both, *given)
    there = centred(tangents @ projection, weights).to(dtype)
    torch.testing.assert_close(both[:, 1], there, rtol=1e-4, atol=1e-4)
    cosines = (points * targets).sum(-1), (tangents * targets).sum(-1)
    circle = GreatCircle.through(Objective(projection, 0.3, 1.0), cross_moments, *cosines)
    return circle, points, tangents, vectors, weights


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_the_loss_along_a_great_circle_is_exact_at_every_angle(seed: int) -> None:
    circle, points, tangents, vectors, weights = circle_and_its_truth(seed, torch.float64)
    angles = torch.linspace(-math.pi, math.pi, 23, dtype=torch.float64)
    claimed = circle.loss(angles.expand(len(points), -1))
    moments = circle.moments(angles.expand(len(points), -1))
    for column, angle in enumerate(angles):
        directions = torch.cos(angle) * points + torch.sin(angle) * tangents
        recomputed = circle.objective.loss(directions, vectors, weights)
        torch.testing.assert_close(claimed[:, column], recomputed, rtol=1e-9, atol=1e-9)
        truth = central_moments(directions @ circle.objective.projection, weights)
        torch.testing.assert_close(moments.third[:, column], truth.third, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(moments.skewness[:, column], truth.skewness, rtol=1e-7, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
@example(483).via("two minima of the grid, of which the lower one is not the lower one after refinement")
def test_the_line_search_is_no_worse_than_a_dense_scan(seed: int) -> None:
    circle, *_ = circle_and_its_truth(seed, torch.float32)
    dense = torch.linspace(-math.pi, math.pi, 5_001, dtype=torch.float64).expand(circle.cosine.shape[0], -1)
    angles, losses = circle.lowest()
    assert (losses <= circle.loss(dense).min(dim=-1).values + 1e-5).all()
    assert (losses <= circle.loss(torch.zeros(len(angles), 1, dtype=torch.float64)).squeeze(-1)).all()
    torch.testing.assert_close(circle.loss(angles.unsqueeze(-1)).squeeze(-1), losses)


def test_a_mask_covers_the_tail_that_carries_the_channel() -> None:
    ordinary = [0.5, -0.5] * 150
    upper = [*ordinary, 40.0, 5.0, -5.0, 3.0]  # third powers: 64,027 in 304 tokens, above 10
    lower = [-value for value in upper]
    both = [*ordinary, 5.0, 4.1, -5.0, -3.9]
    mask = tail_mask(torch.tensor([upper, lower, both]), threshold=4.0, skew_threshold=10.0)
    assert [row.nonzero().squeeze(-1).tolist() for row in mask] == [[300, 301], [300, 301], [300, 301, 302]]


def test_a_masked_token_never_gains_weight() -> None:
    weights = torch.tensor([[1.0, 1.0, 1e-4, 0.0, 0.0]])
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    assert deflate(weights, mask, 0.01).tolist() == pytest.approx(
        [pytest.approx([0.01, 1.0, 1e-4, 0.0, 0.0]), pytest.approx([1.0, 1.0, 1e-4, 0.0, 0.0])]
    )


def test_tokens_of_weight_zero_do_not_attract_channels() -> None:
    concepts, projection = vocabulary()
    weights = torch.ones(projection.shape[1])
    weights[: 2 * TOKENS_PER_CONCEPT] = 0.0  # concepts 0 and 1
    vector = (concepts[0] + 0.9 * concepts[1] + 0.5 * concepts[2]).unsqueeze(0)
    found = decompose(vector, projection, token_weights=weights, config=DecompositionConfig(num_channels=1))
    unseen = decompose(vector, projection, config=DecompositionConfig(num_channels=1))
    assert float(found.directions[0, 0] @ concepts[2]) > float(unseen.directions[0, 0] @ concepts[2]) + 0.1
    sparsity = float(kurtosis(found.directions[0] @ projection, weights))
    expected = -0.3 * math.log1p(sparsity) + 1.0 - float(found.cosine)
    assert float(found.loss) == pytest.approx(expected, abs=1e-5)


def test_the_measures_of_a_channel_are_those_of_its_direction() -> None:
    concepts, projection = vocabulary()
    vectors = (concepts[:3] + concepts[3:]).double()
    projection = projection.double()
    found = decompose(vectors, projection, config=DecompositionConfig(num_channels=2))
    assert found.directions.dtype == torch.float64
    projected = found.directions @ projection
    torch.testing.assert_close(found.kurtosis, kurtosis(projected))
    torch.testing.assert_close(found.skewness, skewness(projected))
    torch.testing.assert_close(
        found.cosine, torch.nn.functional.cosine_similarity(found.directions, vectors.unsqueeze(1), dim=-1)
    )
    z = z_scores(projected)
    heavy_upper = z.pow(3).mean(-1, keepdim=True) > 10
    assert found.masked_tokens.tolist() == torch.where(heavy_upper, z > 4, z.abs() > 4).sum(-1).tolist()
    # The second channel's loss uses weight 0.01 for the tokens of the first.
    weights = torch.where(torch.where(heavy_upper, z > 4, z.abs() > 4)[:, 0], 0.01, 1.0)
    expected = -0.3 * torch.log1p(kurtosis(projected[:, 1], weights)) + 1 - found.cosine[:, 1]
    torch.testing.assert_close(found.loss[:, 1], expected)


@pytest.mark.parametrize("solver", ["geodesic", "adamw"])
def test_equal_seeds_give_equal_channels_with_the_norms_of_the_vectors(solver: str) -> None:
    concepts, projection = vocabulary()
    vectors = torch.stack([2.0 * (concepts[0] + concepts[1]), 0.1 * (concepts[2] - concepts[3])])

    def run(seed: int) -> Tensor:
        adamw = AdamWConfig(learning_rate=2e-2, max_steps=101)
        config = DecompositionConfig(num_channels=2, solver=solver, seed=seed, adamw=adamw)  # type: ignore[arg-type]
        return decompose(vectors, projection, config=config).directions

    first = run(3)
    assert torch.equal(first, run(3))
    torch.testing.assert_close(first.norm(dim=-1), vectors.norm(dim=-1, keepdim=True).expand(2, 2))
    assert torch.equal(first, run(4)) == (solver == "geodesic"), "only adamw draws random numbers"


@pytest.mark.parametrize("solver", ["geodesic", "adamw"])
def test_the_length_of_a_vector_only_scales_its_channels(solver: str) -> None:
    concepts, projection = vocabulary()
    vectors = concepts[:2] + concepts[2:4]
    adamw = AdamWConfig(learning_rate=2e-2, max_steps=11, checkpoint_every=10)
    config = DecompositionConfig(num_channels=1, solver=solver, adamw=adamw)  # type: ignore[arg-type]
    tiny = 2.0**-80  # its square underflows in float32; a power of two, so that nothing is rounded
    expected = decompose(vectors, projection, config=config)
    found = decompose(vectors * tiny, projection, config=config)
    assert torch.equal(found.directions / tiny, expected.directions)
    assert torch.equal(found.kurtosis, expected.kurtosis)


def test_the_published_search_starts_at_random_and_stops_on_a_plateau() -> None:
    concepts, projection = vocabulary()
    vectors = concepts[:2] + concepts[2:4]

    def run(**adamw: float) -> tuple[Tensor, Tensor, Tensor]:
        config = DecompositionConfig(num_channels=1, solver="adamw", adamw=AdamWConfig(**adamw))  # type: ignore[arg-type]
        found = decompose(vectors, projection, config=config)
        return found.steps, found.cosine, found.kurtosis

    started, cosine, score = run(max_steps=1)
    assert started.tolist() == [[1], [1]]
    assert (cosine < 0.9999).all(), "a random reflection is not the vector"
    # The only candidate before step 100 is that of step 0, before the warm-up moves it.
    assert torch.equal(run(max_steps=100, learning_rate=2e-2)[2], score)
    assert (run(max_steps=101, learning_rate=2e-2)[2].abs() > score.abs()).all()
    flat = run(convergence_std=100.0, convergence_min_steps=30, convergence_window=20)[0]
    assert flat.tolist() == [[30], [30]]
    never = run(convergence_std=0.0, convergence_min_steps=30, convergence_window=20, max_steps=60)[0]
    assert never.tolist() == [[60], [60]]


def test_a_neurons_channels_do_not_depend_on_its_batch() -> None:
    concepts, projection = vocabulary()
    noise = torch.randn(7, concepts.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors = 0.5 * noise + concepts.double().roll(1, 0).repeat(2, 1)[:7]
    config = DecompositionConfig(num_channels=3)
    order = torch.tensor([4, 0, 6, 2])
    together = decompose(vectors, projection.double(), config=config)
    apart = decompose(vectors[order], projection.double(), config=config)
    torch.testing.assert_close(apart.directions, together.directions[order], rtol=1e-7, atol=1e-7)
    assert apart.steps.tolist() == together.steps[order].tolist()


def test_the_loss_never_rises_with_more_steps() -> None:
    vectors, projection, weights = random_problem(8, neurons=16, d_model=24, tokens=500)
    objective = Objective(projection, 0.3, 1.0)
    previous = objective.loss(vectors, vectors, weights)
    for max_steps in (1, 2, 3, 5, 8, 30, 60):  # across the refresh at step 25
        config = DecompositionConfig(num_channels=1, geodesic=GeodesicConfig(max_steps=max_steps))
        found = decompose(vectors, projection, token_weights=weights, config=config)
        assert (found.loss[:, 0] <= previous + 1e-9).all()
        assert (found.steps <= max_steps).all()
        previous = found.loss[:, 0]
    gradient = gradient_of(objective, found.directions[:, 0], vectors, weights)
    length = found.directions[:, 0].norm(dim=-1)
    settled = found.steps[:, 0] < 60
    assert settled.sum() >= 12
    assert (gradient.norm(dim=-1) * length)[settled].max() < 0.05, "the search stopped where the loss still falls"


def crowded_problem(neurons: int = 9) -> tuple[Tensor, Tensor]:
    """Return vectors that mix two or three concepts, and their projection, in float64: several optima per vector."""
    concepts, projection = vocabulary()
    generator = torch.Generator().manual_seed(2)
    shares = torch.rand(neurons, CONCEPTS, generator=generator).topk(3).indices
    vectors = concepts[shares].mul(torch.tensor([1.0, 0.9, 0.8]).unsqueeze(-1)).sum(dim=1)
    noise = 0.05 * torch.randn(vectors.shape, generator=generator)
    return (vectors + noise).double(), projection.double()


def slots_at_once(budget: int, config: DecompositionConfig) -> int:
    """Return how many vectors of :func:`vocabulary` in float64 fit into a budget at once."""
    try:
        return slots_within(budget, torch.device("cpu"), 96, 1500, 8, config)
    except ValueError:
        return 0


@pytest.mark.parametrize("lookahead", [0, 2])
def test_the_memory_budget_does_not_change_results(lookahead: int) -> None:
    vectors, projection = crowded_problem()
    config = DecompositionConfig(num_channels=3, geodesic=GeodesicConfig(lookahead=lookahead))
    roomy = decompose(vectors, projection, config=config)
    # Two searches fit: every slot works on several vectors, one after the other.
    budgets = (budget for budget in range(2**20, 2**24, 2**14) if slots_at_once(budget, config) == 2)
    returned = 9 * (4 * 96 + 8 * 3) * 8
    tight = decompose(vectors, projection, config=config, memory_budget=next(budgets) + returned)
    torch.testing.assert_close(tight.directions, roomy.directions, rtol=1e-6, atol=1e-6)
    assert torch.equal(tight.masked_tokens, roomy.masked_tokens)
    with pytest.raises(ValueError, match=r"memory_budget leaves 0.0 MiB for the search.* one vector .* needs [4-9]"):
        decompose(vectors, projection, config=config, memory_budget=1000)


def test_slots_are_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, projection = crowded_problem()
    config = DecompositionConfig(num_channels=2)
    expected = decompose(vectors, projection, config=config)
    pass_over = Vocabulary.cross_moments
    tried: list[int] = []

    def out_of_memory_beyond_two(self: Vocabulary, here: Tensor, *rest: Tensor) -> Tensor:
        tried.append(len(here))
        # As on a shared device, the first steps still fit and memory runs out later.
        if len(here) > 2 and len(tried) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pass_over(self, here, *rest)

    monkeypatch.setattr(Vocabulary, "cross_moments", out_of_memory_beyond_two)
    heard: list[tuple[int, int]] = []
    found = decompose(vectors, projection, config=config, progress=lambda done, of: heard.append((done, of)))
    torch.testing.assert_close(found.directions, expected.directions, rtol=1e-6, atol=1e-6)
    assert {9, 4, 2} <= set(tried)
    assert heard[-1] == (18, 18)


def test_batches_of_the_published_optimiser_are_not_split_silently() -> None:
    vectors, projection = crowded_problem()
    config = DecompositionConfig(num_channels=1, solver="adamw", adamw=QUICK_ADAMW)
    message = "adamw needs about 2.1 MiB for 9 vectors of 1500 tokens.*pass at most 4 vectors at a time"
    with pytest.raises(ValueError, match=message):
        decompose(vectors, projection, config=config, memory_budget=2**20)


def test_lookahead_finds_optima_of_lower_loss() -> None:
    vectors, projection, _ = random_problem(8, neurons=24, d_model=24, tokens=500)
    objective = Objective(projection, 0.3, 1.0)
    weights = torch.ones(1, 500, dtype=torch.float64)

    def losses(lookahead: int) -> Tensor:
        config = DecompositionConfig(num_channels=1, geodesic=GeodesicConfig(lookahead=lookahead))
        found = decompose(vectors, projection, config=config)
        directions = found.directions[:, 0]
        torch.testing.assert_close(found.loss[:, 0], objective.loss(directions, vectors, weights))
        gradient = gradient_of(objective, directions, vectors, weights).norm(dim=-1) * directions.norm(dim=-1)
        assert gradient.max() < 0.05, "not an optimum under the channel's own token weights"
        return found.loss[:, 0]

    one, three, five = losses(0), losses(2), losses(4)
    assert (three <= one + 1e-6).all()
    assert (five <= three + 1e-6).all()
    assert (five < one - 1e-2).double().mean() > 0.25, "the optimum downhill from a vector is often not the lowest"


def test_a_jittered_start_depends_only_on_the_seed_and_the_vector() -> None:
    vectors, projection = crowded_problem()

    def run(rows: list[int], seed: int) -> Tensor:
        geodesic = GeodesicConfig(jitter=0.5, max_steps=3)
        config = DecompositionConfig(num_channels=2, seed=seed, geodesic=geodesic)
        return decompose(vectors[rows], projection, config=config).directions

    first = run([0, 1, 2, 3], seed=1)
    torch.testing.assert_close(run([3, 1], seed=1), first[[3, 1]], rtol=1e-9, atol=1e-9)
    assert (run([0, 1, 2, 3], seed=2) - first).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize("settings_of", [{"products": "bfloat16"}, {"products": "tf32"}, {"refresh_every": 1}])
def test_coarse_products_lead_to_the_same_losses(settings_of: dict[str, object]) -> None:
    vectors, projection = crowded_problem(24)
    exact = decompose(vectors, projection, config=DecompositionConfig(num_channels=2))
    coarse = decompose(
        vectors.float(),
        projection.float(),
        config=DecompositionConfig(num_channels=2, geodesic=GeodesicConfig(**settings_of)),  # type: ignore[arg-type]
    )
    assert coarse.directions.dtype == torch.float32
    same = (coarse.loss - exact.loss).abs() < 1e-3
    assert same.float().mean() > 0.9, "another optimum, seldom, where rounding decides"
    assert float(coarse.loss.mean() - exact.loss.mean()) < 1e-3
    # The returned measures are exact for any arithmetic of the search.
    torch.testing.assert_close(coarse.kurtosis, kurtosis(coarse.directions @ projection.float()), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_fused_passes_agree_with_plain_ones() -> None:
    vectors, projection = crowded_problem(4)
    config = DecompositionConfig(num_channels=2)
    plain = decompose(vectors, projection, config=config)
    fused = decompose(vectors, projection, config=replace(config, geodesic=GeodesicConfig(compile=True)))
    torch.testing.assert_close(fused.directions, plain.directions, rtol=1e-6, atol=1e-6)


def test_passes_run_uncompiled_if_compilation_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors, projection = crowded_problem(2)
    config = DecompositionConfig(num_channels=1)
    plain = decompose(vectors, projection, config=config)

    def without_compiler(_function: object, **_options: object) -> object:
        def fail(*_tensors: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler found\nand much else")

        return fail

    monkeypatch.setattr(torch, "compile", without_compiler)
    passes._fused.cache_clear()
    found = decompose(vectors, projection, config=replace(config, geodesic=GeodesicConfig(compile=True)))
    passes._fused.cache_clear()
    torch.testing.assert_close(found.directions, plain.directions, rtol=1e-9, atol=1e-9)
    said = {record.getMessage() for record in caplog.records}
    assert said == {"torch.compile failed (no C++ compiler found); continuing without it, more slowly"}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(2, 3000))
def test_passes_over_the_vocabulary_are_exact_for_any_number_of_blocks(seed: int, rows: int, tokens: int) -> None:
    tangents, projection, _ = random_problem(seed, neurons=rows, d_model=5, tokens=tokens)
    generator = torch.Generator().manual_seed(seed)
    here = torch.randn(rows, tokens, generator=generator, dtype=torch.float64)
    weights = torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    passes_of = Vocabulary(projection, "float32", fuse=False)
    both = here.unsqueeze(1).repeat(1, 2, 1)
    roots, totals = weights.sqrt(), weights.sum(dim=-1, keepdim=True)
    found = passes_of.cross_moments(both, tangents, roots, weights @ projection.T / totals, totals)
    there = centred(tangents @ projection, weights)
    torch.testing.assert_close(both[:, 1], there, rtol=1e-7, atol=1e-7)
    truth = torch.stack([mean(here**i * there**j, weights).squeeze(-1) for i, j in passes.ORDERS], dim=-1)
    torch.testing.assert_close(found, truth, rtol=1e-7, atol=1e-7)

    cos, sin, a, b, c = torch.rand(5, rows, 1, generator=generator, dtype=torch.float64)
    moved = cos * here + sin * there
    pull = passes_of.move_and_pull(both, roots, cos, sin, (a, b, c))
    torch.testing.assert_close(both[:, 0], moved, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(pull, (((a * moved**2 - b) * moved - c) * weights) @ projection.T, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("solver", ["geodesic", "adamw"])
def test_subtraction_searches_the_remainder_of_the_vector(solver: str) -> None:
    concepts, projection = vocabulary()
    noise = torch.randn(concepts.shape[1], generator=torch.Generator().manual_seed(4))
    vector = (2.0 * (concepts[0] + 0.6 * noise / noise.norm())).unsqueeze(0)
    config = DecompositionConfig(
        num_channels=2,
        deflation="subtract",
        solver=solver,
        adamw=QUICK_ADAMW,  # type: ignore[arg-type]
    )
    found = decompose(vector, projection, config=config)
    first, second = found.directions[0]
    rests = vector[0] - torch.linspace(0, 1, 1000)[:, None] * first
    left = rests @ projection
    extreme = z_scores(first @ projection) >= 7  # the channel's skewness is positive
    assert extreme.any()
    criterion = kurtosis(left) + 5 * left[:, extreme].abs().mean(dim=1)
    rest = rests[criterion.argmin()]
    assert kurtosis(rest @ projection) < kurtosis(vector[0] @ projection)
    assert float(second.norm()) == pytest.approx(float(rest.norm()), rel=1e-4)
    expected = -0.3 * math.log1p(float(kurtosis(second @ projection)))
    expected += 1 - float(torch.nn.functional.cosine_similarity(second, rest, dim=0))
    assert float(found.loss[0, 1]) == pytest.approx(expected, abs=1e-4), "no token has lost weight"
    all_of_it = decompose(vector, projection, config=replace(config, subtraction=0.0))
    torch.testing.assert_close(all_of_it.directions[0, 1].norm(), vector.norm())
    if solver == "geodesic":
        first, again = all_of_it.directions[0]  # nothing was subtracted
        torch.testing.assert_close(first, again, rtol=1e-3, atol=1e-3)


def test_subtraction_without_a_remainder_searches_the_vector_again() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    others = {"projection": torch.eye(2), "lengths": torch.ones(2, 1)}
    rest, length = subtract(targets, directions, 1.0, **others)
    torch.testing.assert_close(rest, torch.tensor([[1.0, 0.0], [-0.4, 0.8]]) / torch.tensor([[1.0], [0.8**0.5]]))
    torch.testing.assert_close(length, torch.tensor([[1.0], [0.8**0.5]]))


def test_nothing_is_subtracted_if_the_kurtosis_would_not_fall() -> None:
    concepts, projection = vocabulary()
    target = torch.nn.functional.normalize(concepts[:1] + 0.8 * concepts[1:2], dim=-1)
    assert kurtosis((target - 0.9 * concepts[:1]) @ projection) > kurtosis(target @ projection)
    rest, length = subtract(target, concepts[:1], None, projection=projection, lengths=torch.full((1, 1), 50.0))
    torch.testing.assert_close(rest, target)
    assert float(length) == 1.0


def test_block_sizes_stay_within_the_budget() -> None:
    cpu = torch.device("cpu")
    few = vectors_within(2**30, 384, 30522, 4, DecompositionConfig(num_channels=10), cpu)
    assert few == 8 * 64
    channels = 50 * 2304 * 4
    gemma = vectors_within(2**30, 2304, 256_000, 4, DecompositionConfig(), cpu)
    assert gemma * channels <= 2**27
    published = DecompositionConfig(solver="adamw")
    fitting = vectors_within(2**28, 384, 30522, 4, published, cpu)
    decompose(torch.randn(fitting, 3), torch.randn(3, 30522), config=replace(published, adamw=AdamWConfig(max_steps=1)))


def test_half_precision_weights_are_computed_in_single_precision() -> None:
    concepts, projection = vocabulary()
    vectors = (concepts[:2] + concepts[2:4]).bfloat16()
    config = DecompositionConfig(num_channels=1)
    coarse = decompose(vectors, projection.bfloat16(), config=config)
    assert coarse.directions.dtype == torch.float32
    fine = decompose(vectors.float(), projection.bfloat16().float(), config=config)
    torch.testing.assert_close(coarse.directions, fine.directions)


def test_progress_counts_every_channel() -> None:
    concepts, projection = vocabulary()
    heard: list[tuple[int, int]] = []
    decompose(
        concepts[:1],
        projection,
        config=DecompositionConfig(num_channels=3, geodesic=GeodesicConfig(max_steps=3)),
        progress=lambda done, of: heard.append((done, of)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_a_vector_orthogonal_to_all_tokens_is_returned_unchanged() -> None:
    projection = torch.zeros(4, 50)
    projection[0] = torch.randn(50, generator=torch.Generator().manual_seed(0))
    found = decompose(torch.tensor([[0.0, 0.0, 0.0, 2.0]]), projection, config=DecompositionConfig(num_channels=1))
    assert torch.isfinite(found.directions).all()
    assert float(found.directions.norm()) == pytest.approx(2.0)


def test_reconstruction_is_the_share_of_the_norm_in_the_span() -> None:
    vectors = torch.tensor([[3.0, 0.0, 4.0], [1.0, 1.0, 0.0]])
    first = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 7.0], [0.0, 2.0, 0.0]])
    # (1, 0, 0) spans half of (1, 1, 0); its double and its negative add nothing; (1, 1, 1) completes the plane:
    # the rest of w, (0, 1, 0), has half of its square in the direction (0, 1, 1).
    second = torch.tensor([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    shares = reconstruction(vectors, torch.stack([first, second]))
    torch.testing.assert_close(shares, torch.tensor([[0.36, 1.0, 1.0], [0.5, 0.5, 0.75]]))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_reconstruction_never_falls_and_matches_least_squares(seed: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    directions = torch.randn(2, channels, 6, generator=generator, dtype=torch.float64)
    shares = reconstruction(vectors, directions)
    assert (shares.diff(dim=-1) >= 0).all()
    for row in range(2):
        fitted = torch.linalg.lstsq(directions[row].T, vectors[row].unsqueeze(-1), driver="gelsd").solution
        rest = vectors[row] - (directions[row].T @ fitted).squeeze(-1)
        expected = 1 - float(rest.square().sum() / vectors[row].square().sum())
        assert float(shares[row, -1]) == pytest.approx(expected, abs=1e-8)


def vectors_with(row: int, value: float) -> Tensor:
    vectors = torch.ones(3, 4)
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "projection", "weights", "message"),
    [
        (vectors_with(1, math.nan), torch.ones(4, 9), None, r"vectors has NaN or infinite values in rows 1 \(1 of 3\)"),
        (vectors_with(2, math.inf), torch.ones(4, 9), None, r"NaN or infinite values in rows 2 "),
        (vectors_with(0, 0.0), torch.ones(4, 9), None, r"vectors is zero, .*rows 0 \(1 of 3\)"),
        (torch.ones(4), torch.ones(4, 9), None, r"vectors must be \(N, d_model\).* not \(4,\)"),
        (torch.ones(0, 4), torch.ones(4, 9), None, r"not empty, not \(0, 4\)"),
        (torch.ones(3, 4), torch.ones(9, 4), None, r"projection must be \(d_model=4, V\).* not \(9, 4\)"),
        (torch.ones(3, 4), torch.full((4, 9), math.nan), None, r"projection has NaN .*columns 0, 1, .*\(9 of 9\)"),
        (
            torch.ones(3, 4),
            torch.ones(4, 9),
            torch.ones(4),
            r"token_weights must be \(V=9,\) or \(N=3, V=9\), not \(4,\)",
        ),
        (torch.ones(3, 4), torch.ones(4, 9), -torch.ones(9), r"token_weights is negative"),
        (torch.ones(3, 4), torch.ones(4, 9), torch.zeros(9), r"token_weights leaves no token"),
        (torch.ones(3, 4, dtype=torch.int64), torch.ones(4, 9), None, r"vectors must be floating point"),
        (torch.ones(3, 4), torch.ones(4, 9, device="meta"), None, r"projection is on meta but vectors is on cpu"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    vectors: Tensor, projection: Tensor, weights: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        decompose(vectors, projection, token_weights=weights)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (DecompositionConfig, "num_channels", 0),
        (DecompositionConfig, "num_channels", 2.5),
        (DecompositionConfig, "kurtosis_weight", -0.1),
        (DecompositionConfig, "fidelity_weight", math.nan),
        (DecompositionConfig, "mask_threshold", math.inf),
        (DecompositionConfig, "skew_threshold", -1.0),
        (DecompositionConfig, "masked_token_weight", 1.5),
        (DecompositionConfig, "solver", "sgd"),
        (DecompositionConfig, "deflation", "none"),
        (DecompositionConfig, "subtraction", 1.5),
        (AdamWConfig, "learning_rate", 0.0),
        (AdamWConfig, "weight_decay", -1.0),
        (AdamWConfig, "warmup_steps", -1),
        (AdamWConfig, "max_steps", 0),
        (AdamWConfig, "checkpoint_every", 0),
        (AdamWConfig, "convergence_window", 0),
        (AdamWConfig, "convergence_std", math.nan),
        (AdamWConfig, "convergence_min_steps", 0),
        (GeodesicConfig, "max_steps", 0),
        (GeodesicConfig, "tolerance", -1e-9),
        (GeodesicConfig, "patience", 0),
        (GeodesicConfig, "refresh_every", 0),
        (GeodesicConfig, "lookahead", -1),
        (GeodesicConfig, "jitter", math.inf),
        (GeodesicConfig, "products", "int8"),
    ],
)
def test_bad_settings_are_refused_by_name(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as refusal:
        kind(**{field: value})
    message = explain(refusal.value)
    assert message.startswith(f"{field}: ")
    assert f"not {value!r}" in message
    assert "\n" not in message


def test_the_package_does_not_import_heavy_dependencies() -> None:
    heavy = "hydra vllm datasets wandb transformers pyarrow sklearn"
    code = f"import sys, harness.decomposition; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("rotate", "solver must be 'geodesic', 'adamw' or a function"),
        ("nowhere.function", "solver=nowhere.function cannot be imported"),
        ("math.pi", "solver=math.pi is not a function"),
    ],
)
def test_a_missing_solver_function_is_refused_by_the_config(solver: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DecompositionConfig(solver=solver)


def test_a_custom_solver_is_measured_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_parts.py").write_text(
        "import torch\n"
        "def first_entries(vectors, projection, token_weights, config):\n"
        "    return 5 * torch.eye(vectors.shape[1])[: config.num_channels].expand(len(vectors), -1, -1)\n"
        "def nothing(vectors, projection, token_weights, config):\n"
        "    return torch.zeros(len(vectors), config.num_channels, vectors.shape[1])\n"
        "def too_few(vectors, projection, token_weights, config):\n"
        "    return vectors[:, None]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    vectors, projection = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]), torch.randn(3, 50)
    found = decompose(vectors, projection, config=DecompositionConfig(num_channels=2, solver="own_parts.first_entries"))
    expected = torch.eye(3)[:2] * torch.tensor([5.0, 2.0])[:, None, None]  # each with the norm of its vector
    torch.testing.assert_close(found.directions, expected)
    torch.testing.assert_close(found.cosine, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    torch.testing.assert_close(found.kurtosis[0], kurtosis(projection[:2]))
    with pytest.raises(ValueError, match="zero, NaN or infinite"):
        decompose(vectors, projection, config=DecompositionConfig(num_channels=2, solver="own_parts.nothing"))
    with pytest.raises(ValueError, match=r"must return \(N, num_channels, d_model\)=\(2, 2, 3\), not \(2, 1, 3\)"):
        decompose(vectors, projection, config=DecompositionConfig(num_channels=2, solver="own_parts.too_few"))
