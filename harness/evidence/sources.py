"""The corpora of the harness: Hugging Face datasets, local files, conversations, and the installed documentation."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import logging
import platform
import pydoc_data.topics
import re
import sysconfig
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import HarnessError
from harness.evidence.corpus import Corpus, Message
from harness.subject.files import first_line

logger = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class InstalledDocs(Corpus):
    """The documentation on this machine: Python's reference and the docstrings of installed packages.

    Source files are parsed, never imported, in alphabetical order of their paths; conf/corpus/installed_docs.yaml
    documents the options.
    """

    def __init__(self, name: str = "installed-docs", min_characters: int = 200, max_files: int = 4000) -> None:
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


class Column(Corpus):
    """A corpus that is a column of a table: texts, or the messages that :class:`Conversations` reads."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield the location of each value, for messages, and the value; null values are skipped.

        Raises:
            HarnessError: if the source cannot be read, or does not have the column.
        """

    def texts(self) -> Iterator[str]:
        """Yield the column's values."""
        for location, value in self.rows():
            if not isinstance(value, str):
                hint = "; read conversations with corpus=chat" if isinstance(value, list) else ""
                raise HarnessError(f"{location} contains {type(value).__name__}, not text (corpus.column){hint}")
            yield value


class HuggingFaceDataset(Column):
    """A column of a dataset on the Hugging Face hub (streamed) or in a local folder.

    conf/corpus/huggingface.yaml documents the options; ``name`` is the name in reports, by default the dataset's.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
        max_examples: int | None = 100_000,
        name: str | None = None,
    ) -> None:
        self.name = name or path
        self._path, self._subset, self._split, self._column = path, subset, split, column
        self._revision, self._max_examples = revision, max_examples

    def identity(self) -> dict[str, Any]:
        """Return the settings with the commit of the revision, or the identity of a local folder's files."""
        local = Path(self._path).expanduser()
        return {
            "path": self._path,
            "subset": self._subset,
            "split": self._split,
            "column": self._column,
            "max_examples": self._max_examples,
            "revision": _files_identity([local]) if local.is_dir() else self._commit(),
        }

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

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield the column's values."""
        try:
            stream = self._open()
            for number, example in enumerate(stream):
                if self._max_examples is not None and number >= self._max_examples:
                    return
                if self._column not in example:
                    raise HarnessError(
                        f"the dataset {self._path} has no column {self._column!r}; "
                        f"it has {', '.join(example)} (corpus.column)"
                    )
                if example[self._column] is not None:
                    yield f"the column {self._column!r} of the dataset {self._path}", example[self._column]
        except HarnessError:
            raise
        except Exception as error:  # the library raises many classes of errors
            raise HarnessError(
                f"the dataset {self._path} cannot be read ({first_line(error)}); "
                "check corpus.path, corpus.subset, corpus.split and corpus.revision"
            ) from error

    def _open(self) -> Any:
        from datasets import DatasetDict, load_dataset, load_from_disk

        local = Path(self._path).expanduser()
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            saved = load_from_disk(str(local))
            return saved[self._split] if isinstance(saved, DatasetDict) else saved
        path = str(local) if local.is_dir() else self._path
        stream = load_dataset(path, self._subset, split=self._split, revision=self._revision, streaming=True)
        # If the columns are known beforehand, only one is fetched.
        return stream.select_columns([self._column]) if self._column in (stream.column_names or ()) else stream


class TextFiles(Column):
    """Local files: ``.txt`` and ``.md`` (a document per file), ``.jsonl`` (one per line), ``.parquet`` (one per row).

    conf/corpus/files.yaml documents the options.
    """

    def __init__(self, paths: Sequence[str], column: str = "text", name: str = "files") -> None:
        self.name, self._paths, self._column = name, tuple(paths), column

    def identity(self) -> dict[str, Any]:
        """Return the column, and a hash of the name, size and modification time of every file."""
        return {"column": self._column, "files": _files_identity(list(self._files()))}

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield the documents, files in alphabetical order."""
        for file in self._files():
            if file.suffix in {".txt", ".md"}:
                yield str(file), file.read_text("utf-8", "replace")
            elif file.suffix == ".jsonl":
                yield from self._lines(file)
            else:
                yield from self._parquet(file)

    def _files(self) -> Iterator[Path]:
        for given in self._paths:
            path = Path(given).expanduser()
            if not path.exists():
                raise HarnessError(f"the corpus file {given} does not exist (corpus.paths)")
            for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
                if file.suffix in {".txt", ".md", ".jsonl", ".parquet"}:
                    yield file
                elif not path.is_dir():
                    raise HarnessError(f"{file} is neither .txt, .md, .jsonl nor .parquet (corpus.paths)")

    def _lines(self, file: Path) -> Iterator[tuple[str, Any]]:
        # Lines end at \n only: JSON strings may contain other line separators.
        with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)[self._column]
                except (ValueError, KeyError, TypeError) as error:
                    raise HarnessError(
                        f"{file} line {number} is not a JSON object with the field {self._column!r} (corpus.column)"
                    ) from error
                yield f"{file} line {number}, the field {self._column!r},", value

    def _parquet(self, file: Path) -> Iterator[tuple[str, Any]]:
        try:
            with pq.ParquetFile(file) as table:
                columns = table.schema_arrow.names
                if self._column not in columns:
                    raise HarnessError(
                        f"{file} has no column {self._column!r}; it has {', '.join(columns)} (corpus.column)"
                    )
                for batch in table.iter_batches(batch_size=256, columns=[self._column]):
                    for value in batch.column(0).to_pylist():
                        if value is not None:
                            yield f"the column {self._column!r} of {file}", value
        except (pa.ArrowException, OSError) as error:
            raise HarnessError(f"{file} is not a readable parquet file ({first_line(error)})") from error


class Conversations(Corpus):
    """Conversations: a column of lists of messages, formatted with a chat template.

    The template's tokens are context for the model and never count as evidence. conf/corpus/chat.yaml documents the
    options.
    """

    def __init__(
        self,
        source: Column,
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

    def texts(self) -> Iterator[tuple[Message, ...]]:
        """Yield the conversations."""
        for location, value in self._source.rows():
            if isinstance(value, Mapping):  # `datasets` returns some lists of structs as a struct of lists
                value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
            try:
                yield tuple(Message(str(item[self._role]), _text(item[self._content])) for item in value)
            except (TypeError, KeyError) as error:
                raise HarnessError(
                    f"{location} is not a list of messages with the fields {self._role!r} and {self._content!r} "
                    "(corpus.source.column, corpus.role, corpus.content)"
                ) from error


def _text(content: Any) -> str:
    """Return the text of a message. Parts other than text are left out; a message without content, as a call, is ""."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part.get("type", "text") == "text")


def _files_identity(paths: Sequence[Path]) -> str:
    """Return a hash of the name, size and modification time of files, including all files in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
            stat = file.stat()
            digest.update(f"{file.resolve()}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
