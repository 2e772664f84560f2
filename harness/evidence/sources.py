"""Corpora that are not text files: Hugging Face datasets, conversations, and the installed documentation."""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import platform
import pydoc_data.topics
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import SkipValidation

from harness.errors import HarnessError
from harness.evidence.corpus import Column, Corpus, Message
from harness.evidence.files import contents_hash, file_kind
from harness.subject.files import first_line
from harness.validation import Count, CountOrZero, validated

logger = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class InstalledDocs(Corpus):
    """The documentation on this machine: Python's reference and the docstrings of installed packages.

    Source files are parsed, never imported, in alphabetical order of their paths; conf/corpus/installed_docs.yaml
    documents the options.
    """

    @validated
    def __init__(
        self, name: str = "installed-docs", min_characters: CountOrZero = 200, max_files: Count = 4000
    ) -> None:
        self.name, self._minimum, self._max_files = name, min_characters, max_files

    def identity(self) -> dict[str, Any]:
        """Return the settings, and the versions of all installed packages."""
        packages = sorted({(item.name, item.version) for item in metadata.distributions()})
        return {
            "min_characters": self._minimum,
            "max_files": self._max_files,
            "python": platform.python_version(),
            "packages": hashlib.sha256(repr(packages).encode()).hexdigest()[:16],
        }

    def texts(self) -> Iterator[str]:
        """Yield the topics of Python's reference, then the docstrings."""
        yield from (text for text in pydoc_data.topics.topics.values() if len(text) >= self._minimum)
        yield from (text for text in self._docstrings() if len(text) >= self._minimum)

    def _docstrings(self) -> Iterator[str]:
        folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
        sources = (path for folder in folders for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts)
        for count, path in enumerate(sources):
            if count >= self._max_files:
                return
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, OSError):
                continue  # Python's own test data contains invalid files
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node)
                    if text:
                        yield inspect.cleandoc(text)


class HuggingFaceDataset(Column):
    """A column of a dataset on the Hugging Face hub (streamed) or in a local folder.

    conf/corpus/huggingface.yaml documents the options; ``name`` is the name in reports, by default the dataset's.
    """

    @validated
    def __init__(
        self,
        path: str,
        subset: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
        max_examples: Count | None = 100_000,
        name: str | None = None,
    ) -> None:
        self.name = name or path
        self._path, self._subset, self._split, self._column = path, subset, split, column
        self._local = Path(path).expanduser()
        self._revision, self._max_examples = revision, max_examples

    def identity(self) -> dict[str, Any]:
        """Return the settings with the commit of the revision, or the identity of a local folder's files."""
        return {
            "path": self._path,
            "subset": self._subset,
            "split": self._split,
            "column": self._column,
            "max_examples": self._max_examples,
            "revision": contents_hash(self.files()) if self._local.is_dir() else self._commit(),
        }

    def files(self) -> list[Path]:
        """Return all files of a local folder, without hidden ones."""
        found = self._local.rglob("[!.]*") if self._local.is_dir() else ()
        return sorted(path for path in found if path.is_file())

    def _commit(self) -> str | None:
        if self._revision is not None and _COMMIT.fullmatch(self._revision):
            return self._revision
        from huggingface_hub import HfApi

        try:
            found: str | None = HfApi().dataset_info(self._path, revision=self._revision, timeout=20).sha
        except Exception as error:  # offline; other errors are reported when the dataset is opened
            logger.debug("the commit of %s is not known (%s)", self._path, first_line(error))
            return self._revision
        return found

    def rows(self, passed: Counter[str]) -> Iterator[tuple[str, Any]]:
        """Yield the column's values."""
        if self._local.is_file():
            raise HarnessError(f"{self._path} is a file, not a dataset: corpus=files corpus.paths=[{self._path}]")
        try:
            stream = self._open(passed)
            for number, example in enumerate(stream):
                if self._max_examples is not None and number >= self._max_examples:
                    return
                if self._column not in example:
                    raise HarnessError(
                        f"the dataset {self._path} has no column {self._column!r}; "
                        f"it has {', '.join(example)} (corpus.column)"
                    )
                yield f"the column {self._column!r} of the dataset {self._path}", example[self._column]
        except HarnessError:
            raise
        except Exception as error:  # the library raises many classes of errors
            raise HarnessError(
                f"the dataset {self._path} cannot be read ({first_line(error)}); "
                "check corpus.path, corpus.subset, corpus.split and corpus.revision"
            ) from error

    def _open(self, passed: Counter[str]) -> Any:
        from datasets import DatasetDict, load_dataset_builder, load_from_disk

        local = self._local
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            saved = load_from_disk(str(local))
            return saved[self._split] if isinstance(saved, DatasetDict) else saved
        path = str(local) if local.is_dir() else self._path
        builder = load_dataset_builder(path, self._subset, revision=self._revision)
        # Without the hub, the library takes what it has in its cache, whatever the revision.
        if self._revision is not None and type(builder).__module__.startswith("datasets.packaged_modules.cache."):
            raise HarnessError(
                f"the revision {self._revision} of the dataset {self._path} cannot be read, because the hub cannot be "
                "reached, and the copy in the cache may be another one; corpus.revision=null accepts it"
            )
        if local.is_dir():
            # The library reads one type of files, and only those named after a split if there are any.
            read = {Path(file).resolve() for files in (builder.config.data_files or {}).values() for file in files}
            data = [file for file in self.files() if file_kind(file.name) not in (None, ".md")]
            passed["files of other types or names"] += sum(file.resolve() not in read for file in data)
        stream = builder.as_streaming_dataset(self._split)
        # If the columns are known beforehand, only one is fetched.
        return stream.select_columns([self._column]) if self._column in (stream.column_names or ()) else stream


class Conversations(Corpus):
    """Conversations: a column of lists of messages, formatted with a chat template.

    The template's tokens are context for the model and never count as evidence. conf/corpus/chat.yaml documents the
    options.
    """

    @validated
    def __init__(
        self,
        source: Annotated[Column, SkipValidation],
        template: str | None = None,
        role: str = "role",
        content: str = "content",
        name: str | None = None,
    ) -> None:
        if not isinstance(source, Column):
            raise HarnessError("corpus.source is not a corpus with columns; choose HuggingFaceDataset or TextFiles")
        self.name = name or source.name
        self.template = template
        self._source, self._role, self._content = source, role, content

    def identity(self) -> dict[str, Any]:
        """Return the source's identity, and how messages are read and formatted."""
        return {
            "source": self._source.identity(),
            "template": self.template,
            "role": self._role,
            "content": self._content,
        }

    def files(self) -> list[Path]:
        """Return the source's files."""
        return self._source.files()

    def texts(self) -> Iterator[tuple[Message, ...]]:
        """Yield the conversations."""
        for location, value in self._source.values():
            if isinstance(value, Mapping):  # `datasets` returns some lists of structs as a struct of lists
                value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
            try:
                yield tuple(Message(str(item[self._role]), _text(item[self._content])) for item in value)
            except (TypeError, KeyError, AttributeError) as error:
                raise HarnessError(
                    f"{location} is not a list of messages with the fields {self._role!r} and {self._content!r} "
                    "(corpus.source.column, corpus.role, corpus.content)"
                ) from error


def _text(content: Any) -> str:
    """Return the text of a message.

    Parts are joined by line breaks: plain strings, or mappings with a text; other parts, such as images, are left out.
    A message without content, such as a call, is "".

    Raises:
        TypeError, KeyError, AttributeError: if it is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError
    return "\n".join(
        part if isinstance(part, str) else part["text"]
        for part in content
        if isinstance(part, str) or part.get("type", "text") == "text"
    )
