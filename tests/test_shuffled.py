"""A subject with shuffled weights: what stays, what does not, and the noise floor that it gives another run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from support import tiny_models
from support.errors import told
from support.small_run import options
from support.tiny_models import Invoke

from harness.records import VectorKind
from harness.results.noise_floor import read_noise_floor
from harness.results.schema import leaderboard_from_json
from harness.subject import CausalModel, Subject


def test_each_matrix_keeps_its_numbers_and_loses_their_order(tmp_path: Path) -> None:
    folder = tiny_models.tiny_subject(tmp_path / "llama", "llama", max_shard_size="100KB")
    plain, mixed, again = (
        Subject(None, [str(folder)], shuffled=shuffled, cache=str(tmp_path / cache))
        for shuffled, cache in ((False, "one"), (True, "one"), (True, "two"))
    )
    assert mixed.name == f"{plain.name} (shuffled weights)"
    assert mixed.checkpoint.names == plain.checkpoint.names
    for name in plain.checkpoint.names:
        before, after = plain.checkpoint.tensor(name), mixed.checkpoint.tensor(name)
        assert after.shape == before.shape
        if before.ndim < 2:  # norms
            assert torch.equal(after, before)
        else:
            assert torch.equal(after.flatten().sort().values, before.flatten().sort().values)
            assert (after == before).float().mean() < 0.1
        assert torch.equal(after, again.checkpoint.tensor(name))
    assert mixed.fingerprint == again.fingerprint != plain.fingerprint
    assert mixed.tokenizer("a word").input_ids == plain.tokenizer("a word").input_ids
    model = CausalModel(mixed, "cpu")  # transformers loads it
    model.close()
    assert mixed.vectors(0, [0], VectorKind.IN).shape == plain.vectors(0, [0], VectorKind.IN).shape


def test_a_run_shows_what_the_same_run_reaches_on_shuffled_weights(
    invoke: Invoke, small: dict[str, str], tmp_path: Path
) -> None:
    choice = {"describers": "[maxact,vocab_proj,generic]", "judges": "[embedding_pairwise,embedding_simulation]"}
    code, _, err = invoke(*options(small, folder="noise", subject__shuffled="true", **choice))
    assert code == 0, err
    assert "shuffled weights" not in (tmp_path / "noise" / "leaderboard.md").read_text()  # no column without a value
    code, _, err = invoke(*options(small, folder="run", statistics__noise_floor="noise", **choice))
    assert code == 0, err
    files = [tmp_path / name / "leaderboard.json" for name in ("noise", "run")]
    noise, board = (leaderboard_from_json(json.loads(path.read_text())) for path in files)
    rates = {row.describer: (row.win_rate, row.interval) for row in noise.overall.rows}
    assert {row.describer: (row.noise_floor, row.noise_interval) for row in board.overall.rows} == rates
    (judge,) = board.judges
    assert {row.describer: (row.noise_floor, row.noise_interval) for row in judge.rows} == rates
    means = {row.describer: row.mean for row in noise.scores}
    assert {row.describer: row.noise_floor for row in board.scores} == means
    assert any(row.noise_floor != row.mean for row in board.scores)
    text = (tmp_path / "run" / "leaderboard.md").read_text()
    assert "| shuffled weights % |" in text
    assert "| shuffled weights |" in text
    assert "Shuffled weights %" in (tmp_path / "run" / "report.html").read_text()
    told(lambda: read_noise_floor(str(tmp_path / "run")), "weights as they are", "subject.shuffled=true")
    code, _, err = invoke(*options(small, folder="other", statistics__noise_floor="nowhere", **choice))
    assert code == 1
    assert "statistics.noise_floor=nowhere is no finished run" in err.splitlines()[-1]
    assert not (tmp_path / "other" / "exemplars.parquet").exists()
