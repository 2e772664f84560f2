"""The built wheel serves by itself: conf, prompts and assets are in it, and its console script works anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from support import tiny_models

import harness

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of the built wheel, in an environment that has this one's packages but not the checkout."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    # A copy, for the build leaves files beside what it builds.
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, check=True
    )
    for name in listed.stdout.decode().splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *alone, "-w", base / "dist", source], check=True)
    (wheel,) = (base / "dist").glob("*.whl")
    assert wheel.name == f"neuron_harness-{harness.__version__}-py3-none-any.whl"

    venv.create(base / "venv", with_pip=False, symlinks=True)
    python = base / "venv" / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run([*pip, "--python", str(python), "install", *alone, str(wheel)], check=True)
    # A plain path behind the environment's own packages; .pth files in it, the editable install's too, are not read.
    (Path(own) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return base / "venv" / "bin" / "neuron-harness"


def call(cwd: Path, *command: str | Path) -> str:
    """Run a command in a folder that is no checkout, and return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_serves_outside_of_the_checkout(script: Path, tmp_path: Path) -> None:
    python = script.parent / "python"
    where = "import harness, conf, describers, judges; print(harness.__file__, conf.__file__, describers.__file__)"
    found = call(tmp_path, python, "-c", where)
    assert found.count(str(script.parent.parent)) == 3, found  # all from the wheel, none from the checkout

    assert "experiment=demo" in call(tmp_path, script, "--help")
    assert "# Tokens per window of text." in call(tmp_path, script, "--cfg", "job", "experiment=demo")
    tiny_models.tiny_subject(tmp_path / "llama", "llama")
    (tmp_path / "texts").mkdir()
    for number in range(40):
        # Documents of their own words: text that is copied between them is left out.
        own = " ".join(f"word{number} {chr(97 + number % 26)}{place * number % 97} tide" for place in range(60))
        (tmp_path / "texts" / f"{number}.txt").write_text(own)
    out = call(
        *(tmp_path, script, "subject=local", "subject.sources=[llama]", "subject.name=tiny", "neurons.layers=[0]"),
        *("neurons.per_layer=2", "corpus=files", "corpus.paths=[texts]", "evidence.window=16", "evidence.top=4"),
        *("evidence.random=6", "decomposition.num_channels=2", "describers=[rotate,maxact,generic]"),
        tiny_models.SHORT_SEARCH,
        *("judges=[embedding_pairwise]", "tracking=none", "diagnostics.sample=0"),
        *("diagnostics.random_vectors=0", "diagnostics.ablated=0", "diagnostics.text_ablated=0"),
    )
    assert out.strip().splitlines()[-1] == str(tmp_path / "runs" / "run" / "report.html")
    assert "<style>" in (tmp_path / "runs" / "run" / "report.html").read_text()
    exported = call(tmp_path, python, "-m", "harness.export", "runs/run").strip()
    assert (tmp_path / exported / "README.md").exists()
