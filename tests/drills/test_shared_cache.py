"""Two runs at once on one cache: each ends as it does alone, and what one has done the other does not do again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.drills import Drilled, Oracle, contents, roles, run_options

pytestmark = [pytest.mark.slow, pytest.mark.drill]
CONCURRENCY = 4


def test_two_runs_at_once_share_their_work(tmp_path: Path) -> None:
    options, oracle = run_options(tmp_path), Oracle()
    with oracle.serving() as server:
        given = [*options, *roles(server.url, concurrency=CONCURRENCY)]
        runs = [Drilled(tmp_path / name, given, cache=tmp_path / "shared") for name in ("one", "two")]
        for run in runs:
            run.start()
        for run in runs:
            assert run.wait() == 0, run.log.read_text()[-3000:]
        asked = Counter(oracle.asked)
        alone = Drilled(tmp_path / "alone", given)
        assert alone.run()[0] == 0
    # Requests under way in one run are not in the cache yet when the other one looks.
    assert asked.total() < 2 * len(asked)
    assert asked.keys() == Counter(oracle.asked).keys()
    assert runs[0].answers_stored == len(asked)
    expected = contents(alone.folder)
    for run in runs:
        found = contents(run.folder)
        assert {name for name in expected if found.get(name) != expected[name]} == set()
    (evidence,) = (tmp_path / "shared" / "evidence").iterdir()
    assert len(list(evidence.glob("exemplars-*.parquet"))) == 1  # one pass over the corpus
    (channels,) = (tmp_path / "shared" / "channels").iterdir()
    blocks = [path.name for path in (channels / "channels").glob("*.vectors.parquet")]
    assert sorted(blocks) == sorted(path.name for path in alone.folder.channels.glob("*.vectors.parquet"))
    print(f"{asked.total() - len(asked)} of {len(asked)} requests were sent by both")
