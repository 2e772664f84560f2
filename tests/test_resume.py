"""The tables of docs/resume.md hold: what is stored, what is made again, and which options make another run."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.errors import told
from support.resume_page import DOCUMENT, STORED, names, table

from harness.errors import HarnessError
from harness.evidence import EvidenceConfig
from harness.flat import flatten
from harness.folder import RunFolder
from harness.run.help import compose_config
from harness.run.identity import DEPENDS_ON, OPERATIONAL, channels_identity, check_same_run, identity
from harness.run.pipeline import run
from harness.run.setup import Setup

JUDGES = """
from harness.methods import Comparator, Grade, Judgement, Scorer
from harness.llm.scripted import ScriptedBackend
from harness.records import Winner


class Explainer(ScriptedBackend):
    def __init__(self):
        super().__init__(lambda request: '{"description": "topic %d"}' % len(request.text))


class Longer(Comparator):
    symmetric = True

    async def compare(self, case, first, second):
        return Judgement(Winner.FIRST if len(first) > len(second) else Winner.SECOND)


class Texts(Scorer):
    needs_steered = True

    async def score(self, case, description):
        return Grade(len(case.steered[case.neuron]) / 100)
"""


EFFECTS = {name: row[1] for row in table("What may be changed on an existing run") for name in names(row[0])}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Options of a run that makes every artefact, on two neurons of a tiny Llama."""
    path = tmp_path_factory.mktemp("resume")
    tiny_models.tiny_subject(path / "llama", "llama")
    tiny_models.topics_file(path)
    (path / "capitals").mkdir()
    for place, text in enumerate(tiny_models.texts()[:30]):
        (path / "capitals" / f"{place}.txt").write_text(text.upper())
    (path / "resume_judges.py").write_text(textwrap.dedent(JUDGES))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        yield [
            *("subject=local", f"subject.sources=[{path / 'llama'}]", "subject.name=tiny", "tracking=none"),
            *("neurons.layers=[1]", "neurons.per_layer=2", "decomposition.num_channels=2", f"cache={path / 'cache'}"),
            tiny_models.SHORT_SEARCH,
            *("corpus=files", f"corpus.paths=[{path / 'topics.jsonl'}]", "evidence.max_documents=40"),
            *("evidence.window=16", "evidence.top=3", "evidence.random=6", "describers=[rotate,token_change]"),
            *(
                "judges=[]",
                "+judges.longer._target_=resume_judges.Longer",
                "+judges.texts._target_=resume_judges.Texts",
            ),
            *("diagnostics.sample=1", "diagnostics.random_vectors=2", "diagnostics.ablated=2", "statistics.draws=50"),
            *("+llm.explainer._target_=resume_judges.Explainer", "explainer_check.concepts=1"),
            *("steering.effects.prompts=4", "steering.texts.prompts=[It is]", "steering.texts.values=[2]"),
            *("steering.texts.unit=absolute", "steering.texts.tokens=4", "comparisons.retest=1"),
            *("draws.repeated=1", "corpus@evidence.report_corpus=files"),
            f"evidence.report_corpus.paths=[{path / 'capitals'}]",
            f"folder={path / 'run'}",
        ]


@pytest.fixture(scope="module")
def finished(options: list[str]) -> RunFolder:
    setup = Setup.of(compose_config(options))
    run(setup)
    return RunFolder(setup.folder)


def files(folder: RunFolder) -> dict[Path, tuple[int, int]]:
    """Return a run's files with their inodes and times, without the lock, the logs and the manifest."""
    found = [path for path in folder.path.rglob("*") if path.is_file() and folder.logs not in path.parents]
    stats = {path: path.stat() for path in found if path != folder.manifest and path.name != ".lock"}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def matching(folder: RunFolder, artefact: str) -> set[Path]:
    return {path for pattern in STORED[artefact] for path in folder.path.glob(pattern)}


def test_every_file_of_a_run_is_an_artefact(finished: RunFolder) -> None:
    for artefact, patterns in STORED.items():
        for pattern in set(patterns) - {"sanity.json"}:  # only of a subject with planted truth
            assert list(finished.path.glob(pattern)), (artefact, pattern)
    listed = set[Path]().union(*(matching(finished, artefact) for artefact in STORED))
    assert set(files(finished)) == listed


def test_a_deleted_artefact_is_made_again_and_nothing_else(options: list[str], finished: RunFolder) -> None:
    for artefact in STORED:
        before = files(finished)
        deleted = matching(finished, artefact)
        contents = {path: path.read_bytes() for path in deleted}
        for path in deleted:
            path.unlink()
        run(Setup.of(compose_config(options)))
        after = files(finished)
        assert set(after) == set(before), artefact
        unchanged = set(before) - deleted - matching(finished, "Results")
        assert {path: after[path] for path in unchanged} == {path: before[path] for path in unchanged}, artefact
        for path in deleted - {path for path in deleted if path.suffix in (".jsonl", ".html")}:  # these hold times
            assert path.read_bytes() == contents[path]


def test_a_run_with_nothing_left_to_compute_does_not_open_the_model(
    options: list[str], finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the model was opened")

    monkeypatch.setattr("harness.subject.modules.from_pretrained", refuse)
    run(Setup.of(compose_config(options)))
    (effects,) = matching(finished, "Effects")
    content = effects.read_bytes()
    effects.unlink()
    told(lambda: run(Setup.of(compose_config(options))), "the model was opened")
    effects.write_bytes(content)


def effect_of(option: str) -> str:
    parts = option.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((EFFECTS[prefix] for prefix in prefixes if prefix in EFFECTS), "")


def with_option(setup: Setup, option: str, value: Any) -> Setup:
    config = deepcopy(setup.config)
    *sections, name = option.split(".")
    section = config
    for part in sections:
        section = section[part]
    section[name] = value
    return dataclasses.replace(setup, config=config)


def refused(setup: Setup, folder: RunFolder) -> bool:
    try:
        check_same_run(setup, folder)
    except HarnessError:
        return True
    return False


def test_every_option_has_the_effect_that_the_table_states(
    options: list[str], finished: RunFolder, tmp_path: Path
) -> None:
    setup = Setup.of(compose_config(options))
    begun = RunFolder(tmp_path)  # as after a kill before the first description
    begun.manifest.write_bytes(finished.manifest.read_bytes())
    assert not refused(setup, finished)
    for option in flatten(setup.config):
        effect = effect_of(option)
        assert effect, f"{option} is missing in {DOCUMENT.name}"
        if option.startswith("llm."):
            continue  # see test_llms_and_adamw_know_which_options_change_a_record
        if option == "storage.top_tokens":
            changed = dataclasses.replace(setup, storage=dataclasses.replace(setup.storage, top_tokens=7))
        else:
            changed = with_option(setup, option, "changed")
        assert refused(changed, finished) == effect.startswith("another run"), option
        assert refused(changed, begun) == (effect.startswith("another run") and "description" not in effect), option


def test_an_option_that_nobody_declared_makes_another_run(options: list[str], finished: RunFolder) -> None:
    setup = Setup.of(compose_config(options))
    assert refused(with_option(setup, "mine", {"option": 1}), finished)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (["llm.judge.model=other"], True),
        (["llm.judge.sampling.temperature=0.5"], True),
        (["llm.judge.base_url=http://127.0.0.1:9/v1"], False),
        (["llm.judge.concurrency=7"], False),
        (["executor.block=3"], False),
        (["decomposition.solver=adamw", "executor.block=3"], True),
    ],
)
def test_llms_and_adamw_know_which_options_change_a_record(
    options: list[str], change: list[str], differs: bool
) -> None:
    base = [*options, "llm@llm.judge=openai", "llm.judge.model=m"]
    base += [item for item in change if item.startswith("decomposition")]
    one, other = (Setup.of(compose_config(items)) for items in (base, [*base, *change]))
    assert (identity(one) != identity(other)) == differs


def test_the_document_states_what_the_code_declares() -> None:
    operational = {name for name, effect in EFFECTS.items() if effect == "none on records"}
    assert operational == set(OPERATIONAL)
    of_rows = {name for row in table("What is stored") for name in names(row[3])} - {"tracking"}
    declared = {name for options in DEPENDS_ON.values() for name in options} - {"prompts", "inputs", "steering"}
    assert {name for name in of_rows if not name.startswith("steering.")} == declared


def test_the_evidence_store_and_the_run_agree_on_what_is_operational() -> None:
    settings = {field.name for field in dataclasses.fields(EvidenceConfig)}
    kept = {name.removeprefix("evidence.") for name in OPERATIONAL if name.startswith("evidence.")}
    assert EvidenceConfig(report_random=7).identity != EvidenceConfig().identity
    assert settings - {"report_random", "report_documents", *EvidenceConfig().identity} == kept


def test_the_channel_store_takes_fewer_channels_and_other_neurons_but_no_other_search(options: list[str]) -> None:
    def stored(*more: str) -> dict[str, Any]:
        return channels_identity(Setup.of(compose_config([*options, *more])))

    base = stored()
    for same in ("decomposition.num_channels=1", "neurons.per_layer=1", "executor.block=1", "evidence.top=4"):
        assert stored(same) == base, same
    for other in ("decomposition.kurtosis_weight=0.7", "seed=1", "storage.directions=none"):
        assert stored(other) != base, other
