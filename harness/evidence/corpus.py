"""Where text comes from. A corpus yields documents; everything else about evidence is the same for all of them."""

from __future__ import annotations

import ast
import hashlib
import heapq
import inspect
import json
import logging
import pydoc_data.topics
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.subject.files import first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Document:
    """A text and its identity, a hash of the text: the same text is the same document wherever it is found."""

    id: str
    text: str

    @classmethod
    def of(cls, text: str) -> Document:
        """Make the document of a text; halves of surrogate pairs, which are no text, become question marks."""
        encoded = text.encode("utf-8", "replace")
        return cls(hashlib.sha256(encoded).hexdigest()[:16], encoded.decode())


class Corpus(ABC):
    """A source of documents.

    Attributes:
        name: what reports call it.
    """

    name: str

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Yield the texts, in an order that is the same at every run.

        Raises:
            HarnessError: if the source cannot be read.
        """

    def documents(self, limit: int | None) -> list[Document]:
        """Return the documents, each text once.

        Args:
            limit: at most so many; those with the smallest hash are taken, a fixed pseudo-random choice.

        Raises:
            HarnessError: if there are none.
        """
        distinct = {document.id: document for text in self.texts() if text.strip() and (document := Document.of(text))}
        if not distinct:
            raise HarnessError(f"the corpus {self.name} is empty: no text was found in it (corpus)")
        chosen = sorted(distinct) if limit is None else heapq.nsmallest(limit, distinct)
        return [distinct[identity] for identity in chosen]


class InstalledDocs(Corpus):
    """The documentation already on the machine: Python's reference and the docstrings of installed packages.

    Sources are parsed, never imported.

    Args:
        name: what reports call it.
        min_characters: shorter texts are passed over.
        max_files: at most so many source files are parsed, in alphabetical order of package and path.
    """

    def __init__(self, name: str = "installed-docs", min_characters: int = 200, max_files: int = 4000) -> None:
        self.name, self._minimum, self._max_files = name, min_characters, max_files

    def texts(self) -> Iterator[str]:
        """Yield the reference topics, then the docstrings."""
        candidates = [*pydoc_data.topics.topics.values(), *self._docstrings()]
        yield from (text for text in candidates if len(text) >= self._minimum)

    def _docstrings(self) -> Iterator[str]:
        folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
        sources = (path for folder in folders for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts)
        for count, path in enumerate(sources):
            if count >= self._max_files:
                return
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, OSError):
                continue  # test data of Python itself is broken on purpose
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node)
                    if text:
                        yield inspect.cleandoc(text)


class HuggingFaceDataset(Corpus):
    """A text column of a dataset on the Hugging Face hub, streamed.

    Args:
        path: dataset name.
        subset: its configuration, if it has several.
        split: its split.
        column: the text column.
        revision: hub revision.
        max_examples: examples read from the stream.
        name: what reports call it; the dataset's name if none.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
        max_examples: int = 100_000,
        name: str | None = None,
    ) -> None:
        self.name = name or path
        self._path, self._subset, self._split, self._column = path, subset, split, column
        self._revision, self._max_examples = revision, max_examples

    def texts(self) -> Iterator[str]:
        """Yield the column's values."""
        from datasets import load_dataset

        try:
            stream = load_dataset(self._path, self._subset, split=self._split, revision=self._revision, streaming=True)
            for example in stream.take(self._max_examples):
                if self._column not in example:
                    raise HarnessError(
                        f"the dataset {self._path} has no column {self._column!r}; "
                        f"it has {', '.join(example)} (corpus.column)"
                    )
                text = example[self._column]
                if text is not None and not isinstance(text, str):
                    raise HarnessError(
                        f"the column {self._column!r} of the dataset {self._path} holds {type(text).__name__}, "
                        "not text (corpus.column)"
                    )
                yield text or ""
        except HarnessError:
            raise
        except Exception as error:  # the library raises a class of its own for every cause
            raise HarnessError(
                f"the dataset {self._path} cannot be read ({first_line(error)}); "
                "check corpus.path, corpus.subset, corpus.split and corpus.revision"
            ) from error


class TextFiles(Corpus):
    """Local files: ``.txt`` and ``.md`` (one document a file), ``.jsonl`` (one document a line).

    Args:
        paths: files, or folders that are searched for such files.
        column: the text field of JSON lines.
        name: what reports call it.
    """

    def __init__(self, paths: Sequence[str], column: str = "text", name: str = "files") -> None:
        self.name, self._paths, self._column = name, tuple(paths), column

    def texts(self) -> Iterator[str]:
        """Yield the documents, files in alphabetical order."""
        for given in self._paths:
            path = Path(given).expanduser()
            if not path.exists():
                raise HarnessError(f"the corpus file {given} does not exist (corpus.paths)")
            files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
            for file in files:
                if file.suffix in {".txt", ".md"}:
                    yield file.read_text("utf-8", "replace")
                elif file.suffix == ".jsonl":
                    yield from self._lines(file)
                elif not path.is_dir():
                    raise HarnessError(f"{file} is neither .txt, .md nor .jsonl (corpus.paths)")

    def _lines(self, file: Path) -> Iterator[str]:
        # Not splitlines, which also splits at characters that JSON lets stand inside a string.
        for number, line in enumerate(file.read_text("utf-8", "replace").split("\n"), start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[self._column]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise HarnessError(
                    f"{file} line {number} is not a JSON object with a text in the field {self._column!r} "
                    "(corpus.column)"
                )
            yield text
