"""The leaderboard of benchmarks with planted truth: strengths, length, trust, panels, breakdowns, tables, merging."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import TypeAdapter

from harness.errors import HarnessError
from harness.folder import RunFolder, write_json, write_table
from harness.records import (
    Description,
    EvidenceSize,
    Neuron,
    Score,
    Side,
    Sign,
    Status,
    VectorKind,
    VectorSummary,
    Verdict,
    Winner,
)
from harness.results import columns
from harness.results.comparability import incomparable, leaderboard_of
from harness.results.facets import facets_of
from harness.results.leaderboard import build_leaderboard
from harness.results.schema import Leaderboard, leaderboard_from_json
from harness.results.tables import csv_table, latex_table, markdown_table
from harness.stats.config import StatisticsConfig

CONFIG = StatisticsConfig(draws=200)
METHODS = {"rotate": 1.0, "maxact": 0.3, "vocab": -0.1, "generic": -1.5}


def benchmark(
    neurons: int = 80,
    *,
    methods: dict[str, float] = METHODS,
    judges: Sequence[str] = ("llm",),
    length: float = 0.0,
    words: dict[str, float] | None = None,
    seed: int = 0,
) -> tuple[list[Verdict], list[Description]]:
    """Return symmetric verdicts by strength and length, and descriptions of random length."""
    rng = np.random.default_rng(seed)
    verdicts, descriptions = [], []
    for place in range(neurons):
        neuron = Neuron(place % 2, place)
        size = {name: 1 + int(rng.poisson((words or {}).get(name, 10))) for name in methods}
        for name in methods:
            descriptions.append(Description(neuron, name, " ".join(["word"] * size[name])))
        for judge, (a, b) in itertools.product(judges, itertools.combinations(sorted(methods), 2)):
            odds = methods[a] - methods[b] + length * np.tanh((size[a] - size[b]) / 5)
            winner = Winner.FIRST if rng.random() < 1 / (1 + np.exp(-odds)) else Winner.SECOND
            verdicts.append(Verdict(neuron, judge, a, b, True, winner))
    return verdicts, descriptions


def leaderboard(verdicts: Sequence[Verdict], descriptions: Sequence[Description] = (), **more: Any) -> Leaderboard:
    options = {"controls": {"generic"}, "seed": 3, "config": CONFIG, "scores": ()} | more
    return build_leaderboard(verdicts, descriptions=descriptions, **options)


def rows(board: Leaderboard) -> dict[str, Any]:
    return {row.describer: row for row in board.overall.rows}


# --- strengths and ranks -------------------------------------------------------------------------------------------


def test_planted_strengths_are_within_their_intervals_and_ranked() -> None:
    found = rows(leaderboard(*benchmark(250)))
    centre = np.mean(list(METHODS.values()))
    for name, strength in METHODS.items():
        low, high = found[name].strength_interval
        assert low < strength - centre < high
        assert low < found[name].strength < high
    assert [found[name].rank for name in METHODS] == [1, 2, 3, 4]
    assert found["rotate"].best == 1
    assert found["rotate"].rank_interval == (1, 1)
    assert found["generic"].rank_interval == (4, 4)
    # Few neurons leave the order of the middle open, and say so.
    few = rows(leaderboard(*benchmark(12)))
    assert few["maxact"].rank_interval != (2, 2)
    assert sum(row.best for row in few.values()) >= 1


def test_describers_that_never_met_have_no_strengths() -> None:
    verdicts, _ = benchmark(20)
    islands = [item for item in verdicts if {item.first, item.second} in ({"generic", "maxact"}, {"rotate", "vocab"})]
    board = leaderboard(islands)
    assert board.overall.graph.groups == (("generic", "maxact"), ("rotate", "vocab"))
    assert "No chain of comparisons" in board.overall.graph.words
    assert all(row.strength is row.rank is row.adjusted_win_rate is None for row in board.overall.rows)
    # maxact met no real method.
    assert [row.describer for row in board.overall.rows if row.win_rate is None] == ["maxact"]


def test_a_clean_sweep_is_told_and_has_finite_strengths() -> None:
    always = [
        Verdict(Neuron(0, n), "llm", a, b, True, Winner.FIRST)
        for n in range(9)
        for a, b in itertools.combinations("abc", 2)
    ]
    board = leaderboard(always, controls=())
    assert board.overall.graph.unbeaten == (("a",), ("b",), ("c",))
    assert "a above b above c" in board.overall.graph.words
    assert [row.rank for row in board.overall.rows] == [1, 2, 3]
    assert board.overall.rows[0].strength < 10
    assert board.overall.cycles.rate == 0
    [test] = [test for test in board.overall.tests if (test.left, test.right) == ("a", "b")]
    # It wins every comparison of the two, and is worth 1 against everyone as the other is worth 1/2.
    assert (test.neurons, test.difference, test.overall_difference, test.effect) == (9, 1.0, 0.5, None)
    assert test.p_value == pytest.approx(2.0**-8)
    assert test.p_holm == pytest.approx(3 * 2.0**-8)


# --- length --------------------------------------------------------------------------------------------------------


def test_length_control_finds_the_planted_effect_and_takes_it_away() -> None:
    even = {"long": 0.0, "short": 0.0, "third": 0.0}
    wordy = {"long": 16.0, "short": 6.0, "third": 10.0}
    board = leaderboard(*benchmark(400, methods=even, length=1.5, words=wordy), controls=())
    found, effect = rows(board), board.overall.length
    assert found["long"].win_rate > 0.7 > 0.3 > found["short"].win_rate
    for row in found.values():  # equally good, so half at equal length
        low, high = row.adjusted_interval
        assert low < 0.5 < high
        assert abs(row.adjusted_win_rate - 0.5) < 0.06
    assert effect.interval[0] > 0
    assert effect.effect == pytest.approx(1.5, abs=0.6)
    assert effect.longer_win_rate > 0.7
    assert (effect.unknown, effect.words) == (0, "")


def test_without_an_effect_raw_and_adjusted_agree() -> None:
    board = leaderboard(*benchmark(300))
    low, high = board.overall.length.interval
    assert low < 0 < high
    for row in board.overall.rows:
        assert row.adjusted_win_rate == pytest.approx(row.win_rate, abs=0.01)


def test_where_length_cannot_be_controlled_for_it_is_said() -> None:
    verdicts, descriptions = benchmark(20)
    none = leaderboard(verdicts).overall
    assert (none.length.effect, none.length.unknown) == (None, len(verdicts))
    assert "known length" in none.length.words
    same = [Description(d.neuron, d.describer, "two words") for d in descriptions]
    assert "equally long" in leaderboard(verdicts, same).overall.length.words
    own = [Description(d.neuron, d.describer, "word " * len(d.describer)) for d in descriptions]
    board = leaderboard(verdicts, own).overall
    assert "cannot be separated" in board.length.words
    assert all(row.adjusted_win_rate is None for row in board.rows)
    assert board.length.longer_win_rate is not None


# --- trust ---------------------------------------------------------------------------------------------------------


def test_controls_that_lose_are_trusted_and_those_that_do_not_are_not() -> None:
    good = leaderboard(*benchmark(100)).overall.trust
    assert good.trustworthy is True
    assert good.words.startswith("The controls lose as they must")
    assert good.controls[0].comparisons == 300
    blind = leaderboard(*benchmark(100, methods=dict.fromkeys(METHODS, 0.0))).overall.trust
    assert blind.trustworthy is False
    assert blind.words.startswith("Untrustworthy: the control generic wins")
    assert "reaches 50 %" in blind.words
    # A control may win less than half in all, and still beat one of the methods.
    mixed = leaderboard(*benchmark(100, methods={"a": 4.0, "b": 4.0, "c": -3.0, "generic": 0.0})).overall.trust
    assert mixed.controls[0].interval[1] < 0.5
    assert mixed.controls[0].beats == ("c",)
    assert "beats c significantly" in mixed.words
    strict = StatisticsConfig(draws=200, control_win_rate=0.1)
    assert leaderboard(*benchmark(100), config=strict).overall.trust.trustworthy is False


def test_controls_change_no_headline() -> None:
    verdicts, _ = benchmark(60)
    more, _ = benchmark(60, methods=METHODS | {"poor": -9.0, "worse": -9.0})
    known = {(item.neuron, item.first, item.second): item.winner for item in verdicts}
    more = [
        dataclasses.replace(item, winner=known.get((item.neuron, item.first, item.second), item.winner))
        for item in more
    ]
    before, after = leaderboard(verdicts), leaderboard(more, controls={"generic", "poor", "worse"})
    few, many = rows(before), rows(after)
    assert all((row.win_rate, row.interval) == (many[name].win_rate, many[name].interval) for name, row in few.items())
    assert len(before.overall.head_to_head) == 3
    assert before.overall.head_to_head == after.overall.head_to_head
    # Wins against controls have a column of their own.
    (only,) = [cell for cell in before.overall.against_controls if cell.row == "rotate"]
    assert (few["rotate"].control_win_rate, few["rotate"].control_interval) == (only.win_rate, only.interval)
    assert few["generic"].control_win_rate is None
    assert many["rotate"].control_win_rate > few["rotate"].control_win_rate
    assert many["generic"].control_win_rate > 0.9
    assert few["rotate"].comparisons == many["rotate"].comparisons == 2 * 60  # maxact and vocab
    assert few["generic"].comparisons == 3 * 60
    alone = rows(leaderboard([item for item in verdicts if {item.first, item.second} == {"generic", "rotate"}]))
    assert alone["rotate"].comparisons == 60  # with one real method, the control counts


def test_a_control_that_knows_the_neuron_may_win() -> None:
    verdicts, _ = benchmark(100, methods={"a": 0.0, "b": 0.0, "generic": -4.0, "raw": 3.0})
    found = leaderboard(verdicts, controls={"generic", "raw"}, informed={"raw"}).overall.trust
    assert found.trustworthy is True
    assert "raw, a control that knows the neuron, wins 9" in found.words
    assert leaderboard(verdicts, controls={"generic", "raw"}).overall.trust.trustworthy is False


def test_boards_of_judges_that_see_different_sides_are_shown_apart() -> None:
    verdicts, _ = benchmark(10, judges=("text", "logits"))
    sided = [dataclasses.replace(item, side=Side.INPUT if item.judge == "text" else Side.OUTPUT) for item in verdicts]
    apart, together = leaderboard(sided), leaderboard(verdicts)
    assert [board.title for board in apart.shown] == ["Judge logits (output side)", "Judge text (input side)"]
    assert [board.title for board in together.shown] == ["All judges together"]
    assert markdown_table(apart).count("| describer | rank |") == 2
    assert apart.overall.rows == together.overall.rows


def test_controls_among_each_other_prove_nothing() -> None:
    verdicts, descriptions = benchmark(60, methods={"generic": 0.0, "shuffled": 0.0, "rotate": 3.0})
    board = leaderboard(verdicts, descriptions, controls={"generic", "shuffled"})
    assert board.overall.trust.trustworthy is True
    assert [check.comparisons for check in board.overall.trust.controls] == [60, 60]
    only = leaderboard(verdicts, controls=("generic", "shuffled", "rotate")).overall.trust
    assert (only.trustworthy, only.words) == (
        None,
        "Trust was not tested: no control was compared with a real method.",
    )
    assert leaderboard(verdicts, controls=()).overall.trust.trustworthy is None


def test_a_coin_is_not_trusted_because_it_fell_one_way_on_a_few_neurons() -> None:
    # 2 / 2^n, the smallest p of a two-sided sign test, is 0.0625 with five neurons and 0.03125 with six.
    always = [Verdict(Neuron(0, index), "coin", "a", "generic", True, Winner.FIRST) for index in range(6)]
    few, enough = (leaderboard(always[:count]).overall.trust for count in (5, 6))
    assert few.trustworthy is None
    assert few.words == "Trust was not tested: at least 6 neurons are needed to test whether the controls lose."
    assert enough.trustworthy is True
    lenient = StatisticsConfig(draws=200, confidence=0.9)
    assert leaderboard(always[:5], config=lenient).overall.trust.trustworthy is True


# --- verdicts as they are, and judges as a panel -------------------------------------------------------------------


def test_raw_verdicts_stand_beside_merged_ones() -> None:
    n = Neuron(0, 0)
    # a wins one order and ties the other: a tie, but 3/4 of the raw points; of a and c one order failed.
    verdicts = [
        Verdict(n, "llm", "a", "b", False, Winner.FIRST),
        Verdict(n, "llm", "b", "a", False, Winner.TIE),
        Verdict(n, "llm", "a", "c", False, Winner.SECOND),
        Verdict(n, "llm", "c", "a", False, None, Status.REFUSED),
    ]
    found = rows(leaderboard(verdicts))
    assert (found["a"].win_rate, found["a"].raw_win_rate, found["a"].failed) == (0.5, 0.5, 1)
    assert (found["b"].win_rate, found["b"].raw_win_rate) == (0.5, 0.25)
    assert (found["c"].win_rate, found["c"].raw_win_rate) == (None, 1.0)


def test_a_panel_of_judges() -> None:
    verdicts, descriptions = benchmark(60, judges=("one", "two"))
    contrary = [
        Verdict(v.neuron, "zero", v.first, v.second, True, Winner.SECOND if v.winner is Winner.FIRST else Winner.FIRST)
        for v in verdicts
        if v.judge == "one"
    ]
    board = leaderboard([*verdicts, *contrary], descriptions)
    kappas = {entry.judges: entry for entry in board.agreement}
    assert set(kappas) == {("one", "two"), ("one", "zero"), ("two", "zero"), ("one", "two", "zero")}
    assert (kappas["one", "zero"].kappa, kappas["one", "zero"].equal) == (-1.0, 0.0)
    assert kappas["one", "two"].kappa == pytest.approx(2 * kappas["one", "two"].equal - 1, abs=2e-6)
    assert kappas["one", "two"].items == 60 * 6
    # Who sorts first has no part in it.
    renamed = {name: f"{9 - place}" for place, name in enumerate(sorted(METHODS))}
    again = leaderboard(
        [Verdict(v.neuron, v.judge, renamed[v.first], renamed[v.second], True, v.winner) for v in verdicts]
    )
    assert again.agreement[0].kappa == kappas["one", "two"].kappa
    without = {entry.judge: entry for entry in board.left_out}
    assert [row.describer for row in without["zero"].rows] == [row.describer for row in board.overall.rows]
    alone = rows(leaderboard(verdicts))
    assert {row.describer: row.win_rate for row in without["zero"].rows} == {k: v.win_rate for k, v in alone.items()}
    assert [row.rank for row in sorted(without["zero"].rows, key=lambda row: row.win_rate or 0)] == [4, 3, 2, 1]
    assert leaderboard(verdicts[:12]).left_out != ()
    assert leaderboard(benchmark(5)[0]).left_out == leaderboard(benchmark(5)[0]).agreement == ()


def test_cycles_on_single_neurons() -> None:
    def triad(neuron: int, winners: Sequence[Winner]) -> list[Verdict]:
        pairs = itertools.combinations("abc", 2)
        return [
            Verdict(Neuron(0, neuron), "llm", *pair, True, winner) for pair, winner in zip(pairs, winners, strict=True)
        ]

    first, second, tie = Winner.FIRST, Winner.SECOND, Winner.TIE
    # a > b, a < c, b > c goes round; so does its mirror; a > b, a > c, b > c does not; one triad with a tie.
    verdicts = triad(0, [first, second, first]) + triad(1, [second, first, second]) + triad(2, [first, first, first])
    cycles = leaderboard(verdicts + triad(3, [first, tie, first]) + triad(4, [first, second, first])[:2]).overall.cycles
    assert (cycles.rate, cycles.triads, cycles.tied) == (round(2 / 3, 6), 3, 1)
    assert cycles.majority == ()
    rng = np.random.default_rng(0)
    guessed = [triad(n, [(first, second)[side] for side in rng.integers(0, 2, 3)]) for n in range(600)]
    guessing = leaderboard(list(itertools.chain(*guessed))).overall.cycles
    assert guessing.interval is not None
    assert guessing.interval[0] < 0.25 < guessing.interval[1]  # what coins do
    ring = leaderboard(triad(0, [first, second, first]) + triad(1, [first, second, first])).overall.cycles
    assert ring.majority == (("a", "b", "c"),)


def test_a_pairs_difference_is_of_the_test_and_not_of_the_board() -> None:
    # a beats b on 7 neurons of 10 and never c; b always beats c: against everyone b is ahead, against each other a is.
    verdicts = [
        Verdict(Neuron(0, n), "llm", one, two, True, winner)
        for n in range(10)
        for one, two, winner in (
            ("a", "b", Winner.FIRST if n < 7 else Winner.SECOND),
            ("a", "c", Winner.SECOND),
            ("b", "c", Winner.FIRST),
        )
    ]
    board = leaderboard(verdicts, controls=()).overall
    (test,) = [test for test in board.tests if (test.left, test.right) == ("a", "b")]
    assert (test.difference, test.overall_difference) == pytest.approx((0.4, 0.35 - 0.65))
    assert test.effect == pytest.approx(0.4 / np.std([1] * 7 + [-1] * 3, ddof=1), abs=1e-5)
    (cell,) = [cell for cell in board.cells if (cell.row, cell.column) == ("a", "b")]
    assert cell.interval is not None
    assert test.difference_interval == pytest.approx([2 * bound - 1 for bound in cell.interval], abs=1e-5)
    assert test.overall_interval is not None
    assert test.overall_interval[0] < -0.3 < test.overall_interval[1] < 0.4


def test_wins_to_losses_by_hand() -> None:
    first, second, tie = Winner.FIRST, Winner.SECOND, Winner.TIE
    # On each of two neurons a wins two of three decisive comparisons with b: 4 wins, 2 losses, whatever is resampled.
    outcomes = {"one": first, "two": first, "three": second, "four": tie}
    verdicts = [Verdict(Neuron(0, n), judge, "a", "b", True, won) for n in range(2) for judge, won in outcomes.items()]
    verdicts += [Verdict(Neuron(0, n), "one", "a", "c", True, first) for n in range(2)]  # no losses
    verdicts += [Verdict(Neuron(0, n), "one", "b", "c", True, won) for n, won in enumerate((first, second))]
    board = leaderboard(verdicts, controls=())
    cells = {(cell.row, cell.column): cell for cell in board.overall.cells}
    pair, mirror = cells["a", "b"], cells["b", "a"]
    assert (pair.wins, pair.losses, pair.ties, pair.wins_to_losses) == (4, 2, 2, 2.0)
    assert (mirror.wins, mirror.losses, mirror.ties, mirror.wins_to_losses) == (2, 4, 2, 0.5)
    assert pair.wins_to_losses_interval == pytest.approx((2, 2), abs=1e-6)
    assert mirror.wins_to_losses_interval == pytest.approx((0.5, 0.5), abs=1e-6)
    assert (cells["a", "c"].wins_to_losses, cells["a", "c"].wins_to_losses_interval) == (None, None)
    assert (cells["c", "a"].wins_to_losses, cells["c", "a"].wins_to_losses_interval) == (0.0, (0.0, 0.0))
    # One neuron each: a quarter of the samples hold no loss, so the ratio has no upper bound.
    assert (cells["b", "c"].wins_to_losses, cells["b", "c"].wins_to_losses_interval) == (1.0, None)
    assert "| a | b | 62.5 | 62.5 to 62.5 | 8 | 4 | 2 | 2 | 2.00 (2.00–2.00) | 0 |" in markdown_table(board)
    assert "2.00 (2.00–2.00) & 0" in latex_table(board)
    assert dict(columns.summary_values(columns.PAIRS, pair, "{key}/a/b")) == {"wins_to_losses/a/b": 2.0}


# --- scorers and breakdowns ----------------------------------------------------------------------------------------


def test_scorers_are_tested_in_pairs_and_set_beside_the_comparisons() -> None:
    rng = np.random.default_rng(1)
    verdicts, descriptions = benchmark(60)
    scores = [
        Score(Neuron(n % 2, n), scorer, name, sign * strength + float(rng.normal(scale=0.3)))
        for n in range(60)
        for name, strength in METHODS.items()
        for scorer, sign in (("agrees", 1), ("contrary", -1))
    ]
    scores = [s for s in scores if not (s.describer == "vocab" and s.neuron.index < 10)]  # a missing cell
    board = leaderboard(verdicts, descriptions, scores=scores)
    tests = {(t.scorer, t.left, t.right): t for t in board.score_tests}
    test = tests["agrees", "maxact", "rotate"]
    assert test.difference == pytest.approx(-0.7, abs=0.15)
    assert test.difference_interval[0] < -0.7 < test.difference_interval[1]
    assert test.effect == pytest.approx(-0.7 / (0.3 * 2**0.5), abs=0.5)
    assert test.p_value == pytest.approx(1e-4)  # none of 9,999 flips
    assert (tests["agrees", "rotate", "vocab"].neurons, tests["agrees", "rotate", "vocab"].unpaired) == (50, 10)
    taus = {(c.judge, c.scorer): c for c in board.concordance}
    assert set(taus) == {(judge, scorer) for judge in (None, "llm") for scorer in ("agrees", "contrary")}
    assert (taus[None, "agrees"].tau, taus[None, "agrees"].describers) == (1.0, 4)
    assert taus[None, "contrary"].tau == -1.0
    assert taus[None, "agrees"].interval[0] > 0


def test_breakdown_by_what_is_known_of_the_neurons() -> None:
    verdicts, descriptions = benchmark(60)
    # maxact wins everything in layer 0, and nothing else is changed.
    verdicts = [
        Verdict(v.neuron, v.judge, v.first, v.second, True, Winner.FIRST if v.first == "maxact" else Winner.SECOND)
        if v.neuron.layer == 0 and "maxact" in (v.first, v.second)
        else v
        for v in verdicts
    ]
    failed = Verdict(Neuron(0, 0), "other", "maxact", "rotate", True, None, Status.REFUSED)
    neurons = {v.neuron for v in verdicts}
    vectors = [VectorSummary(n, VectorKind.OUT, 1.0, float(n.index), 0.0, (), (), ()) for n in neurons]
    vectors += [VectorSummary(n, VectorKind.IN, 1.0, 30.0, 0.0, (), (), ()) for n in neurons]
    facets = facets_of([*neurons, Neuron(1, 1, sign=Sign.NEGATIVE)], vectors)
    board = leaderboard([*verdicts, failed], descriptions, facets=facets)
    found = {(row.facet, row.part, row.describer): row for row in board.breakdown}
    zero = found["layer", "0", "maxact"]
    assert (zero.win_rate, zero.interval, zero.comparisons, zero.neurons, zero.failed) == (1.0, (1.0, 1.0), 60, 30, 1)
    assert found["layer", "1", "maxact"].win_rate < 0.9
    assert {part for facet, part, _ in found if facet == "kurtosis of out"} == {"low", "middle", "high"}
    assert found["kurtosis of out", "low", "rotate"].neurons == 20
    assert found["vector kind", "in", "rotate"].neurons == 31  # those whose `out` has a kurtosis of at most 30
    assert not any(facet == "kurtosis of in" for facet, _, _ in found)  # all alike: one part
    # The parts together are the whole.
    whole = rows(board)["rotate"]
    parts = [found["layer", part, "rotate"] for part in "01"]
    assert sum(row.win_rate * row.comparisons for row in parts) == pytest.approx(
        whole.win_rate * whole.comparisons, abs=1e-3
    )


def test_what_descriptions_were_made_from() -> None:
    n = Neuron(0, 0)
    made = [
        Description(n, "a", "one two three", evidence=EvidenceSize(4, 100)),
        Description(Neuron(0, 1), "a", "one", evidence=EvidenceSize(2, 50)),
        Description(Neuron(0, 2), "a", "one", evidence=EvidenceSize(0, 0)),
        Description(Neuron(0, 3), "a", "", Status.FAILED, evidence=EvidenceSize(9, 999)),
    ]
    [row] = leaderboard([], made).descriptions
    assert (row.mean_words, row.median_words, row.mean_windows, row.mean_tokens) == (1.666667, 1.0, 2.0, 50.0)
    assert row.statuses["failed"] == 1


# --- files ---------------------------------------------------------------------------------------------------------


def test_leaderboards_match_the_generated_schema() -> None:
    schema = TypeAdapter(Leaderboard).json_schema(mode="serialization")
    jsonschema.Draft202012Validator.check_schema(schema)
    for verdicts, descriptions in (benchmark(6, judges=("one", "two")), ([], [])):
        scores = [Score(Neuron(0, n), "auc", name, 0.1 * n) for n in range(3) for name in METHODS if verdicts]
        board = leaderboard(verdicts, descriptions, scores=scores, facets={"layer": {Neuron(0, 0): "0"}})
        data = json.loads(json.dumps(board.to_json(), allow_nan=False))
        jsonschema.validate(data, schema)
        assert leaderboard_from_json(data) == board
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"neurons": "many"}, schema)


def test_tables_for_a_page_a_paper_and_a_spreadsheet() -> None:
    methods = {"a|b": 1.0, "c_d & 50 %": 0.0, "generic": -1.0}
    verdicts, descriptions = benchmark(30, methods=methods)
    verdicts.append(Verdict(Neuron(0, 99), "llm", "a|b", "generic", True, None, Status.REFUSED))
    board = leaderboard(verdicts, descriptions)
    headline, page, controls = (block.splitlines() for block in re.split(r"\n(?=\| describer)", markdown_table(board)))
    assert headline[2].startswith(r"| a\|b | c\_d \& 50 % | ")
    assert "know the neuron" in headline[4]
    assert page[2].startswith(r"| a\|b | ")
    assert len({line.replace(r"\|", "").count("|") for line in page[:5]}) == 1  # as many cells in each line
    assert "generic (control)" in page[4]
    assert "The controls lose as they must" in page[6]
    assert [line.count("generic (control)") for line in controls[:4]] == [0, 0, 1, 1]
    paper = latex_table(board)
    assert r"c\_d \& 50 \%" in paper
    assert r"generic (control) & " in paper
    for part, count in zip(paper.split(r"\end{table}"), (2, 4, 3), strict=False):
        lines = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert len(lines) == count
        assert len({line.replace(r"\&", "").count("&") for line in lines}) == 1
    table = list(csv.DictReader(io.StringIO(csv_table(board))))
    assert [row["describer"] for row in table] == 2 * ["a|b", "c_d & 50 %", "generic"]
    row = board.overall.rows[0]
    assert (float(table[0]["rank_low"]), float(table[0]["adjusted_low"])) == (
        row.rank_interval[0],
        row.adjusted_interval[0],
    )
    assert table[2]["failed"] == "1"
    empty = leaderboard([])
    assert markdown_table(empty).count("\n") == 4
    # Where judges only score, the scores are the result, and there is no board of dashes.
    scores = [Score(Neuron(0, place), "s", "a_1", place / 4) for place in range(3)]
    scores.append(Score(Neuron(0, 3), "s", "a_1", None, Status.UNPARSED))
    board = build_leaderboard((), scores, (), controls=("a_1",), seed=0)
    (row,) = board.scores
    assert row.interval is not None
    span = f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
    head, _, line, *_ = markdown_table(board).splitlines()
    assert head == "| scorer | describer | mean score | 95 % interval | scores | failed |"
    assert line == f"| s | a\\_1 (control) | 0.250 | {span} | 3 | 1 |"
    assert "win rate" not in markdown_table(board)
    assert rf"s & a\_1 (control) & 0.250 & {span} & 3 & 1 \\" in latex_table(board)
    assert "no comparing judge" in latex_table(empty)


def test_the_documentation_of_the_metrics_is_up_to_date() -> None:
    stored = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert stored == columns.documentation(), "run: python -m harness.results.columns > docs/metrics.md"
    for title, metrics, _ in columns.TABLES:
        keys = [metric.key for metric in metrics]
        assert len(set(keys)) == len(keys), title


def write_run(path: Path, manifest: dict[str, Any], verdicts: Sequence[Verdict]) -> RunFolder:
    folder = RunFolder(path)
    write_json(folder.manifest, manifest)
    journal = folder.verdicts()
    for verdict in verdicts:
        journal.append(verdict)
    journal.close()
    return folder


def test_the_leaderboard_of_a_folder_follows_its_manifest(tmp_path: Path) -> None:
    verdicts, _ = benchmark(8)
    manifest = {
        "seed": 5,
        "contestants": {name: {"control": name == "generic"} for name in METHODS},
        "config": {"statistics": {"draws": 60, "confidence": 0.8}},
    }
    folder = write_run(tmp_path / "run", manifest, verdicts)
    vectors = [VectorSummary(v.neuron, VectorKind.OUT, 1.0, float(v.neuron.index), 0.0, (), (), ()) for v in verdicts]
    write_table(folder.channels / "b.vectors.parquet", list({item.neuron: item for item in vectors}.values()))
    board = leaderboard_of(folder)
    assert (board.seed, board.draws, board.confidence, board.ridge) == (5, 60, 0.8, 0.1)
    assert rows(board)["generic"].control
    assert {row.facet for row in board.breakdown} == {"layer", "kurtosis of out"}
    manifest["config"] = {"statistics": {"ridge": -1}}
    write_json(folder.manifest, manifest)
    with pytest.raises(HarnessError, match=r"statistics\.ridge: must be"):
        leaderboard_of(folder)


def test_runs_that_cannot_be_merged_say_why() -> None:
    manifest: dict[str, Any] = {
        "subject": {"name": "minilm", "fingerprint": "abc"},
        "neurons": ["L0N1", "L0N2"],
        "corpus": {"name": "docs", "documents": 10},
        "judges": {"llm": {"kind": "comparator", "role": "judge", "protocol": "p", "prompts": {"x": "1"}}},
        "llm": {"judge": {"model": "small"}},
        "identity": {"evidence.window": 64, "corpus.seed": 0, "judges.llm.temperature": 0, "describers.a.k": 1},
    }

    def changed(**parts: Any) -> dict[str, Any]:
        other = copy.deepcopy(manifest)
        for name, value in parts.items():
            other[name] = {**other[name], **value} if isinstance(value, dict) else value
        return other

    def reasons(*others: dict[str, Any]) -> list[str]:
        return [difference.what for difference in incomparable([manifest, *others])]

    assert incomparable([]) == incomparable([manifest]) == reasons(manifest) == []
    assert reasons(changed(identity={"describers.a.k": 2})) == []  # to compare describers is what runs are for
    assert reasons(changed(subject={"fingerprint": "xyz"})) == ["subject"]
    [neurons] = incomparable([manifest, changed(neurons=["L0N2-", "L0N2"])])
    assert (neurons.what, neurons.values) == ("neurons", ("2 neurons", "2 neurons"))
    assert "2, 2, 1 in common" in neurons.words
    assert reasons(changed(corpus={"documents": 11}), changed(identity={"evidence.window": 32})) == ["evidence"] * 2
    [window] = incomparable([manifest, changed(identity={"evidence.window": 32})])
    assert window.words == "The runs gather evidence differently: evidence.window."
    [model] = incomparable([manifest, changed(llm={"judge": {"model": "large"}})])
    assert model.what == "judges"
    assert "The judge llm differs" in model.words
    assert reasons(changed(identity={"judges.llm.temperature": 1})) == ["judges"]
    assert reasons(changed(judges={"other": {}})) == ["judges"]
    assert set(reasons({})) == {"subject", "neurons", "evidence", "judges"}
