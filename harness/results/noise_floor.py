"""What a run's describers reach on shuffled weights, where there is nothing to describe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from harness.errors import HarnessError
from harness.results.schema import Board, Leaderboard, leaderboard_from_json


def read_noise_floor(path: str) -> Leaderboard:
    """Return the leaderboard of a finished run on shuffled weights.

    Args:
        path: its folder (``statistics.noise_floor``).

    Raises:
        HarnessError: if it is not such a run.
    """
    from harness.folder import RunFolder  # imports pyarrow, for which a mistake in the options would wait

    folder = RunFolder(Path(path).expanduser())
    try:
        manifest = folder.read_manifest()
        found = leaderboard_from_json(json.loads(folder.leaderboard.read_text(encoding="utf-8")))
    except (HarnessError, OSError, ValueError) as error:
        raise HarnessError(
            f"statistics.noise_floor={path} is no finished run of this version: start one there with the same options "
            f"and subject.shuffled=true folder={path}"
        ) from error
    if not (manifest.get("config") or {}).get("subject", {}).get("shuffled"):
        raise HarnessError(
            f"statistics.noise_floor={path} is a run on the weights as they are: name one with subject.shuffled=true"
        )
    return found


def with_noise_floor(leaderboard: Leaderboard, noise: Leaderboard) -> Leaderboard:
    """Return a leaderboard with what each describer reached on shuffled weights, by judge and scorer."""

    def board(own: Board, other: Board | None) -> Board:
        rows = {row.describer: row for row in other.rows} if other else {}
        return replace(
            own,
            rows=tuple(
                replace(row, noise_floor=found.win_rate, noise_interval=found.interval)
                if (found := rows.get(row.describer))
                else row
                for row in own.rows
            ),
        )

    boards = {one.judge: one for one in noise.judges}
    scores = {(row.scorer, row.describer): row for row in noise.scores}
    return replace(
        leaderboard,
        overall=board(leaderboard.overall, noise.overall),
        judges=tuple(board(one, boards.get(one.judge)) for one in leaderboard.judges),
        scores=tuple(
            replace(row, noise_floor=found.mean, noise_interval=found.interval)
            if (found := scores.get((row.scorer, row.describer)))
            else row
            for row in leaderboard.scores
        ),
    )
