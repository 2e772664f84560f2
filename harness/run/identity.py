"""Which options each stored artefact depends on, and whether a folder holds this very run.

``docs/resume.md`` describes the artefacts, their files, and when each counts as done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from harness.errors import HarnessError
from harness.evidence import content_hash
from harness.flat import flatten
from harness.folder import ELSEWHERE, RunFolder
from harness.llm.prompts import prompts_of
from harness.run.masking import distinguishable, without_secrets
from harness.run.setup import Setup
from harness.subject.identity import vocabulary_of, weights_of

#: The options that each artefact depends on, directly. A name includes all options below it.
DEPENDS_ON = {
    "channels": ("seed", "subject", "neurons", "decomposition"),
    "evidence": ("seed", "subject", "neurons", "corpus", "evidence"),
    # ``prompts`` and ``inputs`` are no options: templates and files that methods read.
    "answers": (
        *("describers", "judges", "llm", "mode", "target_words", "evidence_budget", "comparisons", "steering"),
        *("prompts", "inputs"),
    ),
    "explainer check": ("explainer_check",),
    "draws": ("draws",),
    "retests": ("comparisons.retest",),
    "diagnostics": ("diagnostics",),
    "results": ("statistics", "reference_channels"),
}
#: Artefacts that a finished run makes again, or extends, when their options change.
REMADE = ("explainer check", "draws", "retests", "diagnostics", "results")
#: Options that change where and how a run works, or how much it keeps, but no value in a record.
OPERATIONAL = (
    *("name", "folder", "cache", "quiet", "executor", "storage", "serving", "tracking", "sweep"),
    *("subject.cache", "subject.shape", "steering.rows"),
    *("evidence.batch_windows", "evidence.memory", "evidence.store", "evidence.checkpoint_s"),
)
#: Raised when the same search finds other channels, or the same record holds something else.
CHANNELS_VERSION = 3


def identity(setup: Setup) -> dict[str, Any]:
    """Return everything that can change a record, as dotted names and values.

    That is every option that is neither operational nor one of an artefact that is made again, and what options name:
    the model, the corpus's files, prompts, other files and LLMs.

    Raises:
        HarnessError: if a file of the corpus does not exist, and the run's folder does not say what it contained.
    """
    contents = {path: file["sha256"][:16] for path, file in corpus_files(setup).items()}
    return _identity(setup) | {f"corpus.contents.{path}": digest for path, digest in contents.items()}


def corpus_files(setup: Setup) -> dict[str, dict[str, Any]]:
    """Return the size, time of change and SHA-256 of each local file of the corpus, by path.

    A file whose size and time are those in the run's manifest is not read again. If the corpus is not on this machine,
    the manifest's entries are returned: a run that has its evidence can continue without the corpus.

    Raises:
        HarnessError: if a file does not exist and the manifest does not list any.
    """
    if setup.corpus is None:
        return {}
    folder = RunFolder(setup.folder)
    earlier: dict[str, dict[str, Any]] = {}
    if folder.manifest.exists():
        earlier = folder.read_manifest().get("corpus_files", {})
    try:
        paths = [path for one in (setup.corpus, setup.report_corpus) if one is not None for path in one.files()]
    except HarnessError:
        if not earlier:
            raise
        return earlier
    found = {}
    for path in paths:
        stat, known = path.stat(), earlier.get(str(path), {})
        now = {"size": stat.st_size, "modified_ns": stat.st_mtime_ns}
        same = all(known.get(name) == value for name, value in now.items())
        found[str(path)] = {**now, "sha256": known["sha256"] if same else content_hash(path)}
    return found


def _identity(setup: Setup) -> dict[str, Any]:
    """Return the identity without the contents of the corpus."""
    left_out = [*OPERATIONAL, *(option for artefact in REMADE for option in DEPENDS_ON[artefact])]
    left_out += ["llm"]  # each back end knows which of its options change answers
    left_out += ["steering.effects"] * (not setup.effect_splits) + ["steering.texts"] * (not setup.needs_steered)
    options = flatten(distinguishable(setup.config))
    config = {name: value for name, value in options.items() if not _covered(name, left_out)}
    methods = setup.methods
    inputs = {name: [one.inputs for one in method.walk if one.inputs is not None] for name, method in methods.items()}
    ignored = repr(sorted(setup.subject.ignored_token_ids))  # the content of a file of tokens, not only its name
    beyond: dict[str, Any] = {
        "subject": {
            "fingerprint": setup.subject.fingerprint,
            "ignored_tokens": hashlib.sha256(ignored.encode()).hexdigest()[:16],
        },
        "prompts": {name: prompts_of(method) for name, method in methods.items()},
        "inputs": {name: found for name, found in inputs.items() if found},
        "llm": {
            role: {**backend.identity, "sampling": dataclasses.asdict(backend.sampling)}
            for role, backend in setup.backends.items()
        },
    }
    if setup.config["decomposition"]["solver"] == "adamw":
        # The published optimiser stops a batch as a whole, so its results depend on the other vectors of the batch.
        beyond["executor"] = {"block": setup.executor.block, "memory": setup.executor.memory}
    if setup.compares:  # describers see the tokens that are kept
        beyond["storage"] = {"top_tokens": setup.storage.top_tokens}
    # Through JSON, like the stored identity that it is compared with: tuples become lists.
    plain: dict[str, Any] = json.loads(json.dumps(config | flatten(without_secrets(beyond)), default=str))
    return plain


def channels_identity(setup: Setup) -> dict[str, Any]:
    """Return everything that a vector's stored channels depend on, as plain JSON types.

    Their number is not included: the first channels do not depend on later ones. Nor are the neurons: a vector's
    channels do not depend on other vectors, except with adamw.
    """
    of_channels = tuple(name for name in DEPENDS_ON["channels"] if name != "neurons")
    # The hashes of the weights and dictionaries stand for these.
    elsewhere = ("decomposition.num_channels", "subject.name", "subject.sources", "subject.sae")
    named = {
        name: value
        for name, value in _identity(setup).items()
        if _covered(name, (*of_channels, "executor")) and name not in elsewhere
    }
    if setup.config["decomposition"]["solver"] == "adamw":
        named["neurons"] = [str(neuron) for neuron in setup.neurons]
    return {
        "version": CHANNELS_VERSION,
        "weights": weights_of(setup.subject),
        "vocabulary": hashlib.sha256(vocabulary_of(setup.subject).encode()).hexdigest()[:16],
        "device": setup.executor.device.split(":")[0],
        "storage": {name: value for name, value in dataclasses.asdict(setup.storage).items() if name != "store"},
        **named,
    }


def check_same_run(setup: Setup, folder: RunFolder, *, unknown: Sequence[str] = ()) -> None:
    """Check that the folder is new, or holds this very run, apart from ``unknown`` parts of the identity.

    Options of answers alone may change as long as no description is stored.

    Raises:
        HarnessError: naming what differs.
    """
    if not folder.manifest.exists():
        return
    earlier, now = folder.read_manifest()["identity"], identity(setup)
    names = sorted(earlier.keys() | now.keys(), key=lambda name: (name.count("."), name))
    free = (*unknown, *(() if len(folder.descriptions()) else DEPENDS_ON["answers"]))
    changed = [name for name in names if earlier.get(name) != now.get(name) and not _covered(name, free)]
    if changed:
        shown = "; ".join(f"{name} was {earlier.get(name)!r}, is now {now.get(name)!r}" for name in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise HarnessError(
            f"the folder {folder.path} holds a run of a different configuration ({shown}{more}): "
            f"choose {ELSEWHERE}, or delete it"
        )


def _covered(name: str, options: Sequence[str]) -> bool:
    return any(name == option or name.startswith(f"{option}.") for option in options)
