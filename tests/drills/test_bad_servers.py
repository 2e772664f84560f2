"""Servers that die, stall, refuse, or answer rubbish: every item is counted, and the next start completes the run."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.drills import Oracle, contents, one_clear_line, roles, run_options
from support.endpoint import FakeEndpoint, Reply, endpoint, failed, said
from support.tiny_models import Invoke

from harness.folder import RunFolder
from harness.llm.probe import PROBE
from harness.records import Status

pytestmark = [pytest.mark.slow, pytest.mark.drill]
GOOD = 6  # requests that are answered before a server turns bad
REQUESTS = 16  # four descriptions, and six comparisons of each neuron


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run that asks LLMs 16 times, over evidence that all tests share."""
    place = tmp_path_factory.mktemp("servers")
    return [
        *run_options(place),
        *("describers=[maxact,vocab_proj,generic]", "judges=[pairwise]", "judges.pairwise.steered=0"),
        *("diagnostics.sample=0", "diagnostics.random_vectors=0", "diagnostics.ablated=0"),
        *("diagnostics.text_ablated=0", "explainer_check.concepts=0", "comparisons.retest=0"),
        f"evidence.store={place / 'evidence'}",
    ]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The records of the first run that was completed: those of all others are equal."""
    return {}


def half(reply: Reply) -> str:
    """Return the first half of a reply's body."""
    assert not isinstance(reply, bytes)
    text = json.dumps(reply[2])
    return text[: len(text) // 2]


def death(server: FakeEndpoint) -> Reply:
    def stop() -> None:
        server.server.shutdown()
        server.server.server_close()

    threading.Thread(target=stop).start()
    return b""


def stall() -> Reply:
    time.sleep(4)
    return said('{"description": "late"}')


#: What a bad server does with a request that it should answer with ``good``, and the status of the items.
FAULTS: dict[str, tuple[Callable[[FakeEndpoint, Reply], Reply], Status]] = {
    "dies": (lambda server, good: death(server), Status.FAILED),
    "closes the connection": (lambda server, good: b"", Status.FAILED),
    "stalls": (lambda server, good: stall(), Status.FAILED),
    "too many requests": (lambda server, good: failed(429, "slow down", retry_after_ms="1"), Status.FAILED),
    "breaks down": (lambda server, good: failed(500, "out of memory", retry_after_ms="1"), Status.FAILED),
    "no HTTP": (lambda server, good: b"\x00\xff\x13garbage\r\n\r\n", Status.FAILED),
    "garbage": (lambda server, good: (200, {}, "\x00\ufffd{]garbage"), Status.FAILED),
    "half a JSON": (lambda server, good: (200, {}, half(good)), Status.FAILED),
    "half a response": (
        lambda server, good: b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + half(good).encode(),
        Status.FAILED,
    ),
    "half an object": (lambda server, good: said('{"description": "numb'), Status.UNPARSED),
    "forgets the model": (lambda server, good: failed(404, "The model m does not exist."), Status.FAILED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_on_a_server_that_turns_bad(
    options: list[str], expected: dict[str, Any], invoke: Invoke, tmp_path: Path, fault: str
) -> None:
    (bad, status), oracle = FAULTS[fault], Oracle()
    servers: list[FakeEndpoint] = []

    def answer(body: dict[str, Any]) -> Reply:
        good = oracle(body)
        probe = body["messages"][-1]["content"] == PROBE[-1].content
        return good if probe or len(oracle.asked) <= GOOD else bad(servers[0], good)

    def start(url: str) -> tuple[int, str, str]:
        return invoke(*options, *roles(url, retries=1, timeout_s=2, concurrency=1), "cache=cache")

    with endpoint(answer) as server:
        servers.append(server)
        code, out, err = start(server.url)
    assert code == 0, err[-3000:]
    assert "Traceback" not in err
    assert "report.html" in out
    folder = RunFolder(tmp_path / "run")
    # The describers' four answers and two of the judge were good.
    assert Counter(one.status for one in folder.descriptions().records()) == {Status.OK: 6}
    verdicts = folder.verdicts().records()
    assert Counter(one.status for one in verdicts) == {Status.OK: 2, status: 10}
    assert all(one.reason for one in verdicts)
    (health,) = json.loads(folder.leaderboard.read_text())["health"]
    assert health["statuses"] == {**dict.fromkeys(Status, 0), Status.OK: 2, status: 10}

    again = Oracle()
    with again.serving() as server:
        code, _, err = start(server.url)
    assert code == 0, err[-3000:]
    if status is Status.FAILED:
        assert len(again.asked) == REQUESTS - GOOD
        found = contents(folder)
        assert (expected or found) == found
        expected.update(found)
    else:
        assert len(again.asked) == 0  # unusable answers are answers


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (failed(404, "The model m does not exist."), "does not exist"),
        ((200, {}, "<h1>Welcome</h1>"), "does not answer"),
        (said('{"answer": "ye'), "cannot produce the schema"),
        (b"", "does not answer"),
    ],
)
def test_a_server_that_is_bad_at_the_start_ends_the_run(
    options: list[str], invoke: Invoke, reply: Reply, words: str
) -> None:
    with endpoint(reply) as server:
        code, _, err = invoke(*options, *roles(server.url, retries=0), "cache=cache")
    assert code == 1
    assert words in one_clear_line(err)
    assert not Path("run/descriptions.jsonl").exists()
