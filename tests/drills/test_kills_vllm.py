"""A run that is killed while its vLLM server starts or answers leaves no server, and continues without asking again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.drills import Drilled, contents, run_options
from support.small_run import SMOLLM2, managed

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.vllm]
SERVER = "vllm.entrypoints.openai.api_server"


def servers() -> set[int]:
    """Return the vLLM servers on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if SERVER in path.read_text():
                found.add(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_smollm2_explains_for_a_run_that_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    options = [
        *run_options(tmp_path),
        *managed(SMOLLM2, "explainer"),
        # One request at a time: the answers to a batch may depend on what else is in it.
        *("llm.explainer.concurrency=1", "llm.explainer.sampling.max_tokens=60", "neurons.per_layer=4"),
        *("describers=[maxact,generic]", "judges=[embedding_pairwise]", "comparisons.retest=0"),
        *(
            "diagnostics.sample=0",
            "diagnostics.random_vectors=0",
            "diagnostics.ablated=0",
            "diagnostics.text_ablated=0",
        ),
    ]
    whole = Drilled(tmp_path / "whole", options)
    code, output = whole.run()
    assert code == 0, output[-3000:]
    run, others = Drilled(tmp_path / "place", options), servers()
    (log,) = [run.folder.logs / path.name for path in whole.folder.logs.glob("vllm-*.log")]
    killed = 0
    for moment in (
        lambda: log.exists() and log.stat().st_size > 2000,  # while the server starts
        lambda: run.answers_stored >= 1,
        lambda: run.answers_stored >= 4,
    ):
        run.start()
        assert run.process is not None
        while run.process.exitcode is None and not moment():
            time.sleep(0.01)
        run.process.kill()
        killed += run.wait() == -9
        deadline = time.monotonic() + 60
        while servers() - others:
            assert time.monotonic() < deadline, "a server is left"
            time.sleep(0.1)
    assert killed == 3
    stored, size = run.answers_stored, log.stat().st_size
    code, output = run.run()
    assert code == 0, output[-3000:]
    sent = log.read_bytes()[size:].count(b'"POST /v1/chat/completions')
    assert sent == 1 + run.answers_stored - stored  # the test request, and what was not stored
    assert run.answers_stored == whole.answers_stored
    expected, found = contents(whole.folder), contents(run.folder)
    assert {name for name in expected if found.get(name) != expected[name]} == set()
    assert servers() == others
