"""Experiment trackers: told of a run when it is over, from its records, and never able to fail it."""

from __future__ import annotations

import dataclasses
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from harness.folder import RunFolder
from harness.report.build import decomposition_figures
from harness.report.judges import read_judge_checks
from harness.report.plots import leaderboard_figure, win_matrix_figure
from harness.seeds import derive_seed
from harness.stats import Leaderboard, merit_groups, merit_json
from harness.stats.summary import leaderboard_figures


class Tracker(ABC):
    """Logs a finished run somewhere. What it raises is a warning to the run, whose results are on disk already."""

    @abstractmethod
    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        """Log one run, whole. Called again for the same run only if its results have changed."""


class NoTracker(Tracker):
    """Logs nothing."""

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        """Do nothing."""


class WandbTracker(Tracker):
    """Logs to Weights & Biases: tables, figures, the config; trust, win rates, strengths, scores, judges as summary.

    A run of the harness is one W&B run: when it is taken up again, so is the W&B run.

    Args:
        mode: ``online``, or ``offline`` to write beside the run, for ``wandb sync`` later.
        project: W&B project.
        entity: W&B user or team; the account's default if none.
        group: group of runs, for sweeps.
        tags: tags of the run.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "neuron-harness",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._mode, self._project, self._entity, self._group, self._tags = mode, project, entity, group, tuple(tags)

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        """Log the run, as Weights & Biases users expect it."""
        import wandb

        identity = f"{derive_seed(0, folder.path.resolve(), manifest['created']):x}"[:12]
        with wandb.init(
            mode="online" if self._mode == "online" else "offline",
            project=self._project,
            entity=self._entity,
            group=self._group,
            tags=self._tags,
            name=manifest["name"],
            id=identity,
            resume="allow",
            dir=str(folder.path),
            config={
                **manifest["config"],
                "manifest": {key: manifest[key] for key in ("subject", "versions", "commit")},
            },
            # Its own record of the environment would hold the command line, and with it what a user may have put there.
            settings=wandb.Settings(silent=True, console="off", x_disable_meta=True),
        ) as run:
            _log_decomposition(wandb, run, folder)
            board = leaderboard.to_json()
            rows = board["overall"]["rows"]
            if not rows:
                return
            run.log(
                {
                    "leaderboard": _table(wandb, rows),
                    "win_matrix": _table(wandb, board["overall"]["cells"]),
                    "scores": _table(wandb, board["scores"]),
                    "descriptions": _table(wandb, [_flat(record) for record in folder.descriptions().records()]),
                    "verdicts": _table(wandb, [_flat(record) for record in folder.verdicts().records()]),
                    **{name: _table(wandb, rows) for name, rows in _statistics(board).items() if rows},
                    "leaderboard_plot": wandb.Image(_picture(leaderboard_figure(leaderboard))),
                    "win_matrix_plot": wandb.Image(_picture(win_matrix_figure(leaderboard))),
                }
            )
            run.summary.update(leaderboard_figures(leaderboard))
            _log_judge_checks(wandb, run, folder)


def _statistics(board: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the further tables of a leaderboard, by name."""
    boards = [("all judges", board["overall"]), *((one["judge"], one) for one in board["judges"])]
    return {
        "tests": board["overall"]["tests"],
        # Not "trust": a table and the figures below trust/ would be one key of the summary, and lose each other.
        "controls": [{"judge": judge, **check} for judge, one in boards for check in one["trust"]["controls"]],
        "judges": board["health"],
        "agreement": board["agreement"],
        "concordance": board["concordance"],
        "breakdown": board["breakdown"],
        "writing": board["descriptions"],
    }


def _log_judge_checks(wandb: Any, run: Any, folder: RunFolder) -> None:
    """Log what the judges are worth, where the run knows: a table of judges, one of pairs, and the summary."""
    checks = [dataclasses.asdict(check) for check in read_judge_checks(folder)]
    if not checks:
        return
    pairs = [pair for check in checks for pair in check.pop("pairs")]
    run.log({name: _table(wandb, rows) for name, rows in {"checks": checks, "pairs": pairs}.items() if rows})
    run.summary.update(
        {
            f"judge/{check['judge']}/{figure}": check[figure]
            for check in checks
            for figure in ("accuracy", "brier", "consistency", "length_effect", "self_preference", "retest")
            if check[figure] is not None
        }
    )


def _log_decomposition(wandb: Any, run: Any, folder: RunFolder) -> None:
    """Log the figures of merit: a table, plots, and the totals as the run's summary."""
    groups = merit_groups(folder)
    if not groups:
        return
    summary = merit_json(groups)
    pictures = {
        f"decomposition_{name}": wandb.Image(_picture(figure))
        for name, (figure, _) in decomposition_figures(groups).items()
    }
    run.log({"decomposition": _table(wandb, summary["rows"]), **pictures})
    run.summary.update(
        {f"decomposition/{name}": value for name, value in summary["total"].items() if value is not None}
    )


def _picture(figure: Figure) -> Image.Image:
    """Draw a figure as a picture: W&B's own conversion needs pyplot and its global state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return Image.open(buffer)


def _flat(record: Any) -> dict[str, Any]:
    values = {name: value for name, value in vars(record).items() if name not in {"usage", "parts"}}
    return {name: str(value) if value is not None else None for name, value in values.items()}


def _table(wandb: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Make a W&B table of rows with equal keys; nested values become text, for a column has one type."""
    columns = list(rows[0]) if rows else []
    simple = (str, int, float, bool, type(None))
    data = [[row[name] if isinstance(row[name], simple) else str(row[name]) for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data)
