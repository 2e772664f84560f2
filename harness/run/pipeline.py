"""A run from start to end: check, gather evidence, decompose, describe, judge, conclude."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness.evidence import Corpus, gathered
from harness.flat import flatten
from harness.folder import RunFolder, check_writable, replacing, write_json
from harness.llm.cache import ResponseCache
from harness.llm.serving import Serving
from harness.planted.sanity import store_sanity
from harness.records import total_roles
from harness.report import build_report
from harness.results.answers import answers_of
from harness.results.comparability import leaderboard_of
from harness.results.schema import Leaderboard
from harness.results.stored import store_decomposition, store_judge_checks, store_leaderboard
from harness.run.answers import prove
from harness.run.channel_store import ChannelStore
from harness.run.decompose import check_space, check_weights, decompose_blocks, pending_vectors
from harness.run.describe import describe
from harness.run.diagnostics import ON_TEXT, measure_diagnostics, pending_diagnostics
from harness.run.explainer_check import check_explainer
from harness.run.identity import check_same_run
from harness.run.interventions.measure import draw_texts, intervene, pending_interventions
from harness.run.judge import judge, open_items
from harness.run.manifest import write_manifest
from harness.run.masking import without_secrets
from harness.run.progress import progress
from harness.run.setup import Setup
from harness.subject.modules import check_model

logger = logging.getLogger(__name__)


def run(setup: Setup, early: Callable[[str], None] = lambda line: None) -> Leaderboard:
    """Do what is not done yet in the setup's folder, and return the leaderboard.

    Args:
        setup: the run.
        early: called with one line for each method that was stopped because too many of its requests failed.

    Raises:
        HarnessError: if the configuration, the files or a server have a problem that the user can fix.
    """
    with RunFolder(setup.folder).locked():
        return asyncio.run(_run(setup, early))


async def _run(setup: Setup, early: Callable[[str], None]) -> Leaderboard:
    folder = RunFolder(setup.folder)
    check_same_run(setup, folder)
    setup.check()
    _check_stores(setup)
    _check_model(setup, folder)
    cache = cache_of(setup) if setup.backends else None
    async with serving_of(setup, folder, cache) as serving:
        await _preflight(setup, folder, serving)
        # A run that was tracked before is finished, or nearly.
        tracked = _tracked(folder).exists()
        with nullcontext() if tracked else setup.tracker.watching(folder, without_secrets(setup.config)):
            with _interruptible():
                manifest = _compute(setup, folder)
            await check_explainer(setup, folder, serving)
            await describe(setup, folder, serving)
            await judge(setup, folder, serving)
    if cache is not None:
        cache.close()
    leaderboard = conclude(setup, folder, manifest)
    for line in serving.ended_early:
        early(line)
    return leaderboard


def _check_model(setup: Setup, folder: RunFolder) -> None:
    """Check that the model loads, if it will run on text."""
    if setup.corpus is None:
        return
    causal = bool(pending_interventions(setup, folder))
    on_text = any(name == ON_TEXT for _, name in pending_diagnostics(setup, folder, None))
    if causal or on_text or _unread(setup, folder):
        from transformers import AutoModel, AutoModelForCausalLM  # not at start-up: the import takes seconds

        check_model(setup.subject, AutoModel)
        if causal:
            check_model(setup.subject, AutoModelForCausalLM)


def _check_stores(setup: Setup) -> None:
    """Check that the run can write to the folders outside its own, before time is spent."""
    used = {"storage.store": True, "evidence.store": setup.compares, "serving.cache": bool(setup.backends)}
    stores = flatten(setup.config)
    for option in (option for option, needed in used.items() if needed and stores[option] is not None):
        check_writable(Path(stores[option]).expanduser(), option)


def cache_of(setup: Setup) -> ResponseCache:
    """Open the run's cache of LLM answers."""
    return ResponseCache(Path(setup.serving.cache).expanduser())


def serving_of(setup: Setup, folder: RunFolder, cache: ResponseCache | None, *, ask: bool = True) -> Serving:
    """Return the run's LLMs by role, as its config says they are served; without ``ask``, only what they have said."""
    used = total_roles([one.usage for one in answers_of(folder)]).values()
    spent = sum(one.calls - one.cached_calls for one in used), sum(one.paid or 0.0 for one in used)
    return Serving(setup.backends, cache, folder.logs, ask=ask, spent=spent, **dataclasses.asdict(setup.serving))


def _compute(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """Do all work that needs no LLM, and return the manifest."""
    pending = pending_vectors(setup, folder)
    check_weights(setup, pending)
    check_space(setup, folder, pending)
    store = ChannelStore(setup)
    unread = _unread(setup, folder)
    # Entered before the corpus is read, so that an unreachable cluster is reported at once.
    with setup.executor if store.missing(pending) or (unread and setup.executor.reads_corpus) else nullcontext():
        manifest = write_manifest(setup, folder)
        draw_texts(setup, folder)
        for corpus, to, seen in unread:
            manifest = _gather(setup, folder, to, corpus, seen)
        decompose_blocks(setup, folder, pending, store)
    measure_diagnostics(setup, folder, store)
    intervene(setup, folder)
    return manifest


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt work without an await: asyncio's own handler would wait for the next one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


async def _preflight(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Try every LLM that still has work to do: endpoints, and managed servers, or none, if the config says so."""
    scope = setup.serving.preflight
    if scope == "none":
        return
    pending = open_items(setup, folder)
    for name, method in setup.methods.items():
        if not pending.get(name):
            continue
        asked = [
            await serving.preflight(role, needs_logprobs=needs_logprobs, start=scope == "all")
            for role, needs_logprobs in method.roles.items()
            if role in setup.backends
        ]
        if asked and all(asked):
            await prove(name, method, setup, serving)
    if scope == "all":
        await serving.rest()


def _unread(setup: Setup, folder: RunFolder) -> list[tuple[Corpus, RunFolder, Corpus | None]]:
    """Return each corpus without evidence, the folder of its evidence, and for one of judges what describers see."""
    corpora = [(setup.corpus, folder, None), (setup.report_corpus, folder.report_corpus, setup.corpus)]
    return [(corpus, to, seen) for corpus, to, seen in corpora if corpus and setup.compares and not to.has_evidence]


def _gather(setup: Setup, folder: RunFolder, to: RunFolder, corpus: Corpus, seen: Corpus | None) -> dict[str, Any]:
    """Gather the exemplars of a corpus into a folder, and return the manifest with a summary of the text."""
    spread = setup.executor.map if setup.executor.reads_corpus else None
    where: dict[str, Any] = {"device": setup.executor.device, "run_folder": folder.path, "spread": spread}
    with (
        progress("activations", None, "documents") as advance,
        gathered(
            *(corpus, setup.subject, setup.described, setup.evidence),
            **where,
            seed=setup.seed,
            progress=lambda total, done: advance(done, total),
            seen=seen,
        ) as evidence,
    ):
        manifest = write_manifest(setup, folder, **{"corpus" if seen is None else "report_corpus": evidence.summary})
        evidence.write_alignment(to.alignment)
        evidence.write(to.exemplars)
    return manifest


def conclude(setup: Setup, folder: RunFolder, manifest: dict[str, Any]) -> Leaderboard:
    """Compute the statistics from the records, write leaderboard and report, and call the tracker.

    The alignment with tokens is added to the manifest.
    """
    logger.info("computing the statistics and writing the report")
    leaderboard = leaderboard_of(folder, manifest)
    # Read again: the stages have added to what was written at the start.
    manifest = {**folder.read_manifest(), "alignment": leaderboard.to_json()["alignment"]}
    write_json(folder.manifest, manifest)
    store_leaderboard(folder, leaderboard)
    store_decomposition(folder)
    store_judge_checks(folder)
    store_sanity(folder)
    build_report([folder], folder.report)
    _track(setup, folder, leaderboard, manifest)
    return leaderboard


def _track(setup: Setup, folder: RunFolder, leaderboard: Leaderboard, manifest: Mapping[str, Any]) -> None:
    """Log the results with the tracker, unless it has logged the same results before."""
    files = (folder.leaderboard, folder.decomposition, folder.judge_checks)
    results = b"".join(path.read_bytes() for path in files if path.exists())
    digest = hashlib.sha256(results + repr(setup.config["tracking"]).encode()).hexdigest()
    tracked = _tracked(folder)
    if tracked.exists() and tracked.read_text() == digest:
        return
    try:
        logged = setup.tracker.log(folder, leaderboard, manifest)
    except Exception as error:  # a failure of a network or service must not fail a finished run
        logger.debug("tracking failed", exc_info=True)
        logger.warning("the tracker could not log this run (%s); run again to try again", error)
        return
    if logged:
        with replacing(tracked) as aside:
            aside.write_text(digest)


def _tracked(folder: RunFolder) -> Path:
    """Return the file with the hash of the results that the tracker has logged."""
    return folder.path / ".tracked"
