"""The manifest and the identity of a run: secrets, ambiguous names, and the software that made it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

import harness.run.manifest as manifest
from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.run.help import compose_config
from harness.run.identity import check_same_run, identity
from harness.run.manifest import write_manifest
from harness.run.masking import without_secrets
from harness.run.setup import Setup


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tiny_models.tiny_subject(tmp_path_factory.mktemp("subject") / "llama", "llama")
    return folder


def setup_of(llama: Path, folder: Path, *more: str) -> Setup:
    own = ["subject=local", f"subject.sources=[{llama}]", "subject.name=tiny", "neurons.layers=[0]", "tracking=none"]
    return Setup.of(
        compose_config([*own, "neurons.indices=[1,2]", "neurons.per_layer=null", f"folder={folder}", *more])
    )


def refusal(llama: Path, folder: Path, *more: str) -> str:
    """Start a run in a folder, and return why it is refused, or an empty text."""
    setup = setup_of(llama, folder, *more)
    try:
        check_same_run(setup, RunFolder(folder))
    except HarnessError as error:
        return str(error)
    write_manifest(setup, RunFolder(folder), None)
    return ""


def test_the_working_directory_is_not_a_secret(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", str(llama.parent))
    monkeypatch.setenv("OLDPWD", "a-long-word-that-is-no-secret")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", str(llama.parent))
    monkeypatch.setenv("MY_TOKEN", "hf-very-secret")
    config = {"a": f"{llama}/x", "b": "a-long-word-that-is-no-secret", "c": "the hf-very-secret"}
    assert without_secrets(config) == {**config, "c": "the ***"}
    assert not refusal(llama, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["config"]["subject"]["sources"] == [str(llama)]
    monkeypatch.setenv("PWD", os.sep)
    assert not refusal(llama, tmp_path / "run")  # from another directory it is the same run


def test_a_setting_with_the_name_of_a_secret_makes_another_run(llama: Path, tmp_path: Path) -> None:
    setup = setup_of(llama, tmp_path / "x")

    def known_by(name: str, value: str) -> str:
        setup.config["corpus"][name] = value
        found: str = identity(setup)[f"corpus.{name}"]
        return found

    for name in ("sep_token", "key", "pass"):
        shown = {known_by(name, value) for value in ("A", "B")}
        assert len(shown) == 2
        # Too short to recover a key from it.
        assert all(len(one) == 11 and one.startswith("***") for one in shown)
        assert without_secrets({name: "A"}) == {name: "***"}
    assert known_by("token", "A") != known_by("sep_token", "A")
    for name in ("api_key", "hf_token", "password"):  # whose it is, changes no result
        assert known_by(name, "sk-0123456789") == "***"


def test_the_first_version_stays_in_the_manifest(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "first"
    monkeypatch.setattr(manifest, "_commit", lambda: commit)

    def start() -> dict[str, Any]:
        assert not refusal(llama, tmp_path / "run")
        return RunFolder(tmp_path / "run").read_manifest()

    start()
    assert [one["commit"] for one in start()["started"]] == ["first"]
    commit = "second"
    start()
    made = start()
    assert (made["commit"], [one["commit"] for one in made["started"]]) == ("first", ["first", "second"])
    assert made["versions"] == made["started"][0]["versions"]
    assert made["created"] == made["started"][0]["time"]
