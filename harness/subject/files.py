"""Files of a model: in an installed Python package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from harness.errors import HarnessError

logger = logging.getLogger(__name__)


class Unavailable(Exception):
    """A source does not have the model."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, downloaded on demand.

    Attributes:
        reference: folder or hub repository, as ``from_pretrained`` of transformers takes it.
        folder: folder of the files, None if they are on the hub.
        revision: revision on the hub, None for the default branch.
    """

    reference: str
    folder: Path | None
    revision: str | None = None

    def fetch(self, name: str) -> Path | None:
        """Return the local path of a file, which is downloaded if necessary; None if the model has no such file.

        Raises:
            Unavailable: if the model itself cannot be found or downloaded.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        repository = self.reference
        try:
            return Path(hf_hub_download(repository, name, revision=self.revision))
        except GatedRepoError as error:
            raise Unavailable(
                f"{repository} is gated: accept its licence at https://huggingface.co/{repository} "
                "and set HF_TOKEN (or run `hf auth login`)"
            ) from error
        except RevisionNotFoundError as error:
            raise Unavailable(f"{repository} has no revision {self.revision!r} on the hub") from error
        except RepositoryNotFoundError as error:
            raise Unavailable(
                f"{repository} is neither a folder here nor a model on the hub that this account can see: "
                "check the spelling, or set HF_TOKEN if it is private"
            ) from error
        except LocalEntryNotFoundError as error:
            reason = first_line(error.__cause__ or error)
            raise Unavailable(
                f"{repository} is not in the local hub cache and the hub cannot be reached ({reason}): download it "
                "where there is a network, or name a local folder"
            ) from error
        except EntryNotFoundError:
            return None
        except HFValidationError as error:
            raise Unavailable(
                f"{repository!r} is neither an existing folder nor a hub name of the form owner/model"
            ) from error
        except Exception as error:  # the HTTP library depends on the version of the hub client
            raise Unavailable(f"{repository} cannot be fetched from the hub ({first_line(error)})") from error


def locate(sources: Sequence[str], revision: str | None = None, *, marker: str = "config.json") -> ModelFiles:
    """Return the first source that has the model.

    Args:
        sources: each ``package:NAME/FOLDER`` (files of an installed Python package), a local folder, or a hub name.
        revision: branch, tag or commit on the hub; None for the default branch.
        marker: a file that every such model has.

    Raises:
        HarnessError: if no source has the model, with the reason for each source.
    """
    reasons = []
    for source in sources:
        try:
            files = _open(source, revision)
            if files.fetch(marker) is not None:
                return files
            reasons.append(f"{source} has no {marker}")
        except Unavailable as error:
            reasons.append(str(error))
    raise HarnessError("the model cannot be found: " + "; ".join(reasons or ["no source was given (subject.sources)"]))


def _open(source: str, revision: str | None) -> ModelFiles:
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # a parent package is missing, or the name is invalid
            spec = None
        if spec is None or spec.origin is None:
            raise Unavailable(f"the Python package {package.replace('_', '-')} is not installed")
        return _folder(Path(spec.origin).parent / inside)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if source.startswith(("/", ".", "~")):
        raise Unavailable(f"the folder {source} does not exist")
    return ModelFiles(source, None, revision)


def _folder(path: Path) -> ModelFiles:
    return ModelFiles(str(path.resolve()), path.resolve())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if there is no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
