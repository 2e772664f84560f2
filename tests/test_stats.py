"""The statistics against values worked out by hand, invariants, and a simulation of their coverage."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.folder import write_json
from harness.records import Description, Neuron, Score, Status, Usage, Verdict, Winner
from harness.results.comparisons import MISSING, merge_verdicts
from harness.results.leaderboard import build_leaderboard
from harness.results.schema import Leaderboard, leaderboard_from_json
from harness.results.tables import write_csv
from harness.stats.bootstrap import clustered_interval, clustered_intervals
from harness.stats.config import StatisticsConfig

N1, N2, N3 = Neuron(0, 1), Neuron(0, 2), Neuron(1, 0)
FIRST, SECOND, TIE = Winner.FIRST, Winner.SECOND, Winner.TIE


def verdict(
    first: str,
    second: str,
    winner: Winner | None,
    *,
    neuron: Neuron = N1,
    judge: str = "llm",
    symmetric: bool = False,
    status: Status = Status.OK,
) -> Verdict:
    return Verdict(neuron, judge, first, second, symmetric, winner, status, usage=Usage(1, 100, 10, 0.1))


def board(verdicts: list[Verdict], **options: object) -> Leaderboard:
    settings_ = {"controls": (), "seed": 7, "config": StatisticsConfig(draws=40)} | options
    return build_leaderboard(verdicts, (), (), **settings_)  # type: ignore[arg-type]


# --- comparisons ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one_way", "other_way", "points", "inconsistent"),
    [
        (FIRST, SECOND, 1.0, False),  # a was shown first and won, then second and won
        (SECOND, FIRST, 0.0, False),
        (TIE, TIE, 0.5, False),
        (FIRST, FIRST, 0.5, True),  # whoever was shown first won: no information
        (SECOND, SECOND, 0.5, True),
        (FIRST, TIE, 0.5, True),
        (TIE, FIRST, 0.5, True),
    ],
)
def test_both_orders_are_one_comparison(one_way: Winner, other_way: Winner, points: float, inconsistent: bool) -> None:
    [comparison] = merge_verdicts([verdict("a", "b", one_way), verdict("b", "a", other_way)])
    assert (comparison.left, comparison.right) == ("a", "b")
    assert (comparison.points, comparison.inconsistent, comparison.both_orders) == (points, inconsistent, True)
    assert comparison.failures == ()


def test_a_symmetric_verdict_is_a_whole_comparison() -> None:
    [comparison] = merge_verdicts([verdict("b", "a", FIRST, symmetric=True)])
    assert (comparison.points, comparison.both_orders) == (0.0, False)


@pytest.mark.parametrize(
    ("records", "failures"),
    [
        ([verdict("a", "b", FIRST)], (MISSING,)),
        ([verdict("a", "b", FIRST), verdict("b", "a", None, status=Status.REFUSED)], ("refused",)),
        (
            [verdict("a", "b", None, status=Status.UNPARSED), verdict("b", "a", None, status=Status.TRUNCATED)],
            ("truncated", "unparsed"),
        ),
        ([verdict("a", "b", None, status=Status.FAILED)], ("failed", MISSING)),
        ([verdict("a", "b", None, status=Status.FAILED, symmetric=True)], ("failed",)),
        ([verdict("a", "b", None, symmetric=True)], ("failed",)),  # ok without a winner is not ok
    ],
)
def test_a_failure_is_counted_and_never_a_tie(records: list[Verdict], failures: tuple[str, ...]) -> None:
    [comparison] = merge_verdicts(records)
    assert comparison.points is None
    assert not comparison.inconsistent
    assert comparison.failures == failures
    row = board(records).overall.rows[0]
    assert (row.comparisons, row.ties, row.failed, row.win_rate, row.interval) == (0, 0, 1, None, None)


def test_verdicts_that_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="with itself"):
        merge_verdicts([verdict("a", "a", TIE)])
    with pytest.raises(ValueError, match="keep the last one"):
        merge_verdicts([verdict("a", "b", TIE), verdict("a", "b", FIRST)])


# --- bootstrap -----------------------------------------------------------------------------------------------------


def test_interval_of_two_clusters_by_hand() -> None:
    # Two clusters with means 0 and 1: a draw is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4. Student's t with one degree of
    # freedom at 0.1 is tan(0.05 pi) = 0.158; times sqrt(2) 0.224, beyond which the normal has 41 %; at 0.3 23.5 %.
    values, clusters = [0.0, 1.0], ["x", "y"]
    assert clustered_interval(values, clusters, seed=1, confidence=0.95) == (0.0, 1.0)
    assert clustered_interval(values, clusters, seed=1, confidence=0.30) == (0.0, 1.0)
    assert clustered_interval(values, clusters, seed=1, confidence=0.10) == (0.5, 0.5)


def test_clusters_weigh_by_their_size() -> None:
    # Cluster x holds three ones, y one zero: a draw is 1 (x, x), 0 (y, y), or 3/4, the mean of all four values.
    assert clustered_interval([1, 1, 1, 0], ["x", "x", "x", "y"], seed=1, confidence=0.10) == (0.75, 0.75)


def test_the_observations_of_a_cluster_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=40)
    alone = clustered_interval(list(means), list(range(40)), seed=3)
    copies = clustered_interval(list(np.repeat(means, 25)), list(np.repeat(np.arange(40), 25)), seed=3)
    assert alone is not None
    assert copies == pytest.approx(alone)  # 25 copies of each value say nothing new
    ignored = clustered_interval(list(np.repeat(means, 25)), list(range(1000)), seed=3)
    assert ignored is not None
    assert ignored[1] - ignored[0] < 0.3 * (alone[1] - alone[0])  # what forgetting the clusters would claim


def test_degenerate_clusters() -> None:
    assert clustered_interval([], [], seed=1) is None
    assert clustered_interval([1.0, 0.0], ["x", "x"], seed=1) is None
    assert clustered_interval([0.5, 0.5, 0.5], ["x", "y", "z"], seed=1) == (0.5, 0.5)


def test_bad_input_raises() -> None:
    with pytest.raises(ValueError, match="cluster id is None"):
        clustered_interval([1.0, 0.0], ["x", None], seed=1)
    with pytest.raises(ValueError, match="2 values but 1"):
        clustered_interval([1.0, 0.0], ["x"], seed=1)
    with pytest.raises(ValueError, match="not finite"):
        clustered_interval([1.0, math.nan], ["x", "y"], seed=1)
    with pytest.raises(ValueError, match="confidence"):
        clustered_interval([1.0, 0.0], ["x", "y"], seed=1, confidence=1.0)
    with pytest.raises(ValueError, match="one shape"):
        clustered_intervals([[1.0]], [[1.0, 2.0]], seed=1)


def test_columns_with_absent_clusters_equal_the_columns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, size=(30, 5))
    totals = counts * rng.random((30, 5))
    together = clustered_intervals(totals, counts, seed=2)
    alone = [clustered_intervals(totals[:, [c]], counts[:, [c]], seed=2)[0] for c in range(5)]
    np.testing.assert_allclose(np.array(together), np.array(alone))
    monkeypatch.setattr("harness.stats.bootstrap._WEIGHTS_AT_ONCE", 1000)  # many small chunks draw the same numbers
    np.testing.assert_allclose(np.array(clustered_intervals(totals, counts, seed=2)), np.array(together))


# --- leaderboard ---------------------------------------------------------------------------------------------------


def both(first: str, second: str, points: float, neuron: Neuron, judge: str = "llm") -> list[Verdict]:
    """Return both orders of a consistent comparison in which ``first`` got ``points``."""
    winner = {1.0: FIRST, 0.5: TIE, 0.0: SECOND}[points]
    flipped = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}[winner]
    return [
        verdict(first, second, winner, neuron=neuron, judge=judge),
        verdict(second, first, flipped, neuron=neuron, judge=judge),
    ]


def test_leaderboard_by_hand() -> None:
    verdicts = [
        *both("good", "bad", 1.0, N1),
        *both("good", "bad", 1.0, N2),
        verdict("good", "bad", FIRST, neuron=N3),  # inconsistent: the first shown won twice
        verdict("bad", "good", FIRST, neuron=N3),
        *both("good", "mid", 0.5, N1),
        verdict("good", "mid", FIRST, neuron=N2),  # failed: the other order was refused
        verdict("mid", "good", None, neuron=N2, status=Status.REFUSED),
        verdict("mid", "bad", SECOND, neuron=N1, judge="embedding", symmetric=True),
    ]
    descriptions = [
        Description(N1, "good", "fires on  three words", usage=Usage(2, 50, 5, 1.5)),
        Description(N2, "good", "two words", usage=Usage(1, 25, 5, 0.5)),
        Description(N3, "good", "", Status.REFUSED, "declined"),
        Description(N1, "bad", "word"),
        Description(N1, "silent", "", Status.FAILED),
    ]
    result = build_leaderboard(verdicts, (), descriptions, controls=["bad"], seed=1)
    assert result.neurons == 3
    rows = {row.describer: row for row in result.overall.rows}
    # Against real methods, bad: 0, 0, 1/2 against good and 1 against mid = 1.5 of 4; good and mid: 1/2 of 1.
    assert [row.describer for row in result.overall.rows] == ["good", "mid", "bad", "silent"]
    good, bad, mid, silent = (rows[name] for name in ("good", "bad", "mid", "silent"))
    assert (good.win_rate, good.comparisons, good.wins, good.losses, good.ties) == (0.5, 1, 0, 0, 1)
    assert (good.inconsistent, good.failed, good.mean_words, good.control) == (0, 1, 3.0, False)
    assert (bad.win_rate, bad.comparisons, bad.wins, bad.losses, bad.ties) == (0.375, 4, 1, 2, 1)
    assert (bad.control, bad.inconsistent, bad.mean_words) == (True, 1, 1.0)
    assert (mid.win_rate, mid.comparisons, mid.failed, mid.interval, mid.mean_words) == (0.5, 1, 1, None, None)
    assert (silent.win_rate, silent.comparisons, silent.interval) == (None, 0, None)
    assert good.interval is None  # one neuron
    assert bad.interval is not None
    assert bad.interval[0] <= 0.375 <= bad.interval[1]

    cells = {(cell.row, cell.column): cell for cell in result.overall.cells}
    assert set(cells) == {(a, b) for a in ("good", "bad", "mid") for b in ("good", "bad", "mid") if a != b}
    assert (cells["good", "bad"].win_rate, cells["good", "bad"].ties) == (0.833333, 1)
    assert (cells["good", "mid"].win_rate, cells["good", "mid"].failed) == (0.5, 1)
    assert cells["good", "mid"].failures == cells["mid", "good"].failures == {"refused": 1}

    assert [item.judge for item in result.judges] == ["embedding", "llm"]
    embedding, llm = result.health
    assert (embedding.inconsistency, embedding.first_position_rate, embedding.comparisons) == (None, None, 1)
    # llm: five comparisons, one failed, one of the four decided inconsistent. Winners among its ok verdicts:
    # N1 first, second; N2 first, second; N3 first, first; mid on N2 first = 5 of 7 won by the first shown.
    assert (llm.comparisons, llm.failed, llm.inconsistent, llm.inconsistency) == (4, 1, 1, 0.25)
    assert llm.first_position_rate == round(5 / 7, 6)
    assert llm.statuses == {"ok": 9, "unparsed": 0, "refused": 1, "truncated": 0, "degenerate": 0, "failed": 0}
    assert llm.usage == Usage(10, 1000, 100)  # no seconds: equal answers make an equal leaderboard

    wrote = {row.describer: row for row in result.descriptions}
    nothing = {"unparsed": 0, "truncated": 0, "degenerate": 0, "failed": 0}
    assert wrote["good"].statuses == {"ok": 2, "refused": 1, **nothing}
    assert wrote["good"].usage == Usage(3, 75, 10)
    assert wrote["silent"].mean_words is None


def test_scores_by_hand() -> None:
    scores = [
        Score(N1, "sim", "a", 0.5, usage=Usage(1, 10, 0, 0.25)),
        Score(N2, "sim", "a", -0.1),
        Score(N3, "sim", "a", None, Status.UNPARSED),
        Score(N1, "sim", "b", 0.9),
        Score(N1, "sim", "c", None, Status.FAILED),
        Score(N2, "sim", "c", math.nan),  # no finite value: a failure, whatever it says
        Score(N1, "auc", "a", 0.7),
    ]
    result = build_leaderboard((), scores, (), controls={"b"}, seed=1)
    assert [(row.scorer, row.describer) for row in result.scores] == [
        ("auc", "a"),
        ("sim", "b"),
        ("sim", "a"),
        ("sim", "c"),
    ]
    _, b, a, c = result.scores
    assert (a.mean, a.scores, a.interval) == (0.2, 2, (-0.1, 0.5))
    assert a.statuses["unparsed"] == 1
    assert (b.mean, b.interval, b.control) == (0.9, None, True)
    assert (c.mean, c.scores, c.statuses["failed"]) == (None, 0, 2)
    with pytest.raises(ValueError, match="two scores of the same item"):
        build_leaderboard((), [scores[0], scores[0]], (), controls=(), seed=1)


def test_degenerate_leaderboards() -> None:
    empty = board([])
    assert (empty.neurons, empty.overall.rows, empty.judges, empty.health) == (0, (), (), ())

    one_neuron = board(both("a", "b", 1.0, N1))
    assert [(row.win_rate, row.interval) for row in one_neuron.overall.rows] == [(1.0, None), (0.0, None)]

    ties = board([item for neuron in (N1, N2) for item in both("a", "b", 0.5, neuron)])
    assert [(row.win_rate, row.interval) for row in ties.overall.rows] == [(0.5, (0.5, 0.5))] * 2
    assert ties.health[0].first_position_rate is None

    failed = board([verdict("a", "b", None, neuron=n, status=Status.UNPARSED) for n in (N1, N2)])
    assert [(row.win_rate, row.failed) for row in failed.overall.rows] == [(None, 2)] * 2
    assert failed.overall.cells[0].failures == {MISSING: 2, "unparsed": 2}
    assert failed.health[0].inconsistency is None


def test_json_and_csv_round_trip(tmp_path: Path) -> None:
    result = board([*both("a", "b", 1.0, N1), *both("a", "b", 0.5, N2)], controls={"b"})
    write_json(tmp_path / "leaderboard.json", result.to_json())
    assert leaderboard_from_json(json.loads((tmp_path / "leaderboard.json").read_text())) == result
    write_csv(result, tmp_path / "leaderboard.csv")
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["judge"], row["describer"]) for row in rows] == [
        ("all judges", "a"),
        ("all judges", "b"),
        ("llm", "a"),
        ("llm", "b"),
    ]
    assert (rows[0]["win_rate"], rows[0]["low"], rows[0]["high"], rows[0]["mean_words"]) == ("0.75", "0.5", "1.0", "")
    assert (rows[1]["control"], rows[1]["losses"]) == ("True", "1")


# --- invariants ----------------------------------------------------------------------------------------------------

NAMES = ["alpha", "beta", "gamma", "delta"]


@st.composite
def benchmarks(draw: Callable[..., random.Random]) -> list[Verdict]:
    """A benchmark with every kind of verdict: symmetric or not, missing orders, failures, ties."""
    rng = draw(st.randoms(use_true_random=False))
    verdicts = []
    for neuron in [Neuron(0, index) for index in range(rng.randint(1, 4))]:
        for judge, symmetric in (("llm", False), ("embedding", True)):
            for place, left in enumerate(NAMES):
                for right in NAMES[place + 1 :]:
                    for first, second in [(left, right)] if symmetric else [(left, right), (right, left)]:
                        if rng.random() < 0.1:
                            continue
                        ok = rng.random() < 0.85
                        winner = rng.choice(list(Winner)) if ok else None
                        status = Status.OK if ok else rng.choice(list(Status)[1:])
                        verdicts.append(
                            verdict(
                                first, second, winner, neuron=neuron, judge=judge, symmetric=symmetric, status=status
                            )
                        )
    return verdicts


def flip(item: Verdict) -> Verdict:
    """Show the same two descriptions in the other order, with the same one winning."""
    winner = {FIRST: SECOND, SECOND: FIRST, TIE: TIE, None: None}[item.winner]
    return dataclasses.replace(item, first=item.second, second=item.first, winner=winner)


@settings(max_examples=25, deadline=None)
@given(verdicts=benchmarks(), rng=st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(verdicts: list[Verdict], rng: random.Random) -> None:
    shuffled = rng.sample(verdicts, len(verdicts))
    assert board(shuffled) == board(verdicts)


@settings(max_examples=25, deadline=None)
@given(verdicts=benchmarks())
def test_the_order_shown_does_not_matter(verdicts: list[Verdict]) -> None:
    before, after = board(verdicts), board([flip(item) for item in verdicts])
    assert (after.overall, after.judges) == (before.overall, before.judges)
    for one, other in zip(before.health, after.health, strict=True):
        if one.first_position_rate is None:
            assert other.first_position_rate is None
        else:
            assert other.first_position_rate == pytest.approx(1 - one.first_position_rate, abs=1.1e-6)


@settings(max_examples=25, deadline=None)
@given(verdicts=benchmarks(), names=st.permutations(NAMES))
def test_names_do_not_matter(verdicts: list[Verdict], names: list[str]) -> None:
    new = dict(zip(NAMES, names, strict=True))
    renamed = board([dataclasses.replace(v, first=new[v.first], second=new[v.second]) for v in verdicts])
    for one, other in zip(
        (board(verdicts).overall, *board(verdicts).judges), (renamed.overall, *renamed.judges), strict=True
    ):
        expected = {dataclasses.replace(row, describer=new[row.describer]) for row in one.rows}
        assert set(other.rows) == expected
        cells = {(cell.row, cell.column): cell for cell in other.cells}
        for cell in one.cells:
            twin = cells[new[cell.row], new[cell.column]]
            assert (twin.win_rate, twin.ties, twin.failures) == (cell.win_rate, cell.ties, cell.failures)


@settings(max_examples=25, deadline=None)
@given(verdicts=benchmarks())
def test_every_comparison_gives_one_point(verdicts: list[Verdict]) -> None:
    result = board(verdicts)
    for one in (result.overall, *result.judges):
        cells = {(cell.row, cell.column): cell for cell in one.cells}
        for (row, column), cell in cells.items():
            mirror = cells[column, row]
            assert (cell.comparisons, cell.ties, cell.failures) == (mirror.comparisons, mirror.ties, mirror.failures)
            if cell.win_rate is None:
                assert mirror.win_rate is None
            else:
                assert mirror.win_rate is not None
                assert cell.win_rate + mirror.win_rate == pytest.approx(1, abs=1.1e-6)
        decided = sum(cell.comparisons for cell in one.cells) / 2
        assert sum((row.win_rate or 0) * row.comparisons for row in one.rows) == pytest.approx(decided, abs=1e-4)
        for row in one.rows:
            assert row.wins + row.losses + row.ties == row.comparisons
            assert row.interval is None or 0 <= row.interval[0] <= row.interval[1] <= 1
    json.dumps(result.to_json(), allow_nan=False)
