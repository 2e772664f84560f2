"""Experiment trackers log a run while it works and when it is finished; they never make it fail."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from PIL import Image

from harness.errors import HarnessError
from harness.folder import RunFolder, replacing
from harness.report.decomposition_plots import decomposition_plots
from harness.report.plots import leaderboard_plot, win_matrix_plot
from harness.results.diagnostics import diagnostics_groups
from harness.results.schema import Leaderboard
from harness.results.summary import columns_of, summary_of_run, tables_of_run
from harness.run.progress import listening
from harness.seeds import derive_seed
from harness.validation import Positive, validated

logger = logging.getLogger(__name__)
LIVE_SECONDS = 15
"""Minimum seconds between two progress values of a stage; the service limits the request rate."""
FAILED_SECONDS = 15
"""Maximum seconds to wait for the service after a failed run, because the user waits for the error."""


class Tracker(ABC):
    """Logs runs. An exception of :meth:`log` becomes a warning, because the results are on disk already."""

    @contextmanager
    def watching(self, folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
        """Context of the running stages, for logging progress; does nothing by default.

        Args:
            folder: the run's folder.
            config: the run's resolved config, without secrets.

        Raises:
            HarnessError: on entry, if the user must fix something; not for network failures.
        """
        yield

    @abstractmethod
    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Log a finished run. Called again for the same run if its results change.

        Returns:
            Whether the results were logged, so that they need not be logged again.
        """


class NoTracker(Tracker):
    """Logs nothing."""

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Do nothing."""
        return True


class WandbTracker(Tracker):
    """Logs config, tables, plots, summary metrics and an artifact to Weights & Biases.

    One run folder is one W&B run, also after a resume; under the agent of a W&B sweep it is the agent's run. If the
    service cannot be reached, the results are written into the run folder for ``wandb sync``.

    Args:
        mode: ``online``, or ``offline`` to write into the run folder for a later ``wandb sync``.
        project: W&B project.
        entity: W&B user or team; None for the default of the account.
        group: group of runs, for sweeps.
        tags: tags of the run.
        live: whether to log progress during the run.
        artifacts: whether to log records, channel index, leaderboard and report as an artifact.
        report: whether the artifact includes the report, which shows text of the corpus.
        open_timeout_s: timeout for opening the run, in seconds.
        close_timeout_s: timeout for the final upload, in seconds.
    """

    @validated
    def __init__(
        self,
        mode: Literal["online", "offline"] = "offline",
        project: str = "neuron-harness",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        live: bool = False,
        artifacts: bool = True,
        report: bool = True,
        open_timeout_s: Positive = 60,
        close_timeout_s: Positive = 600,
    ) -> None:
        self._mode, self._project, self._entity, self._group, self._tags = mode, project, entity, group, tuple(tags)
        self._live, self._artifacts, self._report = live, artifacts, report
        self._open_timeout_s, self._close_timeout_s = open_timeout_s, close_timeout_s
        self._run: Any = None
        self._unreachable = False

    @contextmanager
    def watching(self, folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
        """Open the W&B run at once if it is online or live, and log the progress of stages if it is live."""
        if not self._live and self._mode == "offline":
            yield
            return
        self._reach(folder, config)
        try:
            with listening(_Live(self._run)) if self._live and self._run else _nothing():
                yield
        except BaseException:
            self._give_up()
            raise

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Log the run, as Weights & Biases users expect it."""
        if self._run is None and not self._unreachable:
            self._reach(folder, manifest["config"])
        if self._unreachable:
            self._run = self._opened(folder, manifest["config"], online=False)
        try:
            self._log_results(self._run, folder, leaderboard, manifest)
        except BaseException:
            self._give_up()
            raise
        self._close()
        return not self._unreachable

    def _reach(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Open the W&B run, or warn once that the service cannot be reached."""
        import wandb

        try:
            self._run = self._opened(folder, config, online=self._mode == "online")
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            wandb.teardown()
            reason = " ".join(str(error).split())
            raise HarnessError(f"W&B: {reason} (or use tracking=wandb_offline or tracking=none)") from error
        except Exception as error:  # any network error
            wandb.teardown()
            logger.debug("W&B", exc_info=True)
            self._unreachable = True
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning(
                "W&B cannot be reached (%s): the run continues and writes its results to %s for `wandb sync`; run the "
                "same command again to try again",
                reason[:200],
                folder.path / "wandb",
            )

    def _opened(self, folder: RunFolder, config: Mapping[str, Any], *, online: bool) -> Any:
        import wandb

        # The agent of a W&B sweep chooses the run.
        identity = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else _identity(folder)
        return wandb.init(
            mode="online" if online else "offline",
            project=self._project,
            entity=self._entity,
            group=self._group,
            tags=self._tags or None,
            name=str(config.get("name") or folder.path.resolve().name),
            id=identity,
            resume="allow",
            dir=str(folder.path),
            config=dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                # W&B's record of the environment has the command line and the git remote, which may hold secrets.
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                init_timeout=self._open_timeout_s,
                finish_timeout=self._close_timeout_s if online else 0,
                finish_timeout_raises=True,
            ),
        )

    def _give_up(self) -> None:
        """Close the W&B run of a failed run, quickly and without hiding the original error."""
        import wandb

        run, self._run = self._run, None
        if run is None:
            return

        def finish() -> None:
            try:
                run.finish(exit_code=1)
            except Exception as error:  # any network error
                logger.warning("W&B has not recorded that the run failed (%s)", error)

        # In a thread, because the client has no shorter timeout for failed runs.
        closing = threading.Thread(target=finish, daemon=True)
        closing.start()
        closing.join(FAILED_SECONDS)
        if closing.is_alive():
            logger.warning("W&B has not recorded within %g s that the run failed: not waiting for it", FAILED_SECONDS)
            return
        wandb.teardown()

    def _close(self) -> None:
        """Close the W&B run and wait until its data are on disk."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=0)
        finally:
            # finish() returns before the client's process has written the end of its log.
            wandb.teardown()

    def _log_results(self, run: Any, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        import wandb

        known = {key: manifest[key] for key in ("subject", "versions", "commit") if key in manifest}
        run.config.update({"manifest": known}, allow_val_change=True)
        diagnostics = diagnostics_groups(folder)
        plots: dict[str, Figure] = {
            f"decomposition_{name}": figure for name, (figure, _) in decomposition_plots(diagnostics).items()
        }
        if leaderboard.overall.rows:
            plots["leaderboard_plot"] = leaderboard_plot(leaderboard)
        if leaderboard.overall.cells:
            plots["win_matrix_plot"] = win_matrix_plot(leaderboard)
        tables, most = {}, wandb.Table.MAX_ARTIFACT_ROWS
        long = []
        for name, rows in tables_of_run(folder, leaderboard, diagnostics, manifest).items():
            if len(rows) > most:  # the client would truncate the table
                long.append(f"{name} ({len(rows):,})")
                continue
            columns, data = columns_of(rows)
            tables[name] = wandb.Table(columns=columns, data=data)
        if long:
            kept = f"in {folder.path}" + (" and in the run's artifact" if self._artifacts else "")
            logger.warning(
                "W&B tables have at most %s rows: %s left out; the records are %s",
                f"{most:,}", f"{', '.join(long)} {'is' if len(long) == 1 else 'are'}", kept,
            )  # fmt: skip
        run.log({**tables, **{name: wandb.Image(_picture(figure)) for name, figure in plots.items()}})
        run.summary.update(summary_of_run(folder, leaderboard, diagnostics))
        if self._artifacts:
            run.log_artifact(_artifact(wandb, run, folder, manifest, report=self._report))


class _Live:
    """Logs the progress of each stage as ``progress/STAGE``: a share, or a count if the total is unknown."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._logged: dict[str, float] = {}

    def __call__(self, title: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - self._logged.get(title, -LIVE_SECONDS) < LIVE_SECONDS:
            return
        self._logged[title] = now
        self._run.log({f"progress/{title.replace(' ', '_')}": done / total if total else done})


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _identity(folder: RunFolder) -> str:
    """Return the id of the folder's W&B run; it is stored in the folder, which may be moved."""
    path = folder.path / ".wandb-id"
    if not path.exists():
        created = folder.read_manifest()["created"] if folder.manifest.exists() else time.time_ns()
        with replacing(path) as aside:
            aside.write_text(f"{derive_seed(0, folder.path.resolve(), created):x}"[:12])
    return path.read_text().strip()


def _artifact(wandb: Any, run: Any, folder: RunFolder, manifest: Mapping[str, Any], *, report: bool) -> Any:
    """Return the artifact of a run: records, channel index, leaderboard and optionally the report.

    Directions of channels (large) and exemplars are left out. Without the report, the only text of the corpus is what
    descriptions and reasons quote.
    """
    artifact = wandb.Artifact(
        f"run-{run.id}", type="neuron-harness-run", description=re.sub(r"\s+", " ", str(manifest.get("name", "")))
    )
    files = [
        *(journal.path for journal in (folder.descriptions(), folder.verdicts(), folder.scores())),
        *(journal.path for journal in (folder.retests(), folder.score_retests())),
        *(folder.leaderboard, folder.leaderboard_csv, folder.judge_checks, folder.decomposition),
        *(folder.manifest, *([folder.report] if report else [])),
        *sorted(folder.channels.glob("*.parquet")),
    ]
    for file in files:
        if file.exists():
            # "immutable": do not copy the file to the home directory first.
            name = file.relative_to(folder.path).as_posix()
            artifact.add_file(str(Path(file).resolve()), name=name, policy="immutable", skip_cache=True)
    return artifact


def _picture(figure: Figure) -> Image.Image:
    """Render a plot as an image; W&B's own conversion needs pyplot and its global state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return Image.open(buffer)
