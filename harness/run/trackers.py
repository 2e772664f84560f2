"""Experiment trackers: told of a run while it works and when it is over, and never able to fail it."""

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
from typing import Any

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

logger = logging.getLogger(__name__)
LIVE_SECONDS = 15
"""Between two live figures of a stage, for a service that takes some requests a minute."""
FAILED_SECONDS = 15
"""Longest wait for a service to note that a run failed: the user is waiting to be told why."""


class Tracker(ABC):
    """Logs a run somewhere. What it raises when the run is over is a warning: the results are on disk already."""

    @contextmanager
    def watching(self, folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
        """Enter while the run does its work, to tell of its progress; by default nothing is told.

        Args:
            folder: the run's folder.
            config: the run's resolved config, without secrets.

        Raises:
            HarnessError: at the beginning, if the user has something to mend. A network that fails is none.
        """
        yield

    @abstractmethod
    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Log one run, whole. Called again for the same run if its results have changed.

        Returns:
            Whether it need not be told of these results again.
        """


class NoTracker(Tracker):
    """Logs nothing."""

    def log(self, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> bool:
        """Do nothing."""
        return True


class WandbTracker(Tracker):
    """Logs to Weights & Biases: tables, plots, artifacts, the config; figures to compare and optimise as summary.

    A run folder is one W&B run: when it is taken up again, so is the W&B run. Under a W&B sweep's agent, it is the
    agent's run. If the service cannot be reached, the results are written beside the run for ``wandb sync``.

    Args:
        mode: ``online``, or ``offline`` to write beside the run, for ``wandb sync`` later.
        project: W&B project.
        entity: W&B user or team; the account's default if none.
        group: group of runs, for sweeps.
        tags: tags of the run.
        live: whether progress is logged while the run works.
        artifacts: whether the records, the channels' index, the leaderboard and the report are logged as an artifact.
        report: whether the report is part of it. It shows windows of the corpus, which are other people's text.
        open_timeout_s: longest wait for the service when a run is opened, in seconds.
        close_timeout_s: longest wait for the upload when it is closed, in seconds.
    """

    def __init__(
        self,
        mode: str = "offline",
        project: str = "neuron-harness",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        live: bool = False,
        artifacts: bool = True,
        report: bool = True,
        open_timeout_s: float = 60,
        close_timeout_s: float = 600,
    ) -> None:
        if mode not in ("online", "offline"):
            raise ValueError(f"mode is {mode!r}; choose online or offline")
        for name, value in (("open_timeout_s", open_timeout_s), ("close_timeout_s", close_timeout_s)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
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
            self._tell(self._run, folder, leaderboard, manifest)
        except BaseException:
            self._give_up()
            raise
        self._close()
        return not self._unreachable

    def _reach(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Open the W&B run, or say once that the service cannot be reached."""
        import wandb

        try:
            self._run = self._opened(folder, config, online=self._mode == "online")
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            wandb.teardown()
            reason = " ".join(str(error).split())
            raise HarnessError(f"W&B: {reason} (or choose tracking=wandb_offline or tracking=none)") from error
        except Exception as error:  # whatever a network does to a client
            wandb.teardown()
            logger.debug("W&B", exc_info=True)
            self._unreachable = True
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning(
                "W&B cannot be reached (%s): the run goes on, and its results will be in %s for `wandb sync`; or run "
                "the same command again to try again",
                reason[:200],
                folder.path / "wandb",
            )

    def _opened(self, folder: RunFolder, config: Mapping[str, Any], *, online: bool) -> Any:
        import wandb

        # A sweep's agent has chosen the run.
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
                # Its own record of the environment would hold the command line, and with it what a user may have put
                # there; that of git the address of a remote.
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                init_timeout=self._open_timeout_s,
                finish_timeout=self._close_timeout_s if online else 0,
                finish_timeout_raises=True,
            ),
        )

    def _give_up(self) -> None:
        """Close the W&B run of work that failed: soon, and whatever happens meanwhile hides nothing of what failed."""
        import wandb

        run, self._run = self._run, None
        if run is None:
            return

        def finish() -> None:
            try:
                run.finish(exit_code=1)
            except Exception as error:  # whatever a network does to a client
                logger.warning("W&B has not been told that the run failed (%s)", error)

        # Beside, for the client has no shorter wait than that of a run that went well.
        closing = threading.Thread(target=finish, daemon=True)
        closing.start()
        closing.join(FAILED_SECONDS)
        if closing.is_alive():
            logger.warning("W&B has not noted within %g s that the run failed: not waited for", FAILED_SECONDS)
            return
        wandb.teardown()

    def _close(self) -> None:
        """Close the W&B run, and wait until what it holds is on disk."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=0)
        finally:
            # finish() comes back before the client's own process has written the end of its log.
            wandb.teardown()

    def _tell(self, run: Any, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
        import wandb

        known = {key: manifest[key] for key in ("subject", "versions", "commit") if key in manifest}
        run.config.update({"manifest": known}, allow_val_change=True)
        diagnostics = diagnostics_groups(folder)
        figures: dict[str, Figure] = {
            f"decomposition_{name}": figure for name, (figure, _) in decomposition_plots(diagnostics).items()
        }
        if leaderboard.overall.rows:
            figures["leaderboard_plot"] = leaderboard_plot(leaderboard)
        if leaderboard.overall.cells:
            figures["win_matrix_plot"] = win_matrix_plot(leaderboard)
        tables, most = {}, wandb.Table.MAX_ARTIFACT_ROWS
        long = []
        for name, rows in tables_of_run(folder, leaderboard, diagnostics, manifest).items():
            if len(rows) > most:  # the client would cut it, and say so where nobody sees it
                long.append(f"{name} ({len(rows):,})")
                continue
            columns, data = columns_of(rows)
            tables[name] = wandb.Table(columns=columns, data=data)
        if long:
            kept = f"in {folder.path}" + (" and in the run's artifact" if self._artifacts else "")
            logger.warning(
                "W&B tables have no more than %s rows: %s left out, the records are %s",
                f"{most:,}", f"{', '.join(long)} {'is' if len(long) == 1 else 'are'}", kept,
            )  # fmt: skip
        run.log({**tables, **{name: wandb.Image(_picture(figure)) for name, figure in figures.items()}})
        run.summary.update(summary_of_run(folder, leaderboard, diagnostics))
        if self._artifacts:
            run.log_artifact(_artifact(wandb, run, folder, manifest, report=self._report))


class _Live:
    """Logs how far each stage has come, as ``progress/STAGE``: a share, or a number where no total is known."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._told: dict[str, float] = {}

    def __call__(self, title: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - self._told.get(title, -LIVE_SECONDS) < LIVE_SECONDS:
            return
        self._told[title] = now
        self._run.log({f"progress/{title.replace(' ', '_')}": done / total if total else done})


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _identity(folder: RunFolder) -> str:
    """Return the id of the folder's W&B run, kept in the folder, which may be moved."""
    path = folder.path / ".wandb-id"
    if not path.exists():
        created = folder.read_manifest()["created"] if folder.manifest.exists() else time.time_ns()
        with replacing(path) as aside:
            aside.write_text(f"{derive_seed(0, folder.path.resolve(), created):x}"[:12])
    return path.read_text().strip()


def _artifact(wandb: Any, run: Any, folder: RunFolder, manifest: Mapping[str, Any], *, report: bool) -> Any:
    """Return the run's records, the index of its channels, leaderboard and, if wanted, the report as one artifact.

    The channels' directions, which are large, and the table of exemplars are left out; the report shows some windows of
    each neuron, so that without it no text of the corpus goes along but what descriptions and reasons quote.
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
            # "immutable": read from where it is, with no copy in the user's home.
            name = file.relative_to(folder.path).as_posix()
            artifact.add_file(str(Path(file).resolve()), name=name, policy="immutable", skip_cache=True)
    return artifact


def _picture(figure: Figure) -> Image.Image:
    """Draw a figure as a picture: W&B's own conversion needs pyplot and its global state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return Image.open(buffer)
