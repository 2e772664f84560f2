"""A run that is killed at random moments continues, and ends with the same records and LLM calls."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.drills import Drilled, Event, Oracle, contents, roles, run_options
from support.resume_page import STORED

pytestmark = [pytest.mark.slow, pytest.mark.drill]
KILLS = 10
CONCURRENCY = 4


@dataclass(frozen=True)
class Undisturbed:
    options: list[str]
    events: list[Event]
    contents: dict[str, Any]
    files: set[Path]
    asked: set[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    place = tmp_path_factory.mktemp("whole")
    options, oracle = run_options(place), Oracle()
    with oracle.serving() as server:
        run = Drilled(place / "place", [*options, *roles(server.url, concurrency=CONCURRENCY)])
        events = run.observed()
    assert len(oracle.asked) == len(set(oracle.asked)) == run.answers_stored
    return Undisturbed(options, events, contents(run.folder), set(run.files()), set(oracle.asked))


def moments(events: list[Event], count: int, rng: random.Random) -> list[Event]:
    """Draw events, in their order: as many while each artefact is made as while any other is made."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        groups[event.next].append(place)
    artefacts = [name for name in groups if name in STORED]
    rng.shuffle(artefacts)
    drawn: list[int] = []
    while len(drawn) < count:
        for name in artefacts[: count - len(drawn)]:
            drawn += [groups[name].pop(rng.randrange(len(groups[name])))] if groups[name] else []
    return [events[place] for place in sorted(drawn)]


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_again_and_again_ends_as_if_it_was_not(whole: Undisturbed, tmp_path: Path, seed: int) -> None:
    rng, oracle = random.Random(seed), Oracle()
    lost, killed = 0, []
    with oracle.serving() as server:
        run = Drilled(tmp_path / "place", [*whole.options, *roles(server.url, concurrency=CONCURRENCY)])
        for event in moments(whole.events, KILLS, rng):
            if run.killed_at(event, rng.uniform(0, event.gap)):
                killed.append(event.next)
            now = len(oracle.asked) - run.answers_stored
            assert 0 <= now - lost <= 2 * CONCURRENCY  # the requests under way, of two roles
            lost = now
        code, output = run.run()
    print(f"killed while these were made: {', '.join(killed)}; {lost} requests were under way")
    assert code == 0, output[-3000:]
    assert len(killed) >= KILLS - 1  # the last moment may come too late
    assert set(oracle.asked) == whole.asked
    assert len(oracle.asked) - lost == len(whole.asked)
    found = contents(run.folder)
    assert {name for name in whole.contents if found.get(name) != whole.contents[name]} == set()
    assert set(run.files()) == whole.files  # nothing temporary is left
