"""The corpora that come with the harness: data sets, local files, conversations, and the installed documentation."""

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
    """The documentation already on the machine: Python's reference and the docstrings of installed packages.

    Sources are parsed, never imported.

    Args:
        name: what reports call it.
        min_characters: shorter texts are passed over.
        max_files: at most so many source files are parsed, in alphabetical order of package and path.
    """

    def __init__(self, name: str = "installed-docs", min_characters: int = 200, max_files: int = 4000) -> None:
        self.name, self._minimum, self._max_files = name, min_characters, max_files

    def identity(self) -> dict[str, Any]:
        """Return the settings, and which versions of which packages are installed."""
        packages = sorted({(item.name, item.version) for item in metadata.distributions()})
        return {
            "min_characters": self._minimum,
            "max_files": self._max_files,
            "python": platform.python_version(),
            "packages": hashlib.sha256(repr(packages).encode()).hexdigest()[:16],
        }

    def texts(self) -> Iterator[str]:
        """Yield the reference topics, then the docstrings."""
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
                continue  # test data of Python itself is broken on purpose
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node)
                    if text:
                        yield inspect.cleandoc(text)


class Rows(Corpus):
    """A corpus that is a column of a table: texts, or what :class:`Conversations` reads."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield where each value stands, for messages, and the value; empty ones are left out.

        Raises:
            HarnessError: if the source cannot be read, or has no such column.
        """

    def texts(self) -> Iterator[str]:
        """Yield the column's values."""
        for where, value in self.rows():
            if not isinstance(value, str):
                hint = "; conversations are read with corpus=chat" if isinstance(value, list) else ""
                raise HarnessError(f"{where} holds {type(value).__name__}, not text (corpus.column){hint}")
            yield value


class HuggingFaceDataset(Rows):
    """A column of a dataset: on the Hugging Face hub (streamed), or in a local folder.

    Args:
        path: name of the dataset on the hub; or a local folder that ``save_to_disk`` wrote, or one of data files
            (parquet, JSON, CSV ...) that the ``datasets`` library reads.
        subset: its configuration, if it has several.
        split: its split.
        column: the column.
        revision: hub revision.
        max_examples: examples read from the stream; none for all.
        name: what reports call it; the dataset's name if none.
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
        """Return the settings with the commit that the revision stands for; of a local folder, its files."""
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
        except Exception as error:  # offline, or to be told when the dataset is opened
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
        except Exception as error:  # the library raises a class of its own for every cause
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
        # Where the columns are known before anything is read, nothing else is fetched.
        return stream.select_columns([self._column]) if self._column in (stream.column_names or ()) else stream


class TextFiles(Rows):
    """Local files: ``.txt`` and ``.md`` (one document a file), ``.jsonl`` (one a line), ``.parquet`` (one a row).

    Args:
        paths: files, or folders that are searched for such files.
        column: the field of JSON lines, or column of parquet files, that is read.
        name: what reports call it.
    """

    def __init__(self, paths: Sequence[str], column: str = "text", name: str = "files") -> None:
        self.name, self._paths, self._column = name, tuple(paths), column

    def identity(self) -> dict[str, Any]:
        """Return the column, and the name, size and time of every file."""
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
        # Lines end at \n alone: other characters that end a line may stand inside a JSON string.
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
            raise HarnessError(f"{file} is no parquet file that can be read ({first_line(error)})") from error


class Conversations(Corpus):
    """Conversations: a column that holds lists of messages.

    They are written out with a chat template. The template's own tokens are context for the model and never count as
    evidence.

    Args:
        source: where the column is.
        template: the chat template, in Jinja; none for the subject tokenizer's own.
        role: the field of a message that says who speaks.
        content: the field of a message that says what.
        name: what reports call it; the source's name if none.
    """

    def __init__(
        self,
        source: Rows,
        template: str | None = None,
        role: str = "role",
        content: str = "content",
        name: str | None = None,
    ) -> None:
        if not isinstance(source, Rows):
            raise HarnessError("corpus.source is no corpus with columns; choose HuggingFaceDataset or TextFiles")
        self.name = name or source.name
        self.template = template
        self._source, self._role, self._content = source, role, content

    def identity(self) -> dict[str, Any]:
        """Return the source's identity, and how messages are read and written out."""
        return {
            "source": self._source.identity(),
            "template": self.template,
            "role": self._role,
            "content": self._content,
        }

    def texts(self) -> Iterator[tuple[Message, ...]]:
        """Yield the conversations."""
        for where, value in self._source.rows():
            if isinstance(value, Mapping):  # how `datasets` gives a list of structs of its own kind
                value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
            try:
                yield tuple(Message(str(item[self._role]), _text(item[self._content])) for item in value)
            except (TypeError, KeyError) as error:
                raise HarnessError(
                    f"{where} holds no list of messages with the fields {self._role!r} and {self._content!r} "
                    "(corpus.source.column, corpus.role, corpus.content)"
                ) from error


def _text(content: Any) -> str:
    """Return the text of a message: of one in parts, that of its parts of text; of one without, such as a call, ""."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part.get("type", "text") == "text")


def _files_identity(paths: Sequence[Path]) -> str:
    """Return a hash of the name, size and time of files; folders stand for all that is in them."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
            stat = file.stat()
            digest.update(f"{file.resolve()}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
