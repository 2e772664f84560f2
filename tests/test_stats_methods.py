"""Strengths, length control, tests, agreement, cycles, rankings and power: by hand, against others, by simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import choix
import numpy as np
import pytest
import statsmodels.stats.inter_rater as others_raters
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as others
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.multitest import multipletests

from harness.results.transitivity import majority_cycles
from harness.stats.agreement import NO_LABEL, kappa_interval
from harness.stats.bootstrap import Resamples, percentiles, ratio
from harness.stats.bradley_terry import Design, fit, groups, ranks, refit
from harness.stats.concordance import kendall_tau
from harness.stats.length import covariate, own_share
from harness.stats.permutation import holm, sign_flip_p_value, standardised_effect
from harness.stats.power import Plan, neurons_needed, smallest_difference

PAIRS = list(itertools.combinations(range(4), 2))
LEFT, RIGHT = (np.array(column) for column in zip(*PAIRS, strict=True))


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- Bradley-Terry -------------------------------------------------------------------------------------------------


def test_two_describers_by_hand() -> None:
    # Three wins of four: without a penalty the difference is log(3 / 1), half of it above zero and half below.
    strengths = fit(Design(2, np.array([0]), np.array([1])), np.array([3.0]), np.array([4.0]), ridge=1e-9)
    assert strengths == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-6)


def test_planted_strengths_come_back_and_the_penalty_pulls_them_together() -> None:
    truth = np.array([1.2, 0.4, -0.3, -1.3])
    counts = np.full(len(PAIRS), 1e6)
    points = counts * logistic(truth[LEFT] - truth[RIGHT])
    design = Design(4, LEFT, RIGHT)
    assert fit(design, points, counts, ridge=1e-6) == pytest.approx(truth, abs=1e-4)
    strong = fit(design, points, counts, ridge=1e6)
    assert np.ptp(strong) < 0.5 * np.ptp(truth)
    assert strong.sum() == pytest.approx(0, abs=1e-8)


def test_strengths_equal_an_independent_fit_and_a_direct_one() -> None:
    rng = np.random.default_rng(5)
    wins = rng.integers(1, 30, size=(4, 4))
    games = [(a, b) for a, b in itertools.permutations(range(4), 2) for _ in range(wins[a, b])]
    points = wins[LEFT, RIGHT].astype(float)
    counts = points + wins[RIGHT, LEFT]
    own = fit(Design(4, LEFT, RIGHT), points, counts, ridge=1e-8)
    theirs = choix.opt_pairwise(4, games, alpha=1e-9)
    assert own == pytest.approx(theirs - theirs.mean(), abs=1e-5)

    x = rng.normal(size=len(PAIRS))  # with a covariate and a penalty: minimise the definition itself

    def loss(parameters: np.ndarray) -> float:
        chance = logistic(parameters[LEFT] - parameters[RIGHT] + parameters[-1] * x)
        likelihood = points @ np.log(chance) + (counts - points) @ np.log(1 - chance)
        return float(-likelihood + 0.7 / 2 * parameters @ parameters)

    direct = minimize(loss, np.zeros(5), tol=1e-12).x
    assert fit(Design(4, LEFT, RIGHT, x), points, counts, ridge=0.7) == pytest.approx(direct, abs=1e-4)


def test_the_samples_are_fitted_as_the_data_are() -> None:
    rng = np.random.default_rng(6)
    counts = rng.integers(0, 40, size=(30, len(PAIRS))).astype(float)
    counts[0] = 0  # a sample without comparisons
    points = np.round(2 * counts * rng.random(counts.shape)) / 2
    points[1] = counts[1]  # a sample in which one side won all
    design = Design(4, LEFT, RIGHT, rng.normal(size=len(PAIRS)))
    far = np.array([9.0, -9.0, 4.0, -4.0, 20.0])  # wherever it begins
    together = refit(design, points, counts, 0.1, far)
    alone = [fit(design, *row, ridge=0.1) for row in zip(points, counts, strict=True)]
    np.testing.assert_allclose(together, np.array(alone), atol=1e-7)


def test_what_comparisons_join() -> None:
    design = Design(4, np.array([0, 2]), np.array([1, 3]))
    points, counts = np.array([1.0, 2.0]), np.array([2.0, 2.0])
    assert groups(design, points, counts) == [[0, 1], [2, 3]]
    assert groups(design, points, counts, beaten=True) == [[0, 1], [2], [3]]  # 3 never took a point from 2
    assert groups(design, points, np.array([2.0, 0.0])) == [[0, 1], [2], [3]]
    assert np.isfinite(fit(design, points, counts, ridge=0.1)).all()
    assert fit(design, 0 * points, 0 * counts, ridge=0.1).tolist() == [0, 0, 0, 0]


def test_ranks_share_the_better_place() -> None:
    assert ranks(np.array([0.5, 2.0, 0.5, -1.0])).tolist() == [2, 1, 2, 4]


# --- length --------------------------------------------------------------------------------------------------------


def test_the_covariate_is_odd_and_scaled() -> None:
    one, other = np.array([10.0, 4.0, np.nan, 7.0]), np.array([4.0, 10.0, 3.0, 7.0])
    forward, backward = covariate(one, other), covariate(other, one)
    # Differences 6, -6 and 0: their root mean square is sqrt(24), so tanh(6 / sqrt(24)) = 0.8415, in 16ths 13 / 16.
    assert forward[[0, 1, 3]].tolist() == [13 / 16, -13 / 16, 0.0]
    assert np.isnan(forward[2])
    np.testing.assert_array_equal(forward, -backward)
    assert covariate(np.full(3, 5.0), np.full(3, 5.0)).tolist() == [0, 0, 0]


def test_length_that_follows_from_the_describer_cannot_be_told_apart() -> None:
    fixed = np.array([0.0, 1.0, 2.0, 5.0])
    design = Design(4, LEFT, RIGHT, fixed[LEFT] - fixed[RIGHT])
    assert own_share(design, np.ones(len(PAIRS))) == pytest.approx(0, abs=1e-12)
    assert own_share(Design(4, LEFT, RIGHT, np.zeros(len(PAIRS))), np.ones(len(PAIRS))) is None
    varied = Design(2, np.array([0, 0]), np.array([1, 1]), np.array([1.0, -1.0]))
    assert own_share(varied, np.ones(2)) == pytest.approx(1)  # long and short in turn: nothing is explained


# --- permutation tests ---------------------------------------------------------------------------------------------


def test_sign_flips_by_hand() -> None:
    # 1 + 2 + 3 = 6: of the 8 signings only all plus and all minus are as far out.
    assert sign_flip_p_value([1, 2, 3], seed=0) == pytest.approx(2 / 8)
    # -1 + 2 + 3 = 4: also +6 and -6, and 4 twice: 4 of 8.
    assert sign_flip_p_value([-1, 2, 3], seed=0) == pytest.approx(4 / 8)
    assert sign_flip_p_value([0.1, 0.2, 0.3], seed=0) == pytest.approx(2 / 8)  # not whole: enumerated
    assert sign_flip_p_value([], seed=0) == sign_flip_p_value([0, 0], seed=0) == sign_flip_p_value([5], seed=0) == 1
    # One-sided wins on n neurons: two of 2 ** n.
    assert sign_flip_p_value([1] * 30, seed=0) == pytest.approx(2.0**-29)
    with pytest.raises(ValueError, match="not finite"):
        sign_flip_p_value([1, math.nan], seed=0)


def test_unit_totals_are_the_sign_test() -> None:
    theirs = others.binomtest(17, 40).pvalue
    assert sign_flip_p_value([1] * 17 + [-1] * 23 + [0] * 9, seed=0) == pytest.approx(theirs)


def test_sign_flips_equal_an_independent_test() -> None:
    rng = np.random.default_rng(3)
    for totals in (rng.integers(-4, 6, size=12), rng.normal(0.4, 1, size=11)):
        theirs = others.permutation_test(
            (totals, np.zeros(len(totals))),
            lambda x, y, axis: np.sum(x - y, axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert sign_flip_p_value(totals, seed=0) == pytest.approx(theirs.pvalue, abs=1e-9)
    many = rng.normal(0.15, 1, size=150)  # too many to enumerate: drawn
    # The same by the normal distribution, which 150 neurons are near.
    normal = 2 * others.norm.sf(abs(many.sum()) / np.sqrt(np.sum(many**2)))
    assert sign_flip_p_value(many, seed=0) == pytest.approx(normal, abs=0.012)
    assert sign_flip_p_value(many, seed=0) == sign_flip_p_value(many[::-1], seed=0)
    whole = rng.integers(-3, 4, size=4000)  # exact for very many
    normal = 2 * others.norm.sf((abs(whole.sum()) - 0.5) / np.sqrt(np.sum(whole**2)))
    assert sign_flip_p_value(whole, seed=0) == pytest.approx(normal, rel=0.02)


def test_the_test_keeps_its_level_under_the_null() -> None:
    """Of 2,000 benchmarks in which nobody is better, no more than 5 % find a difference at 5 %."""
    rng = np.random.default_rng(8)
    false = 0
    for _ in range(2000):
        # Neuron effects of both signs: the verdicts within a neuron depend on each other.
        chances = rng.beta(0.7, 0.7, size=25)
        totals = 2 * rng.binomial(4, chances) - 4
        false += sign_flip_p_value(totals, seed=0) < 0.05
    assert 0.03 <= false / 2000 <= 0.06


def test_holm_by_hand_and_against_another() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    rng = np.random.default_rng(1)
    values = rng.random(15) ** 3
    assert holm(list(values)) == pytest.approx(multipletests(values, method="holm")[1])
    with pytest.raises(ValueError, match="p-value"):
        holm([0.1, math.nan])


def test_effect_size() -> None:
    assert standardised_effect([1, 2, 3]) == pytest.approx(2)
    assert standardised_effect([1, 1, 1]) is None
    assert standardised_effect([1]) is None


# --- agreement -----------------------------------------------------------------------------------------------------


def fleiss_kappa(labels: Any) -> float | None:
    return kappa_interval(labels, np.arange(len(labels)), seed=0, draws=1)[0]


def cohen_kappa(first: Any, second: Any) -> float | None:
    return fleiss_kappa(np.stack([first, second], axis=1))  # of two raters, the same function returns Cohen's


def test_kappa_by_hand() -> None:
    # Two raters, equal on 3 of 4; yes is said by one 2 and by the other 3 times of 4: chance 6/16 + 2/16 = 1/2.
    assert cohen_kappa([1, 1, 0, 0], [1, 1, 1, 0]) == pytest.approx((0.75 - 0.5) / 0.5)
    assert cohen_kappa([1, 1, 0, 0, NO_LABEL, 1], [1, 1, 1, 0, 1, NO_LABEL]) == pytest.approx(0.5)
    assert cohen_kappa([1, 0], [0, 1]) == -1
    for one, other in (([1, 1], [1, 1]), ([], []), ([1, NO_LABEL], [NO_LABEL, 1])):
        assert cohen_kappa(np.array(one, dtype=int), np.array(other, dtype=int)) is None
    # Three raters: items (a a a) and (a b b): agreement (1 + 1/3) / 2 = 2/3; shares 2/3 and 1/3, chance 5/9.
    assert fleiss_kappa([[0, 0, 0], [0, 1, 1]]) == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert fleiss_kappa([[0, 0, 0], [0, 1, 1], [1, NO_LABEL, NO_LABEL]]) == pytest.approx((2 / 3 - 5 / 9) / (4 / 9))
    assert fleiss_kappa([[1, 1], [1, 1]]) is None
    with pytest.raises(ValueError, match="integers from 0"):
        fleiss_kappa([[0.5, 1.0]])


def test_kappa_equals_other_libraries() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, size=(60, 4))
    labels[:, 1] = np.where(rng.random(60) < 0.6, labels[:, 0], labels[:, 1])
    theirs = cohen_kappa_score(labels[:, 0], labels[:, 1])
    assert cohen_kappa(labels[:, 0], labels[:, 1]) == pytest.approx(theirs)
    counts, _ = others_raters.aggregate_raters(labels)
    assert fleiss_kappa(labels) == pytest.approx(others_raters.fleiss_kappa(counts))


def test_kappa_with_its_interval() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, size=300)
    labels = np.stack([np.where(rng.random(300) < 0.8, truth, rng.integers(0, 3, size=300)) for _ in range(3)], axis=1)
    labels[rng.random(labels.shape) < 0.1] = NO_LABEL
    for part, whole in ((labels[:, :2], cohen_kappa(labels[:, 0], labels[:, 1])), (labels, fleiss_kappa(labels))):
        value, interval = kappa_interval(part, np.arange(300) // 5, seed=1, draws=400)
        assert value == whole
        assert interval is not None
        assert interval[0] < 0.8**2 < interval[1]  # two raters who know with 80 % and else guess
    assert kappa_interval(labels[:, :2], np.zeros(300, dtype=int), seed=1)[1] is None  # one cluster
    assert kappa_interval(np.full((5, 2), NO_LABEL), np.arange(5), seed=1) == (None, None)


# --- rankings ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7))
def test_kendall_equals_another(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    assert float(kendall_tau(one, other)) == pytest.approx(others.kendalltau(one, other).statistic, nan_ok=True)
    gap = np.append(one, np.nan)  # an item without a figure is left out
    assert float(kendall_tau(gap, np.append(other, 1.0))) == pytest.approx(float(kendall_tau(one, other)), nan_ok=True)


def test_majority_cycles() -> None:
    rates = np.full((4, 4), 0.5)
    for winner, loser in ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3)):
        rates[winner, loser], rates[loser, winner] = 0.7, 0.3
    assert majority_cycles(rates) == [(0, 1, 2)]  # 2 and 3 tie, so nothing else goes round
    assert majority_cycles(rates.T) == [(0, 2, 1)]
    assert majority_cycles(np.full((3, 3), np.nan)) == []


# --- power ---------------------------------------------------------------------------------------------------------


def test_power_by_hand() -> None:
    # 1.959964 + 0.841621 * sqrt(1 - 0.04) = 2.784577; over 0.2 and squared: 193.8.
    assert neurons_needed(0.2) == 194
    assert neurons_needed(0.2, Plan(comparisons=4, correlation=1.0)) == 194  # four times the same says nothing more
    assert neurons_needed(0.2, Plan(comparisons=4, correlation=0.0)) == 49
    assert neurons_needed(0.2, Plan(ties=0.5)) < 194  # ties vary less
    assert neurons_needed(0.2, Plan(tests=15)) > 194
    assert smallest_difference(1) is None
    assert smallest_difference(3) is None  # not even winning all is significant
    for wrong in ({"level": 0.0}, {"power": 0.01}, {"ties": 1.0}, {"correlation": 2.0}, {"comparisons": 0}):
        with pytest.raises(ValueError, match="must be"):
            Plan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="difference"):
        neurons_needed(0.6, Plan(ties=0.5))


@settings(max_examples=100, deadline=None)
@given(
    neurons=st.integers(12, 5000),
    ties=st.floats(0, 0.6),
    comparisons=st.integers(1, 6),
    correlation=st.floats(0, 1),
    power=st.sampled_from([0.3, 0.8, 0.95]),
)
def test_the_two_questions_of_power_answer_each_other(
    neurons: int, ties: float, comparisons: int, correlation: float, power: float
) -> None:
    plan = Plan(ties=ties, comparisons=comparisons, correlation=correlation, power=power)
    difference = smallest_difference(neurons, plan)
    if difference is not None:
        assert 0 < difference <= 1 - ties
        assert neurons_needed(difference * (1 + 1e-9), plan) <= neurons
        assert neurons_needed(difference * (1 - 1e-3), plan) >= neurons


def test_power_is_what_the_test_has() -> None:
    """The permutation test finds the smallest difference of 120 neurons in about 80 % of simulated benchmarks."""
    plan = Plan(ties=0.3, comparisons=2, correlation=0.4)
    difference = smallest_difference(120, plan)
    assert difference is not None
    rng = np.random.default_rng(9)
    chances = [(0.7 - difference) / 2, 0.3, (0.7 + difference) / 2]
    found, benchmarks = 0, 1500
    for _ in range(benchmarks):
        first = rng.choice([-1, 0, 1], size=120, p=chances)
        # The second comparison repeats the first with chance 0.4, which makes their correlation 0.4.
        second = np.where(rng.random(120) < 0.4, first, rng.choice([-1, 0, 1], size=120, p=chances))
        found += sign_flip_p_value(first + second, seed=0) < 0.05
    assert 0.76 <= found / benchmarks <= 0.84


# --- coverage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neurons", [15, 60])
def test_coverage_of_win_rates(neurons: int) -> None:
    """A 95 % interval covers the true win rate in 93 to 97 % of 1,000 benchmarks with neuron effects."""
    rng = np.random.default_rng(2024)
    # Each neuron has its own chance of a win (beta 1.2 : 0.8, mean 0.6), so its comparisons depend on each other.
    wins = rng.binomial(6, rng.beta(1.2, 0.8, size=(neurons, 1000))).astype(float)
    drawn, counts = Resamples(neurons, 1, 1000).sums(wins, np.full((neurons, 1000), 6.0))
    intervals = percentiles(ratio(drawn, counts), np.full(1000, neurons), 0.95)
    assert 0.93 <= np.mean([found is not None and found[0] <= 0.6 <= found[1] for found in intervals]) <= 0.97


def draws_of(
    benchmarks: int, neurons: int, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return strengths' truth by simulation, and outcomes and covariates of benchmarks x neurons x pairs."""
    fit_ = rng.normal(0, 0.8, size=(benchmarks, neurons, 4)) + np.array([0.8, 0.2, -0.2, -0.8])
    x = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(benchmarks, neurons, len(PAIRS)))
    chance = logistic(fit_[..., LEFT] - fit_[..., RIGHT] + length * x)
    return (rng.random(chance.shape) < chance).astype(float), x, chance


@pytest.mark.slow
@pytest.mark.parametrize("length", [0.0, 1.0])
def test_coverage_of_strengths_and_of_the_effect_of_length(length: float) -> None:
    """A 95 % interval covers the strengths, and the effect of length, that very many neurons would show."""
    rng = np.random.default_rng(11)
    levels = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    design = Design(4, np.repeat(LEFT, len(levels)), np.repeat(RIGHT, len(levels)), np.tile(levels, len(PAIRS)))

    def table(outcomes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points and counts by neuron (first axis kept), pair and level."""
        one_hot = (x[..., None] == levels).astype(float)
        points = (outcomes[..., None] * one_hot).reshape(*outcomes.shape[:-1], -1)
        return points, one_hot.reshape(*outcomes.shape[:-1], -1)

    _, x, chance = draws_of(1, 400_000, length, rng)
    points, counts = table(chance[0], x[0])
    truth = fit(design, points.sum(axis=0), counts.sum(axis=0), ridge=1e-6)

    benchmarks, neurons, draws = 1000, 50, 200
    outcomes, x, _ = draws_of(benchmarks, neurons, length, rng)
    covered = np.zeros(5)
    for number in range(benchmarks):
        points, counts = table(outcomes[number], x[number])
        start = fit_quickly(design, points.sum(axis=0), counts.sum(axis=0))
        drawn = refit(design, *Resamples(neurons, number, draws).sums(points, counts), 0.1, start)
        intervals = percentiles(drawn, np.full(5, neurons), 0.95)
        covered += [
            found is not None and found[0] <= value <= found[1] for found, value in zip(intervals, truth, strict=True)
        ]
    assert (covered / benchmarks >= 0.93).all(), covered
    assert (covered / benchmarks <= 0.97).all(), covered


def fit_quickly(design: Design, points: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return refit(design, points[None], counts[None], 0.1, np.zeros(design.matrix.shape[1]))[0]


def test_the_samples_of_some_clusters_are_the_same_for_all_that_is_asked() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2))
    one, other = Resamples(20, 3, 50).sums(values, values[:, :1])
    np.testing.assert_allclose(one[:, :1], other)
    np.testing.assert_allclose(one, Resamples(20, 3, 50).sums(values)[0])
    assert Resamples(0, 3, 50).sums(np.zeros((0, 2)))[0].shape == (50, 2)
    with pytest.raises(ValueError, match="one for each cluster"):
        Resamples(20, 3, 50).sums(values[:5])
