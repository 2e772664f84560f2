"""Files of a model: in an installed Python package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from harness.errors import HarnessError


class Unavailable(Exception):
    """A source does not have the model."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, downloaded on demand.

    Attributes:
        reference: folder or hub repository, as ``from_pretrained`` of transformers takes it.
        folder: folder of the files, None if they are on the hub.
        revision: revision on the hub, None for the default branch.
        gguf: the GGUF file with the whole model, or its parts in order; empty if the model is not in one.
    """

    reference: str
    folder: Path | None
    revision: str | None = None
    gguf: tuple[Path, ...] = ()

    def fetch(self, name: str) -> Path | None:
        """Return the local path of a file, which is downloaded if necessary; None if the model has no such file.

        Raises:
            Unavailable: if the model itself cannot be found or downloaded.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        # Imported here to keep start-up fast.
        from huggingface_hub import errors, hf_hub_download

        repository = self.reference
        try:
            return Path(hf_hub_download(repository, name, revision=self.revision))
        except errors.GatedRepoError as error:
            raise Unavailable(
                f"{repository} is gated: accept its licence at https://huggingface.co/{repository} "
                "and set HF_TOKEN (or run `hf auth login`)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise Unavailable(f"{repository} has no revision {self.revision!r} on the hub") from error
        except errors.RepositoryNotFoundError as error:
            raise Unavailable(
                f"{repository} is neither a folder here nor a model on the hub that this account can see: "
                "check the spelling, or set HF_TOKEN if it is private"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            reason = first_line(error.__cause__ or error)
            raise Unavailable(
                f"{repository} is not in the local hub cache and the hub cannot be reached ({reason}): download it "
                "where there is a network, or name a local folder"
            ) from error
        except errors.EntryNotFoundError:
            return None
        except errors.HFValidationError as error:
            raise Unavailable(
                f"{repository!r} is neither an existing folder nor a hub name of the form owner/model"
            ) from error
        except Exception as error:  # the HTTP library depends on the version of the hub client
            raise Unavailable(f"{repository} cannot be fetched from the hub ({first_line(error)})") from error


def locate(sources: Sequence[str | Sequence[str]], revision: str | None = None) -> ModelFiles:
    """Return the first source that has the model.

    Args:
        sources: each a local folder, a hub name, ``package:NAME/FOLDER`` (files of an installed Python package, also
            ``package:NAME==VERSION/FOLDER`` to name the version in messages), or a GGUF file in one of these; a list is
            a GGUF file in parts.
        revision: branch, tag or commit on the hub; None for the default branch.

    Raises:
        HarnessError: if no source has the model, with the reason for each source.
    """
    reasons = []
    for source in sources:
        try:
            files = _open(source, revision)
            if files.gguf or files.fetch("config.json") is not None:
                return files
            if gguf := _gguf_in(files):
                return replace(files, gguf=(gguf,))
            reasons.append(f"{source} has no config.json and no GGUF file")
        except Unavailable as error:
            reasons.append(str(error))
    raise HarnessError("the model cannot be found: " + "; ".join(reasons or ["no source was given (subject.sources)"]))


def _open(source: str | Sequence[str], revision: str | None) -> ModelFiles:
    if isinstance(source, str) and not source.endswith(".gguf"):
        return _model(source, revision)
    parts = [source] if isinstance(source, str) else list(source)
    _check_installed(parts)
    return ModelFiles(parts[0], None, revision, tuple(_file(part, revision) for part in parts))


def _model(source: str, revision: str | None) -> ModelFiles:
    """Return the files of a model in a folder, in a package or on the hub."""
    if source.startswith("package:"):
        _check_installed([source])
        return _folder(_in_package(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if source.startswith(("/", ".", "~")):
        raise Unavailable(f"the folder {source} does not exist")
    return ModelFiles(source, None, revision)


def _file(source: str, revision: str | None) -> Path:
    """Return the path of a single file, which is downloaded if it is on the hub."""
    path = _in_package(source) if source.startswith("package:") else Path(source).expanduser()
    if path.is_file():
        return path.resolve()
    owner, _, rest = source.partition("/")
    repository, _, name = rest.partition("/")
    if not name or source.startswith(("/", ".", "~", "package:")):
        raise Unavailable(f"the file {source} does not exist")
    found = ModelFiles(f"{owner}/{repository}", None, revision).fetch(name)
    if found is None:
        raise Unavailable(f"{owner}/{repository} has no {name}")
    return found


def _gguf_in(files: ModelFiles) -> Path | None:
    """Return the GGUF file of a folder or repository without a config; None if there is none."""
    if files.folder is not None:
        names = [path.name for path in files.folder.glob("*.gguf")]
    else:
        from huggingface_hub import list_repo_files

        try:
            names = [
                name for name in list_repo_files(files.reference, revision=files.revision) if name.endswith(".gguf")
            ]
        except Exception as error:  # the HTTP library depends on the version of the hub client
            raise Unavailable(
                f"{files.reference} has no config.json, and its files cannot be listed ({first_line(error)})"
            ) from error
    if len(names) > 1:
        raise Unavailable(f"{files.reference} has several GGUF files: choose one, as {files.reference}/{min(names)}")
    return files.fetch(names[0]) if names else None


def _in_package(source: str) -> Path:
    """Return the path that ``package:NAME/PATH`` names; the package is installed."""
    requirement, _, inside = source.removeprefix("package:").partition("/")
    folder = _package(requirement)
    assert folder is not None, "_check_installed has found it"
    return folder / inside


def _check_installed(sources: Sequence[str]) -> None:
    """Raise Unavailable if Python packages of the sources are missing, with the command that installs them."""
    named = [source.removeprefix("package:").partition("/")[0] for source in sources if source.startswith("package:")]
    missing = [requirement.replace("_", "-") for requirement in named if _package(requirement) is None]
    if missing:
        names = ", ".join(requirement.partition("==")[0] for requirement in missing)
        what = f"package {names} is" if len(missing) == 1 else f"packages {names} are"
        raise Unavailable(f"the Python {what} not installed (pip install --no-deps {' '.join(missing)})")


def _package(requirement: str) -> Path | None:
    """Return the folder of an installed package, given as NAME or NAME==VERSION; None if it is not installed."""
    try:
        spec = importlib.util.find_spec(requirement.partition("==")[0])
    except (ImportError, ValueError):  # a parent package is missing, or the name is invalid
        spec = None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _folder(path: Path) -> ModelFiles:
    return ModelFiles(str(path.resolve()), path.resolve())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if there is no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several joined, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, computed once as long as the file is not changed."""
    return _content_hash(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _content_hash(path: Path, modified_ns: int) -> str:
    resolved = path.resolve()
    # The hub's cache names its files by their SHA-256.
    return resolved.name if resolved.parent.name == "blobs" and len(resolved.name) == 64 else sha256(path)
