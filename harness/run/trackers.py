"""Experiment trackers, which log the progress and the results of a run and never make it fail."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError
from harness.run.progress import listening
from harness.seeds import derive_seed
from harness.validation import OneOrMore, Positive, validated

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from harness.folder import RunFolder
    from harness.results.schema import Leaderboard

logger = logging.getLogger(__name__)
#: Seconds between two progress values of a stage: the service limits requests per minute.
LIVE_SECONDS = 15
#: Longest wait in seconds for the service to record that a run failed, before the user sees the error.
FAILED_SECONDS = 15


class Tracker(ABC):
    """Logs a run somewhere. An exception at the end is only a warning, because the results are on disk already."""

    @contextmanager
    def watching(self, folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
        """Follow the run while it works; by default this does nothing.

        Args:
            folder: the run's folder.
            config: the run's resolved config, without secrets.

        Raises:
            HarnessError: at the beginning, if the user must change something. A network failure is only a warning.
        """
        yield

    @abstractmethod
    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Log a finished run. Called again for the same run if its results have changed.

        Returns:
            Whether these results are logged; if not, the next start of the run tries again.
        """


class NoTracker(Tracker):
    """Logs nothing."""

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Do nothing."""
        return True


class WandbTracker(Tracker):
    """Logs to Weights & Biases: config, tables, plots, an artifact with the records, and all metrics as summary.

    A run folder is one W&B run, also after a resume. Under the agent of a W&B sweep, it is the agent's run. If the
    service cannot be reached, the results are written into the run folder for ``wandb sync``. The options are
    documented in ``conf/tracking/wandb_offline.yaml``.
    """

    @validated
    def __init__(
        self,
        mode: Literal["online", "offline"] = "offline",
        project: str = "neuron-harness",
        entity: str | None = None,
        group: str | None = None,
        tags: OneOrMore[str] = (),
        live: bool = False,
        artifacts: bool = True,
        report: bool = True,
        open_timeout_s: Positive = 60,
        close_timeout_s: Positive = 600,
    ) -> None:
        self._online, self._live, self._artifacts, self._report = mode == "online", live, artifacts, report
        self._options: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "group": group,
            "tags": tags or None,
        }
        self._open_timeout_s, self._close_timeout_s = open_timeout_s, close_timeout_s
        self._run: Any = None
        self._unreachable = False

    @contextmanager
    def watching(self, folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
        """Open the W&B run at once if it is online or live, and log the progress of stages if it is live."""
        if not self._live and not self._online:
            yield
            return
        self._reach(folder, config)
        try:
            with listening(_Live(self._run)) if self._live and self._run else nullcontext():
                yield
        except BaseException:
            self._close_failed()
            raise

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Log the results, and close the W&B run."""
        import wandb

        if self._run is None and not self._unreachable:
            self._reach(folder, manifest["config"])
        if self._unreachable:
            self._run = self._open(folder, manifest["config"], online=False)
        try:
            self._log(self._run, folder, leaderboard, manifest)
        except BaseException:
            self._close_failed()
            raise
        run, self._run = self._run, None
        try:
            run.finish(exit_code=0)
        finally:
            wandb.teardown()  # waits until the client's process has written the end of its log
        return not self._unreachable

    def _reach(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Open the W&B run, or warn once that the service cannot be reached."""
        import wandb

        try:
            self._run = self._open(folder, config, online=self._online)
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            wandb.teardown()
            reason = " ".join(str(error).split())
            raise HarnessError(f"W&B: {reason} (or choose tracking=wandb_offline or tracking=none)") from error
        except Exception as error:  # the client raises many classes for network failures
            wandb.teardown()
            logger.debug("W&B", exc_info=True)
            self._unreachable = True
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            logger.warning(
                "W&B cannot be reached (%s): the run continues, and its results will be in %s for `wandb sync`; or run "
                "the same command again to try again",
                reason[:200],
                folder.path / "wandb",
            )

    def _open(self, folder: RunFolder, config: Mapping[str, Any], *, online: bool) -> Any:
        import wandb

        return wandb.init(
            **self._options,
            mode="online" if online else "offline",
            name=str(config.get("name") or folder.path.resolve().name),
            # The agent of a sweep has chosen the run.
            id=os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else _run_id(folder),
            resume="allow",
            dir=str(folder.path),
            config=dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                # These would record the command line, which may hold secrets, and the address of the git remote.
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                init_timeout=self._open_timeout_s,
                finish_timeout=self._close_timeout_s if online else 0,
                finish_timeout_raises=True,
            ),
        )

    def _close_failed(self) -> None:
        """Close the W&B run of a failed run, without a long wait and without an exception that hides the first one."""
        import wandb

        run, self._run = self._run, None
        if run is None:
            return

        def finish() -> None:
            try:
                run.finish(exit_code=1)
            except Exception as error:  # the client raises many classes for network failures
                logger.warning("W&B has not recorded that the run failed (%s)", error)

        # In a thread, because the client itself waits as long as after a success.
        closing = threading.Thread(target=finish, daemon=True)
        closing.start()
        closing.join(FAILED_SECONDS)
        if closing.is_alive():
            logger.warning("W&B has not recorded within %g s that the run failed", FAILED_SECONDS)
            return
        wandb.teardown()

    def _log(self, run: Any, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        import wandb

        from harness.report.alignment_plot import alignment_plot
        from harness.report.decomposition_plots import decomposition_plots
        from harness.report.plots import leaderboard_plot, win_matrix_plot
        from harness.results.diagnostics import diagnostics_groups
        from harness.results.summary import columns_of, summary_of_run, tables_of_run

        known = {key: manifest[key] for key in ("subject", "versions", "commit") if key in manifest}
        run.config.update({"manifest": known}, allow_val_change=True)
        diagnostics = diagnostics_groups(folder)
        plots = {f"decomposition_{name}": plot for name, (plot, _) in decomposition_plots(diagnostics).items()}
        if leaderboard.overall.rows:
            plots["leaderboard_plot"] = leaderboard_plot(leaderboard)
        if leaderboard.alignment:
            plots["alignment_plot"] = alignment_plot(leaderboard.alignment)
        if leaderboard.overall.cells:
            plots["win_matrix_plot"] = win_matrix_plot(leaderboard)
        tables, longest = tables_of_run(folder, leaderboard, diagnostics, manifest), wandb.Table.MAX_ARTIFACT_ROWS
        # The client would cut them and warn only in its own log.
        too_long = [f"{name} ({len(rows):,} rows)" for name, rows in tables.items() if len(rows) > longest]
        if too_long:
            logger.warning(
                "W&B tables have at most %s rows, so these are left out: %s; the records are in %s%s",
                f"{longest:,}", ", ".join(too_long), folder.path, " and the run's artifact" * self._artifacts,
            )  # fmt: skip
        named = {name: columns_of(rows) for name, rows in tables.items() if len(rows) <= longest}
        run.log(
            {name: wandb.Table(columns=columns, data=data) for name, (columns, data) in named.items()}
            | {name: wandb.Image(_picture(plot)) for name, plot in plots.items()}
        )
        run.summary.update(summary_of_run(folder, leaderboard, diagnostics))
        if self._artifacts:
            run.log_artifact(_artifact(run.id, folder, manifest, report=self._report))


class _Live:
    """Logs the progress of each stage as ``progress/STAGE``: a share, or a number if the total is not known."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._logged: dict[str, float] = {}

    def __call__(self, title: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == total or now - self._logged.get(title, -LIVE_SECONDS) >= LIVE_SECONDS:
            self._logged[title] = now
            self._run.log({f"progress/{title.replace(' ', '_')}": done / total if total else done})


def _run_id(folder: RunFolder) -> str:
    """Return the id of the folder's W&B run, kept in the folder, which may be moved."""
    from harness.folder import replacing

    path = folder.path / ".wandb-id"
    if not path.exists():
        created = folder.read_manifest()["created"] if folder.manifest.exists() else time.time_ns()
        with replacing(path) as aside:
            aside.write_text(f"{derive_seed(0, folder.path.resolve(), created):x}"[:12])
    return path.read_text().strip()


def _artifact(run_id: str, folder: RunFolder, manifest: Mapping[str, Any], *, report: bool) -> Any:
    """Return one artifact with records, index of the channels, leaderboard and, if wanted, the report.

    The channels' directions, which are large, and the exemplars are left out. Only the report shows text windows;
    without it, the artifact has no text of the corpus except what descriptions and reasons quote.
    """
    import wandb

    description = re.sub(r"\s+", " ", str(manifest.get("name", "")))
    artifact = wandb.Artifact(f"run-{run_id}", type="neuron-harness-run", description=description)
    journals = (folder.descriptions(), folder.verdicts(), folder.scores(), folder.retests(), folder.score_retests())
    for file in (
        *(journal.path for journal in journals),
        *sorted((*folder.draws.rglob("*.jsonl"), *folder.own_corpus.path.glob("*.jsonl"))),
        *(
            folder.leaderboard,
            folder.leaderboard_csv,
            folder.judge_checks,
            folder.decomposition,
            folder.claims,
            folder.manifest,
        ),
        *([folder.report] if report else []),
        *sorted(folder.channels.glob("*.parquet")),
    ):
        if file.exists():
            # "immutable": the client reads the file in place instead of copying it to the user's home.
            name = file.relative_to(folder.path).as_posix()
            artifact.add_file(str(file.resolve()), name=name, policy="immutable", skip_cache=True)
    return artifact


def _picture(plot: Figure) -> Image.Image:
    """Draw a plot as a picture: W&B's own conversion needs pyplot and its global state."""
    from PIL import Image

    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=150, facecolor="white")
    return Image.open(buffer)
